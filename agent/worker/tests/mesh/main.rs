//! Workers wired together in memory, in virtual time: what a packet lives through between TUN and TUN.
//!
//! Every story is told with the simulator's cipher; those that depend on the cipher are told with WireGuard's and over the
//! fast channel too.

mod channel;
mod flowlets;
mod lanes;
mod ledger;
mod malformed;
mod mss;
mod path_mtu;
mod traitor;
mod wire;

use std::sync::Arc;

use wattle_dataplane::vnet::{Gso, NEEDS_CSUM};
use wattle_dataplane::{Backup, DropReason, Forwarding, NextLink, Path, VnetHeader};
use wattle_model::{Carrier, Endpoint, LinkState, MAX_DETOURS, Micros, NodeIndex, Ppm, Waypoint};
use wattle_tunnel::{CHANNEL_TYPE, Local, Outcome, Rekey, Session};
use wattle_wire::frame::{FRAME_TYPE, FRAME_VERSION, HEADER_LENGTH, MAX_HOPS};
use wattle_worker::Event;

use crate::wire::{Net, Protection, address, packet, packet_with, quic_address};

const SECOND: Micros = Micros::from_secs(1);
const ALL: [Protection; 3] = [Protection::NULL, Protection::NOISE, Protection::FAST];

/// `a - b - c`: no link between the ends; each knows the way.
fn chain(cipher: Protection) -> Net {
    let mut net = Net::new(cipher, 3, &[(0, 1), (1, 2)]);
    net.run(Micros::from_secs(2));
    net.route(0, &[(1, 1), (2, 1)]);
    net.route(1, &[(0, 0), (2, 2)]);
    net.route(2, &[(0, 1), (1, 1)]);
    net
}

#[test]
fn neighbours_find_each_other_and_packets_travel_as_plain_wireguard() {
    for cipher in ALL {
        let mut net = Net::new(cipher, 2, &[(0, 1)]);
        net.run(SECOND);
        assert_eq!(net.link_states(0), [LinkState::Up]);
        assert_eq!(net.link_states(1), [LinkState::Up]);
        net.route(0, &[(1, 1)]);
        net.watch();
        net.send(0, &packet(0, 1, b"hello"));
        net.run(SECOND);
        assert_eq!(net.delivered(1), [packet(0, 1, b"hello")]);
        assert!(net.seen().all(|(_, bytes)| (1..=4).contains(&bytes[0])));
    }
}

#[test]
fn a_packet_for_a_third_node_crosses_a_relay_that_cannot_read_it() {
    for cipher in ALL {
        let mut net = chain(cipher);
        net.watch();
        net.send(0, &packet(0, 2, b"a secret in the middle of nowhere"));
        net.run(SECOND);
        // One relay was crossed, so the time to live is one lower.
        assert_eq!(
            net.delivered(2),
            [packet_with(0, 2, 63, b"a secret in the middle of nowhere")]
        );
        assert!(net.counters(1).relayed_packets >= 1);
        assert_eq!(net.counters(1).tun_tx_packets, 0);
        if cipher != Protection::NULL {
            assert!(
                net.seen()
                    .all(|(_, bytes)| !bytes.windows(8).any(|window| window == b"a secret"))
            );
        }
        assert!(net.seen().any(|(_, bytes)| bytes[0] == FRAME_TYPE));
        // The answer uses the session that is there.
        net.send(2, &packet(2, 0, b"back"));
        net.run(SECOND);
        assert_eq!(net.delivered(0), [packet_with(2, 0, 63, b"back")]);
        assert_eq!(net.drops(0) + net.drops(1) + net.drops(2), 0);
    }
}

#[test]
fn packets_that_come_before_the_session_wait_for_it_in_order() {
    for cipher in ALL {
        let mut net = chain(cipher);
        for number in 0..100 {
            net.send(0, &packet(0, 2, &[number]));
        }
        net.run(SECOND);
        let numbers: Vec<u8> = net.delivered(2).iter().map(|packet| packet[28]).collect();
        assert_eq!(numbers, (0..100).collect::<Vec<u8>>());
        assert_eq!(net.drops(0), 0);
    }
}

#[test]
fn more_packets_than_may_wait_are_dropped_and_counted() {
    let mut net = chain(Protection::NULL);
    for number in 0..200 {
        net.send(0, &packet(0, 2, &[number]));
    }
    net.run(SECOND);
    assert_eq!(net.delivered(2).len(), 128);
    assert_eq!(net.dropped(0, DropReason::SessionQueueFull), 72);
}

#[test]
fn packets_that_wait_in_vain_are_dropped_and_counted() {
    let mut net = chain(Protection::NULL);
    net.cut(1, 2);
    net.send(0, &packet(0, 2, b"x"));
    net.run(Micros::from_secs(6));
    assert_eq!(net.dropped(0, DropReason::SessionTimeout), 1);
}

#[test]
fn a_cut_link_is_left_for_the_backup_without_asking_the_engine() {
    for cipher in ALL {
        let mut net = Net::new(cipher, 3, &[(0, 1), (1, 2), (0, 2)]);
        net.run(Micros::from_secs(2));
        net.route(1, &[(0, 0), (2, 2)]);
        let path = |net: &Net| {
            let next = vec![NextLink {
                link: net.link(0, 2),
                weight: 1,
            }];
            let backup = Backup {
                link: net.link(0, 1),
                waypoints: Vec::new(),
            };
            Path::new(next, Some(backup), 1)
        };
        net.set_forwarding(
            0,
            Forwarding::new([net.prefix(2)], [(net.id(2), path(&net))]),
        );
        net.send(0, &packet(0, 2, b"before"));
        net.run(Micros::from_millis(50));
        net.cut(0, 2);
        for _ in 0..300 {
            net.send(0, &packet(0, 2, b"after"));
            net.run(Micros::from_millis(1));
        }
        net.run(Micros::from_millis(50));
        let lost = 301 - net.delivered(2).len();
        assert!(lost <= 130, "{lost} ms without delivery");
        assert!(net.counters(0).backup_packets >= 170 && net.counters(1).relayed_packets >= 170);
    }
}

