//! Sites and their partitions: the slot map, sites that move, partitions that are added.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Lines, Read as _};
use std::process::{Child, ChildStdout, ExitStatus, Stdio};

use wattle_api::slots::{SlotMap, SlotMapRecord, SlotVersion, slots_key};
use wattle_api::snapshot::SnapshotReason;
use wattle_api::stream::{Kafka, TopicSettings};
use wattle_api::topology::TopologyEvent;
use wattle_model::{NodeId, NodeName};
use wattle_netlab::answer::{json_lines, wattle_topology};
use wattle_netlab::block_on;
use wattle_netlab::kafka::{Access, Broker};
use wattle_topology::{Item, SiteTail, Source, Start};

use crate::admin::Admin;
use crate::delivery::{assert_exactly_once, eventually, start, topics};
use crate::kept::{events, snapshots, state_table, told};
use crate::outbox::{ListOutbox, event, start_with, wait_until};

#[test]
#[ignore = "needs a Kafka broker: run by tools/test kafka"]
fn a_reader_of_one_site_sees_that_site_alone_before_and_after_it_moves() {
    let broker = Broker::start(Access::Open).unwrap();
    let outbox = ListOutbox::with(1..=400);
    let first = version(1, &[0], &[("site1", &[1, 2]), ("site2", &[3])]);
    let mapped = |versions: &[SlotVersion]| Kafka {
        slots: SlotMap(versions.to_vec()),
        ..Kafka::plaintext(&broker.bootstrap())
    };
    let mirror = start_with(mapped(std::slice::from_ref(&first)), 1, &outbox);
    wait_until(&mirror, 400);
    drop(mirror);
    let site1 = sees_its_own_events_alone(&broker, "site1", 400);
    assert_eq!(site1, [1, 2].into(), "a big site spreads over its slots");
    assert_eq!(sees_its_own_events_alone(&broker, "site2", 400), [3].into());

    // It moves: its images with it, its events from there on, and whoever follows it.
    let [mut moving, mut staying] = ["site1", "site2"].map(|site| follow(&broker, site));
    let second = version(2, &[0], &[("site1", &[4]), ("site2", &[3])]);
    outbox.add(401..=500);
    let mirror = start_with(mapped(&[first, second]), 2, &outbox);
    eventually("a snapshot tells of it", || {
        snapshots(&broker)
            .iter()
            .any(|(_, reason)| *reason == SnapshotReason::SlotsChanged)
    });
    outbox.add(501..=640);
    wait_until(&mirror, 640);
    eventually("the state is whole", || state_table(&broker) == told(640));
    let moved = sees_its_own_events_alone(&broker, "site1", 640);
    assert_eq!(moved, [1, 2, 4].into());
    let in_state: BTreeSet<i32> = live_partitions(&broker, "site1");
    assert_eq!(
        in_state,
        [4].into(),
        "nothing stays behind in the state topic"
    );
    assert_exactly_once(&broker, 640);
    for (tail, site, slots, joined) in [
        (&mut moving, "site1", &[1, 2, 4][..], &[4][..]),
        (&mut staying, "site2", &[3], &[]),
    ] {
        let expected: Vec<u64> = (401..=640).filter(|seq| is_of(*seq, site)).collect();
        let seen = block_on(next_events(tail, expected.len()));
        assert_eq!(seen.seqs, expected);
        assert!(seen.joined.iter().eq(joined), "{site}: {:?}", seen.joined);
        assert!(tail.partitions().iter().eq(slots), "{site}");
    }
    a_reader_with_little_room_sees_all_of_a_site_that_moved(&broker, "site1", 640);
    a_site_s_snapshot_is_all_of_it(&broker, "site1", 640);

    // Where the topic that told the map is lost, the map is told again.
    Admin::of(&broker).delete(&topics().progress);
    outbox.add(641..=660);
    wait_until(&mirror, 660);
    assert_exactly_once(&broker, 660);
    eventually("the map is told again", || {
        slots_of(&broker, "site1") == Some([1, 2, 4].into())
    });
    drop(mirror);
    who_follows_a_topic_that_is_deleted_is_told_what_to_do(&broker, "site1");
}

