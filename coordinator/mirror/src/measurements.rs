//! What nodes measure, on its way to Kafka: an idempotent producer of its own without transactions, so that it never
//! delays an event. What no broker takes within a minute is dropped and counted; the next record says more anyhow.
//! A producer that lost track of what it sent amid an outage never sends again: another takes its place.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{
    BaseRecord, NoCustomPartitioner, Producer as _, ProducerContext, ThreadedProducer,
};
use wattle_api::Timestamp;
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
    config: ClientConfig,
    current: Mutex<Current>,
    topic: String,
    source: String,
    term: String,
    dropped: Arc<AtomicU64>,
    board: Board,
}

/// The producer that measurements go through.
struct Current {
    producer: ThreadedProducer<Count>,
    /// The time of the measurements for which no other could be made in its place.
    irreplaceable_at: Option<Timestamp>,
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
        let mut client = base(&config.kafka)?;
        client
            .set("client.id", "wattle-measurements")
            .set("enable.idempotence", "true")
            .set("message.timeout.ms", PATIENCE.as_millis().to_string())
            .set("queue.buffering.max.messages", "100000")
            .set("compression.type", "zstd")
            .set("linger.ms", "100");
        let producer = client.create_with_context(Count(Arc::clone(&dropped)));
        let producer = producer.map_err(|source| MirrorError::Kafka {
            doing: "make a producer of measurements".to_owned(),
            source,
        })?;
        let current = Current {
            producer,
            irreplaceable_at: None,
        };
        Ok(Self {
            config: client,
            current: Mutex::new(current),
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
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        self.replace_if_finished(&mut current, metrics.ts);
        if let Err((error, _)) = current.producer.send(record) {
            tracing::debug!(%error, "Measurements could not be queued");
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        drop(current);
        self.board
            .measurements_dropped(self.dropped.load(Ordering::Relaxed));
    }

    /// What nodes measured at one time is published together, a record for each node: one of them tries, and the next time
    /// again.
    fn replace_if_finished(&self, current: &mut Current, ts: Timestamp) {
        let Some((_, reason)) = current.producer.client().fatal_error() else {
            return;
        };
        if current.irreplaceable_at == Some(ts) {
            return;
        }
        let count = Count(Arc::clone(&self.dropped));
        match self.config.create_with_context(count) {
            Ok(another) => {
                tracing::warn!(reason, "Measurements get another producer");
                current.irreplaceable_at = None;
                let finished = std::mem::replace(&mut current.producer, another);
                // It takes half a second to let go of what it holds.
                std::thread::spawn(move || drop(finished));
            }
            Err(error) => {
                if current.irreplaceable_at.replace(ts).is_none() {
                    tracing::warn!(%error, reason, "Measurements are dropped: no other producer can be made");
                }
            }
        }
    }

    /// Waits until what was handed over is written, or the time is over.
    pub fn flush(&self, patience: Duration) {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = current.producer.flush(patience) {
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

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::DefaultProducerContext;
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr as Refusal};
    use wattle_api::stream::Kafka;
    use wattle_model::{NetworkId, NodeId};

    use super::*;

    type Cluster = MockCluster<'static, DefaultProducerContext>;

    /// Input: brokers that give the first producer no id. Output: its record is lost, the next one is written.
    #[test]
    fn a_producer_that_will_never_send_is_replaced() {
        let (_cluster, publisher) = publisher_without_an_id();
        for (time, lost) in [(1, 1), (2, 1)] {
            publish(&publisher, time);
            assert_eq!(outcome(&publisher), (lost, 0), "at {time}");
        }
    }

    /// Input: no other producer can be made at 2. Output: what is measured then is lost without another try, what is
    /// measured later is written.
    #[test]
    fn a_producer_that_cannot_be_replaced_is_the_next_time() {
        let (_cluster, mut publisher) = publisher_without_an_id();
        publish(&publisher, 1);
        publisher.config.set("no.such.setting", "1");
        publish(&publisher, 2);
        assert_eq!(outcome(&publisher), (2, 0));
        publisher.config.remove("no.such.setting");
        for (time, lost) in [(2, 3), (3, 3)] {
            publish(&publisher, time);
            assert_eq!(outcome(&publisher), (lost, 0), "at {time}");
        }
    }

    fn publisher_without_an_id() -> (Cluster, Publisher) {
        let cluster = MockCluster::new(1).unwrap();
        let refusal = [Refusal::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED];
        cluster.request_errors(RDKafkaApiKey::InitProducerId, &refusal);
        let config = Config {
            kafka: Kafka::plaintext(&cluster.bootstrap_servers()),
            network: NetworkId(1),
            network_name: "lab".to_owned(),
            term: 1,
        };
        let topics = config.kafka.topics_of(&config.network_name);
        cluster.create_topic(&topics.metrics, 1, 1).unwrap();
        let publisher = Publisher::new(&config, Board::new(&config)).unwrap();
        (cluster, publisher)
    }

    fn publish(publisher: &Publisher, time: u64) {
        publisher.publish(&LinkMetrics {
            network: NetworkId(1),
            node: NodeId(1),
            name: None,
            site: None,
            links: vec![],
            ts: Timestamp::from_millis(time),
        });
        publisher.flush(Duration::from_secs(20));
    }

    /// How many records are lost, and how many neither lost nor written.
    fn outcome(publisher: &Publisher) -> (u64, i32) {
        let current = publisher.current.lock().unwrap();
        let waiting = current.producer.in_flight_count();
        (publisher.dropped.load(Ordering::Relaxed), waiting)
    }
}
