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
    tree: Tree,
    /// Where the choices of each node begin in `choices`.
    first: Vec<u32>,
    choices: Vec<Vertex>,
}

impl Course {
    /// Computes the choices of all nodes for packets to `target`.
    pub fn of(graph: &Graph, target: Vertex) -> Self {
        let mut course = Self {
            tree: Tree::of(graph, target),
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

    /// Where `vertex` may send packets for the target.
    pub fn choices(&self, vertex: Vertex) -> &[Vertex] {
        &self.choices[self.room(vertex)]
    }

    fn room(&self, vertex: Vertex) -> std::ops::Range<usize> {
        let at = vertex.0 as usize;
        self.first[at] as usize..self.first[at + 1] as usize
    }
}

/// From which nodes packets reach the target whatever is chosen, without passing a node whose next hop failed; found out
/// for those that are asked for, and for who is on their way.
#[derive(Debug)]
pub struct Clear {
    course: Arc<Course>,
    failed: Vertex,
    /// By vertex.
    known: Vec<u8>,
    /// Those being followed, each with how many of its choices were looked at; empty in between.
    way: Vec<(Vertex, usize)>,
    followed: usize,
}

/// What packets from a node are clear of; one byte holds all of it.
const OF_LINK: u8 = 1;
const OF_NODE: u8 = 2;
const OF_UNNOTICED: u8 = 4;
const OF_ALL: u8 = OF_LINK | OF_NODE | OF_UNNOTICED;
/// Whether the rest is known.
const KNOWN: u8 = 8;

impl Clear {
    /// From where packets follow `course` without passing `node`, whose next hop `failed` is behind a broken link, or broken.
    pub fn on(course: Arc<Course>, node: Vertex, failed: Vertex) -> Self {
        let mut known = vec![0; course.first.len() - 1];
        known[node.0 as usize] = KNOWN;
        Self {
            course,
            failed,
            known,
            way: Vec::new(),
            followed: 0,
        }
    }

    /// The choices that are followed.
    pub fn course(&self) -> &Course {
        &self.course
    }

    /// How many nodes were looked at so far.
    pub fn followed(&self) -> usize {
        self.followed
    }

    /// Whether they do so while the link to the next hop is gone.
    pub fn of_link(&mut self, from: Vertex) -> bool {
        self.of(from) & OF_LINK != 0
    }

    /// Whether they do so even if the next hop itself is gone.
    pub fn of_node(&mut self, from: Vertex) -> bool {
        self.of(from) & OF_NODE != 0
    }

    /// Whether they do so even while the other neighbours of the next hop have not noticed that it is gone.
    pub fn of_unnoticed(&mut self, from: Vertex) -> bool {
        self.of(from) & OF_UNNOTICED != 0
    }

    fn of(&mut self, from: Vertex) -> u8 {
        let at = from.0 as usize;
        if self.known[at] & KNOWN == 0 {
            self.follow(from);
        }
        self.known[at]
    }

    /// Finds out about a node and all that packets from it may pass, those behind it first: each choice is nearer to the
    /// target, so there is an end.
    fn follow(&mut self, from: Vertex) {
        let course = Arc::clone(&self.course);
        let mut way = std::mem::take(&mut self.way);
        way.push((from, 0));
        while let Some((vertex, looked)) = way.last_mut() {
            let choices = course.choices(*vertex);
            let is_unknown = |choice: &Vertex| self.known[choice.0 as usize] & KNOWN == 0;
            if let Some(next) = choices[*looked..].iter().position(is_unknown) {
                *looked += next + 1;
                let unknown = choices[*looked - 1];
                way.push((unknown, 0));
                continue;
            }
            let beyond = match *vertex == course.tree.root() {
                true => OF_ALL,
                false => self.behind(choices),
            };
            let possible = match *vertex == self.failed {
                true => OF_LINK,
                false => OF_ALL,
            };
            self.known[vertex.0 as usize] = beyond & possible | KNOWN;
            self.followed += 1;
            way.pop();
        }
        self.way = way;
    }

    /// What packets are clear of that may go on to any of `choices`. A neighbour of a broken node that has other choices takes
    /// them; one that has none would need a detour of its own.
    fn behind(&self, choices: &[Vertex]) -> u8 {
        if choices.is_empty() {
            return 0;
        }
        let common = |all: u8, next: &Vertex| all & self.known[next.0 as usize];
        let of_all = choices.iter().fold(OF_ALL, common);
        let mut others = choices
            .iter()
            .filter(|next| **next != self.failed)
            .peekable();
        let of_others = match others.peek() {
            Some(_) => others.fold(OF_NODE, common),
            None => 0,
        };
        of_all & !OF_NODE | of_others
    }
}
