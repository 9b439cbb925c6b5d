//! What a router is made with, what it hears, what it says, what it counts.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use wattle_model::{Carrier, Class, LinkId, LinkState, Measurement, NodeId, Prefix, UnixTime};
use wattle_wire::key::SecretKey;
use wattle_wire::record::{Record, RecordKey};

use crate::cost::Health;
use crate::event::Event;
use crate::policy::Policies;
use crate::routes::{Preference, Routes};
use crate::topology::Members;

/// What a router is made with.
#[derive(Debug, Clone)]
pub struct Config {
    /// This node's identity.
    pub identity: SecretKey,
    /// How often the node booted: the upper half of its sequence numbers.
    pub epoch: u32,
    /// Seed of the spread of refreshes and of the first sequence number: another one at every start.
    pub seed: u64,
    /// Version of the software, for people.
    pub version: String,
    /// The UDP port on which this node can be reached over QUIC, if it listens on one.
    pub quic_port: Option<u16>,
    /// The wall clock at the instant that the router is made.
    pub time: UnixTime,
}

/// What the world tells a router.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Input {
    /// A link changed its state or its quality.
    Link {
        /// The link.
        link: LinkId,
        /// The node at its other end.
        neighbour: NodeId,
        /// What carries it.
        carrier: Carrier,
        /// Its state.
        state: LinkState,
        /// Its quality.
        measurement: Measurement,
    },
    /// A neighbour sent a message about link state.
    Message {
        /// The neighbour.
        from: NodeId,
        /// The bytes of the message.
        payload: Vec<u8>,
    },
    /// A neighbour's database has this fingerprint, by its probes.
    Fingerprint {
        /// The neighbour.
        from: NodeId,
        /// The fingerprint.
        fingerprint: u64,
    },
    /// Who belongs to the network.
    Members(Members),
    /// A removal that the trust root signed, from elsewhere than a neighbour.
    Removal(Vec<u8>),
    /// What this node announces.
    Prefixes(Vec<Prefix>),
    /// How well this node is.
    Health(Health),
    /// Which neighbours packets go over by an operator's order.
    Preferences(Vec<Preference>),
    /// What an operator wants of this node's links.
    Policies(Policies),
    /// What the wall clock says.
    Time(UnixTime),
}

/// What a router wants done or known.
#[derive(Debug, Clone)]
pub enum Output {
    /// Send this message to the neighbour at the other end of a link.
    Send {
        /// The link.
        link: LinkId,
        /// The neighbour.
        neighbour: NodeId,
        /// The bytes of the message.
        payload: Vec<u8>,
    },
    /// The routes of a class changed; those of one that is no longer priced apart are none.
    Routes(Class, Arc<Routes>),
    /// The database changed: probes carry this fingerprint.
    Fingerprint(u64),
    /// A record was accepted or written, for whoever keeps a replica.
    Accepted(Record),
    /// A record left the database: its validity or its origin's membership ended.
    Expired(RecordKey),
    /// Something happened that people want to know.
    Event(Event),
}

/// What a router counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counters {
    /// Records accepted from neighbours.
    pub accepted: u64,
    /// Records that were known already.
    pub duplicates: u64,
    /// Records older than the known ones.
    pub stale: u64,
    /// Records of nodes that are no members.
    pub strangers: u64,
    /// Records with a signature that is not their signer's.
    pub forged: u64,
    /// Messages that could not be read, and messages of nodes that are no neighbours.
    pub malformed: u64,
    /// Messages sent.
    pub sent: u64,
    /// Shortest-path computations.
    pub computations: u64,
    /// Those of them that brought trees up to date, instead of computing them anew.
    pub updates: u64,
    /// Outputs dropped because nobody took them.
    pub dropped: u64,
}