#[test]
fn a_backup_over_a_waypoint_goes_past_it() {
    // 0 - 1 - 3, 0 - 2 - 3; the way of 2 to 3 is over 1, but the waypoint 1 is passed first by 0's own wish.
    let mut net = Net::new(Protection::NULL, 4, &[(0, 1), (0, 2), (1, 2), (1, 3)]);
    net.run(Micros::from_secs(2));
    net.route(1, &[(0, 0), (3, 3)]);
    net.route(2, &[(1, 1), (3, 0)]);
    net.route(3, &[(0, 1)]);
    let next = vec![NextLink {
        link: net.link(0, 1),
        weight: 1,
    }];
    let waypoints = vec![Waypoint::new(NodeIndex(1))];
    let path = Path::new(
        next,
        Some(Backup {
            link: net.link(0, 2),
            waypoints,
        }),
        2,
    );
    net.set_forwarding(0, Forwarding::new([net.prefix(3)], [(net.id(3), path)]));
    net.cut(0, 1);
    net.route(1, &[(0, 2), (3, 3)]);
    for _ in 0..40 {
        net.send(0, &packet(0, 3, b"round"));
        net.run(Micros::from_millis(10));
    }
    assert!(
        net.delivered(3).contains(&packet_with(0, 3, 62, b"round")),
        "two relays"
    );
    assert!(net.counters(2).relayed_packets > 0);
}

#[test]
fn a_waypoint_that_is_to_be_reached_straight_is_not_reached_the_shorter_way() {
    // 0 - 1, 0 - 2, 1 - 2. While 0 and 1 hear nothing of each other, 2 still sends over 0 what is for 1.
    let mut net = Net::new(Protection::NULL, 3, &[(0, 1), (0, 2), (1, 2)]);
    net.run(Micros::from_secs(2));
    net.route(1, &[(0, 0), (2, 2)]);
    net.route(2, &[(0, 0), (1, 0)]);
    let link = net.link(0, 1);
    let next = vec![NextLink { link, weight: 1 }];
    let backup = Backup {
        link: net.link(0, 2),
        waypoints: vec![Waypoint::direct(NodeIndex(1))],
    };
    let path = Path::new(next, Some(backup), 1);
    net.set_forwarding(0, Forwarding::new([net.prefix(1)], [(net.id(1), path)]));
    net.cut(0, 1);
    for _ in 0..40 {
        net.send(0, &packet(0, 1, b"round"));
        net.run(Micros::from_millis(10));
    }
    let arrived = net.delivered(1).len();
    assert!(arrived >= 30, "{arrived}");
    assert!(net.delivered(1).contains(&packet_with(0, 1, 63, b"round")));
    assert_eq!(net.dropped(2, DropReason::FrameReturned), 0);
    // Without a link of its own to go over, 2 has only the way back, which is none.
    net.cut(2, 1);
    for _ in 0..40 {
        net.send(0, &packet(0, 1, b"lost"));
        net.run(Micros::from_millis(10));
    }
    assert!(net.dropped(2, DropReason::FrameReturned) >= 15);
    assert_eq!(net.counters(0).relayed_packets, 0);
}

#[test]
fn a_waypoint_may_send_a_frame_back_to_where_it_came_from() {
    // 0 - 3, 0 - 1, 1 - 2, 1 - 3. Packets from 0 to 3 go around past 2, whose way to 3 is over 1 once more.
    let mut net = Net::new(Protection::NULL, 4, &[(0, 3), (0, 1), (1, 2), (1, 3)]);
    net.run(Micros::from_secs(2));
    net.route(1, &[(0, 0), (2, 2), (3, 3)]);
    net.route(2, &[(0, 1), (1, 1), (3, 1)]);
    net.route(3, &[(0, 1), (1, 1)]);
    let link = net.link(0, 3);
    let backup = Backup {
        link: net.link(0, 1),
        waypoints: vec![Waypoint::new(NodeIndex(2))],
    };
    let path = Path::new(vec![NextLink { link, weight: 1 }], Some(backup), 1);
    net.set_forwarding(0, Forwarding::new([net.prefix(3)], [(net.id(3), path)]));
    net.cut(0, 3);
    for _ in 0..40 {
        net.send(0, &packet(0, 3, b"round"));
        net.run(Micros::from_millis(10));
    }
    let over_three = packet_with(0, 3, 61, b"round");
    let arrived = net.delivered(3);
    assert!(
        arrived
            .iter()
            .filter(|packet| **packet == over_three)
            .count()
            >= 20,
        "{arrived:?}"
    );
    assert_eq!(net.dropped(2, DropReason::FrameReturned), 0);
}

