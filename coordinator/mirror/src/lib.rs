//! Moves topology events from the coordinator's outbox to Kafka, exactly once (`docs/protocol/topology-stream.md`).
//!
//! One thread per network (transaction calls block). A *session* is: a transactional producer that fences all older
//! ones, topics that exist, the position read from the progress topic; then batch after batch, each one transaction
//! over events, state and progress. Whatever goes wrong ends the session, and the next one starts from the progress
//! topic: there is one way to recover and it is walked at every start.
//!
//! Knows nothing of how events come about, nor of databases: it reads an [`Outbox`].

mod batch;
mod client;
mod copies;
mod ends;
mod error;
mod event;
mod measurements;
mod outbox;
mod position;
mod producer;
mod record;
mod rewrite;
mod session;
mod snapshots;
mod status;
mod sweep;
mod topics;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use wattle_api::stream::Kafka;
use wattle_model::NetworkId;

pub use crate::error::MirrorError;
pub use crate::measurements::Publisher;
pub use crate::outbox::{Image, Loss, Notice, NoticeKind, Outbox, OutboxError, Row, StoreOutbox};
pub use crate::status::{Metric, State, Status};

/// What a mirror must know.
#[derive(Debug, Clone)]
pub struct Config {
    /// The cluster.
    pub kafka: Kafka,
    /// The network.
    pub network: NetworkId,
    /// Its name: part of the topics' names and of the transactional id.
    pub network_name: String,
    /// The lease under which this coordinator leads; grows with every leader.
    pub term: u64,
}

/// A running mirror. Dropping it stops it.
#[derive(Debug)]
pub struct Mirror {
    status: status::Board,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Mirror {
    /// Starts mirroring. Fails only on a configuration that can never work; everything else shows in the status.
    pub fn start(config: Config, outbox: impl Outbox) -> Result<Self, MirrorError> {
        config.kafka.check()?;
        let stop = Arc::new(AtomicBool::new(false));
        let status = status::Board::new(&config);
        let worker = session::Worker::new(config, outbox, status.clone(), Arc::clone(&stop));
        let thread = std::thread::Builder::new()
            .name("mirror".into())
            .spawn(move || worker.run())
            .map_err(MirrorError::Thread)?;
        Ok(Self {
            status,
            stop,
            thread: Some(thread),
        })
    }

    /// How it goes.
    pub fn status(&self) -> Status {
        self.status.snapshot()
    }

    /// Publishes measurements, beside the events and apart from them.
    pub fn publisher(&self, config: &Config) -> Result<Publisher, MirrorError> {
        Publisher::new(config, self.status.clone())
    }

    /// Finishes the transaction under way and ends. Blocks for seconds if the brokers do not answer.
    pub fn stop(mut self) -> Status {
        self.finish();
        self.status()
    }

    fn finish(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the mirror's thread panicked");
        }
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.finish();
    }
}
