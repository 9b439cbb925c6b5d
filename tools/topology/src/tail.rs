//! Follows the events topic in the order of the sequence numbers.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use wattle_api::Timestamp;
use wattle_api::stream::HEADER_SEQ;
use wattle_api::topology::TopologyEvent;

use crate::error::TopologyError;
use crate::merge::Merge;
use crate::reader::{From, Reader, progress};
use crate::source::Source;

/// Events between reader and caller; each some hundred bytes. When it is full the reader waits.
pub(crate) const QUEUE: usize = 1_024;

/// Events that may wait for one before them: a hundred megabytes at most. Then it is taken for lost, or, by a reader of sites,
/// waited for with reading of others paused.
pub const WINDOW: usize = 100_000;

/// How often a reader of all partitions looks for more of them: before an event that is in one is taken for late.
const GROWS_EVERY: Duration = Duration::from_secs(2);

/// How long an event before others is waited for. All of a batch become visible within milliseconds.
pub(crate) const LATE: Duration = Duration::from_secs(5);

/// How far a coordinator's clock may have been set back without an event being passed over, in milliseconds.
pub(crate) const CLOCK_SLACK_MS: u64 = 60_000;

/// Offsets before the end at which following begins: more than one transaction of the mirror has in a partition, 4,000
/// events and what is about them.
pub(crate) const OVERLAP: i64 = 8_192;

/// Where to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With the next event that happens.
    Next,
    /// With the oldest that is kept.
    Oldest,
    /// With this one.
    Seq(u64),
    /// With the event after `seq`, which is of the time `since` or later: nothing older need be read.
    After {
        /// The last event that is not wanted.
        seq: u64,
        /// A time before that of the first one that is.
        since: Timestamp,
    },
    /// With the oldest event that is of this time or later.
    Time(Timestamp),
}

impl Start {
    /// Where a reader of the events topic begins.
    pub(crate) fn from(self) -> From {
        match self {
            Self::Next => From::Tail(OVERLAP),
            Self::Oldest | Self::Seq(_) => From::Oldest,
            Self::Time(time) => From::Time(time),
            Self::After { since, .. } => {
                let since = since.as_millis().saturating_sub(CLOCK_SLACK_MS);
                From::Time(Timestamp::from_millis(since))
            }
        }
    }

    /// The first event that is wanted, if its number is known; `newest` is the last that is there.
    pub(crate) const fn first(self, newest: u64) -> Option<u64> {
        match self {
            Self::Next => Some(newest + 1),
            Self::Seq(seq) => Some(seq),
            Self::After { seq, .. } => Some(seq + 1),
            Self::Oldest | Self::Time(_) => None,
        }
    }

    /// A time before which no event is wanted. A broker finds the batch of a time, which begins earlier.
    pub(crate) const fn since(self) -> Option<Timestamp> {
        match self {
            Self::Time(time) => Some(time),
            Self::Next | Self::Oldest | Self::Seq(_) | Self::After { .. } => None,
        }
    }
}

/// What a tail gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// An event.
    Event(Box<TopologyEvent>),
    /// Events from the first to the second number are not in the topic.
    Missing(u64, u64),
    /// These partitions are read, too, from here on: they were added, or a site got them.
    Joined(BTreeSet<u32>),
}

/// Follows a network's events; ends when dropped.
#[derive(Debug)]
pub struct Tail(mpsc::Receiver<Result<Item, TopologyError>>);

impl Tail {
    pub(crate) fn open(source: &Source, start: Start) -> Result<Self, TopologyError> {
        let reader = Reader::open(source, &source.topics.events, start.from())?;
        // Read after the reader knows where it begins, so that nothing falls between the two.
        let newest = match start {
            Start::Next => progress(source)?.map_or(0, |progress| progress.last_seq),
            Start::Oldest | Start::Seq(_) | Start::After { .. } | Start::Time(_) => 0,
        };
        let merge = Merge::from(start.first(newest));
        let since = start.since();
        let (sender, receiver) = mpsc::channel(QUEUE);
        std::thread::Builder::new()
            .name("topology-tail".into())
            .spawn(move || follow(reader, merge, since, &sender))
            .map_err(|_| TopologyError::Interrupted)?;
        Ok(Self::of(receiver))
    }

