//! Where packets for one target may go from every node: the choices of others, as far as this node can know them.
//!
//! A node sends packets to any neighbour that is nearer to the target and that `multipath::choices` allows: which of them
//! depends on what it chose before and on the flow. A detour is safe only if none of these choices leads it back into the hole,
//! so all of them are followed.

use std::fmt::Debug;
use std::sync::Arc;

use crate::graph::{Graph, Vertex};
use crate::multipath::{self, Candidate};
use crate::spf::Tree;

/// Who follows the choices of others. An agent does so itself; a simulation of many nodes, each of which would follow the same
/// choices once more, may remember them.
pub trait Courses: Debug + Send + Sync {
    /// A number by which this graph is known from others.
    fn mark(&self, graph: &Graph) -> u64;

    /// The course to `target` in the graph with this mark.
    fn course(&self, mark: u64, graph: &Graph, target: Vertex) -> Arc<Course>;
}

/// Follows every choice anew.
#[derive(Debug, Clone, Copy, Default)]
pub struct EachAnew;

impl Courses for EachAnew {
    fn mark(&self, _graph: &Graph) -> u64 {
        0
    }

    fn course(&self, _mark: u64, graph: &Graph, target: Vertex) -> Arc<Course> {
        Arc::new(Course::of(graph, target))
    }
}

/// Every choice of every node for packets to one target, the network being whole.
#[derive(Debug)]
pub struct Course {
    tree: Arc<Tree>,
    /// The nodes that reach the target, nearest first.
    order: Vec<Vertex>,
    /// Where the choices of each node begin in `choices`.
    first: Vec<u32>,
    choices: Vec<Vertex>,
}

/// From which nodes packets reach the target whatever is chosen, without passing this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clear(Vec<u8>);

/// What packets from a node are clear of; one byte holds all of it.
const OF_LINK: u8 = 1;
const OF_NODE: u8 = 2;
const OF_UNNOTICED: u8 = 4;
const OF_ALL: u8 = OF_LINK | OF_NODE | OF_UNNOTICED;

impl Clear {
    /// Whether they do so while the link to the next hop is gone.
    pub fn of_link(&self, from: Vertex) -> bool {
        self.of(from) & OF_LINK != 0
    }

    /// Whether they do so even if the next hop itself is gone.
    pub fn of_node(&self, from: Vertex) -> bool {
        self.of(from) & OF_NODE != 0
    }

    /// Whether they do so even while the other neighbours of the next hop have not noticed that it is gone.
    pub fn of_unnoticed(&self, from: Vertex) -> bool {
        self.of(from) & OF_UNNOTICED != 0
    }

    fn of(&self, from: Vertex) -> u8 {
        self.0[from.0 as usize]
    }

    /// What packets are clear of that may go on to any of `choices`. A neighbour of a broken node that has other choices takes
    /// them; one that has none would need a detour of its own.
    fn behind(&self, choices: &[Vertex], failed: Vertex) -> u8 {
        let common = |all: u8, next: &Vertex| all & self.of(*next);
        let of_all = choices.iter().fold(OF_ALL, common);
        let mut others = choices.iter().filter(|next| **next != failed).peekable();
        let of_others = match others.peek() {
            Some(_) => others.fold(OF_NODE, common),
            None => 0,
        };
        of_all & !OF_NODE | of_others
    }
}

impl Course {
    /// Computes the choices of all nodes for packets to `target`.
    pub fn of(graph: &Graph, target: Vertex) -> Self {
        let tree = Tree::of(graph, target);
        let mut order: Vec<_> = graph
            .vertices()
            .filter(|vertex| tree.cost(*vertex).is_finite())
            .collect();
        order.sort_unstable_by_key(|vertex| (tree.cost(*vertex), *vertex));
        let mut course = Self {
            tree: Arc::new(tree),
            order,
            first: vec![0],
            choices: Vec::new(),
        };
        let mut nearer = Vec::new();
        for vertex in graph.vertices() {
            course.choose(graph, vertex, &mut nearer);
            course.first.push(course.choices.len() as u32);
        }
        course
    }

    fn choose(&mut self, graph: &Graph, vertex: Vertex, nearer: &mut Vec<Candidate>) {
        let (target, own) = (self.tree.root(), self.tree.cost(vertex));
        nearer.clear();
        nearer.extend(graph.edges(vertex).iter().filter_map(|edge| {
            let downstream = self.tree.cost(edge.to) < own;
            let candidate = Candidate::over(graph, edge, &self.tree, target, downstream);
            (downstream && candidate.cost.is_finite()).then_some(candidate)
        }));
        let choices = multipath::choices(nearer, target);
        self.choices
            .extend(choices.map(|candidate| candidate.neighbour));
    }

    /// Shortest paths from the target; who needs nothing else may keep them alone.
    pub fn tree(&self) -> &Arc<Tree> {
        &self.tree
    }

    /// Where `vertex` may send packets for the target.
    pub fn choices(&self, vertex: Vertex) -> &[Vertex] {
        &self.choices[self.room(vertex)]
    }

    fn room(&self, vertex: Vertex) -> std::ops::Range<usize> {
        let at = vertex.0 as usize;
        self.first[at] as usize..self.first[at + 1] as usize
    }

    /// From where packets reach the target without passing `node`, whose next hop `failed` is behind a broken link, or broken.
    pub fn clear(&self, node: Vertex, failed: Vertex) -> Clear {
        let mut clear = Clear(vec![0; self.first.len() - 1]);
        for vertex in self.order.iter().filter(|vertex| **vertex != node) {
            let beyond = match *vertex == self.tree.root() {
                true => OF_ALL,
                false => clear.behind(self.choices(*vertex), failed),
            };
            let possible = match *vertex == failed {
                true => OF_LINK,
                false => OF_ALL,
            };
            clear.0[vertex.0 as usize] = beyond & possible;
        }
        clear
    }
}
