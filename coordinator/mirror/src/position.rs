//! How far the mirror is: held in memory, written with every batch, found again at the start of a session.

use rdkafka::message::{BorrowedMessage, Message};
use wattle_api::Timestamp;
use wattle_api::notice::HEADER_NOTICE;
use wattle_api::snapshot::SnapshotId;
use wattle_api::stream::{ProgressRecord, Topics, transactional_id};
use wattle_model::NetworkId;

use crate::Config;
use crate::client::Complaints;
use crate::ends::{Ends, number, watermarks};
use crate::error::MirrorError;
use crate::status::now;
use crate::topics::Existing;

/// What Kafka holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Position {
    /// The first event ever mirrored; 0 before it.
    pub(crate) first_seq: u64,
    /// The last event in the events topic.
    pub(crate) last_seq: u64,
    /// The last event in the state topic.
    pub(crate) state_seq: u64,
    /// The last event of each partition of the events topic.
    pub(crate) partitions: Vec<u64>,
    /// The last offset of each partition of the events topic that is known; -1 for none.
    pub(crate) offsets: Vec<i64>,
    /// The same of the state topic.
    pub(crate) state_offsets: Vec<i64>,
    /// Over how many partitions keys are spread without a slot map: more may have been added since.
    pub(crate) hashed: usize,
    /// Version of the slot map in force; 0 without one.
    pub(crate) slots: u32,
    /// The last alert or audit record that was written.
    pub(crate) notices: u64,
    /// The last complete snapshot.
    pub(crate) snapshot: Option<SnapshotId>,
    /// When it was.
    pub(crate) snapshot_at: Option<Timestamp>,
    /// Time of the newest event that this session wrote, in Unix milliseconds.
    pub(crate) newest_ms: u64,
    /// The state topic lacks entities that no event to come brings: it has to be written from a picture of the whole.
    pub(crate) state_lost: bool,
}

impl Position {
    /// Nothing was mirrored yet.
    pub(crate) fn origin(partitions: usize) -> Self {
        Self {
            first_seq: 0,
            last_seq: 0,
            state_seq: 0,
            partitions: vec![0; partitions],
            offsets: vec![-1; partitions],
            state_offsets: vec![-1; partitions],
            hashed: partitions,
            slots: 0,
            notices: 0,
            snapshot: None,
            snapshot_at: None,
            newest_ms: 0,
            state_lost: false,
        }
    }

    /// Whether the state topic is what the events topic tells, so that an event's image may go there. It is ahead
    /// while lost events are written anew, and behind while it has to be written from a picture.
    pub(crate) const fn state_is_current(&self) -> bool {
        !self.state_lost && self.state_seq >= self.last_seq
    }

    pub(crate) fn record(&self, network: NetworkId, term: u64) -> ProgressRecord {
        ProgressRecord {
            network,
            term,
            first_seq: self.first_seq,
            last_seq: self.last_seq,
            state_seq: self.state_seq,
            partitions: self.partitions.clone(),
            ts: now(),
            offsets: self.offsets.clone(),
            state_offsets: self.state_offsets.clone(),
            slots: self.slots,
            notices: self.notices,
            snapshot: self.snapshot,
            snapshot_at: self.snapshot_at,
        }
    }
}

/// Where a session goes on, and what it found missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) position: Position,
    /// A topic was missing, recreated or truncated.
    pub(crate) lost: Option<String>,
    /// Partitions of the events topic that had records and have none: for their age, or because someone deleted them.
    pub(crate) emptied: Vec<usize>,
    /// Events were written under a slot map, and the record that says so is gone.
    pub(crate) slots_untold: bool,
}

