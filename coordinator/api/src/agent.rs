//! The agent protocol (`docs/protocol/coordinator.md`): what an agent and its coordinator say to each other inside
//! TLS 1.3 with ALPN [`ALPN`]. The agent's identity is the Ed25519 key of its client certificate and stands in no
//! message. Grants, peer sets, removals and records are byte strings of `wattle_wire`, signed there.
//!
//! The conversation: the agent says [`ToCoordinator::Hello`]; a node that is no member yet goes on with
//! [`ToCoordinator::Join`] and gets [`ToAgent::Joined`]; a member gets [`ToAgent::Welcome`] and, if its revision is not
//! the newest, [`ToAgent::PeerSet`]. After that both speak when they have something to say.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use wattle_model::{NetworkId, NodeId, NodeIndex, NodeName, Prefix, WgKey};

use crate::{Bytes, Timestamp};

/// The protocol's name in the TLS handshake.
pub const ALPN: &[u8] = b"wattle-agent/1";

/// Version of the messages in this file; raised only by a change that an older peer would misread.
pub const PROTOCOL: u16 = 1;

/// Feature of an agent that can apply [`PeerSetUpdate::Delta`].
pub const FEATURE_DELTA: &str = "peer-set-delta";

/// The port of a coordinator when none is given.
pub const DEFAULT_PORT: u16 = 5741;

/// An agent says [`ToCoordinator::Ping`] this often, in seconds.
pub const KEEPALIVE_S: u64 = 20;

/// The coordinator ends a connection that was silent for so long, in seconds: three keepalives.
pub const SILENCE_S: u64 = 60;

/// From agent to coordinator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToCoordinator {
    /// First message of every connection.
    Hello {
        /// [`PROTOCOL`] of the agent.
        protocol: u16,
        /// Version of the agent's program.
        agent_version: String,
        /// Revision of the peer set the agent holds; 0 for none.
        revision: u64,
        /// Boot epoch of the node.
        epoch: u32,
        /// Optional abilities, such as [`FEATURE_DELTA`].
        #[serde(default)]
        features: Vec<String>,
    },
    /// Asks to become a member. Boxed: far larger than the others.
    Join(Box<Join>),
    /// The agent has stored and applied this peer set.
    Ack {
        /// Its revision.
        revision: u64,
    },
    /// Where others may dial this node, best first; replaces what was said before.
    Candidates {
        /// Addresses and UDP ports.
        candidates: Vec<SocketAddr>,
    },
    /// Records of the link-state database, byte for byte as they were flooded.
    Records {
        /// Signed records of any origin.
        records: Vec<Bytes>,
    },
    /// The node leaves the network for good: the coordinator removes it.
    Leave,
    /// Says that the agent is alive.
    Ping {
        /// Comes back in [`ToAgent::Pong`].
        nonce: u64,
    },
}

/// What a node tells when it asks to become a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    /// The join token as it was printed.
    pub token: String,
    /// The name it would like; a name in the token wins.
    #[serde(default)]
    pub name: Option<NodeName>,
    /// Its WireGuard key.
    pub wireguard_key: WgKey,
    /// The place in the address plan it would like; the next free one if `None`.
    #[serde(default)]
    pub index: Option<NodeIndex>,
    /// Prefixes it wants to announce; each must lie within what the token allows.
    #[serde(default)]
    pub prefixes: Vec<Prefix>,
    /// Where others may dial it.
    #[serde(default)]
    pub candidates: Vec<SocketAddr>,
}

/// From coordinator to agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToAgent {
    /// Answer to the hello of a member. A [`ToAgent::PeerSet`] follows if the agent's revision is not this one.
    Welcome {
        /// The network.
        network: Box<NetworkInfo>,
        /// The newest revision of the node's peer set.
        revision: u64,
    },
    /// The node is a member.
    Joined {
        /// `wattle_wire` grant, signed by the root.
        grant: Bytes,
        /// The network.
        network: Box<NetworkInfo>,
        /// Revision of `peer_set`.
        revision: u64,
        /// `wattle_wire` peer set, signed by the root.
        peer_set: Bytes,
    },
    /// The node's peer set changed.
    PeerSet(PeerSetUpdate),
    /// Records to take into the link-state database and to flood on: removals above all.
    Records {
        /// Signed records.
        records: Vec<Bytes>,
    },
    /// Answer to [`ToCoordinator::Ping`].
    Pong {
        /// From the ping.
        nonce: u64,
    },
    /// Something was refused. The connection closes after it if [`ErrorCode::is_final`].
    Error {
        /// What kind of error, for programs.
        code: ErrorCode,
        /// What was refused and why, for people.
        message: String,
        /// What to do next.
        hint: String,
    },
}

