//! The whole way of an event: agents that speak the real protocol, the real coordinator in a process of its own, a real
//! broker, and `kcat`. Both processes are killed with -9 amid ten thousand events, the outbox runs over, the
//! coordinator's disk is full. `sudo tools/test kafka` runs it.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

mod disk;
mod document;
mod fleet;
mod member;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Instant;

use serde_json::Value;
use wattle_api::gap::{GAP_KEY, GapReason, GapRecord};
use wattle_api::notice::{Alert, AlertKind, AlertState, AuditAction, AuditRecord, MirrorCause};
use wattle_api::stream::{HEADER_SEQ, Kafka};
use wattle_netlab::answer::{entities, json_lines, wattle_topology};
use wattle_netlab::block_on;
use wattle_netlab::kafka::cluster::{Cluster, Shape};
use wattle_netlab::kafka::{Access, Broker, KcatRecord};
use wattle_topology::{Source, verify};

use crate::disk::Disk;
use crate::document::{Document, reach, users};
use crate::fleet::{Coordinator, Fleet, PATIENCE, TOPIC, kcat_agrees};
use crate::member::Agent;

const ALERTS: &str = "wattle.lab.alerts.v1";
const EVENTS: u64 = 10_000;
/// The smallest limit that an outbox can have.
const MAX_EVENTS: u64 = 10_000;
const COORDINATOR_KILLS: u64 = 20;
/// The broker is killed with every fourth kill of the coordinator: five times.
const BROKER_EVERY: u64 = 4;

#[test]
#[ignore = "needs a Kafka broker: run by tools/test kafka"]
fn ten_thousand_events_survive_twenty_kills_of_the_coordinator_and_five_of_the_broker() {
    let mut broker = Broker::start(Access::Open).unwrap();
    let mut coordinator = Coordinator::start(&broker);
    let fleet = Fleet::join(&coordinator);
    let began = Instant::now();
    for kill in 1..=COORDINATOR_KILLS {
        coordinator.until(|network| {
            network["last_seq"].as_u64() >= Some(EVENTS * kill / COORDINATOR_KILLS)
        });
        let broker_too = kill % BROKER_EVERY == 0;
        if broker_too {
            broker.kill().unwrap();
        }
        coordinator.kill();
        if broker_too {
            broker.spawn().unwrap();
        }
        coordinator.run();
    }
    fleet.stop();
    broker.wait_until_ready().unwrap();
    let network = coordinator.until(|network| network["mirrored_seq"] == network["last_seq"]);
    let last = network["last_seq"].as_u64().unwrap();
    println!(
        "{COORDINATOR_KILLS} + {} kills, {last} events in {:.0} s",
        COORDINATOR_KILLS / BROKER_EVERY,
        began.elapsed().as_secs_f64()
    );
    assert!(last >= EVENTS);
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
        (1, last, last)
    );
    kcat_agrees(&broker, last);
}

#[test]
#[ignore = "needs a Kafka broker: run by tools/test kafka"]
fn kcat_sees_nodes_and_links_come_and_go_while_they_do() {
    let broker = Broker::start(Access::Open).unwrap();
    let coordinator = Coordinator::start(&broker);
    let first = Agent::join(1, coordinator.token());
    coordinator.until(|network| network["mirrored_seq"].as_u64() >= Some(1));
    let mut kcat = Kcat::follow(&broker);

    let second = Agent::join(2, coordinator.token());
    kcat.sees(
        "io.wattle.topology.node.c",
        &format!("node:{}", second.id()),
    );
    let link = format!("link:{}>{}/udp4", first.id(), second.id());
    block_on(async {
        let mut connection = first.hello().await.unwrap();
        connection
            .send(&first.report(1, &[second.id()]))
            .await
            .unwrap();
        kcat.sees("io.wattle.topology.link.c", &link);
        connection.send(&first.report(2, &[])).await.unwrap();
        kcat.sees("io.wattle.topology.link.d", &link);
        connection
            .send(&first.report(3, &[second.id()]))
            .await
            .unwrap();
        kcat.sees("io.wattle.topology.link.c", &link);
    });
    let delete = |revision: &str| {
        let header = format!("Wattle-Revision: {revision}");
        coordinator.request(&["-X", "DELETE", "-H", &header], "api/v1/nodes/n2")
    };
    let (problem, status) = delete("no revision");
    assert_eq!(status, 400, "{problem}");
    assert_eq!(delete("v1.2-3-g9f8e7d6").1, 204);
    kcat.sees(
        "io.wattle.topology.node.d",
        &format!("node:{}", second.id()),
    );
    coordinator.eventually("the audit trail names the revision that removed it", || {
        let revisions = |action| {
            let records = broker.kcat("wattle.lab.audit.v1").unwrap();
            let values = records.iter().filter_map(|record| record.value.as_deref());
            let audits = values.map(|value| serde_json::from_str::<AuditRecord>(value).unwrap());
            let done = audits.filter(|audit| audit.action == action);
            done.map(|audit| audit.revision).collect::<Vec<_>>()
        };
        revisions(AuditAction::NodeRemoved) == [Some("v1.2-3-g9f8e7d6".to_owned())]
            && revisions(AuditAction::NodeJoined) == [None, None]
    });
}

