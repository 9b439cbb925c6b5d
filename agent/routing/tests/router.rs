//! One router and the neighbours that a test plays: whom it believes, what it tells, what it decides.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use wattle_model::{
    ApartCosts, Carrier, Class, Cost, Instant, LinkId, LinkState, Measurement, Micros, NodeId,
    Prefix, SeqNo, UnixTime,
};
use wattle_routing::{
    Cause, Config, Event, Happening, Input, Member, Members, Output, Policies, PolicyRule, Router,
    Thousandths,
};
use wattle_wire::control::Control;
use wattle_wire::flood::{Flood, RecordId};
use wattle_wire::key::SecretKey;
use wattle_wire::record::{
    Body, LinkEntry, LinksBody, NodeBody, PrefixesBody, Record, RecordKey, RecordKind, RemovalBody,
};

/// What every member may announce.
const GRANTED: &str = "10.0.0.0/8";
const START: Instant = Instant(1_000_000_000);
const TIME: UnixTime = UnixTime(1_700_000_000_000);

#[test]
fn a_link_counts_when_both_ends_report_it_at_the_worse_price() {
    let mut test = Test::new();
    test.link_up(1);
    assert_eq!(test.router.routes().routes.len(), 0);
    test.receive(1, &[test.links_record(1, 1, &[(0, 70_000)])]);
    let routes = test.router.routes().clone();
    assert_eq!(routes.routes[&node(1)].cost, Cost(70_000));
    let from_the_other = test.router.links()[&LinkId(1)].advertised();
    assert!(from_the_other < Cost(1_000), "{from_the_other}");
}

#[test]
fn a_boast_attracts_nothing() {
    let mut test = Test::new();
    test.link_up(1);
    test.link_up(2);
    test.receive(1, &[test.links_record(1, 1, &[(0, 500), (3, 1)])]);
    test.receive(2, &[test.links_record(2, 1, &[(0, 500), (3, 500)])]);
    test.receive(2, &[test.links_record(3, 1, &[(2, 500)])]);
    let route = test.router.routes().routes[&node(3)].clone();
    assert_eq!(route.next[0].neighbour, node(2));
}

#[test]
fn forged_and_strange_records_are_counted_and_forgotten() {
    let mut test = Test::new();
    test.link_up(1);
    let forged = record(
        node(2),
        RecordKind::Node,
        1,
        &Body::Node(NodeBody::default()),
        &key(3),
    );
    let stranger = record(
        key(99).public().node_id(),
        RecordKind::Node,
        1,
        &Body::Node(NodeBody::default()),
        &key(99),
    );
    let before = test.router.database().len();
    test.receive(1, &[forged, stranger]);
    let counters = test.router.counters();
    assert_eq!((counters.forged, counters.strangers), (1, 1));
    assert_eq!(test.router.database().len(), before);
}

#[test]
fn what_was_accepted_is_acknowledged_and_passed_on_to_the_others_only() {
    let mut test = Test::new();
    test.link_up(1);
    test.link_up(2);
    test.outputs();
    let news = test.links_record(3, 1, &[(1, 500)]);
    test.receive(1, std::slice::from_ref(&news));
    let sent = test.sent();
    assert_eq!(sent[&node(1)], [Flood::Ack(vec![RecordId::from(&news)])]);
    assert!(
        sent[&node(2)]
            .iter()
            .any(|flood| matches!(flood, Flood::Update(records) if records.contains(&news)))
    );
}

#[test]
fn what_the_sender_tells_a_common_neighbour_is_not_told_twice_unless_it_is_a_lost_link() {
    let mut test = Test::new();
    test.link_up(1);
    test.link_up(2);
    test.receive(2, &[test.links_record(2, 1, &[(0, 500), (1, 500)])]);
    test.receive(
        1,
        &[test.links_record(1, 1, &[(0, 500), (2, 500), (3, 500)])],
    );
    test.outputs();
    let dearer = test.links_record(1, 2, &[(0, 500), (2, 500), (3, 9_000)]);
    test.receive(1, &[dearer]);
    assert_eq!(test.sent().get(&node(2)), None);

    let lost = test.links_record(1, 3, &[(0, 500), (2, 500)]);
    test.receive(1, std::slice::from_ref(&lost));
    assert_eq!(test.sent()[&node(2)][0], Flood::Update(vec![lost]));
}

