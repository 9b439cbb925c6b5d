//! Flows that linger (`docs/protocol/routing.md` §2): with whichever of its next hops each node keeps a flow, and as long as it
//! likes, no packet goes in a circle while links get better and worse.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use wattle_model::{Micros, NodeId};
use wattle_routing::Routes;
use wattle_sim::{Edge, EdgeNumber, Fleet, NodeNumber};

const SEEDS: u64 = 40;
const CHANGES: usize = 8;
/// A price that fell is told after five seconds, later where it changed before.
const EACH: Micros = Micros::from_secs(12);
const TICK: Micros = Micros::from_millis(1);

#[test]
fn whatever_next_hops_flows_linger_with_no_packet_goes_in_a_circle() {
    let (mut snapshots, mut shared) = (0, 0);
    for seed in 0..SEEDS {
        let mut fleet = fleet(seed);
        let mut known = Vec::new();
        for change in 0..CHANGES {
            let edge = fleet.below(fleet.network.edges.len() as u64) as usize;
            fleet.network.edges[edge].delay = delay(&mut fleet);
            let end = fleet.now + EACH;
            while fleet.now < end {
                fleet.run(TICK);
                let routes = all_routes(&fleet);
                if is_same(&known, &routes) {
                    continue;
                }
                let circle = circle(&routes);
                assert_eq!(circle, None, "seed {seed}, change {change} of {edge}");
                snapshots += 1;
                shared += usize::from(is_shared(&routes));
                known = routes;
            }
        }
    }
    eprintln!("{snapshots} states, {shared} of them with shares");
    assert!(shared > SEEDS as usize, "{shared} of {snapshots}");
}

/// Eight nodes on a ring with some chords, all watched closely.
fn fleet(seed: u64) -> Fleet {
    let mut fleet = Fleet::new(seed, 8);
    let mut pairs: BTreeSet<(usize, usize)> = (0..7).map(|node| (node, node + 1)).collect();
    pairs.insert((0, 7));
    while pairs.len() < 14 {
        let (a, b) = (fleet.below(8) as usize, fleet.below(8) as usize);
        if a != b {
            pairs.insert((a.min(b), a.max(b)));
        }
    }
    for (a, b) in pairs {
        let delay = delay(&mut fleet);
        fleet.connect(Edge::new(NodeNumber(a), NodeNumber(b), delay));
    }
    fleet.start_all();
    fleet.run(Micros::from_secs(3));
    for edge in 0..fleet.network.edges.len() {
        fleet.set_busy(EdgeNumber(edge), true);
    }
    fleet.run(Micros::from_secs(20));
    fleet
}

/// Near enough to each other that flows are shared.
fn delay(fleet: &mut Fleet) -> Micros {
    Micros::from_millis(4 * (1 + fleet.below(4)))
}

type Snapshot = Vec<(NodeId, Arc<Routes>)>;

fn all_routes(fleet: &Fleet) -> Snapshot {
    let routers = (0..fleet.nodes.len()).filter_map(|node| fleet.router(NodeNumber(node)));
    routers
        .map(|router| (router.node(), Arc::clone(router.routes())))
        .collect()
}

fn is_same(before: &Snapshot, after: &Snapshot) -> bool {
    let mut pairs = before.iter().zip(after);
    before.len() == after.len() && pairs.all(|((_, a), (_, b))| Arc::ptr_eq(a, b))
}

fn is_shared(snapshot: &Snapshot) -> bool {
    let mut routes = snapshot.iter().flat_map(|(_, node)| node.routes.values());
    routes.any(|route| route.next.len() > 1)
}

/// Nodes that packets to one destination may go round, if there are any.
fn circle(snapshot: &Snapshot) -> Option<Vec<NodeId>> {
    let routes: BTreeMap<_, _> = snapshot
        .iter()
        .map(|(node, routes)| (*node, routes))
        .collect();
    snapshot.iter().find_map(|(destination, _)| {
        let mut done = BTreeSet::from([*destination]);
        snapshot.iter().find_map(|(from, _)| {
            circle_from(*from, *destination, &routes, &mut Vec::new(), &mut done)
        })
    })
}

fn circle_from(
    at: NodeId,
    destination: NodeId,
    routes: &BTreeMap<NodeId, &Arc<Routes>>,
    trail: &mut Vec<NodeId>,
    done: &mut BTreeSet<NodeId>,
) -> Option<Vec<NodeId>> {
    if trail.contains(&at) {
        return Some(trail.clone());
    }
    if done.contains(&at) {
        return None;
    }
    trail.push(at);
    let route = routes[&at].routes.get(&destination);
    let next = route.into_iter().flat_map(|route| &route.next);
    let mut next = next.map(|next| next.neighbour);
    let found = next.find_map(|next| circle_from(next, destination, routes, trail, done));
    trail.pop();
    done.insert(at);
    found
}
