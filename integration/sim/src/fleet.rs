//! Nodes, each with its links, its router and its own clock, run from event to event.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore as _, SeedableRng as _};
use wattle_link::{Input as LinkInput, Link, Output as LinkOutput, Traffic as Watched};
use wattle_model::{Carrier, Instant, LinkId, Micros, NodeId, Prefix, SeqNo, UnixTime};
use wattle_routing::{
    Config, Event, Happening, Input, Member, Members, Output, Policies, Router, adjacency,
};
use wattle_wire::control::Control;
use wattle_wire::key::SecretKey;
use wattle_wire::record::{Body, Record, RecordKey, RecordKind, RemovalBody};

use crate::courses::Courses;
use crate::network::{Arrival, Datagram, Edge, EdgeNumber, Machine, Network};
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

/// What dies with a node's process.
pub struct Process {
    /// Its clock reads the fleet's time plus this.
    pub(crate) offset: Micros,
    /// Its links, numbered as the edges are.
    pub links: BTreeMap<EdgeNumber, Link>,
    /// Its router.
    pub router: Router,
    /// Nobody hears of it and it hears of nobody until then.
    frozen_until: Instant,
    inbox: Vec<Arrival>,
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
    pub members: Members,
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
    fn count(&mut self, bytes: usize) {
        self.datagrams += 1;
        self.bytes += bytes as u64;
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

/// The first byte of a message that carries records.
const UPDATE: u8 = 16;

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
            members,
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
        let edges = self.network.edges.iter().enumerate();
        let links = edges
            .filter(|(_, edge)| edge.ends.contains(&number))
            .map(|(at, _)| (EdgeNumber(at), Link::new(local)))
            .collect();
        let frozen_until = Instant(0);
        self.nodes[number.0].process = Some(Process {
            offset,
            links,
            router,
            frozen_until,
            inbox: Vec::new(),
        });
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
        let router = Router::with_verifier(config, self.members.clone(), local, verdicts);
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
            for (to, arrivals) in arrived {
                self.receive(to, arrivals);
            }
        }
        if self.next_data <= self.now {
            self.next_data = self.now + DATA_INTERVAL;
            self.send_data();
        }
        for number in self.wakes.due(self.now) {
            self.wake(number);
        }
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

    fn wake(&mut self, number: NodeNumber) {
        let now = self.now;
        let Some(process) = &mut self.nodes[number.0].process else {
            return;
        };
        let local = now + process.offset;
        if now < process.frozen_until {
            self.wakes.set(number, process.frozen_until);
            return;
        }
        let late = now.since(process.planned(self.only_links));
        if late > Micros(0) {
            for link in process.links.values_mut() {
                link.handle(LinkInput::Stalled { late }, local);
            }
        }
        let inbox = std::mem::take(&mut process.inbox);
        match self.reads_all {
            true => self.receive(number, inbox),
            false => inbox
                .into_iter()
                .for_each(|arrival| self.receive(number, vec![arrival])),
        }
        if let Some(process) = &mut self.nodes[number.0].process {
            process
                .links
                .values_mut()
                .for_each(|link| link.handle_timeout(local));
            if !self.only_links {
                process.router.handle_timeout(local);
            }
        }
        self.drain(number);
    }

    fn receive(&mut self, number: NodeNumber, arrivals: Vec<Arrival>) {
        let mut messages = Vec::new();
        let many = arrivals.len() > 1;
        for arrival in arrivals {
            messages.extend(self.over_link(number, arrival));
        }
        if many {
            // Whom a message is from counts by what is known of the links.
            self.drain_links(number);
        }
        if let Some(process) = &mut self.nodes[number.0].process
            && !messages.is_empty()
        {
            process
                .router
                .handle_all(messages, self.now + process.offset);
        }
        self.drain(number);
    }

