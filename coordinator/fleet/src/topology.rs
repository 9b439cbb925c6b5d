//! The topology: what members and their records mean, and every difference that an input makes to it, in order
//! (`docs/protocol/topology.md` §2). After a start, what was stored is compared with what is known, so a change that
//! nobody saw becomes a difference like any other.
//!
//! `accept` and `handle_timeout` take inputs and return differences; `poll_timeout` says when the next record expires.

use std::collections::{BTreeMap, BTreeSet};

use wattle_api::Timestamp;
use wattle_api::topology::{Cause, Entity, EntityKey, LinkEntity, NodeEntity, PrefixEntity};
use wattle_model::{Carrier, Cost, Instant, Micros, NetworkId, NodeId, NodeName, Prefix};
use wattle_wire::grant::Grant;
use wattle_wire::record::{Body, LinkEntry, Record, RecordKey, RecordKind};

use crate::difference::{Difference, Evidence};
use crate::membership::lies_within;
use crate::neighbours::Pair;
use crate::replica::{Replica, Verdict};

/// What a record did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ingest {
    /// What became of it.
    pub verdict: Verdict,
    /// What it changed, in order.
    pub differences: Vec<Difference>,
}

/// Members, their records, and the entities that follow from both.
#[derive(Debug, Clone)]
pub struct Topology {
    replica: Replica,
    grants: BTreeMap<NodeId, Grant>,
    entities: BTreeMap<EntityKey, Entity>,
    prefixes: BTreeMap<NodeId, BTreeSet<Prefix>>,
    measured: BTreeMap<EntityKey, Measured>,
}

/// Measurements of one link that follow each other faster than this are told as one change.
pub const MEASURED_EVERY: Micros = Micros::from_secs(1);

/// When a link's measurement was last told, and what was not since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Measured {
    told: Instant,
    held: u64,
}

impl Topology {
    /// A topology without members.
    pub const fn new(network: NetworkId) -> Self {
        Self {
            replica: Replica::new(network),
            grants: BTreeMap::new(),
            entities: BTreeMap::new(),
            prefixes: BTreeMap::new(),
            measured: BTreeMap::new(),
        }
    }

