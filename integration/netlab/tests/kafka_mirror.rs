//! The mirror against a real broker: what is in the outbox arrives exactly once, whatever is killed, and what cannot
//! work says why. `sudo tools/test kafka` runs these; they need `WATTLE_KAFKA_LIBS`.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use wattle_api::Timestamp;
use wattle_api::stream::{
    HEADER_PREV_SEQ, HEADER_SEQ, HEADER_TERM, Kafka, ProgressRecord, Protocol, Sasl, Topics,
};
use wattle_api::topology::{
    Cause, Entity, EntityKey, EntityKind, EventId, NodeEntity, Op, Source, TopologyEvent,
};
use wattle_mirror::{Config, Mirror, Outbox, OutboxError, State};
use wattle_model::{NetworkId, NodeId, NodeIndex};
use wattle_netlab::kafka::{ADMIN, Access, Broker, GUEST, KcatRecord};

#[test]
#[ignore = "needs a Kafka broker: run by tools/test kafka"]
fn every_event_arrives_once_in_order_and_with_its_headers() {
    let broker = Broker::start(Access::Open).unwrap();
    let outbox = ListOutbox::with(1..=2_000);
    let mirror = start(&broker, 7, &outbox);
    wait_until(&mirror, 2_000);

    let events = assert_exactly_once(&broker, 2_000);
    let first = events
        .iter()
        .find(|record| record.number(HEADER_SEQ).unwrap() == 1)
        .unwrap();
    for (name, value) in [
        (HEADER_TERM, "7"),
        ("wattle-schema", "wattle.topology.event/v1"),
        ("content-type", "application/json"),
        ("ce_specversion", "1.0"),
        ("ce_type", "io.wattle.topology.node.c"),
        ("ce_source", "/wattle/00000000000000ab"),
        ("ce_id", "7:1"),
    ] {
        assert_eq!(first.header(name), Some(value), "{name}");
    }
    let value: TopologyEvent = serde_json::from_str(first.value.as_deref().unwrap()).unwrap();
    assert_eq!(value, event(1));
    assert_eq!(first.key, value.key.to_string());

    // A site lives in one partition, and more than one partition is used.
    let mut partitions: BTreeMap<String, BTreeSet<i32>> = BTreeMap::new();
    for record in &events {
        let event: TopologyEvent = serde_json::from_str(record.value.as_deref().unwrap()).unwrap();
        let site = event.source.site.unwrap().to_string();
        partitions.entry(site).or_default().insert(record.partition);
    }
    assert!(
        partitions.values().all(|used| used.len() == 1),
        "{partitions:?}"
    );
    assert!(
        partitions.values().flatten().collect::<BTreeSet<_>>().len() > 1,
        "{partitions:?}"
    );

    let progress = broker.kcat(&topics().progress).unwrap();
    let last = progress.last().unwrap();
    assert_eq!(last.key, "wattle-mirror-lab");
    let last: ProgressRecord = serde_json::from_str(last.value.as_deref().unwrap()).unwrap();
    assert_eq!(
        (last.term, last.first_seq, last.last_seq, last.state_seq),
        (7, 1, 2_000, 2_000)
    );
    assert_eq!(last.partitions.iter().max(), Some(&2_000));
}

#[test]
#[ignore = "needs a Kafka broker: run by tools/test kafka"]
fn the_state_topic_is_the_table_that_the_events_tell() {
    let broker = Broker::start(Access::Open).unwrap();
    let outbox = ListOutbox::with(1..=940);
    let mirror = start(&broker, 1, &outbox);
    wait_until(&mirror, 940);

    let mut told = BTreeMap::new();
    for seq in 1..=940 {
        let event = event(seq);
        told.insert(
            event.key.to_string(),
            event
                .after
                .map(|after| serde_json::to_value(after).unwrap()),
        );
    }
    let mut table = BTreeMap::new();
    for record in broker.kcat(&topics().state).unwrap() {
        let value = record
            .value
            .map(|value| serde_json::from_str::<serde_json::Value>(&value).unwrap());
        table.insert(record.key, value);
    }
    assert_eq!(table, told);
    assert!(
        table.values().any(Option::is_none),
        "the events delete something"
    );
}

