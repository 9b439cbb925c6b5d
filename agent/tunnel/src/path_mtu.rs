//! The largest packet that gets to a peer whole, whatever links and relays lie between (`docs/protocol/path-mtu.md`):
//! packetisation layer path MTU discovery (RFC 8899) with probes inside the session.
//!
//! The overlay's MTU is believed in until probes of that size stay away while small ones are answered: routers that
//! drop large packets without a word are found like that too. Nothing is probed while nothing large is sent.

use wattle_model::{Instant, Micros};

/// The least that is ever allowed: what an underlay of 1280 bytes carries through a relay, in whole blocks of padding.
pub const MIN_PATH_MTU: u16 = 1136;
/// How long an answer is waited for.
const PATIENCE: Micros = Micros::from_millis(400);
/// Probes of one size before that size counts as too large: a path that loses a third of everything is believed to be
/// narrow once in eighty times, and found wide again at once.
const ATTEMPTS: u8 = 4;
/// Between two looks at whether the present size still gets through, while large packets are sent.
const VERIFY_AFTER: Micros = Micros::from_secs(5);
/// Between two searches for more than was found (RFC 8899 §5.1.1 has ten minutes; routes change more often here).
const RAISE_AFTER: Micros = Micros::from_secs(120);
/// How long a peer counts as being sent large packets after the last one.
const ACTIVE_FOR: Micros = Micros::from_secs(10);
/// The search ends when the answer is known this closely: a block of padding.
const PRECISION: u16 = 16;

/// A probe to be sent: a packet of exactly `size` bytes that has the number in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SizeProbe {
    /// Its number, which the answer repeats.
    pub number: u32,
    /// Bytes of the packet inside the session.
    pub size: u16,
}

/// What is known of the way to one peer.
#[derive(Debug, Clone)]
pub struct PathMtu {
    /// The overlay's MTU: never more.
    most: u16,
    mtu: u16,
    phase: Phase,
    /// The probe under way, and how often its size was tried.
    probe: Option<(SizeProbe, u8)>,
    next: Instant,
    raise_at: Instant,
    active_until: Instant,
    numbers: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Does the present size still get through?
    Verifying,
    /// It did not: does anything?
    Floor,
    /// `low` gets through, more than `high` does not: what lies between?
    Searching { low: u16, high: u16 },
}

impl PathMtu {
    /// A path that is believed to carry the overlay's MTU.
    pub fn new(most: u16) -> Self {
        Self {
            most,
            mtu: most,
            phase: Phase::Verifying,
            probe: None,
            next: Instant(0),
            raise_at: Instant(0),
            active_until: Instant(0),
            numbers: 0,
        }
    }

    /// Bytes of the largest packet to be sent.
    pub fn mtu(&self) -> u16 {
        self.mtu
    }

    /// A packet of this many bytes was sent.
    pub fn sent(&mut self, now: Instant, bytes: usize) {
        if bytes > usize::from(MIN_PATH_MTU) {
            self.active_until = now + ACTIVE_FOR;
        }
    }

