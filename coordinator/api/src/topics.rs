//! What the topics of a network should be like: the mirror makes them so, `wattle kafka` keeps them so.

use crate::stream::{TopicSettings, Topics};

const DAY_MS: u64 = 86_400_000;

/// How long measurements are kept, in days: they are for dashboards, the history is in the events.
const METRICS_DAYS: u64 = 7;

/// A coordinator whose clock is ahead must not be refused: brokers take records of the next hour only by default.
const ANY_TIME: &str = "9223372036854775807";

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

/// The topics of a network: events, state, progress, snapshots, metrics, alerts, audit, dead letters, in this order.
pub fn desired_topics(topics: &Topics, settings: &TopicSettings) -> Vec<TopicSpec> {
    let spec = |name: &str, partitions, config| TopicSpec {
        name: name.to_owned(),
        partitions,
        replication: settings.replication,
        config,
    };
    let many = settings.partitions;
    let days = u64::from(settings.retention_days);
    vec![
        spec(&topics.events, many, deleted_after(Some(days))),
        spec(&topics.state, many, compacted()),
        spec(&topics.progress, 1, compacted()),
        spec(&topics.snapshots, 1, deleted_after(Some(days))),
        spec(&topics.metrics, many, deleted_after(Some(METRICS_DAYS))),
        spec(&topics.alerts, 1, deleted_after(Some(days))),
        spec(&topics.audit, 1, deleted_after(None)),
        spec(&topics.dlq, 1, deleted_after(Some(days))),
    ]
}

/// An image must be found soon after it was written and a tombstone long enough for everybody to see it.
fn compacted() -> Vec<(&'static str, String)> {
    vec![
        ("cleanup.policy", "compact".to_owned()),
        ("min.cleanable.dirty.ratio", "0.1".to_owned()),
        ("segment.ms", "600000".to_owned()),
        ("max.compaction.lag.ms", "3600000".to_owned()),
        ("delete.retention.ms", DAY_MS.to_string()),
        ("compression.type", "producer".to_owned()),
        ("message.timestamp.after.max.ms", ANY_TIME.to_owned()),
    ]
}

fn deleted_after(days: Option<u64>) -> Vec<(&'static str, String)> {
    let retention = days.map_or("-1".to_owned(), |days| (days * DAY_MS).to_string());
    vec![
        ("cleanup.policy", "delete".to_owned()),
        ("retention.ms", retention),
        ("retention.bytes", "-1".to_owned()),
        ("message.timestamp.type", "CreateTime".to_owned()),
        ("compression.type", "producer".to_owned()),
        ("message.timestamp.after.max.ms", ANY_TIME.to_owned()),
    ]
}
