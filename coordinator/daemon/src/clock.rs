//! The two clocks, asked for here alone and handed down.

use std::time::{SystemTime, UNIX_EPOCH};

use tokio::time::Instant;
use wattle_api::Timestamp;

/// The monotonic clock, counted from the start of the process; the same that timers follow.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock(Instant);

impl Clock {
    /// A clock that begins here.
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    /// The time.
    pub(crate) fn now(self) -> wattle_model::Instant {
        wattle_model::Instant(u64::try_from(self.0.elapsed().as_micros()).unwrap_or(u64::MAX))
    }
}

/// Wall-clock time.
pub(crate) fn wall() -> Timestamp {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
