//! Puts what a few partitions of the events topic hold into the one order of the sequence numbers, without reading the
//! others: a progress record says how far the stream is, and how far each partition is then. Pure.

use std::collections::BTreeMap;

use crate::brake::{Brake, Steering};

/// Where an item stands that every partition tells of.
pub(crate) const EVERYWHERE: u32 = u32::MAX;

/// Items wait here until all that is before them has come.
#[derive(Debug)]
pub(crate) struct Order<T> {
    brake: Brake,
    /// Every event up to this one is in its partition, as far as is known.
    promised: u64,
    /// The last one of each partition then.
    ends: Vec<u64>,
    partitions: BTreeMap<u32, Reach>,
    /// By number and partition.
    waiting: BTreeMap<(u64, u32), T>,
}

/// How far a partition was read.
#[derive(Debug, Default)]
struct Reach {
    /// The last record that was seen.
    last: Option<u64>,
    /// Nothing up to this one will come.
    floor: u64,
}

impl<T> Order<T> {
    /// Nothing is known yet. Little more than `window` items will wait for others.
    pub(crate) const fn new(window: usize) -> Self {
        Self {
            brake: Brake::new(window),
            promised: 0,
            ends: Vec::new(),
            partitions: BTreeMap::new(),
            waiting: BTreeMap::new(),
        }
    }

    /// From here on this partition counts; nothing up to `floor` will come from it.
    pub(crate) fn join(&mut self, partition: u32, floor: u64) {
        let reach = self.partitions.entry(partition).or_default();
        reach.floor = reach.floor.max(floor);
    }

    /// Takes how far the stream is: its last event, and the last one of each partition.
    pub(crate) fn promise(&mut self, last: u64, ends: Vec<u64>) {
        if last >= self.promised {
            self.promised = last;
            self.ends = ends;
        }
    }

    /// Takes that a record of a partition was read. The one before it that was.
    pub(crate) fn reach(&mut self, partition: u32, seq: u64) -> Option<u64> {
        let reach = self.partitions.entry(partition).or_default();
        let before = reach.last;
        reach.last = reach.last.max(Some(seq));
        before
    }

    /// Lets an item wait for its turn. One of this number and partition that waits already stays.
    pub(crate) fn put(&mut self, seq: u64, partition: u32, item: T) {
        self.waiting.entry((seq, partition)).or_insert(item);
    }

    /// Says in which partitions to read on. Where a site has moved, all of its new partition would wait until the old one is
    /// read: whoever the first of those that wait does not wait for pauses.
    pub(crate) fn steer(&mut self) -> Steering {
        let first = self.waiting.first_key_value().map(|((seq, _), _)| *seq);
        let (partitions, ends) = (self.partitions.iter(), &self.ends);
        self.brake.steer(self.waiting.len(), || {
            let ahead = partitions.filter(|(partition, reach)| {
                first.is_some_and(|seq| reach.has_nothing_up_to(seq, end_of(**partition, ends)))
            });
            ahead.map(|(partition, _)| *partition).collect()
        })
    }

    /// The next item whose turn it is.
    pub(crate) fn pop(&mut self) -> Option<T> {
        let (seq, _) = *self.waiting.first_key_value()?.0;
        let mut partitions = self.partitions.iter();
        let is_due = seq <= self.promised
            && partitions.all(|(partition, reach)| {
                reach.has_nothing_up_to(seq, end_of(*partition, &self.ends))
            });
        is_due.then(|| self.waiting.pop_first().map(|(_, item)| item))?
    }
}

impl Reach {
    /// Whether nothing up to `seq` is still to come, where `end` is the last event that was promised.
    fn has_nothing_up_to(&self, seq: u64, end: u64) -> bool {
        let read = self.last.unwrap_or(0).max(self.floor);
        read >= end || read >= seq
    }
}

