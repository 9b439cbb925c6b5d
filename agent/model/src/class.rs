//! Classes of traffic: by which price of each link a packet's way is chosen.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Cost;

/// What a packet's way is to be good for. A link has a price in each class; where its owner prices a class not apart, that of
/// latency counts.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Everything that does not say otherwise: soon there.
    #[default]
    Latency,
    /// What says that it can wait: queues and jitter cost nothing.
    Bulk,
    /// Operations and management: measured time costs nothing, so operators say what a link costs.
    Admin,
}

impl Class {
    /// All classes.
    pub const ALL: [Self; 3] = [Self::Latency, Self::Bulk, Self::Admin];

    /// Those that may be priced apart.
    pub const APART: [Self; 2] = [Self::Bulk, Self::Admin];

    /// The class's number on the wire.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The class with this number; `None` if it is not known here.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.code() == code)
    }

    /// What people call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Latency => "latency",
            Self::Bulk => "bulk",
            Self::Admin => "admin",
        }
    }

    /// Whether it is the class of what does not say otherwise.
    pub const fn is_latency(&self) -> bool {
        matches!(self, Self::Latency)
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The text names no class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownClass;

impl fmt::Display for UnknownClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no such class: latency, bulk or admin")
    }
}

impl std::error::Error for UnknownClass {}

impl FromStr for Class {
    type Err = UnknownClass;

    fn from_str(text: &str) -> Result<Self, UnknownClass> {
        let mut all = Self::ALL.into_iter();
        all.find(|class| class.name() == text).ok_or(UnknownClass)
    }
}

/// The prices of the classes that are priced apart from latency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct ApartCosts([Option<Cost>; Class::APART.len()]);

impl ApartCosts {
    /// No class is priced apart.
    pub const NONE: Self = Self([None; Class::APART.len()]);

    /// The price of a class, if it is priced apart.
    pub fn of(&self, class: Class) -> Option<Cost> {
        let at = usize::from(class.code()).checked_sub(1)?;
        self.0[at]
    }

    /// The same with a price for a class; for latency nothing changes.
    #[must_use]
    pub fn with(mut self, class: Class, cost: Cost) -> Self {
        if let Some(at) = usize::from(class.code()).checked_sub(1) {
            self.0[at] = Some(cost);
        }
        self
    }

    /// The classes that are priced apart, and their prices.
    pub fn iter(&self) -> impl Iterator<Item = (Class, Cost)> + '_ {
        let all = Class::APART.into_iter().zip(self.0);
        all.filter_map(|(class, cost)| Some((class, cost?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_has_a_number_and_a_name_of_its_own() {
        for class in Class::ALL {
            assert_eq!(Class::from_code(class.code()), Some(class));
            assert_eq!(class.to_string().parse(), Ok(class));
            let json = serde_json::to_string(&class).unwrap();
            assert_eq!(json, format!("\"{class}\""));
        }
        assert_eq!(Class::from_code(3), None);
        assert_eq!("fast".parse::<Class>(), Err(UnknownClass));
    }

    #[test]
    fn only_classes_beside_latency_are_priced_apart() {
        let costs = Class::ALL
            .into_iter()
            .fold(ApartCosts::NONE, |costs, class| {
                costs.with(class, Cost(7 + u64::from(class.code())))
            });
        let told: Vec<_> = costs.iter().collect();
        assert_eq!(told, [(Class::Bulk, Cost(8)), (Class::Admin, Cost(9))]);
        assert_eq!(costs.of(Class::Latency), None);
        assert_eq!(ApartCosts::NONE.iter().count(), 0);
    }
}
