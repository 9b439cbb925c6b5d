//! The mirror's thread: session after session until it is told to stop or another coordinator leads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use wattle_api::Timestamp;
use wattle_api::gap::GapReason;
use wattle_api::snapshot::SnapshotReason;
use wattle_api::stream::{LostTopic, Topics};

use crate::batch::{Batch, MAX_EVENTS, MAX_RECORD};
use crate::client::Complaints;
use crate::error::MirrorError;
use crate::event::Event;
use crate::outbox::{Loss, Outbox, Row};
use crate::position::{self, Found, Position};
use crate::producer::Transactor;
use crate::record::Context;
use crate::snapshots::Snapshots;
use crate::status::{Board, State, now};
use crate::topics::Existing;
use crate::{Config, copies, rewrite, sweep, topics};

/// How long the thread sleeps in the outbox before it looks whether it shall stop.
const NAP: Duration = Duration::from_millis(200);

/// How often alerts and audit records are looked for while events keep coming.
const NOTICES_EVERY: Duration = Duration::from_millis(200);

/// Alerts and audit records of one transaction at most.
const MAX_NOTICES: usize = 500;

/// Pause after the first failed session; doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// A broker that comes back waits no longer for us.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Records that topics refuse at this size are refused for another reason.
const SMALLEST_RECORD: usize = 16_000;

/// Records that are younger than this were not deleted for their age: the shortest retention that can be configured.
const YOUNG_MS: u64 = 86_400_000;

/// What the thread owns.
pub(crate) struct Worker<O> {
    config: Config,
    topics: Topics,
    outbox: O,
    board: Board,
    stop: Arc<AtomicBool>,
    pause: Duration,
    snapshots: Snapshots,
    /// The largest record that the topics take, as far as is known.
    limit: usize,
}

/// What a session has once it has taken over.
struct Session {
    context: Context,
    complaints: Complaints,
    producer: Transactor,
    existing: Existing,
    position: Position,
    notices_due: Instant,
}

impl<O: Outbox> Worker<O> {
    pub(crate) fn new(config: Config, outbox: O, board: Board, stop: Arc<AtomicBool>) -> Self {
        let topics = config.kafka.topics_of(&config.network_name);
        let every = Duration::from_secs(config.kafka.snapshot_every_s.into());
        Self {
            config,
            topics,
            outbox,
            board,
            stop,
            pause: FIRST_PAUSE,
            snapshots: Snapshots::new(every),
            limit: MAX_RECORD,
        }
    }

    pub(crate) fn run(mut self) {
        while !self.stopped() {
            let Err(error) = self.session() else { continue };
            let error = self.learn(error);
            let error = self.look_closer(error);
            self.board.failed(&error);
            tracing::warn!(%error, term = self.config.term, "Mirror session ended");
            if error.is_final() {
                return;
            }
            self.rest();
        }
        self.board.enter(State::Stopped);
    }

    /// A topic that refuses a record by its size takes smaller ones.
    fn learn(&mut self, error: MirrorError) -> MirrorError {
        match error {
            MirrorError::Oversize(_) if self.limit > SMALLEST_RECORD => {
                let refused = self.limit;
                self.limit /= 2;
                MirrorError::Oversize(refused)
            }
            MirrorError::Oversize(_) => MirrorError::Oversize(self.limit),
            other => other,
        }
    }

    /// Time that is over and a transaction that does not end have a cause that brokers know if asked. Whoever stops the
    /// mirror does not wait for that.
    fn look_closer(&self, error: MirrorError) -> MirrorError {
        if !error.may_lack_copies() || self.stopped() {
            return error;
        }
        let complaints = Complaints::new(&self.config.kafka, self.board.clone());
        copies::lacking(&self.config.kafka, &self.topics, &complaints).unwrap_or(error)
    }

    /// From taking over to the first trouble, or to the end.
    fn session(&mut self) -> Result<(), MirrorError> {
        let mut session = self.take_over()?;
        while !self.stopped() {
            let until = match session.position.needs_picture(&session.context) {
                false => u64::MAX,
                true => {
                    self.bring_state_in_line(&mut session)?;
                    continue;
                }
            };
            self.round(&mut session, until)?;
            self.board.delivered();
        }
        Ok(())
    }

