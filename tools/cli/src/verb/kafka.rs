//! `wattle kafka`: a cluster and the document that says what it should be like.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{BufRead as _, IsTerminal as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;
use wattle_api::stream::Kafka;
use wattle_kafka::document::Document;
use wattle_kafka::item::{Action, Flag, Item, Verdict};
use wattle_kafka::render::{Rendered, render};
use wattle_kafka::{Admin, ClusterError, HostSecrets, Outcome as Became, Plan, Report, Wanted};

use crate::args::{KafkaApplyArgs, KafkaVerb, RenderArgs};
use crate::failure::{Exit, Failure, Outcome};
use crate::human::clean;
use crate::output::Output;
use crate::table::{Columns, Mood, Side};
use crate::verb::answers;

/// How long brokers may take to show what was changed; milliseconds if they are well.
const SETTLE: Duration = Duration::from_secs(10);

/// What a plan without items says.
const AS_DESIRED: &str = "the cluster is as desired";

/// Does what the verb says.
pub(crate) fn run(verb: KafkaVerb, output: &mut Output) -> Outcome {
    match verb {
        KafkaVerb::Plan { document } => plan(&document.file, output),
        KafkaVerb::Apply(args) => apply(&args, output),
        KafkaVerb::Drift { document } => drift(&document.file, output),
        KafkaVerb::Render(args) => write(&args, output),
    }
}

/// A document that names a cluster to be asked.
struct Desk {
    kafka: Kafka,
    wanted: Wanted,
}

impl Desk {
    fn open(file: &Path) -> Outcome<Self> {
        let document = read(file)?;
        let Some(kafka) = document.kafka else {
            let why = format!(
                "{} has no table [kafka] that says how to reach it",
                file.display()
            );
            let next = "add [kafka] with brokers and credentials: docs/reference/kafka.md";
            return Err(Failure::new(
                Exit::Usage,
                "no cluster can be asked",
                why,
                next,
            ));
        };
        let wanted = Wanted::of(&document.desired, &kafka).map_err(|why| {
            let what = "the document asks for what cannot be";
            Failure::new(
                Exit::Usage,
                what,
                why,
                format!("correct {}", file.display()),
            )
        })?;
        Ok(Self { kafka, wanted })
    }

    fn admin(&self) -> Outcome<Admin<'_, HostSecrets>> {
        Admin::connect(&self.kafka, &HostSecrets).map_err(failure)
    }

    fn compare(&self, admin: &mut Admin<'_, HostSecrets>) -> Outcome<Plan> {
        let observed = admin.observe(&self.wanted).map_err(failure)?;
        Ok(Plan::between(&observed, &self.wanted))
    }
}

fn plan(file: &Path, output: &mut Output) -> Outcome {
    let desk = Desk::open(file)?;
    let plan = desk.compare(&mut desk.admin()?)?;
    show(&plan, output)
}

fn drift(file: &Path, output: &mut Output) -> Outcome {
    let desk = Desk::open(file)?;
    let plan = desk.compare(&mut desk.admin()?)?;
    show(&plan, output)?;
    if plan.is_empty() {
        return Ok(());
    }
    let why = format!("{} of what the document names differ", plan.items.len());
    let next = format!("wattle kafka apply {}", file.display());
    Err(Failure::new(
        Exit::Differs,
        "the cluster is not as desired",
        why,
        next,
    ))
}

fn show(plan: &Plan, output: &mut Output) -> Outcome {
    note(plan, output);
    let coloured = output.is_coloured();
    output.answer(answers::KAFKA_PLAN, plan, |plan| table(plan, coloured))
}

fn note(plan: &Plan, output: &Output) {
    for note in &plan.notes {
        output.note(&format!("# {}", clean(note)));
    }
}

fn table(plan: &Plan, coloured: bool) -> String {
    if plan.is_empty() {
        return AS_DESIRED.to_owned();
    }
    let headings = ["", "SUBJECT", "FIELD", "IS", "SHOULD BE", "MAY BE DONE"];
    let mut columns = Columns::new(coloured, &headings.map(|heading| (heading, Side::Left)));
    for item in &plan.items {
        for difference in &item.differences {
            let or_nothing =
                |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
            let cells = vec![
                sign(item.action).to_owned(),
                item.subject.clone(),
                difference.field.clone(),
                or_nothing(&difference.found),
                or_nothing(&difference.wanted),
                permission(item),
            ];
            columns.row(cells, Some((5, mood(item))));
        }
    }
    columns.finish()
}

