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
        let mut batch = Self {
            records: Vec::with_capacity(2 * events.len() + 1),
            after: position.clone(),
            events: 0,
        };
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
        let partition = partition_of(
            event.source.site.as_ref().map(NodeName::as_str),
            &key,
            count,
        );
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
            return Err(MirrorError::OutboxGap {
                expected,
                found_before: seq - 1,
            });
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
        Ok(Record {
            topic: Topic::Events,
            partition,
            key,
            value,
            timestamp_ms,
            headers,
        })
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

#[cfg(test)]
mod tests {
    use wattle_api::Timestamp;
    use wattle_api::stream::Kafka;
    use wattle_api::topology::{Cause, EntityKey, EntityKind, EventId, Op, Source};
    use wattle_model::{NetworkId, NodeId};

    use super::*;

    fn config() -> Config {
        Config {
            kafka: Kafka::plaintext("k:9092"),
            network: NetworkId(1),
            network_name: "lab".into(),
            term: 3,
        }
    }

    fn event(seq: u64, site: &str) -> TopologyEvent {
        TopologyEvent {
            id: EventId { term: 2, seq },
            kind: EntityKind::Node,
            key: EntityKey::Node(NodeId(seq)),
            op: Op::Delete,
            before: None,
            after: None,
            cause: Cause::MemberRemoved,
            source: Source {
                network: NetworkId(1),
                network_name: "lab".into(),
                coordinator: "c".into(),
                term: 2,
                seq,
                reporter: None,
                record_seq: None,
                site: Some(site.parse().unwrap()),
                observed_at: None,
                coalesced: 0,
            },
            ts: Timestamp::from_millis(seq),
            omitted: None,
        }
    }

    fn topics_of(batch: &Batch) -> Vec<Topic> {
        batch.records.iter().map(|record| record.topic).collect()
    }

    #[test]
    fn each_record_names_the_one_before_it_in_its_partition() {
        let events = [event(1, "fra1"), event(2, "ams2"), event(3, "fra1")];
        let first = Batch::of(&config(), &Position::origin(6), &events[..2]).unwrap();
        let second = Batch::of(&config(), &first.after, &events[2..]).unwrap();
        let named = |batch: &Batch| -> Vec<String> {
            let headers = batch.records.iter().flat_map(|record| &record.headers);
            let named = headers.filter(|(name, _)| *name == HEADER_PREV_SEQ);
            named.map(|(_, value)| value.clone()).collect()
        };
        assert_eq!(
            (named(&first), named(&second)),
            (vec!["0".into(), "0".into()], vec!["1".into()])
        );
        assert_eq!((second.after.first_seq, second.after.last_seq), (1, 3));
    }

    #[test]
    fn what_is_gone_is_a_tombstone_in_the_state_topic_and_an_event_in_the_other() {
        let batch = Batch::of(&config(), &Position::origin(6), &[event(1, "fra1")]).unwrap();
        assert_eq!(
            topics_of(&batch),
            [Topic::Events, Topic::State, Topic::Progress]
        );
        let gone: Vec<bool> = batch
            .records
            .iter()
            .map(|record| record.value.is_none())
            .collect();
        assert_eq!(gone, [false, true, false]);
    }

    #[test]
    fn a_state_topic_that_is_written_anew_gets_no_event_twice() {
        let behind = Position {
            first_seq: 1,
            last_seq: 2,
            state_seq: 0,
            partitions: vec![1, 2],
        };
        assert_eq!(behind.read_from(), 0);
        let events = [event(1, "fra1"), event(2, "ams2"), event(3, "fra1")];
        let batch = Batch::of(&config(), &behind, &events).unwrap();
        use Topic::{Events, Progress, State};
        assert_eq!(topics_of(&batch), [State, State, Events, State, Progress]);
        assert_eq!(
            (batch.events, batch.after.last_seq, batch.after.state_seq),
            (1, 3, 3)
        );
    }

    #[test]
    fn a_hole_in_the_outbox_is_never_written_over() {
        let position = Batch::of(&config(), &Position::origin(6), &[event(7, "fra1")])
            .unwrap()
            .after;
        assert_eq!(position.first_seq, 7, "an outbox may begin anywhere");
        let error = Batch::of(&config(), &position, &[event(9, "fra1")])
            .unwrap_err()
            .to_string();
        assert!(error.contains("lacks events 8 to 8"), "{error}");
    }

    #[test]
    fn a_batch_ends_when_it_is_large_and_goes_on_where_it_ended() {
        let mut large = event(1, "fra1");
        large.source.coordinator = "x".repeat(MAX_BYTES);
        let batch = Batch::of(&config(), &Position::origin(6), &[large, event(2, "fra1")]).unwrap();
        assert_eq!((batch.events, batch.after.read_from()), (1, 1));
    }
}
