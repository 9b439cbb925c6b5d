//! How many of the workers carry packets: more when one of them is the limit, one again when nothing is to be carried.
//!
//! Each worker has a queue of the device; a program in the kernel says which packets go to which queue
//! ([`wattle_host::Steering`]). When there are to be more, flows move to other queues, and none of them may be overtaken
//! by itself (`docs/protocol/lanes.md §6`):
//!
//! 1. the workers that come do not read their queues;
//! 2. the program changes;
//! 3. the workers that were there empty their queues, and wait until what they sent over lanes has arrived;
//! 4. the workers that come read their queues, and hand everything to the first worker until lanes take over.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use wattle_host::Steering;

use crate::worker_handle::WorkerHandle;

/// Between two looks at the workers.
const LOOK: Duration = Duration::from_millis(250);
/// A worker that is busy for more than this share …
const BUSY_PERCENT: u64 = 80;
/// … in so many looks in a row is the limit.
const BUSY_LOOKS: u32 = 4;
/// Looks without a packet on the queues of the further workers after which they are let go: a minute.
const QUIET_LOOKS: u32 = 240;
/// After the program changed, a processor may still be about to put a packet where the one before said.
const GRACE: Duration = Duration::from_millis(1);
/// How long the workers that come wait for the others: a busy one reads a full queue in tens of milliseconds.
const SETTLE: Duration = Duration::from_millis(100);

/// What a data thread says of itself, read by the crew at any time.
#[derive(Debug, Default)]
pub(crate) struct Load {
    /// Microseconds in which it did not wait for something to do.
    pub(crate) busy_us: AtomicU64,
    /// Packets read from its queue of the device.
    pub(crate) read_packets: AtomicU64,
}

/// What the crew says of itself.
#[derive(Debug)]
pub(crate) struct CrewView {
    /// Workers that carry packets.
    pub(crate) active: AtomicUsize,
    /// How often the workers that come waited in vain for the others to settle.
    pub(crate) unsettled: AtomicU64,
    /// What each worker says of itself.
    pub(crate) loads: Vec<Arc<Load>>,
}

impl CrewView {
    /// One worker carries packets, of so many.
    pub(crate) fn new(workers: usize) -> Self {
        Self {
            active: AtomicUsize::new(1),
            unsettled: AtomicU64::new(0),
            loads: (0..workers).map(|_| Arc::default()).collect(),
        }
    }
}

/// Whoever decides.
pub(crate) struct Crew {
    steering: Steering,
    /// Any queue of the device.
    device: OwnedFd,
    workers: WorkerHandle,
    watch: Watch,
}

impl Crew {
    /// A crew of which the first worker is active, as the kernel knows already.
    pub(crate) fn new(steering: Steering, device: OwnedFd, workers: WorkerHandle) -> Self {
        let watch = Watch::new(workers.view().loads.len());
        Self {
            steering,
            device,
            workers,
            watch,
        }
    }

    /// Decides for ever.
    pub(crate) async fn run(mut self) {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last = std::time::Instant::now();
        loop {
            looks.tick().await;
            let span = last.elapsed();
            last = std::time::Instant::now();
            let view = self.workers.view();
            let active = view.active.load(Ordering::Relaxed);
            let figures = view.loads.iter().map(|load| {
                let busy = load.busy_us.load(Ordering::Relaxed);
                (busy, load.read_packets.load(Ordering::Relaxed))
            });
            match self.watch.look(active, span, figures) {
                Decision::Same => {}
                Decision::Double => self.grow(active).await,
                Decision::One => self.shrink(),
            }
        }
    }

    async fn grow(&mut self, active: usize) {
        let more = active * 2;
        let (old, new) = (0..active, active..more);
        for worker in new.clone() {
            if !self.workers.pause(worker).await {
                return;
            }
        }
        if let Err(error) = self.steering.set(&self.device, more as u32) {
            tracing::warn!(%error, "Packets cannot be spread over more workers");
            return;
        }
        tokio::time::sleep(GRACE).await;
        let settled = async {
            for answer in old
                .map(|worker| self.workers.settle(worker))
                .collect::<Vec<_>>()
            {
                // A thread that ended has nothing under way.
                let _ended = answer.await;
            }
        };
        if tokio::time::timeout(SETTLE, settled).await.is_err() {
            self.workers
                .view()
                .unsettled
                .fetch_add(1, Ordering::Relaxed);
        }
        for worker in new {
            self.workers.read(worker);
        }
        self.workers.view().active.store(more, Ordering::Relaxed);
        tracing::info!(workers = more, "More workers carry packets");
    }

