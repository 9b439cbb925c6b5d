//! Carriers that talk to each other over loopback: who is let in, what arrives, what noise does.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use wattle_dataplane::TxBatch;
use wattle_model::{Endpoint, NodeId};
use wattle_quic::{Handle, Incoming, Neighbour, Options, PIECE_TYPE, Pipe};
use wattle_wire::key::SecretKey;

const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn datagrams_of_every_size_arrive_whole_between_nodes_that_know_each_other() {
    let [a, b] = [Node::new(1), Node::new(2)];
    a.knows(&[&b]);
    b.knows(&[&a]);
    let at_a = a.wait_for(|node| node.remote(b.id()));
    assert_eq!(at_a, b.address);
    b.wait_for(|node| node.remote(a.id()));
    let datagrams: Vec<Vec<u8>> = [1, 100, 1_162, 1_200, 1_450, 9_000, 20_000]
        .into_iter()
        .map(|length| vec![length as u8 | 1; length])
        // What begins like a piece is none.
        .chain([vec![PIECE_TYPE; 50], vec![PIECE_TYPE; 3]])
        .collect();
    a.send(b.id(), &datagrams);
    let mut expected = datagrams.clone();
    let mut arrived = b.wait_for(|node| {
        let arrived = node.datagrams(a.id());
        (arrived.len() == expected.len()).then_some(arrived)
    });
    expected.sort();
    arrived.sort();
    assert!(arrived == expected);
    let counters = a.pipe.counters();
    assert_eq!(counters.sent_packets, expected.len() as u64);
    assert!(counters.cut_packets >= 4, "{counters:?}");
    assert_eq!(b.pipe.counters().received_packets, expected.len() as u64);
}

#[test]
fn a_node_that_is_not_known_is_not_let_in_and_one_with_another_key_is_not_believed() {
    let [a, b, stranger] = [Node::new(1), Node::new(2), Node::new(3)];
    a.knows(&[&b]);
    b.awaits(&a);
    b.wait_for(|node| node.remote(a.id()));
    // It knows b's key and address, but b does not know it.
    stranger.knows(&[&b]);
    b.wait_for(|node| (node.pipe.counters().refused_handshakes >= 1).then_some(()));
    // It takes b for the node of another key.
    let other = Node::new(4);
    let wrong = Neighbour {
        identity: other.key.public(),
        addresses: vec![b.address],
    };
    stranger.handle.set_neighbours(vec![wrong]);
    b.wait_for(|node| (node.pipe.counters().refused_handshakes >= 2).then_some(()));
    stranger.wait_for(|node| (node.pipe.counters().unanswered_dials >= 1).then_some(()));
    stranger.drain();
    assert_eq!(stranger.remote(b.id()), None);
    assert_eq!(stranger.remote(other.id()), None);
    assert_eq!(b.remote(stranger.id()), None);
    assert_eq!(b.pipe.counters().connected, 1);
}

#[test]
fn a_node_that_is_taken_out_loses_its_connection_at_once() {
    let [a, b] = [Node::new(1), Node::new(2)];
    a.knows(&[&b]);
    b.knows(&[&a]);
    a.wait_for(|node| node.remote(b.id()));
    b.wait_for(|node| node.remote(a.id()));
    let start = Instant::now();
    b.knows(&[]);
    b.wait_for(|node| node.remote(a.id()).is_none().then_some(()));
    a.wait_for(|node| node.remote(b.id()).is_none().then_some(()));
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "not by a time limit"
    );
    a.send(b.id(), &[vec![4; 100]]);
    a.wait_for(|node| (node.pipe.counters().drop_no_connection == 1).then_some(()));
}

#[test]
fn noise_makes_nothing_and_breaks_nothing() {
    let [a, b] = [Node::new(1), Node::new(2)];
    a.knows(&[&b]);
    b.awaits(&a);
    b.wait_for(|node| node.remote(a.id()));
    let noisy = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    for length in 0..1_400_usize {
        let first = [0x40, 0xc0, 0x00, 0xff][length % 4];
        let mut noise: Vec<u8> = (0..length).map(|at| (at * 31 + length) as u8).collect();
        if let Some(byte) = noise.first_mut() {
            *byte = first;
        }
        noisy.send_to(&noise, b.address).unwrap();
    }
    // The kernel drops some of what comes while its buffer is full of noise.
    let arrived = b.wait_for(|node| {
        a.send(b.id(), &[vec![4; 1_000]]);
        let arrived = node.datagrams(a.id());
        (!arrived.is_empty()).then_some(arrived)
    });
    assert!(arrived.iter().all(|datagram| *datagram == vec![4; 1_000]));
    assert_eq!(b.pipe.counters().connected, 1);
}

