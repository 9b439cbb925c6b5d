//! An underlay in memory: delivers datagrams a millisecond later, can be cut, has NATs, carries QUIC connections, and
//! remembers what it saw.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use wattle_dataplane::{
    Coalescing, Datagrams, DropReason, Forwarding, Origin, Path, TunBatch, TxBatch, VnetHeader,
};
use wattle_model::{
    Carrier, Endpoint, Instant, LinkId, LinkState, Micros, NodeId, NodeIndex, Prefix, WgKey,
};
use wattle_worker::{
    CipherCosts, CipherKind, Clamp, Command, Config, Counters, Event, PeerEntry, Peers, Place,
    Status, Transit, Worker,
};

const DELAY: Micros = Micros::from_millis(1);

/// How packets of sessions are protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Protection {
    cipher: CipherKind,
    channel: Option<CipherCosts>,
}

impl Protection {
    /// The simulator's cipher.
    pub(crate) const NULL: Self = Self {
        cipher: CipherKind::Null,
        channel: None,
    };
    /// WireGuard's messages only.
    pub(crate) const NOISE: Self = Self {
        cipher: CipherKind::Noise,
        channel: None,
    };
    /// WireGuard with the fast channel.
    pub(crate) const FAST: Self = Self {
        cipher: CipherKind::Noise,
        channel: Some(CipherCosts {
            aes_ns: 300,
            chacha_ns: 800,
        }),
    };

    /// The sessions' own cipher.
    pub(crate) fn cipher(self) -> CipherKind {
        self.cipher
    }
}

/// Workers and the wire between them.
pub(crate) struct Net {
    protection: Vec<Protection>,
    now: Instant,
    nodes: Vec<Node>,
    adjacent: BTreeSet<(usize, usize)>,
    leaves: Vec<(usize, usize)>,
    flying: BTreeMap<(Instant, u64), Datagram>,
    numbered: u64,
    cut: BTreeSet<(usize, usize)>,
    narrow: BTreeMap<(usize, usize), usize>,
    /// Pairs between which only QUIC passes.
    blocked: BTreeSet<(usize, usize)>,
    connected: BTreeSet<(usize, usize)>,
    natted: Option<usize>,
    mapping: u16,
    watched: Option<Vec<(Endpoint, Vec<u8>)>>,
    restarts: u8,
    mss_clamp: Clamp,
}

struct Node {
    worker: Worker,
    tx: TxBatch,
    tun: TunBatch,
    delivered: Vec<Vec<u8>>,
    extra: Vec<usize>,
    events: Vec<Event>,
}

struct Datagram {
    from: usize,
    to: Endpoint,
    bytes: Vec<u8>,
}

/// The underlay address of a node.
pub(crate) fn address(node: usize) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, node as u8], 51_820))
}

/// Where a node's QUIC connections come from.
pub(crate) fn quic_address(node: usize) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, node as u8], 443))
}

/// An underlay address that belongs to no node.
pub(crate) fn stranger() -> SocketAddr {
    SocketAddr::from(([198, 51, 100, 66], 6_666))
}

/// The private key of a node.
pub(crate) fn secret(node: usize) -> [u8; 32] {
    [node as u8 + 1; 32]
}

/// A UDP packet between the overlay addresses of two nodes.
pub(crate) fn packet(from: usize, to: usize, payload: &[u8]) -> Vec<u8> {
    packet_with(from, to, 64, payload)
}

/// … with another time to live.
pub(crate) fn packet_with(from: usize, to: usize, ttl: u8, payload: &[u8]) -> Vec<u8> {
    let udp = [
        &[0x10, 0, 0x20, 0][..],
        &((8 + payload.len()) as u16).to_be_bytes(),
        &[0, 0],
        payload,
    ]
    .concat();
    ip(from, to, ttl, 17, &udp)
}

