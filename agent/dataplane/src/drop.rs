//! Why packets are dropped. Every drop has a name, and for each origin packets in = packets out + the sum of the names.

use serde::{Deserialize, Serialize};

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Why a packet or datagram was dropped.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum DropReason {
            $($(#[$doc])* $variant,)*
        }

        impl DropReason {
            /// Every reason.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The reason as a metric's label.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

reasons! {
    /// Not an IPv4 or IPv6 packet, or one whose lengths contradict each other.
    Malformed = "malformed",
    /// The source of a packet from the TUN device is not this node's.
    ForeignSource = "foreign_source",
    /// The source of a packet from a session is not its sender's.
    SpoofedSource = "spoofed_source",
    /// The destination of a packet from a session is not this node's.
    ForeignDestination = "foreign_destination",
    /// A link-local or multicast packet, which no node owns.
    Unroutable = "unroutable",
    /// No prefix holds the destination.
    NoRoute = "no_route",
    /// No link leads to the destination node.
    NoPath = "no_path",
    /// The destination is this node itself.
    ToSelf = "to_self",
    /// The packet does not fit the overlay's MTU and may not be cut.
    TooBig = "too_big",
    /// The packet has crossed too many relays.
    HopLimit = "hop_limit",
    /// The packet has begun as many detours as it may, and its way on is broken, too.
    DetourLimit = "detour_limit",
    /// The packet's time to live ended.
    TtlExpired = "ttl_expired",
    /// Too many packets wait for a session.
    SessionQueueFull = "session_queue_full",
    /// No session came about while the packet waited.
    SessionTimeout = "session_timeout",
    /// The peer is not known.
    UnknownPeer = "unknown_peer",
    /// No session has the datagram's receiver index.
    UnknownSession = "unknown_session",
    /// A session's message came over the QUIC connection of another node.
    ForeignConnection = "foreign_connection",
    /// The datagram is of no known type.
    UnknownType = "unknown_type",
    /// A session refused a datagram: forged, damaged, or of an older session.
    Unauthentic = "unauthentic",
    /// A session refused a datagram that it has seen before, or that is older than its window.
    Replayed = "replayed",
    /// A counter so high that the session could not go on after it.
    CounterExhausted = "counter_exhausted",
    /// Handshakes come faster than they are answered.
    RateLimited = "rate_limited",
    /// A relay frame is malformed.
    FrameMalformed = "frame_malformed",
    /// A relay frame is sealed with a key that is not known.
    FrameUnknownKey = "frame_unknown_key",
    /// A relay frame is forged or damaged.
    FrameUnauthentic = "frame_unauthentic",
    /// A relay frame was seen before, or is older than the window.
    FrameReplayed = "frame_replayed",
    /// A relay frame would go back to where it came from.
    FrameReturned = "frame_returned",
    /// A relay frame names a source or waypoint that is not known.
    FrameUnknownNode = "frame_unknown_node",
    /// This node does not relay for others.
    TransitRefused = "transit_refused",
    /// The next hop has not acknowledged a link key yet.
    NoLinkKey = "no_link_key",
    /// The link has no endpoint.
    NoEndpoint = "no_endpoint",
    /// A message between neighbours is malformed or from no neighbour.
    ControlMalformed = "control_malformed",
    /// The network takes less than comes, and too much waits already.
    QueueFull = "queue_full",
    /// The network takes less than comes, and the flow's packets have had to wait too long for too long.
    QueueDelay = "queue_delay",
    /// The first worker does not take packets as fast as another one hands them over.
    HandoverFull = "handover_full",
    /// Too many packets wait for their lane to take over.
    LaneQueueFull = "lane_queue_full",
    /// The batch for the UDP socket is full.
    TxBatchFull = "tx_batch_full",
    /// The batch for the TUN device is full.
    TunBatchFull = "tun_batch_full",
    /// The engine does not take its messages fast enough.
    EventQueueFull = "event_queue_full",
}

/// Where a dropped packet came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// From the TUN device.
    Tun,
    /// From a carrier.
    Wire,
    /// From the agent itself: a handshake, a message to a neighbour, an event for the engine.
    Agent,
}

impl Origin {
    /// Every origin.
    pub const ALL: [Self; 3] = [Self::Tun, Self::Wire, Self::Agent];

    /// The origin as a metric's label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tun => "tun",
            Self::Wire => "wire",
            Self::Agent => "agent",
        }
    }
}

/// How often each reason occurred to packets of each origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drops {
    counts: [[u64; DropReason::ALL.len()]; Origin::ALL.len()],
    origin: Origin,
}

impl Default for Drops {
    fn default() -> Self {
        Self {
            counts: [[0; DropReason::ALL.len()]; Origin::ALL.len()],
            origin: Origin::Agent,
        }
    }
}

impl Drops {
    /// The origin of what is being handled.
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// What is handled from here on is of this origin.
    pub fn set_origin(&mut self, origin: Origin) {
        self.origin = origin;
    }

    /// Counts one drop of what is being handled.
    pub fn count(&mut self, reason: DropReason) {
        self.add(reason, 1);
    }

    /// Counts several drops of what is being handled.
    pub fn add(&mut self, reason: DropReason, count: u64) {
        self.add_from(self.origin, reason, count);
    }

    /// Counts drops of packets of another origin.
    pub fn add_from(&mut self, origin: Origin, reason: DropReason, count: u64) {
        self.counts[origin as usize][reason as usize] += count;
    }

    /// How often `reason` occurred.
    pub fn of(&self, reason: DropReason) -> u64 {
        self.counts.iter().map(|of| of[reason as usize]).sum()
    }

    /// All drops of packets of one origin.
    pub fn from(&self, origin: Origin) -> u64 {
        self.counts[origin as usize].iter().sum()
    }

    /// All drops.
    pub fn total(&self) -> u64 {
        self.counts.iter().flatten().sum()
    }

    /// Every origin and reason with its count.
    pub fn iter(&self) -> impl Iterator<Item = (Origin, DropReason, u64)> + '_ {
        Origin::ALL.into_iter().flat_map(move |origin| {
            let counts = self.counts[origin as usize];
            let reasons = DropReason::ALL.iter();
            reasons.map(move |reason| (origin, *reason, counts[*reason as usize]))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_counts_under_its_own_name() {
        let mut drops = Drops::default();
        let mut expected = Vec::new();
        for origin in Origin::ALL {
            drops.set_origin(origin);
            for reason in DropReason::ALL {
                let count = expected.len() as u64 + 1;
                drops.add(*reason, count);
                expected.push((origin, *reason, count));
            }
        }
        assert_eq!(drops.iter().collect::<Vec<_>>(), expected);
        let names: std::collections::BTreeSet<_> = expected
            .iter()
            .map(|(origin, reason, _)| (origin.name(), reason.name()))
            .collect();
        assert_eq!(names.len(), expected.len());
        let by_origin: u64 = Origin::ALL.iter().map(|origin| drops.from(*origin)).sum();
        assert_eq!(drops.total(), by_origin);
        assert_eq!(drops.of(DropReason::ALL[0]), {
            let reasons = DropReason::ALL.len() as u64;
            1 + (1 + reasons) + (1 + 2 * reasons)
        });
    }
}
