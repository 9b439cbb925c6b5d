//! One node's router: links and messages in, messages, routes and events out.
//!
//! Owns the database, the adjacencies and this node's records; composes the rooms beside it, decides nothing that they
//! could. Who may speak is decided here: records of members with their signature, messages of members.

mod accepting;
mod announcing;
mod deciding;
mod interface;
mod links;
mod membership;
mod plan;
mod trigger;
mod turn;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use wattle_model::{Class, Cost, Instant, LinkId, NodeId, Prefix, UnixTime};
use wattle_wire::control::Control;
use wattle_wire::record::{Record, RecordKey};

use self::deciding::{Computing, Unread};
pub use self::interface::{Config, Counters, Input, Output};
pub use self::links::Link;
use self::plan::Plans;
use self::trigger::Trigger;
use crate::cost::Health;
use crate::course::{Courses, EachAnew};
use crate::damping::Damper;
use crate::event::{Cause, Event, Happening};
use crate::flooding::{Adjacency, Recent};
use crate::graph::Graph;
use crate::lsdb::Lsdb;
use crate::origin::{Lost, Origin};
use crate::pacing::Pacer;
use crate::policy::Policies;
use crate::routes::{Preference, Routes};
use crate::topology::{Members, Topology};
use crate::verifier::{EachTime, Verifier};

/// Outputs that may wait; the caller drains them after every verb. Above it the oldest are dropped and counted.
const MAX_OUTPUTS: usize = 65_536;

/// The router of one node.
pub struct Router {
    pub(crate) node: NodeId,
    pub(crate) members: Arc<Members>,
    pub(crate) links: BTreeMap<LinkId, Link>,
    pub(crate) database: Lsdb,
    pub(crate) topology: Topology,
    unread: Unread,
    plans: Plans,
    version: String,
    quic_port: Option<u16>,
    removed: BTreeMap<NodeId, u64>,
    adjacencies: BTreeMap<NodeId, Adjacency>,
    fingerprints: BTreeMap<NodeId, u64>,
    origin: Origin,
    prefixes: Vec<Prefix>,
    health: Health,
    preferences: Vec<Preference>,
    policies: Policies,
    transit: Damper,
    untold: Lost,
    wall: (Instant, UnixTime),
    pacer: Pacer,
    recent: Recent,
    /// Per origin, the neighbours that get its records from others; until a link comes or goes.
    spared: BTreeMap<NodeId, BTreeSet<NodeId>>,
    computing: Computing,
    verifier: Box<dyn Verifier>,
    courses: Arc<dyn Courses>,
    counters: Counters,
    outputs: VecDeque<Output>,
}

impl Router {
    /// A router that knows nobody but `members`.
    pub fn new(config: Config, members: impl Into<Arc<Members>>, now: Instant) -> Self {
        Self::with_verifier(config, members, now, Box::new(EachTime))
    }

    /// The same, with somebody else to judge signatures.
    pub fn with_verifier(
        config: Config,
        members: impl Into<Arc<Members>>,
        now: Instant,
        verifier: Box<dyn Verifier>,
    ) -> Self {
        let members = members.into();
        let node = config.identity.public().node_id();
        let mut router = Self {
            node,
            links: BTreeMap::new(),
            database: Lsdb::default(),
            topology: Topology::default(),
            unread: Unread::All,
            plans: Plans::default(),
            version: config.version,
            quic_port: config.quic_port,
            removed: BTreeMap::new(),
            adjacencies: BTreeMap::new(),
            fingerprints: BTreeMap::new(),
            origin: Origin::new(members.network, config.identity, config.epoch, config.seed),
            prefixes: Vec::new(),
            health: Health::default(),
            preferences: Vec::new(),
            policies: Policies::default(),
            untold: Lost::new(),
            transit: Damper::new(now, Cost(0)),
            wall: (now, config.time),
            pacer: Pacer::new(node),
            recent: Recent::default(),
            spared: BTreeMap::new(),
            computing: Computing {
                due: Instant::NEVER,
                trigger: Cause::PeerSet.into(),
                last: Instant(0),
                pause: 0,
            },
            verifier,
            courses: Arc::new(EachAnew),
            counters: Counters::default(),
            outputs: VecDeque::new(),
            members,
        };
        router.origin.heard_by(router.members.nodes.len());
        router.tell_node(now);
        router.tell_links(now);
        router.tell_prefixes(now);
        router.settle(now);
        router
    }

    /// The same router, with somebody else to follow the choices of others.
    #[must_use]
    pub fn with_courses(self, courses: Arc<dyn Courses>) -> Self {
        Self { courses, ..self }
    }

    /// Takes in what happened.
    pub fn handle(&mut self, input: Input, now: Instant) {
        self.handle_all([input], now);
    }

    /// Takes in all that happened since the last time: cheaper than one by one, since what follows is done once.
    pub fn handle_all(&mut self, inputs: impl IntoIterator<Item = Input>, now: Instant) {
        for input in inputs {
            self.take_in(input, now);
        }
        self.settle(now);
    }

