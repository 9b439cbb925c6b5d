//! Topology events (`docs/protocol/topology.md`): every change of the network's shape as the API streams it, the CLI
//! prints it and Kafka carries it. One envelope, three kinds of entity. Units stand in the names of fields; times are
//! RFC 3339 UTC. Version 1 only ever gains optional fields; readers ignore the ones they do not know.
//!
//! The envelope follows Debezium's: `before`, `after`, `op`, `source`, `ts`. Published as JSON Schema in
//! `docs/schemas`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_with::{DeserializeFromStr, SerializeDisplay};
use wattle_model::{Carrier, NetworkId, NodeId, NodeIndex, NodeName, Prefix};

use crate::Timestamp;

/// Name and version of the event's schema.
pub const SCHEMA: &str = "wattle.topology.event/v1";

/// One change of one entity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopologyEvent {
    /// Names the event for ever.
    pub id: EventId,
    /// What kind of thing changed.
    pub kind: EntityKind,
    /// Which one.
    pub key: EntityKey,
    /// What happened to it.
    pub op: Op,
    /// How it was; `null` if it was not.
    pub before: Option<Entity>,
    /// How it is; `null` if it is no more.
    pub after: Option<Entity>,
    /// Why it changed.
    pub cause: Cause,
    /// Who says so.
    pub source: Source,
    /// When the coordinator wrote it down.
    pub ts: Timestamp,
    /// Set where the images are too large for Kafka: they are among the dead letters, `before` and `after` are `null`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub omitted: Option<Omitted>,
}

/// Images that an event in Kafka leaves out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Omitted {
    /// Size of the whole event in bytes.
    pub bytes: u64,
}

impl TopologyEvent {
    /// The `type` attribute of CloudEvents.
    pub fn cloud_event_type(&self) -> String {
        format!(
            "io.wattle.topology.{}.{}",
            self.kind.as_str(),
            self.op.as_str()
        )
    }

    /// The `source` attribute of CloudEvents.
    pub fn cloud_event_source(&self) -> String {
        format!("/wattle/{}", self.source.network)
    }
}

/// `<term>:<seq>`: the term of the coordinator that wrote the event and its place in the total order.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, SerializeDisplay, DeserializeFromStr,
)]
pub struct EventId {
    /// Raised at every start of a coordinator.
    pub term: u64,
    /// Dense, from 1, never used twice, whatever the term.
    pub seq: u64,
}

/// Why a text is no event id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an event id such as 3:1042 (term:seq)")]
pub struct EventIdError(String);

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.term, self.seq)
    }
}

impl FromStr for EventId {
    type Err = EventIdError;

    fn from_str(text: &str) -> Result<Self, EventIdError> {
        let parse = || {
            let (term, seq) = text.split_once(':')?;
            Some(Self {
                term: term.parse().ok()?,
                seq: seq.parse().ok()?,
            })
        };
        parse().ok_or_else(|| EventIdError(text.to_owned()))
    }
}

/// Kinds of things in a topology.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntityKind {
    /// A member of the network.
    Node,
    /// One direction of an adjacency over one carrier.
    Link,
    /// Addresses that a node announces.
    Prefix,
}

impl EntityKind {
    /// The kind as it stands in JSON and in keys.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Link => "link",
            Self::Prefix => "prefix",
        }
    }
}

/// Names one entity: `node:<id>`, `link:<id>><id>/<carrier>`, `prefix:<prefix>`. The key of Kafka records.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, SerializeDisplay, DeserializeFromStr,
)]
pub enum EntityKey {
    /// A node.
    Node(NodeId),
    /// A link, in the direction from the first node to the second.
    Link(NodeId, NodeId, Carrier),
    /// A prefix; one node owns it.
    Prefix(Prefix),
}

/// Why a text is no key of an entity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a key such as node:<id>, link:<id>><id>/udp4 or prefix:10.1.0.0/16")]
pub struct EntityKeyError(String);