/// A TCP packet between the overlay addresses of two nodes, its checksum left to be completed.
pub(crate) fn tcp(from: usize, to: usize, payload: &[u8]) -> Vec<u8> {
    let header = [
        0x10, 0, 0x20, 0, 0, 0, 0, 5, 0, 0, 0, 9, 0x50, 0x10, 1, 0, 0, 0, 0, 0,
    ];
    ip(from, to, 64, 6, &[&header[..], payload].concat())
}

/// An IPv4 packet between the overlay addresses of two nodes.
pub(crate) fn ip(from: usize, to: usize, ttl: u8, protocol: u8, transport: &[u8]) -> Vec<u8> {
    let mut packet = vec![
        0x45, 0, 0, 0, 0, 1, 0x40, 0, ttl, protocol, 0, 0, 10, 77, 0, from as u8, 10, 77, 0,
        to as u8,
    ];
    let length = (packet.len() + transport.len()) as u16;
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    let checksum = !wattle_dataplane::checksum::sum(&packet);
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet.extend(transport);
    packet
}

fn prefix(node: usize) -> Prefix {
    format!("10.77.0.{node}").parse().expect("an address")
}

/// An IPv6 packet between the overlay addresses of two nodes: what follows its header begins with a `next` header.
pub(crate) fn ipv6(from: usize, to: usize, next: u8, rest: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 0, next, 64];
    packet[4..6].copy_from_slice(&(rest.len() as u16).to_be_bytes());
    for node in [from, to] {
        packet.extend([
            0xfd, 0x57, 0, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, node as u8,
        ]);
    }
    packet.extend(rest);
    packet
}

fn prefix_v6(node: usize) -> Prefix {
    format!("fd57:77::{node:x}").parse().expect("an address")
}

impl Net {
    /// `count` nodes that all know each other; the given pairs want links.
    pub(crate) fn new(protection: Protection, count: usize, adjacent: &[(usize, usize)]) -> Self {
        Self::build(vec![protection; count], adjacent, None)
    }

    /// … one of them behind a NAT, so that nobody can dial it.
    pub(crate) fn behind_nat(
        protection: Protection,
        count: usize,
        adjacent: &[(usize, usize)],
        natted: usize,
    ) -> Self {
        Self::build(vec![protection; count], adjacent, Some(natted))
    }

    /// One node for each protection.
    pub(crate) fn mixed(protection: &[Protection], adjacent: &[(usize, usize)]) -> Self {
        Self::build(protection.to_vec(), adjacent, None)
    }

    fn build(
        protection: Vec<Protection>,
        adjacent: &[(usize, usize)],
        natted: Option<usize>,
    ) -> Self {
        let now = Instant(1_000_000_000);
        let count = protection.len();
        let mut net = Self {
            protection,
            now,
            nodes: Vec::new(),
            adjacent: adjacent.iter().copied().collect(),
            leaves: Vec::new(),
            flying: BTreeMap::new(),
            numbered: 0,
            cut: BTreeSet::new(),
            narrow: BTreeMap::new(),
            blocked: BTreeSet::new(),
            connected: BTreeSet::new(),
            natted,
            mapping: 40_000,
            watched: None,
            restarts: 0,
            mss_clamp: Clamp::Off,
        };
        for node in 0..count {
            let worker = net.worker(node);
            let (tx, tun) = (TxBatch::new(), TunBatch::new(Coalescing::On));
            net.nodes.push(Node {
                worker,
                tx,
                tun,
                delivered: Vec::new(),
                extra: Vec::new(),
                events: Vec::new(),
            });
        }
        for node in 0..count {
            net.tell_peers(node);
        }
        net
    }

    fn worker(&self, node: usize) -> Worker {
        let config = Config {
            node: self.id(node),
            wg_private: secret(node),
            mtu: 1_360,
            seed: [node as u8 ^ self.restarts << 4; 32],
            cipher: self.protection[node].cipher,
            channel: self.protection[node].channel,
            transit: Transit::Relay,
            mss_clamp: self.mss_clamp,
            place: Place::default(),
        };
        Worker::new(config, self.now)
    }

