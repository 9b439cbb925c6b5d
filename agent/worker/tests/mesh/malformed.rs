//! What is wrong on purpose: each packet is passed on or dropped by name, and the next one gets through.

use std::sync::Arc;

use wattle_dataplane::vnet::{Gso, NEEDS_CSUM};
use wattle_dataplane::{DropReason, Origin, Packet, VnetHeader};
use wattle_tunnel::{Local, Outcome, Rekey, Session};

use crate::ledger::assert_balanced;
use crate::wire::{self, Net, address, ip, ipv6, packet};
use crate::{ALL, SECOND, chain};

/// `a - b - c` with a session between the ends.
fn ready(protection: wire::Protection) -> Net {
    let mut net = chain(protection);
    net.send(0, &packet(0, 2, b"session"));
    net.run(SECOND);
    net
}

/// Hands node 0 a packet; how many packets it was, how many left, how many were dropped.
fn fate(net: &mut Net, header: VnetHeader, bytes: &[u8]) -> (u64, u64, u64) {
    let state = |net: &Net| {
        let counters = net.counters(0);
        let drops = net.dropped_from(0, Origin::Tun);
        (counters.tun_rx_packets, counters.sent_packets, drops)
    };
    let before = state(net);
    net.send_super(0, header, bytes);
    let after = state(net);
    assert_balanced(net, 0);
    (after.0 - before.0, after.1 - before.1, after.2 - before.2)
}

/// That the node still works.
fn assert_alive(net: &mut Net) {
    let before = net.delivered(2).len();
    net.send(0, &packet(0, 2, b"still alive"));
    net.run(SECOND);
    assert!(net.delivered(2).len() > before);
    (0..3).for_each(|node| assert_balanced(net, node));
}

fn udp(length: usize) -> Vec<u8> {
    let mut udp = vec![0x10, 0, 0x20, 0, 0, 0, 0x12, 0x34];
    udp[4..6].copy_from_slice(&((8 + length) as u16).to_be_bytes());
    udp.resize(8 + length, 7);
    udp
}

#[test]
fn packets_cut_at_every_length_are_dropped_by_name() {
    for protection in ALL {
        let mut net = ready(protection);
        for whole in [
            packet(0, 2, b"payload"),
            wire::tcp(0, 2, b"payload"),
            ipv6(0, 2, 17, &udp(7)),
        ] {
            for length in 0..whole.len() {
                let cut = &whole[..length];
                assert_eq!(
                    fate(&mut net, VnetHeader::default(), cut),
                    (1, 0, 1),
                    "{length}"
                );
            }
            let mut trailing = whole.clone();
            trailing.extend([9; 50]);
            assert_eq!(fate(&mut net, VnetHeader::default(), &trailing), (1, 1, 0));
        }
        assert_eq!(net.dropped(0, DropReason::Malformed), 35 + 47 + 55);
        assert_alive(&mut net);
        assert!(
            net.delivered(2)
                .iter()
                .all(|bytes| { Packet::parse(bytes).is_some_and(|ip| ip.length == bytes.len()) })
        );
    }
}

#[test]
fn super_packets_whose_header_lies_are_cut_as_it_says_or_dropped_by_name() {
    for protection in ALL {
        let mut net = ready(protection);
        let payload = 3_000;
        let tcp = wire::tcp(0, 2, &vec![1; payload]);
        let datagram = ip(0, 2, 64, 17, &udp(payload));
        let tcp_v6 = ipv6(0, 2, 6, &tcp[20..]);
        let sizes = [
            0, 1, 7, 1_300, 1_320, 1_332, 1_333, 2_999, 3_000, 3_001, 65_535,
        ];
        for (bytes, headers, right) in [
            (tcp, 40, Gso::TcpV4),
            (datagram, 28, Gso::UdpL4),
            (tcp_v6, 60, Gso::TcpV6),
        ] {
            for gso in [Gso::TcpV4, Gso::TcpV6, Gso::UdpL4] {
                for gso_size in sizes {
                    for (hdr_len, csum_start, csum_offset) in [
                        (headers, headers - 20, 16),
                        (0, 0, 0),
                        (1, 65_535, 65_535),
                        (65_535, 39, 1),
                    ] {
                        let header = VnetHeader {
                            flags: NEEDS_CSUM,
                            gso,
                            hdr_len,
                            gso_size,
                            csum_start,
                            csum_offset,
                        };
                        let (packets, sent, dropped) = fate(&mut net, header, &bytes);
                        let what = format!("{protection:?} {right:?} as {header:?}");
                        assert_eq!(packets, sent + dropped, "{what}");
                        let fits = usize::from(gso_size.min(payload as u16)) + usize::from(headers)
                            <= 1_360;
                        let same = matches!(
                            (gso, right),
                            (Gso::UdpL4, Gso::UdpL4)
                                | (Gso::TcpV4 | Gso::TcpV6, Gso::TcpV4 | Gso::TcpV6)
                        );
                        let expected = match gso_size {
                            size if size > 0 && same => payload.div_ceil(size.into()) as u64,
                            _ => 1,
                        };
                        let passes = same && gso_size > 0 && fits;
                        assert_eq!(
                            (packets, sent),
                            (expected, if passes { expected } else { 0 }),
                            "{what}"
                        );
                    }
                }
            }
        }
        assert_alive(&mut net);
    }
}

