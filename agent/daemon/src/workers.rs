//! How many threads carry packets: what the configuration says, and what that is on this machine.

use std::fmt;

use serde::de::{Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// How many threads may carry packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Workers {
    /// As the machine has cores and the process privileges for.
    #[default]
    Auto,
    /// So many: 1, 2, 4 or 8.
    Number(u8),
}

impl Workers {
    /// Most workers.
    pub const MOST: usize = 8;

    /// How many that is on a machine with so many cores: half of them carry packets, the others make and take them.
    pub fn number(self, cores: usize) -> usize {
        match self {
            Self::Number(number) => number.into(),
            // The largest power of two.
            Self::Auto => 1 << (cores / 2).clamp(1, Self::MOST).ilog2(),
        }
    }
}

impl Serialize for Workers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Number(number) => serializer.serialize_u8(*number),
            Self::Auto => serializer.serialize_str("auto"),
        }
    }
}

impl<'de> Deserialize<'de> for Workers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(WorkersVisitor)
    }
}

struct WorkersVisitor;

impl Visitor<'_> for WorkersVisitor {
    type Value = Workers;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("1, 2, 4, 8 or \"auto\"")
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Workers, E> {
        match u8::try_from(value) {
            Ok(number @ (1 | 2 | 4 | 8)) => Ok(Workers::Number(number)),
            _ => Err(E::custom(format!(
                "{value} is no number of workers: 1, 2, 4 or 8, or \"auto\" for half of the cores"
            ))),
        }
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Workers, E> {
        match value {
            "auto" => Ok(Workers::Auto),
            other => Err(E::custom(format!(
                "{other:?} is no number of workers: 1, 2, 4 or 8, or \"auto\" for half of the cores"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_cores_carry_packets_one_at_least_and_eight_at_most() {
        let numbers = [1, 2, 3, 4, 7, 8, 16, 64].map(|cores| Workers::Auto.number(cores));
        assert_eq!(numbers, [1, 1, 1, 2, 2, 4, 8, 8]);
        assert_eq!(Workers::Number(2).number(1), 2);
    }
}