    fn take_in(&mut self, input: Input, now: Instant) {
        match input {
            Input::Link {
                link,
                neighbour,
                carrier,
                state,
                measurement,
            } => {
                self.link_changed(now, link, (neighbour, carrier), state, measurement);
            }
            Input::Message { from, payload } => self.message(now, from, &payload),
            Input::Fingerprint { from, fingerprint } => {
                self.fingerprint_told(now, from, fingerprint);
            }
            Input::Members(members) => self.members_changed(now, members),
            Input::Removal(bytes) => match Record::parse(&bytes) {
                Ok(record) => self.record(now, None, record),
                Err(_) => self.counters.malformed += 1,
            },
            Input::Prefixes(prefixes) => {
                self.prefixes = prefixes;
                self.prefixes.sort_unstable();
                self.prefixes.dedup();
                self.tell_prefixes(now);
            }
            Input::Health(health) => self.health_changed(now, health),
            Input::Preferences(preferences) => {
                self.preferences = preferences;
                self.compute_soon(now, Cause::Operator);
            }
            Input::Policies(policies) => self.policies_changed(now, policies),
            Input::Time(time) => self.wall = (now, time),
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        let expired = self.database.expire(now);
        expired.iter().for_each(|key| self.unread.add(key.origin));
        if !expired.is_empty() {
            self.outputs_of_expiry(expired);
            self.compute_soon(now, Cause::Time);
        }
        let transit_changed = self.transit.handle_timeout(now);
        if transit_changed {
            self.tell_node(now);
        }
        self.retell_costs(now);
        if self.links_due() <= now || self.origin.poll_timeout() <= now {
            self.tell_links(now);
        }
        let refreshed = self.origin.refresh(now);
        self.write(now, refreshed);
        self.settle(now);
    }

    /// When [`Self::handle_timeout`] is to be called next.
    pub fn poll_timeout(&self) -> Instant {
        let dampers = self.links.values().flat_map(Link::dampers);
        let dampers = dampers.chain([&self.transit]).map(Damper::poll_timeout);
        let adjacencies = self.adjacencies.values().map(Adjacency::poll_timeout);
        let others = [
            self.computing.due,
            self.links_due(),
            self.database.poll_timeout(),
            self.origin.poll_timeout(),
            self.plans.poll_timeout(),
        ];
        dampers
            .chain(adjacencies)
            .chain(others)
            .min()
            .unwrap_or(Instant::NEVER)
    }

    /// The next thing to do or to know.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Ends every verb: computes what is due, tells the fingerprint, sends what waits.
    fn settle(&mut self, now: Instant) {
        if self.computing.due <= now {
            self.compute(now, self.computing.trigger);
        }
        self.decide_on(now);
        let fingerprint = self.database.fingerprint();
        if fingerprint != self.recent.current() {
            self.recent.push(now, fingerprint);
            self.outputs.push_back(Output::Fingerprint(fingerprint));
            for adjacency in self.adjacencies.values_mut() {
                adjacency.fingerprints(now, None, &self.recent);
            }
        }
        for (neighbour, adjacency) in &mut self.adjacencies {
            if adjacency.reckon_timeout() > now {
                continue;
            }
            for message in adjacency.flush(now, &self.database) {
                self.counters.sent += 1;
                let payload = Control::Flood(message).to_bytes();
                let (link, neighbour) = (adjacency.link, *neighbour);
                self.outputs.push_back(Output::Send {
                    link,
                    neighbour,
                    payload,
                });
            }
        }
        while self.outputs.len() > MAX_OUTPUTS {
            self.outputs.pop_front();
            self.counters.dropped += 1;
        }
    }

    fn outputs_of_expiry(&mut self, keys: impl IntoIterator<Item = RecordKey>) {
        self.outputs.extend(keys.into_iter().map(Output::Expired));
    }

    fn event(&mut self, now: Instant, trigger: Trigger, what: Happening) {
        let event = Event {
            at: now,
            time: self.time(now),
            cause: trigger.cause,
            latency: trigger.began.map(|began| began.until(now)),
            what,
        };
        self.outputs.push_back(Output::Event(event));
    }

    fn time(&self, now: Instant) -> UnixTime {
        UnixTime(self.wall.1.0 + now.since(self.wall.0).as_millis())
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// This node's links.
    pub fn links(&self) -> &BTreeMap<LinkId, Link> {
        &self.links
    }

    /// The database.
    pub fn database(&self) -> &Lsdb {
        &self.database
    }

    /// The nodes, links and prefixes that the database describes, as of the last computation.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The routes of packets that do not say otherwise.
    pub fn routes(&self) -> &Arc<Routes> {
        self.routes_of(Class::Latency)
    }

    /// The routes of a class: those of latency where nobody prices it apart.
    pub fn routes_of(&self, class: Class) -> &Arc<Routes> {
        &self.plans.of(class).routes
    }

    /// The classes that have routes of their own, beside latency.
    pub fn apart(&self) -> impl Iterator<Item = Class> + '_ {
        self.plans.apart()
    }

    /// The network as a class prices it.
    pub(crate) fn graph_of(&self, class: Class) -> &Graph {
        &self.plans.of(class).graph
    }

    /// Who belongs to the network, without those who were removed.
    pub fn members(&self) -> &Members {
        &self.members
    }

    /// Whether this node knows what one of its neighbours knows.
    pub fn is_in_sync(&self) -> bool {
        let own = self.database.fingerprint();
        self.fingerprints.values().any(|theirs| *theirs == own)
    }

    /// How well this node said it is.
    pub fn health(&self) -> Health {
        self.health
    }

    /// What was counted.
    pub fn counters(&self) -> Counters {
        self.counters
    }
}
