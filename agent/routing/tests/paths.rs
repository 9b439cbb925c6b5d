//! Paths against brute force: shortest paths, shares and backups on random graphs.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use wattle_model::{Cost, MAX_WAYPOINTS, NodeId, Waypoint};
use wattle_routing::backup::{self, Detour, Search};
use wattle_routing::course::Course;
use wattle_routing::graph::{Graph, Vertex};
use wattle_routing::multipath::{self, Candidate, Forest, Trees};
use wattle_routing::spf::Tree;
use wattle_routing::{Protection, Thousandths};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn shortest_paths_cost_what_brute_force_finds(graph in graphs()) {
        for root in graph.vertices() {
            let tree = Tree::of(&graph, root);
            let expected = bellman_ford(&graph, root);
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
            let forest = Forest::of(&graph, node);
            let trees = Trees::of(&graph, &forest);
            for destination in graph.vertices().filter(|to| *to != node) {
                let candidates = trees.candidates(destination);
                let chosen = multipath::choose(&candidates, destination, None);
                prop_assert_eq!(trees.own.cost(destination).is_finite(), !chosen.is_empty());
                if let Some(best) = chosen.first() {
                    prop_assert_eq!(best.cost, trees.own.cost(destination));
                    let shares = multipath::weights(&chosen, |_| Thousandths::ONE);
                    prop_assert_eq!(shares.iter().map(|s| u32::from(*s)).sum::<u32>(), multipath::BUCKETS);
                    prop_assert!(shares.iter().all(|share| *share > 0));
                    prop_assert!(shares.iter().all(|share| *share <= shares[0]));
                }
            }
        }
    }

    #[test]
    fn an_alternate_by_distances_is_clear_of_what_it_survives_on_shortest_paths(graph in graphs()) {
        for node in graph.vertices() {
            let forest = Forest::of(&graph, node);
            let trees = Trees::of(&graph, &forest);
            for destination in graph.vertices().filter(|to| *to != node) {
                let candidates = trees.candidates(destination);
                let primaries = neighbours(&multipath::choose(&candidates, destination, None));
                if primaries.is_empty() {
                    continue;
                }
                if let Some(detour) = backup::alternate(&trees, destination, &candidates, &primaries) {
                    let path = Tree::of(&graph, detour.neighbour).path(destination);
                    let path = path.ok_or_else(|| TestCaseError::fail("the detour ends nowhere"))?;
                    prop_assert!(!path.contains(&node));
                    let is_clear = primaries.iter().all(|primary| !path.contains(primary));
                    prop_assert!(detour.protection == Protection::Link || is_clear);
                }
            }
        }
    }

    #[test]
    fn a_course_knows_every_choice_of_every_node(graph in graphs()) {
        for target in graph.vertices() {
            let course = Course::of(&graph, target);
            for node in graph.vertices().filter(|node| *node != target) {
                let known: BTreeSet<Vertex> = course.choices(node).iter().copied().collect();
                prop_assert!(choices(&graph, node, target).is_subset(&known), "{node:?} to {target:?}");
            }
        }
    }

}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn the_search_finds_a_detour_if_and_only_if_following_all_packets_finds_one(graph in graphs()) {
        let flow = Flow::of(&graph, choices);
        for node in graph.vertices() {
            let mut search = Search::new(node);
            for destination in graph.vertices().filter(|to| *to != node) {
                let forest = Forest::of(&graph, node);
                let candidates = Trees::of(&graph, &forest).candidates(destination);
                let [primary] = neighbours(&multipath::choose(&candidates, destination, None))[..] else {
                    continue;
                };
                let found = search.detour(&graph, destination, primary);
                let failed = Failed { node, primary, destination };
                let best = flow.best(&graph, &failed);
                prop_assert_eq!(found.is_some(), best.is_some(), "{:?}: {:?}", failed, found);
                let (Some(detour), Some(best)) = (found, best) else {
                    continue;
                };
                let (protection, stops) = best;
                prop_assert_eq!(detour.protection, protection, "{:?}: {:?}", failed, detour);
                // What survives a node that nobody has noticed to be gone may take more of them.
                let may_have_more = protection == Protection::Node && detour.stops > stops;
                prop_assert!(detour.stops == stops || may_have_more, "{failed:?}: {detour:?}");
                prop_assert!(flow.arrives(&graph, &failed, &detour), "{failed:?}: {detour:?}");
            }
        }
    }
}