#[test]
fn an_old_record_that_comes_again_does_not_hurry_the_answer_to_it() {
    let mut test = Test::new();
    test.link_up(1);
    let (old, new) = (
        test.links_record(2, 1, &[(0, 500)]),
        test.links_record(2, 2, &[(0, 600)]),
    );
    test.receive(1, std::slice::from_ref(&new));
    test.outputs();
    let mut answers = Vec::new();
    for _ in 0..3 {
        test.receive_flood(1, &Flood::Update(vec![old.clone()]));
        test.router.handle_timeout(test.now);
        let sent = test.sent().remove(&node(1)).unwrap_or_default();
        answers.push(sent.contains(&Flood::Update(vec![new.clone()])));
    }
    assert_eq!(answers, [true, false, false]);
}

#[test]
fn a_record_is_sent_again_until_it_is_acknowledged() {
    let mut test = Test::new();
    test.link_up(1);
    let own = test.own(RecordKind::Node);
    let count = |test: &mut Test| {
        let sent = test.sent();
        let floods = sent.get(&node(1)).cloned().unwrap_or_default();
        floods
            .iter()
            .filter(|flood| matches!(flood, Flood::Update(records) if records.contains(&own)))
            .count()
    };
    test.receive_flood(1, &Flood::Request(vec![own.key()]));
    assert_eq!(count(&mut test), 1);
    test.run(Micros::from_secs(1));
    assert!(count(&mut test) >= 3);
    test.receive_flood(1, &Flood::Ack(vec![RecordId::from(&own)]));
    test.run(Micros::from_secs(5));
    assert_eq!(count(&mut test), 0);
}

#[test]
fn an_old_record_is_answered_with_the_new_one() {
    let mut test = Test::new();
    test.link_up(1);
    let (old, new) = (test.links_record(2, 1, &[]), test.links_record(2, 2, &[]));
    test.receive(1, std::slice::from_ref(&new));
    test.outputs();
    test.receive(1, &[old]);
    let sent = test.sent();
    assert!(sent[&node(1)].contains(&Flood::Update(vec![new])));
}

#[test]
fn a_removal_ends_a_membership_everywhere_and_for_good() {
    let mut test = Test::new();
    test.link_up(1);
    test.link_up(2);
    test.receive(1, &[test.links_record(1, 1, &[(0, 500)])]);
    test.receive(2, &[test.links_record(2, 1, &[(0, 500)])]);
    assert!(test.router.routes().routes.contains_key(&node(1)));
    let body = Body::Removal(RemovalBody {
        at: UnixTime(1),
        serial: 1,
    });
    let forged = record(node(1), RecordKind::Removal, 1, &body, &key(2));
    let removal = record(node(1), RecordKind::Removal, 1, &body, &root());
    test.receive(2, &[forged]);
    assert!(test.router.members().nodes.contains_key(&node(1)));
    test.receive(2, &[removal]);
    test.run(Micros::from_millis(200));
    assert!(!test.router.routes().routes.contains_key(&node(1)));
    let removed = Happening::NodeRemoved {
        node: node(1),
        serial: 1,
    };
    assert!(test.events().iter().any(|event| event.what == removed));
    // A peer set that still has the old grant does not bring the node back; one with a new grant does.
    test.handle(Input::Members(members()));
    assert!(!test.router.members().nodes.contains_key(&node(1)));
    let mut renewed = members();
    if let Some(member) = renewed.nodes.get_mut(&node(1)) {
        member.serial = 2;
    }
    test.handle(Input::Members(renewed));
    assert!(test.router.members().nodes.contains_key(&node(1)));
}

