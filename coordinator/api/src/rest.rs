//! What the REST API (`/api/v1`, `docs/api.md`) takes and gives. Errors are problem details (RFC 9457).
//!
//! Units stand in names, times are RFC 3339 UTC, unknown fields of requests are refused and of answers ignored.

use std::net::{IpAddr, SocketAddr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use wattle_model::{NetworkId, NodeId, NodeIndex, NodeName, Prefix, WgKey};

use crate::Timestamp;
use crate::token::TokenRecord;
use crate::topology::{LinkEntity, NodeEntity, PrefixEntity};

/// Path in front of every resource.
pub const BASE: &str = "/api/v1";

/// Media type of [`Problem`].
pub const PROBLEM_TYPE: &str = "application/problem+json";

/// Header of a request that changes something: the Git revision that asks for it, as the audit trail tells it.
pub const REVISION_HEADER: &str = "wattle-revision";

/// The longest revision.
const MAX_REVISION_BYTES: usize = 128;

/// Whether this can be a revision: a hash, a tag, or what `git describe` says.
pub fn is_revision(text: &str) -> bool {
    (1..=MAX_REVISION_BYTES).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Name of server-sent events that carry a topology event; their id is the event's.
pub const SSE_EVENT: &str = "topology";
/// Name of the server-sent event before the entities of a snapshot.
pub const SSE_SNAPSHOT_BEGIN: &str = "snapshot-begin";
/// Name of the server-sent event after the entities of a snapshot; changes after its id follow.
pub const SSE_SNAPSHOT_END: &str = "snapshot-end";

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page<T> {
    /// The things, in a stable order.
    pub items: Vec<T>,
    /// Give it as `?after=` for the next page; `null` on the last.
    pub next: Option<String>,
}

/// A member as the coordinator knows it: what was granted, and what its connection says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// What readers of the topology see.
    #[serde(flatten)]
    pub entity: NodeEntity,
    /// Its WireGuard key.
    pub wireguard_key: WgKey,
    /// Prefixes that it may announce.
    pub prefixes: Vec<Prefix>,
    /// Where others may dial it.
    pub candidates: Vec<SocketAddr>,
    /// Whether it is connected to this coordinator.
    pub connected: bool,
    /// Revision of the newest peer set that it says it holds.
    pub acked_revision: u64,
    /// When it became a member.
    pub joined_at: Timestamp,
    /// When the coordinator last heard of it directly.
    pub last_seen_at: Option<Timestamp>,
}

/// The network and its coordinator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Its id.
    pub id: NetworkId,
    /// Its name.
    pub name: String,
    /// Addresses of the nodes.
    pub ipv4: Option<Prefix>,
    /// Addresses of the nodes.
    pub ipv6: Option<Prefix>,
    /// Version of the coordinator's program.
    pub version: String,
    /// The coordinator's term.
    pub term: u64,
    /// Revision of the peer set.
    pub revision: u64,
    /// `seq` of the newest topology event.
    pub last_seq: u64,
    /// `seq` up to which Kafka has everything, events and state; `null` without Kafka.
    pub mirrored_seq: Option<u64>,
}

/// The whole topology at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
    /// The network's id.
    pub network: NetworkId,
    /// Term of the coordinator.
    pub term: u64,
    /// The picture holds every event up to this one and none after it.
    pub seq: u64,
    /// When it was taken.
    pub ts: Timestamp,
    /// All nodes, by id.
    pub nodes: Vec<NodeEntity>,
    /// All links, by ends and carrier.
    pub links: Vec<LinkEntity>,
    /// All announced prefixes.
    pub prefixes: Vec<PrefixEntity>,
}

/// Asks for a join token.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TokenRequest {
    /// The name that the node gets; the node may choose if `null`.
    pub name: Option<NodeName>,
    /// The node may announce prefixes within these.
    pub prefixes: Vec<Prefix>,
    /// Tags that the node gets.
    pub tags: Vec<NodeName>,
    /// Site that the node gets.
    pub site: Option<NodeName>,
    /// How long the token is good, in seconds; the coordinator's default if `null`.
    pub ttl_s: Option<u64>,
}

/// A new token. The only time that its text is seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TokenCreated {
    /// The line to give to the node.
    pub token: String,
    /// What the coordinator remembers.
    #[serde(flatten)]
    pub record: TokenRecord,
}

/// Asks to attach a stock WireGuard device to a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeafRequest {
    /// Its name, unique among all nodes.
    pub name: NodeName,
    /// The node that hosts it.
    pub host: NodeName,
    /// Its WireGuard public key.
    pub public_key: WgKey,
    /// Its addresses; the next free ones of the plan if empty.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    /// Networks behind it.
    #[serde(default)]
    pub prefixes: Vec<Prefix>,
}

/// What stands for the private key in [`LeafCreated::wg_quick`].
pub const PRIVATE_KEY: &str = "THE_KEY_OF_THIS_DEVICE";

/// A leaf that was attached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LeafCreated {
    /// Its id: the first bytes of the SHA-256 of its WireGuard key.
    pub id: NodeId,
    /// Its place in the address plan.
    pub index: NodeIndex,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// A file for `wg-quick`, complete but for the private key, which never left the device.
    pub wg_quick: String,
}

/// Why a request was refused (RFC 9457).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Names the kind of problem: `urn:wattle:problem:<code>`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind in a few words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// This very problem: what was refused and why.
    pub detail: String,
    /// What to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// JSON pointer into the request to what is wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pointer: Option<String>,
}

impl Problem {
    /// A problem of the kind `code`.
    pub fn new(status: u16, code: &str, title: &str, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("urn:wattle:problem:{code}"),
            title: title.to_owned(),
            status,
            detail: detail.into(),
            hint: None,
            pointer: None,
        }
    }

    /// Says what to do next.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Points to the part of the request that is wrong.
    #[must_use]
    pub fn at(mut self, pointer: impl Into<String>) -> Self {
        self.pointer = Some(pointer.into());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_with_an_unknown_field_is_refused_by_name() {
        let error = serde_json::from_str::<TokenRequest>(r#"{"names":"a"}"#).unwrap_err();
        assert!(
            error.to_string().contains("unknown field `names`"),
            "{error}"
        );
    }

    #[test]
    fn an_empty_token_request_is_enough() {
        assert_eq!(
            serde_json::from_str::<TokenRequest>("{}").unwrap(),
            TokenRequest::default()
        );
    }
}