#[test]
#[ignore = "needs a Kafka broker: run by tools/test kafka"]
fn topics_are_made_with_the_configuration_that_consumers_count_on() {
    let broker = Broker::start(Access::Open).unwrap();
    let outbox = ListOutbox::with(1..=1);
    let mirror = start(&broker, 1, &outbox);
    wait_until(&mirror, 1);
    let topics = topics();
    let described =
        wattle_topology::describe_topics(&Kafka::plaintext(&broker.bootstrap()), &topics).unwrap();
    let expect = [
        (&topics.events, 6, "cleanup.policy", "delete"),
        (&topics.events, 6, "retention.ms", "7776000000"),
        (&topics.state, 6, "cleanup.policy", "compact"),
        (&topics.state, 6, "min.cleanable.dirty.ratio", "0.1"),
        (&topics.state, 6, "delete.retention.ms", "86400000"),
        (&topics.progress, 1, "cleanup.policy", "compact"),
    ];
    for (topic, partitions, name, value) in expect {
        let found = &described[topic];
        assert_eq!(found.partitions, partitions, "{topic}");
        assert_eq!(
            found.config.get(name).map(String::as_str),
            Some(value),
            "{topic} {name}"
        );
    }
}

#[test]
#[ignore = "needs a Kafka broker: run by tools/test kafka"]
fn a_restarted_mirror_goes_on_where_the_last_one_stopped() {
    let broker = Broker::start(Access::Open).unwrap();
    let outbox = ListOutbox::with(1..=300);
    let mirror = start(&broker, 1, &outbox);
    wait_until(&mirror, 300);
    assert_eq!(mirror.stop().state, State::Stopped);
    outbox.add(301..=700);

    let mirror = start(&broker, 2, &outbox);
    wait_until(&mirror, 700);
    assert_eq!(mirror.status().events, 400, "only what was missing");
    let events = assert_exactly_once(&broker, 700);
    let term = |seq| {
        let record = events
            .iter()
            .find(|record| record.number(HEADER_SEQ).unwrap() == seq);
        record.unwrap().number(HEADER_TERM).unwrap()
    };
    assert_eq!((term(300), term(301)), (1, 2));
}

#[test]
#[ignore = "needs a Kafka broker: run by tools/test kafka"]
fn a_broker_killed_amid_events_loses_and_doubles_nothing() {
    let mut broker = Broker::start(Access::Open).unwrap();
    let outbox = ListOutbox::with(1..=1);
    let mirror = start(&broker, 1, &outbox);
    wait_until(&mirror, 1);
    let mut next = 2;
    for round in 0..4 {
        // Each time the broker goes at another point of a transaction; events keep coming while it is away.
        for _ in 0..10 {
            outbox.add(next..=next + 19);
            next += 20;
            std::thread::sleep(Duration::from_millis(7 * round));
        }
        broker.kill().unwrap();
        outbox.add(next..=next + 199);
        next += 200;
        broker.restart().unwrap();
        wait_until(&mirror, next - 1);
    }
    wait_until(&mirror, next - 1);
    assert_exactly_once(&broker, next - 1);
    assert!(mirror.status().last_error.is_some(), "the outage was told");
}

#[test]
#[ignore = "needs a Kafka broker: run by tools/test kafka"]
fn of_two_mirrors_the_one_with_the_lower_term_steps_down() {
    let broker = Broker::start(Access::Open).unwrap();
    let outbox = ListOutbox::with(1..=100);
    let old = start(&broker, 4, &outbox);
    wait_until(&old, 100);
    let new = start(&broker, 5, &outbox);
    outbox.add(101..=200);
    wait_until(&new, 200);
    outbox.add(201..=300);
    eventually("the old one steps down", || {
        old.status().state == State::SteppedDown
    });
    wait_until(&new, 300);
    let said = old.status().last_error.unwrap();
    assert!(
        said.contains("term 5") && said.contains("stepping down"),
        "{said}"
    );
    assert_exactly_once(&broker, 300);
}

