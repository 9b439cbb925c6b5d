//! Follows the events of one site, from the partitions that the site owns alone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::sync::mpsc;
use wattle_api::stream::{HEADER_PREV_SEQ, HEADER_SEQ, partition_of};
use wattle_api::topology::TopologyEvent;
use wattle_model::NodeName;

use crate::error::TopologyError;
use crate::reader::{From, Reader, slots};
use crate::source::Source;
use crate::tail::{Item, QUEUE};

/// Follows a site's events; ends when dropped. Everything of one node comes in order, and a hole in a partition is told.
#[derive(Debug)]
pub struct SiteTail {
    events: mpsc::Receiver<Result<Item, TopologyError>>,
    partitions: BTreeSet<u32>,
}

impl SiteTail {
    /// Begins with the oldest event that is kept. Blocks.
    pub(crate) fn open(source: &Source, site: &NodeName) -> Result<Self, TopologyError> {
        let partitions = partitions(source, site)?;
        let wanted = |partition: i32| partitions.contains(&(partition as u32));
        let reader = Reader::open_some(source, &source.topics.events, From::Oldest, wanted)?;
        let (sender, events) = mpsc::channel(QUEUE);
        let site = site.clone();
        std::thread::Builder::new()
            .name("topology-site".into())
            .spawn(move || follow(reader, &site, &sender))
            .map_err(|_| TopologyError::Interrupted)?;
        Ok(Self { events, partitions })
    }

    /// The partitions that are read: those that the site owns, or ever owned.
    pub const fn partitions(&self) -> &BTreeSet<u32> {
        &self.partitions
    }

    /// The next event; `None` after an error.
    pub async fn next(&mut self) -> Option<Result<Item, TopologyError>> {
        self.events.recv().await
    }
}

/// The partitions that a site has, or ever had.
fn partitions(source: &Source, site: &NodeName) -> Result<BTreeSet<u32>, TopologyError> {
    let map = slots(source)?;
    let mut partitions = map
        .as_ref()
        .map(|map| map.of_site(Some(site)))
        .unwrap_or_default();
    // Events before the first version of a map were placed by the site's name.
    let mapped_since = map.and_then(|map| map.versions.first().map(|first| first.since_seq));
    if mapped_since.is_none_or(|since| since > 1) {
        let reader = Reader::open_some(source, &source.topics.events, From::Tail(0), |_| false)?;
        let count = u32::try_from(reader.begins.len()).unwrap_or(u32::MAX);
        partitions.insert(partition_of(Some(site.as_str()), "", count));
    }
    Ok(partitions)
}

fn follow(mut reader: Reader, site: &NodeName, sender: &mpsc::Sender<Result<Item, TopologyError>>) {
    let mut last = BTreeMap::new();
    while !sender.is_closed() {
        let items = match next(&mut reader, site, &mut last) {
            Ok(items) => items.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error)],
        };
        for item in items {
            let failed = item.is_err();
            if sender.blocking_send(item).is_err() || failed {
                return;
            }
        }
    }
}

fn next(
    reader: &mut Reader,
    site: &NodeName,
    last: &mut BTreeMap<i32, u64>,
) -> Result<Vec<Item>, TopologyError> {
    let Some(record) = reader.next(Duration::from_millis(100))? else {
        return Ok(Vec::new());
    };
    let number = |name| {
        record
            .number(name)
            .ok_or_else(|| reader.bad(&record, format!("no header {name}")))
    };
    let (seq, prev) = (number(HEADER_SEQ)?, number(HEADER_PREV_SEQ)?);
    let before = last.insert(record.partition, seq);
    if let Some(gap) = record.gap() {
        let gap = gap.map_err(|error| reader.bad(&record, error))?;
        return Ok(vec![Item::Missing(gap.first_seq, gap.last_seq)]);
    }
    let mut items = Vec::new();
    match before {
        Some(before) if seq <= before => return Ok(items),
        Some(before) if prev != before => items.push(Item::Missing(before + 1, prev)),
        Some(_) | None => {}
    }
    let event: TopologyEvent = serde_json::from_slice(record.value.as_deref().unwrap_or_default())
        .map_err(|error| reader.bad(&record, error))?;
    if event.source.site.as_ref() == Some(site) {
        items.push(Item::Event(Box::new(event)));
    }
    Ok(items)
}
