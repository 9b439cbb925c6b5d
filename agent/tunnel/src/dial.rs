//! When to start a handshake: at once for the side that goes first, then again after pauses that double.

use wattle_model::{Instant, Micros};

/// Pause after the first attempt.
const FIRST_PAUSE: Micros = Micros::from_millis(300);
/// Longest pause.
const LONGEST_PAUSE: Micros = Micros::from_secs(10);
/// How long the side that goes second waits for the other.
const SECOND_WAITS: Micros = Micros::from_secs(1);

/// Which of two nodes dials first: the one with the lower id, so that handshakes do not cross.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DialRole {
    /// This node goes first.
    First,
    /// The other end goes first.
    Second,
}

/// The schedule of handshake attempts with one peer.
#[derive(Debug, Clone)]
pub struct Dialer {
    next: Instant,
    pause: Micros,
    attempts: u32,
}

impl Default for Dialer {
    fn default() -> Self {
        Self {
            next: Instant::NEVER,
            pause: FIRST_PAUSE,
            attempts: 0,
        }
    }
}

impl Dialer {
    /// A session is wanted: begins to dial, unless it does already.
    pub fn start(&mut self, now: Instant, role: DialRole) {
        if self.next == Instant::NEVER {
            self.restart(now, role);
        }
    }

    /// Begins anew, because there is news of the peer.
    pub fn restart(&mut self, now: Instant, role: DialRole) {
        self.pause = FIRST_PAUSE;
        self.attempts = 0;
        self.next = match role {
            DialRole::First => now,
            DialRole::Second => now + SECOND_WAITS,
        };
    }

    /// There is a session, or none is wanted.
    pub fn stop(&mut self) {
        *self = Self::default();
    }

    /// Whether dialling is under way.
    pub fn is_dialling(&self) -> bool {
        self.next != Instant::NEVER
    }

    /// Attempts made since it began.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Whether an attempt is due; then it is taken to be made. `random` spreads the next by up to a quarter.
    pub fn is_due(&mut self, now: Instant, random: u32) -> bool {
        if now < self.next {
            return false;
        }
        self.attempts = self.attempts.saturating_add(1);
        let jitter = u64::from(random) % (self.pause.0 / 4 + 1);
        self.next = now + self.pause + Micros(jitter);
        self.pause = Micros(self.pause.0 * 2).min(LONGEST_PAUSE);
        true
    }

    /// When an attempt is due.
    pub fn poll_timeout(&self) -> Instant {
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORIGIN: Instant = Instant(1_000_000);

    fn attempts(role: DialRole, random: u32) -> Vec<u64> {
        let mut dialer = Dialer::default();
        dialer.start(ORIGIN, role);
        (0..8)
            .map(|_| {
                let at = dialer.poll_timeout();
                assert!(!dialer.is_due(at - Micros(1), random) && dialer.is_due(at, random));
                at.since(ORIGIN).as_millis()
            })
            .collect()
    }

    #[test]
    fn attempts_are_dense_at_first_and_never_further_apart_than_the_longest_pause() {
        assert_eq!(
            attempts(DialRole::First, 0),
            [0, 300, 900, 2_100, 4_500, 9_300, 18_900, 28_900]
        );
        assert_eq!(attempts(DialRole::Second, 0)[..3], [1_000, 1_300, 1_900]);
    }

    #[test]
    fn jitter_is_at_most_a_quarter() {
        for random in [1, 77_777, u32::MAX] {
            let spread = attempts(DialRole::First, random);
            assert!(spread[1] <= 375 && spread.windows(2).all(|pair| pair[1] - pair[0] <= 12_500));
        }
    }

    #[test]
    fn starting_twice_does_not_begin_anew() {
        let mut dialer = Dialer::default();
        assert!(!dialer.is_dialling());
        dialer.start(Instant(0), DialRole::First);
        assert!(dialer.is_due(Instant(0), 0));
        dialer.start(Instant(1), DialRole::First);
        assert_eq!(dialer.poll_timeout(), Instant(300_000));
        dialer.stop();
        assert_eq!(dialer.poll_timeout(), Instant::NEVER);
    }
}
