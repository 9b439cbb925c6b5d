//! Making the topics of a network that do not exist.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use wattle_api::stream::{Kafka, LostTopic, TopicSettings, Topics};
use wattle_api::topics::{TopicSpec, desired_topics};

use crate::client::{Complaints, base};
use crate::error::MirrorError;
use crate::producer::Transactor;

/// How long brokers may take to make topics.
const PATIENCE: Duration = Duration::from_secs(15);

/// What was found and made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Existing {
    /// Partitions of the events and state topics.
    pub(crate) partitions: usize,
    /// The events topic was made just now.
    pub(crate) events_made: bool,
    /// The state topic was made just now.
    pub(crate) state_made: bool,
}

/// Makes the topics that are missing. Existing ones are used as they are, so their number of partitions wins. Where a
/// lost topic is to stop everything, one that was there (`mirrored`, or its siblings are) is not made again.
pub(crate) fn ensure(
    kafka: &Kafka,
    topics: &Topics,
    producer: &Transactor,
    complaints: &Complaints,
    mirrored: bool,
) -> Result<Existing, MirrorError> {
    let found = producer.partition_counts()?;
    let count = |topic: &str| found.get(topic).copied();
    let mut specs = desired_topics(topics, &kafka.topics);
    // The three belong together: whichever of events and state exists decides for the other.
    if let Some(partitions) = count(&topics.events).or_else(|| count(&topics.state)) {
        for spec in &mut specs {
            if spec.name == topics.events || spec.name == topics.state {
                spec.partitions = partitions as u32;
            }
        }
    }
    let core = [&topics.events, &topics.state, &topics.progress];
    for spec in specs.iter().filter(|spec| core.contains(&&spec.name)) {
        match count(&spec.name) {
            None => {}
            Some(found) if found == spec.partitions as usize => {}
            Some(found) => {
                let (topic, wanted) = (spec.name.clone(), spec.partitions as usize);
                return Err(MirrorError::Partitions {
                    topic,
                    found,
                    wanted,
                });
            }
        }
    }
    let is_missing = |topic: &&TopicSpec| count(&topic.name).is_none();
    let missing: Vec<&TopicSpec> = specs.iter().filter(is_missing).collect();
    let lost = missing.iter().find(|spec| core.contains(&&spec.name));
    let was_there = mirrored || core.iter().any(|topic| count(topic).is_some());
    if let Some(spec) = lost
        && was_there
        && kafka.lost_topic == LostTopic::Halt
    {
        let topic = spec.name.clone();
        return Err(MirrorError::TopicLost { topic });
    }
    if !missing.is_empty() {
        make(kafka, &missing, &producer.brokers()?, complaints)?;
    }
    let partitions = specs.iter().find(|spec| spec.name == topics.events);
    Ok(Existing {
        partitions: partitions.map_or(0, |spec| spec.partitions as usize),
        events_made: count(&topics.events).is_none(),
        state_made: count(&topics.state).is_none(),
    })
}

fn make(
    kafka: &Kafka,
    specs: &[&TopicSpec],
    brokers: &[i32],
    complaints: &Complaints,
) -> Result<(), MirrorError> {
    let admin: AdminClient<Complaints> = base(kafka)?
        .create_with_context(complaints.clone())
        .map_err(|error| complaints.explain("make an admin client", error))?;
    let options = AdminOptions::new()
        .operation_timeout(Some(PATIENCE))
        .request_timeout(Some(PATIENCE));
    let racks = match kafka.topics.racks.is_empty() {
        true => BTreeMap::new(),
        false => racks_of(&admin, brokers, &options, complaints)?,
    };
    let placed: Vec<(&TopicSpec, Placed)> = specs
        .iter()
        .map(|spec| (*spec, place(spec, &kafka.topics, &racks)))
        .collect();
    let placed: Vec<(&TopicSpec, Vec<&[i32]>)> = placed
        .iter()
        .map(|(spec, placed)| (*spec, placed.iter().map(Vec::as_slice).collect()))
        .collect();
    let wanted: Vec<NewTopic<'_>> = placed
        .iter()
        .map(|(spec, placed)| new_topic(spec, placed))
        .collect();
    let results = blocking(admin.create_topics(&wanted, &options))
        .map_err(|error| complaints.explain("create topics", error))?;
    for result in results {
        match result {
            Ok(topic) => tracing::info!(topic, "Topic created"),
            Err((_, Code::TopicAlreadyExists)) => {}
            Err((topic, code)) if is_refusal(code) => {
                let (doing, reason) = (format!("create topic {topic}"), code.to_string());
                return Err(MirrorError::NotAuthorised { doing, reason });
            }
            Err((topic, code)) => {
                return Err(MirrorError::Topic {
                    topic,
                    reason: code.to_string(),
                });
            }
        }
    }
    Ok(())
}

