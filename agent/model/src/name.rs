//! Names of nodes.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde_with::{DeserializeFromStr, SerializeDisplay};

/// A node's name: one DNS label (RFC 1123 §2.1): 1-63 of `a-z 0-9 -`, no `-` at either end.
#[derive(
    Debug,
    Clone,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    JsonSchema,
    SerializeDisplay,
    DeserializeFromStr,
)]
#[schemars(extend("pattern" = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"))]
pub struct NodeName(String);

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// No characters, or more than 63.
    #[error("a node name has 1 to 63 characters, this one has {0}")]
    Length(usize),
    /// A character outside the alphabet.
    #[error("a node name has only a-z, 0-9 and -, found {0:?}")]
    Character(char),
    /// A `-` at one of the ends.
    #[error("a node name neither begins nor ends with -")]
    Hyphen,
}

impl NodeName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NodeName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.is_empty() || text.len() > 63 {
            return Err(NameError::Length(text.len()));
        }
        if let Some(c) = text
            .chars()
            .find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '-'))
        {
            return Err(NameError::Character(c));
        }
        if text.starts_with('-') || text.ends_with('-') {
            return Err(NameError::Hyphen);
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_dns_labels_are_names() {
        for good in ["a", "db-3", &"x".repeat(63)] {
            assert!(good.parse::<NodeName>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "-a",
            "a-",
            "A",
            "a.b",
            "../x",
            "\u{1b}[0m",
            &"x".repeat(64),
        ] {
            assert!(bad.parse::<NodeName>().is_err(), "{bad}");
        }
    }
}
