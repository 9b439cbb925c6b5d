//! Paths against brute force: shortest paths, shares and backups on random graphs.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use wattle_model::{Cost, NodeId};
use wattle_routing::Protection;
use wattle_routing::backup::{self, Detour};
use wattle_routing::graph::{Graph, Vertex};
use wattle_routing::multipath::{self, Trees};
use wattle_routing::spf::Tree;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn shortest_paths_cost_what_brute_force_finds(graph in graphs()) {
        for root in graph.vertices() {
            let tree = Tree::of(&graph, root);
            let expected = bellman_ford(&graph, root, &BTreeSet::new(), None);
            for to in graph.vertices() {
                prop_assert_eq!(tree.cost(to), expected[to.0 as usize]);
                match tree.path(to) {
                    None => prop_assert!(!tree.cost(to).is_finite()),
                    Some(path) => {
                        prop_assert_eq!(price(&graph, &path), tree.cost(to));
                        prop_assert_eq!(path.len() as u32 - 1, tree.hops(to));
                    }
                }
            }
        }
    }

    #[test]
    fn no_choice_of_next_hops_closes_a_loop(graph in graphs(), held in any::<u32>()) {
        for destination in graph.vertices() {
            let chosen: BTreeMap<Vertex, Vec<Vertex>> = graph
                .vertices()
                .filter(|node| *node != destination)
                .map(|node| (node, next_hops(&graph, node, destination, held)))
                .collect();
            for node in chosen.keys() {
                prop_assert!(!reaches(&chosen, *node, *node), "{node:?} for {destination:?}");
            }
        }
    }

    #[test]
    fn every_reachable_node_has_a_next_hop_and_shares_add_up(graph in graphs()) {
        for node in graph.vertices() {
            let trees = Trees::of(&graph, node);
            for destination in graph.vertices().filter(|to| *to != node) {
                let candidates = trees.candidates(destination);
                let chosen = multipath::choose(&candidates, destination, None);
                prop_assert_eq!(trees.own.cost(destination).is_finite(), !chosen.is_empty());
                if let Some(best) = chosen.first() {
                    prop_assert_eq!(best.cost, trees.own.cost(destination));
                    let shares = multipath::weights(&chosen);
                    prop_assert_eq!(shares.iter().map(|s| u32::from(*s)).sum::<u32>(), multipath::BUCKETS);
                    prop_assert!(shares.iter().all(|share| *share > 0));
                    prop_assert!(shares.iter().all(|share| *share <= shares[0]));
                }
            }
        }
    }

    #[test]
    fn a_backup_survives_what_it_promises(graph in graphs()) {
        for node in graph.vertices() {
            let trees = Trees::of(&graph, node);
            for destination in graph.vertices().filter(|to| *to != node) {
                let candidates = trees.candidates(destination);
                let chosen = multipath::choose(&candidates, destination, None);
                let primaries: Vec<_> = chosen.iter().map(|c| c.neighbour).collect();
                if primaries.is_empty() {
                    continue;
                }
                let found = [
                    backup::alternate(&trees, destination, &candidates, &primaries),
                    backup::over_waypoint(&trees, destination, &primaries),
                ];
                for detour in found.into_iter().flatten() {
                    check_detour(&graph, node, destination, &primaries, &detour)?;
                }
            }
        }
    }
}

#[test]
fn on_a_ring_the_way_around_needs_a_waypoint_and_finds_it() {
    // 0 - 1 - 2 - 3 - 4 - 0, all alike: towards 1, node 0 has no loop-free neighbour, but 4 may carry to 2.
    let graph = ring(5);
    let (node, destination) = (Vertex(0), Vertex(1));
    let trees = Trees::of(&graph, node);
    let candidates = trees.candidates(destination);
    assert_eq!(
        backup::alternate(&trees, destination, &candidates, &[destination]),
        None
    );
    let detour = backup::over_waypoint(&trees, destination, &[destination]).unwrap();
    assert_eq!(
        (detour.neighbour, detour.waypoint),
        (Vertex(4), Some(Vertex(2)))
    );
    assert_eq!(detour.protection, Protection::Link);
}

#[test]
fn nine_tenths_of_what_can_be_protected_is() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (mut protectable, mut protected) = (0_u32, 0_u32);
    for _ in 0..200 {
        let graph = graphs().new_tree(&mut runner).unwrap().current();
        for (node, destination) in pairs(&graph) {
            let trees = Trees::of(&graph, node);
            let candidates = trees.candidates(destination);
            let chosen = multipath::choose(&candidates, destination, None);
            let [primary] = chosen.as_slice() else {
                continue;
            };
            let cut = Some((node, primary.neighbour));
            let without = bellman_ford(&graph, node, &BTreeSet::new(), cut);
            if without[destination.0 as usize].is_finite() {
                let primaries = [primary.neighbour];
                let found = backup::alternate(&trees, destination, &candidates, &primaries)
                    .or_else(|| backup::over_waypoint(&trees, destination, &primaries));
                protectable += 1;
                protected += u32::from(found.is_some());
            }
        }
    }
    assert!(protectable > 1_000, "{protectable}");
    assert!(
        protected * 10 >= protectable * 9,
        "{protected} of {protectable}"
    );
}

