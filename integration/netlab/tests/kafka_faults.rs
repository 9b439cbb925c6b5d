//! What the mirror does when the world is not as it left it: topics that are gone, cut or made anew, events that were
//! given up, records that are too large, clocks that jump, sites that move. Nothing is left out silently.
//! `sudo tools/test kafka` runs these; they need `WATTLE_KAFKA_LIBS`.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

mod admin;
mod delivery;
mod disk;
mod kept;
mod outbox;
mod sites;

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use wattle_api::Timestamp;
use wattle_api::gap::{DeadLetter, GapReason};
use wattle_api::measurement::{LinkMeasurement, LinkMetrics};
use wattle_api::snapshot::SnapshotReason;
use wattle_api::stream::{HEADER_SEQ, Kafka, LostTopic};
use wattle_api::topology::{Entity, TopologyEvent};
use wattle_model::{Carrier, NetworkId, NodeId};
use wattle_netlab::answer::{entities, json_lines, wattle_topology};
use wattle_netlab::kafka::proxy::{Cut, Outage};
use wattle_netlab::kafka::{Access, Broker};

use crate::admin::Admin;
use crate::delivery::{assert_exactly_once, eventually, start, topics};
use crate::disk::Disk;
use crate::kept::{
    chain_holds, complete_snapshot, events, gaps, last_in, snapshots, state_table, told, values,
};
use crate::outbox::{ListOutbox, config, event, start_with, wait_until};

#[test]
#[ignore = "needs a Kafka broker: run by tools/test kafka"]
fn a_snapshot_and_a_compacted_table_show_the_topology_as_its_event_left_it() {
    let broker = Broker::start(Access::Open).unwrap();
    let outbox = ListOutbox::with(1..=500);
    let mirror = start(&broker, 1, &outbox);
    wait_until(&mirror, 500);
    let snapshot = complete_snapshot(&broker);
    assert_eq!(
        (snapshot.reason, snapshot.seq),
        (SnapshotReason::Start, 500)
    );
    assert_eq!(snapshot.entities, told(500));
    let id = mirror.status().snapshot.unwrap();
    assert_eq!((id.term, id.seq), (1, 500));
    // Its events were there before it: a reader that takes it misses nothing.
    assert_exactly_once(&broker, 500);
    drop(mirror);

    // Fourteen images and tombstones of each node, of which the broker keeps few.
    let compacts = [
        ("cleanup.policy", "compact"),
        ("min.cleanable.dirty.ratio", "0"),
        ("segment.ms", "100"),
    ];
    Admin::of(&broker).set(&topics().state, &compacts);
    let mirror = start(&broker, 2, &outbox);
    for last in (520..=1_060).step_by(20) {
        outbox.add(last - 19..=last);
        wait_until(&mirror, last);
    }
    let mut last = 1_060;
    let written = 1_060 - 500;
    eventually("the broker compacts the state topic", || {
        // A segment that nothing is added to is not compacted.
        outbox.add(last + 1..=last + 40);
        last += 40;
        wait_until(&mirror, last);
        std::thread::sleep(Duration::from_millis(500));
        broker.kcat(&topics().state).unwrap().len() < written / 2
    });
    assert_eq!(state_table(&broker), told(last));
    let source = ["--json", "--kafka", &broker.bootstrap()].map(str::to_owned);
    let mut show = wattle_topology(&source, &["show"]).unwrap();
    let shown = json_lines(&mut show).unwrap().remove(0);
    assert_eq!(entities(&shown["data"]).unwrap(), told(last));
}

