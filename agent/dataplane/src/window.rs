//! How much the kernel may hold of what was handed to it: a few milliseconds of what the network takes.
//!
//! What lies in the kernel's queue is past every decision of ours, so it should be little; too little, and the network
//! would idle. The rate is measured whenever the kernel is full, the limit is what the network takes in a few milliseconds.

use wattle_model::{Instant, Micros};

/// Time that the kernel's queue may last.
const HOLD: Micros = Micros::from_millis(4);
/// Over this long the rate is measured.
const SPAN: Micros = Micros::from_millis(50);
/// Who calls so late had nothing to send meanwhile, however full the kernel was before.
const PAUSE: Micros = Micros::from_millis(200);
/// Bounds of the limit, bytes.
const LEAST: usize = 16 << 10;
const MOST: usize = 2 << 20;
/// The limit before anything is known, and when what was known is old: a fast network fills it and shows its rate, a slow
/// one drains it soon.
pub const START: usize = 256 << 10;

/// The limit of one socket.
#[derive(Debug, Clone, Copy)]
pub struct SendWindow {
    limit: usize,
    since: Option<Instant>,
    bytes: u64,
    was_full: bool,
}

impl Default for SendWindow {
    fn default() -> Self {
        Self {
            limit: START,
            since: None,
            bytes: 0,
            was_full: false,
        }
    }
}

impl SendWindow {
    /// The limit, in bytes.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// The kernel took `bytes` and then was full, or not. The new limit, if it is another one.
    pub fn sent(&mut self, now: Instant, bytes: usize, is_full: bool) -> Option<usize> {
        let Some(since) = self.since else {
            // What went before the kernel was full says nothing about the network.
            if is_full {
                (self.since, self.bytes, self.was_full) = (Some(now), 0, true);
            }
            return None;
        };
        self.bytes += bytes as u64;
        self.was_full |= is_full;
        let span = now.since(since);
        if span < SPAN {
            return None;
        }
        let taken = (self.bytes * HOLD.0 / span.0) as usize;
        let limit = match self.was_full && span < PAUSE {
            true => taken,
            // Nobody waited: the limit is no longer one. But of more than was sent nothing is known.
            false => (self.limit * 2).min(START.max(2 * taken)),
        };
        let limit = limit.clamp(LEAST, MOST);
        (self.bytes, self.was_full) = (0, is_full);
        self.since = (limit != START || is_full).then_some(now);
        let changed = limit.abs_diff(self.limit) > self.limit / 8;
        changed.then(|| {
            self.limit = limit;
            limit
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A network that takes `rate` bytes per millisecond out of a kernel that holds up to the limit.
    fn settle(
        window: &mut SendWindow,
        rate: usize,
        from: u64,
        millis: u64,
        offered: usize,
    ) -> usize {
        let (mut held, mut limit) = (0_usize, window.limit);
        for at in from..from + millis {
            held = held.saturating_sub(rate);
            let room = limit.saturating_sub(held);
            let sent = room.min(offered);
            held += sent;
            if let Some(new) = window.sent(Instant(at * 1_000), sent, sent < offered) {
                limit = new;
            }
        }
        limit
    }

    #[test]
    fn the_limit_follows_the_network_down_and_up() {
        let mut window = SendWindow::default();
        // 200 Mbit/s: 25 kB per millisecond.
        let limit = settle(&mut window, 25_000, 0, 2_000, 100_000);
        assert!((90_000..=140_000).contains(&limit), "{limit}");
        // 2 Gbit/s.
        let limit = settle(&mut window, 250_000, 2_000, 4_000, 400_000);
        assert!(limit >= 900_000, "{limit}");
    }

    #[test]
    fn a_fast_network_has_the_largest_limit() {
        let mut window = SendWindow::default();
        assert!(settle(&mut window, 1_000_000, 0, 1_000, 500_000) >= MOST / 8 * 7);
        let limit = settle(&mut window, 2_000, 1_000, 1_000, 100_000);
        assert_eq!(limit, LEAST);
        // Nobody waits at this rate, and more of it may come at once.
        assert!(settle(&mut window, 1_000_000, 2_000, 2_000, 400_000) >= MOST / 8 * 7);
    }

    #[test]
    fn what_a_quiet_network_would_take_is_not_known() {
        let mut window = SendWindow::default();
        for (rate, busy) in [(2_500, 7_500), (1_000_000, 500_000)] {
            settle(&mut window, rate, 0, 1_000, busy);
            let limit = settle(&mut window, rate, 1_000, 5_000, 100);
            assert!((START / 8 * 7..=START).contains(&limit), "{limit}");
        }
    }

    #[test]
    fn a_pause_after_a_burst_is_no_slowness() {
        let mut window = SendWindow::default();
        let limit = settle(&mut window, 25_000, 0, 2_000, 100_000);
        assert!(window.since.is_some() && window.was_full);
        let after = window.sent(Instant(9_000_000), 1_400, false);
        assert!(
            after.is_none_or(|after| after >= limit),
            "{limit}, {after:?}"
        );
    }
}