/// The outbox's limit is looked at each half minute, so it is passed by far before the oldest events go.
#[test]
#[ignore = "needs a Kafka broker: run by tools/test kafka"]
fn an_outbox_that_is_full_gives_up_its_oldest_events_and_every_reader_can_tell_which() {
    let limits = format!("[outbox]\nkeep_events = 1000\nmax_events = {MAX_EVENTS}\n");
    let mut broker = Broker::start(Access::Open).unwrap();
    let mut coordinator = Coordinator::start_with(&broker, None, &limits);
    let fleet = Fleet::join(&coordinator);
    coordinator.until(|network| network["mirrored_seq"].as_u64() >= Some(500));
    broker.kill().unwrap();
    let away = coordinator.until(|network| network["last_seq"].as_u64() >= Some(1_000));
    let last_known = away["mirrored_seq"].as_u64().unwrap();
    coordinator
        .until(|network| network["last_seq"].as_u64() >= Some(last_known + MAX_EVENTS + 1_000));
    fleet.stop();
    let last = coordinator.last_of_all();
    let first_kept = last - MAX_EVENTS + 1;
    let kept = format!("events?limit=1&after={}", first_kept - 1);
    let given_up = format!("events?limit=1&after={}", first_kept - 2);
    coordinator.eventually("the oldest events are given up", || {
        coordinator.curl(&[], &given_up).contains("no longer kept")
    });
    coordinator.eventually("both are alerts, before Kafka is back", || {
        [AlertKind::MirrorStalled, AlertKind::HistoryLost]
            .iter()
            .all(|kind| !coordinator.alerts(*kind).is_empty())
    });
    let oldest: Value = serde_json::from_str(&coordinator.curl(&[], &kept)).unwrap();
    assert_eq!(oldest["items"][0]["source"]["seq"], first_kept);

    broker.restart().unwrap();
    coordinator.until(|network| network["mirrored_seq"] == network["last_seq"]);
    // The loss outlives the process that saw it: of what was raised before the start, only the rest is cleared below.
    assert_eq!(coordinator.alerts(AlertKind::MirrorStalled).len(), 1);
    coordinator.kill();
    coordinator.run();
    let (missing, seqs) = gap_of(&broker);
    assert_eq!(
        (missing.last_seq, missing.reason),
        (first_kept - 1, GapReason::OutboxLimit)
    );
    // What was written right before the broker went may be known to nobody but the topics.
    assert!(missing.first_seq > last_known, "{missing:?}, {last_known}");
    let expected = (1..missing.first_seq).chain(first_kept..=last);
    assert_eq!(seqs, expected.collect(), "kcat sees what is not missing");
    readers_agree(
        &broker,
        &coordinator,
        missing.last_seq - missing.first_seq + 1,
    );
    let audit = broker.kcat("wattle.lab.audit.v1").unwrap();
    let mut notes = audit.iter().filter_map(|record| record.value.as_deref());
    assert!(
        notes.any(|note| note.contains("outbox_dropped")),
        "{audit:?}"
    );
    let told = |kind| {
        let records = broker.kcat(ALERTS).unwrap();
        alerts_of(&records, kind)
            .into_iter()
            .map(|alert| alert.state)
    };
    coordinator.eventually("the mirror's alert is cleared in Kafka", || {
        told(AlertKind::MirrorStalled).eq([AlertState::Raised, AlertState::Cleared])
    });
    assert!(told(AlertKind::HistoryLost).eq([AlertState::Raised]));
    assert_eq!(coordinator.alerts(AlertKind::HistoryLost).len(), 1);
}

