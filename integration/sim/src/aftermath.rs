//! What becomes of packets right after a failure: only those beside it know, everybody else still sends as before.
//!
//! The rule is the data plane's, [`onward`], in a network where what is left is up. All choices among next hops are followed,
//! since any flow may take any of them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use wattle_dataplane::{Candidate, Past, onward};
use wattle_model::waypoint::before;
use wattle_model::{NodeId, Waypoint};
use wattle_routing::Routes;
use wattle_routing::graph::{Graph, Vertex};

use crate::forward::{Detour, MOST_LINKS};

/// What broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Nothing.
    None,
    /// The link between two nodes.
    Link(Vertex, Vertex),
    /// A node with all its links.
    Node(Vertex),
}

impl Failure {
    /// Whether packets still cross the link between two neighbours.
    pub fn spares(&self, a: Vertex, b: Vertex) -> bool {
        match *self {
            Self::None => true,
            Self::Link(one, other) => (a, b) != (one, other) && (a, b) != (other, one),
            Self::Node(node) => a != node && b != node,
        }
    }

    /// Every link and every node of a network, each by itself.
    pub fn all(graph: &Graph) -> Vec<Self> {
        let links = graph.vertices().flat_map(|a| {
            let edges = graph.edges(a).iter().map(|edge| edge.to);
            let behind: Vec<_> = edges.filter(|b| *b > a).collect();
            behind.into_iter().map(move |b| Self::Link(a, b))
        });
        links.chain(graph.vertices().map(Self::Node)).collect()
    }

    /// The network without what broke.
    pub fn applied(&self, graph: &Graph) -> Graph {
        let mut left = graph.clone();
        for a in graph.vertices() {
            for edge in graph.edges(a) {
                if !self.spares(a, edge.to) {
                    left.set_cost(a, edge.to, wattle_model::Cost::INFINITE);
                }
            }
        }
        left
    }
}

/// What becomes of packets, the worst that may happen first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// Some of them go round in circles.
    Loops,
    /// Some of them end at a node that knows no way.
    Lost,
    /// All of them arrive.
    Arrive,
}

/// Packets for one destination.
pub struct Packets<'a> {
    /// What is left of the network.
    left: &'a Graph,
    /// By vertex.
    routes: &'a [Arc<Routes>],
    destination: Vertex,
    known: BTreeMap<Place, Option<Worst>>,
}

/// The worst that may happen: a fate, and of packets that arrive the most links.
type Worst = (Fate, Reverse<usize>);

/// A packet at a node: what lies behind it, and what it is to pass.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    at: Vertex,
    past: Past<Vertex>,
    stops: Detour,
}

impl<'a> Packets<'a> {
    /// Packets for `destination` in what is left of a network, while every node has the routes given for its vertex.
    pub fn to(destination: Vertex, left: &'a Graph, routes: &'a [Arc<Routes>]) -> Self {
        Self {
            left,
            routes,
            destination,
            known: BTreeMap::new(),
        }
    }

    /// What becomes of those that begin at `at`.
    pub fn from(&mut self, at: Vertex) -> Fate {
        self.begin(at).0
    }

    fn begin(&mut self, at: Vertex) -> Worst {
        self.follow(Place {
            at,
            past: Past::NONE,
            stops: Detour::new(),
        })
    }

    fn follow(&mut self, mut place: Place) -> Worst {
        if place.at == self.destination {
            return (Fate::Arrive, Reverse(0));
        }
        let own = self.left.node(place.at);
        if place.stops.first().is_some_and(|stop| stop.node == own) {
            place.stops.remove(0);
            place.past = place.past.at_waypoint();
        }
        match self.known.get(&place) {
            Some(Some(worst)) => return *worst,
            // It is being followed at the moment: it came back.
            Some(None) => return (Fate::Loops, Reverse(0)),
            None => {}
        }
        self.known.insert(place.clone(), None);
        let worst = self
            .onward(&place)
            .into_iter()
            .map(|next| self.follow(next))
            .min();
        let (fate, Reverse(links)) = worst.unwrap_or((Fate::Lost, Reverse(0)));
        let worst = (fate, Reverse(links + 1));
        self.known.insert(place, Some(worst));
        worst
    }

