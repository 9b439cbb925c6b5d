//! Reads the snapshots topic: the last one before a moment, or all of them.

use std::time::{Duration, Instant};

use wattle_api::Timestamp;

use crate::error::TopologyError;
use crate::moment::Moment;
use crate::reader::{From, Reader};
use crate::snapshot::{Assembler, Snapshot};
use crate::source::{PATIENCE, Source};

/// How far before the moment is looked, one after the other: a snapshot is taken every quarter of an hour unless
/// configured otherwise, and every one that is read costs its size.
const WINDOWS_MS: [u64; 3] = [20 * 60_000, 4 * 3_600_000, 48 * 3_600_000];

/// The last complete snapshot that holds nothing after the moment; `None` if there is none.
pub(crate) fn last_before(
    source: &Source,
    moment: Moment,
) -> Result<Option<Snapshot>, TopologyError> {
    if !source.has_snapshots {
        return Ok(None);
    }
    if let Moment::Time(time) = moment {
        for window in WINDOWS_MS {
            let since = time.as_millis().saturating_sub(window);
            let from = From::Time(Timestamp::from_millis(since));
            if let Some(found) = last_from(source, moment, from)? {
                return Ok(Some(found));
            }
        }
    }
    last_from(source, moment, From::Oldest)
}

fn last_from(
    source: &Source,
    moment: Moment,
    from: From,
) -> Result<Option<Snapshot>, TopologyError> {
    let mut last = None;
    each(source, from, |snapshot| {
        let holds_later = moment.is_before(snapshot.id.seq, snapshot.ts);
        if !holds_later {
            last = Some(snapshot);
        }
        !holds_later
    })?;
    Ok(last)
}

/// Calls `take` with each complete snapshot, in order, as long as it wants more.
pub(crate) fn each(
    source: &Source,
    from: From,
    mut take: impl FnMut(Snapshot) -> bool,
) -> Result<(), TopologyError> {
    let mut reader = Reader::open(source, &source.topics.snapshots, from)?;
    let mut assembler = Assembler::default();
    let mut heard = Instant::now();
    while !reader.saw_all_ends() {
        match reader.next(Duration::from_millis(50))? {
            Some(record) => {
                heard = Instant::now();
                let value = record.value.as_deref().unwrap_or_default();
                let whole = assembler.take(value);
                if let Some(snapshot) = whole.map_err(|error| reader.bad(&record, error))?
                    && !take(snapshot)
                {
                    return Ok(());
                }
            }
            None if heard.elapsed() > PATIENCE => {
                return Err(TopologyError::Silent {
                    doing: format!("read {}", source.topics.snapshots),
                });
            }
            None => {}
        }
    }
    Ok(())
}