#[test]
fn on_a_ring_the_way_around_needs_a_waypoint_and_finds_it() {
    // 0 - 1 - 2 - 3 - 4 - 0, all alike: towards 1, node 0 has no loop-free neighbour, but 4 may carry to 2.
    let graph = ring(5);
    let (node, destination) = (Vertex(0), Vertex(1));
    let forest = Forest::of(&graph, node);
    let trees = Trees::of(&graph, &forest);
    let candidates = trees.candidates(destination);
    assert_eq!(
        backup::alternate(&trees, destination, &candidates, &[destination]),
        None
    );
    let detour = Search::new(node)
        .detour(&graph, destination, destination)
        .unwrap();
    assert_eq!(
        (detour.neighbour, detour.waypoints),
        (Vertex(4), over(&[Waypoint::new(Vertex(2))]))
    );
    assert_eq!(detour.protection, Protection::Link);
}

#[test]
fn on_a_ring_with_one_dear_link_the_way_around_needs_two_waypoints_and_finds_them() {
    // The link 2 - 3 costs more than the rest of the ring together: nobody crosses it while 0 - 1 is whole.
    let mut graph = ring(5);
    graph.set_cost(Vertex(2), Vertex(3), Cost(9_000)).unwrap();
    let detour = search_anew(&graph).unwrap();
    // The shortest way from 3 to 2 is back over 0, so packets are told to take the dear link.
    let (three, two) = (Waypoint::new(Vertex(3)), Waypoint::direct(Vertex(2)));
    assert_eq!(detour.waypoints, over(&[three, two]));
    graph.set_cost(Vertex(2), Vertex(3), Cost(2_500)).unwrap();
    let detour = search_anew(&graph).unwrap();
    let two = Waypoint::new(Vertex(2));
    assert_eq!(detour.waypoints, over(&[three, two]));
}

#[test]
fn a_neighbour_that_sends_back_what_it_gets_is_told_to_go_straight_there() {
    // 0 - 1, 0 - 2 and 1 - 2, which is so dear that 2 reaches 1 over 0.
    let nodes = (0..3).map(|node| (NodeId(node), Cost(0))).collect();
    let links = [((0, 1), 1_000), ((0, 2), 1_000), ((1, 2), 9_000)];
    let links = links.map(|((a, b), cost)| ((NodeId(a), NodeId(b)), Cost(cost)));
    let graph = Graph::new(&nodes, &links.into_iter().collect());
    let detour = search_anew(&graph).unwrap();
    assert_eq!(detour.neighbour, Vertex(2));
    let one = Waypoint::direct(Vertex(1));
    assert_eq!(detour.waypoints, over(&[one]));
    assert_eq!(detour.cost, Cost(10_000));
}

#[test]
fn a_detour_does_not_count_on_others_to_notice_that_the_next_hop_is_gone() {
    // 0 - 1 - 2 - 3 - 4 - 0 and 1 - 4: from 4 to 2 it is as far over 1 as over 3, and flows take both.
    let mut graph = ring(5);
    graph.set_cost(Vertex(1), Vertex(4), Cost(1_000)).unwrap();
    let detour = Search::new(Vertex(0)).detour(&graph, Vertex(2), Vertex(1));
    let detour = detour.unwrap();
    let three = Waypoint::new(Vertex(3));
    assert_eq!(
        (detour.neighbour, detour.waypoints),
        (Vertex(4), over(&[three]))
    );
    assert_eq!(detour.protection, Protection::Node);
}

#[test]
fn in_a_large_network_a_detour_is_kept_until_it_is_clearly_dearer_or_leads_into_the_hole() {
    let mut graph = ring(301);
    let again = |graph: &Graph, search: Search| {
        let mut search = Search::new(Vertex(0)).knowing(search.into_found());
        let detour = search.detour(graph, Vertex(1), Vertex(1));
        (search, detour.unwrap())
    };
    let (search, first) = again(&graph, Search::new(Vertex(0)));
    let anew = search.spent();
    graph
        .set_cost(Vertex(100), Vertex(101), Cost(1_500))
        .unwrap();
    let (search, kept) = again(&graph, search);
    assert_eq!(kept.waypoints, first.waypoints);
    assert_eq!(kept.cost, first.cost.plus(Cost(500)));
    assert!(search.spent() < anew, "{} of {anew}", search.spent());
    // The same way, at more than a quarter above its price: others are looked at.
    let mut dear = graph.clone();
    for at in 1..300 {
        dear.set_cost(Vertex(at), Vertex(at + 1), Cost(1_300))
            .unwrap();
    }
    let (search, dearer) = again(&dear, search);
    assert_eq!(Some(dearer), search_anew(&dear));
    assert!(search.spent() >= anew, "{} of {anew}", search.spent());
    // Packets from the waypoint go back over 0.
    graph
        .set_cost(Vertex(100), Vertex(101), Cost(9_000))
        .unwrap();
    let (_, other) = again(&graph, search);
    assert_ne!(other.waypoints, first.waypoints);
    assert_eq!(Some(other), search_anew(&graph));
}

