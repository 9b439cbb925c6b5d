//! The engine: the one task that owns the router, the membership and the event log.
//!
//! It translates. Worker events become inputs of the router; the router's outputs become orders for the worker,
//! wishes for the kernel, records for the coordinator, events for people. It decides nothing that a core could.
//!
//! | queue | from | to | bound |
//! |---|---|---|---|
//! | events | data thread | engine | `data_thread::EVENT_QUEUE`, the rest waits in the worker |
//! | orders | engine | data thread | a mailbox: last snapshot of each kind, bounded routing messages |
//! | queries | local socket, metrics | engine | `query::QUERY_QUEUE`, refused as busy when full |
//! | wishes | engine | kernel task | the last one |
//! | uplink | engine | coordinator task | bounded both ways; said anew after reconnecting, and after a drop once there is room |

mod coordination;
mod demand;
mod event_log;
mod forwarding;
mod membership;
mod operations;
mod paths;
mod pulse;
mod quic;
mod reports;
mod telemetry;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::signal::unix::Signal;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant as TokioInstant, MissedTickBehavior, interval, sleep_until};
use wattle_control::{HealthLevel, HealthLine, Reply, Request};
use wattle_dataplane::Forwarding;
use wattle_host::{Clock, Monitor, Netlink, Wanted, interface_name};
use wattle_model::{Carrier, Instant, LinkId, NodeId, Prefix};
use wattle_routing::{Input, Output, Router};
use wattle_wire::record::{Record, RecordKind};
use wattle_worker::{Command, Event, Peers};

use crate::config::Config;
use crate::coordinator::{FromCoordinator, Uplink};
use crate::health::LoadWatch;
use crate::notify::{Notifier, watchdog_interval};
use crate::policy;
use crate::query::{Caller, Query};
use crate::quic::Quic;
use crate::state::{Keys, Network, StateDir};
use crate::worker_handle::{WorkerHandle, WorkerReport};

use coordination::CoordinatorView;
use demand::Demand;
use event_log::{EventLog, Happening};
pub(crate) use membership::{Destination, Membership};
use operations::Operations;
use pulse::{PULSE, WorkerPulse};

/// Between two looks at the host's health and at grants that end.
const CHORES: Duration = Duration::from_secs(5);
/// Worker events taken at once: as many as may wait, so that a busy engine does for all of them what it does for one.
const EVENTS_AT_ONCE: usize = crate::data_thread::EVENT_QUEUE;
/// Addresses at which peers see us, kept at most.
const MAX_REFLEXIVE: usize = 8;

/// What the engine is made with.
pub(crate) struct Setting {
    /// The configuration.
    pub(crate) config: Config,
    /// The UDP port in use.
    pub(crate) listen_port: u16,
    /// The QUIC carrier.
    pub(crate) quic: Quic,
    /// Why there is one worker although more were to be.
    pub(crate) few_workers: Option<String>,
    /// Index of the TUN device.
    pub(crate) interface_index: u32,
    /// The state directory, locked.
    pub(crate) state: StateDir,
    /// The node's keys.
    pub(crate) keys: Keys,
    /// The network.
    pub(crate) network: Network,
    /// The members.
    pub(crate) membership: Membership,
    /// How often the agent has started.
    pub(crate) epoch: u32,
    /// Local clients that found no place, counted by the socket.
    pub(crate) clients_turned_away: Arc<AtomicU64>,
}

/// What comes in.
pub(crate) struct Inputs {
    /// From the data thread.
    pub(crate) events: mpsc::Receiver<Event>,
    /// From local clients.
    pub(crate) queries: mpsc::Receiver<Query>,
    /// From the coordinator, if there is one.
    pub(crate) uplink: Option<Uplink>,
    /// Word that interfaces changed.
    pub(crate) monitor: Monitor,
    /// For looking at interfaces.
    pub(crate) netlink: Netlink,
    /// SIGTERM and SIGINT.
    pub(crate) interrupts: [Signal; 2],
    /// The service manager.
    pub(crate) notifier: Notifier,
}

/// How the engine ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It was told to.
    Stopped,
    /// The data thread ended by itself.
    WorkerGone,
}

/// Whether the engine goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stopping {
    GoesOn,
    Stops,
    Leaves,
}