#[test]
#[ignore = "needs a Kafka broker: run by tools/test kafka"]
fn a_topic_that_is_deleted_is_written_anew_with_a_snapshot() {
    let broker = Broker::start(Access::Open).unwrap();
    let outbox = ListOutbox::with(1..=300);
    let mirror = start(&broker, 1, &outbox);
    wait_until(&mirror, 300);
    let admin = Admin::of(&broker);
    admin.delete(&topics().events);
    outbox.add(301..=600);
    eventually("the loss is noticed", || mirror.status().lost_topics > 0);
    noted_as_lost(&outbox, &format!("{} was missing", topics().events));
    wait_until(&mirror, 600);
    assert_exactly_once(&broker, 600);
    assert_eq!(state_table(&broker), told(600));

    admin.delete(&topics().state);
    outbox.add(601..=700);
    eventually("the loss is noticed again", || {
        mirror.status().lost_topics > 1
    });
    wait_until(&mirror, 700);
    assert_eq!(state_table(&broker), told(700));
    assert_exactly_once(&broker, 700);
    eventually("a snapshot tells of it", || {
        snapshots(&broker).iter().any(|(_, reason)| {
            *reason == SnapshotReason::TopicLost || *reason == SnapshotReason::Gap
        })
    });

    // What is in the topics says how far the mirror was, but not whether the state topic was in line with it.
    admin.delete(&topics().progress);
    outbox.add(701..=800);
    wait_until(&mirror, 800);
    assert_exactly_once(&broker, 800);
    assert_eq!(state_table(&broker), told(800));
}

#[test]
#[ignore = "needs a Kafka broker: run by tools/test kafka"]
fn a_topic_that_was_made_anew_between_two_reigns_is_noticed_by_its_ends() {
    let broker = Broker::start(Access::Open).unwrap();
    let outbox = ListOutbox::with(1..=300);
    let mirror = start(&broker, 1, &outbox);
    wait_until(&mirror, 300);
    // Another transaction, so that the progress record knows where the first ones ended.
    outbox.add(301..=310);
    wait_until(&mirror, 310);
    drop(mirror);
    let admin = Admin::of(&broker);
    for topic in [topics().events, topics().state] {
        admin.delete(&topic);
        admin.make(&topic, 6);
    }

    let halted = Kafka {
        lost_topic: LostTopic::Halt,
        ..Kafka::plaintext(&broker.bootstrap())
    };
    let mirror = start_with(halted, 2, &outbox);
    eventually("it halts and says why", || {
        mirror
            .status()
            .last_error
            .is_some_and(|said| said.contains("lost_topic") && said.contains("events.v1"))
    });
    assert_eq!(broker.kcat(&topics().events).unwrap(), []);
    drop(mirror);

    let mirror = start(&broker, 3, &outbox);
    wait_until(&mirror, 310);
    assert_exactly_once(&broker, 310);
    assert_eq!(state_table(&broker), told(310));
}

#[test]
#[ignore = "needs a Kafka broker: run by tools/test kafka"]
fn records_that_somebody_deleted_are_a_gap_in_their_partition() {
    let broker = Broker::start(Access::Open).unwrap();
    let outbox = ListOutbox::with(1..=300);
    let mirror = start(&broker, 1, &outbox);
    wait_until(&mirror, 300);
    drop(mirror);
    let emptied = broker.kcat(&topics().events).unwrap()[0].partition;
    let last = last_in(&broker, emptied);
    Admin::of(&broker).empty(&topics().events, emptied);

    let mirror = start(&broker, 2, &outbox);
    outbox.add(301..=400);
    wait_until(&mirror, 400);
    let gaps = gaps(&broker);
    let [(partition, gap)] = &gaps[..] else {
        panic!("{gaps:?}")
    };
    assert_eq!(
        (*partition, gap.reason, gap.last_seq),
        (emptied, GapReason::TopicTruncated, last)
    );
    let told = format!("were deleted in partitions [{emptied}]");
    noted_as_lost(&outbox, &told);
    chain_holds(&broker);
    eventually("a snapshot follows", || {
        snapshots(&broker)
            .iter()
            .any(|(_, reason)| *reason == SnapshotReason::TopicLost)
    });
}