#[test]
fn in_a_large_network_a_detour_that_was_made_without_a_bad_relay_is_taken_back_when_that_is_good_again()
 {
    // A ring, and the way 0 - 301 - 302 - 1 beside its link 0 - 1; that way has a lossy link, or a relay that is drained.
    let nodes = (0..303).map(|node| (NodeId(node), Cost(0))).collect();
    let around = (0..301).map(|node| ((node, (node + 1) % 301), 1_000));
    let beside = [((0, 301), 400), ((301, 302), 400), ((1, 302), 400)];
    let links = around.chain(beside);
    let links = links.map(|((a, b), cost)| ((NodeId(a), NodeId(b)), Cost(cost)));
    let good = Graph::new(&nodes, &links.collect());
    let mut lossy = good.clone();
    lossy
        .set_cost(Vertex(301), Vertex(302), Cost(900_000))
        .unwrap();
    let mut drained = good.clone();
    drained.set_transit(Vertex(302), Cost(10_000_000)).unwrap();
    for mut bad in [lossy, drained] {
        let again = |graph: &Graph, search: Search| {
            let mut search = Search::new(Vertex(0)).knowing(search.into_found());
            let detour = search.detour(graph, Vertex(1), Vertex(1));
            (search, detour.unwrap())
        };
        let (search, first) = again(&bad, Search::new(Vertex(0)));
        assert_eq!(first.neighbour, Vertex(300));
        let anew = search.spent();
        // What becomes cheaper elsewhere, or by little, begins no search.
        bad.set_cost(Vertex(100), Vertex(101), Cost(500)).unwrap();
        let (search, kept) = again(&bad, search);
        assert_eq!(kept.waypoints, first.waypoints);
        assert!(search.spent() < anew, "{} of {anew}", search.spent());
        let (search, back) = again(&good, search);
        assert_eq!(
            (back.neighbour, Some(back)),
            (Vertex(301), search_anew(&good))
        );
        let (search, kept) = again(&good, search);
        assert_eq!(kept, back);
        assert!(search.spent() < anew, "{} of {anew}", search.spent());
    }
}

fn over(stops: &[Waypoint<Vertex>]) -> [Option<Waypoint<Vertex>>; MAX_WAYPOINTS] {
    std::array::from_fn(|at| stops.get(at).copied())
}

fn search_anew(graph: &Graph) -> Option<Detour> {
    Search::new(Vertex(0)).detour(graph, Vertex(1), Vertex(1))
}

/// What broke: the link between `node` and `primary`, or `primary` itself.
#[derive(Debug, Clone, Copy)]
struct Failed {
    node: Vertex,
    primary: Vertex,
    destination: Vertex,
}

/// Every choice of every node for every target, by asking the choosing itself with every neighbour held.
struct Flow {
    choices: BTreeMap<(Vertex, Vertex), BTreeSet<Vertex>>,
}

impl Flow {
    fn of(graph: &Graph, choices: impl Fn(&Graph, Vertex, Vertex) -> BTreeSet<Vertex>) -> Self {
        let pairs = pairs(graph).into_iter();
        Self {
            choices: pairs
                .map(|(node, target)| ((node, target), choices(graph, node, target)))
                .collect(),
        }
    }

    /// Whether packets from `at` reach `target` whatever is chosen, past what failed.
    fn leg(&self, at: Vertex, target: Vertex, failed: &Failed, survives: Protection) -> bool {
        let is_gone = survives == Protection::Node && at == failed.primary;
        if at == failed.node || is_gone {
            return false;
        }
        if at == target {
            return true;
        }
        let next = self.choices[&(at, target)].iter();
        let mut next = next
            .filter(|next| survives == Protection::Link || **next != failed.primary)
            .peekable();
        next.peek().is_some() && next.all(|next| self.leg(*next, target, failed, survives))
    }

    /// Whether packets cross the link straight to `to`.
    fn straight(
        &self,
        graph: &Graph,
        (from, to): (Vertex, Vertex),
        failed: &Failed,
        survives: Protection,
    ) -> bool {
        let is_gone =
            |at: Vertex| at == failed.node || survives == Protection::Node && at == failed.primary;
        graph.cost(from, to).is_finite() && !is_gone(from) && !is_gone(to)
    }