#[test]
#[ignore = "needs a Kafka broker: run by tools/test kafka"]
fn partitions_that_were_added_stop_the_mirror_before_a_key_moves() {
    let broker = Broker::start(Access::Open).unwrap();
    let outbox = ListOutbox::with(1..=100);
    let mirror = start(&broker, 1, &outbox);
    wait_until(&mirror, 100);
    drop(mirror);
    let mut follower = Follower::start(&broker, &["--from-start", "--max", "200"]);
    follower.see(100);
    for topic in [topics().events, topics().state] {
        Admin::of(&broker).grow(&topic, 8);
    }
    outbox.add(101..=200);
    let mirror = start(&broker, 2, &outbox);
    eventually("it says what is wrong", || {
        mirror
            .status()
            .last_error
            .is_some_and(|said| said.contains("8 partitions instead of 6"))
    });
    assert_eq!(mirror.status().events, 0);
    drop(mirror);
    // A slot map says where records go, so that no key moves.
    let mapped = Kafka {
        slots: SlotMap(vec![version(1, &[0], &[("site1", &[7])])]),
        topics: TopicSettings {
            partitions: 8,
            ..Default::default()
        },
        ..Kafka::plaintext(&broker.bootstrap())
    };
    let mirror = start_with(mapped, 3, &outbox);
    wait_until(&mirror, 200);
    assert_exactly_once(&broker, 200);
    eventually("the state is whole", || state_table(&broker) == told(200));
    follower.see(100);
    let (status, said) = follower.end();
    assert!(status.success(), "{said}");
    assert_eq!(said, "reads more partitions from here on: 6, 7\n");
}

/// Behind the last record of each partition are only the marks of transactions: they are read, too.
#[test]
#[ignore = "needs a Kafka broker: run by tools/test kafka"]
fn what_a_topic_never_had_is_told_to_be_missing() {
    let broker = Broker::start(Access::Open).unwrap();
    let outbox = ListOutbox::with(50..=150);
    let mirror = start(&broker, 1, &outbox);
    wait_until(&mirror, 150);
    block_on(async {
        let source = source(&broker).await;
        let mut tail = wattle_topology::tail(&source, Start::Seq(1)).await.unwrap();
        let first = tail.next().await.unwrap().unwrap();
        assert_eq!(first, Item::Missing(1, 49));
        for seq in 50..=150 {
            let item = tail.next().await.unwrap().unwrap();
            assert!(
                matches!(&item, Item::Event(event) if event.id.seq == seq),
                "{item:?}"
            );
        }
    });
}

/// The slots that a site has, or had, as the progress topic says.
fn slots_of(broker: &Broker, site: &str) -> Option<BTreeSet<u32>> {
    let key = slots_key("lab");
    let records = broker.kcat(&topics().progress).unwrap();
    let map = records.iter().rfind(|record| record.key == key)?;
    let map: SlotMapRecord = serde_json::from_str(map.value.as_deref()?).unwrap();
    Some(map.of_site(Some(&site.parse().unwrap())))
}

/// The events that a consumer of the site's slots sees are exactly the site's.
fn sees_its_own_events_alone(broker: &Broker, site: &str, last: u64) -> BTreeSet<i32> {
    let name: NodeName = site.parse().unwrap();
    let slots = slots_of(broker, site).unwrap();
    let mut used = BTreeSet::new();
    let mut seen = BTreeSet::new();
    for record in events(broker) {
        if !slots.contains(&(record.partition as u32)) {
            continue;
        }
        let event: TopologyEvent = serde_json::from_str(record.value.as_deref().unwrap()).unwrap();
        assert_eq!(
            event.source.site.as_ref(),
            Some(&name),
            "another site's event in its slots"
        );
        used.insert(record.partition);
        seen.insert(event.id.seq);
    }
    let expected = (1..=last).filter(|seq| is_of(*seq, site));
    assert_eq!(seen, expected.collect());
    block_on(wattle_s_reader_reads_these_slots_alone(
        broker, &name, &slots, &seen,
    ));
    used
}

async fn wattle_s_reader_reads_these_slots_alone(
    broker: &Broker,
    site: &NodeName,
    slots: &BTreeSet<u32>,
    expected: &BTreeSet<u64>,
) {
    let mut tail = tail(&source(broker).await, site, Start::Oldest).await;
    assert_eq!(&tail.partitions(), slots);
    let seen = next_events(&mut tail, expected.len()).await;
    assert!(seen.seqs.iter().eq(expected), "{:?}", seen.seqs);
}

/// That partitions pause for want of room loses nothing. How much waits meanwhile is seen in `tools/topology/src/brake.rs`,
/// not here.
fn a_reader_with_little_room_sees_all_of_a_site_that_moved(broker: &Broker, site: &str, last: u64) {
    let expected: Vec<u64> = (1..=last).filter(|seq| is_of(*seq, site)).collect();
    let seen = block_on(async {
        let source = source(broker).await.holding(3);
        let mut tail = tail(&source, &site.parse().unwrap(), Start::Oldest).await;
        next_events(&mut tail, expected.len()).await
    });
    assert_eq!(seen.seqs, expected);
}

