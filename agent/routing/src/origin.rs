//! This node's own records: signed when what they say changes, and again before their validity ends.
//!
//! Sequence numbers grow over all of them: boot epoch and a counter. When the network remembers a higher one than this
//! node does (a lost state directory), the counter jumps over it. The counter begins somewhere, so that two lives of one
//! epoch do not give one number to two different records, which nobody could tell apart.

use std::collections::BTreeMap;

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore as _, SeedableRng as _};
use wattle_model::{Instant, Micros, NetworkId, NodeId, Prefix, SeqNo, UnixTime};
use wattle_wire::key::SecretKey;
use wattle_wire::record::{
    Body, LinkEntry, LinksBody, NodeBody, PrefixesBody, Record, RecordKey, RecordKind,
};

/// How long a record is valid after it was received.
const LIFETIME_S: u32 = 900;
/// When a record is signed anew: a third of its validity, so two refreshes may be missed.
const REFRESH: Micros = Micros::from_secs(300);
/// Refreshes are spread by up to this, so that the records of a network that started together drift apart.
const REFRESH_SPREAD: u64 = 60_000_000;
/// How far the counter jumps at most over a number of a former life: small against the 32 bits of an epoch.
const JUMP: u64 = 1 << 20;
/// Links and prefixes that fit one record.
const LINKS_PER_PART: usize = 35;
const PREFIXES_PER_PART: usize = 45;
/// Records of one kind and origin; others are refused, so a member cannot fill everybody's memory.
pub(crate) const MAX_PARTS: u8 = 16;

/// The author of this node's records.
pub(crate) struct Origin {
    network: NetworkId,
    node: NodeId,
    key: SecretKey,
    next_seq: SeqNo,
    records: BTreeMap<(RecordKind, u8), Own>,
    rng: ChaCha8Rng,
}

/// One of the records as it was last signed.
struct Own {
    body: Body,
    refresh_at: Instant,
}

impl Origin {
    pub(crate) fn new(network: NetworkId, key: SecretKey, epoch: u32, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let begin = u64::from(rng.next_u32() / 2);
        Self {
            network,
            node: key.public().node_id(),
            key,
            next_seq: SeqNo(SeqNo::first_of(epoch).0 + begin),
            records: BTreeMap::new(),
            rng,
        }
    }

    /// Says what the node is; the record, if that is news.
    pub(crate) fn node(&mut self, now: Instant, body: NodeBody) -> Vec<Record> {
        self.say(now, RecordKind::Node, vec![Body::Node(body)])
    }

    /// Says which links the node has; the records whose part changed.
    pub(crate) fn links(&mut self, now: Instant, at: UnixTime, links: &[LinkEntry]) -> Vec<Record> {
        let bodies = links
            .chunks(LINKS_PER_PART)
            .map(|links| {
                Body::Links(LinksBody {
                    at,
                    links: links.to_vec(),
                })
            })
            .collect();
        self.say(now, RecordKind::Links, bodies)
    }

    /// Says which prefixes the node announces; the records whose part changed.
    pub(crate) fn prefixes(
        &mut self,
        now: Instant,
        at: UnixTime,
        prefixes: &[Prefix],
    ) -> Vec<Record> {
        let bodies = prefixes
            .chunks(PREFIXES_PER_PART)
            .map(|prefixes| {
                Body::Prefixes(PrefixesBody {
                    at,
                    prefixes: prefixes.to_vec(),
                })
            })
            .collect();
        self.say(now, RecordKind::Prefixes, bodies)
    }

    /// Signs anew what is due.
    pub(crate) fn refresh(&mut self, now: Instant) -> Vec<Record> {
        let due: Vec<_> = self
            .records
            .iter()
            .filter(|(_, own)| own.refresh_at <= now)
            .map(|(at, _)| *at)
            .collect();
        due.into_iter()
            .filter_map(|at| self.sign(now, at))
            .collect()
    }

    /// When the next record is to be signed anew.
    pub(crate) fn poll_timeout(&self) -> Instant {
        self.records
            .values()
            .map(|own| own.refresh_at)
            .min()
            .unwrap_or(Instant::NEVER)
    }

    /// Answers a record of this node that the network has and this node did not write in this life.
    pub(crate) fn outdo(&mut self, now: Instant, foreign: &Record) -> Vec<Record> {
        // Not by one: the numbers right after it may belong to other records of the former life.
        let beyond = SeqNo(
            foreign
                .seq()
                .next()
                .0
                .saturating_add(self.rng.next_u64() % JUMP),
        );
        self.next_seq = self.next_seq.max(beyond);
        let at = (foreign.key().kind, foreign.key().part);
        self.records.entry(at).or_insert_with(|| Own {
            body: empty(at.0),
            refresh_at: now,
        });
        self.sign(now, at).into_iter().collect()
    }

    fn say(&mut self, now: Instant, kind: RecordKind, bodies: Vec<Body>) -> Vec<Record> {
        let said = self.records.range((kind, 0)..=(kind, u8::MAX)).count();
        let silent = (bodies.len()..said).map(|_| empty(kind));
        let parts = (0..MAX_PARTS).zip(bodies.into_iter().chain(silent).collect::<Vec<_>>());
        parts
            .filter_map(|(part, body)| self.say_part(now, (kind, part), body))
            .collect()
    }

