//! The shapes of the answers. Fields are only ever added.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use wattle_model::{Carrier, Class, LinkId, LinkState, NetworkId, NodeId, Prefix, WgKey};

use crate::request::DrainMode;

/// A node by id and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct NodeRef {
    /// Its id.
    pub id: NodeId,
    /// Its name.
    pub name: String,
}

/// A network by id and name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NetworkRef {
    /// Its id.
    pub id: NetworkId,
    /// Its name.
    pub name: String,
}

/// Answer to `status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StatusReport {
    /// This node.
    pub node: NodeRef,
    /// Its network.
    pub network: NetworkRef,
    /// Its addresses inside the network.
    pub addresses: Vec<IpAddr>,
    /// The prefixes it announces.
    pub prefixes: Vec<Prefix>,
    /// The agent's version.
    pub version: String,
    /// The agent's process.
    pub pid: u32,
    /// How long the process lives.
    pub uptime_ms: u64,
    /// The TUN device.
    pub interface: String,
    /// Its MTU.
    pub mtu_bytes: u16,
    /// The UDP port.
    pub listen_port: u16,
    /// The kernel's offloads that are in use.
    #[serde(default)]
    pub offloads: Vec<String>,
    /// Threads that may carry packets.
    #[serde(default)]
    pub workers: u32,
    /// Those that do.
    #[serde(default)]
    pub workers_active: u32,
    /// Whether the device, the sockets and a peer set are in place.
    pub ready: bool,
    /// Whether every node of the peer set is reachable by a route and no link is settling.
    pub converged: bool,
    /// What convergence waits for; empty when converged.
    #[serde(default)]
    pub waiting_for: Vec<String>,
    /// The coordinator, when the network has one.
    pub coordinator: Option<CoordinatorReport>,
    /// Revision of the peer set in use.
    pub peer_set_revision: u64,
    /// Other nodes of the peer set, without leaves.
    pub peers_total: u32,
    /// Those reachable by a route.
    pub peers_reachable: u32,
    /// Links of this node that are known.
    pub links_total: u32,
    /// Those in use.
    pub links_up: u32,
    /// Prefixes that traffic can be sent to.
    pub routes_total: u32,
    /// The costliest link in use.
    pub worst_link: Option<LinkReport>,
    /// What an operator should look at.
    #[serde(default)]
    pub health: Vec<HealthLine>,
    /// Whether the node is drained.
    #[serde(default)]
    pub drain: Option<DrainReport>,
    /// Neighbours that packets go over by an operator's order.
    #[serde(default)]
    pub preferences: Vec<PreferReport>,
    /// The worst of CPU, packet queue and memory pressure.
    #[serde(default)]
    pub load_percent: u8,
    /// Packets relayed for others so far.
    #[serde(default)]
    pub relayed_packets: u64,
}

/// A drain that holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DrainReport {
    /// How much transit is left.
    pub mode: DrainMode,
    /// For how long; absent until it is taken back.
    pub left_s: Option<u64>,
}

/// A preference that holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PreferReport {
    /// The neighbour.
    pub via: NodeRef,
    /// Only packets to this node.
    pub destination: Option<NodeRef>,
    /// For how long; absent until it is taken back.
    pub left_s: Option<u64>,
}

/// The connection to the coordinator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CoordinatorReport {
    /// Where it is.
    pub url: String,
    /// How the connection does.
    pub state: CoordinatorState,
    /// Since the last message from it.
    pub last_heard_ms: Option<u64>,
    /// Why the last attempt failed.
    #[serde(default)]
    pub last_error: Option<String>,
}

/// How the connection to the coordinator does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CoordinatorState {
    /// In exchange.
    Connected,
    /// An attempt is under way.
    Connecting,
    /// Waiting before the next attempt.
    Away,
}

/// Something an operator should look at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HealthLine {
    /// How much it matters.
    pub level: HealthLevel,
    /// A stable word for programs.
    pub code: String,
    /// One sentence for people.
    pub text: String,
}

/// How much a health line matters.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum HealthLevel {
    /// Good to know.
    Info,
    /// Worth a look today.
    Warning,
    /// Something promised is not kept.
    Error,
}

/// Answer to `peers`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PeersReport {
    /// In order of name.
    pub peers: Vec<PeerReport>,
}

