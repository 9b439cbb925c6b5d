//! Messages of neighbours: what is believed, what is passed on, what is answered.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;

use wattle_model::{Class, Instant, Micros, NodeId, UnixTime};
use wattle_wire::control::Control;
use wattle_wire::flood::{Digest, Flood, RecordId};
use wattle_wire::record::{Body, LinkEntry, Record, RecordKind};

use super::trigger::{Began, Trigger};
use super::{Output, Router};
use crate::event::Cause;
use crate::lsdb::{Age, Told};
use crate::origin::MAX_PARTS;
use crate::spreading;

/// What takes every way goes to every neighbour as long as there are up to so many that others tell, too; else to this
/// many of them.
const EVERYWHERE: usize = 8;
const DENSE_WAYS: usize = 3;

impl Router {
    pub(super) fn message(&mut self, now: Instant, from: NodeId, payload: &[u8]) {
        let known = self.adjacencies.contains_key(&from);
        let (true, Ok(Control::Flood(flood))) = (known, Control::parse(payload)) else {
            self.counters.malformed += 1;
            return;
        };
        match flood {
            Flood::Update(records) => {
                for record in records {
                    self.record(now, Some(from), record);
                }
            }
            Flood::Ack(ids) => {
                if let Some(adjacency) = self.adjacencies.get_mut(&from) {
                    ids.into_iter()
                        .for_each(|id| adjacency.has(now, id, &self.database));
                }
            }
            Flood::Digest(digest) => self.digest(from, &digest),
            Flood::Summary(summary) => {
                let digests = self.database.digests_of_difference(&summary);
                if let Some(adjacency) = self.adjacencies.get_mut(&from) {
                    adjacency.describe(digests);
                }
            }
            Flood::Request(keys) => {
                if let Some(adjacency) = self.adjacencies.get_mut(&from) {
                    let known = keys
                        .into_iter()
                        .filter(|key| self.database.entry(*key).is_some());
                    known.for_each(|key| adjacency.owe(key));
                }
            }
        }
    }

    pub(super) fn record(&mut self, now: Instant, from: Option<NodeId>, record: Record) {
        let id = RecordId::from(&record);
        if let Some(adjacency) = from.and_then(|from| self.adjacencies.get_mut(&from)) {
            adjacency.has(now, id, &self.database);
            adjacency.acknowledge(id);
        }
        match self.database.age(id) {
            Age::Same => self.counters.duplicates += 1,
            Age::Older => {
                self.counters.stale += 1;
                if let Some(adjacency) = from.and_then(|from| self.adjacencies.get_mut(&from)) {
                    adjacency.remind(id.key);
                }
            }
            Age::Expired => self.counters.stale += 1,
            Age::Newer => self.newer(now, from, record),
        }
    }

    pub(super) fn newer(&mut self, now: Instant, from: Option<NodeId>, record: Record) {
        let key = record.key();
        let signer = match key.kind {
            RecordKind::Removal => Some(self.members.root),
            RecordKind::Node | RecordKind::Links | RecordKind::Prefixes => self
                .members
                .nodes
                .get(&key.origin)
                .map(|member| member.identity),
        };
        let Some(signer) = signer.filter(|_| key.part < MAX_PARTS) else {
            self.counters.strangers += 1;
            return;
        };
        if !self
            .verifier
            .is_signed(&record, self.members.network, &signer)
        {
            self.counters.forged += 1;
            return;
        }
        self.counters.accepted += 1;
        if key.origin == self.node && key.kind != RecordKind::Removal {
            let answer = self.origin.outdo(now, &record);
            self.write(now, answer);
            return;
        }
        self.accept(now, from, record);
    }

    /// Stores a record that may be believed, passes it on, and acts on it.
    pub(super) fn accept(&mut self, now: Instant, from: Option<NodeId>, record: Record) {
        let (key, id) = (record.key(), RecordId::from(&record));
        self.outputs.push_back(Output::Accepted(record.clone()));
        let told = self.verifier.hold(Told::of(record));
        let before = self.database.insert(now, Arc::clone(&told));
        let (before, after) = (before.as_ref().map(|before| &before.body), &told.body);
        let trigger = Trigger {
            cause: Cause::Record(id),
            began: self.began(now, key.origin, after),
        };
        let is_news = before.is_none_or(|before| decides_differently(before, after));
        if is_news {
            self.unread.add(key.origin);
        }
        let spared = self.spared(key.origin, from, before, after);
        for (neighbour, adjacency) in &mut self.adjacencies {
            if Some(*neighbour) != from && !spared.contains(neighbour) {
                adjacency.owe(key);
            }
        }
        let is_bad = is_bad_news(before, after);
        match after {
            Body::Removal(removal) => {
                self.removed.insert(key.origin, removal.serial);
                self.expel(now, trigger);
            }
            Body::Node(_) | Body::Links(_) | Body::Prefixes(_) => match (is_news, is_bad) {
                (true, true) => self.compute_urgently(now, trigger),
                (true, false) => self.compute_soon(now, trigger),
                (false, _) => {}
            },
        }
    }

    /// When what a record tells began: with the first suspicion of a link that it lost, by the clock of its origin, or
    /// when it was told. Of this node's own records only a suspicion is news. A record without a time tells nothing.
    fn began(&self, now: Instant, origin: NodeId, body: &Body) -> Option<Began> {
        let (told, suspected) = match body {
            Body::Node(body) => (body.at, Micros(0)),
            Body::Links(body) => (body.at, body.suspected),
            Body::Prefixes(body) => (body.at, Micros(0)),
            Body::Removal(_) => return None,
        };
        if told == UnixTime(0) || (origin == self.node && suspected == Micros(0)) {
            return None;
        }
        let since_told = Micros::from_millis(self.time(now).0.saturating_sub(told.0));
        Some(Began::before(
            now,
            Micros(since_told.0.saturating_add(suspected.0)),
        ))
    }

