//! What nodes measure, at regular times (`docs/protocol/topology-stream.md` §9): for dashboards. Written apart from the
//! events, each record at least once; nothing is derived from them.

use serde::{Deserialize, Serialize};
use wattle_model::{Carrier, NetworkId, NodeId, NodeName};

use crate::Timestamp;

/// Schema of the values of the metrics topic: [`LinkMetrics`].
pub const METRICS_SCHEMA: &str = "wattle.metrics.links/v1";

/// The links of one node, as it reports them. The key of the record is the node's id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkMetrics {
    /// The network.
    pub network: NetworkId,
    /// The reporting node.
    pub node: NodeId,
    /// Its name.
    pub name: Option<NodeName>,
    /// Its site.
    pub site: Option<NodeName>,
    /// Its links, by the other end and carrier.
    pub links: Vec<LinkMeasurement>,
    /// When the coordinator looked.
    pub ts: Timestamp,
}

/// One direction of a link, as its sending end reports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkMeasurement {
    /// The other end.
    pub to: NodeId,
    /// Its name.
    pub to_name: Option<NodeName>,
    /// What carries the link.
    pub carrier: Carrier,
    /// Whether the other end reports it too.
    pub confirmed: bool,
    /// Advertised price, in microseconds of expected delivery time; `null` = not usable.
    pub cost_us: Option<u32>,
    /// Smoothed round-trip time, in microseconds.
    pub rtt_us: u64,
    /// Variation of the delay, in microseconds.
    pub jitter_us: u64,
    /// Loss in this direction, in parts per million.
    pub loss_ppm: u32,
}