    /// The topology of these members and records, and how it differs from the entities that were stored.
    pub fn recover<'a>(
        network: NetworkId,
        grants: impl IntoIterator<Item = &'a Grant>,
        records: impl IntoIterator<Item = Record>,
        stored: impl IntoIterator<Item = Entity>,
        now: Instant,
    ) -> (Self, Vec<Difference>) {
        let mut topology = Self::new(network);
        for grant in grants {
            topology.add_grant(grant);
        }
        for record in records {
            topology.replica.offer(now, &record);
        }
        let stored: Vec<Entity> = stored.into_iter().collect();
        let mut owners: BTreeSet<NodeId> = stored.iter().map(Entity::owner).collect();
        owners.extend(topology.grants.keys());
        for entity in stored {
            topology.put(entity.key(), Some(entity));
        }
        let mut differences = Vec::new();
        for owner in owners {
            let change = Change {
                cause: |_, _| Cause::Recovered,
                evidence: Evidence::default(),
                measured_at: None,
            };
            topology.reconcile_all(owner, &change, &mut differences);
        }
        (topology, differences)
    }

    /// Everything there is, ordered by key.
    pub fn entities(&self) -> impl ExactSizeIterator<Item = &Entity> {
        self.entities.values()
    }

    /// One entity.
    pub fn entity(&self, key: EntityKey) -> Option<&Entity> {
        self.entities.get(&key)
    }

    /// The round trips of links that both ends report, the fastest of each pair of nodes.
    pub fn round_trips(&self) -> BTreeMap<Pair, Micros> {
        let mut rtts = BTreeMap::new();
        for entity in self.entities.values() {
            if let Entity::Link(link) = entity
                && link.confirmed
                && link.rtt_us > 0
                && link.from != link.to
            {
                let rtt = Micros(link.rtt_us);
                let best = rtts.entry(Pair::of(link.from, link.to)).or_insert(rtt);
                *best = rtt.min(*best);
            }
        }
        rtts
    }

    /// How many records are in the replica.
    pub fn records(&self) -> usize {
        self.replica.len()
    }

    /// A node became a member, or its grant changed.
    pub fn set_member(&mut self, grant: &Grant) -> Vec<Difference> {
        self.add_grant(grant);
        let change = Change {
            cause: member_cause,
            evidence: Evidence::default(),
            measured_at: None,
        };
        let mut differences = Vec::new();
        self.reconcile_all(grant.node, &change, &mut differences);
        differences
    }

    /// A node was removed.
    pub fn remove_member(&mut self, node: NodeId) -> Vec<Difference> {
        self.grants.remove(&node);
        self.replica.remove_origin(node);
        let change = Change {
            cause: |_, _| Cause::MemberRemoved,
            evidence: Evidence::default(),
            measured_at: None,
        };
        let mut differences = Vec::new();
        self.reconcile_all(node, &change, &mut differences);
        differences
    }

    /// A record came from the mesh.
    pub fn accept(&mut self, now: Instant, record: &Record) -> Ingest {
        let mut differences = Vec::new();
        let verdict = self.replica.offer(now, record);
        if verdict == Verdict::Accepted {
            let body = record.body();
            let observed_at = Some(body.at()).filter(|at| at.0 != 0).map(Timestamp);
            let evidence = Evidence {
                reporter: Some(record.origin()),
                record_seq: Some(record.seq().0),
                observed_at,
                coalesced: 0,
            };
            let change = Change {
                cause: report_cause,
                evidence,
                measured_at: Some(now),
            };
            self.reconcile(record.key(), &change, &mut differences);
        }
        Ingest {
            verdict,
            differences,
        }
    }

    /// Lets records expire.
    pub fn handle_timeout(&mut self, now: Instant) -> Vec<Difference> {
        let change = Change {
            cause: |_, _| Cause::RecordExpired,
            evidence: Evidence::default(),
            measured_at: None,
        };
        let mut differences = Vec::new();
        for key in self.replica.expire(now) {
            self.reconcile(key, &change, &mut differences);
        }
        self.tell_held(now, &mut differences);
        differences
    }

    /// When `handle_timeout` wants to be called.
    pub fn poll_timeout(&self) -> Instant {
        let held = self.measured.values().filter(|measured| measured.held > 0);
        let due = held.map(|measured| measured.told + MEASURED_EVERY).min();
        self.replica
            .next_expiry()
            .min(due.unwrap_or(Instant::NEVER))
    }

    /// Tells the newest measurements of links that had to wait.
    fn tell_held(&mut self, now: Instant, out: &mut Vec<Difference>) {
        let is_due = |measured: &Measured| measured.told + MEASURED_EVERY <= now;
        let mut owners = BTreeSet::new();
        for (key, measured) in &mut self.measured {
            if let EntityKey::Link(from, ..) = key
                && is_due(measured)
                && measured.held > 0
            {
                owners.insert(*from);
                // The newest is told itself.
                measured.held -= 1;
            }
        }
        for owner in owners {
            let change = Change {
                cause: report_cause,
                evidence: self.links_evidence(owner),
                measured_at: Some(now),
            };
            self.reconcile_links(owner, &change, out);
        }
        // A link that went back to what was told has nothing to tell.
        self.measured.retain(|_, measured| !is_due(measured));
    }

    /// The newest record of links of a node, as evidence.
    fn links_evidence(&self, node: NodeId) -> Evidence {
        let records = self.replica.of_origin(node);
        let links = records.filter(|record| record.key().kind == RecordKind::Links);
        let Some(newest) = links.max_by_key(|record| record.seq()) else {
            return Evidence::default();
        };
        let observed_at = Some(newest.body().at())
            .filter(|at| at.0 != 0)
            .map(Timestamp);
        Evidence {
            reporter: Some(node),
            record_seq: Some(newest.seq().0),
            observed_at,
            coalesced: 0,
        }
    }

    /// Whether a change is a measurement that has to wait; else how many had waited before it.
    fn coalesce(
        &mut self,
        key: EntityKey,
        before: Option<&Entity>,
        after: Option<&Entity>,
        measured_at: Option<Instant>,
    ) -> Coalesced {
        let held = self.measured.get(&key).map_or(0, |measured| measured.held);
        let Some(now) = measured_at.filter(|_| is_measurement(before, after)) else {
            self.measured.remove(&key);
            return Coalesced::Told(held);
        };
        match self.measured.get_mut(&key) {
            Some(measured) if now < measured.told + MEASURED_EVERY => {
                measured.held += 1;
                Coalesced::Held
            }
            Some(_) | None => {
                self.measured.insert(key, Measured { told: now, held: 0 });
                Coalesced::Told(held)
            }
        }
    }

    fn add_grant(&mut self, grant: &Grant) {
        if let Some(identity) = grant.identity() {
            self.replica.add_origin(grant.node, identity);
        }
        self.grants.insert(grant.node, grant.clone());
    }

    fn reconcile_all(&mut self, owner: NodeId, change: &Change, out: &mut Vec<Difference>) {
        let is_member = self.grants.contains_key(&owner);
        if is_member {
            self.reconcile_node(owner, change, out);
        }
        self.reconcile_links(owner, change, out);
        self.reconcile_prefixes(owner, change, out);
        if !is_member {
            // Last: until it is gone the node tells which site the rest was in.
            self.reconcile_node(owner, change, out);
        }
    }

    /// Brings the entities that a record speaks of in line with the replica. A node's first or last record also
    /// changes whether the node is reporting.
    fn reconcile(&mut self, key: RecordKey, change: &Change, out: &mut Vec<Difference>) {
        self.reconcile_node(key.origin, change, out);
        match key.kind {
            RecordKind::Links => self.reconcile_links(key.origin, change, out),
            RecordKind::Prefixes => self.reconcile_prefixes(key.origin, change, out),
            RecordKind::Node | RecordKind::Removal => {}
        }
    }

    fn reconcile_node(&mut self, node: NodeId, change: &Change, out: &mut Vec<Difference>) {
        let wanted = self
            .grants
            .get(&node)
            .map(|grant| Entity::Node(self.node_entity(grant)));
        self.settle(EntityKey::Node(node), wanted, change, out);
    }

    fn reconcile_links(&mut self, from: NodeId, change: &Change, out: &mut Vec<Difference>) {
        let mut wanted = self.link_entities(from);
        let [lowest, .., highest] = Carrier::ALL;
        let first = EntityKey::Link(from, NodeId(0), lowest);
        let last = EntityKey::Link(from, NodeId(u64::MAX), highest);
        let present: BTreeSet<EntityKey> = self
            .entities
            .range(first..=last)
            .map(|(key, _)| *key)
            .collect();
        let keys: BTreeSet<EntityKey> = present.iter().chain(wanted.keys()).copied().collect();
        for key in keys {
            let existed = present.contains(&key);
            let link = wanted.remove(&key).map(Entity::Link);
            let exists = link.is_some();
            self.settle(key, link, change, out);
            if existed != exists {
                self.confirm_reverse(key, change, out);
            }
        }
    }

    fn reconcile_prefixes(&mut self, origin: NodeId, change: &Change, out: &mut Vec<Difference>) {
        let wanted = self.announced(origin);
        let present = self.prefixes.get(&origin).cloned().unwrap_or_default();
        for prefix in present.union(&wanted) {
            let entity = wanted.contains(prefix).then(|| {
                Entity::Prefix(PrefixEntity {
                    prefix: *prefix,
                    origin,
                    origin_name: self.name(origin),
                })
            });
            self.settle(EntityKey::Prefix(*prefix), entity, change, out);
        }
    }

    /// The other direction of a link is confirmed as long as this one is reported.
    fn confirm_reverse(&mut self, key: EntityKey, change: &Change, out: &mut Vec<Difference>) {
        let EntityKey::Link(from, to, carrier) = key else {
            return;
        };
        let reverse = EntityKey::Link(to, from, carrier);
        let Some(Entity::Link(link)) = self.entities.get(&reverse) else {
            return;
        };
        let confirmed = self.entities.contains_key(&key);
        let link = Entity::Link(LinkEntity {
            confirmed,
            ..link.clone()
        });
        let change = Change {
            cause: |_, _| Cause::LinkConfirmation,
            evidence: change.evidence,
            measured_at: None,
        };
        self.settle(reverse, Some(link), &change, out);
    }

    /// Puts one entity in place and notes the difference, if there is one.
    fn settle(
        &mut self,
        key: EntityKey,
        after: Option<Entity>,
        change: &Change,
        out: &mut Vec<Difference>,
    ) {
        let before = self.entities.get(&key).cloned();
        if before == after {
            return;
        }
        let Coalesced::Told(coalesced) =
            self.coalesce(key, before.as_ref(), after.as_ref(), change.measured_at)
        else {
            return;
        };
        let owner = after.as_ref().or(before.as_ref()).map(Entity::owner);
        let site = owner.and_then(|owner| self.site(owner));
        self.put(key, after.clone());
        let cause = (change.cause)(before.as_ref(), after.as_ref());
        out.push(Difference {
            key,
            before,
            after,
            cause,
            evidence: Evidence {
                coalesced,
                ..change.evidence
            },
            site,
        });
    }

    fn put(&mut self, key: EntityKey, entity: Option<Entity>) {
        let before = match entity {
            Some(entity) => {
                if let Entity::Prefix(prefix) = &entity {
                    self.prefixes
                        .entry(prefix.origin)
                        .or_default()
                        .insert(prefix.prefix);
                }
                let owner = entity.owner();
                self.entities
                    .insert(key, entity)
                    .filter(|before| before.owner() != owner)
            }
            None => self.entities.remove(&key),
        };
        if let Some(Entity::Prefix(prefix)) = before {
            self.forget_prefix(&prefix);
        }
    }

    fn forget_prefix(&mut self, gone: &PrefixEntity) {
        if let Some(prefixes) = self.prefixes.get_mut(&gone.origin) {
            prefixes.remove(&gone.prefix);
            if prefixes.is_empty() {
                self.prefixes.remove(&gone.origin);
            }
        }
    }

    fn node_entity(&self, grant: &Grant) -> NodeEntity {
        let mut entity = NodeEntity {
            id: grant.node,
            name: grant.name.clone(),
            index: grant.index,
            addresses: grant.addresses.clone(),
            tags: grant.tags.clone(),
            site: grant.site.clone(),
            leaf_of: grant.leaf_of(),
            reporting: false,
            agent_version: None,
            epoch: None,
            transit_cost_us: None,
        };
        for record in self.replica.of_origin(grant.node) {
            entity.reporting = true;
            entity.epoch = entity.epoch.max(Some(record.seq().epoch()));
            if let Body::Node(body) = record.body() {
                entity.agent_version = Some(body.version);
                entity.transit_cost_us = finite(body.transit);
            }
        }
        entity
    }

    fn link_entities(&self, from: NodeId) -> BTreeMap<EntityKey, LinkEntity> {
        let mut links = BTreeMap::new();
        for record in self.replica.of_origin(from) {
            if let Body::Links(body) = record.body() {
                links.extend(body.links.iter().map(|entry| self.link_entity(from, entry)));
            }
        }
        links
    }

    fn link_entity(&self, from: NodeId, entry: &LinkEntry) -> (EntityKey, LinkEntity) {
        let to = entry.neighbour;
        let reverse = EntityKey::Link(to, from, entry.carrier);
        let entity = LinkEntity {
            from,
            to,
            from_name: self.name(from),
            to_name: self.name(to),
            carrier: entry.carrier,
            confirmed: self.entities.contains_key(&reverse),
            tier: entry.tier(),
            cost_us: finite(entry.cost),
            rtt_us: entry.rtt.0,
            jitter_us: entry.jitter.0,
            loss_ppm: entry.loss.0,
        };
        (EntityKey::Link(from, to, entry.carrier), entity)
    }

    /// What a node announces, as far as it was granted to itself or to a leaf that it hosts.
    fn announced(&self, origin: NodeId) -> BTreeSet<Prefix> {
        let granted = |prefix: &Prefix| {
            let hosted = self.grants.values().filter(|g| g.leaf_of() == Some(origin));
            let mut grants = self.grants.get(&origin).into_iter().chain(hosted);
            grants.any(|grant| grant.owned().any(|owned| lies_within(prefix, &owned)))
        };
        let mut prefixes = BTreeSet::new();
        for record in self.replica.of_origin(origin) {
            if let Body::Prefixes(body) = record.body() {
                prefixes.extend(body.prefixes.into_iter().filter(granted));
            }
        }
        prefixes
    }

    fn name(&self, node: NodeId) -> Option<NodeName> {
        self.grants.get(&node).map(|grant| grant.name.clone())
    }

    /// The site of a member, or the one in which a former member was told.
    fn site(&self, node: NodeId) -> Option<NodeName> {
        if let Some(grant) = self.grants.get(&node) {
            return grant.site.clone();
        }
        match self.entities.get(&EntityKey::Node(node)) {
            Some(Entity::Node(told)) => told.site.clone(),
            Some(Entity::Link(_) | Entity::Prefix(_)) | None => None,
        }
    }
}