    fn tell_peers(&mut self, node: usize) {
        let entry = |other: usize, leaf_of: Option<usize>| PeerEntry {
            id: self.id(other),
            index: NodeIndex(other as u16),
            name: None,
            key: self.key(other),
            prefixes: vec![prefix(other), prefix_v6(other)],
            candidates: if self.natted == Some(other) || leaf_of.is_some() {
                vec![]
            } else {
                vec![address(other)]
            },
            adjacent: self.adjacent.contains(&(node, other))
                || self.adjacent.contains(&(other, node)),
            leaf_of: leaf_of.map(|host| self.id(host)),
        };
        let others = (0..self.nodes.len())
            .filter(|other| *other != node)
            .map(|other| entry(other, None));
        let leaves = self
            .leaves
            .iter()
            .map(|(leaf, host)| entry(*leaf, Some(*host)));
        let own = [node]
            .into_iter()
            .chain(self.nodes[node].extra.iter().copied());
        let peers = Peers {
            own_prefixes: own
                .flat_map(|node| [prefix(node), prefix_v6(node)])
                .collect(),
            own_index: NodeIndex(node as u16),
            peers: others.chain(leaves).collect(),
        };
        self.command(node, Command::SetPeers(Arc::new(peers)));
    }

    /// The time.
    pub(crate) fn now(&self) -> Instant {
        self.now
    }

    /// A node's id.
    pub(crate) fn id(&self, node: usize) -> NodeId {
        NodeId(0x1000 + node as u64)
    }

    /// The cipher of a node's sessions.
    pub(crate) fn cipher(&self, node: usize) -> CipherKind {
        self.protection[node].cipher
    }

    /// A node's public key.
    pub(crate) fn key(&self, node: usize) -> WgKey {
        let secret = x25519_dalek::StaticSecret::from(secret(node));
        WgKey(x25519_dalek::PublicKey::from(&secret).to_bytes())
    }

    /// A node's prefix and its id.
    pub(crate) fn prefix(&self, node: usize) -> (Prefix, NodeId) {
        (prefix(node), self.id(node))
    }

    /// The link of one node to another.
    pub(crate) fn link(&self, node: usize, to: usize) -> LinkId {
        let links = self.status(node).links;
        links
            .iter()
            .find(|link| link.peer == self.id(to))
            .expect("there is such a link")
            .link
    }

    /// Whether a node has a link to another.
    pub(crate) fn has_link(&self, node: usize, to: usize) -> bool {
        let links = self.status(node).links;
        links.iter().any(|link| link.peer == self.id(to))
    }

    /// … over one of several carriers.
    pub(crate) fn link_over(&self, carrier: Carrier, node: usize, to: usize) -> LinkId {
        let links = self.status(node).links;
        links
            .iter()
            .find(|link| link.peer == self.id(to) && link.carrier == carrier)
            .expect("there is such a link")
            .link
    }

    /// Lets a node send to each destination over a neighbour: `(destination, neighbour)`.
    pub(crate) fn route(&mut self, node: usize, ways: &[(usize, usize)]) {
        let links = ways
            .iter()
            .map(|(_, over)| self.link(node, *over))
            .collect();
        self.route_by(node, ways, links);
    }

    /// … over one of several carriers.
    pub(crate) fn route_over(&mut self, carrier: Carrier, node: usize, ways: &[(usize, usize)]) {
        let links = ways
            .iter()
            .map(|(_, over)| self.link_over(carrier, node, *over))
            .collect();
        self.route_by(node, ways, links);
    }

    fn route_by(&mut self, node: usize, ways: &[(usize, usize)], links: Vec<LinkId>) {
        let leaves = self
            .leaves
            .iter()
            .map(|(leaf, host)| (prefix(*leaf), self.id(*host)));
        let prefixes: Vec<_> = ways
            .iter()
            .flat_map(|(to, _)| [self.prefix(*to), (prefix_v6(*to), self.id(*to))])
            .chain(leaves)
            .collect();
        let paths: Vec<_> = ways
            .iter()
            .zip(links)
            .map(|((to, _), link)| (self.id(*to), Path::single(link)))
            .collect();
        self.set_forwarding(node, Forwarding::new(prefixes, paths));
    }

