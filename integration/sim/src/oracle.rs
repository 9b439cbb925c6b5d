//! What must hold once it is quiet, judged by brute force and from outside.

use std::collections::{BTreeMap, BTreeSet};

use wattle_model::{Class, Cost, NodeId};
use wattle_routing::Router;
use wattle_wire::flood::RecordId;
use wattle_wire::record::Body;

use crate::fleet::{Fleet, NodeNumber, granted_prefix};

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation(pub String);

/// Checks every promise.
///
/// # Errors
/// The first promise that is broken.
pub fn check(fleet: &Fleet) -> Result<(), Violation> {
    let world = World::of(fleet);
    world.links_are_up_where_edges_are_whole(fleet)?;
    world.databases_agree()?;
    world.nothing_was_forged()?;
    world.prefixes_are_granted_ones(fleet)?;
    for class in Class::ALL {
        world.routes_are_the_shortest(class)?;
        world.nothing_loops(class)?;
    }
    Ok(())
}

/// The running nodes and the links that both ends use.
struct World<'a> {
    routers: BTreeMap<NodeId, &'a Router>,
    numbers: BTreeMap<NodeId, NodeNumber>,
    /// In the order of [`Class::ALL`].
    links: BTreeMap<(NodeId, NodeId), [Cost; Class::ALL.len()]>,
}

fn broken(what: String) -> Result<(), Violation> {
    Err(Violation(what))
}

impl<'a> World<'a> {
    fn of(fleet: &'a Fleet) -> Self {
        let running = fleet.nodes.iter().enumerate().filter_map(|(at, node)| {
            let process = node.process.as_ref()?;
            Some((node.id, &process.router, NodeNumber(at)))
        });
        let mut world = Self {
            routers: BTreeMap::new(),
            numbers: BTreeMap::new(),
            links: BTreeMap::new(),
        };
        for (id, router, number) in running {
            world.routers.insert(id, router);
            world.numbers.insert(id, number);
        }
        let claims: BTreeMap<_, [Cost; Class::ALL.len()]> = world
            .routers
            .iter()
            .flat_map(|(id, router)| {
                let used = router
                    .links()
                    .values()
                    .filter(|link| link.state.is_usable());
                used.map(move |link| {
                    let costs = Class::ALL.map(|class| link.advertised_in(class));
                    ((*id, link.neighbour, link.carrier), costs)
                })
            })
            .collect();
        for ((a, b, carrier), costs) in &claims {
            if let Some(reverse) = claims.get(&(*b, *a, *carrier)) {
                let nothing = [Cost::INFINITE; Class::ALL.len()];
                let best = world.links.entry((*a, *b)).or_insert(nothing);
                for ((best, cost), reverse) in best.iter_mut().zip(costs).zip(reverse) {
                    *best = cost.or_worse(*reverse).min(*best);
                }
            }
        }
        world
    }

    fn links_are_up_where_edges_are_whole(&self, fleet: &Fleet) -> Result<(), Violation> {
        for edge in &fleet.network.edges {
            let ids = edge.ends.map(|end| fleet.nodes[end.0].id);
            let [Some(a), Some(b)] = ids.map(|id| self.routers.get(&id)) else {
                continue;
            };
            let is_member = |router: &Router, id| router.members().nodes.contains_key(&id);
            let linked = self.links.contains_key(&(ids[0], ids[1]));
            if edge.is_whole() && is_member(a, ids[1]) && is_member(b, ids[0]) && !linked {
                return broken(format!("{:?} is whole but not used", edge.ends));
            }
        }
        Ok(())
    }

    /// Nodes that reach each other over used links.
    fn component(&self, from: NodeId) -> BTreeSet<NodeId> {
        let mut component = BTreeSet::from([from]);
        let mut rest = vec![from];
        while let Some(node) = rest.pop() {
            for ((_, to), _) in self.links.iter().filter(|((a, _), _)| *a == node) {
                if component.insert(*to) {
                    rest.push(*to);
                }
            }
        }
        component
    }

    fn databases_agree(&self) -> Result<(), Violation> {
        for (id, router) in &self.routers {
            let ids = |router: &Router| -> Vec<RecordId> {
                router
                    .database()
                    .iter()
                    .map(|(_, entry)| RecordId::from(entry.record()))
                    .collect()
            };
            for other in self.component(*id) {
                if ids(router) != ids(self.routers[&other]) {
                    return broken(format!(
                        "databases of {:?} and {:?} differ: {:?} and {:?}",
                        self.numbers[id],
                        self.numbers[&other],
                        ids(router),
                        ids(self.routers[&other]),
                    ));
                }
                if router.database().fingerprint() != self.routers[&other].database().fingerprint()
                {
                    return broken("equal databases, different fingerprints".to_owned());
                }
            }
        }
        Ok(())
    }