/// Another node as this one sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PeerReport {
    /// The node.
    pub node: NodeRef,
    /// Its WireGuard key.
    pub public_key: WgKey,
    /// Its addresses inside the network.
    pub addresses: Vec<IpAddr>,
    /// The prefixes it may announce.
    #[serde(default)]
    pub prefixes: Vec<Prefix>,
    /// How it is reached.
    pub state: PeerState,
    /// The node that owns it, for a stock WireGuard device.
    #[serde(default)]
    pub leaf_of: Option<NodeRef>,
    /// First neighbour on the way to it.
    pub next_hop: Option<NodeRef>,
    /// Links on the way to it.
    pub hops: Option<u32>,
    /// Price of the way to it.
    pub cost_us: Option<u32>,
    /// Round trip to it: measured to a neighbour, summed over the way otherwise.
    pub rtt_us: Option<u64>,
    /// Loss on the way to it, likewise.
    pub loss_ppm: Option<u32>,
    /// Whether messages to it travel as plain WireGuard or through relays.
    pub relayed: bool,
    /// Inner bytes received from it.
    pub rx_bytes: u64,
    /// Inner bytes sent to it.
    pub tx_bytes: u64,
    /// Since the last handshake of the session with it.
    pub handshake_age_ms: Option<u64>,
    /// The cipher of the fast channel to it, while packets travel over that.
    #[serde(default)]
    pub fast_channel: Option<String>,
    /// Largest inner packet that gets to it.
    #[serde(default)]
    pub mtu_bytes: Option<u16>,
}

/// How another node is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PeerState {
    /// Over a link of this node.
    Direct,
    /// Through other nodes.
    Relayed,
    /// Not at all.
    Unreachable,
}

/// Answer to `links`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LinksReport {
    /// In order of neighbour, then carrier.
    pub links: Vec<LinkReport>,
}

/// One link of this node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LinkReport {
    /// Its number.
    pub link: LinkId,
    /// The neighbour.
    pub peer: NodeRef,
    /// What carries it.
    pub carrier: Carrier,
    /// Where the neighbour is heard.
    pub endpoint: Option<SocketAddr>,
    /// Whether it can be used.
    pub state: LinkState,
    /// Round-trip time, smoothed.
    pub rtt_us: Option<u64>,
    /// Smallest round-trip time of the last minute.
    pub min_rtt_us: Option<u64>,
    /// Jitter.
    pub jitter_us: Option<u64>,
    /// Loss towards the neighbour.
    pub loss_ppm: Option<u32>,
    /// Largest inner packet that gets to the neighbour.
    pub mtu_bytes: Option<u16>,
    /// Price advertised for it, with its parts; absent while it has none.
    pub cost: Option<CostParts>,
    /// What the node's configuration sets for it; absent where it sets nothing.
    #[serde(default)]
    pub policy: Option<PolicyReport>,
    /// What it costs packets of the classes that the node prices apart.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub apart: Vec<ApartReport>,
    /// What the price is made of, in words: `rtt`, `loss 3 %`, `first choice`.
    #[serde(default)]
    pub reason: String,
    /// Since the last handshake of the session with the neighbour.
    pub handshake_age_ms: Option<u64>,
    /// The cipher of the fast channel to the neighbour, while packets travel over that.
    #[serde(default)]
    pub fast_channel: Option<String>,
    /// Bytes received on it, as on the wire.
    #[serde(default)]
    pub rx_bytes: u64,
    /// Bytes sent on it, as on the wire.
    #[serde(default)]
    pub tx_bytes: u64,
    /// Lanes of further workers that carry packets beside it, whose bytes are not the link's.
    #[serde(default)]
    pub lanes: u32,
}

/// What a link costs packets of a class that the node prices apart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ApartReport {
    /// The class.
    pub class: Class,
    /// The price advertised for it, with its parts.
    pub cost: CostParts,
    /// What the node's configuration sets for it; absent where it sets nothing.
    #[serde(default)]
    pub policy: Option<PolicyReport>,
}

/// A price and what it is made of: the parts add up to the total.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct CostParts {
    /// The tier that operators gave it, summed over the links of a way; of two ways the one with less is better whatever it
    /// takes. Absent if it is 0.
    #[serde(default, skip_serializing_if = "is_first")]
    pub tier: u32,
    /// The sum of what follows.
    pub total_us: u32,
    /// What every hop costs.
    pub base_us: u32,
    /// One-way delay.
    pub rtt_us: u32,
    /// Its variation.
    pub jitter_us: u32,
    /// Expected delay by loss.
    pub loss_us: u32,
    /// What the carrier adds.
    #[serde(default)]
    pub carrier_us: u32,
    /// The forwarding node's load and health.
    pub health_us: u32,
    /// What the operator's policy adds; what it takes off is taken off every part.
    pub policy_us: u32,
    /// What is left of an earlier price until a better one is believed, and what the other end asks more.
    #[serde(default)]
    pub held_us: u32,
}

