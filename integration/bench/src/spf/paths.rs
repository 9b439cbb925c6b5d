//! Full runs and changes of one link on a random network.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::Instant;

use anyhow::{Result, ensure};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore as _, SeedableRng as _};
use wattle_model::{Cost, Micros, NodeId};
use wattle_routing::graph::{Graph, Vertex};
use wattle_routing::multipath::Forest;
use wattle_routing::spf::Tree;
use wattle_sim::Plan;

use crate::rivals;

/// Prices of links: 100 µs to 100 ms, as measured links have them, most of them short.
const LEAST: u64 = 100;
const DOUBLINGS: u64 = 10;
/// Changes of each kind for each full run.
const CHANGES: usize = 40;

/// What is to be measured.
pub(crate) struct Order {
    pub(crate) nodes: usize,
    pub(crate) degree: usize,
    pub(crate) seed: u64,
    pub(crate) runs: usize,
}

/// Samples of everything, in microseconds.
pub(crate) fn measure(order: &Order) -> Result<serde_json::Value> {
    ensure!(
        order.nodes >= 3 && order.runs >= 1,
        "at least three nodes and one run are needed"
    );
    let mut world = World::new(order);
    let rivals = rivals::all(&world.graph);
    let mut samples = Samples::default();
    for run in 0..order.runs {
        eprintln!("run {} of {}", run + 1, order.runs);
        // Another root each time: no variant is measured on paths that happen to suit it.
        let root = world.vertex();
        let tree = samples.took("full", || Tree::of(&world.graph, root));
        for rival in &rivals {
            let distances = samples.took(rival.name(), || rival.distances(root.0));
            ensure!(
                world
                    .graph
                    .vertices()
                    .all(|to| tree.cost(to) == distances[to.0 as usize]),
                "{} finds other distances",
                rival.name()
            );
        }
        let forest = samples.took("forest_full", || Forest::of(&world.graph, root));
        changes(&mut world, tree, forest, &mut samples)?;
    }
    Ok(serde_json::json!({
        "nodes": order.nodes,
        "links": world.graph.links(),
        "micros": samples.0,
    }))
}

/// Lets links fail, come back, get dearer and cheaper again, and brings the trees up to date each time.
fn changes(
    world: &mut World,
    mut tree: Tree,
    mut forest: Forest,
    samples: &mut Samples,
) -> Result<()> {
    for _ in 0..CHANGES {
        let (a, b, cost) = world.link();
        let dearer = Cost(cost.0 + cost.0 / 2);
        let life = [
            ("link_fails", Cost::INFINITE),
            ("link_returns", cost),
            ("link_dearer", dearer),
            ("link_cheaper", cost),
        ];
        for (kind, price) in life {
            let change = world.graph.set_cost(a, b, price);
            let change = change.as_slice();
            samples.took(kind, || tree.update(&world.graph, change));
            samples.took("forest_update", || forest.update(&world.graph, change));
        }
    }
    let root = tree.root();
    ensure!(
        tree == Tree::of(&world.graph, root) && forest == Forest::of(&world.graph, root),
        "an updated tree is not the tree of a full run"
    );
    Ok(())
}

/// Microseconds by what took them.
#[derive(Default)]
struct Samples(BTreeMap<&'static str, Vec<f64>>);

impl Samples {
    fn took<T>(&mut self, name: &'static str, what: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        let result = black_box(what());
        let micros = began.elapsed().as_secs_f64() * 1e6;
        self.0.entry(name).or_default().push(micros);
        result
    }
}

/// A random connected network.
struct World {
    graph: Graph,
    rng: ChaCha8Rng,
}

impl World {
    fn new(order: &Order) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(order.seed);
        let plan = Plan::random(order.seed, order.nodes, order.degree, Micros(0));
        let nodes = (0..order.nodes as u64).map(|node| (NodeId(node), Cost(0)));
        let links = plan.edges.iter().map(|edge| {
            let [a, b] = edge.ends.map(|end| NodeId(end.0 as u64));
            let least = LEAST << (rng.next_u64() % DOUBLINGS);
            let cost = least + rng.next_u64() % least;
            ((a, b), Cost(cost))
        });
        let graph = Graph::new(&nodes.collect(), &links.collect());
        Self { graph, rng }
    }

    fn vertex(&mut self) -> Vertex {
        Vertex((self.rng.next_u64() % self.graph.len() as u64) as u32)
    }

    /// A link, every one as likely as any other.
    fn link(&mut self) -> (Vertex, Vertex, Cost) {
        loop {
            let from = self.vertex();
            let edges = self.graph.edges(from);
            if let Some(edge) = edges.get(self.rng.next_u64() as usize % edges.len().max(1)) {
                return (from, edge.to, edge.cost);
            }
        }
    }
}
