//! Carrying records to one neighbour: every record once, again until it is acknowledged, only its newest version.
//!
//! What waits is a set of *keys*; the version is looked up when it is sent, so a slow neighbour never builds a backlog:
//! at most one entry per key of the database. A neighbour that answers late is given as long as it took, and fewer
//! records at a time: it may be too busy to answer, and sending again would keep it so. Knows nothing of signatures or of other neighbours.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use wattle_model::{Instant, LinkId, Micros};
use wattle_wire::control::Control;
use wattle_wire::flood::{Digest, Flood, MAX_IDS, MAX_KEYS, MAX_UPDATE, RecordId};
use wattle_wire::record::{Record, RecordKey};

use crate::lsdb::Lsdb;

/// Records that may be on their way unacknowledged, of at most 1,100 bytes each, at first: halved whenever an acknowledgement
/// is missed, one more with each that comes while as many are under way. The most take some 50 kB where nodes have eight
/// links, and three thousand records of a thousand nodes take 13 round trips.
const WINDOW_FIRST: usize = 64;
const WINDOW_LEAST: usize = 2;
const WINDOW_MOST: usize = 256;
/// Shortest and longest wait for an acknowledgement; in between twice what it took so far, doubled with every attempt.
const RESEND_LEAST: Micros = Micros::from_millis(30);
const RESEND_MOST: Micros = Micros::from_secs(10);
/// How long the first acknowledgement may take at least: a neighbour that just came up is busy with many.
const ANSWER_TIME: Micros = Micros::from_millis(50);
/// How long two databases may differ before they are compared: probes tell fingerprints once a second.
const MISMATCH: Micros = Micros::from_millis(2_500);
/// Longest pause between comparisons that did not help, as when the two have different peer sets.
const MISMATCH_MOST: Micros = Micros::from_secs(60);
/// When a first comparison is repeated if nothing shows that it arrived.
const FIRST_SYNC_AGAIN: Micros = Micros::from_secs(1);

/// Digests of ranges that may wait for the neighbour: more than a database of 10,000 nodes has. What is left out is
/// found by the next comparison.
const MAX_DIGESTS: usize = 1_024;

/// Earlier than every instant.
const AT_ONCE: Instant = Instant(0);

/// What this node owes to one neighbour, and what it knows of the neighbour's database.
#[derive(Debug, Clone)]
pub(crate) struct Adjacency {
    /// Where messages to the neighbour go.
    pub(crate) link: LinkId,
    /// The link's round trip.
    pub(crate) rtt: Micros,
    waiting: BTreeMap<RecordKey, Delivery>,
    /// When the first of them within the window is due, as long as that is known.
    delivery: Option<Instant>,
    acks: BTreeSet<RecordId>,
    requests: BTreeSet<RecordKey>,
    digests: Vec<Digest>,
    fingerprint: Option<u64>,
    compare_at: Instant,
    compare_pause: Micros,
    /// How long acknowledgements take, smoothed.
    answer_time: Micros,
    window: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Delivery {
    Unsent,
    Sent {
        first_at: Instant,
        again_at: Instant,
        attempts: u32,
    },
}

impl Adjacency {
    /// A neighbour that is heard again: the databases are compared at once.
    pub(crate) fn new(now: Instant, link: LinkId, rtt: Micros, fingerprint: Option<u64>) -> Self {
        Self {
            link,
            rtt,
            waiting: BTreeMap::new(),
            delivery: None,
            acks: BTreeSet::new(),
            requests: BTreeSet::new(),
            digests: Vec::new(),
            fingerprint,
            compare_at: now,
            compare_pause: FIRST_SYNC_AGAIN,
            answer_time: rtt.max(ANSWER_TIME),
            window: WINDOW_FIRST,
        }
    }

    /// The neighbour is to get the newest version of a record.
    pub(crate) fn owe(&mut self, key: RecordKey) {
        self.waiting.insert(key, Delivery::Unsent);
        self.delivery = None;
    }

