//! Stories of paths that do not carry what they should (`docs/protocol/path-mtu.md`).

use wattle_dataplane::DropReason;
use wattle_model::Micros;

use crate::wire::{Net, packet};
use crate::{ALL, SECOND, chain};

/// What a UDP datagram has room for on an underlay of 1300 bytes.
const NARROW: usize = 1_300 - 28;
/// … less session and relay header, in whole blocks of padding above the least size.
const THROUGH_A_RELAY: usize = 1_168;

fn sized(from: usize, to: usize, bytes: usize) -> Vec<u8> {
    packet(from, to, &vec![7; bytes - 28])
}

fn path_mtu(net: &Net, node: usize, peer: usize) -> usize {
    let sessions = net.status(node).sessions;
    let session = sessions.iter().find(|session| session.peer == net.id(peer));
    session.expect("there is a session").path_mtu.into()
}

/// Large packets for a while.
fn stream(net: &mut Net, seconds: u64) {
    for _ in 0..seconds * 10 {
        net.send(0, &sized(0, 2, 1_360));
        net.run(Micros::from_millis(100));
    }
}

#[test]
fn a_narrow_link_behind_a_relay_is_noticed_and_senders_are_told() {
    for protection in ALL {
        let mut net = chain(protection);
        net.narrow(1, 2, NARROW);
        stream(&mut net, 20);
        assert_eq!(net.delivered(2).len(), 0);
        assert_eq!(path_mtu(&net, 0, 2), THROUGH_A_RELAY);
        assert!(net.dropped(0, DropReason::TooBig) > 50);
        let told = net.delivered(0).last().expect("an ICMP message");
        assert_eq!(told[9], 1, "ICMP");
        assert_eq!(told[20..22], [3, 4], "fragmentation needed");
        assert_eq!(told[26..28], (THROUGH_A_RELAY as u16).to_be_bytes());
        net.send(0, &sized(0, 2, THROUGH_A_RELAY));
        net.run(SECOND);
        assert_eq!(net.delivered(2).len(), 1);
        // The neighbour itself is behind no narrow link.
        assert_eq!(path_mtu(&net, 0, 1), 1_360);
    }
}

#[test]
fn a_path_that_is_wide_again_is_used_again() {
    let mut net = chain(ALL[0]);
    net.narrow(1, 2, NARROW);
    stream(&mut net, 20);
    net.narrow(1, 2, 1_500);
    // Senders who were told send smaller packets from then on.
    for _ in 0..1_300 {
        net.send(0, &sized(0, 2, THROUGH_A_RELAY));
        net.run(Micros::from_millis(100));
    }
    assert_eq!(path_mtu(&net, 0, 2), 1_360);
    let before = net.delivered(2).len();
    net.send(0, &sized(0, 2, 1_360));
    net.run(SECOND);
    assert_eq!(net.delivered(2).len(), before + 1);
}

#[test]
fn a_cut_path_is_not_taken_for_a_narrow_one() {
    let mut net = chain(ALL[0]);
    net.send(0, &packet(0, 2, b"session"));
    net.run(SECOND);
    net.cut(1, 2);
    stream(&mut net, 30);
    assert_eq!(path_mtu(&net, 0, 2), 1_360);
}