/// What an operator set for a link.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PolicyReport {
    /// Share of the flows beside other ways of the same price, 1 if not set.
    pub weight: f64,
    /// What the measured price is multiplied by, 1 if not set.
    pub multiplier: f64,
    /// What is added after that.
    pub addend_us: u64,
    /// The tier, 0 if not set.
    #[serde(default)]
    pub tier: u8,
}

impl fmt::Display for PolicyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let factors = [("weight", self.weight), ("multiplier", self.multiplier)];
        let factors = factors.iter().filter(|(_, factor)| *factor != 1.0);
        let factors = factors.map(|(name, factor)| format!("{name} {factor}"));
        let addend = (self.addend_us > 0).then(|| format!("addend {}us", self.addend_us));
        let tier = (self.tier > 0).then(|| format!("tier {}", self.tier));
        let set: Vec<String> = factors.chain(addend).chain(tier).collect();
        f.write_str(&set.join(", "))
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_first(tier: &u32) -> bool {
    *tier == 0
}

/// Answer to `routes`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RoutesReport {
    /// In order of prefix.
    pub routes: Vec<RouteReport>,
}

/// One route.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RouteReport {
    /// Where to.
    pub prefix: Prefix,
    /// The node that owns the prefix; absent in the kernel's view.
    pub node: Option<NodeRef>,
    /// Where the route comes from.
    pub source: RouteSource,
    /// Tiers of the best way's links together; absent if they are 0.
    #[serde(default, skip_serializing_if = "is_first")]
    pub tier: u32,
    /// Price of the best way.
    pub cost_us: Option<u32>,
    /// The ways; empty for a local prefix.
    #[serde(default)]
    pub next_hops: Vec<NextHopReport>,
    /// The kernel's device, in the kernel's view.
    #[serde(default)]
    pub device: Option<String>,
    /// The kernel's table, in the kernel's view.
    #[serde(default)]
    pub table: Option<u32>,
}

/// Where a route comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RouteSource {
    /// This node's own.
    Local,
    /// An address in another node's grant.
    Address,
    /// A prefix that another node announces.
    Announced,
    /// A stock WireGuard device's address.
    Leaf,
    /// Found in the kernel.
    Kernel,
}

/// One way out for a route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NextHopReport {
    /// The neighbour.
    pub via: NodeRef,
    /// Over this link.
    pub link: LinkId,
    /// What the way is used for.
    pub role: PathRole,
    /// Share of the flows, of all used ways.
    pub weight_ppm: u32,
    /// Price of the way.
    pub cost_us: Option<u32>,
}

/// What a way is used for.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum PathRole {
    /// Carries flows.
    Used,
    /// Takes over when a used one is suspected.
    Backup,
    /// Known, but not good enough.
    Spare,
}

/// Answer to `topo`: all valid records as a graph.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TopoReport {
    /// In order of name.
    pub nodes: Vec<TopoNode>,
    /// Each direction apart, in order of the names of its ends.
    pub links: Vec<TopoLink>,
}

/// A node of the graph.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TopoNode {
    /// The node.
    pub node: NodeRef,
    /// Whether it is the answering one.
    pub is_self: bool,
    /// Its addresses inside the network.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    /// The prefixes it announces.
    #[serde(default)]
    pub prefixes: Vec<Prefix>,
    /// Where it stands, by its grant.
    #[serde(default)]
    pub site: Option<String>,
    /// Its tags, by its grant.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Whether a route leads to it.
    pub reachable: bool,
    /// Price of the way to it; 0 for the answering node.
    pub cost_us: Option<u32>,
}

/// A direction of a link of the graph.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TopoLink {
    /// The end that sends.
    pub from: NodeRef,
    /// The end that receives.
    pub to: NodeRef,
    /// What carries it.
    pub carrier: Carrier,
    /// Its tier, the higher of both ends' claims; absent if it is 0.
    #[serde(default, skip_serializing_if = "is_first")]
    pub tier: u32,
    /// Its price, the worse of both ends' claims; absent when it may not be used.
    pub cost_us: Option<u32>,
    /// Round-trip time as `from` says.
    pub rtt_us: Option<u64>,
    /// Jitter as `from` says.
    #[serde(default)]
    pub jitter_us: Option<u64>,
    /// Loss as `from` says.
    pub loss_ppm: Option<u32>,
}

/// Answer to `path`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PathReport {
    /// Where the way ends.
    pub destination: NodeRef,
    /// The prefix that decided, when an address was asked for.
    pub prefix: Option<Prefix>,
    /// Which packets take it.
    #[serde(default, skip_serializing_if = "Class::is_latency")]
    pub class: Class,
    /// Used ways first, then the backup.
    pub ways: Vec<WayReport>,
    /// Relays that packets leave for other ways, because they do not pass on what is for the destination.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left: Vec<NodeRef>,
    /// What changed the way last, as far back as the agent's events go.
    #[serde(default)]
    pub changed: Option<ChangeReport>,
}

