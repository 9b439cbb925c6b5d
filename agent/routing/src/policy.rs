//! What an operator wants of this node's links: how many flows a link takes, and what it is to cost more or less.
//!
//! A policy is this node's own. What it does to the price is told to others with the price (`docs/protocol/routing.md` §4);
//! a weight is told to nobody, since shares are each node's own affair (§2).

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use wattle_model::{Carrier, Class, Cost, Micros, NodeId};

/// A factor, in thousandths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Thousandths(pub u32);

impl Thousandths {
    /// The factor that changes nothing.
    pub const ONE: Self = Self(1_000);
}

impl Default for Thousandths {
    fn default() -> Self {
        Self::ONE
    }
}

/// The policy of one link; the default changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LinkPolicy {
    /// Share of the flows beside other ways of the same price; zero takes none while there are others.
    pub weight: Thousandths,
    /// What the measured price is multiplied by.
    pub multiplier: Thousandths,
    /// What is added after that.
    pub addend: Micros,
    /// Compared before the price: only where no way leads over lower tiers is it taken.
    pub tier: u8,
}

impl LinkPolicy {
    /// What a link costs that is measured to cost `measured`, within its tier.
    pub fn price(&self, measured: Cost) -> Cost {
        if !measured.is_finite() {
            return measured;
        }
        let multiplied = measured.micros() * u64::from(self.multiplier.0) / 1_000;
        Cost(multiplied.saturating_add(self.addend.0)).min(Cost::MOST)
    }
}

/// An operator's word on some of this node's links.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PolicyRule {
    /// Only links to this neighbour.
    pub neighbour: Option<NodeId>,
    /// Only links over this carrier.
    pub carrier: Option<Carrier>,
    /// Only in this class.
    pub class: Option<Class>,
    /// See [`LinkPolicy::weight`].
    pub weight: Option<Thousandths>,
    /// See [`LinkPolicy::multiplier`].
    pub multiplier: Option<Thousandths>,
    /// See [`LinkPolicy::addend`].
    pub addend: Option<Micros>,
    /// See [`LinkPolicy::tier`].
    pub tier: Option<u8>,
}

impl PolicyRule {
    fn is_about(&self, neighbour: NodeId, carrier: Carrier, class: Class) -> bool {
        self.neighbour.is_none_or(|only| only == neighbour)
            && self.carrier.is_none_or(|only| only == carrier)
            && self.class.is_none_or(|only| only == class)
    }
}

/// The policies of all links of this node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Policies {
    /// What is wanted of which links.
    pub rules: Vec<PolicyRule>,
    /// The classes that are priced apart from latency.
    pub apart: BTreeSet<Class>,
}

impl Policies {
    /// The policy of a link in a class: of each setting the last word that is about it.
    pub fn of(&self, neighbour: NodeId, carrier: Carrier, class: Class) -> LinkPolicy {
        let rules = self.rules.iter();
        let rules = rules.filter(|rule| rule.is_about(neighbour, carrier, class));
        rules.fold(LinkPolicy::default(), |policy, rule| LinkPolicy {
            weight: rule.weight.unwrap_or(policy.weight),
            multiplier: rule.multiplier.unwrap_or(policy.multiplier),
            addend: rule.addend.unwrap_or(policy.addend),
            tier: rule.tier.unwrap_or(policy.tier),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_price_is_multiplied_then_added_to_and_never_infinite() {
        for (multiplier, addend, measured, price) in [
            (1_000, 0, 5_250, 5_250),
            (1_500, 0, 10_000, 15_000),
            (100, 0, 10_000, 1_000),
            (1_000, 5_000, 10_000, 15_000),
            (2_000, 300, 10_000, 20_300),
            (100_000, 0, Cost::MOST.0 - 2, Cost::MOST.0),
            (100_000, 10_000_000, u64::MAX, u64::MAX),
        ] {
            let policy = LinkPolicy {
                multiplier: Thousandths(multiplier),
                addend: Micros(addend),
                ..LinkPolicy::default()
            };
            let case = format!("{multiplier} {addend} {measured}");
            assert_eq!(policy.price(Cost(measured)), Cost(price), "{case}");
        }
    }

    #[test]
    fn of_each_setting_the_last_rule_about_the_link_counts() {
        let of_all = PolicyRule {
            weight: Some(Thousandths(500)),
            addend: Some(Micros(7)),
            ..PolicyRule::default()
        };
        let of_quic = PolicyRule {
            carrier: Some(Carrier::Quic),
            multiplier: Some(Thousandths(2_000)),
            tier: Some(1),
            ..PolicyRule::default()
        };
        let of_one = PolicyRule {
            neighbour: Some(NodeId(1)),
            weight: Some(Thousandths(3_000)),
            ..PolicyRule::default()
        };
        let of_one_link = PolicyRule {
            carrier: Some(Carrier::Quic),
            addend: Some(Micros(0)),
            ..of_one
        };
        let of_bulk = PolicyRule {
            class: Some(Class::Bulk),
            tier: Some(9),
            ..PolicyRule::default()
        };
        let policies = Policies {
            rules: vec![of_all, of_quic, of_one, of_one_link, of_bulk],
            apart: BTreeSet::from([Class::Bulk]),
        };
        let (latency, bulk) = (Class::Latency, Class::Bulk);
        for (neighbour, carrier, class, weight, multiplier, addend, tier) in [
            (2, Carrier::Udp4, latency, 500, 1_000, 7, 0),
            (2, Carrier::Quic, latency, 500, 2_000, 7, 1),
            (1, Carrier::Udp6, latency, 3_000, 1_000, 7, 0),
            (1, Carrier::Quic, latency, 3_000, 2_000, 0, 1),
            (1, Carrier::Quic, bulk, 3_000, 2_000, 0, 9),
        ] {
            let expected = LinkPolicy {
                weight: Thousandths(weight),
                multiplier: Thousandths(multiplier),
                addend: Micros(addend),
                tier,
            };
            assert_eq!(policies.of(NodeId(neighbour), carrier, class), expected);
        }
        assert_eq!(
            Policies::default().of(NodeId(1), Carrier::Udp4, latency),
            LinkPolicy::default()
        );
    }
}