#[test]
fn records_are_signed_anew_before_they_lapse_and_lapse_when_nobody_does() {
    let mut test = Test::new();
    test.link_up(1);
    test.receive(1, &[test.links_record(1, 1, &[(0, 500)])]);
    let own = test.own(RecordKind::Links);
    test.run(Micros::from_secs(400));
    assert!(test.own(RecordKind::Links).seq().newer_than(own.seq()));
    assert!(test.router.routes().routes.contains_key(&node(1)));
    test.run(Micros::from_secs(600));
    assert!(!test.router.routes().routes.contains_key(&node(1)));
}

#[test]
fn after_a_price_changed_paths_are_brought_up_to_date_not_computed_anew() {
    let mut test = Test::new();
    test.link_up(1);
    test.link_up(2);
    test.receive(1, &[test.links_record(1, 1, &[(0, 500), (3, 500)])]);
    test.receive(2, &[test.links_record(2, 1, &[(0, 500), (3, 900)])]);
    test.receive(2, &[test.links_record(3, 1, &[(1, 500), (2, 900)])]);
    test.run(Micros::from_secs(2));
    assert_eq!(test.next_hops(3), [node(1)]);
    let before = test.router.counters();
    test.receive(1, &[test.links_record(1, 2, &[(0, 500), (3, 90_000)])]);
    test.run(Micros::from_secs(1));
    assert_eq!(test.next_hops(3), [node(2)]);
    let after = test.router.counters();
    let computed = after.computations - before.computations;
    assert!(computed > 0);
    assert_eq!(after.updates - before.updates, computed);
}

#[test]
fn a_prefix_that_moves_is_followed_with_no_path_computed() {
    let mut test = Test::new();
    test.link_up(1);
    test.receive(1, &[test.links_record(1, 1, &[(0, 500), (3, 500)])]);
    test.receive(1, &[test.links_record(3, 1, &[(1, 500)])]);
    test.run(Micros::from_secs(2));
    let before = test.router.counters();
    let paths = test.router.routes().routes.clone();
    let prefix: Prefix = GRANTED.parse().unwrap();
    for (origin, seq, announced, reached_at) in [
        (3, 1, vec![prefix], Some(node(3))),
        (1, 1, vec![prefix], Some(node(1))),
        (1, 2, vec![], Some(node(3))),
        (3, 2, vec![], None),
    ] {
        test.receive(1, &[prefixes_record(origin, seq, announced)]);
        test.run(Micros::from_secs(2));
        let routes = test.router.routes();
        assert_eq!(routes.prefixes.get(&prefix).copied(), reached_at);
        assert_eq!(routes.routes, paths);
    }
    let after = test.router.counters();
    assert!(after.computations >= before.computations + 4);
    assert_eq!(after.updates, before.updates);
}

#[test]
fn a_link_says_from_when_its_lower_price_counts() {
    let mut test = Test::new();
    test.measured(1, Micros::from_millis(40));
    test.run(Micros::from_secs(20));
    let said = |test: &Test| {
        let link = &test.router.links()[&LinkId(1)];
        (
            link.better_from(Class::Latency),
            link.advertised() < Cost(1_000),
        )
    };
    assert_eq!(said(&test), (None, false));
    test.measured(1, Micros(600));
    assert_eq!(said(&test), (Some(test.now + Micros::from_secs(5)), false));
    test.run(Micros::from_secs(5));
    assert_eq!(said(&test), (None, true));
    // A higher price is no reason to wait for the link.
    test.measured(1, Micros::from_millis(40));
    assert_eq!(said(&test), (None, true));
}

