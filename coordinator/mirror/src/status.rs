//! What the mirror tells of itself, for the coordinator's API, its metrics and its alarms.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use wattle_api::Timestamp;
use wattle_api::notice::MirrorTrouble;
use wattle_api::snapshot::SnapshotId;

use crate::Config;
use crate::error::MirrorError;
use crate::position::Position;

/// What takes longer than this to arrive is stalled: taking over and a large transaction take less.
const STALLED_AFTER: Duration = Duration::from_secs(3);

/// What the mirror is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Looking for the brokers, the topics and its own position.
    Connecting,
    /// Moving events, or waiting for some.
    Running,
    /// Something is wrong; tries again by itself. Events wait in the outbox.
    Waiting,
    /// Another coordinator leads; this one does nothing until it leads again.
    SteppedDown,
    /// Was told to stop.
    Stopped,
}

/// How the mirror is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// What it is doing.
    pub state: State,
    /// The brokers it was told to ask.
    pub brokers: Vec<String>,
    /// The topic of the events.
    pub events_topic: String,
    /// The term it writes under.
    pub term: u64,
    /// The last event that is in Kafka for certain; 0 before the position is known.
    pub committed_seq: u64,
    /// The last event that the state topic shows. It is behind while the topic has to be written from the whole topology,
    /// and ahead while lost events are written anew.
    #[serde(default)]
    pub state_seq: u64,
    /// The newest event of the outbox that it has heard of.
    pub outbox_seq: u64,
    /// Events that wait.
    pub lag: u64,
    /// When it last committed.
    pub committed_at: Option<Timestamp>,
    /// What is or was wrong last.
    pub last_error: Option<String>,
    /// When that was.
    pub last_error_at: Option<Timestamp>,
    /// What keeps it from writing, while something does.
    #[serde(default)]
    pub stalled: Option<MirrorTrouble>,
    /// Transactions committed since the start.
    pub transactions: u64,
    /// Events committed since the start.
    pub events: u64,
    /// Sessions that ended in an error.
    pub failures: u64,
    /// How often another producer took the transactional id.
    pub fenced: u64,
    /// Gap records written: events that Kafka will never have.
    #[serde(default)]
    pub gaps: u64,
    /// Events whose images were too large for Kafka.
    #[serde(default)]
    pub dead_letters: u64,
    /// Topics that were found missing, recreated or truncated.
    #[serde(default)]
    pub lost_topics: u64,
    /// The last alert or audit record that is in its topic.
    #[serde(default)]
    pub notices: u64,
    /// The last complete snapshot.
    #[serde(default)]
    pub snapshot: Option<SnapshotId>,
    /// Records of measurements that no broker took.
    #[serde(default)]
    pub measurements_dropped: u64,
}

/// One number for a scrape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// What it says.
    pub help: &'static str,
    /// Whether it only ever grows.
    pub counter: bool,
    /// The number.
    pub value: u64,
}

impl Status {
    /// The last event that both the events and the state topic have.
    pub fn mirrored_seq(&self) -> u64 {
        self.committed_seq.min(self.state_seq)
    }