impl EntityKey {
    /// The kind of the entity.
    pub const fn kind(&self) -> EntityKind {
        match self {
            Self::Node(_) => EntityKind::Node,
            Self::Link(..) => EntityKind::Link,
            Self::Prefix(_) => EntityKind::Prefix,
        }
    }
}

impl fmt::Display for EntityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(node) => write!(f, "node:{node}"),
            Self::Link(from, to, carrier) => write!(f, "link:{from}>{to}/{carrier}"),
            Self::Prefix(prefix) => write!(f, "prefix:{prefix}"),
        }
    }
}

impl FromStr for EntityKey {
    type Err = EntityKeyError;

    fn from_str(text: &str) -> Result<Self, EntityKeyError> {
        let parse = || match text.split_once(':')? {
            ("node", node) => Some(Self::Node(node.parse().ok()?)),
            ("link", link) => {
                let (ends, carrier) = link.split_once('/')?;
                let (from, to) = ends.split_once('>')?;
                let carrier = carrier.parse().ok()?;
                Some(Self::Link(from.parse().ok()?, to.parse().ok()?, carrier))
            }
            ("prefix", prefix) => Some(Self::Prefix(prefix.parse().ok()?)),
            _ => None,
        };
        parse().ok_or_else(|| EntityKeyError(text.to_owned()))
    }
}

/// What happened to an entity; the letters are Debezium's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Op {
    /// It came to be.
    #[serde(rename = "c")]
    Create,
    /// It changed.
    #[serde(rename = "u")]
    Update,
    /// It is no more.
    #[serde(rename = "d")]
    Delete,
    /// It is as it was: part of a snapshot.
    #[serde(rename = "r")]
    Read,
}

impl Op {
    /// The letter as it stands in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Create => "c",
            Self::Update => "u",
            Self::Delete => "d",
            Self::Read => "r",
        }
    }
}

/// Why an entity changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// A node became a member, or a stock WireGuard device was added.
    MemberAdded,
    /// What the network grants to a node changed.
    MemberChanged,
    /// A node was removed.
    MemberRemoved,
    /// A node told more of itself: version, load, drain.
    NodeReported,
    /// A node reports a link that it did not report before.
    LinkReported,
    /// Measured quality or cost of a link changed.
    LinkMeasured,
    /// A node reports a link no more.
    LinkWithdrawn,
    /// The other end of a link began or ceased to report it too.
    LinkConfirmation,
    /// A node announces a prefix.
    PrefixAnnounced,
    /// A node announces a prefix no more.
    PrefixWithdrawn,
    /// Nothing was heard of the origin for as long as its record was valid.
    RecordExpired,
    /// Found by comparison after a start: it happened while no coordinator was looking.
    Recovered,
    /// Told again as part of a snapshot.
    Snapshot,
    /// A cause that this version does not know.
    #[serde(other)]
    Unknown,
}

/// Where an event comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// The network's id.
    pub network: NetworkId,
    /// The network's name.
    pub network_name: String,
    /// The coordinator that wrote the event.
    pub coordinator: String,
    /// As in the event's id.
    pub term: u64,
    /// As in the event's id.
    pub seq: u64,
    /// The node whose signed record made the difference; `null` if the coordinator itself did.
    pub reporter: Option<NodeId>,
    /// Sequence number of that record.
    pub record_seq: Option<u64>,
    /// Site of the node that answers for the entity: decides the partition in Kafka.
    pub site: Option<NodeName>,
    /// When the origin of that record saw the change, on its own clock.
    pub observed_at: Option<Timestamp>,
    /// Changes of the same entity that this event stands for besides its own: measurements that followed each other
    /// too fast.
    #[serde(default, skip_serializing_if = "is_none")]
    pub coalesced: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
const fn is_none(number: &u64) -> bool {
    *number == 0
}