#[test]
fn a_policy_changes_prices_and_shares_at_once_and_is_undone_at_once() {
    let mut test = Test::new();
    test.link_up(1);
    test.link_up(2);
    for relay in [1, 2] {
        test.receive(relay, &[test.links_record(relay, 1, &[(0, 500), (3, 500)])]);
    }
    test.receive(1, &[test.links_record(3, 1, &[(1, 500), (2, 500)])]);
    test.run(Micros::from_secs(2));
    let advertised = |test: &Test| [1, 2].map(|id| test.router.links()[&LinkId(id)].advertised().0);
    let shares = |test: &Test| -> Vec<_> {
        let next = test.router.routes().routes[&node(3)].next.iter();
        next.map(|next| (next.neighbour, next.weight)).collect()
    };
    let plain = (advertised(&test), shares(&test));
    assert_eq!(plain, ([576, 576], vec![(node(1), 128), (node(2), 128)]));
    let of_one = PolicyRule {
        neighbour: Some(node(1)),
        ..PolicyRule::default()
    };
    for (rule, prices, shared) in [
        (
            PolicyRule {
                weight: Some(Thousandths(3_000)),
                ..of_one
            },
            [576, 576],
            vec![(node(1), 192), (node(2), 64)],
        ),
        (
            PolicyRule {
                weight: Some(Thousandths(0)),
                ..of_one
            },
            [576, 576],
            vec![(node(2), 256)],
        ),
        (
            PolicyRule {
                multiplier: Some(Thousandths(2_000)),
                addend: Some(Micros(20_000)),
                ..of_one
            },
            [20_480, 576],
            vec![(node(2), 256)],
        ),
        (
            PolicyRule {
                tier: Some(1),
                ..of_one
            },
            [Cost(576).in_tier(1).0, 576],
            vec![(node(2), 256)],
        ),
    ] {
        test.handle(Input::Policies(Policies {
            rules: vec![rule],
            ..Policies::default()
        }));
        test.run(Micros::from_millis(100));
        assert_eq!((advertised(&test), shares(&test)), (prices, shared));
        test.handle(Input::Policies(Policies::default()));
        test.run(Micros::from_millis(100));
        let mut undone = shares(&test);
        undone.sort_by_key(|(neighbour, _)| *neighbour != node(1));
        assert_eq!((advertised(&test), undone), plain);
    }
}

#[test]
fn a_class_priced_apart_takes_ways_of_its_own_from_the_same_database() {
    let mut test = Test::new();
    test.link_up(1);
    test.link_up(2);
    for (relay, onward) in [(1, 500), (2, 5_000)] {
        test.receive(
            relay,
            &[test.links_record(relay, 1, &[(0, 500), (3, onward)])],
        );
    }
    test.receive(1, &[test.links_record(3, 1, &[(1, 500), (2, 5_000)])]);
    test.run(Micros::from_secs(2));
    let next = |test: &Test, class| {
        let route = &test.router.routes_of(class).routes[&node(3)];
        route.next[0].neighbour
    };
    let told = |test: &Test| test.router.links()[&LinkId(1)].advertised_apart();
    assert_eq!(Class::ALL.map(|class| next(&test, class)), [node(1); 3]);
    assert_eq!(told(&test), ApartCosts::NONE);
    let rule = PolicyRule {
        neighbour: Some(node(1)),
        class: Some(Class::Bulk),
        tier: Some(1),
        ..PolicyRule::default()
    };
    test.handle(Input::Policies(Policies {
        rules: vec![rule],
        apart: BTreeSet::from([Class::Bulk]),
    }));
    test.run(Micros::from_millis(100));
    let ways = [node(1), node(2), node(1)];
    assert_eq!(Class::ALL.map(|class| next(&test, class)), ways);
    assert_eq!(told(&test).of(Class::Bulk).map(Cost::tiers), Some(1));
    let path = test.router.path(Class::Bulk, node(3)).unwrap();
    assert_eq!(path.hops.len(), 2);
    assert_eq!(path.hops[0].to, node(2));
    // The other way fails: a class gives up a tier before it gives up its packets.
    test.link(2, LinkState::Down);
    assert_eq!(Class::ALL.map(|class| next(&test, class)), [node(1); 3]);
    // What others price apart is heeded without a word in one's own configuration.
    test.link_up(2);
    test.handle(Input::Policies(Policies::default()));
    test.run(Micros::from_secs(2));
    assert_eq!(Class::ALL.map(|class| next(&test, class)), [node(1); 3]);
    let mut links = test.links_of(&[(0, 500), (3, 500)]);
    links[1].apart = ApartCosts::NONE.with(Class::Bulk, Cost(50_000));
    test.receive(1, &[test.record_of(1, 2, links)]);
    test.run(Micros::from_millis(100));
    assert_eq!(Class::ALL.map(|class| next(&test, class)), ways);
}