/// Why an entity is as it is: the causes by before and after, and who said so.
struct Change {
    cause: fn(Option<&Entity>, Option<&Entity>) -> Cause,
    evidence: Evidence,
    /// When it was reported; measurements may wait then.
    measured_at: Option<Instant>,
}

/// What becomes of a change.
enum Coalesced {
    /// It is told, with so many that waited.
    Told(u64),
    /// It waits.
    Held,
}

/// Whether only the quality of a link changed: a link that becomes usable, confirmed or none of both is more, so is another tier.
fn is_measurement(before: Option<&Entity>, after: Option<&Entity>) -> bool {
    let (Some(Entity::Link(before)), Some(Entity::Link(after))) = (before, after) else {
        return false;
    };
    (before.confirmed, before.tier) == (after.confirmed, after.tier)
        && before.cost_us.is_some() == after.cost_us.is_some()
}

const fn member_cause(before: Option<&Entity>, _after: Option<&Entity>) -> Cause {
    if before.is_none() {
        Cause::MemberAdded
    } else {
        Cause::MemberChanged
    }
}

const fn report_cause(before: Option<&Entity>, after: Option<&Entity>) -> Cause {
    match (before, after) {
        (None, Some(Entity::Link(_))) => Cause::LinkReported,
        (Some(_), Some(Entity::Link(_))) => Cause::LinkMeasured,
        (Some(Entity::Link(_)), None) => Cause::LinkWithdrawn,
        (_, Some(Entity::Prefix(_))) => Cause::PrefixAnnounced,
        (Some(Entity::Prefix(_)), None) => Cause::PrefixWithdrawn,
        (_, Some(Entity::Node(_))) | (Some(Entity::Node(_)), None) => Cause::NodeReported,
        (None, None) => Cause::Unknown,
    }
}