/// The last event that a partition has, as far as was promised.
fn end_of(partition: u32, ends: &[u64]) -> u64 {
    ends.get(partition as usize).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const NONE: [u64; 0] = [];

    /// More than any of these stories has.
    const WINDOW: usize = 100;

    fn drain(order: &mut Order<u64>) -> Vec<u64> {
        std::iter::from_fn(|| order.pop()).collect()
    }

    fn take(order: &mut Order<u64>, partition: u32, seq: u64) {
        order.reach(partition, seq);
        order.put(seq, partition, seq);
    }

    #[test]
    fn an_event_waits_for_the_promise_and_for_what_is_before_it() {
        let mut order = Order::new(WINDOW);
        order.join(0, 0);
        order.join(1, 0);
        take(&mut order, 1, 5);
        assert_eq!(drain(&mut order), NONE, "nobody has said that it is there");
        order.promise(6, vec![4, 5, 6]);
        assert_eq!(
            drain(&mut order),
            NONE,
            "the other partition has an earlier one"
        );
        take(&mut order, 0, 2);
        assert_eq!(drain(&mut order), [2]);
        take(&mut order, 0, 4);
        assert_eq!(drain(&mut order), [4, 5]);
    }

    /// Input: a window of two; a site's new partition is read before its old one. Output: the new one pauses with the third
    /// that waits, and is read again when half of the window has gone.
    #[test]
    fn who_read_further_than_what_is_waited_for_pauses_until_others_have_caught_up() {
        let mut order = Order::new(2);
        order.join(0, 0);
        order.join(1, 0);
        order.promise(9, vec![6, 9]);
        let on = Steering::default();
        for seq in [5, 7] {
            take(&mut order, 1, seq);
            assert_eq!(drain(&mut order), NONE);
            assert_eq!(order.steer(), on);
        }
        take(&mut order, 1, 8);
        assert_eq!(order.steer(), pause([1]));
        assert_eq!(order.steer(), on, "it is told once");
        take(&mut order, 0, 4);
        assert_eq!(drain(&mut order), [4]);
        assert_eq!(order.steer(), on);
        take(&mut order, 0, 6);
        assert_eq!(drain(&mut order), [5, 6, 7, 8]);
        assert_eq!(order.steer(), resume([1]));
    }

    #[test]
    fn a_partition_that_joins_holds_back_what_comes_after_its_own() {
        let mut order = Order::new(WINDOW);
        order.join(0, 0);
        order.promise(3, vec![3, 1]);
        take(&mut order, 0, 3);
        assert_eq!(drain(&mut order), [3]);
        order.join(1, 1);
        order.promise(7, vec![7, 6]);
        take(&mut order, 0, 7);
        assert_eq!(drain(&mut order), NONE);
        take(&mut order, 1, 6);
        assert_eq!(drain(&mut order), [6, 7]);
    }

    #[test]
    fn what_is_gone_for_its_age_is_not_waited_for() {
        let mut order = Order::new(WINDOW);
        order.join(0, 0);
        order.join(1, 0);
        order.promise(9, vec![9, 2]);
        take(&mut order, 0, 8);
        assert_eq!(drain(&mut order), NONE);
        order.join(1, 2);
        assert_eq!(drain(&mut order), [8]);
    }

    #[test]
    fn what_every_partition_tells_is_told_once() {
        let mut order = Order::new(WINDOW);
        for partition in 0..2 {
            order.join(partition, 0);
            order.promise(4, vec![4, 4]);
            order.reach(partition, 4);
            order.put(4, EVERYWHERE, 4);
        }
        assert_eq!(drain(&mut order), [4]);
    }

    fn pause<const N: usize>(partitions: [u32; N]) -> Steering {
        let pause = partitions.into();
        let resume = BTreeSet::new();
        Steering { pause, resume }
    }

    fn resume<const N: usize>(partitions: [u32; N]) -> Steering {
        let resume = partitions.into();
        let pause = BTreeSet::new();
        Steering { pause, resume }
    }

    proptest! {
        /// Sixty events in three partitions, a site's old ones and its new one, are read in any mixture but where reading is
        /// paused. All come, in order, and no more wait than the window and one for each partition.
        #[test]
        fn a_reader_that_pauses_gets_everything_and_holds_little(
            places in prop::collection::vec(0..3_usize, 60),
            mixture in prop::collection::vec(0..3_usize, 200),
            window in 0..8_usize,
        ) {
            let places = &places;
            let of = |place: usize| (1..=60_u64).filter(move |seq| places[*seq as usize - 1] == place);
            let mut left: Vec<Vec<u64>> = (0..3).map(|place| of(place).rev().collect()).collect();
            let ends = left.iter().map(|seqs| seqs.first().copied().unwrap_or(0));
            let mut order = Order::new(window);
            order.promise(60, ends.collect());
            for partition in 0..3 {
                order.join(partition, 0);
            }
            let mut paused = BTreeSet::new();
            let mut out = Vec::new();
            // Once the mixture is over, all have their turn until nothing is left.
            for place in mixture.into_iter().chain((0..200).map(|turn| turn % 3)) {
                let partition = place as u32;
                if !paused.contains(&partition) && let Some(seq) = left[place].pop() {
                    take(&mut order, partition, seq);
                }
                out.extend(drain(&mut order));
                prop_assert!(order.waiting.len() <= window + 3);
                let Steering { pause, resume } = order.steer();
                paused.extend(pause);
                paused.retain(|partition| !resume.contains(partition));
            }
            prop_assert_eq!(out, (1..=60).collect::<Vec<_>>());
        }

        /// Ten transactions into three partitions of which two are read, the second one from event `moves` on, as if a
        /// site moved there; what the readers bring comes in any mixture, each partition's in order.
        #[test]
        fn any_mixture_comes_out_once_and_in_order(
            places in prop::collection::vec(0..3_u32, 30),
            mixture in prop::collection::vec(0..3_usize, 120),
            moves in 1..30_u64,
        ) {
            let place = |seq: u64| match places[seq as usize - 1] {
                1 if seq < moves => 0,
                other => other,
            };
            let of = |partition| (1..=30).filter(move |seq| place(*seq) == partition);
            let ends = |last: u64| (0..3).map(|partition| {
                of(partition).take_while(|seq| *seq <= last).last().unwrap_or(0)
            }).collect::<Vec<_>>();
            let (mut first, mut second) = (of(0), of(1));
            let mut told = (1..=10).map(|number| number * 3);
            let mut order = Order::new(WINDOW);
            order.join(0, 0);
            let mut joined = false;
            let mut out = Vec::new();
            for source in mixture.into_iter().chain((0..120).map(|turn| turn % 3)) {
                match source {
                    0 => if let Some(seq) = first.next() { take(&mut order, 0, seq) },
                    1 => if joined && let Some(seq) = second.next() { take(&mut order, 1, seq) },
                    _ => if let Some(last) = told.next() {
                        if last >= moves && !joined {
                            joined = true;
                            order.join(1, 0);
                        }
                        order.promise(last, ends(last));
                    }
                }
                out.extend(drain(&mut order));
            }
            prop_assert_eq!(out, (1..=30).filter(|seq| place(*seq) < 2).collect::<Vec<_>>());
        }
    }
}