#[test]
fn a_failed_link_is_told_and_routed_around_at_once() {
    let mut test = Test::new();
    test.link_up(1);
    test.link_up(2);
    test.receive(1, &[test.links_record(1, 1, &[(0, 500), (2, 500)])]);
    test.receive(2, &[test.links_record(2, 1, &[(0, 500), (1, 500)])]);
    test.run(Micros::from_millis(200));
    assert_eq!(test.next_hops(1), [node(1)]);
    let backup = test.router.routes().routes[&node(1)].backup.clone();
    assert_eq!(backup.map(|backup| backup.neighbour), Some(node(2)));
    test.outputs();
    test.link(1, LinkState::Suspect);
    assert_eq!(test.next_hops(1), [node(1)]);
    assert_eq!(test.own_links(), [node(1), node(2)]);
    test.link(1, LinkState::Down);
    assert_eq!(test.next_hops(1), [node(2)]);
    assert_eq!(test.own_links(), [node(2)]);
    let down = test
        .events()
        .into_iter()
        .find(|e| matches!(e.what, Happening::LinkDown { .. }));
    let changed = test.router.routes().routes[&node(1)].clone();
    assert_eq!(changed.hops, 2);
    assert_ne!(down.map(|event| event.cause.trace()), Some(0));
}

#[test]
fn a_failure_that_may_not_be_told_yet_is_the_cause_of_what_it_changes() {
    let mut test = Test::new();
    let spare = [1, 2].map(|to| [Carrier::Udp6, Carrier::Quic].map(|carrier| (to, carrier)));
    for (to, carrier) in spare.concat() {
        test.link_over(carrier, to, LinkState::Up);
    }
    test.link_up(1);
    test.link_up(2);
    test.receive(1, &[test.links_record(1, 1, &[(0, 500), (2, 500)])]);
    test.receive(2, &[test.links_record(2, 1, &[(0, 500), (1, 500)])]);
    test.run(Micros::from_secs(5));
    assert_eq!(test.next_hops(1), [node(1)]);
    // As many failures as may be told at once.
    for (to, carrier) in spare.concat() {
        test.link_over(carrier, to, LinkState::Down);
    }
    test.link(1, LinkState::Suspect);
    test.now = test.now + Micros::from_millis(7);
    test.outputs();
    test.link(1, LinkState::Down);
    assert!(test.own_links().contains(&node(1)), "others were told");
    assert_eq!(test.next_hops(1), [node(2)]);
    let moved = test.moved(1);
    let lost = Cause::LinkLost {
        neighbour: node(1),
        carrier: Carrier::Udp4,
    };
    assert_eq!(
        (moved.cause, moved.latency),
        (lost, Some(Micros::from_millis(7)))
    );
}

#[test]
fn a_record_of_a_lost_link_tells_for_how_long_it_was_suspected() {
    let mut test = Test::new();
    test.link_up(1);
    test.link_up(2);
    test.link(1, LinkState::Suspect);
    test.now = test.now + Micros::from_millis(7);
    test.link(1, LinkState::Down);
    assert_eq!(test.own_links(), [node(2)]);
    assert_eq!(test.suspected(), Micros::from_millis(7));
    // What it says next is no loss.
    test.link_up(3);
    test.run(Micros::from_secs(5));
    assert_eq!(test.own_links(), [node(2), node(3)]);
    assert_eq!(test.suspected(), Micros(0));
}

#[test]
fn what_follows_a_link_that_others_lost_is_timed_from_their_first_suspicion() {
    let mut test = Test::with_two_ways_to_3();
    let at = UnixTime(TIME.0 + test.now.since(START).as_millis() - 20);
    let body = LinksBody {
        at,
        suspected: Micros::from_millis(40),
        links: test.links_of(&[(0, 500)]),
    };
    test.outputs();
    let body = Body::Links(body);
    test.receive(1, &[record(node(1), RecordKind::Links, 2, &body, &key(1))]);
    assert_eq!(test.next_hops(3), [node(2)]);
    let moved = test.moved(3);
    let since_told = Micros::from_millis(moved.time.0 - at.0);
    assert!(since_told >= Micros::from_millis(20), "{since_told:?}");
    assert_eq!(moved.latency, Some(Micros(since_told.0 + 40_000)));
}

