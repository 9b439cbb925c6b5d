//! Reads partitions of one topic, committed records only, and knows when it has seen the end of each.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::{Offset, TopicPartitionList};
use serde::de::DeserializeOwned;
use wattle_api::Timestamp;
use wattle_api::gap::{GAP_KEY, GapRecord};
use wattle_api::stream::{FILLER_KEY, Kafka, ProgressRecord};

use crate::error::TopologyError;
use crate::source::{PATIENCE, Source, client};

/// A record, copied out of the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) key: Vec<u8>,
    /// `None` is a tombstone.
    pub(crate) value: Option<Vec<u8>>,
    headers: Vec<(String, Vec<u8>)>,
}

impl Record {
    fn copy(message: &BorrowedMessage<'_>) -> Self {
        let headers = message.headers().into_iter().flat_map(Headers::iter);
        Self {
            partition: message.partition(),
            offset: message.offset(),
            key: message.key().unwrap_or_default().to_vec(),
            value: message.payload().map(<[u8]>::to_vec),
            headers: headers
                .map(|header| {
                    (
                        header.key.to_owned(),
                        header.value.unwrap_or_default().to_vec(),
                    )
                })
                .collect(),
        }
    }

    /// The events that will never come, if this record says so.
    pub(crate) fn gap(&self) -> Option<Result<GapRecord, serde_json::Error>> {
        (self.key == GAP_KEY.as_bytes())
            .then(|| serde_json::from_slice(self.value.as_deref().unwrap_or_default()))
    }

    /// The number in a header.
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        let (_, value) = self.headers.iter().find(|(key, _)| key == name)?;
        std::str::from_utf8(value).ok()?.parse().ok()
    }
}

/// Where reading begins.
#[derive(Debug, Clone, Copy)]
pub(crate) enum From {
    /// The oldest record that is kept.
    Oldest,
    /// So many offsets before the end of each partition.
    Tail(i64),
    /// The first record of each partition that is of this time or later.
    Time(Timestamp),
}

/// Where the keys of a network's [`ProgressRecord`]s begin, in the progress topic.
pub(crate) const MIRROR_KEYS: &[u8] = b"wattle-mirror-";

/// Where those of its slot maps begin.
pub(crate) const SLOTS_KEYS: &[u8] = b"wattle-slots-";

/// How long a follower waits for brokers that do not answer before it reads on.
const GLANCE: Duration = Duration::from_secs(1);

/// Whether brokers were heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Brokers {
    Answer,
    Silent,
}

/// A consumer of partitions of one topic.
pub(crate) struct Reader {
    consumer: BaseConsumer,
    /// Asks where the partitions end; made when that is first wanted.
    asker: Option<BaseConsumer>,
    kafka: Kafka,
    topic: String,
    brokers: String,
    /// The partitions whose end was not seen yet.
    open: BTreeSet<i32>,
    /// The offset that reading each partition began at.
    began: BTreeMap<u32, i64>,
    /// The oldest offset that is kept, by partition.
    pub(crate) oldest: Vec<i64>,
    /// The offset that reading begins at, by partition.
    pub(crate) begins: Vec<i64>,
    /// The end of each partition when reading began.
    ends: Vec<i64>,
}

impl Reader {
    /// Reads all partitions.
    pub(crate) fn open(source: &Source, topic: &str, from: From) -> Result<Self, TopologyError> {
        let mut reader = Self::idle(source, topic, from)?;
        let begins = (0..).zip(reader.begins.iter().copied()).collect();
        reader.assign(begins)?;
        Ok(reader)
    }

