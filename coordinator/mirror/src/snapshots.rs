//! Snapshots (`docs/protocol/topology-stream.md` §6): when one is due, asking for the topology, and cutting it into
//! pieces that go along with the events. Nothing waits for a snapshot.

use std::ops::Range;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use wattle_api::Timestamp;
use wattle_api::snapshot::{
    SNAPSHOT_SCHEMA, SnapshotBegin, SnapshotEnd, SnapshotId, SnapshotReason, SnapshotRecord,
};
use wattle_model::{NodeId, NodeName};

use crate::batch::Batch;
use crate::error::MirrorError;
use crate::event::{members, owner};
use crate::outbox::{Image, Outbox, OutboxError};
use crate::position::Position;
use crate::record::{Context, Record, Topic, json};
use crate::status::now;

/// Bytes of a chunk: a transaction with one stays quick.
const CHUNK: usize = 256 << 10;

/// The topology at one moment, in the order of its keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Picture {
    pub(crate) seq: u64,
    pub(crate) entities: Vec<Pictured>,
}

/// One entity of a picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pictured {
    pub(crate) key: String,
    pub(crate) owner: Option<NodeId>,
    pub(crate) site: Option<NodeName>,
    /// The entity in JSON.
    pub(crate) text: String,
}

impl Picture {
    /// Finds for each entity the site of the node that answers for it.
    pub(crate) fn of(image: Image) -> Self {
        let mut entities: Vec<Pictured> = image
            .entities
            .into_iter()
            .map(|(key, text)| Pictured {
                owner: owner(&key, Some(&text)),
                site: None,
                key,
                text,
            })
            .collect();
        entities.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        let nodes = entities
            .iter()
            .filter(|entity| entity.key.starts_with("node:"));
        let sites: std::collections::BTreeMap<NodeId, NodeName> = nodes
            .filter_map(|node| Some((node.owner?, site_of(&node.text)?)))
            .collect();
        for entity in &mut entities {
            entity.site = entity.owner.and_then(|owner| sites.get(&owner).cloned());
        }
        Self {
            seq: image.seq,
            entities,
        }
    }
}

fn site_of(node: &str) -> Option<NodeName> {
    let (_, site) = members(node).find(|(name, _)| *name == "site")?;
    site.strip_prefix('"')?.strip_suffix('"')?.parse().ok()
}

/// Which snapshot is due, and how far the one under way is.
pub(crate) struct Snapshots {
    every: Duration,
    due: Option<(Instant, SnapshotReason)>,
    attempt: u32,
    stage: Stage,
}

enum Stage {
    Idle,
    Asked(Receiver<Result<Image, OutboxError>>, SnapshotReason),
    /// Waits until the events up to it are written.
    Held(Picture, SnapshotReason),
    Writing(Writing),
}

/// A snapshot that has begun.
struct Writing {
    picture: Picture,
    id: SnapshotId,
    chunks: Vec<Range<usize>>,
    next: usize,
}

impl Snapshots {
    pub(crate) fn new(every: Duration) -> Self {
        Self {
            every,
            due: None,
            attempt: 0,
            stage: Stage::Idle,
        }
    }

    /// A session begins: what was under way has no end and never will. The next is due at its time, or at once.
    pub(crate) fn resume(&mut self, last: Option<Timestamp>, now_wall: Timestamp, now: Instant) {
        self.stage = Stage::Idle;
        let age = last.map(|last| now_wall.as_millis().saturating_sub(last.as_millis()));
        let every = self.every;
        let rest = age.and_then(|age| every.checked_sub(Duration::from_millis(age)));
        match rest {
            Some(rest) => self.plan(now + rest, SnapshotReason::Interval),
            None => self.plan(now, SnapshotReason::Start),
        }
    }

    /// One is wanted at once.
    pub(crate) fn want(&mut self, now: Instant, reason: SnapshotReason) {
        self.due = Some((now, reason));
        self.stage = Stage::Idle;
    }

    /// Takes a picture that was made for something else.
    pub(crate) fn hold(&mut self, picture: Picture, reason: SnapshotReason) {
        self.due = None;
        self.stage = Stage::Held(picture, reason);
    }

    fn plan(&mut self, at: Instant, reason: SnapshotReason) {
        self.due = Some((at, reason));
    }

    /// Asks for the topology when it is time, and takes it when it is there.
    pub(crate) fn step(
        &mut self,
        outbox: &mut impl Outbox,
        now: Instant,
    ) -> Result<(), MirrorError> {
        self.stage = match std::mem::replace(&mut self.stage, Stage::Idle) {
            Stage::Idle => match self.due.take_if(|(at, _)| *at <= now) {
                Some((_, reason)) => Stage::Asked(outbox.image(), reason),
                None => Stage::Idle,
            },
            Stage::Asked(receiver, reason) => match receiver.try_recv() {
                Ok(image) => Stage::Held(Picture::of(image.map_err(MirrorError::Outbox)?), reason),
                Err(TryRecvError::Empty) => Stage::Asked(receiver, reason),
                Err(TryRecvError::Disconnected) => {
                    self.plan(now + Duration::from_secs(1), reason);
                    Stage::Idle
                }
            },
            other => other,
        };
        Ok(())
    }

