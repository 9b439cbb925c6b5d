//! The network as it was, from Kafka, in one of two ways: what is in the state topic, with the events since the moment
//! undone; or the last snapshot before the moment, with the events after it applied. The first reads what happened since,
//! the second a quarter of an hour at most; where one way is blocked by a gap or by age, the other may be open.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use wattle_api::Timestamp;
use wattle_api::stream::{HEADER_PREV_SEQ, HEADER_SEQ};
use wattle_api::topology::TopologyEvent;

use crate::error::TopologyError;
use crate::graph::Graph;
use crate::merge::Merge;
use crate::moment::Moment;
use crate::reader::{From, Reader, Record};
use crate::rewind::{Forward, Rewind};
use crate::snapshot::Snapshot;
use crate::snapshots;
use crate::source::{PATIENCE, Source};
use crate::state::State;
use crate::tail::CLOCK_SLACK_MS;

/// How long events are waited for that the state topic already shows: the partitions of one transaction become visible
/// one after the other, within milliseconds.
const LATE: Duration = Duration::from_secs(3);

/// Records since the moment up to which they are undone: some hundred milliseconds' work.
const NEAR: u64 = 100_000;

/// The network at a moment.
pub(crate) fn at(source: &Source, moment: Moment) -> Result<Graph, TopologyError> {
    let since = match moment {
        Moment::Time(time) => From::Time(Timestamp::from_millis(time.as_millis() + 1)),
        Moment::Event(_) => From::Oldest,
    };
    let far = Reader::open(source, &source.topics.events, since)?.span() > NEAR;
    if far && let Some(graph) = applied(source, moment)? {
        return Ok(graph);
    }
    match rewound(source, moment, since) {
        Err(blocked @ (TopologyError::Hole { .. } | TopologyError::TooOld { .. })) => {
            applied(source, moment)?.ok_or(blocked)
        }
        other => other,
    }
}

/// From the last snapshot before the moment; `None` if there is none.
fn applied(source: &Source, moment: Moment) -> Result<Option<Graph>, TopologyError> {
    match snapshots::last_before(source, moment)? {
        Some(snapshot) => onward(source, snapshot, moment).map(Some),
        None => Ok(None),
    }
}

/// A snapshot, with the events from it to the moment applied.
pub(crate) fn onward(
    source: &Source,
    snapshot: Snapshot,
    moment: Moment,
) -> Result<Graph, TopologyError> {
    let since = snapshot.ts.as_millis().saturating_sub(CLOCK_SLACK_MS);
    let since = From::Time(Timestamp::from_millis(since));
    let mut reader = Reader::open(source, &source.topics.events, since)?;
    let mut merge = Merge::from(Some(snapshot.id.seq + 1));
    let mut forward = Forward::new(snapshot.graph, moment);
    let mut heard = Instant::now();
    loop {
        while let Some(event) = merge.pop() {
            if !forward.take(&event) {
                return Ok(forward.finish());
            }
        }
        match reader.next(Duration::from_millis(20))? {
            Some(record) => {
                heard = Instant::now();
                if record.gap().is_none() {
                    let event = event_of(&reader, &record)?;
                    merge.put(event.id.seq, event);
                }
            }
            None if reader.saw_all_ends() && merge.len() == 0 => {
                return Ok(forward.finish());
            }
            None if reader.saw_all_ends() && heard.elapsed() > LATE => {
                return match merge.hole() {
                    Some((first, last)) => Err(TopologyError::Hole { first, last }),
                    None => Ok(forward.finish()),
                };
            }
            None if heard.elapsed() > PATIENCE => {
                return Err(TopologyError::Silent {
                    doing: "read the events".to_owned(),
                });
            }
            None => {}
        }
    }
}

/// From what is in the state topic.
fn rewound(source: &Source, moment: Moment, since: From) -> Result<Graph, TopologyError> {
    let state = State::read(source)?;
    let newest = state.seq();
    let graph = state.into_graph();
    // A clock that was set back hides events behind younger ones: then everything is read.
    match undone(source, graph.clone(), moment, newest, since) {
        Err(TopologyError::Hole { .. }) if !matches!(since, From::Oldest) => {
            undone(source, graph, moment, newest, From::Oldest)
        }
        other => other,
    }
}

fn undone(
    source: &Source,
    graph: Graph,
    moment: Moment,
    newest: u64,
    from: From,
) -> Result<Graph, TopologyError> {
    let mut events = Undone::open(source, moment, newest, from)?;
    let mut rewind = Rewind::new(graph, moment);
    events.read(|event| rewind.take(event))?;
    let graph = rewind.finish();
    events.check(graph.seq())?;
    Ok(graph)
}

