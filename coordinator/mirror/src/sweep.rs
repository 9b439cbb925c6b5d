//! Ends what brokers left open. When older producers were fenced, no transaction of this network should be open any
//! more; but a broker of Kafka 4.4.0 that restarts may take a transaction for finished without having written its
//! markers (it finds no leader for the partitions and believes them deleted). The records would then be committed
//! together with the next transaction and stand in the topic twice. So: a partition whose committed part ends before
//! its last record gets its abort marker here, before anything is read or written.

use rdkafka::consumer::BaseConsumer;
use wattle_api::stream::Topics;

use crate::Config;
use crate::client::Complaints;
use crate::error::MirrorError;
use crate::position::{Ends, is_torn, watermarks};
use crate::producer::Transactor;
use crate::topics::Existing;

/// Aborts what is open although it should not be. Only after older producers were fenced.
pub(crate) fn finish_open_transactions(
    config: &Config,
    topics: &Topics,
    existing: &Existing,
    producer: &Transactor,
    complaints: &Complaints,
) -> Result<(), MirrorError> {
    let scan = Scan::new(config, topics, existing, complaints)?;
    let open = scan.open_ends()?;
    let Some((topic, partition)) = open.first().copied() else {
        return Ok(());
    };
    let hanging = || MirrorError::Hanging {
        topic: topic.to_owned(),
        partition,
    };
    // Part of it was committed: aborting the rest would lose events. Nobody but the operator can know.
    if is_torn(config, topics, existing.partitions, complaints)? {
        return Err(hanging());
    }
    tracing::warn!(
        topic,
        partition,
        partitions = open.len(),
        "Aborting a transaction that a broker left open"
    );
    producer.abort_over(&open)?;
    match scan.open_ends()?.is_empty() {
        true => Ok(()),
        false => Err(hanging()),
    }
}

/// Compares where the committed part of each partition ends with where its records end.
struct Scan<'a> {
    committed: BaseConsumer<Complaints>,
    written: BaseConsumer<Complaints>,
    partitions: Vec<(&'a str, i32)>,
    complaints: &'a Complaints,
}

impl<'a> Scan<'a> {
    fn new(
        config: &'a Config,
        topics: &'a Topics,
        existing: &Existing,
        complaints: &'a Complaints,
    ) -> Result<Self, MirrorError> {
        let ends = Ends { config, complaints };
        let many = existing.partitions as i32;
        let counts = [
            (&topics.events, many),
            (&topics.state, many),
            (&topics.progress, 1),
        ];
        let all = counts.into_iter().flat_map(|(topic, count)| {
            (0..count).map(move |partition| (topic.as_str(), partition))
        });
        Ok(Self {
            committed: ends.consumer("read_committed")?,
            written: ends.consumer("read_uncommitted")?,
            partitions: all.collect(),
            complaints,
        })
    }

    fn open_ends(&self) -> Result<Vec<(&'a str, i32)>, MirrorError> {
        let mut open = Vec::new();
        for &(topic, partition) in &self.partitions {
            let explain = |error| {
                self.complaints
                    .explain("compare the ends of the partitions", error)
            };
            let (_, committed) = watermarks(&self.committed, topic, partition).map_err(explain)?;
            let (_, written) = watermarks(&self.written, topic, partition).map_err(explain)?;
            if committed < written {
                open.push((topic, partition));
            }
        }
        Ok(open)
    }
}
