//! Whether too few copies of a partition are in step. A producer hears of it only while brokers answer its records: where
//! one died amid a transaction, all it is told is that time is over, and that the transaction has not ended.

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::metadata::MetadataTopic;
use wattle_api::stream::{Kafka, Topics};

use crate::client::{Complaints, base};
use crate::error::MirrorError;
use crate::topics::blocking;

/// How long brokers may take to answer: whoever answers at all takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(2);

/// How many copies must be in step for a write to count.
const MIN_IN_STEP: &str = "min.insync.replicas";

/// The first partition of those topics that a transaction writes to which lacks copies, as an error; none as well where
/// nobody answers, or not to us.
pub(crate) fn lacking(
    kafka: &Kafka,
    topics: &Topics,
    complaints: &Complaints,
) -> Option<MirrorError> {
    let config = base(kafka).ok()?;
    let admin: AdminClient<Complaints> = config.create_with_context(complaints.clone()).ok()?;
    [&topics.events, &topics.state, &topics.progress]
        .into_iter()
        .find_map(|topic| {
            let metadata = admin.inner().fetch_metadata(Some(topic), PATIENCE).ok()?;
            let lacking = fewest(metadata.topics().first()?)?;
            lacking.told(topic, min_in_step(&admin, topic)?)
        })
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

/// The partition with the fewest copies in step.
fn fewest(topic: &MetadataTopic) -> Option<Copies> {
    let copies = topic.partitions().iter().map(|partition| Copies {
        partition: partition.id(),
        all: partition.replicas().len(),
        in_step: partition.isr().len(),
    });
    copies.min_by_key(|copies| copies.in_step)
}

fn min_in_step(admin: &AdminClient<Complaints>, topic: &str) -> Option<usize> {
    let options = AdminOptions::new().request_timeout(Some(PATIENCE));
    let topic = [ResourceSpecifier::Topic(topic)];
    let described = blocking(admin.describe_configs(&topic, &options)).ok()?;
    let described = described.into_iter().next()?.ok()?;
    described.get(MIN_IN_STEP)?.value.as_deref()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use wattle_api::notice::MirrorCause;

    use super::*;

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
}
