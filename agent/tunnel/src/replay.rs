//! The replay window (RFC 6479): which counters of one key were seen.

/// Counters that may arrive late.
const WINDOW: u64 = 2_048;
const WORDS: usize = (WINDOW / 64) as usize;

/// Remembers the last 2048 counters of one key.
#[derive(Debug, Clone)]
pub struct ReplayWindow {
    /// One more than the highest counter seen.
    next: u64,
    seen: [u64; WORDS],
}

impl Default for ReplayWindow {
    fn default() -> Self {
        Self {
            next: 0,
            seen: [0; WORDS],
        }
    }
}

impl ReplayWindow {
    /// Whether a datagram with this counter may be opened: it is neither seen nor too old.
    pub fn accepts(&self, counter: u64) -> bool {
        if counter >= self.next {
            return counter != u64::MAX;
        }
        self.next - counter <= WINDOW && self.seen[Self::word(counter)] & Self::bit(counter) == 0
    }

    /// Remembers the counter of a datagram that was opened.
    pub fn mark(&mut self, counter: u64) {
        if counter >= self.next {
            self.forget_up_to(counter);
            self.next = counter.saturating_add(1);
        }
        self.seen[Self::word(counter)] |= Self::bit(counter);
    }

    fn forget_up_to(&mut self, counter: u64) {
        if counter - self.next >= WINDOW {
            self.seen = [0; WORDS];
            return;
        }
        for skipped in self.next..=counter {
            self.seen[Self::word(skipped)] &= !Self::bit(skipped);
        }
    }

    const fn word(counter: u64) -> usize {
        (counter / 64 % WORDS as u64) as usize
    }

    const fn bit(counter: u64) -> u64 {
        1 << (counter % 64)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_highest_counter_is_never_accepted() {
        let mut window = ReplayWindow::default();
        assert!(!window.accepts(u64::MAX));
        window.mark(u64::MAX - 1);
        assert!(
            !window.accepts(u64::MAX)
                && !window.accepts(u64::MAX - 1)
                && window.accepts(u64::MAX - 2)
        );
    }

    proptest! {
        #[test]
        fn it_is_a_set_of_the_last_counters(steps in proptest::collection::vec((0_u64..5_000, any::<bool>()), 1..400)) {
            let mut window = ReplayWindow::default();
            let mut seen = BTreeSet::new();
            let mut base = 0;
            for (step, advance) in steps {
                let counter = base + step;
                let highest = seen.last().copied();
                let fresh = !seen.contains(&counter) && highest.is_none_or(|highest| counter + WINDOW > highest);
                prop_assert_eq!(window.accepts(counter), fresh, "{}", counter);
                if fresh {
                    window.mark(counter);
                    seen.insert(counter);
                }
                base += if advance { step / 2 } else { 0 };
            }
        }
    }
}
