//! Shortest paths brought up to date are those of a full run, whatever changes, ties included.

use std::collections::BTreeMap;

use proptest::prelude::*;
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore as _, SeedableRng as _};
use wattle_model::{Cost, NodeId};
use wattle_routing::graph::{Change, Graph, Vertex};
use wattle_routing::spf::Tree;

/// Changes that each random network lives through.
const STEPS: usize = 60;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn a_tree_that_was_updated_is_the_tree_of_a_full_run(
        seed in any::<u64>(),
        size in 2_u64..40,
        dearest in prop_oneof![Just(2_u64), Just(6), Just(100_000)],
    ) {
        let mut world = World::new(seed, size, dearest);
        let roots: Vec<_> = world.graph.vertices().collect();
        let mut trees: Vec<_> = roots.iter().map(|root| Tree::of(&world.graph, *root)).collect();
        for step in 0..STEPS {
            let before = world.graph.clone();
            let changes: Vec<_> = (0..1 + world.below(3)).filter_map(|_| world.change()).collect();
            for tree in &mut trees {
                let told = match step % 2 {
                    // One thing may have changed twice: the difference of the graphs says what came of it.
                    0 => world.graph.changes_since(&before, usize::MAX).unwrap(),
                    _ if changes.len() > 1 => world.graph.changes_since(&before, usize::MAX).unwrap(),
                    _ => changes.clone(),
                };
                tree.update(&world.graph, &told);
                prop_assert_eq!(&*tree, &Tree::of(&world.graph, tree.root()), "step {}: {:?}", step, told);
            }
        }
    }

    #[test]
    fn a_graph_that_was_changed_is_the_graph_made_so(seed in any::<u64>(), size in 2_u64..20) {
        let mut world = World::new(seed, size, 9);
        for _ in 0..STEPS {
            world.change();
        }
        let nodes = world.graph.vertices().map(|v| (world.graph.node(v), world.graph.transit(v))).collect();
        let links = world.graph.vertices().flat_map(|a| {
            let edges = world.graph.edges(a).iter().filter(move |edge| edge.to > a);
            edges.map(move |edge| ((a, edge.to), edge.cost)).collect::<Vec<_>>()
        });
        let links = links.map(|((a, b), cost)| ((world.graph.node(a), world.graph.node(b)), cost)).collect();
        let made = Graph::new(&nodes, &links);
        prop_assert_eq!(made.links(), world.graph.links());
        prop_assert_eq!(made.changes_since(&world.graph, 0), Some(vec![]));
    }
}

#[test]
fn other_nodes_or_too_many_differences_are_no_update() {
    let world = World::new(1, 10, 9);
    let other = World::new(1, 11, 9);
    assert_eq!(other.graph.changes_since(&world.graph, usize::MAX), None);
    let mut changed = world.graph.clone();
    changed.set_transit(Vertex(3), Cost(77)).unwrap();
    changed.set_transit(Vertex(4), Cost(77)).unwrap();
    assert_eq!(changed.changes_since(&world.graph, 1), None);
    assert_eq!(
        changed.changes_since(&world.graph, 2).map(|all| all.len()),
        Some(2)
    );
}

/// A network and what happens to it.
struct World {
    graph: Graph,
    rng: ChaCha8Rng,
    dearest: u64,
}

impl World {
    fn new(seed: u64, size: u64, dearest: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let nodes: BTreeMap<_, _> = (0..size).map(|node| (NodeId(node), Cost(0))).collect();
        let links = (0..size * 2).map(|_| {
            let (a, b) = (rng.next_u64() % size, rng.next_u64() % size);
            (
                (NodeId(a.min(b)), NodeId(a.max(b))),
                price(&mut rng, dearest),
            )
        });
        Self {
            graph: Graph::new(&nodes, &links.collect()),
            rng,
            dearest,
        }
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.rng.next_u64() % limit
    }

    /// A link comes, goes, gets dearer or cheaper; transit gets a price, another one, none, or is refused.
    fn change(&mut self) -> Option<Change> {
        let size = self.graph.len() as u64;
        let (a, b) = (
            Vertex(self.below(size) as u32),
            Vertex(self.below(size) as u32),
        );
        let price = price(&mut self.rng, self.dearest);
        let neighbour = {
            let edges = self.graph.edges(a).len() as u64;
            (edges > 0).then(|| self.below(edges) as usize)
        };
        let neighbour = neighbour.map(|at| self.graph.edges(a)[at].to);
        match self.below(8) {
            0 => self.graph.set_transit(a, price),
            1 => self.graph.set_transit(a, Cost(0)),
            2 => self.graph.set_transit(a, Cost::INFINITE),
            3 if a != b => self.graph.set_cost(a, b, price),
            4 | 5 => self.graph.set_cost(a, neighbour?, Cost::INFINITE),
            _ => self.graph.set_cost(a, neighbour?, price),
        }
    }
}

/// A price; one in four is in a higher tier.
fn price(rng: &mut ChaCha8Rng, dearest: u64) -> Cost {
    let tier = (rng.next_u64() % 8).saturating_sub(5);
    Cost(1 + rng.next_u64() % dearest).in_tier(tier as u8)
}
