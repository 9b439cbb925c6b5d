//! Reads what comes out of Kafka, committed records only: how late it is, and how long a whole table takes.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::json;
use wattle_api::gap::GAP_KEY;
use wattle_api::stream::{FILLER_KEY, Topics};
use wattle_api::topology::TopologyEvent;

use crate::{Arguments, now_us};

const PATIENCE: Duration = Duration::from_secs(60);

/// Follows the events to number `until` and tells how long each was on its way.
pub(crate) fn latency(arguments: &Arguments) -> Result<ExitCode> {
    let topics = Topics::below(arguments.text("prefix")?);
    let until: u64 = arguments.or("until", 0)?;
    let skip: u64 = arguments.or("skip", 0)?;
    let reader = Reader::open(
        arguments.text("brokers")?,
        &topics.events,
        Offset::Beginning,
    )?;
    println!("{}", json!({"what": "ready", "at_us": now_us()}));
    let mut delays = Vec::new();
    let mut newest = 0;
    let mut heard = Instant::now();
    while newest < until {
        let Some(message) = reader.next()? else {
            ensure!(heard.elapsed() < PATIENCE, "nothing after event {newest}");
            continue;
        };
        heard = Instant::now();
        let seen = now_us();
        let (Some(key), Some(value)) = (message.key(), message.payload()) else {
            continue;
        };
        if key == FILLER_KEY.as_bytes() || key == GAP_KEY.as_bytes() {
            continue;
        }
        let event: TopologyEvent = serde_json::from_slice(value)?;
        newest = newest.max(event.id.seq);
        if event.id.seq > skip {
            delays.push(seen.saturating_sub(event.source.record_seq.unwrap_or(seen)));
        }
    }
    delays.sort_unstable();
    let Some(last) = delays.len().checked_sub(1) else {
        bail!("no event was measured")
    };
    let at = |share: f64| delays[(last as f64 * share) as usize];
    println!(
        "{}",
        json!({"what": "latency", "n": delays.len(), "p50_us": at(0.5), "p95_us": at(0.95), "p99_us": at(0.99),
               "p999_us": at(0.999), "max_us": delays[last]})
    );
    Ok(ExitCode::SUCCESS)
}

/// Reads the state topic from its beginning, as a fresh consumer does.
pub(crate) fn table(arguments: &Arguments) -> Result<ExitCode> {
    let topics = Topics::below(arguments.text("prefix")?);
    let began = Instant::now();
    let reader = Reader::open(arguments.text("brokers")?, &topics.state, Offset::Beginning)?;
    let mut table = BTreeMap::new();
    let (mut records, mut ends) = (0_u64, 0);
    while ends < reader.partitions {
        ensure!(
            began.elapsed() < PATIENCE,
            "the topic has no end within {PATIENCE:?}"
        );
        match reader.poll() {
            Some(Err(KafkaError::PartitionEOF(_))) => ends += 1,
            Some(Err(error)) => return Err(error.into()),
            None => {}
            Some(Ok(message)) => {
                records += 1;
                let key = message.key().unwrap_or_default().to_vec();
                match message.payload() {
                    Some(value) => table.insert(key, value.to_vec()),
                    None => table.remove(&key),
                };
            }
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{}",
        json!({"what": "table", "entities": table.len(), "records": records, "seconds": seconds})
    );
    Ok(ExitCode::SUCCESS)
}

/// All partitions of a topic.
struct Reader {
    consumer: BaseConsumer,
    partitions: usize,
}

impl Reader {
    fn open(brokers: &str, topic: &str, from: Offset) -> Result<Self> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("group.id", "wattle-stream")
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_committed")
            .set("enable.partition.eof", "true")
            .set("fetch.wait.max.ms", "500")
            .create()?;
        let deadline = Instant::now() + PATIENCE;
        let count = loop {
            let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(5));
            let count = metadata.map_or(0, |found| {
                found
                    .topics()
                    .first()
                    .map_or(0, |topic| topic.partitions().len())
            });
            if count > 0 {
                break count;
            }
            ensure!(Instant::now() < deadline, "there is no topic {topic}");
            std::thread::sleep(Duration::from_millis(50));
        };
        let mut assignment = TopicPartitionList::new();
        for partition in 0..count as i32 {
            assignment.add_partition_offset(topic, partition, from)?;
        }
        consumer.assign(&assignment)?;
        Ok(Self {
            consumer,
            partitions: count,
        })
    }

    fn poll(&self) -> Option<Result<rdkafka::message::BorrowedMessage<'_>, KafkaError>> {
        self.consumer.poll(Duration::from_millis(100))
    }

    /// The next record; `None` when there is none for a while.
    fn next(&self) -> Result<Option<rdkafka::message::BorrowedMessage<'_>>> {
        match self.poll() {
            Some(Ok(message)) => Ok(Some(message)),
            Some(Err(KafkaError::PartitionEOF(_))) | None => Ok(None),
            Some(Err(error)) => Err(error.into()),
        }
    }
}