/// Finds the position: from the progress topic, and where that was lost from the events themselves. Only right after
/// older producers were fenced, since before that they may still commit.
pub(crate) fn find(
    config: &Config,
    topics: &Topics,
    existing: &Existing,
    complaints: &Complaints,
) -> Result<Found, MirrorError> {
    let ends = Ends { config, complaints };
    let Some(record) = promised(&ends, topics)? else {
        let position = from_events(&ends, topics, existing.partitions)?;
        return Ok(Found {
            slots_untold: position.slots > 0,
            position,
            lost: None,
            emptied: vec![],
        });
    };
    check_owner(config, &record)?;
    check_count(config, topics, &record, existing)?;
    let position = from_progress(record, existing.partitions);
    let looked = Look::at(&ends, topics, &position)?;
    let events_lost = existing.events_made || looked.events.is_shorter(&position.offsets);
    let state_lost = existing.state_made || looked.state.is_shorter(&position.state_offsets);
    let lost = match (events_lost, state_lost) {
        (true, _) => Some(topics.events.clone()),
        (false, true) => Some(topics.state.clone()),
        (false, false) => None,
    };
    let emptied = match events_lost {
        false => looked.events.emptied(&position.partitions),
        true => vec![],
    };
    Ok(Found {
        position: after_loss(position, events_lost, state_lost),
        lost,
        emptied,
        slots_untold: false,
    })
}

/// A topic that lost its records is empty, whatever the progress record says: it is written anew.
fn after_loss(position: Position, events_lost: bool, state_lost: bool) -> Position {
    let count = position.partitions.len();
    let mut position = match events_lost {
        false => position,
        true => Position {
            first_seq: 0,
            last_seq: 0,
            partitions: vec![0; count],
            offsets: vec![-1; count],
            hashed: count,
            snapshot: None,
            snapshot_at: None,
            ..position
        },
    };
    if state_lost {
        position.state_lost = position.state_seq > 0;
        position.state_seq = 0;
        position.state_offsets = vec![-1; count];
    }
    position
}

/// Where the partitions of both topics begin and end.
struct Look {
    events: Bounds,
    state: Bounds,
}

/// First and one-after-last offset of each partition.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Bounds(Vec<(i64, i64)>);

impl Look {
    fn at(ends: &Ends<'_>, topics: &Topics, position: &Position) -> Result<Self, MirrorError> {
        let consumer = ends.consumer("read_uncommitted")?;
        let bounds = |topic: &str| -> Result<Bounds, MirrorError> {
            let partitions = 0..position.partitions.len() as i32;
            let looked = partitions.map(|partition| {
                watermarks(&consumer, topic, partition).map_err(|error| {
                    ends.complaints
                        .explain(&format!("find the ends of {topic}"), error)
                })
            });
            Ok(Bounds(looked.collect::<Result<_, _>>()?))
        };
        Ok(Self {
            events: bounds(&topics.events)?,
            state: bounds(&topics.state)?,
        })
    }
}

impl Bounds {
    /// Whether a partition ends before an offset that is known to be written.
    fn is_shorter(&self, known: &[i64]) -> bool {
        self.0
            .iter()
            .zip(known)
            .any(|((_, end), known)| end <= known)
    }

    /// Partitions that had records and have none.
    fn emptied(&self, last: &[u64]) -> Vec<usize> {
        let partitions = self.0.iter().zip(last).enumerate();
        let emptied =
            partitions.filter(|(_, ((low, high), last))| low == high && *high > 0 && **last > 0);
        emptied.map(|(partition, _)| partition).collect()
    }
}

/// Records must not have to be looked for in two places: the number of partitions stays, unless a slot map names them.
fn check_count(
    config: &Config,
    topics: &Topics,
    record: &ProgressRecord,
    existing: &Existing,
) -> Result<(), MirrorError> {
    let (found, wanted) = (existing.partitions, record.partitions.len());
    let mapped = !config.kafka.slots.0.is_empty();
    let grown = found >= wanted && mapped;
    if found == wanted || grown || existing.events_made || wanted == 0 {
        return Ok(());
    }
    let topic = topics.events.clone();
    Err(MirrorError::Partitions {
        topic,
        found,
        wanted,
    })
}

/// The newest visible progress record.
pub(crate) fn promised(
    ends: &Ends<'_>,
    topics: &Topics,
) -> Result<Option<ProgressRecord>, MirrorError> {
    in_progress(ends, topics, &transactional_id(&ends.config.network_name))
}

/// The newest record of the progress topic with this key.
pub(crate) fn in_progress<T: serde::de::DeserializeOwned>(
    ends: &Ends<'_>,
    topics: &Topics,
    key: &str,
) -> Result<Option<T>, MirrorError> {
    let ours = |message: &BorrowedMessage<'_>| {
        (message.key() == Some(key.as_bytes()))
            .then(|| serde_json::from_slice(message.payload().unwrap_or_default()))
    };
    ends.last(&topics.progress, 0, ours)?
        .transpose()
        .map_err(|error| MirrorError::Progress {
            topic: topics.progress.clone(),
            reason: error.to_string(),
        })
}

