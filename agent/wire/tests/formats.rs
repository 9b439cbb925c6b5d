//! What is written is read back; what is cut short, changed or made up is refused and never panics.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

use std::collections::BTreeMap;
use std::net::SocketAddr;

use proptest::prelude::*;
use wattle_model::{
    ApartCosts, Carrier, Class, Cost, Micros, NetworkId, NodeId, NodeIndex, Ppm, Prefix, SeqNo,
    UnixTime, WgKey,
};
use wattle_wire::DecodeError;
use wattle_wire::control::Control;
use wattle_wire::flood::{Buckets, Digest, Flood, MAX_IDS, MAX_KEYS, RecordId, Summary};
use wattle_wire::frame::{Clear, Header};
use wattle_wire::grant::{Grant, Holder, Peer, PeerSet, PeerSetError, SignedGrant, is_dialable};
use wattle_wire::key::SecretKey;
use wattle_wire::record::{
    Body, LinkEntry, LinksBody, NodeBody, PrefixesBody, Record, RecordKey, RecordKind, RemovalBody,
};

#[test]
fn records_read_as_they_were_signed() {
    for record in records() {
        let read = Record::parse(record.bytes()).unwrap();
        assert_eq!(read, record);
        let signer = if record.key().kind == RecordKind::Removal {
            root()
        } else {
            node(1)
        };
        assert_eq!(read.verify(network(), &signer.public()), Ok(()));
    }
}

#[test]
fn a_flipped_byte_makes_a_record_void() {
    for record in records() {
        let signer = if record.key().kind == RecordKind::Removal {
            root()
        } else {
            node(1)
        };
        for at in 0..record.bytes().len() {
            let mut bytes = record.bytes().to_vec();
            bytes[at] ^= 0x41;
            let read = Record::parse(&bytes);
            let verdict = read.and_then(|read| read.verify(network(), &signer.public()));
            assert!(verdict.is_err(), "byte {at} of {record:?}");
        }
    }
}

#[test]
fn a_truncated_record_is_refused() {
    for record in records() {
        for length in 0..record.bytes().len() {
            assert!(Record::parse(&record.bytes()[..length]).is_err());
        }
    }
}

#[test]
fn nobody_signs_for_another_node() {
    let record = links_record(node(1).public().node_id(), &node(2));
    assert_eq!(
        record.verify(network(), &node(2).public()),
        Err(DecodeError::Signature)
    );
    assert_eq!(
        record.verify(network(), &node(1).public()),
        Err(DecodeError::Signature)
    );
    let own = links_record(node(1).public().node_id(), &node(1));
    assert_eq!(
        own.verify(NetworkId(1), &node(1).public()),
        Err(DecodeError::Network)
    );
}

#[test]
fn link_state_messages_read_as_they_were_written_and_bear_no_truncation() {
    let ids: Vec<RecordId> = records().iter().map(RecordId::from).collect();
    let keys: Vec<RecordKey> = ids.iter().map(|id| id.key).collect();
    let digest = Digest {
        first: Some(keys[0]),
        last: None,
        records: ids.clone(),
    };
    for flood in [
        Flood::Update(records()),
        Flood::Ack(ids),
        Flood::Digest(digest),
        Flood::Request(keys),
        Flood::Summary(summary(8)),
    ] {
        let bytes = Control::Flood(flood.clone()).to_bytes();
        assert_eq!(Control::parse(&bytes), Ok(Control::Flood(flood)));
        for length in 0..bytes.len() {
            assert!(Control::parse(&bytes[..length]).is_err());
        }
    }
}

#[test]
fn a_summary_is_kind_20_and_one_fingerprint_per_part() {
    let bytes = Control::Flood(Flood::Summary(summary(2))).to_bytes();
    assert_eq!(
        bytes,
        [
            20, 0, 2, // summary of two parts
            0, 0, 0, 0, 0, 0, 0, 5, // origins below 2^63
            0, 0, 0, 0, 0, 0, 0, 6, // the others
        ]
    );
}

