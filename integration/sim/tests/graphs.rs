//! Public networks, each link and each node broken by itself: backups cover all that can be covered, routes are the shortest,
//! and no packet goes in circles.
//!
//! `WATTLE_TOPOLOGIES` names a folder with more networks than those that lie beside this crate.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore as _, SeedableRng as _};
use wattle_model::{Cost, MAX_WAYPOINTS, Micros};
use wattle_routing::graph::{Graph, Vertex};
use wattle_routing::spf::Tree;
use wattle_routing::{Protection, Route, Routes, order};
use wattle_sim::aftermath::{self, Coverage, Failure, Fate, Packets};
use wattle_sim::{Atlas, Chart, EdgeNumber, Fleet, NodeNumber, oracle};

#[test]
fn every_packet_that_a_failure_leaves_a_way_arrives_before_anybody_is_told() {
    let mut total = Coverage::default();
    for (name, graph) in networks() {
        let coverage = aftermath::coverage(&graph, &decided(&graph));
        println!("{name:30} {coverage:?}");
        total.add(&coverage);
    }
    println!("{total:?}");
    assert!(total.affected > 1_000, "{total:?}");
    assert_eq!((total.arrive, total.loops), (total.affected, 0));
}

#[test]
fn every_node_has_the_best_protection_that_the_network_allows() {
    let (mut best, mut less, mut none) = (0, 0, 0);
    let (mut less_in_tiers, mut over_three) = (0, 0);
    for (name, graph) in networks() {
        let is_tiered = name.ends_with(TIERS);
        let routes = decided(&graph);
        for node in graph.vertices() {
            for destination in graph.vertices().filter(|to| *to != node) {
                let route = &routes[node.0 as usize].routes[&graph.node(destination)];
                let [next] = route.next.as_slice() else {
                    continue;
                };
                let primary = graph.vertex(next.neighbour).expect("a neighbour");
                let protection = route.backup.as_ref().map(|backup| backup.protection);
                let possible = protectable(&graph, node, primary, destination);
                let stops = route
                    .backup
                    .as_ref()
                    .map_or(0, |backup| backup.waypoints.len());
                over_three += usize::from(stops == MAX_WAYPOINTS);
                match (protection, possible) {
                    (found, possible) if found == possible => best += 1,
                    (None, Some(_)) => none += 1,
                    _ => {
                        println!(
                            "{name}: {node:?} over {primary:?} to {destination:?}: {protection:?}"
                        );
                        // Ways that tiers bend take more waypoints than a frame has room for.
                        match is_tiered {
                            true => less_in_tiers += 1,
                            false => less += 1,
                        }
                    }
                }
            }
        }
    }
    println!("best {best}, only for the link {less} and {less_in_tiers}, none {none}");
    assert!(best > 1_000 && none == 0, "{best}, {less}, {none}");
    assert!(
        over_three > 0,
        "nothing tells whether frames need that much room"
    );
    assert_eq!(less, 0);
    assert!(less_in_tiers * 10_000 <= best, "{less_in_tiers}");
}

#[test]
fn routes_cost_what_brute_force_finds() {
    for (name, graph) in networks() {
        let shortest = floyd_warshall(&graph);
        for (node, routes) in graph.vertices().zip(decided(&graph)) {
            for (to, route) in &routes.routes {
                let to = graph.vertex(*to).expect("a node");
                assert_eq!(route.cost, shortest[&(node, to)], "{name}");
            }
            assert_eq!(routes.routes.len(), graph.len() - 1, "{name}");
        }
    }
}

#[test]
fn agents_on_public_networks_come_to_rest_with_every_promise_kept() {
    let small = |chart: &&Chart| chart.nodes.len() <= 30;
    for chart in atlas().charts.iter().filter(small).take(8) {
        let mut fleet = chart.plan().fleet(1);
        fleet.start_all();
        fleet.run(Micros::from_secs(30));
        assert_eq!(oracle::check(&fleet), Ok(()), "{}", chart.name);
    }
}

#[test]
fn no_packet_goes_in_circles_while_nodes_take_to_other_routes_one_by_one() {
    let mut total = Convergence::default();
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for (name, graph) in networks() {
        let mut own = Convergence::default();
        for failure in sample(&graph, &mut rng) {
            own.breaks_and_is_mended(&graph, failure, &mut rng);
        }
        println!("{name:30} {own:?}");
        total.add(&own);
    }
    println!("{total:?}");
    assert!(total.steps > 1_000, "{total:?}");
    assert_eq!(total.circles, 0, "{total:?}");
}

#[test]
fn agents_on_public_networks_send_nothing_in_circles_when_links_break_and_return() {
    let small = |chart: &&Chart| chart.nodes.len() <= 18;
    let (mut looked, mut circled) = (0, Vec::new());
    for chart in atlas().charts.iter().filter(small).take(6) {
        let mut fleet = chart.plan().fleet(1);
        fleet.start_all();
        fleet.run(Micros::from_secs(20));
        for edge in 0..fleet.network.edges.len() {
            fleet.set_busy(EdgeNumber(edge), true);
        }
        fleet.run(Micros::from_secs(3));
        for edge in [0, chart.links.len() / 2] {
            for cut in [true, false] {
                fleet.network.edges[edge].cut = [cut, cut];
                for _ in 0..300 {
                    fleet.run(Micros::from_millis(10));
                    looked += 1;
                    circled
                        .extend(circles(&fleet).map(|pair| (chart.name.clone(), edge, cut, pair)));
                }
            }
        }
    }
    assert!(looked > 5_000, "{looked}");
    assert!(circled.is_empty(), "{circled:?}");
}