    fn survives(
        &self,
        graph: &Graph,
        failed: &Failed,
        stops: &[Waypoint<Vertex>],
        protection: Protection,
    ) -> bool {
        let can_pass = |stop: &Waypoint<Vertex>| {
            stop.node == failed.destination || graph.transit(stop.node).is_finite()
        };
        stops.iter().all(can_pass)
            && [Protection::Link, protection].into_iter().all(|survives| {
                let mut legs = stops.windows(2);
                legs.all(|ends| {
                    let (from, to) = (ends[0].node, ends[1].node);
                    match ends[1].direct {
                        true => self.straight(graph, (from, to), failed, survives),
                        false => self.leg(from, to, failed, survives),
                    }
                })
            })
    }

    fn arrives(&self, graph: &Graph, failed: &Failed, detour: &Detour) -> bool {
        let mut stops = vec![Waypoint::new(detour.neighbour)];
        stops.extend(detour.waypoints.iter().flatten());
        stops.push(Waypoint::new(failed.destination));
        self.survives(graph, failed, &stops, detour.protection)
    }

    /// The best that any neighbour survives with as many waypoints as a frame has room for, and with how many.
    fn best(&self, graph: &Graph, failed: &Failed) -> Option<(Protection, usize)> {
        let starts = graph.edges(failed.node).iter().map(|edge| edge.to);
        let starts = starts.filter(|start| *start != failed.primary);
        let mut ways: Vec<Vec<_>> = starts.map(|start| vec![Waypoint::new(start)]).collect();
        let mut for_link = None;
        let stops = graph.vertices();
        let stops = stops.flat_map(|at| [Waypoint::new(at), Waypoint::direct(at)]);
        let stops: Vec<_> = stops.collect();
        for count in 0..=MAX_WAYPOINTS {
            if count > 0 {
                let longer = |way: &Vec<_>| {
                    let longer = stops.iter().map(|stop| [&way[..], &[*stop]].concat());
                    longer.collect::<Vec<_>>()
                };
                ways = ways.iter().flat_map(longer).collect();
            }
            let finds = |protection| {
                ways.iter().any(|way| {
                    let stops = [&way[..], &[Waypoint::new(failed.destination)]].concat();
                    self.survives(graph, failed, &stops, protection)
                })
            };
            if failed.primary != failed.destination && finds(Protection::Node) {
                return Some((Protection::Node, count));
            }
            if for_link.is_none() && finds(Protection::Link) {
                for_link = Some((Protection::Link, count));
            }
        }
        for_link
    }
}

/// Where a node may send packets for a target, whatever it chose before.
fn choices(graph: &Graph, node: Vertex, target: Vertex) -> BTreeSet<Vertex> {
    let forest = Forest::of(graph, node);
    let candidates = Trees::of(graph, &forest).candidates(target);
    let held = graph.edges(node).iter().map(|edge| Some(edge.to));
    held.chain([None])
        .flat_map(|held| neighbours(&multipath::choose(&candidates, target, held)))
        .collect()
}

fn neighbours(candidates: &[Candidate]) -> Vec<Vertex> {
    candidates
        .iter()
        .map(|candidate| candidate.neighbour)
        .collect()
}

/// Prices of links, some of them in a higher tier.
fn prices() -> impl Strategy<Value = Cost> {
    let tier = prop_oneof![6 => Just(0), 1 => 1_u8..3];
    (1_u64..2_000, tier).prop_map(|(micros, tier)| Cost(micros).in_tier(tier))
}

/// Random graphs of 2 to 9 nodes, every link priced, some nodes dear or closed to transit.
fn graphs() -> impl Strategy<Value = Graph> {
    (2_u64..10).prop_flat_map(|size| {
        let transit = prop::collection::vec(
            prop_oneof![6 => Just(Cost(0)), 1 => (1_u64..5_000).prop_map(Cost), 1 => Just(Cost::INFINITE)],
            size as usize,
        );
        let links = prop::collection::vec(((0..size), (0..size), prices()), 1..24);
        (transit, links).prop_map(|(transit, links)| {
            let nodes = (0..).map(NodeId).zip(transit).collect();
            let links = links
                .into_iter()
                .filter(|(a, b, _)| a != b)
                .map(|(a, b, cost)| ((NodeId(a.min(b)), NodeId(a.max(b))), cost))
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

/// Distances from `root` by relaxing every link as often as there are nodes.
fn bellman_ford(graph: &Graph, root: Vertex) -> Vec<Cost> {
    let mut distances = vec![Cost::INFINITE; graph.len()];
    distances[root.0 as usize] = Cost(0);
    for _ in 0..graph.len() {
        for from in graph.vertices() {
            let through = if from == root {
                Cost(0)
            } else {
                graph.transit(from)
            };
            for edge in graph.edges(from) {
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
    let forest = Forest::of(graph, node);
    let candidates = Trees::of(graph, &forest).candidates(destination);
    neighbours(&multipath::choose(&candidates, destination, held))
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