#[test]
fn a_summary_of_a_number_of_parts_that_is_no_power_of_two_or_too_large_is_refused() {
    for count in [0_u16, 3, 100, 256, 512] {
        let mut bytes = vec![20];
        bytes.extend(count.to_be_bytes());
        bytes.extend(vec![0; 8 * usize::from(count)]);
        assert!(Control::parse(&bytes).is_err(), "{count}");
    }
}

proptest! {
    #[test]
    fn every_key_lies_in_the_part_that_it_is_added_to(origin in any::<u64>(), bits in 0_u32..8) {
        let key = RecordKey { origin: NodeId(origin), kind: RecordKind::Links, part: 3 };
        let mut summary = Summary::empty(Buckets::new(1 << bits).unwrap());
        summary.add(key, 9);
        for (part, fingerprint) in summary.fingerprints().iter().enumerate() {
            let lies_within = summary.first_key(part) <= key && key <= summary.last_key(part);
            prop_assert_eq!(lies_within, *fingerprint == 9);
        }
    }
}

/// Two records, one in the first half of the origins and one in the second.
fn summary(parts: usize) -> Summary {
    let mut summary = Summary::empty(Buckets::new(parts).unwrap());
    for (origin, fingerprint) in [(1, 5), (u64::MAX, 6)] {
        let key = RecordKey {
            origin: NodeId(origin),
            kind: RecordKind::Node,
            part: 0,
        };
        summary.add(key, fingerprint);
    }
    summary
}

#[test]
fn the_largest_messages_fit_their_envelope() {
    let key = RecordKey {
        origin: NodeId(1),
        kind: RecordKind::Links,
        part: 0,
    };
    let id = RecordId { key, seq: SeqNo(1) };
    let digest = Digest {
        first: Some(key),
        last: Some(key),
        records: vec![id; MAX_IDS],
    };
    for flood in [
        Flood::Ack(vec![id; MAX_IDS]),
        Flood::Digest(digest),
        Flood::Request(vec![key; MAX_KEYS]),
        Flood::Summary(Summary::empty(Buckets::MOST)),
    ] {
        let length = Control::Flood(flood).to_bytes().len();
        assert!(length <= wattle_wire::control::MAX_MESSAGE, "{length}");
    }
}

#[test]
fn peer_sets_read_as_they_were_signed() {
    let set = peer_set();
    assert_eq!(PeerSet::open(&set.sign(&root()), &root().public()), Ok(set));
}

#[test]
fn a_flipped_or_missing_byte_makes_a_peer_set_void() {
    let bytes = peer_set().sign(&root());
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x41;
        assert!(
            PeerSet::open(&flipped, &root().public()).is_err(),
            "byte {at}"
        );
        assert!(
            PeerSet::open(&bytes[..at], &root().public()).is_err(),
            "length {at}"
        );
    }
}

#[test]
fn a_peer_set_of_another_root_is_void() {
    let bytes = peer_set().sign(&node(9));
    assert_eq!(
        PeerSet::open(&bytes, &root().public()),
        Err(PeerSetError::Invalid(DecodeError::Signature))
    );
}

#[test]
fn a_member_leaves_only_with_a_signed_removal() {
    let current = peer_set();
    let gone = node(2).public().node_id();
    let mut next = PeerSet {
        revision: 8,
        ..current.clone()
    };
    next.peers.remove(&gone);
    assert_eq!(next.may_follow(&current), Err(PeerSetError::Shrunken(gone)));
    next.removals.push(removal(gone, 4));
    assert_eq!(
        next.may_follow(&current),
        Err(PeerSetError::Shrunken(gone)),
        "an older serial"
    );
    next.removals.push(removal(gone, 5));
    assert_eq!(next.may_follow(&current), Ok(()));
    assert_eq!(
        current.may_follow(&next),
        Err(PeerSetError::Older {
            offered: 7,
            current: 8
        })
    );
}

#[test]
fn a_removed_grant_cannot_come_back() {
    let mut set = peer_set();
    let gone = node(2).public().node_id();
    set.removals.push(removal(gone, 5));
    assert_eq!(
        PeerSet::open(&set.sign(&root()), &root().public()),
        Err(PeerSetError::Removed(gone))
    );
}

