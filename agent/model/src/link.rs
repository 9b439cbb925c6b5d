//! What link, worker and routing say to each other about one link.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Micros, Ppm};

/// Whether a link can be used.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum LinkState {
    /// Nothing is heard.
    Down,
    /// Heard, on probation: measured, not yet used.
    Probing,
    /// In use.
    Up,
    /// Silent for longer than it should be: forwarding uses the backup, nobody is told yet.
    Suspect,
}

impl LinkState {
    /// Whether routing may count on the link (a suspicion is local and reversible).
    pub const fn is_usable(self) -> bool {
        matches!(self, Self::Up | Self::Suspect)
    }
}

impl std::fmt::Display for LinkState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Down => "down",
            Self::Probing => "probing",
            Self::Up => "up",
            Self::Suspect => "suspect",
        })
    }
}

/// What is known of a link's quality, in the direction away from this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Measurement {
    /// Smoothed round-trip time (RFC 6298).
    pub rtt: Micros,
    /// Smallest round-trip time of the last minute, or since the way became longer: propagation without queues.
    pub min_rtt: Micros,
    /// Mean deviation between consecutive transit times (RFC 3550 §6.4.1), as twice their mean rise.
    pub jitter: Micros,
    /// Datagrams that did not arrive at the other end.
    pub loss: Ppm,
}
