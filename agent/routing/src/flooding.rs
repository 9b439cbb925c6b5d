//! Carrying records to one neighbour: every record once, again until it is acknowledged, only its newest version.
//!
//! What waits is a set of *keys*; the version is looked up when it is sent, so a slow neighbour never builds a backlog:
//! at most one entry per key of the database. Knows nothing of signatures or of other neighbours.

use std::collections::{BTreeMap, BTreeSet};

use wattle_model::{Instant, LinkId, Micros};
use wattle_wire::control::Control;
use wattle_wire::flood::{Flood, MAX_IDS, MAX_KEYS, MAX_UPDATE, RecordId};
use wattle_wire::record::{Record, RecordKey};

use crate::lsdb::Lsdb;

/// Records that may be on their way unacknowledged: 64 records of at most 1,100 bytes.
const WINDOW: usize = 64;
/// Shortest and longest wait for an acknowledgement; in between twice the round trip, doubled with every attempt.
const RESEND_LEAST: Micros = Micros::from_millis(30);
const RESEND_MOST: Micros = Micros::from_secs(2);
/// How long two databases may differ before they are compared: probes tell fingerprints once a second.
const MISMATCH: Micros = Micros::from_millis(2_500);
/// Longest pause between comparisons that did not help, as when the two have different peer sets.
const MISMATCH_MOST: Micros = Micros::from_secs(60);
/// When a first comparison is repeated if nothing shows that it arrived.
const FIRST_SYNC_AGAIN: Micros = Micros::from_secs(1);

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
    acks: BTreeSet<RecordId>,
    requests: BTreeSet<RecordKey>,
    fingerprint: Option<u64>,
    compare_at: Instant,
    compare_pause: Micros,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Delivery {
    Unsent,
    Sent { again_at: Instant, attempts: u32 },
}

impl Adjacency {
    /// A neighbour that is heard again: the databases are compared at once.
    pub(crate) fn new(now: Instant, link: LinkId, rtt: Micros, fingerprint: Option<u64>) -> Self {
        Self {
            link,
            rtt,
            waiting: BTreeMap::new(),
            acks: BTreeSet::new(),
            requests: BTreeSet::new(),
            fingerprint,
            compare_at: now,
            compare_pause: FIRST_SYNC_AGAIN,
        }
    }

    /// The neighbour is to get the newest version of a record.
    pub(crate) fn owe(&mut self, key: RecordKey) {
        self.waiting.insert(key, Delivery::Unsent);
    }

    /// The neighbour shows that it lacks the newest version: what is on its way to it already is not hurried, or two nodes
    /// that are slow to acknowledge would keep each other busy.
    pub(crate) fn remind(&mut self, key: RecordKey) {
        self.waiting.entry(key).or_insert(Delivery::Unsent);
    }

    /// The neighbour showed that it has this version.
    pub(crate) fn has(&mut self, id: RecordId, database: &Lsdb) {
        let ours = database.entry(id.key).map(|entry| entry.record.seq());
        if ours.is_none_or(|seq| id.seq >= seq) {
            self.waiting.remove(&id.key);
        }
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

    /// The neighbour's fingerprint, or this node's, changed.
    pub(crate) fn fingerprints(&mut self, now: Instant, theirs: Option<u64>, ours: u64) {
        self.fingerprint = theirs.or(self.fingerprint);
        match self.fingerprint {
            Some(fingerprint) if fingerprint == ours => {
                self.compare_at = Instant::NEVER;
                self.compare_pause = MISMATCH;
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
                    messages.extend(database.digests().into_iter().map(Flood::Digest));
                    self.next_comparison(now)
                }
            };
        }
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
        if !self.acks.is_empty() || !self.requests.is_empty() {
            return AT_ONCE;
        }
        let deliveries = self.waiting.values().map(|delivery| match delivery {
            Delivery::Unsent => AT_ONCE,
            Delivery::Sent { again_at, .. } => *again_at,
        });
        deliveries
            .take(WINDOW)
            .min()
            .unwrap_or(Instant::NEVER)
            .min(self.compare_at)
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
        self.waiting.retain(|key, _| database.entry(*key).is_some());
        let resend = Micros(self.rtt.0 * 2).max(RESEND_LEAST);
        let mut updates: Vec<Vec<Record>> = Vec::new();
        let mut room = 0;
        // The window is the first keys of the order, so what was sent stays in it until it is acknowledged.
        for (key, delivery) in self.waiting.iter_mut().take(WINDOW) {
            let attempts = match *delivery {
                Delivery::Unsent => 0,
                Delivery::Sent { again_at, attempts } if again_at <= now => attempts,
                Delivery::Sent { .. } => continue,
            };
            let wait = Micros(resend.0 << attempts.min(6)).min(RESEND_MOST.max(resend));
            *delivery = Delivery::Sent {
                again_at: now + wait,
                attempts: attempts + 1,
            };
            let Some(entry) = database.entry(*key) else {
                continue;
            };
            let length = entry.record.bytes().len() + 2;
            if length > room {
                updates.push(Vec::new());
                room = MAX_UPDATE;
            }
            room -= length;
            if let Some(update) = updates.last_mut() {
                update.push(entry.record.clone());
            }
        }
        updates.into_iter().map(Flood::Update).collect()
    }
}

fn chunks<T: Copy>(items: BTreeSet<T>, most: usize) -> Vec<Vec<T>> {
    let items: Vec<T> = items.into_iter().collect();
    items.chunks(most).map(<[T]>::to_vec).collect()
}