    /// Notes where each partition begins and ends, and reads none until it joins.
    pub(crate) fn idle(source: &Source, topic: &str, from: From) -> Result<Self, TopologyError> {
        let brokers = source.kafka.brokers.join(",");
        let explain = |error| TopologyError::from_kafka(&format!("read {topic}"), &brokers, error);
        let consumer = consumer(&source.kafka, "read_committed")?;
        let count = count(&consumer, topic, PATIENCE).map_err(explain)?;
        if count == 0 {
            return Err(TopologyError::NoTopic {
                topic: topic.to_owned(),
                brokers,
            });
        }
        let (mut oldest, mut ends) = (Vec::new(), Vec::new());
        for partition in 0..count {
            let (low, high) = consumer
                .fetch_watermarks(topic, partition as i32, PATIENCE)
                .map_err(explain)?;
            oldest.push(low);
            ends.push(high);
        }
        // After the ends: what comes between the two questions is behind them.
        let dated = match from {
            From::Time(time) => offsets_at(&consumer, topic, count, time).map_err(explain)?,
            From::Oldest | From::Tail(_) => Vec::new(),
        };
        let spans = oldest.iter().zip(&ends).enumerate();
        let begins = spans.map(|(partition, (low, high))| match from {
            From::Oldest => *low,
            From::Tail(offsets) => *low.max(&(high - offsets)),
            // Nothing of that time or later is there: what comes next is.
            From::Time(_) => *dated[partition].as_ref().unwrap_or(high).max(low),
        });
        let begins = begins.collect();
        Ok(Self {
            consumer,
            asker: None,
            kafka: source.kafka.clone(),
            topic: topic.to_owned(),
            brokers,
            open: BTreeSet::new(),
            began: BTreeMap::new(),
            oldest,
            begins,
            ends,
        })
    }

    /// The partitions that there were when the reader was made, and those that were added since and are read.
    pub(crate) fn partitions(&self) -> BTreeSet<u32> {
        (0..self.ends.len())
            .map(|partition| partition as u32)
            .collect()
    }

    /// Reads the partitions that were added since the reader was made or last asked, from their beginnings: which these
    /// are. `None` if no broker answers.
    pub(crate) fn grow(&mut self) -> Result<Option<BTreeSet<u32>>, TopologyError> {
        let known = self.ends.len();
        let Some(count) = self.passing(count(&self.consumer, &self.topic, GLANCE))? else {
            return Ok(None);
        };
        let added: BTreeSet<u32> = (known..count).map(|partition| partition as u32).collect();
        if !added.is_empty() {
            self.assign(added.iter().map(|partition| (*partition, 0)).collect())?;
        }
        for offsets in [&mut self.oldest, &mut self.begins, &mut self.ends] {
            offsets.resize(count.max(known), 0);
        }
        Ok(Some(added))
    }

    /// Reads another partition, from `offset` on. If it is younger than the reader, brokers must tell of it: while they are
    /// silent it is not read.
    pub(crate) fn join(&mut self, partition: u32, offset: i64) -> Result<Brokers, TopologyError> {
        if partition as usize >= self.ends.len() {
            // The client is to know of it.
            let asked = count(&self.consumer, &self.topic, GLANCE);
            if self.passing(asked)?.is_none() {
                return Ok(Brokers::Silent);
            }
        }
        self.assign([(partition, offset)].into())?;
        Ok(Brokers::Answer)
    }

    fn assign(&mut self, begins: BTreeMap<u32, i64>) -> Result<(), TopologyError> {
        let explain = |error| TopologyError::of_reading(&self.topic, &self.brokers, error);
        let mut more = TopicPartitionList::new();
        for (partition, offset) in &begins {
            let (partition, offset) = (partition.cast_signed(), Offset::Offset(*offset));
            more.add_partition_offset(&self.topic, partition, offset)
                .map_err(explain)?;
        }
        self.consumer.incremental_assign(&more).map_err(explain)?;
        let partitions = begins.keys().map(|partition| partition.cast_signed());
        self.open.extend(partitions);
        self.began.extend(begins);
        Ok(())
    }

    /// The offset that is read next, by partition. Marks of transactions, which nobody sees, are behind it too.
    pub(crate) fn positions(&self) -> Result<BTreeMap<u32, i64>, TopologyError> {
        let found = self.consumer.position();
        let found = found.map_err(|error| self.explain(error))?;
        let mut positions = self.began.clone();
        for place in found.elements() {
            // None is known before the first record.
            if let Offset::Offset(offset) = place.offset() {
                positions.insert(place.partition().cast_unsigned(), offset);
            }
        }
        Ok(positions)
    }