#[test]
#[ignore = "needs a Kafka broker: run by tools/test kafka"]
fn wrong_credentials_are_told_and_nothing_is_lost() {
    let broker = Broker::start(Access::Scram).unwrap();
    let outbox = ListOutbox::with(1..=50);
    let secrets = tempfile::tempdir().unwrap();
    let password = secrets.path().join("password");
    let kafka = |user: &str, secret: &str| {
        std::fs::write(&password, secret).unwrap();
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&password, private).unwrap();
        Kafka {
            protocol: Protocol::SaslPlaintext,
            sasl: Some(Sasl::in_file(user, &password)),
            ..Kafka::plaintext(&broker.bootstrap())
        }
    };

    let mirror = start_with(kafka(ADMIN.0, "wrong"), 1, &outbox);
    eventually("the refusal is told", || {
        mirror
            .status()
            .last_error
            .is_some_and(|said| said.contains("refuse our credentials"))
    });
    assert_eq!(
        (mirror.status().committed_seq, mirror.status().lag),
        (0, 50)
    );
    drop(mirror);

    let mirror = start_with(kafka(GUEST.0, GUEST.1), 1, &outbox);
    eventually("the missing right is told", || {
        mirror
            .status()
            .last_error
            .is_some_and(|said| said.contains("do not allow us"))
    });
    assert_eq!(
        (mirror.status().committed_seq, mirror.status().lag),
        (0, 50)
    );
    drop(mirror);

    let mirror = start_with(kafka(ADMIN.0, ADMIN.1), 1, &outbox);
    wait_until(&mirror, 50);
    assert_exactly_once(&broker, 50);
}

#[test]
#[ignore = "needs a Kafka broker: run by tools/test kafka"]
fn a_mirror_without_a_broker_says_so_and_starts_when_one_comes() {
    let mut broker = Broker::start(Access::Open).unwrap();
    broker.kill().unwrap();
    let outbox = ListOutbox::with(1..=20);
    let mirror = start(&broker, 1, &outbox);
    eventually("the absence is told", || {
        mirror
            .status()
            .last_error
            .is_some_and(|said| said.contains("no Kafka broker answers"))
    });
    assert_eq!(mirror.status().lag, 20);
    broker.restart().unwrap();
    wait_until(&mirror, 20);
    assert_exactly_once(&broker, 20);
}

#[test]
#[ignore = "needs a Kafka broker: run by tools/test kafka"]
fn an_older_database_and_another_network_are_refused() {
    let broker = Broker::start(Access::Open).unwrap();
    let mirror = start(&broker, 1, &ListOutbox::with(1..=40));
    wait_until(&mirror, 40);
    drop(mirror);

    let restored = start(&broker, 2, &ListOutbox::with(1..=30));
    eventually("the older database is told", || {
        restored
            .status()
            .last_error
            .is_some_and(|said| said.contains("ends at 30"))
    });
    drop(restored);

    let foreign = Config {
        network: NetworkId(0xcd),
        ..config(Kafka::plaintext(&broker.bootstrap()), 2)
    };
    let foreign = Mirror::start(foreign, ListOutbox::with(1..=80)).unwrap();
    eventually("the other network is told", || {
        foreign
            .status()
            .last_error
            .is_some_and(|said| said.contains("hold network"))
    });
    assert_exactly_once(&broker, 40);
}

#[test]
#[ignore = "needs a Kafka broker: run by tools/test kafka"]
fn kcat_sees_links_and_nodes_come_and_go_while_they_do() {
    let broker = Broker::start(Access::Open).unwrap();
    let outbox = ListOutbox::with(1..=1);
    let mirror = start(&broker, 1, &outbox);
    wait_until(&mirror, 1);
    let mut kcat = broker
        .kcat_command()
        .args([
            "-C",
            "-t",
            &topics().events,
            "-o",
            "end",
            "-u",
            "-q",
            "-f",
            "%h\n",
        ])
        .args(["-X", "isolation.level=read_committed"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(kcat.stdout.take().unwrap()).lines();
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        lines
            .map_while(Result::ok)
            .try_for_each(|line| sender.send((Instant::now(), line)))
    });
    // kcat does not say when it has found the end of the topic; events go by until it shows the first.
    let mut seq = 1;
    let mut next = || {
        seq += 1;
        outbox.add(seq..=seq);
        (seq, Instant::now())
    };
    eventually("kcat follows", || {
        next();
        receiver.recv_timeout(Duration::from_millis(500)).is_ok()
    });
    let mut kinds = BTreeSet::new();
    let mut delays = Vec::new();
    for _ in 0..150 {
        let (seq, written) = next();
        let seen = loop {
            let (seen, headers) = receiver
                .recv_timeout(Duration::from_secs(30))
                .expect("kcat sees the event");
            if headers.contains(&format!("wattle-seq={seq},")) {
                kinds.extend(
                    headers
                        .split(',')
                        .find_map(|pair| pair.strip_prefix("ce_type="))
                        .map(str::to_owned),
                );
                break seen;
            }
        };
        delays.push((seen - written).as_micros());
    }
    kcat.kill().unwrap();
    kcat.wait().unwrap();
    delays.sort_unstable();
    println!(
        "event to kcat: median {} us, 95th of 100 {} us",
        delays[75], delays[142]
    );
    for kind in ["node.c", "node.u", "node.d"] {
        assert!(
            kinds.contains(&format!("io.wattle.topology.{kind}")),
            "{kind} is not among {kinds:?}"
        );
    }
}