    /// The neighbour shows that it lacks the newest version: what is on its way to it already is not hurried, or two nodes
    /// that are slow to acknowledge would keep each other busy.
    pub(crate) fn remind(&mut self, key: RecordKey) {
        self.waiting.entry(key).or_insert(Delivery::Unsent);
        self.delivery = None;
    }

    /// The neighbour showed that it has this version.
    pub(crate) fn has(&mut self, now: Instant, id: RecordId, database: &Lsdb) {
        let ours = database.entry(id.key).map(|entry| entry.record().seq());
        if ours.is_some_and(|seq| id.seq < seq) {
            return;
        }
        let was_full = self.waiting.len() >= self.window;
        let removed = self.waiting.remove(&id.key);
        if removed.is_some() {
            self.delivery = None;
        }
        if let Some(Delivery::Sent { first_at, .. }) = removed {
            // From the first attempt on: too long when it was lost, never too short when the neighbour is slow.
            let took = now.since(first_at).min(RESEND_MOST);
            self.answer_time = Micros((7 * self.answer_time.0 + took.0) / 8);
            // What a path takes is seen only where it was asked for as much (RFC 7661).
            if was_full {
                self.window = (self.window + 1).min(WINDOW_MOST);
            }
        }
    }

    /// The neighbour compares ranges of the database: these are ours.
    pub(crate) fn describe(&mut self, digests: impl IntoIterator<Item = Digest>) {
        self.digests.extend(digests);
        self.digests.truncate(MAX_DIGESTS);
    }

    /// A version came from the neighbour and is to be acknowledged.
    pub(crate) fn acknowledge(&mut self, id: RecordId) {
        self.acks.insert(id);
    }

    /// The neighbour has a version that this node wants.
    pub(crate) fn request(&mut self, key: RecordKey) {
        self.requests.insert(key);
    }

    /// The databases are to be compared soon.
    pub(crate) fn compare_soon(&mut self, now: Instant) {
        self.compare_at = self.compare_at.min(now);
        self.compare_pause = MISMATCH;
    }

    /// The neighbour's fingerprint, or this node's, changed. A neighbour that is where this node was a moment ago is on
    /// its way: only one that stays behind is compared with.
    pub(crate) fn fingerprints(&mut self, now: Instant, theirs: Option<u64>, ours: &Recent) {
        self.fingerprint = theirs.or(self.fingerprint);
        match self.fingerprint {
            Some(fingerprint) if fingerprint == ours.current() => {
                self.compare_at = Instant::NEVER;
                self.compare_pause = MISMATCH;
            }
            Some(fingerprint) if ours.was(fingerprint) && self.compare_at > now => {
                self.compare_at = now + MISMATCH;
            }
            Some(_) if self.compare_at == Instant::NEVER => self.compare_at = now + MISMATCH,
            Some(_) | None => {}
        }
    }

    /// The messages that are due.
    pub(crate) fn flush(&mut self, now: Instant, database: &Lsdb) -> Vec<Flood> {
        let mut messages = Vec::new();
        for ids in chunks(std::mem::take(&mut self.acks), MAX_IDS) {
            messages.push(Flood::Ack(ids));
        }
        if self.compare_at <= now {
            self.compare_at = match self.fingerprint {
                Some(fingerprint) if fingerprint == database.fingerprint() => Instant::NEVER,
                Some(_) | None => {
                    messages.extend(database.comparison());
                    self.next_comparison(now)
                }
            };
        }
        messages.extend(self.digests.drain(..).map(Flood::Digest));
        for keys in chunks(std::mem::take(&mut self.requests), MAX_KEYS) {
            messages.push(Flood::Request(keys));
        }
        messages.extend(self.updates(now, database));
        debug_assert!(messages.iter().all(|message| {
            Control::Flood(message.clone()).to_bytes().len() <= wattle_wire::control::MAX_MESSAGE
        }));
        messages
    }

