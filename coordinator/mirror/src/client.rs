//! How clients of Kafka are made here, and what they complain of while they work.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{DeliveryResult, Message as _};
use rdkafka::producer::{NoCustomPartitioner, ProducerContext};
use wattle_api::secret::Secrets;
use wattle_api::stream::{Kafka, KafkaConfigError};

use crate::error::{MirrorError, is_credentials};
use crate::status::Board;

/// Properties that every client shares. Reconnecting stays brisk, so that a broker is used as soon as it is back.
pub(crate) fn base(kafka: &Kafka) -> Result<ClientConfig, KafkaConfigError> {
    let mut config = ClientConfig::new();
    for (name, value) in kafka.properties(&Files)? {
        config.set(name, value);
    }
    config
        .set("client.id", "wattle-mirror")
        .set("reconnect.backoff.ms", "50")
        .set("reconnect.backoff.max.ms", "1000")
        .set("socket.keepalive.enable", "true")
        .set_log_level(RDKafkaLogLevel::Warning);
    Ok(config)
}

/// Secrets as this host has them.
struct Files;

impl Secrets for Files {
    fn mode(&self, path: &Path) -> std::io::Result<u32> {
        Ok(path.metadata()?.mode())
    }

    fn text(&self, path: &Path) -> std::io::Result<String> {
        std::fs::read_to_string(path)
    }

    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }
}

/// Remembers why a client cannot work, since its calls themselves only say that they timed out.
#[derive(Debug, Clone)]
pub(crate) struct Complaints {
    brokers: String,
    last: Arc<Mutex<Option<(Code, String)>>>,
    failed: Arc<Mutex<Option<KafkaError>>>,
    delivered: Arc<Mutex<Delivered>>,
    board: Board,
}

/// The last offset of each partition that a producer wrote; -1 for none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Delivered {
    pub(crate) events: Vec<i64>,
    pub(crate) state: Vec<i64>,
    /// A record landed before an older one: the topic was made anew under the producer's feet.
    pub(crate) stepped_back: bool,
}

/// Which offsets a delivery tells of, packed into the number that goes with a record through the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// A partition of the events topic.
    Events(u32),
    /// A partition of the state topic.
    State(u32),
    /// Nobody asks.
    Elsewhere,
}

impl Place {
    /// As a number.
    pub(crate) const fn pack(self) -> usize {
        match self {
            Self::Elsewhere => 0,
            Self::Events(partition) => ((partition as usize) << 2) | 1,
            Self::State(partition) => ((partition as usize) << 2) | 2,
        }
    }
}

impl Delivered {
    pub(crate) fn note(&mut self, packed: usize, offset: i64) {
        let partition = packed >> 2;
        let known = match packed & 3 {
            1 => self.events.get_mut(partition),
            2 => self.state.get_mut(partition),
            _ => None,
        };
        if let Some(known) = known {
            self.stepped_back |= offset < *known;
            *known = offset.max(*known);
        }
    }
}

impl Complaints {
    pub(crate) fn new(kafka: &Kafka, board: Board) -> Self {
        Self {
            brokers: kafka.brokers.join(","),
            last: Arc::default(),
            failed: Arc::default(),
            delivered: Arc::default(),
            board,
        }
    }

    /// Explains `error` by what was complained of before.
    pub(crate) fn explain(&self, doing: &str, error: KafkaError) -> MirrorError {
        let last = self
            .last
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        MirrorError::from_kafka(doing, error, last.as_ref(), &self.brokers)
    }

    /// Everything works: what was complained of is history.
    pub(crate) fn forget(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Whether a record was not delivered.
    pub(crate) fn has_failed(&self) -> bool {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.is_some()
    }

    /// Why a record since the last call was not delivered.
    pub(crate) fn take_failed(&self) -> Option<KafkaError> {
        self.failed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// What was written so far, to begin with.
    pub(crate) fn begin(&self, events: Vec<i64>, state: Vec<i64>) {
        *self.delivered() = Delivered {
            events,
            state,
            stepped_back: false,
        };
    }

    /// What was written so far.
    pub(crate) fn delivered(&self) -> MutexGuard<'_, Delivered> {
        self.delivered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, code: Code, reason: &str) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        // "All brokers down" follows every other cause and says less.
        let keeps = last
            .as_ref()
            .is_some_and(|(old, _)| is_credentials(Some(*old)))
            || (code == Code::AllBrokersDown && last.is_some());
        if !keeps {
            *last = Some((code, reason.to_owned()));
        }
        if is_of_one_broker(code) {
            // Others may answer: it is told once none does.
            return;
        }
        let (code, reason) = last.clone().unwrap_or_else(|| (code, reason.to_owned()));
        drop(last);
        let error = KafkaError::Global(code);
        let said = MirrorError::from_kafka(
            "reach the brokers",
            error,
            Some(&(code, reason)),
            &self.brokers,
        );
        self.board.complained(&said);
    }
}

fn is_of_one_broker(code: Code) -> bool {
    matches!(code, Code::BrokerTransportFailure | Code::Resolve)
}

fn is_purge(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(Code::PurgeQueue | Code::PurgeInflight)
    )
}

impl ClientContext for Complaints {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(?level, facility, message, "Kafka client");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "Kafka client error");
        match error.rdkafka_error_code() {
            // A consumer at the end of a partition: what it was made to find.
            Some(Code::PartitionEOF) | None => {}
            Some(code) => self.note(code, reason),
        }
    }
}

impl ConsumerContext for Complaints {}

impl ProducerContext<NoCustomPartitioner> for Complaints {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, packed: usize) {
        match result {
            Ok(message) => self.delivered().note(packed, message.offset()),
            Err((error, _)) => {
                let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
                // Of a transaction that one record spoils the others are purged: that one says why.
                if failed.as_ref().is_none_or(is_purge) {
                    *failed = Some(error.clone());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use wattle_api::stream::{Protocol, Sasl};

    use super::*;

    #[test]
    fn a_password_that_others_can_read_is_not_used() {
        let home = tempfile::tempdir().unwrap();
        let password_file = home.path().join("password");
        std::fs::write(&password_file, "hunter2").unwrap();
        let kafka = Kafka {
            protocol: Protocol::SaslPlaintext,
            sasl: Some(Sasl::in_file("wattle", &password_file)),
            ..Kafka::plaintext("k1:9092")
        };
        for (mode, accepted) in [(0o644, false), (0o604, false), (0o640, true), (0o600, true)] {
            let permissions = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(&password_file, permissions).unwrap();
            assert_eq!(base(&kafka).is_ok(), accepted, "{mode:o}");
        }
    }
}
