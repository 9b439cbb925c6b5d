//! Why the mirror does not move, and what to do about it.

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use wattle_api::notice::{MirrorCause, MirrorTrouble};
use wattle_api::stream::KafkaConfigError;

use crate::outbox::OutboxError;

/// Why a session of the mirror ended. Nothing is lost by any of them: events stay in the outbox.
#[derive(Debug, thiserror::Error)]
pub enum MirrorError {
    /// The configuration can never work.
    #[error(transparent)]
    Config(#[from] KafkaConfigError),
    /// The thread could not be started.
    #[error("cannot start the mirror's thread: {0}")]
    Thread(std::io::Error),
    /// No broker answers.
    #[error(
        "no Kafka broker answers at {brokers} ({reason}); events wait in the outbox. Check kafka.brokers and the brokers"
    )]
    Unreachable {
        /// Who was asked.
        brokers: String,
        /// What the client says.
        reason: String,
    },
    /// The brokers refuse our credentials.
    #[error(
        "the brokers at {brokers} refuse our credentials ({reason}). Check kafka.sasl or kafka.tls"
    )]
    Credentials {
        /// Who refused.
        brokers: String,
        /// What the broker says.
        reason: String,
    },
    /// Authenticated, but not allowed to do it.
    #[error(
        "the brokers do not allow us to {doing} ({reason}). Grant Create, Describe, Read and Write on the topics and Write on the transactional id"
    )]
    NotAuthorised {
        /// What was being done.
        doing: String,
        /// Which permission is missing.
        reason: String,
    },
    /// A partition lacks copies, so that nothing is taken by it.
    #[error(
        "{topic} partition {partition} has {in_step} copies in step where {wanted} must be (min.insync.replicas); events wait in the outbox. Start the brokers that are away"
    )]
    TooFewInSync {
        /// The topic.
        topic: String,
        /// Its partition.
        partition: i32,
        /// How many are in step.
        in_step: usize,
        /// How many must be.
        wanted: usize,
    },
    /// A topic is missing and could not be made.
    #[error("cannot create topic {topic}: {reason}")]
    Topic {
        /// Its name.
        topic: String,
        /// What the broker says.
        reason: String,
    },
    /// Existing topics do not fit each other.
    #[error(
        "topic {topic} has {found} partitions instead of {wanted}; a record's partition must not move, so it has to be made anew"
    )]
    Partitions {
        /// Its name.
        topic: String,
        /// What it has.
        found: usize,
        /// What it should have.
        wanted: usize,
    },
    /// A topic with events is gone or was cut, and the configuration says to stop.
    #[error(
        "topic {topic} is missing, was made anew or was truncated, and kafka.lost_topic is \"halt\": nothing is written. Restore it, or set kafka.lost_topic = \"resnapshot\" to have it written anew"
    )]
    TopicLost {
        /// Its name.
        topic: String,
    },
    /// A topic was made anew while we wrote to it.
    #[error("a topic was made anew while events were written to it; looking at its ends again")]
    MadeAnew,
    /// A record is larger than a topic takes.
    #[error("a topic takes no records of {0} bytes; what is larger goes to the dead letters")]
    Oversize(usize),
    /// A slot map under which events were written is not configured any more.
    #[error(
        "events were written under version {version} of the slot map, which kafka.slots does not have: put it back, and append changes as another version"
    )]
    SlotsForgotten {
        /// The version.
        version: u32,
    },
    /// The slot map names partitions that the topics do not have.
    #[error(transparent)]
    Slots(#[from] wattle_api::slots::SlotMapError),
    /// A picture of the topology could not be had.
    #[error("the topology could not be read from the database within {0:?}")]
    NoPicture(std::time::Duration),
    /// Another producer took our transactional id.
    #[error(
        "another coordinator mirrors this network: we were fenced; looking at the progress topic again"
    )]
    Fenced,
    /// A coordinator with a higher term has written.
    #[error("a coordinator of term {theirs} mirrors this network, ours is {ours}: stepping down")]
    SteppedDown {
        /// Our term.
        ours: u64,
        /// The term in the progress topic.
        theirs: u64,
    },
    /// The topics belong to a network of another trust root.
    #[error(
        "the topics hold network {theirs}, this is {ours}: choose another kafka.topic_prefix or delete the topics"
    )]
    ForeignTopics {
        /// Our network.
        ours: String,
        /// The network in the progress topic.
        theirs: String,
    },
    /// Kafka has events that the outbox never gave out.
    #[error(
        "Kafka holds events up to {kafka}, the outbox ends at {outbox}: the coordinator's database is older than the topics. Restore a newer one, or choose another kafka.topic_prefix"
    )]
    OutboxBehind {
        /// Last in Kafka.
        kafka: u64,
        /// Last in the outbox.
        outbox: u64,
    },
    /// The outbox cannot be read.
    #[error("cannot read the outbox: {0}")]
    Outbox(OutboxError),
    /// A transaction that no producer can finish any more.
    #[error(
        "a transaction hangs in {topic} partition {partition}: find and abort it with kafka-transactions.sh, or delete the topics to have them written anew"
    )]
    Hanging {
        /// The topic.
        topic: String,
        /// Its partition.
        partition: i32,
    },
    /// Our predecessor's transaction has not ended in all its partitions: they cannot be written either.
    #[error("the brokers have not finished the last transaction yet ({reason})")]
    Unfinished {
        /// What the broker says.
        reason: String,
    },
    /// A progress record that this version cannot read.
    #[error("cannot read the progress record in {topic}: {reason}")]
    Progress {
        /// Where.
        topic: String,
        /// Why.
        reason: String,
    },
    /// Everything else that Kafka may say.
    #[error("cannot {doing}: {source}")]
    Kafka {
        /// What was being done.
        doing: String,
        /// What Kafka says.
        source: KafkaError,
    },
}

