//! How far the mirror is: held in memory, written with every batch, found again at the start of a session.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::{Offset, TopicPartitionList};
use wattle_api::stream::{HEADER_SEQ, ProgressRecord, Topics, transactional_id};
use wattle_model::NetworkId;

use crate::Config;
use crate::client::{Complaints, base};
use crate::error::MirrorError;
use crate::status::now;
use crate::topics::Existing;

/// How long the brokers may take to show the end of a topic.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many offsets before the end the first look begins. Markers and aborted records take offsets too.
const FIRST_LOOK: i64 = 64;

/// What Kafka holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Position {
    /// The first event ever mirrored; 0 before it.
    pub(crate) first_seq: u64,
    /// The last event in the events topic.
    pub(crate) last_seq: u64,
    /// The last event in the state topic.
    pub(crate) state_seq: u64,
    /// The last event of each partition of the events topic.
    pub(crate) partitions: Vec<u64>,
}

impl Position {
    /// Nothing was mirrored yet.
    pub(crate) fn origin(partitions: usize) -> Self {
        Self {
            first_seq: 0,
            last_seq: 0,
            state_seq: 0,
            partitions: vec![0; partitions],
        }
    }

    /// The event after which the outbox has to be read.
    pub(crate) fn read_from(&self) -> u64 {
        self.last_seq.min(self.state_seq)
    }

    pub(crate) fn record(&self, network: NetworkId, term: u64) -> ProgressRecord {
        ProgressRecord {
            network,
            term,
            first_seq: self.first_seq,
            last_seq: self.last_seq,
            state_seq: self.state_seq,
            partitions: self.partitions.clone(),
            ts: now(),
            ..ProgressRecord::default()
        }
    }
}

/// Finds the position: from the progress topic, and where that was lost from the events themselves. Only right after
/// older producers were fenced, since before that they may still commit.
pub(crate) fn find(
    config: &Config,
    topics: &Topics,
    existing: &Existing,
    complaints: &Complaints,
) -> Result<Position, MirrorError> {
    let ends = Ends { config, complaints };
    let mut position = match promised(&ends, topics)? {
        Some(record) => {
            check_owner(config, &record)?;
            from_progress(record, existing.partitions)
        }
        None => from_events(&ends, topics, existing.partitions)?,
    };
    // A topic that had to be made is empty, whatever the progress record says: it is written anew from the outbox.
    if existing.events_made {
        position = Position {
            state_seq: position.state_seq,
            ..Position::origin(existing.partitions)
        };
    }
    if existing.state_made {
        position.state_seq = 0;
    }
    Ok(position)
}

/// The newest visible progress record.
pub(crate) fn promised(
    ends: &Ends<'_>,
    topics: &Topics,
) -> Result<Option<ProgressRecord>, MirrorError> {
    let key = transactional_id(&ends.config.network_name);
    let ours = |message: &BorrowedMessage<'_>| {
        (message.key() == Some(key.as_bytes()))
            .then(|| serde_json::from_slice(message.payload().unwrap_or_default()))
    };
    ends.last(&topics.progress, 0, ours)?
        .transpose()
        .map_err(|error| MirrorError::Progress {
            topic: topics.progress.clone(),
            reason: error.to_string(),
        })
}

fn check_owner(config: &Config, record: &ProgressRecord) -> Result<(), MirrorError> {
    if record.network != config.network {
        return Err(MirrorError::ForeignTopics {
            ours: config.network.to_string(),
            theirs: record.network.to_string(),
        });
    }
    if record.term > config.term {
        return Err(MirrorError::SteppedDown {
            ours: config.term,
            theirs: record.term,
        });
    }
    Ok(())
}

fn from_progress(record: ProgressRecord, partitions: usize) -> Position {
    let mut last = record.partitions;
    last.resize(partitions, 0);
    Position {
        first_seq: record.first_seq,
        last_seq: record.last_seq,
        state_seq: record.state_seq,
        partitions: last,
    }
}

/// All partitions of a batch are committed at once, so the highest number in any of them is the last event.
fn from_events(
    ends: &Ends<'_>,
    topics: &Topics,
    partitions: usize,
) -> Result<Position, MirrorError> {
    let mut position = Position::origin(partitions);
    for (partition, last) in (0..).zip(&mut position.partitions) {
        *last = ends.last_seq(&topics.events, partition)?.unwrap_or(0);
    }
    position.last_seq = position.partitions.iter().copied().max().unwrap_or(0);
    position.state_seq = position.last_seq;
    position.first_seq = u64::from(position.last_seq > 0);
    Ok(position)
}

