//! `wattle init`: the first steps of a network in one: the coordinator's state, the coordinator, this node, an invitation.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt as _, lchown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use wattle_api::plan::AddressPlan;
use wattle_api::rest::{TokenCreated, TokenRequest};
use wattle_api::token::JoinToken;
use wattle_model::{NetworkId, Prefix};

use crate::args::{CoordinatorArgs, InitArgs, JoinArgs};
use crate::coordinator::{Coordinator, DEFAULT_STATE, address, block_on};
use crate::failure::{Exit, Failure, Outcome};
use crate::output::Output;
use crate::verb::answers;
use crate::verb::join;
use crate::verb::tokens::warn_of_loopback;

/// A coordinator that has just been started serves within this time.
const STARTS_WITHIN: Duration = Duration::from_secs(10);

/// A network has two nodes at least.
const FEWEST_NODES: usize = 2;

/// Below the coordinator's state: what it was made with.
const NETWORK_FILE: &str = "network.json";

/// What was made.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Initialised {
    /// The network's name.
    network: String,
    /// The coordinator's state directory.
    state: PathBuf,
    /// Whether the coordinator was started.
    started: bool,
    /// Whether this host is a node of the network.
    joined: bool,
    /// For the next host; absent while no coordinator runs.
    token: Option<String>,
    /// Whether nothing was changed, by `--dry-run`.
    dry_run: bool,
}

/// Makes a network, or goes on with one whose making was interrupted: each step that is done is passed over.
pub(crate) fn run(args: &InitArgs, output: &mut Output) -> Outcome {
    check_plan(args)?;
    let existing = Existing::read(&args.state)?;
    if let Some(existing) = &existing {
        existing.refuse_other(args)?;
    }
    let mut initialised = Initialised {
        network: args.name.to_string(),
        state: args.state.clone(),
        started: false,
        joined: false,
        token: None,
        dry_run: args.dry_run,
    };
    if args.dry_run {
        return output.answer(answers::INIT, &initialised, |initialised| {
            intention(initialised, args, existing.is_some())
        });
    }
    match existing {
        Some(_) => go_on(args, output)?,
        None => make_state(args)?,
    }
    initialised.started = is_packaged(args) && start(output);
    if initialised.started {
        if !args.no_join {
            join_here(first_token(args)?, output)?;
            initialised.joined = true;
        }
        let token = first_token(args)?;
        warn_of_loopback(&token, output);
        initialised.token = Some(token);
    }
    output.answer(answers::INIT, &initialised, show)
}

/// Whether it is the state that the packaged service serves.
fn is_packaged(args: &InitArgs) -> bool {
    args.state == Path::new(DEFAULT_STATE)
}

fn check_plan(args: &InitArgs) -> Outcome {
    let default = AddressPlan::default_of(NetworkId::default());
    let plan = AddressPlan {
        ipv4: args.ipv4.or(default.ipv4),
        ipv6: args.ipv6.or(default.ipv6),
    };
    plan.check(FEWEST_NODES).map_err(|error| {
        let what = "nodes cannot have such addresses";
        Failure::new(
            Exit::Usage,
            what,
            error,
            "wattle init --ipv4 PREFIX --ipv6 PREFIX",
        )
    })
}

/// The network that a state directory holds.
#[derive(Debug, Deserialize)]
struct Existing {
    #[serde(skip)]
    state: PathBuf,
    name: String,
    ipv4: Option<Prefix>,
    ipv6: Option<Prefix>,
    listen: SocketAddr,
    public_addresses: Vec<String>,
}

