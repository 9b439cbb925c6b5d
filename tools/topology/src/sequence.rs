//! Gives out the events of all partitions in the order of their numbers, and tells of those that will never come. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::brake::{Brake, Steering};
use crate::horizon::Horizon;
use crate::merge::Merge;

/// Events wait here until each one before them has come, or cannot come any more.
#[derive(Debug)]
pub(crate) struct Sequence<T> {
    merge: Merge<T>,
    horizon: Horizon,
    brake: Brake,
}

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step<T> {
    /// An event.
    Event(T),
    /// Events from the first to the second number will never come.
    Missing(u64, u64),
}

/// What it goes on with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Awaited {
    /// The oldest event that there is, whichever that may be.
    Oldest,
    /// This one.
    Seq(u64),
}

impl<T> Sequence<T> {
    /// Begins with event `first`, else with the oldest that is wanted. Little more than `window` events will wait.
    pub(crate) fn new(first: Option<u64>, window: usize) -> Self {
        Self {
            merge: Merge::from(first),
            horizon: Horizon::default(),
            brake: Brake::new(window),
        }
    }

    /// From here on these partitions count.
    pub(crate) fn join(&mut self, partitions: &BTreeSet<u32>) {
        for partition in partitions {
            self.horizon.join(*partition);
        }
    }

    /// Takes an event. One that was given out or waits already changes nothing.
    pub(crate) fn put(&mut self, partition: u32, seq: u64, event: T) {
        self.horizon.read(partition, seq);
        self.merge.put(seq, event);
    }

    /// Takes that a partition has no more of the events up to this one: a gap record. The others may have some.
    pub(crate) fn gap(&mut self, partition: u32, last: u64) {
        self.horizon.read(partition, last);
    }

    /// Takes the offsets that are read next.
    pub(crate) fn stand(&mut self, positions: &BTreeMap<u32, i64>) {
        self.horizon.stand(positions);
    }

    /// Takes what the brokers say of all partitions ([`Horizon::answer`]).
    pub(crate) fn answer(&mut self, spans: &BTreeMap<u32, Range<i64>>) {
        self.horizon.answer(spans);
    }

    /// The next event, or what is missing before it.
    pub(crate) fn next(&mut self, is_wanted: impl Fn(&T) -> bool) -> Option<Step<T>> {
        loop {
            if let Some(event) = self.merge.pop() {
                return Some(Step::Event(event));
            }
            let before = self.held()?;
            if !self.horizon.is_past(before) {
                return None;
            }
            match self.merge.next() {
                Some(next) => {
                    self.merge.pass_to(before);
                    return Some(Step::Missing(next, before - 1));
                }
                None => self.merge.begin(&is_wanted),
            }
        }
    }

    /// What those that were read wait for.
    pub(crate) fn awaited(&self) -> Option<Awaited> {
        self.held()?;
        Some(self.merge.next().map_or(Awaited::Oldest, Awaited::Seq))
    }

    /// Whether the brokers must be asked before it goes on.
    pub(crate) fn wants_answer(&self) -> bool {
        self.held()
            .is_some_and(|before| self.horizon.wants_answer(before))
    }

    /// Says in which partitions to read on.
    pub(crate) fn steer(&mut self) -> Steering {
        let held = self.held();
        let ahead = || held.map_or_else(BTreeSet::new, |before| self.horizon.ahead(before));
        self.brake.steer(self.merge.len(), ahead)
    }

