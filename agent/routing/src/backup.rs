//! The way around, computed before it is needed: where packets for a destination go while its next hop is silent.
//!
//! In the order of preference (RFC 5286 §3, RFC 7490): an alternate that avoids the next hop's *node*, one that avoids the
//! *link* to it, one explicit waypoint that does either. The tests are on distances alone, so every backup is as
//! loop-free as the shortest paths that it hands its packets to.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use wattle_model::Cost;

use crate::graph::Vertex;
use crate::multipath::{Candidate, Trees};
use crate::spf::Tree;

/// What a backup survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protection {
    /// The failure of the next hop itself.
    Node,
    /// The failure of the link to the next hop.
    Link,
}

/// A way around. The order of the fields is the order of preference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Detour {
    /// What it survives.
    pub protection: Protection,
    /// Where its packets are sent first, if not straight to the destination.
    pub waypoint: Option<Vertex>,
    /// Whether the neighbour is *not* nearer to the destination than this node (a nearer one can never send back).
    pub upstream: bool,
    /// The price of the whole detour.
    pub cost: Cost,
    /// The neighbour that it begins with.
    pub neighbour: Vertex,
}

/// The best alternate among the neighbours for packets to `destination` that go through `primaries`.
pub fn alternate(
    trees: &Trees<'_>,
    destination: Vertex,
    candidates: &[Candidate],
    primaries: &[Vertex],
) -> Option<Detour> {
    let reach = Reach { trees, primaries };
    candidates
        .iter()
        .filter(|candidate| !primaries.contains(&candidate.neighbour))
        .filter_map(|candidate| {
            let tree = reach.tree_of(candidate.neighbour)?;
            let protection = reach.protection(tree, destination, destination)?;
            Some(Detour {
                protection,
                waypoint: None,
                upstream: !candidate.downstream,
                cost: candidate.cost,
                neighbour: candidate.neighbour,
            })
        })
        .min()
}

/// The best way around over one waypoint; costs one shortest-path run.
pub fn over_waypoint(
    trees: &Trees<'_>,
    destination: Vertex,
    primaries: &[Vertex],
) -> Option<Detour> {
    let reach = Reach { trees, primaries };
    let from_destination = Tree::of(trees.graph, destination);
    let excluded: BTreeSet<Vertex> = primaries
        .iter()
        .copied()
        .chain([trees.own.root(), destination])
        .collect();
    let mut best: Option<Detour> = None;
    for waypoint in trees
        .graph
        .vertices()
        .filter(|vertex| !excluded.contains(vertex))
    {
        let onward = trees
            .graph
            .transit(waypoint)
            .plus(from_destination.cost(waypoint));
        if !onward.is_finite() {
            continue;
        }
        let Some(second) = reach.protection(&from_destination, waypoint, destination) else {
            continue;
        };
        for (edge, tree) in trees
            .graph
            .edges(trees.own.root())
            .iter()
            .zip(&trees.neighbours)
        {
            if primaries.contains(&edge.to) {
                continue;
            }
            let Some(first) = reach.protection(tree, waypoint, destination) else {
                continue;
            };
            let middle = match edge.to == waypoint {
                true => Cost(0),
                false => trees.graph.transit(edge.to).plus(tree.cost(waypoint)),
            };
            let detour = Detour {
                protection: first.max(second),
                waypoint: Some(waypoint),
                upstream: true,
                cost: edge.cost.plus(middle).plus(onward),
                neighbour: edge.to,
            };
            if detour.cost.is_finite() && best.is_none_or(|best| detour < best) {
                best = Some(detour);
            }
        }
    }
    best
}

/// Asks whether shortest paths stay clear of this node and of the next hops in use.
struct Reach<'a, 'g> {
    trees: &'a Trees<'g>,
    primaries: &'a [Vertex],
}

impl Reach<'_, '_> {
    fn tree_of(&self, neighbour: Vertex) -> Option<&Tree> {
        self.trees
            .neighbours
            .iter()
            .find(|tree| tree.root() == neighbour)
    }

    /// What the shortest paths between `tree`'s root and `to` survive; `None` if one of them comes through this node.
    ///
    /// A next hop that is the destination itself cannot be avoided: then surviving the link is all there is.
    fn protection(&self, tree: &Tree, to: Vertex, destination: Vertex) -> Option<Protection> {
        if !self.avoids(tree, to, &self.trees.own) {
            return None;
        }
        let clear = self.primaries.iter().all(|primary| {
            *primary != destination
                && self
                    .tree_of(*primary)
                    .is_some_and(|own| self.avoids(tree, to, own))
        });
        Some(if clear {
            Protection::Node
        } else {
            Protection::Link
        })
    }

    /// Whether no shortest path between `tree`'s root and `to` passes through the root of `via`.
    fn avoids(&self, tree: &Tree, to: Vertex, via: &Tree) -> bool {
        let through = self.trees.graph.transit(via.root());
        let detour = tree.cost(via.root()).plus(through).plus(via.cost(to));
        tree.cost(to).is_finite() && tree.cost(to) < detour
    }
}