/// An entity as it was or is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Entity {
    /// One direction of an adjacency.
    Link(LinkEntity),
    /// An announced prefix.
    Prefix(PrefixEntity),
    /// A member.
    Node(NodeEntity),
}

impl Entity {
    /// Names the entity.
    pub fn key(&self) -> EntityKey {
        match self {
            Self::Link(link) => EntityKey::Link(link.from, link.to, link.carrier),
            Self::Prefix(prefix) => EntityKey::Prefix(prefix.prefix),
            Self::Node(node) => EntityKey::Node(node.id),
        }
    }

    /// The node that answers for the entity.
    pub const fn owner(&self) -> NodeId {
        match self {
            Self::Link(link) => link.from,
            Self::Prefix(prefix) => prefix.origin,
            Self::Node(node) => node.id,
        }
    }
}

/// A member of the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeEntity {
    /// Its identity.
    pub id: NodeId,
    /// Its name.
    pub name: NodeName,
    /// Its place in the address plan.
    pub index: NodeIndex,
    /// Its own addresses in the network.
    pub addresses: Vec<IpAddr>,
    /// Labels that policy and people gave it.
    pub tags: Vec<NodeName>,
    /// Where it stands.
    pub site: Option<NodeName>,
    /// The node that hosts it, if it is a stock WireGuard device.
    pub leaf_of: Option<NodeId>,
    /// Whether its records are alive in the link-state database.
    pub reporting: bool,
    /// Version of its agent.
    pub agent_version: Option<String>,
    /// Boot epoch of its agent.
    pub epoch: Option<u32>,
    /// What transit through it costs on top, in microseconds, for its load; `null` = no transit: drained, a leaf, or
    /// not reporting.
    pub transit_cost_us: Option<u32>,
}

/// One direction of an adjacency over one carrier, as its sending end reports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkEntity {
    /// The end that reports.
    pub from: NodeId,
    /// The other end.
    pub to: NodeId,
    /// Name of `from`.
    pub from_name: Option<NodeName>,
    /// Name of `to`.
    pub to_name: Option<NodeName>,
    /// What carries it.
    pub carrier: Carrier,
    /// Whether the other end reports it too; only then it counts.
    pub confirmed: bool,
    /// Tier that the reporting end gives it, compared before any price; absent if it is 0.
    #[serde(default, skip_serializing_if = "is_first")]
    pub tier: u8,
    /// Advertised price, in microseconds of expected delivery time; `null` = not usable.
    pub cost_us: Option<u32>,
    /// Smoothed round-trip time, in microseconds.
    pub rtt_us: u64,
    /// Variation of the delay, in microseconds.
    pub jitter_us: u64,
    /// Loss in this direction, in parts per million.
    pub loss_ppm: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_first(tier: &u8) -> bool {
    *tier == 0
}

/// Addresses that a node announces besides its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrefixEntity {
    /// The addresses.
    pub prefix: Prefix,
    /// The node that announces them.
    pub origin: NodeId,
    /// Name of `origin`.
    pub origin_name: Option<NodeName>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: &str = "link:00000000000000aa>00000000000000bb/udp4";

    #[test]
    fn keys_parse_as_they_print() {
        for text in [
            "node:00000000000000aa",
            LINK,
            "prefix:10.1.0.0/16",
            "prefix:fd00::/64",
        ] {
            assert_eq!(text.parse::<EntityKey>().unwrap().to_string(), text);
        }
        for bad in [
            "",
            "node:",
            "link:00000000000000aa/udp4",
            "prefix:10.1.2.3/16",
            "site:a",
        ] {
            assert!(bad.parse::<EntityKey>().is_err(), "{bad}");
        }
    }

    #[test]
    fn ids_order_by_term_then_seq() {
        let old: EventId = "2:99".parse().unwrap();
        let new: EventId = "3:100".parse().unwrap();
        assert!(old < new);
        assert!("3".parse::<EventId>().is_err() && "a:b".parse::<EventId>().is_err());
    }
}
