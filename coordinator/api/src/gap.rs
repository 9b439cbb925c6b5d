//! What the events topic says where events are missing (`docs/protocol/topology-stream.md` §7), and where what could
//! not be written went (§8). Nothing is left out silently.

use serde::{Deserialize, Serialize};
use wattle_model::NetworkId;

use crate::Timestamp;
use crate::topology::EntityKey;

/// Key of gap records in the events topic; each partition gets one.
pub const GAP_KEY: &str = "wattle-gap";

/// Schema of gap records: [`GapRecord`].
pub const GAP_SCHEMA: &str = "wattle.topology.gap/v1";

/// Schema of the values of the dead letters' topic: [`DeadLetter`].
pub const DEAD_LETTER_SCHEMA: &str = "wattle.topology.dead-letter/v1";

/// Events that will never be in the topic. A snapshot of a later event follows, and the state topic is brought in
/// line. In its partition the record counts as the event `last_seq`: it names the one before it, and the next event
/// names `last_seq`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GapRecord {
    /// The network.
    pub network: NetworkId,
    /// The first event that is missing.
    pub first_seq: u64,
    /// The last event that is missing.
    pub last_seq: u64,
    /// Why.
    pub reason: GapReason,
    /// When it was found.
    pub ts: Timestamp,
}

/// Why events are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GapReason {
    /// They waited for Kafka until the outbox was full.
    OutboxLimit,
    /// Somebody deleted records of the events topic.
    TopicTruncated,
    /// A reason that this version does not know.
    #[serde(other)]
    Unknown,
}

/// A record that Kafka did not take, or would not have taken. The events topic has the event without its images
/// (`omitted` says so), so that its sequence has no hole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// The network.
    pub network: NetworkId,
    /// The topic that it was meant for.
    pub topic: String,
    /// The entity.
    pub key: EntityKey,
    /// The event.
    pub seq: u64,
    /// Why it stands here.
    pub reason: DeadReason,
    /// Its size in bytes.
    pub bytes: u64,
    /// What was allowed, in bytes.
    pub limit: Option<u64>,
    /// The beginning of its value, up to some kilobytes.
    pub head: String,
    /// When it was put here.
    pub ts: Timestamp,
}

/// Why a record is a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeadReason {
    /// It is larger than the topic takes.
    Oversize,
    /// A reason that this version does not know.
    #[serde(other)]
    Unknown,
}
