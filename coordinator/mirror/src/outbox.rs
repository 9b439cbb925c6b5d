//! Where events wait for Kafka. The coordinator's database implements it; tests use a list.

use std::time::Duration;

use wattle_api::topology::TopologyEvent;

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

    /// Kafka holds everything up to `seq`: rows that are old enough may go.
    fn committed(&mut self, seq: u64);
}