    fn say_part(&mut self, now: Instant, at: (RecordKind, u8), body: Body) -> Option<Record> {
        let is_news = self
            .records
            .get(&at)
            .is_none_or(|own| !says_the_same(&own.body, &body));
        if !is_news {
            return None;
        }
        self.records.insert(
            at,
            Own {
                body,
                refresh_at: now,
            },
        );
        self.sign(now, at)
    }

    fn sign(&mut self, now: Instant, at: (RecordKind, u8)) -> Option<Record> {
        let own = self.records.get_mut(&at)?;
        own.refresh_at = now + REFRESH + Micros(self.rng.next_u64() % REFRESH_SPREAD);
        let key = RecordKey {
            origin: self.node,
            kind: at.0,
            part: at.1,
        };
        let seq = self.next_seq;
        self.next_seq = seq.next();
        Some(Record::sign(
            self.network,
            key,
            seq,
            LIFETIME_S,
            &own.body,
            &self.key,
        ))
    }
}

/// Whether two bodies differ in their time at most.
fn says_the_same(one: &Body, other: &Body) -> bool {
    match (one, other) {
        (Body::Node(one), Body::Node(other)) => {
            (one.transit, &one.version) == (other.transit, &other.version)
        }
        (Body::Links(one), Body::Links(other)) => one.links == other.links,
        (Body::Prefixes(one), Body::Prefixes(other)) => one.prefixes == other.prefixes,
        (Body::Removal(one), Body::Removal(other)) => one.serial == other.serial,
        _ => false,
    }
}

fn empty(kind: RecordKind) -> Body {
    match kind {
        RecordKind::Node => Body::Node(NodeBody::default()),
        RecordKind::Links => Body::Links(LinksBody::default()),
        // Nobody writes a removal of their own: the trust root signs those.
        RecordKind::Prefixes | RecordKind::Removal => Body::Prefixes(PrefixesBody::default()),
    }
}

#[cfg(test)]
mod tests {
    use wattle_model::{Carrier, Cost, Ppm};
    use wattle_wire::record::MAX_RECORD;

    use super::*;

    fn origin(epoch: u32) -> Origin {
        Origin::new(NetworkId(1), SecretKey::from_seed(&[1; 32]), epoch, 7)
    }

    fn link(neighbour: u64) -> LinkEntry {
        LinkEntry {
            neighbour: NodeId(neighbour),
            carrier: Carrier::Udp6,
            cost: Cost(u32::MAX),
            rtt: Micros(u64::MAX),
            jitter: Micros(u64::MAX),
            loss: Ppm(u32::MAX),
        }
    }

    #[test]
    fn what_was_said_is_not_said_again_until_it_is_old() {
        let mut origin = origin(1);
        let first = origin.links(Instant(0), UnixTime(1), &[link(2)]).remove(0);
        assert_eq!(first.seq().epoch(), 1);
        assert_eq!(origin.links(Instant(5), UnixTime(2), &[link(2)]), []);
        let due = origin.poll_timeout();
        assert!((300..=360).contains(&(due.0 / 1_000_000)), "{due:?}");
        assert_eq!(origin.refresh(due)[0].seq(), first.seq().next());
    }

    #[test]
    fn many_links_take_several_records_and_parts_that_are_gone_are_emptied() {
        let mut origin = origin(1);
        let links: Vec<_> = (0..100).map(link).collect();
        let records = origin.links(Instant(0), UnixTime(1), &links);
        assert_eq!(records.len(), 3);
        assert!(
            records
                .iter()
                .all(|record| record.bytes().len() <= MAX_RECORD)
        );
        let fewer = origin.links(Instant(1), UnixTime(2), &links[..40]);
        let sizes: Vec<_> = fewer
            .iter()
            .map(|record| match record.body() {
                Body::Links(body) => (record.key().part, body.links.len()),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(sizes, [(1, 5), (2, 0)]);
    }

    #[test]
    fn prefixes_of_any_length_fit_their_record() {
        let prefixes: Vec<Prefix> = (0..60)
            .map(|n| format!("fd00:{n:x}::/64").parse().unwrap())
            .collect();
        let records = origin(1).prefixes(Instant(0), UnixTime(1), &prefixes);
        assert!(records.len() == 2 && records.iter().all(|r| r.bytes().len() <= MAX_RECORD));
    }

    #[test]
    fn two_lives_of_one_epoch_do_not_share_a_number() {
        let life = |seed| {
            let mut origin = Origin::new(NetworkId(1), SecretKey::from_seed(&[1; 32]), 1, seed);
            origin.node(Instant(0), NodeBody::default()).remove(0).seq()
        };
        assert!(life(1).0.abs_diff(life(2).0) > 1_000);
    }

    #[test]
    fn a_former_life_is_outdone() {
        let mut former = origin(9);
        let old = former.links(Instant(0), UnixTime(1), &[link(2)]).remove(0);
        let mut reborn = origin(1);
        reborn.node(Instant(0), NodeBody::default());
        let answer = reborn.outdo(Instant(0), &old).remove(0);
        assert!(answer.seq().newer_than(old.seq()));
        assert_eq!(answer.body(), Body::Links(LinksBody::default()));
    }
}
