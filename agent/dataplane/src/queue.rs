//! What waits while the network takes less than comes: by priority, by flow, and never for long.
//!
//! Priorities share by weight, the urgent first. In each, flows take turns, new and sparse ones before those that have a
//! backlog (RFC 8290), and the delay of each flow is held near 5 ms by CoDel (RFC 8289): by marking what can be marked
//! (RFC 3168), else by dropping. Bounded in bytes and in packets; what is too much is taken from the longest flow, by its
//! weight and drop precedence (RFC 2597).

use std::collections::VecDeque;

use wattle_model::{Instant, Micros};

use crate::marking::{Marking, Priority};

/// Flows that are told apart per priority, …
const FLOWS: usize = 64;
/// … of which so many have a set of places in common: two flows share a turn only where more waited in one set.
const WAYS: usize = 8;
const _: () = assert!(
    WAYS.is_power_of_two() && FLOWS.is_multiple_of(WAYS),
    "sets are apart"
);
/// Bytes that may wait.
pub const MAX_BYTES: usize = 1 << 20;
/// Packets (super-packets count once) that may wait.
const MAX_ITEMS: usize = 1_024;
/// Bytes that a flow of weight 1 may send per turn.
const QUANTUM: i64 = 6_000;
/// Delay that is tolerable for good (RFC 8289 §4.4).
const TARGET: Micros = Micros::from_millis(5);
/// Delay above the target that lasts this long is a standing queue (RFC 8289 §4.3).
const INTERVAL: Micros = Micros::from_millis(100);

/// Bytes per round while others wait, too.
fn share(priority: Priority) -> i64 {
    match priority {
        Priority::RealTime => 256 << 10,
        Priority::Default => 128 << 10,
        Priority::Bulk => 16 << 10,
    }
}

/// Something that can wait.
pub trait Item {
    /// Bytes that it takes.
    fn bytes(&self) -> usize;
    /// Tells the receiver that there is congestion; `false` if it cannot be told, so that the item is to be dropped.
    fn mark(&mut self) -> bool;
}

/// Items that wait.
#[derive(Debug)]
pub struct Queue<T> {
    shares: [Shares<T>; 3],
    marked: u64,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            shares: std::array::from_fn(|_| Shares::default()),
            marked: 0,
        }
    }
}

impl<T: Item> Queue<T> {
    /// Lets an item wait. Returns what had to be dropped for it, which may be the item itself.
    pub fn push(&mut self, now: Instant, marking: Marking, flow: u32, item: T) -> Vec<T> {
        let shares = &mut self.shares[marking.priority as usize];
        shares.push(now, marking, flow, item);
        let mut dropped = Vec::new();
        while self.bytes() > MAX_BYTES || self.items() > MAX_ITEMS {
            let longest = self
                .shares
                .iter_mut()
                .max_by_key(|shares| shares.longest().1);
            let Some(item) = longest.and_then(Shares::drop_longest) else {
                break;
            };
            dropped.push(item);
        }
        dropped
    }

    /// The next item; what had to be dropped before it is handed to `drop`.
    pub fn pop(&mut self, now: Instant, mut drop: impl FnMut(T)) -> Option<T> {
        loop {
            let priority = self.turn()?;
            let Some((item, fate)) = self.shares[priority as usize].pop(now) else {
                continue;
            };
            self.shares[priority as usize].credit -= item.bytes() as i64;
            match fate {
                Fate::Send => return Some(item),
                Fate::Signal => {
                    let mut item = item;
                    if item.mark() {
                        self.marked += 1;
                        return Some(item);
                    }
                    drop(item);
                }
            }
        }
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.shares.iter().map(|shares| shares.bytes).sum()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.items() == 0
    }

    /// Items that were marked instead of dropped.
    pub fn marked(&self) -> u64 {
        self.marked
    }

    fn items(&self) -> usize {
        self.shares.iter().map(|shares| shares.items).sum()
    }

    /// The most urgent priority that waits and has not used up its share of the round.
    fn turn(&mut self) -> Option<Priority> {
        let waits =
            |queue: &Self, priority: &Priority| !queue.shares[*priority as usize].is_empty();
        let ready = |queue: &Self| {
            Priority::ALL.into_iter().find(|priority| {
                waits(queue, priority) && queue.shares[*priority as usize].credit > 0
            })
        };
        loop {
            if let Some(priority) = ready(self) {
                return Some(priority);
            }
            if self.is_empty() {
                return None;
            }
            for priority in Priority::ALL {
                let shares = &mut self.shares[priority as usize];
                shares.credit = (shares.credit + share(priority)).min(share(priority));
            }
        }
    }
}

