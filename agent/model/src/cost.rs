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

/// The price of using something: microseconds of expected one-way delivery time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cost(pub u32);

impl Cost {
    /// Not usable.
    pub const INFINITE: Self = Self(u32::MAX);

    /// Whether it can be used at all.
    pub const fn is_finite(self) -> bool {
        self.0 != u32::MAX
    }

    /// The sum, never beyond infinite.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_finite() {
            f.pad(&self.0.to_string())
        } else {
            f.pad("inf")
        }
    }
}

impl fmt::Debug for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