#[test]
fn routes_that_wait_their_turn_are_timed_from_what_they_wait_for_whatever_its_origin_says_next() {
    // Then node 1 tells another price: of its link to node 0, or one that the other end's word hides.
    for price in [5_000, 400] {
        let mut test = Test::with_two_ways_to_3();
        let at = UnixTime(TIME.0 + test.now.since(START).as_millis());
        let body = Body::Links(LinksBody {
            at,
            suspected: Micros::from_millis(40),
            links: test.links_of(&[(0, 500)]),
        });
        let lost = record(node(1), RecordKind::Links, 2, &body, &key(1));
        test.outputs();
        test.receive_flood(1, &Flood::Update(vec![lost.clone()]));
        test.run(Micros::from_millis(15));
        assert_eq!(test.next_hops(3), [node(1)], "node 2 goes first");
        test.receive_flood(
            1,
            &Flood::Update(vec![test.links_record(1, 3, &[(0, price)])]),
        );
        test.run(Micros::from_millis(200));
        assert_eq!(test.next_hops(3), [node(2)]);
        let moved = test.moved(3);
        let since_told = moved.time.0 - at.0;
        assert_eq!(moved.cause, Cause::Record((&lost).into()), "{price}");
        let latency = moved.latency.map(Micros::as_millis);
        assert_eq!(latency, Some(since_told + 40), "{price}");
    }
}

#[test]
fn a_record_without_a_time_tells_nothing_of_when_it_began() {
    let mut test = Test::new();
    test.link_up(1);
    test.outputs();
    let body = Body::Links(LinksBody {
        links: test.links_of(&[(0, 500)]),
        ..LinksBody::default()
    });
    test.receive(1, &[record(node(1), RecordKind::Links, 1, &body, &key(1))]);
    let events = test.events();
    let joined = events
        .iter()
        .find(|event| matches!(event.what, Happening::NodeJoined { .. }));
    assert_eq!(joined.expect("a neighbour").latency, None);
}

#[test]
fn explain_shows_the_runner_up_and_adds_up() {
    let mut test = Test::new();
    test.link_up(1);
    test.link_up(2);
    test.receive(1, &[test.links_record(1, 1, &[(0, 500), (3, 500)])]);
    test.receive(2, &[test.links_record(2, 1, &[(0, 500), (3, 9_000)])]);
    test.receive(1, &[test.links_record(3, 1, &[(1, 500), (2, 500)])]);
    test.run(Micros::from_millis(200));
    let explanation = test.router.explain(Class::Latency, node(3)).unwrap();
    let ways: Vec<_> = explanation
        .ways
        .iter()
        .map(|way| (way.neighbour, way.cost))
        .collect();
    let link = explanation.ways[0].link_cost;
    assert_eq!(
        ways,
        [
            (node(1), link.plus(Cost(500))),
            (node(2), link.plus(Cost(9_000)))
        ]
    );
    assert_eq!(
        explanation.path.map(|path| path.cost),
        explanation.route.map(|route| route.cost)
    );
    assert_eq!(test.router.explain(Class::Latency, node(0)), None);
    assert_eq!(test.router.explain(Class::Latency, NodeId(0)), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_message_makes_a_router_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 16_u8..20) {
        let mut test = Test::new();
        test.link_up(1);
        let mut payload = vec![kind];
        payload.extend(&bytes);
        test.handle(Input::Message { from: node(1), payload });
        test.handle(Input::Removal(bytes));
    }

    #[test]
    fn no_flipped_or_missing_byte_of_an_update_is_believed(at in 0_usize..200, cut in 0_usize..200) {
        let mut test = Test::new();
        test.link_up(1);
        let update = Flood::Update(vec![test.links_record(2, 1, &[(0, 500), (1, 500)])]);
        let before = test.router.database().fingerprint();
        let mut payload = Control::Flood(update).to_bytes();
        let length = payload.len();
        payload[at % length] ^= 0x40;
        test.handle(Input::Message { from: node(1), payload: payload.clone() });
        payload[at % length] ^= 0x40;
        payload.truncate(cut % length);
        test.handle(Input::Message { from: node(1), payload });
        prop_assert_eq!(test.router.database().fingerprint(), before);
    }
}