    /// Where flows at this place may go next.
    fn onward(&self, place: &Place) -> BTreeSet<Place> {
        let stop = place.stops.first();
        let target = stop.map_or(self.left.node(self.destination), |stop| stop.node);
        let works = |to: &Vertex| self.left.cost(place.at, *to).is_finite();
        let vertex = |node: NodeId| self.left.vertex(node);
        let go = |to: Vertex, detour: &[Waypoint<NodeId>], detours: u8| Place {
            at: to,
            past: Past {
                avoid: Some(place.at),
                detours: place.past.detours + detours,
            },
            stops: before(detour, &place.stops).collect(),
        };
        if let Some(stop) = stop.filter(|stop| stop.direct)
            && let Some(to) = vertex(stop.node).filter(works)
        {
            return BTreeSet::from([go(to, &[], 0)]);
        }
        let route = self.routes[place.at.0 as usize].routes.get(&target);
        let next = route.into_iter().flat_map(|route| &route.next);
        let next: Vec<Vertex> = next.filter_map(|next| vertex(next.neighbour)).collect();
        let backup = route.and_then(|route| route.backup.as_ref());
        let backup = backup.and_then(|backup| {
            let over = vertex(backup.neighbour)?;
            let beside = next.iter().copied();
            Some(Candidate::backup(over, &backup.waypoints, over, beside))
        });
        let links = |picked| {
            let next = next.iter().copied();
            onward::candidates(picked, next, backup, vertex(target))
        };
        // A link is known by the neighbour at its other end.
        let offer = |(), to: Vertex| works(&to).then_some((to, Ok(())));
        let flows = next.iter().copied().map(Some);
        let flows = flows.chain(next.is_empty().then_some(None));
        let taken = flows.filter_map(|picked| {
            let (taken, ()) = place.past.choose([()], || links(picked), offer).ok()?;
            Some(go(taken.link, taken.waypoints, taken.choice.detours()))
        });
        taken.collect()
    }
}

/// What failures did to packets that were on their way over what failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Pairs of nodes whose packets could cross what failed, and that a way is left to.
    pub affected: usize,
    /// Those of them whose packets all arrive, however many relays a frame may cross.
    pub arrive: usize,
    /// Those of them of whose packets some cross more relays than a frame may.
    pub far: usize,
    /// Those of them of whose packets some go in circles.
    pub loops: usize,
}

impl Coverage {
    /// Adds up two networks.
    pub fn add(&mut self, other: &Self) {
        self.affected += other.affected;
        self.arrive += other.arrive;
        self.far += other.far;
        self.loops += other.loops;
    }
}

/// Breaks everything, each by itself, and follows all packets while only those beside the failure know.
pub fn coverage(graph: &Graph, routes: &[Arc<Routes>]) -> Coverage {
    let mut coverage = Coverage::default();
    for failure in Failure::all(graph) {
        let left = failure.applied(graph);
        let connected = components(&left);
        for destination in graph.vertices() {
            let crossing = crossing(graph, routes, destination, failure);
            let mut packets = Packets::to(destination, &left, routes);
            for node in crossing {
                if connected[node.0 as usize] != connected[destination.0 as usize] {
                    continue;
                }
                coverage.affected += 1;
                match packets.begin(node) {
                    (Fate::Arrive, Reverse(links)) => {
                        coverage.arrive += 1;
                        coverage.far += usize::from(links > MOST_LINKS);
                    }
                    (Fate::Loops, _) => coverage.loops += 1,
                    (Fate::Lost, _) => {}
                }
            }
        }
    }
    coverage
}

/// The nodes whose packets to `destination` may cross what failed.
fn crossing(
    graph: &Graph,
    routes: &[Arc<Routes>],
    destination: Vertex,
    failure: Failure,
) -> Vec<Vertex> {
    if failure == Failure::Node(destination) {
        return Vec::new();
    }
    let mut known = BTreeMap::new();
    let nodes = graph
        .vertices()
        .filter(|node| failure != Failure::Node(*node));
    nodes
        .filter(|node| crosses(graph, routes, destination, failure, *node, &mut known))
        .collect()
}

fn crosses(
    graph: &Graph,
    routes: &[Arc<Routes>],
    destination: Vertex,
    failure: Failure,
    node: Vertex,
    known: &mut BTreeMap<Vertex, bool>,
) -> bool {
    if let Some(known) = known.get(&node) {
        return *known;
    }
    let route = routes[node.0 as usize].routes.get(&graph.node(destination));
    let next = route.into_iter().flat_map(|route| &route.next);
    let next: Vec<_> = next
        .filter_map(|next| graph.vertex(next.neighbour))
        .collect();
    let found = next.into_iter().any(|next| {
        !failure.spares(node, next)
            || (next != destination && crosses(graph, routes, destination, failure, next, known))
    });
    known.insert(node, found);
    found
}

/// For each node the least node that it is connected with.
pub fn components(graph: &Graph) -> Vec<Vertex> {
    let mut least: Vec<Vertex> = graph.vertices().collect();
    let mut changed = true;
    while changed {
        changed = false;
        for a in graph.vertices() {
            for edge in graph.edges(a) {
                let other = least[edge.to.0 as usize];
                if other < least[a.0 as usize] {
                    least[a.0 as usize] = other;
                    changed = true;
                }
            }
        }
    }
    least
}