/// Follows a detour hop by hop: it stays clear of this node and of what failed, and it arrives.
fn check_detour(
    graph: &Graph,
    node: Vertex,
    destination: Vertex,
    primaries: &[Vertex],
    detour: &Detour,
) -> Result<(), TestCaseError> {
    let mut legs = vec![detour.neighbour];
    legs.extend(detour.waypoint);
    legs.push(destination);
    for ends in legs.windows(2) {
        let path = Tree::of(graph, ends[0]).path(ends[1]);
        let path = path.ok_or_else(|| TestCaseError::fail("the detour ends nowhere"))?;
        prop_assert!(
            !path.contains(&node),
            "{detour:?} for {destination:?} comes back"
        );
        if detour.protection == Protection::Node {
            prop_assert!(primaries.iter().all(|primary| !path.contains(primary)));
        }
    }
    Ok(())
}

/// Random graphs of 2 to 9 nodes, every link priced, some nodes dear or closed to transit.
fn graphs() -> impl Strategy<Value = Graph> {
    (2_u64..10).prop_flat_map(|size| {
        let transit = prop::collection::vec(
            prop_oneof![6 => Just(Cost(0)), 1 => (1_u32..5_000).prop_map(Cost), 1 => Just(Cost::INFINITE)],
            size as usize,
        );
        let links = prop::collection::vec(((0..size), (0..size), 1_u32..2_000), 1..24);
        (transit, links).prop_map(|(transit, links)| {
            let nodes = (0..).map(NodeId).zip(transit).collect();
            let links = links
                .into_iter()
                .filter(|(a, b, _)| a != b)
                .map(|(a, b, cost)| ((NodeId(a.min(b)), NodeId(a.max(b))), Cost(cost)))
                .collect();
            Graph::new(&nodes, &links)
        })
    })
}

fn ring(size: u64) -> Graph {
    let nodes = (0..size).map(|node| (NodeId(node), Cost(0))).collect();
    let links = (0..size)
        .map(|n| ((NodeId(n), NodeId((n + 1) % size)), Cost(1_000)))
        .collect();
    Graph::new(&nodes, &links)
}

fn pairs(graph: &Graph) -> Vec<(Vertex, Vertex)> {
    let others = |a| {
        graph
            .vertices()
            .filter(move |b| a != *b)
            .map(move |b| (a, b))
    };
    graph.vertices().flat_map(others).collect()
}

/// Distances from `root` by relaxing every link as often as there are nodes, without some nodes and one link.
fn bellman_ford(
    graph: &Graph,
    root: Vertex,
    without: &BTreeSet<Vertex>,
    cut: Option<(Vertex, Vertex)>,
) -> Vec<Cost> {
    let mut distances = vec![Cost::INFINITE; graph.len()];
    distances[root.0 as usize] = Cost(0);
    for _ in 0..graph.len() {
        for from in graph.vertices().filter(|vertex| !without.contains(vertex)) {
            let through = if from == root {
                Cost(0)
            } else {
                graph.transit(from)
            };
            for edge in graph
                .edges(from)
                .iter()
                .filter(|edge| !without.contains(&edge.to))
            {
                if cut == Some((from, edge.to)) || cut == Some((edge.to, from)) {
                    continue;
                }
                let candidate = distances[from.0 as usize].plus(through).plus(edge.cost);
                let distance = &mut distances[edge.to.0 as usize];
                *distance = candidate.min(*distance);
            }
        }
    }
    distances
}

fn price(graph: &Graph, path: &[Vertex]) -> Cost {
    let inner = &path[1..path.len().max(2) - 1];
    let transit = inner
        .iter()
        .fold(Cost(0), |sum, vertex| sum.plus(graph.transit(*vertex)));
    path.windows(2)
        .fold(transit, |sum, ends| sum.plus(graph.cost(ends[0], ends[1])))
}

/// The next hops of a node that holds on to an arbitrary neighbour.
fn next_hops(graph: &Graph, node: Vertex, destination: Vertex, held: u32) -> Vec<Vertex> {
    let edges = graph.edges(node);
    let held = (!edges.is_empty()).then(|| edges[(held ^ node.0) as usize % edges.len()].to);
    let candidates = Trees::of(graph, node).candidates(destination);
    let chosen = multipath::choose(&candidates, destination, held);
    chosen
        .into_iter()
        .map(|candidate| candidate.neighbour)
        .collect()
}

fn reaches(next: &BTreeMap<Vertex, Vec<Vertex>>, from: Vertex, to: Vertex) -> bool {
    let mut seen = BTreeSet::new();
    let mut rest = next.get(&from).cloned().unwrap_or_default();
    while let Some(vertex) = rest.pop() {
        if vertex == to {
            return true;
        }
        if seen.insert(vertex) {
            rest.extend(next.get(&vertex).into_iter().flatten());
        }
    }
    false
}
