//! Who is whose neighbour in a network too large for everybody to be everybody's (`docs/protocol/routing.md` §6).
//!
//! The members stand on four rings, on each in another order that follows from their ids alone. Neighbours on a ring are
//! neighbours in the network: everybody has at most eight, both ends agree without a word, one ring alone connects
//! everybody, four random ones make ways short and plenty, and who joins parts four pairs and makes eight.
//! Nodes that can be dialled from anywhere are *anchors*: everybody has two of those besides, since two nodes behind
//! address translation may never find each other.

use std::collections::BTreeSet;

use wattle_model::{NodeId, mix};
use wattle_wire::grant::FULL_MESH;

/// Odd numbers that order the rings.
const RINGS: [u64; 4] = [
    0x9e37_79b9_7f4a_7c15,
    0xc2b2_ae3d_27d4_eb4f,
    0x1656_67b1_9e37_79f9,
    0x27d4_eb2f_1656_67c5,
];
/// Anchors of every node.
const ANCHORS: usize = 2;

/// The neighbours of `own` among the members; `None` while all are.
pub fn chosen(
    own: NodeId,
    members: &BTreeSet<NodeId>,
    anchors: &BTreeSet<NodeId>,
) -> Option<BTreeSet<NodeId>> {
    if members.len() <= FULL_MESH {
        return None;
    }
    let on_rings = RINGS.iter().flat_map(|ring| beside(own, members, *ring));
    let mut chosen: BTreeSet<NodeId> = on_rings.chain(anchors_of(own, anchors)).collect();
    if anchors.contains(&own) {
        let anchored = members
            .iter()
            .filter(|member| anchors_of(**member, anchors).contains(&own));
        chosen.extend(anchored);
    }
    chosen.remove(&own);
    Some(chosen)
}

/// The member before `own` on a ring, and the one after it.
fn beside(own: NodeId, members: &BTreeSet<NodeId>, ring: u64) -> [NodeId; 2] {
    let place = |node: NodeId| (mix(node.0 ^ ring), node);
    // On a ring seen from `own`, everybody is so far ahead; the last one ahead is the first one behind.
    let ahead = |node: NodeId| {
        let (here, there) = (place(own), place(node));
        (there.0.wrapping_sub(here.0), node)
    };
    let others = || members.iter().copied().filter(|node| *node != own);
    let after = others().min_by_key(|node| ahead(*node)).unwrap_or(own);
    let before = others().max_by_key(|node| ahead(*node)).unwrap_or(own);
    [before, after]
}

/// Each node prefers anchors in an order of its own, so that the anchors share the nodes.
fn anchors_of(node: NodeId, anchors: &BTreeSet<NodeId>) -> Vec<NodeId> {
    let others = anchors.iter().copied().filter(|anchor| *anchor != node);
    let mut others: Vec<_> = others
        .map(|anchor| (mix(mix(node.0) ^ anchor.0), anchor))
        .collect();
    others.sort_unstable();
    others.truncate(ANCHORS);
    others.into_iter().map(|(_, anchor)| anchor).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    type Graph = BTreeMap<NodeId, BTreeSet<NodeId>>;

    #[test]
    fn every_size_is_connected_with_at_most_eight_neighbours_that_agree() {
        for count in (33..400).chain((400..=2_000).step_by(97)).chain([2_000]) {
            let graph = graph(count, 0);
            assert!(is_connected(&graph), "{count}");
            let degrees = graph.values().map(BTreeSet::len);
            let (least, most) = (degrees.clone().min(), degrees.max());
            assert!(
                least >= Some(4) && most <= Some(8),
                "{count}: {least:?} {most:?}"
            );
            assert!(agrees(&graph), "{count}");
        }
    }

    #[test]
    fn up_to_32_are_all_neighbours() {
        for count in 2..=FULL_MESH {
            let members = members(count);
            assert!(
                members
                    .iter()
                    .all(|node| chosen(*node, &members, &BTreeSet::new()).is_none())
            );
        }
    }

    #[test]
    fn who_joins_or_leaves_parts_four_pairs_and_makes_eight() {
        for count in [33, 100, 1_000] {
            let (before, after) = (graph(count, 0), graph(count + 1, 0));
            let pairs = |graph: &Graph| -> BTreeSet<(NodeId, NodeId)> {
                let all = graph.iter();
                all.flat_map(|(a, others)| others.iter().map(|b| (*a.min(b), *a.max(b))))
                    .collect()
            };
            let (before, after) = (pairs(&before), pairs(&after));
            assert!(before.difference(&after).count() <= 4, "{count}");
            assert!(after.difference(&before).count() <= 8, "{count}");
        }
    }

    #[test]
    fn a_thousand_nodes_are_few_steps_apart_and_no_single_one_holds_them_together() {
        let graph = graph(1_000, 0);
        let start = *graph.keys().next().unwrap();
        let (mut reached, mut edge, mut steps) = (BTreeSet::from([start]), vec![start], 0);
        while reached.len() < graph.len() {
            let next: BTreeSet<_> = edge.iter().flat_map(|node| &graph[node]).copied().collect();
            edge = next
                .into_iter()
                .filter(|node| reached.insert(*node))
                .collect();
            steps += 1;
        }
        assert!(steps <= 6, "{steps}");
        for gone in graph.keys().step_by(50) {
            let mut rest = graph.clone();
            rest.remove(gone);
            for others in rest.values_mut() {
                others.remove(gone);
            }
            assert!(is_connected(&rest));
        }
    }

    #[test]
    fn everybody_has_two_anchors_and_anchors_share_the_nodes() {
        let graph = graph(500, 10);
        let anchors: BTreeSet<_> = members(10);
        assert!(agrees(&graph));
        for (node, others) in &graph {
            assert!(others.intersection(&anchors).count() >= 2, "{node:?}");
        }
        let load: Vec<_> = anchors.iter().map(|anchor| graph[anchor].len()).collect();
        assert!(load.iter().all(|load| (50..200).contains(load)), "{load:?}");
        let others = graph.iter().filter(|(node, _)| !anchors.contains(node));
        assert!(others.into_iter().all(|(_, others)| others.len() <= 10));
    }

    fn members(count: usize) -> BTreeSet<NodeId> {
        (1..=count as u64).map(|node| NodeId(mix(node))).collect()
    }

    fn graph(count: usize, anchors: usize) -> Graph {
        let (members, anchors) = (members(count), members(anchors));
        let of = |node: &NodeId| chosen(*node, &members, &anchors).unwrap();
        members.iter().map(|node| (*node, of(node))).collect()
    }

    fn agrees(graph: &Graph) -> bool {
        let mut pairs = graph
            .iter()
            .flat_map(|(a, others)| others.iter().map(move |b| (a, b)));
        pairs.all(|(a, b)| graph[b].contains(a) && a != b)
    }

    fn is_connected(graph: &Graph) -> bool {
        let start = *graph.keys().next().unwrap();
        let (mut reached, mut rest) = (BTreeSet::from([start]), vec![start]);
        while let Some(node) = rest.pop() {
            rest.extend(graph[&node].iter().filter(|other| reached.insert(**other)));
        }
        reached.len() == graph.len()
    }
}
