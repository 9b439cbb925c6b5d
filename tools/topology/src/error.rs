//! Why the stream cannot be read, and what to do about it.

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use wattle_api::Timestamp;
use wattle_api::stream::KafkaConfigError;

use crate::moment::Moment;

/// Why the topology could not be read.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    /// The description of the cluster can never work.
    #[error(transparent)]
    Config(#[from] KafkaConfigError),
    /// No broker answers.
    #[error(
        "no Kafka broker answers at {brokers}: {reason}. Check the address, and user or certificates if the brokers want some"
    )]
    Unreachable {
        /// Who was asked.
        brokers: String,
        /// What the client says.
        reason: String,
    },
    /// The cluster has no topics of a network.
    #[error(
        "no topology of a network at {brokers}: no topic ends in `.topology.progress.v1`. Is [kafka] set in the coordinator's configuration?"
    )]
    NoNetwork {
        /// Who was asked.
        brokers: String,
    },
    /// The cluster has several networks.
    #[error("several networks at {brokers}: give the prefix of one of them: {}", prefixes.join(", "))]
    SeveralNetworks {
        /// Who was asked.
        brokers: String,
        /// What was found.
        prefixes: Vec<String>,
    },
    /// A topic is missing.
    #[error("no topic {topic} at {brokers}, or no right to see it")]
    NoTopic {
        /// The topic.
        topic: String,
        /// Who was asked.
        brokers: String,
    },
    /// A topic that was being read is no more.
    #[error("topic {topic} was deleted while it was read")]
    TopicGone {
        /// The topic.
        topic: String,
    },
    /// The user may not read.
    #[error("the brokers do not allow us to {doing}: grant Read and Describe on the topics")]
    NotAuthorised {
        /// What was being done.
        doing: String,
    },
    /// A record that is none of ours.
    #[error("{topic} partition {partition} offset {offset}: {reason}")]
    Record {
        /// The topic.
        topic: String,
        /// Where in it.
        partition: i32,
        /// Where in the partition.
        offset: i64,
        /// What is wrong with it.
        reason: String,
    },
    /// A server-sent event that cannot be read.
    #[error("the coordinator sent an event that cannot be read: {0}")]
    Sse(serde_json::Error),
    /// The moment lies before everything that is kept.
    #[error(
        "{moment} lies before event {first}{}, the oldest that is kept",
        since.map(|since| format!(" of {since}")).unwrap_or_default()
    )]
    TooOld {
        /// The moment.
        moment: Moment,
        /// The oldest event.
        first: u64,
        /// Its time, if it is known.
        since: Option<Timestamp>,
    },
    /// Events that are needed are not there.
    #[error(
        "events {first} to {last} are not in the topic: `wattle topology verify` counts what is missing"
    )]
    Hole {
        /// The first one that is missing.
        first: u64,
        /// The last one.
        last: u64,
    },
    /// Nothing came for too long.
    #[error("the brokers went silent while we tried to {doing}")]
    Silent {
        /// What was being done.
        doing: String,
    },
    /// The reader's thread ended early.
    #[error("reading was interrupted")]
    Interrupted,
    /// Everything else that Kafka may say.
    #[error("cannot {doing}: {source}")]
    Kafka {
        /// What was being done.
        doing: String,
        /// What Kafka says.
        source: KafkaError,
    },
}

impl TopologyError {
    /// Why a topic that was there cannot be read on.
    pub(crate) fn of_reading(topic: &str, brokers: &str, error: KafkaError) -> Self {
        if is_absence(error.rdkafka_error_code()) {
            let topic = topic.to_owned();
            return Self::TopicGone { topic };
        }
        Self::from_kafka(&format!("read {topic}"), brokers, error)
    }

    pub(crate) fn from_kafka(doing: &str, brokers: &str, error: KafkaError) -> Self {
        match error.rdkafka_error_code() {
            Some(
                Code::BrokerTransportFailure
                | Code::AllBrokersDown
                | Code::OperationTimedOut
                | Code::Resolve
                | Code::Authentication
                | Code::SaslAuthenticationFailed
                | Code::SSL,
            ) => Self::Unreachable {
                brokers: brokers.to_owned(),
                reason: error.to_string(),
            },
            Some(
                Code::TopicAuthorizationFailed
                | Code::GroupAuthorizationFailed
                | Code::ClusterAuthorizationFailed,
            ) => Self::NotAuthorised {
                doing: doing.to_owned(),
            },
            _ => Self::Kafka {
                doing: doing.to_owned(),
                source: error,
            },
        }
    }
}

/// Whether the brokers, or the client after asking them, do not know the topic.
const fn is_absence(code: Option<Code>) -> bool {
    matches!(
        code,
        Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_that_was_deleted_is_told_by_its_name() {
        for (code, told) in [
            (
                Code::UnknownPartition,
                "topic t was deleted while it was read",
            ),
            (
                Code::UnknownTopicOrPartition,
                "topic t was deleted while it was read",
            ),
            (Code::NotLeaderForPartition, "cannot read t: "),
        ] {
            let error = KafkaError::MessageConsumption(code);
            let told_so = TopologyError::of_reading("t", "k:1", error).to_string();
            assert!(told_so.starts_with(told), "{told_so}");
        }
    }
}
