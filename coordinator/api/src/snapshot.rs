//! Snapshots in Kafka (`docs/protocol/topology-stream.md` §6): the whole topology as one event left it, in pieces
//! between a begin and an end marker. One that has no end is no snapshot: the mirror that wrote it was killed.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_with::{DeserializeFromStr, SerializeDisplay};
use wattle_model::{NetworkId, NodeName};

use crate::Timestamp;
use crate::topology::{Entity, EntityKey};

/// Schema of the values of the snapshots topic: [`SnapshotRecord`].
pub const SNAPSHOT_SCHEMA: &str = "wattle.topology.snapshot/v1";

/// `<term>:<seq>:<attempt>`: which coordinator took it, the event that it stands for, and which try it is.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, SerializeDisplay, DeserializeFromStr,
)]
pub struct SnapshotId {
    /// Term of the coordinator that took it.
    pub term: u64,
    /// The snapshot holds every event up to this one and none after it.
    pub seq: u64,
    /// Grows with every snapshot that a coordinator begins.
    pub attempt: u32,
}

/// Why a text is no snapshot id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a snapshot id such as 3:1042:1 (term:seq:attempt)")]
pub struct SnapshotIdError(String);

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.term, self.seq, self.attempt)
    }
}

impl FromStr for SnapshotId {
    type Err = SnapshotIdError;

    fn from_str(text: &str) -> Result<Self, SnapshotIdError> {
        let parse = || {
            let mut parts = text.splitn(3, ':');
            Some(Self {
                term: parts.next()?.parse().ok()?,
                seq: parts.next()?.parse().ok()?,
                attempt: parts.next()?.parse().ok()?,
            })
        };
        parse().ok_or_else(|| SnapshotIdError(text.to_owned()))
    }
}

/// One record of the snapshots topic. Its key is `<snapshot id>/begin`, `<snapshot id>/<chunk>` or
/// `<snapshot id>/end`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "part", rename_all = "snake_case")]
pub enum SnapshotRecord {
    /// A snapshot begins.
    Begin(SnapshotBegin),
    /// Some of its entities.
    Entities(SnapshotEntities),
    /// It is complete if all its chunks were seen.
    End(SnapshotEnd),
}

/// A snapshot begins. Every event up to `seq` is in the events topic by then; changes after `seq` follow there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotBegin {
    /// Which snapshot.
    pub snapshot: SnapshotId,
    /// The network.
    pub network: NetworkId,
    /// Its name.
    pub network_name: String,
    /// The snapshot holds every event up to this one and none after it.
    pub seq: u64,
    /// Why it was taken.
    pub reason: SnapshotReason,
    /// How many entities it has.
    pub entities: u64,
    /// In how many chunks.
    pub chunks: u32,
    /// Version of the slot map in force; 0 without one.
    pub slots: u32,
    /// When it was taken.
    pub ts: Timestamp,
}

/// Some entities of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotEntities {
    /// Of which snapshot.
    pub snapshot: SnapshotId,
    /// Which chunk, from 1.
    pub chunk: u32,
    /// The entities, by key; those of later chunks have greater keys.
    pub entities: Vec<SnapshotEntity>,
}

/// One entity of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotEntity {
    /// Which entity.
    pub key: EntityKey,
    /// Site of the node that answers for it.
    pub site: Option<NodeName>,
    /// How it is.
    pub after: Entity,
}

/// The end of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotEnd {
    /// Of which snapshot.
    pub snapshot: SnapshotId,
    /// As in its begin.
    pub seq: u64,
    /// As in its begin.
    pub entities: u64,
    /// As in its begin.
    pub chunks: u32,
    /// When its last piece was written.
    pub ts: Timestamp,
}

/// Why a snapshot was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotReason {
    /// The first one, or the first after a restart that found none in time.
    Start,
    /// It was time.
    Interval,
    /// Events are missing, see the gap record.
    Gap,
    /// A topic was missing, recreated or truncated.
    TopicLost,
    /// Sites moved to other slots.
    SlotsChanged,
    /// A reason that this version does not know.
    #[serde(other)]
    Unknown,
}

impl SnapshotRecord {
    /// Which snapshot it belongs to.
    pub const fn snapshot(&self) -> SnapshotId {
        match self {
            Self::Begin(begin) => begin.snapshot,
            Self::Entities(entities) => entities.snapshot,
            Self::End(end) => end.snapshot,
        }
    }

    /// Its key in Kafka.
    pub fn key(&self) -> String {
        match self {
            Self::Begin(begin) => format!("{}/begin", begin.snapshot),
            Self::Entities(entities) => format!("{}/{}", entities.snapshot, entities.chunk),
            Self::End(end) => format!("{}/end", end.snapshot),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_parse_as_they_print_and_order_by_term_and_seq() {
        let id: SnapshotId = "3:1042:1".parse().unwrap();
        assert_eq!(id.to_string(), "3:1042:1");
        assert!(id < "3:1043:0".parse().unwrap() && id < "4:1:0".parse().unwrap());
        for bad in ["", "3:1042", "a:b:c", "1:2:3:4"] {
            assert!(bad.parse::<SnapshotId>().is_err(), "{bad}");
        }
    }
}
