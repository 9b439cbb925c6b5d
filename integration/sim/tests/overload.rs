//! A mesh of thirty nodes on a host that is too busy: round trips swing on every link at once, messages get lost, and
//! routing must not be what keeps it so.

use wattle_model::{Carrier, Class, Micros};
use wattle_routing::Link;
use wattle_sim::{Edge, Fleet, Machine, NodeNumber, Traffic};

const NODES: usize = 30;

#[test]
fn prices_that_swing_on_all_links_at_once_cost_a_node_little() {
    let mut fleet = full_mesh();
    fleet.run(Micros::from_secs(30));
    for edge in &mut fleet.network.edges {
        edge.jitter = Micros::from_millis(50);
    }
    let minutes = [(); 3].map(|()| spent(&mut fleet, Micros::from_secs(60)));
    // The first minute has everybody's burst in it; after that a node hears at most what the budget allows (4,000 B/s of
    // prices), beside what an idle mesh says.
    assert!(minutes[0].bytes < 60 * 16_000, "{minutes:?}");
    assert!(minutes[2].bytes < 60 * 5_000, "{minutes:?}");
}

#[test]
fn a_mesh_that_was_overloaded_comes_to_rest_by_itself() {
    let mut fleet = full_mesh();
    let usual = Machine::new(Micros(25), Micros(100), PATIENCE);
    fleet.machine = Some(usual.clone());
    fleet.run(Micros::from_secs(15));
    let before = loads(&mut fleet, 5);
    assert!(before.iter().all(|load| *load < 40), "start: {before:?}");

    // For ten seconds somebody else takes nearly all of the processor.
    fleet.machine = Some(Machine::new(Micros(500), Micros(2_000), PATIENCE));
    let during = loads(&mut fleet, 10);
    assert!(during.iter().all(|load| *load > 90), "{during:?}");

    fleet.machine = Some(usual);
    fleet.run(Micros::from_secs(10));
    let after = loads(&mut fleet, 90);
    assert!(after.iter().all(|load| *load < 45), "after: {after:?}");
    // What was told in the overload is taken back, within the same budget.
    let stale = stale_percent(&fleet);
    let rest = spent(&mut fleet, Micros::from_secs(60));
    println!(
        "at rest: {rest:?}, stale prices: {stale} %, most {:?} % busy after",
        after.iter().max()
    );
    assert!(stale < 30, "{stale}");
    assert!(rest.bytes < 60 * 6_000, "{rest:?}");
}

/// How long a datagram may wait for the machine: a socket's buffer is full after that.
const PATIENCE: Micros = Micros::from_millis(400);

/// How busy the machine is in each of the next seconds, in percent.
fn loads(fleet: &mut Fleet, seconds: usize) -> Vec<u64> {
    let busy = |fleet: &Fleet| fleet.machine.as_ref().map_or(0, |machine| machine.busy.0);
    let mut one = || {
        let before = busy(fleet);
        fleet.run(Micros::from_secs(1));
        (busy(fleet) - before) / 10_000
    };
    (0..seconds).map(|_| one()).collect()
}

/// Links whose told price is more than half above the true one.
fn stale_percent(fleet: &Fleet) -> usize {
    let routers = (0..NODES).filter_map(|node| fleet.router(NodeNumber(node)));
    let links: Vec<_> = routers.flat_map(|router| router.links().values()).collect();
    let is_stale = |link: &&&Link| link.advertised().0 * 2 > link.price(Class::Latency).0 * 3;
    links.iter().filter(is_stale).count() * 100 / links.len()
}

/// What a node sends of link state in a while.
fn spent(fleet: &mut Fleet, span: Micros) -> Traffic {
    let before = fleet.flooded;
    fleet.run(span);
    let all = fleet.flooded.since(&before);
    Traffic {
        datagrams: all.datagrams / NODES as u64,
        bytes: all.bytes / NODES as u64,
    }
}

/// Everybody with everybody, over plain datagrams and over QUIC.
fn full_mesh() -> Fleet {
    let mut fleet = Fleet::new(1, NODES);
    for a in 0..NODES {
        for b in 0..a {
            for carrier in [Carrier::Udp4, Carrier::Quic] {
                fleet.connect(Edge {
                    carrier,
                    ..Edge::new(NodeNumber(a), NodeNumber(b), Micros(200))
                });
            }
        }
    }
    fleet.start_all();
    fleet
}
