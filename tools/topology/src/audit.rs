//! Checks the promise of the stream: every event once, in order. The counting is pure; [`read`] feeds it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use wattle_api::stream::{HEADER_PREV_SEQ, HEADER_SEQ, ProgressRecord};

use crate::error::TopologyError;
use crate::reader::{From, Reader, progress};
use crate::source::Source;

/// How long records are waited for that the progress topic promises: the partitions of one transaction become visible
/// one after the other, within milliseconds.
const LATE: Duration = Duration::from_secs(3);

/// How many numbers of each kind of fault are named.
const EXAMPLES: usize = 10;

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Verification {
    /// The first event that must be there.
    pub first_seq: u64,
    /// The last event that must be there; newer ones may be.
    pub last_seq: u64,
    /// Different events that are there.
    pub seen: u64,
    /// Events that are not there.
    pub lost: u64,
    /// Events that are there more than once, counted each time but the first.
    pub duplicated: u64,
    /// Events behind a newer one of their partition.
    pub reordered: u64,
    /// Events that do not name the one before them in their partition.
    pub broken_links: u64,
    /// Some of the lost ones.
    pub lost_examples: Vec<u64>,
    /// Some of the duplicated ones.
    pub duplicated_examples: Vec<u64>,
}

impl Verification {
    /// Whether the promise was kept.
    pub const fn is_clean(&self) -> bool {
        self.lost == 0 && self.duplicated == 0 && self.reordered == 0 && self.broken_links == 0
    }
}

/// Reads all events that the progress topic promises.
pub(crate) fn read(source: &Source) -> Result<Verification, TopologyError> {
    let promised = progress(source)?;
    let mut reader = Reader::open(source, &source.topics.events, From::Oldest)?;
    let mut audit = Audit::default();
    let mut heard = Instant::now();
    while !reader.saw_all_ends() || !audit.holds(promised.as_ref()) {
        match reader.next(Duration::from_millis(100))? {
            Some(record) => {
                heard = Instant::now();
                let header = |name| {
                    let number = record.number(name);
                    number.ok_or_else(|| reader.bad(&record, format!("no header {name}")))
                };
                let kept_from_start = reader.oldest[record.partition as usize] == 0;
                audit.observe(
                    record.partition,
                    header(HEADER_SEQ)?,
                    header(HEADER_PREV_SEQ)?,
                    kept_from_start,
                );
            }
            None if heard.elapsed() > LATE && reader.saw_all_ends() => break,
            None if heard.elapsed() > crate::source::PATIENCE => {
                return Err(TopologyError::Silent {
                    doing: format!("read {}", source.topics.events),
                });
            }
            None => {}
        }
    }
    Ok(audit.finish(promised.as_ref()))
}

/// Counts what comes by.
#[derive(Debug, Default)]
struct Audit {
    /// How often each event was seen.
    seen: BTreeMap<u64, u32>,
    /// The last event of each partition.
    last: BTreeMap<i32, u64>,
    /// Everything up to this one may have been deleted for its age.
    aged_out: u64,
    reordered: u64,
    broken_links: u64,
}

impl Audit {
    /// Takes the records of each partition in the order of their offsets.
    fn observe(&mut self, partition: i32, seq: u64, prev: u64, kept_from_start: bool) {
        *self.seen.entry(seq).or_default() += 1;
        match self.last.insert(partition, seq) {
            Some(last) => {
                self.reordered += u64::from(seq < last);
                self.broken_links += u64::from(prev != last && seq != last);
            }
            None if kept_from_start => self.broken_links += u64::from(prev != 0),
            None => self.aged_out = self.aged_out.max(prev),
        }
    }

    /// Whether nothing that was promised is missing.
    fn holds(&self, promised: Option<&ProgressRecord>) -> bool {
        let (first, last) = self.bounds(promised);
        let wanted = (last + 1).saturating_sub(first);
        // Counting is enough to go on, and cheap while nothing is newer than what was promised.
        self.seen.len() as u64 >= wanted && self.missing(first, last).next().is_none()
    }

