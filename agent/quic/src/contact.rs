//! One neighbour: which of its connections is used, which is one too many, and when to dial.
//!
//! Either end may dial, because either may be the only one that can; the one with the lower id goes first, so that
//! normally there is one connection. When there are two, both ends prefer by the same rule (§3 of
//! `docs/protocol/quic.md`), and each ends the surplus ones that it dialled. Decides by what it is told and the time it
//! is handed; the sockets and tasks are `carrier`'s.

use std::cmp::Reverse;
use std::time::{Duration, Instant};

/// Between packets of a connection that nothing else is sent over, so that silence means something.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(4);
/// A connection on which nothing came for this long is passed over: two keep-alives, and time for the second to arrive.
const QUIET_AFTER: Duration = Duration::from_secs(2 * KEEP_ALIVE.as_secs() + 1);
/// How long a connection has to be the best one before others are ended.
const SETTLES: Duration = Duration::from_secs(2);
/// How long the end that goes second waits for the other.
const SECOND_WAITS: Duration = Duration::from_secs(1);
/// Pause after the first attempt in vain, doubled with each …
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// … up to this: an absent neighbour costs a few hundred bytes per second and comes back within half a minute.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Connections kept with one neighbour; the oldest goes when there are more.
const MOST: usize = 4;

/// Which end of the two dials first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// This node, because its id is the lower one.
    First,
    /// The other.
    Second,
}

/// Which end dialled a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialled {
    /// This one.
    Here,
    /// The other.
    There,
}

/// A connection as this module sees it: its handle is `C`.
#[derive(Debug)]
pub(crate) struct Live<C> {
    pub(crate) connection: C,
    dialled: Dialled,
    /// Packets received, as they were counted last.
    received: u64,
    /// When that number grew; `None` while it is doubted that anything will come.
    heard: Option<Instant>,
    order: u64,
}

/// The connections with one neighbour.
#[derive(Debug)]
pub(crate) struct Contact<C> {
    turn: Turn,
    lives: Vec<Live<C>>,
    /// The order number of the best connection and since when it is that.
    best: Option<(u64, Instant)>,
    orders: u64,
    /// The attempt under way.
    attempt: Option<Attempt>,
    attempts: u64,
    moved: bool,
    next: Option<Instant>,
    pause: Duration,
}

impl<C> Contact<C> {
    pub(crate) fn new(turn: Turn) -> Self {
        Self {
            turn,
            lives: Vec::new(),
            best: None,
            orders: 0,
            attempt: None,
            attempts: 0,
            moved: false,
            next: None,
            pause: FIRST_PAUSE,
        }
    }

    /// A connection came about. The older ones are doubted: a peer that had one would hardly have made another. What
    /// they have `received` until then is no sign of life. Gives back the oldest if there are too many.
    pub(crate) fn add(
        &mut self,
        now: Instant,
        connection: C,
        dialled: Dialled,
        received: impl Fn(&C) -> u64,
    ) -> Option<C> {
        for live in &mut self.lives {
            live.doubt(&received);
        }
        self.orders += 1;
        self.lives.push(Live {
            connection,
            dialled,
            received: 0,
            heard: Some(now),
            order: self.orders,
        });
        self.moved = false;
        let surplus = (self.lives.len() > MOST).then(|| self.lives.remove(0).connection);
        self.choose(now);
        surplus
    }

    /// The connections for which `is_gone` holds have ended.
    pub(crate) fn remove(&mut self, now: Instant, is_gone: impl Fn(&C) -> bool) {
        self.lives.retain(|live| !is_gone(&live.connection));
        self.choose(now);
    }

    /// This node has other addresses. What it dialled follows by itself; the rest is lost until it dials anew.
    pub(crate) fn moved(&mut self, received: impl Fn(&C) -> u64) {
        for live in &mut self.lives {
            if live.dialled == Dialled::There {
                live.doubt(&received);
                self.moved = true;
            }
        }
        // What is under way began from an address that may be gone.
        self.attempt = None;
        self.pause = FIRST_PAUSE;
        self.next = None;
    }

    /// There is news of where the neighbour is.
    pub(crate) fn encouraged(&mut self) {
        self.pause = FIRST_PAUSE;
        self.next = None;
    }

    /// Takes in how many packets came over each connection, and chooses anew.
    pub(crate) fn observe(&mut self, now: Instant, received: impl Fn(&C) -> u64) {
        for live in &mut self.lives {
            let count = received(&live.connection);
            if count != live.received {
                live.received = count;
                live.heard = Some(now);
            }
        }
        self.choose(now);
        if self.best.is_some_and(|(_, since)| now >= since + SETTLES) && !self.is_quiet(now) {
            self.encouraged();
        }
    }

