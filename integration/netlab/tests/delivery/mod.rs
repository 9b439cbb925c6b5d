//! A mirror of the network `lab` at a single broker, and whether what it delivers is there once and in order.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use wattle_api::stream::{HEADER_PREV_SEQ, HEADER_SEQ, Kafka, Topics};
use wattle_mirror::Mirror;
use wattle_netlab::kafka::{Broker, KcatRecord};

use crate::outbox::{ListOutbox, start_with};

pub(crate) fn topics() -> Topics {
    Topics::below("wattle.lab")
}

pub(crate) fn start(broker: &Broker, term: u64, outbox: &ListOutbox) -> Mirror {
    start_with(Kafka::plaintext(&broker.bootstrap()), term, outbox)
}

pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(180);
    while !holds() {
        assert!(
            Instant::now() < deadline,
            "{what}: not within three minutes"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Reads the events until all are there (a commit is acknowledged before every partition shows it), then checks that
/// each is there once, in order, and names the one before it.
pub(crate) fn assert_exactly_once(broker: &Broker, last: u64) -> Vec<KcatRecord> {
    let mut records = Vec::new();
    eventually("all events are visible", || {
        records = broker.kcat(&topics().events).unwrap();
        let seen: BTreeSet<u64> = records
            .iter()
            .map(|record| record.number(HEADER_SEQ).unwrap())
            .collect();
        (1..=last).all(|seq| seen.contains(&seq))
    });
    let mut ends: BTreeMap<i32, &KcatRecord> = BTreeMap::new();
    for record in &records {
        let before = ends.insert(record.partition, record);
        let named = record.number(HEADER_PREV_SEQ).unwrap();
        let found = before.map_or(0, |before| before.number(HEADER_SEQ).unwrap());
        let there = || -> Vec<_> {
            let partition = records
                .iter()
                .filter(|other| other.partition == record.partition);
            partition
                .map(|other| (other.offset, other.number(HEADER_SEQ).unwrap()))
                .take(200)
                .collect()
        };
        assert_eq!(
            named,
            found,
            "at offset {}; offset and seq: {:?}",
            record.offset,
            there()
        );
    }
    assert_eq!(records.len() as u64, last, "some are doubled");
    records
}
