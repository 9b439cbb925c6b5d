//! The way around, computed before it is needed: where packets for a destination go while its next hop is silent.
//!
//! In the order of preference: what survives the next hop's *failure*, even before its other neighbours have noticed it, then
//! once they have, then what survives the *link's*; each straight to the destination (RFC 5286 §3) before over one waypoint
//! (RFC 7490), and over fewer before over more. A waypoint that no shortest path leads to clear of the failure may be reached
//! over the link that leads straight to it (as in RFC 9855). [`alternate`] judges by distances alone, at no cost; [`Search`] finds what the graph allows, by following everything that others may do with the
//! packets.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use wattle_model::{Cost, MAX_WAYPOINTS, Waypoint};

use crate::course::{Clear, Course, Courses, EachAnew};
use crate::graph::{Graph, Vertex};
use crate::multipath::{Candidate, Trees};
use crate::spf::Tree;

/// Up to so many nodes every one of them is tried as a waypoint; in larger networks those on the way that packets will take
/// when the failure is known (where RFC 9855 looks for them, too), at most so many.
pub(crate) const EXHAUSTIVE: usize = 256;
/// Bytes of results that the search keeps for the next destination, and what a node takes in a course and in what is clear.
const MOST_KEPT: usize = 4 << 20;
const KEPT_OF_A_COURSE: usize = 26;
const KEPT_OF_CLEAR: usize = 1;

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

/// Waypoints, next one first.
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

/// Detours that were found, by destination: where no link came, what still leads around is kept.
#[derive(Debug, Default)]
pub struct Found(BTreeMap<Vertex, Known>);

/// A detour around a next hop, and what it was made to survive.
#[derive(Debug, Clone, Copy)]
struct Known {
    primary: Vertex,
    demand: Demand,
    detour: Detour,
    /// What the shortest way clear of what failed cost: no detour could cost less.
    least: Cost,
}

