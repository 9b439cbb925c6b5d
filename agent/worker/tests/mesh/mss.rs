//! Stories of connections whose ends would send more than the path carries (`docs/protocol/path-mtu.md` §5).

use wattle_dataplane::VnetHeader;
use wattle_dataplane::vnet::NEEDS_CSUM;
use wattle_model::Micros;

use crate::ledger::assert_balanced;
use crate::wire::{self, Net, Protection, packet};
use crate::{ALL, SECOND, chain};

const SYN: u8 = 0x02;
const SYN_ACK: u8 = 0x12;
/// What an end with an MTU of 1500 announces.
const ETHERNET: u16 = 1_460;

/// The chain of nodes that clamp.
fn clamping(protection: Protection) -> Net {
    let mut net = Net::new(protection, 3, &[(0, 1), (1, 2)]);
    net.clamp_mss();
    net.run(Micros::from_secs(2));
    net.route(0, &[(1, 1), (2, 1)]);
    net.route(1, &[(0, 0), (2, 2)]);
    net.route(2, &[(0, 1), (1, 1)]);
    net
}

fn segment(flags: u8, mss: u16) -> Vec<u8> {
    let mut tcp = vec![
        0x10, 0, 0x20, 0, 0, 0, 0, 5, 0, 0, 0, 9, 0x60, flags, 1, 0, 0, 0, 0, 0, 2, 4,
    ];
    tcp.extend(mss.to_be_bytes());
    tcp
}

/// The pseudo header's sum in place of the checksum, as the kernel leaves it.
fn partial(mut packet: Vec<u8>, addresses: std::ops::Range<usize>, transport: usize) -> Vec<u8> {
    let length = packet.len() - transport;
    let sum = wattle_dataplane::checksum::pseudo_header(&packet[addresses], 6, length);
    packet[transport + 16..transport + 18].copy_from_slice(&sum.to_be_bytes());
    packet
}

fn complete(mut packet: Vec<u8>, transport: usize) -> Vec<u8> {
    let checksum = !wattle_dataplane::checksum::sum(&packet[transport..]);
    packet[transport + 16..transport + 18].copy_from_slice(&checksum.to_be_bytes());
    packet
}

fn announced(packet: &[u8], transport: usize) -> u16 {
    u16::from_be_bytes([packet[transport + 22], packet[transport + 23]])
}

#[test]
fn both_ends_announce_no_more_than_the_overlay_carries_in_both_families() {
    for protection in ALL {
        let mut net = clamping(protection);
        net.send(0, &packet(0, 2, b"session"));
        net.run(SECOND);
        for flags in [SYN, SYN_ACK] {
            let v4 = wire::ip(0, 2, 64, 6, &segment(flags, ETHERNET));
            let v6 = wire::ipv6(0, 2, 6, &segment(flags, ETHERNET));
            for (bytes, addresses, transport, most) in
                [(v4, 12..20, 20, 1_320), (v6, 8..40, 40, 1_300)]
            {
                let bytes = partial(bytes, addresses.clone(), transport);
                let header = VnetHeader {
                    flags: NEEDS_CSUM,
                    csum_start: transport as u16,
                    csum_offset: 16,
                    ..VnetHeader::default()
                };
                let before = net.delivered(2).len();
                net.send_super(0, header, &bytes);
                net.send(0, &complete(bytes, transport));
                net.run(SECOND);
                for arrived in &net.delivered(2)[before..] {
                    assert_eq!(
                        announced(arrived, transport),
                        most,
                        "{protection:?} {flags}"
                    );
                }
                let complete = net.delivered(2).last().unwrap();
                let pseudo = wattle_dataplane::checksum::pseudo_header(
                    &complete[addresses],
                    6,
                    complete.len() - transport,
                );
                let sum = wattle_dataplane::checksum::sum(&complete[transport..]);
                assert_eq!(
                    wattle_dataplane::checksum::add(pseudo, sum),
                    0xffff,
                    "{protection:?}"
                );
                assert_eq!(net.delivered(2).len(), before + 2);
            }
        }
        assert_eq!(net.counters(0).clamped_packets, 8);
        assert_eq!(net.counters(2).clamped_packets, 0, "once is enough");
        (0..3).for_each(|node| assert_balanced(&net, node));
    }
}

#[test]
fn a_narrow_path_lowers_what_comes_in_and_what_goes_out() {
    for protection in ALL {
        let mut net = clamping(protection);
        net.narrow(1, 2, 1_300 - 28);
        // Only the far end sends large packets, so it alone knows the path's size.
        for _ in 0..200 {
            net.send(2, &packet(2, 0, &[7; 1_332]));
            net.run(Micros::from_millis(100));
        }
        let most = 1_168 - 40;
        let syn = complete(
            partial(wire::ip(0, 2, 64, 6, &segment(SYN, ETHERNET)), 12..20, 20),
            20,
        );
        net.send(0, &syn);
        net.run(SECOND);
        assert_eq!(announced(net.delivered(2).last().unwrap(), 20), most);
        let answer = complete(
            partial(
                wire::ip(2, 0, 64, 6, &segment(SYN_ACK, ETHERNET)),
                12..20,
                20,
            ),
            20,
        );
        net.send(2, &answer);
        net.run(SECOND);
        assert_eq!(announced(net.delivered(0).last().unwrap(), 20), most);
        assert!(net.counters(2).clamped_packets >= 2);
    }
}

#[test]
fn a_connection_is_left_alone_unless_it_is_wanted_otherwise() {
    for protection in ALL {
        let mut net = chain(protection);
        let syn = complete(
            partial(wire::ip(0, 2, 64, 6, &segment(SYN, ETHERNET)), 12..20, 20),
            20,
        );
        net.send(0, &syn);
        net.run(SECOND);
        assert_eq!(announced(&net.delivered(2)[0], 20), ETHERNET);
    }
}