fn finite(cost: Cost) -> Option<u32> {
    cost.is_finite().then_some(cost.to_tell())
}

#[cfg(test)]
mod tests {
    use wattle_api::topology::{EntityKind, Op};
    use wattle_model::{ApartCosts, Micros, NodeIndex, Ppm, SeqNo, UnixTime, WgKey};
    use wattle_wire::grant::Holder;
    use wattle_wire::key::SecretKey;
    use wattle_wire::record::{LinksBody, NodeBody, PrefixesBody};

    use super::*;

    const START: Instant = Instant(0);
    const LIFETIME_S: u32 = 60;
    const NETWORK: NetworkId = NetworkId(7);

    struct Host {
        key: SecretKey,
        id: NodeId,
        grant: Grant,
    }

    fn host(seed: u8) -> Host {
        let key = SecretKey::from_seed(&[seed; 32]);
        let id = key.public().node_id();
        let grant = Grant {
            network: NETWORK,
            node: id,
            holder: Holder::Agent {
                identity: key.public(),
            },
            wireguard: WgKey([seed; 32]),
            index: NodeIndex(seed.into()),
            name: format!("n{seed}").parse().unwrap(),
            addresses: vec![format!("10.77.0.{seed}").parse().unwrap()],
            prefixes: vec![format!("192.168.{seed}.0/24").parse().unwrap()],
            tags: vec![],
            site: Some("fra1".parse().unwrap()),
            serial: 1,
            not_after: UnixTime(0),
        };
        Host { key, id, grant }
    }

