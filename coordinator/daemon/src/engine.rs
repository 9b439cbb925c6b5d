//! The task that owns the fleet: membership, topology, peer sets, and who is connected. It takes questions from one
//! bounded queue, many at a time, writes what they changed in one transaction, and only then answers.
//!
//! If a transaction fails, nothing that was decided since the last one is true: the engine reads its state back and
//! closes all connections; agents come back and say everything anew.

mod connections;
mod members;
mod neighbours;
mod notices;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use wattle_api::agent::{Join, NetworkInfo, ToAgent};
use wattle_api::rest::{LeafCreated, LeafRequest, Node, Topology as TopologyView};
use wattle_api::topology::Entity;
use wattle_fleet::peer_set::PeerSets;
use wattle_fleet::replica::Verdict;
use wattle_fleet::{Alerts, Membership, MirrorHealth, Topology};
use wattle_model::{Instant, NodeId, UnixTime};
use wattle_store::{Change, Store, StoreError};
use wattle_wire::grant::PeerSetError;
use wattle_wire::key::{PublicKey, SecretKey};
use wattle_wire::record::{Record, RecordKey};

use crate::clock::{Clock, wall};
use crate::counters::{Counter, Counters};
pub(crate) use crate::engine::connections::{AGENT_QUEUE, Admission, Connection};
pub(crate) use crate::engine::members::Refused;
use crate::engine::neighbours::REWIRE_EVERY;
pub(crate) use crate::engine::notices::Author;

/// Questions that wait: enough for every agent of a large fleet to have one under way. A records question is the
/// largest, at most one frame of 4 MiB, in practice a few kB.
pub(crate) const QUEUE: usize = 1024;

/// Questions that go into one transaction: bounds how long the first of them waits for its answer.
const BATCH: usize = 256;

/// Transactions that may fail in a row before the coordinator gives up and lets its supervisor start it anew.
const MAX_FAILURES: u32 = 5;

/// From one try to the next while the disk is full.
const FULL_PAUSE: Duration = Duration::from_secs(1);

/// From one try to the next after another failure.
const FAILURE_PAUSE: Duration = Duration::from_millis(100);

/// What the engine is asked.
pub(crate) enum Question {
    /// An agent said hello.
    Hello {
        identity: PublicKey,
        connection: Connection,
        answer: Answer<Admission>,
    },
    /// An agent wants to become a member; on this connection, unless it is attached already.
    Join {
        identity: PublicKey,
        join: Box<Join>,
        connection: Option<Connection>,
        answer: Answer<ToAgent>,
    },
    /// A member's connection ended.
    Gone { node: NodeId, connection: u64 },
    /// A member holds this revision.
    Ack { node: NodeId, revision: u64 },
    /// A member can be dialled there.
    Candidates {
        node: NodeId,
        candidates: Vec<std::net::SocketAddr>,
    },
    /// A member reports records, parsed but not verified.
    Records { node: NodeId, records: Vec<Record> },
    /// Somebody wants a node removed: an operator, or the node itself.
    Remove {
        node: String,
        by: Author,
        answer: Answer<()>,
    },
    /// An operator attaches a stock WireGuard device.
    AddLeaf {
        request: Box<LeafRequest>,
        by: Author,
        answer: Answer<LeafCreated>,
    },
    /// How it goes with Kafka.
    Mirror(MirrorHealth),
    /// Somebody wants to see the members.
    Nodes { answer: oneshot::Sender<Vec<Node>> },
    /// Somebody wants to see the topology.
    Topology {
        answer: oneshot::Sender<TopologyView>,
    },
}

/// Where an answer goes that may be a refusal.
pub(crate) type Answer<T> = oneshot::Sender<Result<T, Refused>>;

/// What the rest of the daemon holds of the engine.
#[derive(Clone)]
pub(crate) struct Handle {
    questions: mpsc::Sender<Question>,
    /// The newest peer sets; changes with each revision.
    pub(crate) sets: watch::Receiver<Arc<PeerSets>>,
}

impl Handle {
    /// Asks and waits for the answer; `None` if the engine has ended.
    pub(crate) async fn ask<T>(
        &self,
        question: impl FnOnce(oneshot::Sender<T>) -> Question,
    ) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        self.tell(question(answer)).await?;
        answered.await.ok()
    }

    /// Tells, waiting for a place in the queue; `None` if the engine has ended.
    pub(crate) async fn tell(&self, question: Question) -> Option<()> {
        self.questions.send(question).await.ok()
    }
}

/// Why the engine cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EngineError {
    /// The database fails.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The stored peer set is not one that the root key signed.
    #[error(
        "the stored peer set is refused ({0}); do root.key and coordinator.db belong together?"
    )]
    PeerSet(#[from] PeerSetError),
}

/// Something to say once everything is durable.
type Say = Box<dyn FnOnce(&mut Engine) + Send + Sync>;