#[test]
#[ignore = "needs a Kafka broker: run by tools/test kafka"]
fn a_transaction_that_hangs_is_told_and_nothing_is_written_behind_it() {
    let broker = Broker::start(Access::Open).unwrap();
    let outbox = ListOutbox::with(1..=30);
    let mirror = start(&broker, 1, &outbox);
    wait_until(&mirror, 30);
    drop(mirror);
    assert_exactly_once(&broker, 30);

    let stranger: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", broker.bootstrap())
        .set("transactional.id", "stranger")
        .create()
        .unwrap();
    stranger.init_transactions(Duration::from_secs(30)).unwrap();
    stranger.begin_transaction().unwrap();
    let events = topics().events;
    stranger
        .send(
            BaseRecord::<str, str>::to(&events)
                .partition(0)
                .key("k")
                .payload("open"),
        )
        .unwrap();
    stranger.flush(Duration::from_secs(30)).unwrap();

    outbox.add(31..=60);
    let mirror = start(&broker, 2, &outbox);
    eventually("the hanging transaction is told", || {
        mirror
            .status()
            .last_error
            .is_some_and(|said| said.contains("hangs in") && said.contains("partition 0"))
    });
    assert_eq!(
        (mirror.status().lag, mirror.status().events),
        (60 - mirror.status().committed_seq, 0)
    );
    stranger.abort_transaction(Duration::from_secs(30)).unwrap();
    wait_until(&mirror, 60);
    assert_exactly_once(&broker, 60);
}

#[test]
#[ignore = "a measurement: run by hand with --nocapture"]
fn how_fast_the_mirror_is() {
    let broker = Broker::start(Access::Open).unwrap();
    let outbox = ListOutbox::with(1..=100_000);
    let began = Instant::now();
    let mirror = start(&broker, 1, &outbox);
    eventually("it runs", || mirror.status().committed_seq > 0);
    let ready = began.elapsed();
    let from = mirror.status().committed_seq;
    wait_until(&mirror, 100_000);
    let seconds = (began.elapsed() - ready).as_secs_f64();
    let status = mirror.status();
    println!(
        "first commit after {} ms; then {:.0} events/s in {:.2} ms per transaction",
        ready.as_millis(),
        (100_000 - from) as f64 / seconds,
        seconds * 1_000.0 / status.transactions as f64
    );
}

const NETWORK: &str = "lab";

fn topics() -> Topics {
    Topics::below("wattle.lab")
}

fn start(broker: &Broker, term: u64, outbox: &ListOutbox) -> Mirror {
    start_with(Kafka::plaintext(&broker.bootstrap()), term, outbox)
}

fn start_with(kafka: Kafka, term: u64, outbox: &ListOutbox) -> Mirror {
    Mirror::start(config(kafka, term), outbox.clone()).unwrap()
}

fn config(kafka: Kafka, term: u64) -> Config {
    Config {
        kafka,
        network: NetworkId(0xab),
        network_name: NETWORK.into(),
        term,
    }
}