#[test]
fn a_segment_of_every_length_arrives_with_its_checksum_right() {
    for protection in ALL {
        let mut net = ready(protection);
        let before = net.delivered(2).len();
        let mut sizes = 0;
        for length in (1..60).chain(1_290..1_340) {
            let bytes = wire::tcp(0, 2, &vec![length as u8; 2 * length + 1]);
            let header = VnetHeader {
                flags: NEEDS_CSUM,
                gso: Gso::TcpV4,
                hdr_len: 40,
                gso_size: length as u16,
                csum_start: 20,
                csum_offset: 16,
            };
            let (packets, sent, dropped) = fate(&mut net, header, &bytes);
            let whole = if length + 40 <= 1_360 { 3 } else { 0 };
            assert_eq!((packets, sent, dropped), (3, whole, 3 - whole), "{length}");
            sizes += whole as usize * length / 3 * 2 + usize::from(whole > 0);
            net.run(wattle_model::Micros::from_millis(10));
        }
        net.run(SECOND);
        let payload: usize = net.delivered(2)[before..]
            .iter()
            .map(|bytes| bytes.len() - 40)
            .sum();
        assert_eq!(payload, sizes);
        assert_alive(&mut net);
    }
}

#[test]
fn fragments_and_wrong_checksums_are_the_ends_business() {
    for protection in ALL {
        let mut net = ready(protection);
        let mut expected = Vec::new();
        for field in [0x2000_u16, 0x2001, 0x00b9, 0x1fff] {
            let mut fragment = packet(0, 2, &[3; 100]);
            fragment[6..8].copy_from_slice(&field.to_be_bytes());
            assert_eq!(fate(&mut net, VnetHeader::default(), &fragment), (1, 1, 0));
            expected.push(fragment.clone());
            // A fragment cannot be a super-packet, and no checksum of its own is left to be completed.
            for gso in [Gso::TcpV4, Gso::UdpL4] {
                let header = VnetHeader {
                    gso,
                    gso_size: 50,
                    ..VnetHeader::default()
                };
                assert_eq!(fate(&mut net, header, &fragment), (1, 0, 1));
            }
        }
        let mut wrong = wire::tcp(0, 2, b"with a checksum that is wrong");
        wrong[36..38].copy_from_slice(&[0xde, 0xad]);
        assert_eq!(fate(&mut net, VnetHeader::default(), &wrong), (1, 1, 0));
        expected.push(wrong);
        net.run(SECOND);
        let arrived: Vec<_> = net.delivered(2)[1..]
            .iter()
            .map(|bytes| bytes[20..].to_vec())
            .collect();
        let sent: Vec<_> = expected.iter().map(|bytes| bytes[20..].to_vec()).collect();
        assert_eq!(arrived, sent, "nothing was repaired or joined");
        assert_alive(&mut net);
    }
}

#[test]
fn ipv6_extension_chains_of_every_kind_are_passed_on_or_dropped_by_name() {
    const UNIT: [u8; 8] = [0, 0, 1, 4, 0, 0, 0, 0];
    for protection in ALL {
        let mut net = ready(protection);
        for kind in [0_u8, 43, 44, 60, 50, 51, 59, 135, 140, 255] {
            for links in [1_usize, 2, 7, 8, 9, 100] {
                for length in [0_u8, 1, 255] {
                    let mut chain: Vec<u8> = UNIT.repeat(links);
                    for link in 0..links {
                        chain[8 * link] = if link + 1 == links { 17 } else { kind };
                        chain[8 * link + 1] = length;
                    }
                    chain.extend(udp(4));
                    let bytes = ipv6(0, 2, kind, &chain);
                    // To a node that only passes it on, all of these are packets; nobody walks them for ever.
                    assert_eq!(
                        fate(&mut net, VnetHeader::default(), &bytes),
                        (1, 1, 0),
                        "{kind} {links} {length}"
                    );
                    let whole = VnetHeader {
                        gso: Gso::UdpL4,
                        gso_size: 2,
                        flags: NEEDS_CSUM,
                        ..VnetHeader::default()
                    };
                    let (packets, sent, dropped) = fate(&mut net, whole, &bytes);
                    assert_eq!(packets, sent + dropped);
                    assert!(
                        sent == 0 || matches!(kind, 0 | 43 | 44 | 60),
                        "{kind} {links} {length}"
                    );
                }
            }
        }
        assert_alive(&mut net);
    }
}