    /// Adds the next piece to a batch, if a snapshot is under way and its events are written, or are in the batch.
    pub(crate) fn add_piece(&mut self, context: &Context, batch: &mut Batch<'_>, now: Instant) {
        self.stage = match std::mem::replace(&mut self.stage, Stage::Idle) {
            Stage::Held(picture, reason) if picture.seq <= batch.after.last_seq => {
                self.attempt += 1;
                let writing = Writing::begin(context, picture, reason, self.attempt, batch);
                self.go_on(context, writing, batch, now)
            }
            Stage::Writing(writing) => self.go_on(context, writing, batch, now),
            other => other,
        };
    }

    fn go_on(
        &mut self,
        context: &Context,
        mut writing: Writing,
        batch: &mut Batch<'_>,
        now: Instant,
    ) -> Stage {
        if writing.write(context, batch) {
            self.plan(now + self.every, SnapshotReason::Interval);
            return Stage::Idle;
        }
        Stage::Writing(writing)
    }

    /// Whether there is a piece to write without waiting for events.
    pub(crate) fn has_piece(&self, position: &Position) -> bool {
        match &self.stage {
            Stage::Held(picture, _) => picture.seq <= position.last_seq,
            Stage::Writing(_) => true,
            Stage::Idle | Stage::Asked(..) => false,
        }
    }
}

impl Writing {
    fn begin(
        context: &Context,
        picture: Picture,
        reason: SnapshotReason,
        attempt: u32,
        batch: &mut Batch<'_>,
    ) -> Self {
        let id = SnapshotId {
            term: context.config.term,
            seq: picture.seq,
            attempt,
        };
        let chunks = cut(&picture, CHUNK.min(context.limit / 2));
        let begin = SnapshotBegin {
            snapshot: id,
            network: context.config.network,
            network_name: context.config.network_name.clone(),
            seq: picture.seq,
            reason,
            entities: picture.entities.len() as u64,
            chunks: chunks.len() as u32,
            slots: batch.after.slots,
            ts: now(),
        };
        let record = SnapshotRecord::Begin(begin);
        push(context, batch, record.key(), json(&record), id);
        Self {
            picture,
            id,
            chunks,
            next: 0,
        }
    }

    /// Writes the next chunk, and the end behind the last one. Says whether that was it.
    fn write(&mut self, context: &Context, batch: &mut Batch<'_>) -> bool {
        if let Some(range) = self.chunks.get(self.next).cloned() {
            self.next += 1;
            let key = format!("{}/{}", self.id, self.next);
            let value = chunk(self.id, self.next, &self.picture.entities[range]);
            push(context, batch, key, value.into_bytes(), self.id);
        }
        if self.next < self.chunks.len() {
            return false;
        }
        let ts = now();
        let record = SnapshotRecord::End(SnapshotEnd {
            snapshot: self.id,
            seq: self.picture.seq,
            entities: self.picture.entities.len() as u64,
            chunks: self.chunks.len() as u32,
            ts,
        });
        push(context, batch, record.key(), json(&record), self.id);
        batch.after.snapshot = Some(self.id);
        batch.after.snapshot_at = Some(ts);
        true
    }
}

/// Runs of entities of about so many bytes.
fn cut(picture: &Picture, bytes: usize) -> Vec<Range<usize>> {
    let mut chunks = Vec::new();
    let (mut start, mut size) = (0, 0);
    for (place, entity) in picture.entities.iter().enumerate() {
        let more = entity.text.len() + entity.key.len() + 60;
        if size + more > bytes && place > start {
            chunks.push(start..place);
            (start, size) = (place, 0);
        }
        size += more;
    }
    if start < picture.entities.len() {
        chunks.push(start..picture.entities.len());
    }
    chunks
}

/// A [`wattle_api::snapshot::SnapshotEntities`] whose entities are not parsed: they are in JSON already, and keys and
/// names have no character that JSON escapes.
fn chunk(id: SnapshotId, number: usize, entities: &[Pictured]) -> String {
    let entity = |entity: &Pictured| {
        let site = entity
            .site
            .as_ref()
            .map_or("null".to_owned(), |site| format!("\"{site}\""));
        format!(
            "{{\"key\":\"{}\",\"site\":{site},\"after\":{}}}",
            entity.key, entity.text
        )
    };
    let entities: Vec<String> = entities.iter().map(entity).collect();
    format!(
        "{{\"part\":\"entities\",\"snapshot\":\"{id}\",\"chunk\":{number},\"entities\":[{}]}}",
        entities.join(",")
    )
}

