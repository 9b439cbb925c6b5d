//! One peer as the worker sees it: its session, its links, its link keys, and packets that wait for the session.

use std::collections::VecDeque;
use std::net::SocketAddr;

use wattle_dataplane::Origin;
use wattle_link::Link;
use wattle_model::{Carrier, Endpoint, Instant, LinkId, Micros};
use wattle_tunnel::{DialRole, Dialer, LinkKeys, PathMtu, Session};

use crate::PeerEntry;
use crate::lane::Lane;
use crate::lanes::PeerLanes;
use crate::ways::Ways;

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
    pub(crate) ports: Ports,
    /// Where the other end of the QUIC connection is, while there is one.
    pub(crate) quic: Option<SocketAddr>,
    pub(crate) waiting: Waiting,
    pub(crate) path_mtu: PathMtu,
    /// The lane to the peer, if this is a further worker.
    pub(crate) lane: Lane,
    /// What is known of the peer's lanes, if this is the first worker.
    pub(crate) lanes: PeerLanes,
    /// The relays over which packets go to the peer.
    pub(crate) ways: Ways,
    /// Packets whose source was not this peer's.
    pub(crate) spoofed: u64,
}

/// What kind of peer it is.
#[derive(Debug)]
pub(crate) enum Kind {
    /// Another node.
    Node,
    /// A stock WireGuard device that this node hosts, and where it was heard from last.
    Leaf(Option<Endpoint>),
}

/// One end of a link.
#[derive(Debug)]
pub(crate) struct Port {
    pub(crate) id: LinkId,
    pub(crate) link: Link,
    /// Where authentic datagrams of the peer came from last.
    pub(crate) endpoint: Option<Endpoint>,
    /// Bytes of datagrams sent over the link.
    pub(crate) tx_bytes: u64,
    /// Bytes of authentic datagrams received over it.
    pub(crate) rx_bytes: u64,
}

/// A peer's ports: at most one per carrier.
#[derive(Debug, Default)]
pub(crate) struct Ports([Option<Port>; Carrier::ALL.len()]);

impl Ports {
    /// The place of a carrier's port, whether there is one or not.
    pub(crate) fn at(&mut self, carrier: Carrier) -> &mut Option<Port> {
        &mut self.0[carrier as usize]
    }

    /// The ports that there are, with their carriers.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Carrier, &Port)> {
        let all = Carrier::ALL.into_iter().zip(&self.0);
        all.filter_map(|(carrier, port)| Some((carrier, port.as_ref()?)))
    }

    /// The same, to be changed.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Port> {
        self.0.iter_mut().flatten()
    }
}

impl Peer {
    pub(crate) fn port(&self, carrier: Carrier) -> Option<&Port> {
        self.ports.0[carrier as usize].as_ref()
    }

    pub(crate) fn port_mut(&mut self, carrier: Carrier) -> Option<&mut Port> {
        self.ports.at(carrier).as_mut()
    }

    /// The ports, the healthiest first.
    pub(crate) fn best_port(&self) -> Option<(Carrier, &Port)> {
        use wattle_model::LinkState::{Down, Probing, Suspect, Up};
        self.ports
            .iter()
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
            .any(|(_, port)| port.link.state().is_usable())
    }

    /// Where the peer may be reached over `carrier`: what it said, and where it was heard from.
    pub(crate) fn addresses(&self, carrier: Carrier) -> Vec<Endpoint> {
        let candidates = self.entry.candidates.iter().copied().map(Endpoint::Udp);
        let connection = self.quic.map(|_| Endpoint::Quic(self.entry.id));
        let all = candidates.chain(connection);
        let mut addresses: Vec<_> = all.filter(|to| to.carrier() == carrier).collect();
        let heard = match self.kind {
            Kind::Node => self.port(carrier).and_then(|port| port.endpoint),
            Kind::Leaf(endpoint) => endpoint.filter(|to| to.carrier() == carrier),
        };
        if let Some(heard) = heard
            && !addresses.contains(&heard)
        {
            addresses.push(heard);
        }
        addresses
    }

    /// The address behind an endpoint of the peer, for people.
    pub(crate) fn shown(&self, endpoint: Endpoint) -> Option<SocketAddr> {
        match endpoint {
            Endpoint::Udp(address) => Some(address),
            Endpoint::Quic(_) => self.quic,
        }
    }
}

/// Packets that wait for a session.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    packets: VecDeque<(Instant, Origin, Vec<u8>)>,
    bytes: usize,
}

impl Waiting {
    /// Keeps a copy of a packet; `false` if there is no room.
    #[must_use]
    pub(crate) fn push(&mut self, now: Instant, origin: Origin, packet: &[u8]) -> bool {
        if self.packets.len() == MAX_WAITING_PACKETS
            || self.bytes + packet.len() > MAX_WAITING_BYTES
        {
            return false;
        }
        self.bytes += packet.len();
        self.packets.push_back((now, origin, packet.to_vec()));
        true
    }

    /// The packet that has waited longest, and where it came from.
    pub(crate) fn pop(&mut self) -> Option<(Origin, Vec<u8>)> {
        let (_, origin, packet) = self.packets.pop_front()?;
        self.bytes -= packet.len();
        Some((origin, packet))
    }

    /// Drops a packet that has waited too long; where it came from. `None` when there is no other.
    pub(crate) fn pop_expired(&mut self, now: Instant) -> Option<Origin> {
        let (since, ..) = self.packets.front()?;
        if now.since(*since) < WAIT {
            return None;
        }
        self.pop().map(|(origin, _)| origin)
    }

    pub(crate) fn len(&self) -> usize {
        self.packets.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }
}
