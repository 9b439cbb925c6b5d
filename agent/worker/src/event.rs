//! What the worker tells the engine: link states, messages of neighbours, sessions, and its whole state on request.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use wattle_dataplane::{DropReason, Origin};
use wattle_model::{Carrier, Class, Instant, LinkId, LinkState, Measurement, NodeId};
use wattle_wire::control::Suite;

/// What the worker tells the engine. Lost when nobody takes it (the queue is bounded); [`Status`] has the state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Event {
    /// A link changed its state, its endpoint, or (noticeably) its quality.
    Link {
        /// The link.
        link: LinkId,
        /// The node at its other end.
        peer: NodeId,
        /// What carries it.
        carrier: Carrier,
        /// Where its datagrams go, if that is known.
        endpoint: Option<SocketAddr>,
        /// Its state.
        state: LinkState,
        /// Its quality, once measured.
        measurement: Measurement,
        /// When it changed.
        at: Instant,
    },
    /// A neighbour sent a routing message.
    Control {
        /// The neighbour.
        from: NodeId,
        /// The link that it came over.
        link: LinkId,
        /// The message: bytes of a `wire::control` flood.
        payload: Vec<u8>,
    },
    /// The fingerprint of a neighbour's link-state database, from its probes; told when it changes.
    Fingerprint {
        /// The neighbour.
        from: NodeId,
        /// The link that it came over.
        link: LinkId,
        /// Its fingerprint.
        fingerprint: u64,
    },
    /// A relay does not pass on what is for a destination, or does so again.
    Way {
        /// Whom packets are for.
        destination: NodeId,
        /// The relay, a neighbour.
        via: NodeId,
        /// Whether it passes them on.
        forwards: bool,
        /// When that was found.
        at: Instant,
    },
    /// A handshake with a peer was completed.
    Session {
        /// The peer.
        peer: NodeId,
        /// When.
        handshake_at: Instant,
    },
    /// A peer sees this node at this address (which is a dial candidate for others).
    Reflexive {
        /// Who says so.
        peer: NodeId,
        /// The address.
        address: SocketAddr,
    },
}

/// The whole state of a worker.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Status {
    /// Every link, by its id.
    pub links: Vec<LinkStatus>,
    /// Every session, by its peer.
    pub sessions: Vec<SessionStatus>,
    /// Every lane of a further worker that has a place to go to, by its peer.
    pub lanes: Vec<LaneStatus>,
    /// Counters by name: `wattle_worker_…`.
    pub counters: Counters,
    /// Drops by origin and reason; only what occurred.
    pub drops: Vec<Dropped>,
    /// Bytes that wait because the sockets take nothing.
    pub held_bytes: u64,
    /// Packets that were marked (RFC 3168) because they had waited too long.
    pub marked_packets: u64,
    /// Packets whose source was not their sender's, by sender.
    pub spoofed: BTreeMap<NodeId, u64>,
}

impl Status {
    /// Adds what another worker of the same node says of itself. Links are the first one's alone.
    pub fn add(&mut self, other: Self) {
        self.links.extend(other.links);
        for session in other.sessions {
            match self
                .sessions
                .iter_mut()
                .find(|own| own.peer == session.peer)
            {
                Some(own) => own.add(&session),
                None => self.sessions.push(session),
            }
        }
        self.lanes.extend(other.lanes);
        self.counters.add(&other.counters);
        for dropped in other.drops {
            let same =
                |own: &&mut Dropped| own.from == dropped.from && own.reason == dropped.reason;
            match self.drops.iter_mut().find(same) {
                Some(own) => own.packets += dropped.packets,
                None => self.drops.push(dropped),
            }
        }
        self.drops
            .sort_by_key(|dropped| (dropped.from, dropped.reason));
        self.held_bytes += other.held_bytes;
        self.marked_packets += other.marked_packets;
        for (peer, packets) in other.spoofed {
            *self.spoofed.entry(peer).or_default() += packets;
        }
    }
}

/// Packets that were dropped for one reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// Where they came from.
    pub from: Origin,
    /// Why they were dropped.
    pub reason: DropReason,
    /// How many.
    pub packets: u64,
}

/// One link.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LinkStatus {
    /// The link.
    pub link: LinkId,
    /// The node at its other end.
    pub peer: NodeId,
    /// What carries it.
    pub carrier: Carrier,
    /// Where its datagrams go.
    pub endpoint: Option<SocketAddr>,
    /// Its state.
    pub state: LinkState,
    /// Its quality.
    pub measurement: Measurement,
    /// Datagrams sent over it.
    pub tx_packets: u64,
    /// Authenticated datagrams received over it.
    pub rx_packets: u64,
    /// Bytes of datagrams sent over it.
    pub tx_bytes: u64,
    /// Bytes of authenticated datagrams received over it.
    pub rx_bytes: u64,
}

/// One session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionStatus {
    /// The peer.
    pub peer: NodeId,
    /// When the last handshake was completed; `None` before the first.
    pub handshake_at: Option<Instant>,
    /// Inner bytes sent.
    pub tx_bytes: u64,
    /// Inner bytes received.
    pub rx_bytes: u64,
    /// The cipher of the fast channel, while packets are sent over it.
    pub suite: Option<Suite>,
    /// Bytes of the largest packet that gets to the peer.
    pub path_mtu: u16,
    /// Packets that wait for the session.
    pub queued: u32,
    /// Relays that do not pass on what is for the peer, by the class of the packets.
    pub left_relays: Vec<(Class, NodeId)>,
}

