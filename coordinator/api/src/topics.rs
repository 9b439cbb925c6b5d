//! What the topics of a network should be like: the mirror makes them so, `wattle kafka` keeps them so.

use crate::stream::{TopicSettings, Topics};

const DAY_MS: u64 = 86_400_000;

/// What a topic should be like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicSpec {
    /// Its name.
    pub name: String,
    /// How many partitions.
    pub partitions: u32,
    /// Copies; the cluster's default if absent.
    pub replication: Option<u16>,
    /// Its configuration where that differs from the cluster's.
    pub config: Vec<(&'static str, String)>,
}

/// The topics of a network: events, state, progress, in this order.
pub fn desired_topics(topics: &Topics, settings: &TopicSettings) -> [TopicSpec; 3] {
    let spec = |name: &str, partitions, config: &[(&'static str, String)]| TopicSpec {
        name: name.to_owned(),
        partitions,
        replication: settings.replication,
        config: config.to_vec(),
    };
    let retention = u64::from(settings.retention_days) * DAY_MS;
    // An image must be found soon after it was written and a tombstone long enough for everybody to see it.
    let compacted = [
        ("cleanup.policy", "compact".to_owned()),
        ("min.cleanable.dirty.ratio", "0.1".to_owned()),
        ("segment.ms", "600000".to_owned()),
        ("max.compaction.lag.ms", "3600000".to_owned()),
        ("delete.retention.ms", DAY_MS.to_string()),
        ("compression.type", "producer".to_owned()),
    ];
    let deleted = [
        ("cleanup.policy", "delete".to_owned()),
        ("retention.ms", retention.to_string()),
        ("retention.bytes", "-1".to_owned()),
        ("message.timestamp.type", "CreateTime".to_owned()),
        ("compression.type", "producer".to_owned()),
    ];
    [
        spec(&topics.events, settings.partitions, &deleted),
        spec(&topics.state, settings.partitions, &compacted),
        spec(&topics.progress, 1, &compacted),
    ]
}
