//! What led to other routes, and when that began.

use wattle_model::{Instant, Micros};

use crate::event::Cause;

/// A moment in microseconds of this node's clock, which may have started later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Began(i64);

impl Began {
    /// So long before `now`.
    pub(super) fn before(now: Instant, ago: Micros) -> Self {
        let signed = |micros: u64| i64::try_from(micros).unwrap_or(i64::MAX);
        Self(signed(now.0).saturating_sub(signed(ago.0)))
    }

    /// How long it is ago.
    pub(super) fn until(self, now: Instant) -> Micros {
        let ago = Self::from(now).0.saturating_sub(self.0);
        Micros(u64::try_from(ago).unwrap_or(0))
    }
}

impl From<Instant> for Began {
    fn from(at: Instant) -> Self {
        Self::before(at, Micros(0))
    }
}

/// Why routes are computed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Trigger {
    pub(super) cause: Cause,
    /// With the first suspicion of a lost link, or when a record was told.
    pub(super) began: Option<Began>,
}

impl Trigger {
    /// This one, or another if only of that it is known when it began.
    pub(super) fn or_began(self, other: Self) -> Self {
        match self.began {
            Some(_) => self,
            None => other,
        }
    }
}

impl From<Cause> for Trigger {
    fn from(cause: Cause) -> Self {
        Self { cause, began: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_before_the_clock_started_is_as_long_ago() {
        let began = Began::before(Instant(5), Micros(40));
        assert_eq!(began.until(Instant(5)), Micros(40));
        assert_eq!(began.until(Instant(7)), Micros(42));
        // The clock of who told it goes ahead.
        assert_eq!(Began::from(Instant(9)).until(Instant(7)), Micros(0));
        let longest = Began::before(Instant(0), Micros(u64::MAX));
        assert_eq!(longest.until(Instant(0)), Micros(i64::MAX as u64));
    }
}