/// What is to be done with an item whose turn has come.
enum Fate {
    Send,
    /// Its flow is to be told that it sends too much.
    Signal,
}

/// The flows of one priority.
#[derive(Debug)]
struct Shares<T> {
    flows: Vec<Flow<T>>,
    /// Flows that had nothing waiting a moment ago: first.
    fresh: VecDeque<usize>,
    /// Flows with a backlog.
    backlogged: VecDeque<usize>,
    credit: i64,
    items: usize,
    bytes: usize,
}

impl<T> Default for Shares<T> {
    fn default() -> Self {
        Self {
            flows: Vec::new(),
            fresh: VecDeque::new(),
            backlogged: VecDeque::new(),
            credit: 0,
            items: 0,
            bytes: 0,
        }
    }
}

#[derive(Debug)]
struct Waiting<T> {
    since: Instant,
    hash: u32,
    item: T,
}

#[derive(Debug)]
struct Flow<T> {
    hash: u32,
    items: VecDeque<Waiting<T>>,
    /// Items of other flows among them.
    guests: usize,
    bytes: usize,
    /// What its last item said.
    precedence: u8,
    weight: u8,
    deficit: i64,
    is_listed: bool,
    delay: Codel,
}

impl<T: Item> Flow<T> {
    fn push(&mut self, waiting: Waiting<T>) {
        self.bytes += waiting.item.bytes();
        self.guests += usize::from(waiting.hash != self.hash);
        self.items.push_back(waiting);
    }

    fn pop(&mut self) -> Option<Waiting<T>> {
        let waiting = self.items.pop_front()?;
        self.bytes -= waiting.item.bytes();
        self.guests -= usize::from(waiting.hash != self.hash);
        Some(waiting)
    }
}

impl<T> Flow<T> {
    /// Bytes per turn.
    fn quantum(&self) -> i64 {
        QUANTUM * i64::from(self.weight.max(1))
    }

    /// What it takes beside what it may take: its bytes, more of them the sooner they may be dropped.
    fn excess(&self) -> usize {
        self.bytes * (1 + usize::from(self.precedence)) / usize::from(self.weight.max(1))
    }
}

impl<T> Default for Flow<T> {
    fn default() -> Self {
        Self {
            hash: 0,
            items: VecDeque::new(),
            guests: 0,
            bytes: 0,
            precedence: 0,
            weight: 1,
            deficit: 0,
            is_listed: false,
            delay: Codel::default(),
        }
    }
}

impl<T: Item> Shares<T> {
    fn is_empty(&self) -> bool {
        self.items == 0
    }

    fn push(&mut self, now: Instant, marking: Marking, hash: u32, item: T) {
        if self.flows.is_empty() {
            self.flows.resize_with(FLOWS, Flow::default);
        }
        let index = self.place(hash);
        self.items += 1;
        self.bytes += item.bytes();
        let flow = &mut self.flows[index];
        flow.push(Waiting {
            since: now,
            hash,
            item,
        });
        (flow.precedence, flow.weight) = (marking.precedence, marking.weight);
        if !flow.is_listed {
            flow.is_listed = true;
            flow.deficit = flow.quantum();
            self.fresh.push_back(index);
        }
    }

    /// The flow's place: its own; else one where nobody waits, rather the one that it had, which knows its delay; else one
    /// as a guest. While there are guests others are, too, or packets of one flow would wait in two places.
    fn place(&mut self, hash: u32) -> usize {
        let first = hash as usize % FLOWS;
        let set = || (0..WAYS).map(|way| first ^ way);
        let is_own = |flow: &Flow<T>| flow.is_listed && flow.hash == hash;
        if let Some(place) = set().find(|place| is_own(&self.flows[*place])) {
            return place;
        }
        if self.flows[first].guests > 0 {
            return first;
        }
        let free = set().filter(|place| !self.flows[*place].is_listed);
        let Some(place) = free.min_by_key(|place| self.flows[*place].hash != hash) else {
            return first;
        };
        let flow = &mut self.flows[place];
        if flow.hash != hash {
            flow.delay = Codel::default();
            flow.hash = hash;
        }
        place
    }

    /// The flow that takes most beside what it may take, and how much.
    fn longest(&self) -> (usize, usize) {
        let flows = self.flows.iter().map(Flow::excess).enumerate();
        flows.max_by_key(|(_, excess)| *excess).unwrap_or_default()
    }

