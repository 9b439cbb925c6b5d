//! What one transaction holds: which records go where, made from a run of events. Pure.

use std::collections::HashMap;

use wattle_api::gap::{
    DEAD_LETTER_SCHEMA, DeadLetter, DeadReason, GAP_KEY, GAP_SCHEMA, GapReason, GapRecord,
};
use wattle_api::notice::{ALERT_SCHEMA, AUDIT_SCHEMA, HEADER_NOTICE};
use wattle_api::slots::{SLOTS_SCHEMA, SlotMapRecord, SlotVersion, slots_key};
use wattle_api::stream::{HEADER_PREV_SEQ, PROGRESS_SCHEMA, STATE_SCHEMA, transactional_id};
use wattle_api::topology::{EntityKey, EntityKeyError, Omitted, SCHEMA, TopologyEvent};

use crate::error::MirrorError;
use crate::event::{Event, Unreadable};
use crate::outbox::{Notice, NoticeKind};
use crate::position::Position;
use crate::record::{Context, Record, Topic, json, partition};
use crate::status::now;

/// Events of one transaction at most. What waits goes together: at ten thousand events a second a transaction has some
/// fifty, and after an outage thousands, of which each then costs a fraction of a transaction's fixed price.
pub(crate) const MAX_EVENTS: usize = 4_000;

/// Bytes of values in one transaction at most.
pub(crate) const MAX_BYTES: usize = 4 << 20;

/// What a record may have at most: brokers take batches of a megabyte unless told otherwise.
pub(crate) const MAX_RECORD: usize = 900_000;

/// How much of a dead letter's value is kept.
const HEAD: usize = 8 << 10;

/// By how much a record's Kafka timestamp may be behind the newest one before it, in milliseconds.
const STEP_BACK_MS: u64 = 3_600_000;

/// The records of one transaction and the position after it.
pub(crate) struct Batch<'a> {
    context: &'a Context,
    slots: Option<&'a SlotVersion>,
    pub(crate) records: Vec<Record>,
    pub(crate) after: Position,
    /// Events among them.
    pub(crate) events: u64,
    /// Dead letters among them.
    pub(crate) dead: u64,
    bytes: usize,
    /// Where the image of each entity stands in `records`, so that a later one takes its place.
    images: HashMap<String, usize>,
}

impl<'a> Batch<'a> {
    pub(crate) fn new(context: &'a Context, position: &Position) -> Result<Self, MirrorError> {
        Ok(Self {
            context,
            slots: context.slots(position)?,
            records: Vec::new(),
            after: position.clone(),
            events: 0,
            dead: 0,
            bytes: 0,
            images: HashMap::new(),
        })
    }

    /// Whether there is nothing to write.
    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Whether it has as much as a transaction should.
    pub(crate) fn is_full(&self) -> bool {
        self.bytes >= MAX_BYTES
    }

    /// Adds events until it is full, or until one is missing before the next. Says how many it took.
    pub(crate) fn take(
        &mut self,
        events: impl IntoIterator<Item = Result<Event, Unreadable>>,
        until: u64,
    ) -> Result<usize, MirrorError> {
        let mut taken = 0;
        for event in events {
            let event = event.map_err(|error| MirrorError::Outbox(error.into()))?;
            let in_order = self.after.first_seq == 0 || event.seq == self.after.last_seq + 1;
            if !in_order || event.seq > until || self.is_full() {
                break;
            }
            self.event(event)?;
            taken += 1;
        }
        Ok(taken)
    }

    fn event(&mut self, event: Event) -> Result<(), MirrorError> {
        let owner = self.slots.and_then(|_| event.owner());
        let count = self.after.hashed;
        let partition = partition(self.slots, count, event.site.as_ref(), event.key(), owner);
        self.after.newest_ms = self.after.newest_ms.max(event.ts.as_millis());
        if self.after.state_is_current() && event.seq > self.after.state_seq {
            self.image(&event, partition);
            self.after.state_seq = event.seq;
        }
        self.history(event, partition)
    }

