//! Nodes, each with its links, its router and its own clock, run from event to event.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore as _, SeedableRng as _};
use wattle_link::Input as LinkInput;
use wattle_model::{Carrier, Instant, Micros, NodeId, Prefix, SeqNo, UnixTime};
use wattle_routing::{Config, Event, Input, Member, Members, Policies, Router, adjacency};
use wattle_wire::key::SecretKey;
use wattle_wire::record::{Body, Record, RecordKey, RecordKind, RemovalBody};

use crate::cores;
use crate::courses::Courses;
use crate::network::{Arrival, Datagram, Edge, EdgeNumber, Machine, Network};
use crate::process::{Moment, Outbox, Process, UPDATE};
use crate::verdicts::Verdicts;

/// Between two packets of a user on a busy edge.
const DATA_INTERVAL: Micros = Micros::from_millis(10);

/// A node's position in the fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeNumber(pub usize);

/// A node: what survives its process, and the process if it runs.
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// Its identity.
    key: SecretKey,
    /// How often it booted, as it remembers.
    epoch: u32,
    /// What its operator wants of its links.
    policies: Policies,
    /// The running process.
    pub process: Option<Process>,
}

/// Many nodes, a network, one clock.
pub struct Fleet {
    /// The time.
    pub now: Instant,
    /// The nodes.
    pub nodes: Vec<Node>,
    /// What connects them.
    pub network: Network,
    /// The processor that all nodes share, if receiving takes time at all.
    pub machine: Option<Machine>,
    /// Whether a node that wakes up reads all that waits before it does anything, as agents do; else one datagram at a time.
    pub reads_all: bool,
    /// Who belongs to it, by the trust root's word.
    pub members: Arc<Members>,
    /// Randomness of the network and of whoever breaks it.
    pub rng: ChaCha8Rng,
    /// What routers told people.
    pub events: Vec<(NodeNumber, Event)>,
    /// Messages about link state that were sent.
    pub flooded: Traffic,
    /// Those among them that carry records.
    pub updates: Traffic,
    /// Datagrams of every kind that were sent.
    pub sent: Traffic,
    root: SecretKey,
    /// Whether routers neither hear nor do anything: only links come up.
    pub(crate) only_links: bool,
    next_data: Instant,
    wakes: Wakes,
    verdicts: Verdicts,
    courses: Courses,
}

/// What was sent, by number and size: payloads, without what seals and carries them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Datagrams.
    pub datagrams: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Traffic {
    pub(crate) fn count(&mut self, bytes: usize) {
        self.datagrams += 1;
        self.bytes += bytes as u64;
    }

    fn add(&mut self, other: Self) {
        self.datagrams += other.datagrams;
        self.bytes += other.bytes;
    }

    /// What was sent since an earlier moment.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            datagrams: self.datagrams - earlier.datagrams,
            bytes: self.bytes - earlier.bytes,
        }
    }
}

/// When each node is to be woken, the next one found at once.
#[derive(Debug, Default)]
struct Wakes {
    by_node: BTreeMap<NodeNumber, Instant>,
    by_time: BTreeSet<(Instant, NodeNumber)>,
}

impl Wakes {
    fn set(&mut self, node: NodeNumber, at: Instant) {
        self.remove(node);
        self.by_node.insert(node, at);
        self.by_time.insert((at, node));
    }

    fn remove(&mut self, node: NodeNumber) {
        if let Some(at) = self.by_node.remove(&node) {
            self.by_time.remove(&(at, node));
        }
    }

    fn next(&self) -> Instant {
        self.by_time.first().map_or(Instant::NEVER, |(at, _)| *at)
    }

    fn due(&self, now: Instant) -> Vec<NodeNumber> {
        let due = self.by_time.iter().take_while(|(at, _)| *at <= now);
        due.map(|(_, node)| *node).collect()
    }
}

impl Fleet {
    /// So many nodes that are off, without edges, each with a prefix of its own.
    pub fn new(seed: u64, count: usize) -> Self {
        let root = SecretKey::from_seed(&[255; 32]);
        let mut members = Members {
            network: root.public().network_id(),
            root: root.public(),
            nodes: BTreeMap::new(),
        };
        let nodes = (0..count)
            .map(|number| {
                let key = SecretKey::from_seed(&seed_of(number));
                let id = key.public().node_id();
                let prefixes = vec![granted_prefix(NodeNumber(number))];
                members.nodes.insert(
                    id,
                    Member {
                        identity: key.public(),
                        serial: 1,
                        prefixes,
                    },
                );
                Node {
                    id,
                    key,
                    epoch: 0,
                    policies: Policies::default(),
                    process: None,
                }
            })
            .collect();
        Self {
            now: Instant(1_000_000),
            nodes,
            network: Network::default(),
            machine: None,
            reads_all: false,
            members: Arc::new(members),
            rng: ChaCha8Rng::seed_from_u64(seed),
            events: Vec::new(),
            flooded: Traffic::default(),
            updates: Traffic::default(),
            sent: Traffic::default(),
            root,
            only_links: false,
            next_data: Instant::NEVER,
            wakes: Wakes::default(),
            verdicts: Verdicts::default(),
            courses: Courses::default(),
        }
    }

