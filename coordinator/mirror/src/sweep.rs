//! Ends what brokers left open. When older producers were fenced, no transaction of this network should be open any
//! more; but a broker of Kafka 4.4.0 that restarts may take a transaction for finished without having written all its
//! markers (it finds no leader for the partitions and believes them deleted). The records would then be committed
//! together with the next transaction, and stand in the topic twice. So: a partition whose committed part ends before
//! its last record gets the missing marker here, before anything is read or written. Which one, the other partitions
//! say: a transaction of which any part is visible was committed.

use rdkafka::consumer::BaseConsumer;
use wattle_api::stream::{ProgressRecord, Topics};

use crate::Config;
use crate::client::Complaints;
use crate::error::MirrorError;
use crate::position::{self, Ends, watermarks};
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
    let Some((topic, partition)) = open.first().map(Open::place) else {
        return Ok(());
    };
    let committed = scan.was_committed(&open)?;
    tracing::warn!(
        topic,
        partition,
        partitions = open.len(),
        committed,
        "Finishing a transaction that a broker left open"
    );
    producer.finish_over(&open.iter().map(Open::place).collect::<Vec<_>>(), committed)?;
    match scan.open_ends()?.is_empty() {
        true => Ok(()),
        false => Err(MirrorError::Hanging {
            topic: topic.to_owned(),
            partition,
        }),
    }
}

/// A partition with records behind its committed part.
struct Open<'a> {
    topic: &'a str,
    partition: i32,
    /// Where the committed part ends.
    from: i64,
}

impl<'a> Open<'a> {
    fn place(&self) -> (&'a str, i32) {
        (self.topic, self.partition)
    }
}

/// Compares where the committed part of each partition ends with where its records end.
struct Scan<'a> {
    config: &'a Config,
    topics: &'a Topics,
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
            config,
            topics,
            committed: ends.consumer("read_committed")?,
            written: ends.consumer("read_uncommitted")?,
            partitions: all.collect(),
            complaints,
        })
    }

    fn open_ends(&self) -> Result<Vec<Open<'a>>, MirrorError> {
        let mut open = Vec::new();
        for &(topic, partition) in &self.partitions {
            let explain = |error| {
                self.complaints
                    .explain("compare the ends of the partitions", error)
            };
            let (_, committed) = watermarks(&self.committed, topic, partition).map_err(explain)?;
            let (_, written) = watermarks(&self.written, topic, partition).map_err(explain)?;
            if committed < written {
                open.push(Open {
                    topic,
                    partition,
                    from: committed,
                });
            }
        }
        Ok(open)
    }

    fn was_committed(&self, open: &[Open<'_>]) -> Result<bool, MirrorError> {
        let ends = Ends {
            config: self.config,
            complaints: self.complaints,
        };
        let mut visible = 0;
        for &(topic, partition) in &self.partitions {
            if topic == self.topics.events {
                visible = visible.max(ends.last_seq(topic, partition)?.unwrap_or(0));
            }
        }
        let mut written = Vec::new();
        for end in open {
            if let Some(seq) = ends.seq_behind(end.topic, end.partition, end.from)? {
                written.push((end.topic, end.partition, seq));
            }
        }
        let promised = position::promised(&ends, self.topics)?;
        Ok(is_known(self.topics, promised.as_ref(), visible, &written))
    }
}

/// Whether part of an open transaction is visible. All its records were written before it was committed; so either its
/// progress record is visible and knows the open records (`written`: topic, partition, last event), or that is open too
/// while events are visible that no progress record promised.
fn is_known(
    topics: &Topics,
    promised: Option<&ProgressRecord>,
    visible: u64,
    written: &[(&str, i32, u64)],
) -> bool {
    let Some(promised) = promised else {
        return visible > 0;
    };
    let knows = |(topic, partition, seq): &(&str, i32, u64)| {
        let known = match *topic {
            topic if topic == topics.events => {
                promised.partitions.get(*partition as usize).copied()
            }
            topic if topic == topics.state => Some(promised.state_seq),
            _ => None,
        };
        known.is_some_and(|known| *seq <= known)
    };
    visible > promised.last_seq || written.iter().any(knows)
}

#[cfg(test)]
mod tests {
    use wattle_model::NetworkId;

    use super::*;
    use crate::status::now;

    fn promise(last_seq: u64, partitions: &[u64]) -> ProgressRecord {
        ProgressRecord {
            network: NetworkId(1),
            term: 1,
            first_seq: 1,
            last_seq,
            state_seq: last_seq,
            partitions: partitions.to_vec(),
            ts: now(),
            ..ProgressRecord::default()
        }
    }

    #[test]
    fn a_transaction_of_which_any_part_is_visible_was_committed() {
        let topics = Topics::below("wattle.lab");
        let [events, state, progress] =
            [&topics.events, &topics.state, &topics.progress].map(String::as_str);
        let before = promise(10, &[9, 10]);
        let after = promise(20, &[19, 20]);
        type Case<'a> = (
            &'a str,
            Option<&'a ProgressRecord>,
            u64,
            Vec<(&'a str, i32, u64)>,
            bool,
        );
        let cases: [Case<'_>; 8] = [
            (
                "nothing of it",
                Some(&before),
                10,
                vec![(events, 0, 19), (progress, 0, 20)],
                false,
            ),
            (
                "one partition of it",
                Some(&before),
                20,
                vec![(events, 0, 19), (progress, 0, 20)],
                true,
            ),
            (
                "its progress, not its events",
                Some(&after),
                10,
                vec![(events, 0, 19), (events, 1, 20)],
                true,
            ),
            (
                "its progress, not its state",
                Some(&after),
                20,
                vec![(state, 1, 20)],
                true,
            ),
            (
                "aborted but for its state",
                Some(&before),
                10,
                vec![(state, 1, 20)],
                false,
            ),
            (
                "nothing of the very first",
                None,
                0,
                vec![(events, 0, 1), (progress, 0, 1)],
                false,
            ),
            (
                "part of the very first",
                None,
                2,
                vec![(events, 0, 1), (progress, 0, 2)],
                true,
            ),
            ("a stranger's", Some(&before), 10, vec![], false),
        ];
        for (what, promised, visible, written, expected) in cases {
            assert_eq!(
                is_known(&topics, promised, visible, &written),
                expected,
                "{what}"
            );
        }
    }
}
