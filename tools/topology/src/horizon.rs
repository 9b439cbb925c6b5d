//! Decides whether an event that has not come is late or will never come. Pure.
//!
//! The mirror writes events in the order of their numbers and a broker makes a transaction's records visible only when
//! all of them are written, in each partition in its own time. So once an event was read, every event before it lies in
//! some partition, before the end that the partition has then: the end of everything that is written, be its transaction
//! still open or not. What is not there when every partition was read up to that end, or to a later event, never comes.
//! No clock has a say.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// How far all partitions were read, and how far they reach.
#[derive(Debug, Default)]
pub(crate) struct Horizon {
    partitions: BTreeMap<u32, Reach>,
    /// The highest number that was read.
    far: u64,
    /// Every event before this one was written when the brokers were last asked.
    asked: u64,
}

/// How far a partition was read.
#[derive(Debug, Default)]
struct Reach {
    /// The last event that was seen; those of a partition come in order.
    last: u64,
    /// The offset that is read next.
    position: Option<i64>,
    /// Where it ended when the brokers were last asked; `None` if none answered.
    end: Option<i64>,
}

impl Reach {
    /// Whether everything before this event was read, as far as it was written when the brokers were asked.
    fn is_past(&self, before: u64) -> bool {
        self.last + 1 >= before || self.end.is_some_and(|end| self.position >= Some(end))
    }
}

impl Horizon {
    /// From here on this partition counts.
    pub(crate) fn join(&mut self, partition: u32) {
        self.partitions.entry(partition).or_default();
    }

    /// A record of this number was read.
    pub(crate) fn read(&mut self, partition: u32, seq: u64) {
        let reach = self.partitions.entry(partition).or_default();
        reach.last = reach.last.max(seq);
        self.far = self.far.max(seq);
    }

    /// The offsets that are read next.
    pub(crate) fn stand(&mut self, positions: &BTreeMap<u32, i64>) {
        for (partition, reach) in &mut self.partitions {
            reach.position = reach.position.max(positions.get(partition).copied());
        }
    }

    /// Takes what the brokers say: the offsets that each partition has, written records without regard to their
    /// transactions. Those of which nobody says it are left out. Which partitions there are must have been asked since the
    /// last record was read, and the offsets since then.
    pub(crate) fn answer(&mut self, spans: &BTreeMap<u32, Range<i64>>) {
        self.asked = self.far + 1;
        for (partition, reach) in &mut self.partitions {
            let span = spans.get(partition);
            reach.end = span.map(|span| span.end);
            // What is gone for its age is not waited for.
            reach.position = reach.position.max(span.map(|span| span.start));
        }
    }

    /// Whether only the brokers can say if something before this event is still to come.
    pub(crate) fn wants_answer(&self, before: u64) -> bool {
        let mut partitions = self.partitions.values();
        self.asked < before || partitions.any(|reach| !reach.is_past(before) && reach.end.is_none())
    }

    /// Whether everything before this event was read that ever will be. The first event has the number 1.
    pub(crate) fn is_past(&self, before: u64) -> bool {
        let mut partitions = self.partitions.values();
        before <= 1 || (self.asked >= before && partitions.all(|reach| reach.is_past(before)))
    }

    /// The partitions that have nothing before this event, as they were read further.
    pub(crate) fn ahead(&self, before: u64) -> BTreeSet<u32> {
        let partitions = self.partitions.iter();
        let ahead = partitions.filter(|(_, reach)| reach.last + 1 >= before);
        ahead.map(|(partition, _)| *partition).collect()
    }

    /// The highest number that was read.
    pub(crate) const fn far(&self) -> u64 {
        self.far
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two partitions: event 100 of the first was read, 102 too; nothing of the second.
    fn after_102() -> Horizon {
        let mut horizon = Horizon::default();
        horizon.join(0);
        horizon.join(1);
        horizon.read(0, 100);
        horizon.read(0, 102);
        horizon
    }

    fn spans<const N: usize>(spans: [Range<i64>; N]) -> BTreeMap<u32, Range<i64>> {
        (0..).zip(spans).collect()
    }

    #[test]
    fn before_the_brokers_were_asked_everything_may_come() {
        let mut horizon = after_102();
        horizon.read(1, 103);
        assert!(horizon.wants_answer(102));
        assert!(!horizon.is_past(102), "in a partition that nobody knows of");
        horizon.answer(&spans([0..9, 0..9]));
        assert!(horizon.is_past(102), "both were read further");
    }

    #[test]
    fn what_is_written_and_not_visible_yet_is_late() {
        let mut horizon = after_102();
        horizon.answer(&spans([0..9, 0..7]));
        horizon.stand(&[(0, 9), (1, 6)].into());
        assert!(!horizon.is_past(102), "its transaction is open there");
        horizon.stand(&[(1, 7)].into());
        assert!(horizon.is_past(102), "the transaction had nothing of it");
    }

    #[test]
    fn a_broker_that_does_not_answer_proves_nothing() {
        let mut horizon = after_102();
        horizon.stand(&[(0, 9), (1, 7)].into());
        horizon.answer(&[(0, 0..9)].into());
        assert!(!horizon.is_past(102));
        assert!(horizon.wants_answer(102));
        horizon.answer(&spans([0..9, 0..7]));
        assert!(horizon.is_past(102));
    }

    #[test]
    fn what_was_asked_before_an_event_came_says_nothing_of_those_before_it() {
        let mut horizon = after_102();
        horizon.stand(&[(0, 9), (1, 7)].into());
        horizon.answer(&spans([0..9, 0..7]));
        horizon.read(0, 110);
        assert!(!horizon.is_past(110) && horizon.wants_answer(110));
        horizon.answer(&spans([0..12, 0..8]));
        assert!(!horizon.is_past(110));
        horizon.stand(&[(1, 8)].into());
        assert!(horizon.is_past(110));
    }

    #[test]
    fn what_is_gone_for_its_age_never_comes() {
        let mut horizon = after_102();
        horizon.stand(&[(1, 3)].into());
        horizon.answer(&spans([0..9, 7..7]));
        assert!(horizon.is_past(102));
    }

    #[test]
    fn before_the_first_there_is_nothing() {
        assert!(Horizon::default().is_past(1));
    }
}
