//! When a changed price becomes news: worse soon, better late.
//!
//! A price that grew by a quarter and a millisecond is told after two windows of 100 ms, at once when loss is the cause;
//! one that fell by a fifth is told after 5 s, doubled with every recent change up to 5 min; steps of a rise that follow
//! soon are one change. One that rests a step off for half a minute is mended, as a young link's first guess is after 1 s.
//! A bucket of changes bounds what a price that never rests may say. Failures do not come here.

use wattle_model::{Cost, Instant, Micros};

use crate::cost::quantise;

/// Two windows of 100 ms less the one in which the change was first seen.
const WORSE_AFTER: Micros = Micros::from_millis(100);
const BETTER_AFTER: Micros = Micros::from_secs(5);
const BETTER_AFTER_MOST: Micros = Micros::from_secs(300);
/// Links that are equal are to share, so that a price which rests at another step than what was told is mended, which is
/// not held against the link.
const MENDED_AFTER: Micros = Micros::from_secs(30);
/// A first price is a guess from a few probes: mended sooner while the measurement settles. That a link comes up at all is
/// damped elsewhere, by its probation.
const SETTLING: Micros = Micros::from_secs(15);
const MENDED_AFTER_SETTLING: Micros = Micros::from_secs(1);
/// Steps of a rise with at most this long between them are one change: what measures loss believes it bit by bit.
const STEP: Micros = Micros::from_secs(10);
/// How long a change counts as recent.
const MEMORY: Micros = Micros::from_secs(600);
/// A price may change this often at once, and this often when packets get lost, when it doubled, or when it fell, which
/// waits anyway, …
const BURST: u64 = 4;
const BURST_URGENT: u64 = 8;
/// … and after that once in this time.
const REFILL: Micros = Micros::from_secs(15);
/// Smallest change worth telling.
const WORSE_BY: u64 = 1_000;

/// Whether a worse price may wait for a second window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// It may: it could be a blip.
    Normal,
    /// It may not: packets get lost.
    Alarm,
}

/// The advertised price of one link, or of one node's transit, and the change that is waiting to be told.
#[derive(Debug, Clone)]
pub(crate) struct Damper {
    advertised: Cost,
    wanted: Cost,
    urgency: Urgency,
    pending: Option<Pending>,
    changes: u32,
    last_change: Option<Change>,
    changed_at: Instant,
    born_at: Instant,
    /// When the bucket of changes would be full again.
    full_at: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pending {
    change: Change,
    since: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Worse,
    Better,
    /// What was told is a bit off, or a first guess; the price rests at this one.
    Mended(Cost),
}

impl Damper {
    /// Advertises the first price at once.
    pub(crate) fn new(now: Instant, cost: Cost) -> Self {
        Self {
            advertised: quantise(cost),
            wanted: cost,
            urgency: Urgency::Normal,
            pending: None,
            changes: 0,
            last_change: None,
            changed_at: now,
            born_at: now,
            full_at: now,
        }
    }

    /// The price that others are told.
    pub(crate) fn advertised(&self) -> Cost {
        self.advertised
    }

    /// Takes in the true price; whether the advertised one changed.
    pub(crate) fn wants(&mut self, now: Instant, cost: Cost, urgency: Urgency) -> bool {
        self.wanted = cost;
        self.urgency = urgency;
        self.handle_timeout(now)
    }

    /// Tells what has waited long enough; whether the advertised price changed.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> bool {
        let change = self.change(now);
        if self.pending.map(|pending| pending.change) != change {
            self.pending = change.map(|change| Pending { change, since: now });
        }
        let told = self.pending.filter(|_| now >= self.poll_timeout());
        let Some(Pending { change, since }) = told else {
            return false;
        };
        self.advertised = quantise(self.wanted);
        self.pending = None;
        let is_mended = matches!(change, Change::Mended(_));
        if !is_mended {
            self.count(change, since);
        }
        if !(is_mended && self.settles(since)) {
            self.full_at = self.full_at.max(now) + REFILL;
        }
        (self.changed_at, self.last_change) = (now, Some(change));
        true
    }