    /// The event in the events topic, without its images where those are too large.
    fn history(&mut self, event: Event, partition: u32) -> Result<(), MirrorError> {
        let seq = event.seq;
        if self.after.first_seq == 0 {
            self.after.first_seq = seq;
        }
        self.after.last_seq = seq;
        let prev = std::mem::replace(&mut self.after.partitions[partition as usize], seq);
        let key = event.key().to_owned();
        let mut headers = self.context.headers(seq, SCHEMA);
        headers.push((HEADER_PREV_SEQ, prev.to_string().into()));
        headers.extend(self.context.cloud_event(
            event.cloud_event_type(),
            event.id().to_owned(),
            key.clone(),
            event.ts_text().to_owned(),
        ));
        let timestamp_ms = self.timestamp(&event);
        let value = if event.text.len() > self.context.limit {
            self.bury(Topic::Events, &key, seq, &event.text)?;
            without_images(&event.text)?
        } else {
            event.text
        };
        self.events += 1;
        self.push(Record {
            topic: Topic::Events,
            partition,
            key,
            value: Some(value.into_bytes()),
            timestamp_ms,
            headers,
        });
        Ok(())
    }

    /// The image in the state topic, in place of an earlier one of this transaction.
    fn image(&mut self, event: &Event, partition: u32) {
        let fits = |image: &&str| image.len() <= self.context.limit;
        let record = Record {
            topic: Topic::State,
            partition,
            key: event.key().to_owned(),
            value: event
                .after()
                .filter(fits)
                .map(|image| image.as_bytes().to_vec()),
            timestamp_ms: self.timestamp(event),
            headers: self.context.headers(event.seq, STATE_SCHEMA),
        };
        match self.images.get(event.key()) {
            // An entity whose node changed its site has its older image elsewhere, where it must be overwritten.
            Some(&place) if self.records[place].partition == partition => {
                self.records[place] = record;
            }
            Some(_) | None => {
                self.images
                    .insert(event.key().to_owned(), self.records.len());
                self.push(record);
            }
        }
    }

    /// Never far behind what was written before: retention goes by it.
    fn timestamp(&self, event: &Event) -> u64 {
        let floor = self.after.newest_ms.saturating_sub(STEP_BACK_MS);
        event.ts.as_millis().max(floor)
    }

    fn bury(&mut self, topic: Topic, key: &str, seq: u64, text: &str) -> Result<(), MirrorError> {
        let unreadable = |error: EntityKeyError| MirrorError::Outbox(Box::new(error));
        let entity: EntityKey = key.parse().map_err(unreadable)?;
        let letter = DeadLetter {
            network: self.context.config.network,
            topic: topic.name(&self.context.topics).to_owned(),
            key: entity,
            seq,
            reason: DeadReason::Oversize,
            bytes: text.len() as u64,
            limit: Some(self.context.limit as u64),
            head: head(text, HEAD.min(self.context.limit / 4)).to_owned(),
            ts: now(),
        };
        let mut headers = self.context.headers(seq, DEAD_LETTER_SCHEMA);
        let kind = "io.wattle.topology.dead-letter";
        let time = letter.ts.to_string();
        let id = format!("{}:{seq}/dead", self.context.config.term);
        headers.extend(self.context.cloud_event(kind, id, key.to_owned(), time));
        self.dead += 1;
        self.push(Record {
            topic: Topic::Dlq,
            partition: 0,
            key: key.to_owned(),
            value: Some(json(&letter)),
            timestamp_ms: letter.ts.as_millis(),
            headers,
        });
        Ok(())
    }

    /// Alerts and audit records.
    pub(crate) fn notices(&mut self, notices: Vec<Notice>) {
        for notice in notices {
            let (topic, schema, kind) = match notice.kind {
                NoticeKind::Alert => (Topic::Alerts, ALERT_SCHEMA, "io.wattle.alert"),
                NoticeKind::Audit => (Topic::Audit, AUDIT_SCHEMA, "io.wattle.audit"),
            };
            self.after.notices = notice.nr;
            let ts = now();
            let mut headers = self.context.headers(self.after.last_seq, schema);
            headers.push((HEADER_NOTICE, notice.nr.to_string().into()));
            let id = format!("{}:{}", self.context.config.network, notice.nr);
            headers.extend(
                self.context
                    .cloud_event(kind, id, notice.key.clone(), ts.to_string()),
            );
            self.push(Record {
                topic,
                partition: 0,
                key: notice.key,
                value: Some(notice.value.into_bytes()),
                timestamp_ms: ts.as_millis(),
                headers,
            });
        }
    }

    /// Says in every partition that the events up to `last_seq` will never be there.
    pub(crate) fn gap(&mut self, last_seq: u64) {
        let first_seq = self.after.last_seq + 1;
        for partition in 0..self.after.partitions.len() {
            self.gap_in(partition, first_seq, last_seq, GapReason::OutboxLimit);
        }
        self.after.last_seq = last_seq;
    }