fn seq_header(message: &BorrowedMessage<'_>) -> Option<u64> {
    let header = message
        .headers()?
        .iter()
        .find(|header| header.key == HEADER_SEQ)?;
    std::str::from_utf8(header.value?).ok()?.parse().ok()
}

/// Reads the ends of partitions.
pub(crate) struct Ends<'a> {
    pub(crate) config: &'a Config,
    pub(crate) complaints: &'a Complaints,
}

impl Ends<'_> {
    /// The event of the last committed record of a partition.
    pub(crate) fn last_seq(&self, topic: &str, partition: i32) -> Result<Option<u64>, MirrorError> {
        self.last(topic, partition, seq_header)
    }

    /// The event of the last record at or behind `offset`, committed or not.
    pub(crate) fn seq_behind(
        &self,
        topic: &str,
        partition: i32,
        offset: i64,
    ) -> Result<Option<u64>, MirrorError> {
        let consumer = self.consumer("read_uncommitted")?;
        self.scan(&consumer, topic, partition, offset, &seq_header)
    }

    /// The last committed record of a partition of which `take` makes something. Looks back further and further.
    fn last<T>(
        &self,
        topic: &str,
        partition: i32,
        take: impl Fn(&BorrowedMessage<'_>) -> Option<T>,
    ) -> Result<Option<T>, MirrorError> {
        let doing = format!("read the end of {topic}");
        let consumer = self.consumer("read_committed")?;
        let (low, high) = watermarks(&consumer, topic, partition)
            .map_err(|error| self.complaints.explain(&doing, error))?;
        let mut look = FIRST_LOOK;
        loop {
            let start = low.max(high - look);
            let found = self.scan(&consumer, topic, partition, start, &take)?;
            if found.is_some() || start <= low {
                return Ok(found);
            }
            look = look.saturating_mul(16);
        }
    }

    /// The last record between `start` and the end of what the consumer sees.
    fn scan<T>(
        &self,
        consumer: &BaseConsumer<Complaints>,
        topic: &str,
        partition: i32,
        start: i64,
        take: &impl Fn(&BorrowedMessage<'_>) -> Option<T>,
    ) -> Result<Option<T>, MirrorError> {
        let explain = |error| {
            self.complaints
                .explain(&format!("read the end of {topic}"), error)
        };
        let mut assignment = TopicPartitionList::new();
        assignment
            .add_partition_offset(topic, partition, Offset::Offset(start))
            .and_then(|()| consumer.assign(&assignment))
            .map_err(explain)?;
        let deadline = Instant::now() + PATIENCE;
        let mut last = None;
        loop {
            match consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => last = take(&message).or(last),
                Some(Err(KafkaError::PartitionEOF(_))) => return Ok(last),
                Some(Err(error)) if !is_passing(&error) => return Err(explain(error)),
                Some(Err(_)) | None => {}
            }
            if Instant::now() > deadline {
                return Err(explain(KafkaError::MessageConsumption(
                    Code::OperationTimedOut,
                )));
            }
        }
    }

    /// A consumer that sees records of this isolation level.
    pub(crate) fn consumer(
        &self,
        isolation: &str,
    ) -> Result<BaseConsumer<Complaints>, MirrorError> {
        base(&self.config.kafka)?
            // Never joined nor committed to: the client wants a name for its bookkeeping.
            .set("group.id", transactional_id(&self.config.network_name))
            .set("enable.auto.commit", "false")
            .set("isolation.level", isolation)
            .set("enable.partition.eof", "true")
            .set("auto.offset.reset", "earliest")
            .create_with_context(self.complaints.clone())
            .map_err(|error| self.complaints.explain("make a consumer", error))
    }
}

/// First and last offset of a partition; asks again for as long as the partition has no leader, as new ones have not.
pub(crate) fn watermarks(
    consumer: &BaseConsumer<Complaints>,
    topic: &str,
    partition: i32,
) -> Result<(i64, i64), KafkaError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match consumer.fetch_watermarks(topic, partition, PATIENCE) {
            Err(error) if is_settling(&error) && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(50));
            }
            result => return result,
        }
    }
}

fn is_settling(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::NotLeaderForPartition
                | Code::LeaderNotAvailable
                | Code::UnknownTopicOrPartition
                | Code::UnknownPartition
        )
    )
}

/// Errors that a consumer gets over by itself.
fn is_passing(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(Code::BrokerTransportFailure | Code::AllBrokersDown | Code::OperationTimedOut)
    )
}