/// The fleet and everything that serves it.
pub(crate) struct Engine {
    store: Store,
    root: SecretKey,
    network: NetworkInfo,
    plan: wattle_fleet::AddressPlan,
    clock: Clock,
    counters: Arc<Counters>,
    members: Membership,
    topology: Topology,
    alerts: Alerts,
    sets: PeerSets,
    published: watch::Sender<Arc<PeerSets>>,
    connected: BTreeMap<NodeId, connections::Connected>,
    last_seen: BTreeMap<NodeId, UnixTime>,
    pending: Pending,
    /// The topology as the last event left it, while what differs since cannot be written because the disk is full.
    written: Option<Vec<Entity>>,
    failures: u32,
    /// When the neighbours of a large network are chosen anew.
    rewire_at: Instant,
}

/// What the questions since the last transaction changed, and what is to be said once it is durable.
#[derive(Default)]
struct Pending {
    change: Change,
    members_changed: bool,
    said: Vec<Say>,
    /// Who wants to see the topology as a transaction leaves it, be it this one or, if it fails, the one before.
    viewers: Vec<oneshot::Sender<TopologyView>>,
}

impl Engine {
    /// Reads the state back and writes down what happened while nobody looked.
    pub(crate) async fn start(
        store: Store,
        root: SecretKey,
        network: NetworkInfo,
        plan: wattle_fleet::AddressPlan,
        counters: Arc<Counters>,
    ) -> Result<(Self, Handle, mpsc::Receiver<Question>), EngineError> {
        let id = network.id;
        let (questions, queue) = mpsc::channel(QUEUE);
        let (published, sets) = watch::channel(Arc::new(PeerSets::default()));
        let clock = Clock::start();
        let mut engine = Self {
            store,
            root,
            network,
            members: Membership::recover(id, plan.clone(), 0, [], []),
            plan,
            clock,
            counters,
            topology: Topology::new(id),
            alerts: notices::no_alerts(id),
            sets: PeerSets::default(),
            published,
            connected: BTreeMap::new(),
            last_seen: BTreeMap::new(),
            pending: Pending::default(),
            written: None,
            failures: 0,
            rewire_at: clock.now() + REWIRE_EVERY,
        };
        engine.recover().await?;
        engine.note_start().await?;
        Ok((engine, Handle { questions, sets }, queue))
    }