    /// Counts a change that has waited since then, unless it is a step of the rise before.
    fn count(&mut self, change: Change, since: Instant) {
        let rises_on = change == Change::Worse && self.last_change == Some(change);
        let pause = since.since(self.changed_at);
        if pause > MEMORY {
            self.changes = 1;
        } else if !(rises_on && pause <= STEP) {
            self.changes += 1;
        }
    }

    /// When the waiting change is to be told.
    pub(crate) fn poll_timeout(&self) -> Instant {
        let Some(Pending { change, since }) = self.pending else {
            return Instant::NEVER;
        };
        match change {
            Change::Mended(_) if self.settles(since) => since + MENDED_AFTER_SETTLING,
            // Out of a full bucket: never in the way of what matters more.
            Change::Mended(_) => (since + MENDED_AFTER).max(self.full_at),
            Change::Better => (since + self.patience()).max(self.has_token(BURST_URGENT)),
            Change::Worse if self.urgency == Urgency::Alarm => {
                since.max(self.has_token(BURST_URGENT))
            }
            Change::Worse => (since + WORSE_AFTER).max(self.has_token(self.burst())),
        }
    }

    /// When the bucket has room for one change more, if it holds so many.
    fn has_token(&self, burst: u64) -> Instant {
        Instant(self.full_at.0.saturating_sub((burst - 1) * REFILL.0))
    }

    fn burst(&self) -> u64 {
        match self.wanted.0 / 2 >= self.advertised.0 {
            true => BURST_URGENT,
            false => BURST,
        }
    }

    fn settles(&self, at: Instant) -> bool {
        at.since(self.born_at) < SETTLING
    }

    fn patience(&self) -> Micros {
        let doubled = BETTER_AFTER.0 << self.changes.saturating_sub(1).min(10);
        Micros(doubled).min(BETTER_AFTER_MOST)
    }