/// Finds detours of one node in one graph; remembers what it found out on the way.
#[derive(Debug)]
pub struct Search {
    node: Vertex,
    without: BTreeMap<Vertex, Without>,
    /// By target.
    followed: BTreeMap<Vertex, Arc<Course>>,
    /// By next hop and target.
    clear: BTreeMap<(Vertex, Vertex), Clear>,
    found: Found,
    courses: Arc<dyn Courses>,
    /// By which `courses` knows the graph, once it was asked.
    mark: Option<u64>,
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
        Self::with_courses(node, Arc::new(EachAnew))
    }

    /// The same, with somebody else to follow the choices of others.
    pub fn with_courses(node: Vertex, courses: Arc<dyn Courses>) -> Self {
        Self {
            node,
            without: BTreeMap::new(),
            followed: BTreeMap::new(),
            clear: BTreeMap::new(),
            found: Found::default(),
            courses,
            mark: None,
            spent: 0,
        }
    }

    /// The same, with what was found in a network of the same nodes.
    #[must_use]
    pub fn knowing(self, found: Found) -> Self {
        Self { found, ..self }
    }

    /// What it found and was told to be found.
    pub fn into_found(self) -> Found {
        self.found
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

    /// The best way around for packets to `destination` whose only next hop is `primary`. In a network with more than
    /// `EXHAUSTIVE` nodes one that was found before and is hardly dearer is as good.
    pub fn detour(
        &mut self,
        graph: &Graph,
        destination: Vertex,
        primary: Vertex,
    ) -> Option<Detour> {
        let leg = |demand| Leg {
            graph,
            node: self.node,
            primary,
            destination,
            demand,
        };
        let [unnoticed, node, link] = [Demand::Unnoticed, Demand::Node, Demand::Link].map(leg);
        if let Some(kept) = self.kept(&unnoticed).or_else(|| self.kept(&link)) {
            return Some(kept);
        }
        self.found.0.remove(&destination);
        let legs = match self.protectable(graph, destination, primary)? {
            Protection::Node => &[unnoticed, node, link][..],
            Protection::Link => &[link],
        };
        let stops = self.stops(graph, primary, destination);
        let found = legs.iter().find_map(|leg| {
            let detour = self.over_fewest(leg, &stops)?;
            Some((leg, detour))
        });
        let (leg, detour) = found?;
        if graph.len() > EXHAUSTIVE {
            let known = Known {
                primary,
                demand: leg.demand,
                detour,
                least: self.least(leg),
            };
            self.found.0.insert(destination, known);
        }
        Some(detour)
    }

    /// The detour that was found before, if it leads around as it did, nothing could survive more, and what kept it from being
    /// cheaper is still there.
    fn kept(&mut self, leg: &Leg<'_>) -> Option<Detour> {
        let known = *self.found.0.get(&leg.destination)?;
        let is_most = leg.demand == Demand::Unnoticed || leg.destination == leg.primary;
        if !is_most || (known.primary, known.demand) != (leg.primary, leg.demand) {
            return None;
        }
        if is_dearer(known.least, self.least(leg)) {
            return None;
        }
        let stops = known.detour.waypoints.iter().flatten();
        let stops = stops
            .map(|stop| stop.node)
            .filter(|stop| *stop != leg.destination);
        let begins: Vec<Vertex> = [known.detour.neighbour].into_iter().chain(stops).collect();
        let mut rest = leg.end();
        for from in begins.into_iter().rev() {
            let next = self.clear(leg, rest.from);
            let followed = next.followed();
            let before = leg.before(from, next, &rest);
            let followed = next.followed() - followed;
            self.spent += 1 + followed;
            rest = before?;
        }
        let last = self.course(leg.graph, leg.destination);
        let detour = leg.detour(&rest, last.tree())?;
        let is_alike = detour.waypoints == known.detour.waypoints;
        (is_alike && !is_dearer(detour.cost, known.detour.cost)).then_some(detour)
    }

    /// What the shortest way clear of what fails costs.
    fn least(&mut self, leg: &Leg<'_>) -> Cost {
        let without = self.without(leg.graph, leg.primary);
        let tree = match leg.demand.protection() {
            Protection::Node => &without.node,
            Protection::Link => &without.link,
        };
        tree.cost(leg.destination)
    }

    /// The best of the detours with the fewest waypoints, found from the destination backwards.
    fn over_fewest(&mut self, leg: &Leg<'_>, stops: &[Vertex]) -> Option<Detour> {
        let mut stops = stops.to_vec();
        let neighbours = leg.graph.edges(leg.node).iter().map(|link| link.to);
        let neighbours: Vec<Vertex> = neighbours.filter(|to| *to != leg.primary).collect();
        let last = self.course(leg.graph, leg.destination);
        let mut ends = vec![leg.end()];
        for count in 0..=MAX_WAYPOINTS {
            if count > 0 {
                ends = self.legs(leg, &stops, &ends, count - 1);
                // From where fewer waypoints suffice, more are of no use.
                stops.retain(|stop| ends.iter().all(|end| end.from != *stop));
            }
            if count == 1 {
                // Who is to go straight to the destination is told so by making it a waypoint.
                ends.push(leg.end());
            }
            let rests = self.legs(leg, &neighbours, &ends, count);
            let found = rests
                .iter()
                .filter_map(|rest| leg.detour(rest, last.tree()));
            if let Some(found) = found.min() {
                return Some(found);
            }
        }
        None
    }

    /// The best way with `count` waypoints from each of `from`: a leg to where one of `ends` begins, and on with that.
    fn legs(&mut self, leg: &Leg<'_>, from: &[Vertex], ends: &[Rest], count: usize) -> Vec<Rest> {
        let mut best: Vec<Option<Rest>> = vec![None; from.len()];
        for end in ends {
            let next = self.clear(leg, end.from);
            let followed = next.followed();
            for (from, best) in from.iter().zip(&mut best) {
                let found = leg.before(*from, next, end);
                let found = found.filter(|rest| rest.count() == count);
                *best = best.take().into_iter().chain(found).min();
            }
            let followed = next.followed() - followed;
            self.spent += from.len() + followed;
        }
        best.into_iter().flatten().collect()
    }

    fn without(&mut self, graph: &Graph, primary: Vertex) -> &Without {
        let node = self.node;
        let spent = &mut self.spent;
        self.without.entry(primary).or_insert_with(|| {
            *spent += 2 * (graph.len() + graph.links());
            let mut cut = graph.clone();
            cut.set_cost(node, primary, Cost::INFINITE);
            let link = Tree::of(&cut, node);
            cut.set_transit(primary, Cost::INFINITE);
            let node = Tree::of(&cut, node);
            Without { node, link }
        })
    }

    /// From where packets for `target` stay clear of this node and of what failed.
    fn clear(&mut self, leg: &Leg<'_>, target: Vertex) -> &mut Clear {
        let course = self.course(leg.graph, target);
        let clear = self.clear.entry((leg.primary, target));
        clear.or_insert_with(|| Clear::on(course, leg.node, leg.primary))
    }

    fn course(&mut self, graph: &Graph, target: Vertex) -> Arc<Course> {
        if let Some(course) = self.followed.get(&target) {
            return Arc::clone(course);
        }
        let kept = self.followed.len() * KEPT_OF_A_COURSE + self.clear.len() * KEPT_OF_CLEAR;
        if kept * graph.len() >= MOST_KEPT {
            self.followed.clear();
            self.clear.clear();
        }
        self.spent += 2 * (graph.len() + 2 * graph.links());
        let mark = *self.mark.get_or_insert_with(|| self.courses.mark(graph));
        let course = self.courses.course(mark, graph, target);
        self.followed.insert(target, Arc::clone(&course));
        course
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
        stops.truncate(EXHAUSTIVE);
        stops
    }
}

