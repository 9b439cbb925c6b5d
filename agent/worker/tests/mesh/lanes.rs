//! Stories of lanes (`docs/protocol/lanes.md`): nodes with two workers each, and what goes which way in which order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use wattle_dataplane::{
    Coalescing, Datagrams, DropReason, Forwarding, Origin, Path, TunBatch, TxBatch, VnetHeader,
};
use wattle_model::{Endpoint, Instant, Micros, NodeId, NodeIndex, WgKey};
use wattle_worker::{
    CipherCosts, CipherKind, Clamp, Command, Config, Counters, Passed, PeerEntry, Peers, Place,
    Status, Transit, Worker,
};

use crate::wire::{packet, secret};

const MILLI: Micros = Micros::from_millis(1);
const SECOND: Micros = Micros::from_secs(1);
/// The first worker's datagrams take longer, so that whoever overtakes is seen.
const SLOW: Micros = Micros::from_millis(5);
const WORKERS: u8 = 2;
const PORT: u16 = 51_820;

/// Two nodes on one wire.
struct Pair {
    now: Instant,
    hosts: Vec<Host>,
    flying: BTreeMap<(Instant, u64), (SocketAddr, SocketAddr, Vec<u8>)>,
    numbered: u64,
    /// Ports to which nothing gets.
    blocked: BTreeSet<u16>,
    /// What the queue to the first worker holds.
    room: usize,
}

struct Host {
    workers: Vec<Seat>,
    delivered: Vec<Vec<u8>>,
}

struct Seat {
    worker: Worker,
    tx: TxBatch,
    tun: TunBatch,
}

fn id(host: usize) -> NodeId {
    NodeId(0x1000 + host as u64)
}

fn at(host: usize, worker: usize) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, host as u8 + 1], PORT + worker as u16))
}

impl Pair {
    fn new(cipher: CipherKind) -> Self {
        let now = Instant(1_000_000_000);
        let host = |host: usize| Host {
            workers: (0..WORKERS)
                .map(|worker| Seat {
                    worker: Worker::new(config(cipher, host, worker), now),
                    tx: TxBatch::new(),
                    tun: TunBatch::new(Coalescing::On),
                })
                .collect(),
            delivered: Vec::new(),
        };
        let mut pair = Self {
            now,
            hosts: (0..2).map(host).collect(),
            flying: BTreeMap::new(),
            numbered: 0,
            blocked: BTreeSet::new(),
            room: usize::MAX,
        };
        for node in 0..2 {
            pair.command(node, &Command::SetPeers(Arc::new(peers(node))));
        }
        pair.run(SECOND);
        for node in 0..2 {
            pair.route(node);
        }
        pair.run(SECOND);
        pair
    }

    /// Lets a node send to the other over the link.
    fn route(&mut self, node: usize) {
        let link = self.status(node, 0).links[0].link;
        let prefix = "10.77.0.0/24".parse().expect("a prefix");
        let paths = [(id(1 - node), Path::single(link))];
        let forwarding = Forwarding::new([(prefix, id(1 - node))], paths);
        self.command(node, &Command::SetForwarding(Arc::new(forwarding)));
    }

    fn command(&mut self, node: usize, command: &Command) {
        for worker in 0..self.hosts[node].workers.len() {
            let Seat {
                worker: core, tx, ..
            } = &mut self.hosts[node].workers[worker];
            core.handle_command(self.now, command.clone(), tx);
            self.flush(node, worker);
        }
    }

    fn seat(&mut self, node: usize, worker: usize) -> &mut Seat {
        &mut self.hosts[node].workers[worker]
    }

    fn status(&self, node: usize, worker: usize) -> Status {
        self.hosts[node].workers[worker].worker.status()
    }

    fn counters(&self, node: usize, worker: usize) -> Counters {
        self.status(node, worker).counters
    }

    fn is_open(&self, node: usize) -> bool {
        self.status(node, 1).lanes.iter().any(|lane| lane.is_open)
    }

    /// Packets of the device that a node dropped for a reason.
    fn dropped(&self, node: usize, reason: DropReason) -> u64 {
        let all = (0..2).flat_map(|worker| self.status(node, worker).drops);
        all.filter(|dropped| dropped.reason == reason && dropped.from == Origin::Tun)
            .map(|dropped| dropped.packets)
            .sum()
    }

