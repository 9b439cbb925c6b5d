//! A sparse network as its nodes choose it themselves: what one record costs on its way to everybody.

use std::collections::BTreeSet;

use rand_core::RngCore as _;
use wattle_model::Micros;
use wattle_routing::{Health, Input};
use wattle_sim::{Fleet, NodeNumber, Traffic};

/// Nodes of one run; another number with `WATTLE_SIM_NODES`.
const NODES: usize = 100;

#[test]
fn one_record_reaches_every_node_once_and_bad_news_takes_every_way() {
    let mut fleet = sparse(nodes());
    fleet.run(Micros::from_secs(40));
    assert_eq!(fingerprints(&fleet).len(), 1, "the databases agree");
    let others = nodes() as u64 - 1;

    let quiet = spent(&mut fleet, Micros::from_secs(60), |_| ());
    assert_eq!(quiet, Traffic::default());

    let drained = Health {
        drained: true,
        ..Health::default()
    };
    let news = spent(&mut fleet, Micros::from_millis(500), |fleet| {
        fleet.tell(NodeNumber(7), Input::Health(drained));
    });
    println!("one record: {news:?}");
    assert_eq!(news.datagrams, others, "{news:?}");
    assert_eq!(fingerprints(&fleet).len(), 1, "everybody has it");

    let bad = spent(&mut fleet, Micros::from_secs(6), |fleet| {
        fleet.network.edges[3].cut = [true, true];
    });
    println!("a lost link: {bad:?}");
    // Both ends tell it, on every link one way or the other.
    let links = fleet.network.edges.len() as u64;
    assert!(bad.datagrams >= links, "{bad:?}");
    assert_eq!(fingerprints(&fleet).len(), 1, "everybody knows");
}

fn nodes() -> usize {
    let wanted = std::env::var("WATTLE_SIM_NODES");
    wanted.map_or(NODES, |text| text.parse().expect("a number"))
}

/// What is sent of records from when something happens, for a while.
fn spent(fleet: &mut Fleet, span: Micros, happens: impl Fn(&mut Fleet)) -> Traffic {
    let before = fleet.updates;
    happens(fleet);
    fleet.run(span);
    fleet.updates.since(&before)
}

fn fingerprints(fleet: &Fleet) -> BTreeSet<u64> {
    let processes = fleet.nodes.iter().filter_map(|node| node.process.as_ref());
    processes
        .map(|process| process.router.database().fingerprint())
        .collect()
}

/// Nodes that are neighbours by the rule for large networks.
fn sparse(count: usize) -> Fleet {
    let mut fleet = Fleet::sparse(1, count, |rng| Micros(500 + rng.next_u64() % 5_000));
    fleet.start_all();
    fleet
}
