//! The link-state database: the newest record of every key, until its validity ends.
//!
//! Validity is counted on this node's clock from the moment a record came. A record whose validity ended leaves its
//! sequence number behind, so that a replayed copy is not news. What is stored here was verified by the router.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use wattle_model::{Instant, Micros, NodeId, SeqNo};
use wattle_wire::flood::{Buckets, Digest, Flood, MAX_IDS, RecordId, Summary};
use wattle_wire::record::{Body, Record, RecordKey, RecordKind};

/// Longest validity that an origin may claim, except for removals.
const MOST_LIFETIME: Micros = Micros::from_secs(24 * 3600);

/// A database of up to so many records is told whole when it is compared: two digests.
const FEW: usize = 2 * MAX_IDS - 1;
/// Parts that a larger one is summed up in: with 10,000 nodes a part is 160 records of three kinds.
const SUMMARY_BUCKETS: Buckets = Buckets::MOST;

/// All valid records.
#[derive(Debug, Clone, Default)]
pub struct Lsdb {
    entries: BTreeMap<RecordKey, Entry>,
    floors: BTreeMap<RecordKey, SeqNo>,
    fingerprint: u64,
    /// No entry expires before this.
    next_expiry: Option<Instant>,
}

/// A record and what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// The record as it is flooded.
    pub record: Record,
    /// Its body, parsed.
    pub body: Body,
    fingerprint: u64,
}

impl Told {
    /// Reads a record.
    pub fn of(record: Record) -> Self {
        Self {
            body: record.body(),
            fingerprint: RecordId::from(&record).fingerprint(),
            record,
        }
    }
}

/// What was told, and how long it holds.
#[derive(Debug, Clone)]
pub struct Entry {
    /// What was told.
    pub told: Arc<Told>,
    /// When its validity ends.
    pub expires: Instant,
}

impl Entry {
    /// The record as it is flooded.
    pub fn record(&self) -> &Record {
        &self.told.record
    }

    /// Its body, parsed.
    pub fn body(&self) -> &Body {
        &self.told.body
    }
}

/// How a record compares with the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Age {
    /// It replaces what is there, or nothing is there.
    Newer,
    /// It is there already.
    Same,
    /// A newer one is there.
    Older,
    /// Its validity ended here before.
    Expired,
}

impl Lsdb {
    /// How a version of a record compares with what is there.
    pub fn age(&self, id: RecordId) -> Age {
        match self.entries.get(&id.key).map(|entry| entry.record().seq()) {
            Some(seq) if id.seq == seq => Age::Same,
            Some(seq) if id.seq < seq => Age::Older,
            Some(_) => Age::Newer,
            None if self
                .floors
                .get(&id.key)
                .is_some_and(|floor| id.seq <= *floor) =>
            {
                Age::Expired
            }
            None => Age::Newer,
        }
    }

    /// Stores a verified record that is newer than what is there; what was there.
    pub fn insert(&mut self, now: Instant, told: Arc<Told>) -> Option<Arc<Told>> {
        let record = &told.record;
        let claimed = Micros::from_secs(record.lifetime_s().into());
        let lifetime = match record.key().kind {
            RecordKind::Removal => claimed,
            RecordKind::Node | RecordKind::Links | RecordKind::Prefixes => {
                claimed.min(MOST_LIFETIME)
            }
        };
        let expires = now + lifetime;
        self.next_expiry = Some(self.next_expiry.map_or(expires, |next| next.min(expires)));
        self.fingerprint ^= told.fingerprint;
        let old = self.entries.insert(record.key(), Entry { told, expires });
        let old = old.map(|entry| entry.told);
        self.fingerprint ^= old.as_ref().map_or(0, |old| old.fingerprint);
        old
    }

