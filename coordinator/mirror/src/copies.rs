//! Whether too few copies of a partition are in step. A producer hears of it only while brokers answer its records: where
//! one died amid a transaction, all it is told is that time is over, and that the transaction has not ended.

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::error::KafkaError;
use rdkafka::metadata::MetadataTopic;
use wattle_api::stream::{Kafka, Topics};

use crate::client::{Complaints, base};
use crate::error::MirrorError;
use crate::topics::blocking;

/// How long brokers may take to answer: whoever answers at all takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(2);

/// How many copies must be in step for a write to count.
const MIN_IN_STEP: &str = "min.insync.replicas";

/// The first partition that lacks copies, of the topics without which no event is written, as an error; none as well
/// where nobody answers, or not to us.
pub(crate) fn lacking(
    kafka: &Kafka,
    topics: &Topics,
    complaints: &Complaints,
) -> Option<MirrorError> {
    let config = base(kafka).ok()?;
    let admin: AdminClient<Complaints> = config.create_with_context(complaints.clone()).ok()?;
    for topic in [&topics.events, &topics.state, &topics.progress] {
        // Who does not answer for one topic does not for the next: to ask on would keep a coordinator from stopping.
        let copies = copies(&admin, topic).ok()?;
        let wanted = min_in_step(&admin, topic).ok()?;
        let lacking = wanted.and_then(|wanted| too_few(&copies, topic, wanted));
        if lacking.is_some() {
            return lacking;
        }
    }
    None
}

/// The copies of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Copies {
    partition: i32,
    all: usize,
    in_step: usize,
}

impl Copies {
    /// The error, if fewer are in step than must be. No more must be than there are.
    fn told(self, topic: &str, wanted: usize) -> Option<MirrorError> {
        let wanted = wanted.min(self.all);
        (self.in_step < wanted).then(|| MirrorError::TooFewInSync {
            topic: topic.to_owned(),
            partition: self.partition,
            in_step: self.in_step,
            wanted,
        })
    }
}

fn copies(admin: &AdminClient<Complaints>, topic: &str) -> Result<Vec<Copies>, KafkaError> {
    let metadata = admin.inner().fetch_metadata(Some(topic), PATIENCE)?;
    let partitions = metadata.topics().iter().flat_map(MetadataTopic::partitions);
    let copies = partitions.map(|partition| Copies {
        partition: partition.id(),
        all: partition.replicas().len(),
        in_step: partition.isr().len(),
    });
    Ok(copies.collect())
}

/// None if the topic is not there, or its configuration not for us.
fn min_in_step(admin: &AdminClient<Complaints>, topic: &str) -> Result<Option<usize>, KafkaError> {
    let options = AdminOptions::new().request_timeout(Some(PATIENCE));
    let topic = [ResourceSpecifier::Topic(topic)];
    let described = blocking(admin.describe_configs(&topic, &options))?;
    let described = described.into_iter().next().and_then(Result::ok);
    let value = described.and_then(|config| config.get(MIN_IN_STEP)?.value.clone());
    Ok(value.and_then(|value| value.parse().ok()))
}

/// The first of these that has too few.
fn too_few(copies: &[Copies], topic: &str, wanted: usize) -> Option<MirrorError> {
    copies.iter().find_map(|copies| copies.told(topic, wanted))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use rdkafka::mocking::MockCluster;
    use wattle_api::notice::MirrorCause;
    use wattle_model::NetworkId;

    use super::*;
    use crate::Config;
    use crate::status::Board;

    #[test]
    fn copies_are_too_few_where_more_must_be_in_step() {
        for (all, in_step, wanted, told) in [
            (3, 2, 2, false),
            (3, 1, 2, true),
            (2, 1, 2, true),
            (1, 1, 2, false),
            (3, 0, 1, true),
        ] {
            let copies = Copies {
                partition: 4,
                all,
                in_step,
            };
            let cause = copies.told("t", wanted).map(|error| error.trouble().cause);
            let expected = told.then_some(MirrorCause::TooFewInSync);
            assert_eq!(cause, expected, "{copies:?} of {wanted}");
        }
    }

    /// Input: partitions with different numbers of copies. Output: not the one that has a single copy and wants no more.
    #[test]
    fn the_partition_that_has_too_few_is_found_among_those_with_few() {
        let copies = [(0, 1, 1), (1, 3, 2), (2, 3, 1)].map(|(partition, all, in_step)| Copies {
            partition,
            all,
            in_step,
        });
        let error = too_few(&copies, "t", 2);
        let found = matches!(error, Some(MirrorError::TooFewInSync { partition: 2, .. }));
        assert!(found, "{error:?}");
    }

    #[test]
    fn brokers_that_are_away_are_waited_for_once() {
        let cluster = MockCluster::new(1).unwrap();
        let config = Config {
            kafka: Kafka::plaintext(&cluster.bootstrap_servers()),
            network: NetworkId(1),
            network_name: "lab".to_owned(),
            term: 1,
        };
        drop(cluster);
        let topics = config.kafka.topics_of(&config.network_name);
        let complaints = Complaints::new(&config.kafka, Board::new(&config));
        let begin = Instant::now();
        assert!(lacking(&config.kafka, &topics, &complaints).is_none());
        let took = begin.elapsed();
        assert!(took < 2 * PATIENCE, "{took:?}");
    }
}
