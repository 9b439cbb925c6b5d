//! Where events wait for Kafka: the coordinator's database ([`StoreOutbox`]), in tests a list.

use std::sync::mpsc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use wattle_api::topology::TopologyEvent;
pub use wattle_store::{Image, Loss, Notice, NoticeKind};
use wattle_store::{Store, StoreError};

/// Why the outbox could not be read.
pub type OutboxError = Box<dyn std::error::Error + Send + Sync>;

/// An event as the database has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row(
    /// A [`TopologyEvent`] in JSON.
    pub String,
);

impl Row {
    /// The row of an event.
    pub fn of(event: &TopologyEvent) -> Self {
        Self(
            serde_json::to_string(event)
                .expect("topology types have string keys and serialise infallibly"),
        )
    }
}

/// Durable events in the order of their sequence numbers. Numbers are dense. Called from the mirror's own thread, so
/// every method may block.
pub trait Outbox: Send + 'static {
    /// The oldest events after `seq`, in order, `limit` at most.
    fn read_after(&mut self, seq: u64, limit: usize) -> Result<Vec<Row>, OutboxError>;

    /// The newest sequence number that was ever given; 0 if none.
    fn last_seq(&mut self) -> Result<u64, OutboxError>;

    /// The oldest event that is there; one after the newest if none is.
    fn first_seq(&mut self) -> Result<u64, OutboxError>;

    /// Asks for the topology as the newest event left it. It is read meanwhile, by another thread.
    fn image(&mut self) -> mpsc::Receiver<Result<Image, OutboxError>>;

    /// The oldest alerts and audit records after `nr`, in order, `limit` at most.
    fn notices_after(&mut self, nr: u64, limit: usize) -> Result<Vec<Notice>, OutboxError>;

    /// Keeps that history is lost, for the alert that tells of it. Called before Kafka is told, again if that fails.
    fn note_loss(&mut self, loss: &Loss) -> Result<(), OutboxError>;

    /// Returns when there may be events that were not read yet, or after `patience`.
    fn wait(&mut self, patience: Duration);
}

/// The outbox of the coordinator's database.
#[derive(Debug)]
pub struct StoreOutbox {
    store: Store,
    newest: watch::Receiver<u64>,
    runtime: Handle,
    ahead: Option<Ahead>,
}

/// Events that are being read while those before them are written to Kafka.
#[derive(Debug)]
struct Ahead {
    after: u64,
    limit: usize,
    rows: JoinHandle<Result<Vec<String>, StoreError>>,
}

impl StoreOutbox {
    /// Reads `store`, whose connections live in `runtime`; the mirror must stop before that does.
    pub fn new(store: Store, runtime: Handle) -> Self {
        let newest = store.subscribe();
        Self {
            store,
            newest,
            runtime,
            ahead: None,
        }
    }

    fn read(&self, seq: u64, limit: usize) -> JoinHandle<Result<Vec<String>, StoreError>> {
        let store = self.store.clone();
        let limit = u32::try_from(limit).unwrap_or(u32::MAX);
        self.runtime
            .spawn(async move { store.outbox_texts_after(seq, limit).await })
    }
}

impl Outbox for StoreOutbox {
    fn read_after(&mut self, seq: u64, limit: usize) -> Result<Vec<Row>, OutboxError> {
        let ahead = self.ahead.take();
        let rows = match ahead.filter(|ahead| ahead.after == seq && ahead.limit == limit) {
            Some(ahead) => ahead.rows,
            None => self.read(seq, limit),
        };
        let texts = self.runtime.block_on(rows)??;
        if texts.len() == limit {
            let after = seq + limit as u64;
            let rows = self.read(after, limit);
            self.ahead = Some(Ahead { after, limit, rows });
        }
        Ok(texts.into_iter().map(Row).collect())
    }

    fn last_seq(&mut self) -> Result<u64, OutboxError> {
        Ok(self.store.last_seq())
    }

    fn first_seq(&mut self) -> Result<u64, OutboxError> {
        Ok(self.runtime.block_on(self.store.first_seq())?)
    }

    fn image(&mut self) -> mpsc::Receiver<Result<Image, OutboxError>> {
        let (sender, receiver) = mpsc::channel();
        let store = self.store.clone();
        self.runtime.spawn(async move {
            let image = store.image().await.map_err(OutboxError::from);
            // Whoever asked may have ended meanwhile.
            let _ = sender.send(image);
        });
        receiver
    }

    fn notices_after(&mut self, nr: u64, limit: usize) -> Result<Vec<Notice>, OutboxError> {
        let limit = u32::try_from(limit).unwrap_or(u32::MAX);
        Ok(self.runtime.block_on(self.store.notices_after(nr, limit))?)
    }

    fn note_loss(&mut self, loss: &Loss) -> Result<(), OutboxError> {
        Ok(self.runtime.block_on(self.store.note_loss(loss))?)
    }

    fn wait(&mut self, patience: Duration) {
        let newest = &mut self.newest;
        // An error says that the store is closed: nothing will come, and the next read tells why.
        let change = async { tokio::time::timeout(patience, newest.changed()).await };
        if !matches!(self.runtime.block_on(change), Ok(Ok(()))) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