    /// Drops what is no longer valid and returns the keys.
    pub fn expire(&mut self, now: Instant) -> Vec<RecordKey> {
        if self.poll_timeout() > now {
            return Vec::new();
        }
        let expired: Vec<_> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.expires <= now)
            .map(|(key, _)| *key)
            .collect();
        for key in &expired {
            if let Some(entry) = self.remove(*key) {
                self.floors.insert(*key, entry.record().seq());
            }
        }
        self.next_expiry = self.entries.values().map(|entry| entry.expires).min();
        expired
    }

    /// When the next record may lose its validity.
    pub fn poll_timeout(&self) -> Instant {
        self.next_expiry.unwrap_or(Instant::NEVER)
    }

    /// Drops the records of a node that is no member, except its removal; whether there were any.
    pub fn forget(&mut self, origin: NodeId) -> bool {
        let keys: Vec<_> = self
            .of(origin)
            .map(|(key, _)| *key)
            .filter(|key| key.kind != RecordKind::Removal)
            .collect();
        for key in &keys {
            self.remove(*key);
        }
        !keys.is_empty()
    }

    fn remove(&mut self, key: RecordKey) -> Option<Entry> {
        let entry = self.entries.remove(&key)?;
        self.fingerprint ^= entry.told.fingerprint;
        Some(entry)
    }

    /// The entry of a key.
    pub fn entry(&self, key: RecordKey) -> Option<&Entry> {
        self.entries.get(&key)
    }

    /// All entries, in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&RecordKey, &Entry)> {
        self.entries.iter()
    }

    /// The entries of one origin.
    pub fn of(&self, origin: NodeId) -> impl Iterator<Item = (&RecordKey, &Entry)> {
        let first = RecordKey {
            origin,
            kind: RecordKind::Node,
            part: 0,
        };
        self.entries
            .range(first..)
            .take_while(move |(key, _)| key.origin == origin)
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// A number that two databases share when they are identical, and else almost never.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// What begins a comparison: all versions while they are few, else a summary that shows where they differ.
    pub fn comparison(&self) -> Vec<Flood> {
        match self.entries.len() <= FEW {
            true => self.digests().into_iter().map(Flood::Digest).collect(),
            false => vec![Flood::Summary(self.summary(SUMMARY_BUCKETS))],
        }
    }

    /// The versions in the database, cut into ranges that together cover every key.
    pub fn digests(&self) -> Vec<Digest> {
        self.digests_between(None, None)
    }

    /// The versions of the parts of the database that a summary shows to differ.
    pub fn digests_of_difference(&self, summary: &Summary) -> Vec<Digest> {
        let ours = self.summary(summary.buckets());
        let pairs = ours.fingerprints().iter().zip(summary.fingerprints());
        let differ: Vec<bool> = pairs.map(|(ours, theirs)| ours != theirs).collect();
        let mut digests = Vec::new();
        let mut at = 0;
        for run in differ.chunk_by(|one, other| one == other) {
            let end = at + run.len();
            if run[0] {
                let first = summary.first_key(at);
                let last = summary.last_key(end - 1);
                digests.extend(self.digests_between(Some(first), Some(last)));
            }
            at = end;
        }
        digests
    }

    fn summary(&self, buckets: Buckets) -> Summary {
        let mut summary = Summary::empty(buckets);
        for (key, entry) in &self.entries {
            summary.add(*key, entry.told.fingerprint);
        }
        summary
    }

    /// Neighbouring ranges share a key, so that no key lies between them.
    fn digests_between(&self, first: Option<RecordKey>, last: Option<RecordKey>) -> Vec<Digest> {
        let ids: Vec<RecordId> = self
            .entries
            .range(bounds(first, last))
            .map(|(_, entry)| RecordId::from(entry.record()))
            .collect();
        let mut digests: Vec<Digest> = Vec::new();
        let mut rest = ids.as_slice();
        loop {
            let is_last = rest.len() <= MAX_IDS;
            let records = if is_last { rest } else { &rest[..MAX_IDS] };
            digests.push(Digest {
                first: match digests.is_empty() {
                    true => first,
                    false => records.first().map(|id| id.key),
                },
                last: match is_last {
                    true => last,
                    false => records.last().map(|id| id.key),
                },
                records: records.to_vec(),
            });
            if is_last {
                return digests;
            }
            rest = &rest[MAX_IDS - 1..];
        }
    }

    /// What differs between this database and the part of another one that `digest` describes.
    pub fn compare(&self, digest: &Digest) -> Difference {
        let theirs: BTreeMap<RecordKey, SeqNo> =
            digest.records.iter().map(|id| (id.key, id.seq)).collect();
        let is_backwards = matches!((digest.first, digest.last), (Some(a), Some(b)) if a > b);
        if is_backwards {
            return Difference::default();
        }
        let ours_newer = self
            .entries
            .range(bounds(digest.first, digest.last))
            .filter(|(key, entry)| {
                theirs
                    .get(key)
                    .is_none_or(|seq| entry.record().seq() > *seq)
            })
            .map(|(key, _)| *key)
            .collect();
        let theirs_newer = theirs
            .into_iter()
            .map(|(key, seq)| RecordId { key, seq })
            .filter(|id| self.age(*id) == Age::Newer)
            .map(|id| id.key)
            .collect();
        Difference {
            ours_newer,
            theirs_newer,
        }
    }
}

fn bounds(
    first: Option<RecordKey>,
    last: Option<RecordKey>,
) -> (Bound<RecordKey>, Bound<RecordKey>) {
    (
        first.map_or(Bound::Unbounded, Bound::Included),
        last.map_or(Bound::Unbounded, Bound::Included),
    )
}

/// What two databases have to tell each other.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Difference {
    /// Keys that the other lacks or has older.
    pub ours_newer: Vec<RecordKey>,
    /// Keys that this database lacks or has older.
    pub theirs_newer: Vec<RecordKey>,
}