    /// Says in one partition that records of it were deleted.
    pub(crate) fn gap_in(
        &mut self,
        partition: usize,
        first_seq: u64,
        last_seq: u64,
        reason: GapReason,
    ) {
        let gap = GapRecord {
            network: self.context.config.network,
            first_seq,
            last_seq,
            reason,
            ts: now(),
        };
        let prev = std::mem::replace(&mut self.after.partitions[partition], last_seq);
        let mut headers = self.context.headers(last_seq, GAP_SCHEMA);
        headers.push((HEADER_PREV_SEQ, prev.to_string().into()));
        let id = format!("{}:{last_seq}/gap/{partition}", self.context.config.term);
        let (kind, time) = ("io.wattle.topology.gap", gap.ts.to_string());
        headers.extend(self.context.cloud_event(kind, id, GAP_KEY.to_owned(), time));
        self.push(Record {
            topic: Topic::Events,
            partition: partition as u32,
            key: GAP_KEY.to_owned(),
            value: Some(json(&gap)),
            timestamp_ms: gap.ts.as_millis(),
            headers,
        });
    }

    /// Writes an image, or a tombstone, that no event of this batch makes.
    pub(crate) fn state(&mut self, partition: u32, key: String, image: Option<String>, seq: u64) {
        let image = image.filter(|image| image.len() <= self.context.limit);
        self.push(Record {
            topic: Topic::State,
            partition,
            key,
            value: image.map(String::into_bytes),
            timestamp_ms: now().as_millis(),
            headers: self.context.headers(seq, STATE_SCHEMA),
        });
    }

    /// Says under which slot maps events were written.
    pub(crate) fn slot_map(&mut self, record: &SlotMapRecord) {
        self.push(Record {
            topic: Topic::Progress,
            partition: 0,
            key: slots_key(&self.context.config.network_name),
            value: Some(json(record)),
            timestamp_ms: record.ts.as_millis(),
            headers: self.context.headers(self.after.last_seq, SLOTS_SCHEMA),
        });
    }

    pub(crate) fn push(&mut self, record: Record) {
        self.bytes += record.value.as_ref().map_or(0, Vec::len);
        self.records.push(record);
    }

    /// The last record says how far the others reach.
    pub(crate) fn close(&mut self) {
        let config = &self.context.config;
        let progress = self.after.record(config.network, config.term);
        self.push(Record {
            topic: Topic::Progress,
            partition: 0,
            key: transactional_id(&config.network_name),
            timestamp_ms: progress.ts.as_millis(),
            value: Some(json(&progress)),
            headers: self.context.headers(self.after.last_seq, PROGRESS_SCHEMA),
        });
    }
}

fn without_images(text: &str) -> Result<String, MirrorError> {
    let unreadable = |error: serde_json::Error| MirrorError::Outbox(Box::new(error));
    let event: TopologyEvent = serde_json::from_str(text).map_err(unreadable)?;
    let bytes = text.len() as u64;
    serde_json::to_string(&TopologyEvent {
        before: None,
        after: None,
        omitted: Some(Omitted { bytes }),
        ..event
    })
    .map_err(unreadable)
}