    /// Takes the oldest item of the longest flow away: its sender hears of it first.
    fn drop_longest(&mut self) -> Option<T> {
        let (index, _) = self.longest();
        let Waiting { item, .. } = self.flows.get_mut(index)?.pop()?;
        self.left(&item);
        Some(item)
    }

    fn left(&mut self, item: &T) {
        self.items -= 1;
        self.bytes -= item.bytes();
    }

    /// The item whose turn it is (RFC 8290 §4.2); `None` if nothing waits.
    fn pop(&mut self, now: Instant) -> Option<(T, Fate)> {
        loop {
            let is_fresh = !self.fresh.is_empty();
            let list = match is_fresh {
                true => &mut self.fresh,
                false => &mut self.backlogged,
            };
            let index = *list.front()?;
            let flow = &mut self.flows[index];
            if flow.deficit <= 0 {
                flow.deficit += flow.quantum();
                list.pop_front();
                self.backlogged.push_back(index);
                continue;
            }
            let Some(Waiting { since, item, .. }) = flow.pop() else {
                list.pop_front();
                // A flow that empties while it is fresh waits its turn once, or it would always be first.
                if is_fresh && !self.backlogged.is_empty() {
                    self.backlogged.push_back(index);
                } else {
                    flow.is_listed = false;
                }
                continue;
            };
            flow.deficit -= item.bytes() as i64;
            let is_last = flow.items.is_empty();
            let fate = match flow.delay.is_too_much(now, now.since(since), is_last) {
                true => Fate::Signal,
                false => Fate::Send,
            };
            self.left(&item);
            return Some((item, fate));
        }
    }
}

/// The controller of one flow's delay (RFC 8289 §5).
#[derive(Debug, Clone, Copy, Default)]
struct Codel {
    /// When the delay will have been above the target for an interval.
    first_above: Option<Instant>,
    dropping: bool,
    next: Instant,
    count: u32,
    last_count: u32,
}

impl Codel {
    /// Whether the sender of an item that has waited for `delay` is to be told.
    fn is_too_much(&mut self, now: Instant, delay: Micros, is_last: bool) -> bool {
        let standing = self.is_standing(now, delay, is_last);
        if !standing {
            self.dropping = false;
            return false;
        }
        if self.dropping {
            if now < self.next {
                return false;
            }
            self.count += 1;
            self.next = self.next + pause(self.count);
            return true;
        }
        self.dropping = true;
        // Not long ago there were drops already: go on at the rate that helped then.
        let again = self.count.saturating_sub(self.last_count);
        let is_recent = now.since(self.next) < Micros(16 * INTERVAL.0);
        self.count = if is_recent && again > 1 { again } else { 1 };
        self.last_count = self.count;
        self.next = now + pause(self.count);
        true
    }

    fn is_standing(&mut self, now: Instant, delay: Micros, is_last: bool) -> bool {
        if delay < TARGET || is_last {
            self.first_above = None;
            return false;
        }
        let since = *self.first_above.get_or_insert(now + INTERVAL);
        now >= since
    }
}