    fn take_over(&mut self) -> Result<Session, MirrorError> {
        self.board.attempts();
        self.look_at_outbox()?;
        let complaints = Complaints::new(&self.config.kafka, self.board.clone());
        let context = Context::new(self.config.clone(), self.topics.clone(), self.limit);
        let producer = Transactor::take_over(&self.config, self.limit, &complaints)?;
        let mirrored = self.board.snapshot().committed_seq > 0;
        let existing = topics::ensure(
            &self.config.kafka,
            &self.topics,
            &producer,
            &complaints,
            mirrored,
        )?;
        self.config.kafka.slots.check(existing.partitions as u32)?;
        sweep::finish_open_transactions(
            &self.config,
            &self.topics,
            &existing,
            &producer,
            &complaints,
        )?;
        let found = position::find(&self.config, &self.topics, &existing, &complaints)?;
        let truncated = self.too_young_to_go(&found)?;
        self.refuse_loss(&found, &truncated)?;
        self.note_lost_topic(&found, &truncated)?;
        let position = found.position;
        self.check_outbox(&position)?;
        complaints.begin(position.offsets.clone(), position.state_offsets.clone());
        self.snapshots
            .resume(position.snapshot_at, now(), Instant::now());
        let mut session = Session {
            context,
            complaints,
            producer,
            existing,
            position,
            notices_due: Instant::now(),
        };
        self.begin_anew(&mut session)?;
        // Says at once who leads: a predecessor that wakes up reads it and steps down.
        let mut claim = Batch::new(&session.context, &session.position)?;
        if found.slots_untold {
            let maps = rewrite::all_slot_maps(&session.context, session.position.last_seq);
            claim.slot_map(&maps);
        }
        session.position = write(&session.producer, &session.context, claim)?;
        self.tell_truncation(&mut session, &truncated)?;
        self.board.reached(&session.position);
        if let Some(topic) = found.lost {
            tracing::warn!(
                topic,
                "A topic was lost; it is written anew, with a snapshot"
            );
            self.board.lost_topic();
            self.snapshots
                .want(Instant::now(), SnapshotReason::TopicLost);
        }
        tracing::info!(
            seq = session.position.last_seq,
            term = self.config.term,
            "Mirror resumed"
        );
        Ok(session)
    }

    /// Emptied partitions whose last event is too young to have been deleted for its age. An event that is in the outbox
    /// no longer is not: a site where nothing happens for as long as events are kept loses them rightly.
    fn too_young_to_go(&mut self, found: &Found) -> Result<Vec<usize>, MirrorError> {
        let mut young = Vec::new();
        for &partition in &found.emptied {
            let last = found.position.partitions[partition];
            let rows = self.outbox.read_after(last - 1, 1);
            let row = rows.map_err(MirrorError::Outbox)?.pop();
            let event = row.map(|Row(text)| Event::read(text)).transpose();
            let event = event.map_err(|error| MirrorError::Outbox(error.into()))?;
            young.extend(is_young(event.as_ref(), last, now()).then_some(partition));
        }
        Ok(young)
    }

    fn refuse_loss(&self, found: &Found, truncated: &[usize]) -> Result<(), MirrorError> {
        let truncated = (!truncated.is_empty()).then(|| self.topics.events.clone());
        match found.lost.clone().or(truncated) {
            Some(topic) if self.config.kafka.lost_topic == LostTopic::Halt => {
                Err(MirrorError::TopicLost { topic })
            }
            Some(_) | None => Ok(()),
        }
    }

    /// A topic that is gone goes before records that are.
    fn note_lost_topic(&mut self, found: &Found, truncated: &[usize]) -> Result<(), MirrorError> {
        let events = &self.topics.events;
        let detail = match (&found.lost, truncated) {
            (Some(topic), _) => format!(
                "{topic} was missing, made anew or truncated: it is written again, its history before is gone"
            ),
            (None, []) => return Ok(()),
            (None, partitions) => format!(
                "records of {events} were deleted in partitions {partitions:?}: the topic says which events are missing"
            ),
        };
        self.note_loss(detail)
    }

