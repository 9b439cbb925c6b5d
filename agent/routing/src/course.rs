//! Where packets for one target may go from every node: the choices of others, as far as this node can know them.
//!
//! A node sends packets to any neighbour that is nearer to the target and that `multipath::choices` allows: which of them
//! depends on what it chose before and on the flow. A detour is safe only if none of these choices leads it back into the hole,
//! so all of them are followed.

use crate::graph::{Graph, Vertex};
use crate::multipath::{self, Candidate};
use crate::spf::Tree;

/// Every choice of every node for packets to one target, the network being whole.
#[derive(Debug)]
pub struct Course {
    tree: Tree,
    /// The nodes that reach the target, nearest first.
    order: Vec<Vertex>,
    /// Where the choices of each node begin in `choices`.
    first: Vec<u32>,
    choices: Vec<Vertex>,
}

/// From which nodes packets reach the target whatever is chosen, without passing this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clear {
    link: Vec<bool>,
    node: Vec<bool>,
    unnoticed: Vec<bool>,
}

impl Clear {
    /// Whether they do so while the link to the next hop is gone.
    pub fn of_link(&self, from: Vertex) -> bool {
        self.link[from.0 as usize]
    }

    /// Whether they do so even if the next hop itself is gone.
    pub fn of_node(&self, from: Vertex) -> bool {
        self.node[from.0 as usize]
    }

    /// Whether they do so even while the other neighbours of the next hop have not noticed that it is gone.
    pub fn of_unnoticed(&self, from: Vertex) -> bool {
        self.unnoticed[from.0 as usize]
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
            tree,
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

    /// Shortest paths from the target.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Shortest paths from the target, when nothing else is of use.
    pub fn into_tree(self) -> Tree {
        self.tree
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
    ///
    /// A neighbour of a broken node that has other choices takes them; one that has none would need a detour of its own.
    pub fn clear(&self, node: Vertex, failed: Vertex) -> Clear {
        let nobody = vec![false; self.first.len() - 1];
        let mut clear = Clear {
            link: nobody.clone(),
            node: nobody.clone(),
            unnoticed: nobody,
        };
        for vertex in self.order.iter().filter(|vertex| **vertex != node) {
            let at = vertex.0 as usize;
            if *vertex == self.tree.root() {
                clear.link[at] = true;
                clear.node[at] = *vertex != failed;
                clear.unnoticed[at] = *vertex != failed;
                continue;
            }
            let choices = self.choices(*vertex);
            clear.link[at] = choices.iter().all(|next| clear.of_link(*next));
            let of_node =
                *vertex != failed && all_but(failed, choices.iter(), |next| clear.of_node(*next));
            clear.node[at] = of_node;
            clear.unnoticed[at] =
                *vertex != failed && choices.iter().all(|next| clear.of_unnoticed(*next));
        }
        clear
    }
}

/// Whether there are others than `failed`, and all of them are fine.
fn all_but<'a>(
    failed: Vertex,
    choices: impl Iterator<Item = &'a Vertex>,
    is_fine: impl Fn(&Vertex) -> bool,
) -> bool {
    let mut left = choices.filter(|next| **next != failed).peekable();
    left.peek().is_some() && left.all(is_fine)
}