    /// The connection to send over.
    pub(crate) fn best(&mut self) -> Option<&mut C> {
        let (order, _) = self.best?;
        let best = self.lives.iter_mut().find(|live| live.order == order);
        best.map(|live| &mut live.connection)
    }

    /// All connections.
    pub(crate) fn connections(&self) -> impl Iterator<Item = &C> {
        self.lives.iter().map(|live| &live.connection)
    }

    /// Takes out the connections that this end dialled and that another one has made superfluous.
    pub(crate) fn surplus(&mut self, now: Instant) -> Vec<C> {
        let Some((best, since)) = self.best else {
            return Vec::new();
        };
        if now < since + SETTLES || self.is_quiet(now) {
            return Vec::new();
        }
        let is_surplus = |live: &mut Live<C>| live.order != best && live.dialled == Dialled::Here;
        self.lives
            .extract_if(.., is_surplus)
            .map(|live| live.connection)
            .collect()
    }

    /// The attempt to make at this time, if one is due; then it is taken to be made, until [`Self::dialled`].
    pub(crate) fn dials(&mut self, now: Instant) -> Option<Attempt> {
        if self.attempt.is_some() || !(self.moved || self.is_quiet(now)) {
            return None;
        }
        let next = *self.next.get_or_insert_with(|| match self.turn {
            Turn::Second if !self.moved => now + SECOND_WAITS,
            Turn::First | Turn::Second => now,
        });
        if now < next {
            return None;
        }
        self.attempts += 1;
        self.attempt = Some(Attempt(self.attempts));
        self.attempt
    }

    /// An attempt has ended, with a connection or without. `spread` (of 256) spreads the next one by up to a quarter.
    pub(crate) fn dialled(&mut self, now: Instant, attempt: Attempt, spread: u8) {
        if self.attempt != Some(attempt) {
            return;
        }
        self.attempt = None;
        // A peer that wants no connection ends it once it is there: only one that lasts is no attempt in vain.
        self.next = Some(now + self.pause + self.pause / 4 * u32::from(spread) / 256);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }

    /// Whether nothing was heard over any connection for a while.
    fn is_quiet(&self, now: Instant) -> bool {
        self.lives.iter().all(|live| live.is_quiet(now))
    }

    fn choose(&mut self, now: Instant) {
        let rank = |live: &&Live<C>| {
            let by_lower = match self.turn {
                Turn::First => live.dialled == Dialled::Here,
                Turn::Second => live.dialled == Dialled::There,
            };
            (live.is_quiet(now), !by_lower, Reverse(live.order))
        };
        let best = self.lives.iter().min_by_key(rank).map(|live| live.order);
        if best != self.best.map(|(order, _)| order) {
            self.best = best.map(|order| (order, now));
        }
    }
}

impl<C> Live<C> {
    fn doubt(&mut self, received: impl Fn(&C) -> u64) {
        self.received = received(&self.connection);
        self.heard = None;
    }

    fn is_quiet(&self, now: Instant) -> bool {
        self.heard
            .is_none_or(|heard| now.saturating_duration_since(heard) >= QUIET_AFTER)
    }
}

/// One time that a neighbour is dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attempt(u64);

#[cfg(test)]
mod tests {
    use super::*;

    const MILLIS: fn(u64) -> Duration = Duration::from_millis;

    /// When a contact dials in `seconds` without ever getting an answer, in milliseconds.
    fn attempts(turn: Turn, seconds: u64) -> Vec<u64> {
        let start = Instant::now();
        let mut contact = Contact::<u8>::new(turn);
        (0..seconds * 10)
            .map(|tenth| tenth * 100)
            .filter(|at| {
                let now = start + MILLIS(*at);
                let attempt = contact.dials(now);
                if let Some(attempt) = attempt {
                    contact.dialled(now, attempt, 0);
                }
                attempt.is_some()
            })
            .collect()
    }

    #[test]
    fn the_lower_id_dials_at_once_the_other_a_second_later_both_ever_less_often() {
        assert_eq!(
            attempts(Turn::First, 100),
            [0, 1_000, 3_000, 7_000, 15_000, 31_000, 61_000, 91_000]
        );
        assert_eq!(attempts(Turn::Second, 5), [1_000, 2_000, 4_000]);
    }

    #[test]
    fn a_connection_ends_dialling_and_silence_begins_it_again() {
        let start = Instant::now();
        let mut contact = Contact::new(Turn::First);
        let attempt = contact.dials(start).unwrap();
        assert_eq!(contact.dials(start), None, "once at a time");
        contact.dialled(start, attempt, 0);
        contact.add(start, 1, Dialled::Here, |_| 0);
        // Kept alive, and nothing else: it is no reason to dial.
        let last = start + 30 * KEEP_ALIVE;
        for number in 1..=30 {
            let now = start + number * KEEP_ALIVE;
            assert_eq!(contact.dials(now), None);
            contact.observe(now, |_| number.into());
        }
        assert_eq!(contact.dials(last + QUIET_AFTER - MILLIS(1)), None);
        assert!(contact.dials(last + QUIET_AFTER).is_some());
        assert_eq!(contact.best(), Some(&mut 1), "still the only one");
    }