    fn change(&self, now: Instant) -> Option<Change> {
        let (advertised, wanted) = (self.advertised.to_tell(), self.wanted.to_tell());
        let (advertised, wanted) = (u64::from(advertised), u64::from(wanted));
        if wanted * 4 >= advertised * 5 && wanted >= advertised + WORSE_BY {
            return Some(Change::Worse);
        }
        if wanted * 5 <= advertised * 4 && !self.settles(now) {
            return Some(Change::Better);
        }
        let rests = quantise(self.wanted);
        (rests != self.advertised).then_some(Change::Mended(rests))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(millis: u64) -> Cost {
        Cost(millis * 1_000)
    }

    fn at(millis: u64) -> Instant {
        Instant(millis * 1_000)
    }

    #[test]
    fn a_worse_price_is_told_in_the_second_window() {
        let mut damper = Damper::new(at(0), cost(10));
        assert!(!damper.wants(at(10), cost(60), Urgency::Normal));
        assert_eq!(damper.poll_timeout(), at(110));
        assert!(damper.handle_timeout(at(110)));
        assert!(damper.advertised() > Cost(56_000));
    }

    #[test]
    fn alarming_loss_is_told_at_once() {
        let mut damper = Damper::new(at(0), cost(10));
        assert!(damper.wants(at(10), cost(60), Urgency::Alarm));
    }

    #[test]
    fn a_blip_and_noise_are_never_told() {
        let mut damper = Damper::new(at(0), cost(10));
        damper.wants(at(10), cost(60), Urgency::Normal);
        assert!(!damper.wants(at(60), cost(11), Urgency::Normal));
        for step in 0..1_000 {
            assert!(!damper.wants(at(100 + step * 10), cost(10 + step % 2), Urgency::Normal));
        }
    }

    #[test]
    fn a_first_price_that_was_a_bad_guess_is_mended_within_seconds() {
        let mut damper = Damper::new(at(0), cost(60));
        damper.wants(at(100), cost(30), Urgency::Normal);
        assert_eq!(damper.poll_timeout(), at(1_100));
        assert!(damper.handle_timeout(at(1_100)));
        damper.wants(at(1_200), cost(10), Urgency::Normal);
        assert!(damper.handle_timeout(at(2_200)));
        assert_eq!(damper.advertised(), quantise(cost(10)));
    }

    #[test]
    fn better_takes_five_seconds_and_doubles_with_every_change() {
        let mut damper = Damper::new(Instant(0), cost(60));
        let at = |millis| at(SETTLING.as_millis() + millis);
        damper.wants(at(0), cost(10), Urgency::Normal);
        assert_eq!(damper.poll_timeout(), at(5_000));
        assert!(damper.handle_timeout(at(5_000)));
        damper.wants(at(5_000), cost(60), Urgency::Normal);
        assert!(damper.handle_timeout(at(5_100)));
        damper.wants(at(6_000), cost(10), Urgency::Normal);
        assert_eq!(damper.poll_timeout(), at(6_000 + 10_000));
    }

    #[test]
    fn a_price_that_rose_in_many_steps_falls_as_soon_as_one_that_rose_in_one() {
        let mut damper = Damper::new(Instant(0), cost(1));
        let at = |millis| at(SETTLING.as_millis() + millis);
        for (step, millis) in (0..).zip([5, 11, 18, 37, 55, 80]) {
            assert!(damper.wants(at(step * 500), cost(millis), Urgency::Alarm));
        }
        damper.wants(at(30_000), cost(1), Urgency::Normal);
        assert_eq!(damper.poll_timeout(), at(35_000));
    }

    #[test]
    fn steps_of_a_rise_that_wait_for_their_turn_are_one_change() {
        let mut damper = Damper::new(Instant(0), cost(10));
        let at = |millis| at(SETTLING.as_millis() + millis);
        let mut wants = |millis, price| damper.wants(at(millis), Cost(price), Urgency::Normal);
        // By a third every five seconds: more than the bucket lets through.
        let told = (0..240).filter(|step| {
            wants(
                step * 250,
                10_000 * 4_u64.pow((step / 20) as u32) / 3_u64.pow((step / 20) as u32),
            )
        });
        assert!((5..=8).contains(&told.count()));
        damper.wants(at(61_000), cost(10), Urgency::Normal);
        assert_eq!(damper.poll_timeout(), at(66_000));
    }

    #[test]
    fn rises_that_come_again_are_changes_of_their_own() {
        let mut damper = Damper::new(Instant(0), cost(1));
        let at = |seconds: u64| at(SETTLING.as_millis() + seconds * 1_000);
        for (seconds, millis) in [(0, 5), (20, 11), (40, 18), (60, 37)] {
            damper.wants(at(seconds), cost(millis), Urgency::Alarm);
        }
        damper.wants(at(300), cost(1), Urgency::Normal);
        assert_eq!(damper.poll_timeout(), at(340));
    }

    #[test]
    fn a_price_a_step_off_is_mended_when_it_rests_and_soon_while_it_is_the_first() {
        for (first, price) in [(11_264, 10_240), (10_240, 11_264)] {
            for (since, after) in [(100, 1_000), (20_000, 30_000)] {
                let mut damper = Damper::new(at(0), Cost(first));
                damper.wants(at(since), Cost(price), Urgency::Normal);
                damper.wants(at(since + 500), Cost(first), Urgency::Normal);
                damper.wants(at(since + 600), Cost(price), Urgency::Normal);
                assert_eq!(damper.poll_timeout(), at(since + 600 + after));
                assert!(damper.handle_timeout(at(since + 600 + after)));
                assert_eq!(damper.advertised(), Cost(price));
                assert_eq!(damper.changes, 0);
            }
        }
    }

    #[test]
    fn a_price_that_never_rests_is_told_four_times_a_minute_unless_it_doubles() {
        let told = |growth: fn(u64) -> u64| {
            let mut damper = Damper::new(at(0), cost(10));
            let mut tells =
                |step| damper.wants(at(step * 100), Cost(growth(step)), Urgency::Normal);
            (0..600).filter(|step| tells(*step)).count()
        };
        let creeping = told(|step| 10_000 + 300 * step);
        assert!((4..=8).contains(&creeping), "{creeping}");
        let doubling = told(|step| 10_000 << (step / 3).min(6));
        assert!((5..=6).contains(&doubling), "{doubling}");
    }

    #[test]
    fn a_square_wave_of_one_hertz_is_told_once() {
        let mut damper = Damper::new(at(0), cost(20));
        let told = (0..6_000)
            .filter(|step| {
                let high = step / 5 % 2 == 1;
                damper.wants(
                    at(step * 100),
                    cost(if high { 80 } else { 20 }),
                    Urgency::Normal,
                )
            })
            .count();
        assert_eq!(told, 1);
    }
}
