//! The routing table: for every node that can be reached, where its packets go, and where they go when that is silent.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use wattle_model::{Cost, LinkId, NodeId, Prefix, Waypoint};

use crate::backup::{self, Detour, EXHAUSTIVE, Protection, Search};
use crate::graph::{Graph, Vertex};
use crate::multipath::{self, Candidate, Forest, Trees};
use crate::policy::Thousandths;
use crate::topology::Topology;

/// Transit at this price is given only where there is no other way.
const DRAINED: Cost = Cost(1_000_000);

/// Where packets go.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Routes {
    /// For every node that can be reached.
    pub routes: BTreeMap<NodeId, Route>,
    /// Announced and granted prefixes of reachable nodes: the nearest origin of each.
    pub prefixes: BTreeMap<Prefix, NodeId>,
}

/// The way to one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The price of the best path.
    pub cost: Cost,
    /// Links on the preferred path.
    pub hops: u32,
    /// Next hops and their shares, the preferred one first.
    pub next: Vec<NextHop>,
    /// Where packets go while all next hops are silent.
    pub backup: Option<Backup>,
}

/// One next hop of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextHop {
    /// The neighbour.
    pub neighbour: NodeId,
    /// The best link to it.
    pub link: LinkId,
    /// Its share of the flows, in parts of 256.
    pub weight: u16,
}

/// A neighbour that packets go over as long as it is nearer to their destination than this node: no loop can follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preference {
    /// Only packets to this node.
    pub destination: Option<NodeId>,
    /// The neighbour.
    pub via: NodeId,
}

/// The way around.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backup {
    /// The neighbour.
    pub neighbour: NodeId,
    /// The link to it.
    pub link: LinkId,
    /// Nodes that the packets are sent to before the destination, next one first; at most
    /// [`MAX_WAYPOINTS`](wattle_model::MAX_WAYPOINTS).
    pub waypoints: Vec<Waypoint<NodeId>>,
    /// What the backup survives.
    pub protection: Protection,
}

impl Routes {
    /// What a node decides in a network that it knows, with one link to each neighbour, numbered by the neighbour's vertex;
    /// it holds on to those of its routes in `current` that are still good enough. Backups are searched to the end.
    pub fn in_graph(graph: &Graph, node: NodeId, current: &Self) -> Self {
        let Some(own) = graph.vertex(node) else {
            return Self::default();
        };
        let links = graph.edges(own).iter();
        let neighbours = links.map(|link| (graph.node(link.to), vec![LinkId(link.to.0)]));
        let neighbours: Neighbours = neighbours.collect();
        let forest = Forest::of(graph, own);
        let grounds = Grounds {
            topology: &Topology::default(),
            trees: Trees::of(graph, &forest),
            neighbours: &neighbours,
            weights: &Weights::new(),
            preferences: &[],
        };
        let (mut routes, mut open) = compute(&grounds, current);
        let mut search = Search::new(own);
        let on = (graph, &neighbours);
        better(&mut routes, &mut open, &mut search, on, usize::MAX / 2);
        routes
    }
}

/// This node's usable links to every neighbour, best first.
pub(crate) type Neighbours = BTreeMap<NodeId, Vec<LinkId>>;

/// What part of the flows each of this node's links is to take, where that is not one.
pub(crate) type Weights = BTreeMap<LinkId, Thousandths>;

/// What routes are decided on.
#[derive(Clone, Copy)]
pub(crate) struct Grounds<'a> {
    pub(crate) topology: &'a Topology,
    pub(crate) trees: Trees<'a>,
    pub(crate) neighbours: &'a Neighbours,
    pub(crate) weights: &'a Weights,
    /// These go first.
    pub(crate) preferences: &'a [Preference],
}