    /// The offsets that each partition that is read has by now, those of open transactions included. Partitions whose
    /// brokers do not answer soon are left out.
    pub(crate) fn spans_written(&mut self) -> Result<BTreeMap<u32, Range<i64>>, TopologyError> {
        if self.asker.is_none() {
            self.asker = Some(consumer(&self.kafka, "read_uncommitted")?);
        }
        let asker = self.asker.as_ref().into_iter();
        let deadline = Instant::now() + GLANCE;
        let partitions = asker.flat_map(|asker| self.began.keys().map(move |key| (asker, *key)));
        let spans = partitions.filter_map(|(asker, partition)| {
            let left = deadline.checked_duration_since(Instant::now())?;
            let asked = asker.fetch_watermarks(&self.topic, partition.cast_signed(), left);
            let (low, high) = asked.ok()?;
            Some((partition, low..high))
        });
        Ok(spans.collect())
    }

    /// What the brokers say; `None` if they do not answer and may do so later.
    fn passing<T>(&self, answer: KafkaResult<T>) -> Result<Option<T>, TopologyError> {
        match answer {
            Ok(answer) => Ok(Some(answer)),
            Err(error) if is_passing(&error) => Ok(None),
            Err(error) => Err(self.explain(error)),
        }
    }

    /// Reads these partitions no further until they are resumed.
    pub(crate) fn pause(&self, partitions: &BTreeSet<u32>) -> Result<(), TopologyError> {
        self.each(partitions, |all| self.consumer.pause(all))
    }

    /// Goes on with what was paused.
    pub(crate) fn resume(&self, partitions: &BTreeSet<u32>) -> Result<(), TopologyError> {
        self.each(partitions, |all| self.consumer.resume(all))
    }

    fn each(
        &self,
        partitions: &BTreeSet<u32>,
        call: impl FnOnce(&TopicPartitionList) -> KafkaResult<()>,
    ) -> Result<(), TopologyError> {
        if partitions.is_empty() {
            return Ok(());
        }
        let mut all = TopicPartitionList::new();
        for partition in partitions {
            all.add_partition(&self.topic, partition.cast_signed());
        }
        call(&all).map_err(|error| self.explain(error))
    }

    /// Where reading a partition begins and where it ended when the reader was made; zeros if it was not there.
    pub(crate) fn span_of(&self, partition: u32) -> (i64, i64) {
        let of = |offsets: &[i64]| offsets.get(partition as usize).copied().unwrap_or(0);
        (of(&self.begins), of(&self.ends))
    }

    /// How many offsets lay between beginning and end when reading began: at least as many as there are records.
    pub(crate) fn span(&self) -> u64 {
        let spans = self.begins.iter().zip(&self.ends);
        spans
            .map(|(begin, end)| u64::try_from(end - begin).unwrap_or(0))
            .sum()
    }