#[test]
fn no_packet_goes_in_circles_right_after_many_failures_at_once() {
    let (mut looked, mut fates) = (0, BTreeMap::new());
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for (_, graph) in networks() {
        let routes = decided(&graph);
        for _ in 0..8 {
            let left = without_a_quarter(&graph, &mut rng);
            let connected = aftermath::components(&left);
            for destination in graph.vertices() {
                let mut packets = Packets::to(destination, &left, &routes);
                let reach =
                    |node: &Vertex| connected[node.0 as usize] == connected[destination.0 as usize];
                let others = graph.vertices().filter(|node| *node != destination);
                for node in others.filter(reach) {
                    looked += 1;
                    *fates.entry(packets.from(node)).or_insert(0) += 1;
                }
            }
        }
    }
    println!("{looked} {fates:?}");
    assert!(fates[&Fate::Lost] > 0, "too few failures: {fates:?}");
    assert_eq!(fates.get(&Fate::Loops), None, "{fates:?}");
}

/// What is left when each link fails with a probability of a quarter.
fn without_a_quarter(graph: &Graph, rng: &mut ChaCha8Rng) -> Graph {
    let mut left = graph.clone();
    for a in graph.vertices() {
        for edge in graph.edges(a).iter().filter(|edge| edge.to > a) {
            if rng.next_u64().is_multiple_of(4) {
                left.set_cost(a, edge.to, Cost::INFINITE);
            }
        }
    }
    left
}

/// Pairs whose packets go round in circles at the moment.
fn circles(fleet: &Fleet) -> impl Iterator<Item = (NodeNumber, NodeNumber)> + '_ {
    let all = 0..fleet.nodes.len();
    let pairs = all.clone().flat_map(move |from| {
        all.clone()
            .map(move |to| (NodeNumber(from), NodeNumber(to)))
    });
    pairs.filter(|(from, to)| matches!(fleet.packet(*from, *to), wattle_sim::Fate::Circled))
}

/// Failures of one network: all of a small one, some of a large one.
fn sample(graph: &Graph, rng: &mut ChaCha8Rng) -> Vec<Failure> {
    let all = Failure::all(graph);
    let most = if graph.len() <= 16 { all.len() } else { 6 };
    let mut chosen: Vec<_> = (0..most)
        .map(|_| all[rng.next_u64() as usize % all.len()])
        .collect();
    if most == all.len() {
        chosen = all;
    }
    chosen
}

/// What was seen of packets after each step of nodes that learn of a change.
#[derive(Debug, Default)]
struct Convergence {
    /// Nodes that changed a route, once for each destination.
    steps: usize,
    /// Steps after which packets went in circles.
    circles: usize,
    /// What happened at those.
    stories: Vec<String>,
    /// Steps after which packets were lost although a way was left.
    holes: usize,
}

impl Convergence {
    fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.circles += other.circles;
        self.stories.extend_from_slice(&other.stories);
        self.holes += other.holes;
    }

    fn breaks_and_is_mended(&mut self, graph: &Graph, failure: Failure, rng: &mut ChaCha8Rng) {
        let whole = decided(graph);
        let left = failure.applied(graph);
        let broken = self.step_by_step(graph, &left, &whole, failure, failure, rng);
        self.step_by_step(&left, graph, &broken, Failure::None, failure, rng);
    }

    /// Every node learns of the change when news of it arrives there, computes at some time, and waits for its turn.
    fn step_by_step(
        &mut self,
        before: &Graph,
        after: &Graph,
        old: &[Arc<Routes>],
        failure: Failure,
        news_of: Failure,
        rng: &mut ChaCha8Rng,
    ) -> Vec<Arc<Routes>> {
        let changes = after
            .changes_since(before, usize::MAX)
            .expect("the same nodes");
        let whole = if failure == Failure::None {
            after
        } else {
            before
        };
        let working = failure.applied(whole);
        let connected = aftermath::components(after);
        let mut steps = Vec::new();
        let mut new = Vec::new();
        for node in before.vertices() {
            let routes = Routes::in_graph(after, after.node(node), &old[node.0 as usize]);
            new.push(Arc::new(routes));
            let known = arrival(whole, news_of, node) + rng.next_u64() % 20_000;
            let turn = known + order::delay(before, after, node, &changes).0;
            steps.push((known, node, false));
            steps.push((turn, node, true));
        }
        steps.sort_unstable();
        let mut mix = old.to_vec();
        for (_, node, is_turn) in steps
            .into_iter()
            .filter(|(_, node, _)| failure != Failure::Node(*node))
        {
            let at = node.0 as usize;
            let routes = match is_turn {
                true => Arc::clone(&new[at]),
                false => Arc::new(bridge(whole, node, &mix[at], &new[at], failure)),
            };
            let current = std::mem::replace(&mut mix[at], routes);
            for destination in whole.vertices() {
                let id = whole.node(destination);
                let is_reached = connected[at] == connected[destination.0 as usize];
                if current.routes.get(&id) == mix[at].routes.get(&id) || !is_reached {
                    continue;
                }
                self.steps += 1;
                match Packets::to(destination, &working, &mix).from(node) {
                    Fate::Loops => {
                        self.stories.push(format!(
                            "{news_of:?}, {failure:?}: {node:?} to {destination:?}, its turn: {is_turn}"
                        ));
                        self.circles += 1;
                    }
                    Fate::Lost => self.holes += 1,
                    Fate::Arrive => {}
                }
            }
        }
        new
    }
}

