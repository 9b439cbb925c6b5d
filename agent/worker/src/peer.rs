//! One peer as the worker sees it: its session, its links, its link keys, and packets that wait for the session.

use std::collections::VecDeque;
use std::net::SocketAddr;

use wattle_link::Link;
use wattle_model::{Carrier, Instant, LinkId, Micros};
use wattle_tunnel::{DialRole, Dialer, LinkKeys, PathMtu, Session};

use crate::PeerEntry;

/// Both carriers, in the order in which a peer's ports are kept.
pub(crate) const CARRIERS: [Carrier; 2] = [Carrier::Udp4, Carrier::Udp6];

/// Packets that may wait for one session: about what a sender has under way while a handshake takes a round trip.
const MAX_WAITING_PACKETS: usize = 128;
/// … and their bytes, so that a hundred silent peers hold 16 MiB at most.
const MAX_WAITING_BYTES: usize = 160 << 10;
/// How long a packet waits: longer, and its sender has sent it again.
const WAIT: Micros = Micros::from_secs(3);

/// A peer, or a leaf that this node hosts.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) entry: PeerEntry,
    pub(crate) kind: Kind,
    pub(crate) session: Session,
    pub(crate) role: DialRole,
    pub(crate) dialer: Dialer,
    pub(crate) keys: LinkKeys,
    pub(crate) ports: [Option<Port>; 2],
    pub(crate) waiting: Waiting,
    pub(crate) path_mtu: PathMtu,
    /// Packets whose source was not this peer's.
    pub(crate) spoofed: u64,
}

/// What kind of peer it is.
#[derive(Debug)]
pub(crate) enum Kind {
    /// Another node.
    Node,
    /// A stock WireGuard device that this node hosts, and where it was heard from last.
    Leaf(Option<SocketAddr>),
}

/// One end of a link.
#[derive(Debug)]
pub(crate) struct Port {
    pub(crate) id: LinkId,
    pub(crate) link: Link,
    /// Where authentic datagrams of the peer came from last.
    pub(crate) endpoint: Option<SocketAddr>,
    /// Bytes of datagrams sent over the link.
    pub(crate) tx_bytes: u64,
    /// Bytes of authentic datagrams received over it.
    pub(crate) rx_bytes: u64,
}

impl Peer {
    pub(crate) fn port(&self, carrier: Carrier) -> Option<&Port> {
        self.ports[position(carrier)].as_ref()
    }

    pub(crate) fn port_mut(&mut self, carrier: Carrier) -> Option<&mut Port> {
        self.ports[position(carrier)].as_mut()
    }

    pub(crate) fn set_port(&mut self, carrier: Carrier, port: Port) {
        self.ports[position(carrier)] = Some(port);
    }

    /// The ports, the healthiest first.
    pub(crate) fn best_port(&self) -> Option<(Carrier, &Port)> {
        use wattle_model::LinkState::{Down, Probing, Suspect, Up};
        let heard = CARRIERS
            .into_iter()
            .filter_map(|carrier| Some((carrier, self.port(carrier)?)));
        heard
            .filter(|(_, port)| port.endpoint.is_some())
            .min_by_key(|(_, port)| match port.link.state() {
                Up => 0,
                Suspect => 1,
                Probing => 2,
                Down => 3,
            })
    }

    /// Whether some link to the peer can be used.
    pub(crate) fn has_usable_link(&self) -> bool {
        self.ports
            .iter()
            .flatten()
            .any(|port| port.link.state().is_usable())
    }

    /// Where the peer may be reached over `carrier`: what it said, and where it was heard from.
    pub(crate) fn addresses(&self, carrier: Carrier) -> Vec<SocketAddr> {
        let candidates = self
            .entry
            .candidates
            .iter()
            .copied()
            .filter(|to| Carrier::of(*to) == carrier);
        let mut addresses: Vec<_> = candidates.collect();
        let heard = match self.kind {
            Kind::Node => self.port(carrier).and_then(|port| port.endpoint),
            Kind::Leaf(endpoint) => endpoint.filter(|to| Carrier::of(*to) == carrier),
        };
        if let Some(heard) = heard
            && !addresses.contains(&heard)
        {
            addresses.push(heard);
        }
        addresses
    }
}

fn position(carrier: Carrier) -> usize {
    match carrier {
        Carrier::Udp4 => 0,
        Carrier::Udp6 => 1,
    }
}

/// Packets that wait for a session.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    packets: VecDeque<(Instant, Vec<u8>)>,
    bytes: usize,
}

impl Waiting {
    /// Keeps a copy of a packet; `false` if there is no room.
    #[must_use]
    pub(crate) fn push(&mut self, now: Instant, packet: &[u8]) -> bool {
        if self.packets.len() == MAX_WAITING_PACKETS
            || self.bytes + packet.len() > MAX_WAITING_BYTES
        {
            return false;
        }
        self.bytes += packet.len();
        self.packets.push_back((now, packet.to_vec()));
        true
    }

    pub(crate) fn pop(&mut self) -> Option<Vec<u8>> {
        let (_, packet) = self.packets.pop_front()?;
        self.bytes -= packet.len();
        Some(packet)
    }

    /// Drops what has waited too long; how many those are.
    pub(crate) fn expire(&mut self, now: Instant) -> u64 {
        let mut expired = 0;
        while self
            .packets
            .front()
            .is_some_and(|(since, _)| now.since(*since) >= WAIT)
        {
            self.pop();
            expired += 1;
        }
        expired
    }

    pub(crate) fn len(&self) -> usize {
        self.packets.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }
}