/// The events since a moment.
struct Undone {
    reader: Reader,
    newest: u64,
    /// Those that are not later than the newest one of the state.
    seen: BTreeSet<u64>,
    /// The first one after the moment.
    first: Option<u64>,
    /// The newest events that cannot be undone: they were never written, or without their images.
    gap: Option<(u64, u64)>,
    /// Everything up to this one is gone for its age.
    aged_out: u64,
    /// The oldest event that was read at the beginning of a partition of which some is gone.
    oldest: Option<Timestamp>,
    /// Partitions of which no record was read yet.
    fresh: BTreeSet<i32>,
    moment: Moment,
}

impl Undone {
    fn open(
        source: &Source,
        moment: Moment,
        newest: u64,
        from: From,
    ) -> Result<Self, TopologyError> {
        let reader = Reader::open(source, &source.topics.events, from)?;
        let partitions = 0..reader.begins.len() as i32;
        Ok(Self {
            fresh: partitions.collect(),
            reader,
            newest,
            seen: BTreeSet::new(),
            first: None,
            gap: None,
            aged_out: 0,
            oldest: None,
            moment,
        })
    }

    /// Hands over every event, and waits for those that the state topic already shows.
    fn read(&mut self, mut take: impl FnMut(&TopologyEvent)) -> Result<(), TopologyError> {
        let mut heard = Instant::now();
        while !self.reader.saw_all_ends() || (self.gap.is_none() && self.lacks().is_some()) {
            match self.reader.next(Duration::from_millis(20))? {
                Some(record) => {
                    heard = Instant::now();
                    if let Some(gap) = record.gap() {
                        let gap = gap.map_err(|error| self.reader.bad(&record, error))?;
                        self.gap = Some((gap.first_seq, gap.last_seq)).max(self.gap);
                        continue;
                    }
                    let event = self.event(&record)?;
                    take(&event);
                }
                None if self.reader.saw_all_ends() && heard.elapsed() > LATE => break,
                None if heard.elapsed() > PATIENCE => {
                    return Err(TopologyError::Silent {
                        doing: "read the events".to_owned(),
                    });
                }
                None => {}
            }
        }
        Ok(())
    }

    fn event(&mut self, record: &Record) -> Result<TopologyEvent, TopologyError> {
        let event = event_of(&self.reader, record)?;
        let seq = record.number(HEADER_SEQ).unwrap_or(event.id.seq);
        let at = record.partition as usize;
        let first = self.fresh.remove(&record.partition);
        if first && self.reader.begins[at] == self.reader.oldest[at] && self.reader.oldest[at] > 0 {
            self.aged_out = self
                .aged_out
                .max(record.number(HEADER_PREV_SEQ).unwrap_or(0));
            self.oldest = self.oldest.max(Some(event.ts));
        }
        if seq <= self.newest {
            self.seen.insert(seq);
        }
        if self.moment.is_before(seq, event.ts) {
            // Nobody can undo an event that does not say how things were.
            if event.omitted.is_some() {
                self.gap = Some((seq, seq)).max(self.gap);
            }
            self.first = Some(self.first.map_or(seq, |first| first.min(seq)));
        }
        Ok(event)
    }

    /// The first events after the moment that the state topic shows and the events topic did not.
    fn lacks(&self) -> Option<(u64, u64)> {
        let first = match self.moment {
            Moment::Time(_) => self.first?,
            Moment::Event(seq) => seq + 1,
        };
        let seen = self.seen.range(first..);
        if seen.clone().count() as u64 >= (self.newest + 1).saturating_sub(first) {
            return None;
        }
        let mut expected = first;
        for seq in seen {
            if *seq != expected {
                return Some((expected, seq - 1));
            }
            expected += 1;
        }
        Some((expected, self.newest))
    }

    /// Refuses a network that would be made up, of events that are gone for their age or lost. `seq` is the newest event
    /// before the moment.
    fn check(&self, seq: u64) -> Result<(), TopologyError> {
        if self.aged_out > seq {
            return Err(TopologyError::TooOld {
                moment: self.moment,
                first: self.aged_out + 1,
                since: self.oldest,
            });
        }
        let gap = self.gap.filter(|(_, last)| *last > seq);
        match gap.or_else(|| self.lacks()) {
            Some((first, last)) => Err(TopologyError::Hole { first, last }),
            None => Ok(()),
        }
    }
}

fn event_of(reader: &Reader, record: &Record) -> Result<TopologyEvent, TopologyError> {
    serde_json::from_slice(record.value.as_deref().unwrap_or_default())
        .map_err(|error| reader.bad(record, error))
}