/// Decides every route of the trees' node, holding on to those in `current` that are still good enough; and the destinations
/// whose backup may be bettered by a [`Search`].
pub(crate) fn compute(grounds: &Grounds<'_>, current: &Routes) -> (Routes, Vec<NodeId>) {
    let graph = grounds.trees.graph;
    let own = grounds.trees.own.root();
    let mut routes = BTreeMap::new();
    let mut open = Vec::new();
    for destination in graph.vertices().filter(|vertex| *vertex != own) {
        let id = graph.node(destination);
        if let Some((route, is_open)) = grounds.route(destination, current.routes.get(&id)) {
            routes.insert(id, route);
            open.extend(is_open.then_some(id));
        }
    }
    let prefixes = prefixes(grounds.topology, graph.node(own), &routes);
    (Routes { routes, prefixes }, open)
}

/// How far a search for better backups came.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Progress {
    /// The destination that it came to, if there was one to search for.
    pub(crate) reached: Option<NodeId>,
    /// Whether a backup is another one.
    pub(crate) bettered: bool,
}

/// Betters the backups of the last destinations in `open`, until the search has spent `budget` or all are done.
pub(crate) fn better(
    routes: &mut Routes,
    open: &mut Vec<NodeId>,
    search: &mut Search,
    (graph, neighbours): (&Graph, &Neighbours),
    budget: usize,
) -> Progress {
    let end = search.spent() + budget;
    let mut progress = Progress::default();
    while search.spent() < end
        && let Some(id) = open.pop()
    {
        progress.reached = Some(id);
        let route = routes.routes.get_mut(&id);
        let Some((route, destination)) = route.zip(graph.vertex(id)) else {
            continue;
        };
        let [next] = route.next.as_slice() else {
            continue;
        };
        let found = graph
            .vertex(next.neighbour)
            .and_then(|primary| search.detour(graph, destination, primary))
            .and_then(|detour| over(graph, neighbours, &detour));
        // What was found before leads nowhere any more where now nothing is found; an alternate by distances has no waypoints.
        let leads_on = |backup: &Backup| backup.waypoints.is_empty();
        let found = found
            .or_else(|| route.backup.clone().filter(leads_on))
            .or_else(|| second_link(neighbours, next.neighbour));
        if found != route.backup {
            route.backup = found;
            progress.bettered = true;
        }
    }
    progress
}

impl Grounds<'_> {
    fn route(&self, destination: Vertex, current: Option<&Route>) -> Option<(Route, bool)> {
        let graph = self.trees.graph;
        let candidates = self.trees.candidates(destination);
        let held = current
            .and_then(|route| route.next.first())
            .and_then(|next| graph.vertex(next.neighbour));
        let chosen = match self.preferred(destination, &candidates) {
            Some(preferred) => vec![preferred],
            None => {
                let near = multipath::choose(&candidates, destination, held);
                multipath::with_weight(near, |candidate| self.weight(candidate))
            }
        };
        let best = chosen.iter().map(|candidate| candidate.cost).min()?;
        let next: Vec<NextHop> = chosen
            .iter()
            .zip(multipath::weights(&chosen, |candidate| {
                self.weight(candidate)
            }))
            .filter_map(|(candidate, weight)| {
                let neighbour = graph.node(candidate.neighbour);
                let link = *self.neighbours.get(&neighbour)?.first()?;
                Some(NextHop {
                    neighbour,
                    link,
                    weight,
                })
            })
            .collect();
        let preferred = chosen.first()?;
        let primaries: Vec<Vertex> = chosen.iter().map(|candidate| candidate.neighbour).collect();
        let alternate = backup::alternate(&self.trees, destination, &candidates, &primaries);
        let kept = current.filter(|current| same_way(&current.next, &next));
        let kept = || kept.and_then(|current| self.kept(current.backup.as_ref()?, &next));
        let found = alternate.and_then(|detour| over(graph, self.neighbours, &detour));
        let backup = found.or_else(kept).or_else(|| self.parallel(&primaries));
        let route = Route {
            cost: best,
            hops: preferred.hops,
            backup,
            next,
        };
        // Several next hops already stand in for one another.
        let is_open = primaries.len() == 1 && !is_good_enough(alternate.as_ref(), graph.len());
        (!route.next.is_empty()).then_some((route, is_open))
    }

    /// What part of the flows the best link to a neighbour is to take.
    fn weight(&self, candidate: &Candidate) -> Thousandths {
        let neighbour = self.trees.graph.node(candidate.neighbour);
        let links = self.neighbours.get(&neighbour);
        let weight = links.and_then(|links| self.weights.get(links.first()?));
        weight.copied().unwrap_or_default()
    }

    /// The neighbour that an operator prefers, where packets cannot come back from it.
    fn preferred(&self, destination: Vertex, candidates: &[Candidate]) -> Option<Candidate> {
        let graph = self.trees.graph;
        let node = graph.node(destination);
        let matches = |of: Option<NodeId>| {
            let mut all = self.preferences.iter();
            all.find(|preference| preference.destination == of)
        };
        let preference = matches(Some(node)).or_else(|| matches(None))?;
        let via = graph.vertex(preference.via)?;
        // Who drains a relay means it, whoever prefers it.
        let is_drained = via != destination && graph.transit(via) >= DRAINED;
        let mut candidates = candidates.iter().filter(|_| !is_drained);
        candidates
            .find(|candidate| candidate.neighbour == via && candidate.downstream)
            .copied()
    }

    /// A backup found earlier for the same next hop, until the search says whether there is a better one.
    fn kept(&self, backup: &Backup, next: &[NextHop]) -> Option<Backup> {
        let link = *self.neighbours.get(&backup.neighbour)?.first()?;
        let is_other = next.iter().all(|hop| hop.neighbour != backup.neighbour);
        is_other.then(|| Backup {
            link,
            ..backup.clone()
        })
    }

    /// Another link to the only next hop.
    fn parallel(&self, primaries: &[Vertex]) -> Option<Backup> {
        let [primary] = primaries else { return None };
        second_link(self.neighbours, self.trees.graph.node(*primary))
    }
}

