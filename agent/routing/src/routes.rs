//! The routing table: for every node that can be reached, where its packets go, and where they go when that is silent.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use wattle_model::{Cost, LinkId, NodeId, Prefix};

use crate::backup::{self, Detour, Protection};
use crate::graph::{Graph, Vertex};
use crate::multipath::{self, Candidate, Trees};
use crate::topology::Topology;

/// Shortest-path runs that one computation may spend on waypoints: 100 µs each in a network of 1,000 nodes.
const MAX_WAYPOINT_SEARCHES: usize = 256;

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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backup {
    /// The neighbour.
    pub neighbour: NodeId,
    /// The link to it.
    pub link: LinkId,
    /// A node that the packets are sent to first.
    pub waypoint: Option<NodeId>,
    /// What the backup survives.
    pub protection: Protection,
}

/// This node's usable links to every neighbour, best first.
pub(crate) type Neighbours = BTreeMap<NodeId, Vec<LinkId>>;

/// Decides every route of `node`, holding on to those in `current` that are still good enough; `preferences` go first.
pub(crate) fn compute(
    topology: &Topology,
    graph: &Graph,
    node: NodeId,
    neighbours: &Neighbours,
    current: &Routes,
    preferences: &[Preference],
) -> Routes {
    let Some(own) = graph.vertex(node) else {
        return Routes::default();
    };
    let mut decision = Decision {
        trees: Trees::of(graph, own),
        graph,
        neighbours,
        preferences,
        searches: MAX_WAYPOINT_SEARCHES,
    };
    let mut routes = BTreeMap::new();
    for destination in graph.vertices().filter(|vertex| *vertex != own) {
        let id = graph.node(destination);
        if let Some(route) = decision.route(destination, current.routes.get(&id)) {
            routes.insert(id, route);
        }
    }
    let prefixes = topology
        .prefixes
        .iter()
        .filter(|(_, origins)| !origins.contains(&node))
        .filter_map(|(prefix, origins)| {
            let reachable = origins
                .iter()
                .filter_map(|origin| Some((routes.get(origin)?.cost, *origin)));
            reachable.min().map(|(_, origin)| (*prefix, origin))
        })
        .collect();
    Routes { routes, prefixes }
}

struct Decision<'a> {
    trees: Trees<'a>,
    graph: &'a Graph,
    neighbours: &'a Neighbours,
    preferences: &'a [Preference],
    searches: usize,
}

impl Decision<'_> {
    fn route(&mut self, destination: Vertex, current: Option<&Route>) -> Option<Route> {
        let candidates = self.trees.candidates(destination);
        let held = current
            .and_then(|route| route.next.first())
            .and_then(|next| self.graph.vertex(next.neighbour));
        let chosen = match self.preferred(destination, &candidates) {
            Some(preferred) => vec![preferred],
            None => multipath::choose(&candidates, destination, held),
        };
        let best = chosen.iter().map(|candidate| candidate.cost).min()?;
        let next: Vec<NextHop> = chosen
            .iter()
            .zip(multipath::weights(&chosen))
            .filter_map(|(candidate, weight)| {
                let neighbour = self.graph.node(candidate.neighbour);
                let link = *self.neighbours.get(&neighbour)?.first()?;
                Some(NextHop {
                    neighbour,
                    link,
                    weight,
                })
            })
            .collect();
        let preferred = chosen.first()?;
        (!next.is_empty()).then(|| Route {
            cost: best,
            hops: preferred.hops,
            backup: self.backup(destination, &candidates, &chosen),
            next,
        })
    }

    /// The neighbour that an operator prefers, where packets cannot come back from it.
    fn preferred(&self, destination: Vertex, candidates: &[Candidate]) -> Option<Candidate> {
        let node = self.graph.node(destination);
        let matches = |of: Option<NodeId>| {
            let mut all = self.preferences.iter();
            all.find(|preference| preference.destination == of)
        };
        let preference = matches(Some(node)).or_else(|| matches(None))?;
        let via = self.graph.vertex(preference.via)?;
        // Who drains a relay means it, whoever prefers it.
        let is_drained = via != destination && self.graph.transit(via) >= DRAINED;
        let mut candidates = candidates.iter().filter(|_| !is_drained);
        candidates
            .find(|candidate| candidate.neighbour == via && candidate.downstream)
            .copied()
    }

    fn backup(
        &mut self,
        destination: Vertex,
        candidates: &[Candidate],
        chosen: &[Candidate],
    ) -> Option<Backup> {
        let primaries: Vec<Vertex> = chosen.iter().map(|candidate| candidate.neighbour).collect();
        let alternate = backup::alternate(&self.trees, destination, candidates, &primaries);
        // Several next hops already stand in for one another, and parallel links for each other.
        let found = alternate.or_else(|| match self.searches {
            0 => None,
            _ if primaries.len() > 1 => None,
            _ => {
                self.searches -= 1;
                backup::over_waypoint(&self.trees, destination, &primaries)
            }
        });
        found
            .and_then(|detour| self.over(&detour))
            .or_else(|| self.parallel(&primaries))
    }

    fn over(&self, detour: &Detour) -> Option<Backup> {
        let neighbour = self.graph.node(detour.neighbour);
        Some(Backup {
            neighbour,
            link: *self.neighbours.get(&neighbour)?.first()?,
            waypoint: detour.waypoint.map(|vertex| self.graph.node(vertex)),
            protection: detour.protection,
        })
    }

    /// Another link to the only next hop.
    fn parallel(&self, primaries: &[Vertex]) -> Option<Backup> {
        let [primary] = primaries else { return None };
        let neighbour = self.graph.node(*primary);
        let link = *self.neighbours.get(&neighbour)?.get(1)?;
        Some(Backup {
            neighbour,
            link,
            waypoint: None,
            protection: Protection::Link,
        })
    }
}
