//! What nodes measure, on its way to Kafka: an idempotent producer of its own without transactions, so that it never
//! delays an event. What no broker takes within a minute is dropped and counted; the next record says more anyhow.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::error::KafkaError;
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{
    BaseRecord, NoCustomPartitioner, Producer as _, ProducerContext, ThreadedProducer,
};
use wattle_api::measurement::{LinkMetrics, METRICS_SCHEMA};
use wattle_api::stream::{
    HEADER_CE_ID, HEADER_CE_SOURCE, HEADER_CE_SPECVERSION, HEADER_CE_SUBJECT, HEADER_CE_TIME,
    HEADER_CE_TYPE, HEADER_CONTENT_TYPE, HEADER_SCHEMA, HEADER_TERM,
};

use crate::Config;
use crate::client::base;
use crate::error::MirrorError;
use crate::record::json;
use crate::status::Board;

/// How long a record may wait for a broker.
const PATIENCE: Duration = Duration::from_secs(60);

/// Writes measurements. Dropping it drops what waits.
pub struct Publisher {
    producer: ThreadedProducer<Count>,
    topic: String,
    source: String,
    term: String,
    dropped: Arc<AtomicU64>,
    board: Board,
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publisher")
            .field("topic", &self.topic)
            .finish_non_exhaustive()
    }
}

impl Publisher {
    pub(crate) fn new(config: &Config, board: Board) -> Result<Self, MirrorError> {
        let dropped = Arc::new(AtomicU64::new(0));
        let producer = base(&config.kafka)?
            .set("client.id", "wattle-measurements")
            .set("enable.idempotence", "true")
            .set("message.timeout.ms", PATIENCE.as_millis().to_string())
            .set("queue.buffering.max.messages", "100000")
            .set("compression.type", "zstd")
            .set("linger.ms", "100")
            .create_with_context(Count(Arc::clone(&dropped)))
            .map_err(|source| MirrorError::Kafka {
                doing: "make a producer of measurements".to_owned(),
                source,
            })?;
        Ok(Self {
            producer,
            topic: config.kafka.topics_of(&config.network_name).metrics,
            source: format!("/wattle/{}", config.network),
            term: config.term.to_string(),
            dropped,
            board,
        })
    }

    /// Hands a node's measurements to the client; never waits for a broker.
    pub fn publish(&self, metrics: &LinkMetrics) {
        let node = metrics.node.to_string();
        let (ts, id) = (metrics.ts.to_string(), format!("{node}@{}", metrics.ts));
        let pairs = [
            (HEADER_TERM, self.term.as_str()),
            (HEADER_SCHEMA, METRICS_SCHEMA),
            (HEADER_CONTENT_TYPE, "application/json"),
            (HEADER_CE_SPECVERSION, "1.0"),
            (HEADER_CE_ID, &id),
            (HEADER_CE_SOURCE, &self.source),
            (HEADER_CE_TYPE, "io.wattle.metrics.links"),
            (HEADER_CE_SUBJECT, &node),
            (HEADER_CE_TIME, &ts),
        ];
        let headers = pairs
            .into_iter()
            .fold(OwnedHeaders::new(), |headers, (key, value)| {
                headers.insert(Header {
                    key,
                    value: Some(value),
                })
            });
        let value = json(metrics);
        let record = BaseRecord::to(&self.topic)
            .key(&node)
            .payload(&value)
            .headers(headers);
        if let Err((error, _)) = self.producer.send(record) {
            tracing::debug!(%error, "Measurements could not be queued");
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        self.board
            .measurements_dropped(self.dropped.load(Ordering::Relaxed));
    }

    /// Waits until what was handed over is written, or the time is over.
    pub fn flush(&self, patience: Duration) {
        if let Err(error) = self.producer.flush(patience) {
            tracing::debug!(%error, "Measurements are left behind");
        }
    }
}

/// Counts what was not delivered.
struct Count(Arc<AtomicU64>);

impl ClientContext for Count {
    fn error(&self, error: KafkaError, reason: &str) {
        // The mirror says what is wrong with the brokers.
        tracing::debug!(%error, reason, "Kafka client error");
    }
}

impl ProducerContext<NoCustomPartitioner> for Count {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if result.is_err() {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}