fn wait_until(mirror: &Mirror, seq: u64) {
    let deadline = Instant::now() + Duration::from_secs(90);
    while mirror.status().committed_seq < seq {
        assert!(
            Instant::now() < deadline,
            "{seq} is not committed: {:#?}",
            mirror.status()
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within a minute");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Reads the events until all are there (a commit is acknowledged before every partition shows it), then checks that
/// each is there once, in order, and names the one before it.
fn assert_exactly_once(broker: &Broker, last: u64) -> Vec<KcatRecord> {
    let mut records = Vec::new();
    eventually("all events are visible", || {
        records = broker.kcat(&topics().events).unwrap();
        let seen: BTreeSet<u64> = records
            .iter()
            .map(|record| record.number(HEADER_SEQ).unwrap())
            .collect();
        (1..=last).all(|seq| seen.contains(&seq))
    });
    let mut ends: BTreeMap<i32, &KcatRecord> = BTreeMap::new();
    for record in &records {
        let before = ends.insert(record.partition, record);
        let named = record.number(HEADER_PREV_SEQ).unwrap();
        let found = before.map_or(0, |before| before.number(HEADER_SEQ).unwrap());
        let there = || -> Vec<_> {
            let partition = records
                .iter()
                .filter(|other| other.partition == record.partition);
            partition
                .map(|other| (other.offset, other.number(HEADER_SEQ).unwrap()))
                .take(200)
                .collect()
        };
        assert_eq!(
            named,
            found,
            "at offset {}; offset and seq: {:?}",
            record.offset,
            there()
        );
    }
    assert_eq!(records.len() as u64, last, "some are doubled");
    records
}

/// Events about forty nodes in five sites that come, change and go.
fn event(seq: u64) -> TopologyEvent {
    let node = NodeId(seq % 40);
    let name = format!("n{}", node.0);
    let site = format!("site{}", node.0 % 5);
    let image = |epoch: u64| {
        Entity::Node(NodeEntity {
            id: node,
            name: name.parse().unwrap(),
            index: NodeIndex(node.0 as u16),
            addresses: vec!["10.77.0.1".parse().unwrap()],
            tags: vec![],
            site: Some(site.parse().unwrap()),
            leaf_of: None,
            reporting: true,
            agent_version: Some("0.1.0".into()),
            epoch: Some(epoch as u32),
            transit_cost_us: Some(0),
        })
    };
    let (op, cause) = match seq / 40 % 3 {
        0 => (Op::Create, Cause::MemberAdded),
        1 => (Op::Update, Cause::NodeReported),
        _ => (Op::Delete, Cause::MemberRemoved),
    };
    TopologyEvent {
        id: EventId { term: 7, seq },
        kind: EntityKind::Node,
        key: EntityKey::Node(node),
        op,
        before: (op != Op::Create).then(|| image(seq - 1)),
        after: (op != Op::Delete).then(|| image(seq)),
        cause,
        source: Source {
            network: NetworkId(0xab),
            network_name: NETWORK.into(),
            coordinator: "test".into(),
            term: 7,
            seq,
            reporter: Some(node),
            record_seq: Some(seq),
            site: Some(site.parse().unwrap()),
            observed_at: None,
            coalesced: 0,
        },
        ts: Timestamp::from_millis(1_795_385_280_000 + seq),
        omitted: None,
    }
}

/// An outbox in memory that grows while it is read.
#[derive(Clone, Default)]
struct ListOutbox(Arc<(Mutex<Vec<TopologyEvent>>, Condvar)>);

impl ListOutbox {
    fn with(seqs: impl Iterator<Item = u64>) -> Self {
        let outbox = Self::default();
        outbox.add(seqs);
        outbox
    }

    fn add(&self, seqs: impl Iterator<Item = u64>) {
        self.0.0.lock().unwrap().extend(seqs.map(event));
        self.0.1.notify_all();
    }
}

impl Outbox for ListOutbox {
    fn read_after(&mut self, seq: u64, limit: usize) -> Result<Vec<TopologyEvent>, OutboxError> {
        let events = self.0.0.lock().unwrap();
        let from = events.partition_point(|event| event.id.seq <= seq);
        Ok(events[from..].iter().take(limit).cloned().collect())
    }

    fn last_seq(&mut self) -> Result<u64, OutboxError> {
        Ok(self
            .0
            .0
            .lock()
            .unwrap()
            .last()
            .map_or(0, |event| event.id.seq))
    }

    fn wait(&mut self, patience: Duration) {
        let events = self.0.0.lock().unwrap();
        drop(self.0.1.wait_timeout(events, patience).unwrap());
    }
}
