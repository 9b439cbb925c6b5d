//! Links that carry packets are cut, many at once: how long packets fall into holes or go in circles, and what the news costs.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use wattle_model::{Micros, NodeId};
use wattle_routing::Happening;
use wattle_sim::{EdgeNumber, Fate, Fleet, NodeNumber};

use crate::rest;

/// Pairs of nodes whose packets are followed, and how often.
const PAIRS: usize = 400;
const TICK: Micros = Micros::from_millis(5);
/// How long that is watched.
const WATCH: Micros = Micros::from_secs(4);

/// Cuts so many links at once; `None` if there are too few of them.
pub(crate) fn cut(fleet: &mut Fleet, count: usize) -> Option<Value> {
    let edges = links(fleet, count)?;
    edges.iter().for_each(|edge| fleet.set_busy(*edge, true));
    rest(fleet, Micros::from_secs(2));
    let pairs = pairs_over(fleet, &edges);
    let (began, flooded) = (fleet.now, fleet.flooded);
    for edge in &edges {
        fleet.network.edges[edge.0].cut = [true, true];
    }
    let mut timeline = Timeline::default();
    while fleet.now.since(began) < WATCH {
        fleet.run(TICK);
        timeline.look(fleet, began.0, &pairs);
    }
    let flooded = fleet.flooded.since(&flooded);
    for edge in &edges {
        fleet.set_busy(*edge, false);
        fleet.network.edges[edge.0].cut = [false, false];
    }
    rest(fleet, Micros::from_secs(60));
    Some(json!({
        "cut": count,
        "pairs": pairs.len(),
        "converged_ms": timeline.last_change / 1_000,
        "path_changes": timeline.changes,
        "messages": flooded.datagrams,
        "bytes": flooded.bytes,
        "longest_outage_ms": timeline.longest_outage_ms(),
        "median_outage_ms": timeline.median_outage_ms(),
        "ever_circled": timeline.circled.len(),
        "holes": timeline.holes,
        "circles": timeline.circles,
        "tick_ms": TICK.as_millis(),
    }))
}

/// Links to cut; nodes keep half of theirs, so that nobody is cut off.
fn links(fleet: &mut Fleet, count: usize) -> Option<BTreeSet<EdgeNumber>> {
    let mut left = vec![0_usize; fleet.nodes.len()];
    for edge in &fleet.network.edges {
        edge.ends.iter().for_each(|end| left[end.0] += 1);
    }
    let most: Vec<usize> = left.iter().map(|degree| degree.div_ceil(2)).collect();
    let mut edges = BTreeSet::new();
    for _ in 0..100 * count {
        let edge = EdgeNumber(fleet.below(fleet.network.edges.len() as u64) as usize);
        let ends = fleet.network.edges[edge.0].ends;
        let may = ends.iter().all(|end| left[end.0] > most[end.0]);
        if may && edges.insert(edge) {
            ends.iter().for_each(|end| left[end.0] -= 1);
        }
        if edges.len() == count {
            return Some(edges);
        }
    }
    None
}

/// Pairs whose packets cross one of the links.
fn pairs_over(fleet: &mut Fleet, edges: &BTreeSet<EdgeNumber>) -> Vec<(NodeNumber, NodeNumber)> {
    let ends: BTreeSet<[NodeNumber; 2]> = edges
        .iter()
        .map(|edge| fleet.network.edges[edge.0].ends)
        .collect();
    let nodes = fleet.nodes.len() as u64;
    let mut pairs = BTreeSet::new();
    let near = ends.clone();
    for [a, b] in near {
        pairs.insert((a, b));
        pairs.insert((b, a));
    }
    for _ in 0..50 * PAIRS {
        let (from, to) = (
            NodeNumber(fleet.below(nodes) as usize),
            NodeNumber(fleet.below(nodes) as usize),
        );
        let Fate::Arrived(trail) = fleet.packet(from, to) else {
            continue;
        };
        let crosses = |pair: &[NodeNumber]| {
            ends.contains(&[pair[0], pair[1]]) || ends.contains(&[pair[1], pair[0]])
        };
        if from != to && trail.windows(2).any(crosses) {
            pairs.insert((from, to));
        }
        if pairs.len() >= PAIRS {
            break;
        }
    }
    pairs.into_iter().collect()
}

/// What became of packets, tick by tick.
#[derive(Default)]
struct Timeline {
    /// Pairs whose packets are lost, at each tick.
    holes: Vec<usize>,
    /// Pairs whose packets go in circles, at each tick.
    circles: Vec<usize>,
    /// Ticks without a packet, by pair: those at a stretch, and the longest stretch.
    silent: Vec<(u64, u64)>,
    circled: BTreeSet<usize>,
    changes: usize,
    /// When a route changed last, in microseconds after the cut.
    last_change: u64,
}

impl Timeline {
    fn look(&mut self, fleet: &mut Fleet, began: u64, pairs: &[(NodeNumber, NodeNumber)]) {
        self.silent.resize(pairs.len(), (0, 0));
        let (mut holes, mut circles) = (0, 0);
        for (at, (from, to)) in pairs.iter().enumerate() {
            let (stretch, longest) = &mut self.silent[at];
            match fleet.packet(*from, *to) {
                Fate::Arrived(_) => *stretch = 0,
                Fate::Lost(_) => {
                    holes += 1;
                    *stretch += 1;
                }
                Fate::Circled => {
                    circles += 1;
                    *stretch += 1;
                    self.circled.insert(at);
                }
            }
            *longest = (*stretch).max(*longest);
        }
        self.holes.push(holes);
        self.circles.push(circles);
        let first = |hops: &[NodeId]| hops.first().copied();
        let events = std::mem::take(&mut fleet.events);
        let changed = events.iter().filter(|(_, event)| {
            matches!(&event.what, Happening::RouteChanged { before, after, .. } if first(before) != first(after))
        });
        let changed = changed.count();
        self.changes += changed;
        if changed > 0 {
            self.last_change = fleet.now.0 - began;
        }
    }

    fn longest_outage_ms(&self) -> u64 {
        let longest = self.silent.iter().map(|(_, longest)| *longest).max();
        longest.unwrap_or(0) * TICK.as_millis()
    }

    fn median_outage_ms(&self) -> u64 {
        let mut all: Vec<u64> = self.silent.iter().map(|(_, longest)| *longest).collect();
        all.sort_unstable();
        all.get(all.len() / 2).copied().unwrap_or(0) * TICK.as_millis()
    }
}