const fn sign(action: Action) -> &'static str {
    match action {
        Action::Create => "+",
        Action::Change => "~",
        Action::Delete => "-",
    }
}

fn permission(item: &Item) -> String {
    match &item.verdict {
        Verdict::Free => "yes".to_owned(),
        Verdict::Guarded { flag, why } => format!("with {}: {why}", flag.option()),
        Verdict::Refused { why } => format!("no: {why}"),
    }
}

const fn mood(item: &Item) -> Mood {
    match item.verdict {
        Verdict::Free => Mood::Good,
        Verdict::Guarded { .. } => Mood::Odd,
        Verdict::Refused { .. } => Mood::Bad,
    }
}

fn apply(args: &KafkaApplyArgs, output: &mut Output) -> Outcome {
    let desk = Desk::open(&args.document.file)?;
    let mut admin = desk.admin()?;
    let plan = desk.compare(&mut admin)?;
    if args.dry_run {
        return show(&plan, output);
    }
    if plan.is_empty() {
        note(&plan, output);
        return output.answer(answers::KAFKA_APPLY, &vec![], |_| AS_DESIRED.to_owned());
    }
    let flags = flags(args);
    if plan.allowed(&flags).next().is_some() && !args.yes {
        if output.is_json() || !std::io::stdin().is_terminal() {
            let next = "look at `wattle kafka plan`, then repeat with --yes";
            let why = "nobody can be asked here";
            return Err(Failure::new(Exit::Usage, "nothing was changed", why, next));
        }
        show(&plan, output)?;
        confirm(output)?;
    }
    let json = output.is_json();
    let patience = Duration::from_secs(args.wait);
    let mut told = Ok(());
    let reports = wattle_kafka::apply(&mut admin, &plan, &flags, patience, |report| {
        if !json && told.is_ok() {
            told = output.text(&line(report));
        }
    });
    told?;
    let left = wattle_kafka::settle(&mut admin, &desk.wanted, &reports, SETTLE).map_err(failure)?;
    for report in reports
        .iter()
        .filter(|report| report.is_contradicted_by(&left))
    {
        output.warn(format!(
            "{} was changed, but the brokers do not show it",
            report.subject
        ));
    }
    if json {
        output.answer(answers::KAFKA_APPLY, &reports, |_| String::new())?;
    }
    verdict(&reports)
}

fn flags(args: &KafkaApplyArgs) -> BTreeSet<Flag> {
    let given = [
        (args.allow_delete, Flag::AllowDelete),
        (args.allow_shrink, Flag::AllowShrink),
    ];
    given
        .into_iter()
        .filter(|(given, _)| *given)
        .map(|(_, flag)| flag)
        .collect()
}

/// Asks whether to go on.
fn confirm(output: &Output) -> Outcome {
    output.note("Change the cluster? Type yes:");
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    if answer.trim() == "yes" {
        return Ok(());
    }
    let next = "wattle kafka apply, and type yes";
    Err(Failure::new(
        Exit::Failure,
        "nothing was changed",
        "the answer was not yes",
        next,
    ))
}

fn line(report: &Report) -> String {
    let fields = report.fields.join(", ");
    let mut text = format!("{} {}: {fields}: ", sign(report.action), report.subject);
    let _ = match &report.outcome {
        Became::Done => write!(text, "done"),
        Became::UnderWay => write!(text, "under way, copies are still being moved"),
        Became::Failed { why } => write!(text, "FAILED: {why}"),
        Became::Left { why } => write!(text, "left: {why}"),
    };
    clean(&text)
}

