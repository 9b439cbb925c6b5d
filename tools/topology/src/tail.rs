//! Follows the events topic in the order of the sequence numbers.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use wattle_api::Timestamp;
use wattle_api::stream::HEADER_SEQ;
use wattle_api::topology::TopologyEvent;

use crate::brake::Steering;
use crate::error::TopologyError;
use crate::reader::{Brokers, From, Reader, Record, progress};
use crate::sequence::{Awaited, Sequence, Step};
use crate::source::Source;

/// Events between reader and caller; each some hundred bytes. When it is full the reader waits.
const QUEUE: usize = 1_024;

/// Events that may wait for one before them: a hundred megabytes at most. Then partitions that are ahead are read no further.
pub const WINDOW: usize = 100_000;

/// How often more partitions are looked for where nothing is missing.
const GROWS_EVERY: Duration = Duration::from_secs(2);

/// How long an event before others is waited for until the brokers are asked whether it may still come. All of a
/// transaction become visible within milliseconds, as a rule.
const LATE: Duration = Duration::from_secs(1);

/// How often brokers are asked that did not answer.
const ASKS_EVERY: Duration = Duration::from_secs(1);

/// How often brokers are asked again that did answer: what a partition had may have been deleted since for its age.
const ASKS_AGAIN_EVERY: Duration = Duration::from_secs(10);

/// How often it is looked whether everything was read that brokers told of.
const LOOKS_EVERY: Duration = Duration::from_millis(100);

/// How long a record is waited for.
const TURN: Duration = Duration::from_millis(100);

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
    /// Events from the first to the second number are not in the topic and will never be.
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
        let follower = Follower::new(source, reader, start, newest);
        Self::of("topology-tail", follower)
    }

    /// What a follower gives out, on a thread of this name.
    pub(crate) fn of(thread: &str, follower: impl Follow) -> Result<Self, TopologyError> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        std::thread::Builder::new()
            .name(thread.into())
            .spawn(move || follower.run(&sender))
            .map_err(|_| TopologyError::Interrupted)?;
        Ok(Self(receiver))
    }

    /// The next event; `None` after an error.
    pub async fn next(&mut self) -> Option<Result<Item, TopologyError>> {
        self.0.recv().await
    }
}

/// Reads a topic and gives out its events, on a thread of its own.
pub(crate) trait Follow: Sized + Send + 'static {
    /// Reads on, for a moment at most if nothing comes.
    fn turn(&mut self) -> Result<(), TopologyError>;

    /// What is to be given out next.
    fn next(&mut self) -> Option<Item>;

    /// Ends when nobody listens any more, or after an error.
    fn run(mut self, sender: &mpsc::Sender<Result<Item, TopologyError>>) {
        while !sender.is_closed() {
            let failure = self.turn().err();
            while let Some(item) = self.next() {
                if sender.blocking_send(Ok(item)).is_err() {
                    return;
                }
            }
            if let Some(error) = failure {
                // Whoever listened may have gone.
                let _ = sender.blocking_send(Err(error));
                return;
            }
        }
    }
}

/// Reads the events and brings them in order.
struct Follower {
    reader: Reader,
    sequence: Sequence<Box<TopologyEvent>>,
    /// What is older is passed over, up to the first that is not.
    since: Option<Timestamp>,
    /// What was added to the partitions and is not told yet.
    joined: BTreeSet<u32>,
    /// What is waited for, and since when.
    awaited: Option<(Awaited, Instant)>,
    /// When partitions were last looked for.
    grew: Instant,
    looked: Instant,
    /// When brokers were last asked what may come.
    asked: Option<Instant>,
}

impl Follow for Follower {
    fn next(&mut self) -> Option<Item> {
        if !self.joined.is_empty() {
            return Some(Item::Joined(std::mem::take(&mut self.joined)));
        }
        let since = self.since;
        let step = self
            .sequence
            .next(|event| since.is_none_or(|since| event.ts >= since))?;
        Some(match step {
            Step::Event(event) => Item::Event(event),
            Step::Missing(first, last) => Item::Missing(first, last),
        })
    }

    fn turn(&mut self) -> Result<(), TopologyError> {
        if let Some(record) = self.reader.next(TURN)? {
            self.take(&record)?;
        }
        if self.grew.elapsed() > GROWS_EVERY {
            self.grow()?;
        }
        if self.is_late() && self.looked.elapsed() > LOOKS_EVERY {
            self.look()?;
        }
        let Steering { pause, resume } = self.sequence.steer();
        self.reader.resume(&resume)?;
        self.reader.pause(&pause)
    }
}

impl Follower {
    fn new(source: &Source, reader: Reader, start: Start, newest: u64) -> Self {
        let mut sequence = Sequence::new(start.first(newest), source.window);
        sequence.join(&reader.partitions());
        Self {
            reader,
            sequence,
            since: start.since(),
            joined: BTreeSet::new(),
            awaited: None,
            grew: Instant::now(),
            looked: Instant::now(),
            asked: None,
        }
    }

    fn take(&mut self, record: &Record) -> Result<(), TopologyError> {
        let partition = record.partition.cast_unsigned();
        if let Some(gap) = record.gap() {
            let gap = gap.map_err(|error| self.reader.bad(record, error))?;
            self.sequence.gap(partition, gap.last_seq);
            return Ok(());
        }
        let seq = record.number(HEADER_SEQ);
        let seq = seq.ok_or_else(|| self.reader.bad(record, "no wattle-seq"))?;
        let event = self.reader.parse(record)?;
        self.sequence.put(partition, seq, Box::new(event));
        Ok(())
    }

    /// Whether it is time to ask for what does not come. Who waits for the oldest event need not wait for its neighbours
    /// once the end of each partition was seen.
    fn is_late(&mut self) -> bool {
        let Some(awaited) = self.sequence.awaited() else {
            self.awaited = None;
            return false;
        };
        let same = self.awaited.filter(|(before, _)| *before == awaited);
        let (_, since) = *self
            .awaited
            .insert(same.unwrap_or_else(|| (awaited, Instant::now())));
        let begins = awaited == Awaited::Oldest && self.reader.saw_all_ends();
        begins || since.elapsed() > LATE
    }

    /// Finds out whether what is missing may still come.
    fn look(&mut self) -> Result<(), TopologyError> {
        let every = match self.sequence.wants_answer() {
            true => ASKS_EVERY,
            false => ASKS_AGAIN_EVERY,
        };
        if self.asked.is_none_or(|asked| asked.elapsed() > every) {
            self.ask()?;
        }
        self.sequence.stand(&self.reader.positions()?);
        self.looked = Instant::now();
        Ok(())
    }

    /// Asks which partitions there are, and then how far they reach: both after what waits was read.
    fn ask(&mut self) -> Result<(), TopologyError> {
        if self.grow()? == Brokers::Answer {
            let spans = self.reader.spans_written()?;
            self.sequence.answer(&spans);
        }
        self.asked = Some(Instant::now());
        Ok(())
    }

    /// Reads partitions that were added, from their beginnings.
    fn grow(&mut self) -> Result<Brokers, TopologyError> {
        let added = self.reader.grow()?;
        self.grew = Instant::now();
        let Some(added) = added else {
            return Ok(Brokers::Silent);
        };
        self.sequence.join(&added);
        self.joined.extend(added);
        Ok(Brokers::Answer)
    }
}