#[test]
#[ignore = "needs a Kafka broker: run by tools/test kafka"]
fn events_that_were_given_up_are_named_and_the_state_is_right_all_the_same() {
    let broker = Broker::start(Access::Open).unwrap();
    let outbox = ListOutbox::with(1..=100);
    let mirror = start(&broker, 1, &outbox);
    wait_until(&mirror, 100);
    assert_eq!(complete_snapshot(&broker).entities, told(100));
    drop(mirror);
    // Long enough for entities to come and go unseen.
    outbox.add(101..=330);
    outbox
        .0
        .0
        .lock()
        .unwrap()
        .retain(|event| event.id.seq >= 291);
    let mirror = start(&broker, 2, &outbox);
    wait_until(&mirror, 330);

    let gaps = gaps(&broker);
    assert_eq!(gaps.len(), 6, "one for each partition: {gaps:?}");
    assert!(
        gaps.iter()
            .all(|(_, gap)| (gap.first_seq, gap.last_seq, gap.reason)
                == (101, 290, GapReason::OutboxLimit))
    );
    chain_holds(&broker);
    let seqs: BTreeSet<u64> = events(&broker)
        .iter()
        .map(|record| record.number(HEADER_SEQ).unwrap())
        .collect();
    assert_eq!(seqs, (1..=100).chain(291..=330).collect());
    assert_eq!(state_table(&broker), told(330));
    let snapshot = complete_snapshot(&broker);
    assert_eq!(
        (snapshot.reason, snapshot.entities),
        (SnapshotReason::Gap, told(snapshot.seq))
    );
    assert_eq!(mirror.status().gaps, 1);
    noted_as_lost(&outbox, "events 101 to 290 are no longer in the outbox");
    outbox.add(331..=340);
    wait_until(&mirror, 340);
    chain_holds(&broker);
    readers_know_what_is_before_and_behind_a_gap(&broker, 101..=290, 340);
}

#[test]
#[ignore = "needs a Kafka broker: run by tools/test kafka"]
fn an_event_too_large_for_the_topics_is_a_dead_letter_and_leaves_no_hole() {
    let broker = Broker::start(Access::Open).unwrap();
    let outbox = ListOutbox::with(1..=10);
    let mirror = start(&broker, 1, &outbox);
    wait_until(&mirror, 10);
    // The topics take less than they did: the mirror learns how much.
    for topic in [topics().events, topics().state] {
        Admin::of(&broker).set(&topic, &[("max.message.bytes", "200000")]);
    }
    push(&outbox, large(11, 500_000));
    outbox.add(12..=30);
    wait_until(&mirror, 30);
    assert_exactly_once(&broker, 30);
    let letters: Vec<DeadLetter> = values(&broker.kcat(&topics().dlq).unwrap());
    let [letter] = &letters[..] else {
        panic!("{letters:?}")
    };
    assert_eq!(letter.seq, 11);
    assert!(letter.bytes > 500_000 && letter.head.starts_with("{\"id\":\"7:11\""));
    let stub = events(&broker)
        .into_iter()
        .find(|record| record.number(HEADER_SEQ).unwrap() == 11)
        .unwrap();
    let stub: TopologyEvent = serde_json::from_str(stub.value.as_deref().unwrap()).unwrap();
    assert_eq!(
        (stub.after, stub.omitted.map(|omitted| omitted.bytes)),
        (None, Some(letter.bytes))
    );
    assert_eq!(mirror.status().dead_letters, 1);
}

#[test]
#[ignore = "needs a Kafka broker: run by tools/test kafka"]
fn clocks_that_jump_neither_stop_nor_reorder_anything() {
    let broker = Broker::start(Access::Open).unwrap();
    let outbox = ListOutbox::default();
    let year = 365 * 86_400_000;
    for (seq, ts) in (1..=40).zip(
        [
            1_795_385_280_000,
            1_795_385_280_000 + 20 * year,
            5,
            1_795_385_290_000,
        ]
        .iter()
        .cycle(),
    ) {
        let ts = Timestamp::from_millis(*ts);
        push(&outbox, TopologyEvent { ts, ..event(seq) });
    }
    let mirror = start(&broker, 1, &outbox);
    wait_until(&mirror, 40);
    let records = assert_exactly_once(&broker, 40);
    assert_eq!(records.len(), 40);
    // A record whose Kafka timestamp is decades old would be gone at once.
    let mut clocked = broker.kcat_command();
    clocked.args([
        "-C",
        "-t",
        &topics().events,
        "-o",
        "beginning",
        "-e",
        "-q",
        "-f",
        "%T\n",
    ]);
    let stamps = String::from_utf8(clocked.output().unwrap().stdout).unwrap();
    let oldest: u64 = stamps
        .lines()
        .map(|line| line.parse().unwrap())
        .min()
        .unwrap();
    assert!(oldest >= 1_795_385_280_000 - 3_600_000, "{oldest}");
}