    /// Hands a worker a numbered packet of its queue.
    fn send(&mut self, node: usize, worker: usize, number: u32) {
        let now = self.now;
        let Seat {
            worker: core,
            tx,
            tun,
        } = self.seat(node, worker);
        let mut packet = packet(node, 1 - node, &number.to_be_bytes());
        core.handle_tun(now, VnetHeader::default(), &mut packet, tx, tun);
        self.flush(node, worker);
    }

    /// A packet each millisecond.
    fn stream(&mut self, node: usize, worker: usize, numbers: std::ops::Range<u32>) {
        for number in numbers {
            self.send(node, worker, number);
            self.run(MILLI);
        }
    }

    fn delivered(&self, node: usize) -> Vec<u32> {
        let numbers = self.hosts[node].delivered.iter();
        numbers
            .map(|packet| u32::from_be_bytes(packet[28..32].try_into().expect("four bytes")))
            .collect()
    }

    /// What the shell does after each input.
    fn flush(&mut self, node: usize, worker: usize) {
        let now = self.now;
        let host = &mut self.hosts[node];
        let Seat {
            worker: core,
            tx,
            tun,
        } = &mut host.workers[worker];
        loop {
            host.delivered
                .extend(tun.packets().map(|bytes| bytes[10..].to_vec()));
            tun.clear();
            if core.owes_answers() {
                core.answer_barriers(now, tx);
            }
            if !core.resume(now, 64 << 10, tx, tun) {
                break;
            }
        }
        let delay = if worker == 0 { SLOW } else { MILLI };
        let from = at(node, worker);
        for (to, bytes) in tx.datagrams(&[]) {
            let Endpoint::Udp(to) = to else { continue };
            self.numbered += 1;
            let key = (now + delay, self.numbered);
            self.flying.insert(key, (from, to, bytes.to_vec()));
        }
        tx.clear();
        let passed: VecDeque<_> = std::iter::from_fn(|| core.poll_passed()).collect();
        for (number, (to, passed)) in passed.into_iter().enumerate() {
            if number >= self.room {
                self.seat(node, worker).worker.refused(&passed);
                continue;
            }
            let Seat {
                worker: core,
                tx,
                tun,
            } = self.seat(node, to.into());
            core.handle_passed(now, passed, tx, tun);
            self.flush(node, to.into());
        }
    }

    fn run(&mut self, span: Micros) {
        let end = self.now + span;
        loop {
            let arrival = self
                .flying
                .keys()
                .next()
                .map_or(Instant::NEVER, |key| key.0);
            let places = (0..self.hosts.len()).flat_map(|node| [(node, 0), (node, 1)]);
            let timers = places.map(|(node, worker)| {
                let due = self.hosts[node].workers[worker].worker.poll_timeout();
                (due, node, worker)
            });
            let (timer, node, worker) = timers.min().expect("workers have timers");
            if arrival.min(timer) > end {
                break;
            }
            self.now = self.now.max(arrival.min(timer));
            if arrival <= timer {
                self.arrive();
                continue;
            }
            let now = self.now;
            let Seat {
                worker: core,
                tx,
                tun,
            } = self.seat(node, worker);
            core.handle_timeout(now, tx, tun);
            self.flush(node, worker);
        }
        self.now = end;
    }

    fn arrive(&mut self) {
        let Some((_, (from, to, mut bytes))) = self.flying.pop_first() else {
            return;
        };
        if self.blocked.contains(&to.port()) {
            return;
        }
        let places = (0..2).flat_map(|node| [(node, 0), (node, 1)]);
        let Some((node, worker)) = places.into_iter().find(|place| at(place.0, place.1) == to)
        else {
            return;
        };
        let (now, length) = (self.now, bytes.len());
        let Seat {
            worker: core,
            tx,
            tun,
        } = self.seat(node, worker);
        let datagrams = Datagrams::passing(&mut bytes, length);
        core.handle_datagrams(now, from, datagrams, tx, tun);
        self.flush(node, worker);
    }

    /// Asserts that nothing got lost without a name in a node, once nothing is under way.
    fn assert_balanced(&self, node: usize) {
        let mut all = self.status(node, 0);
        all.add(self.status(node, 1));
        let dropped = |from: Origin| {
            let same = all.drops.iter().filter(|dropped| dropped.from == from);
            same.map(|dropped| dropped.packets).sum::<u64>()
        };
        let counters = all.counters;
        let (tun, wire) = (dropped(Origin::Tun), dropped(Origin::Wire));
        assert_eq!(
            counters.tun_rx_packets,
            counters.sent_packets + tun,
            "{all:?}"
        );
        let taken = counters.tun_tx_packets
            + counters.control_rx_packets
            + counters.session_rx_packets
            + counters.forwarded_packets;
        assert_eq!(counters.udp_rx_packets, taken + wire, "{all:?}");
        let made =
            counters.sent_packets + counters.control_tx_packets + counters.session_tx_packets;
        assert_eq!(
            counters.udp_tx_packets,
            made + counters.forwarded_packets,
            "{all:?}"
        );
    }
}

