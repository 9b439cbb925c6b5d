//! Clusters of real Apache Kafka as `wattle kafka` renders, plans and changes them. `sudo tools/test kafka` runs these;
//! they need `WATTLE_KAFKA_LIBS` and `WATTLE_BIN_DIR`.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

mod document;
mod outbox;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use serde_json::Value;
use wattle_api::notice::MirrorCause;
use wattle_api::stream::{HEADER_SEQ, partition_of};
use wattle_mirror::{Mirror, State};
use wattle_netlab::kafka::cluster::{Cluster, Shape};
use wattle_netlab::mesh::binary;
use wattle_netlab::{block_on, eventually, published};

use crate::document::{Document, SITE, tls_table, users};
use crate::outbox::{ListOutbox, start_with, wait_until};

const EVENTS: &str = "wattle.lab.topology.events.v1";
const STATE: &str = "wattle.lab.topology.state.v1";

#[test]
#[ignore = "needs a Kafka broker: run by tools/test kafka"]
fn a_secured_cluster_of_three_becomes_what_its_document_says_and_stays_so() {
    let mut cluster = Cluster::start(Shape::secured(3)).unwrap();
    rendering_by_the_command_line_is_what_runs(&cluster);
    let document = Document::of(&cluster);

    // Users first, without rights: the mirror says what is missing and loses nothing.
    document.write(&users(&cluster, ""));
    let plan = document.run("plan", &[], 0);
    assert!(
        plan.contains("user wattle") && plan.contains(EVENTS),
        "{plan}"
    );
    document.run("drift", &[], 8);
    let unasked = document.run("apply", &[], 2);
    assert!(unasked.contains("repeat with --yes"), "{unasked}");
    let applied = document.run("apply", &["--yes"], 0);
    assert!(
        applied.contains("+ topic") && !applied.contains("FAILED"),
        "{applied}"
    );
    let outbox = ListOutbox::with(1..=300);
    let mirror = start_with(cluster.kafka("wattle"), 1, &outbox);
    eventually("the mirror says that a right is missing", PATIENCE, || {
        let status = mirror.status();
        let told = status.last_error.unwrap_or_default();
        let stalled = status.stalled.map(|trouble| trouble.cause);
        Ok(status.state == State::Waiting
            && told.contains("do not allow us")
            && stalled == Some(MirrorCause::NotAuthorised))
    })
    .unwrap_or_else(|error| panic!("{error:?}: {:?}", mirror.status()));
    assert_eq!(
        (mirror.status().committed_seq, mirror.status().lag),
        (0, 300)
    );

    // Then the rights: everything arrives.
    document.write(&users(&cluster, "role"));
    let applied = document.run("apply", &["--yes"], 0);
    assert!(
        applied.contains("right of User:wattle") && !applied.contains("+ topic"),
        "{applied}"
    );
    eventually("all events are committed", PATIENCE, || {
        Ok(mirror.status().committed_seq == 300)
    })
    .unwrap_or_else(|error| panic!("{error:?}: {:?}", mirror.status()));
    assert_eq!(mirror.status().stalled, None);
    assert_each_event_is_there_once(&cluster, 300);
    rights_that_are_taken_away_delay_events_only(&cluster, &document, &mirror, &outbox);
    drop(mirror);

    // The same user with a certificate instead of a password has the same rights.
    outbox.add(381..=400);
    let mirror = start_with(cluster.kafka_by_certificate("wattle").unwrap(), 2, &outbox);
    eventually("the rest is committed", PATIENCE, || {
        Ok(mirror.status().committed_seq == 400)
    })
    .unwrap_or_else(|error| panic!("{error:?}: {:?}", mirror.status()));
    assert_each_event_is_there_once(&cluster, 400);

    // Nothing is left to do.
    let plan = document.run("plan", &[], 0);
    assert!(plan.contains("the cluster is as desired"), "{plan}");
    document.run("drift", &[], 0);
    copies_are_in_racks_and_the_site_s_leader_in_its_own(&cluster, 3, 2);

    a_reader_with_a_certificate_reads_and_may_not_write(&cluster);
    a_change_by_hand_is_told_and_set_back(&cluster, &document);
    what_would_lose_something_is_left(&cluster, &document);
    a_changed_password_is_found(&cluster, &document);
    copies_and_leaders_move_where_the_document_wants_them(&cluster, &document);
    what_should_be_gone_goes_with_leave_only(&cluster, &document);
    too_few_copies_in_step_delay_events_only(&mut cluster, &document, &mirror, &outbox);
}

