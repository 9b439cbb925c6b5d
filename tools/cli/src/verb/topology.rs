//! `wattle topology`: the network's stream, from Kafka or from the coordinator.

use std::path::Path;

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde::Serialize;
use wattle_api::rest::Topology;
use wattle_api::settings::{Complaint, text_of};
use wattle_api::stream::Kafka;
use wattle_api::topology::{Entity, Op, TopologyEvent};
use wattle_topology::{
    Format, Graph, Item, Source, Start, TopologyError, Verification, picture, sse,
};

use crate::args::{StreamArgs, TopologyVerb};
use crate::coordinator::{Coordinator, block_on};
use crate::failure::{Exit, Failure, Outcome};
use crate::human::clean;
use crate::output::Output;

/// Reads the stream.
pub(crate) fn run(verb: TopologyVerb, output: &mut Output) -> Outcome {
    block_on(async {
        match verb {
            TopologyVerb::Tail {
                source,
                from_start,
                max,
            } => tail(&source, from_start, max.unwrap_or(u64::MAX), output).await,
            TopologyVerb::Show { source } => show(&source, output).await,
            TopologyVerb::Verify { source } => verify(&source, output).await,
        }
    })
}

async fn tail(source: &StreamArgs, from_start: bool, max: u64, output: &mut Output) -> Outcome {
    match kafka(source)? {
        Some(kafka) => tail_kafka(kafka, from_start, max, output).await,
        None => tail_coordinator(source, from_start, max, output).await,
    }
}

async fn tail_kafka(kafka: Kafka, from_start: bool, max: u64, output: &mut Output) -> Outcome {
    let start = if from_start {
        Start::Oldest
    } else {
        Start::Next
    };
    let source = Source::find(kafka).await.map_err(failure)?;
    let mut tail = wattle_topology::tail(&source, start)
        .await
        .map_err(failure)?;
    let mut seen = 0;
    while seen < max {
        let Some(item) = tail.next().await else { break };
        match item.map_err(failure)? {
            Item::Event(event) => {
                seen += 1;
                output.answer("topology_event", &*event, line)?;
            }
            Item::Missing(first, last) => {
                output.warn(format!("events {first} to {last} are not in the topic"));
            }
        }
    }
    Ok(())
}

async fn tail_coordinator(
    source: &StreamArgs,
    from_start: bool,
    max: u64,
    output: &mut Output,
) -> Outcome {
    let mut coordinator = Coordinator::connect(&source.coordinator).await?;
    let query = if from_start { "?after=0" } else { "" };
    let body = coordinator
        .stream(&format!("/events/stream{query}"))
        .await?;
    let mut messages = Messages::of(body);
    let mut seen = 0;
    let mut in_snapshot = false;
    while seen < max {
        match messages.next().await? {
            None => break,
            Some(sse::Message::SnapshotBegin) => {
                in_snapshot = true;
                if from_start {
                    output
                        .warn("the oldest events are no longer kept: beginning with the next one");
                }
            }
            Some(sse::Message::SnapshotEnd) => in_snapshot = false,
            // An entity as it is, not something that happened.
            Some(sse::Message::Event(_)) if in_snapshot => {}
            Some(sse::Message::Event(event)) => {
                seen += 1;
                output.answer("topology_event", &*event, line)?;
            }
        }
    }
    Ok(())
}

/// The coordinator's messages, put together from the pieces in which they come.
struct Messages {
    body: Incoming,
    decoder: sse::Decoder,
    rest: Vec<u8>,
}

impl Messages {
    fn of(body: Incoming) -> Self {
        Self {
            body,
            decoder: sse::Decoder::default(),
            rest: Vec::new(),
        }
    }

    async fn next(&mut self) -> Outcome<Option<sse::Message>> {
        loop {
            while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let whole: Vec<u8> = self.rest.drain(..=end).collect();
                let text = String::from_utf8_lossy(&whole[..end]);
                if let Some(message) = self.decoder.line(&text).map_err(failure)? {
                    return Ok(Some(message));
                }
            }
            let Some(frame) = self.body.frame().await else {
                return Ok(None);
            };
            let frame = frame.map_err(|error| {
                Failure::new(
                    Exit::Failure,
                    "the coordinator ended the stream",
                    error,
                    "try again",
                )
            })?;
            self.rest
                .extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        }
    }
}

