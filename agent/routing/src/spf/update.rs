//! Shortest paths brought up to date after few changes (Ramalingam and Reps 1996): only what a change touches is computed.
//!
//! What got dearer on the tree cuts off the subtree behind it; those nodes are attached anew at their best neighbour, and
//! what is cheaper than before spreads from there in the order of cost. The outcome is the tree of a full run, ties included.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use wattle_model::Cost;

use super::{Reached, Tree};
use crate::graph::{Change, Graph, Vertex};

/// A full run costs less than an update that cuts off more than this part of the nodes.
const MOST: usize = 8;

impl Tree {
    /// Makes this the tree of `graph`, which differs from the one that it was computed on by `changes` only.
    pub fn update(&mut self, graph: &Graph, changes: &[Change]) {
        let Some(lost) = self.cut_off(graph, changes) else {
            *self = Self::of(graph, self.root);
            return;
        };
        let mut queue = BinaryHeap::new();
        for vertex in lost {
            self.attach(graph, vertex);
            let reached = self.reached[vertex.0 as usize];
            if reached.cost.is_finite() {
                queue.push(Reverse((reached.cost, vertex)));
            }
        }
        for change in changes {
            match *change {
                Change::Link {
                    a,
                    b,
                    before,
                    after,
                } if after < before => {
                    self.relax(graph, a, b, after, &mut queue);
                    self.relax(graph, b, a, after, &mut queue);
                }
                Change::Transit { at, before, after } if after < before => {
                    self.relax_all(graph, at, &mut queue);
                }
                Change::Link { .. } | Change::Transit { .. } => {}
            }
        }
        while let Some(Reverse((cost, vertex))) = queue.pop() {
            if self.cost(vertex) == cost {
                self.relax_all(graph, vertex, &mut queue);
            }
        }
    }

    /// Forgets how those are reached whose way got dearer; `None` if they are many.
    fn cut_off(&mut self, graph: &Graph, changes: &[Change]) -> Option<Vec<Vertex>> {
        let mut lost = Vec::new();
        for change in changes {
            match *change {
                Change::Link {
                    a,
                    b,
                    before,
                    after,
                } if after > before => {
                    self.forget_child(a, b, &mut lost);
                    self.forget_child(b, a, &mut lost);
                }
                Change::Transit { at, before, after } if after > before => {
                    self.forget_children(graph, at, &mut lost);
                }
                Change::Link { .. } | Change::Transit { .. } => {}
            }
        }
        let mut next = 0;
        while let Some(vertex) = lost.get(next).copied() {
            next += 1;
            self.forget_children(graph, vertex, &mut lost);
            if lost.len() > graph.len() / MOST + 1 {
                return None;
            }
        }
        Some(lost)
    }

    /// Links that are gone lead to no child here, but they are changes themselves.
    fn forget_children(&mut self, graph: &Graph, parent: Vertex, lost: &mut Vec<Vertex>) {
        for edge in graph.edges(parent) {
            self.forget_child(parent, edge.to, lost);
        }
    }

    fn forget_child(&mut self, parent: Vertex, child: Vertex, lost: &mut Vec<Vertex>) {
        let reached = &mut self.reached[child.0 as usize];
        if reached.parent == parent && child != self.root && reached.cost.is_finite() {
            *reached = Reached::never(self.root);
            lost.push(child);
        }
    }

    /// Reaches a vertex from the best of its neighbours that are reached.
    fn attach(&mut self, graph: &Graph, vertex: Vertex) {
        for edge in graph.edges(vertex) {
            let candidate = self.over(graph, edge.to, edge.cost);
            let reached = &mut self.reached[vertex.0 as usize];
            if candidate.cost.is_finite() && candidate < *reached {
                *reached = candidate;
            }
        }
    }

    fn relax_all(
        &mut self,
        graph: &Graph,
        from: Vertex,
        queue: &mut BinaryHeap<Reverse<(Cost, Vertex)>>,
    ) {
        for edge in graph.edges(from) {
            self.relax(graph, from, edge.to, edge.cost, queue);
        }
    }

    fn relax(
        &mut self,
        graph: &Graph,
        from: Vertex,
        to: Vertex,
        cost: Cost,
        queue: &mut BinaryHeap<Reverse<(Cost, Vertex)>>,
    ) {
        let candidate = self.over(graph, from, cost);
        let reached = &mut self.reached[to.0 as usize];
        if !candidate.cost.is_finite() || candidate >= *reached {
            return;
        }
        // Another parent at the same price changes nothing for those behind.
        let spreads = (candidate.cost, candidate.hops) < (reached.cost, reached.hops);
        *reached = candidate;
        if spreads {
            queue.push(Reverse((candidate.cost, to)));
        }
    }

    /// How a neighbour of `from` is reached over a link of this cost.
    fn over(&self, graph: &Graph, from: Vertex, cost: Cost) -> Reached {
        let reached = self.reached[from.0 as usize];
        let through = self.through(graph, from);
        Reached {
            cost: reached.cost.plus(through).plus(cost),
            hops: reached.hops.saturating_add(1),
            parent: from,
        }
    }
}