    fn bounds(&self, promised: Option<&ProgressRecord>) -> (u64, u64) {
        let Some(promised) = promised else {
            let newest = self.seen.last_key_value().map_or(0, |(seq, _)| *seq);
            return (self.aged_out + 1, newest);
        };
        (promised.first_seq.max(self.aged_out + 1), promised.last_seq)
    }

    fn missing(&self, first: u64, last: u64) -> impl Iterator<Item = u64> {
        (first..=last).filter(|seq| !self.seen.contains_key(seq))
    }

    fn finish(&self, promised: Option<&ProgressRecord>) -> Verification {
        let (first_seq, last_seq) = self.bounds(promised);
        let doubled = || self.seen.iter().filter(|(_, times)| **times > 1);
        Verification {
            first_seq,
            last_seq,
            seen: self.seen.len() as u64,
            lost: self.missing(first_seq, last_seq).count() as u64,
            duplicated: doubled().map(|(_, times)| u64::from(times - 1)).sum(),
            reordered: self.reordered,
            broken_links: self.broken_links,
            lost_examples: self.missing(first_seq, last_seq).take(EXAMPLES).collect(),
            duplicated_examples: doubled().map(|(seq, _)| *seq).take(EXAMPLES).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use wattle_api::Timestamp;
    use wattle_model::NetworkId;

    use super::*;

    fn promised(last_seq: u64) -> ProgressRecord {
        ProgressRecord {
            network: NetworkId(1),
            term: 1,
            first_seq: 1,
            last_seq,
            state_seq: last_seq,
            partitions: vec![],
            ts: Timestamp::from_millis(0),
            ..ProgressRecord::default()
        }
    }

    /// Two partitions, odd and even, with these numbers.
    fn audit(seqs: &[u64], last_seq: u64) -> Verification {
        let mut audit = Audit::default();
        for &seq in seqs {
            audit.observe((seq % 2) as i32, seq, seq.saturating_sub(2), true);
        }
        audit.finish(Some(&promised(last_seq)))
    }

    #[test]
    fn a_whole_stream_is_clean_and_may_be_ahead_of_what_was_promised() {
        let found = audit(&[2, 4, 6, 1, 3, 5, 7], 6);
        assert!(found.is_clean(), "{found:?}");
        assert_eq!((found.first_seq, found.last_seq, found.seen), (1, 6, 7));
    }

    #[test]
    fn a_lost_event_is_counted_and_breaks_the_chain() {
        let found = audit(&[1, 2, 3, 4, 7, 6, 8], 8);
        assert_eq!(
            (found.lost, found.broken_links, found.lost_examples),
            (1, 1, vec![5])
        );
    }

    #[test]
    fn the_last_event_lost_is_found_by_the_promise_alone() {
        let found = audit(&[1, 2, 3], 4);
        assert_eq!((found.lost, found.broken_links), (1, 0));
    }

    #[test]
    fn a_doubled_event_is_counted() {
        let found = audit(&[1, 2, 3, 3, 3, 4], 4);
        assert!(!found.is_clean());
        assert_eq!(
            (found.duplicated, found.lost, found.duplicated_examples),
            (2, 0, vec![3])
        );
    }

    #[test]
    fn a_doubled_run_is_also_reordered() {
        let found = audit(&[1, 3, 5, 3, 5, 2, 4], 5);
        assert_eq!((found.duplicated, found.reordered, found.lost), (2, 1, 0));
    }

    #[test]
    fn what_retention_deleted_is_not_lost() {
        let mut audit = Audit::default();
        audit.observe(0, 10, 8, false);
        audit.observe(1, 9, 7, false);
        let found = audit.finish(Some(&promised(10)));
        assert!(found.is_clean(), "{found:?}");
        assert_eq!(found.first_seq, 9);
    }

    #[test]
    fn an_empty_topic_without_a_promise_is_clean() {
        assert!(Audit::default().finish(None).is_clean());
        assert_eq!(Audit::default().finish(Some(&promised(3))).lost, 3);
    }
}