    /// When [`Self::flush`] has something to send.
    pub(crate) fn poll_timeout(&self) -> Instant {
        if !(self.acks.is_empty() && self.requests.is_empty() && self.digests.is_empty()) {
            return AT_ONCE;
        }
        let delivery = self.delivery.unwrap_or_else(|| self.next_delivery());
        delivery.min(self.compare_at)
    }

    /// The same, found at once when nothing was owed or delivered since it was asked before: each message is for one
    /// neighbour, and all are asked after it.
    pub(crate) fn reckon_timeout(&mut self) -> Instant {
        self.reckon_delivery();
        self.poll_timeout()
    }

    fn reckon_delivery(&mut self) -> Instant {
        let delivery = self.delivery.unwrap_or_else(|| self.next_delivery());
        self.delivery = Some(delivery);
        delivery
    }

    fn next_delivery(&self) -> Instant {
        let deliveries = self.waiting.values().map(|delivery| match delivery {
            Delivery::Unsent => AT_ONCE,
            Delivery::Sent { again_at, .. } => *again_at,
        });
        deliveries.take(self.window).min().unwrap_or(Instant::NEVER)
    }

    /// Without a fingerprint the comparison is repeated once, with one until the databases agree.
    fn next_comparison(&mut self, now: Instant) -> Instant {
        let pause = self.compare_pause;
        self.compare_pause = Micros(pause.0.max(MISMATCH.0) * 2).min(MISMATCH_MOST);
        match (self.fingerprint, pause) {
            (None, FIRST_SYNC_AGAIN) | (Some(_), _) => now + pause,
            (None, _) => Instant::NEVER,
        }
    }

    fn updates(&mut self, now: Instant, database: &Lsdb) -> Vec<Flood> {
        if self.reckon_delivery() > now {
            return Vec::new();
        }
        self.delivery = None;
        let resend = Micros(self.rtt.max(self.answer_time).0 * 2).max(RESEND_LEAST);
        let mut updates: Vec<Vec<Record>> = Vec::new();
        let mut room = 0;
        let (mut missed, mut gone) = (false, Vec::new());
        // The window is the first keys of the order, so what was sent stays in it until it is acknowledged.
        for (key, delivery) in self.waiting.iter_mut().take(self.window) {
            let (first_at, attempts) = match *delivery {
                Delivery::Unsent => (now, 0),
                Delivery::Sent {
                    first_at,
                    again_at,
                    attempts,
                } if again_at <= now => (first_at, attempts),
                Delivery::Sent { .. } => continue,
            };
            let Some(entry) = database.entry(*key) else {
                gone.push(*key);
                continue;
            };
            missed |= attempts > 0;
            let wait = Micros(resend.0 << attempts.min(6)).min(RESEND_MOST.max(resend));
            *delivery = Delivery::Sent {
                first_at,
                again_at: now + wait,
                attempts: attempts + 1,
            };
            let length = entry.record().bytes().len() + 2;
            if length > room {
                updates.push(Vec::new());
                room = MAX_UPDATE;
            }
            room -= length;
            if let Some(update) = updates.last_mut() {
                update.push(entry.record().clone());
            }
        }
        gone.iter().for_each(|key| {
            self.waiting.remove(key);
        });
        if missed {
            self.window = (self.window / 2).max(WINDOW_LEAST);
        }
        updates.into_iter().map(Flood::Update).collect()
    }
}

/// The fingerprints that this node's database had in the last seconds.
#[derive(Debug, Clone, Default)]
pub(crate) struct Recent {
    fingerprints: VecDeque<(Instant, u64)>,
}

/// How many fingerprints are remembered, and for how long after they were replaced.
const RECENT: usize = 64;
const RECENT_SPAN: Micros = Micros::from_secs(3);

impl Recent {
    /// The database has another fingerprint.
    pub(crate) fn push(&mut self, now: Instant, fingerprint: u64) {
        let is_old = |(at, _): &(Instant, u64)| now.since(*at) > RECENT_SPAN;
        while self.fingerprints.len() >= RECENT || self.fingerprints.front().is_some_and(is_old) {
            self.fingerprints.pop_front();
        }
        self.fingerprints.push_back((now, fingerprint));
    }