    /// The event that waits for those before it. Behind a gap record it may not be there yet.
    fn held(&self) -> Option<u64> {
        let lowest = self.merge.lowest();
        lowest.or_else(|| {
            let next = self.merge.next()?;
            (self.horizon.far() >= next).then(|| self.horizon.far() + 1)
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// More than any of these stories has.
    const WINDOW: usize = 100;

    const NONE: [Step<u64>; 0] = [];

    fn drain(sequence: &mut Sequence<u64>) -> Vec<Step<u64>> {
        std::iter::from_fn(|| sequence.next(|_| true)).collect()
    }

    fn reader(first: Option<u64>, partitions: u32) -> Sequence<u64> {
        let mut sequence = Sequence::new(first, WINDOW);
        sequence.join(&(0..partitions).collect());
        sequence
    }

    fn take<const N: usize>(sequence: &mut Sequence<u64>, partition: u32, seqs: [u64; N]) {
        for seq in seqs {
            sequence.put(partition, seq, seq);
        }
    }

    /// All partitions end there, and were read so far.
    fn look<const N: usize>(sequence: &mut Sequence<u64>, ends: [i64; N], positions: [i64; N]) {
        sequence.answer(&(0..).zip(ends.map(|end| 0..end)).collect());
        sequence.stand(&(0..).zip(positions).collect());
    }

    /// A reader that was left alone for a while reads 102 of one partition; 101 is next in the client's queue. However long
    /// that takes, it is late and not missing.
    #[test]
    fn a_slow_reader_loses_nothing() {
        let mut sequence = reader(Some(101), 2);
        take(&mut sequence, 1, [102]);
        look(&mut sequence, [5, 5], [4, 5]);
        assert_eq!(drain(&mut sequence), NONE);
        take(&mut sequence, 0, [101]);
        assert_eq!(drain(&mut sequence), [Step::Event(101), Step::Event(102)]);
    }

    /// A transaction's coordinator commits it in one partition, then the other's leader dies: 101 becomes visible there
    /// when another one was elected. Other transactions follow meanwhile.
    #[test]
    fn a_transaction_that_is_committed_in_one_partition_first_loses_nothing() {
        let mut sequence = reader(Some(101), 3);
        take(&mut sequence, 0, [102, 103]);
        sequence.answer(&[(0, 0..9), (2, 0..2)].into());
        sequence.stand(&[(0, 9), (1, 6), (2, 2)].into());
        assert_eq!(drain(&mut sequence), NONE, "its leader does not answer");
        look(&mut sequence, [9, 8, 2], [9, 6, 2]);
        assert_eq!(drain(&mut sequence), NONE, "its end is not committed");
        take(&mut sequence, 1, [101]);
        assert_eq!(drain(&mut sequence).len(), 3);
    }

    /// 100,000 events may wait within two seconds, for some of a partition that was added and is not known of yet.
    #[test]
    fn a_partition_that_was_added_loses_nothing() {
        let mut sequence = Sequence::new(Some(1), 2);
        sequence.join(&(0..2).collect());
        take(&mut sequence, 0, [2, 4]);
        take(&mut sequence, 1, [3, 5]);
        assert_eq!(drain(&mut sequence), NONE);
        assert_eq!(sequence.steer().pause, [0, 1].into(), "both are ahead");
        assert!(sequence.wants_answer());
        sequence.join(&[2].into());
        look(&mut sequence, [4, 4, 3], [3, 3, 0]);
        assert_eq!(drain(&mut sequence), NONE);
        take(&mut sequence, 2, [1]);
        assert_eq!(drain(&mut sequence).len(), 5);
        assert_eq!(sequence.steer().resume, [0, 1].into());
    }

    /// One of the brokers is connected a second after the others.
    #[test]
    fn a_broker_that_is_late_loses_nothing_and_the_others_pause() {
        for first in [None, Some(1)] {
            let mut sequence = Sequence::new(first, 2);
            sequence.join(&(0..2).collect());
            take(&mut sequence, 0, [3, 4, 5]);
            assert_eq!(sequence.steer().pause, [0].into());
            look(&mut sequence, [4, 3], [3, 0]);
            assert_eq!(drain(&mut sequence), NONE);
            take(&mut sequence, 1, [1, 2]);
            assert_eq!(drain(&mut sequence).len(), 5, "{first:?}");
        }
    }

    /// The first transaction has five events; the last of them is read first.
    #[test]
    fn a_reader_that_begins_on_nothing_begins_with_the_oldest() {
        let mut sequence = reader(None, 2);
        take(&mut sequence, 1, [5]);
        assert_eq!(sequence.awaited(), Some(Awaited::Oldest));
        look(&mut sequence, [5, 2], [0, 1]);
        assert_eq!(drain(&mut sequence), NONE);
        take(&mut sequence, 0, [1, 2, 3, 4]);
        assert_eq!(drain(&mut sequence).len(), 5);
    }

    #[test]
    fn what_is_older_than_wanted_is_passed_over_up_to_the_first_that_is_not() {
        let mut sequence = reader(None, 1);
        take(&mut sequence, 0, [4, 6, 7]);
        look(&mut sequence, [3], [3]);
        let given = std::iter::from_fn(|| sequence.next(|seq| *seq > 4));
        assert_eq!(
            given.collect::<Vec<_>>(),
            [Step::Event(6), Step::Event(7)],
            "what is missing before it is not wanted"
        );
    }

    #[test]
    fn what_was_deleted_is_told_once_all_is_read() {
        let mut sequence = reader(Some(1), 2);
        take(&mut sequence, 0, [3, 6]);
        assert_eq!(drain(&mut sequence), NONE);
        look(&mut sequence, [9, 4], [9, 3]);
        assert_eq!(drain(&mut sequence), NONE);
        look(&mut sequence, [9, 4], [9, 4]);
        let told = [
            Step::Missing(1, 2),
            Step::Event(3),
            Step::Missing(4, 5),
            Step::Event(6),
        ];
        assert_eq!(drain(&mut sequence), told);
    }

    /// The outbox was full: each partition has a record that says so, and nothing follows yet.
    #[test]
    fn a_gap_is_told_when_every_partition_was_read_up_to_it() {
        let mut sequence = reader(Some(3), 2);
        sequence.gap(0, 6);
        look(&mut sequence, [2, 2], [1, 0]);
        assert_eq!(drain(&mut sequence), NONE, "3 may come yet");
        take(&mut sequence, 1, [3]);
        assert_eq!(drain(&mut sequence), [Step::Event(3)]);
        sequence.gap(1, 6);
        assert_eq!(drain(&mut sequence), [Step::Missing(4, 6)]);
        assert_eq!(sequence.awaited(), None);
    }

    /// Somebody deleted the records of one partition: its gap record names all that the partition may have had.
    #[test]
    fn a_partition_that_was_truncated_takes_no_event_of_another_with_it() {
        let mut sequence = reader(Some(1), 2);
        sequence.gap(0, 5);
        take(&mut sequence, 1, [2, 4, 6]);
        look(&mut sequence, [9, 9], [9, 9]);
        let told = [
            Step::Missing(1, 1),
            Step::Event(2),
            Step::Missing(3, 3),
            Step::Event(4),
            Step::Missing(5, 5),
            Step::Event(6),
        ];
        assert_eq!(drain(&mut sequence), told);
    }

    /// What may happen while a topic is read.
    #[derive(Debug, Clone, Copy)]
    enum Turn {
        /// The mirror writes the next transaction and commits it in no partition yet.
        Write,
        /// A partition's broker learns of the commit.
        Commit(usize),
        /// A record of a partition is read, if one is visible.
        Read(usize),
        /// All brokers but this one are asked, after which partitions there are.
        Ask(usize),
    }

    fn turn() -> impl Strategy<Value = Turn> {
        prop_oneof![
            2 => Just(Turn::Write),
            3 => (0..3_usize).prop_map(Turn::Commit),
            6 => (0..3_usize).prop_map(Turn::Read),
            1 => (0..4_usize).prop_map(Turn::Ask),
        ]
    }

    /// A topic of three partitions, of which the third is added later; an offset for each event and none for markers.
    #[derive(Default)]
    struct Topic {
        written: [Vec<u64>; 3],
        visible: [usize; 3],
        read: [usize; 3],
        known: u32,
    }

    impl Topic {
        fn read(&mut self, place: usize, sequence: &mut Sequence<u64>) {
            let is_known = place < self.known as usize;
            if is_known && self.read[place] < self.visible[place] {
                let seq = self.written[place][self.read[place]];
                self.read[place] += 1;
                sequence.put(place as u32, seq, seq);
            }
        }

        fn ask(&mut self, silent: usize, sequence: &mut Sequence<u64>) {
            if !self.written[2].is_empty() && self.known == 2 {
                self.known = 3;
                sequence.join(&[2].into());
            }
            let known = (0..self.known).filter(|place| *place as usize != silent);
            let spans = known.map(|place| (place, 0..self.written[place as usize].len() as i64));
            sequence.answer(&spans.collect());
            let read = (0..).zip(self.read);
            sequence.stand(&read.map(|(place, read)| (place, read as i64)).collect());
        }
    }

    proptest! {
        /// Ten transactions of three events, of which some were deleted before anybody read them. Whatever happens in
        /// whichever order, every event that is there comes, in order, and the others are told to be missing.
        #[test]
        fn nothing_that_is_late_is_missing(
            places in prop::collection::vec(0..3_usize, 30),
            deleted in prop::collection::btree_set(1..=29_u64, 0..5),
            adds in 0..30_u64,
            turns in prop::collection::vec(turn(), 300),
            from_oldest in any::<bool>(),
        ) {
            let place = |seq: u64| match places[seq as usize - 1] {
                2 if seq <= adds => 0,
                other => other,
            };
            let mut topic = Topic { known: 2, ..Topic::default() };
            let mut next = 1;
            let mut sequence = reader((!from_oldest).then_some(1), 2);
            let mut given = Vec::new();
            // In the end all is written, committed, read and asked for.
            let end = (0..10).map(|_| Turn::Write).chain((0..3).map(Turn::Commit));
            let end = end.chain((0..3).cycle().map(Turn::Read).take(90)).chain([Turn::Ask(3)]);
            let end = end.chain((0..3).cycle().map(Turn::Read).take(90)).chain([Turn::Ask(3)]);
            for turn in turns.into_iter().chain(end) {
                match turn {
                    // A transaction is written when the one before it is committed, as far as its coordinator knows.
                    Turn::Write if next <= 30 => {
                        for seq in (next..next + 3).filter(|seq| !deleted.contains(seq)) {
                            topic.written[place(seq)].push(seq);
                        }
                        next += 3;
                    }
                    Turn::Write => {}
                    Turn::Commit(place) => topic.visible[place] = topic.written[place].len(),
                    Turn::Read(place) => topic.read(place, &mut sequence),
                    Turn::Ask(silent) => topic.ask(silent, &mut sequence),
                }
                given.extend(drain(&mut sequence));
            }
            let first = if from_oldest { (1..=30).find(|seq| !deleted.contains(seq)) } else { Some(1) };
            let mut expected = first.unwrap();
            for step in given {
                match step {
                    Step::Event(seq) => {
                        prop_assert_eq!(seq, expected);
                        expected += 1;
                    }
                    Step::Missing(first, last) => {
                        prop_assert_eq!(first, expected);
                        prop_assert!((first..=last).all(|seq| deleted.contains(&seq)));
                        expected = last + 1;
                    }
                }
            }
            prop_assert_eq!(expected, 31);
        }
    }
}