/// The engine.
pub(crate) struct Engine {
    setting: Setting,
    router: Router,
    worker: WorkerHandle,
    /// The snapshot that the data thread forwards by.
    forwarding: Arc<Forwarding>,
    wishes: watch::Sender<Wanted>,
    clock: Clock,
    started: Instant,
    log: EventLog,
    load: LoadWatch,
    demand: Demand,
    operations: Operations,
    coordinator: CoordinatorView,
    /// Records accepted since the coordinator was last told.
    fresh_records: Vec<Record>,
    /// On-link prefixes of the host's other interfaces, with the interface's name.
    on_link: BTreeMap<Prefix, String>,
    interface_addresses: BTreeSet<IpAddr>,
    reflexive: Vec<SocketAddr>,
    /// Where peers were heard last, over each kind of plain datagrams.
    heard_at: BTreeMap<(NodeId, Carrier), IpAddr>,
    candidates_changed: bool,
    /// Configured prefixes that were not granted.
    refused_prefixes: BTreeSet<Prefix>,
    /// Neighbours that the configuration names and that are no members.
    unknown_neighbours: BTreeSet<String>,
    /// What keeps bothering until it is repaired, by code.
    troubles: Vec<HealthLine>,
    counters: Counters,
    stopping: Stopping,
}

/// What the engine counts by itself.
#[derive(Debug, Default)]
struct Counters {
    events: u64,
    peer_sets_accepted: u64,
    peer_sets_refused: u64,
    records_up: u64,
    uplink_dropped: u64,
}