fn a_site_s_snapshot_is_all_of_it(broker: &Broker, site: &str, last: u64) {
    let source = ["--json", "--kafka", &broker.bootstrap()].map(str::to_owned);
    let options = ["tail", "--snapshot", "--site", site, "--max", "0"];
    let lines = json_lines(&mut wattle_topology(&source, &options).unwrap()).unwrap();
    let keys = lines.iter().filter_map(|line| line["data"]["key"].as_str());
    let found: BTreeSet<String> = keys.map(str::to_owned).collect();
    let all = told(last).into_iter();
    let of_site = all.filter(|(_, image)| image["site"] == site);
    assert_eq!(found, of_site.map(|(key, _)| key).collect());
}

fn who_follows_a_topic_that_is_deleted_is_told_what_to_do(broker: &Broker, site: &str) {
    let mut follower = Follower::start(broker, &["--from-start", "--site", site]);
    follower.see(10);
    Admin::of(broker).delete(&topics().events);
    let (status, said) = follower.end();
    assert_eq!(status.code(), Some(7), "{said}");
    for part in [
        "events.v1 was deleted while it was read",
        "run the command again",
    ] {
        assert!(said.contains(part), "{said}");
    }
}

/// `wattle topology tail`, as people run it.
struct Follower {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Follower {
    fn start(broker: &Broker, options: &[&str]) -> Self {
        let source = ["--kafka", &broker.bootstrap()].map(str::to_owned);
        let mut tail = wattle_topology(&source, &["tail"]).unwrap();
        let tail = tail
            .args(options)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut process = tail.spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { process, lines }
    }

    /// Waits for so many more events.
    fn see(&mut self, events: usize) {
        assert_eq!(self.lines.by_ref().take(events).count(), events);
    }

    /// Waits for its end; how that was, and all that it said beside the events.
    fn end(mut self) -> (ExitStatus, String) {
        let mut said = String::new();
        let mut stderr = self.process.stderr.take().unwrap();
        stderr.read_to_string(&mut said).unwrap();
        (self.process.wait().unwrap(), said)
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Follows the events of a site from here on.
fn follow(broker: &Broker, site: &str) -> SiteTail {
    block_on(async {
        let source = source(broker).await;
        tail(&source, &site.parse().unwrap(), Start::Next).await
    })
}

async fn tail(source: &Source, site: &NodeName, start: Start) -> SiteTail {
    let sites = std::slice::from_ref(site);
    let tail = wattle_topology::tail_sites(source, sites, start);
    tail.await.unwrap()
}

async fn source(broker: &Broker) -> Source {
    let kafka = Kafka::plaintext(&broker.bootstrap());
    Source::find(kafka).await.unwrap()
}

/// What a reader gave.
#[derive(Default)]
struct Seen {
    seqs: Vec<u64>,
    joined: BTreeSet<u32>,
}

async fn next_events(tail: &mut SiteTail, count: usize) -> Seen {
    let mut seen = Seen::default();
    while seen.seqs.len() < count {
        match tail.next().await.unwrap().unwrap() {
            Item::Event(event) => seen.seqs.push(event.id.seq),
            Item::Joined(partitions) => seen.joined.extend(partitions),
            Item::Missing(first, last) => panic!("{first} to {last} are missing"),
        }
    }
    seen
}

fn is_of(seq: u64, site: &str) -> bool {
    let of = event(seq).source.site;
    of.is_some_and(|of| of.as_str() == site)
}

/// Where the state topic has images of nodes of a site.
fn live_partitions(broker: &Broker, site: &str) -> BTreeSet<i32> {
    let mut live: BTreeMap<(i32, String), bool> = BTreeMap::new();
    for record in broker.kcat(&topics().state).unwrap() {
        let node: NodeId = record.key.trim_start_matches("node:").parse().unwrap();
        if format!("site{}", node.0 % 5) == site {
            live.insert((record.partition, record.key), record.value.is_some());
        }
    }
    let live = live.into_iter().filter(|(_, is_there)| *is_there);
    live.map(|((partition, _), _)| partition).collect()
}

fn version(version: u32, default: &[u32], sites: &[(&str, &[u32])]) -> SlotVersion {
    let sites = sites
        .iter()
        .map(|(site, slots)| (site.parse().unwrap(), slots.to_vec()));
    SlotVersion {
        version,
        default: default.to_vec(),
        sites: sites.collect(),
    }
}
