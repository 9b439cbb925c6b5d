//! Shortest paths from one root (Dijkstra over a binary heap).
//!
//! The price of a path is the sum of its links and of the transit price of every node *between* its ends.
//! Ties go to fewer hops, then to the smaller node id, so every node of the network breaks them alike.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use wattle_model::Cost;

use crate::graph::{Graph, Vertex};

/// Shortest paths from [`Tree::root`] to every node.
#[derive(Debug, Clone)]
pub struct Tree {
    root: Vertex,
    reached: Vec<Reached>,
}

/// How one node is reached. The order of the fields is the order of preference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Reached {
    cost: Cost,
    hops: u32,
    parent: Vertex,
}

impl Tree {
    /// Computes the tree.
    pub fn of(graph: &Graph, root: Vertex) -> Self {
        let unreached = Reached {
            cost: Cost::INFINITE,
            hops: u32::MAX,
            parent: root,
        };
        let mut tree = Self {
            root,
            reached: vec![unreached; graph.len()],
        };
        tree.reached[root.0 as usize] = Reached {
            cost: Cost(0),
            hops: 0,
            parent: root,
        };
        let mut heap = BinaryHeap::from([Reverse((Cost(0), 0_u32, root))]);
        while let Some(Reverse((cost, hops, vertex))) = heap.pop() {
            let settled = tree.reached[vertex.0 as usize];
            if (settled.cost, settled.hops) != (cost, hops) {
                continue;
            }
            let through = if vertex == root {
                Cost(0)
            } else {
                graph.transit(vertex)
            };
            for edge in graph.edges(vertex) {
                let candidate = Reached {
                    cost: cost.plus(through).plus(edge.cost),
                    hops: hops + 1,
                    parent: vertex,
                };
                let reached = &mut tree.reached[edge.to.0 as usize];
                if candidate.cost.is_finite() && candidate < *reached {
                    *reached = candidate;
                    heap.push(Reverse((candidate.cost, candidate.hops, edge.to)));
                }
            }
        }
        tree
    }

    /// Where the paths begin.
    pub fn root(&self) -> Vertex {
        self.root
    }

    /// The price of the best path, infinite if there is none.
    pub fn cost(&self, to: Vertex) -> Cost {
        self.reached[to.0 as usize].cost
    }

    /// The links on the best path.
    pub fn hops(&self, to: Vertex) -> u32 {
        self.reached[to.0 as usize].hops
    }

    /// The best path, from the root to `to`, both included; `None` if there is none.
    pub fn path(&self, to: Vertex) -> Option<Vec<Vertex>> {
        if !self.cost(to).is_finite() {
            return None;
        }
        let mut path = vec![to];
        let mut at = to;
        while at != self.root {
            at = self.reached[at.0 as usize].parent;
            path.push(at);
        }
        path.reverse();
        Some(path)
    }
}