    /// When [`Self::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Instant {
        if self.next < self.active_until {
            self.next
        } else {
            Instant::NEVER
        }
    }

    /// The probe that is due, if one is.
    pub fn handle_timeout(&mut self, now: Instant) -> Option<SizeProbe> {
        if now < self.poll_timeout() {
            return None;
        }
        if let Some((probe, ATTEMPTS)) = self.probe {
            self.probe = None;
            self.unanswered(now, probe.size);
            if now < self.next {
                return None;
            }
        }
        let tried = self.probe.map_or(0, |(_, tried)| tried);
        self.numbers = self.numbers.wrapping_add(1);
        let probe = SizeProbe {
            number: self.numbers,
            size: self.candidate(now),
        };
        self.probe = Some((probe, tried + 1));
        self.next = now + PATIENCE;
        Some(probe)
    }

    /// The peer answered the probe of this number.
    pub fn answered(&mut self, now: Instant, number: u32) {
        let size = match self.probe {
            // A late answer to an earlier attempt is as good.
            Some((probe, tried)) if probe.number.wrapping_sub(number) < u32::from(tried) => {
                probe.size
            }
            _ => return,
        };
        self.probe = None;
        self.phase = match self.phase {
            Phase::Verifying => return self.settle(now),
            Phase::Floor => Phase::Searching {
                low: size,
                high: self.mtu,
            },
            Phase::Searching { high, .. } => Phase::Searching { low: size, high },
        };
        self.mtu = size;
        self.narrow(now);
    }

    fn candidate(&mut self, now: Instant) -> u16 {
        if self.phase == Phase::Verifying && self.mtu < self.most && now >= self.raise_at {
            self.phase = Phase::Searching {
                low: self.mtu,
                high: self.most,
            };
        }
        match self.phase {
            Phase::Verifying => self.mtu,
            Phase::Floor => MIN_PATH_MTU.min(self.most),
            // The largest first: more often than not the path is as wide as ever.
            Phase::Searching { high, .. } if high == self.most => high,
            Phase::Searching { low, high } => low + ((high - low) / 2).next_multiple_of(PRECISION),
        }
    }

    /// No probe of this size was answered.
    fn unanswered(&mut self, now: Instant, size: u16) {
        match self.phase {
            Phase::Verifying if self.mtu > MIN_PATH_MTU => {
                self.phase = Phase::Floor;
                self.next = now;
            }
            // Nothing gets through, so size is not what is wrong.
            Phase::Verifying | Phase::Floor => {
                self.phase = Phase::Verifying;
                self.next = now + VERIFY_AFTER;
            }
            Phase::Searching { low, .. } => {
                self.phase = Phase::Searching {
                    low,
                    high: size.saturating_sub(1),
                };
                self.narrow(now);
            }
        }
    }

    fn narrow(&mut self, now: Instant) {
        match self.phase {
            Phase::Searching { low, high } if high >= low + PRECISION => self.next = now,
            _ => self.settle(now),
        }
    }

    fn settle(&mut self, now: Instant) {
        if matches!(self.phase, Phase::Searching { .. }) {
            self.raise_at = now + RAISE_AFTER;
        }
        self.phase = Phase::Verifying;
        self.next = now + VERIFY_AFTER;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: u16 = 1360;

    /// A path that carries at most `width` bytes, for a while during which large packets are sent.
    fn run(
        path: &mut PathMtu,
        from: Instant,
        span: Micros,
        mut width: impl FnMut(Instant) -> u16,
    ) -> Vec<u16> {
        let mut now = from;
        let mut probes = Vec::new();
        while now < from + span {
            path.sent(now, 1300);
            if let Some(probe) = path.handle_timeout(now) {
                probes.push(probe.size);
                if probe.size <= width(now) {
                    path.answered(now + Micros::from_millis(20), probe.number);
                }
            }
            now = now + Micros::from_millis(50);
        }
        probes
    }

    #[test]
    fn every_width_is_found_to_a_block_of_padding_and_never_overstated() {
        for width in MIN_PATH_MTU..=MOST {
            let mut path = PathMtu::new(MOST);
            run(&mut path, Instant(1), Micros::from_secs(20), |_| width);
            assert!(
                path.mtu() <= width && path.mtu() + PRECISION > width,
                "{width}: {}",
                path.mtu()
            );
        }
    }

    #[test]
    fn a_wide_path_costs_a_probe_each_five_seconds_and_an_idle_one_nothing() {
        let mut path = PathMtu::new(MOST);
        let probes = run(&mut path, Instant(1), Micros::from_secs(60), |_| 9_000);
        assert!((11..=13).contains(&probes.len()), "{probes:?}");
        assert_eq!(path.mtu(), MOST);
        let mut idle = PathMtu::new(MOST);
        idle.sent(Instant(1), 100);
        assert_eq!(idle.poll_timeout(), Instant::NEVER);
    }

    #[test]
    fn a_path_that_narrows_is_noticed_within_seconds_and_one_that_widens_within_minutes() {
        let mut path = PathMtu::new(MOST);
        let start = Instant(1);
        run(&mut path, start, Micros::from_secs(10), |_| MOST);
        let narrow = start + Micros::from_secs(10);
        run(&mut path, narrow, Micros::from_secs(8), |_| 1_250);
        assert!((1_234..=1_250).contains(&path.mtu()), "{}", path.mtu());
        let wide = narrow + Micros::from_secs(8);
        run(&mut path, wide, Micros::from_secs(180), |_| MOST);
        assert_eq!(path.mtu(), MOST);
    }

    #[test]
    fn a_path_on_which_nothing_gets_through_is_not_called_narrow() {
        let mut path = PathMtu::new(MOST);
        run(&mut path, Instant(1), Micros::from_secs(60), |_| 0);
        assert_eq!(path.mtu(), MOST);
    }

    #[test]
    fn a_lossy_path_is_not_narrow_for_long() {
        let mut path = PathMtu::new(MOST);
        let mut random = 1_u64;
        let mut narrow = 0;
        let mut now = Instant(1);
        for _ in 0..600 {
            run(&mut path, now, Micros::from_secs(1), |_| {
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                if (random >> 33).is_multiple_of(3) {
                    0
                } else {
                    MOST
                }
            });
            narrow += u32::from(path.mtu() < MOST);
            now = now + Micros::from_secs(1);
        }
        assert!(narrow < 150, "{narrow} of 600 s");
    }

    #[test]
    fn answers_to_other_probes_mean_nothing() {
        let mut path = PathMtu::new(MOST);
        path.sent(Instant(1), 1300);
        let probe = path.handle_timeout(Instant(1)).unwrap();
        for number in [probe.number.wrapping_sub(1), probe.number + 1, 0x8000_0000] {
            path.answered(Instant(2), number);
            assert_eq!(path.probe, Some((probe, 1)));
        }
        path.answered(Instant(2), probe.number);
        assert_eq!(path.probe, None);
    }
}