/// When a node hears of it: as soon as light gets there from the nearest end.
fn arrival(graph: &Graph, news_of: Failure, node: Vertex) -> u64 {
    let ends = match news_of {
        Failure::None => vec![],
        Failure::Link(a, b) => vec![a, b],
        Failure::Node(dead) => graph.edges(dead).iter().map(|edge| edge.to).collect(),
    };
    let tree = Tree::of(graph, node);
    let nearest = ends.into_iter().map(|end| tree.cost(end)).min();
    nearest.unwrap_or_default().micros()
}

/// What a node uses until its turn: its routes, where they lead somewhere.
fn bridge(graph: &Graph, node: Vertex, old: &Routes, new: &Routes, failure: Failure) -> Routes {
    let works = |neighbour| {
        let vertex = graph.vertex(neighbour).expect("a neighbour");
        failure.spares(node, vertex)
    };
    let leads = |route: &&Arc<Route>| {
        let backup = route.backup.as_ref().map(|backup| backup.neighbour);
        let next = route.next.iter().map(|next| next.neighbour);
        next.chain(backup).any(works)
    };
    let routes = new.routes.iter().map(|(to, new)| {
        let current = old.routes.get(to).filter(leads);
        (*to, current.unwrap_or(new).clone())
    });
    Routes {
        routes: routes.collect(),
        prefixes: BTreeMap::new(),
    }
}

/// The most that can be survived between a node and a destination, by looking for any way at all.
fn protectable(
    graph: &Graph,
    node: Vertex,
    primary: Vertex,
    destination: Vertex,
) -> Option<Protection> {
    let connects = |failure: Failure| {
        let left = aftermath::components(&failure.applied(graph));
        left[node.0 as usize] == left[destination.0 as usize]
    };
    if primary != destination && connects(Failure::Node(primary)) {
        return Some(Protection::Node);
    }
    connects(Failure::Link(node, primary)).then_some(Protection::Link)
}

fn floyd_warshall(graph: &Graph) -> BTreeMap<(Vertex, Vertex), Cost> {
    let mut prices = BTreeMap::new();
    for a in graph.vertices() {
        for b in graph.vertices() {
            let price = if a == b { Cost(0) } else { graph.cost(a, b) };
            prices.insert((a, b), price);
        }
    }
    for over in graph.vertices() {
        for a in graph.vertices() {
            for b in graph.vertices() {
                let around = prices[&(a, over)].plus(prices[&(over, b)]);
                if around < prices[&(a, b)] {
                    prices.insert((a, b), around);
                }
            }
        }
    }
    prices
}

/// What every node decides when it knows the network.
fn decided(graph: &Graph) -> Vec<Arc<Routes>> {
    let nobody = Routes::default();
    let nodes = graph.vertices().map(|vertex| graph.node(vertex));
    nodes
        .map(|node| Arc::new(Routes::in_graph(graph, node, &nobody)))
        .collect()
}

/// How the name of a network ends that has tiers.
const TIERS: &str = ", tiers";

/// All networks, and the small ones with every fourth link in a higher tier.
fn networks() -> Vec<(String, Graph)> {
    let mut networks = Vec::new();
    for chart in atlas().charts {
        let graph = chart.graph();
        if graph.len() <= 40 {
            networks.push((format!("{}{TIERS}", chart.name), in_tiers(&graph)));
        }
        networks.push((chart.name, graph));
    }
    networks
}

fn in_tiers(graph: &Graph) -> Graph {
    let mut tiered = graph.clone();
    let links = graph.vertices().flat_map(|a| {
        let later = graph.edges(a).iter().filter(move |edge| edge.to > a);
        later.map(move |edge| (a, edge.to, edge.cost))
    });
    for (number, (a, b, cost)) in links.enumerate().filter(|(number, _)| number % 4 == 0) {
        tiered.set_cost(a, b, cost.in_tier(1 + (number % 3) as u8));
    }
    tiered
}

fn atlas() -> Atlas {
    let atlas = match std::env::var_os("WATTLE_TOPOLOGIES") {
        Some(folder) => Atlas::read(Path::new(&folder)),
        None => Atlas::bundled(),
    };
    atlas.expect("maps that can be read")
}
