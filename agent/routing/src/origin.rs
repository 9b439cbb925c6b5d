//! This node's own records: signed when what they say changes, and again before their validity ends.
//!
//! Sequence numbers grow over all of them: boot epoch and a counter. When the network remembers a higher one than this
//! node does (a lost state directory), the counter jumps over it. The counter begins somewhere, so that two lives of one
//! epoch do not give one number to two different records, which nobody could tell apart.

use std::collections::{BTreeMap, BTreeSet};

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore as _, SeedableRng as _};
use wattle_model::{Carrier, Instant, Micros, NetworkId, NodeId, Prefix, SeqNo, UnixTime};
use wattle_wire::key::SecretKey;
use wattle_wire::record::{
    Body, LinkEntry, LinksBody, NodeBody, PrefixesBody, Record, RecordKey, RecordKind,
};

/// How long a record is valid after it was received, and for how long in a network of many members. A third of it later
/// the record is signed anew, so two refreshes may be missed; refreshes are spread by a fifteenth, so that the records
/// of a network that started together drift apart.
const VALIDITY: Micros = Micros::from_secs(900);
const VALIDITY_PER_MEMBER: Micros = Micros::from_secs(6);
const VALIDITY_MOST: Micros = Micros::from_secs(23 * 3_600);
/// How far the counter jumps at most over a number of a former life: small against the 32 bits of an epoch.
const JUMP: u64 = 1 << 20;
/// Bytes of links and number of prefixes that fit one record.
const LINKS_LENGTH: usize = 986;
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
    /// Which record each link is in: it stays there, or one link more would rewrite all records after its own.
    parts: BTreeMap<End, u8>,
    members: usize,
    rng: ChaCha8Rng,
}

/// A link by its other end.
pub(crate) type End = (NodeId, Carrier);

/// Links that were lost and whose loss others were not told yet, and when each was suspected first.
pub(crate) type Lost = BTreeMap<End, Instant>;

/// One of the records as it was last signed.
struct Own {
    body: Body,
    refresh_at: Instant,
    length: usize,
}

impl Own {
    /// The next refresh takes along what was measured since.
    fn measured(&mut self, body: Body) {
        if let (Body::Links(own), Body::Links(body)) = (&mut self.body, body) {
            own.links = body.links;
        }
    }
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
            parts: BTreeMap::new(),
            members: 0,
            rng,
        }
    }

    /// So many members hear what this node says.
    pub(crate) fn heard_by(&mut self, members: usize) {
        self.members = members;
    }

    /// Says what the node is; the record, if that is news.
    pub(crate) fn node(&mut self, now: Instant, body: NodeBody) -> Vec<Record> {
        self.say(now, RecordKind::Node, vec![Body::Node(body)])
    }

    /// Says which links the node has; the records in which a link or a price is another.
    pub(crate) fn links(
        &mut self,
        now: Instant,
        at: UnixTime,
        links: &[LinkEntry],
        lost: &Lost,
    ) -> Vec<Record> {
        let mut parts = self.distribute(links);
        // One that is left empty says since when, too.
        parts.resize_with(parts.len().max(self.said(RecordKind::Links)), Vec::new);
        let bodies = (0..).zip(parts).map(|(part, links)| {
            Body::Links(LinksBody {
                at,
                suspected: self.suspected(now, part, &links, lost),
                links,
            })
        });
        let bodies = bodies.collect();
        self.say(now, RecordKind::Links, bodies)
    }

    /// How long ago the first of the links that a part had and is to lose was suspected.
    fn suspected(&self, now: Instant, part: u8, links: &[LinkEntry], lost: &Lost) -> Micros {
        let own = self.records.get(&(RecordKind::Links, part));
        let had = match own.map(|own| &own.body) {
            Some(Body::Links(body)) => body.links.as_slice(),
            _ => &[],
        };
        let has = |end: &End| links.iter().any(|link| end_of(link) == *end);
        let gone = had.iter().map(end_of).filter(|end| !has(end));
        let since = gone.filter_map(|end| lost.get(&end)).min();
        since.map_or(Micros(0), |since| now.since(*since))
    }

    /// The links of each part, in their order.
    fn distribute(&mut self, links: &[LinkEntry]) -> Vec<Vec<LinkEntry>> {
        let kept: BTreeSet<_> = links.iter().map(end_of).collect();
        self.parts.retain(|end, _| kept.contains(end));
        let mut bodies: Vec<Vec<LinkEntry>> = Vec::new();
        let (placed, others): (Vec<&LinkEntry>, Vec<&LinkEntry>) = links
            .iter()
            .partition(|link| self.parts.contains_key(&end_of(link)));
        let mut lengths = [0; MAX_PARTS as usize];
        let mut grown = Vec::new();
        for link in placed {
            let part = usize::from(self.parts[&end_of(link)]);
            bodies.resize_with(bodies.len().max(part + 1), Vec::new);
            if lengths[part] + link.length() > LINKS_LENGTH {
                grown.push(link);
                continue;
            }
            bodies[part].push(*link);
            lengths[part] += link.length();
        }
        for link in grown.into_iter().chain(others) {
            let mut parts = lengths.iter();
            let with_room = parts.position(|length| length + link.length() <= LINKS_LENGTH);
            let Some(part) = with_room else {
                self.parts.remove(&end_of(link));
                continue;
            };
            bodies.resize_with(bodies.len().max(part + 1), Vec::new);
            bodies[part].push(*link);
            lengths[part] += link.length();
            self.parts.insert(end_of(link), part as u8);
        }
        for body in &mut bodies {
            body.sort_unstable_by_key(end_of);
        }
        bodies
    }

    /// How many bytes the records about links take.
    pub(crate) fn links_length(&self) -> usize {
        let records = self
            .records
            .range((RecordKind::Links, 0)..=(RecordKind::Links, u8::MAX));
        records.map(|(_, own)| own.length).sum()
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
            length: 0,
        });
        self.sign(now, at).into_iter().collect()
    }

    fn say(&mut self, now: Instant, kind: RecordKind, bodies: Vec<Body>) -> Vec<Record> {
        let silent = (bodies.len()..self.said(kind)).map(|_| empty(kind));
        let parts = (0..MAX_PARTS).zip(bodies.into_iter().chain(silent).collect::<Vec<_>>());
        parts
            .filter_map(|(part, body)| self.say_part(now, (kind, part), body))
            .collect()
    }

    /// How many parts there are.
    fn said(&self, kind: RecordKind) -> usize {
        self.records.range((kind, 0)..=(kind, u8::MAX)).count()
    }

    fn say_part(&mut self, now: Instant, at: (RecordKind, u8), body: Body) -> Option<Record> {
        match self.records.get_mut(&at) {
            Some(own) if says_the_same(&own.body, &body) => {
                own.measured(body);
                return None;
            }
            Some(_) | None => {}
        }
        self.records.insert(
            at,
            Own {
                body,
                refresh_at: now,
                length: 0,
            },
        );
        self.sign(now, at)
    }

    fn sign(&mut self, now: Instant, at: (RecordKind, u8)) -> Option<Record> {
        let validity = self.validity();
        let spread = self.rng.next_u64() % (validity.0 / 15);
        let own = self.records.get_mut(&at)?;
        own.refresh_at = now + Micros(validity.0 / 3 + spread);
        let key = RecordKey {
            origin: self.node,
            kind: at.0,
            part: at.1,
        };
        let seq = self.next_seq;
        self.next_seq = seq.next();
        let lifetime = (validity.as_millis() / 1_000) as u32;
        let record = Record::sign(self.network, key, seq, lifetime, &own.body, &self.key);
        own.length = record.bytes().len();
        Some(record)
    }

    /// How long records are valid: refreshes of many members are not to be more than those of few.
    fn validity(&self) -> Micros {
        let grown = Micros(VALIDITY_PER_MEMBER.0 * self.members as u64);
        grown.clamp(VALIDITY, VALIDITY_MOST)
    }
}