/// A newer peer set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "form", rename_all = "snake_case")]
pub enum PeerSetUpdate {
    /// The whole set.
    Snapshot {
        /// Its revision.
        revision: u64,
        /// `wattle_wire` peer set with the root's signature.
        set: Bytes,
    },
    /// What to change in the set of revision `from`. The result, written in canonical form, carries `signature`; if it
    /// does not verify, the agent says hello anew with revision 0 and gets a snapshot.
    Delta {
        /// Revision it applies to.
        from: u64,
        /// Revision of the result.
        revision: u64,
        /// When the result was signed.
        at: Timestamp,
        /// Peers to add, or to put in place of the one of the same node.
        peers: Vec<PeerEntry>,
        /// Nodes to take out.
        gone: Vec<NodeId>,
        /// `wattle_wire` removals to add.
        removals: Vec<Bytes>,
        /// Of the root over the result.
        signature: Bytes,
    },
}

/// One peer of a [`PeerSetUpdate::Delta`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerEntry {
    /// `wattle_wire` grant, signed by the root.
    pub grant: Bytes,
    /// Where it may be dialled, best first.
    pub candidates: Vec<SocketAddr>,
    /// The nodes that it is to have links with; `null`: with every node. If the node itself is among them, links with others
    /// may come on demand.
    pub neighbours: Option<Vec<NodeId>>,
}

/// What a node must know of its network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkInfo {
    /// First bytes of the SHA-256 of `root_key`.
    pub id: NetworkId,
    /// Its name for people.
    pub name: String,
    /// Ed25519 public key that signs grants, peer sets and removals.
    pub root_key: Bytes,
    /// Addresses of the nodes.
    pub ipv4: Option<Prefix>,
    /// Addresses of the nodes.
    pub ipv6: Option<Prefix>,
    /// `host:port` of the coordinators, in the order to try.
    pub coordinators: Vec<String>,
    /// SHA-256 of the coordinator's certificate.
    pub fingerprint: Bytes,
}

/// Kinds of refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The agent speaks a protocol that this coordinator does not.
    UnsupportedProtocol,
    /// The key of the client certificate belongs to no member and no join was asked.
    NotAMember,
    /// The key belongs to a node that was removed.
    Removed,
    /// The key is a member already.
    AlreadyMember,
    /// The token does not parse or is not known here.
    TokenUnknown,
    /// The token was used.
    TokenUsed,
    /// The token is past its time.
    TokenExpired,
    /// The token does not allow what was asked.
    TokenScope,
    /// Another node has this name.
    NameTaken,
    /// Another node has this index or address, or the plan is full.
    AddressTaken,
    /// A prefix overlaps one of another node or of the address plan.
    PrefixTaken,
    /// A message out of order or out of bounds.
    Malformed,
    /// The coordinator cannot do it at the moment; try again with growing pauses.
    Unavailable,
    /// Another connection of the same node took over.
    Superseded,
    /// A kind that this version does not know.
    #[serde(other)]
    Unknown,
}

impl ErrorCode {
    /// Whether trying the same again is pointless.
    pub const fn is_final(self) -> bool {
        match self {
            Self::UnsupportedProtocol
            | Self::NotAMember
            | Self::Removed
            | Self::AlreadyMember
            | Self::TokenUnknown
            | Self::TokenUsed
            | Self::TokenExpired
            | Self::TokenScope
            | Self::NameTaken
            | Self::AddressTaken
            | Self::PrefixTaken
            | Self::Malformed
            | Self::Superseded => true,
            Self::Unavailable | Self::Unknown => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_reads_as_the_protocol_document_shows_it() {
        let hello = ToCoordinator::Hello {
            protocol: PROTOCOL,
            agent_version: "0.1.0".into(),
            revision: 3,
            epoch: 1,
            features: vec![],
        };
        assert_eq!(
            serde_json::to_string(&hello).unwrap(),
            r#"{"type":"hello","protocol":1,"agent_version":"0.1.0","revision":3,"epoch":1,"features":[]}"#
        );
        let delta = ToAgent::PeerSet(PeerSetUpdate::Delta {
            from: 1,
            revision: 2,
            at: Timestamp::from_millis(0),
            peers: vec![PeerEntry {
                grant: Bytes(vec![255]),
                candidates: vec!["[fd00::1]:51820".parse().unwrap()],
                neighbours: None,
            }],
            gone: vec![NodeId(1)],
            removals: vec![],
            signature: Bytes(vec![0, 1]),
        });
        let text = serde_json::to_string(&delta).unwrap();
        assert_eq!(
            text,
            r#"{"type":"peer_set","form":"delta","from":1,"revision":2,"at":"1970-01-01T00:00:00.000Z","peers":[{"grant":"/w==","candidates":["[fd00::1]:51820"],"neighbours":null}],"gone":["0000000000000001"],"removals":[],"signature":"AAE="}"#
        );
        assert_eq!(serde_json::from_str::<ToAgent>(&text).unwrap(), delta);
    }

    #[test]
    fn fields_and_codes_of_later_versions_are_tolerated() {
        let text = r#"{"type":"error","code":"from_the_future","message":"m","hint":"h","more":1}"#;
        let ToAgent::Error { code, .. } = serde_json::from_str(text).unwrap() else {
            panic!()
        };
        assert_eq!(code, ErrorCode::Unknown);
        assert!(!code.is_final());
    }
}
