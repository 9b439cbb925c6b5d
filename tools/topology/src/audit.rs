//! Checks the promise of the stream: every event once, in order. The counting is pure; [`read`] feeds it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use wattle_api::Timestamp;
use wattle_api::stream::{HEADER_PREV_SEQ, HEADER_SEQ, ProgressRecord};

use crate::error::TopologyError;
use crate::images::Images;
use crate::moment::Moment;
use crate::reader::{From, Reader, progress};
use crate::snapshot::Snapshot;
use crate::snapshots;
use crate::source::Source;
use crate::state::State;

/// How long records are waited for that the progress topic promises: the partitions of one transaction become visible
/// one after the other, within milliseconds.
const LATE: Duration = Duration::from_secs(3);

/// Snapshots of how long, in milliseconds, are compared: each costs its size.
const SNAPSHOTS_MS: u64 = 24 * 3_600_000;

/// How many numbers of each kind of fault are named.
const EXAMPLES: usize = 10;

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Verification {
    /// The first event that must be there.
    pub first_seq: u64,
    /// The last event that must be there; newer ones may be.
    pub last_seq: u64,
    /// Different events that are there.
    pub seen: u64,
    /// Events that are not there.
    pub lost: u64,
    /// Events that never were written, or were deleted before their time, as gap records say.
    pub told_missing: u64,
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
    /// Events whose `before` is not what the event before them left of their entity.
    pub broken_images: u64,
    /// The keys of some of them.
    pub broken_image_examples: Vec<String>,
    /// Entities whose image in the state topic was compared with what their last event left.
    pub state_checked: u64,
    /// Those that differ.
    pub state_wrong: u64,
    /// The keys of some of them.
    pub state_wrong_examples: Vec<String>,
    /// Snapshots of the last day that were compared with the one before them and the events between the two.
    pub snapshots_checked: u64,
    /// Those that differ.
    pub snapshots_wrong: u64,
}

impl Verification {
    /// Whether the promise of delivery was kept: every event once, in order.
    pub const fn is_clean(&self) -> bool {
        self.lost == 0 && self.duplicated == 0 && self.reordered == 0 && self.broken_links == 0
    }

    /// Whether, besides, the events tell one story of each entity and the state topic ends it.
    pub const fn is_whole(&self) -> bool {
        self.is_clean()
            && self.broken_images == 0
            && self.state_wrong == 0
            && self.snapshots_wrong == 0
    }
}

/// Reads all events that the progress topic promises.
pub(crate) fn read(source: &Source) -> Result<Verification, TopologyError> {
    let promised = progress(source)?;
    let mut reader = Reader::open(source, &source.topics.events, From::Oldest)?;
    let mut audit = Audit::default();
    let mut images = Images::default();
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
                if let Some(gap) = record.gap() {
                    let gap = gap.map_err(|error| reader.bad(&record, error))?;
                    images.gap(gap.first_seq, gap.last_seq);
                    audit.observe_gap(record.partition, gap.first_seq, gap.last_seq);
                    continue;
                }
                audit.observe(
                    record.partition,
                    header(HEADER_SEQ)?,
                    header(HEADER_PREV_SEQ)?,
                    kept_from_start,
                );
                let event = serde_json::from_slice(record.value.as_deref().unwrap_or_default());
                images.take(&event.map_err(|error| reader.bad(&record, error))?);
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
    let (snapshots_checked, snapshots_wrong) = compare_snapshots(source, promised.as_ref())?;
    let state = State::read(source)?;
    let state_seq = promised.as_ref().map_or(0, |promised| promised.state_seq);
    let faults = images.finish(&state, state_seq);
    Ok(Verification {
        broken_images: faults.broken,
        broken_image_examples: faults.broken_examples,
        state_checked: faults.state_checked,
        state_wrong: faults.state_wrong,
        state_wrong_examples: faults.state_examples,
        snapshots_checked,
        snapshots_wrong,
        ..audit.finish(promised.as_ref())
    })
}