    fn nothing_was_forged(&self) -> Result<(), Violation> {
        for (id, router) in &self.routers {
            let counters = router.counters();
            if counters.forged + counters.dropped > 0 {
                return broken(format!("{:?} counted {counters:?}", self.numbers[id]));
            }
        }
        Ok(())
    }

    fn routes_are_the_shortest(&self, class: Class) -> Result<(), Violation> {
        for (id, router) in &self.routers {
            let shortest = self.bellman_ford(*id, class);
            let reached: BTreeSet<_> = shortest.keys().copied().filter(|to| to != id).collect();
            let routed: BTreeSet<_> = router.routes_of(class).routes.keys().copied().collect();
            if reached != routed {
                return broken(format!(
                    "{:?} reaches {reached:?}, routes {routed:?} ({class})",
                    self.numbers[id]
                ));
            }
            for (to, route) in &router.routes_of(class).routes {
                let best = shortest[to];
                let paid = route.cost.micros();
                let gain = paid.wrapping_sub(best.micros());
                // A route is held while it is dearer by less than half a millisecond or 5 %.
                let held = route.cost.tiers() == best.tiers() && (gain < 500 || gain * 20 < paid);
                if route.cost < best || !held {
                    return broken(format!(
                        "{:?} pays {} to {:?}, could pay {best} ({class})",
                        self.numbers[id], route.cost, self.numbers[to]
                    ));
                }
                let shares: u32 = route.next.iter().map(|next| u32::from(next.weight)).sum();
                if shares != 256 {
                    return broken(format!(
                        "shares of {:?} add up to {shares}",
                        self.numbers[id]
                    ));
                }
            }
        }
        Ok(())
    }

    /// The price of the best path to every node that has one, by relaxing every link again and again.
    fn bellman_ford(&self, root: NodeId, class: Class) -> BTreeMap<NodeId, Cost> {
        let mut prices = BTreeMap::from([(root, Cost(0))]);
        for _ in 0..self.routers.len() {
            for ((from, to), costs) in &self.links {
                let cost = costs[usize::from(class.code())];
                let Some(price) = prices.get(from) else {
                    continue;
                };
                let through = if *from == root {
                    Cost(0)
                } else {
                    transit(self.routers[from])
                };
                let candidate = price.plus(through).plus(cost);
                let price = prices.entry(*to).or_insert(Cost::INFINITE);
                *price = candidate.min(*price);
            }
        }
        prices.retain(|_, price| price.is_finite());
        prices
    }

    fn prefixes_are_granted_ones(&self, fleet: &Fleet) -> Result<(), Violation> {
        for (id, router) in &self.routers {
            let expected: BTreeMap<_, _> = (0..fleet.nodes.len())
                .map(|at| (granted_prefix(NodeNumber(at)), fleet.nodes[at].id))
                .filter(|(_, origin)| router.routes().routes.contains_key(origin))
                .collect();
            if router.routes().prefixes != expected {
                let found = &router.routes().prefixes;
                return broken(format!("{:?} has prefixes {found:?}", self.numbers[id]));
            }
        }
        Ok(())
    }

    /// Follows every next hop of every node: nobody is met twice, and the destination is reached.
    fn nothing_loops(&self, class: Class) -> Result<(), Violation> {
        for destination in self.routers.keys() {
            for from in self.routers.keys() {
                self.follow((class, *destination), *from, &mut Vec::new())?;
            }
        }
        Ok(())
    }

    fn follow(
        &self,
        (class, destination): (Class, NodeId),
        at: NodeId,
        trail: &mut Vec<NodeId>,
    ) -> Result<(), Violation> {
        if at == destination {
            return Ok(());
        }
        if trail.contains(&at) {
            let trail: Vec<_> = trail.iter().map(|id| self.numbers[id]).collect();
            return broken(format!(
                "{class} packets to {:?} loop: {trail:?}",
                self.numbers[&destination]
            ));
        }
        trail.push(at);
        let route = self
            .routers
            .get(&at)
            .and_then(|router| router.routes_of(class).routes.get(&destination));
        match route {
            None if trail.len() > 1 => {
                return broken(format!(
                    "{:?} has no route that others count on",
                    self.numbers[&at]
                ));
            }
            None => {}
            Some(route) => {
                for next in &route.next {
                    self.follow((class, destination), next.neighbour, trail)?;
                }
            }
        }
        trail.pop();
        Ok(())
    }
}

/// The price of transit through a node, by its own record.
fn transit(router: &Router) -> Cost {
    let own = router
        .database()
        .of(router.node())
        .find_map(|(_, entry)| match entry.body() {
            Body::Node(body) => Some(body.transit),
            Body::Links(_) | Body::Prefixes(_) | Body::Removal(_) => None,
        });
    own.unwrap_or_default()
}
