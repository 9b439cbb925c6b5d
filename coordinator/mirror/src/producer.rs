//! The transactional producer: one transaction per batch. A transaction is never empty (librdkafka cannot end one).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::metadata::MetadataBroker;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use wattle_api::stream::{FILLER_KEY, Topics, transactional_id};

use crate::Config;
use crate::client::{Complaints, Place, base};
use crate::error::MirrorError;
use crate::record::{Record, Topic};

/// How long a transaction may stay open before the brokers abort it by themselves. A successor aborts it at once, so
/// this is only for a mirror that never comes back, and longer than brokers take to restart: Kafka 4.4.0 forgets the
/// markers of what it aborts while it starts (see `sweep`).
const TRANSACTION: Duration = Duration::from_secs(300);

/// How long calls wait for brokers before the session is given up.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often a record is sent anew that a broker refuses for a passing reason, such as too few copies in step. That takes
/// some five seconds, so that the reason is told before [`PATIENCE`] is over and only the time-out is left to tell. The
/// client does not count what it sends anew because a partition has another leader.
const RETRIES: u32 = 7;

/// How long the other records of a transaction that failed may take to fail: one of them says why.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Steps in which deliveries are awaited: the client has no call that returns with the last of them.
const STEP: Duration = Duration::from_micros(200);

/// A producer that has fenced all its predecessors.
pub(crate) struct Transactor {
    producer: BaseProducer<Complaints>,
    complaints: Complaints,
}

impl Transactor {
    /// Takes over the network's transactional id: an open transaction of an older producer is aborted, and that
    /// producer can never commit again.
    pub(crate) fn take_over(
        config: &Config,
        limit: usize,
        complaints: &Complaints,
    ) -> Result<Self, MirrorError> {
        let producer: BaseProducer<Complaints> = base(&config.kafka)?
            .set("transactional.id", transactional_id(&config.network_name))
            .set(
                "transaction.timeout.ms",
                TRANSACTION.as_millis().to_string(),
            )
            .set("message.timeout.ms", PATIENCE.as_millis().to_string())
            .set("retries", RETRIES.to_string())
            .set("compression.type", "zstd")
            .set("linger.ms", "1")
            // Brokers measure batches, not records: a batch is no larger than a record may be.
            .set("batch.size", limit.to_string())
            .create_with_context(complaints.clone())
            .map_err(|error| complaints.explain("make a producer", error))?;
        let transactor = Self {
            producer,
            complaints: complaints.clone(),
        };
        transactor
            .while_polling(|producer| producer.init_transactions(PATIENCE))
            .map_err(|error| transactor.explain("take over the transactional id", error))?;
        complaints.forget();
        Ok(transactor)
    }

    /// Writes all records in one transaction, or none of them. After an error nobody knows which: the producer is
    /// finished, and the progress topic tells its successor.
    pub(crate) fn commit(&self, topics: &Topics, records: &[Record]) -> Result<(), MirrorError> {
        debug_assert!(!records.is_empty(), "an empty transaction cannot be ended");
        self.producer
            .begin_transaction()
            .map_err(|error| self.explain("begin a transaction", error))?;
        for record in records {
            self.send(topics, record)?;
        }
        self.settle()?;
        if self.complaints.delivered().stepped_back {
            return Err(MirrorError::MadeAnew);
        }
        self.producer
            .commit_transaction(PATIENCE)
            .map_err(|error| self.explain("commit a transaction", error))?;
        self.complaints.forget();
        Ok(())
    }