#[test]
fn a_frame_is_not_handed_back_and_forth_on_the_way_to_a_waypoint() {
    // 0 sends past 4; 1 and 2 each take the other to be nearer to it, as when only one of them has heard of a failure.
    let links = [(0, 1), (1, 2), (0, 3), (3, 4)];
    let mut net = Net::new(Protection::NULL, 5, &links);
    net.run(Micros::from_secs(2));
    net.route(1, &[(4, 2)]);
    net.route(2, &[(4, 1)]);
    let link = net.link(0, 3);
    let backup = Backup {
        link: net.link(0, 1),
        waypoints: vec![Waypoint::new(NodeIndex(4))],
    };
    let path = Path::new(vec![NextLink { link, weight: 1 }], Some(backup), 1);
    net.set_forwarding(0, Forwarding::new([net.prefix(3)], [(net.id(3), path)]));
    net.cut(0, 3);
    net.run(Micros::from_secs(5));
    net.send(0, &packet(0, 3, b"x"));
    net.run(SECOND);
    let returned = net.dropped(2, DropReason::FrameReturned);
    assert!(returned > 0);
    assert_eq!(net.counters(1).relayed_packets, returned);
}

#[test]
fn a_relays_detour_may_begin_where_the_frame_came_from() {
    // 0 - 1 - 2 - 3 - 0. Node 0 sends to 2 over 1; when 1 loses its link to 2, the way around leads back over 0, past 3.
    let mut net = Net::new(Protection::NULL, 4, &[(0, 1), (1, 2), (2, 3), (0, 3)]);
    net.run(Micros::from_secs(2));
    net.route(0, &[(1, 1), (2, 1), (3, 3)]);
    net.route(2, &[(0, 3), (1, 1)]);
    net.route(3, &[(0, 0), (1, 0), (2, 2)]);
    let next = vec![NextLink {
        link: net.link(1, 2),
        weight: 1,
    }];
    let backup = Backup {
        link: net.link(1, 0),
        waypoints: vec![Waypoint::new(NodeIndex(3))],
    };
    let path = Path::new(next, Some(backup), 1);
    let back = Path::single(net.link(1, 0));
    net.set_forwarding(
        1,
        Forwarding::new([], [(net.id(2), path), (net.id(0), back)]),
    );
    net.cut(1, 2);
    for _ in 0..40 {
        net.send(0, &packet(0, 2, b"round"));
        net.run(Micros::from_millis(10));
    }
    // Over 1, back over 0, and over 3.
    assert!(
        net.delivered(2).contains(&packet_with(0, 2, 61, b"round")),
        "{:?}",
        net.delivered(2)
    );
    assert_eq!(net.dropped(1, DropReason::FrameReturned), 0);
}

#[test]
fn a_frame_never_goes_back_to_where_it_came_from() {
    let mut net = chain(Protection::NULL);
    net.route(1, &[(2, 0)]);
    net.send(0, &packet(0, 2, b"x"));
    net.cut(1, 2);
    net.run(Micros::from_secs(4));
    assert!(net.dropped(1, DropReason::FrameReturned) > 0);
    assert_eq!(net.dropped(1, DropReason::HopLimit), 0);
}

#[test]
fn frames_in_a_loop_die_at_their_hop_limit() {
    let mut net = Net::new(Protection::NULL, 4, &[(0, 1), (1, 2), (2, 0), (0, 3)]);
    net.run(Micros::from_secs(2));
    net.cut(0, 3);
    net.run(SECOND);
    net.route(0, &[(3, 1)]);
    net.route(1, &[(3, 2)]);
    net.route(2, &[(3, 0)]);
    net.send(0, &packet(0, 3, b"x"));
    net.run(SECOND);
    let dead: u64 = (0..3)
        .map(|node| net.dropped(node, DropReason::HopLimit))
        .sum();
    let relayed: u64 = (0..3).map(|node| net.counters(node).relayed_packets).sum();
    assert!(
        dead > 0 && relayed == dead * u64::from(MAX_HOPS),
        "{relayed} relayed, {dead} dead"
    );
}

#[test]
fn the_other_link_to_the_next_hop_is_no_detour() {
    // A chain that loses its plain links everywhere: four relays in a row go on over QUIC to where they would have gone.
    let chain = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)];
    let mut net = Net::new(Protection::NULL, 6, &chain);
    for (one, other) in chain {
        net.connect(one, other);
    }
    net.run(Micros::from_secs(3));
    for node in 0..6_usize {
        let ends = [
            (0, node.checked_sub(1)),
            (5, (node < 5).then_some(node + 1)),
        ];
        let ends = ends
            .into_iter()
            .filter_map(|(end, over)| Some((end, over?)));
        let paths = ends.clone().map(|(end, over)| {
            let link = net.link_over(Carrier::Udp4, node, over);
            let backup = Backup {
                link: net.link_over(Carrier::Quic, node, over),
                waypoints: Vec::new(),
            };
            let next = vec![NextLink { link, weight: 1 }];
            (net.id(end), Path::new(next, Some(backup), 1))
        });
        let prefixes = ends.clone().map(|(end, _)| net.prefix(end));
        let forwarding = Forwarding::new(prefixes.collect::<Vec<_>>(), paths.collect::<Vec<_>>());
        net.set_forwarding(node, forwarding);
    }
    for (one, other) in chain {
        net.block_plain(one, other);
    }
    net.run(Micros::from_secs(5));
    net.send(0, &packet(0, 5, b"x"));
    net.run(SECOND);
    assert_eq!(net.delivered(5), [packet_with(0, 5, 60, b"x")]);
}

