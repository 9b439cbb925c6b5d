//! Why a cluster could not be asked or changed, and what to do about it.

use std::io;

use kafka_protocol::error::ResponseError;
use wattle_api::secret::SecretError;
use wattle_api::stream::KafkaConfigError;

/// Why a cluster could not be asked or changed.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The table `kafka` of the document cannot work.
    #[error(transparent)]
    Config(#[from] KafkaConfigError),
    /// A user's password cannot be read.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// Certificates or keys that cannot be used.
    #[error("{what}: {why}")]
    Tls {
        /// Which.
        what: String,
        /// Why.
        why: String,
    },
    /// The system gives no random numbers.
    #[error("the system gives no random numbers: {0}")]
    Random(String),
    /// No broker answers.
    #[error("no Kafka broker answers: {0}")]
    Unreachable(String),
    /// A broker stopped answering.
    #[error("{broker} broke off while we wanted to {doing}: {source}")]
    Broken {
        /// Which broker.
        broker: String,
        /// What was asked.
        doing: &'static str,
        /// What happened.
        source: io::Error,
    },
    /// The broker refuses our credentials.
    #[error("{broker} refuses our credentials: {reason}")]
    Credentials {
        /// Which broker.
        broker: String,
        /// What it says.
        reason: String,
    },
    /// What a broker sends makes no sense, or it is too old.
    #[error("{broker} does not speak as expected while we {doing}: {why}")]
    Protocol {
        /// Which broker.
        broker: String,
        /// What was asked.
        doing: &'static str,
        /// What is wrong.
        why: String,
    },
    /// The cluster says no.
    #[error("{}", reason(*.code, .message.as_deref()))]
    Refused {
        /// The code.
        code: ResponseError,
        /// What it says besides.
        message: Option<String>,
    },
}

impl ClusterError {
    /// Whether the connection may be used after this.
    pub(crate) const fn ends_connection(&self) -> bool {
        !matches!(
            self,
            Self::Refused { .. } | Self::Secret(_) | Self::Random(_)
        )
    }

    /// Whether a right is missing.
    pub const fn is_missing_right(&self) -> bool {
        matches!(
            self,
            Self::Refused {
                code: ResponseError::ClusterAuthorizationFailed
                    | ResponseError::TopicAuthorizationFailed
                    | ResponseError::GroupAuthorizationFailed
                    | ResponseError::TransactionalIdAuthorizationFailed,
                ..
            }
        )
    }

    /// Whether a topic was asked about that is not there.
    pub(crate) const fn is_unknown_topic(&self) -> bool {
        matches!(
            self,
            Self::Refused {
                code: ResponseError::UnknownTopicOrPartition,
                ..
            }
        )
    }

    /// Whether the cluster keeps no rights.
    pub(crate) const fn is_without_rights(&self) -> bool {
        matches!(
            self,
            Self::Refused {
                code: ResponseError::SecurityDisabled,
                ..
            }
        )
    }
}

/// What a broker says, or what its code means.
fn reason(code: ResponseError, message: Option<&str>) -> String {
    match message {
        Some(message) if !message.is_empty() => message.to_owned(),
        Some(_) | None => code.to_string(),
    }
}
