//! The way around, computed before it is needed: where packets for a destination go while its next hop is silent.
//!
//! In the order of preference: what survives the next hop's *failure*, even before its other neighbours have noticed it, then
//! once they have, then what survives the *link's*; each straight to the
//! destination (RFC 5286 §3) before over one waypoint (RFC 7490) before over two. A waypoint that no shortest path leads to
//! clear of the failure may be reached over the link that leads straight to it (as in RFC 9855). [`alternate`] judges by
//! distances alone, at no cost; [`Search`] finds what the graph allows, by following everything that others may do with the
//! packets.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use wattle_model::{Cost, MAX_WAYPOINTS, Waypoint};

use crate::course::{Clear, Course};
use crate::graph::{Graph, Vertex};
use crate::multipath::{Candidate, Trees};
use crate::spf::Tree;

/// Up to so many nodes every one of them is tried as a waypoint; in larger networks those on the way that packets will take
/// when the failure is known (where RFC 9855 looks for them, too), at most so many.
pub(crate) const EXHAUSTIVE: usize = 256;
const MOST_WAYPOINTS: usize = 32;
/// Bytes of results that the search keeps for the next destination, and what a node takes in each of them.
const MOST_KEPT: usize = 4 << 20;
const KEPT_FOR_A_NODE: usize = 19;

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
    /// How many waypoints there are.
    pub stops: usize,
    /// Whether the neighbour is *not* nearer to the destination than this node (a nearer one can never send back).
    pub upstream: bool,
    /// The price of the whole detour.
    pub cost: Cost,
    /// The neighbour that it begins with.
    pub neighbour: Vertex,
    /// Where its packets are sent before the destination, next one first.
    pub waypoints: Stops,
}

/// Up to two waypoints.
type Stops = [Option<Waypoint<Vertex>>; MAX_WAYPOINTS];

/// The best alternate among the neighbours for packets to `destination` that go through `primaries`.
pub fn alternate(
    trees: &Trees<'_>,
    destination: Vertex,
    candidates: &[Candidate],
    primaries: &[Vertex],
) -> Option<Detour> {
    let tree_of = |neighbour| {
        trees
            .neighbours
            .iter()
            .find(|tree| tree.root() == neighbour)
    };
    let alternates = candidates
        .iter()
        .filter(|candidate| !primaries.contains(&candidate.neighbour));
    let detours = alternates.filter_map(|candidate| {
        let tree = tree_of(candidate.neighbour)?;
        if !candidate.downstream && !avoids(trees, tree, destination, trees.own) {
            return None;
        }
        let is_clear = primaries.iter().all(|primary| {
            *primary != destination
                && tree_of(*primary).is_some_and(|via| avoids(trees, tree, destination, via))
        });
        Some(Detour {
            protection: match is_clear {
                true => Protection::Node,
                false => Protection::Link,
            },
            stops: 0,
            upstream: !candidate.downstream,
            cost: candidate.cost,
            neighbour: candidate.neighbour,
            waypoints: [None; MAX_WAYPOINTS],
        })
    });
    detours.min()
}

/// Whether no shortest path between the root of `tree` and `to` passes through the root of `via`.
fn avoids(trees: &Trees<'_>, tree: &Tree, to: Vertex, via: &Tree) -> bool {
    let through = trees.graph.transit(via.root());
    let detour = tree.cost(via.root()).plus(through).plus(via.cost(to));
    tree.cost(to).is_finite() && tree.cost(to) < detour
}

/// Finds detours of one node in one graph; remembers what it found out on the way.
#[derive(Debug)]
pub struct Search {
    node: Vertex,
    without: BTreeMap<Vertex, Without>,
    clear: BTreeMap<(Vertex, Vertex), Arc<(Tree, Clear)>>,
    spent: usize,
}

/// Shortest paths of the node without its next hop, and without the link to it.
#[derive(Debug)]
struct Without {
    node: Tree,
    link: Tree,
}

impl Search {
    /// A search for `node` that knows nothing yet.
    pub fn new(node: Vertex) -> Self {
        Self {
            node,
            without: BTreeMap::new(),
            clear: BTreeMap::new(),
            spent: 0,
        }
    }

    /// What it cost so far: nodes and links looked at.
    pub fn spent(&self) -> usize {
        self.spent
    }