impl Engine {
    /// An engine that has not told anybody anything yet.
    pub(crate) fn new(
        setting: Setting,
        worker: WorkerHandle,
        wishes: watch::Sender<Wanted>,
    ) -> Self {
        let clock = Clock;
        let now = clock.now();
        let router = wattle_routing::Config {
            identity: setting.keys.identity().clone(),
            epoch: setting.epoch,
            seed: random_u64(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            quic_port: setting.quic.port(),
            time: clock.wall(),
        };
        let router = Router::new(router, setting.membership.routing_members(), now);
        let relays = setting.config.transit;
        let mut engine = Self {
            setting,
            router,
            worker,
            forwarding: Arc::default(),
            wishes,
            clock,
            started: now,
            log: EventLog::new(),
            load: LoadWatch::default(),
            demand: Demand::default(),
            operations: Operations::new(now, relays),
            coordinator: CoordinatorView::new(),
            fresh_records: Vec::new(),
            on_link: BTreeMap::new(),
            interface_addresses: BTreeSet::new(),
            reflexive: Vec::new(),
            heard_at: BTreeMap::new(),
            candidates_changed: false,
            refused_prefixes: BTreeSet::new(),
            unknown_neighbours: BTreeSet::new(),
            troubles: Vec::new(),
            counters: Counters::default(),
            stopping: Stopping::GoesOn,
        };
        if let Some(trouble) = engine.setting.quic.trouble.take() {
            engine.trouble(HealthLevel::Warning, "quic_port", trouble);
        }
        if let Some(trouble) = engine.setting.few_workers.take() {
            engine.trouble(HealthLevel::Warning, "workers", trouble);
        }
        engine
    }

    /// Runs until it is told to stop or the data thread is gone.
    pub(crate) async fn run(mut self, mut inputs: Inputs) -> Ended {
        self.look_at_interfaces(&inputs.netlink).await;
        self.members_changed();
        self.removals_from_set();
        self.obey_router(inputs.uplink.as_mut());
        inputs
            .notifier
            .ready(&format!("{} peers", self.membership().others().count()));
        let mut chores = interval(CHORES);
        chores.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut pulse = interval(PULSE);
        pulse.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut worker = pulse::watch(self.worker.clone());
        self.operate();
        let mut watchdog = interval(watchdog_interval().unwrap_or(CHORES));
        let mut events = Vec::new();
        let [terminate, interrupt] = &mut inputs.interrupts;
        while self.stopping == Stopping::GoesOn {
            let operations = self.operations.poll_timeout(self.clock.now());
            let due = self.tokio_instant(self.router.poll_timeout().min(operations));
            tokio::select! {
                count = inputs.events.recv_many(&mut events, EVENTS_AT_ONCE) => match count {
                    0 => return Ended::WorkerGone,
                    _ => self.worker_events(events.drain(..)),
                },
                () = sleep_until(due) => self.router.handle_timeout(self.clock.now()),
                Some(query) = inputs.queries.recv() => self.answer(query),
                word = hear(inputs.uplink.as_mut()) => {
                    self.coordinator_says(word, inputs.uplink.as_mut());
                }
                () = inputs.monitor.changed() => {
                    self.look_at_interfaces(&inputs.netlink).await;
                    self.want();
                }
                _ = chores.tick() => self.chores(),
                _ = pulse.tick() => self.operations.load = self.load.percent(worker.borrow().queue),
                Ok(()) = worker.changed() => {
                    let pulse = Arc::clone(&worker.borrow_and_update());
                    self.look_at_demand(&pulse);
                }
                _ = watchdog.tick() => inputs.notifier.alive(),
                _ = terminate.recv() => self.begin_to_stop(),
                _ = interrupt.recv() => self.begin_to_stop(),
            }
            self.operate();
            self.obey_router(inputs.uplink.as_mut());
            self.tell_what_was_left_out(inputs.uplink.as_mut());
            if std::mem::take(&mut self.candidates_changed) {
                self.tell_candidates(inputs.uplink.as_mut());
            }
        }
        inputs.notifier.stopping();
        self.say_goodbye(inputs.uplink.as_mut());
        self.say_bye();
        tracing::info!("Stopping");
        std::mem::take(&mut self.setting.quic).stop();
        Ended::Stopped
    }

    fn membership(&self) -> &Membership {
        &self.setting.membership
    }

    // --- from the data thread --------------------------------------------------------------------

    fn worker_events(&mut self, events: impl Iterator<Item = Event>) {
        let mut inputs = Inbox::default();
        for event in events {
            self.counters.events += 1;
            match event {
                Event::Link {
                    link,
                    peer,
                    carrier,
                    endpoint,
                    state,
                    measurement,
                    ..
                } => {
                    self.heard(peer, carrier, endpoint);
                    inputs.push(Input::Link {
                        link,
                        neighbour: peer,
                        carrier,
                        state,
                        measurement,
                    });
                }
                Event::Control { from, payload, .. } => {
                    inputs.push(Input::Message { from, payload });
                }
                Event::Fingerprint {
                    from, fingerprint, ..
                } => inputs.push(Input::Fingerprint { from, fingerprint }),
                Event::Way {
                    destination,
                    via,
                    forwards,
                    ..
                } => self.way_judged(destination, via, forwards),
                Event::Session { peer, .. } => {
                    tracing::debug!(peer = %self.membership().node_ref(peer).name, "Session established");
                }
                Event::Reflexive { address, .. } => self.seen_at(address),
            }
        }
        self.router.handle_all(inputs.inputs, self.clock.now());
    }

    /// Whether somebody is to be a neighbour because there is much to carry.
    fn look_at_demand(&mut self, pulse: &WorkerPulse) {
        let carried = pulse.carried.iter().copied();
        let membership = &self.setting.membership;
        let may_link = |peer| membership.may_link_on_demand(peer);
        if let Some(wanted) = self.demand.look(self.clock.now(), carried, may_link) {
            tracing::info!(links = wanted.len(), "Links on demand changed");
            self.setting.membership.set_on_demand(wanted);
            self.tell_peers(self.membership().worker_peers(self.clock.wall()));
        }
    }

    /// A relay does not pass on what is for a destination, or does so again: the data thread goes around it by itself.
    fn way_judged(&mut self, destination: NodeId, via: NodeId, forwards: bool) {
        let name = |node| self.membership().node_ref(node);
        let (to, relay) = (name(destination), name(via));
        let (kind, verb) = match forwards {
            true => ("relay_trusted", "passes on again"),
            false => ("relay_left", "does not pass on"),
        };
        let text = format!("{} {verb} what is for {}", relay.name, to.name);
        let told = Happening::new(kind, text).node(relay);
        self.happened(told.field("destination", to.name));
    }

    /// A neighbour sees this node at an address: behind a NAT, others may have a chance there too.
    fn seen_at(&mut self, address: SocketAddr) {
        if !self.reflexive.contains(&address) {
            self.reflexive.insert(0, address);
            self.reflexive.truncate(MAX_REFLEXIVE);
            self.candidates_changed = true;
        }
    }

    // --- from the router -------------------------------------------------------------------------

    fn obey_router(&mut self, uplink: Option<&mut Uplink>) {
        let mut routes_changed = false;
        while let Some(output) = self.router.poll_output() {
            match output {
                Output::Send { link, payload, .. } => {
                    self.worker.order(Command::SendControl { link, payload });
                }
                Output::Routes(..) => routes_changed = true,
                Output::Fingerprint(fingerprint) => {
                    self.worker.order(Command::SetFingerprint(fingerprint));
                }
                Output::Accepted(record) => self.record_accepted(record),
                Output::Expired(_) => {}
                Output::Event(event) => self.log_routing(&event),
            }
        }
        if routes_changed {
            self.forward();
            self.want();
        }
        self.tell_records(uplink);
    }

    fn record_accepted(&mut self, record: Record) {
        if record.key().kind == RecordKind::Removal && self.setting.membership.remove(&record) {
            let node = record.origin();
            let name = self.membership().node_ref(node);
            self.worker.order(Command::DropPeer(node));
            let text = format!("{} was removed from the network", name.name);
            self.happened(Happening::new("member_removed", text).node(name));
            self.members_changed();
        }
        let is_node = record.key().kind == RecordKind::Node;
        self.fresh_records.push(record);
        if is_node {
            self.quic_neighbours();
        }
    }

    /// Hands the data thread a new forwarding snapshot.
    fn forward(&mut self) {
        let snapshot = forwarding::snapshot(self.membership(), &self.router);
        self.forwarding = Arc::new(snapshot.keeping(&self.forwarding));
        let order = Command::SetForwarding(Arc::clone(&self.forwarding));
        self.worker.order(order);
    }

    /// Tells the kernel task what there should be.
    fn want(&self) {
        let plan = [self.setting.network.ipv4, self.setting.network.ipv6];
        let wanted = forwarding::wanted(
            self.membership(),
            self.router.topology(),
            plan.into_iter().flatten(),
            &self.on_link,
        );
        self.wishes.send_if_modified(|current| {
            let changed = *current != wanted;
            *current = wanted;
            changed
        });
    }

    /// Whoever is in or out, and what they own: everybody who cares is told.
    fn members_changed(&mut self) {
        let now = self.clock.now();
        self.router
            .handle(Input::Members(self.membership().routing_members()), now);
        let (announced, refused) = self
            .membership()
            .announceable(&self.setting.config.prefixes);
        for prefix in refused.difference(&self.refused_prefixes) {
            tracing::warn!(%prefix, "This prefix is configured but not granted; it is not announced");
        }
        self.refused_prefixes = refused;
        self.apply_policies(now);
        self.tell_peers(self.membership().worker_peers(self.clock.wall()));
        self.router
            .handle(Input::Prefixes(announced.into_iter().collect()), now);
        self.forward();
        self.want();
    }

    /// Tells routing what the configuration wants of the links to those who are members.
    fn apply_policies(&mut self, now: Instant) {
        let config = &self.setting.config;
        let find = |name: &str| self.membership().find(name).map(|found| found.node);
        let (policies, unknown) = policy::policies((&config.links, &config.classes), find);
        for peer in unknown.difference(&self.unknown_neighbours) {
            tracing::warn!(
                peer,
                "[[links]] names a peer that is no node of the network; the entry is left out until it is"
            );
        }
        self.unknown_neighbours = unknown;
        self.router.handle(Input::Policies(policies), now);
    }

    /// Tells the data thread and the QUIC carrier whom they may talk to.
    fn tell_peers(&self, peers: Arc<Peers>) {
        self.worker.order(Command::SetPeers(peers));
        self.quic_neighbours();
    }

    // --- from the host ---------------------------------------------------------------------------

    async fn look_at_interfaces(&mut self, netlink: &Netlink) {
        match netlink
            .dialable_addresses(Some(self.setting.interface_index))
            .await
        {
            Ok(found) => {
                let addresses = found.iter().map(|found| found.address).collect();
                if addresses != self.interface_addresses {
                    self.candidates_changed = true;
                    self.setting.quic.moved();
                }
                self.interface_addresses = addresses;
                let on_link = found.iter().filter_map(|found| {
                    let prefix = Prefix::new(found.address, found.prefix_length)?;
                    Some((prefix, interface_name(found.interface)))
                });
                self.on_link = on_link.filter(|(prefix, _)| !prefix.is_host()).collect();
            }
            Err(error) => tracing::warn!(%error, "The host's addresses cannot be read"),
        }
    }

    fn chores(&mut self) {
        let now = self.clock.now();
        self.router.handle(Input::Time(self.clock.wall()), now);
        let peers = self.membership().worker_peers(self.clock.wall());
        let valid = peers.peers.len();
        if valid + 1 < self.membership().members().count() {
            // Grants ended: their holders must not be talked to any longer.
            self.tell_peers(peers);
        }
    }

    // --- from local clients ----------------------------------------------------------------------

    fn answer(&mut self, query: Query) {
        match query {
            Query::Events(reply) => drop(reply.send(self.log.feed())),
            Query::Local {
                request,
                caller,
                worker,
                reply,
            } => {
                let answer = self.reply(&request, caller, worker.as_deref());
                let _client_gone = reply.send(answer);
            }
        }
    }

    fn reply(&mut self, request: &Request, caller: Caller, worker: Option<&WorkerReport>) -> Reply {
        match request {
            Request::Leave {} => self.leave(caller),
            Request::Drain { mode, for_s } => self.drain(*mode, *for_s),
            Request::Undrain {} => self.undrain(),
            Request::Prefer { via, dst, for_s } => {
                self.prefer(via.as_deref(), dst.as_deref(), *for_s)
            }
            Request::Metrics {} => self.metrics(worker),
            other => self.report(other, caller, worker),
        }
    }

    fn leave(&mut self, caller: Caller) -> Reply {
        tracing::warn!(uid = caller.uid, "Leaving the network");
        match self.setting.state.forget_network() {
            Ok(()) => {
                self.stopping = Stopping::Leaves;
                Reply::Done
            }
            Err(error) => reports::failure("the network was not left", error.to_string()),
        }
    }

    // --- words -----------------------------------------------------------------------------------

    fn happened(&mut self, happening: Happening) {
        self.log.record(self.clock.wall(), happening);
    }

    fn log_routing(&mut self, event: &wattle_routing::Event) {
        let happening = telemetry::happening(self.membership(), event);
        self.log.record(event.time, happening);
    }

    fn trouble(&mut self, level: HealthLevel, code: &str, text: String) {
        self.relieve(code);
        self.troubles.push(HealthLine {
            level,
            code: code.to_owned(),
            text,
        });
    }

    fn relieve(&mut self, code: &str) {
        self.troubles.retain(|line| line.code != code);
    }

    fn tokio_instant(&self, at: Instant) -> TokioInstant {
        // A day is as good as for ever.
        const DAY: u64 = 86_400_000_000;
        let wait = at.since(self.clock.now()).0.min(DAY);
        TokioInstant::now() + Duration::from_micros(wait)
    }
}

/// What the router is told next, without measurements that a later one of the same link and state replaces.
#[derive(Debug, Default)]
struct Inbox {
    inputs: Vec<Input>,
    last: BTreeMap<LinkId, usize>,
}

impl Inbox {
    fn push(&mut self, input: Input) {
        let Input::Link { link, state, .. } = &input else {
            self.inputs.push(input);
            return;
        };
        let (link, state) = (*link, *state);
        let waiting = self.last.get(&link).and_then(|at| self.inputs.get_mut(*at));
        let replaced = waiting.filter(
            |waiting| matches!(waiting, Input::Link { state: before, .. } if *before == state),
        );
        match replaced {
            Some(replaced) => *replaced = input,
            None => {
                self.last.insert(link, self.inputs.len());
                self.inputs.push(input);
            }
        }
    }
}

async fn hear(uplink: Option<&mut Uplink>) -> FromCoordinator {
    match uplink {
        Some(uplink) => uplink.hear().await,
        None => std::future::pending().await,
    }
}

fn random_u64() -> u64 {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).expect("a Linux kernel always has random numbers");
    u64::from_be_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use wattle_model::{LinkState, Measurement, Micros};

    use super::*;

    #[test]
    fn of_several_measurements_the_last_one_counts_and_every_change_of_state_does() {
        let mut inbox = Inbox::default();
        let told = [
            (1, LinkState::Up, 10),
            (2, LinkState::Up, 10),
            (1, LinkState::Up, 20),
            (1, LinkState::Down, 0),
            (1, LinkState::Up, 30),
            (1, LinkState::Up, 40),
        ];
        for (link, state, rtt) in told {
            inbox.push(Input::Link {
                link: LinkId(link),
                neighbour: NodeId(7),
                carrier: Carrier::Udp4,
                state,
                measurement: Measurement {
                    rtt: Micros(rtt),
                    ..Measurement::default()
                },
            });
        }
        let left: Vec<_> = inbox
            .inputs
            .iter()
            .map(|input| match input {
                Input::Link {
                    link,
                    state,
                    measurement,
                    ..
                } => (link.0, *state, measurement.rtt.0),
                other => panic!("{other:?}"),
            })
            .collect();
        let expected = [
            (1, LinkState::Up, 20),
            (2, LinkState::Up, 10),
            (1, LinkState::Down, 0),
            (1, LinkState::Up, 40),
        ];
        assert_eq!(left, expected);
    }
}