impl Existing {
    fn read(state: &Path) -> Outcome<Option<Self>> {
        let path = state.join(NETWORK_FILE);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                let what = format!("cannot read {}", path.display());
                return Err(Failure::file(what, &error, "sudo wattle init …"));
            }
        };
        let mut existing: Self = serde_json::from_slice(&text).map_err(|error| {
            let what = format!("{} is damaged", path.display());
            let next = "restore it from a backup, or remove the directory to begin anew";
            Failure::new(Exit::Failure, what, error, next)
        })?;
        existing.state = state.to_owned();
        Ok(Some(existing))
    }

    /// Going on with other parameters than the network was made with would be another network.
    fn refuse_other(&self, args: &InitArgs) -> Outcome {
        let differences = self.differences(args);
        if differences.is_empty() {
            return Ok(());
        }
        let what = format!("{} holds a network already", self.state.display());
        let next = "give the parameters it was made with to go on with it, name another directory with --state, \
                    or remove the directory to begin anew";
        Err(Failure::new(
            Exit::Failure,
            what,
            differences.join("; "),
            next,
        ))
    }

    fn differences(&self, args: &InitArgs) -> Vec<String> {
        let advertised: Vec<String> = args.advertise.iter().map(|given| address(given)).collect();
        let differs = |option: &str, is: String, given: Option<String>| {
            let given = given.filter(|given| *given != is)?;
            Some(format!("its {option} is {is}, not {given}"))
        };
        let text = |prefix: Option<Prefix>| prefix.map(|prefix| prefix.to_string());
        let given = (!advertised.is_empty()).then(|| advertised.join(" "));
        [
            differs("--name", self.name.clone(), Some(args.name.to_string())),
            differs(
                "--ipv4",
                text(self.ipv4).unwrap_or_default(),
                text(args.ipv4),
            ),
            differs(
                "--ipv6",
                text(self.ipv6).unwrap_or_default(),
                text(args.ipv6),
            ),
            differs(
                "--listen",
                self.listen.to_string(),
                args.listen.map(|listen| listen.to_string()),
            ),
            differs("--advertise", self.public_addresses.join(" "), given),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// Files that root alone can read keep the coordinator from starting: they become its own.
fn go_on(args: &InitArgs, output: &Output) -> Outcome {
    output.note(&format!(
        "{} holds the network {} already: going on with it",
        args.state.display(),
        args.name
    ));
    hand_over(&args.state).map_err(|error| {
        let what = format!("cannot give {} to the coordinator", args.state.display());
        Failure::file(what, &error, "sudo wattle init …")
    })
}

fn hand_over(state: &Path) -> std::io::Result<()> {
    let owner = state.metadata()?;
    for entry in std::fs::read_dir(state)? {
        let entry = entry?;
        let file = entry.metadata()?;
        if file.is_file() && file.uid() == 0 && owner.uid() != 0 {
            lchown(entry.path(), Some(owner.uid()), Some(owner.gid()))?;
        }
    }
    Ok(())
}

/// Makes this host a node, unless it is one of this network.
fn join_here(token: String, output: &mut Output) -> Outcome {
    let args = invited(token);
    let network = args.token.parse::<JoinToken>().map(|token| token.network);
    if network
        .ok()
        .is_some_and(|network| is_member(&args.state, network))
    {
        output.note("this host is a node of the network already");
        join::start_agent(output);
        return Ok(());
    }
    let membership = join::become_node(&args, output)?;
    output.note(&join::show(&membership));
    Ok(())
}

/// Looks without the directory's lock: an agent may hold it.
fn is_member(state: &Path, network: NetworkId) -> bool {
    let text = std::fs::read(state.join(NETWORK_FILE)).unwrap_or_default();
    let joined = serde_json::from_slice::<wattle_agent::state::Network>(&text);
    joined.is_ok_and(|joined| joined.network == network)
}

fn intention(initialised: &Initialised, args: &InitArgs, exists: bool) -> String {
    let Initialised { network, state, .. } = initialised;
    let deed = if exists { "go on with" } else { "make" };
    let mut steps = vec![format!(
        "would {deed} the network {network} in {}",
        state.display()
    )];
    if is_packaged(args) {
        steps.push("start its coordinator".to_owned());
        if !args.no_join {
            steps.push("make this host its node".to_owned());
        }
        steps.push("print an invitation".to_owned());
    }
    format!("{}; nothing was changed", steps.join(", "))
}

fn make_state(args: &InitArgs) -> Outcome {
    let mut command = Command::new("wattle-coordinator");
    command
        .arg("init")
        .arg("--state")
        .arg(&args.state)
        .args(["--name", args.name.as_str()]);
    for address in &args.advertise {
        command.args(["--advertise", address]);
    }
    if let Some(listen) = args.listen {
        command.args(["--listen", &listen.to_string()]);
    }
    for (flag, prefix) in [("--ipv4", args.ipv4), ("--ipv6", args.ipv6)] {
        if let Some(prefix) = prefix {
            command.args([flag, &prefix.to_string()]);
        }
    }
    let what = "the coordinator's state was not made";
    let made = command.output().map_err(|error| match error.kind() {
        ErrorKind::NotFound => Failure::new(
            Exit::NotFound,
            what,
            "the program wattle-coordinator is not installed",
            "apt install ./wattle-coordinator_*.deb",
        ),
        _ => Failure::file(what, &error, "run wattle-coordinator init by hand"),
    })?;
    if made.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&made.stderr).trim().to_owned();
    let exit = made
        .status
        .code()
        .filter(|code| *code == 2)
        .map_or(Exit::Failure, |_| Exit::Usage);
    Err(Failure::new(exit, what, why, "wattle init --help"))
}

/// Whether systemd runs the coordinator now.
fn start(output: &mut Output) -> bool {
    if !Path::new("/run/systemd/system").exists() {
        return false;
    }
    let status = Command::new("systemctl")
        .args(["enable", "--now", "--quiet", "wattle-coordinator"])
        .status();
    let started = status.is_ok_and(|status| status.success());
    if !started {
        output.warn("the coordinator did not start: journalctl -u wattle-coordinator -n 50");
    }
    started
}

/// A token; the coordinator may still be starting.
fn first_token(args: &InitArgs) -> Outcome<String> {
    let coordinator = CoordinatorArgs {
        coordinator: None,
        fingerprint: None,
        token_file: None,
        revision: None,
        coordinator_state: args.state.clone(),
    };
    let end = Instant::now() + STARTS_WITHIN;
    loop {
        let created: Outcome<TokenCreated> = block_on(async {
            Coordinator::connect(&coordinator)
                .await?
                .post("/tokens", &TokenRequest::default())
                .await
        });
        match created {
            Ok(created) => return Ok(created.token),
            Err(failure) if failure.exit != Exit::Unreachable || Instant::now() >= end => {
                return Err(failure);
            }
            Err(_) => sleep(Duration::from_millis(100)),
        }
    }
}

fn invited(token: String) -> JoinArgs {
    JoinArgs {
        token,
        state: wattle_agent::state::DEFAULT_STATE.into(),
        name: None,
        announce: Vec::new(),
        no_start: false,
        dry_run: false,
    }
}

fn show(initialised: &Initialised) -> String {
    let Initialised {
        network,
        state,
        token,
        ..
    } = initialised;
    match token {
        Some(token) => format!(
            "network {network}: on the next host run, within ten minutes:\nwattle join {token}"
        ),
        None => format!(
            "network {network} is made in {state}. Next:\n\
             wattle-coordinator run --state {state}\n\
             wattle tokens create --coordinator-state {state}",
            state = state.display()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_systemd_the_next_commands_are_told() {
        let initialised = Initialised {
            network: "lab".into(),
            state: "/srv/c".into(),
            started: false,
            joined: false,
            token: None,
            dry_run: false,
        };
        let text = show(&initialised);
        assert!(text.ends_with(
            "wattle-coordinator run --state /srv/c\nwattle tokens create --coordinator-state /srv/c"
        ));
    }

    #[test]
    fn the_last_line_is_the_invitation() {
        let initialised = Initialised {
            network: "lab".into(),
            state: "/srv/c".into(),
            started: true,
            joined: true,
            token: Some("wattle1-x".into()),
            dry_run: false,
        };
        assert_eq!(
            show(&initialised).lines().last(),
            Some("wattle join wattle1-x")
        );
    }

    fn args(line: &str) -> InitArgs {
        use clap::Parser as _;
        let cli = crate::args::Cli::try_parse_from(line.split(' ')).unwrap();
        let crate::args::Verb::Init(args) = cli.verb else {
            panic!()
        };
        args
    }

    fn state_of_lab() -> tempfile::TempDir {
        let home = tempfile::tempdir().unwrap();
        let text = r#"{"name":"lab","ipv4":"10.77.0.0/16","ipv6":"fd57::/64","listen":"[::]:5741","public_addresses":["c.example:5741"]}"#;
        std::fs::write(home.path().join(NETWORK_FILE), text).unwrap();
        home
    }

    #[test]
    fn a_network_is_gone_on_with_if_the_parameters_are_its_own() {
        let home = state_of_lab();
        let existing = Existing::read(home.path()).unwrap().unwrap();
        for line in [
            "wattle init --name lab",
            "wattle init --name lab --advertise c.example --ipv4 10.77.0.0/16 --listen [::]:5741",
        ] {
            assert!(existing.refuse_other(&args(line)).is_ok(), "{line}");
        }
        for (line, words) in [
            ("wattle init", "its --name is lab, not wattle"),
            (
                "wattle init --name lab --ipv4 10.78.0.0/16",
                "its --ipv4 is 10.77.0.0/16, not 10.78.0.0/16",
            ),
            (
                "wattle init --name lab --advertise d.example:1",
                "its --advertise is c.example:5741, not d.example:1",
            ),
        ] {
            let failure = existing.refuse_other(&args(line)).unwrap_err();
            assert!(failure.what.contains("holds a network already"));
            assert_eq!(failure.why, words);
        }
        assert!(Existing::read(&home.path().join("none")).unwrap().is_none());
    }

    #[test]
    fn a_dry_run_says_the_steps_and_takes_none() {
        let home = state_of_lab();
        let state = home.path().join("state");
        let line = format!(
            "wattle --json init --name lab --dry-run --state {}",
            state.display()
        );
        let (mut output, written) = crate::output::tests::captured(false);
        run(&args(&line), &mut output).unwrap();
        assert!(
            written().starts_with("would make the network lab in "),
            "{}",
            written()
        );
        assert!(!state.exists());
        let line = format!(
            "wattle init --dry-run --ipv4 10.0.0.0/32 --state {}",
            state.display()
        );
        assert_eq!(
            run(&args(&line), &mut output).unwrap_err().exit,
            Exit::Usage
        );
    }

    #[test]
    fn what_root_left_behind_goes_to_the_owner_of_the_directory() {
        let home = state_of_lab();
        let by_root = home.path().metadata().unwrap().uid() == 0;
        if by_root {
            std::os::unix::fs::chown(home.path(), Some(65_534), Some(65_534)).unwrap();
        }
        hand_over(home.path()).unwrap();
        let file = home.path().join(NETWORK_FILE).metadata().unwrap();
        assert_eq!(file.uid(), home.path().metadata().unwrap().uid());
    }
}