    #[test]
    fn a_connection_that_the_peer_ends_at_once_is_an_attempt_in_vain() {
        let start = Instant::now();
        let mut contact = Contact::new(Turn::First);
        let mut dialled = Vec::new();
        for at in (0..10_000).step_by(100) {
            let now = start + MILLIS(at);
            contact.observe(now, |_| 1);
            if let Some(attempt) = contact.dials(now) {
                contact.dialled(now, attempt, 0);
                contact.add(now, (), Dialled::Here, |()| 0);
                contact.remove(now, |()| true);
                dialled.push(at);
            }
        }
        assert_eq!(dialled, [0, 1_000, 3_000, 7_000]);
    }

    #[test]
    fn of_two_that_crossed_both_ends_keep_the_one_that_the_lower_id_dialled() {
        let start = Instant::now();
        let mut low = Contact::new(Turn::First);
        low.add(start, "low's", Dialled::Here, |_| 0);
        low.add(start, "high's", Dialled::There, |_| 0);
        let mut high = Contact::new(Turn::Second);
        high.add(start, "high's", Dialled::Here, |_| 0);
        high.add(start, "low's", Dialled::There, |_| 0);
        for contact in [&mut low, &mut high] {
            contact.observe(start + MILLIS(100), |_| 1);
            assert_eq!(contact.best(), Some(&mut "low's"));
            assert!(contact.surplus(start + MILLIS(1_000)).is_empty());
        }
        let later = start + MILLIS(2_200);
        for contact in [&mut low, &mut high] {
            contact.observe(later, |_| 2);
        }
        assert_eq!(low.surplus(later), Vec::<&str>::new(), "not its own to end");
        assert_eq!(high.surplus(later), ["high's"]);
        assert_eq!(high.best(), Some(&mut "low's"));
    }

    #[test]
    fn a_node_that_was_dialled_and_moved_dials_by_itself_at_once_and_is_believed() {
        let start = Instant::now();
        let mut moved = Contact::new(Turn::Second);
        moved.add(start, "old", Dialled::There, |_| 0);
        assert_eq!(moved.dials(start + MILLIS(100)), None);
        moved.moved(|_| 0);
        let first = moved.dials(start + MILLIS(100)).unwrap();
        // The old address went before the new one came: what was tried in between does not count.
        moved.moved(|_| 0);
        let second = moved.dials(start + MILLIS(110)).unwrap();
        moved.dialled(start + MILLIS(115), first, 0);
        assert_eq!(moved.dials(start + MILLIS(116)), None, "under way");
        moved.dialled(start + MILLIS(120), second, 0);
        moved.add(start + MILLIS(120), "new", Dialled::Here, |_| 0);
        assert_eq!(moved.best(), Some(&mut "new"));

        let mut stayed = Contact::new(Turn::First);
        stayed.add(start, "old", Dialled::Here, |_| 0);
        // What came over the old one since it was looked at last came before the peer moved.
        let received = |name: &&str| if *name == "old" { 7 } else { 1 };
        stayed.add(start + MILLIS(120), "new", Dialled::There, received);
        assert_eq!(stayed.best(), Some(&mut "new"), "the old one is doubted");
        stayed.observe(start + MILLIS(300), received);
        assert_eq!(stayed.best(), Some(&mut "new"));
        stayed.observe(start + MILLIS(2_300), |name| {
            received(name) + u64::from(*name == "new")
        });
        assert_eq!(stayed.surplus(start + MILLIS(2_300)), ["old"]);
    }

    #[test]
    fn what_this_node_dialled_follows_it_without_dialling() {
        let start = Instant::now();
        let mut contact = Contact::new(Turn::First);
        contact.add(start, 1, Dialled::Here, |_| 0);
        contact.moved(|_| 0);
        assert_eq!(contact.dials(start + MILLIS(100)), None);
    }

    #[test]
    fn the_number_of_connections_is_bounded() {
        let start = Instant::now();
        let mut contact = Contact::new(Turn::First);
        let gone: Vec<u8> = (0..9)
            .filter_map(|number| contact.add(start, number, Dialled::There, |_| 0))
            .collect();
        assert_eq!(gone, [0, 1, 2, 3, 4]);
        contact.remove(start, |number| *number == 8);
        assert_eq!(contact.best(), Some(&mut 7));
        assert_eq!(contact.connections().count(), 3);
    }
}