#[test]
#[ignore = "needs a Kafka broker: run by tools/test kafka"]
fn old_segments_move_to_remote_storage_and_are_read_back_from_there() {
    let cluster = Cluster::start(Shape::open(1).tiered()).unwrap();
    let document = Document::of(&cluster);
    let refused = document.with(
        "[[desired.topics]]\nname = \"history\"\npartitions = 1\n\
         config = { \"cleanup.policy\" = \"compact\", \"remote.storage.enable\" = \"true\" }\n",
    );
    let told = refused.run("apply", &["--yes"], 2);
    assert!(
        told.contains("history is compacted and to be in remote storage"),
        "{told}"
    );
    let document = document.with(
        "[[desired.topics]]\nname = \"history\"\npartitions = 1\n[desired.topics.config]\n\
         \"remote.storage.enable\" = \"true\"\n\"local.retention.ms\" = \"1000\"\n\"segment.bytes\" = \"1048576\"\n\
         \"retention.ms\" = \"3600000\"\n\"file.delete.delay.ms\" = \"500\"\n\"compression.type\" = \"uncompressed\"\n",
    );
    let mut printed = document.run("drift", &["--json"], 8);
    for (options, schema, items) in [
        (["--dry-run", "--json"], "wattle.kafka_plan/v1", 1),
        (["--yes", "--json"], "wattle.kafka_apply/v1", 1),
        (["--yes", "--json"], "wattle.kafka_apply/v1", 0),
    ] {
        let applied = document.run("apply", &options, 0);
        let answer: Value = serde_json::from_str(&applied).expect("one document");
        assert_eq!(answer["schema"], schema);
        let told = answer["data"]
            .as_array()
            .or(answer["data"]["items"].as_array());
        assert_eq!(told.map(Vec::len), Some(items), "{answer}");
        printed += &applied;
    }
    printed += &document.run("drift", &["--json"], 0);
    let named = published::judge(&printed).unwrap();
    let of_kafka = ["error", "kafka_apply", "kafka_plan"].map(|name| format!("wattle.{name}/v1"));
    assert_eq!(named, of_kafka.into());

    // Five segments of noise, which nothing can make small.
    let sent: Vec<String> = (0..5_000)
        .map(|n| format!("{n}:{}", noise(n, 1_000)))
        .collect();
    produce(&cluster, "history", &sent);
    let local = cluster.data(0).join("history-0");
    let remote = || files(&cluster.remote(), ".log");
    eventually(
        "segments are in remote storage and gone from the broker's disk",
        PATIENCE,
        || {
            let first = segments(&local).into_iter().next().unwrap_or(0);
            Ok(remote().len() >= 3 && first > 3_000)
        },
    )
    .unwrap_or_else(|error| {
        let (remote, local) = (remote(), segments(&local));
        panic!(
            "{error:?}\nremote: {remote:?}\nlocal: {local:?}\n{}",
            cluster.log_tails()
        )
    });
    let read: Vec<String> = cluster
        .kcat("history")
        .unwrap()
        .into_iter()
        .filter_map(|record| record.value)
        .collect();
    assert!(
        read == sent,
        "{} of {} records came back",
        read.len(),
        sent.len()
    );
}

fn rendering_by_the_command_line_is_what_runs(cluster: &Cluster) {
    let out = cluster.dir().join("rendered");
    let file = cluster.dir().join("kafka.toml");
    let rendered = Command::new(binary("wattle").unwrap())
        .args(["kafka", "render", "--output"])
        .args([&out, &file])
        .output()
        .unwrap();
    assert!(rendered.status.success(), "{rendered:?}");
    let paths = String::from_utf8(rendered.stdout).unwrap();
    assert_eq!(paths.lines().count(), 6, "{paths}");
    for path in paths.lines().map(Path::new) {
        let running = cluster.dir().join(path.strip_prefix(&out).unwrap());
        assert_eq!(
            fs::read(path).unwrap(),
            fs::read(&running).unwrap(),
            "{running:?}"
        );
    }
}

/// Takes rights from a mirror that runs, and gives them back.
fn rights_that_are_taken_away_delay_events_only(
    cluster: &Cluster,
    document: &Document,
    mirror: &Mirror,
    outbox: &ListOutbox,
) {
    document.write(&users(cluster, ""));
    let left = document.run("apply", &["--yes"], 8);
    assert!(left.contains("left: needs --allow-delete"), "{left}");
    outbox.add(301..=340);
    wait_until(mirror, 340);
    let applied = document.run("apply", &["--yes", "--allow-delete"], 0);
    assert!(applied.contains("- right of User:wattle"), "{applied}");
    document.run("drift", &[], 0);
    outbox.add(341..=380);
    eventually("the mirror says that it may not", PATIENCE, || {
        let status = mirror.status();
        let told = status.last_error.unwrap_or_default();
        Ok(status.lag == 40 && told.contains("do not allow us"))
    })
    .unwrap_or_else(|error| panic!("{error:?}: {:?}", mirror.status()));
    document.write(&users(cluster, "role"));
    document.run("apply", &["--yes"], 0);
    wait_until(mirror, 380);
    assert_each_event_is_there_once(cluster, 380);
}

