//! What one transaction holds: which records go where, made from a run of events. Pure.

use wattle_api::stream::{
    HEADER_CE_ID, HEADER_CE_SOURCE, HEADER_CE_SPECVERSION, HEADER_CE_SUBJECT, HEADER_CE_TIME,
    HEADER_CE_TYPE, HEADER_CONTENT_TYPE, HEADER_PREV_SEQ, HEADER_SCHEMA, HEADER_SEQ, HEADER_TERM,
    PROGRESS_SCHEMA, STATE_SCHEMA, Topics, partition_of, transactional_id,
};
use wattle_api::topology::{SCHEMA, TopologyEvent};
use wattle_model::NodeName;

use crate::Config;
use crate::error::MirrorError;
use crate::position::Position;

/// Events of one transaction at most: keeps a transaction within some milliseconds.
pub(crate) const MAX_EVENTS: usize = 500;

/// Bytes of events in one transaction at most.
const MAX_BYTES: usize = 1 << 20;

/// One record for Kafka.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) topic: Topic,
    pub(crate) partition: u32,
    pub(crate) key: String,
    /// `None`: the entity is gone.
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) timestamp_ms: u64,
    pub(crate) headers: Vec<(&'static str, String)>,
}

/// Which of the network's topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Topic {
    Events,
    State,
    Progress,
}

impl Topic {
    pub(crate) fn name(self, topics: &Topics) -> &str {
        match self {
            Self::Events => &topics.events,
            Self::State => &topics.state,
            Self::Progress => &topics.progress,
        }
    }
}

/// The records of one transaction and the position after it.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) records: Vec<Record>,
    pub(crate) after: Position,
    pub(crate) events: u64,
}

impl Batch {
    /// Takes as many of `events` as one transaction may hold; at least one of them.
    pub(crate) fn of(
        config: &Config,
        position: &Position,
        events: &[TopologyEvent],
    ) -> Result<Self, MirrorError> {
        let mut batch =
            Self { records: Vec::with_capacity(2 * events.len() + 1), after: position.clone(), events: 0 };
        let mut bytes = 0;
        for event in events {
            bytes += batch.take(config, event)?;
            if bytes >= MAX_BYTES {
                break;
            }
        }
        batch.close(config);
        Ok(batch)
    }

    /// Adds an event to the topics that lack it. Says how many bytes that were.
    fn take(&mut self, config: &Config, event: &TopologyEvent) -> Result<usize, MirrorError> {
        let key = event.key.to_string();
        let count = self.after.partitions.len() as u32;
        let partition = partition_of(event.source.site.as_ref().map(NodeName::as_str), &key, count);
        let mut bytes = 0;
        if event.id.seq > self.after.last_seq {
            let record = self.event_record(config, event, key.clone(), partition)?;
            bytes += record.value.as_ref().map_or(0, Vec::len);
            self.records.push(record);
            self.events += 1;
        }
        if event.id.seq > self.after.state_seq {
            let record = state_record(config, event, key, partition);
            bytes += record.value.as_ref().map_or(0, Vec::len);
            self.records.push(record);
            self.after.state_seq = event.id.seq;
        }
        Ok(bytes)
    }

    fn event_record(
        &mut self,
        config: &Config,
        event: &TopologyEvent,
        key: String,
        partition: u32,
    ) -> Result<Record, MirrorError> {
        let seq = event.id.seq;
        let expected = self.after.last_seq + 1;
        if seq != expected && self.after.first_seq != 0 {
            return Err(MirrorError::OutboxGap { expected, found_before: seq - 1 });
        }
        if self.after.first_seq == 0 {
            self.after.first_seq = seq;
        }
        self.after.last_seq = seq;
        let prev = std::mem::replace(&mut self.after.partitions[partition as usize], seq);
        let mut headers = place(config, event, SCHEMA);
        headers.extend([
            (HEADER_PREV_SEQ, prev.to_string()),
            (HEADER_CE_SPECVERSION, "1.0".to_owned()),
            (HEADER_CE_ID, event.id.to_string()),
            (HEADER_CE_SOURCE, event.cloud_event_source()),
            (HEADER_CE_TYPE, event.cloud_event_type()),
            (HEADER_CE_SUBJECT, key.clone()),
            (HEADER_CE_TIME, event.ts.to_string()),
        ]);
        let value = Some(json(event));
        let timestamp_ms = event.ts.as_millis();
        Ok(Record { topic: Topic::Events, partition, key, value, timestamp_ms, headers })
    }

    /// The last record says how far the others reach.
    fn close(&mut self, config: &Config) {
        let progress = self.after.record(config.network, config.term);
        self.records.push(Record {
            topic: Topic::Progress,
            partition: 0,
            key: transactional_id(&config.network_name),
            timestamp_ms: progress.ts.as_millis(),
            value: Some(json(&progress)),
            headers: vec![
                (HEADER_SEQ, self.after.last_seq.to_string()),
                (HEADER_TERM, config.term.to_string()),
                (HEADER_SCHEMA, PROGRESS_SCHEMA.to_owned()),
                (HEADER_CONTENT_TYPE, "application/json".to_owned()),
            ],
        });
    }
}

fn state_record(config: &Config, event: &TopologyEvent, key: String, partition: u32) -> Record {
    Record {
        topic: Topic::State,
        partition,
        key,
        value: event.after.as_ref().map(json),
        timestamp_ms: event.ts.as_millis(),
        headers: place(config, event, STATE_SCHEMA),
    }
}

/// Headers that events and images share. The term is the writer's: the event's own stands in its id.
fn place(config: &Config, event: &TopologyEvent, schema: &str) -> Vec<(&'static str, String)> {
    vec![
        (HEADER_SEQ, event.id.seq.to_string()),
        (HEADER_TERM, config.term.to_string()),
        (HEADER_SCHEMA, schema.to_owned()),
        (HEADER_CONTENT_TYPE, "application/json".to_owned()),
    ]
}

fn json(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("topology types have string keys and serialise infallibly")
}
