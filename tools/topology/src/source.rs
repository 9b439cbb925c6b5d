//! Where a network's topics are, and what they are like.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer};
use wattle_api::secret::Secrets;
use wattle_api::stream::{Kafka, Topics};

use crate::error::TopologyError;
use crate::tail::WINDOW;

/// How long brokers may take to answer a question.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

const PROGRESS_SUFFIX: &str = ".topology.progress.v1";

/// A network's topics on a cluster.
#[derive(Debug, Clone)]
pub struct Source {
    pub(crate) kafka: Kafka,
    pub(crate) topics: Topics,
    /// Whether there is a topic of snapshots: older mirrors write none.
    pub(crate) has_snapshots: bool,
    pub(crate) window: usize,
}

impl Source {
    /// Finds the topics of the network: those below `kafka.topic_prefix`, else the only ones that the cluster has.
    pub async fn find(kafka: Kafka) -> Result<Self, TopologyError> {
        crate::blocking(move || Self::find_blocking(kafka)).await
    }

    /// Lets little more than so many events wait for those before them while partitions are read, [`WINDOW`] else: the rest
    /// waits at the brokers.
    #[must_use]
    pub const fn holding(mut self, window: usize) -> Self {
        self.window = window;
        self
    }

    /// The topics it reads.
    pub fn topics(&self) -> &Topics {
        &self.topics
    }

    fn find_blocking(kafka: Kafka) -> Result<Self, TopologyError> {
        let brokers = kafka.brokers.join(",");
        let counts = partition_counts(&kafka)?;
        let found = counts
            .keys()
            .filter_map(|topic| topic.strip_suffix(PROGRESS_SUFFIX));
        let prefixes: Vec<String> = match &kafka.topic_prefix {
            Some(prefix) => vec![prefix.clone()],
            None => found.map(str::to_owned).collect(),
        };
        let prefix = match prefixes.as_slice() {
            [] => return Err(TopologyError::NoNetwork { brokers }),
            [prefix] => prefix,
            _ => return Err(TopologyError::SeveralNetworks { brokers, prefixes }),
        };
        let topics = Topics::below(prefix);
        for topic in [&topics.events, &topics.state, &topics.progress] {
            if !counts.contains_key(topic) {
                return Err(TopologyError::NoTopic {
                    topic: topic.clone(),
                    brokers,
                });
            }
        }
        let has_snapshots = counts.contains_key(&topics.snapshots);
        Ok(Self {
            kafka,
            topics,
            has_snapshots,
            window: WINDOW,
        })
    }
}

/// What a topic is like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicDescription {
    /// How many partitions it has.
    pub partitions: usize,
    /// Its whole configuration, the cluster's defaults included.
    pub config: BTreeMap<String, String>,
}

/// Describes those of a network's topics that exist. Blocks.
pub fn describe_topics(
    kafka: &Kafka,
    topics: &Topics,
) -> Result<BTreeMap<String, TopicDescription>, TopologyError> {
    let explain =
        |error| TopologyError::from_kafka("describe the topics", &kafka.brokers.join(","), error);
    let counts = partition_counts(kafka)?;
    let names: Vec<&str> = [&topics.events, &topics.state, &topics.progress]
        .into_iter()
        .filter(|topic| counts.contains_key(*topic))
        .map(String::as_str)
        .collect();
    let admin: AdminClient<DefaultClientContext> = client(kafka)?.create().map_err(explain)?;
    let resources: Vec<_> = names
        .iter()
        .map(|name| ResourceSpecifier::Topic(name))
        .collect();
    let options = AdminOptions::new().request_timeout(Some(PATIENCE));
    let mut described = BTreeMap::new();
    let configs =
        crate::reader::wait(admin.describe_configs(&resources, &options)).map_err(explain)?;
    for (name, config) in names.iter().zip(configs) {
        let config = config.map_err(|code| explain(rdkafka::error::KafkaError::AdminOp(code)))?;
        let entries = config
            .entries
            .into_iter()
            .filter_map(|entry| Some((entry.name, entry.value?)));
        let description = TopicDescription {
            partitions: counts[*name],
            config: entries.collect(),
        };
        described.insert((*name).to_owned(), description);
    }
    Ok(described)
}

/// Properties of every client here.
pub(crate) fn client(kafka: &Kafka) -> Result<ClientConfig, TopologyError> {
    let mut config = ClientConfig::new();
    for (name, value) in kafka.properties(&Files)? {
        config.set(name, value);
    }
    config
        .set("client.id", "wattle-topology")
        .set_log_level(RDKafkaLogLevel::Emerg);
    Ok(config)
}

/// Secrets as this host has them.
struct Files;

impl Secrets for Files {
    fn mode(&self, path: &Path) -> std::io::Result<u32> {
        Ok(path.metadata()?.mode())
    }

    fn text(&self, path: &Path) -> std::io::Result<String> {
        std::fs::read_to_string(path)
    }

    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }
}

fn partition_counts(kafka: &Kafka) -> Result<BTreeMap<String, usize>, TopologyError> {
    let explain =
        |error| TopologyError::from_kafka("list the topics", &kafka.brokers.join(","), error);
    let consumer: BaseConsumer = client(kafka)?.create().map_err(explain)?;
    let metadata = consumer.fetch_metadata(None, PATIENCE).map_err(explain)?;
    let topics = metadata
        .topics()
        .iter()
        .filter(|topic| topic.error().is_none());
    Ok(topics
        .map(|topic| (topic.name().to_owned(), topic.partitions().len()))
        .collect())
}
