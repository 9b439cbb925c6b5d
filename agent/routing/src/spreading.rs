//! Along which tree a record spreads: breadth first from its origin over the links that both ends report.
//!
//! Every node computes the same tree from the same database, so nobody has to be told who passes on to whom, and a
//! record reaches every node once. Where databases differ for a moment somebody may be left out; comparison finds that.

use std::collections::BTreeSet;

use wattle_model::{NodeId, mix};

use crate::graph::{Graph, Vertex};

/// The neighbours of `node` that get the records of `origin` from somebody else.
pub(crate) fn spared(graph: &Graph, origin: NodeId, node: NodeId) -> BTreeSet<NodeId> {
    let (Some(root), Some(own)) = (graph.vertex(origin), graph.vertex(node)) else {
        return BTreeSet::new();
    };
    let depths = depths(graph, root);
    if depths[own.0 as usize] == UNREACHED {
        return BTreeSet::new();
    }
    let neighbours = graph.edges(own).iter().map(|edge| edge.to);
    neighbours
        .filter(|child| parent(graph, &depths, *child, origin) != Some(own))
        .map(|child| graph.node(child))
        .collect()
}

const UNREACHED: u32 = u32::MAX;

fn depths(graph: &Graph, root: Vertex) -> Vec<u32> {
    let mut depths = vec![UNREACHED; graph.len()];
    depths[root.0 as usize] = 0;
    let mut queue = vec![root];
    let mut next = 0;
    while let Some(vertex) = queue.get(next).copied() {
        next += 1;
        let below = depths[vertex.0 as usize] + 1;
        for edge in graph.edges(vertex) {
            let depth = &mut depths[edge.to.0 as usize];
            if *depth == UNREACHED {
                *depth = below;
                queue.push(edge.to);
            }
        }
    }
    depths
}

/// Among the nodes that are one step nearer to the origin; another one for every origin, so that the work is shared.
fn parent(graph: &Graph, depths: &[u32], child: Vertex, origin: NodeId) -> Option<Vertex> {
    let depth = depths[child.0 as usize].checked_sub(1)?;
    let nearer = graph.edges(child).iter().map(|edge| edge.to);
    nearer
        .filter(|vertex| depths[vertex.0 as usize] == depth)
        .min_by_key(|vertex| mix(graph.node(*vertex).0 ^ origin.0))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use wattle_model::Cost;

    use super::*;

    /// A ring of `count` nodes with chords.
    fn graph(count: u64) -> Graph {
        let nodes = (0..count).map(|node| (NodeId(node), Cost(0))).collect();
        let links: BTreeMap<_, _> = (0..count)
            .flat_map(|node| {
                [1, 7, 31, 57].map(|step| (NodeId(node), NodeId((node + step) % count)))
            })
            .map(|ends| (ends, Cost(1)))
            .collect();
        Graph::new(&nodes, &links)
    }

    #[test]
    fn along_the_tree_every_node_is_reached_once() {
        let graph = graph(500);
        for origin in [0, 17, 499].map(NodeId) {
            let mut reached = BTreeSet::from([origin]);
            let mut rest = vec![origin];
            while let Some(node) = rest.pop() {
                let spared = spared(&graph, origin, node);
                let own = graph.vertex(node).unwrap();
                for edge in graph.edges(own) {
                    let child = graph.node(edge.to);
                    if !spared.contains(&child) {
                        assert!(reached.insert(child), "{child:?} is reached twice");
                        rest.push(child);
                    }
                }
            }
            assert_eq!(reached.len(), 500);
        }
    }

    #[test]
    fn nobody_is_spared_where_no_tree_leads() {
        let graph = graph(100);
        assert_eq!(spared(&graph, NodeId(1_000), NodeId(1)), BTreeSet::new());
        assert_eq!(spared(&graph, NodeId(1), NodeId(1_000)), BTreeSet::new());
    }
}
