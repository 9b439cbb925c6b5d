//! The mirror's thread: session after session until it is told to stop or another coordinator leads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use wattle_api::stream::Topics;

use crate::batch::{Batch, MAX_EVENTS};
use crate::client::Complaints;
use crate::error::MirrorError;
use crate::outbox::Outbox;
use crate::position::{self, Position};
use crate::producer::Transactor;
use crate::status::{Board, State};
use crate::{Config, sweep, topics};

/// How long the thread sleeps in the outbox before it looks whether it shall stop.
const NAP: Duration = Duration::from_millis(200);

/// Pause after the first failed session; doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// A broker that comes back waits no longer for us.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What the thread owns.
pub(crate) struct Worker<O> {
    config: Config,
    topics: Topics,
    outbox: O,
    board: Board,
    stop: Arc<AtomicBool>,
    pause: Duration,
}

impl<O: Outbox> Worker<O> {
    pub(crate) fn new(config: Config, outbox: O, board: Board, stop: Arc<AtomicBool>) -> Self {
        let topics = config.kafka.topics_of(&config.network_name);
        Self {
            config,
            topics,
            outbox,
            board,
            stop,
            pause: FIRST_PAUSE,
        }
    }

    pub(crate) fn run(mut self) {
        while !self.stopped() {
            let Err(error) = self.session() else { continue };
            self.board.failed(&error);
            tracing::warn!(%error, term = self.config.term, "Mirror session ended");
            if error.is_final() {
                return;
            }
            self.rest();
        }
        self.board.enter(State::Stopped);
    }

    /// From taking over to the first trouble, or to the end.
    fn session(&mut self) -> Result<(), MirrorError> {
        self.look_at_outbox()?;
        let complaints = Complaints::new(&self.config.kafka, self.board.clone());
        let producer = Transactor::take_over(&self.config, &complaints)?;
        let existing = topics::ensure(&self.config.kafka, &self.topics, &producer, &complaints)?;
        sweep::finish_open_transactions(
            &self.config,
            &self.topics,
            &existing,
            &producer,
            &complaints,
        )?;
        let mut position = position::find(&self.config, &self.topics, &existing, &complaints)?;
        self.check_outbox(&position)?;
        self.board.resumed(position.read_from());
        tracing::info!(
            seq = position.last_seq,
            term = self.config.term,
            "Mirror resumed"
        );
        while !self.stopped() {
            let events = self
                .outbox
                .read_after(position.read_from(), MAX_EVENTS)
                .map_err(MirrorError::Outbox)?;
            let Some(newest) = events.last() else {
                self.outbox.wait(NAP);
                continue;
            };
            self.board.outbox(newest.id.seq);
            let batch = Batch::of(&self.config, &position, &events)?;
            producer.commit(&self.topics, &batch.records)?;
            position = batch.after;
            self.board.committed(position.read_from(), batch.events);
            self.pause = FIRST_PAUSE;
        }
        Ok(())
    }

    fn look_at_outbox(&mut self) -> Result<u64, MirrorError> {
        let newest = self.outbox.last_seq().map_err(MirrorError::Outbox)?;
        self.board.outbox(newest);
        Ok(newest)
    }

    /// Kafka may never be ahead of the database whose events it mirrors.
    fn check_outbox(&mut self, position: &Position) -> Result<(), MirrorError> {
        let outbox = self.look_at_outbox()?;
        if outbox < position.last_seq {
            return Err(MirrorError::OutboxBehind {
                kafka: position.last_seq,
                outbox,
            });
        }
        Ok(())
    }

    /// Sleeps for the pause, but sees when it shall stop; knows how much waits meanwhile.
    fn rest(&mut self) {
        let end = Instant::now() + self.pause;
        while !self.stopped() && Instant::now() < end {
            std::thread::sleep(NAP.min(self.pause));
        }
        if let Err(error) = self.look_at_outbox() {
            self.board.complained(&error);
        }
        self.pause = LONGEST_PAUSE.min(self.pause * 2);
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}
