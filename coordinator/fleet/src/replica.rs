//! The coordinator's replica of the link-state database (`docs/protocol/records.md`): the newest valid record of each
//! key, until it expires. Knows members' keys, not what records mean.

use std::collections::{BTreeMap, BTreeSet};

use wattle_model::{Instant, Micros, NetworkId, NodeId};
use wattle_wire::key::PublicKey;
use wattle_wire::record::{Record, RecordKey, RecordKind};

/// What became of a record that was offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// It is in.
    Accepted,
    /// One at least as new is in.
    Stale,
    /// Its origin is no member.
    UnknownOrigin,
    /// The origin did not sign it, or not for this network.
    BadSignature,
    /// A removal: those come from the coordinator itself.
    Removal,
}

/// A record that is in.
#[derive(Debug, Clone)]
struct Held {
    record: Record,
    expires: Instant,
}

/// The newest valid records.
#[derive(Debug, Clone)]
pub struct Replica {
    network: NetworkId,
    keys: BTreeMap<NodeId, PublicKey>,
    records: BTreeMap<RecordKey, Held>,
    deadlines: BTreeSet<(Instant, RecordKey)>,
}

impl Replica {
    /// A replica without members.
    pub const fn new(network: NetworkId) -> Self {
        Self {
            network,
            keys: BTreeMap::new(),
            records: BTreeMap::new(),
            deadlines: BTreeSet::new(),
        }
    }

    /// Takes records of this member from here on.
    pub fn add_origin(&mut self, node: NodeId, identity: PublicKey) {
        self.keys.insert(node, identity);
    }

    /// Forgets a member and its records.
    pub fn remove_origin(&mut self, node: NodeId) -> Vec<RecordKey> {
        self.keys.remove(&node);
        let gone: Vec<RecordKey> = self.of_origin(node).map(Record::key).collect();
        for key in &gone {
            self.forget(*key);
        }
        gone
    }

    /// Takes a record in if it is newer than what is there and its origin signed it. The cheap checks come first.
    pub fn offer(&mut self, now: Instant, record: &Record) -> Verdict {
        let key = record.key();
        if key.kind == RecordKind::Removal {
            return Verdict::Removal;
        }
        let Some(identity) = self.keys.get(&key.origin) else {
            return Verdict::UnknownOrigin;
        };
        if self
            .records
            .get(&key)
            .is_some_and(|held| !record.seq().newer_than(held.record.seq()))
        {
            return Verdict::Stale;
        }
        if record.verify(self.network, identity).is_err() {
            return Verdict::BadSignature;
        }
        self.forget(key);
        let expires = now + Micros::from_secs(record.lifetime_s().into());
        self.deadlines.insert((expires, key));
        self.records.insert(
            key,
            Held {
                record: record.clone(),
                expires,
            },
        );
        Verdict::Accepted
    }

    /// Forgets and returns the records whose time is over.
    pub fn expire(&mut self, now: Instant) -> Vec<RecordKey> {
        let over: Vec<RecordKey> = self
            .deadlines
            .iter()
            .take_while(|(at, _)| *at <= now)
            .map(|(_, key)| *key)
            .collect();
        for key in &over {
            self.forget(*key);
        }
        over
    }

    /// When the next record expires.
    pub fn next_expiry(&self) -> Instant {
        self.deadlines.first().map_or(Instant::NEVER, |(at, _)| *at)
    }

    /// The records of a node, in order of their keys.
    pub fn of_origin(&self, origin: NodeId) -> impl Iterator<Item = &Record> {
        let first = RecordKey {
            origin,
            kind: RecordKind::Node,
            part: 0,
        };
        let last = RecordKey {
            origin,
            kind: RecordKind::Removal,
            part: u8::MAX,
        };
        self.records
            .range(first..=last)
            .map(|(_, held)| &held.record)
    }

    /// How many records are in.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether no record is in.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    fn forget(&mut self, key: RecordKey) {
        if let Some(held) = self.records.remove(&key) {
            self.deadlines.remove(&(held.expires, key));
        }
    }
}