    /// What another thread reads.
    pub(crate) const fn of(events: mpsc::Receiver<Result<Item, TopologyError>>) -> Self {
        Self(events)
    }

    /// The next event; `None` after an error.
    pub async fn next(&mut self) -> Option<Result<Item, TopologyError>> {
        self.0.recv().await
    }
}

/// Ends when nobody listens any more, or after an error.
fn follow(
    mut reader: Reader,
    mut merge: Merge<Box<TopologyEvent>>,
    since: Option<Timestamp>,
    sender: &mpsc::Sender<Result<Item, TopologyError>>,
) {
    let mut moved = Instant::now();
    let mut looked = Instant::now();
    let mut gaps = Vec::new();
    while !sender.is_closed() {
        let mut items = Vec::new();
        let mut read = read_one(&mut reader, &mut merge, &mut gaps);
        if looked.elapsed() > GROWS_EVERY && reader.saw_all_ends() {
            looked = Instant::now();
            read = read.and_then(|()| grow(&mut reader, &mut items));
        }
        let failed = read.is_err();
        items.extend(read.err().map(Err));
        take_ready(&mut merge, &mut gaps, &mut items);
        let stuck = merge.len() > 0 && reader.saw_all_ends() && moved.elapsed() > LATE;
        if items.is_empty()
            && (stuck || merge.len() > WINDOW || begins_with_lowest(&reader, &merge))
        {
            if merge.is_unset() {
                merge.leave_out(|event| since.is_some_and(|since| event.ts < since));
            }
            items.extend(
                merge
                    .skip()
                    .map(|(first, last)| Ok(Item::Missing(first, last))),
            );
        }
        if !items.is_empty() || merge.len() == 0 {
            moved = Instant::now();
        }
        for item in items {
            if sender.blocking_send(item).is_err() {
                return;
            }
        }
        if failed {
            return;
        }
    }
}

/// Reads partitions that were added, from their beginnings.
fn grow(
    reader: &mut Reader,
    items: &mut Vec<Result<Item, TopologyError>>,
) -> Result<(), TopologyError> {
    let added = reader.grow()?;
    if !added.is_empty() {
        items.push(Ok(Item::Joined(added)));
    }
    Ok(())
}

/// Nobody said where to begin, and everything that is kept has been read.
fn begins_with_lowest<T>(reader: &Reader, merge: &Merge<T>) -> bool {
    merge.is_unset() && reader.saw_all_ends()
}

/// Everything whose turn it is, and what will never come.
fn take_ready(
    merge: &mut Merge<Box<TopologyEvent>>,
    gaps: &mut Vec<(u64, u64)>,
    items: &mut Vec<Result<Item, TopologyError>>,
) {
    loop {
        let before = items.len();
        while let Some(event) = merge.pop() {
            items.push(Ok(Item::Event(event)));
        }
        gaps.retain(|(first, last)| match merge.jump(*first, *last) {
            Some((first, last)) => {
                items.push(Ok(Item::Missing(first, last)));
                false
            }
            None => !merge.is_beyond(*last),
        });
        if items.len() == before {
            return;
        }
    }
}

fn read_one(
    reader: &mut Reader,
    merge: &mut Merge<Box<TopologyEvent>>,
    gaps: &mut Vec<(u64, u64)>,
) -> Result<(), TopologyError> {
    let Some(record) = reader.next(Duration::from_millis(100))? else {
        return Ok(());
    };
    if let Some(gap) = record.gap() {
        let gap = gap.map_err(|error| reader.bad(&record, error))?;
        gaps.push((gap.first_seq, gap.last_seq));
        return Ok(());
    }
    let seq = record
        .number(HEADER_SEQ)
        .ok_or_else(|| reader.bad(&record, "no wattle-seq"))?;
    let event = serde_json::from_slice(record.value.as_deref().unwrap_or_default())
        .map_err(|error| reader.bad(&record, error))?;
    merge.put(seq, Box::new(event));
    Ok(())
}