fn config(cipher: CipherKind, host: usize, worker: u8) -> Config {
    let lanes = (1..WORKERS).map(|lane| PORT + u16::from(lane)).collect();
    Config {
        node: id(host),
        wg_private: secret(host),
        mtu: 1_360,
        seed: [host as u8 ^ worker << 4; 32],
        cipher,
        channel: (cipher == CipherKind::Noise).then_some(CipherCosts {
            aes_ns: 300,
            chacha_ns: 800,
        }),
        transit: Transit::Relay,
        mss_clamp: Clamp::Off,
        place: match worker {
            0 => Place::First { lanes },
            further => Place::Further(further),
        },
    }
}

fn peers(node: usize) -> Peers {
    let prefix = |host: usize| format!("10.77.0.{host}").parse().expect("a prefix");
    let other = 1 - node;
    let key = x25519_dalek::StaticSecret::from(secret(other));
    Peers {
        own_prefixes: vec![prefix(node)],
        own_index: NodeIndex(node as u16),
        peers: vec![PeerEntry {
            id: id(other),
            index: NodeIndex(other as u16),
            name: None,
            key: WgKey(x25519_dalek::PublicKey::from(&key).to_bytes()),
            prefixes: vec![prefix(other)],
            candidates: vec![at(other, 0)],
            adjacent: true,
            leaf_of: None,
        }],
    }
}

#[test]
fn a_lane_comes_up_under_packets_and_takes_over_without_one_overtaking_another() {
    for cipher in [CipherKind::Null, CipherKind::Noise] {
        let mut pair = Pair::new(cipher);
        pair.stream(0, 1, 0..400);
        pair.run(SECOND);
        assert_eq!(pair.delivered(1), (0..400).collect::<Vec<_>>());
        assert!(pair.is_open(0));
        let (first, further) = (pair.counters(0, 0), pair.counters(0, 1));
        assert!(
            first.sent_packets > 2 && further.sent_packets > 300,
            "{further:?}"
        );
        assert!(further.lane_packets >= further.sent_packets);
        assert_eq!(first.sent_packets, further.handed_packets);
        assert_eq!(pair.counters(1, 1).tun_tx_packets, further.sent_packets);
        for node in 0..2 {
            pair.assert_balanced(node);
        }
    }
}

#[test]
fn both_directions_share_one_session() {
    let mut pair = Pair::new(CipherKind::Noise);
    for number in 0..600 {
        pair.send(0, 1, number);
        pair.send(1, 1, number);
        pair.run(MILLI);
    }
    pair.run(SECOND);
    for node in 0..2 {
        assert!(pair.is_open(node));
        assert_eq!(pair.delivered(node), (0..600).collect::<Vec<_>>());
        pair.assert_balanced(node);
    }
    let handshakes = [0, 1].map(|node| pair.counters(node, 1).handshakes);
    assert!(
        handshakes.iter().all(|count| (1..=2).contains(count)),
        "{handshakes:?}"
    );
}

#[test]
fn idle_workers_have_no_lanes() {
    let mut pair = Pair::new(CipherKind::Noise);
    pair.stream(0, 0, 0..50);
    pair.run(SECOND);
    assert_eq!(pair.counters(0, 1).udp_tx_packets, 0);
    assert_eq!(pair.delivered(1).len(), 50);
}

#[test]
fn where_a_lanes_port_is_blocked_everything_goes_by_way_of_the_first_worker() {
    let mut pair = Pair::new(CipherKind::Noise);
    pair.blocked.insert(PORT + 1);
    pair.stream(0, 1, 0..8_000);
    pair.run(SECOND);
    assert_eq!(pair.delivered(1), (0..8_000).collect::<Vec<_>>());
    assert!(!pair.is_open(0));
    let tried = pair.counters(0, 1).udp_tx_packets;
    assert!((3..30).contains(&tried), "{tried}");
    pair.assert_balanced(0);
}

