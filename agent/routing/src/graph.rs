//! The network as shortest paths see it: nodes with a price for passing through, links with one cost.
//!
//! A graph is built from the link-state database. What differs between two graphs of the same nodes is a list of
//! [`Change`]s, from which shortest paths are brought up to date ([`crate::spf::Tree::update`]).
//! Both directions of a link have the same cost (the worse claim of its two ends), so the distance from one
//! node to another is the distance back. Knows nothing of records, time or neighbours' messages.

use std::collections::{BTreeMap, BTreeSet};

use wattle_model::{Cost, NodeId, mix};

/// A node's position in one [`Graph`]; means nothing in another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vertex(pub u32);

/// One direction of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Edge {
    /// Where it leads.
    pub to: Vertex,
    /// Its price.
    pub cost: Cost,
}

/// One difference between a graph and the one after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// A link between two nodes came, went, or has another price; infinite is no link.
    Link {
        /// One end.
        a: Vertex,
        /// The other.
        b: Vertex,
        /// Its price in the graph before.
        before: Cost,
        /// Its price in the graph after.
        after: Cost,
    },
    /// Passing through a node has another price.
    Transit {
        /// The node.
        at: Vertex,
        /// The price in the graph before.
        before: Cost,
        /// The price in the graph after.
        after: Cost,
    },
}

/// Nodes in the order of their ids, links in the order of their ends.
#[derive(Debug, Clone, Default)]
pub struct Graph {
    nodes: Vec<NodeId>,
    transit: Vec<Cost>,
    /// Where each node's links begin in `edges`, and where the last one's room ends.
    first: Vec<u32>,
    /// How many links each node has; the rest of its room is spare.
    degree: Vec<u32>,
    edges: Vec<Edge>,
}

impl Graph {
    /// A graph of nodes with their transit price and of undirected links; links with an unknown end are left out, and
    /// a link that is free costs one: else two ends could swap packets without coming nearer.
    pub fn new(nodes: &BTreeMap<NodeId, Cost>, links: &BTreeMap<(NodeId, NodeId), Cost>) -> Self {
        Self::of(nodes, links.iter().map(|(ends, cost)| (*ends, *cost)))
    }

    /// The same; of several links between two nodes the cheapest counts.
    pub fn of(
        nodes: &BTreeMap<NodeId, Cost>,
        links: impl IntoIterator<Item = ((NodeId, NodeId), Cost)>,
    ) -> Self {
        let names: Vec<NodeId> = nodes.keys().copied().collect();
        let position = |node: &NodeId| names.binary_search(node).ok();
        let known = links.into_iter().filter_map(|((a, b), cost)| {
            let ends = (position(&a)?, position(&b)?);
            (a != b && cost.is_finite()).then_some((ends, cost.max(Cost(1))))
        });
        let links: Vec<((usize, usize), Cost)> = known.collect();
        let mut begins = vec![0; names.len() + 1];
        for ((a, b), _) in &links {
            begins[a + 1] += 1;
            begins[b + 1] += 1;
        }
        for at in 1..begins.len() {
            begins[at] += begins[at - 1];
        }
        let mut next = begins.clone();
        let nowhere = Edge {
            to: Vertex(0),
            cost: Cost::INFINITE,
        };
        let mut adjacent = vec![nowhere; 2 * links.len()];
        for ((a, b), cost) in links {
            for (from, to) in [(a, b), (b, a)] {
                let to = Vertex(to as u32);
                adjacent[next[from]] = Edge { to, cost };
                next[from] += 1;
            }
        }
        let mut graph = Self {
            transit: nodes.values().copied().collect(),
            ..Self::default()
        };
        for room in begins.windows(2) {
            let edges = &mut adjacent[room[0]..room[1]];
            edges.sort_unstable_by_key(|edge| (edge.to, edge.cost));
            let first = graph.edges.len();
            graph.first.push(first as u32);
            for edge in edges {
                if graph.edges[first..]
                    .last()
                    .is_none_or(|last| last.to != edge.to)
                {
                    graph.edges.push(*edge);
                }
            }
            graph.degree.push((graph.edges.len() - first) as u32);
        }
        graph.first.push(graph.edges.len() as u32);
        graph.nodes = names;
        graph
    }

    /// The same graph, but nobody passes through `vertex`.
    #[must_use]
    pub fn closed_at(&self, vertex: Vertex) -> Self {
        let mut graph = self.clone();
        graph.transit[vertex.0 as usize] = Cost::INFINITE;
        graph
    }

    /// Changes the price of a link, makes it, or with an infinite price takes it away; `None` if it is that already.
    ///
    /// # Panics
    /// If the ends are one node.
    pub fn set_cost(&mut self, a: Vertex, b: Vertex, cost: Cost) -> Option<Change> {
        assert_ne!(a, b, "a link has two ends");
        let before = self.cost(a, b);
        let after = cost.max(Cost(1));
        if before == after {
            return None;
        }
        self.set_direction(a, b, after);
        self.set_direction(b, a, after);
        Some(Change::Link {
            a,
            b,
            before,
            after,
        })
    }