    /// Sets a node's forwarding.
    pub(crate) fn set_forwarding(&mut self, node: usize, forwarding: Forwarding) {
        self.command(node, Command::SetForwarding(Arc::new(forwarding)));
    }

    /// Sends a routing message to a neighbour.
    pub(crate) fn flood(&mut self, node: usize, to: usize, payload: &[u8]) {
        let link = self.link(node, to);
        self.command(
            node,
            Command::SendControl {
                link,
                payload: payload.to_vec(),
            },
        );
    }

    /// Takes a peer out of a node's network.
    pub(crate) fn drop_peer(&mut self, node: usize, peer: usize) {
        self.command(node, Command::DropPeer(self.id(peer)));
    }

    /// Makes a node believe that an address of another is its own.
    pub(crate) fn believe_in_owning(&mut self, node: usize, other: usize) {
        self.nodes[node].extra.push(other);
        self.tell_peers(node);
    }

    /// Adds a stock WireGuard device; its number.
    pub(crate) fn add_leaf(&mut self, host: usize) -> usize {
        let leaf = 100 + self.leaves.len();
        self.leaves.push((leaf, host));
        for node in 0..self.nodes.len() {
            self.tell_peers(node);
        }
        self.route(0, &[(1, 1), (2, 1)]);
        leaf
    }

    /// Cuts the wire between two nodes, silently and both ways.
    pub(crate) fn cut(&mut self, one: usize, other: usize) {
        self.cut.extend([(one, other), (other, one)]);
    }

    /// Lets everything pass between everybody.
    pub(crate) fn heal(&mut self) {
        self.cut.clear();
        self.narrow.clear();
    }

    /// Lets datagrams of at most so many bytes pass between two nodes; larger ones vanish.
    pub(crate) fn narrow(&mut self, one: usize, other: usize, bytes: usize) {
        for ends in [(one, other), (other, one)] {
            self.narrow.insert(ends, bytes);
        }
    }

    /// Lets nothing but QUIC pass between two nodes, silently and both ways.
    pub(crate) fn block_plain(&mut self, one: usize, other: usize) {
        self.blocked.extend([(one, other), (other, one)]);
    }

    /// Lets everything pass again.
    pub(crate) fn unblock(&mut self) {
        self.blocked.clear();
    }

    /// Gives two nodes a QUIC connection.
    pub(crate) fn connect(&mut self, one: usize, other: usize) {
        for (node, peer) in [(one, other), (other, one)] {
            self.connected.insert((node, peer));
            let (peer, remote) = (self.id(peer), quic_address(peer));
            let worker = &mut self.nodes[node].worker;
            worker.handle_connection(self.now, peer, Some(remote));
        }
    }

    /// Ends it.
    pub(crate) fn disconnect(&mut self, one: usize, other: usize) {
        for (node, peer) in [(one, other), (other, one)] {
            self.connected.remove(&(node, peer));
            let peer = self.id(peer);
            let worker = &mut self.nodes[node].worker;
            worker.handle_connection(self.now, peer, None);
        }
    }

    /// Hands a node a datagram that came over its QUIC connection with another.
    pub(crate) fn inject_quic(&mut self, from: usize, node: usize, datagram: &[u8]) {
        let peer = self.id(from);
        let Node {
            worker, tx, tun, ..
        } = &mut self.nodes[node];
        let mut bytes = datagram.to_vec();
        let datagrams = Datagrams::passing(&mut bytes, datagram.len());
        worker.handle_datagrams(self.now, Endpoint::Quic(peer), datagrams, tx, tun);
        self.flush(node);
    }