/// Whether two bodies differ at most in their time and in what was measured to come to the same prices.
fn says_the_same(one: &Body, other: &Body) -> bool {
    match (one, other) {
        (Body::Node(one), Body::Node(other)) => {
            (one.transit, &one.version) == (other.transit, &other.version)
        }
        (Body::Links(one), Body::Links(other)) => {
            let price = |link: &LinkEntry| (link.neighbour, link.carrier, link.cost, link.apart);
            one.links
                .iter()
                .map(price)
                .eq(other.links.iter().map(price))
        }
        (Body::Prefixes(one), Body::Prefixes(other)) => one.prefixes == other.prefixes,
        (Body::Removal(one), Body::Removal(other)) => one.serial == other.serial,
        _ => false,
    }
}

const fn end_of(link: &LinkEntry) -> End {
    (link.neighbour, link.carrier)
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
    use wattle_model::{ApartCosts, Carrier, Class, Cost, Ppm};
    use wattle_wire::record::MAX_RECORD;

    use super::*;

    fn origin(epoch: u32) -> Origin {
        Origin::new(NetworkId(1), SecretKey::from_seed(&[1; 32]), epoch, 7)
    }

    fn link(neighbour: u64) -> LinkEntry {
        LinkEntry {
            neighbour: NodeId(neighbour),
            carrier: Carrier::Udp6,
            cost: Cost::MOST.in_tier(u8::MAX),
            apart: ApartCosts::NONE,
            rtt: Micros(u64::MAX),
            jitter: Micros(u64::MAX),
            loss: Ppm(u32::MAX),
        }
    }

    #[test]
    fn what_was_said_is_not_said_again_until_it_is_old() {
        let mut origin = origin(1);
        let first = origin
            .links(Instant(0), UnixTime(1), &[link(2)], &Lost::new())
            .remove(0);
        assert_eq!(first.seq().epoch(), 1);
        assert_eq!(
            origin.links(Instant(5), UnixTime(2), &[link(2)], &Lost::new()),
            []
        );
        let due = origin.poll_timeout();
        assert!((300..=360).contains(&(due.0 / 1_000_000)), "{due:?}");
        assert_eq!(origin.refresh(due)[0].seq(), first.seq().next());
    }

    #[test]
    fn many_links_take_several_records_and_parts_that_are_gone_are_emptied() {
        let mut origin = origin(1);
        let links: Vec<_> = (0..100).map(link).collect();
        let records = origin.links(Instant(0), UnixTime(1), &links, &Lost::new());
        assert_eq!(records.len(), 3);
        assert!(
            records
                .iter()
                .all(|record| record.bytes().len() <= MAX_RECORD)
        );
        let fewer = origin.links(Instant(1), UnixTime(2), &links[..40], &Lost::new());
        let sizes: Vec<_> = fewer
            .iter()
            .map(|record| match record.body() {
                Body::Links(body) => (record.key().part, body.links.len()),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(sizes, [(1, 6), (2, 0)]);
    }

    #[test]
    fn a_link_more_or_less_and_another_price_rewrite_one_record() {
        let mut origin = origin(1);
        let mut links: Vec<_> = (0..100).map(link).collect();
        let mut written = |links: &[LinkEntry]| -> Vec<(u8, usize)> {
            let records = origin.links(Instant(0), UnixTime(1), links, &Lost::new());
            let part = |record: &Record| match record.body() {
                Body::Links(body) => (record.key().part, body.links.len()),
                other => panic!("{other:?}"),
            };
            records.iter().map(part).collect()
        };
        assert_eq!(written(&links), [(0, 34), (1, 34), (2, 32)]);
        links[50].cost = Cost(1);
        for link in &mut links {
            link.rtt = Micros(5);
        }
        assert_eq!(written(&links), [(1, 34)]);
        links.remove(10);
        assert_eq!(written(&links), [(0, 33)]);
        links.push(link(1_000));
        assert_eq!(written(&links), [(0, 34)]);
    }

    #[test]
    fn the_record_that_loses_a_link_tells_since_when_it_was_suspected_and_no_other() {
        let mut origin = origin(1);
        let mut links: Vec<_> = (0..100).map(link).collect();
        let lost = |neighbour, ms: u64| ((NodeId(neighbour), Carrier::Udp6), Instant(ms * 1_000));
        let lost = Lost::from([lost(5, 700), lost(10, 400), lost(50, 100)]);
        let mut written = |links: &[LinkEntry], lost| -> Vec<(u8, u64)> {
            let records = origin.links(Instant(1_000_000), UnixTime(1), links, lost);
            let part = |record: &Record| match record.body() {
                Body::Links(body) => (record.key().part, body.suspected.as_millis()),
                other => panic!("{other:?}"),
            };
            records.iter().map(part).collect()
        };
        assert_eq!(written(&links, &lost), [(0, 0), (1, 0), (2, 0)]);
        links[50].cost = Cost(1);
        links.remove(10);
        links.remove(5);
        assert_eq!(written(&links, &lost), [(0, 600), (1, 0)]);
    }

    #[test]
    fn links_whose_prices_grow_move_to_a_record_with_room_and_none_is_left_out() {
        let mut origin = origin(1);
        let mut links: Vec<_> = (0..100).map(link).collect();
        let mut said: BTreeMap<u8, Vec<NodeId>> = BTreeMap::new();
        for priced_apart in [0, 1, 40, 100, 0] {
            for (at, link) in links.iter_mut().enumerate() {
                let costs = |costs: ApartCosts, class| costs.with(class, Cost(5).in_tier(1));
                link.apart = match at < priced_apart {
                    true => Class::APART.into_iter().fold(ApartCosts::NONE, costs),
                    false => ApartCosts::NONE,
                };
            }
            for record in origin.links(Instant(0), UnixTime(1), &links, &Lost::new()) {
                assert!(record.bytes().len() <= MAX_RECORD);
                let Body::Links(body) = record.body() else {
                    panic!("{record:?}");
                };
                let named = body.links.iter().map(|link| link.neighbour).collect();
                said.insert(record.key().part, named);
            }
            let mut all: Vec<_> = said.values().flatten().copied().collect();
            all.sort_unstable();
            assert_eq!(
                all,
                (0..100).map(NodeId).collect::<Vec<_>>(),
                "{priced_apart}"
            );
        }
    }

    #[test]
    fn records_live_longer_in_a_large_network() {
        let mut origin = origin(1);
        origin.heard_by(1_000);
        let record = origin
            .links(Instant(0), UnixTime(1), &[link(2)], &Lost::new())
            .remove(0);
        assert_eq!(record.lifetime_s(), 6_000);
        let due = origin.poll_timeout().0 / 1_000_000;
        assert!((2_000..=2_400).contains(&due), "{due}");
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
        let old = former
            .links(Instant(0), UnixTime(1), &[link(2)], &Lost::new())
            .remove(0);
        let mut reborn = origin(1);
        reborn.node(Instant(0), NodeBody::default());
        let answer = reborn.outdo(Instant(0), &old).remove(0);
        assert!(answer.seq().newer_than(old.seq()));
        assert_eq!(answer.body(), Body::Links(LinksBody::default()));
    }
}
