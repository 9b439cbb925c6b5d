//! The routing table: for every node that can be reached, where its packets go, and where they go when that is silent.

use std::collections::BTreeMap;
use std::sync::Arc;

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
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Routes {
    /// For every node that can be reached; of one table and the next most are the same.
    pub routes: BTreeMap<NodeId, Arc<Route>>,
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
        let (mut routes, decisions) = compute(&grounds, current, None);
        let mut open = decisions.open(graph);
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

/// What was decided for each destination, by vertex, before any [`Search`].
#[derive(Debug, Default)]
pub(crate) struct Decisions(Vec<Option<Decision>>);

#[derive(Debug, Clone)]
struct Decision {
    route: Arc<Route>,
    /// Whether the backup was found by distances, whatever the one in use.
    is_alternate: bool,
    /// Whether a search may better the backup.
    is_open: bool,
}

impl Decisions {
    /// The destinations whose backup may be bettered by a [`Search`].
    pub(crate) fn open(&self, graph: &Graph) -> Vec<NodeId> {
        let decisions = graph.vertices().zip(&self.0);
        let open = decisions.filter(|(_, decision)| decision.as_ref().is_some_and(|it| it.is_open));
        open.map(|(vertex, _)| graph.node(vertex)).collect()
    }
}

/// Earlier decisions on grounds that differ for some destinations only.
#[derive(Clone, Copy)]
pub(crate) struct Earlier<'a> {
    pub(crate) decisions: &'a Decisions,
    /// By vertex, whether a tree reaches it otherwise.
    pub(crate) touched: &'a [bool],
}

impl Earlier<'_> {
    fn decision(&self, destination: Vertex) -> Option<&Decision> {
        let at = destination.0 as usize;
        let decision = self.decisions.0.get(at)?.as_ref();
        decision.filter(|_| !self.touched[at])
    }
}

/// Decides every route of the trees' node, holding on to those in `current` that are still good enough; what was decided
/// `earlier` is not decided anew where nothing can have changed.
pub(crate) fn compute(
    grounds: &Grounds<'_>,
    current: &Routes,
    earlier: Option<Earlier<'_>>,
) -> (Routes, Decisions) {
    let graph = grounds.trees.graph;
    let own = grounds.trees.own.root();
    let decide = |destination: Vertex| {
        let current = current.routes.get(&graph.node(destination));
        let earlier = earlier.as_ref().zip(current);
        earlier
            .and_then(|(earlier, current)| grounds.same(earlier.decision(destination)?, current))
            .or_else(|| grounds.decision(destination, current))
    };
    let others = graph
        .vertices()
        .map(|vertex| (vertex != own).then_some(vertex));
    let decisions: Vec<_> = others.map(|destination| decide(destination?)).collect();
    let decided = graph.vertices().zip(&decisions);
    let routes = decided.filter_map(|(destination, decision)| {
        Some((
            graph.node(destination),
            Arc::clone(&decision.as_ref()?.route),
        ))
    });
    let routes = routes.collect();
    let prefixes = prefixes(grounds.topology, graph.node(own), &routes);
    (Routes { routes, prefixes }, Decisions(decisions))
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
            Arc::make_mut(route).backup = found;
            progress.bettered = true;
        }
    }
    progress
}

impl Grounds<'_> {
    /// What was decided `earlier` on the same grounds, while the route in `current` use has the same next hops.
    fn same(&self, earlier: &Decision, current: &Arc<Route>) -> Option<Decision> {
        let Decision {
            route,
            is_alternate,
            is_open,
        } = earlier;
        if route.next != current.next {
            return None;
        }
        let backup = match is_alternate {
            true => route.backup.clone(),
            false => self.fallback(current, &route.next),
        };
        let of_use = [current, route].into_iter().find(|known| {
            (known.cost, known.hops) == (route.cost, route.hops) && known.backup == backup
        });
        let anew = || {
            let route = Route::clone(route);
            Arc::new(Route { backup, ..route })
        };
        Some(Decision {
            route: of_use.cloned().unwrap_or_else(anew),
            is_alternate: *is_alternate,
            is_open: *is_open,
        })
    }

    fn decision(&self, destination: Vertex, current: Option<&Arc<Route>>) -> Option<Decision> {
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
        let found = alternate.and_then(|detour| over(graph, self.neighbours, &detour));
        let is_alternate = found.is_some();
        let backup = found.or_else(|| match kept {
            Some(current) => self.fallback(current, &next),
            None => self.parallel(&next),
        });
        if next.is_empty() {
            return None;
        }
        let route = Route {
            cost: best,
            hops: preferred.hops,
            backup,
            next,
        };
        // Several next hops already stand in for one another.
        let is_open = primaries.len() == 1 && !is_good_enough(alternate.as_ref(), graph.len());
        Some(Decision {
            route: shared(current, route),
            is_alternate,
            is_open,
        })
    }

    /// The backup where distances allow none: the one in use of a route with the same next hops, else another link.
    fn fallback(&self, current: &Route, next: &[NextHop]) -> Option<Backup> {
        let kept = current.backup.as_ref();
        let kept = kept.and_then(|backup| self.kept(backup, next));
        kept.or_else(|| self.parallel(next))
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
    fn parallel(&self, next: &[NextHop]) -> Option<Backup> {
        let [next] = next else { return None };
        second_link(self.neighbours, next.neighbour)
    }
}