    /// Connects two nodes; both ends must be off, links are made at start.
    pub fn connect(&mut self, edge: Edge) -> EdgeNumber {
        self.network.edges.push(edge);
        EdgeNumber(self.network.edges.len() - 1)
    }

    /// A large network as its nodes choose it themselves (`docs/protocol/routing.md` §6): nobody has more than eight neighbours.
    pub fn sparse(
        seed: u64,
        count: usize,
        mut delay: impl FnMut(&mut ChaCha8Rng) -> Micros,
    ) -> Self {
        let mut fleet = Self::new(seed, count);
        let ids: BTreeMap<NodeId, NodeNumber> = fleet
            .nodes
            .iter()
            .map(|node| node.id)
            .zip((0..).map(NodeNumber))
            .collect();
        let members: BTreeSet<NodeId> = ids.keys().copied().collect();
        for (id, number) in &ids {
            let chosen = adjacency::chosen(*id, &members, &BTreeSet::new());
            let others = ids.range((Bound::Excluded(*id), Bound::Unbounded));
            for (_, other) in
                others.filter(|(id, _)| chosen.as_ref().is_none_or(|chosen| chosen.contains(id)))
            {
                let span = delay(&mut fleet.rng);
                fleet.connect(Edge::new(*number, *other, span));
            }
        }
        fleet
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.rng.next_u64() % limit
    }

    /// Starts a node's process.
    pub fn start(&mut self, number: NodeNumber) {
        let offset = Micros(self.rng.next_u64() % 1_000_000_000);
        let local = self.now + offset;
        let seed = self.rng.next_u64();
        self.nodes[number.0].epoch += 1;
        let router = self.router_of(number, seed, local);
        let edges = (0..self.network.edges.len()).map(EdgeNumber);
        let own = edges.filter(|edge| self.network.edges[edge.0].ends.contains(&number));
        let far = own.map(|edge| (edge, self.far_end(number, edge))).collect();
        self.nodes[number.0].process = Some(Process::new(offset, far, router, local));
        self.drain(number);
    }

    /// The router of a node that begins at `local`, by the node's clock, and knows nobody's word.
    pub(crate) fn router_of(&self, number: NodeNumber, seed: u64, local: Instant) -> Router {
        let node = &self.nodes[number.0];
        let config = Config {
            identity: node.key.clone(),
            epoch: node.epoch,
            seed,
            version: "0.1.0".to_owned(),
            quic_port: None,
            time: UnixTime(1_700_000_000_000 + self.now.0 / 1_000),
        };
        let verdicts = Box::new(self.verdicts.clone());
        let router = Router::with_verifier(config, Arc::clone(&self.members), local, verdicts);
        let mut router = router.with_courses(Arc::new(self.courses.clone()));
        // The second one was not granted: nobody may believe it.
        let announced = vec![granted_prefix(number), stolen_prefix(number)];
        router.handle(Input::Prefixes(announced), local);
        router.handle(Input::Policies(node.policies.clone()), local);
        router
    }

    /// From its next start on, a node's operator wants this of its links.
    pub fn set_policies(&mut self, number: NodeNumber, policies: Policies) {
        self.nodes[number.0].policies = policies;
    }

    /// Starts all nodes.
    pub fn start_all(&mut self) {
        (0..self.nodes.len()).for_each(|number| self.start(NodeNumber(number)));
    }

    /// Ends a node's process; its neighbours were told (`docs/protocol/probes.md`).
    pub fn stop(&mut self, number: NodeNumber) {
        let edges: Vec<_> = self.nodes[number.0]
            .process
            .iter()
            .flat_map(|process| process.links.keys().copied())
            .collect();
        self.crash(number);
        for edge in edges {
            for end in self.network.edges[edge.0].ends {
                if let Some(process) = &mut self.nodes[end.0].process
                    && let Some(link) = process.links.get_mut(&edge)
                {
                    link.handle(LinkInput::Left, self.now + process.offset);
                    self.drain(end);
                }
            }
        }
    }

    /// Ends a node's process without a word.
    pub fn crash(&mut self, number: NodeNumber) {
        self.nodes[number.0].process = None;
        self.wakes.remove(number);
    }

    /// Makes a node forget how often it booted.
    pub fn forget_epoch(&mut self, number: NodeNumber) {
        self.nodes[number.0].epoch = 0;
    }