/// A failure if anything failed or was left.
fn verdict(reports: &[Report]) -> Outcome {
    let failed = reports
        .iter()
        .filter(|report| matches!(report.outcome, Became::Failed { .. }));
    let left = reports
        .iter()
        .filter(|report| matches!(report.outcome, Became::Left { .. }));
    let (failed, left) = (failed.count(), left.count());
    let why = format!("{failed} failed and {left} were left, of {}", reports.len());
    if failed > 0 {
        let what = "the cluster is not as desired";
        return Err(Failure::new(Exit::Failure, what, why, "wattle kafka plan"));
    }
    if left > 0 {
        let next = "allow it with the flags named above, or change the document";
        return Err(Failure::new(
            Exit::Differs,
            "the cluster is not as desired",
            why,
            next,
        ));
    }
    Ok(())
}

fn write(args: &RenderArgs, output: &mut Output) -> Outcome {
    let document = read(&args.document.file)?;
    let files = render(&document);
    if files.is_empty() {
        let why = format!("{} has no table [cluster]", args.document.file.display());
        let next = "describe the servers: docs/reference/kafka.md";
        return Err(Failure::new(
            Exit::Usage,
            "there is nothing to render",
            why,
            next,
        ));
    }
    for file in &files {
        store(&args.output, file)?;
    }
    let written: Vec<Written> = files
        .iter()
        .map(|file| Written {
            path: args.output.join(&file.path).display().to_string(),
        })
        .collect();
    output.answer(answers::KAFKA_RENDER, &written, |written| {
        written
            .iter()
            .fold(String::new(), |text, file| text + &file.path + "\n")
    })
}

/// A file that was written.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Written {
    /// Where it is.
    path: String,
}

fn store(directory: &Path, file: &Rendered) -> Outcome {
    let path = directory.join(&file.path);
    let trouble = |error: &std::io::Error| {
        let what = format!("cannot write {}", path.display());
        Failure::file(what, error, "name another directory: --output DIR")
    };
    let parent = path.parent().unwrap_or(directory);
    std::fs::create_dir_all(parent).map_err(|error| trouble(&error))?;
    std::fs::write(&path, &file.text).map_err(|error| trouble(&error))?;
    let mode = std::fs::Permissions::from_mode(file.mode);
    std::fs::set_permissions(&path, mode).map_err(|error| trouble(&error))
}

fn read(path: &Path) -> Outcome<Document> {
    let bytes = std::fs::read(path).map_err(|error| {
        let what = format!("cannot read {}", path.display());
        Failure::file(what, &error, "name the document: wattle kafka plan FILE")
    })?;
    Document::parse(&bytes).map_err(|complaint| {
        let (line, column) = (complaint.line, complaint.column);
        let why = format!("{}:{line}:{column}: {}", path.display(), complaint.message);
        let next = "correct the line; docs/reference/kafka.md shows all keys";
        Failure::new(Exit::Usage, "the document is not valid", why, next)
    })
}

fn failure(error: ClusterError) -> Failure {
    let what = "the Kafka cluster cannot be asked";
    let (exit, next) = match &error {
        ClusterError::Config(_) | ClusterError::Secret(_) | ClusterError::Tls { .. } => {
            (Exit::Usage, "correct the table [kafka] of the document")
        }
        ClusterError::Unreachable(_) | ClusterError::Broken { .. } => (
            Exit::Unreachable,
            "check kafka.brokers, kafka.protocol and the brokers' logs",
        ),
        ClusterError::Credentials { .. } => (
            Exit::Permission,
            "check kafka.sasl and kafka.tls of the document",
        ),
        ClusterError::Refused { .. } if error.is_missing_right() => (
            Exit::Permission,
            "log in as a user that may describe and alter the cluster (a super user has all rights)",
        ),
        ClusterError::Refused { .. } | ClusterError::Protocol { .. } => {
            (Exit::Failure, "look at the brokers' logs")
        }
        ClusterError::Random(_) => (Exit::Failure, "try again"),
    };
    Failure::new(exit, what, error, next)
}

#[cfg(test)]
mod tests {
    use wattle_kafka::item::{Change, Difference};

    use super::*;

    fn item(action: Action, found: Option<&str>, wanted: Option<&str>, verdict: Verdict) -> Item {
        Item {
            subject: "topic t".into(),
            action,
            differences: vec![Difference {
                field: "retention.ms".into(),
                found: found.map(str::to_owned),
                wanted: wanted.map(str::to_owned),
            }],
            verdict,
            change: Change::Nothing,
        }
    }

