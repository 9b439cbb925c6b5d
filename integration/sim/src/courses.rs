//! What the fleet knows of the choices of its nodes: each course is followed once, by whoever asks for it first, and all who see
//! the same network take it.
//!
//! A thousand nodes would else follow the same thousand courses a thousand times. Nodes that see another network are given
//! another course: what they decide, and when, is what it would be without each other.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use wattle_routing::course::{self, Course};
use wattle_routing::graph::{Graph, Vertex};

/// Vertices of all courses that are kept: a hundred megabytes.
const MOST_KEPT: usize = 2_500_000;

/// Courses, shared by all nodes of a fleet.
#[derive(Debug, Clone, Default)]
pub(crate) struct Courses(Arc<Mutex<HashMap<Case, Arc<Course>>>>);

/// A network by its mark, and a target in it.
type Case = (u64, Vertex);

impl course::Courses for Courses {
    fn mark(&self, graph: &Graph) -> u64 {
        graph.fingerprint()
    }

    fn course(&self, mark: u64, graph: &Graph, target: Vertex) -> Arc<Course> {
        let known = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let case = (mark, target);
        if let Some(course) = known().get(&case) {
            return Arc::clone(course);
        }
        // Nobody else waits meanwhile.
        let course = Arc::new(Course::of(graph, target));
        let mut known = known();
        if known.len() * graph.len() > MOST_KEPT {
            known.clear();
        }
        Arc::clone(known.entry(case).or_insert(course))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use wattle_model::{Cost, NodeId};
    use wattle_routing::course::Courses as _;

    use super::*;

    #[test]
    fn who_sees_the_same_network_shares_a_course_and_others_get_their_own() {
        let courses = Courses::default();
        let (dear, cheap) = (ring(9), ring(1));
        let first = asked(&courses.clone(), &dear);
        assert!(Arc::ptr_eq(&first, &asked(&courses, &ring(9))));
        let other = asked(&courses, &cheap);
        assert_ne!(first.choices(Vertex(2)), other.choices(Vertex(2)));
        assert_eq!(
            other.choices(Vertex(2)),
            Course::of(&cheap, Vertex(0)).choices(Vertex(2))
        );
    }

    fn asked(courses: &Courses, graph: &Graph) -> Arc<Course> {
        courses.course(courses.mark(graph), graph, Vertex(0))
    }

    /// Four nodes, one link of this price and three of four.
    fn ring(price: u64) -> Graph {
        let node = NodeId;
        let nodes: BTreeMap<_, _> = (0..4).map(|number| (node(number), Cost(0))).collect();
        let links = [(0, 1, price), (1, 2, 4), (2, 3, 4), (0, 3, 4)];
        let links = links.map(|(a, b, price)| ((node(a), node(b)), Cost(price * 1_000)));
        Graph::new(&nodes, &links.into())
    }
}