/// The right is taken from a mirror that runs, and given back.
#[test]
#[ignore = "needs a Kafka broker: run by tools/test kafka"]
fn a_missing_right_is_an_alert_that_is_told_at_once_and_once_in_kafka_when_it_is_over() {
    let kind = AlertKind::MirrorStalled;
    let cluster = Cluster::start(Shape::secured(1)).unwrap();
    let document = Document::of(&cluster).with(&users(&cluster, "role"));
    document.run("apply", &["--yes"], 0);
    let coordinator = Coordinator::configured(None, &reach(&cluster, "wattle"));
    Agent::join(1, coordinator.token());
    coordinator.until(|network| network["mirrored_seq"].as_u64() >= Some(1));
    assert_eq!(coordinator.alerts(kind), []);

    document.write(&users(&cluster, ""));
    document.run("apply", &["--yes", "--allow-delete"], 0);
    let second = Agent::join(2, coordinator.token());
    coordinator.eventually("the missing right is an alert", || {
        coordinator.alerts(kind).iter().any(|alert| {
            alert.cause == Some(MirrorCause::NotAuthorised)
                && alert.detail.contains("do not allow us")
        })
    });
    assert_eq!(coordinator.metric("wattle_coordinator_alerts "), Some(1));
    let network = coordinator.until(|_| true);
    assert!(
        network["mirrored_seq"].as_u64() < network["last_seq"].as_u64(),
        "{network}"
    );

    document.write(&users(&cluster, "role"));
    document.run("apply", &["--yes"], 0);
    coordinator.until(|network| network["mirrored_seq"] == network["last_seq"]);
    coordinator.eventually("the alert is cleared", || {
        coordinator.alerts(kind).is_empty()
    });
    let told = || alerts_of(&cluster.kcat(ALERTS).unwrap(), kind);
    coordinator.eventually("Kafka has both", || told().len() == 2);
    let states = told().into_iter().map(|alert| (alert.id, alert.state));
    let id = || "mirror_stalled/kafka".to_owned();
    assert!(states.eq([(id(), AlertState::Raised), (id(), AlertState::Cleared)]));
    let events = cluster.kcat(TOPIC).unwrap();
    let joined = format!("node:{}", second.id());
    assert!(events.iter().any(|event| event.key == joined));
}

/// The alerts of a kind, in the order of their topic.
fn alerts_of(records: &[KcatRecord], kind: AlertKind) -> Vec<Alert> {
    let values = records.iter().filter_map(|record| record.value.as_deref());
    let alerts = values.map(|value| serde_json::from_str::<Alert>(value).unwrap());
    alerts.filter(|alert| alert.kind == kind).collect()
}

/// What is lost on the way to a full disk is never lost: agents say it anew.
#[test]
#[ignore = "needs root and a Kafka broker: run by tools/test kafka"]
fn a_coordinator_whose_disk_is_full_waits_for_room_and_loses_and_doubles_nothing() {
    let disk = Disk::of_megabytes(64);
    let mut broker = Broker::start(Access::Open).unwrap();
    let mut coordinator = Coordinator::start_with(&broker, Some(&disk.directory()), "");
    let fleet = Fleet::join(&coordinator);
    coordinator.until(|network| network["mirrored_seq"].as_u64() >= Some(1_000));
    disk.fill();
    coordinator.eventually("more transactions fail than may for another reason", || {
        coordinator.metric("wattle_coordinator_commits_failed_total") > Some(6)
    });
    let said = coordinator.log();
    assert!(
        said.contains("no room is left where the database is"),
        "{said}"
    );
    assert!(!coordinator.has_ended(), "{said}");
    let full = coordinator.until(|_| true)["last_seq"].as_u64().unwrap();
    coordinator.eventually("what can be read is answered", || {
        coordinator.request(&[], "api/v1/topology").1 == 200
    });
    let (problem, status) = coordinator.request(&["--json", "{}"], "api/v1/tokens");
    assert_eq!(status, 503, "{problem}");
    assert!(problem.contains("make room"), "{problem}");
    coordinator.until(|network| network["mirrored_seq"].as_u64() >= Some(full));

    // One that is started amid that says so and ends, or waits where its log has room for the first of its writes.
    coordinator.kill();
    let before = coordinator.log().len();
    coordinator.spawn();
    let ended = coordinator.ends_or(|coordinator| {
        coordinator.metric("wattle_coordinator_commits_failed_total") > Some(0)
    });
    disk.make_room();
    if ended {
        let said = coordinator.log().split_off(before);
        assert!(said.contains("no room is left"), "{said}");
        coordinator.run();
    }
    coordinator.until(|network| network["mirrored_seq"].as_u64() >= Some(full + 1_000));
    let failed = coordinator.metric("wattle_coordinator_commits_failed_total");
    disk.fill();
    coordinator.eventually("a transaction fails again", || {
        coordinator.metric("wattle_coordinator_commits_failed_total") > failed
    });
    broker.kill().unwrap();
    disk.make_room();
    let full = coordinator.until(|_| true)["last_seq"].as_u64().unwrap();
    coordinator.until(|network| network["last_seq"].as_u64() >= Some(full + 1_000));
    broker.restart().unwrap();
    fleet.stop();
    let network = coordinator.until(|network| network["mirrored_seq"] == network["last_seq"]);
    kcat_agrees(&broker, network["last_seq"].as_u64().unwrap());
    readers_agree(&broker, &coordinator, 0);
}