/// A router of node 0 in a network of nodes 0 to 3.
struct Test {
    router: Router,
    now: Instant,
    waiting: Vec<Output>,
}

impl Test {
    fn new() -> Self {
        let config = Config {
            identity: key(0),
            epoch: 1,
            seed: 1,
            version: "0.1.0".to_owned(),
            quic_port: None,
            time: TIME,
        };
        Self {
            router: Router::new(config, members(), START),
            now: START,
            waiting: Vec::new(),
        }
    }

    /// Node 1 is near to node 3, node 2 is far.
    fn with_two_ways_to_3() -> Self {
        let mut test = Test::new();
        test.link_up(1);
        test.link_up(2);
        test.receive(1, &[test.links_record(1, 1, &[(0, 500), (3, 500)])]);
        test.receive(2, &[test.links_record(2, 1, &[(0, 500), (3, 9_000)])]);
        test.receive(2, &[test.links_record(3, 1, &[(1, 500), (2, 9_000)])]);
        test.run(Micros::from_secs(5));
        assert_eq!(test.next_hops(3), [node(1)]);
        test
    }

    fn handle(&mut self, input: Input) {
        self.router.handle(input, self.now);
    }

    fn run(&mut self, span: Micros) {
        let end = self.now + span;
        while self.router.poll_timeout() <= end {
            self.now = self.router.poll_timeout().max(self.now);
            self.router.handle_timeout(self.now);
            while let Some(output) = self.router.poll_output() {
                self.waiting.push(output);
            }
        }
        self.now = end;
    }

    fn link_up(&mut self, neighbour: u8) {
        self.link(neighbour, LinkState::Up);
        self.run(Micros::from_millis(100));
    }

    fn link(&mut self, neighbour: u8, state: LinkState) {
        self.link_over(Carrier::Udp4, neighbour, state);
    }

    fn link_over(&mut self, carrier: Carrier, neighbour: u8, state: LinkState) {
        self.hear(carrier, neighbour, state, Micros(600));
    }

    fn measured(&mut self, neighbour: u8, rtt: Micros) {
        self.hear(Carrier::Udp4, neighbour, LinkState::Up, rtt);
    }

    fn hear(&mut self, carrier: Carrier, neighbour: u8, state: LinkState, rtt: Micros) {
        let measurement = Measurement {
            rtt,
            min_rtt: rtt,
            ..Measurement::default()
        };
        let beside = match carrier {
            Carrier::Udp4 => 0,
            Carrier::Udp6 => 100,
            Carrier::Quic => 200,
        };
        let link = LinkId(u32::from(neighbour) + beside);
        self.handle(Input::Link {
            link,
            neighbour: node(neighbour),
            carrier,
            state,
            measurement,
        });
    }

    fn receive(&mut self, from: u8, records: &[Record]) {
        self.receive_flood(from, &Flood::Update(records.to_vec()));
        self.router
            .handle_timeout(self.now + Micros::from_millis(100));
        self.now = self.now + Micros::from_millis(100);
    }

    fn receive_flood(&mut self, from: u8, flood: &Flood) {
        let payload = Control::Flood(flood.clone()).to_bytes();
        self.handle(Input::Message {
            from: node(from),
            payload,
        });
    }

    fn outputs(&mut self) -> Vec<Output> {
        let mut outputs = std::mem::take(&mut self.waiting);
        while let Some(output) = self.router.poll_output() {
            outputs.push(output);
        }
        outputs
    }

    fn sent(&mut self) -> BTreeMap<NodeId, Vec<Flood>> {
        let mut sent: BTreeMap<NodeId, Vec<Flood>> = BTreeMap::new();
        for output in self.outputs() {
            if let Output::Send {
                neighbour, payload, ..
            } = output
            {
                match Control::parse(&payload) {
                    Ok(Control::Flood(flood)) => sent.entry(neighbour).or_default().push(flood),
                    other => panic!("{other:?}"),
                }
            }
        }
        sent
    }

