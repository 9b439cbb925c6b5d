//! The two clocks: one that never goes back, for deadlines, and the wall's, for people.
//!
//! The monotonic one is `CLOCK_BOOTTIME`, which goes on while a laptop sleeps, so that keys and sessions age
//! with the world and not with the CPU.

use nix::time::{ClockId, clock_gettime};
use wattle_model::{Instant, UnixTime};

/// Reads the kernel's clocks; the shell asks once per wakeup and hands the answer down.
#[derive(Debug, Clone, Copy, Default)]
pub struct Clock;

impl Clock {
    /// Microseconds since the machine booted.
    pub fn now(self) -> Instant {
        let (seconds, nanos) = read(ClockId::CLOCK_BOOTTIME);
        Instant(seconds * 1_000_000 + nanos / 1_000)
    }

    /// Milliseconds since 1970 UTC.
    pub fn wall(self) -> UnixTime {
        let (seconds, nanos) = read(ClockId::CLOCK_REALTIME);
        UnixTime(seconds * 1_000 + nanos / 1_000_000)
    }
}

fn read(clock: ClockId) -> (u64, u64) {
    let time = clock_gettime(clock).expect("Linux has had this clock since 2.6.39");
    (time.tv_sec().unsigned_abs(), time.tv_nsec().unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_time_never_goes_back_and_the_wall_is_past_2025() {
        let earlier = Clock.now();
        let later = Clock.now();
        assert!(later >= earlier && earlier.0 > 0);
        assert!(Clock.wall() > UnixTime(1_735_689_600_000));
    }
}
