//! The imagined network: edges with delay, loss, duplicates, and cuts in one direction or both.

use std::collections::BTreeMap;

use rand_chacha::ChaCha8Rng;
use rand_core::RngCore as _;
use wattle_model::{Carrier, Instant, Micros};

use crate::fleet::NodeNumber;

/// An edge's position in the fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EdgeNumber(pub usize);

/// What connects two nodes.
#[derive(Debug, Clone)]
pub struct Edge {
    /// Its two ends.
    pub ends: [NodeNumber; 2],
    /// What carries it.
    pub carrier: Carrier,
    /// Time that a datagram takes, at least.
    pub delay: Micros,
    /// What may be added to it; more than the pause between datagrams reorders them.
    pub jitter: Micros,
    /// Datagrams of a hundred that get lost.
    pub loss_percent: u32,
    /// Datagrams of a hundred that arrive twice.
    pub duplicate_percent: u32,
    /// Whether nothing passes from the first end to the second, and the other way.
    pub cut: [bool; 2],
    /// Whether users' packets cross it all the time, so that it is watched closely.
    pub busy: bool,
}

impl Edge {
    /// A good edge over IPv4.
    pub fn new(a: NodeNumber, b: NodeNumber, delay: Micros) -> Self {
        Self {
            ends: [a, b],
            carrier: Carrier::Udp4,
            delay,
            jitter: Micros(0),
            loss_percent: 0,
            duplicate_percent: 0,
            cut: [false, false],
            busy: false,
        }
    }

    /// Whether everything passes in both directions.
    pub fn is_whole(&self) -> bool {
        self.cut == [false, false]
    }
}

/// What crosses an edge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Datagram {
    /// A message between neighbours.
    Message(Vec<u8>),
    /// A packet of a user.
    Data,
}

/// A datagram that arrives.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// Where.
    pub to: NodeNumber,
    /// Over which edge.
    pub edge: EdgeNumber,
    /// What.
    pub datagram: Datagram,
    /// Whether the machine had time for it, if machines take any.
    pub is_served: bool,
}

/// Datagrams under way, in the order of their arrival.
#[derive(Debug, Default)]
pub struct Network {
    /// The edges.
    pub edges: Vec<Edge>,
    flying: BTreeMap<(Instant, u64), Arrival>,
    count: u64,
}

impl Network {
    /// Sends a datagram; it arrives never, once, or more often.
    pub fn send(
        &mut self,
        now: Instant,
        rng: &mut ChaCha8Rng,
        from: NodeNumber,
        number: EdgeNumber,
        datagram: &Datagram,
    ) {
        let edge = &self.edges[number.0];
        let direction = usize::from(edge.ends[1] == from);
        if edge.cut[direction] || rng.next_u32() % 100 < edge.loss_percent {
            return;
        }
        let copies = 1 + u32::from(rng.next_u32() % 100 < edge.duplicate_percent);
        for _ in 0..copies {
            let extra = rng.next_u64() % (edge.jitter.0 + 1);
            let to = edge.ends[1 - direction];
            self.count += 1;
            self.flying.insert(
                (now + edge.delay + Micros(extra), self.count),
                Arrival {
                    to,
                    edge: number,
                    datagram: datagram.clone(),
                    is_served: false,
                },
            );
        }
    }

    /// When the next datagram arrives.
    pub fn next_arrival(&self) -> Instant {
        self.flying
            .keys()
            .next()
            .map_or(Instant::NEVER, |(at, _)| *at)
    }

    /// Puts a datagram back until `at`: whoever is to read it is busy.
    pub fn hold(&mut self, at: Instant, arrival: Arrival) {
        self.count += 1;
        self.flying.insert((at, self.count), arrival);
    }

    /// Takes a datagram that has arrived by `now`.
    pub fn arrive(&mut self, now: Instant) -> Option<Arrival> {
        let entry = self.flying.first_entry()?;
        (entry.key().0 <= now).then(|| entry.remove())
    }
}

/// One processor that all nodes share: every datagram takes its time, and one that would wait too long is dropped.
///
/// What a busy host does to a mesh: round trips grow on all links at once, and messages get lost after they were sent.
#[derive(Debug, Clone)]
pub struct Machine {
    /// What a datagram takes.
    pub per_datagram: Micros,
    /// What each kilobyte of records takes besides: signatures are checked.
    pub per_kilobyte: Micros,
    /// How long a datagram waits at most.
    pub patience: Micros,
    /// Datagrams that were dropped.
    pub dropped: u64,
    /// For how long it was busy.
    pub busy: Micros,
    free_at: Instant,
}

impl Machine {
    /// A machine that has done nothing yet.
    pub fn new(per_datagram: Micros, per_kilobyte: Micros, patience: Micros) -> Self {
        Self {
            per_datagram,
            per_kilobyte,
            patience,
            dropped: 0,
            busy: Micros(0),
            free_at: Instant(0),
        }
    }

    /// When it is done with a datagram of so many bytes of records; `None` if it drops it.
    pub(crate) fn serve(&mut self, now: Instant, bytes: usize) -> Option<Instant> {
        let begins = self.free_at.max(now);
        if begins.since(now) > self.patience {
            self.dropped += 1;
            return None;
        }
        let takes = Micros(self.per_datagram.0 + self.per_kilobyte.0 * bytes as u64 / 1_000);
        self.busy = Micros(self.busy.0 + takes.0);
        self.free_at = begins + takes;
        Some(self.free_at)
    }
}