/// `copies` of each partition in as many zones, and the site's led by `leader`.
fn copies_are_in_racks_and_the_site_s_leader_in_its_own(
    cluster: &Cluster,
    copies: usize,
    leader: u64,
) {
    let listed = listing(cluster);
    for name in [EVENTS, STATE] {
        let topics = listed["topics"].as_array().unwrap();
        let topic = topics.iter().find(|topic| topic["topic"] == name).unwrap();
        let partitions = topic["partitions"].as_array().unwrap();
        assert_eq!(partitions.len(), 6);
        for partition in partitions {
            let replicas = partition["replicas"].as_array().unwrap();
            let brokers: BTreeSet<u64> = replicas
                .iter()
                .map(|replica| replica["id"].as_u64().unwrap())
                .collect();
            // Broker N is in rack zone-N.
            assert_eq!(
                (brokers.len(), replicas.len()),
                (copies, copies),
                "{partition}"
            );
        }
        let at = partition_of(Some(SITE), "", 6);
        let led = partitions
            .iter()
            .find(|partition| partition["partition"] == at);
        assert_eq!(led.unwrap()["leader"], leader, "{name}");
    }
}

fn a_reader_with_a_certificate_reads_and_may_not_write(cluster: &Cluster) {
    let kafka = cluster.kafka_by_certificate("eyes").unwrap();
    let tls = kafka.tls.clone().unwrap();
    let settings = cluster.dir().join("eyes.toml");
    let text = format!(
        "[kafka]\nprotocol = \"ssl\"\nbrokers = {:?}\n{}",
        kafka.brokers,
        tls_table(&tls)
    );
    fs::write(&settings, text).unwrap();
    let verified = Command::new(binary("wattle").unwrap())
        .args([
            "topology",
            "verify",
            "--prefix",
            "wattle.lab",
            "--kafka-config",
        ])
        .arg(&settings)
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&verified.stdout);
    assert!(
        verified.status.success() && told.contains("400 seen, 0 lost"),
        "{verified:?}"
    );

    let mut kcat = cluster.kcat_command("eyes");
    kcat.args(["-P", "-t", EVENTS]);
    let refused = feed(kcat, "a lie\n");
    assert!(refused.contains("authorization failed"), "{refused}");
}

/// librdkafka's old way to change settings replaces all of a topic: the hand that knows no better.
fn a_change_by_hand_is_told_and_set_back(cluster: &Cluster, document: &Document) {
    alter_by_hand(
        cluster,
        EVENTS,
        &[("retention.ms", "1000000000000"), ("flush.ms", "77")],
    );
    let drift = document.run("drift", &["--json"], 8);
    let plan: Value = serde_json::from_str(drift.lines().next().unwrap()).unwrap();
    assert_eq!(plan["schema"], "wattle.kafka_plan/v1");
    let differences: Vec<&Value> = plan["data"]["items"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|item| item["differences"].as_array().unwrap())
        .collect();
    let changed = differences
        .iter()
        .find(|difference| difference["field"] == "retention.ms");
    assert_eq!(changed.unwrap()["found"], "1000000000000", "{plan}");
    assert!(!drift.contains("\"flush.ms\""), "{plan}");
    let left = document.run("apply", &["--yes", "--json"], 8);
    published::judge(&(drift + &left)).unwrap();
    // It would be kept for shorter than today, so that has to be allowed.
    let left = document.run("apply", &["--yes"], 8);
    assert!(left.contains("left: needs --allow-shrink"), "{left}");
    document.run("apply", &["--yes", "--allow-shrink"], 0);
    document.run("drift", &[], 0);
    assert_eq!(
        setting(cluster, EVENTS, "flush.ms"),
        "77",
        "what nobody named stays"
    );
    assert_eq!(
        setting(cluster, EVENTS, "retention.ms"),
        (90_u64 * 86_400_000).to_string()
    );
}

