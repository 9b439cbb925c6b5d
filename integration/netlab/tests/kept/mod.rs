//! What the topics of the mirror's tests hold, as kcat shows it, and what they should hold.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use wattle_api::gap::{GAP_KEY, GapRecord};
use wattle_api::snapshot::{SnapshotReason, SnapshotRecord};
use wattle_api::stream::{HEADER_PREV_SEQ, HEADER_SEQ};
use wattle_mirror::Outbox as _;
use wattle_netlab::kafka::{Broker, KcatRecord};

use crate::delivery::{eventually, topics};
use crate::outbox::ListOutbox;

/// The table that the events up to `seq` tell: keys and images as JSON.
pub(crate) fn told(seq: u64) -> BTreeMap<String, serde_json::Value> {
    let mut outbox = ListOutbox::with(seq..=seq);
    let image = outbox.image().recv().unwrap().unwrap();
    let entities = image.entities.into_iter();
    entities
        .map(|(key, text)| (key, serde_json::from_str(&text).unwrap()))
        .collect()
}

/// What the state topic shows to a reader of all its partitions.
pub(crate) fn state_table(broker: &Broker) -> BTreeMap<String, serde_json::Value> {
    let mut table: BTreeMap<(i32, String), serde_json::Value> = BTreeMap::new();
    for record in broker.kcat(&topics().state).unwrap() {
        let place = (record.partition, record.key);
        match record.value {
            Some(value) => table.insert(place, serde_json::from_str(&value).unwrap()),
            None => table.remove(&place),
        };
    }
    let count = table.len();
    let table: BTreeMap<_, _> = table
        .into_iter()
        .map(|((_, key), value)| (key, value))
        .collect();
    assert_eq!(table.len(), count, "an entity in two partitions");
    table
}

pub(crate) fn events(broker: &Broker) -> Vec<KcatRecord> {
    let records = broker.kcat(&topics().events).unwrap().into_iter();
    records.filter(|record| record.key != GAP_KEY).collect()
}

pub(crate) fn gaps(broker: &Broker) -> Vec<(i32, GapRecord)> {
    let records = broker.kcat(&topics().events).unwrap().into_iter();
    let gaps = records.filter(|record| record.key == GAP_KEY);
    gaps.map(|record| {
        (
            record.partition,
            serde_json::from_str(record.value.as_deref().unwrap()).unwrap(),
        )
    })
    .collect()
}

/// Every record, gaps included, names the one before it in its partition.
pub(crate) fn chain_holds(broker: &Broker) {
    let mut last: BTreeMap<i32, u64> = BTreeMap::new();
    for record in broker.kcat(&topics().events).unwrap() {
        let seq = record.number(HEADER_SEQ).unwrap();
        if let Some(before) = last.insert(record.partition, seq) {
            assert_eq!(
                record.number(HEADER_PREV_SEQ).unwrap(),
                before,
                "at offset {}",
                record.offset
            );
        }
    }
}

pub(crate) fn last_in(broker: &Broker, partition: i32) -> u64 {
    let records = events(broker)
        .into_iter()
        .filter(|record| record.partition == partition);
    records
        .map(|record| record.number(HEADER_SEQ).unwrap())
        .max()
        .unwrap()
}

pub(crate) fn values<T: DeserializeOwned>(records: &[KcatRecord]) -> Vec<T> {
    records
        .iter()
        .map(|record| serde_json::from_str(record.value.as_deref().unwrap()).unwrap())
        .collect()
}

/// A snapshot as a reader puts it together.
pub(crate) struct Whole {
    pub(crate) reason: SnapshotReason,
    pub(crate) seq: u64,
    pub(crate) entities: BTreeMap<String, serde_json::Value>,
}

/// The newest snapshot that has an end and all its chunks.
pub(crate) fn complete_snapshot(broker: &Broker) -> Whole {
    let mut newest = None;
    eventually("a snapshot is complete", || {
        let mut open: BTreeMap<String, (SnapshotReason, u32, BTreeMap<String, serde_json::Value>)> =
            BTreeMap::new();
        for record in values::<SnapshotRecord>(&broker.kcat(&topics().snapshots).unwrap()) {
            let id = record.snapshot().to_string();
            match record {
                SnapshotRecord::Begin(begin) => {
                    open.insert(id, (begin.reason, 0, BTreeMap::new()));
                }
                SnapshotRecord::Entities(chunk) => {
                    let (_, chunks, entities) = open.get_mut(&id).unwrap();
                    *chunks += 1;
                    assert_eq!(chunk.chunk, *chunks);
                    entities.extend(chunk.entities.into_iter().map(|entity| {
                        (
                            entity.key.to_string(),
                            serde_json::to_value(entity.after).unwrap(),
                        )
                    }));
                }
                SnapshotRecord::End(end) => {
                    let (reason, chunks, entities) = open.remove(&id).unwrap();
                    assert_eq!((chunks, entities.len() as u64), (end.chunks, end.entities));
                    newest = Some(Whole {
                        reason,
                        seq: end.seq,
                        entities,
                    });
                }
            }
        }
        newest.is_some()
    });
    newest.unwrap()
}

/// All snapshots that began, and why.
pub(crate) fn snapshots(broker: &Broker) -> Vec<(u64, SnapshotReason)> {
    let records = values::<SnapshotRecord>(&broker.kcat(&topics().snapshots).unwrap());
    let begins = records.into_iter().filter_map(|record| match record {
        SnapshotRecord::Begin(begin) => Some((begin.seq, begin.reason)),
        _ => None,
    });
    begins.collect()
}