fn check_owner(config: &Config, record: &ProgressRecord) -> Result<(), MirrorError> {
    if record.network != config.network {
        return Err(MirrorError::ForeignTopics {
            ours: config.network.to_string(),
            theirs: record.network.to_string(),
        });
    }
    if record.term > config.term {
        return Err(MirrorError::SteppedDown {
            ours: config.term,
            theirs: record.term,
        });
    }
    Ok(())
}

fn from_progress(record: ProgressRecord, partitions: usize) -> Position {
    let (mut last, mut offsets, mut state_offsets) =
        (record.partitions, record.offsets, record.state_offsets);
    let hashed = last.len().max(1);
    last.resize(partitions, 0);
    offsets.resize(partitions, -1);
    state_offsets.resize(partitions, -1);
    Position {
        first_seq: record.first_seq,
        last_seq: record.last_seq,
        state_seq: record.state_seq,
        partitions: last,
        offsets,
        state_offsets,
        hashed,
        slots: record.slots,
        notices: record.notices,
        snapshot: record.snapshot,
        snapshot_at: record.snapshot_at,
        newest_ms: record.ts.as_millis(),
        state_lost: false,
    }
}

/// All partitions of a batch are committed at once, so the highest number in any of them is the last event.
fn from_events(
    ends: &Ends<'_>,
    topics: &Topics,
    partitions: usize,
) -> Result<Position, MirrorError> {
    let mut position = Position::origin(partitions);
    for (partition, last) in (0..).zip(&mut position.partitions) {
        *last = ends.last_seq(&topics.events, partition)?.unwrap_or(0);
    }
    position.last_seq = position.partitions.iter().copied().max().unwrap_or(0);
    // Whether the state topic had been brought in line with them is lost with the progress topic.
    position.state_lost = position.last_seq > 0;
    position.first_seq = u64::from(position.last_seq > 0);
    for topic in [&topics.alerts, &topics.audit] {
        let last = ends.last(topic, 0, |message| number(message, HEADER_NOTICE))?;
        position.notices = position.notices.max(last.unwrap_or(0));
    }
    // Which slot map those events were written under is lost with the progress topic: the newest.
    let newest = ends.config.kafka.slots.newest();
    let newest = newest.filter(|_| position.last_seq > 0);
    position.slots = newest.map_or(0, |slots| slots.version);
    Ok(position)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(last_seq: u64, state_seq: u64) -> Position {
        Position {
            first_seq: 1,
            last_seq,
            state_seq,
            partitions: vec![last_seq, last_seq - 1],
            offsets: vec![40, 38],
            ..Position::origin(2)
        }
    }

    #[test]
    fn a_partition_that_ends_before_what_was_written_is_lost() {
        let known = [40, -1];
        for (ends, lost) in [
            ([41, 0], false),
            ([90, 9], false),
            ([40, 0], true),
            ([0, 0], true),
        ] {
            let bounds = Bounds(ends.map(|end| (0, end)).to_vec());
            assert_eq!(bounds.is_shorter(&known), lost, "{ends:?}");
        }
    }

    #[test]
    fn a_partition_that_had_records_and_has_none_was_emptied() {
        let bounds = Bounds(vec![(0, 50), (50, 50), (50, 50), (0, 0)]);
        assert_eq!(bounds.emptied(&[7, 8, 0, 9]), [1]);
    }

    #[test]
    fn lost_events_are_written_from_the_start_and_take_no_image_back() {
        let position = after_loss(at(9, 9), true, false);
        assert_eq!(
            (position.first_seq, position.last_seq, position.state_seq),
            (0, 0, 9)
        );
        assert_eq!(
            (&position.offsets[..], &position.partitions[..]),
            (&[-1, -1][..], &[0, 0][..])
        );
        assert!(position.state_is_current());
    }

    #[test]
    fn a_lost_state_is_written_from_a_picture() {
        let position = after_loss(at(9, 9), false, true);
        assert_eq!((position.last_seq, position.state_seq), (9, 0));
        assert!(!position.state_is_current());
        let both = after_loss(at(9, 9), true, true);
        assert!(
            !both.state_is_current(),
            "not even where the events begin anew"
        );
    }
}
