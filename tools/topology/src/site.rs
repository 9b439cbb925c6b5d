//! Follows the events of sites, from the partitions that they own alone. The progress topic is followed beside them: it
//! says how far each partition is, and which partitions a site gets before anything is written there
//! (`docs/protocol/topology-stream.md` §3).

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use wattle_api::Timestamp;
use wattle_api::slots::SlotMapRecord;
use wattle_api::stream::{HEADER_PREV_SEQ, HEADER_SEQ, ProgressRecord, partition_of};
use wattle_api::topology::TopologyEvent;
use wattle_model::NodeName;

use crate::brake::Steering;
use crate::error::TopologyError;
use crate::order::{EVERYWHERE, Order};
use crate::reader::{Brokers, From, MIRROR_KEYS, Reader, Record, SLOTS_KEYS};
use crate::source::Source;
use crate::tail::{Follow, Item, OVERLAP, Start, Tail};

/// How long events are waited for before the progress topic is looked at again, and in turn.
const TURN: Duration = Duration::from_millis(20);

/// How often it is looked whether what was there when following began was read.
const LOOKS_EVERY: Duration = Duration::from_millis(500);

/// How often partitions that no broker told of are asked for.
const JOINS_EVERY: Duration = Duration::from_secs(1);

/// Follows the events of sites in the order of their sequence numbers; ends when dropped. A hole in a partition is told.
#[derive(Debug)]
pub struct SiteTail {
    events: Tail,
    partitions: watch::Receiver<BTreeSet<u32>>,
}

impl SiteTail {
    /// Blocks.
    pub(crate) fn open(
        source: &Source,
        sites: BTreeSet<NodeName>,
        start: Start,
    ) -> Result<Self, TopologyError> {
        let follower = Follower::open(source, sites, start)?;
        let partitions = follower.partitions.subscribe();
        let events = Tail::of("topology-site", follower)?;
        Ok(Self { events, partitions })
    }

    /// The partitions that are read: those that the sites own, or ever owned. A site that moves adds some, which
    /// [`Item::Joined`] tells.
    pub fn partitions(&self) -> BTreeSet<u32> {
        self.partitions.borrow().clone()
    }

    /// The next event; `None` after an error.
    pub async fn next(&mut self) -> Option<Result<Item, TopologyError>> {
        self.events.next().await
    }

    /// The events alone.
    pub fn into_events(self) -> Tail {
        self.events
    }
}

/// Reads both topics and brings their records together.
struct Follower {
    sites: BTreeSet<NodeName>,
    events: Reader,
    progress: Reader,
    order: Order<Item>,
    map: Option<SlotMapRecord>,
    /// The last event of each partition when following began.
    before: Vec<u64>,
    partitions: watch::Sender<BTreeSet<u32>>,
    /// What was added to them and is not told yet.
    joined: BTreeSet<u32>,
    wanted: Wanted,
    /// Partitions of which no broker told yet, asked for at this time.
    pending: Option<Instant>,
    /// The partitions of which something that was there when following began may still come.
    old: BTreeSet<u32>,
    /// When it was last looked whether it may.
    looked: Instant,
}

impl Follow for Follower {
    fn next(&mut self) -> Option<Item> {
        if !self.joined.is_empty() {
            return Some(Item::Joined(std::mem::take(&mut self.joined)));
        }
        while let Some(item) = self.order.pop() {
            if self.wanted.has(&item) {
                return Some(item);
            }
        }
        None
    }

    fn turn(&mut self) -> Result<(), TopologyError> {
        if let Some(record) = self.events.next(TURN)? {
            self.take(&record)?;
        }
        while let Some(record) = self.progress.next(Duration::ZERO)? {
            self.hear(&record)?;
        }
        if self
            .pending
            .is_some_and(|asked| asked.elapsed() > JOINS_EVERY)
        {
            self.follow_sites()?;
        }
        self.give_up_what_is_gone()?;
        self.bound()
    }
}

impl Follower {
    fn open(
        source: &Source,
        sites: BTreeSet<NodeName>,
        start: Start,
    ) -> Result<Self, TopologyError> {
        // First, so that what a site gets later is behind the ends that are noted here.
        let events = Reader::idle(source, &source.topics.events, start.from())?;
        let mut progress = Reader::open(source, &source.topics.progress, From::Oldest)?;
        let (mut far, mut map) = (None, None);
        progress.read_to_end(|record| {
            if record.key.starts_with(MIRROR_KEYS) {
                far = Some(record);
            } else if record.key.starts_with(SLOTS_KEYS) {
                map = Some(record);
            }
            Ok(())
        })?;
        let far: Option<ProgressRecord> = far.map(|far| progress.parse(&far)).transpose()?;
        let map = map.map(|map| progress.parse(&map)).transpose()?;
        let far = far.unwrap_or_default();
        let mut follower = Self {
            sites,
            events,
            progress,
            order: Order::new(source.window),
            map,
            before: far.partitions.clone(),
            partitions: watch::Sender::default(),
            joined: BTreeSet::new(),
            wanted: Wanted {
                first: start.first(far.last_seq).unwrap_or(0),
                since: start.since(),
            },
            pending: None,
            old: BTreeSet::new(),
            looked: Instant::now(),
        };
        follower.order.promise(far.last_seq, far.partitions);
        follower.begin(start)?;
        Ok(follower)
    }

    /// Reads what the sites have when following begins. A partition that is empty from there on has nothing old.
    fn begin(&mut self, start: Start) -> Result<(), TopologyError> {
        for partition in self.new_partitions() {
            let (offset, end) = self.events.span_of(partition);
            let has_nothing_old = start == Start::Next || offset >= end;
            let floor = if has_nothing_old {
                self.last_before(partition)
            } else {
                0
            };
            self.read(partition, offset, floor)?;
            self.old.insert(partition);
        }
        Ok(())
    }

