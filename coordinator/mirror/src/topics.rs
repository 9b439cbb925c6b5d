//! Making the topics of a network that do not exist.

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::error::RDKafkaErrorCode as Code;
use wattle_api::stream::{Kafka, Topics};
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

/// Makes the topics that are missing. Existing ones are used as they are, so their number of partitions wins.
pub(crate) fn ensure(
    kafka: &Kafka,
    topics: &Topics,
    producer: &Transactor,
    complaints: &Complaints,
) -> Result<Existing, MirrorError> {
    let found = producer.partition_counts()?;
    let count = |topic: &str| found.get(topic).copied();
    let mut specs = desired_topics(topics, &kafka.topics);
    // The three belong together: whichever of events and state exists decides for the other.
    if let Some(partitions) = count(&topics.events).or_else(|| count(&topics.state)) {
        specs[0].partitions = partitions as u32;
        specs[1].partitions = partitions as u32;
    }
    for spec in &specs {
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
    let missing: Vec<&TopicSpec> = specs
        .iter()
        .filter(|spec| count(&spec.name).is_none())
        .collect();
    if !missing.is_empty() {
        make(kafka, &missing, complaints)?;
    }
    Ok(Existing {
        partitions: specs[0].partitions as usize,
        events_made: count(&topics.events).is_none(),
        state_made: count(&topics.state).is_none(),
    })
}

fn make(kafka: &Kafka, specs: &[&TopicSpec], complaints: &Complaints) -> Result<(), MirrorError> {
    let admin: AdminClient<Complaints> = base(kafka)?
        .create_with_context(complaints.clone())
        .map_err(|error| complaints.explain("make an admin client", error))?;
    let wanted: Vec<NewTopic<'_>> = specs.iter().map(|spec| new_topic(spec)).collect();
    let options = AdminOptions::new()
        .operation_timeout(Some(PATIENCE))
        .request_timeout(Some(PATIENCE));
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

fn new_topic(spec: &TopicSpec) -> NewTopic<'_> {
    let copies = spec.replication.map_or(-1, i32::from);
    let topic = NewTopic::new(
        &spec.name,
        spec.partitions as i32,
        TopicReplication::Fixed(copies),
    );
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
fn blocking<F: Future>(answer: F) -> F::Output {
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
