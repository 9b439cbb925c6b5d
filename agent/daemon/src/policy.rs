//! What the configuration says of this node's links (`[[links]]`), and which policy that is for whom.
//!
//! Neighbours are named as people name them; who that is only the membership knows, and it may change.

use std::collections::BTreeSet;
use std::fmt;

use serde::de::{Deserializer, Error as _, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use wattle_model::{Carrier, Class, Micros, NodeId};
use wattle_routing::{Policies, PolicyRule, Thousandths};

/// One `[[links]]` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "Written")]
pub struct LinkRule {
    /// Only links to this neighbour, by name or id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// Only links over this carrier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub carrier: Option<Carrier>,
    /// Only packets of this class, which is then priced apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<Class>,
    /// How many flows the link takes beside others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<Weight>,
    /// What its price is multiplied by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub multiplier: Option<Multiplier>,
    /// What is added to that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub addend: Option<Addend>,
    /// What is compared before any price.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tier: Option<u8>,
}

/// The rule as it stands in the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    peer: Option<String>,
    carrier: Option<Carrier>,
    class: Option<Class>,
    weight: Option<Weight>,
    multiplier: Option<Multiplier>,
    addend: Option<Addend>,
    tier: Option<u8>,
}

impl TryFrom<Written> for LinkRule {
    type Error = &'static str;

    fn try_from(written: Written) -> Result<Self, Self::Error> {
        let Written {
            peer,
            carrier,
            class,
            weight,
            multiplier,
            addend,
            tier,
        } = written;
        if (weight, multiplier, addend, tier) == (None, None, None, None) {
            return Err("this sets nothing; give a weight, a multiplier, an addend or a tier");
        }
        Ok(Self {
            peer,
            carrier,
            class,
            weight,
            multiplier,
            addend,
            tier,
        })
    }
}

/// A number of flows beside one: 0 to 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weight(Thousandths);

/// A factor of a price: 0.1 to 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Multiplier(Thousandths);

/// A span that a price grows by: up to ten seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addend(Micros);

impl Serialize for Weight {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(decimal(self.0))
    }
}

impl<'de> Deserialize<'de> for Weight {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = Number {
            what: "a weight",
            least: Thousandths(0),
        };
        deserializer.deserialize_any(number).map(Self)
    }
}

impl Serialize for Multiplier {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(decimal(self.0))
    }
}

impl<'de> Deserialize<'de> for Multiplier {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = Number {
            what: "a multiplier",
            least: Thousandths(100),
        };
        deserializer.deserialize_any(number).map(Self)
    }
}

impl Serialize for Addend {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}us", self.0.0))
    }
}

impl<'de> Deserialize<'de> for Addend {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let span = span(&text).filter(|span| *span <= MOST_ADDED);
        span.map(Self).ok_or_else(|| {
            D::Error::custom(format!(
                "{text:?} is no addend: a number of us, ms or s such as \"5ms\", at most \"10s\""
            ))
        })
    }
}

/// More than any way costs.
const MOST_ADDED: Micros = Micros::from_secs(10);
/// The largest weight and multiplier.
const MOST: Thousandths = Thousandths(100_000);

/// A whole number with its unit.
fn span(text: &str) -> Option<Micros> {
    let units = [("us", 1), ("ms", 1_000), ("s", 1_000_000)];
    let (number, unit) = units
        .iter()
        .find_map(|(suffix, unit)| Some((text.strip_suffix(suffix)?, unit)))?;
    let number: u64 = number.trim_end().parse().ok()?;
    number.checked_mul(*unit).map(Micros)
}

fn decimal(factor: Thousandths) -> f64 {
    f64::from(factor.0) / 1_000.0
}

/// A number with three decimals at most.
struct Number {
    what: &'static str,
    least: Thousandths,
}

impl Number {
    fn refused<E: serde::de::Error>(&self, value: impl fmt::Display) -> E {
        E::custom(format!(
            "{value} is outside the range of {}: {} to {}, in steps of 0.001",
            self.what,
            decimal(self.least),
            decimal(MOST)
        ))
    }
}

