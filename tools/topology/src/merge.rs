//! Puts the events of several partitions into the one order of their sequence numbers. Pure.

use std::collections::BTreeMap;

/// Events wait here until those before them have come.
#[derive(Debug)]
pub(crate) struct Merge<T> {
    next: Option<u64>,
    waiting: BTreeMap<u64, T>,
}

impl<T> Merge<T> {
    /// Begins with `next`; where [`Merge::begin`] finds a wanted one if `None`.
    pub(crate) const fn from(next: Option<u64>) -> Self {
        Self {
            next,
            waiting: BTreeMap::new(),
        }
    }

    /// Takes an event. One that was given out or waits already changes nothing.
    pub(crate) fn put(&mut self, seq: u64, event: T) {
        if self.next.is_none_or(|next| seq >= next) {
            self.waiting.entry(seq).or_insert(event);
        }
    }

    /// The next event in order, if it is there.
    pub(crate) fn pop(&mut self) -> Option<T> {
        let event = self.waiting.remove(&self.next?)?;
        self.next = self.next.map(|next| next + 1);
        Some(event)
    }

    /// Goes on behind `last` if it is the turn of one of the events from `first` to it, which will never come. Says what
    /// was left out.
    pub(crate) fn jump(&mut self, first: u64, last: u64) -> Option<(u64, u64)> {
        let next = self.next.filter(|next| (first..=last).contains(next))?;
        self.pass_to(last + 1);
        Some((next, last))
    }

    /// Goes on with this event: none of those before it will come.
    pub(crate) fn pass_to(&mut self, seq: u64) {
        self.next = Some(seq);
        self.waiting = self.waiting.split_off(&seq);
    }

    /// Begins with the lowest of those that wait if it is wanted, else leaves it out.
    pub(crate) fn begin(&mut self, is_wanted: impl Fn(&T) -> bool) {
        let Some(lowest) = self.waiting.first_entry() else {
            return;
        };
        if is_wanted(lowest.get()) {
            self.next = Some(*lowest.key());
        } else {
            lowest.remove();
        }
    }

    /// What is missing before the lowest number that waits.
    pub(crate) fn hole(&self) -> Option<(u64, u64)> {
        let lowest = self.lowest()?;
        let next = self.next.filter(|next| *next < lowest)?;
        Some((next, lowest - 1))
    }

    /// The event whose turn it is; `None` until it began.
    pub(crate) const fn next(&self) -> Option<u64> {
        self.next
    }

    /// The lowest of those that wait.
    pub(crate) fn lowest(&self) -> Option<u64> {
        self.waiting.first_key_value().map(|(seq, _)| *seq)
    }

    /// How many events wait.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn drain(merge: &mut Merge<u64>) -> Vec<u64> {
        std::iter::from_fn(|| merge.pop()).collect()
    }

    #[test]
    fn what_is_passed_over_stays_out() {
        let mut merge = Merge::from(Some(1));
        for seq in [1, 2, 6, 5] {
            merge.put(seq, seq);
        }
        assert_eq!(drain(&mut merge), [1, 2]);
        assert_eq!(merge.hole(), Some((3, 4)));
        merge.pass_to(5);
        assert_eq!(drain(&mut merge), [5, 6]);
        merge.put(4, 4);
        assert_eq!(
            (drain(&mut merge), merge.len()),
            (vec![], 0),
            "what comes late stays out"
        );
    }

    #[test]
    fn what_will_never_come_is_passed_over_once_it_is_its_turn() {
        let mut merge = Merge::from(Some(3));
        merge.put(7, 7);
        assert_eq!(merge.jump(4, 6), None, "3 may come yet");
        merge.put(3, 3);
        assert_eq!(drain(&mut merge), [3]);
        assert_eq!(merge.jump(4, 6), Some((4, 6)));
        assert_eq!(merge.jump(4, 6), None, "every partition says it");
        assert_eq!(drain(&mut merge), [7]);
    }

    #[test]
    fn the_first_that_is_wanted_begins() {
        let mut merge = Merge::from(None);
        for seq in [4, 2, 7, 5] {
            merge.put(seq, seq);
        }
        for _ in 0..3 {
            assert!(drain(&mut merge).is_empty());
            merge.begin(|seq| *seq == 5);
        }
        assert_eq!(drain(&mut merge), [5]);
        assert_eq!(merge.hole(), Some((6, 6)));
    }

    #[test]
    fn without_a_first_number_the_lowest_begins() {
        let mut merge = Merge::from(None);
        merge.put(9, 9);
        merge.put(8, 8);
        assert_eq!(merge.pop(), None);
        merge.begin(|_| true);
        assert_eq!(drain(&mut merge), [8, 9]);
    }

    proptest! {
        #[test]
        fn any_interleaving_comes_out_in_order(
            order in Just((1..=60_u64).collect::<Vec<_>>()).prop_shuffle(),
            again in prop::collection::vec(1..=60_u64, 0..20),
        ) {
            let mut merge = Merge::from(Some(1));
            let mut out = Vec::new();
            for seq in order.into_iter().chain(again) {
                merge.put(seq, seq);
                out.extend(std::iter::from_fn(|| merge.pop()));
            }
            prop_assert_eq!(out, (1..=60).collect::<Vec<_>>());
        }
    }
}
