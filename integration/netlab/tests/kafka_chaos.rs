//! The promise of the topology stream under `kill -9`: a process with the real database and the real mirror writes
//! events, and is killed again and again, as is the broker. `wattle_topology::verify` and `kcat` must then agree that
//! every event is there once and in order. `sudo tools/test kafka` runs it.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use wattle_api::Timestamp;
use wattle_api::stream::{HEADER_PREV_SEQ, HEADER_SEQ, Kafka};
use wattle_api::topology::{Cause, Entity, LinkEntity};
use wattle_fleet::{Difference, Evidence};
use wattle_mirror::{Config, Mirror, StoreOutbox};
use wattle_model::{Carrier, NetworkId, NodeId};
use wattle_netlab::kafka::{Access, Broker};
use wattle_store::{Change, Store};
use wattle_topology::{Source, verify};

/// Events that the story tells.
const EVENTS: u64 = 10_000;
/// How often the process with database and mirror is killed.
const PROCESS_KILLS: u32 = 20;
/// Every so many kills of the process the broker is killed too.
const BROKER_EVERY: u32 = 4;

const NETWORK: NetworkId = NetworkId(0xc4a05);
/// Set for the writer: broker, state directory and number of events.
const WRITER: &str = "WATTLE_CHAOS_WRITER";
const STORY: &str = "ten_thousand_events_survive_twenty_kills_of_the_mirror_and_five_of_the_broker";

#[test]
#[ignore = "needs a Kafka broker: run by tools/test kafka"]
fn ten_thousand_events_survive_twenty_kills_of_the_mirror_and_five_of_the_broker() {
    // The other process of this story runs the same program and the same test.
    if let Ok(task) = std::env::var(WRITER) {
        return write(&task);
    }
    let mut broker = Broker::start(Access::Open).unwrap();
    let state = tempfile::tempdir().unwrap();
    let began = Instant::now();
    let mut broker_kills = 0;
    for kill in 1..=PROCESS_KILLS {
        let mut writer = spawn_writer(&broker, state.path(), EVENTS * u64::from(kill) / 21);
        // Sometimes in the middle of taking over, sometimes amid transactions.
        std::thread::sleep(Duration::from_millis(
            400 + u64::from(kill * 7_919 % 23) * 120,
        ));
        if kill % BROKER_EVERY == 0 {
            broker.kill().unwrap();
            broker_kills += 1;
            broker.spawn().unwrap();
        }
        writer.kill().unwrap();
        writer.wait().unwrap();
        if kill % BROKER_EVERY == 0 {
            broker.wait_until_ready().unwrap();
        }
    }
    let mut last = spawn_writer(&broker, state.path(), EVENTS);
    assert!(
        last.wait().unwrap().success(),
        "the last writer mirrors everything"
    );
    println!(
        "{PROCESS_KILLS} + {broker_kills} kills, {EVENTS} events in {:.0} s",
        began.elapsed().as_secs_f64()
    );

    let found = block_on(async {
        let source = Source::find(Kafka::plaintext(&broker.bootstrap()))
            .await
            .unwrap();
        verify(&source).await.unwrap()
    });
    println!("{found:?}");
    assert!(found.is_clean(), "{found:#?}");
    assert_eq!(
        (found.first_seq, found.last_seq, found.seen),
        (1, EVENTS, EVENTS)
    );
    kcat_agrees(&broker);
}

/// A second opinion, with nothing of ours between broker and count.
fn kcat_agrees(broker: &Broker) {
    let records = broker.kcat("wattle.chaos.topology.events.v1").unwrap();
    let seqs: Vec<u64> = records
        .iter()
        .map(|record| record.number(HEADER_SEQ).unwrap())
        .collect();
    let different: BTreeSet<u64> = seqs.iter().copied().collect();
    assert_eq!(different, (1..=EVENTS).collect(), "kcat misses some");
    assert_eq!(seqs.len() as u64, EVENTS, "kcat sees some twice");
    let mut ends = BTreeMap::new();
    for (record, seq) in records.iter().zip(seqs) {
        let before = ends.insert(record.partition, seq).unwrap_or(0);
        assert!(
            seq > before,
            "kcat sees {seq} after {before} in partition {}",
            record.partition
        );
        assert_eq!(record.number(HEADER_PREV_SEQ).unwrap(), before);
    }
    assert!(ends.len() > 1, "several partitions were used");
}

fn spawn_writer(broker: &Broker, state: &Path, events: u64) -> Child {
    Command::new("setpriv")
        .args(["--pdeathsig", "KILL"])
        .arg(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", STORY])
        .env(
            WRITER,
            format!("{}|{}|{events}", broker.bootstrap(), state.display()),
        )
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// The other process: writes events up to the number it is told and mirrors them, then ends.
fn write(task: &str) {
    let parts: Vec<&str> = task.split('|').collect();
    let (bootstrap, state, events) = (parts[0], Path::new(parts[1]), parts[2].parse().unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let database = state.join("coordinator.db");
    let store = runtime
        .block_on(Store::open(&database, NETWORK, "chaos", "test"))
        .unwrap();
    let outbox = StoreOutbox::new(store.clone(), runtime.handle().clone());
    let config = Config {
        kafka: Kafka::plaintext(bootstrap),
        network: NETWORK,
        network_name: "chaos".into(),
        term: store.term(),
    };
    let mirror = Mirror::start(config, outbox).unwrap();
    let mut seq = store.last_seq();
    while seq < events {
        let change = Change {
            differences: (seq..events.min(seq + 1 + seq % 13))
                .map(difference)
                .collect(),
            ..Change::default()
        };
        seq = runtime
            .block_on(store.commit(&change, now()))
            .unwrap()
            .last_seq;
        std::thread::sleep(Duration::from_millis(1));
    }
    while mirror.status().committed_seq < events {
        std::thread::sleep(Duration::from_millis(10));
    }
    mirror.stop();
}

/// Links of twenty nodes in five sites that come, change and go.
fn difference(seq: u64) -> Difference {
    let link = |cost| {
        Entity::Link(LinkEntity {
            from: NodeId(seq % 20),
            to: NodeId((seq + 1) % 20),
            from_name: None,
            to_name: None,
            carrier: Carrier::Udp4,
            confirmed: true,
            cost_us: Some(cost),
            rtt_us: 1_000 + seq,
            jitter_us: 10,
            loss_ppm: 0,
        })
    };
    let (before, after, cause) = match seq / 20 % 3 {
        0 => (None, Some(link(100)), Cause::LinkReported),
        1 => (Some(link(100)), Some(link(200)), Cause::LinkMeasured),
        _ => (Some(link(200)), None, Cause::LinkWithdrawn),
    };
    Difference {
        key: link(0).key(),
        before,
        after,
        cause,
        evidence: Evidence::default(),
        site: Some(format!("site{}", seq % 5).parse().unwrap()),
    }
}

fn now() -> Timestamp {
    Timestamp::from_millis(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_millis() as u64,
    )
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(work)
}