    fn record(of: &Host, kind: RecordKind, counter: u64, body: &Body) -> Record {
        let key = RecordKey {
            origin: of.id,
            kind,
            part: 0,
        };
        Record::sign(
            NETWORK,
            key,
            SeqNo(1 << 32 | counter),
            LIFETIME_S,
            body,
            &of.key,
        )
    }

    fn links(of: &Host, counter: u64, to: &[(&Host, u64)]) -> Record {
        let entry = |(to, rtt): &(&Host, u64)| LinkEntry {
            neighbour: to.id,
            carrier: Carrier::Udp4,
            cost: Cost(100),
            apart: ApartCosts::NONE,
            rtt: Micros(*rtt),
            jitter: Micros(1),
            loss: Ppm(0),
        };
        let body = LinksBody {
            at: UnixTime(5),
            links: to.iter().map(entry).collect(),
            ..LinksBody::default()
        };
        record(of, RecordKind::Links, counter, &Body::Links(body))
    }

    fn two() -> (Topology, Host, Host) {
        let mut topology = Topology::new(NETWORK);
        let (a, b) = (host(1), host(2));
        for h in [&a, &b] {
            let differences = topology.set_member(&h.grant);
            assert_eq!(story(&differences), [(Op::Create, Cause::MemberAdded)]);
        }
        (topology, a, b)
    }