#[test]
fn backups_that_lead_to_each_other_do_not_hand_a_frame_round_until_its_hop_limit() {
    // Each of 0, 1 and 2 has a link to 3 and a backup over the next one of them; all links to 3 fail at once.
    let ring = [(0, 1), (1, 2), (2, 0)];
    let links = [(0, 1), (1, 2), (2, 0), (0, 3), (1, 3), (2, 3)];
    let mut net = Net::new(Protection::NULL, 4, &links);
    net.run(Micros::from_secs(2));
    for (node, over) in ring {
        let link = net.link(node, 3);
        let backup = Backup {
            link: net.link(node, over),
            waypoints: Vec::new(),
        };
        let path = Path::new(vec![NextLink { link, weight: 1 }], Some(backup), 1);
        let forwarding = Forwarding::new([net.prefix(3)], [(net.id(3), path)]);
        net.set_forwarding(node, forwarding);
        net.cut(node, 3);
    }
    net.run(Micros::from_secs(5));
    net.send(0, &packet(0, 3, b"x"));
    net.run(SECOND);
    let all = |count: &dyn Fn(usize) -> u64| (0..4).map(count).sum::<u64>();
    let dead = all(&|node| net.dropped(node, DropReason::DetourLimit));
    let relayed = all(&|node| net.counters(node).relayed_packets);
    // 0 begins the first detour, 1 and 2 one more each.
    assert!(
        dead > 0 && relayed == dead * u64::from(MAX_DETOURS - 1),
        "{relayed} relayed, {dead} dead"
    );
    assert_eq!(all(&|node| net.dropped(node, DropReason::HopLimit)), 0);
}

#[test]
fn a_question_about_a_way_has_begun_as_many_detours_as_the_packets_that_it_stands_for() {
    // 0 to 3 send to 5 over 6, with a backup over the next one of a chain: where four links to 6 fail, packets of 0 end at 3.
    let links = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6)];
    let over = [(0, 6), (1, 6), (2, 6), (3, 6)];
    for (failed, arrives) in [(3, true), (4, false)] {
        let mut net = Net::new(Protection::NULL, 7, &[&links[..], &over].concat());
        net.run(Micros::from_secs(2));
        net.route(4, &[(5, 5), (0, 3)]);
        net.route(5, &[(0, 4)]);
        net.route(6, &[(5, 5)]);
        for (node, over) in over {
            let next = NextLink {
                link: net.link(node, over),
                weight: 1,
            };
            let backup = Backup {
                link: net.link(node, node + 1),
                waypoints: Vec::new(),
            };
            let there = (net.id(5), Path::new(vec![next], Some(backup), 2));
            let back = node.checked_sub(1);
            let back = back.map(|over| (net.id(0), Path::single(net.link(node, over))));
            let paths: Vec<_> = [there].into_iter().chain(back).collect();
            net.set_forwarding(node, Forwarding::new([net.prefix(5)], paths));
        }
        let stream = |net: &mut Net, packets| {
            for _ in 0..packets {
                net.send(0, &packet(0, 5, b"x"));
                net.run(Micros::from_millis(10));
            }
        };
        stream(&mut net, 100);
        let (cut, _) = over.split_at(failed);
        cut.iter().for_each(|(node, over)| net.cut(*node, *over));
        net.run(Micros::from_secs(5));
        net.watch();
        stream(&mut net, 300);
        // Packets, and questions whether these arrive.
        let come = |to: &Endpoint, bytes: &[u8]| *to == address(5).into() && bytes[0] == FRAME_TYPE;
        let come = net.seen().filter(|(to, bytes)| come(to, bytes)).count();
        match arrives {
            true => assert!(come > 300, "{come} come"),
            false => assert_eq!(come, 0),
        }
    }
}

#[test]
fn a_spoofed_source_is_dropped_on_both_sides_and_counted() {
    for cipher in ALL {
        let mut net = chain(cipher);
        net.send(0, &packet(1, 2, b"not mine"));
        net.run(SECOND);
        assert_eq!(net.dropped(0, DropReason::ForeignSource), 1);
        // A sender without a conscience: it believes that it owns the address.
        net.believe_in_owning(0, 1);
        net.send(0, &packet(1, 2, b"not mine"));
        net.send(0, &packet(0, 2, b"mine"));
        net.run(SECOND);
        assert_eq!(net.delivered(2), [packet_with(0, 2, 63, b"mine")]);
        assert_eq!(net.dropped(2, DropReason::SpoofedSource), 1);
        assert_eq!(net.status(2).spoofed[&net.id(0)], 1);
    }
}

#[test]
fn what_is_for_nobody_here_is_not_delivered() {
    let mut net = Net::new(Protection::NULL, 3, &[(0, 1)]);
    net.run(SECOND);
    // Node 0 wrongly believes that node 1 is the way to what node 2 owns.
    let path = Path::single(net.link(0, 1));
    net.set_forwarding(
        0,
        Forwarding::new([(net.prefix(2).0, net.id(1))], [(net.id(1), path)]),
    );
    net.send(0, &packet(0, 2, b"x"));
    net.run(SECOND);
    assert_eq!(net.delivered(1).len(), 0);
    assert_eq!(
        net.dropped(1, DropReason::NoRoute) + net.dropped(1, DropReason::ForeignDestination),
        1
    );
}

#[test]
fn forged_and_replayed_frames_are_dropped_and_counted() {
    for cipher in ALL {
        let mut net = chain(cipher);
        net.send(0, &packet(0, 2, b"first"));
        net.run(SECOND);
        net.watch();
        net.send(0, &packet(0, 2, b"second"));
        net.run(Micros::from_millis(100));
        let frames: Vec<_> = net
            .seen()
            .filter(|(to, bytes)| *to == address(1).into() && bytes[0] == FRAME_TYPE)
            .collect();
        let frame = frames[0].1.clone();
        let delivered = net.delivered(2).len();
        net.inject(address(0), 1, &frame);
        assert_eq!(net.dropped(1, DropReason::FrameReplayed), 1);
        for byte in [3, 4, 12, 20, HEADER_LENGTH - 1, frame.len() - 1] {
            let mut forged = frame.clone();
            forged[4] ^= 0x40;
            forged[byte] ^= 1;
            net.inject(address(0), 1, &forged);
        }
        let refused = net.dropped(1, DropReason::FrameUnauthentic)
            + net.dropped(1, DropReason::FrameMalformed);
        assert_eq!(refused, 6);
        net.inject(wire::stranger(), 1, &frame);
        assert_eq!(net.dropped(1, DropReason::FrameUnknownKey), 1);
        net.run(SECOND);
        assert_eq!(net.delivered(2).len(), delivered);
    }
}