    /// The numbers of the status for Prometheus.
    pub fn metrics(&self) -> Vec<Metric> {
        let gauge = |name, help, value| Metric {
            name,
            help,
            counter: false,
            value,
        };
        let counter = |name, help, value| Metric {
            name,
            help,
            counter: true,
            value,
        };
        let running = u64::from(self.state == State::Running);
        vec![
            gauge(
                "wattle_mirror_running",
                "Whether events reach Kafka.",
                running,
            ),
            gauge(
                "wattle_mirror_stalled",
                "Whether something keeps events from Kafka.",
                u64::from(self.stalled.is_some()),
            ),
            gauge(
                "wattle_mirror_lag_events",
                "Events in the outbox that Kafka does not have.",
                self.lag,
            ),
            gauge(
                "wattle_mirror_committed_seq",
                "Last event that Kafka has.",
                self.committed_seq,
            ),
            gauge(
                "wattle_mirror_state_seq",
                "Last event that the state topic shows.",
                self.state_seq,
            ),
            counter(
                "wattle_mirror_events_total",
                "Events committed.",
                self.events,
            ),
            counter(
                "wattle_mirror_transactions_total",
                "Transactions committed.",
                self.transactions,
            ),
            counter(
                "wattle_mirror_failures_total",
                "Sessions that ended in an error.",
                self.failures,
            ),
            counter(
                "wattle_mirror_fenced_total",
                "Times another producer took over.",
                self.fenced,
            ),
            counter(
                "wattle_mirror_gaps_total",
                "Gaps in the topics: events that Kafka will never have.",
                self.gaps,
            ),
            counter(
                "wattle_mirror_dead_letters_total",
                "Events whose images were too large for Kafka.",
                self.dead_letters,
            ),
            counter(
                "wattle_mirror_lost_topics_total",
                "Topics found missing, recreated or truncated.",
                self.lost_topics,
            ),
            gauge(
                "wattle_mirror_snapshot_seq",
                "Event of the last complete snapshot.",
                self.snapshot.map_or(0, |snapshot| snapshot.seq),
            ),
            counter(
                "wattle_mirror_measurements_dropped_total",
                "Records of measurements that no broker took.",
                self.measurements_dropped,
            ),
        ]
    }
}

/// Where the mirror's threads write the status and everybody reads it.
#[derive(Debug, Clone)]
pub(crate) struct Board(Arc<Mutex<Known>>);

/// The status, and what it follows from.
#[derive(Debug)]
struct Known {
    status: Status,
    attempt: Attempt,
}

/// What the mirror tries to write.
#[derive(Debug, Default)]
struct Attempt {
    /// Since when nothing arrived although it was tried.
    since: Option<Instant>,
    /// Whether a session failed since everything last arrived: that parts of it arrive is no success then.
    failed: bool,
    /// What went wrong meanwhile.
    trouble: Option<MirrorTrouble>,
}

impl Attempt {
    fn begin(&mut self, now: Instant) {
        self.since.get_or_insert(now);
    }

    /// Whether the error tells more than what is known.
    fn meets(&mut self, error: &MirrorError) -> bool {
        let tells = !error.is_consequence() || self.trouble.is_none();
        if tells {
            self.trouble = Some(error.trouble());
        }
        tells
    }

    /// Something arrived.
    fn advance(&mut self) {
        if !self.failed {
            self.succeed();
        }
    }

    /// Everything arrived, whatever topic it is for.
    fn succeed(&mut self) {
        *self = Self::default();
    }

    fn stalled(&self, now: Instant) -> Option<MirrorTrouble> {
        let since = self.since?;
        let late = now.saturating_duration_since(since) >= STALLED_AFTER;
        // Brokers that are slow are no trouble: a call that they do not answer fails after some seconds.
        self.trouble.clone().filter(|_| late)
    }
}

impl Board {
    pub(crate) fn new(config: &Config) -> Self {
        let status = Status {
            state: State::Connecting,
            brokers: config.kafka.brokers.clone(),
            events_topic: config.kafka.topics_of(&config.network_name).events,
            term: config.term,
            committed_seq: 0,
            state_seq: 0,
            outbox_seq: 0,
            lag: 0,
            committed_at: None,
            last_error: None,
            last_error_at: None,
            stalled: None,
            transactions: 0,
            events: 0,
            failures: 0,
            fenced: 0,
            gaps: 0,
            dead_letters: 0,
            lost_topics: 0,
            notices: 0,
            snapshot: None,
            measurements_dropped: 0,
        };
        Self(Arc::new(Mutex::new(Known {
            status,
            attempt: Attempt::default(),
        })))
    }

    pub(crate) fn snapshot(&self) -> Status {
        let known = self.known();
        Status {
            stalled: known.attempt.stalled(Instant::now()),
            ..known.status.clone()
        }
    }

    pub(crate) fn enter(&self, state: State) {
        self.known().status.state = state;
    }

    /// Something is to be written from here on, be it the claim of a new session.
    pub(crate) fn attempts(&self) {
        self.known().attempt.begin(Instant::now());
    }

    /// All that waited is in all its topics.
    pub(crate) fn delivered(&self) {
        self.known().attempt.succeed();
    }