/// By more than a quarter, or in a worse tier.
fn is_dearer(cost: Cost, before: Cost) -> bool {
    cost.tiers() > before.tiers() || cost.micros() > before.micros() * 5 / 4
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
    destination: Vertex,
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
    fn passage(&self, from: Vertex, clear: &mut Clear) -> Option<Passage> {
        let is_clear = self.is_clear(clear, from);
        let tree = clear.course().tree();
        if is_clear {
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
    fn is_clear(&self, clear: &mut Clear, from: Vertex) -> bool {
        let of_more = match self.demand {
            Demand::Unnoticed => clear.of_unnoticed(from),
            Demand::Node => clear.of_node(from),
            Demand::Link => true,
        };
        of_more && clear.of_link(from)
    }

    /// Packets that are there.
    const fn end(&self) -> Rest {
        Rest {
            cost: Cost(0),
            stops: [None; MAX_WAYPOINTS],
            from: self.destination,
        }
    }

    /// `rest` with a leg from `from` before it; `next` tells from where packets get clear to its beginning.
    fn before(&self, from: Vertex, next: &mut Clear, rest: &Rest) -> Option<Rest> {
        let passage = self.passage(from, next)?;
        let stop = match (passage.direct, rest.from == self.destination) {
            (true, _) => Some(Waypoint::direct(rest.from)),
            (false, false) => Some(Waypoint::new(rest.from)),
            (false, true) => None,
        };
        let mut stops = rest.stops;
        if stop.is_some() {
            stops.rotate_right(1);
            stops[0] = stop;
        }
        Some(Rest {
            cost: passage.cost.plus(self.transit(rest.from)).plus(rest.cost),
            stops,
            from,
        })
    }

    /// The detour that goes on with `rest` behind its first link; `last` are the shortest paths to the destination.
    fn detour(&self, rest: &Rest, last: &Tree) -> Option<Detour> {
        let neighbour = rest.from;
        let link = self.graph.cost(self.node, neighbour);
        // Packets that a neighbour is to pass on need its consent, its own waypoint or not.
        let cost = link.plus(self.transit(neighbour)).plus(rest.cost);
        cost.is_finite().then_some(Detour {
            protection: self.demand.protection(),
            stops: rest.count(),
            upstream: rest.count() > 0 || last.cost(neighbour) >= last.cost(self.node),
            cost,
            neighbour,
            waypoints: rest.stops,
        })
    }

    fn transit(&self, through: Vertex) -> Cost {
        match through == self.destination {
            true => Cost(0),
            false => self.graph.transit(through),
        }
    }
}

/// The rest of a detour, from a node on. The order of the fields is the order of preference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rest {
    cost: Cost,
    stops: Stops,
    from: Vertex,
}

impl Rest {
    fn count(&self) -> usize {
        self.stops.iter().flatten().count()
    }
}
