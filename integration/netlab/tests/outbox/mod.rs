//! An outbox in memory with made-up events, and what the tests of the mirror have in common.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, LazyLock, Mutex, mpsc};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use wattle_api::Timestamp;
use wattle_api::stream::Kafka;
use wattle_api::topology::{
    Cause, Entity, EntityKey, EntityKind, EventId, NodeEntity, Op, Source, TopologyEvent,
};
use wattle_mirror::{Config, Image, Loss, Mirror, Notice, Outbox, OutboxError, Row};
use wattle_model::{NetworkId, NodeId, NodeIndex};

pub(crate) const NETWORK: &str = "lab";

/// How long a mirror may take: seconds here, and others may use the machine as well.
const PATIENCE: Duration = Duration::from_secs(240);

pub(crate) fn start_with(kafka: Kafka, term: u64, outbox: &ListOutbox) -> Mirror {
    Mirror::start(config(kafka, term), outbox.clone()).unwrap()
}

pub(crate) fn config(kafka: Kafka, term: u64) -> Config {
    Config {
        kafka,
        network: NetworkId(0xab),
        network_name: NETWORK.into(),
        term,
    }
}

pub(crate) fn wait_until(mirror: &Mirror, seq: u64) {
    let deadline = Instant::now() + PATIENCE;
    while mirror.status().mirrored_seq() < seq {
        assert!(
            Instant::now() < deadline,
            "{seq} is not mirrored: {:#?}",
            mirror.status()
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Events about forty nodes in five sites that come, change and go.
pub(crate) fn event(seq: u64) -> TopologyEvent {
    let node = NodeId(seq % 40);
    let name = format!("n{}", node.0);
    let site = format!("site{}", node.0 % 5);
    let image = |epoch: u64| {
        Entity::Node(NodeEntity {
            id: node,
            name: name.parse().unwrap(),
            index: NodeIndex(node.0 as u16),
            addresses: vec!["10.77.0.1".parse().unwrap()],
            tags: vec![],
            site: Some(site.parse().unwrap()),
            leaf_of: None,
            reporting: true,
            agent_version: Some("0.1.0".into()),
            epoch: Some(epoch as u32),
            transit_cost_us: Some(0),
        })
    };
    let (op, cause) = match seq / 40 % 3 {
        0 => (Op::Create, Cause::MemberAdded),
        1 => (Op::Update, Cause::NodeReported),
        _ => (Op::Delete, Cause::MemberRemoved),
    };
    TopologyEvent {
        id: EventId { term: 7, seq },
        kind: EntityKind::Node,
        key: EntityKey::Node(node),
        op,
        before: (op != Op::Create).then(|| image(seq - 40)),
        after: (op != Op::Delete).then(|| image(seq)),
        cause,
        source: Source {
            network: NetworkId(0xab),
            network_name: NETWORK.into(),
            coordinator: "test".into(),
            term: 7,
            seq,
            reporter: Some(node),
            record_seq: Some(seq),
            site: Some(site.parse().unwrap()),
            observed_at: None,
            coalesced: 0,
        },
        ts: Timestamp::from_millis(begun() + seq),
        omitted: None,
    }
}

/// When the test began, in Unix milliseconds: old records may go for their age.
fn begun() -> u64 {
    static BEGUN: LazyLock<u64> = LazyLock::new(|| {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        since_epoch.as_millis() as u64
    });
    *BEGUN
}

/// An outbox in memory that grows while it is read, and what the mirror notes as lost.
#[derive(Clone, Default)]
pub(crate) struct ListOutbox(
    pub(crate) Arc<(Mutex<Vec<TopologyEvent>>, Condvar)>,
    pub(crate) Arc<Mutex<Vec<Loss>>>,
);

impl ListOutbox {
    pub(crate) fn with(seqs: impl Iterator<Item = u64>) -> Self {
        let outbox = Self::default();
        outbox.add(seqs);
        outbox
    }

    pub(crate) fn add(&self, seqs: impl Iterator<Item = u64>) {
        self.0.0.lock().unwrap().extend(seqs.map(event));
        self.0.1.notify_all();
    }
}

impl Outbox for ListOutbox {
    fn read_after(&mut self, seq: u64, limit: usize) -> Result<Vec<Row>, OutboxError> {
        let events = self.0.0.lock().unwrap();
        let from = events.partition_point(|event| event.id.seq <= seq);
        Ok(events[from..].iter().take(limit).map(Row::of).collect())
    }

    fn first_seq(&mut self) -> Result<u64, OutboxError> {
        let first = self.0.0.lock().unwrap().first().map(|event| event.id.seq);
        Ok(match first {
            Some(first) => first,
            None => self.last_seq()? + 1,
        })
    }

    /// What all events up to the newest make, dropped ones included.
    fn image(&mut self) -> mpsc::Receiver<Result<Image, OutboxError>> {
        let (sender, receiver) = mpsc::channel();
        let seq = self.last_seq().unwrap();
        let mut table = BTreeMap::new();
        for event in (1..=seq).map(event) {
            match event.after {
                Some(after) => table.insert(event.key, after),
                None => table.remove(&event.key),
            };
        }
        let entities = table.iter();
        let entities = entities
            .map(|(key, entity)| (key.to_string(), serde_json::to_string(entity).unwrap()))
            .collect();
        sender.send(Ok(Image { seq, entities })).unwrap();
        receiver
    }

    fn notices_after(&mut self, _: u64, _: usize) -> Result<Vec<Notice>, OutboxError> {
        Ok(vec![])
    }

    fn last_seq(&mut self) -> Result<u64, OutboxError> {
        Ok(self
            .0
            .0
            .lock()
            .unwrap()
            .last()
            .map_or(0, |event| event.id.seq))
    }

    fn note_loss(&mut self, loss: &Loss) -> Result<(), OutboxError> {
        self.1.lock().unwrap().push(loss.clone());
        Ok(())
    }

    fn wait(&mut self, patience: Duration) {
        let events = self.0.0.lock().unwrap();
        drop(self.0.1.wait_timeout(events, patience).unwrap());
    }
}