    /// The most that a backup for `destination` could survive while `primary` is the next hop; `None` if nothing leads around.
    pub fn protectable(
        &mut self,
        graph: &Graph,
        destination: Vertex,
        primary: Vertex,
    ) -> Option<Protection> {
        let without = self.without(graph, primary);
        if primary != destination && without.node.cost(destination).is_finite() {
            return Some(Protection::Node);
        }
        without
            .link
            .cost(destination)
            .is_finite()
            .then_some(Protection::Link)
    }

    /// The best way around for packets to `destination` whose only next hop is `primary`.
    pub fn detour(
        &mut self,
        graph: &Graph,
        destination: Vertex,
        primary: Vertex,
    ) -> Option<Detour> {
        let most = self.protectable(graph, destination, primary)?;
        let last = self.clear(graph, primary, destination);
        let stops = self.stops(graph, primary, destination);
        let demands = match most {
            Protection::Node => &[Demand::Unnoticed, Demand::Node, Demand::Link][..],
            Protection::Link => &[Demand::Link],
        };
        demands.iter().find_map(|demand| {
            let leg = Leg {
                graph,
                node: self.node,
                primary,
                demand: *demand,
            };
            let mut best = leg.over(destination, &last, Cost(0), [None; MAX_WAYPOINTS]);
            if best.is_none_or(|best| best.stops > 0) {
                let found = self.over_one(&leg, destination, (&last, Cost(0)), &stops, None);
                best = best.into_iter().chain(found).min();
            }
            if best.is_none_or(|best| best.stops > 1) {
                let found = self.over_two(&leg, destination, &last, &stops);
                best = best.into_iter().chain(found).min();
            }
            best
        })
    }

    fn without(&mut self, graph: &Graph, primary: Vertex) -> &Without {
        let node = self.node;
        self.spent += 2 * (graph.len() + graph.links());
        self.without.entry(primary).or_insert_with(|| {
            let mut cut = graph.clone();
            cut.set_cost(node, primary, Cost::INFINITE);
            let link = Tree::of(&cut, node);
            cut.set_transit(primary, Cost::INFINITE);
            let node = Tree::of(&cut, node);
            Without { node, link }
        })
    }

    /// From where packets for `target` stay clear of this node and of what failed, with the distances to it.
    fn clear(&mut self, graph: &Graph, primary: Vertex, target: Vertex) -> Arc<(Tree, Clear)> {
        if self.clear.len() * graph.len() * KEPT_FOR_A_NODE >= MOST_KEPT {
            self.clear.clear();
        }
        let node = self.node;
        let spent = &mut self.spent;
        let found = self.clear.entry((primary, target)).or_insert_with(|| {
            *spent += 2 * (graph.len() + 2 * graph.links());
            let course = Course::of(graph, target);
            let clear = course.clear(node, primary);
            Arc::new((course.into_tree(), clear))
        });
        Arc::clone(found)
    }

    /// The nodes that are tried as waypoints.
    fn stops(&mut self, graph: &Graph, primary: Vertex, destination: Vertex) -> Vec<Vertex> {
        let node = self.node;
        let mut stops: Vec<Vertex> = if graph.len() <= EXHAUSTIVE {
            graph.vertices().collect()
        } else {
            let without = self.without(graph, primary);
            let paths = [&without.node, &without.link].map(|tree| tree.path(destination));
            paths.into_iter().flatten().flatten().collect()
        };
        stops.retain(|stop| {
            *stop != node && *stop != destination && graph.transit(*stop).is_finite()
        });
        stops.sort_unstable();
        stops.dedup();
        stops.truncate(MOST_WAYPOINTS.max(graph.len().min(EXHAUSTIVE)));
        stops
    }

    /// Detours over one waypoint, after which `then` follows: the way from there costs `end`.
    fn over_one(
        &mut self,
        leg: &Leg<'_>,
        destination: Vertex,
        (next, end): (&(Tree, Clear), Cost),
        stops: &[Vertex],
        then: Option<Waypoint<Vertex>>,
    ) -> Option<Detour> {
        let mut best: Option<Detour> = None;
        for stop in stops {
            let Some(passage) = leg.passage(*stop, next) else {
                continue;
            };
            // Who is to go straight to the destination is told so by making it a waypoint.
            let then = match passage.direct {
                true => Some(Waypoint::direct(next.0.root())),
                false => then,
            };
            let first = self.clear(leg.graph, leg.primary, *stop);
            let onward = leg.graph.transit(*stop).plus(passage.cost).plus(end);
            let stop = Some(Waypoint::new(*stop));
            let found = leg.over(destination, &first, onward, [stop, then]);
            best = best.into_iter().chain(found).min();
        }
        best
    }