#[test]
#[ignore = "needs root and a Kafka broker: run by tools/test kafka"]
fn a_broker_whose_disk_is_full_delays_events_and_loses_none() {
    let disk = Disk::of_megabytes(96);
    let mut broker = Broker::start_in(Access::Open, Some(&disk.directory())).unwrap();
    let outbox = ListOutbox::with(1..=500);
    let mirror = start(&broker, 1, &outbox);
    wait_until(&mirror, 500);
    disk.fill();
    let mut last = 500;
    eventually("it is told", || {
        outbox.add(last + 1..=last + 200);
        last += 200;
        std::thread::sleep(Duration::from_millis(200));
        mirror.status().failures > 0
    });
    assert!(mirror.status().lag > 0);
    disk.make_room();
    broker.restart().unwrap();
    wait_until(&mirror, last);
    assert_exactly_once(&broker, last);
}

/// The broker hears of the end of a transaction or does not; the mirror is told nothing, for a moment or until it gives up.
#[test]
#[ignore = "needs a Kafka broker: run by tools/test kafka"]
fn a_commit_whose_outcome_is_unknown_is_neither_lost_nor_doubled() {
    let (broker, proxy) = Broker::start_behind_proxy().unwrap();
    let outbox = ListOutbox::with(1..=100);
    let mirror = start_with(Kafka::plaintext(&proxy.bootstrap()), 1, &outbox);
    wait_until(&mirror, 100);
    // From here on the only transactions are those of events.
    complete_snapshot(&broker);
    let cases = [Cut::Request, Cut::Reply].into_iter();
    let cases = cases.flat_map(|cut| [(cut, Outage::Brief), (cut, Outage::Lasting)]);
    for ((cut, outage), cuts) in cases.zip(1..) {
        let before = mirror.status();
        let last = before.committed_seq + 50;
        proxy.cut(cut, outage);
        outbox.add(before.committed_seq + 1..=last);
        eventually("the end of a transaction is cut", || proxy.cuts() == cuts);
        if outage == Outage::Lasting {
            eventually("the mirror gives up", || {
                mirror.status().failures > before.failures
            });
            assert_eq!(mirror.status().committed_seq, before.committed_seq);
            let committed = match cut {
                Cut::Request => before.committed_seq,
                Cut::Reply => last,
            };
            assert_exactly_once(&broker, committed);
            proxy.heal();
        }
        wait_until(&mirror, last);
        assert_exactly_once(&broker, last);
        assert_eq!(state_table(&broker), told(last), "{cut:?}, {outage:?}");
    }
    assert_eq!(proxy.cuts(), 4);
}

#[test]
#[ignore = "needs a Kafka broker: run by tools/test kafka"]
fn measurements_arrive_beside_the_events() {
    let broker = Broker::start(Access::Open).unwrap();
    let outbox = ListOutbox::with(1..=10);
    let mirror = start(&broker, 1, &outbox);
    wait_until(&mirror, 10);
    let publisher = mirror
        .publisher(&config(Kafka::plaintext(&broker.bootstrap()), 1))
        .unwrap();
    let metrics = |node| LinkMetrics {
        network: NetworkId(0xab),
        node: NodeId(node),
        name: None,
        site: None,
        links: vec![LinkMeasurement {
            to: NodeId(9),
            to_name: None,
            carrier: Carrier::Udp4,
            confirmed: true,
            cost_us: Some(1),
            rtt_us: 2,
            jitter_us: 3,
            loss_ppm: 4,
        }],
        ts: Timestamp::from_millis(1_795_385_280_000),
    };
    for node in 1..=20 {
        publisher.publish(&metrics(node));
    }
    publisher.flush(Duration::from_secs(30));
    let records = broker.kcat(&topics().metrics).unwrap();
    let mut found: Vec<LinkMetrics> = values(&records);
    found.sort_by_key(|metrics| metrics.node);
    assert_eq!(found, (1..=20).map(metrics).collect::<Vec<_>>());
    assert_eq!(
        records[0].header("ce_type"),
        Some("io.wattle.metrics.links")
    );
}

