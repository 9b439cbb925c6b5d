//! Which cluster or coordinator the command line names, and why one cannot be read.

use std::path::Path;

use wattle_api::settings::{Complaint, text_of};
use wattle_api::stream::Kafka;
use wattle_topology::TopologyError;

use crate::args::StreamArgs;
use crate::failure::{Exit, Failure, Outcome};

/// The cluster that the command line names; none if the coordinator is to be asked.
pub(super) fn kafka(source: &StreamArgs) -> Outcome<Option<Kafka>> {
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

/// Why the stream cannot be read, or not any further.
pub(super) fn failure(error: TopologyError) -> Failure {
    let next = if let TopologyError::TopicGone { .. } = error {
        "the coordinator writes it anew, unless its kafka.lost_topic is \"halt\": once it has, run the command again"
    } else {
        "name the brokers: --kafka HOST:PORT --prefix PREFIX, or --kafka-config FILE if they want credentials"
    };
    let exit = match error {
        TopologyError::Unreachable { .. } | TopologyError::Silent { .. } => Exit::Unreachable,
        TopologyError::Config(_) | TopologyError::SeveralNetworks { .. } => Exit::Usage,
        TopologyError::NoNetwork { .. }
        | TopologyError::NoTopic { .. }
        | TopologyError::TopicGone { .. }
        | TopologyError::TooOld { .. } => Exit::NotFound,
        TopologyError::NotAuthorised { .. } => Exit::Permission,
        TopologyError::Record { .. }
        | TopologyError::Hole { .. }
        | TopologyError::Sse(_)
        | TopologyError::Interrupted
        | TopologyError::Kafka { .. } => Exit::Failure,
    };
    Failure::new(exit, "the topology stream cannot be read", error, next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::TopologyVerb;

    #[test]
    fn several_brokers_and_a_prefix_are_taken_from_the_command_line() {
        use clap::Parser as _;
        let line = "wattle topology show --kafka a:1,b:2 --prefix x";
        let cli = crate::args::Cli::try_parse_from(line.split(' ')).unwrap();
        let crate::args::Verb::Topology(TopologyVerb::Show { source, .. }) = cli.verb else {
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
            let crate::args::Verb::Topology(TopologyVerb::Show { source, .. }) = cli.verb else {
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