    fn over_two(
        &mut self,
        leg: &Leg<'_>,
        destination: Vertex,
        last: &(Tree, Clear),
        stops: &[Vertex],
    ) -> Option<Detour> {
        let mut best: Option<Detour> = None;
        for second in stops {
            // There is no room for a third waypoint, which a link straight to the destination would take.
            let passage = leg.passage(*second, last);
            let Some(passage) = passage.filter(|passage| !passage.direct) else {
                continue;
            };
            let middle = self.clear(leg.graph, leg.primary, *second);
            self.spent += stops.len();
            let end = leg.graph.transit(*second).plus(passage.cost);
            let then = Some(Waypoint::new(*second));
            let found = self.over_one(leg, destination, (&middle, end), stops, then);
            best = best.into_iter().chain(found).min();
        }
        best
    }
}

/// What a detour has to survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Demand {
    /// The failure of the next hop, before its other neighbours know: a link that carries nothing is noticed late.
    Unnoticed,
    /// The failure of the next hop, once its neighbours have gone around it.
    Node,
    /// The failure of the link to it.
    Link,
}

impl Demand {
    const fn protection(self) -> Protection {
        match self {
            Self::Unnoticed | Self::Node => Protection::Node,
            Self::Link => Protection::Link,
        }
    }
}

/// What a detour has to survive, and where.
struct Leg<'a> {
    graph: &'a Graph,
    node: Vertex,
    primary: Vertex,
    demand: Demand,
}

/// How packets get from one stop to the next.
#[derive(Debug, Clone, Copy)]
struct Passage {
    cost: Cost,
    /// Only over the link straight to it.
    direct: bool,
}

impl Leg<'_> {
    /// How packets get from `from` to the next stop, the root of the tree, clear of what failed.
    fn passage(&self, from: Vertex, (tree, clear): &(Tree, Clear)) -> Option<Passage> {
        if self.is_clear(clear, from) {
            return Some(Passage {
                cost: tree.cost(from),
                direct: false,
            });
        }
        let is_gone = |vertex: Vertex| match self.demand.protection() {
            Protection::Node => vertex == self.node || vertex == self.primary,
            Protection::Link => vertex == self.node,
        };
        let cost = self.graph.cost(from, tree.root());
        let leads = cost.is_finite() && !is_gone(from) && !is_gone(tree.root());
        leads.then_some(Passage { cost, direct: true })
    }

    /// A backup that survives a node survives its link, too.
    fn is_clear(&self, clear: &Clear, from: Vertex) -> bool {
        let of_more = match self.demand {
            Demand::Unnoticed => clear.of_unnoticed(from),
            Demand::Node => clear.of_node(from),
            Demand::Link => true,
        };
        of_more && clear.of_link(from)
    }

    /// The best detour that begins with a leg to the root of `first` and costs `onward` from there.
    fn over(
        &self,
        destination: Vertex,
        first: &(Tree, Clear),
        onward: Cost,
        waypoints: Stops,
    ) -> Option<Detour> {
        let tree = &first.0;
        let links = self.graph.edges(self.node).iter();
        let detours = links
            .filter(|link| link.to != self.primary)
            .filter_map(|link| {
                let passage = self.passage(link.to, first)?;
                let waypoints = match passage.direct {
                    true => [Some(Waypoint::direct(tree.root())), waypoints[1]],
                    false => waypoints,
                };
                let leg = match link.to == tree.root() {
                    true => Cost(0),
                    false => self.graph.transit(link.to).plus(passage.cost),
                };
                // Packets that a neighbour is to pass on need its consent, its own waypoint or not.
                let is_end = link.to == destination;
                let passes = is_end || self.graph.transit(link.to).is_finite();
                let cost = link.cost.plus(leg).plus(onward);
                (passes && cost.is_finite()).then_some(Detour {
                    protection: self.demand.protection(),
                    stops: waypoints.iter().flatten().count(),
                    upstream: waypoints[0].is_some() || tree.cost(link.to) >= tree.cost(self.node),
                    cost,
                    neighbour: link.to,
                    waypoints,
                })
            });
        detours.min()
    }
}