fn second_link(neighbours: &Neighbours, neighbour: NodeId) -> Option<Backup> {
    let link = *neighbours.get(&neighbour)?.get(1)?;
    Some(Backup {
        neighbour,
        link,
        waypoints: Vec::new(),
        protection: Protection::Link,
    })
}

/// The nearest origin of each prefix that is not the node's own.
pub(crate) fn prefixes(
    topology: &Topology,
    node: NodeId,
    routes: &BTreeMap<NodeId, Route>,
) -> BTreeMap<Prefix, NodeId> {
    let others = topology.prefixes.iter();
    let others = others.filter(|(_, origins)| !origins.contains(&node));
    others
        .filter_map(|(prefix, origins)| {
            let reachable = origins
                .iter()
                .filter_map(|origin| Some((routes.get(origin)?.cost, *origin)));
            reachable.min().map(|(_, origin)| (*prefix, origin))
        })
        .collect()
}

/// A neighbour that is nearer to the destination and clear of the next hop cannot be bettered. In a large network one that
/// is clear of it by distances does, too: to follow all that others may choose takes a run for each destination, and the
/// few packets that come back are not sent there again.
fn is_good_enough(alternate: Option<&Detour>, nodes: usize) -> bool {
    let is_clear = |detour: &Detour| detour.protection == Protection::Node;
    alternate.is_some_and(|detour| is_clear(detour) && (!detour.upstream || nodes > EXHAUSTIVE))
}

fn same_way(before: &[NextHop], after: &[NextHop]) -> bool {
    let neighbours = |hops: &[NextHop]| hops.iter().map(|hop| hop.neighbour).collect::<Vec<_>>();
    neighbours(before) == neighbours(after)
}

fn over(graph: &Graph, neighbours: &Neighbours, detour: &Detour) -> Option<Backup> {
    let neighbour = graph.node(detour.neighbour);
    let waypoints = detour.waypoints.iter().flatten();
    Some(Backup {
        neighbour,
        link: *neighbours.get(&neighbour)?.first()?,
        waypoints: waypoints
            .map(|stop| stop.map(|at| graph.node(at)))
            .collect(),
        protection: detour.protection,
    })
}
