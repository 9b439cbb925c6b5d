//! What ours is measured beside: petgraph's Dijkstra, and the one that everybody writes, over a binary heap.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use petgraph::graph::{NodeIndex, UnGraph};
use wattle_model::Cost;
use wattle_routing::graph::{Graph, Vertex};

/// Finds the distances from one node to all.
pub(crate) trait Rival {
    /// What it is called in the results.
    fn name(&self) -> &'static str;
    /// The distances by vertex; infinite to whom no path leads.
    fn distances(&self, root: u32) -> Vec<Cost>;
}

/// Every rival, the network in the shape that it works on. Passing through a node is free.
pub(crate) fn all(graph: &Graph) -> Vec<Box<dyn Rival>> {
    vec![
        Box::new(Petgraph::of(graph)),
        Box::new(BinaryHeapDijkstra::of(graph)),
    ]
}

struct Petgraph(UnGraph<(), u64>);

impl Petgraph {
    fn of(graph: &Graph) -> Self {
        let mut own = UnGraph::with_capacity(graph.len(), graph.links());
        for _ in graph.vertices() {
            own.add_node(());
        }
        for (a, b, cost) in links(graph) {
            own.add_edge(
                NodeIndex::new(a.0 as usize),
                NodeIndex::new(b.0 as usize),
                cost.0,
            );
        }
        Self(own)
    }
}

impl Rival for Petgraph {
    fn name(&self) -> &'static str {
        "petgraph"
    }

    fn distances(&self, root: u32) -> Vec<Cost> {
        let root = NodeIndex::new(root as usize);
        let found = petgraph::algo::dijkstra(&self.0, root, None, |edge| *edge.weight());
        let mut distances = vec![Cost::INFINITE; self.0.node_count()];
        for (node, distance) in found {
            distances[node.index()] = Cost(distance);
        }
        distances
    }
}

struct BinaryHeapDijkstra(Vec<Vec<(u32, u64)>>);

impl BinaryHeapDijkstra {
    fn of(graph: &Graph) -> Self {
        let mut adjacent = vec![Vec::new(); graph.len()];
        for (a, b, cost) in links(graph) {
            adjacent[a.0 as usize].push((b.0, cost.0));
            adjacent[b.0 as usize].push((a.0, cost.0));
        }
        Self(adjacent)
    }
}

impl Rival for BinaryHeapDijkstra {
    fn name(&self) -> &'static str {
        "binary_heap"
    }

    fn distances(&self, root: u32) -> Vec<Cost> {
        let mut distances = vec![Cost::INFINITE; self.0.len()];
        distances[root as usize] = Cost(0);
        let mut heap = BinaryHeap::from([Reverse((0, root))]);
        while let Some(Reverse((distance, at))) = heap.pop() {
            if distance > distances[at as usize].0 {
                continue;
            }
            for (to, cost) in &self.0[at as usize] {
                let candidate = Cost(distance + cost);
                if candidate < distances[*to as usize] {
                    distances[*to as usize] = candidate;
                    heap.push(Reverse((candidate.0, *to)));
                }
            }
        }
        distances
    }
}

fn links(graph: &Graph) -> impl Iterator<Item = (Vertex, Vertex, Cost)> + '_ {
    graph.vertices().flat_map(|a| {
        let edges = graph.edges(a).iter().filter(move |edge| edge.to > a);
        edges.map(move |edge| (a, edge.to, edge.cost))
    })
}