/// The brokers of each rack, as their own configuration says; a broker that has none is in none.
fn racks_of(
    admin: &AdminClient<Complaints>,
    brokers: &[i32],
    options: &AdminOptions,
    complaints: &Complaints,
) -> Result<BTreeMap<String, Vec<i32>>, MirrorError> {
    let explain = |error| complaints.explain("read the racks of the brokers", error);
    let mut racks: BTreeMap<String, Vec<i32>> = BTreeMap::new();
    for id in brokers {
        // A request may name one broker only: that broker has to answer it.
        let broker = [ResourceSpecifier::Broker(*id)];
        let described = blocking(admin.describe_configs(&broker, options)).map_err(explain)?;
        for resource in described {
            let resource = resource.map_err(|code| explain(KafkaError::AdminOp(code)))?;
            let rack = resource
                .get("broker.rack")
                .and_then(|entry| entry.value.clone());
            if let Some(rack) = rack.filter(|rack| !rack.is_empty()) {
                racks.entry(rack).or_default().push(*id);
            }
        }
    }
    Ok(racks)
}

/// For each partition its brokers, the leader first; empty where the cluster decides.
type Placed = Vec<Vec<i32>>;

/// The leader in the rack that the partition belongs to, the other copies in other racks as far as there are any.
/// Topics of one partition take the first rack.
fn place(spec: &TopicSpec, settings: &TopicSettings, racks: &BTreeMap<String, Vec<i32>>) -> Placed {
    let copies = usize::from(spec.replication.unwrap_or(1));
    let rack_of = |partition: u32| settings.racks.get(partition as usize);
    let known = |partition| rack_of(partition).is_some_and(|rack| racks.contains_key(rack));
    if !(0..spec.partitions).all(known) {
        return vec![];
    }
    let brokers = |partition: u32| {
        let home = rack_of(partition)?;
        let turn = |brokers: &Vec<i32>| brokers[partition as usize % brokers.len()];
        let others = racks.iter().filter(|(rack, _)| *rack != home);
        let mut others: Vec<i32> = others.map(|(_, brokers)| turn(brokers)).collect();
        let shift = partition as usize % others.len().max(1);
        others.rotate_left(shift);
        let mut placed = vec![turn(&racks[home])];
        placed.extend(others);
        let rest = racks.values().flatten().copied();
        let rest: Vec<i32> = rest.filter(|broker| !placed.contains(broker)).collect();
        placed.extend(rest);
        placed.truncate(copies);
        Some(placed)
    };
    (0..spec.partitions).filter_map(brokers).collect()
}

fn new_topic<'a>(spec: &'a TopicSpec, placed: &'a [&'a [i32]]) -> NewTopic<'a> {
    let copies = match placed.is_empty() {
        true => TopicReplication::Fixed(spec.replication.map_or(-1, i32::from)),
        false => TopicReplication::Variable(placed),
    };
    let topic = NewTopic::new(&spec.name, spec.partitions as i32, copies);
    spec.config
        .iter()
        .fold(topic, |topic, (name, value)| topic.set(name, value))
}

fn is_refusal(code: Code) -> bool {
    matches!(
        code,
        Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed
    )
}

/// Waits for an answer of the admin client, which has a thread of its own to get it.
pub(crate) fn blocking<F: Future>(answer: F) -> F::Output {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaders_stand_in_the_rack_of_their_slot_and_copies_in_others() {
        let racks = [("a", vec![1, 4]), ("b", vec![2]), ("c", vec![3])];
        let racks: BTreeMap<String, Vec<i32>> =
            racks.map(|(rack, ids)| (rack.to_owned(), ids)).into();
        let settings = TopicSettings {
            racks: ["a", "b", "c", "a"].map(str::to_owned).to_vec(),
            ..TopicSettings::default()
        };
        let spec = |partitions, replication| TopicSpec {
            name: "t".into(),
            partitions,
            replication,
            config: vec![],
        };
        let placed = place(&spec(4, Some(3)), &settings, &racks);
        let leaders: Vec<i32> = placed.iter().map(|brokers| brokers[0]).collect();
        assert_eq!(leaders, [1, 2, 3, 4], "{placed:?}");
        let rack = |id: &i32| racks.iter().find(|(_, ids)| ids.contains(id)).unwrap().0;
        for brokers in &placed {
            let used: std::collections::BTreeSet<_> = brokers.iter().map(rack).collect();
            assert_eq!(used.len(), 3, "{placed:?}");
        }
        assert_eq!(place(&spec(1, None), &settings, &racks), [[1]]);
        assert_eq!(
            place(&spec(4, Some(5)), &settings, &racks)[1].len(),
            4,
            "no more copies than brokers"
        );
        assert_eq!(
            place(&spec(6, Some(3)), &settings, &racks),
            Placed::new(),
            "a rack for each"
        );
        assert_eq!(
            place(&spec(4, Some(3)), &settings, &BTreeMap::new()),
            Placed::new()
        );
    }
}