/// The last change of the way to a destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ChangeReport {
    /// When.
    pub at_unix_ms: u64,
    /// What, in one line.
    pub text: String,
    /// Why.
    pub cause: Option<String>,
    /// How long after it began: with the first suspicion of the node that told of it, by that one's clock, or when it told.
    pub latency_us: Option<u64>,
    /// The same on every node that tells of this.
    pub trace: Option<String>,
}

/// One way through the mesh.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WayReport {
    /// What it is used for.
    pub role: PathRole,
    /// Share of the flows; 0 for a backup.
    pub weight_ppm: u32,
    /// Tiers of its links together; absent if they are 0.
    #[serde(default, skip_serializing_if = "is_first")]
    pub tier: u32,
    /// Its price.
    pub cost_us: u32,
    /// Its hops in order.
    pub hops: Vec<HopReport>,
}

/// One hop of a way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HopReport {
    /// The end that sends.
    pub from: NodeRef,
    /// The end that receives.
    pub to: NodeRef,
    /// What carries it, where that is known.
    pub carrier: Option<Carrier>,
    /// Its price; the parts are zero where only the total is known.
    pub cost: CostParts,
    /// Round-trip time of the link.
    pub rtt_us: Option<u64>,
    /// Loss of the link.
    pub loss_ppm: Option<u32>,
    /// Whether all links of the hop are silent, so that packets take the backup until one is heard or down; known of this
    /// node's own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspect: bool,
}

/// Answer to `explain`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ExplainReport {
    /// Where traffic goes.
    pub destination: NodeRef,
    /// The prefix that decided, when an address was asked for.
    pub prefix: Option<Prefix>,
    /// Which packets take it.
    #[serde(default, skip_serializing_if = "Class::is_latency")]
    pub class: Class,
    /// The way that is taken.
    pub chosen: WayReport,
    /// The sum of the chosen way's parts.
    pub cost: CostParts,
    /// The best way through another neighbour.
    pub runner_up: Option<WayReport>,
    /// How much dearer the runner-up is.
    pub margin_us: Option<u32>,
    /// How much longer the runner-up's first link has to stay as cheap as it is until its lower price counts; absent where
    /// none waits.
    #[serde(default)]
    pub hold_ms: Option<u64>,
    /// Further remarks, one sentence each.
    #[serde(default)]
    pub notes: Vec<String>,
    /// What changed the way last, as far back as the agent's events go.
    #[serde(default)]
    pub changed: Option<ChangeReport>,
}

/// One round trip of `ping`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PingReport {
    /// Counted from 1.
    pub sequence: u32,
    /// The node asked.
    pub from: NodeRef,
    /// The address asked.
    pub address: IpAddr,
    /// Which packets ask.
    #[serde(default, skip_serializing_if = "Class::is_latency")]
    pub class: Class,
    /// The nodes crossed, neighbours of each other, without this one and the destination.
    #[serde(default)]
    pub relays: Vec<NodeRef>,
    /// Round-trip time; absent when no answer came in time.
    pub rtt_us: Option<u64>,
}

/// Something that happened, as the agent logged it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EventReport {
    /// Counted from 1 since the agent started; a gap means that the reader was too slow.
    pub sequence: u64,
    /// When, by the wall clock.
    pub at_unix_ms: u64,
    /// What, as a stable word in the past tense: `link_up`, `route_changed`.
    pub event: String,
    /// To which node.
    #[serde(default)]
    pub node: Option<NodeRef>,
    /// On which link.
    #[serde(default)]
    pub link: Option<LinkId>,
    /// One line for people.
    pub text: String,
    /// Details for programs.
    #[serde(default)]
    pub fields: BTreeMap<String, serde_json::Value>,
}

/// Answer to `whoami`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WhoamiReport {
    /// This node.
    pub node: NodeRef,
    /// Its network.
    pub network: NetworkRef,
    /// Its addresses inside the network.
    pub addresses: Vec<IpAddr>,
    /// Its Ed25519 identity key, base64.
    pub identity_key: String,
    /// Its WireGuard key.
    pub public_key: WgKey,
    /// When its grant ends; absent when it does not.
    #[serde(default)]
    pub grant_not_after_unix_ms: Option<u64>,
    /// The caller's user, by the socket's credentials.
    pub caller_uid: u32,
    /// What the caller may do.
    pub caller_role: Role,
}

/// What a local user may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Look and change.
    Admin,
    /// Look.
    Reader,
}

/// Answer to `metrics`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MetricsReport {
    /// Prometheus text exposition.
    pub text: String,
}

/// Answer to `version`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VersionReport {
    /// The agent's version.
    pub version: String,
}