    /// Tells the link what came over it; what is for the router, if it is.
    fn over_link(&mut self, number: NodeNumber, arrival: Arrival) -> Option<Input> {
        let (from, _) = self.far_end(number, arrival.edge);
        let process = self.nodes[number.0].process.as_mut()?;
        let local = self.now + process.offset;
        let link = process.links.get_mut(&arrival.edge)?;
        let payload = match arrival.datagram {
            Datagram::Data => None,
            Datagram::Message(bytes) => match Control::parse(&bytes) {
                Ok(Control::Probe(probe)) => {
                    link.handle(LinkInput::Probe(probe), local);
                    return None;
                }
                Ok(Control::ProbeReply(reply)) => {
                    link.handle(LinkInput::Reply(reply), local);
                    return None;
                }
                Ok(_) | Err(_) => Some(bytes),
            },
        };
        link.handle(LinkInput::Received { datagrams: 1 }, local);
        payload.map(|payload| Input::Message { from, payload })
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
                let Some(process) = &mut self.nodes[end.0].process else {
                    continue;
                };
                let local = self.now + process.offset;
                let Some(link) = process.links.get_mut(&edge) else {
                    continue;
                };
                if self.now < process.frozen_until || !link.state().is_usable() {
                    continue;
                }
                link.handle(
                    LinkInput::Sent {
                        datagrams: 1,
                        traffic: Watched::Data,
                    },
                    local,
                );
                self.transmit(end, edge, &Datagram::Data);
                self.drain(end);
            }
        }
    }

    /// Passes on what links and router of a node want, until they want nothing more.
    pub(crate) fn drain(&mut self, number: NodeNumber) {
        loop {
            let links = self.drain_links(number);
            let router = !self.only_links && self.drain_router(number);
            if !links && !router {
                break;
            }
        }
        if let Some(process) = &self.nodes[number.0].process {
            self.wakes.set(
                number,
                process.planned(self.only_links).max(process.frozen_until),
            );
        }
    }

    fn drain_links(&mut self, number: NodeNumber) -> bool {
        let Some(process) = &mut self.nodes[number.0].process else {
            return false;
        };
        let local = self.now + process.offset;
        let mut outgoing = Vec::new();
        let mut inputs = Vec::new();
        for (edge, link) in &mut process.links {
            while let Some(output) = link.poll_output() {
                match output {
                    LinkOutput::Probe(probe) => outgoing.push((*edge, Control::Probe(probe))),
                    LinkOutput::Reply(reply) => outgoing.push((*edge, Control::ProbeReply(reply))),
                    LinkOutput::PeerFingerprint(fingerprint) => {
                        inputs.push((*edge, None, Some(fingerprint)));
                    }
                    LinkOutput::StateChanged { .. } | LinkOutput::Measured(_) => {
                        let measurement = link.measurement().unwrap_or_default();
                        inputs.push((*edge, Some((link.state(), measurement)), None));
                    }
                }
            }
        }
        if self.only_links {
            inputs.clear();
        }
        let anything = !outgoing.is_empty() || !inputs.is_empty();
        for (edge, link, fingerprint) in inputs {
            let (neighbour, carrier) = self.far_end(number, edge);
            let Some(process) = &mut self.nodes[number.0].process else {
                break;
            };
            if let Some((state, measurement)) = link {
                let link = LinkId(edge.0 as u32);
                let input = Input::Link {
                    link,
                    neighbour,
                    carrier,
                    state,
                    measurement,
                };
                process.router.handle(input, local);
            }
            if let Some(fingerprint) = fingerprint {
                process.router.handle(
                    Input::Fingerprint {
                        from: neighbour,
                        fingerprint,
                    },
                    local,
                );
            }
        }
        for (edge, message) in outgoing {
            self.transmit(number, edge, &Datagram::Message(message.to_bytes()));
        }
        anything
    }

    /// Who is at the other end of a node's edge, and over what.
    pub(crate) fn far_end(&self, number: NodeNumber, edge: EdgeNumber) -> (NodeId, Carrier) {
        let Edge { ends, carrier, .. } = self.network.edges[edge.0];
        let other = if ends[0] == number { ends[1] } else { ends[0] };
        (self.nodes[other.0].id, carrier)
    }

    fn drain_router(&mut self, number: NodeNumber) -> bool {
        let mut anything = false;
        loop {
            let Some(process) = &mut self.nodes[number.0].process else {
                return anything;
            };
            let local = self.now + process.offset;
            let Some(output) = process.router.poll_output() else {
                return anything;
            };
            anything = true;
            match output {
                Output::Send { link, payload, .. } => {
                    let edge = EdgeNumber(link.0 as usize);
                    let Some(link) = process.links.get_mut(&edge) else {
                        continue;
                    };
                    let sent = LinkInput::Sent {
                        datagrams: 1,
                        traffic: Watched::Control,
                    };
                    link.handle(sent, local);
                    self.flooded.count(payload.len());
                    if payload.first() == Some(&UPDATE) {
                        self.updates.count(payload.len());
                    }
                    self.transmit(number, edge, &Datagram::Message(payload));
                }
                Output::Fingerprint(fingerprint) => {
                    for link in process.links.values_mut() {
                        link.handle(LinkInput::Fingerprint(fingerprint), local);
                    }
                }
                Output::Event(event) => {
                    if let Happening::NodeRemoved { node, .. } = event.what {
                        self.drop_peer(number, node);
                    }
                    self.events.push((number, event));
                }
                Output::Routes(..) | Output::Accepted(_) | Output::Expired(_) => {}
            }
        }
    }

    /// Ends the links to a node that was removed, as the worker does.
    fn drop_peer(&mut self, number: NodeNumber, peer: NodeId) {
        let Some(peer_number) = self.number(peer) else {
            return;
        };
        let edges: BTreeSet<EdgeNumber> = self
            .network
            .edges
            .iter()
            .enumerate()
            .filter(|(_, edge)| edge.ends.contains(&number) && edge.ends.contains(&peer_number))
            .map(|(at, _)| EdgeNumber(at))
            .collect();
        let carriers: BTreeMap<_, _> = edges
            .iter()
            .map(|edge| (*edge, self.network.edges[edge.0].carrier))
            .collect();
        let Some(process) = &mut self.nodes[number.0].process else {
            return;
        };
        let local = self.now + process.offset;
        process.links.retain(|edge, _| !edges.contains(edge));
        for (edge, carrier) in carriers {
            let input = Input::Link {
                link: LinkId(edge.0 as u32),
                neighbour: peer,
                carrier,
                state: wattle_model::LinkState::Down,
                measurement: wattle_model::Measurement::default(),
            };
            process.router.handle(input, local);
        }
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

impl Process {
    /// When links, or router, want to be woken, on the fleet's clock.
    fn planned(&self, only_links: bool) -> Instant {
        let links = self.links.values().map(Link::poll_timeout);
        let router = (!only_links).then(|| self.router.poll_timeout());
        let next = links.chain(router).min().unwrap_or(Instant::NEVER);
        if next == Instant::NEVER {
            next
        } else {
            next - self.offset
        }
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