fn head(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

#[cfg(test)]
mod tests {
    use wattle_api::Timestamp;
    use wattle_api::stream::HEADER_SEQ;
    use wattle_api::topology::{Cause, Entity, EntityKind, EventId, NodeEntity, Op, Source};
    use wattle_model::{NetworkId, NodeId, NodeIndex};

    use super::*;
    use crate::record::context;

    fn node(id: u64, version: &str) -> Entity {
        Entity::Node(NodeEntity {
            id: NodeId(id),
            name: "n".parse().unwrap(),
            index: NodeIndex(1),
            addresses: vec![],
            tags: vec![],
            site: None,
            leaf_of: None,
            reporting: true,
            agent_version: Some(version.into()),
            epoch: None,
            transit_cost_us: None,
        })
    }

    fn event_of(seq: u64, id: u64, site: &str, after: Option<Entity>) -> Event {
        let event = TopologyEvent {
            id: EventId { term: 2, seq },
            kind: EntityKind::Node,
            key: EntityKey::Node(NodeId(id)),
            op: if after.is_some() {
                Op::Update
            } else {
                Op::Delete
            },
            before: None,
            after,
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
        };
        Event::read(serde_json::to_string(&event).unwrap()).unwrap()
    }

    fn event(seq: u64, site: &str) -> Event {
        event_of(seq, seq, site, None)
    }

    fn batch<'a>(context: &'a Context, position: &Position, events: Vec<Event>) -> Batch<'a> {
        let mut batch = Batch::new(context, position).unwrap();
        batch.take(events.into_iter().map(Ok), u64::MAX).unwrap();
        batch.close();
        batch
    }

    fn topics_of(batch: &Batch<'_>) -> Vec<Topic> {
        batch.records.iter().map(|record| record.topic).collect()
    }

    fn values(batch: &Batch<'_>, topic: Topic) -> Vec<serde_json::Value> {
        let records = batch.records.iter().filter(|record| record.topic == topic);
        records
            .map(|record| {
                serde_json::from_slice(record.value.as_deref().unwrap_or(b"null")).unwrap()
            })
            .collect()
    }

    fn named(batch: &Batch<'_>) -> Vec<String> {
        let headers = batch.records.iter().flat_map(|record| &record.headers);
        let named = headers.filter(|(name, _)| *name == HEADER_PREV_SEQ);
        named.map(|(_, value)| value.to_string()).collect()
    }

    #[test]
    fn each_record_names_the_one_before_it_in_its_partition() {
        let context = context(MAX_RECORD);
        let origin = Position::origin(6);
        let first = batch(&context, &origin, vec![event(1, "fra1"), event(2, "ams2")]);
        let second = batch(&context, &first.after, vec![event(3, "fra1")]);
        assert_eq!(
            (named(&first), named(&second)),
            (vec!["0".into(), "0".into()], vec!["1".into()])
        );
        assert_eq!((second.after.first_seq, second.after.last_seq), (1, 3));
    }

    #[test]
    fn what_is_gone_is_a_tombstone_in_the_state_topic_and_an_event_in_the_other() {
        let context = context(MAX_RECORD);
        let batch = batch(&context, &Position::origin(6), vec![event(1, "fra1")]);
        assert_eq!(
            topics_of(&batch),
            [Topic::State, Topic::Events, Topic::Progress]
        );
        let gone: Vec<bool> = batch
            .records
            .iter()
            .map(|record| record.value.is_none())
            .collect();
        assert_eq!(gone, [true, false, false]);
    }

    #[test]
    fn of_several_events_of_one_entity_the_last_image_is_written() {
        let context = context(MAX_RECORD);
        let events = vec![
            event_of(1, 7, "fra1", Some(node(7, "1"))),
            event_of(2, 8, "fra1", Some(node(8, "1"))),
            event_of(3, 7, "fra1", Some(node(7, "2"))),
        ];
        let batch = batch(&context, &Position::origin(6), events);
        assert_eq!(values(&batch, Topic::Events).len(), 3);
        let images = values(&batch, Topic::State);
        assert_eq!(images.len(), 2);
        assert_eq!(images[0]["agent_version"], "2");
        let state = batch
            .records
            .iter()
            .find(|record| record.topic == Topic::State)
            .unwrap();
        assert!(state.headers.contains(&(HEADER_SEQ, "3".into())));
    }

    #[test]
    fn while_events_are_written_anew_images_are_not_taken_back() {
        let context = context(MAX_RECORD);
        let ahead = Position {
            state_seq: 2,
            ..Position::origin(2)
        };
        let events = vec![event(1, "fra1"), event(2, "ams2"), event(3, "fra1")];
        let batch = batch(&context, &ahead, events);
        use Topic::{Events, Progress, State};
        assert_eq!(topics_of(&batch), [Events, Events, State, Events, Progress]);
        assert_eq!(
            (batch.events, batch.after.last_seq, batch.after.state_seq),
            (3, 3, 3)
        );
    }

    #[test]
    fn a_state_topic_that_is_behind_waits_for_an_image_of_the_whole() {
        let context = context(MAX_RECORD);
        let behind = Position {
            first_seq: 1,
            last_seq: 2,
            state_seq: 1,
            ..Position::origin(2)
        };
        let batch = batch(&context, &behind, vec![event(3, "fra1")]);
        assert_eq!(topics_of(&batch), [Topic::Events, Topic::Progress]);
        assert!(!batch.after.state_is_current());
    }

    #[test]
    fn a_hole_in_the_outbox_is_never_written_over_but_told_in_every_partition() {
        let context = context(MAX_RECORD);
        let position = batch(&context, &Position::origin(3), vec![event(7, "fra1")]).after;
        assert_eq!(position.first_seq, 7, "an outbox may begin anywhere");
        let mut batch = Batch::new(&context, &position).unwrap();
        assert_eq!(batch.take([Ok(event(9, "fra1"))], u64::MAX).unwrap(), 0);
        batch.gap(8);
        batch.close();
        let gaps = values(&batch, Topic::Events);
        assert_eq!(gaps.len(), 3);
        assert_eq!(
            (&gaps[0]["first_seq"], &gaps[0]["last_seq"]),
            (&8.into(), &8.into())
        );
        assert_eq!(batch.after.partitions, [8, 8, 8]);
        assert!(!batch.after.state_is_current());
        let next = self::batch(&context, &batch.after, vec![event(9, "fra1")]);
        assert_eq!(named(&next), ["8"]);
    }

    #[test]
    fn a_batch_ends_when_it_is_large_and_goes_on_where_it_ended() {
        let context = context(usize::MAX);
        let large = event_of(1, 1, "fra1", Some(node(1, &"x".repeat(MAX_BYTES))));
        let batch = batch(
            &context,
            &Position::origin(6),
            vec![large, event(2, "fra1")],
        );
        assert_eq!((batch.events, batch.after.last_seq), (1, 1));
    }

    #[test]
    fn an_event_beyond_the_limit_goes_to_the_dead_letters_and_leaves_no_hole() {
        let context = context(2_000);
        let large = event_of(1, 7, "fra1", Some(node(7, &"ä".repeat(2_000))));
        let bytes = large.text.len() as u64;
        let batch = batch(
            &context,
            &Position::origin(6),
            vec![large, event(2, "fra1")],
        );
        let [letter] = &values(&batch, Topic::Dlq)[..] else {
            panic!()
        };
        let letter: DeadLetter = serde_json::from_value(letter.clone()).unwrap();
        assert_eq!(
            (letter.seq, letter.bytes, letter.reason),
            (1, bytes, DeadReason::Oversize)
        );
        assert!(letter.head.starts_with("{\"id\":\"2:1\"") && letter.head.len() <= 500);
        let events: Vec<TopologyEvent> = values(&batch, Topic::Events)
            .into_iter()
            .map(|value| serde_json::from_value(value).unwrap())
            .collect();
        assert_eq!((events[0].id.seq, events[0].after.clone()), (1, None));
        assert_eq!(events[0].omitted, Some(Omitted { bytes }));
        assert_eq!((events[1].id.seq, events[1].omitted), (2, None));
        assert_eq!(values(&batch, Topic::State)[0], serde_json::Value::Null);
        assert!(
            batch
                .records
                .iter()
                .all(|r| r.value.as_ref().is_none_or(|v| v.len() <= 2_000))
        );
    }

    #[test]
    fn a_clock_that_steps_back_takes_no_record_far_into_the_past() {
        let context = context(MAX_RECORD);
        let position = Position {
            newest_ms: 10 * STEP_BACK_MS,
            ..Position::origin(2)
        };
        let batch = batch(&context, &position, vec![event(5, "fra1")]);
        assert_eq!(batch.records[1].timestamp_ms, 9 * STEP_BACK_MS);
        assert_eq!(
            values(&batch, Topic::Events)[0]["ts"],
            "1970-01-01T00:00:00.005Z"
        );
    }

    #[test]
    fn a_slot_map_says_where_records_go() {
        let mut context = context(MAX_RECORD);
        let sites = [("fra1".parse().unwrap(), vec![4])].into();
        let version = SlotVersion {
            version: 1,
            default: vec![2],
            sites,
        };
        context.config.kafka.slots.0 = vec![version];
        let position = Position {
            slots: 1,
            ..Position::origin(6)
        };
        let batch = batch(
            &context,
            &position,
            vec![event(1, "fra1"), event(2, "lon1")],
        );
        let events = batch
            .records
            .iter()
            .filter(|record| record.topic == Topic::Events);
        assert_eq!(
            events.map(|record| record.partition).collect::<Vec<_>>(),
            [4, 2]
        );
        context.config.kafka.slots.0.clear();
        assert!(
            Batch::new(&context, &position).is_err(),
            "the version that is in force was removed"
        );
    }

    #[test]
    fn alerts_and_audit_records_go_with_their_numbers() {
        let context = context(MAX_RECORD);
        let notice = |nr, kind| Notice {
            nr,
            kind,
            key: "k".into(),
            value: "{}".into(),
        };
        let mut batch = Batch::new(&context, &Position::origin(2)).unwrap();
        batch.notices(vec![
            notice(4, NoticeKind::Alert),
            notice(5, NoticeKind::Audit),
        ]);
        batch.close();
        assert_eq!(
            topics_of(&batch),
            [Topic::Alerts, Topic::Audit, Topic::Progress]
        );
        assert_eq!(batch.after.notices, 5);
        assert!(
            batch.records[1]
                .headers
                .contains(&(HEADER_NOTICE, "5".into()))
        );
    }
}