    /// Stops a node's process for a while: datagrams wait in its sockets.
    pub fn freeze(&mut self, number: NodeNumber, span: Micros) {
        let until = self.now + span;
        if let Some(process) = &mut self.nodes[number.0].process {
            process.frozen_until = until;
            self.wakes.set(number, until);
        }
    }

    /// Makes users' packets cross an edge all the time, or no longer.
    pub fn set_busy(&mut self, edge: EdgeNumber, busy: bool) {
        self.network.edges[edge.0].busy = busy;
        if self.next_data == Instant::NEVER {
            self.next_data = self.now;
        }
    }

    /// Tells one node something.
    pub fn tell(&mut self, number: NodeNumber, input: Input) {
        let now = self.now;
        if let Some(process) = &mut self.nodes[number.0].process {
            process.router.handle(input, now + process.offset);
            self.drain(number);
        }
    }

    /// The trust root's word that a node is removed.
    pub fn removal_of(&self, number: NodeNumber) -> Record {
        let key = RecordKey {
            origin: self.nodes[number.0].id,
            kind: RecordKind::Removal,
            part: 0,
        };
        let body = Body::Removal(RemovalBody {
            at: UnixTime(1),
            serial: 1,
        });
        Record::sign(
            self.members.network,
            key,
            SeqNo(1),
            86_400,
            &body,
            &self.root,
        )
    }

    /// Runs for a while.
    pub fn run(&mut self, span: Micros) {
        let end = self.now + span;
        loop {
            let wake = self.wakes.next();
            let next = wake
                .min(self.network.next_arrival())
                .min(self.next_data)
                .max(self.now);
            if next > end {
                break;
            }
            self.now = next;
            self.step();
        }
        self.now = end;
    }

    /// Runs until `done`, at most for `limit`; how long it took.
    pub fn run_until(&mut self, limit: Micros, done: impl Fn(&Self) -> bool) -> Option<Micros> {
        let began = self.now;
        while !done(self) {
            if self.now.since(began) > limit {
                return None;
            }
            self.run(Micros::from_millis(1));
        }
        Some(self.now.since(began))
    }

    /// The running router of a node.
    pub fn router(&self, number: NodeNumber) -> Option<&Router> {
        self.nodes[number.0]
            .process
            .as_ref()
            .map(|process| &process.router)
    }

    /// What a node's clock reads more than the fleet's.
    pub fn clock_of(&self, number: NodeNumber) -> Micros {
        self.nodes[number.0]
            .process
            .as_ref()
            .map_or(Micros(0), |process| process.offset)
    }

    /// The number of the node with this id.
    pub fn number(&self, id: NodeId) -> Option<NodeNumber> {
        self.nodes
            .iter()
            .position(|node| node.id == id)
            .map(NodeNumber)
    }

    fn step(&mut self) {
        loop {
            let arrived = self.arrived();
            if arrived.is_empty() {
                break;
            }
            let moment = self.moment();
            self.at_once(arrived, |process, arrivals, outbox| {
                process.receive(moment, arrivals, outbox);
            });
        }
        if self.next_data <= self.now {
            self.next_data = self.now + DATA_INTERVAL;
            self.send_data();
        }
        let mut awake = Vec::new();
        for number in self.wakes.due(self.now) {
            let process = self.nodes[number.0].process.as_ref();
            let frozen_until = process.map_or(Instant(0), |process| process.frozen_until);
            match self.now < frozen_until {
                true => self.wakes.set(number, frozen_until),
                false => awake.push((number, ())),
            }
        }
        let moment = self.moment();
        self.at_once(awake, |process, (), outbox| process.wake(moment, outbox));
    }

    /// What arrives at this instant and is read at once, by node.
    fn arrived(&mut self) -> BTreeMap<NodeNumber, Vec<Arrival>> {
        let mut arrived: BTreeMap<_, Vec<_>> = BTreeMap::new();
        while let Some(arrival) = self.network.arrive(self.now) {
            let Some(arrival) = self.served(arrival) else {
                continue;
            };
            let to = arrival.to;
            let Some(process) = &mut self.nodes[to.0].process else {
                continue;
            };
            match self.now < process.frozen_until {
                true => process.inbox.push(arrival),
                false => arrived.entry(to).or_default().push(arrival),
            }
            if !self.reads_all && !arrived.is_empty() {
                break;
            }
        }
        arrived
    }

    /// The arrival, if nothing holds it up; else it comes again when the machine is done with it, or never.
    fn served(&mut self, arrival: Arrival) -> Option<Arrival> {
        let Some(machine) = self.machine.as_mut().filter(|_| !arrival.is_served) else {
            return Some(arrival);
        };
        let bytes = match &arrival.datagram {
            Datagram::Message(bytes) if bytes.first() == Some(&UPDATE) => bytes.len(),
            Datagram::Message(_) | Datagram::Data => 0,
        };
        let at = machine.serve(self.now, bytes)?;
        let is_served = true;
        self.network.hold(
            at,
            Arrival {
                is_served,
                ..arrival
            },
        );
        None
    }