fn what_would_lose_something_is_left(cluster: &Cluster, document: &Document) {
    document.write_but(&users(cluster, "role"), "partitions = 6", "partitions = 3");
    let plan = document.run("plan", &[], 0);
    assert!(
        plan.contains("no: Kafka never takes partitions away"),
        "{plan}"
    );
    document.run("apply", &["--yes", "--allow-shrink", "--allow-delete"], 8);
    document.write_but(
        &users(cluster, "role"),
        "replication = 3",
        "replication = 2",
    );
    let left = document.run("apply", &["--yes"], 8);
    assert!(
        left.contains("left: needs --allow-shrink: fewer brokers may fail"),
        "{left}"
    );
    document.write(&users(cluster, "role"));
    document.run("drift", &[], 0);
}

fn a_changed_password_is_found(cluster: &Cluster, document: &Document) {
    let file = cluster.add_password("wattle").unwrap();
    let old = fs::read_to_string(&file).unwrap();
    fs::write(&file, "another one\n").unwrap();
    let drift = document.run("drift", &[], 8);
    assert!(drift.contains("another password"), "{drift}");
    document.run("apply", &["--yes"], 0);
    document.run("drift", &[], 0);
    fs::write(&file, old).unwrap();
    document.run("apply", &["--yes"], 0);
    assert!(!drift.contains("another one"), "a secret is shown: {drift}");
}

/// Fewer copies, then all again with another leader for the site.
fn copies_and_leaders_move_where_the_document_wants_them(cluster: &Cluster, document: &Document) {
    let users = users(cluster, "role");
    document.write_but(&users, "replication = 3", "replication = 2");
    document.run("apply", &["--yes", "--allow-shrink"], 0);
    document.run("drift", &[], 0);
    copies_are_in_racks_and_the_site_s_leader_in_its_own(cluster, 2, 2);
    document.write(&users.replace("zone-2", "zone-3"));
    let applied = document.run("apply", &["--yes"], 0);
    assert!(applied.contains(EVENTS), "{applied}");
    document.run("drift", &[], 0);
    copies_are_in_racks_and_the_site_s_leader_in_its_own(cluster, 3, 3);
}

fn what_should_be_gone_goes_with_leave_only(cluster: &Cluster, document: &Document) {
    let users = users(cluster, "role").replace("zone-2", "zone-3");
    let password = cluster.add_password("leaver").unwrap();
    document.write(&format!(
        "{users}[[desired.users]]\nname = \"leaver\"\npassword_file = {password:?}\n\
         [[desired.topics]]\nname = \"old\"\npartitions = 2\nreplication = 2\n"
    ));
    document.run("apply", &["--yes"], 0);
    document.run("drift", &[], 0);
    assert!(topic_names(cluster).contains("old"));
    document.write(&format!(
        "{users}[desired.remove]\ntopics = [\"old\"]\nusers = [\"leaver\"]\n"
    ));
    let left = document.run("apply", &["--yes"], 8);
    assert_eq!(
        left.matches("left: needs --allow-delete").count(),
        2,
        "{left}"
    );
    assert!(topic_names(cluster).contains("old"));
    document.run("apply", &["--yes", "--allow-delete"], 0);
    document.run("drift", &[], 0);
    let names = topic_names(cluster);
    assert!(
        !names.contains("old") && names.contains(EVENTS),
        "{names:?}"
    );
}

/// A server that is away is one copy too few where all three are wanted in step, and two that are away are two.
fn too_few_copies_in_step_delay_events_only(
    cluster: &mut Cluster,
    document: &Document,
    mirror: &Mirror,
    outbox: &ListOutbox,
) {
    alter_by_hand(cluster, EVENTS, &[("min.insync.replicas", "3")]);
    cluster.kill(2).unwrap();
    eventually("the dead server is missed", PATIENCE, || {
        Ok(listing(cluster)["brokers"].as_array().map(Vec::len) == Some(2))
    })
    .unwrap();
    let plan = document.run("plan", &[], 0);
    assert!(plan.contains("broker 3 has copies and is away"), "{plan}");
    assert!(!plan.contains("copies of partition"), "{plan}");
    let events_wait = |last| {
        let before = mirror.status();
        outbox.add(last - 49..=last);
        eventually("it is told", PATIENCE, || {
            Ok(mirror.status().failures > before.failures)
        })
        .unwrap();
        assert_eq!(mirror.status().lag, 50, "{:?}", mirror.status());
    };
    events_wait(450);
    // The client complains all the time that it cannot connect to the dead server, which is not what keeps events.
    let too_few = || {
        let stalled = mirror.status().stalled.map(|trouble| trouble.cause);
        stalled == Some(MirrorCause::TooFewInSync)
    };
    eventually("the cause is told", PATIENCE, || Ok(too_few())).unwrap();
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(15) {
        assert!(too_few(), "{:?}", mirror.status());
        std::thread::sleep(Duration::from_millis(50));
    }
    cluster.restart(2).unwrap();
    wait_until(mirror, 450);

    cluster.kill(1).unwrap();
    cluster.kill(2).unwrap();
    events_wait(500);
    cluster.spawn(1).unwrap();
    cluster.restart(2).unwrap();
    wait_until(mirror, 500);
    assert_each_event_is_there_once(cluster, 500);

    // Others led meanwhile, and a hand changed what the document says.
    let applied = document.run("apply", &["--yes", "--allow-shrink"], 0);
    assert!(applied.contains("leader of partition"), "{applied}");
    document.run("drift", &[], 0);
    copies_are_in_racks_and_the_site_s_leader_in_its_own(cluster, 3, 3);
}