#[test]
fn sixty_four_kilobytes_from_either_side_are_survived() {
    for protection in ALL {
        let mut net = ready(protection);
        let largest = ip(0, 2, 64, 17, &udp(65_535 - 28));
        assert_eq!(fate(&mut net, VnetHeader::default(), &largest), (1, 0, 1));
        assert_eq!(net.dropped(0, DropReason::TooBig), 1);
        // One byte per segment: as many packets as fit the batch leave, and the rest has a name.
        let ones = wire::tcp(0, 2, &vec![1; 65_000]);
        let header = VnetHeader {
            gso: Gso::TcpV4,
            gso_size: 1,
            flags: NEEDS_CSUM,
            csum_start: 20,
            csum_offset: 16,
            hdr_len: 40,
        };
        let (packets, sent, dropped) = fate(&mut net, header, &ones);
        assert_eq!((packets, sent + dropped), (65_000, 65_000));
        assert_eq!(net.dropped(0, DropReason::TxBatchFull), dropped);
        assert!(sent > 1_000, "{sent}");
        net.run(SECOND);
        let before = net.dropped_from(2, Origin::Wire);
        for kind in [0_u8, 1, 2, 3, 4, 5, 0x57, 0x58, 0xff] {
            for from in [address(1), wire::stranger()] {
                net.inject(from, 2, &vec![kind; 65_507]);
            }
        }
        assert_eq!(net.dropped_from(2, Origin::Wire), before + 18);
        assert_alive(&mut net);
    }
}

#[test]
fn an_authentic_peer_that_sends_rubbish_is_counted_and_goes_on() {
    for protection in ALL {
        let mut net = chain(protection);
        let leaf = net.add_leaf(2);
        let local = Arc::new(Local::new(wire::secret(leaf), protection.cipher()));
        let mut session = Session::new(&local, net.key(2), 0x00be_ef00, Rekey::Ours);
        let mut buffer = vec![0; 70_000];
        let length = session.initiate(net.now(), &mut buffer).unwrap();
        let answers = net.inject(address(leaf), 2, &buffer[..length]);
        let Outcome::Reply(length) = session
            .open(net.now(), None, &answers[0], &mut buffer)
            .outcome
        else {
            panic!("no session");
        };
        net.inject(address(leaf), 2, &buffer[..length]);
        let mut say = |net: &mut Net, packet: &[u8]| {
            let (mut content, mut out) = (vec![0; packet.len() + 16], vec![0; packet.len() + 300]);
            content[..packet.len()].copy_from_slice(packet);
            let length = session
                .seal(&mut content, packet.len(), 1_360, &mut out)
                .unwrap();
            net.inject(address(leaf), 2, &out[..length]);
            assert_balanced(net, 2);
        };
        let good = packet(leaf, 2, b"good");
        for length in 1..good.len() {
            let mut cut = good[..length].to_vec();
            say(&mut net, &cut);
            // boringtun looks at the length that an IPv4 packet claims by itself.
            cut[0] = 0x75;
            say(&mut net, &cut);
        }
        let mut long = ip(leaf, 2, 64, 17, &udp(60_000));
        say(&mut net, &long);
        long[2..4].copy_from_slice(&[0xff, 0xff]);
        say(&mut net, &long);
        // Padding completes what was cut behind the first block of 16 bytes, as far as the packet's own length goes.
        let malformed = 16 + (good.len() as u64 - 1) + 1;
        let drops = net.status(2).drops;
        assert_eq!(
            net.dropped(2, DropReason::Malformed),
            malformed,
            "{drops:?}"
        );
        // Two of them, whose destination was cut, were for node 0: they wait on the leaf's account, and are sent on.
        assert_eq!(net.counters(2).forwarded_packets, 0);
        say(&mut net, &packet(leaf, 1, b"far"));
        assert_eq!(net.counters(2).forwarded_packets, 1);
        net.run(SECOND);
        assert_eq!(net.counters(2).forwarded_packets, 3);
        assert_eq!(
            net.delivered(1).last().map(|bytes| &bytes[28..]),
            Some(&b"far"[..])
        );
        say(&mut net, &good);
        assert_eq!(
            net.delivered(2).last().map(|bytes| &bytes[20..]),
            Some(&good[20..])
        );
        (0..3).for_each(|node| assert_balanced(&net, node));
    }
}

mod arbitrary {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn whatever_the_kernel_hands_over_is_sent_or_dropped_by_name(
            edits in proptest::collection::vec((0_usize..120, any::<u8>()), 0..6),
            length in 0_usize..3_000,
            v6: bool,
            tcp: bool,
            header in any::<[u8; 10]>(),
            protection in 0..ALL.len(),
        ) {
            let mut net = ready(ALL[protection]);
            let transport = if tcp { wire::tcp(0, 2, &vec![5; length])[20..].to_vec() } else { udp(length) };
            let protocol = if tcp { 6 } else { 17 };
            let mut bytes = if v6 { ipv6(0, 2, protocol, &transport) } else { ip(0, 2, 64, protocol, &transport) };
            for (at, value) in edits {
                if let Some(byte) = bytes.get_mut(at) { *byte = value; }
            }
            let mut header = header;
            header[1] = [0, 1, 4, 5][usize::from(header[1]) % 4];
            let header = VnetHeader::from_bytes(&header).unwrap();
            let (packets, sent, dropped) = fate(&mut net, header, &bytes);
            prop_assert_eq!(packets, sent + dropped);
            prop_assert!(packets >= 1);
            assert_alive(&mut net);
        }
    }
}