    fn send_data(&mut self) {
        let busy: Vec<_> = (0..self.network.edges.len())
            .filter(|at| self.network.edges[*at].busy)
            .map(EdgeNumber)
            .collect();
        if busy.is_empty() {
            self.next_data = Instant::NEVER;
        }
        for edge in busy {
            for end in self.network.edges[edge.0].ends {
                let mut outbox = Outbox::default();
                let moment = self.moment();
                if let Some(process) = &mut self.nodes[end.0].process {
                    process.send_data(moment, edge, &mut outbox);
                    self.deliver(end, outbox);
                }
            }
        }
    }

    /// Passes on what links and router of a node want.
    pub(crate) fn drain(&mut self, number: NodeNumber) {
        let moment = self.moment();
        self.at_once([(number, ())], |process, (), outbox| {
            process.drain(moment, outbox);
        });
    }

    fn moment(&self) -> Moment {
        Moment {
            now: self.now,
            only_links: self.only_links,
            reads_all: self.reads_all,
        }
    }

    /// Has nodes do something at this instant, then does what they want, in this order.
    fn at_once<T: Send>(
        &mut self,
        work: impl IntoIterator<Item = (NodeNumber, T)>,
        does: impl Fn(&mut Process, T, &mut Outbox) + Sync,
    ) {
        let work = (0_usize..)
            .zip(work)
            .map(|(at, (number, piece))| (number, (at, piece)));
        let work: BTreeMap<NodeNumber, (usize, T)> = work.collect();
        let mut rest = self.nodes.as_mut_slice();
        let mut begin = 0;
        let mut pieces = Vec::with_capacity(work.len());
        for (number, (at, piece)) in work {
            let nodes = std::mem::take(&mut rest).split_at_mut(number.0 + 1 - begin);
            (rest, begin) = (nodes.1, number.0 + 1);
            let process = nodes.0.last_mut().and_then(|node| node.process.as_mut());
            pieces.push((at, number, process, piece));
        }
        let mut wanted = cores::map(pieces, |(at, number, process, piece)| {
            let mut outbox = Outbox::default();
            if let Some(process) = process {
                does(process, piece, &mut outbox);
            }
            (at, number, outbox)
        });
        wanted.sort_unstable_by_key(|(at, ..)| *at);
        for (_, number, outbox) in wanted {
            self.deliver(number, outbox);
        }
    }

    /// Does what a node wants, and notes when it is to be woken.
    fn deliver(&mut self, number: NodeNumber, outbox: Outbox) {
        for (edge, datagram) in &outbox.datagrams {
            self.transmit(number, *edge, datagram);
        }
        let events = outbox.events.into_iter();
        self.events.extend(events.map(|event| (number, event)));
        self.flooded.add(outbox.flooded);
        self.updates.add(outbox.updates);
        if let Some(process) = &self.nodes[number.0].process {
            let planned = process.planned(self.only_links);
            self.wakes.set(number, planned.max(process.frozen_until));
        }
    }

    /// Who is at the other end of a node's edge, and over what.
    pub(crate) fn far_end(&self, number: NodeNumber, edge: EdgeNumber) -> (NodeId, Carrier) {
        let Edge { ends, carrier, .. } = self.network.edges[edge.0];
        let other = if ends[0] == number { ends[1] } else { ends[0] };
        (self.nodes[other.0].id, carrier)
    }

    fn transmit(&mut self, from: NodeNumber, edge: EdgeNumber, datagram: &Datagram) {
        self.sent.count(match datagram {
            Datagram::Message(bytes) => bytes.len(),
            Datagram::Data => 0,
        });
        self.network
            .send(self.now, &mut self.rng, from, edge, datagram);
    }
}

/// What a node was granted and announces.
pub fn granted_prefix(number: NodeNumber) -> Prefix {
    prefix_in(10, number)
}

/// What a node announces although it was not granted it.
pub fn stolen_prefix(number: NodeNumber) -> Prefix {
    prefix_in(11, number)
}

fn prefix_in(net: u8, number: NodeNumber) -> Prefix {
    let [.., high, low] = number.0.to_be_bytes();
    let address = std::net::Ipv4Addr::new(net, high, low, 0);
    Prefix::new(address.into(), 24).expect("24 bits fit an IPv4 address")
}

fn seed_of(number: usize) -> [u8; 32] {
    let mut seed = [1; 32];
    seed[..8].copy_from_slice(&(number as u64 + 1).to_be_bytes());
    seed
}