    /// Lets a NAT forget its mapping.
    pub(crate) fn rebind(&mut self, node: usize) {
        assert_eq!(self.natted, Some(node));
        self.mapping += 1;
    }

    /// Lets every node that starts from here on lower the segment size that connections announce.
    pub(crate) fn clamp_mss(&mut self) {
        self.mss_clamp = Clamp::On;
        for node in 0..self.nodes.len() {
            self.restart(node);
        }
    }

    /// Replaces a node by one that knows nothing of what was.
    pub(crate) fn restart(&mut self, node: usize) {
        self.restarts += 1;
        self.nodes[node].worker = self.worker(node);
        self.tell_peers(node);
    }

    /// Remembers datagrams from here on.
    pub(crate) fn watch(&mut self) {
        self.watched = Some(Vec::new());
    }

    /// The datagrams seen since [`Self::watch`].
    pub(crate) fn seen(&self) -> impl Iterator<Item = &(Endpoint, Vec<u8>)> {
        self.watched.iter().flatten()
    }

    /// Hands a node a packet of its kernel.
    pub(crate) fn send(&mut self, node: usize, packet: &[u8]) {
        self.send_super(node, VnetHeader::default(), packet);
    }

    /// Hands a node a super-packet of its kernel.
    pub(crate) fn send_super(&mut self, node: usize, header: VnetHeader, packet: &[u8]) {
        let Node {
            worker, tx, tun, ..
        } = &mut self.nodes[node];
        worker.handle_tun(self.now, header, &mut packet.to_vec(), tx, tun);
        self.flush(node);
    }

    /// Hands a node a datagram at once; what it sends to that address in answer.
    pub(crate) fn inject(
        &mut self,
        from: SocketAddr,
        node: usize,
        datagram: &[u8],
    ) -> Vec<Vec<u8>> {
        let Node {
            worker, tx, tun, ..
        } = &mut self.nodes[node];
        let mut bytes = datagram.to_vec();
        let datagrams = Datagrams::passing(&mut bytes, datagram.len());
        worker.handle_datagrams(self.now, from, datagrams, tx, tun);
        let answers = tx
            .datagrams(&[])
            .filter(|(to, _)| *to == Endpoint::Udp(from))
            .map(|(_, bytes)| bytes.to_vec())
            .collect();
        self.flush(node);
        answers
    }

    /// Lets time pass.
    pub(crate) fn run(&mut self, span: Micros) {
        let end = self.now + span;
        loop {
            let arrival = self
                .flying
                .first_key_value()
                .map_or(Instant::NEVER, |((at, _), _)| *at);
            let timers = self
                .nodes
                .iter()
                .enumerate()
                .map(|(node, state)| (state.worker.poll_timeout(), node));
            let (timer, node) = timers.min().unwrap_or((Instant::NEVER, 0));
            let next = arrival.min(timer);
            if next > end {
                break;
            }
            self.now = self.now.max(next);
            if arrival <= timer {
                self.arrive();
            } else {
                let Node {
                    worker, tx, tun, ..
                } = &mut self.nodes[node];
                worker.handle_timeout(self.now, tx, tun);
                self.flush(node);
            }
        }
        self.now = end;
    }

    /// Packets that a node's kernel got.
    pub(crate) fn delivered(&self, node: usize) -> &[Vec<u8>] {
        &self.nodes[node].delivered
    }

    /// What a node told its engine.
    pub(crate) fn events(&self, node: usize) -> &[Event] {
        &self.nodes[node].events
    }

    /// Freezes every node for a while: nobody hears, nobody sends.
    pub(crate) fn freeze(&mut self, span: Micros) {
        self.now = self.now + span;
    }

    /// A node's status.
    pub(crate) fn status(&self, node: usize) -> Status {
        self.nodes[node].worker.status()
    }

    /// A node's counters.
    pub(crate) fn counters(&self, node: usize) -> Counters {
        self.status(node).counters
    }

