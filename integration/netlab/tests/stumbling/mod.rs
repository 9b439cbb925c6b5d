//! What stands in a network's topics beside events and images, for readers to stumble over: a gap, what sites that moved
//! left behind, what a transaction that was given up left behind, and a filler behind it.

use std::collections::BTreeMap;

use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use serde_json::{Value, json};
use wattle_api::gap::GAP_KEY;
use wattle_api::stream::{FILLER_KEY, HEADER_SEQ};
use wattle_netlab::PATIENCE;
use wattle_netlab::kafka::Broker;
use wattle_netlab::kafka::mirrored::Mirrored;

/// A name in what no reader may see.
pub(crate) const GHOST: &str = "ghost";

/// Puts all of it into the events and state topics, whose events these are.
pub(crate) fn put_stumbling_blocks(broker: &Broker, events: &[Value]) {
    let blocks = Blocks::of(broker);
    let mut links = events.iter().filter(|event| event["kind"] == "link");
    let mut ghost = links.next().unwrap().clone();
    let gap = json!({
        "network": ghost["source"]["network"], "first_seq": 1, "last_seq": 2, "reason": "outbox_limit", "ts": ghost["ts"],
    });
    ghost["key"] = GHOST.into();
    ghost["after"]["carrier"] = GHOST.into();
    let [gap, image, ghost] = [&gap, &ghost["after"], &ghost].map(Value::to_string);
    let producer = &blocks.producer;
    producer.init_transactions(PATIENCE).unwrap();
    producer.begin_transaction().unwrap();
    blocks.send(record(&blocks.events, GAP_KEY).payload(&gap));
    blocks.leave_tombstones(broker);
    producer.commit_transaction(PATIENCE).unwrap();
    producer.begin_transaction().unwrap();
    blocks.send(record(&blocks.events, GHOST).payload(&ghost));
    blocks.send(record(&blocks.state, GHOST).payload(&image));
    producer.flush(PATIENCE).unwrap();
    producer.abort_transaction(PATIENCE).unwrap();
    // Whoever has seen as many records as are committed, but these, has been where the ghosts are.
    producer.begin_transaction().unwrap();
    blocks.send(record(&blocks.events, FILLER_KEY));
    blocks.send(record(&blocks.state, FILLER_KEY));
    producer.commit_transaction(PATIENCE).unwrap();
}

struct Blocks {
    producer: BaseProducer,
    events: String,
    state: String,
}

impl Blocks {
    fn of(broker: &Broker) -> Self {
        let producer = ClientConfig::new()
            .set("bootstrap.servers", broker.bootstrap())
            .set("transactional.id", "stranger")
            .create()
            .unwrap();
        let [events, state] =
            ["events", "state"].map(|topic| format!("{}.topology.{topic}.v1", Mirrored::PREFIX));
        Self {
            producer,
            events,
            state,
        }
    }

    /// As if each entity had been in every other partition before it moved to its own: in whichever order partitions are
    /// read, tombstones come behind images of the same event.
    fn leave_tombstones(&self, broker: &Broker) {
        let client = self.producer.client();
        let metadata = client.fetch_metadata(Some(&self.state), PATIENCE).unwrap();
        let partitions = metadata.topics()[0].partitions().len() as i32;
        let mut images = BTreeMap::new();
        for record in broker.kcat(&self.state).unwrap() {
            images.insert(record.key.clone(), record);
        }
        for image in images.values().filter(|image| image.value.is_some()) {
            let seq = image.header(HEADER_SEQ);
            for elsewhere in (0..partitions).filter(|place| *place != image.partition) {
                let headers = OwnedHeaders::new().insert(Header {
                    key: HEADER_SEQ,
                    value: seq,
                });
                let tombstone = record(&self.state, &image.key).partition(elsewhere);
                self.send(tombstone.headers(headers));
            }
        }
    }

    fn send(&self, record: BaseRecord<'_, str, str>) {
        self.producer
            .send(record)
            .map_err(|(error, _)| error)
            .unwrap();
    }
}

/// A record of the first partition that has no value yet.
fn record<'a>(topic: &'a str, key: &'a str) -> BaseRecord<'a, str, str> {
    BaseRecord::to(topic).partition(0).key(key)
}