/// The gap that all partitions tell of, and the events that are there, as kcat sees them.
fn gap_of(broker: &Broker) -> (GapRecord, BTreeSet<u64>) {
    let (gaps, events): (Vec<_>, Vec<_>) = broker
        .kcat(TOPIC)
        .unwrap()
        .into_iter()
        .partition(|record| record.key == GAP_KEY);
    let told: BTreeMap<i32, GapRecord> = gaps
        .iter()
        .map(|gap| {
            (
                gap.partition,
                serde_json::from_str(gap.value.as_deref().unwrap()).unwrap(),
            )
        })
        .collect();
    assert_eq!(gaps.len(), told.len(), "one for each partition");
    let gap = told.values().next().expect("a gap is told").clone();
    let same =
        |other: &GapRecord| (other.first_seq, other.last_seq) == (gap.first_seq, gap.last_seq);
    assert!(told.values().all(same), "{told:?}");
    assert!(
        events
            .iter()
            .all(|event| told.contains_key(&event.partition)),
        "{told:?}"
    );
    let seqs: Vec<u64> = events
        .iter()
        .map(|event| event.number(HEADER_SEQ).unwrap())
        .collect();
    let different: BTreeSet<u64> = seqs.iter().copied().collect();
    assert_eq!(seqs.len(), different.len(), "kcat sees some twice");
    (gap, different)
}

/// The readers find nothing wrong but what they were told is missing, and the topology in Kafka is the coordinator's.
fn readers_agree(broker: &Broker, coordinator: &Coordinator, missing: u64) {
    let source = ["--json", "--kafka", &broker.bootstrap()].map(str::to_owned);
    let read = |verb: &str| {
        json_lines(&mut wattle_topology(&source, &[verb]).unwrap())
            .unwrap()
            .remove(0)
    };
    let verified = read("verify");
    assert_eq!(verified["data"]["told_missing"], missing, "{verified}");
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
    let topology: Value = serde_json::from_str(&coordinator.curl(&[], "topology")).unwrap();
    let shown = read("show");
    assert_eq!(
        entities(&shown["data"]).unwrap(),
        entities(&topology).unwrap()
    );
}

/// `kcat` that follows the events.
struct Kcat {
    process: Child,
    headers: Receiver<String>,
}

impl Kcat {
    fn follow(broker: &Broker) -> Self {
        let mut process = broker
            .kcat_command()
            .args([
                "-C",
                "-t",
                TOPIC,
                "-o",
                "beginning",
                "-u",
                "-q",
                "-f",
                "%h\n",
            ])
            .args(["-X", "isolation.level=read_committed"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let (sender, headers) = mpsc::channel();
        std::thread::spawn(move || {
            lines
                .map_while(Result::ok)
                .try_for_each(|line| sender.send(line))
        });
        Self { process, headers }
    }

    /// Waits for an event of this type about this entity.
    fn sees(&mut self, kind: &str, key: &str) {
        let began = Instant::now();
        let (kind, key) = (format!("ce_type={kind}"), format!("ce_subject={key}"));
        loop {
            let left = PATIENCE.saturating_sub(began.elapsed());
            let headers = self
                .headers
                .recv_timeout(left)
                .unwrap_or_else(|_| panic!("kcat sees no {kind} {key}"));
            let pairs: Vec<&str> = headers.split(',').collect();
            if pairs.contains(&kind.as_str()) && pairs.contains(&key.as_str()) {
                eprintln!(
                    "{kind} seen by kcat after {} ms",
                    began.elapsed().as_millis()
                );
                return;
            }
        }
    }
}

impl Drop for Kcat {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
