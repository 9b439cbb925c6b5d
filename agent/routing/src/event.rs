//! What routing tells people: past tense, with the cause and a trace that is the same on every node.

use serde::{Deserialize, Serialize};
use wattle_model::{Carrier, Class, Cost, Instant, LinkId, Micros, NodeId, UnixTime};
use wattle_wire::flood::RecordId;

/// Something happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When, on this node's monotonic clock.
    pub at: Instant,
    /// When, on this node's wall clock.
    pub time: UnixTime,
    /// Why.
    pub cause: Cause,
    /// How long before it began: with the first suspicion of the node that told of it, by that one's clock, or when it told.
    pub latency: Option<Micros>,
    /// What.
    pub what: Happening,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Happening {
    /// One of this node's links came into use.
    LinkUp {
        /// The link.
        link: LinkId,
        /// The node at its other end.
        neighbour: NodeId,
        /// What carries it.
        carrier: Carrier,
        /// Its price.
        cost: Cost,
    },
    /// One of this node's links failed.
    LinkDown {
        /// The link.
        link: LinkId,
        /// The node at its other end.
        neighbour: NodeId,
        /// What carries it.
        carrier: Carrier,
    },
    /// One of this node's links got another price.
    LinkCostChanged {
        /// The link.
        link: LinkId,
        /// The node at its other end.
        neighbour: NodeId,
        /// The former price.
        before: Cost,
        /// The price.
        after: Cost,
    },
    /// Packets to a node go another way.
    RouteChanged {
        /// Packets of this class.
        #[serde(default, skip_serializing_if = "Class::is_latency")]
        class: Class,
        /// The node.
        destination: NodeId,
        /// The former next hops, preferred first.
        before: Vec<NodeId>,
        /// The next hops, preferred first.
        after: Vec<NodeId>,
        /// The price of the best path.
        cost: Cost,
    },
    /// A node can be reached.
    NodeJoined {
        /// The node.
        node: NodeId,
    },
    /// A node can no longer be reached.
    NodeLeft {
        /// The node.
        node: NodeId,
    },
    /// The trust root ended a node's membership.
    NodeRemoved {
        /// The node.
        node: NodeId,
        /// Grants up to this serial are void.
        serial: u64,
    },
}

/// Why something happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// A record told it: this version of it, on every node.
    Record(RecordId),
    /// One of this node's links failed, and others may not be told yet.
    LinkLost {
        /// The node at its other end.
        neighbour: NodeId,
        /// What carried it.
        carrier: Carrier,
    },
    /// The peer set changed.
    PeerSet,
    /// An operator ordered it.
    Operator,
    /// Time passed: a record lost its validity, or a price had been better for long enough.
    Time,
}

impl Cause {
    /// A number by which the consequences of one cause are found on all nodes; zero if it has no common cause.
    pub fn trace(&self) -> u64 {
        match self {
            Self::Record(id) => id.fingerprint(),
            Self::LinkLost { .. } | Self::PeerSet | Self::Operator | Self::Time => 0,
        }
    }
}