#[test]
fn strangers_get_no_answer() {
    for cipher in ALL {
        let mut net = Net::new(cipher, 2, &[(0, 1)]);
        net.run(SECOND);
        let local = Arc::new(Local::new([99; 32], cipher.cipher()));
        let mut session = Session::new(&local, net.key(0), 7, Rekey::Ours);
        let mut initiation = [0; 200];
        let length = session.initiate(net.now(), &mut initiation).unwrap();
        net.watch();
        net.inject(wire::stranger(), 0, &initiation[..length]);
        for kind in 0..=255 {
            for length in [1, 31, 32, 64, 92, 148, 200] {
                let mut datagram = vec![0; length];
                datagram[0] = kind;
                net.inject(wire::stranger(), 0, &datagram);
            }
        }
        net.run(SECOND);
        assert_eq!(
            net.dropped(0, DropReason::UnknownPeer),
            1 + u64::from(cipher == Protection::NULL)
        );
        assert!(net.seen().all(|(to, _)| *to != wire::stranger().into()));
    }
}

#[test]
fn a_peer_behind_nat_dials_and_is_answered_where_it_is_seen() {
    for cipher in ALL {
        let mut net = Net::behind_nat(cipher, 2, &[(0, 1)], 1);
        net.run(Micros::from_secs(3));
        assert_eq!(net.link_states(0), [LinkState::Up]);
        net.route(0, &[(1, 1)]);
        net.send(0, &packet(0, 1, b"in"));
        net.run(SECOND);
        assert_eq!(net.delivered(1), [packet(0, 1, b"in")]);
        // It is told where it is seen.
        let seen = net.events(1).iter().find_map(|event| match event {
            Event::Reflexive { address, .. } => Some(*address),
            _ => None,
        });
        assert_eq!(
            seen.map(|seen| seen.ip().to_string()),
            Some("203.0.113.1".into())
        );
        // The NAT forgets its mapping and makes another.
        net.rebind(1);
        // It asks by itself after two intervals of an idle link at the latest.
        net.run(Micros::from_secs(9));
        net.send(0, &packet(0, 1, b"again"));
        net.run(SECOND);
        assert_eq!(net.delivered(1)[1..], [packet(0, 1, b"again")]);
    }
}

#[test]
fn a_leaf_is_hosted_checked_and_reached_from_everywhere() {
    for cipher in ALL {
        let mut net = chain(cipher);
        let leaf = net.add_leaf(2);
        let local = Arc::new(Local::new(wire::secret(leaf), cipher.cipher()));
        let mut session = Session::new(&local, net.key(2), 0x00be_ef00, Rekey::Ours);
        let from = address(leaf);
        let mut buffer = [0; 2_048];
        let length = session.initiate(net.now(), &mut buffer).unwrap();
        let answers = net.inject(from, 2, &buffer[..length]);
        let opened = session.open(net.now(), None, &answers[0], &mut buffer);
        let Outcome::Reply(length) = opened.outcome else {
            panic!("{opened:?}")
        };
        net.inject(from, 2, &buffer[..length]);

        let seal = |session: &mut Session, packet: &[u8]| {
            let (mut content, mut out) = ([0; 1_500], [0; 1_600]);
            content[..packet.len()].copy_from_slice(packet);
            let length = session
                .seal(&mut content, packet.len(), 1_420, &mut out)
                .unwrap();
            out[..length].to_vec()
        };
        // Its host and another node hear it; each forwarding in the clear is a hop, each relay is one.
        net.inject(from, 2, &seal(&mut session, &packet(leaf, 2, b"host")));
        net.inject(from, 2, &seal(&mut session, &packet(leaf, 0, b"far")));
        net.run(SECOND);
        assert_eq!(net.delivered(2), [packet_with(leaf, 2, 63, b"host")]);
        assert_eq!(net.delivered(0), [packet_with(leaf, 0, 62, b"far")]);
        // It is answered.
        net.watch();
        net.send(0, &packet(0, leaf, b"back"));
        net.run(SECOND);
        let answer = net
            .seen()
            .find(|(to, _)| *to == from.into())
            .map(|(_, bytes)| bytes.clone())
            .unwrap();
        let opened = session.open(net.now(), None, &answer, &mut buffer);
        assert_eq!(
            opened.outcome,
            Outcome::Packet(packet(0, leaf, b"back").len())
        );
        // What is too large for the way on is answered with the size that is not: 1,400 bytes do not pass the overlay.
        let large = packet(leaf, 0, &[7; 1_372]);
        let answers = net.inject(from, 2, &seal(&mut session, &large));
        let opened = session.open(net.now(), None, &answers[0], &mut buffer);
        assert_eq!(opened.outcome, Outcome::Packet(576));
        assert_eq!(
            (buffer[9], &buffer[20..22]),
            (1, &[3, 4][..]),
            "ICMP, too big"
        );
        assert_eq!(buffer[26..28], 1_360_u16.to_be_bytes());
        assert_eq!(buffer[12..20], [&large[16..20], &large[12..16]].concat());
        assert_eq!(net.dropped(2, DropReason::TooBig), 1);
        ledger::assert_balanced(&net, 2);
        net.watch();
        // It cannot pretend.
        net.inject(from, 2, &seal(&mut session, &packet(1, 0, b"spoof")));
        assert_eq!(net.dropped(2, DropReason::SpoofedSource), 1);
        // Agents do not talk to it.
        assert!(net.seen().filter(|(to, _)| *to == from.into()).count() == 0);
    }
}