    /// Packets that a node dropped for a reason.
    pub(crate) fn dropped(&self, node: usize, reason: DropReason) -> u64 {
        let drops = self.status(node).drops;
        let same = drops.iter().filter(|dropped| dropped.reason == reason);
        same.map(|dropped| dropped.packets).sum()
    }

    /// Packets of one origin that a node dropped.
    pub(crate) fn dropped_from(&self, node: usize, origin: Origin) -> u64 {
        let drops = self.status(node).drops;
        let same = drops.iter().filter(|dropped| dropped.from == origin);
        same.map(|dropped| dropped.packets).sum()
    }

    /// Packets that a node dropped.
    pub(crate) fn drops(&self, node: usize) -> u64 {
        self.status(node)
            .drops
            .iter()
            .map(|dropped| dropped.packets)
            .sum()
    }

    /// The states of a node's links.
    pub(crate) fn link_states(&self, node: usize) -> Vec<LinkState> {
        self.status(node)
            .links
            .iter()
            .map(|link| link.state)
            .collect()
    }

    fn command(&mut self, node: usize, command: Command) {
        let Node { worker, tx, .. } = &mut self.nodes[node];
        worker.handle_command(self.now, command, tx);
        self.flush(node);
    }

    fn flush(&mut self, node: usize) {
        self.flush_received(node, &[]);
    }

    /// `received` is the memory that relayed frames may lie in.
    fn flush_received(&mut self, node: usize, received: &[u8]) {
        let Node {
            worker,
            tx,
            tun,
            delivered,
            events,
            ..
        } = &mut self.nodes[node];
        events.extend(std::iter::from_fn(|| worker.poll_event()));
        delivered.extend(tun.packets().map(|bytes| bytes[10..].to_vec()));
        tun.clear();
        for (to, bytes) in tx.datagrams(received) {
            if let Some(watched) = &mut self.watched {
                watched.push((to, bytes.to_vec()));
            }
            self.numbered += 1;
            self.flying.insert(
                (self.now + DELAY, self.numbered),
                Datagram {
                    from: node,
                    to,
                    bytes: bytes.to_vec(),
                },
            );
        }
        tx.clear();
    }

    fn arrive(&mut self) {
        let Some((
            _,
            Datagram {
                from,
                to,
                mut bytes,
            },
        )) = self.flying.pop_first()
        else {
            return;
        };
        let arrives = match to {
            Endpoint::Udp(to) => self
                .at(to)
                .filter(|to| !self.blocked.contains(&(from, *to)))
                .filter(|to| !self.is_narrow(from, *to, bytes.len())),
            Endpoint::Quic(to) => (0..self.nodes.len())
                .find(|node| self.id(*node) == to)
                .filter(|to| self.connected.contains(&(from, *to))),
        };
        let Some(node) = arrives.filter(|to| !self.cut.contains(&(from, *to))) else {
            return;
        };
        let (address, id, length) = (self.seen_from(from), self.id(from), bytes.len());
        let Node {
            worker, tx, tun, ..
        } = &mut self.nodes[node];
        let (from, at) = match to {
            Endpoint::Udp(_) => (Endpoint::Udp(address), Some(0)),
            Endpoint::Quic(_) => (Endpoint::Quic(id), None),
        };
        let datagrams = Datagrams {
            bytes: &mut bytes,
            segment: length,
            at,
        };
        worker.handle_datagrams(self.now, from, datagrams, tx, tun);
        self.flush_received(node, &bytes);
    }

    fn is_narrow(&self, from: usize, to: usize, bytes: usize) -> bool {
        let width = self.narrow.get(&(from, to));
        width.is_some_and(|width| bytes > *width)
    }

    fn seen_from(&self, node: usize) -> SocketAddr {
        if self.natted == Some(node) {
            SocketAddr::from(([203, 0, 113, 1], self.mapping))
        } else {
            address(node)
        }
    }

    fn at(&self, to: SocketAddr) -> Option<usize> {
        (0..self.nodes.len()).find(|node| self.seen_from(*node) == to)
    }
}