    fn note_gap(&mut self, first: u64, last: u64) -> Result<(), MirrorError> {
        self.note_loss(format!(
            "events {first} to {last} are no longer in the outbox and will never be in Kafka"
        ))
    }

    fn note_loss(&mut self, detail: String) -> Result<(), MirrorError> {
        let loss = Loss { detail, at: now() };
        self.outbox.note_loss(&loss).map_err(MirrorError::Outbox)
    }

    /// Where nothing was mirrored yet the newest slot map counts from the start; and an outbox that does not reach
    /// back to the first event cannot tell the whole state.
    fn begin_anew(&mut self, session: &mut Session) -> Result<(), MirrorError> {
        if session.position.last_seq > 0 || session.position.first_seq > 0 {
            return Ok(());
        }
        let first = self.outbox.first_seq().map_err(MirrorError::Outbox)?;
        session.position.state_lost |= session.position.state_seq == 0 && first > 1;
        let newest = session.context.config.kafka.slots.newest().cloned();
        let version = newest.as_ref().map_or(0, |slots| slots.version);
        if version == session.position.slots || session.position.state_seq > 0 {
            return Ok(());
        }
        let map = rewrite::slot_map(
            &session.context,
            newest.as_ref(),
            first,
            &session.complaints,
        )?;
        let mut batch = Batch::new(&session.context, &session.position)?;
        batch.slot_map(&map);
        batch.after.slots = version;
        let position = write(&session.producer, &session.context, batch)?;
        session.position = position;
        Ok(())
    }

    fn tell_truncation(
        &mut self,
        session: &mut Session,
        truncated: &[usize],
    ) -> Result<(), MirrorError> {
        if truncated.is_empty() {
            return Ok(());
        }
        let mut batch = Batch::new(&session.context, &session.position)?;
        for &partition in truncated {
            let (first, last) = (
                session.position.first_seq,
                session.position.partitions[partition],
            );
            batch.gap_in(partition, first, last, GapReason::TopicTruncated);
        }
        session.position = write(&session.producer, &session.context, batch)?;
        self.board.gap();
        self.snapshots
            .want(Instant::now(), SnapshotReason::TopicLost);
        Ok(())
    }

    /// Writes events up to the moment of a picture, then the state of that picture.
    fn bring_state_in_line(&mut self, session: &mut Session) -> Result<(), MirrorError> {
        let picture = rewrite::picture(&mut self.outbox)?;
        tracing::info!(
            seq = picture.seq,
            "The state topic is written from the whole topology"
        );
        self.skip_what_is_gone(session, picture.seq)?;
        while session.position.last_seq < picture.seq && !self.stopped() {
            self.round(session, picture.seq)?;
        }
        if self.stopped() || session.position.last_seq > picture.seq {
            return Ok(());
        }
        let reason = match (
            session.position.state_is_current(),
            session.position.state_lost,
        ) {
            (true, _) => SnapshotReason::SlotsChanged,
            (false, true) => SnapshotReason::TopicLost,
            (false, false) => SnapshotReason::Gap,
        };
        let table = rewrite::table(&session.context, &session.existing, &session.complaints)?;
        session.position = rewrite::write(
            &session.context,
            &session.producer,
            session.position.clone(),
            &picture,
            &table,
            &session.complaints,
        )?;
        self.board.reached(&session.position);
        session.existing.state_made = false;
        self.snapshots.hold(picture, reason);
        Ok(())
    }

    /// An outbox that has nothing up to the picture: history begins behind it, or goes on there.
    fn skip_what_is_gone(&mut self, session: &mut Session, seq: u64) -> Result<(), MirrorError> {
        let oldest = self.outbox.first_seq().map_err(MirrorError::Outbox)?;
        if oldest <= seq || session.position.last_seq >= seq {
            return Ok(());
        }
        if session.position.first_seq == 0 {
            session.position.first_seq = seq + 1;
            session.position.last_seq = seq;
            return Ok(());
        }
        self.note_gap(session.position.last_seq + 1, seq)?;
        let mut batch = Batch::new(&session.context, &session.position)?;
        batch.gap(seq);
        session.position = write(&session.producer, &session.context, batch)?;
        self.board.gap();
        Ok(())
    }