#[test]
fn a_peer_that_comes_back_at_the_same_address_is_connected_again_within_seconds() {
    let [a, b] = [Node::new(1), Node::new(2)];
    a.knows(&[&b]);
    b.knows(&[&a]);
    b.wait_for(|node| node.remote(a.id()));
    a.wait_for(|node| node.remote(b.id()));
    let (socket, address) = (b.socket.try_clone().unwrap(), b.address);
    let start = Instant::now();
    b.end();
    let b = Node::at(2, socket, address);
    b.knows(&[&a]);
    b.wait_for(|node| node.remote(a.id()));
    a.send(b.id(), &[vec![4; 10]]);
    b.wait_for(|node| {
        a.send(b.id(), &[vec![4; 10]]);
        (!node.datagrams(a.id()).is_empty()).then_some(())
    });
    assert!(
        start.elapsed() < Duration::from_secs(4),
        "{:?}",
        start.elapsed()
    );
}

struct Node {
    key: SecretKey,
    socket: UdpSocket,
    address: SocketAddr,
    handle: Handle,
    pipe: Pipe,
    thread: Option<JoinHandle<()>>,
    came: std::cell::RefCell<VecDeque<Incoming>>,
}

impl Node {
    fn new(seed: u8) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = socket.local_addr().unwrap();
        Self::at(seed, socket, address)
    }

    fn at(seed: u8, socket: UdpSocket, address: SocketAddr) -> Self {
        let key = SecretKey::from_seed(&[seed; 32]);
        let options = Options {
            key: key.clone(),
            socket: socket.try_clone().unwrap(),
            largest_datagram: 1_450,
        };
        let (handle, pipe, thread) = wattle_quic::start(options, || {}).unwrap();
        Self {
            key,
            socket,
            address,
            handle,
            pipe,
            thread: Some(thread),
            came: std::cell::RefCell::default(),
        }
    }

    fn id(&self) -> NodeId {
        self.key.public().node_id()
    }

    fn knows(&self, others: &[&Self]) {
        let neighbours = others.iter().map(|other| Neighbour {
            identity: other.key.public(),
            addresses: vec![other.address],
        });
        self.handle.set_neighbours(neighbours.collect());
    }

    /// Knows the other, but not where it is: of two nodes one dials, and there is one connection.
    fn awaits(&self, other: &Self) {
        let neighbour = Neighbour {
            identity: other.key.public(),
            addresses: Vec::new(),
        };
        self.handle.set_neighbours(vec![neighbour]);
    }

    fn send(&self, to: NodeId, datagrams: &[Vec<u8>]) {
        let mut batch = TxBatch::new();
        for datagram in datagrams {
            assert!(batch.push(Endpoint::Quic(to), datagram));
        }
        self.pipe.send(&batch, &[]);
    }

    fn drain(&self) {
        self.pipe.receive(&mut self.came.borrow_mut());
    }

    /// Where the node has a connection with another, by what it was told last.
    fn remote(&self, peer: NodeId) -> Option<SocketAddr> {
        let came = self.came.borrow();
        let last = came.iter().rev().find_map(|incoming| match incoming {
            Incoming::Connection { peer: of, remote } if *of == peer => Some(*remote),
            Incoming::Connection { .. } | Incoming::Datagrams { .. } => None,
        });
        last.flatten()
    }

    fn datagrams(&self, peer: NodeId) -> Vec<Vec<u8>> {
        let came = self.came.borrow();
        let from = came.iter().filter_map(|incoming| match incoming {
            Incoming::Datagrams {
                from,
                bytes,
                segment,
            } if *from == peer => Some(bytes.chunks(*segment)),
            Incoming::Datagrams { .. } | Incoming::Connection { .. } => None,
        });
        from.flatten().map(<[u8]>::to_vec).collect()
    }

    fn wait_for<T>(&self, what: impl Fn(&Self) -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            self.drain();
            if let Some(found) = what(self) {
                return found;
            }
            assert!(start.elapsed() < PATIENCE, "{:?}", self.pipe.counters());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn end(self) {
        let Self {
            handle,
            pipe,
            mut thread,
            ..
        } = self;
        drop((handle, pipe));
        thread.take().unwrap().join().unwrap();
    }
}
