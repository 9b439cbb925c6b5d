//! The link-state database: the newest record of every key, until its validity ends.
//!
//! Validity is counted on this node's clock from the moment a record came. A record whose validity ended leaves its
//! sequence number behind, so that a replayed copy is not news. What is stored here was verified by the router.

use std::collections::BTreeMap;
use std::ops::Bound;

use wattle_model::{Instant, Micros, NodeId, SeqNo};
use wattle_wire::flood::{Digest, MAX_IDS, RecordId};
use wattle_wire::record::{Body, Record, RecordKey, RecordKind};

/// Longest validity that an origin may claim, except for removals.
const MOST_LIFETIME: Micros = Micros::from_secs(24 * 3600);

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
#[derive(Debug, Clone)]
pub struct Entry {
    /// The record as it is flooded.
    pub record: Record,
    /// Its body, parsed.
    pub body: Body,
    /// When it came.
    pub since: Instant,
    /// When its validity ends.
    pub expires: Instant,
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
        match self.entries.get(&id.key).map(|entry| entry.record.seq()) {
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

    /// Stores a verified record that is newer than what is there.
    pub fn insert(&mut self, now: Instant, record: Record) {
        let claimed = Micros::from_secs(record.lifetime_s().into());
        let lifetime = match record.key().kind {
            RecordKind::Removal => claimed,
            RecordKind::Node | RecordKind::Links | RecordKind::Prefixes => {
                claimed.min(MOST_LIFETIME)
            }
        };
        let expires = now + lifetime;
        self.next_expiry = Some(self.next_expiry.map_or(expires, |next| next.min(expires)));
        self.fingerprint ^= RecordId::from(&record).fingerprint();
        let body = record.body();
        let entry = Entry {
            record,
            body,
            since: now,
            expires,
        };
        if let Some(old) = self.entries.insert(entry.record.key(), entry) {
            self.fingerprint ^= RecordId::from(&old.record).fingerprint();
        }
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
                self.floors.insert(*key, entry.record.seq());
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
        self.fingerprint ^= RecordId::from(&entry.record).fingerprint();
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

    /// The versions in the database, cut into ranges that together cover every key.
    pub fn digests(&self) -> Vec<Digest> {
        let ids: Vec<RecordId> = self
            .entries
            .values()
            .map(|entry| RecordId::from(&entry.record))
            .collect();
        // Neighbouring ranges share a key, so that no key lies between them.
        let mut digests = Vec::new();
        let mut rest = ids.as_slice();
        loop {
            let (records, last) = match rest.len() {
                length if length > MAX_IDS => (&rest[..MAX_IDS], Some(rest[MAX_IDS - 1].key)),
                _ => (rest, None),
            };
            let first = (!digests.is_empty()).then(|| records[0].key);
            digests.push(Digest {
                first,
                last,
                records: records.to_vec(),
            });
            if last.is_none() {
                return digests;
            }
            rest = &rest[MAX_IDS - 1..];
        }
    }

    /// What differs between this database and the part of another one that `digest` describes.
    pub fn compare(&self, digest: &Digest) -> Difference {
        let theirs: BTreeMap<RecordKey, SeqNo> =
            digest.records.iter().map(|id| (id.key, id.seq)).collect();
        let bounds = (
            digest.first.map_or(Bound::Unbounded, Bound::Included),
            digest.last.map_or(Bound::Unbounded, Bound::Included),
        );
        let is_backwards = matches!((digest.first, digest.last), (Some(a), Some(b)) if a > b);
        if is_backwards {
            return Difference::default();
        }
        let ours_newer = self
            .entries
            .range(bounds)
            .filter(|(key, entry)| theirs.get(key).is_none_or(|seq| entry.record.seq() > *seq))
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
            database.insert(Instant(0), record(origin, seq));
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
                .map(|entry| RecordId::from(&entry.record));
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
