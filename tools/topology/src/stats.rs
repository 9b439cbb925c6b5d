//! Counts what happened between two moments: events by kind, operation, cause and hour, links that flap, how much of the
//! time everything could be used. Pure.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use wattle_api::Timestamp;
use wattle_api::topology::{Cause, Entity, EntityKey, EntityKind, Op, TopologyEvent};

use crate::graph::{Graph, is_usable};

const HOUR_MS: u64 = 3_600_000;

/// Links and nodes that are named one by one.
const WORST: usize = 10;

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Stats {
    /// Where counting began.
    pub from: Timestamp,
    /// Where it ended.
    pub to: Timestamp,
    /// The first event that was counted.
    pub first_seq: Option<u64>,
    /// The last event that was counted.
    pub last_seq: Option<u64>,
    /// All events.
    pub events: u64,
    /// Changes that these events stand for besides their own: measurements that followed each other too fast.
    pub coalesced: u64,
    /// Events by kind of entity.
    pub kinds: BTreeMap<EntityKind, u64>,
    /// Events by what happened.
    pub ops: BTreeMap<Op, u64>,
    /// Events by cause.
    pub causes: BTreeMap<Cause, u64>,
    /// Events of each hour that had some, by its beginning.
    pub hours: Vec<Hour>,
    /// The links that became unusable most often, worst first.
    pub flappiest: Vec<Share>,
    /// The links that could be used for the smallest part of the time, worst first.
    pub least_available_links: Vec<Share>,
    /// The nodes that reported for the smallest part of the time, worst first.
    pub least_available_nodes: Vec<Share>,
    /// How much of their time all links could be used, from 0 to 1, from each one's first sight on; `null` without links.
    pub link_availability: Option<f64>,
    /// How much of their time all nodes reported, likewise.
    pub node_availability: Option<f64>,
}

/// Events of one hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Hour {
    /// When it began.
    pub begins: Timestamp,
    /// How many events it had.
    pub events: u64,
}

/// How one entity fared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Share {
    /// Which one.
    pub key: EntityKey,
    /// How people call it.
    pub label: String,
    /// How often it became unusable.
    pub flaps: u64,
    /// All its events.
    pub events: u64,
    /// How much of the time since its first sight it could be used, from 0 to 1.
    pub availability: f64,
}

/// What is known of one link or node while counting.
#[derive(Debug, Clone)]
struct Track {
    label: String,
    first: Timestamp,
    /// Since when it can be used, if it can.
    usable_since: Option<Timestamp>,
    usable_ms: u64,
    flaps: u64,
    events: u64,
}

/// Counts events.
#[derive(Debug, Clone)]
pub struct Counter {
    graph: Graph,
    from: Timestamp,
    seqs: Option<(u64, u64)>,
    coalesced: u64,
    kinds: BTreeMap<EntityKind, u64>,
    ops: BTreeMap<Op, u64>,
    causes: BTreeMap<Cause, u64>,
    hours: BTreeMap<u64, u64>,
    tracks: BTreeMap<EntityKey, Track>,
}

impl Counter {
    /// Begins with the network as it was at `from`.
    pub fn new(graph: Graph, from: Timestamp) -> Self {
        let mut counter = Self {
            graph: Graph::default(),
            from,
            seqs: None,
            coalesced: 0,
            kinds: BTreeMap::new(),
            ops: BTreeMap::new(),
            causes: BTreeMap::new(),
            hours: BTreeMap::new(),
            tracks: BTreeMap::new(),
        };
        for (key, entity) in graph.entities() {
            counter.track(&graph, *key, Some(entity), from);
        }
        counter.graph = graph;
        counter
    }

    /// Takes the next event, in order. Those that the network holds already are passed over.
    pub fn take(&mut self, event: &TopologyEvent) {
        let seq = event.id.seq;
        if seq <= self.graph.seq() {
            return;
        }
        let first = self.seqs.map_or(seq, |(first, _)| first);
        self.seqs = Some((first, seq));
        self.coalesced += event.source.coalesced;
        *self.kinds.entry(event.kind).or_default() += 1;
        *self.ops.entry(event.op).or_default() += 1;
        *self.causes.entry(event.cause).or_default() += 1;
        *self
            .hours
            .entry(event.ts.as_millis() / HOUR_MS)
            .or_default() += 1;
        let mut graph = std::mem::take(&mut self.graph);
        let label_before = event.after.is_none().then(|| graph.label(event.key));
        graph.apply(event);
        self.track(&graph, event.key, event.after.as_ref(), event.ts);
        self.graph = graph;
        if let Some(track) = self.tracks.get_mut(&event.key) {
            track.events += 1;
            if let Some(label) = label_before {
                track.label = label;
            }
        }
    }

    /// What was counted, up to `to`.
    pub fn finish(self, to: Timestamp) -> Stats {
        let hours = self.hours.iter().map(|(hour, events)| Hour {
            begins: Timestamp::from_millis(hour * HOUR_MS),
            events: *events,
        });
        let of_kind = |kind| {
            let tracks = self
                .tracks
                .iter()
                .filter(move |(key, _)| key.kind() == kind);
            tracks.map(|(key, track)| (*key, track))
        };
        let shares = |kind| -> Vec<Share> {
            of_kind(kind)
                .map(|(key, track)| track.share(key, to))
                .collect()
        };
        let (links, nodes) = (shares(EntityKind::Link), shares(EntityKind::Node));
        Stats {
            from: self.from,
            to,
            first_seq: self.seqs.map(|(first, _)| first),
            last_seq: self.seqs.map(|(_, last)| last),
            events: self.kinds.values().sum(),
            coalesced: self.coalesced,
            hours: hours.collect(),
            flappiest: worst(&links, |share| {
                (share.flaps > 0).then_some((-(share.flaps as f64), share.availability))
            }),
            least_available_links: worst(&links, unavailable),
            least_available_nodes: worst(&nodes, unavailable),
            link_availability: total(of_kind(EntityKind::Link).map(|(_, track)| track), to),
            node_availability: total(of_kind(EntityKind::Node).map(|(_, track)| track), to),
            kinds: self.kinds,
            ops: self.ops,
            causes: self.causes,
        }
    }