#[cfg(test)]
mod tests {
    use wattle_model::{NetworkId, UnixTime};
    use wattle_wire::key::SecretKey;
    use wattle_wire::record::NodeBody;

    use super::*;

    fn record(origin: u64, seq: u64) -> Record {
        let key = RecordKey {
            origin: NodeId(origin),
            kind: RecordKind::Node,
            part: 0,
        };
        let body = Body::Node(NodeBody {
            at: UnixTime(1),
            ..NodeBody::default()
        });
        Record::sign(
            NetworkId(1),
            key,
            SeqNo(seq),
            10,
            &body,
            &SecretKey::from_seed(&[1; 32]),
        )
    }

    fn database(records: impl IntoIterator<Item = (u64, u64)>) -> Lsdb {
        let mut database = Lsdb::default();
        for (origin, seq) in records {
            database.insert(Instant(0), Arc::new(Told::of(record(origin, seq))));
        }
        database
    }

    #[test]
    fn a_fingerprint_depends_on_the_content_alone() {
        let mut long_way = database([(2, 1), (1, 1), (1, 5), (3, 9)]);
        long_way.forget(NodeId(3));
        assert_eq!(
            long_way.fingerprint(),
            database([(1, 5), (2, 1)]).fingerprint()
        );
        assert_ne!(
            long_way.fingerprint(),
            database([(1, 5), (2, 2)]).fingerprint()
        );
    }

    #[test]
    fn a_record_whose_validity_ended_is_not_news_when_it_is_replayed() {
        let mut database = database([(1, 5)]);
        assert_eq!(database.poll_timeout(), Instant(10_000_000));
        assert_eq!(database.expire(Instant(9_999_999)), []);
        assert_eq!(database.expire(Instant(10_000_000)).len(), 1);
        assert_eq!(database.age(RecordId::from(&record(1, 5))), Age::Expired);
        assert_eq!(database.age(RecordId::from(&record(1, 6))), Age::Newer);
        assert_eq!((database.len(), database.fingerprint()), (0, 0));
    }

    #[test]
    fn two_databases_find_all_differences_through_their_digests() {
        let ours = database((0..300).map(|origin| (origin * 2, 5)));
        let theirs = database((0..300).map(|origin| (origin * 3, 4 + origin % 3)));
        let mut found = Difference::default();
        for digest in theirs.digests() {
            let difference = ours.compare(&digest);
            found.ours_newer.extend(difference.ours_newer);
            found.theirs_newer.extend(difference.theirs_newer);
        }
        let newer = |a: &Lsdb, b: &Lsdb| {
            let keys = a
                .entries
                .values()
                .map(|entry| RecordId::from(entry.record()));
            keys.filter(|id| b.age(*id) == Age::Newer)
                .map(|id| id.key)
                .collect::<Vec<_>>()
        };
        found.ours_newer.dedup();
        found.theirs_newer.dedup();
        assert_eq!(found.ours_newer, newer(&ours, &theirs));
        assert_eq!(found.theirs_newer, newer(&theirs, &ours));
        assert!(theirs.digests().len() > 3);
    }

    #[test]
    fn two_large_databases_find_all_differences_through_a_summary() {
        let spread = |origin: u64| origin.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let ours = database((0..3_000).map(|origin| (spread(origin), 5)));
        let changed = [7, 8, 1_500];
        let theirs = database((1..3_001).map(|origin| {
            let seq = if changed.contains(&origin) { 6 } else { 5 };
            (spread(origin), seq)
        }));
        let [Flood::Summary(summary)] = &ours.comparison()[..] else {
            panic!("a summary");
        };
        let digests = theirs.digests_of_difference(summary);
        let told: usize = digests.iter().map(|digest| digest.records.len()).sum();
        assert!(told < 300, "{told} versions for 5 differences");
        let mut found = Difference::default();
        for digest in digests {
            let difference = ours.compare(&digest);
            found.ours_newer.extend(difference.ours_newer);
            found.theirs_newer.extend(difference.theirs_newer);
        }
        let origins = |keys: &[RecordKey]| -> Vec<u64> {
            let mut origins: Vec<_> = keys.iter().map(|key| key.origin.0).collect();
            origins.sort_unstable();
            origins
        };
        let mut newer = [7, 8, 1_500, 3_000].map(spread);
        newer.sort_unstable();
        assert_eq!(origins(&found.ours_newer), [spread(0)]);
        assert_eq!(origins(&found.theirs_newer), newer);
        assert_eq!(ours.digests_of_difference(summary), []);
    }

    #[test]
    fn an_empty_database_asks_for_everything() {
        let digests = Lsdb::default().digests();
        assert_eq!(digests.len(), 1);
        assert_eq!(
            database([(1, 1), (2, 1)])
                .compare(&digests[0])
                .ours_newer
                .len(),
            2
        );
    }
}