impl SessionStatus {
    /// Adds the session of a lane to the same peer.
    fn add(&mut self, lane: &Self) {
        self.tx_bytes += lane.tx_bytes;
        self.rx_bytes += lane.rx_bytes;
        self.queued += lane.queued;
        self.handshake_at = self.handshake_at.or(lane.handshake_at);
        self.suite = self.suite.or(lane.suite);
    }
}

/// One lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneStatus {
    /// The worker whose lane it is.
    pub worker: u8,
    /// The node at its other end.
    pub peer: NodeId,
    /// Where its datagrams go.
    pub endpoint: SocketAddr,
    /// Whether packets go over it.
    pub is_open: bool,
}

/// What a worker counts. Nothing gets lost without a name (`docs/operations.md`), so at any moment:
///
/// ```text
/// tun_rx = sent + drops of tun + waiting
/// udp_rx = tun_tx + relayed + forwarded + control_rx + session_rx + drops of wire + waiting
/// udp_tx = sent + relayed + forwarded + control_tx + session_tx
/// ```
///
/// What is on its way from one worker to another counts nowhere, so the sums of all workers balance once it has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counters {
    /// Packets read from the TUN device; the segments of a super-packet count one by one.
    pub tun_rx_packets: u64,
    /// Packets written to the TUN device, before they were joined.
    pub tun_tx_packets: u64,
    /// Packets of the TUN device that were sent.
    pub sent_packets: u64,
    /// ICMP errors written to the TUN device, which [`Self::tun_tx_packets`] does not hold.
    pub answer_packets: u64,
    /// Datagrams received.
    pub udp_rx_packets: u64,
    /// Datagrams sent.
    pub udp_tx_packets: u64,
    /// Bytes of datagrams received.
    pub udp_rx_bytes: u64,
    /// Bytes of datagrams sent.
    pub udp_tx_bytes: u64,
    /// Frames relayed for others.
    pub relayed_packets: u64,
    /// Packets that left over a backup because the path's own links were suspect.
    pub backup_packets: u64,
    /// Packets from and to leaves.
    pub leaf_packets: u64,
    /// Packets of carriers, from or to a leaf of this node, that were sent on.
    pub forwarded_packets: u64,
    /// Messages between neighbours sent, and ICMP errors to leaves and to nodes that send to leaves.
    pub control_tx_packets: u64,
    /// Messages between neighbours received.
    pub control_rx_packets: u64,
    /// Handshakes, cookies and keepalives sent.
    pub session_tx_packets: u64,
    /// Handshakes, cookies and keepalives received.
    pub session_rx_packets: u64,
    /// SYNs whose announced segment size was lowered.
    pub clamped_packets: u64,
    /// Packets sent over the fast channel.
    pub channel_tx_packets: u64,
    /// Packets received over the fast channel.
    pub channel_rx_packets: u64,
    /// Handshakes completed.
    pub handshakes: u64,
    /// Datagrams that a further worker sent over its lanes.
    pub lane_packets: u64,
    /// Packets of the device that a further worker left to the first, which counts them as read.
    pub handed_packets: u64,
    /// Lanes given up after they had carried packets.
    pub lanes_lost: u64,
}

impl Counters {
    /// Adds the counters of another worker.
    pub fn add(&mut self, other: &Self) {
        let Self {
            tun_rx_packets,
            tun_tx_packets,
            sent_packets,
            answer_packets,
            udp_rx_packets,
            udp_tx_packets,
            udp_rx_bytes,
            udp_tx_bytes,
            relayed_packets,
            backup_packets,
            leaf_packets,
            forwarded_packets,
            control_tx_packets,
            control_rx_packets,
            session_tx_packets,
            session_rx_packets,
            clamped_packets,
            channel_tx_packets,
            channel_rx_packets,
            handshakes,
            lane_packets,
            handed_packets,
            lanes_lost,
        } = other;
        for (own, other) in [
            (&mut self.tun_rx_packets, tun_rx_packets),
            (&mut self.tun_tx_packets, tun_tx_packets),
            (&mut self.sent_packets, sent_packets),
            (&mut self.answer_packets, answer_packets),
            (&mut self.udp_rx_packets, udp_rx_packets),
            (&mut self.udp_tx_packets, udp_tx_packets),
            (&mut self.udp_rx_bytes, udp_rx_bytes),
            (&mut self.udp_tx_bytes, udp_tx_bytes),
            (&mut self.relayed_packets, relayed_packets),
            (&mut self.backup_packets, backup_packets),
            (&mut self.leaf_packets, leaf_packets),
            (&mut self.forwarded_packets, forwarded_packets),
            (&mut self.control_tx_packets, control_tx_packets),
            (&mut self.control_rx_packets, control_rx_packets),
            (&mut self.session_tx_packets, session_tx_packets),
            (&mut self.session_rx_packets, session_rx_packets),
            (&mut self.clamped_packets, clamped_packets),
            (&mut self.channel_tx_packets, channel_tx_packets),
            (&mut self.channel_rx_packets, channel_rx_packets),
            (&mut self.handshakes, handshakes),
            (&mut self.lane_packets, lane_packets),
            (&mut self.handed_packets, handed_packets),
            (&mut self.lanes_lost, lanes_lost),
        ] {
            *own += other;
        }
    }
}