#[test]
fn who_has_a_private_address_cannot_be_dialled_from_anywhere() {
    let at = |addresses: &[&str]| {
        let candidates = addresses
            .iter()
            .map(|ip| SocketAddr::new(ip.parse().unwrap(), 1));
        is_dialable(&candidates.collect::<Vec<_>>())
    };
    let private = [
        "10.1.2.3",
        "192.168.0.1",
        "100.64.0.1",
        "169.254.1.1",
        "fd00::1",
        "fe80::1",
        "::1",
    ];
    assert!(at(&["192.0.2.7", "2001:db8::7", "100.128.0.1"]));
    assert!(!at(&[]), "it dials");
    for address in private {
        assert!(!at(&["192.0.2.7", address]), "{address}");
    }
}

#[test]
fn two_members_cannot_own_the_same() {
    for (claim, change) in [
        (
            "name n1",
            Box::new(|grant: &mut Grant| grant.name = "n1".parse().unwrap())
                as Box<dyn Fn(&mut Grant)>,
        ),
        ("index 1", Box::new(|grant| grant.index = NodeIndex(1))),
        (
            "10.0.0.1/32",
            Box::new(|grant| grant.addresses = vec!["10.0.0.1".parse().unwrap()]),
        ),
        (
            "192.168.1.128/25",
            Box::new(|grant| {
                grant.prefixes = vec!["192.168.1.128/25".parse().unwrap()];
            }),
        ),
    ] {
        let mut set = peer_set();
        let second = node(2).public().node_id();
        let mut changed = grant(2);
        change(&mut changed);
        if let Some(peer) = set.peers.get_mut(&second) {
            peer.grant = SignedGrant::sign(changed, &root());
        }
        match PeerSet::open(&set.sign(&root()), &root().public()) {
            Err(PeerSetError::Conflict { what, .. }) => assert_eq!(what, claim),
            other => panic!("{claim}: {other:?}"),
        }
    }
}

proptest! {
    #[test]
    fn made_up_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..1300)) {
        let _ = Control::parse(&bytes);
        let _ = Record::parse(&bytes);
        let _ = SignedGrant::parse(&bytes);
        let _ = Clear::parse(&bytes);
        let _ = PeerSet::open(&bytes, &root().public());
        if let Some(sealed) = bytes.first_chunk() {
            let _ = Header::from_bytes(sealed);
        }
    }

    #[test]
    fn changed_messages_never_panic(at in 0_usize..4000, value in any::<u8>()) {
        let mut bytes = Control::Flood(Flood::Update(records())).to_bytes();
        let at = at % bytes.len();
        bytes[at] = value;
        let _ = Control::parse(&bytes);
    }

    #[test]
    fn links_read_as_they_were_signed(
        suspected in any::<u16>(),
        links in proptest::collection::vec(
            (any::<u64>(), 0..3_usize, proptest::array::uniform3(proptest::option::of((any::<u32>(), any::<u8>()))), any::<u32>(), any::<u32>(), any::<u32>()),
            0..20,
        ),
    ) {
        let cost = |(micros, tier)| Cost::told(micros).in_tier(tier);
        let links = links.into_iter().map(|(neighbour, carrier, [latency, bulk, admin], rtt, jitter, loss)| LinkEntry {
            neighbour: NodeId(neighbour),
            carrier: Carrier::ALL[carrier],
            cost: latency.map(cost).unwrap_or_default(),
            apart: [(Class::Bulk, bulk), (Class::Admin, admin)].into_iter().fold(
                ApartCosts::NONE,
                |costs, (class, apart)| apart.map_or(costs, |apart| costs.with(class, cost(apart))),
            ),
            rtt: Micros(rtt.into()),
            jitter: Micros(jitter.into()),
            loss: Ppm(loss),
        }).collect();
        let suspected = Micros::from_millis(suspected.into());
        let body = Body::Links(LinksBody { at: UnixTime(5), suspected, links });
        let key = RecordKey {
            origin: node(1).public().node_id(), kind: RecordKind::Links, part: 3,
        };
        let record = Record::sign(network(), key, SeqNo(9), 60, &body, &node(1));
        prop_assert_eq!(Record::parse(record.bytes()).unwrap().body(), body);
    }
}