    /// The next record, if one comes within `patience`.
    pub(crate) fn next(&mut self, patience: Duration) -> Result<Option<Record>, TopologyError> {
        match self.consumer.poll(patience) {
            Some(Ok(message)) if message.key() == Some(FILLER_KEY.as_bytes()) => Ok(None),
            Some(Ok(message)) => Ok(Some(Record::copy(&message))),
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                self.open.remove(&partition);
                Ok(None)
            }
            // The client reconnects by itself; whoever waits has a deadline.
            Some(Err(error)) if is_passing(&error) => Ok(None),
            Some(Err(error)) => Err(self.explain(error)),
            None => Ok(None),
        }
    }

    /// Whether the end of every partition was seen at least once.
    pub(crate) fn saw_all_ends(&self) -> bool {
        self.open.is_empty()
    }

    /// Calls `take` with every record up to the end of each partition.
    pub(crate) fn read_to_end(
        &mut self,
        mut take: impl FnMut(Record) -> Result<(), TopologyError>,
    ) -> Result<(), TopologyError> {
        let mut heard = Instant::now();
        while !self.saw_all_ends() {
            if let Some(record) = self.next(Duration::from_millis(100))? {
                heard = Instant::now();
                take(record)?;
            }
            if heard.elapsed() > PATIENCE {
                return Err(TopologyError::Silent {
                    doing: format!("read {}", self.topic),
                });
            }
        }
        Ok(())
    }

    /// The value of a record.
    pub(crate) fn parse<T: DeserializeOwned>(&self, record: &Record) -> Result<T, TopologyError> {
        serde_json::from_slice(record.value.as_deref().unwrap_or_default())
            .map_err(|error| self.bad(record, error))
    }

    /// Says where `record` cannot be read and why.
    pub(crate) fn bad(&self, record: &Record, reason: impl std::fmt::Display) -> TopologyError {
        TopologyError::Record {
            topic: self.topic.clone(),
            partition: record.partition,
            offset: record.offset,
            reason: reason.to_string(),
        }
    }

    fn explain(&self, error: KafkaError) -> TopologyError {
        TopologyError::of_reading(&self.topic, &self.brokers, error)
    }
}

/// A consumer that sees records of this isolation level.
fn consumer(kafka: &Kafka, isolation: &str) -> Result<BaseConsumer, TopologyError> {
    let consumer = client(kafka)?
        // Never joined nor committed to: the client wants a name for its bookkeeping.
        .set("group.id", "wattle-topology")
        .set("enable.auto.commit", "false")
        .set("isolation.level", isolation)
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "earliest")
        .set("fetch.wait.max.ms", "100")
        .create();
    let brokers = kafka.brokers.join(",");
    consumer.map_err(|error| TopologyError::from_kafka("make a consumer", &brokers, error))
}

/// How many partitions a topic has; 0 if there is no topic.
fn count(consumer: &BaseConsumer, topic: &str, patience: Duration) -> KafkaResult<usize> {
    let metadata = consumer.fetch_metadata(Some(topic), patience)?;
    let topic = metadata.topics().first();
    Ok(topic.map_or(0, |topic| topic.partitions().len()))
}

/// The first offset of each partition whose record is of this time or later.
fn offsets_at(
    consumer: &BaseConsumer,
    topic: &str,
    partitions: usize,
    time: Timestamp,
) -> Result<Vec<Option<i64>>, KafkaError> {
    let mut wanted = TopicPartitionList::new();
    let millis = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    let partitions = partitions as i32;
    for partition in 0..partitions {
        wanted.add_partition_offset(topic, partition, Offset::Offset(millis))?;
    }
    let found = consumer.offsets_for_times(wanted, PATIENCE)?;
    let offset = |partition| match found.find_partition(topic, partition)?.offset() {
        Offset::Offset(offset) => Some(offset),
        _ => None,
    };
    Ok((0..partitions).map(offset).collect())
}

/// The newest progress record, if there is one.
pub(crate) fn progress(source: &Source) -> Result<Option<ProgressRecord>, TopologyError> {
    let mut reader = Reader::open(source, &source.topics.progress, From::Oldest)?;
    let mut last = None;
    reader.read_to_end(|record| {
        if record.key.starts_with(MIRROR_KEYS) {
            last = Some(record);
        }
        Ok(())
    })?;
    last.map(|record| reader.parse(&record)).transpose()
}

fn is_passing(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(Code::BrokerTransportFailure | Code::AllBrokersDown | Code::OperationTimedOut)
    )
}

/// Waits for an answer that another thread brings.
pub(crate) fn wait<F: Future>(answer: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = std::sync::Arc::new(Unpark(std::thread::current())).into();
    let mut context = std::task::Context::from_waker(&waker);
    let mut answer = std::pin::pin!(answer);
    loop {
        match answer.as_mut().poll(&mut context) {
            std::task::Poll::Ready(output) => return output,
            std::task::Poll::Pending => std::thread::park(),
        }
    }
}
