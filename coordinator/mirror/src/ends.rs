//! Reads the ends of partitions: the last committed record of which something can be made, and what is behind it.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::{Offset, TopicPartitionList};
use wattle_api::stream::{HEADER_SEQ, transactional_id};

use crate::Config;
use crate::client::{Complaints, base};
use crate::error::MirrorError;

/// How long the brokers may take to show the end of a topic.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many offsets before the end the first look begins. Markers and aborted records take offsets too.
const FIRST_LOOK: i64 = 64;

fn seq_header(message: &BorrowedMessage<'_>) -> Option<u64> {
    number(message, HEADER_SEQ)
}

/// The number in a header.
pub(crate) fn number(message: &BorrowedMessage<'_>, name: &str) -> Option<u64> {
    let header = message
        .headers()?
        .iter()
        .find(|header| header.key == name)?;
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

    /// What `take` makes of the last record at or behind `offset`, committed or not.
    pub(crate) fn behind<T>(
        &self,
        topic: &str,
        partition: i32,
        offset: i64,
        take: &impl Fn(&BorrowedMessage<'_>) -> Option<T>,
    ) -> Result<Option<T>, MirrorError> {
        let consumer = self.consumer("read_uncommitted")?;
        self.scan(&consumer, topic, partition, offset, take)
    }

    /// The last committed record of a partition of which `take` makes something. Looks back further and further.
    pub(crate) fn last<T>(
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
pub(crate) fn is_passing(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(Code::BrokerTransportFailure | Code::AllBrokersDown | Code::OperationTimedOut)
    )
}