    /// Reads what the sites have since: all that is theirs there came after following began.
    fn follow_sites(&mut self) -> Result<(), TopologyError> {
        self.pending = None;
        for partition in self.new_partitions() {
            let (_, end) = self.events.span_of(partition);
            let floor = self.last_before(partition);
            let offset = (end - OVERLAP).max(0);
            if self.read(partition, offset, floor)? == Brokers::Answer {
                self.joined.insert(partition);
            }
        }
        Ok(())
    }

    /// Reads a partition. Until brokers tell of it, what comes after its events waits.
    fn read(&mut self, partition: u32, offset: i64, floor: u64) -> Result<Brokers, TopologyError> {
        self.order.join(partition, floor);
        let brokers = self.events.join(partition, offset)?;
        match brokers {
            Brokers::Answer => self.partitions.send_modify(|partitions| {
                partitions.insert(partition);
            }),
            Brokers::Silent => self.pending = Some(Instant::now()),
        }
        Ok(brokers)
    }

    fn new_partitions(&self) -> Vec<u32> {
        let count = u32::try_from(self.events.begins.len()).unwrap_or(u32::MAX);
        let of_site = |site| partitions(self.map.as_ref(), site, count);
        let all: BTreeSet<u32> = self.sites.iter().flat_map(of_site).collect();
        all.difference(&self.partitions.borrow()).copied().collect()
    }

    fn last_before(&self, partition: u32) -> u64 {
        self.before.get(partition as usize).copied().unwrap_or(0)
    }

    /// Reads no further where too much would wait.
    fn bound(&mut self) -> Result<(), TopologyError> {
        let Steering { pause, resume } = self.order.steer();
        self.events.resume(&resume)?;
        self.events.pause(&pause)
    }

    fn take(&mut self, record: &Record) -> Result<(), TopologyError> {
        let number = |name| {
            let number = record.number(name);
            number.ok_or_else(|| self.events.bad(record, format!("no header {name}")))
        };
        let (seq, prev) = (number(HEADER_SEQ)?, number(HEADER_PREV_SEQ)?);
        let partition = record.partition.cast_unsigned();
        let before = self.order.reach(partition, seq);
        if seq >= self.last_before(partition) {
            self.old.remove(&partition);
        }
        if before.is_some_and(|before| seq <= before) {
            return Ok(());
        }
        if let Some(gap) = record.gap() {
            let gap = gap.map_err(|error| self.events.bad(record, error))?;
            let missing = Item::Missing(gap.first_seq, gap.last_seq);
            self.order.put(seq, EVERYWHERE, missing);
            return Ok(());
        }
        if let Some(before) = before.filter(|before| *before != prev) {
            let missing = Item::Missing(before + 1, prev);
            self.order.put(prev, partition, missing);
        }
        let event: TopologyEvent = self.events.parse(record)?;
        if let Some(site) = &event.source.site
            && self.sites.contains(site)
        {
            self.order.put(seq, partition, Item::Event(Box::new(event)));
        }
        Ok(())
    }

    /// A slot map stands before the first event that was written under it.
    fn hear(&mut self, record: &Record) -> Result<(), TopologyError> {
        if record.key.starts_with(MIRROR_KEYS) {
            let far: ProgressRecord = self.progress.parse(record)?;
            self.order.promise(far.last_seq, far.partitions);
        } else if record.key.starts_with(SLOTS_KEYS) {
            self.map = Some(self.progress.parse(record)?);
            self.follow_sites()?;
        }
        Ok(())
    }

    /// What was there before following began, and has not come although a partition was read as far as it goes, open
    /// transactions included, was deleted for its age.
    fn give_up_what_is_gone(&mut self) -> Result<(), TopologyError> {
        let is_due = self.events.saw_all_ends() && self.looked.elapsed() > LOOKS_EVERY;
        if self.old.is_empty() || !is_due {
            return Ok(());
        }
        let spans = self.events.spans_written()?;
        let positions = self.events.positions()?;
        let is_read = |partition: &u32| {
            let position = positions.get(partition).copied().unwrap_or(0);
            let span = spans.get(partition);
            span.is_some_and(|span| position.max(span.start) >= span.end)
        };
        for partition in self.old.extract_if(.., is_read) {
            let before = self.before.get(partition as usize).copied();
            self.order.join(partition, before.unwrap_or(0));
        }
        self.looked = Instant::now();
        Ok(())
    }
}

/// The partitions that a site has, or ever had.
fn partitions(map: Option<&SlotMapRecord>, site: &NodeName, count: u32) -> BTreeSet<u32> {
    let mut partitions = map.map(|map| map.of_site(Some(site))).unwrap_or_default();
    // Events before the first version of a map were placed by the site's name.
    let mapped_since = map.and_then(|map| map.versions.first().map(|first| first.since_seq));
    if mapped_since.is_none_or(|since| since > 1) {
        partitions.insert(partition_of(Some(site.as_str()), "", count));
    }
    partitions
}

/// Which items are given out.
struct Wanted {
    first: u64,
    /// What is older is passed over, up to the first that is not.
    since: Option<Timestamp>,
}

impl Wanted {
    fn has(&mut self, item: &Item) -> bool {
        match item {
            Item::Joined(_) => true,
            Item::Missing(_, last) => *last >= self.first,
            Item::Event(event) => {
                self.since = self.since.filter(|since| event.ts < *since);
                event.id.seq >= self.first && self.since.is_none()
            }
        }
    }
}
