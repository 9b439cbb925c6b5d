//! Shortest paths from one root (Dijkstra over a radix heap), all at once or brought up to date.
//!
//! The price of a path is the sum of its links and of the transit price of every node *between* its ends.
//! Ties go to fewer hops, then to the smaller node id, so every node of the network breaks them alike.

mod queue;
mod update;

use wattle_model::Cost;

use self::queue::Queue;
use crate::graph::{Graph, Vertex};

/// Shortest paths from [`Tree::root`] to every node.
#[derive(Debug, Clone, PartialEq, Eq)]
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

impl Reached {
    fn never(root: Vertex) -> Self {
        Self {
            cost: Cost::INFINITE,
            hops: u32::MAX,
            parent: root,
        }
    }
}

impl Tree {
    /// Computes the tree.
    pub fn of(graph: &Graph, root: Vertex) -> Self {
        let mut tree = Self {
            root,
            reached: vec![Reached::never(root); graph.len()],
        };
        tree.reached[root.0 as usize] = Reached {
            cost: Cost(0),
            hops: 0,
            parent: root,
        };
        let mut queue = Queue::new();
        queue.push(Cost(0), root);
        while let Some((cost, vertex)) = queue.pop() {
            let settled = tree.reached[vertex.0 as usize];
            if settled.cost != cost {
                continue;
            }
            let onward = cost.plus(tree.through(graph, vertex));
            for edge in graph.edges(vertex) {
                let candidate = Reached {
                    cost: onward.plus(edge.cost),
                    hops: settled.hops + 1,
                    parent: vertex,
                };
                let reached = &mut tree.reached[edge.to.0 as usize];
                if candidate.cost > reached.cost || !candidate.cost.is_finite() {
                    continue;
                }
                // No link is free, so whoever offers this price to a vertex does so before the vertex is settled.
                if candidate.cost < reached.cost {
                    queue.push(candidate.cost, edge.to);
                }
                *reached = candidate.min(*reached);
            }
        }
        tree
    }

    /// What passing through a vertex adds to a path from the root.
    fn through(&self, graph: &Graph, vertex: Vertex) -> Cost {
        match vertex == self.root {
            true => Cost(0),
            false => graph.transit(vertex),
        }
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

    /// Marks, by vertex, what is reached at another price or over another number of links than in the tree `before`.
    pub(crate) fn touched_since(&self, before: &Self, touched: &mut Vec<bool>) {
        touched.resize(self.reached.len(), false);
        let pairs = self.reached.iter().zip(&before.reached);
        for (touched, (after, before)) in touched.iter_mut().zip(pairs) {
            *touched |= (after.cost, after.hops) != (before.cost, before.hops);
        }
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