    /// Answers questions until it is told to stop or the database is lost.
    pub(crate) async fn run(
        mut self,
        mut queue: mpsc::Receiver<Question>,
        stop: CancellationToken,
    ) -> Result<(), EngineError> {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let expiry = self.until_expiry();
            tokio::select! {
                count = queue.recv_many(&mut batch, BATCH) => if count == 0 { break },
                () = tokio::time::sleep(expiry) => {}
                () = stop.cancelled() => break,
            }
            for question in batch.drain(..) {
                self.handle(question).await;
            }
            let expired = self.topology.handle_timeout(self.clock.now());
            self.pending.change.differences.extend(expired);
            self.watch();
            self.rewire();
            self.commit().await?;
        }
        self.connected.clear();
        self.store.close().await;
        Ok(())
    }

    async fn handle(&mut self, question: Question) {
        match question {
            Question::Hello {
                identity,
                connection,
                answer,
            } => {
                self.hello(&identity, connection, answer);
            }
            Question::Join {
                identity,
                join,
                connection,
                answer,
            } => {
                self.join(identity, *join, connection, answer).await;
            }
            Question::Gone { node, connection } => self.gone(node, connection),
            Question::Ack { node, revision } => self.ack(node, revision),
            Question::Candidates { node, candidates } => self.candidates(node, candidates),
            Question::Records { node, records } => self.records(node, &records),
            Question::Remove { node, by, answer } => self.remove(&node, &by, answer),
            Question::AddLeaf {
                request,
                by,
                answer,
            } => self.add_leaf(*request, &by, answer),
            Question::Mirror(health) => {
                self.alerts.observe_mirror(health, self.clock.now(), wall());
            }
            Question::Nodes { answer } => drop(answer.send(self.nodes())),
            Question::Topology { answer } => self.pending.viewers.push(answer),
        }
    }

    fn records(&mut self, node: NodeId, records: &[Record]) {
        self.last_seen.insert(node, wall().0);
        let now = self.clock.now();
        for record in records {
            let ingest = self.topology.accept(now, record);
            self.counters.count(match ingest.verdict {
                Verdict::Accepted => Counter::RecordsAccepted,
                Verdict::Stale | Verdict::Removal => Counter::RecordsStale,
                Verdict::UnknownOrigin | Verdict::BadSignature => Counter::RecordsRefused,
            });
            if ingest.verdict == Verdict::Accepted {
                self.pending.change.records.push(record.clone());
                self.pending.change.differences.extend(ingest.differences);
            }
        }
    }

    /// The topology as the last transaction left it.
    fn view(&self) -> TopologyView {
        let mut view = TopologyView {
            network: self.network.id,
            term: self.store.term(),
            seq: self.store.last_seq(),
            ts: wall(),
            nodes: vec![],
            links: vec![],
            prefixes: vec![],
        };
        let mut add = |entity: &Entity| match entity.clone() {
            Entity::Node(node) => view.nodes.push(node),
            Entity::Link(link) => view.links.push(link),
            Entity::Prefix(prefix) => view.prefixes.push(prefix),
        };
        match &self.written {
            Some(written) => written.iter().for_each(&mut add),
            None => self.topology.entities().for_each(&mut add),
        }
        view
    }

    fn show(&self, viewers: Vec<oneshot::Sender<TopologyView>>) {
        for viewer in viewers {
            // Whoever asked may have gone.
            drop(viewer.send(self.view()));
        }
    }

    /// Makes everything since the last transaction durable, then says what is to be said.
    async fn commit(&mut self) -> Result<(), EngineError> {
        if std::mem::take(&mut self.pending.members_changed) {
            self.sets.push(self.members.revise(wall().0), &self.root);
            self.pending.change.peer_set =
                Some((self.sets.revision(), self.sets.signed().to_vec()));
        }
        let Pending {
            change,
            said,
            viewers,
            ..
        } = std::mem::take(&mut self.pending);
        if !change.is_empty() {
            match self.store.commit(&change, wall()).await {
                Ok(committed) => {
                    self.failures = 0;
                    self.written = None;
                    self.counters.count(Counter::Commits);
                    self.counters.add(Counter::Events, committed.events);
                }
                Err(error) => {
                    self.take_back(error).await?;
                    self.show(viewers);
                    return Ok(());
                }
            }
        }
        for say in said {
            say(self);
        }
        self.show(viewers);
        if change.peer_set.is_some() {
            self.published.send_replace(Arc::new(self.sets.clone()));
        }
        Ok(())
    }

    /// Whoever waits for an answer gets none and comes back. A full disk is waited for, however long it takes: what can
    /// be read goes on being answered meanwhile.
    async fn take_back(&mut self, error: StoreError) -> Result<(), EngineError> {
        self.counters.count(Counter::CommitsFailed);
        self.failures += u32::from(!error.is_full());
        let lost = matches!(error, StoreError::Fenced(_)) || self.failures >= MAX_FAILURES;
        tracing::error!(%error, failures = self.failures, "A transaction failed; all agents are let go");
        if lost {
            return Err(error.into());
        }
        self.connected.clear();
        let pause = if error.is_full() {
            FULL_PAUSE
        } else {
            FAILURE_PAUSE
        };
        tokio::time::sleep(pause).await;
        self.recover().await
    }

    async fn recover(&mut self) -> Result<(), EngineError> {
        let state = self.store.state().await?;
        let members = state.members.into_iter();
        let removals = state.removals.into_iter();
        let network = self.network.id;
        self.members = Membership::recover(
            network,
            self.plan.clone(),
            state.revision,
            members,
            removals,
        );
        self.sets = match state.peer_set {
            Some(signed) => PeerSets::recover(signed, &self.root.public())?,
            None => PeerSets::default(),
        };
        let stored: Vec<RecordKey> = state.records.iter().map(Record::key).collect();
        let grants = self
            .members
            .members()
            .map(|(_, member)| member.grant.grant());
        let (topology, differences) = Topology::recover(
            network,
            grants,
            state.records,
            state.entities,
            self.clock.now(),
        );
        self.topology = topology;
        if let Some(set) = self.sets.newest() {
            let measured = self.topology.round_trips();
            self.members.resume(set, self.clock.now(), measured);
        }
        let raised = self.store.alerts().await?;
        self.alerts = notices::alerts_of(network, raised, &self.topology, self.clock.now());
        // Records of nodes that are members no more.
        let forgotten = stored
            .into_iter()
            .filter(|key| self.members.member(key.origin).is_none())
            .collect();
        tracing::info!(
            term = self.store.term(),
            seq = state.seq,
            members = self.members.members().len(),
            differences = differences.len(),
            "State read"
        );
        let change = Change {
            differences,
            forgotten,
            ..Change::default()
        };
        self.published.send_replace(Arc::new(self.sets.clone()));
        self.written = None;
        if change.is_empty() {
            return Ok(());
        }
        match self.store.commit(&change, wall()).await {
            // It goes with the next transaction; until then it is not to be seen.
            Err(error) if error.is_full() => {
                self.pending.change = change;
                self.written = Some(self.store.state().await?.entities);
            }
            other => drop(other?),
        }
        Ok(())
    }

    fn until_expiry(&self) -> Duration {
        /// Without records there is nothing to wait for; an hour is as good as never.
        const LONG: Duration = Duration::from_secs(3600);
        if !self.pending.change.is_empty() {
            return FULL_PAUSE;
        }
        let timeouts = [
            self.topology.poll_timeout(),
            self.alerts.poll_timeout(),
            self.rewire_at,
        ];
        let due = timeouts.into_iter().min().unwrap_or(self.rewire_at);
        Duration::from(due.since(self.clock.now())).min(LONG)
    }

    fn later(&mut self, say: impl FnOnce(&mut Self) + Send + Sync + 'static) {
        self.pending.said.push(Box::new(say));
    }
}