fn push(context: &Context, batch: &mut Batch<'_>, key: String, value: Vec<u8>, id: SnapshotId) {
    let ts = now();
    let mut headers = context.headers(id.seq, SNAPSHOT_SCHEMA);
    let kind = "io.wattle.topology.snapshot";
    headers.extend(context.cloud_event(kind, key.clone(), id.to_string(), ts.to_string()));
    batch.push(Record {
        topic: Topic::Snapshots,
        partition: 0,
        key,
        value: Some(value),
        timestamp_ms: ts.as_millis(),
        headers,
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::context;

    const STATE: &str = include_str!("../../api/tests/golden/topology-state.v1.jsonl");
    const KEYS: [&str; 3] = [
        "node:00000000000000aa",
        "link:00000000000000aa>00000000000000bb/quic",
        "prefix:192.168.7.0/24",
    ];

    fn image(seq: u64) -> Image {
        let entities = KEYS.iter().zip(STATE.lines());
        Image {
            seq,
            entities: entities
                .map(|(key, text)| ((*key).to_owned(), text.to_owned()))
                .collect(),
        }
    }

    fn at(last_seq: u64) -> Position {
        Position {
            first_seq: 1,
            last_seq,
            state_seq: last_seq,
            ..Position::origin(2)
        }
    }

    fn pieces(
        snapshots: &mut Snapshots,
        context: &Context,
        position: &mut Position,
    ) -> Vec<SnapshotRecord> {
        let mut batch = Batch::new(context, position).unwrap();
        snapshots.add_piece(context, &mut batch, Instant::now());
        let values = batch
            .records
            .iter()
            .map(|record| record.value.clone().unwrap());
        let pieces = values
            .map(|value| serde_json::from_slice(&value).unwrap())
            .collect();
        *position = batch.after;
        pieces
    }

    #[test]
    fn an_entity_has_the_site_of_the_node_that_answers_for_it() {
        let picture = Picture::of(image(7));
        assert_eq!(picture.entities.len(), 3);
        for entity in &picture.entities {
            let site = entity.site.as_ref().map(ToString::to_string);
            assert_eq!(site.as_deref(), Some("fra1"), "{}", entity.key);
        }
    }

    #[test]
    fn a_snapshot_is_written_when_its_events_are_and_says_when_it_is_complete() {
        let context = context(2 * 400);
        let mut snapshots = Snapshots::new(Duration::from_secs(900));
        snapshots.hold(Picture::of(image(7)), SnapshotReason::Interval);
        assert!(pieces(&mut snapshots, &context, &mut at(6)).is_empty());
        let mut position = at(9);
        let mut all = Vec::new();
        while snapshots.has_piece(&position) {
            assert_eq!(position.snapshot, None, "not before its end");
            all.extend(pieces(&mut snapshots, &context, &mut position));
        }
        let [
            SnapshotRecord::Begin(begin),
            chunks @ ..,
            SnapshotRecord::End(end),
        ] = &all[..]
        else {
            panic!("{all:?}")
        };
        assert_eq!(
            (begin.seq, begin.entities, begin.reason),
            (7, 3, SnapshotReason::Interval)
        );
        assert_eq!(
            (begin.chunks, end.chunks),
            (chunks.len() as u32, chunks.len() as u32)
        );
        assert!(chunks.len() > 1, "several chunks");
        let mut keys = Vec::new();
        for (number, chunk) in (1..).zip(chunks) {
            let SnapshotRecord::Entities(chunk) = chunk else {
                panic!("{chunk:?}")
            };
            assert_eq!((chunk.chunk, chunk.snapshot), (number, begin.snapshot));
            keys.extend(chunk.entities.iter().map(|entity| {
                assert_eq!(entity.after.key(), entity.key);
                entity.key.to_string()
            }));
        }
        let mut sorted = KEYS.map(str::to_owned).to_vec();
        sorted.sort_unstable();
        assert_eq!(keys, sorted);
        assert_eq!(position.snapshot, Some(begin.snapshot));
    }

    #[test]
    fn an_empty_network_has_a_snapshot_too() {
        let context = context(10_000);
        let mut snapshots = Snapshots::new(Duration::from_secs(900));
        let empty = Image {
            seq: 0,
            entities: vec![],
        };
        snapshots.hold(Picture::of(empty), SnapshotReason::Start);
        let all = pieces(&mut snapshots, &context, &mut at(0));
        assert!(
            matches!(&all[..], [SnapshotRecord::Begin(_), SnapshotRecord::End(_)]),
            "{all:?}"
        );
    }

    #[test]
    fn after_a_restart_the_next_snapshot_is_due_at_its_time_or_at_once() {
        let (now, wall) = (Instant::now(), Timestamp::from_millis(10_000_000));
        let mut snapshots = Snapshots::new(Duration::from_secs(900));
        let mut due = |ago: Option<u64>| {
            let last = ago.map(|ago| Timestamp::from_millis(10_000_000 - ago * 1_000));
            snapshots.resume(last, wall, now);
            let (at, reason) = snapshots.due.unwrap();
            (at.duration_since(now).as_secs(), reason)
        };
        assert_eq!(due(Some(300)), (600, SnapshotReason::Interval));
        assert_eq!(due(Some(901)), (0, SnapshotReason::Start));
        assert_eq!(due(None), (0, SnapshotReason::Start));
    }
}