async fn show(source: &StreamArgs, output: &mut Output) -> Outcome {
    if let Some(kafka) = kafka(source)? {
        let source = Source::find(kafka).await.map_err(failure)?;
        let graph = wattle_topology::graph(&source).await.map_err(failure)?;
        return output.answer("topology", &picture::document(&graph), |_| {
            picture::draw(&graph, Format::Table)
        });
    }
    let topology: Topology = Coordinator::connect(&source.coordinator)
        .await?
        .get("/topology")
        .await?;
    let graph = graph(topology);
    output.answer("topology", &picture::document(&graph), |_| {
        picture::draw(&graph, Format::Table)
    })
}

fn graph(topology: Topology) -> Graph {
    let Topology {
        seq,
        nodes,
        links,
        prefixes,
        ..
    } = topology;
    let nodes = nodes.into_iter().map(Entity::Node);
    let links = links.into_iter().map(Entity::Link);
    let prefixes = prefixes.into_iter().map(Entity::Prefix);
    let mut graph = Graph::default();
    for entity in nodes.chain(links).chain(prefixes) {
        graph.set(entity.key(), Some(entity), seq);
    }
    graph
}

async fn verify(source: &StreamArgs, output: &mut Output) -> Outcome {
    let Some(kafka) = kafka(source)? else {
        let why = "the coordinator's own stream is one ordered table";
        return Err(Failure::new(
            Exit::Usage,
            "there is nothing to verify",
            why,
            "wattle topology verify --kafka HOST:PORT, or --kafka-config FILE",
        ));
    };
    let source = Source::find(kafka).await.map_err(failure)?;
    let found = wattle_topology::verify(&source).await.map_err(failure)?;
    output.answer("topology_verification", &found, verdict)?;
    if found.is_clean() {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Check,
        "the stream is not whole",
        verdict(&found),
        "journalctl -u wattle-coordinator",
    ))
}

/// The cluster that the command line names; none if the coordinator is to be asked.
fn kafka(source: &StreamArgs) -> Outcome<Option<Kafka>> {
    let mut kafka = match (&source.kafka_config, &source.kafka) {
        (Some(file), _) => read_kafka(file)?,
        (None, Some(brokers)) => Kafka {
            brokers: brokers.split(',').map(str::to_owned).collect(),
            ..Kafka::plaintext(brokers)
        },
        (None, None) => return Ok(None),
    };
    if source.prefix.is_some() {
        kafka.topic_prefix.clone_from(&source.prefix);
    }
    Ok(Some(kafka))
}

/// `[kafka]` of a file; what else is in it is the coordinator's.
fn read_kafka(path: &Path) -> Outcome<Kafka> {
    #[derive(serde::Deserialize)]
    struct File {
        kafka: Option<Kafka>,
    }
    let bytes = std::fs::read(path).map_err(|error| {
        let what = format!("cannot read {}", path.display());
        Failure::file(
            what,
            &error,
            "name a file that you may read: --kafka-config FILE",
        )
    })?;
    let refused = |complaint: Complaint| {
        let Complaint {
            line,
            column,
            message,
            ..
        } = complaint;
        let what = "the description of the Kafka cluster is not valid";
        let why = format!("{}:{line}:{column}: {message}", path.display());
        Failure::new(
            Exit::Usage,
            what,
            why,
            "correct the line; docs/kafka.md shows all keys",
        )
    };
    let text = text_of(&bytes).map_err(refused)?;
    let file: File =
        toml::from_str(text).map_err(|error| refused(Complaint::of_toml(text, &error)))?;
    let Some(kafka) = file.kafka else {
        return Err(refused(Complaint::at(
            text,
            0..0,
            "there is no table [kafka]",
        )));
    };
    kafka.check().map_err(|error| {
        let key: Vec<&str> = ["kafka"].iter().chain(error.key()).copied().collect();
        refused(Complaint::of_key(text, &key, error.to_string()))
    })?;
    Ok(kafka)
}