#[test]
fn super_packets_are_cut_on_the_way_out_and_joined_on_the_way_in() {
    for cipher in ALL {
        let mut net = chain(cipher);
        net.send(0, &packet(0, 2, b"session"));
        net.run(SECOND);
        net.watch();
        let payload: Vec<u8> = (0..20_000_u32).map(|byte| (byte % 251) as u8).collect();
        let whole = wire::tcp(0, 2, &payload);
        let header = VnetHeader {
            gso: Gso::TcpV4,
            gso_size: 1_300,
            flags: NEEDS_CSUM,
            csum_start: 20,
            csum_offset: 16,
            hdr_len: 40,
        };
        net.send_super(0, header, &whole);
        net.run(SECOND);
        let frames = net
            .seen()
            .filter(|(to, bytes)| *to == address(2).into() && bytes.len() > 500)
            .count();
        // Sixteen segments, and the probe that asks whether packets of the overlay's size get through.
        assert_eq!(frames, 17);
        let arrived: Vec<u8> = net.delivered(2)[1..]
            .iter()
            .flat_map(|packet| packet[40..].to_vec())
            .collect();
        assert_eq!(arrived, payload);
        assert_eq!(net.counters(0).tun_rx_packets, 17);
        assert_eq!(net.counters(2).tun_tx_packets, 17);
    }
}

#[test]
fn packets_above_the_mtu_are_answered_with_the_mtu() {
    let mut net = chain(Protection::NULL);
    net.send(0, &packet(0, 2, &[0; 1_400]));
    assert_eq!(net.dropped(0, DropReason::TooBig), 1);
    let answer = &net.delivered(0)[0];
    assert_eq!(answer[12..16], [10, 77, 0, 2], "not from an own address");
    assert_eq!(
        (
            answer[9],
            answer[20],
            answer[21],
            u16::from_be_bytes([answer[26], answer[27]])
        ),
        (1, 3, 4, 1_360)
    );
    net.send(0, &packet(0, 2, &[0; 1_332]));
    net.run(SECOND);
    assert_eq!(net.delivered(2).len(), 1);
    net.send(0, &packet(0, 200, b"nowhere"));
    assert_eq!(net.dropped(0, DropReason::NoRoute), 1);
}

#[test]
fn a_restarted_node_is_back_within_seconds() {
    for cipher in ALL {
        for node in 0..3 {
            let mut net = chain(cipher);
            net.send(0, &packet(0, 2, b"before"));
            net.run(SECOND);
            net.restart(node);
            net.run(Micros::from_secs(5));
            net.route(0, &[(1, 1), (2, 1)]);
            net.route(1, &[(0, 0), (2, 2)]);
            net.route(2, &[(0, 1), (1, 1)]);
            let before = net.delivered(2).len();
            // The first tells the node that it has lost a session; the others use the one made then.
            for _ in 0..10 {
                net.send(0, &packet(0, 2, b"after"));
                net.run(Micros::from_millis(300));
            }
            let after = net.delivered(2).len() - before;
            assert!(after >= 9, "{cipher:?}, node {node}: {after} of 10");
        }
    }
}

#[test]
fn nothing_of_a_dropped_peer_is_accepted() {
    for cipher in ALL {
        let mut net = Net::new(cipher, 2, &[(0, 1)]);
        net.run(SECOND);
        net.route(0, &[(1, 1)]);
        net.route(1, &[(0, 0)]);
        net.drop_peer(1, 0);
        net.send(0, &packet(0, 1, b"x"));
        net.run(Micros::from_secs(5));
        assert_eq!(net.delivered(1).len(), 0);
        assert!(
            net.dropped(1, DropReason::UnknownSession) > 0
                && net.dropped(1, DropReason::UnknownPeer) > 0
        );
        assert_eq!(net.status(1).links, []);
    }
}

#[test]
fn sessions_and_link_keys_roll_for_an_hour_without_losing_a_packet() {
    for protection in [Protection::NULL, Protection::FAST] {
        an_hour_passes(protection);
    }
}

fn an_hour_passes(protection: Protection) {
    let mut net = chain(protection);
    net.send(0, &packet(0, 2, b"first"));
    net.run(SECOND);
    for _ in 0..3_600 {
        net.send(0, &packet(0, 2, b"x"));
        net.send(2, &packet(2, 0, b"y"));
        net.run(SECOND);
    }
    assert_eq!(
        (net.delivered(2).len(), net.delivered(0).len()),
        (3_601, 3_600)
    );
    assert_eq!(net.drops(0) + net.drops(1) + net.drops(2), 0);
    for link in (0..3).flat_map(|node| net.status(node).links) {
        assert_eq!((link.state, link.measurement.loss), (LinkState::Up, Ppm(0)));
    }
    let handshakes = net.counters(0).handshakes;
    assert!((50..100).contains(&handshakes), "{handshakes}");
}

