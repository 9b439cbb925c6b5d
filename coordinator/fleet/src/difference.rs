//! One change of one entity before it has a number. Knows the envelope, not why anything changed.

use serde::{Deserialize, Serialize};
use wattle_api::Timestamp;
use wattle_api::topology::{Cause, Entity, EntityKey, EventId, Op, Source, TopologyEvent};
use wattle_model::{NetworkId, NodeId, NodeName};

/// How an entity was and is. At least one of the two is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Which entity.
    pub key: EntityKey,
    /// How it was.
    pub before: Option<Entity>,
    /// How it is.
    pub after: Option<Entity>,
    /// Why it changed.
    pub cause: Cause,
    /// Who said so.
    pub evidence: Evidence,
    /// Site of the node that answers for the entity.
    pub site: Option<NodeName>,
}

/// The record that made a difference; empty if the coordinator itself did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Evidence {
    /// Origin of the record.
    pub reporter: Option<NodeId>,
    /// Its sequence number.
    pub record_seq: Option<u64>,
    /// When the origin saw the change, on its own clock.
    pub observed_at: Option<Timestamp>,
    /// Earlier changes of the same entity that were never told by themselves.
    #[serde(default)]
    pub coalesced: u64,
}

/// What all events of one run of one coordinator have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    /// The network.
    pub network: NetworkId,
    /// Its name.
    pub network_name: String,
    /// The coordinator's name.
    pub coordinator: String,
    /// The coordinator's term.
    pub term: u64,
}

impl Difference {
    /// What happened to the entity.
    pub const fn op(&self) -> Op {
        match (&self.before, &self.after) {
            (None, Some(_)) => Op::Create,
            (Some(_), Some(_)) => Op::Update,
            (_, None) => Op::Delete,
        }
    }

    /// The difference as event number `seq`.
    pub fn to_event(&self, stamp: &Stamp, seq: u64, ts: Timestamp) -> TopologyEvent {
        TopologyEvent {
            id: EventId {
                term: stamp.term,
                seq,
            },
            kind: self.key.kind(),
            key: self.key,
            op: self.op(),
            before: self.before.clone(),
            after: self.after.clone(),
            cause: self.cause,
            source: Source {
                network: stamp.network,
                network_name: stamp.network_name.clone(),
                coordinator: stamp.coordinator.clone(),
                term: stamp.term,
                seq,
                reporter: self.evidence.reporter,
                record_seq: self.evidence.record_seq,
                site: self.site.clone(),
                observed_at: self.evidence.observed_at,
                coalesced: self.evidence.coalesced,
            },
            ts,
            omitted: None,
        }
    }
}