fn failure(error: TopologyError) -> Failure {
    let exit = match error {
        TopologyError::Unreachable { .. } | TopologyError::Silent { .. } => Exit::Unreachable,
        TopologyError::Config(_) | TopologyError::SeveralNetworks { .. } => Exit::Usage,
        TopologyError::NoNetwork { .. } | TopologyError::NoTopic { .. } => Exit::NotFound,
        TopologyError::NotAuthorised { .. } => Exit::Permission,
        TopologyError::Record { .. }
        | TopologyError::Sse(_)
        | TopologyError::Interrupted
        | TopologyError::Kafka { .. } => Exit::Failure,
    };
    Failure::new(
        exit,
        "the topology stream cannot be read",
        error,
        "name the brokers: --kafka HOST:PORT --prefix PREFIX, or --kafka-config FILE if they want credentials",
    )
}

/// Time, number, what happened to which entity, and why.
fn line(event: &TopologyEvent) -> String {
    let cause = word(&event.cause);
    format!(
        "{}  {:>6}  {:<7}  {}  {}",
        event.ts,
        event.id.seq,
        deed(event.op),
        event.key,
        clean(&cause)
    )
}

const fn deed(op: Op) -> &'static str {
    match op {
        Op::Create => "created",
        Op::Update => "changed",
        Op::Delete => "gone",
        Op::Read => "is",
    }
}

fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        Ok(other) => other.to_string(),
        Err(_) => String::new(),
    }
}

fn verdict(found: &Verification) -> String {
    let Verification {
        first_seq,
        last_seq,
        seen,
        lost,
        duplicated,
        reordered,
        broken_links,
        ..
    } = found;
    format!(
        "events {first_seq} to {last_seq}: {seen} seen, {lost} lost, {duplicated} duplicated, {reordered} reordered, \
         {broken_links} out of chain"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_counts_every_kind_of_fault() {
        let clean = Verification {
            first_seq: 1,
            last_seq: 9,
            seen: 9,
            ..Verification::default()
        };
        assert_eq!(
            verdict(&clean),
            "events 1 to 9: 9 seen, 0 lost, 0 duplicated, 0 reordered, 0 out of chain"
        );
    }

    #[test]
    fn several_brokers_and_a_prefix_are_taken_from_the_command_line() {
        use clap::Parser as _;
        let line = "wattle topology tail --kafka a:1,b:2 --prefix x";
        let cli = crate::args::Cli::try_parse_from(line.split(' ')).unwrap();
        let crate::args::Verb::Topology(TopologyVerb::Tail { source, .. }) = cli.verb else {
            panic!()
        };
        let kafka = kafka(&source).unwrap().unwrap();
        assert_eq!(
            (kafka.brokers, kafka.topic_prefix),
            (vec!["a:1".into(), "b:2".into()], Some("x".into()))
        );
    }

    #[test]
    fn credentials_come_from_a_file_like_the_coordinator_s() {
        use clap::Parser as _;
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("kafka.toml");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            let path = path.to_str().unwrap();
            let line = [
                "wattle",
                "topology",
                "show",
                "--kafka-config",
                path,
                "--prefix",
                "x",
            ];
            let cli = crate::args::Cli::try_parse_from(line).unwrap();
            let crate::args::Verb::Topology(TopologyVerb::Show { source }) = cli.verb else {
                panic!()
            };
            kafka(&source)
        };
        let text = "listen = \"[::]:5741\"\n[kafka]\nbrokers = [\"k:9093\"]\nprotocol = \"sasl_ssl\"\n\
                    topic_prefix = \"y\"\n[kafka.sasl]\nusername = \"u\"\npassword_file = \"/p\"\n";
        let found = read(text).unwrap().unwrap();
        assert_eq!(found.sasl.unwrap().username, "u");
        assert_eq!(
            found.topic_prefix,
            Some("x".into()),
            "the command line wins"
        );
        let cases = [
            ("", "kafka.toml:1:1: there is no table [kafka]"),
            (
                "[kafka]\nbroker = []",
                "kafka.toml:2:1: unknown field `broker`",
            ),
            (
                "[kafka]\nbrokers = [\"k\"]",
                "kafka.toml:2:11: kafka.brokers: `k` is not host:port",
            ),
            ("[kafka", "kafka.toml:1:"),
        ];
        for (text, words) in cases {
            let failure = read(text).unwrap_err();
            assert_eq!(failure.exit, Exit::Usage);
            assert!(failure.why.contains(words), "{}", failure.why);
        }
    }
}
