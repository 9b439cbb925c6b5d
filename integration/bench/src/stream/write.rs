//! Writes the story into a database as the coordinator's, and lets the mirror carry it to Kafka.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;
use wattle_api::Timestamp;
use wattle_api::stream::Kafka;
use wattle_mirror::{Config, Mirror, State, StoreOutbox};
use wattle_model::NetworkId;
use wattle_store::{Change, Store};

use crate::story::Story;
use crate::{Arguments, now_us};

const NETWORK: NetworkId = NetworkId(0xc4a05);

/// Another mirror took over.
const STEPPED_DOWN: u8 = 3;

/// Changes of one transaction at most when there is no rate: what an engine in a hurry puts together.
const BATCH: u64 = 1_000;

/// How often a writer with a rate commits.
const TICK: Duration = Duration::from_millis(5);

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let rate: u64 = arguments.or("rate", 0)?;
    let when: String = arguments.or("mirror", "at-once".to_owned())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let database = Path::new(arguments.text("state")?).join("coordinator.db");
    let network: String = arguments.or("network", "chaos".to_owned())?;
    let id = arguments.or("network-id", NETWORK)?;
    let store = runtime.block_on(Store::open(&database, id, &network, "wattle-stream"))?;
    let config = config(arguments, id, &network, store.term())?;
    let events = match arguments.or("more", 0)? {
        0 => arguments.or("events", 10_000)?,
        more => store.last_seq() + more,
    };
    let start = || {
        let outbox = StoreOutbox::new(store.clone(), runtime.handle().clone());
        Mirror::start(config.clone(), outbox).context("starting the mirror")
    };
    let mut mirror = match when.as_str() {
        "at-once" => Some(start()?),
        _ => None,
    };
    say(
        &json!({"what": "begin", "at_us": now_us(), "rss_kib": rss_kib()?, "seq": store.last_seq()}),
    );
    let mut watch = Watch::default();
    let writer = Writer {
        store: &store,
        runtime: &runtime,
        story: Story {
            nodes: arguments.or("nodes", 20)?,
            sites: arguments.or("sites", 5)?,
            degree: arguments.or("degree", 2)?,
        },
    };
    if let Some(ended) = writer.write(events, rate, mirror.as_ref(), &mut watch)? {
        return Ok(ended);
    }
    say(
        &json!({"what": "written", "at_us": now_us(), "rss_kib": rss_kib()?, "seq": store.last_seq()}),
    );
    if when == "off" {
        return Ok(ExitCode::SUCCESS);
    }
    let mirror = match mirror.take() {
        Some(mirror) => mirror,
        None => start()?,
    };
    while mirror.status().committed_seq < events {
        if let Some(ended) = watch.look(&mirror) {
            return Ok(ended);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    watch.look(&mirror);
    let status = mirror.status();
    say(&json!({
        "what": "mirrored", "at_us": now_us(), "seq": status.committed_seq, "first_commit_us": watch.first_us,
        "first_seq": watch.first_seq, "transactions": status.transactions, "failures": status.failures,
        "fenced": status.fenced, "rss_kib": rss_kib()?,
    }));
    mirror.stop();
    Ok(ExitCode::SUCCESS)
}

struct Writer<'a> {
    store: &'a Store,
    runtime: &'a tokio::runtime::Runtime,
    story: Story,
}

impl Writer<'_> {
    /// Writes up to number `events`, `rate` a second or as fast as the database takes them. Tells when the mirror
    /// stepped down meanwhile.
    fn write(
        &self,
        events: u64,
        rate: u64,
        mirror: Option<&Mirror>,
        watch: &mut Watch,
    ) -> Result<Option<ExitCode>> {
        let (began, first) = (Instant::now(), self.store.last_seq());
        let mut seq = first;
        while seq < events {
            let due = match rate {
                0 => seq + BATCH,
                rate => first + (began.elapsed().as_secs_f64() * rate as f64) as u64,
            };
            let end = due.min(events);
            if end > seq {
                let change = Change {
                    differences: (seq + 1..=end).map(|seq| self.story.change(seq)).collect(),
                    ..Change::default()
                };
                let now = Timestamp::from_millis(now_us() / 1_000);
                seq = self
                    .runtime
                    .block_on(self.store.commit(&change, now))?
                    .last_seq;
            }
            if let Some(ended) = mirror.and_then(|mirror| watch.look(mirror)) {
                return Ok(Some(ended));
            }
            if rate > 0 {
                std::thread::sleep(TICK);
            }
        }
        Ok(None)
    }
}

/// Notices the first commit, and the end of the reign.
#[derive(Default)]
struct Watch {
    first_us: Option<u64>,
    first_seq: u64,
}

impl Watch {
    fn look(&mut self, mirror: &Mirror) -> Option<ExitCode> {
        let status = mirror.status();
        if self.first_us.is_none() && status.transactions > 0 {
            self.first_us = Some(now_us());
            self.first_seq = status.committed_seq;
            say(
                &json!({"what": "first_commit", "at_us": self.first_us, "seq": status.committed_seq}),
            );
        }
        if status.state == State::SteppedDown {
            say(&json!({"what": "stepped_down", "at_us": now_us(), "error": status.last_error}));
            return Some(ExitCode::from(STEPPED_DOWN));
        }
        None
    }
}

fn config(arguments: &Arguments, id: NetworkId, network: &str, term: u64) -> Result<Config> {
    let mut kafka = Kafka::plaintext("localhost:9092");
    kafka.brokers = arguments
        .or("brokers", "localhost:9092".to_owned())?
        .split(',')
        .map(str::to_owned)
        .collect();
    kafka.snapshot_every_s = arguments.or("snapshot-every", kafka.snapshot_every_s)?;
    kafka.topics.partitions = arguments.or("partitions", kafka.topics.partitions)?;
    let replication: u16 = arguments.or("replication", 0)?;
    kafka.topics.replication = (replication > 0).then_some(replication);
    Ok(Config {
        kafka,
        network: id,
        network_name: network.to_owned(),
        term,
    })
}

/// Memory of this process.
fn rss_kib() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    number.context("no VmRSS in /proc/self/status")
}

fn say(document: &serde_json::Value) {
    println!("{document}");
}
