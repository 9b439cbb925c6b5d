//! How much may wait in a connection's send buffer: time, not bytes.
//!
//! QUIC sends at the rate that its congestion control allows; what a tunnel hands it beyond that waits. A fixed buffer
//! is seconds on a slow path and nothing on a fast one, so the bound is what leaves within [`SOJOURN`] at the present
//! rate (window per round trip). Whoever comes when it is reached is dropped and counted: the flows inside have
//! congestion control of their own and slow down. Pure.

use std::time::Duration;

/// How long a datagram may wait: about what an AQM tolerates for a burst, and a fifth of what speech tolerates.
const SOJOURN: Duration = Duration::from_millis(25);
/// Least that may wait: two bursts of ten packets with which a flow begins.
const LEAST: usize = 32 << 10;
/// Most that may wait: 0.8 ms at 10 Gbit/s; bounds memory.
pub(crate) const MOST: usize = 1 << 20;

/// Bytes that may wait at this window and round trip.
pub(crate) fn bound(window: u64, round_trip: Duration) -> usize {
    let round_trip = round_trip.as_micros().max(1);
    let within = u128::from(window) * SOJOURN.as_micros() / round_trip;
    usize::try_from(within).unwrap_or(MOST).clamp(LEAST, MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_is_bounded_in_time_between_a_burst_and_a_megabyte() {
        let millis = Duration::from_millis;
        // 50 Mbit/s: a window of 125,000 bytes each 20 ms.
        assert_eq!(bound(125_000, millis(20)), 156_250);
        assert_eq!(bound(12_000, millis(200)), LEAST);
        assert_eq!(bound(u64::MAX, Duration::ZERO), MOST);
    }
}