    /// One transaction of whatever waits, or a nap if nothing does.
    fn round(&mut self, session: &mut Session, until: u64) -> Result<(), MirrorError> {
        let context = &session.context;
        let rows = self
            .outbox
            .read_after(session.position.last_seq, MAX_EVENTS)
            .map_err(MirrorError::Outbox)?;
        let waits = rows.len();
        let first = rows.first().map(|row| Event::read(row.0.clone()));
        let mut batch = Batch::new(context, &session.position)?;
        let events = rows.into_iter().map(|Row(text)| Event::read(text));
        let taken = batch.take(events, until)?;
        if let Some(Ok(first)) = first.filter(|_| taken == 0)
            && first.seq > session.position.last_seq + 1
            && session.position.first_seq > 0
        {
            self.note_gap(session.position.last_seq + 1, first.seq - 1)?;
            batch.gap(first.seq - 1);
            tracing::error!(
                first = session.position.last_seq + 1,
                last = first.seq - 1,
                "Events are missing in the outbox; the topics say so"
            );
            self.board.gap();
        }
        if session.notices_due <= Instant::now() || waits == 0 {
            session.notices_due = Instant::now() + NOTICES_EVERY;
            let notices = self.outbox.notices_after(batch.after.notices, MAX_NOTICES);
            batch.notices(notices.map_err(MirrorError::Outbox)?);
        }
        self.snapshots.step(&mut self.outbox, Instant::now())?;
        self.snapshots
            .add_piece(context, &mut batch, Instant::now());
        if batch.is_empty() {
            if !self.snapshots.has_piece(&session.position) {
                self.outbox.wait(NAP);
            }
            return Ok(());
        }
        self.board.outbox(session.position.last_seq + waits as u64);
        self.board.attempts();
        let (events, dead) = (batch.events, batch.dead);
        session.position = write(&session.producer, context, batch)?;
        let delivered = session.complaints.delivered();
        session.position.offsets.clone_from(&delivered.events);
        session.position.state_offsets.clone_from(&delivered.state);
        drop(delivered);
        self.board.committed(&session.position, events, dead);
        self.pause = FIRST_PAUSE;
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
        let kafka = position.last_seq.max(position.state_seq);
        if outbox < kafka {
            return Err(MirrorError::OutboxBehind { kafka, outbox });
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

impl Position {
    /// Whether the state topic has to be written from a picture: it is behind, or sites own other slots.
    fn needs_picture(&self, context: &Context) -> bool {
        let newest = context.config.kafka.slots.newest();
        !self.state_is_current() && self.state_seq <= self.last_seq
            || newest.map_or(0, |slots| slots.version) != self.slots
    }
}

/// Commits a batch; the position after it.
fn write(
    producer: &Transactor,
    context: &Context,
    mut batch: Batch<'_>,
) -> Result<Position, MirrorError> {
    batch.close();
    producer.commit(&context.topics, &batch.records)?;
    Ok(batch.after)
}

/// Whether the oldest event from `seq` on is that very one, and younger than any record that goes for its age.
fn is_young(event: Option<&Event>, seq: u64, now: Timestamp) -> bool {
    event.is_some_and(|event| event.seq == seq && now.as_millis() < event.ts.as_millis() + YOUNG_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_a_quiet_site_may_go_for_their_age() {
        let events = include_str!("../../api/tests/golden/topology-events.v1.jsonl");
        let text = events.lines().next().unwrap().to_owned();
        let event = Event::read(text).unwrap();
        let (seq, ts) = (event.seq, event.ts.as_millis());
        let at = |ms: u64| Timestamp::from_millis(ts + ms);
        for (what, event, seq, age, expected) in [
            ("deleted by somebody", Some(&event), seq, 1_000, true),
            ("gone for its age", Some(&event), seq, YOUNG_MS, false),
            ("not in the outbox", None, seq, 1_000, false),
            (
                "only later ones in the outbox",
                Some(&event),
                seq - 1,
                1_000,
                false,
            ),
        ] {
            assert_eq!(is_young(event, seq, at(age)), expected, "{what}");
        }
    }
}