#[test]
fn packets_in_are_packets_out_and_named_drops() {
    for seed in 0..20 {
        let mut net = chain(ALL[seed % 3]);
        let mut random = seed * 7_919 + 1;
        let mut sent = 0;
        for _ in 0..300 {
            random = random * 1_103_515_245 % 2_147_483_647 + 12_345;
            let (from, source, to) = (random % 3, random / 3 % 4, random / 16 % 5);
            net.send(from, &packet(source, to, &[0; 40]));
            sent += 1;
            net.run(Micros::from_millis(7));
        }
        net.run(Micros::from_secs(10));
        let entered: u64 = (0..3).map(|node| net.counters(node).tun_rx_packets).sum();
        let left: u64 = (0..3).map(|node| net.counters(node).tun_tx_packets).sum();
        let dropped: u64 = (0..3).map(|node| net.drops(node)).sum();
        assert_eq!((entered, left + dropped), (sent, sent), "seed {seed}");
    }
}

#[test]
fn waiting_packets_and_handshakes_are_no_loss() {
    let mut net = chain(Protection::NULL);
    for _ in 0..100 {
        net.send(0, &packet(0, 2, b"x"));
    }
    net.run(SECOND);
    for link in (0..3).flat_map(|node| net.status(node).links) {
        assert_eq!(link.measurement.loss, Ppm(0));
    }
}

#[test]
fn a_frozen_process_blames_nobody() {
    let mut net = chain(Protection::NULL);
    net.send(0, &packet(0, 2, b"x"));
    net.run(Micros::from_millis(100));
    for _ in 0..5 {
        net.freeze(Micros::from_secs(5));
        net.run(Micros::from_millis(200));
    }
    let went_down = |event: &Event| {
        matches!(
            event,
            Event::Link {
                state: LinkState::Down,
                ..
            }
        )
    };
    assert!((0..3).all(|node| !net.events(node).iter().any(went_down)));
}

#[test]
fn a_routing_message_reaches_the_engine_of_the_neighbour() {
    for cipher in ALL {
        let mut net = chain(cipher);
        net.flood(0, 1, &[16, 1, 2, 3]);
        net.run(SECOND);
        let heard = net.events(1).iter().find_map(|event| match event {
            Event::Control {
                from,
                link,
                payload,
            } => Some((*from, *link, payload.clone())),
            _ => None,
        });
        assert_eq!(heard, Some((net.id(0), net.link(1, 0), vec![16, 1, 2, 3])));
        assert_eq!(net.drops(0) + net.drops(1), 0);
    }
}

#[test]
fn damaged_datagrams_deliver_nothing() {
    for cipher in ALL {
        let mut net = chain(cipher);
        net.send(0, &packet(0, 2, b"session"));
        net.run(SECOND);
        net.route(0, &[(1, 1), (2, 1)]);
        net.watch();
        net.send(0, &packet(0, 1, b"plain"));
        net.send(0, &packet(0, 2, b"framed"));
        let sent: Vec<_> = net.seen().map(|(_, bytes)| bytes.clone()).collect();
        assert_eq!(sent.len(), 2);
        for datagram in &sent {
            for byte in 0..datagram.len() {
                let mut damaged = datagram.clone();
                damaged[byte] ^= 0x81;
                net.inject(address(0), 1, &damaged);
                net.inject(address(0), 1, &datagram[..byte]);
            }
        }
        // What a relay cannot see is found by the destination; the intact ones arrive.
        net.run(SECOND);
        let delivered = (net.delivered(1).to_vec(), net.delivered(2)[1..].to_vec());
        assert_eq!(delivered.0, [packet(0, 1, b"plain")]);
        assert!(delivered.1.len() <= 1);
    }
}

mod arbitrary {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn bytes_from_the_wire_and_from_the_kernel_never_panic(
            datagrams in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..20),
            kinds in proptest::collection::vec(proptest::sample::select(vec![1_u8, 2, 3, 4, 0x57, 0x58, 0]), 20),
            protection in 0..ALL.len(),
        ) {
            let mut net = Net::new(ALL[protection], 2, &[(0, 1)]);
            net.run(SECOND);
            for (datagram, kind) in datagrams.iter().zip(kinds) {
                let mut datagram = datagram.clone();
                net.send(0, &datagram);
                net.send_super(0, VnetHeader { gso: Gso::UdpL4, gso_size: 9, ..VnetHeader::default() }, &datagram);
                for length in [32, 64, 92, 148, 299] {
                    datagram.resize(length, 7);
                    let version = if kind == FRAME_TYPE { FRAME_VERSION } else { 0 };
                    datagram[..4].copy_from_slice(&[kind, version, 0, 0]);
                    net.inject(address(1), 0, &datagram);
                }
            }
            net.run(SECOND);
            prop_assert_eq!(net.link_states(0), [LinkState::Up]);
        }
    }
}

/// `a - b` with a QUIC connection beside the plain link.
fn with_connection(cipher: Protection) -> Net {
    let mut net = Net::new(cipher, 2, &[(0, 1)]);
    net.connect(0, 1);
    net.run(SECOND);
    net.route(0, &[(1, 1)]);
    net.route(1, &[(0, 0)]);
    net
}

#[test]
fn a_quic_connection_is_a_link_of_its_own_beside_the_plain_one() {
    for cipher in ALL {
        let mut net = with_connection(cipher);
        let links = net.status(0).links;
        let shown: Vec<_> = links
            .iter()
            .map(|link| (link.carrier, link.endpoint, link.state))
            .collect();
        assert_eq!(
            shown,
            [
                (Carrier::Udp4, Some(address(1)), LinkState::Up),
                (Carrier::Quic, Some(quic_address(1)), LinkState::Up),
            ]
        );
        assert_ne!(links[0].link, links[1].link);
        let before = net.drops(0) + net.drops(1);
        net.watch();
        net.send(0, &packet(0, 1, b"plain is what the route says"));
        assert!(net.seen().all(|(to, _)| *to == Endpoint::Udp(address(1))));
        net.run(SECOND);
        assert_eq!(net.delivered(1).len(), 1);
        assert_eq!(net.drops(0) + net.drops(1), before);
    }
}