    /// The fingerprint.
    pub(crate) fn current(&self) -> u64 {
        self.fingerprints
            .back()
            .map_or(0, |(_, fingerprint)| *fingerprint)
    }

    fn was(&self, fingerprint: u64) -> bool {
        self.fingerprints
            .iter()
            .any(|(_, past)| *past == fingerprint)
    }
}

fn chunks<T: Copy>(items: BTreeSet<T>, most: usize) -> Vec<Vec<T>> {
    let items: Vec<T> = items.into_iter().collect();
    items.chunks(most).map(<[T]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use wattle_model::{NetworkId, NodeId, SeqNo};
    use wattle_wire::key::SecretKey;
    use wattle_wire::record::{Body, NodeBody, RecordKind};

    use super::*;
    use crate::lsdb::Told;

    /// A database of so many records, and a neighbour 1 ms away that has none of them.
    struct Story {
        database: Lsdb,
        adjacency: Adjacency,
        now: Instant,
    }

    impl Story {
        fn of(records: u64) -> Self {
            let now = Instant(1_000_000_000);
            let mut database = Lsdb::default();
            for origin in 0..records {
                database.insert(now, Arc::new(Told::of(record(origin))));
            }
            let rtt = Micros::from_millis(1);
            let adjacency = Adjacency::new(now, LinkId(1), rtt, None);
            Self {
                database,
                adjacency,
                now,
            }
        }

        fn owe(&mut self, origins: std::ops::Range<u64>) {
            origins.for_each(|origin| self.adjacency.owe(key(origin)));
        }

        /// What is sent at once.
        fn sent(&mut self) -> Vec<RecordId> {
            let messages = self.adjacency.flush(self.now, &self.database);
            let updates = messages.iter().filter_map(|message| match message {
                Flood::Update(records) => Some(records.iter().map(RecordId::from)),
                _ => None,
            });
            updates.flatten().collect()
        }

        /// How many records are sent at once in each of some rounds, all of which are acknowledged.
        fn rounds(&mut self, rounds: usize) -> Vec<usize> {
            let round = |_| {
                let sent = self.sent();
                self.now = self.now + Micros::from_millis(1);
                for id in &sent {
                    self.adjacency.has(self.now, *id, &self.database);
                }
                sent.len()
            };
            (0..rounds).map(round).collect()
        }
    }

    fn key(origin: u64) -> RecordKey {
        RecordKey {
            origin: NodeId(origin),
            kind: RecordKind::Node,
            part: 0,
        }
    }

    fn record(origin: u64) -> Record {
        let body = Body::Node(NodeBody::default());
        let signer = SecretKey::from_seed(&[1; 32]);
        Record::sign(NetworkId(1), key(origin), SeqNo(1), 900, &body, &signer)
    }

    #[test]
    fn a_neighbour_that_keeps_up_is_sent_ever_more_at_once_up_to_256_records() {
        let mut story = Story::of(1_000);
        story.owe(0..1_000);
        assert_eq!(story.rounds(6), [64, 128, 256, 256, 256, 40]);
    }

    #[test]
    fn a_window_that_is_never_full_stays_as_it_is() {
        let mut story = Story::of(1_000);
        for _ in 0..100 {
            story.owe(0..63);
            assert_eq!(story.rounds(1), [63]);
        }
        story.owe(0..1_000);
        assert_eq!(story.rounds(1), [64]);
    }

    #[test]
    fn a_missed_acknowledgement_halves_the_window_and_two_records_are_always_under_way() {
        let mut story = Story::of(1_000);
        story.owe(0..1_000);
        assert_eq!(story.rounds(2), [64, 128]);
        let unanswered = (0..9).map(|_| {
            let sent = story.sent().len();
            story.now = story.now + RESEND_MOST;
            sent
        });
        let unanswered: Vec<_> = unanswered.collect();
        assert_eq!(unanswered, [256, 256, 128, 64, 32, 16, 8, 4, 2]);
    }
}