    fn story(differences: &[Difference]) -> Vec<(Op, Cause)> {
        differences.iter().map(|d| (d.op(), d.cause)).collect()
    }

    #[test]
    fn a_link_is_confirmed_once_both_ends_report_it() {
        let (mut topology, a, b) = two();
        let one = topology.accept(START, &links(&a, 1, &[(&b, 900)]));
        assert_eq!(
            story(&one.differences),
            [
                (Op::Update, Cause::NodeReported),
                (Op::Create, Cause::LinkReported)
            ]
        );
        let both = topology.accept(START, &links(&b, 1, &[(&a, 900)]));
        assert_eq!(
            story(&both.differences)[1..],
            [
                (Op::Create, Cause::LinkReported),
                (Op::Update, Cause::LinkConfirmation)
            ]
        );
        let confirmed = |e: &Entity| matches!(e, Entity::Link(link) if link.confirmed);
        assert_eq!(topology.entities().filter(|e| confirmed(e)).count(), 2);
        let withdrawn = topology.accept(START, &links(&b, 2, &[]));
        assert_eq!(
            story(&withdrawn.differences),
            [
                (Op::Delete, Cause::LinkWithdrawn),
                (Op::Update, Cause::LinkConfirmation)
            ]
        );
    }

    #[test]
    fn a_round_trip_counts_once_both_ends_report_the_link_and_never_to_oneself() {
        let (mut topology, a, b) = two();
        topology.accept(START, &links(&a, 1, &[(&a, 1), (&b, 900)]));
        assert_eq!(topology.round_trips(), BTreeMap::new());
        topology.accept(START, &links(&b, 1, &[(&a, 800)]));
        let measured = [(Pair::of(a.id, b.id), Micros(800))];
        assert_eq!(topology.round_trips(), measured.into());
    }

    #[test]
    fn only_newer_records_of_members_with_their_own_signature_change_anything() {
        let (mut topology, a, b) = two();
        let stranger = host(9);
        let mut forged = links(&a, 5, &[(&b, 1)]).bytes().to_vec();
        *forged.last_mut().unwrap() ^= 1;
        let elsewhere = Record::sign(
            NetworkId(8),
            RecordKey {
                origin: a.id,
                kind: RecordKind::Links,
                part: 0,
            },
            SeqNo(9),
            LIFETIME_S,
            &Body::Links(LinksBody::default()),
            &a.key,
        );
        topology.accept(START, &links(&a, 3, &[(&b, 900)]));
        let before = topology.clone();
        for (record, verdict) in [
            (links(&a, 2, &[]), Verdict::Stale),
            (links(&a, 3, &[]), Verdict::Stale),
            (links(&stranger, 1, &[(&a, 1)]), Verdict::UnknownOrigin),
            (Record::parse(&forged).unwrap(), Verdict::BadSignature),
            (elsewhere, Verdict::Stale),
        ] {
            let ingest = topology.accept(START, &record);
            assert_eq!((ingest.verdict, ingest.differences.len()), (verdict, 0));
        }
        assert!(topology.entities().eq(before.entities()));
    }