    fn track(&mut self, graph: &Graph, key: EntityKey, entity: Option<&Entity>, ts: Timestamp) {
        let usable = match entity {
            Some(Entity::Link(link)) => is_usable(link),
            Some(Entity::Node(node)) => node.reporting,
            Some(Entity::Prefix(_)) => return,
            None => false,
        };
        if matches!(key, EntityKey::Prefix(_)) {
            return;
        }
        let track = self.tracks.entry(key).or_insert_with(|| Track {
            label: graph.label(key),
            first: ts,
            usable_since: None,
            usable_ms: 0,
            flaps: 0,
            events: 0,
        });
        match (track.usable_since, usable) {
            (None, true) => track.usable_since = Some(ts),
            (Some(since), false) => {
                track.usable_ms += ts.as_millis().saturating_sub(since.as_millis());
                track.usable_since = None;
                track.flaps += 1;
            }
            (None, false) | (Some(_), true) => {}
        }
    }
}

impl Track {
    fn times(&self, to: Timestamp) -> (u64, u64) {
        let whole = to.as_millis().saturating_sub(self.first.as_millis());
        let since = self
            .usable_since
            .map_or(0, |since| to.as_millis().saturating_sub(since.as_millis()));
        ((self.usable_ms + since).min(whole), whole)
    }

    fn share(&self, key: EntityKey, to: Timestamp) -> Share {
        let (usable, whole) = self.times(to);
        Share {
            key,
            label: self.label.clone(),
            flaps: self.flaps,
            events: self.events,
            availability: part(usable, whole).unwrap_or(if self.usable_since.is_some() {
                1.0
            } else {
                0.0
            }),
        }
    }
}

fn part(some: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| some as f64 / whole as f64)
}

fn total<'a>(tracks: impl Iterator<Item = &'a Track>, to: Timestamp) -> Option<f64> {
    let sum = |(some, whole), track: &Track| {
        let (usable, all) = track.times(to);
        (some + usable, whole + all)
    };
    let (usable, whole) = tracks.fold((0, 0), sum);
    part(usable, whole)
}

fn unavailable(share: &Share) -> Option<(f64, f64)> {
    (share.availability < 1.0).then_some((share.availability, 0.0))
}

/// The ones with the smallest measure; those without one are left out. Ties go by key.
fn worst(shares: &[Share], measure: impl Fn(&Share) -> Option<(f64, f64)>) -> Vec<Share> {
    let mut measured: Vec<_> = shares
        .iter()
        .filter_map(|share| Some((measure(share)?, share)))
        .collect();
    measured.sort_by(|(a, one), (b, other)| {
        let order = a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1));
        order.then(one.key.cmp(&other.key))
    });
    let worst = measured.into_iter().take(WORST);
    worst.map(|(_, share)| share.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::tests::{event, graph, link, node};

    const fn second(n: u64) -> Timestamp {
        Timestamp::from_millis(n * 1_000)
    }

    #[test]
    fn flaps_and_the_time_between_them_are_counted() {
        let start = graph(&[node(1, "a"), node(2, "b"), link(1, 2, Some(7))]);
        let mut counter = Counter::new(start, second(0));
        // Down from 10 to 20 and from 30 to 35; the reverse link appears at 20 and stays.
        let up = || Some(link(1, 2, Some(7)));
        let down = || Some(link(1, 2, None));
        counter.take(&event(10, up(), down()));
        let mut back = event(20, down(), up());
        back.ts = second(20);
        counter.take(&back);
        counter.take(&event(21, None, Some(link(2, 1, Some(7)))));
        counter.take(&event(30, up(), None));
        counter.take(&event(35, None, up()));
        counter.take(&event(3, None, Some(node(9, "old"))));
        let stats = counter.finish(second(40));
        assert_eq!(
            (stats.events, stats.first_seq, stats.last_seq),
            (5, Some(10), Some(35))
        );
        assert_eq!(stats.kinds[&EntityKind::Link], 5);
        assert_eq!(
            stats.ops,
            [(Op::Create, 2), (Op::Update, 2), (Op::Delete, 1)].into()
        );
        assert_eq!(
            stats.hours,
            [Hour {
                begins: second(0),
                events: 5
            }]
        );
        let [flappy] = stats.flappiest.as_slice() else {
            panic!("{:?}", stats.flappiest)
        };
        assert_eq!(
            (flappy.label.as_str(), flappy.flaps, flappy.events),
            ("a > b udp4", 2, 4)
        );
        assert!(
            (flappy.availability - 25.0 / 40.0).abs() < 1e-9,
            "{flappy:?}"
        );
        // 25 of 40 seconds, and 19 of 19.
        assert!((stats.link_availability.unwrap() - 44.0 / 59.0).abs() < 1e-9);
        assert_eq!(stats.node_availability, Some(1.0));
        assert!(stats.least_available_nodes.is_empty());
    }

    #[test]
    fn an_empty_span_counts_nothing_and_divides_by_nothing() {
        let stats = Counter::new(Graph::default(), second(5)).finish(second(5));
        assert_eq!((stats.events, stats.link_availability), (0, None));
    }
}
