//! The shortest path over a [`Graph`], by the rules of the agents (`docs/protocol/routing.md`): both ends must report a
//! link, the worse of their prices counts, and every node between the ends adds what transit through it costs. Pure.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use wattle_api::topology::LinkEntity;
use wattle_model::{Carrier, Cost, NodeId};

use crate::graph::Graph;

/// A path and its price.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Route {
    /// Where it begins.
    pub from: NodeId,
    /// Where it ends.
    pub to: NodeId,
    /// Tiers of its links together, of which less is better whatever the price; absent if they are 0.
    #[serde(default, skip_serializing_if = "is_first")]
    pub tier: u32,
    /// The sum of its links and of the transit between them, in microseconds.
    pub cost_us: u64,
    /// Its links, in order.
    pub hops: Vec<Hop>,
}

/// One link of a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Hop {
    /// The near end.
    pub from: NodeId,
    /// Name of `from`.
    pub from_name: String,
    /// The far end.
    pub to: NodeId,
    /// Name of `to`.
    pub to_name: String,
    /// What carries the link.
    pub carrier: Carrier,
    /// Tier of the link, the higher of its ends' claims; absent if it is 0.
    #[serde(default, skip_serializing_if = "is_first")]
    pub tier: u32,
    /// Price of the link, in microseconds: the worse of its ends' claims.
    pub cost_us: u64,
    /// What transit through `to` adds, in microseconds; 0 at the end of the path.
    pub transit_us: u64,
    /// Round-trip time as `from` measures it, in microseconds.
    pub rtt_us: u64,
    /// Loss from `from` to `to`, in parts per million.
    pub loss_ppm: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_first(tier: &u32) -> bool {
    *tier == 0
}

/// How a node is reached. The order of the fields is the order of preference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Reached {
    cost: Cost,
    hops: u32,
    parent: NodeId,
    carrier: Carrier,
}

/// The best link of each pair of neighbours, by its near end.
type Edges<'a> = BTreeMap<NodeId, BTreeMap<NodeId, (Cost, &'a LinkEntity)>>;

impl Route {
    /// The shortest path; `None` if there is none. Ties go to fewer hops, then to the smaller node id, as in the agents.
    pub fn shortest(graph: &Graph, from: NodeId, to: NodeId) -> Option<Self> {
        let edges = edges(graph);
        let mut reached: BTreeMap<NodeId, Reached> = BTreeMap::new();
        let mut settled = BTreeSet::new();
        let mut heap = BinaryHeap::from([Reverse((Cost(0), 0_u32, from))]);
        while let Some(Reverse((cost, hops, near))) = heap.pop() {
            if !settled.insert(near) {
                continue;
            }
            let transit = if near == from {
                Some(0)
            } else {
                graph.node(near).and_then(|node| node.transit_cost_us)
            };
            let Some(transit) = transit else { continue };
            for (far, (price, link)) in edges.get(&near).into_iter().flatten() {
                let candidate = Reached {
                    cost: cost.plus(Cost(transit.into())).plus(*price),
                    hops: hops + 1,
                    parent: near,
                    carrier: link.carrier,
                };
                let better = reached.get(far).is_none_or(|known| candidate < *known);
                if better && *far != from {
                    reached.insert(*far, candidate);
                    heap.push(Reverse((candidate.cost, candidate.hops, *far)));
                }
            }
        }
        if from != to {
            reached.get(&to)?;
        }
        Some(Self::of(graph, &edges, &reached, from, to))
    }