/// Applies the events between two snapshots to the first one and compares with the second: how many were compared, and
/// how many differ. Where events are missing, as the topic says, there is nothing to compare.
fn compare_snapshots(
    source: &Source,
    promised: Option<&ProgressRecord>,
) -> Result<(u64, u64), TopologyError> {
    let (mut checked, mut wrong) = (0, 0);
    let mut last: Option<Snapshot> = None;
    let mut failed = None;
    let Some(promised) = promised.filter(|_| source.has_snapshots) else {
        return Ok((0, 0));
    };
    let since = promised.ts.as_millis().saturating_sub(SNAPSHOTS_MS);
    let from = From::Time(Timestamp::from_millis(since));
    snapshots::each(source, from, |snapshot| {
        if let Some(before) = last.take() {
            match crate::history::onward(source, before, Moment::Event(snapshot.id.seq)) {
                Ok(told) => {
                    checked += 1;
                    wrong += u64::from(!told.entities().eq(snapshot.graph.entities()));
                }
                Err(TopologyError::Hole { .. }) => {}
                Err(error) => failed = Some(error),
            }
        }
        last = Some(snapshot);
        failed.is_none()
    })?;
    failed.map_or(Ok((checked, wrong)), Err)
}

/// Counts what comes by.
#[derive(Debug, Default)]
struct Audit {
    /// How often each event was seen.
    seen: BTreeMap<u64, u32>,
    /// The last event of each partition.
    last: BTreeMap<i32, u64>,
    /// Events that never will be there, and the topic says so.
    gaps: BTreeSet<(u64, u64)>,
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

    /// Takes a record that says which events will never come. It stands for the last of them.
    fn observe_gap(&mut self, partition: i32, first: u64, last: u64) {
        self.gaps.insert((first, last));
        self.last.insert(partition, last);
    }

    /// Whether nothing that was promised is missing.
    fn holds(&self, promised: Option<&ProgressRecord>) -> bool {
        let (first, last) = self.bounds(promised);
        let wanted = (last + 1).saturating_sub(first + self.told_missing());
        // Counting is enough to go on, and cheap while nothing is newer than what was promised.
        self.seen.len() as u64 >= wanted && self.missing(first, last).next().is_none()
    }

    /// Events that gap records name and that are not there: where a partition was emptied, others may have theirs yet.
    fn told_missing(&self) -> u64 {
        let mut told = 0;
        let mut behind = 0;
        for (first, last) in &self.gaps {
            let first = *first.max(&behind);
            if first <= *last {
                let there = self.seen.range(first..=*last).count() as u64;
                told += last + 1 - first - there;
                behind = last + 1;
            }
        }
        told
    }

    fn bounds(&self, promised: Option<&ProgressRecord>) -> (u64, u64) {
        let Some(promised) = promised else {
            let newest = self.seen.last_key_value().map_or(0, |(seq, _)| *seq);
            return (self.aged_out + 1, newest);
        };
        (promised.first_seq.max(self.aged_out + 1), promised.last_seq)
    }

    fn missing(&self, first: u64, last: u64) -> impl Iterator<Item = u64> {
        let told = |seq: u64| {
            self.gaps
                .iter()
                .any(|(first, last)| (*first..=*last).contains(&seq))
        };
        (first..=last).filter(move |seq| !self.seen.contains_key(seq) && !told(*seq))
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
            told_missing: self.told_missing(),
            lost_examples: self.missing(first_seq, last_seq).take(EXAMPLES).collect(),
            duplicated_examples: doubled().map(|(seq, _)| *seq).take(EXAMPLES).collect(),
            ..Verification::default()
        }
    }
}

#[cfg(test)]
mod tests {
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
    fn gaps_count_what_is_missing_once_and_not_what_is_there() {
        let mut audit = Audit::default();
        for (partition, seq, prev) in [(0, 1, 0), (1, 2, 0), (1, 4, 2)] {
            audit.observe(partition, seq, prev, true);
        }
        for (first, last) in [(3, 6), (5, 9), (4, 7)] {
            audit.observe_gap(0, first, last);
        }
        let found = audit.finish(Some(&promised(9)));
        assert_eq!((found.told_missing, found.lost), (6, 0), "{found:?}");
        assert!(audit.holds(Some(&promised(9))));
    }

    #[test]
    fn an_empty_topic_without_a_promise_is_clean() {
        assert!(Audit::default().finish(None).is_clean());
        assert_eq!(Audit::default().finish(Some(&promised(3))).lost, 3);
    }
}
