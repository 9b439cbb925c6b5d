//! Units of measurement and of routing.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A span of time in microseconds.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Micros(pub u64);

impl Micros {
    /// So many milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis * 1_000)
    }

    /// So many seconds.
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs * 1_000_000)
    }

    /// The span in milliseconds, rounded down.
    pub const fn as_millis(self) -> u64 {
        self.0 / 1_000
    }
}

impl From<Micros> for std::time::Duration {
    fn from(span: Micros) -> Self {
        Self::from_micros(span.0)
    }
}

/// Parts per million: loss and other fractions.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Ppm(pub u32);

/// The price of using something: its tier first, then microseconds of expected one-way delivery time.
///
/// An operator gives links a tier: of two paths the one with the smaller sum of tiers is better whatever it takes. Where nobody
/// gave any, a price is a number of microseconds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cost(pub u64);

/// Bits that the microseconds take: a path of 255 links that cost the most that a record can say.
const MICROS_BITS: u32 = 40;

impl Cost {
    /// Not usable.
    pub const INFINITE: Self = Self(u64::MAX);

    /// The most that a record can say of one link or one node.
    pub const MOST: Self = Self(u32::MAX as u64 - 1);

    /// The price that a record tells; its highest number means not usable.
    pub const fn told(micros: u32) -> Self {
        match micros {
            u32::MAX => Self::INFINITE,
            micros => Self(micros as u64),
        }
    }

    /// The same time in another tier; what cannot be used stays so.
    #[must_use]
    pub const fn in_tier(self, tier: u8) -> Self {
        match self.is_finite() {
            true => Self(self.micros() | (tier as u64) << MICROS_BITS),
            false => self,
        }
    }

    /// Whether it can be used at all.
    pub const fn is_finite(self) -> bool {
        self.0 != u64::MAX
    }

    /// The sum of the tiers; none of what cannot be used.
    pub const fn tiers(self) -> u32 {
        match self.is_finite() {
            true => (self.0 >> MICROS_BITS) as u32,
            false => 0,
        }
    }

    /// The time, in microseconds, without the tiers.
    pub const fn micros(self) -> u64 {
        self.0 & ((1 << MICROS_BITS) - 1)
    }

    /// The time as a record tells it.
    pub fn to_tell(self) -> u32 {
        match self.is_finite() {
            true => self.micros().min(Self::MOST.0) as u32,
            false => u32::MAX,
        }
    }

    /// The sum, never beyond infinite.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// The higher tier of both and the longer time of both: what two ends that claim differently agree on.
    #[must_use]
    pub fn or_worse(self, other: Self) -> Self {
        if !self.is_finite() || !other.is_finite() {
            return Self::INFINITE;
        }
        let micros = self.micros().max(other.micros());
        let tiers = self.tiers().max(other.tiers());
        Self(micros | u64::from(tiers) << MICROS_BITS)
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.is_finite(), self.tiers()) {
            (false, _) => f.pad("inf"),
            (true, 0) => f.pad(&self.micros().to_string()),
            (true, tiers) => f.pad(&format!("{} in tier {tiers}", self.micros())),
        }
    }
}

impl fmt::Debug for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tier_outweighs_any_time_and_ends_agree_on_the_worse_of_both() {
        let slow = Cost::MOST;
        let fast = Cost(1).in_tier(1);
        assert!(slow.plus(slow) < fast && fast < Cost::INFINITE);
        assert_eq!(slow.or_worse(fast), Cost::MOST.in_tier(1));
        assert_eq!(fast.or_worse(Cost::INFINITE), Cost::INFINITE);
        assert_eq!(fast.plus(fast).tiers(), 2);
        assert_eq!(Cost::INFINITE.in_tier(3), Cost::INFINITE);
        assert_eq!(Cost::INFINITE.tiers(), 0);
    }

    #[test]
    fn a_record_tells_the_time_of_a_price_and_whether_there_is_one() {
        for (cost, told) in [
            (Cost(0), 0),
            (Cost(77).in_tier(9), 77),
            (Cost(u64::from(u32::MAX) * 3), u32::MAX - 1),
            (Cost::INFINITE, u32::MAX),
        ] {
            assert_eq!(cost.to_tell(), told);
        }
        assert_eq!(Cost::told(u32::MAX), Cost::INFINITE);
        assert_eq!(Cost::told(5), Cost(5));
    }
}
