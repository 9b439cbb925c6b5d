//! Packets in are packets out and named drops, for the device and for the carriers each by itself, at every moment.

use wattle_dataplane::{DropReason, Origin};
use wattle_model::Micros;

use crate::wire::{Net, address, packet, stranger};
use crate::{ALL, SECOND, chain};

/// Asserts that nothing got lost without a name in a node.
pub(crate) fn assert_balanced(net: &Net, node: usize) {
    let counters = net.counters(node);
    let waiting: u64 = net
        .status(node)
        .sessions
        .iter()
        .map(|session| u64::from(session.queued))
        .sum();
    let tun_out = counters.sent_packets + net.dropped_from(node, Origin::Tun);
    let wire_out = counters.tun_tx_packets
        + counters.relayed_packets
        + counters.forwarded_packets
        + counters.control_rx_packets
        + counters.session_rx_packets
        + net.dropped_from(node, Origin::Wire);
    let sent = counters.sent_packets
        + counters.relayed_packets
        + counters.forwarded_packets
        + counters.control_tx_packets
        + counters.session_tx_packets;
    let drops = net.status(node).drops;
    assert!(
        tun_out <= counters.tun_rx_packets && wire_out <= counters.udp_rx_packets,
        "node {node} let out what did not come in: {counters:?} {drops:?}"
    );
    let kept = counters.tun_rx_packets - tun_out + counters.udp_rx_packets - wire_out;
    assert_eq!(kept, waiting, "node {node}: {counters:?} {drops:?}");
    assert_eq!(sent, counters.udp_tx_packets, "node {node}: {counters:?}");
}

#[test]
fn the_books_are_balanced_at_every_moment_of_a_messy_hour() {
    for seed in 0..12 {
        let mut net = chain(ALL[seed % 3]);
        let mut random = seed as u64 * 7_919 + 1;
        let mut dice = |sides: u64| {
            random = random * 1_103_515_245 % 2_147_483_647 + 12_345;
            random / 7 % sides
        };
        for _ in 0..400 {
            let (from, source, to) = (dice(3) as usize, dice(4) as usize, dice(5) as usize);
            match dice(40) {
                0 => net.cut(0, 1),
                1 => net.narrow(1, 2, 1_300),
                2 => net.restart(from),
                3 if net.has_link(0, 1) => net.flood(0, 1, &[16, 1, 2, 3]),
                4 => net.drop_peer(from, (from + 1) % 3),
                5 => net.heal(),
                6 => drop(net.inject(stranger(), from, &[dice(6) as u8; 148])),
                7 => drop(net.inject(address(1), from, &[0x57; 100])),
                8 => net.freeze(SECOND),
                9..12 => net.send(from, &packet(source, to, &[0; 1_332])),
                12..14 => net.send(from, &packet(source, to, &[0; 1_400])),
                14..16 => net.send(from, &[0x45; 11]),
                _ => net.send(from, &packet(source, to, &[0; 40])),
            }
            net.run(Micros::from_millis(dice(300)));
            (0..3).for_each(|node| assert_balanced(&net, node));
        }
    }
}

#[test]
fn packets_that_waited_are_sent_or_dropped_on_account_of_the_device() {
    for cipher in ALL {
        let mut net = chain(cipher);
        for number in 0..200 {
            net.send(0, &packet(0, 2, &[number]));
        }
        assert_balanced(&net, 0);
        net.run(SECOND);
        assert_eq!(net.dropped_from(0, Origin::Tun), 72);
        assert_eq!(net.dropped(0, DropReason::SessionQueueFull), 72);
        assert_eq!(net.counters(0).sent_packets, 128);
        (0..3).for_each(|node| assert_balanced(&net, node));
    }
}

#[test]
fn own_messages_that_cannot_be_sent_are_no_drops_of_packets() {
    let mut net = chain(ALL[1]);
    net.cut(0, 1);
    net.cut(1, 2);
    net.run(Micros::from_secs(60));
    for node in 0..3 {
        assert_eq!(net.dropped_from(node, Origin::Tun), 0);
        assert_eq!(net.dropped_from(node, Origin::Wire), 0);
        assert_balanced(&net, node);
    }
}

#[test]
fn a_removed_peer_takes_the_packets_that_waited_for_it_along_by_name() {
    let mut net = chain(ALL[0]);
    net.cut(1, 2);
    for _ in 0..5 {
        net.send(0, &packet(0, 2, b"x"));
    }
    net.drop_peer(0, 2);
    assert_eq!(net.dropped_from(0, Origin::Tun), 5);
    assert_eq!(net.dropped(0, DropReason::UnknownPeer), 5);
    assert_balanced(&net, 0);
}