#[test]
fn a_network_that_begins_to_block_plain_datagrams_is_crossed_without_asking_the_engine() {
    for cipher in ALL {
        let mut net = with_connection(cipher);
        net.send(0, &packet(0, 1, b"before"));
        net.run(SECOND);
        net.block_plain(0, 1);
        for number in 0..100 {
            net.send(0, &packet(0, 1, &[number]));
            net.run(Micros::from_millis(10));
        }
        net.run(SECOND);
        let arrived = net.delivered(1).len() - 1;
        assert!(arrived >= 80, "{arrived} of 100");
        assert_eq!(
            net.link_states(0),
            [LinkState::Down, LinkState::Up],
            "plain is known to be down"
        );
        net.unblock();
        net.run(Micros::from_secs(10));
        assert_eq!(net.link_states(0), [LinkState::Up, LinkState::Up]);
        net.watch();
        net.send(0, &packet(0, 1, b"after"));
        let sent = net
            .seen()
            .find(|(_, bytes)| matches!(bytes[0], 4 | CHANNEL_TYPE));
        assert_eq!(sent.unwrap().0, Endpoint::Udp(address(1)), "and left again");
    }
}

#[test]
fn a_session_comes_about_where_nothing_but_quic_ever_passed() {
    for cipher in ALL {
        let mut net = Net::new(cipher, 2, &[(0, 1)]);
        net.block_plain(0, 1);
        net.run(Micros::from_secs(30));
        assert!(net.link_states(0).is_empty());
        // By now plain attempts are ten seconds apart. The connection is news that does not wait for the next.
        net.connect(0, 1);
        net.run(SECOND);
        assert!(
            net.link_states(0).contains(&LinkState::Up),
            "{:?}",
            net.link_states(0)
        );
        net.route(0, &[(1, 1)]);
        net.send(0, &packet(0, 1, b"hello"));
        net.run(SECOND);
        assert_eq!(net.delivered(1), [packet(0, 1, b"hello")]);
    }
}

#[test]
fn relay_frames_travel_over_quic_like_everything_else() {
    for cipher in ALL {
        let mut net = Net::new(cipher, 3, &[(0, 1), (1, 2)]);
        for (one, other) in [(0, 1), (1, 2)] {
            net.block_plain(one, other);
            net.connect(one, other);
        }
        net.run(Micros::from_secs(3));
        net.route_over(Carrier::Quic, 0, &[(1, 1), (2, 1)]);
        net.route_over(Carrier::Quic, 1, &[(0, 0), (2, 2)]);
        net.route_over(Carrier::Quic, 2, &[(0, 1), (1, 1)]);
        net.watch();
        net.send(0, &packet(0, 2, b"over a relay"));
        net.run(SECOND);
        assert_eq!(net.delivered(2), [packet_with(0, 2, 63, b"over a relay")]);
        let frames = net.seen().filter(|(_, bytes)| bytes[0] == FRAME_TYPE);
        let frames: Vec<_> = frames.collect();
        assert!(frames.len() >= 2);
        for (to, _) in frames {
            assert!(matches!(to, Endpoint::Quic(_)));
        }
        assert_eq!(net.drops(0) + net.drops(1) + net.drops(2), 0);
    }
}

#[test]
fn a_connection_that_ends_is_not_sent_over_and_comes_back_as_the_same_link() {
    let mut net = with_connection(Protection::NULL);
    let quic = |net: &Net| net.status(0).links[1].clone();
    let before = quic(&net).link;
    net.disconnect(0, 1);
    assert_eq!(quic(&net).endpoint, None);
    net.watch();
    net.run(Micros::from_secs(5));
    assert!(
        net.seen()
            .all(|(to, _)| *to == Endpoint::Udp(address(0)) || *to == Endpoint::Udp(address(1)))
    );
    assert_eq!(net.link_states(0), [LinkState::Up, LinkState::Down]);
    net.connect(0, 1);
    net.run(Micros::from_secs(10));
    assert_eq!(net.link_states(0), [LinkState::Up, LinkState::Up]);
    assert_eq!(
        (quic(&net).link, quic(&net).endpoint),
        (before, Some(quic_address(1)))
    );
}

#[test]
fn a_message_over_the_connection_of_another_node_is_dropped_and_counted() {
    let mut net = Net::new(Protection::NOISE, 3, &[(0, 1), (0, 2), (1, 2)]);
    net.connect(0, 1);
    net.connect(0, 2);
    net.run(Micros::from_secs(2));
    net.route(1, &[(0, 0)]);
    net.watch();
    net.send(1, &packet(1, 0, b"from b"));
    let (_, datagram) = net.seen().find(|(_, bytes)| bytes[0] == 4).unwrap().clone();
    net.cut(0, 1);
    let delivered = net.delivered(0).len();
    net.inject_quic(2, 0, &datagram);
    assert_eq!(net.dropped(0, DropReason::ForeignConnection), 1);
    assert_eq!(net.delivered(0).len(), delivered);
    net.inject_quic(1, 0, &datagram);
    assert_eq!(
        net.delivered(0).len(),
        delivered + 1,
        "over its own it is welcome"
    );
}

#[test]
fn noise_over_a_connection_is_dropped_and_counted() {
    let mut net = with_connection(Protection::NOISE);
    net.run(SECOND);
    for length in 0..200 {
        net.inject_quic(1, 0, &vec![length as u8; length]);
    }
    assert_eq!(net.drops(0), 199, "an empty datagram is none");
    assert_eq!(net.link_states(0), [LinkState::Up, LinkState::Up]);
}