    fn events(&mut self) -> Vec<Event> {
        let events = self
            .outputs()
            .into_iter()
            .filter_map(|output| match output {
                Output::Event(event) => Some(event),
                _ => None,
            });
        events.collect()
    }

    /// What was told when packets to a node first went another way.
    fn moved(&mut self, to: u8) -> Event {
        let mut events = self.events().into_iter();
        let moved = events.find(|event| {
            matches!(&event.what, Happening::RouteChanged { destination, .. } if *destination == node(to))
        });
        moved.expect("packets go around")
    }

    fn own(&self, kind: RecordKind) -> Record {
        let key = RecordKey {
            origin: node(0),
            kind,
            part: 0,
        };
        self.router
            .database()
            .entry(key)
            .expect("the node wrote it")
            .record()
            .clone()
    }

    fn own_links(&self) -> Vec<NodeId> {
        match self.own(RecordKind::Links).body() {
            Body::Links(body) => {
                let mut ends: Vec<_> = body.links.iter().map(|link| link.neighbour).collect();
                ends.sort_by_key(|end| (0..4).position(|number| node(number) == *end));
                ends
            }
            other => panic!("{other:?}"),
        }
    }

    fn suspected(&self) -> Micros {
        match self.own(RecordKind::Links).body() {
            Body::Links(body) => body.suspected,
            other => panic!("{other:?}"),
        }
    }

    fn next_hops(&self, to: u8) -> Vec<NodeId> {
        let route = &self.router.routes().routes[&node(to)];
        route.next.iter().map(|next| next.neighbour).collect()
    }

    fn links_record(&self, origin: u8, seq: u64, links: &[(u8, u64)]) -> Record {
        self.record_of(origin, seq, self.links_of(links))
    }

    fn links_of(&self, links: &[(u8, u64)]) -> Vec<LinkEntry> {
        let entry = |(neighbour, cost): &(u8, u64)| LinkEntry {
            neighbour: node(*neighbour),
            carrier: Carrier::Udp4,
            cost: Cost(*cost),
            apart: ApartCosts::NONE,
            rtt: Micros(0),
            jitter: Micros(0),
            loss: wattle_model::Ppm(0),
        };
        links.iter().map(entry).collect()
    }

    fn record_of(&self, origin: u8, seq: u64, links: Vec<LinkEntry>) -> Record {
        let body = Body::Links(LinksBody {
            at: UnixTime(1),
            links,
            ..LinksBody::default()
        });
        record(node(origin), RecordKind::Links, seq, &body, &key(origin))
    }
}

fn prefixes_record(origin: u8, seq: u64, prefixes: Vec<Prefix>) -> Record {
    let at = UnixTime(1);
    let body = Body::Prefixes(PrefixesBody { at, prefixes });
    record(node(origin), RecordKind::Prefixes, seq, &body, &key(origin))
}

fn record(origin: NodeId, kind: RecordKind, seq: u64, body: &Body, signer: &SecretKey) -> Record {
    let key = RecordKey {
        origin,
        kind,
        part: 0,
    };
    Record::sign(
        root().public().network_id(),
        key,
        SeqNo(seq),
        900,
        body,
        signer,
    )
}

fn members() -> Members {
    let member = |number| {
        let identity = key(number).public();
        (
            identity.node_id(),
            Member {
                identity,
                serial: 1,
                prefixes: vec![GRANTED.parse().expect("a prefix")],
            },
        )
    };
    let root = root().public();
    Members {
        network: root.network_id(),
        root,
        nodes: (0..4).map(member).collect(),
    }
}

fn root() -> SecretKey {
    SecretKey::from_seed(&[255; 32])
}

fn key(number: u8) -> SecretKey {
    SecretKey::from_seed(&[number + 1; 32])
}

fn node(number: u8) -> NodeId {
    key(number).public().node_id()
}