    /// Writes a filler to each of these partitions and commits or aborts it, and with it whatever an older producer of
    /// the same transactional id left open there.
    pub(crate) fn finish_over(
        &self,
        partitions: &[(&str, i32)],
        commit: bool,
    ) -> Result<(), MirrorError> {
        let explain = |error| self.explain("finish a transaction", error);
        self.producer.begin_transaction().map_err(explain)?;
        for (topic, partition) in partitions {
            let filler = BaseRecord::<str, [u8], usize>::with_opaque_to(topic, 0)
                .partition(*partition)
                .key(FILLER_KEY);
            self.producer
                .send(filler)
                .map_err(|(error, _)| explain(error))?;
        }
        self.settle()?;
        match commit {
            true => self.producer.commit_transaction(PATIENCE),
            false => self.producer.abort_transaction(PATIENCE),
        }
        .map_err(explain)
    }

    /// The ids of the brokers.
    pub(crate) fn brokers(&self) -> Result<Vec<i32>, MirrorError> {
        let metadata = self
            .producer
            .client()
            .fetch_metadata(None, PATIENCE)
            .map_err(|error| self.explain("list the brokers", error))?;
        let brokers = metadata.brokers().iter();
        Ok(brokers.map(MetadataBroker::id).collect())
    }

    /// How many partitions every topic has that we may see.
    pub(crate) fn partition_counts(&self) -> Result<BTreeMap<String, usize>, MirrorError> {
        let metadata = self
            .producer
            .client()
            .fetch_metadata(None, PATIENCE)
            .map_err(|error| self.explain("list the topics", error))?;
        let topics = metadata
            .topics()
            .iter()
            .filter(|topic| topic.error().is_none());
        Ok(topics
            .map(|topic| (topic.name().to_owned(), topic.partitions().len()))
            .collect())
    }

    fn send(&self, topics: &Topics, record: &Record) -> Result<(), MirrorError> {
        let topic = record.topic.name(topics);
        let count = record.headers.len();
        let headers = record.headers.iter().fold(
            OwnedHeaders::new_with_capacity(count),
            |headers, (key, value)| {
                headers.insert(Header {
                    key,
                    value: Some(value.as_bytes()),
                })
            },
        );
        let place = match record.topic {
            Topic::Events => Place::Events(record.partition),
            Topic::State => Place::State(record.partition),
            _ => Place::Elsewhere,
        };
        let mut message = BaseRecord::with_opaque_to(topic, place.pack())
            .partition(record.partition as i32)
            .key(&record.key)
            .timestamp(i64::try_from(record.timestamp_ms).unwrap_or(i64::MAX))
            .headers(headers);
        if let Some(value) = &record.value {
            message = message.payload(value);
        }
        self.producer
            .send(message)
            .map_err(|(error, _)| self.explain(&format!("write to {topic}"), error))
    }

    /// Waits until the brokers have every record, or all have failed.
    fn settle(&self) -> Result<(), MirrorError> {
        let mut deadline = Instant::now() + PATIENCE;
        let mut failing = false;
        loop {
            let all_told = self.producer.in_flight_count() == 0;
            if !failing && self.complaints.has_failed() {
                failing = true;
                deadline = deadline.min(Instant::now() + LAST_WORDS);
            }
            if all_told || Instant::now() > deadline {
                return match self.complaints.take_failed() {
                    Some(error) => Err(self.explain("write a record", error)),
                    None if all_told => Ok(()),
                    None => {
                        let late = KafkaError::MessageProduction(Code::MessageTimedOut);
                        Err(self.explain("write a record", late))
                    }
                };
            }
            // `poll` takes milliseconds and uses all of them; a broker answers in less.
            self.producer.poll(Duration::ZERO);
            std::thread::sleep(STEP);
        }
    }

    /// Serves the client's complaints while a call blocks, so that the status tells why it does.
    fn while_polling<T>(&self, call: impl FnOnce(&BaseProducer<Complaints>) -> T) -> T {
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    self.producer.poll(Duration::from_millis(20));
                }
            });
            let result = call(&self.producer);
            done.store(true, Ordering::Relaxed);
            result
        })
    }

    fn explain(&self, doing: &str, error: KafkaError) -> MirrorError {
        self.complaints.explain(doing, error)
    }
}