    #[test]
    fn a_plan_shows_what_is_what_should_be_and_what_it_takes() {
        let guarded = Verdict::Guarded {
            flag: Flag::AllowShrink,
            why: "records would be gone".into(),
        };
        let refused = Verdict::Refused {
            why: "never".into(),
        };
        let plan = Plan {
            items: vec![
                item(Action::Create, None, Some("1"), Verdict::Free),
                item(Action::Change, Some("2"), Some("1"), guarded),
                item(Action::Delete, Some("2"), None, refused),
            ],
            notes: vec![],
        };
        let expected = "   SUBJECT  FIELD         IS  SHOULD BE  MAY BE DONE\n\
                        +  topic t  retention.ms  -   1          yes\n\
                        ~  topic t  retention.ms  2   1          with --allow-shrink: records would be gone\n\
                        -  topic t  retention.ms  2   -          no: never\n";
        assert_eq!(table(&plan, false), expected);
        assert_eq!(table(&Plan::default(), false), "the cluster is as desired");
    }

    #[test]
    fn what_failed_and_what_was_left_decide_the_exit_code() {
        let report = |outcome| Report {
            subject: "topic t".into(),
            action: Action::Change,
            fields: vec!["retention.ms".into()],
            outcome,
        };
        let failed = || {
            report(Became::Failed {
                why: "no\u{1b}".into(),
            })
        };
        let left = || {
            report(Became::Left {
                why: "needs --allow-shrink: x".into(),
            })
        };
        assert!(verdict(&[report(Became::Done), report(Became::UnderWay)]).is_ok());
        assert_eq!(verdict(&[left()]).unwrap_err().exit, Exit::Differs);
        assert_eq!(
            verdict(&[left(), failed()]).unwrap_err().exit,
            Exit::Failure
        );
        assert_eq!(
            line(&failed()),
            "~ topic t: retention.ms: FAILED: no\u{fffd}"
        );
    }

    #[test]
    fn a_document_that_is_wrong_is_refused_with_its_line() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("kafka.toml");
        let cases = [
            (
                "[kafka]\nbrokers = []\n",
                "kafka.toml:2:11: kafka.brokers is empty",
            ),
            (
                "[desired]\nnetwrk = \"a\"\n",
                "kafka.toml:2:1: unknown field `netwrk`",
            ),
            (
                "[desired]\nusers = [{ name = \"a\", role = \"mirror\" }]\n",
                "set desired.network",
            ),
            (
                "[desired]\nusers = [{ name = \"a\", mechanism = \"plain\" }]\n",
                "use scram-sha-512",
            ),
            (
                "[[desired.topics]]\nname = \"a b\"\npartitions = 1\n",
                "`a b` is no topic name",
            ),
            (
                "[desired.remove]\ntopics = [\"t\"]\n[[desired.topics]]\nname = \"t\"\npartitions = 1\n",
                "t is to be there, too",
            ),
            (
                "[cluster]\nsecurity = \"plaintext\"\ndata_dir = \"/d\"\nbrokers = []\n",
                "name at least one broker",
            ),
            (
                "[cluster]\nsecurity = \"sasl_ssl\"\ndata_dir = \"/d\"\nbrokers = [{ id = 1, host = \"a\" }]\n",
                "set cluster.tls_dir",
            ),
        ];
        for (text, words) in cases {
            std::fs::write(&path, text).unwrap();
            let failure = read(&path).unwrap_err();
            assert_eq!(failure.exit, Exit::Usage, "{text}");
            assert!(failure.why.contains(words), "{}", failure.why);
        }
    }

    #[test]
    fn a_compacted_topic_is_never_sent_to_remote_storage() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("kafka.toml");
        let text = "[kafka]\nbrokers = [\"k:1\"]\n[[desired.topics]]\nname = \"t\"\npartitions = 1\n\
                    config = { \"cleanup.policy\" = \"compact\", \"remote.storage.enable\" = \"true\" }\n";
        std::fs::write(&path, text).unwrap();
        let failure = Desk::open(&path).err().unwrap();
        assert!(
            failure
                .why
                .contains("t is compacted and to be in remote storage"),
            "{}",
            failure.why
        );
    }
}