const PATIENCE: Duration = Duration::from_secs(180);

fn assert_each_event_is_there_once(cluster: &Cluster, last: u64) {
    let mut seqs = Vec::new();
    eventually("all events are visible", PATIENCE, || {
        let records = cluster.kcat(EVENTS)?;
        seqs = records
            .iter()
            .map(|record| record.number(HEADER_SEQ))
            .collect::<Result<_, _>>()?;
        Ok(seqs.len() as u64 >= last)
    })
    .unwrap();
    assert_eq!(seqs.len() as u64, last);
    let different: BTreeSet<u64> = seqs.into_iter().collect();
    assert_eq!(different, (1..=last).collect());
}

fn listing(cluster: &Cluster) -> Value {
    let output = cluster
        .kcat_command(Shape::ADMIN)
        .args(["-L", "-J"])
        .output()
        .unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

fn topic_names(cluster: &Cluster) -> BTreeSet<String> {
    let listed = listing(cluster);
    let topics = listed["topics"].as_array().unwrap().iter();
    topics
        .map(|topic| topic["topic"].as_str().unwrap().to_owned())
        .collect()
}

fn rdkafka_admin(cluster: &Cluster) -> AdminClient<DefaultClientContext> {
    let kafka = cluster.kafka(Shape::ADMIN);
    let mut config = ClientConfig::new();
    for (key, value) in kafka.properties(&wattle_kafka::HostSecrets).unwrap() {
        config.set(key, value);
    }
    config.create().unwrap()
}

fn alter_by_hand(cluster: &Cluster, topic: &str, settings: &[(&str, &str)]) {
    let resource = AlterConfig::new(ResourceSpecifier::Topic(topic));
    let resource = settings
        .iter()
        .fold(resource, |resource, (key, value)| resource.set(key, value));
    let admin = rdkafka_admin(cluster);
    let done = block_on(admin.alter_configs([&resource], &AdminOptions::new())).unwrap();
    assert!(done.iter().all(Result::is_ok), "{done:?}");
    eventually("the change is seen", PATIENCE, || {
        Ok(setting(cluster, topic, settings[0].0) == settings[0].1)
    })
    .unwrap();
}

fn setting(cluster: &Cluster, topic: &str, name: &str) -> String {
    let admin = rdkafka_admin(cluster);
    let resource = ResourceSpecifier::Topic(topic);
    let found = block_on(admin.describe_configs([&resource], &AdminOptions::new())).unwrap();
    let found = found.into_iter().next().unwrap().unwrap();
    found
        .get(name)
        .and_then(|entry| entry.value.clone())
        .unwrap_or_default()
}

fn produce(cluster: &Cluster, topic: &str, lines: &[String]) {
    let mut kcat = cluster.kcat_command(Shape::ADMIN);
    kcat.args(["-P", "-t", topic]);
    let said = feed(kcat, &(lines.join("\n") + "\n"));
    assert!(said.is_empty(), "{said}");
}

/// Runs a command over `input` and returns what it complains of.
fn feed(mut command: Command, input: &str) -> String {
    let mut process = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = process.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    let output = process.wait_with_output().unwrap();
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Letters and digits that no codec makes small (a xorshift generator).
fn noise(seed: u64, length: usize) -> String {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let letters = (0..length).map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(
            b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_"
                [(state >> 58) as usize],
        )
    });
    letters.collect()
}

/// The first offsets of the segments in a partition's directory.
fn segments(directory: &Path) -> BTreeSet<u64> {
    let names = files(directory, ".log").into_iter();
    let stems = names.filter_map(|path| path.file_stem()?.to_str()?.parse().ok());
    stems.collect()
}

/// The files below a directory whose names end so.
fn files(directory: &Path, ending: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            found.extend(files(&path, ending));
        } else if path.to_str().is_some_and(|name| name.ends_with(ending)) {
            found.push(path);
        }
    }
    found
}