/// The time until the next signal: shorter by the square root of those before.
fn pause(count: u32) -> Micros {
    Micros((INTERVAL.0 as f64 / f64::from(count.max(1)).sqrt()) as u64)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[derive(Debug, PartialEq, Eq)]
    struct Test {
        flow: u32,
        number: u32,
        bytes: usize,
        ecn: bool,
        marked: bool,
    }

    impl Item for Test {
        fn bytes(&self) -> usize {
            self.bytes
        }

        fn mark(&mut self) -> bool {
            self.marked = self.ecn;
            self.ecn
        }
    }

    fn item(flow: u32, number: u32, bytes: usize) -> Test {
        Test {
            flow,
            number,
            bytes,
            ecn: false,
            marked: false,
        }
    }

    fn of(priority: Priority) -> Marking {
        Marking {
            priority,
            ..Marking::of_dscp(0)
        }
    }

    fn at(millis: u64) -> Instant {
        Instant(millis * 1_000)
    }

    fn pop(queue: &mut Queue<Test>, now: Instant) -> Option<Test> {
        queue.pop(now, |_| {})
    }

    #[test]
    fn a_flow_stays_in_order_and_a_sparse_one_overtakes_a_long_one() {
        let mut queue = Queue::default();
        for number in 0..100 {
            assert!(
                queue
                    .push(at(0), of(Priority::Default), 1, item(1, number, 9_000))
                    .is_empty()
            );
        }
        assert_eq!(pop(&mut queue, at(1)).unwrap().number, 0);
        assert!(
            queue
                .push(at(1), of(Priority::Default), 2, item(2, 0, 100))
                .is_empty()
        );
        assert_eq!(pop(&mut queue, at(1)).unwrap().flow, 2);
        let rest: Vec<_> = std::iter::from_fn(|| pop(&mut queue, at(1))).collect();
        assert!(rest.iter().map(|item| item.number).eq(1..100));
        assert!(queue.is_empty() && queue.bytes() == 0);
    }

    #[test]
    fn long_flows_share_in_equal_parts() {
        let mut queue = Queue::default();
        for number in 0..50 {
            for (flow, bytes) in [(1, 1_000), (2, 10_000)] {
                queue.push(
                    at(0),
                    of(Priority::Default),
                    flow,
                    item(flow, number, bytes),
                );
            }
        }
        let mut sent = [0, 0];
        while sent.iter().sum::<usize>() < 90_000 {
            let item = pop(&mut queue, at(0)).unwrap();
            sent[item.flow as usize - 1] += item.bytes;
        }
        assert!(sent[0].abs_diff(sent[1]) <= 12_000, "{sent:?}");
    }

    #[test]
    fn no_two_flows_share_a_turn_while_there_are_places() {
        let mut queue = Queue::default();
        // Eight whose hashes differ by the number of places.
        for flow in (0..8).map(|flow| 5 + 64 * flow) {
            for number in 0..10 {
                let of_flow = item(flow, number, 6_000);
                queue.push(at(0), of(Priority::Default), flow, of_flow);
            }
        }
        for number in 0..10 {
            let round: Vec<_> = (0..8).filter_map(|_| pop(&mut queue, at(1))).collect();
            let flows: BTreeSet<_> = round.iter().map(|item| item.flow).collect();
            assert_eq!(flows.len(), 8);
            assert!(round.iter().all(|item| item.number == number), "{round:?}");
        }
    }

    #[test]
    fn a_flow_stays_in_order_where_more_flows_wait_than_there_are_places() {
        let mut queue = Queue::default();
        let mut numbers = [0; 12];
        let mut expected = [0; 12];
        let mut state = 1_u64;
        for millis in 0..2_000 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let flow = (state >> 33) as usize % 12;
            let of_flow = item(flow as u32 * 64, numbers[flow], 1_000);
            numbers[flow] += 1;
            queue.push(at(millis), of(Priority::Default), of_flow.flow, of_flow);
            // Busy and idle in turn: places get full and empty.
            let sent = if millis / 40 % 2 == 0 { 0 } else { 2 };
            for item in (0..sent).filter_map(|_| pop(&mut queue, at(millis))) {
                let next = &mut expected[item.flow as usize / 64];
                assert!(item.number >= *next, "{item:?} after {next}");
                *next = item.number + 1;
            }
        }
        assert!(expected.iter().all(|count| *count > 100), "{expected:?}");
    }

    #[test]
    fn a_guest_beside_a_flood_has_a_turn_of_its_own_as_soon_as_there_is_a_place() {
        let mut queue = Queue::default();
        let mut number = 0;
        let mut push = |queue: &mut Queue<Test>, flow: u32| {
            number += 1;
            queue.push(
                at(0),
                of(Priority::Default),
                flow,
                item(flow, number, 6_000),
            );
        };
        // The eight places of a set are taken, the first one by a flood; a ninth flow waits with it.
        (0..8).for_each(|flow| push(&mut queue, 64 * flow));
        push(&mut queue, 64 * 8);
        (0..100).for_each(|_| push(&mut queue, 0));
        let sent: Vec<_> = (0..20).filter_map(|_| pop(&mut queue, at(1))).collect();
        assert!(sent.iter().any(|item| item.flow == 64 * 8), "{sent:?}");
        push(&mut queue, 64 * 8);
        let next: Vec<_> = (0..3).filter_map(|_| pop(&mut queue, at(1))).collect();
        assert!(next.iter().any(|item| item.flow == 64 * 8), "{next:?}");
    }

    #[test]
    fn urgent_packets_are_first_but_starve_nobody() {
        let mut queue = Queue::default();
        let priorities = [
            (Priority::Bulk, 1),
            (Priority::Default, 2),
            (Priority::RealTime, 3),
        ];
        for number in 0..300 {
            for (priority, flow) in priorities {
                queue.push(at(0), of(priority), flow, item(flow, number, 1_000));
            }
        }
        assert_eq!(pop(&mut queue, at(0)).unwrap().flow, 3);
        let mut sent = [0_usize; 3];
        for _ in 0..410 {
            sent[pop(&mut queue, at(0)).unwrap().flow as usize - 1] += 1;
        }
        assert!(
            sent[2] > sent[1] && sent[1] > sent[0] && sent[0] >= 15,
            "{sent:?}"
        );
    }

    #[test]
    fn what_is_too_much_is_taken_from_the_longest_flow_and_memory_is_bounded() {
        let mut queue = Queue::default();
        queue.push(at(0), of(Priority::Default), 7, item(7, 0, 1_000));
        let mut dropped = Vec::new();
        for number in 0..5_000 {
            dropped.extend(queue.push(at(0), of(Priority::Bulk), 1, item(1, number, 1_400)));
            assert!(queue.bytes() <= MAX_BYTES);
        }
        assert!(dropped.iter().all(|item| item.flow == 1));
        assert!(
            dropped
                .iter()
                .map(|item| item.number)
                .eq(0..dropped.len() as u32)
        );
        let left: Vec<_> = std::iter::from_fn(|| pop(&mut queue, at(1))).collect();
        assert_eq!(left.len() + dropped.len(), 5_001);
        assert!(left.len() <= MAX_ITEMS);
        assert_eq!(left[0].flow, 7);
    }

    #[test]
    fn a_burst_is_let_through_and_a_standing_queue_is_signalled_ever_more_often() {
        let mut queue = Queue::default();
        let mut drops = Vec::new();
        // 20 packets wait at any time, one leaves each millisecond: 20 ms, above the target for good.
        let mut numbers = 0..;
        for millis in 0..1_000 {
            while queue.items() < 20 {
                queue.push(
                    at(millis),
                    of(Priority::Default),
                    1,
                    item(1, numbers.next().unwrap(), 1_400),
                );
            }
            queue.pop(at(millis), |_| drops.push(millis));
        }
        assert!(
            drops[0] >= 100,
            "a burst of less than an interval was punished: {drops:?}"
        );
        let early = drops.iter().filter(|at| **at < 400).count();
        let late = drops.iter().filter(|at| **at >= 700).count();
        assert!(late > early, "{drops:?}");
        assert!(drops.len() < 100, "{drops:?}");
    }

    #[test]
    fn what_can_be_marked_is_not_dropped() {
        let mut queue = Queue::default();
        let mut marked = 0;
        for number in 0..20 {
            queue.push(
                at(0),
                of(Priority::Default),
                1,
                Test {
                    ecn: true,
                    ..item(1, number, 1_400)
                },
            );
        }
        for millis in 0..500 {
            let more = Test {
                ecn: true,
                ..item(1, 20 + millis as u32, 1_400)
            };
            queue.push(at(millis), of(Priority::Default), 1, more);
            let popped = queue.pop(at(millis), |item| panic!("{item:?} was dropped"));
            marked += u64::from(popped.unwrap().marked);
        }
        assert!(marked >= 3);
        assert_eq!(queue.marked(), marked);
    }

    #[test]
    fn flows_share_by_their_weights() {
        let mut queue = Queue::default();
        let flows = [(1, 10), (2, 18), (3, 26)];
        for number in 0..100 {
            for (flow, dscp) in flows {
                let of_flow = item(flow, number, 1_000);
                queue.push(at(0), Marking::of_dscp(dscp), flow, of_flow);
            }
        }
        // Three rounds.
        let sent: Vec<_> = (0..108).filter_map(|_| pop(&mut queue, at(1))).collect();
        let sent_of = |flow| sent.iter().filter(|item| item.flow == flow).count();
        assert_eq!([sent_of(1), sent_of(2), sent_of(3)], [18, 36, 54]);
    }

    #[test]
    fn what_may_be_dropped_sooner_is_dropped_first() {
        let mut queue = Queue::default();
        let mut dropped = Vec::new();
        for number in 0..MAX_ITEMS as u32 {
            for (flow, dscp) in [(1, 10), (2, 14)] {
                let of_flow = item(flow, number, 100);
                dropped.extend(queue.push(at(0), Marking::of_dscp(dscp), flow, of_flow));
            }
        }
        let dropped_of = |flow| dropped.iter().filter(|item| item.flow == flow).count();
        // Three times as much of the second one counts as much as the first one's.
        assert_eq!(dropped_of(1) + dropped_of(2), MAX_ITEMS);
        let left = [1, 2].map(|flow| MAX_ITEMS - dropped_of(flow));
        assert!(left[0].abs_diff(3 * left[1]) <= 4, "{left:?}");
    }
}