#[test]
fn a_lane_that_dies_under_packets_is_given_up_within_a_second_and_comes_back() {
    let mut pair = Pair::new(CipherKind::Noise);
    pair.stream(0, 1, 0..300);
    assert!(pair.is_open(0));
    pair.blocked.insert(PORT + 1);
    pair.stream(0, 1, 300..2_000);
    assert!(!pair.is_open(0));
    let delivered = pair.delivered(1);
    let lost = 2_000 - delivered.len();
    assert!((1..1_300).contains(&lost), "{lost}");
    assert!(delivered.contains(&1_990));
    assert_eq!(pair.counters(0, 1).lanes_lost, 1);
    pair.blocked.clear();
    pair.stream(0, 1, 2_000..8_000);
    pair.run(SECOND);
    assert!(pair.is_open(0));
    let delivered = pair.delivered(1);
    assert!(delivered.is_sorted());
    assert_eq!(
        delivered[delivered.len() - 6_000..],
        (2_000..8_000).collect::<Vec<_>>()
    );
}

#[test]
fn without_the_link_there_is_no_lane() {
    let mut pair = Pair::new(CipherKind::Noise);
    pair.stream(0, 1, 0..300);
    assert!(pair.is_open(0));
    pair.blocked.insert(PORT);
    pair.stream(0, 1, 300..1_000);
    assert!(!pair.is_open(0), "the first worker's link is suspect");
}

#[test]
fn what_the_first_worker_does_not_take_has_a_name() {
    let mut pair = Pair::new(CipherKind::Null);
    pair.room = 0;
    pair.stream(0, 1, 0..10);
    // Some waited for a lane, in vain.
    pair.run(SECOND);
    assert_eq!(pair.dropped(0, DropReason::HandoverFull), 10);
    assert!(pair.delivered(1).is_empty());
    pair.assert_balanced(0);
}

#[test]
fn a_worker_that_is_given_other_flows_lets_lanes_take_over_anew() {
    let mut pair = Pair::new(CipherKind::Noise);
    pair.stream(0, 1, 0..300);
    assert!(pair.is_open(0));
    // A flow that was the first worker's becomes the other's.
    pair.stream(0, 0, 300..400);
    let now = pair.now;
    pair.seat(0, 1).worker.close_lanes(now);
    pair.stream(0, 1, 400..800);
    pair.run(SECOND);
    assert!(pair.is_open(0));
    assert_eq!(pair.delivered(1), (0..800).collect::<Vec<_>>());
}

#[test]
fn a_worker_is_settled_when_the_peer_has_handed_all_to_its_kernel() {
    let mut pair = Pair::new(CipherKind::Noise);
    pair.stream(0, 1, 0..300);
    pair.run(SECOND);
    for number in 300..310 {
        pair.send(0, 1, number);
    }
    let now = pair.now;
    let Seat { worker, tx, .. } = pair.seat(0, 1);
    worker.settle(now, tx);
    assert!(!worker.is_settled());
    pair.flush(0, 1);
    while !pair.seat(0, 1).worker.is_settled() {
        pair.run(Micros(100));
        assert!(pair.now.since(now) < SECOND);
    }
    assert_eq!(pair.delivered(1), (0..310).collect::<Vec<_>>());
}

#[test]
fn a_barrier_is_answered_once_packets_were_written_and_not_before() {
    let mut pair = Pair::new(CipherKind::Null);
    let now = pair.now;
    let link_worker = pair.seat(0, 0);
    let barrier = Passed::Barrier {
        peer: id(1),
        worker: 1,
        number: 7,
    };
    link_worker
        .worker
        .handle_passed(now, barrier, &mut link_worker.tx, &mut link_worker.tun);
    let sent: Vec<Vec<u8>> = link_worker
        .tx
        .datagrams(&[])
        .map(|(_, bytes)| bytes.to_vec())
        .collect();
    link_worker.tx.clear();
    assert_eq!(sent.len(), 1, "one link");
    let peer = pair.seat(1, 0);
    let mut bytes = sent[0].clone();
    let length = bytes.len();
    let datagrams = Datagrams::passing(&mut bytes, length);
    peer.worker
        .handle_datagrams(now, at(0, 0), datagrams, &mut peer.tx, &mut peer.tun);
    assert!(peer.worker.owes_answers() && peer.tx.is_empty());
    peer.worker.answer_barriers(now, &mut peer.tx);
    assert!(!peer.worker.owes_answers() && !peer.tx.is_empty());
}
