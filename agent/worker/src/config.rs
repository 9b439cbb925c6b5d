//! What a worker is made with and told: its configuration, the peers, commands.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use wattle_dataplane::Forwarding;
use wattle_model::{LinkId, NodeId, NodeIndex, NodeName, Prefix, WgKey};
use wattle_tunnel::{CipherCosts, CipherKind};

/// What a worker is made with.
#[derive(Clone)]
pub struct Config {
    /// This node.
    pub node: NodeId,
    /// This node's WireGuard key. Wiped by whoever holds it; the worker keeps it inside its sessions.
    pub wg_private: [u8; 32],
    /// MTU of the overlay: packets above it are answered with too-big or cut.
    pub mtu: u16,
    /// Seed of the worker's own random numbers (indexes, link keys, jitter): from the system's random source.
    pub seed: [u8; 32],
    /// Which cipher sessions use.
    pub cipher: CipherKind,
    /// What the ciphers of the fast channel cost this node; `None` switches the channel off.
    pub channel: Option<CipherCosts>,
    /// Whether this node relays for others.
    pub transit: Transit,
    /// Whether the segment size that TCP connections announce is lowered to what gets to the peer whole.
    pub mss_clamp: Clamp,
    /// Which of the node's workers it is.
    pub place: Place,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("node", &self.node)
            .field("mtu", &self.mtu)
            .field("cipher", &self.cipher)
            .field("channel", &self.channel)
            .field("transit", &self.transit)
            .field("mss_clamp", &self.mss_clamp)
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

/// Which of a node's workers one is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// The first, which has the links; the UDP ports of the others, in their order, at most
    /// [`wattle_wire::control::MAX_LANES`].
    First {
        /// The ports.
        lanes: Vec<u16>,
    },
    /// One of the others, counted from 1.
    Further(u8),
}

impl Default for Place {
    fn default() -> Self {
        Self::First { lanes: Vec::new() }
    }
}

/// Whether a node relays for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transit {
    /// Frames for other nodes are forwarded.
    Relay,
    /// Frames for other nodes are dropped.
    Refuse,
}

/// Whether the segment size that TCP connections announce is lowered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Clamp {
    /// It is lowered to what gets to the peer whole.
    On,
    /// It stays as it is.
    #[default]
    Off,
}

/// Everybody that this node may talk to, and who owns which address. From the signed peer set alone.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Peers {
    /// Addresses and prefixes that this node was granted.
    pub own_prefixes: Vec<Prefix>,
    /// This node's position in the address plan.
    pub own_index: NodeIndex,
    /// The others, this node not included.
    pub peers: Vec<PeerEntry>,
}

/// One other node, or a leaf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerEntry {
    /// Its id.
    pub id: NodeId,
    /// Its position in the address plan.
    pub index: NodeIndex,
    /// Its name.
    pub name: Option<NodeName>,
    /// Its WireGuard key.
    pub key: WgKey,
    /// Addresses and prefixes that it was granted.
    pub prefixes: Vec<Prefix>,
    /// Where to dial it; may be empty.
    pub candidates: Vec<SocketAddr>,
    /// Whether links to it are wanted (it is to be dialled, probed, and told link state).
    pub adjacent: bool,
    /// For a stock WireGuard device: the node that hosts it.
    pub leaf_of: Option<NodeId>,
}

/// What the engine tells the worker.
#[derive(Debug, Clone)]
pub enum Command {
    /// Replaces the peers. Sessions and links of those who are no longer in the set end at once.
    SetPeers(Arc<Peers>),
    /// Replaces the forwarding snapshot.
    SetForwarding(Arc<Forwarding>),
    /// Sends a routing message (bytes of a `wire::control` flood) to the neighbour at the other end of a link.
    SendControl {
        /// The link.
        link: LinkId,
        /// The message, at most `wire::control::MAX_MESSAGE` bytes.
        payload: Vec<u8>,
    },
    /// Sets the fingerprint of the link-state database, which probes carry.
    SetFingerprint(u64),
    /// Tells all neighbours that this node stops.
    Bye,
    /// Ends sessions and links of a peer at once (it was removed from the network), and ignores it from now on.
    DropPeer(NodeId),
}
