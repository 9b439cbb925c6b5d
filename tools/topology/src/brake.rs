//! Bounds what waits while partitions are read at different speeds: who is ahead pauses, nothing is left out. Pure.

use std::collections::BTreeSet;

/// Which partitions are not read on for now.
#[derive(Debug)]
pub(crate) struct Brake {
    /// When more items than this wait, partitions pause.
    window: usize,
    paused: BTreeSet<u32>,
}

/// How reading goes on.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Steering {
    /// No further in these partitions.
    pub(crate) pause: BTreeSet<u32>,
    /// Again in these.
    pub(crate) resume: BTreeSet<u32>,
}

impl Brake {
    /// Little more than `window` items will wait for others.
    pub(crate) const fn new(window: usize) -> Self {
        Self {
            window,
            paused: BTreeSet::new(),
        }
    }

    /// Says in which partitions to read on while so many items wait. Those `ahead`, where reading on only makes more wait,
    /// pause until others have caught up or half of what waits has gone.
    pub(crate) fn steer(
        &mut self,
        waiting: usize,
        ahead: impl FnOnce() -> BTreeSet<u32>,
    ) -> Steering {
        if waiting <= self.window && self.paused.is_empty() {
            return Steering::default();
        }
        let mut ahead = ahead();
        if waiting <= self.window {
            ahead.retain(|partition| waiting > self.window / 2 && self.paused.contains(partition));
        }
        let steering = Steering {
            pause: &ahead - &self.paused,
            resume: &self.paused - &ahead,
        };
        self.paused = ahead;
        steering
    }
}