impl MirrorError {
    /// Whether trying again is pointless until somebody acts.
    pub const fn is_final(&self) -> bool {
        matches!(self, Self::SteppedDown { .. })
    }

    /// Whether it follows from another error that came before, and says less.
    pub(crate) const fn is_consequence(&self) -> bool {
        matches!(self, Self::Unfinished { .. })
    }

    /// Whether too few copies may be behind it, which nobody said.
    pub(crate) const fn may_lack_copies(&self) -> bool {
        matches!(self, Self::Unfinished { .. } | Self::Unreachable { .. })
    }

    /// The error as an alert tells it.
    pub(crate) fn trouble(&self) -> MirrorTrouble {
        MirrorTrouble {
            cause: self.cause(),
            detail: self.to_string(),
        }
    }

    fn cause(&self) -> MirrorCause {
        match self {
            Self::Unreachable { .. } => MirrorCause::Unreachable,
            Self::Credentials { .. } => MirrorCause::Credentials,
            Self::NotAuthorised { .. } => MirrorCause::NotAuthorised,
            Self::Topic { .. } | Self::Partitions { .. } | Self::MadeAnew => MirrorCause::Topic,
            Self::TopicLost { .. } => MirrorCause::TopicLost,
            Self::Oversize(_) => MirrorCause::Oversize,
            Self::Hanging { .. } => MirrorCause::HangingTransaction,
            Self::ForeignTopics { .. } | Self::OutboxBehind { .. } | Self::Progress { .. } => {
                MirrorCause::ForeignTopics
            }
            Self::Fenced | Self::SteppedDown { .. } => MirrorCause::Superseded,
            Self::Outbox(_) | Self::NoPicture(_) => MirrorCause::Outbox,
            Self::TooFewInSync { .. } => MirrorCause::TooFewInSync,
            Self::Kafka { source, .. } if is_too_few(code_of(source)) => MirrorCause::TooFewInSync,
            Self::Config(_)
            | Self::Thread(_)
            | Self::SlotsForgotten { .. }
            | Self::Slots(_)
            | Self::Unfinished { .. }
            | Self::Kafka { .. } => MirrorCause::Other,
        }
    }

    /// Gives a client's error its cause: the codes of refusals, else the last thing the client complained of.
    pub(crate) fn from_kafka(
        doing: &str,
        error: KafkaError,
        complaint: Option<&(Code, String)>,
        brokers: &str,
    ) -> Self {
        let code = code_of(&error);
        let reason = || complaint.map_or_else(|| error.to_string(), |(_, said)| said.clone());
        let complained = complaint.map(|(code, _)| *code);
        if is_fencing(code) {
            return Self::Fenced;
        }
        if code == Some(Code::ConcurrentTransactions) {
            return Self::Unfinished {
                reason: error.to_string(),
            };
        }
        if is_oversize(code) {
            return Self::Oversize(0);
        }
        if is_authorisation(code) {
            return Self::NotAuthorised {
                doing: doing.to_owned(),
                reason: error.to_string(),
            };
        }
        if is_credentials(code) || complained.is_some_and(|code| is_credentials(Some(code))) {
            return Self::Credentials {
                brokers: brokers.to_owned(),
                reason: reason(),
            };
        }
        if is_absence(code) {
            return Self::Unreachable {
                brokers: brokers.to_owned(),
                reason: reason(),
            };
        }
        Self::Kafka {
            doing: doing.to_owned(),
            source: error,
        }
    }
}

fn code_of(error: &KafkaError) -> Option<Code> {
    match error {
        KafkaError::Transaction(error) => Some(error.code()),
        other => other.rdkafka_error_code(),
    }
}

fn is_fencing(code: Option<Code>) -> bool {
    matches!(
        code,
        Some(Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch)
    )
}

fn is_oversize(code: Option<Code>) -> bool {
    matches!(
        code,
        Some(Code::MessageSizeTooLarge | Code::InvalidMessageSize)
    )
}

fn is_too_few(code: Option<Code>) -> bool {
    matches!(
        code,
        Some(Code::NotEnoughReplicas | Code::NotEnoughReplicasAfterAppend)
    )
}

fn is_authorisation(code: Option<Code>) -> bool {
    matches!(
        code,
        Some(
            Code::TopicAuthorizationFailed
                | Code::ClusterAuthorizationFailed
                | Code::TransactionalIdAuthorizationFailed
                | Code::GroupAuthorizationFailed
        )
    )
}

pub(crate) fn is_credentials(code: Option<Code>) -> bool {
    matches!(
        code,
        Some(
            Code::Authentication
                | Code::SaslAuthenticationFailed
                | Code::SSL
                | Code::IllegalSASLState
        )
    )
}

fn is_absence(code: Option<Code>) -> bool {
    matches!(
        code,
        Some(
            Code::AllBrokersDown
                | Code::BrokerTransportFailure
                | Code::OperationTimedOut
                | Code::RequestTimedOut
                | Code::MessageTimedOut
                | Code::TimedOutQueue
                | Code::Resolve
        )
    )
}