    #[test]
    fn a_measurement_is_an_update_with_its_evidence() {
        let (mut topology, a, b) = two();
        topology.accept(START, &links(&a, 1, &[(&b, 900)]));
        assert!(
            topology
                .accept(START, &links(&a, 2, &[(&b, 900)]))
                .differences
                .is_empty()
        );
        let ingest = topology.accept(START, &links(&a, 3, &[(&b, 950)]));
        let [difference] = ingest.differences.as_slice() else {
            panic!("{ingest:?}")
        };
        assert_eq!(
            (difference.op(), difference.cause),
            (Op::Update, Cause::LinkMeasured)
        );
        assert_eq!(difference.evidence.record_seq, Some(1 << 32 | 3));
        assert_eq!(
            difference.evidence.observed_at,
            Some(Timestamp::from_millis(5))
        );
        assert_eq!(difference.site, a.grant.site);
    }

    #[test]
    fn measurements_in_a_hurry_are_told_as_one_that_says_how_many_it_stands_for() {
        let (mut topology, a, b) = two();
        topology.accept(START, &links(&a, 1, &[(&b, 900)]));
        let at = |ms: u64| START + Micros(ms * 1_000);
        let first = topology.accept(at(0), &links(&a, 2, &[(&b, 910)]));
        assert_eq!(first.differences.len(), 1, "the first is told at once");
        for (counter, ms) in (3..8).zip([100, 200, 300, 400, 500]) {
            let more = topology.accept(at(ms), &links(&a, counter, &[(&b, 900 + counter)]));
            assert_eq!(more.differences, []);
        }
        assert_eq!(topology.poll_timeout(), at(1_000));
        assert_eq!(topology.handle_timeout(at(999)), []);
        let told = topology.handle_timeout(at(1_000));
        let [one] = told.as_slice() else {
            panic!("{told:?}")
        };
        assert_eq!(
            (one.cause, one.evidence.coalesced),
            (Cause::LinkMeasured, 4)
        );
        assert_eq!(one.evidence.record_seq, Some(1 << 32 | 7));
        let rtt = |e: &Option<Entity>| matches!(e, Some(Entity::Link(link)) if link.rtt_us == 907);
        assert!(rtt(&one.after), "{one:?}");
        assert!(topology.poll_timeout() > at(60_000), "nothing waits");
    }

    #[test]
    fn a_link_that_goes_is_told_at_once_whatever_waits() {
        let (mut topology, a, b) = two();
        topology.accept(START, &links(&a, 1, &[(&b, 900)]));
        topology.accept(START, &links(&a, 2, &[(&b, 910)]));
        topology.accept(START, &links(&a, 3, &[(&b, 920)]));
        let gone = topology.accept(START, &links(&a, 4, &[]));
        assert_eq!(
            story(&gone.differences),
            [(Op::Delete, Cause::LinkWithdrawn)]
        );
    }

    #[test]
    fn prefixes_that_were_not_granted_are_ignored() {
        let (mut topology, a, _) = two();
        let body = PrefixesBody {
            at: UnixTime(5),
            prefixes: ["192.168.1.0/25", "192.168.2.0/24", "0.0.0.0/0"]
                .iter()
                .map(|p| p.parse().unwrap())
                .collect(),
        };
        topology.accept(
            START,
            &record(&a, RecordKind::Prefixes, 1, &Body::Prefixes(body)),
        );
        let keys: Vec<String> = topology.entities().map(|e| e.key().to_string()).collect();
        let prefixes: Vec<&String> = keys.iter().filter(|k| k.starts_with("prefix:")).collect();
        assert_eq!(prefixes, ["prefix:192.168.1.0/25"]);
    }