    fn shrink(&mut self) {
        if let Err(error) = self.steering.set(&self.device, 1) {
            tracing::warn!(%error, "Packets cannot be given to one worker");
            return;
        }
        self.workers.view().active.store(1, Ordering::Relaxed);
        tracing::info!(workers = 1, "One worker carries all packets");
    }
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decision {
    Same,
    Double,
    One,
}

/// The memory of looks.
#[derive(Debug)]
struct Watch {
    /// Busy time and packets of each worker at the last look.
    last: Vec<(u64, u64)>,
    busy_looks: u32,
    quiet_looks: u32,
}

impl Watch {
    fn new(workers: usize) -> Self {
        Self {
            last: vec![(0, 0); workers],
            busy_looks: 0,
            quiet_looks: 0,
        }
    }

    /// Looks at busy times and packets, `span` after the last look, while so many workers are active.
    fn look(
        &mut self,
        active: usize,
        span: Duration,
        figures: impl Iterator<Item = (u64, u64)>,
    ) -> Decision {
        let limit = span.as_micros() as u64 * BUSY_PERCENT / 100;
        let figures: Vec<_> = figures.collect();
        let since = figures.iter().zip(&self.last);
        let since = since.map(|(now, before)| (now.0 - before.0, now.1 - before.1));
        let since: Vec<(u64, u64)> = since.collect();
        self.last = figures;
        let is_limit = since.iter().take(active).any(|(busy, _)| *busy > limit);
        let is_quiet = since.iter().skip(1).all(|(_, packets)| *packets == 0);
        self.busy_looks = if is_limit { self.busy_looks + 1 } else { 0 };
        self.quiet_looks = if is_quiet { self.quiet_looks + 1 } else { 0 };
        let has_more = active * 2 <= self.last.len();
        if self.busy_looks >= BUSY_LOOKS && has_more {
            (self.busy_looks, self.quiet_looks) = (0, 0);
            return Decision::Double;
        }
        if self.quiet_looks >= QUIET_LOOKS && active > 1 {
            self.quiet_looks = 0;
            return Decision::One;
        }
        Decision::Same
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Input: workers, and for each look how busy each was in percent and how many packets it read. Output: the looks
    /// that decided something, with how many are active then.
    fn decisions(
        looks: impl Iterator<Item = Vec<(u64, u64)>>,
        workers: usize,
    ) -> Vec<(u32, usize)> {
        let mut watch = Watch::new(workers);
        let mut sums = vec![(0, 0); workers];
        let mut active = 1;
        let mut decided = Vec::new();
        for (number, look) in (1..).zip(looks) {
            for (sum, (percent, packets)) in sums.iter_mut().zip(look) {
                *sum = (sum.0 + percent * 2_500, sum.1 + packets);
            }
            match watch.look(active, LOOK, sums.iter().copied()) {
                Decision::Same => continue,
                Decision::Double => active *= 2,
                Decision::One => active = 1,
            }
            decided.push((number, active));
        }
        decided
    }

    #[test]
    fn workers_double_while_one_is_the_limit_and_there_are_more() {
        let busy = std::iter::repeat_n(vec![(90, 9); 4], 40);
        assert_eq!(decisions(busy, 4), [(4, 2), (8, 4)]);
        let one = std::iter::repeat_n(vec![(100, 9)], 40);
        assert_eq!(decisions(one, 1), []);
    }

    #[test]
    fn a_busy_moment_is_no_reason() {
        let moments = (0..400).map(|look| vec![(if look % 4 == 3 { 10 } else { 99 }, 9); 2]);
        assert_eq!(decisions(moments, 2), []);
    }

    #[test]
    fn a_minute_without_packets_on_the_others_queues_lets_them_go() {
        let busy = std::iter::repeat_n(vec![(90, 9); 2], 8);
        let quiet = std::iter::repeat_n(vec![(50, 9), (0, 0)], 239);
        let packet = std::iter::once(vec![(0, 0), (0, 1)]);
        let silent = std::iter::repeat_n(vec![(0, 0); 2], 500);
        let looks = busy.chain(quiet).chain(packet).chain(silent);
        assert_eq!(decisions(looks, 2), [(4, 2), (8 + 239 + 1 + 240, 1)]);
    }
}
