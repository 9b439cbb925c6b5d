//! The network as shortest paths see it: nodes with a price for passing through, links with one cost.
//!
//! A graph is built from the link-state database and never changed: the next change makes the next graph.
//! Both directions of a link have the same cost (the worse claim of its two ends), so the distance from one
//! node to another is the distance back. Knows nothing of records, time or neighbours' messages.

use std::collections::BTreeMap;

use wattle_model::{Cost, NodeId};

/// A node's position in one [`Graph`]; means nothing in another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vertex(pub u32);

/// One direction of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edge {
    /// Where it leads.
    pub to: Vertex,
    /// Its price.
    pub cost: Cost,
}

/// Nodes in the order of their ids, links in the order of their ends.
#[derive(Debug, Clone, Default)]
pub struct Graph {
    nodes: Vec<NodeId>,
    transit: Vec<Cost>,
    first: Vec<u32>,
    edges: Vec<Edge>,
}

impl Graph {
    /// A graph of nodes with their transit price and of undirected links; links with an unknown end are left out.
    pub fn new(nodes: &BTreeMap<NodeId, Cost>, links: &BTreeMap<(NodeId, NodeId), Cost>) -> Self {
        let names: Vec<NodeId> = nodes.keys().copied().collect();
        let position = |node: &NodeId| names.binary_search(node).ok();
        let mut adjacent = vec![Vec::new(); names.len()];
        for ((a, b), cost) in links {
            if let (Some(a), Some(b)) = (position(a), position(b))
                && a != b
                && cost.is_finite()
            {
                adjacent[a].push(Edge {
                    to: Vertex(b as u32),
                    cost: *cost,
                });
                adjacent[b].push(Edge {
                    to: Vertex(a as u32),
                    cost: *cost,
                });
            }
        }
        let mut graph = Self {
            transit: nodes.values().copied().collect(),
            ..Self::default()
        };
        for mut edges in adjacent {
            graph.first.push(graph.edges.len() as u32);
            edges.sort_by_key(|edge| (edge.to, edge.cost));
            graph.edges.extend(edges);
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
        &self.edges[self.first[at] as usize..self.first[at + 1] as usize]
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