fn root() -> SecretKey {
    SecretKey::from_seed(&[200; 32])
}

fn network() -> NetworkId {
    root().public().network_id()
}

fn node(number: u8) -> SecretKey {
    SecretKey::from_seed(&[number; 32])
}

fn links_record(origin: NodeId, signer: &SecretKey) -> Record {
    let link = LinkEntry {
        neighbour: NodeId(5),
        carrier: Carrier::Udp4,
        cost: Cost(1234),
        apart: ApartCosts::NONE,
        rtt: Micros(2000),
        jitter: Micros(10),
        loss: Ppm(7),
    };
    let body = Body::Links(LinksBody {
        at: UnixTime(1),
        links: vec![link, link],
        ..LinksBody::default()
    });
    let key = RecordKey {
        origin,
        kind: RecordKind::Links,
        part: 0,
    };
    Record::sign(network(), key, SeqNo::first_of(3), 3600, &body, signer)
}

fn removal(origin: NodeId, serial: u64) -> Record {
    let key = RecordKey {
        origin,
        kind: RecordKind::Removal,
        part: 0,
    };
    let body = Body::Removal(RemovalBody {
        at: UnixTime(1),
        serial,
    });
    Record::sign(network(), key, SeqNo(serial), u32::MAX, &body, &root())
}

fn records() -> Vec<Record> {
    let origin = node(1).public().node_id();
    let own = |kind, body| {
        let key = RecordKey {
            origin,
            kind,
            part: 0,
        };
        Record::sign(network(), key, SeqNo::first_of(3), 3600, &body, &node(1))
    };
    let prefixes: Vec<Prefix> = vec!["10.0.0.0/8".parse().unwrap(), "fd00::/64".parse().unwrap()];
    vec![
        own(
            RecordKind::Node,
            Body::Node(NodeBody {
                at: UnixTime(1),
                transit: Cost(20),
                version: "0.1.0".to_owned(),
                quic_port: Some(443),
            }),
        ),
        links_record(origin, &node(1)),
        own(
            RecordKind::Prefixes,
            Body::Prefixes(PrefixesBody {
                at: UnixTime(1),
                prefixes,
            }),
        ),
        removal(NodeId(77), 3),
    ]
}

fn grant(number: u8) -> Grant {
    let identity = node(number).public();
    Grant {
        network: network(),
        node: identity.node_id(),
        holder: Holder::Agent { identity },
        wireguard: WgKey([number; 32]),
        index: NodeIndex(number.into()),
        name: format!("n{number}").parse().unwrap(),
        addresses: vec![format!("10.0.0.{number}").parse().unwrap()],
        prefixes: vec![format!("192.168.{number}.0/24").parse().unwrap()],
        tags: vec!["edge".parse().unwrap()],
        site: Some("here".parse().unwrap()),
        serial: 5,
        not_after: UnixTime(u64::MAX),
    }
}

fn peer_set() -> PeerSet {
    let mut peers = BTreeMap::new();
    for number in 1..=3 {
        let peer = Peer {
            grant: SignedGrant::sign(grant(number), &root()),
            candidates: vec![
                "192.0.2.1:51820".parse().unwrap(),
                "[::1]:9".parse().unwrap(),
            ],
            neighbours: (number == 3).then(|| vec![NodeId(1)]),
        };
        peers.insert(peer.node(), peer);
    }
    let leaf = Grant {
        node: wattle_wire::grant::leaf_id(WgKey([9; 32])),
        holder: Holder::Leaf {
            host: node(1).public().node_id(),
        },
        ..grant(9)
    };
    let leaf = Peer {
        grant: SignedGrant::sign(leaf, &root()),
        candidates: Vec::new(),
        neighbours: None,
    };
    peers.insert(leaf.node(), leaf);
    PeerSet {
        network: network(),
        revision: 7,
        at: UnixTime(3),
        peers,
        removals: vec![removal(NodeId(77), 3)],
    }
}