    /// A client has trouble that it may get over by itself.
    pub(crate) fn complained(&self, error: &MirrorError) {
        let mut known = self.known();
        if known.attempt.meets(error) {
            known.status.last_error = Some(error.to_string());
            known.status.last_error_at = Some(now());
        }
    }

    /// The session ended.
    pub(crate) fn failed(&self, error: &MirrorError) {
        self.complained(error);
        let mut known = self.known();
        known.attempt.failed = true;
        known.attempt.begin(Instant::now());
        let status = &mut known.status;
        status.failures += 1;
        status.fenced += u64::from(matches!(error, MirrorError::Fenced));
        status.state = if error.is_final() {
            State::SteppedDown
        } else {
            State::Waiting
        };
    }

    /// The outbox reaches to `seq`.
    pub(crate) fn outbox(&self, seq: u64) {
        let status = &mut self.known().status;
        status.outbox_seq = status.outbox_seq.max(seq);
        status.lag = status.outbox_seq.saturating_sub(status.committed_seq);
    }

    /// The position is known.
    pub(crate) fn reached(&self, position: &Position) {
        let mut known = self.known();
        known.attempt.advance();
        let status = &mut known.status;
        status.state = State::Running;
        status.committed_seq = position.last_seq;
        status.state_seq = position.state_seq;
        status.lag = status.outbox_seq.saturating_sub(position.last_seq);
        status.notices = position.notices;
        status.snapshot = position.snapshot;
    }

    /// A transaction with so many events went through.
    pub(crate) fn committed(&self, position: &Position, events: u64, dead: u64) {
        self.reached(position);
        let status = &mut self.known().status;
        status.dead_letters += dead;
        status.committed_at = Some(now());
        status.transactions += 1;
        status.events += events;
    }

    /// Events are missing for good.
    pub(crate) fn gap(&self) {
        self.known().status.gaps += 1;
    }

    /// A topic was missing, recreated or truncated.
    pub(crate) fn lost_topic(&self) {
        self.known().status.lost_topics += 1;
    }

    /// Measurements that no broker took, so far.
    pub(crate) fn measurements_dropped(&self, total: u64) {
        self.known().status.measurements_dropped = total;
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wall-clock time, for people.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use wattle_api::notice::MirrorCause;

    use super::*;

    #[test]
    fn what_does_not_arrive_for_seconds_is_stalled_for_its_last_cause() {
        let now = Instant::now();
        let mut attempt = Attempt::default();
        attempt.begin(now);
        let late = now + STALLED_AFTER;
        assert_eq!(attempt.stalled(late), None, "slow, and no more");
        attempt.meets(&MirrorError::Oversize(9));
        let early = late - Duration::from_millis(1);
        assert_eq!(attempt.stalled(early), None);
        assert_eq!(
            attempt.stalled(late).map(|trouble| trouble.cause),
            Some(MirrorCause::Oversize)
        );
        attempt.advance();
        assert_eq!(attempt.stalled(late), None);
    }

    #[test]
    fn what_follows_from_a_trouble_does_not_hide_it() {
        let unfinished = || MirrorError::Unfinished {
            reason: String::new(),
        };
        let mut attempt = Attempt::default();
        let mut told = |error| {
            attempt.meets(&error);
            attempt.trouble.clone().map(|trouble| trouble.cause)
        };
        assert_eq!(told(unfinished()), Some(MirrorCause::Other));
        assert_eq!(told(MirrorError::Oversize(9)), Some(MirrorCause::Oversize));
        assert_eq!(told(unfinished()), Some(MirrorCause::Oversize));
        assert_eq!(told(MirrorError::Fenced), Some(MirrorCause::Superseded));
    }

    #[test]
    fn a_session_that_writes_its_claim_alone_has_not_got_over_a_failure() {
        let now = Instant::now();
        let mut attempt = Attempt::default();
        attempt.begin(now);
        attempt.failed = true;
        attempt.meets(&MirrorError::Fenced);
        attempt.advance();
        attempt.begin(now + STALLED_AFTER);
        assert!(attempt.stalled(now + STALLED_AFTER).is_some());
        attempt.succeed();
        assert_eq!(attempt.stalled(now + STALLED_AFTER), None);
    }
}