/// The network at both ends of the gap is told as it was; what it was amid it is not made up.
fn readers_know_what_is_before_and_behind_a_gap(
    broker: &Broker,
    gap: RangeInclusive<u64>,
    last: u64,
) {
    let source = ["--json", "--kafka", &broker.bootstrap()].map(str::to_owned);
    let wattle = |arguments: &[&str]| {
        let mut command = wattle_topology(&source, arguments).unwrap();
        json_lines(&mut command).unwrap()
    };
    let shown = wattle(&["show"]).remove(0);
    assert_eq!(entities(&shown["data"]).unwrap(), told(last));
    for seq in [gap.start() - 1, *gap.end(), gap.end() + 1, last - 5, last] {
        let at = wattle(&["at", &format!("#{seq}")]).remove(0);
        assert_eq!(at["data"]["seq"], seq);
        assert_eq!(entities(&at["data"]).unwrap(), told(seq), "at #{seq}");
    }
    let amid = format!("#{}", gap.start() + 50);
    let refused = wattle_topology(&source, &["at", &amid])
        .unwrap()
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    let named = format!(
        "events {} to {} are not in the topic",
        gap.start(),
        gap.end()
    );
    assert!(
        !refused.status.success() && said.contains(&named),
        "{refused:?}"
    );

    let verified = wattle(&["verify"]).remove(0);
    assert_eq!(
        verified["data"]["told_missing"],
        gap.clone().count() as u64,
        "{verified}"
    );
    for fault in [
        "lost",
        "duplicated",
        "broken_links",
        "broken_images",
        "state_wrong",
        "snapshots_wrong",
    ] {
        assert_eq!(verified["data"][fault], 0, "{fault}: {verified}");
    }

    let events = last - gap.clone().count() as u64;
    let tailed = wattle(&["tail", "--from-start", "--max", &events.to_string()]);
    let seqs = tailed
        .iter()
        .filter_map(|line| line["data"]["source"]["seq"].as_u64());
    assert!(seqs.eq((1..=last).filter(|seq| !gap.contains(seq))));
}

/// What the alert will tell of.
fn noted_as_lost(outbox: &ListOutbox, what: &str) {
    let losses = outbox.1.lock().unwrap();
    let last = losses.last().expect("a loss is noted");
    assert!(last.detail.contains(what), "{losses:?}");
}

/// An event of one's own making, numbered from where the list ends.
fn push(outbox: &ListOutbox, event: TopologyEvent) {
    outbox.0.0.lock().unwrap().push(event);
    outbox.0.1.notify_all();
}

fn large(seq: u64, bytes: usize) -> TopologyEvent {
    let mut large = event(seq);
    for image in [&mut large.before, &mut large.after].into_iter().flatten() {
        let Entity::Node(node) = image else {
            panic!("{image:?}")
        };
        node.agent_version = Some(noise(bytes));
    }
    assert!(large.after.is_some());
    large
}

/// Text that cannot be compressed much: brokers measure what is compressed.
fn noise(bytes: usize) -> String {
    let mut state = 1_u64;
    let next = |_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        char::from(b'!' + (state >> 33) as u8 % 90)
    };
    let text = (0..bytes).map(next);
    text.map(|letter| {
        if letter == '"' || letter == '\\' {
            '_'
        } else {
            letter
        }
    })
    .collect()
}
