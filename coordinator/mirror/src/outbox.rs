//! Where events wait for Kafka: the coordinator's database ([`StoreOutbox`]), in tests a list.

use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use wattle_api::topology::TopologyEvent;
use wattle_store::Store;

/// Why the outbox could not be read.
pub type OutboxError = Box<dyn std::error::Error + Send + Sync>;

/// Durable events in the order of their sequence numbers. Numbers are dense. Called from the mirror's own thread, so
/// every method may block.
pub trait Outbox: Send + 'static {
    /// The oldest events after `seq`, in order, `limit` at most.
    fn read_after(&mut self, seq: u64, limit: usize) -> Result<Vec<TopologyEvent>, OutboxError>;

    /// The newest sequence number that was ever given; 0 if none.
    fn last_seq(&mut self) -> Result<u64, OutboxError>;

    /// Returns when there may be events that were not read yet, or after `patience`.
    fn wait(&mut self, patience: Duration);
}

/// The outbox of the coordinator's database.
#[derive(Debug)]
pub struct StoreOutbox {
    store: Store,
    newest: watch::Receiver<u64>,
    runtime: Handle,
}

impl StoreOutbox {
    /// Reads `store`, whose connections live in `runtime`; the mirror must stop before that does.
    pub fn new(store: Store, runtime: Handle) -> Self {
        let newest = store.subscribe();
        Self {
            store,
            newest,
            runtime,
        }
    }
}

impl Outbox for StoreOutbox {
    fn read_after(&mut self, seq: u64, limit: usize) -> Result<Vec<TopologyEvent>, OutboxError> {
        let limit = u32::try_from(limit).unwrap_or(u32::MAX);
        let rows = self.runtime.block_on(self.store.outbox_after(seq, limit))?;
        rows.iter().map(|row| Ok(row.event()?)).collect()
    }

    fn last_seq(&mut self) -> Result<u64, OutboxError> {
        Ok(self.store.last_seq())
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
