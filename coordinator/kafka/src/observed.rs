//! What a cluster has, as far as the document speaks of it.

use std::collections::{BTreeMap, BTreeSet};

use wattle_api::stream::Mechanism;

use crate::acl::Acl;

/// What a cluster has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Observed {
    /// The racks of its brokers, by their numbers.
    pub brokers: BTreeMap<i32, Option<String>>,
    /// The topics that the document names and that exist.
    pub topics: BTreeMap<String, ObservedTopic>,
    /// All rights; none if nobody keeps any, so that anybody may do anything.
    pub acls: Option<BTreeSet<Acl>>,
    /// The users with passwords, and how often each kind of password is hashed.
    pub users: BTreeMap<String, BTreeMap<Scram, u32>>,
    /// Users whose password was tried, and is not the one of the document.
    pub other_passwords: BTreeSet<String>,
    /// Whether the brokers can move segments to remote storage.
    pub tiered: bool,
    /// Topics of which copies are being moved at this moment.
    pub moving: BTreeSet<String>,
}

/// A kind of password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scram {
    /// SCRAM-SHA-256.
    Sha256,
    /// SCRAM-SHA-512.
    Sha512,
}

/// What a topic is like.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ObservedTopic {
    /// Its partitions, in order.
    pub partitions: Vec<Partition>,
    /// Its settings with the values that count.
    pub config: BTreeMap<String, String>,
    /// Those of the settings that were made for this topic.
    pub own: BTreeSet<String>,
}

/// Where a partition is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Partition {
    /// The brokers that have a copy; the first should lead.
    pub replicas: Vec<i32>,
    /// The broker that leads; -1 if there is none.
    pub leader: i32,
}

impl Scram {
    /// Its number in Kafka's protocol.
    pub const fn code(self) -> i8 {
        match self {
            Self::Sha256 => 1,
            Self::Sha512 => 2,
        }
    }

    /// The one with this number in Kafka's protocol.
    pub const fn of_code(code: i8) -> Option<Self> {
        match code {
            1 => Some(Self::Sha256),
            2 => Some(Self::Sha512),
            _ => None,
        }
    }

    /// The one that a user's mechanism needs; none for passwords that are sent as they are.
    pub const fn of(mechanism: Mechanism) -> Option<Self> {
        match mechanism {
            Mechanism::Plain => None,
            Mechanism::ScramSha256 => Some(Self::Sha256),
            Mechanism::ScramSha512 => Some(Self::Sha512),
        }
    }

    /// The mechanism that needs it.
    pub const fn mechanism(self) -> Mechanism {
        match self {
            Self::Sha256 => Mechanism::ScramSha256,
            Self::Sha512 => Mechanism::ScramSha512,
        }
    }
}
