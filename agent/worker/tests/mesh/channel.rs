//! Stories of the fast channel (`docs/protocol/fast-channel.md`).

use std::collections::BTreeSet;

use wattle_dataplane::DropReason;
use wattle_model::Micros;
use wattle_tunnel::CHANNEL_TYPE;
use wattle_wire::control::Suite;
use wattle_wire::frame::{FRAME_TYPE, HEADER_LENGTH};

use crate::wire::{Net, Protection, address, packet, packet_with, tcp};
use crate::{SECOND, chain};

/// Where the message of a session begins in a datagram.
fn message(datagram: &[u8]) -> &[u8] {
    match datagram[0] {
        FRAME_TYPE => &datagram[HEADER_LENGTH..],
        _ => datagram,
    }
}

fn is_fast(datagram: &[u8]) -> bool {
    message(datagram)[0] == CHANNEL_TYPE
}

fn suite(net: &Net, node: usize, peer: usize) -> Option<Suite> {
    let sessions = net.status(node).sessions;
    sessions
        .iter()
        .find(|session| session.peer == net.id(peer))
        .and_then(|session| session.suite)
}

#[test]
fn once_keys_are_exchanged_packets_leave_wireguards_messages_direct_and_relayed() {
    for (to, ttl) in [(1, 64), (2, 63)] {
        let mut net = chain(Protection::FAST);
        net.send(0, &packet(0, to, b"first"));
        net.run(SECOND);
        assert_eq!(suite(&net, 0, to), Some(Suite::Aes256Gcm));
        net.watch();
        net.send(0, &packet(0, to, b"second"));
        assert!(net.seen().all(|(_, datagram)| is_fast(datagram)));
        net.run(SECOND);
        assert!(
            net.seen()
                .all(|(_, bytes)| !bytes.windows(6).any(|window| window == b"second"))
        );
        let expected = [b"first".as_slice(), b"second"].map(|text| packet_with(0, to, ttl, text));
        assert_eq!(net.delivered(to), expected);
        assert_eq!(net.counters(0).channel_tx_packets, 1);
        assert_eq!(net.counters(to).channel_rx_packets, 1);
        // The other direction has no traffic and so no key.
        assert_eq!(suite(&net, to, 0), None);
    }
}

#[test]
fn idle_nodes_exchange_no_keys() {
    let mut net = Net::new(Protection::FAST, 2, &[(0, 1)]);
    net.run(Micros::from_secs(300));
    let control = |net: &Net| net.counters(0).control_tx_packets;
    let mut plain = Net::new(Protection::NOISE, 2, &[(0, 1)]);
    plain.run(Micros::from_secs(300));
    assert_eq!(control(&net), control(&plain));
}

#[test]
fn a_node_that_wants_no_fast_channel_gets_wireguards_messages() {
    for protection in [
        [Protection::FAST, Protection::NOISE],
        [Protection::NOISE, Protection::FAST],
    ] {
        let mut net = Net::mixed(&protection, &[(0, 1)]);
        net.run(SECOND);
        net.route(0, &[(1, 1)]);
        net.route(1, &[(0, 0)]);
        net.watch();
        for _ in 0..30 {
            net.send(0, &packet(0, 1, b"to"));
            net.send(1, &packet(1, 0, b"fro"));
            net.run(SECOND);
        }
        assert!(net.seen().all(|(_, datagram)| !is_fast(datagram)));
        assert_eq!((net.delivered(0).len(), net.delivered(1).len()), (30, 30));
        assert_eq!(net.drops(0) + net.drops(1), 0);
    }
}

#[test]
fn no_message_of_the_fast_channel_has_the_nonce_of_another() {
    let mut net = chain(Protection::FAST);
    net.watch();
    for _ in 0..500 {
        net.send(0, &packet(0, 1, b"a"));
        net.send(0, &packet(0, 2, b"b"));
        net.send(2, &packet(2, 0, b"c"));
        net.run(SECOND);
    }
    // A relayed message is seen on two hops; what names its key and counter is its header.
    let mut seen = BTreeSet::new();
    let mut fast = 0;
    for (to, datagram) in net.seen().filter(|(_, datagram)| is_fast(datagram)) {
        fast += 1;
        let header = message(datagram)[..16].to_vec();
        assert!(seen.insert((datagram[0], *to, header)));
    }
    let keys: BTreeSet<_> = seen
        .iter()
        .map(|(_, _, header)| header[4..8].to_vec())
        .collect();
    assert!(fast > 1_900, "{fast}");
    assert!(
        keys.len() >= 3 * 4,
        "keys roll with the session: {}",
        keys.len()
    );
}

#[test]
fn a_replayed_message_is_dropped_and_counted() {
    let mut net = chain(Protection::FAST);
    net.send(0, &packet(0, 1, b"first"));
    net.run(SECOND);
    net.watch();
    net.send(0, &packet(0, 1, b"once"));
    let (_, datagram) = net.seen().next().unwrap().clone();
    net.run(SECOND);
    for _ in 0..3 {
        net.inject(address(0), 1, &datagram);
    }
    assert_eq!(net.delivered(1).len(), 2);
    assert_eq!(net.dropped(1, DropReason::Replayed), 3);
    // A key of one direction opens nothing in the other.
    net.inject(address(1), 0, &datagram);
    assert_eq!(net.delivered(0).len(), 0);
}

#[test]
fn a_restart_is_survived_in_the_middle_of_a_stream() {
    for node in [0, 1, 2] {
        let mut net = chain(Protection::FAST);
        for _ in 0..10 {
            net.send(0, &packet(0, 2, b"before"));
            net.run(Micros::from_millis(50));
        }
        assert!(suite(&net, 0, 2).is_some());
        net.restart(node);
        net.run(Micros::from_secs(5));
        net.route(0, &[(1, 1), (2, 1)]);
        net.route(1, &[(0, 0), (2, 2)]);
        net.route(2, &[(0, 1), (1, 1)]);
        let before = net.delivered(2).len();
        for _ in 0..20 {
            net.send(0, &packet(0, 2, b"after"));
            net.run(Micros::from_millis(300));
        }
        let after = net.delivered(2).len() - before;
        assert!(after >= 19, "node {node}: {after} of 20");
        assert!(suite(&net, 0, 2).is_some(), "node {node}");
    }
}

#[test]
fn a_checksum_left_to_the_kernel_is_completed_for_wireguards_messages_only() {
    use wattle_dataplane::vnet::NEEDS_CSUM;
    use wattle_dataplane::{VnetHeader, checksum};

    let mut net = chain(Protection::FAST);
    let header = VnetHeader {
        flags: NEEDS_CSUM,
        csum_start: 20,
        csum_offset: 16,
        ..VnetHeader::default()
    };
    let partial = |payload: &[u8]| {
        let mut packet = tcp(0, 2, payload);
        let pseudo = checksum::pseudo_header(&packet[12..20], 6, packet.len() - 20);
        packet[36..38].copy_from_slice(&pseudo.to_be_bytes());
        packet
    };
    let is_complete = |packet: &[u8]| {
        let pseudo = checksum::pseudo_header(&packet[12..20], 6, packet.len() - 20);
        checksum::add(pseudo, checksum::sum(&packet[20..])) == 0xffff
    };
    net.send_super(0, header, &partial(b"over the session"));
    net.run(SECOND);
    net.send_super(0, header, &partial(b"over the channel"));
    net.run(SECOND);
    // Between nodes the receiving kernel completes it if it has to.
    let complete: Vec<bool> = net.delivered(2).iter().map(|p| is_complete(p)).collect();
    assert_eq!(complete, [true, false]);
}
