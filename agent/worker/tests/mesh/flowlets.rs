//! Flows that stay where they were when shares change: those of a node and those that it relays.
//!
//! ```text
//!             +-- 1 --+
//!    4 --- 0 -+       +- 3
//!             +-- 2 --+
//! ```

use wattle_dataplane::{Forwarding, NextLink, Path};
use wattle_model::Micros;
use wattle_wire::frame::FRAME_TYPE;

use crate::wire::{Net, Protection, address, packet};

const STEP: Micros = Micros::from_millis(10);
const GAP: Micros = Micros::from_millis(50);

#[test]
fn a_flow_amid_packets_stays_until_it_pauses() {
    for from in [0, 4] {
        let mut net = net();
        assert_eq!(stream(&mut net, from, 20), [20, 0]);
        share(&mut net, 2, &[1]);
        assert_eq!(stream(&mut net, from, 30), [30, 0], "from {from}");
        net.run(GAP);
        assert_eq!(stream(&mut net, from, 20), [0, 20], "from {from}");
        share(&mut net, 1, &[2]);
        net.run(GAP);
        assert_eq!(stream(&mut net, from, 20), [20, 0], "from {from}");
    }
}

#[test]
fn a_flow_without_a_pause_moves_after_five_seconds() {
    for from in [0, 4] {
        let mut net = net();
        stream(&mut net, from, 20);
        share(&mut net, 2, &[1]);
        assert_eq!(stream(&mut net, from, 499), [499, 0], "from {from}");
        assert_eq!(stream(&mut net, from, 101), [1, 100], "from {from}");
    }
}

#[test]
fn a_flow_leaves_at_once_where_its_link_is_no_way_any_more() {
    for from in [0, 4] {
        let mut net = net();
        stream(&mut net, from, 20);
        share(&mut net, 2, &[]);
        assert_eq!(stream(&mut net, from, 20), [0, 20], "from {from}");
        share(&mut net, 1, &[2]);
        assert_eq!(stream(&mut net, from, 20), [0, 20], "from {from}");
        share(&mut net, 1, &[]);
        assert_eq!(stream(&mut net, from, 20), [20, 0], "from {from}");
    }
}

#[test]
fn a_flow_leaves_a_suspect_link_at_once_and_does_not_come_back() {
    for from in [0, 4] {
        let mut net = net();
        stream(&mut net, from, 20);
        share(&mut net, 2, &[1]);
        assert_eq!(stream(&mut net, from, 20), [20, 0], "from {from}");
        net.cut(0, 1);
        let cut = stream(&mut net, from, 8);
        assert!(cut[1] >= 2, "from {from}: {cut:?}");
        net.heal();
        assert_eq!(stream(&mut net, from, 100), [0, 100], "from {from}");
    }
}

#[test]
fn a_flow_leaves_a_relay_that_does_not_pass_on() {
    let mut net = net();
    stream(&mut net, 0, 20);
    share(&mut net, 2, &[1]);
    net.cut(1, 3);
    stream(&mut net, 0, 200);
    assert_eq!(net.status(0).sessions[2].left_relays.len(), 1);
    assert_eq!(stream(&mut net, 0, 50), [0, 50]);
}

/// All flows go over 1.
fn net() -> Net {
    let links = [(0, 1), (0, 2), (0, 4), (1, 3), (2, 3)];
    let mut net = Net::new(Protection::NULL, 5, &links);
    net.run(Micros::from_secs(2));
    for relay in [1, 2] {
        net.route(relay, &[(0, 0), (3, 3), (4, 0)]);
    }
    net.route(3, &[(0, 1), (4, 1)]);
    net.route(4, &[(0, 0), (3, 0)]);
    share(&mut net, 1, &[]);
    for from in [0, 4] {
        stream(&mut net, from, 1);
    }
    net.run(Micros::from_secs(1));
    net
}

/// Gives all flows from 0 to 3 to one relay, beside others that may share them.
fn share(net: &mut Net, all: usize, none: &[usize]) {
    let next = [(all, 1)]
        .into_iter()
        .chain(none.iter().map(|other| (*other, 0)));
    let next = next.map(|(relay, weight)| NextLink {
        link: net.link(0, relay),
        weight,
    });
    let path = Path::new(next.collect(), None, 2);
    let back = Path::single(net.link(0, 4));
    let prefixes = [net.prefix(3), net.prefix(4)];
    let paths = [(net.id(3), path), (net.id(4), back)];
    net.set_forwarding(0, Forwarding::new(prefixes, paths));
}

/// Sends so many packets of one flow to 3; how many of them 0 handed to each relay.
fn stream(net: &mut Net, from: usize, packets: usize) -> [usize; 2] {
    let large = [7; 600];
    net.watch();
    for _ in 0..packets {
        net.send(from, &packet(from, 3, &large));
        net.run(STEP);
    }
    let frames = net
        .seen()
        .filter(|(_, bytes)| bytes[0] == FRAME_TYPE && bytes.len() > large.len());
    let to: Vec<_> = frames.map(|(to, _)| *to).collect();
    [1, 2].map(|relay| to.iter().filter(|to| **to == address(relay).into()).count())
}
