//! The ring of five with a chord, broken in the ways that matter: how soon packets flow again.
//!
//! ```text
//!        r0 --- r1 --- r2
//!        |      |      |
//!        +----- r4 --- r3          packets go from r0 to r2
//! ```

use wattle_model::{Instant, Micros, NodeId};
use wattle_routing::Happening;
use wattle_sim::{Edge, EdgeNumber, Fate, Fleet, NodeNumber};

const R0: NodeNumber = NodeNumber(0);
const R2: NodeNumber = NodeNumber(2);
const R0_R1: EdgeNumber = EdgeNumber(0);
const R1_R2: EdgeNumber = EdgeNumber(1);

#[test]
fn a_mesh_is_complete_a_third_of_a_second_after_its_start() {
    for seed in 0..20 {
        let mut fleet = ring(seed);
        let complete = |fleet: &Fleet| {
            fleet.nodes.iter().all(|node| {
                node.process
                    .as_ref()
                    .is_some_and(|process| process.router.routes().routes.len() == 4)
            })
        };
        let took = fleet.run_until(Micros::from_secs(5), complete);
        assert!(
            took.is_some_and(|took| took <= Micros::from_millis(350)),
            "{seed}: {took:?}"
        );
    }
}

#[test]
fn a_silent_cut_interrupts_for_a_tenth_of_a_second_near_and_far() {
    for edge in [R0_R1, R1_R2] {
        let mut outages: Vec<_> = (0..30)
            .map(|seed| outage_after(seed, |f| cut(f, edge)))
            .collect();
        outages.sort_unstable();
        assert!(outages[15] <= Micros::from_millis(100), "{outages:?}");
        assert!(outages[29] <= Micros::from_millis(130), "{outages:?}");
    }
}

#[test]
fn a_cut_in_one_direction_is_healed_too() {
    for seed in 0..30 {
        let outage = outage_after(seed, |fleet| {
            fleet.network.edges[R0_R1.0].cut = [true, false];
        });
        assert!(outage <= Micros::from_millis(350), "{seed}: {outage:?}");
    }
}

#[test]
fn a_crashed_relay_is_gone_around() {
    for seed in 0..30 {
        let outage = outage_after(seed, |fleet| fleet.crash(NodeNumber(1)));
        assert!(outage <= Micros::from_millis(130), "{seed}: {outage:?}");
    }
}

#[test]
fn a_link_that_loses_30_percent_is_left_within_a_second_and_once() {
    for seed in 0..20 {
        let mut fleet = settled(seed);
        fleet.network.edges[R0_R1.0].loss_percent = 30;
        let began = fleet.now;
        let left = fleet.run_until(Micros::from_secs(5), |fleet| !uses(fleet, NodeNumber(1)));
        assert!(
            left.is_some_and(|left| left <= Micros::from_secs(1)),
            "{seed}: {left:?}"
        );
        fleet.run(Micros::from_secs(60));
        assert_eq!(changes(&fleet, began), 1, "{seed}");
        assert!(!uses(&fleet, NodeNumber(1)));
    }
}

#[test]
fn a_link_that_lost_packets_for_half_a_minute_is_used_again_within_a_minute() {
    for seed in 0..20 {
        let mut fleet = settled(seed);
        fleet.run(Micros::from_secs(30));
        fleet.network.edges[R0_R1.0].loss_percent = 20;
        fleet.run(Micros::from_secs(30));
        assert!(!uses(&fleet, NodeNumber(1)), "{seed} still there");
        fleet.network.edges[R0_R1.0].loss_percent = 0;
        let back = fleet.run_until(Micros::from_secs(60), |fleet| uses(fleet, NodeNumber(1)));
        assert!(back.is_some(), "{seed}");
    }
}

#[test]
fn a_link_with_50_ms_more_is_left_within_a_second() {
    for seed in 0..20 {
        let mut fleet = settled(seed);
        fleet.network.edges[R0_R1.0].delay = Micros::from_millis(50);
        let left = fleet.run_until(Micros::from_secs(5), |fleet| !uses(fleet, NodeNumber(1)));
        assert!(
            left.is_some_and(|left| left <= Micros::from_secs(1)),
            "{seed}: {left:?}"
        );
    }
}

#[test]
fn a_link_that_was_slow_for_ten_seconds_is_used_again_within_a_minute() {
    for seed in 0..20 {
        let mut fleet = settled(seed);
        fleet.run(Micros::from_secs(30));
        let usual = fleet.network.edges[R0_R1.0].delay;
        fleet.network.edges[R0_R1.0].delay = Micros::from_millis(25);
        let left = fleet.run_until(Micros::from_secs(1), |fleet| !uses(fleet, NodeNumber(1)));
        assert!(left.is_some(), "{seed}");
        // Nothing but probes tells how it is from now on.
        fleet.set_busy(R0_R1, false);
        fleet.run(Micros::from_secs(10));
        assert!(!uses(&fleet, NodeNumber(1)), "{seed}");
        fleet.network.edges[R0_R1.0].delay = usual;
        let back = fleet.run_until(Micros::from_secs(60), |fleet| uses(fleet, NodeNumber(1)));
        assert!(back.is_some(), "{seed}");
    }
}