    #[test]
    fn what_a_removed_member_had_is_told_in_its_site() {
        let (mut topology, a, b) = two();
        let prefixes = PrefixesBody {
            at: UnixTime(5),
            prefixes: a.grant.prefixes.clone(),
        };
        topology.accept(START, &links(&a, 1, &[(&b, 900)]));
        topology.accept(
            START,
            &record(&a, RecordKind::Prefixes, 1, &Body::Prefixes(prefixes)),
        );
        let stored: Vec<Entity> = topology.entities().cloned().collect();
        let removed = topology.remove_member(a.id);
        // While nobody served it was removed, too.
        let (_, recovered) = Topology::recover(NETWORK, [&b.grant], [], stored, START);
        for gone in [removed, recovered] {
            let kinds: Vec<_> = gone.iter().map(|d| (d.key.kind(), d.op())).collect();
            assert_eq!(
                kinds,
                [EntityKind::Link, EntityKind::Prefix, EntityKind::Node]
                    .map(|kind| (kind, Op::Delete))
            );
            assert!(gone.iter().all(|d| d.site == a.grant.site), "{gone:?}");
        }
    }

    #[test]
    fn records_expire_and_a_silent_node_stops_reporting() {
        let (mut topology, a, b) = two();
        let node = Body::Node(NodeBody {
            at: UnixTime(5),
            transit: Cost(0),
            version: "0.1.0".into(),
            quic_port: None,
        });
        topology.accept(START, &record(&a, RecordKind::Node, 1, &node));
        topology.accept(START, &links(&a, 1, &[(&b, 900)]));
        let end = START + Micros::from_secs(LIFETIME_S.into());
        assert_eq!(topology.poll_timeout(), end);
        assert!(topology.handle_timeout(end - Micros(1)).is_empty());
        let differences = topology.handle_timeout(end);
        assert!(differences.iter().all(|d| d.cause == Cause::RecordExpired));
        assert!(differences.iter().any(|d| d.op() == Op::Delete));
        assert!(
            matches!(topology.entity(EntityKey::Node(a.id)), Some(Entity::Node(n)) if !n.reporting)
        );
        assert_eq!(topology.poll_timeout(), Instant::NEVER);
    }

    #[test]
    fn after_a_restart_the_same_state_makes_no_difference_and_another_one_makes_just_the_missing() {
        let (mut topology, a, b) = two();
        let first = links(&a, 1, &[(&b, 900)]);
        topology.accept(START, &first);
        let stored: Vec<Entity> = topology.entities().cloned().collect();
        let grants = [a.grant.clone(), b.grant.clone()];
        let recover = |grants: &[Grant], records: Vec<Record>| {
            Topology::recover(NETWORK, grants, records, stored.clone(), START)
        };
        assert_eq!(recover(&grants, vec![first.clone()]).1, []);
        let (_, lost) = recover(&grants, vec![]);
        assert_eq!(
            story(&lost),
            [
                (Op::Update, Cause::Recovered),
                (Op::Delete, Cause::Recovered)
            ]
        );
        let (topology, gone) = recover(&grants[1..], vec![first]);
        assert!(gone.iter().all(|d| d.cause == Cause::Recovered));
        assert_eq!(topology.entities().len(), 1);
    }

    #[test]
    fn differences_replayed_from_nothing_give_the_same_topology() {
        let (mut topology, a, b) = two();
        let mut log = Vec::new();
        for counter in 1..40 {
            let to: &[(&Host, u64)] = if counter % 3 == 0 {
                &[]
            } else {
                &[(&b, counter)]
            };
            log.extend(topology.accept(START, &links(&a, counter, to)).differences);
            let to: &[(&Host, u64)] = if counter % 5 == 0 {
                &[]
            } else {
                &[(&a, counter)]
            };
            log.extend(topology.accept(START, &links(&b, counter, to)).differences);
        }
        log.extend(topology.remove_member(b.id));
        let (mut replayed, ..) = two();
        for difference in log {
            assert_eq!(replayed.entity(difference.key), difference.before.as_ref());
            replayed.put(difference.key, difference.after);
        }
        assert!(replayed.entities().eq(topology.entities()));
    }
}