    /// The neighbours that get news from others. What changes no link takes the tree; a new link may have made another
    /// tree already for some, so it takes more ways; what is lost takes every way, or in a dense mesh enough of them.
    fn spared(
        &mut self,
        origin: NodeId,
        from: Option<NodeId>,
        before: Option<&Body>,
        after: &Body,
    ) -> BTreeSet<NodeId> {
        if is_bad_news(before, after) {
            return match from {
                Some(_) => self.redundant(origin),
                None => BTreeSet::new(),
            };
        }
        match (from, names_the_same(before, after)) {
            (_, true) => self.spared_by_tree(origin).clone(),
            (None, false) => BTreeSet::new(),
            (Some(from), false) => &self.told_by(from) | &self.redundant(origin),
        }
    }

    fn spared_by_tree(&mut self, origin: NodeId) -> &BTreeSet<NodeId> {
        let (graph, node) = (&self.plans.of(Class::Latency).graph, self.node);
        self.spared
            .entry(origin)
            .or_insert_with(|| spreading::spared(graph, origin, node))
    }

    /// Where many others bring it anyway, all but a few: in a mesh of thirty each node would else hear it thirty times.
    fn redundant(&mut self, origin: NodeId) -> BTreeSet<NodeId> {
        if self.adjacencies.len() <= EVERYWHERE {
            return BTreeSet::new();
        }
        let spared = self.spared_by_tree(origin);
        if spared.len() <= EVERYWHERE {
            return BTreeSet::new();
        }
        // Others begin elsewhere in the order, so nobody is left out by all.
        let own = self.node;
        let spared = self.spared_by_tree(origin);
        let after_own = spared.range((Bound::Excluded(own), Bound::Unbounded));
        let in_turn = after_own.chain(spared.range(..own));
        in_turn.skip(DENSE_WAYS).copied().collect()
    }

    /// Whom `from` tells what it tells this node: the nodes that are its neighbours by both ends' word.
    fn told_by(&self, from: NodeId) -> BTreeSet<NodeId> {
        let neighbours = |node: NodeId| {
            self.database
                .of(node)
                .filter_map(|(_, entry)| match entry.body() {
                    Body::Links(body) => Some(body.links.iter().map(|link| link.neighbour)),
                    Body::Node(_) | Body::Prefixes(_) | Body::Removal(_) => None,
                })
                .flatten()
        };
        neighbours(from)
            .filter(|other| neighbours(*other).any(|back| back == from))
            .collect()
    }

    pub(super) fn digest(&mut self, from: NodeId, digest: &Digest) {
        let difference = self.database.compare(digest);
        let Some(adjacency) = self.adjacencies.get_mut(&from) else {
            return;
        };
        difference
            .ours_newer
            .into_iter()
            .for_each(|key| adjacency.remind(key));
        for key in difference.theirs_newer {
            let member = self.members.nodes.contains_key(&key.origin);
            if (member || key.kind == RecordKind::Removal) && key.part < MAX_PARTS {
                adjacency.request(key);
            }
        }
    }

    pub(super) fn fingerprint_told(&mut self, now: Instant, from: NodeId, fingerprint: u64) {
        if !self.members.nodes.contains_key(&from) {
            return;
        }
        self.fingerprints.insert(from, fingerprint);
        if let Some(adjacency) = self.adjacencies.get_mut(&from) {
            adjacency.fingerprints(now, Some(fingerprint), &self.recent);
        }
    }
}

/// Whether news must not wait for anybody: a link is gone or a node left. It takes every way at once; other news takes
/// the shortest, and what gets lost there is found by comparison.
fn is_bad_news(before: Option<&Body>, after: &Body) -> bool {
    match (before, after) {
        (Some(Body::Links(before)), Body::Links(after)) => {
            let ends = |link: &LinkEntry| (link.neighbour, link.carrier);
            let kept: BTreeSet<_> = after.links.iter().map(ends).collect();
            before.links.iter().any(|link| !kept.contains(&ends(link)))
        }
        (_, Body::Removal(_)) => true,
        _ => false,
    }
}

/// Whether a record names the links that the one before named: then it changes no tree.
fn names_the_same(before: Option<&Body>, after: &Body) -> bool {
    match (before, after) {
        (Some(Body::Links(before)), Body::Links(after)) => {
            let ends = |link: &LinkEntry| (link.neighbour, link.carrier);
            before
                .links
                .iter()
                .map(ends)
                .eq(after.links.iter().map(ends))
        }
        (Some(_), _) => true,
        _ => false,
    }
}

/// Whether a newer body can change a route: a refresh does not.
fn decides_differently(before: &Body, after: &Body) -> bool {
    match (before, after) {
        (Body::Node(before), Body::Node(after)) => before.transit != after.transit,
        (Body::Links(before), Body::Links(after)) => {
            let price = |link: &LinkEntry| (link.neighbour, link.carrier, link.cost, link.apart);
            !before
                .links
                .iter()
                .map(price)
                .eq(after.links.iter().map(price))
        }
        (Body::Prefixes(before), Body::Prefixes(after)) => before.prefixes != after.prefixes,
        _ => true,
    }
}