#[test]
fn nothing_is_lost_when_the_link_comes_back_and_it_is_used_again() {
    for seed in 0..20 {
        let mut fleet = settled(seed);
        cut(&mut fleet, R0_R1);
        fleet.run(Micros::from_secs(5));
        fleet.network.edges[R0_R1.0].cut = [false, false];
        assert_eq!(
            longest_outage(&mut fleet, Micros::from_secs(10)),
            Micros(0),
            "{seed}"
        );
        assert!(uses(&fleet, NodeNumber(1)), "{seed}");
    }
}

#[test]
fn a_drained_relay_loses_its_transit_without_a_lost_packet() {
    let mut fleet = settled(1);
    let drained = wattle_routing::Health {
        drained: true,
        ..wattle_routing::Health::default()
    };
    fleet.tell(NodeNumber(1), wattle_routing::Input::Health(drained));
    assert_eq!(
        longest_outage(&mut fleet, Micros::from_millis(500)),
        Micros(0)
    );
    assert!(!uses(&fleet, NodeNumber(1)));
    assert!(matches!(fleet.packet(R0, NodeNumber(1)), Fate::Arrived(_)));
}

#[test]
fn an_idle_node_speaks_little() {
    let mut fleet = ring(1);
    // First prices are mended once more when they have rested for half a minute.
    fleet.run(Micros::from_secs(90));
    let (sent, flooded) = (fleet.sent, fleet.flooded);
    fleet.run(Micros::from_secs(120));
    let sent = fleet.sent.since(&sent).datagrams;
    assert!(sent <= 120 * 6 * 4 + 100, "{sent}");
    assert_eq!(fleet.flooded.since(&flooded).datagrams, 0);
}

#[test]
fn in_a_full_mesh_a_price_is_told_to_everybody_once() {
    let mut fleet = Fleet::new(1, 12);
    for a in 0..12 {
        for b in 0..a {
            fleet.connect(Edge::new(NodeNumber(a), NodeNumber(b), Micros(200)));
        }
    }
    fleet.start_all();
    fleet.run(Micros::from_secs(60));
    let flooded = fleet.flooded;
    fleet.network.edges[0].delay = Micros::from_millis(20);
    fleet.run(Micros::from_secs(10));
    // Both ends tell it to eleven neighbours, who acknowledge, and again as the measurement settles. Passed on by
    // everybody to everybody each of these records would be 132 messages and as many acknowledgements.
    let messages = fleet.flooded.since(&flooded).datagrams;
    assert!((2 * 11..=3 * 2 * 2 * 11).contains(&messages), "{messages}");
}

fn ring(seed: u64) -> Fleet {
    let mut fleet = Fleet::new(seed, 5);
    for (a, b) in [(0, 1), (1, 2), (2, 3), (3, 4), (0, 4), (1, 4)] {
        let jitter = Micros(50);
        fleet.connect(Edge {
            jitter,
            ..Edge::new(NodeNumber(a), NodeNumber(b), Micros(200))
        });
    }
    fleet.start_all();
    fleet
}

/// The ring with users' packets on every edge, up for a while.
fn settled(seed: u64) -> Fleet {
    let mut fleet = ring(seed);
    fleet.run(Micros::from_millis(3_000 + seed * 3));
    for edge in 0..fleet.network.edges.len() {
        fleet.set_busy(EdgeNumber(edge), true);
    }
    fleet.run(Micros::from_secs(3));
    assert!(uses(&fleet, NodeNumber(1)), "{:?}", fleet.packet(R0, R2));
    fleet
}

fn cut(fleet: &mut Fleet, edge: EdgeNumber) {
    fleet.network.edges[edge.0].cut = [true, true];
}

fn uses(fleet: &Fleet, node: NodeNumber) -> bool {
    matches!(fleet.packet(R0, R2), Fate::Arrived(trail) if trail.contains(&node) && trail.len() == 3)
}

fn outage_after(seed: u64, harm: impl Fn(&mut Fleet)) -> Micros {
    let mut fleet = settled(seed);
    harm(&mut fleet);
    longest_outage(&mut fleet, Micros::from_secs(3))
}

/// The longest time without a packet that would arrive, either way.
fn longest_outage(fleet: &mut Fleet, span: Micros) -> Micros {
    let end = fleet.now + span;
    let (mut longest, mut current) = (Micros(0), Micros(0));
    let tick = Micros::from_millis(1);
    while fleet.now < end {
        let through = [(R0, R2), (R2, R0)]
            .into_iter()
            .all(|(from, to)| matches!(fleet.packet(from, to), Fate::Arrived(_)));
        current = if through {
            Micros(0)
        } else {
            Micros(current.0 + tick.0)
        };
        longest = longest.max(current);
        fleet.run(tick);
    }
    longest
}

/// How often packets from r0 to r2 got another way since then.
fn changes(fleet: &Fleet, since: Instant) -> usize {
    let target: NodeId = fleet.nodes[R2.0].id;
    let clock = fleet.clock_of(R0);
    let changed = |what: &Happening| {
        matches!(what, Happening::RouteChanged { destination, before, after, .. }
            if *destination == target && before.first() != after.first())
    };
    let own = fleet.events.iter().filter(|(number, _)| *number == R0);
    own.filter(|(_, event)| event.at >= since + clock && changed(&event.what))
        .count()
}