    fn set_direction(&mut self, from: Vertex, to: Vertex, cost: Cost) {
        let node = from.0 as usize;
        let first = self.first[node] as usize;
        let end = first + self.degree[node] as usize;
        let at = first + self.edges[first..end].partition_point(|edge| edge.to < to);
        let exists = at < end && self.edges[at].to == to;
        match (exists, cost.is_finite()) {
            (true, true) => self.edges[at].cost = cost,
            (true, false) => {
                self.edges[at..end].rotate_left(1);
                self.degree[node] -= 1;
            }
            (false, true) => {
                if end == self.first[node + 1] as usize {
                    self.edges.insert(end, Edge { to, cost });
                    self.first[node + 1..]
                        .iter_mut()
                        .for_each(|first| *first += 1);
                } else {
                    self.edges[end] = Edge { to, cost };
                }
                self.edges[at..=end].rotate_right(1);
                self.degree[node] += 1;
            }
            (false, false) => {}
        }
    }

    /// Changes the price of passing through a node; `None` if it is that already.
    pub fn set_transit(&mut self, at: Vertex, cost: Cost) -> Option<Change> {
        let before = std::mem::replace(&mut self.transit[at.0 as usize], cost);
        (before != cost).then_some(Change::Transit {
            at,
            before,
            after: cost,
        })
    }

    /// What differs from the graph `before`; `None` if its nodes are others, or if more than `most` things differ.
    pub fn changes_since(&self, before: &Self, most: usize) -> Option<Vec<Change>> {
        if self.nodes != before.nodes {
            return None;
        }
        let mut changes = Vec::new();
        for vertex in self.vertices() {
            let (old, new) = (before.transit(vertex), self.transit(vertex));
            if old != new {
                changes.push(Change::Transit {
                    at: vertex,
                    before: old,
                    after: new,
                });
            }
            if before.edges(vertex) != self.edges(vertex) {
                self.links_since(before, vertex, &mut changes);
            }
            if changes.len() > most {
                return None;
            }
        }
        Some(changes)
    }

    /// What differs in the links between a vertex and those after it.
    fn links_since(&self, before: &Self, a: Vertex, changes: &mut Vec<Change>) {
        let (old, new) = (before.edges(a), self.edges(a));
        let ends: BTreeSet<Vertex> = old.iter().chain(new).map(|edge| edge.to).collect();
        for b in ends.into_iter().filter(|b| *b > a) {
            let (before, after) = (before.cost(a, b), self.cost(a, b));
            if before != after {
                changes.push(Change::Link {
                    a,
                    b,
                    before,
                    after,
                });
            }
        }
    }

    /// Whether its nodes are these, in the order of their ids.
    pub(crate) fn is_of<'a>(&self, nodes: impl Iterator<Item = &'a NodeId>) -> bool {
        self.nodes.iter().eq(nodes)
    }

    /// A number that two graphs share when they are the same, and else almost never.
    pub fn fingerprint(&self) -> u64 {
        let all = self.vertices().flat_map(|vertex| {
            let edges = self.edges(vertex);
            let own = [
                self.node(vertex).0,
                self.transit(vertex).0,
                edges.len() as u64,
            ];
            let edges = edges
                .iter()
                .flat_map(|edge| [u64::from(edge.to.0), edge.cost.0]);
            own.into_iter().chain(edges)
        });
        all.fold(0, |all, one| mix(all ^ one))
    }

    /// How many nodes there are.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there is no node.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// All vertices, in the order of the nodes' ids.
    pub fn vertices(&self) -> impl Iterator<Item = Vertex> + use<> {
        (0..self.nodes.len() as u32).map(Vertex)
    }

    /// The vertex of a node.
    pub fn vertex(&self, node: NodeId) -> Option<Vertex> {
        self.nodes
            .binary_search(&node)
            .ok()
            .map(|at| Vertex(at as u32))
    }

    /// The node at a vertex.
    pub fn node(&self, vertex: Vertex) -> NodeId {
        self.nodes[vertex.0 as usize]
    }

    /// What a path pays for passing through, infinite for a node that carries no transit.
    pub fn transit(&self, vertex: Vertex) -> Cost {
        self.transit[vertex.0 as usize]
    }

    /// The links of a node.
    pub fn edges(&self, vertex: Vertex) -> &[Edge] {
        let at = vertex.0 as usize;
        let first = self.first[at] as usize;
        &self.edges[first..first + self.degree[at] as usize]
    }

    /// How many links there are.
    pub fn links(&self) -> usize {
        self.degree
            .iter()
            .map(|degree| *degree as usize)
            .sum::<usize>()
            / 2
    }

    /// The cost of the link between two neighbours, infinite if there is none.
    pub fn cost(&self, from: Vertex, to: Vertex) -> Cost {
        let edges = self.edges(from);
        let at = edges.partition_point(|edge| edge.to < to);
        edges
            .get(at)
            .filter(|edge| edge.to == to)
            .map_or(Cost::INFINITE, |edge| edge.cost)
    }
}
