//! From the records of the database to a graph, and to who announces what.
//!
//! A link counts only if both its ends report it, at the worse of their two prices: nobody attracts traffic by
//! boasting. A prefix counts only within what its origin was granted.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use wattle_model::{ApartCosts, Carrier, Class, Cost, NetworkId, NodeId, Prefix};
use wattle_wire::key::PublicKey;
use wattle_wire::record::{Body, LinkEntry};

use crate::graph::Graph;
use crate::lsdb::Lsdb;

/// Who belongs to the network, by its trust root's word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members {
    /// The network.
    pub network: NetworkId,
    /// Its trust root, which signs removals.
    pub root: PublicKey,
    /// The nodes that have an agent, this node included.
    pub nodes: BTreeMap<NodeId, Member>,
}

/// One member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The key that signs its records.
    pub identity: PublicKey,
    /// Serial of its grant; a removal voids grants up to a serial.
    pub serial: u64,
    /// What it may announce.
    pub prefixes: Vec<Prefix>,
}

impl Member {
    /// Whether the prefix lies within the member's grant.
    pub fn may_announce(&self, prefix: &Prefix) -> bool {
        self.prefixes.iter().any(|granted| {
            granted.contains(prefix.address()) && granted.length() <= prefix.length()
        })
    }
}

/// A link that both ends report, in the order of its ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopologyLink {
    /// The end with the smaller id.
    pub a: NodeId,
    /// The end with the larger id.
    pub b: NodeId,
    /// What carries it.
    pub carrier: Carrier,
    /// The price that routing uses: the worse of the two claims.
    pub cost: Cost,
    /// What `a` claims.
    pub cost_a: Cost,
    /// What `b` claims.
    pub cost_b: Cost,
    /// The prices that routing uses in the classes that either end prices apart.
    #[serde(default)]
    pub apart: ApartCosts,
}

impl TopologyLink {
    /// The price that routing uses in a class.
    pub fn cost_of(&self, class: Class) -> Cost {
        self.apart.of(class).unwrap_or(self.cost)
    }
}

/// What the valid records of the members say together.
#[derive(Debug, Clone, Default)]
pub struct Topology {
    /// The price of transit, for every member whose word is known.
    pub nodes: BTreeMap<NodeId, Cost>,
    /// The links that both ends report.
    pub links: Vec<TopologyLink>,
    /// Announced and granted prefixes, and their origins.
    pub prefixes: BTreeMap<Prefix, Vec<NodeId>>,
}

impl Topology {
    /// Reads the database.
    pub fn of(database: &Lsdb, members: &BTreeMap<NodeId, Member>) -> Self {
        let mut topology = Self::default();
        let mut claims: Vec<((NodeId, NodeId, Carrier), &LinkEntry)> = Vec::new();
        for (key, entry) in database.iter() {
            let Some(member) = members.get(&key.origin) else {
                continue;
            };
            match &entry.body {
                Body::Node(body) => {
                    topology.nodes.insert(key.origin, body.transit);
                }
                Body::Links(body) => {
                    topology.nodes.entry(key.origin).or_default();
                    claims.extend(
                        body.links
                            .iter()
                            .map(|link| ((key.origin, link.neighbour, link.carrier), link)),
                    );
                }
                Body::Prefixes(body) => {
                    let granted = body
                        .prefixes
                        .iter()
                        .filter(|prefix| member.may_announce(prefix));
                    for prefix in granted {
                        topology
                            .prefixes
                            .entry(*prefix)
                            .or_default()
                            .push(key.origin);
                    }
                }
                Body::Removal(_) => {}
            }
        }
        // Who claims a link twice means the last claim.
        claims.reverse();
        claims.sort_by_key(|(ends, _)| *ends);
        claims.dedup_by_key(|(ends, _)| *ends);
        let claim_of = |ends| {
            let at = claims.binary_search_by_key(&ends, |(ends, _)| *ends).ok()?;
            Some(claims[at].1)
        };
        let links =
            claims
                .iter()
                .filter(|((a, b, _), _)| a < b)
                .filter_map(|((a, b, carrier), claim)| {
                    let reverse = claim_of((*b, *a, *carrier))?;
                    let cost = agreed(claim, reverse, Class::Latency);
                    cost.is_finite().then_some(TopologyLink {
                        a: *a,
                        b: *b,
                        carrier: *carrier,
                        cost,
                        cost_a: claim.cost,
                        cost_b: reverse.cost,
                        apart: apart(claim, reverse),
                    })
                });
        // Each has two claims: room at once instead of ever more.
        topology.links.reserve(claims.len() / 2);
        topology.links.extend(links);
        topology
    }

    /// The classes that are priced apart by anybody.
    pub fn apart(&self) -> BTreeSet<Class> {
        let links = self.links.iter();
        let priced = links.flat_map(|link| link.apart.iter());
        priced.map(|(class, _)| class).collect()
    }

    /// The graph of nodes and of the best link between every two, with the prices of a class.
    pub fn graph(&self, class: Class) -> Graph {
        let links = self.links.iter();
        let links = links.map(|link| ((link.a, link.b), link.cost_of(class)));
        Graph::of(&self.nodes, links)
    }
}

/// The worse of what both ends ask. A free link would let them swap packets without coming nearer.
fn agreed(claim: &LinkEntry, reverse: &LinkEntry, class: Class) -> Cost {
    let cost = claim.cost_of(class).or_worse(reverse.cost_of(class));
    // Every class reaches what latency reaches.
    let cost = match (cost.is_finite(), class) {
        (false, Class::Bulk | Class::Admin) => Cost::MOST.in_tier(u8::MAX),
        _ => cost,
    };
    cost.max(Cost(1))
}

fn apart(claim: &LinkEntry, reverse: &LinkEntry) -> ApartCosts {
    let claims = claim.apart.iter().chain(reverse.apart.iter());
    claims.fold(ApartCosts::NONE, |costs, (class, _)| {
        costs.with(class, agreed(claim, reverse, class))
    })
}