impl Visitor<'_> for Number {
    type Value = Thousandths;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: a number from {} to {}",
            self.what,
            decimal(self.least),
            decimal(MOST)
        )
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Thousandths, E> {
        let thousandths = value
            .checked_mul(1_000)
            .and_then(|value| u32::try_from(value).ok())
            .map(Thousandths);
        thousandths
            .filter(|factor| (self.least..=MOST).contains(factor))
            .ok_or_else(|| self.refused(value))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Thousandths, E> {
        let thousandths = value * 1_000.0;
        let whole = thousandths.round();
        let range = f64::from(self.least.0)..=f64::from(MOST.0);
        match range.contains(&whole) && (thousandths - whole).abs() < 1e-6 {
            true => Ok(Thousandths(whole as u32)),
            false => Err(self.refused(value)),
        }
    }
}

/// The policies that `rules` are where `find` knows the nodes by what people call them, with the classes that are priced
/// apart; and the names that it does not know.
pub(crate) fn policies(
    (rules, classes): (&[LinkRule], &BTreeSet<Class>),
    find: impl Fn(&str) -> Option<NodeId>,
) -> (Policies, BTreeSet<String>) {
    let mut unknown = BTreeSet::new();
    let mut found = Vec::new();
    for rule in rules {
        let neighbour = match rule.peer.as_deref().map(|peer| find(peer).ok_or(peer)) {
            None => None,
            Some(Ok(node)) => Some(node),
            Some(Err(peer)) => {
                unknown.insert(peer.to_owned());
                continue;
            }
        };
        found.push(PolicyRule {
            neighbour,
            carrier: rule.carrier,
            class: rule.class,
            weight: rule.weight.map(|weight| weight.0),
            multiplier: rule.multiplier.map(|multiplier| multiplier.0),
            addend: rule.addend.map(|addend| addend.0),
            tier: rule.tier,
        });
    }
    let of_rules = rules.iter().filter_map(|rule| rule.class);
    let apart = of_rules.chain(classes.iter().copied());
    let policies = Policies {
        rules: found,
        apart: apart.filter(|class| !class.is_latency()).collect(),
    };
    (policies, unknown)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn rules(text: &str) -> Vec<LinkRule> {
        Config::parse(text, std::path::Path::new("x"))
            .unwrap()
            .links
    }

    #[test]
    fn rules_are_read_in_order_and_written_back_the_same() {
        let text = "[[links]]\naddend = \"5ms\"\n\n[[links]]\npeer = \"b\"\ncarrier = \"quic\"\nweight = 3\nmultiplier = 1.5\ntier = 2\n\n[[links]]\nclass = \"bulk\"\ntier = 1\n";
        let read = rules(text);
        let (policies, unknown) = policies((&read, &BTreeSet::new()), |name| {
            (name == "b").then_some(NodeId(2))
        });
        assert!(unknown.is_empty());
        let expected = [
            PolicyRule {
                addend: Some(Micros(5_000)),
                ..PolicyRule::default()
            },
            PolicyRule {
                neighbour: Some(NodeId(2)),
                carrier: Some(Carrier::Quic),
                weight: Some(Thousandths(3_000)),
                multiplier: Some(Thousandths(1_500)),
                tier: Some(2),
                ..PolicyRule::default()
            },
            PolicyRule {
                class: Some(Class::Bulk),
                tier: Some(1),
                ..PolicyRule::default()
            },
        ];
        assert_eq!(policies.rules, expected);
        assert_eq!(policies.apart, BTreeSet::from([Class::Bulk]));
        let config = Config {
            links: read.clone(),
            ..Config::default()
        };
        assert_eq!(rules(&toml::to_string(&config).unwrap()), read);
    }

    #[test]
    fn a_rule_about_somebody_unknown_is_named_and_says_nothing_of_others() {
        let read =
            rules("[[links]]\npeer = \"x\"\nweight = 0\n[[links]]\npeer = \"b\"\nweight = 0.25\n");
        let (policies, unknown) = policies((&read, &BTreeSet::new()), |name| {
            (name == "b").then_some(NodeId(2))
        });
        assert_eq!(unknown, BTreeSet::from(["x".to_owned()]));
        let weights = policies
            .rules
            .iter()
            .map(|rule| (rule.neighbour, rule.weight));
        assert_eq!(
            weights.collect::<Vec<_>>(),
            [(Some(NodeId(2)), Some(Thousandths(250)))]
        );
    }
}