/// The route in use, if it is the same.
fn shared(current: Option<&Arc<Route>>, route: Route) -> Arc<Route> {
    match current {
        Some(current) if **current == route => Arc::clone(current),
        _ => Arc::new(route),
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
    routes: &BTreeMap<NodeId, Arc<Route>>,
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand_chacha::ChaCha8Rng;
    use rand_core::{RngCore as _, SeedableRng as _};
    use wattle_model::Cost;

    use super::*;

    /// Each seed: a network that changes a hundred times, while some routes are held and some backups bettered.
    #[test]
    fn what_is_not_decided_anew_is_what_would_be_decided() {
        let mut reused = 0;
        for seed in 0..60 {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let mut graph = graph(&mut rng);
            let own = Vertex(below(&mut rng, graph.len()) as u32);
            let mut forest = Forest::of(&graph, own);
            let (mut current, mut decisions) = (Routes::default(), Decisions::default());
            for step in 0..100 {
                let (before, forest_before) = (graph.clone(), forest.clone());
                change(&mut rng, &mut graph);
                let changes = graph
                    .changes_since(&before, usize::MAX)
                    .expect("the same nodes");
                forest.update(&graph, &changes);
                let touched = forest.touched_since(&forest_before, &changes);
                let neighbours = neighbours(&graph, own);
                let grounds = Grounds {
                    topology: &Topology::default(),
                    trees: Trees::of(&graph, &forest),
                    neighbours: &neighbours,
                    weights: &Weights::new(),
                    preferences: &[],
                };
                let earlier = touched.as_ref().map(|touched| Earlier {
                    decisions: &decisions,
                    touched,
                });
                reused += usize::from(earlier.is_some());
                let (routes, kept) = compute(&grounds, &current, earlier);
                let (anew, all) = compute(&grounds, &current, None);
                assert_eq!(routes, anew, "seed {seed}, step {step}");
                let mut open = kept.open(&graph);
                assert_eq!(open, all.open(&graph), "seed {seed}, step {step}");
                current = held(&mut rng, &current, routes);
                let budget = below(&mut rng, 20_000);
                let on = (&graph, &neighbours);
                better(&mut current, &mut open, &mut Search::new(own), on, budget);
                decisions = kept;
            }
        }
        assert!(reused > 600, "{reused}");
    }

    /// Some of the routes in use are not replaced yet.
    fn held(rng: &mut ChaCha8Rng, current: &Routes, next: Routes) -> Routes {
        let is_held = rng.next_u32().is_multiple_of(4);
        let routes = next.routes.iter().map(|(node, next)| {
            let kept = current
                .routes
                .get(node)
                .filter(|_| is_held && node.0 % 2 == 0);
            (*node, Arc::clone(kept.unwrap_or(next)))
        });
        Routes {
            routes: routes.collect(),
            ..next
        }
    }

    fn graph(rng: &mut ChaCha8Rng) -> Graph {
        let count = 8 + below(rng, 30);
        let nodes = (0..count as u64)
            .map(|node| (NodeId(node), Cost(0)))
            .collect();
        let mut graph = Graph::new(&nodes, &BTreeMap::new());
        for _ in 0..3 * count {
            change(rng, &mut graph);
        }
        graph
    }

    fn change(rng: &mut ChaCha8Rng, graph: &mut Graph) {
        let mut vertex = || Vertex(below(rng, graph.len()) as u32);
        let (a, b) = (vertex(), vertex());
        let cost = match below(rng, 8) {
            0 => Cost::INFINITE,
            price => Cost(4_000 + 700 * price as u64),
        };
        if below(rng, 12) == 0 {
            graph.set_transit(a, Cost(below(rng, 2) as u64 * 3_000));
        } else if a != b {
            graph.set_cost(a, b, cost);
        }
    }

    /// Some have two links.
    fn neighbours(graph: &Graph, own: Vertex) -> Neighbours {
        let links = graph.edges(own).iter().map(|edge| {
            let ids: BTreeSet<_> = [edge.to.0, edge.to.0 | 64].map(LinkId).into();
            let count = 1 + edge.to.0 as usize % 2;
            (graph.node(edge.to), ids.into_iter().take(count).collect())
        });
        links.collect()
    }

    fn below(rng: &mut ChaCha8Rng, limit: usize) -> usize {
        (rng.next_u64() % limit as u64) as usize
    }
}