    fn of(
        graph: &Graph,
        edges: &Edges<'_>,
        reached: &BTreeMap<NodeId, Reached>,
        from: NodeId,
        to: NodeId,
    ) -> Self {
        let mut hops = Vec::new();
        let mut at = to;
        while at != from {
            let parent = reached[&at].parent;
            let (cost, link) = edges[&parent][&at];
            let through = graph.node(at).and_then(|node| node.transit_cost_us);
            hops.push(Hop {
                from: parent,
                from_name: graph.name(parent),
                to: at,
                to_name: graph.name(at),
                carrier: link.carrier,
                tier: cost.tiers(),
                cost_us: cost.micros(),
                transit_us: if at == to {
                    0
                } else {
                    through.unwrap_or(0).into()
                },
                rtt_us: link.rtt_us,
                loss_ppm: link.loss_ppm,
            });
            at = parent;
        }
        hops.reverse();
        let cost = reached.get(&to).map_or(Cost(0), |reached| reached.cost);
        Self {
            from,
            to,
            tier: cost.tiers(),
            cost_us: cost.micros(),
            hops,
        }
    }
}

fn edges(graph: &Graph) -> Edges<'_> {
    let claims: BTreeMap<_, _> = graph
        .links()
        .map(|link| ((link.from, link.to, link.carrier), link))
        .collect();
    let mut edges: Edges<'_> = BTreeMap::new();
    for ((from, to, carrier), link) in &claims {
        let Some(reverse) = claims.get(&(*to, *from, *carrier)) else {
            continue;
        };
        let (Some(there), Some(back)) = (link.cost_us, reverse.cost_us) else {
            continue;
        };
        if from == to || graph.node(*from).is_none() || graph.node(*to).is_none() {
            continue;
        }
        // A free link would let two ends swap packets without coming nearer.
        let claim = |micros, tier| Cost::told(micros).in_tier(tier);
        let price = claim(there, link.tier).or_worse(claim(back, reverse.tier));
        let price = price.max(Cost(1));
        let best = edges.entry(*from).or_default().entry(*to);
        let best = best.or_insert((price, *link));
        if price < best.0 {
            *best = (price, *link);
        }
    }
    edges
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use wattle_api::topology::Entity;

    use super::*;
    use crate::graph::tests::{graph, link, node};

    fn both(a: u64, b: u64, there: Option<u32>, back: Option<u32>) -> [Entity; 2] {
        [link(a, b, there), link(b, a, back)]
    }

    fn with_transit(id: u64, transit: Option<u32>) -> Entity {
        let Entity::Node(mut entity) = node(id, &format!("n{id}")) else {
            panic!()
        };
        entity.transit_cost_us = transit;
        Entity::Node(entity)
    }

    fn way(route: &Route) -> Vec<u64> {
        let ends = route.hops.iter().map(|hop| hop.to.0);
        [route.from.0].into_iter().chain(ends).collect()
    }

    #[test]
    fn the_worse_end_and_transit_decide() {
        // 1-2-4: 100 + 50 + 100 = 250; 1-3-4: 100 + 0 + 200 (its back claims 200) = 300; 1-4 direct: 400.
        let mut entities = vec![
            with_transit(1, Some(9)),
            with_transit(2, Some(50)),
            with_transit(3, Some(0)),
            with_transit(4, Some(9)),
        ];
        entities.extend(both(1, 2, Some(100), Some(100)));
        entities.extend(both(2, 4, Some(100), Some(90)));
        entities.extend(both(1, 3, Some(100), Some(1)));
        entities.extend(both(3, 4, Some(10), Some(200)));
        entities.extend(both(1, 4, Some(400), Some(400)));
        let whole = graph(&entities);
        let route = Route::shortest(&whole, NodeId(1), NodeId(4)).unwrap();
        assert_eq!((way(&route), route.cost_us), (vec![1, 2, 4], 250));
        assert_eq!(
            (route.hops[0].transit_us, route.hops[1].transit_us),
            (50, 0)
        );
        // A drained node carries no transit, but is an end.
        entities[1] = with_transit(2, None);
        let drained = graph(&entities);
        let route = Route::shortest(&drained, NodeId(1), NodeId(4)).unwrap();
        assert_eq!((way(&route), route.cost_us), (vec![1, 3, 4], 300));
        let end = Route::shortest(&drained, NodeId(1), NodeId(2)).unwrap();
        assert_eq!(end.cost_us, 100);
    }

    #[test]
    fn a_link_in_a_higher_tier_is_taken_only_where_nothing_else_leads() {
        let in_tier = |mut link: Entity, tier| {
            if let Entity::Link(link) = &mut link {
                link.tier = tier;
            }
            link
        };
        let mut entities: Vec<_> = (1..=3).map(|id| with_transit(id, Some(0))).collect();
        entities.extend(both(1, 2, Some(9_000), Some(9_000)));
        entities.extend(both(2, 3, Some(9_000), Some(9_000)));
        // One end is enough.
        entities.push(in_tier(link(1, 3, Some(10)), 1));
        entities.push(link(3, 1, Some(20)));
        let around = Route::shortest(&graph(&entities), NodeId(1), NodeId(3)).unwrap();
        assert_eq!(
            (way(&around), around.tier, around.cost_us),
            (vec![1, 2, 3], 0, 18_000)
        );
        entities.truncate(5);
        entities.push(in_tier(link(1, 3, Some(10)), 1));
        entities.push(link(3, 1, Some(20)));
        let left = Route::shortest(&graph(&entities), NodeId(1), NodeId(3)).unwrap();
        assert_eq!((way(&left), left.tier, left.cost_us), (vec![1, 3], 1, 20));
    }

    #[test]
    fn what_one_end_reports_alone_is_no_way() {
        let mut entities = vec![node(1, "a"), node(2, "b"), link(1, 2, Some(5))];
        assert_eq!(
            Route::shortest(&graph(&entities), NodeId(1), NodeId(2)),
            None
        );
        entities.push(link(2, 1, None));
        assert_eq!(
            Route::shortest(&graph(&entities), NodeId(1), NodeId(2)),
            None
        );
        let here = Route::shortest(&graph(&entities), NodeId(1), NodeId(1)).unwrap();
        assert_eq!((here.cost_us, here.hops.len()), (0, 0));
    }

    proptest! {
        #[test]
        fn paths_cost_what_trying_every_way_finds(
            costs in prop::collection::vec(prop::option::of(1..50_u32), 20),
            transit in prop::collection::vec(prop::option::of(0..20_u32), 5),
        ) {
            let mut entities: Vec<Entity> = (1..).zip(&transit).map(|(id, t)| with_transit(id, *t)).collect();
            let pairs: Vec<(u64, u64)> = (1..=5).flat_map(|a| (1..=5).filter(move |b| *b != a).map(move |b| (a, b))).collect();
            for ((a, b), cost) in pairs.iter().zip(&costs) {
                entities.push(link(*a, *b, *cost));
            }
            let graph = graph(&entities);
            for (a, b) in &pairs {
                let found = Route::shortest(&graph, NodeId(*a), NodeId(*b)).map(|route| route.cost_us);
                prop_assert_eq!(found, brute(&graph, &transit, *a, *b, &mut vec![*a]));
            }
        }
    }

    fn brute(
        graph: &Graph,
        transit: &[Option<u32>],
        at: u64,
        to: u64,
        seen: &mut Vec<u64>,
    ) -> Option<u64> {
        if at == to {
            return Some(0);
        }
        let through = if seen.len() == 1 {
            Some(0)
        } else {
            transit[at as usize - 1]
        };
        let through = u64::from(through?);
        let edges = edges(graph);
        let mut best = None;
        for (far, (price, _)) in edges.get(&NodeId(at)).into_iter().flatten() {
            if seen.contains(&far.0) {
                continue;
            }
            seen.push(far.0);
            if let Some(rest) = brute(graph, transit, far.0, to, seen) {
                let cost = through + price.micros() + rest;
                best = Some(best.map_or(cost, |known: u64| known.min(cost)));
            }
            seen.pop();
        }
        best
    }
}
