//! From the records of the database to a graph, and to who announces what.
//!
//! A link counts only if both its ends report it, at the worse of their two prices: nobody attracts traffic by
//! boasting. A prefix counts only within what its origin was granted.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use wattle_model::{ApartCosts, Carrier, Class, Cost, NetworkId, NodeId, Prefix};
use wattle_wire::key::PublicKey;
use wattle_wire::record::{Body, LinkEntry};

use crate::graph::{Graph, Vertex};
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
    /// The link between two nodes, in the order of their ids, that each claims; `None` if either says that nothing passes.
    fn agreed((a, b): (NodeId, NodeId), claim: &LinkEntry, reverse: &LinkEntry) -> Option<Self> {
        let cost = agreed(claim, reverse, Class::Latency);
        cost.is_finite().then_some(Self {
            a,
            b,
            carrier: claim.carrier,
            cost,
            cost_a: claim.cost,
            cost_b: reverse.cost,
            apart: apart(claim, reverse),
        })
    }

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
            topology.say(key.origin, member, entry.body());
            if let Body::Links(body) = entry.body() {
                let links = body.links.iter();
                claims.extend(links.map(|link| ((key.origin, link.neighbour, link.carrier), link)));
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
                    TopologyLink::agreed((*a, *b), claim, claim_of((*b, *a, *carrier))?)
                });
        // Each has two claims: room at once instead of ever more.
        topology.links.reserve(claims.len() / 2);
        topology.links.extend(links);
        topology
    }

    /// Brings up to date what these nodes say, and what is agreed with them: the database is what it was in all else.
    pub(crate) fn update(
        &mut self,
        database: &Lsdb,
        members: &BTreeMap<NodeId, Member>,
        origins: &BTreeSet<NodeId>,
    ) {
        self.nodes.retain(|node, _| !origins.contains(node));
        self.prefixes.retain(|_, all| {
            all.retain(|origin| !origins.contains(origin));
            !all.is_empty()
        });
        let is_other =
            |link: &TopologyLink| !origins.contains(&link.a) && !origins.contains(&link.b);
        self.links.retain(is_other);
        for origin in origins {
            let Some(member) = members.get(origin) else {
                continue;
            };
            for (_, entry) in database.of(*origin) {
                self.say(*origin, member, entry.body());
            }
            for ((neighbour, carrier), claim) in last_claims(database, *origin) {
                // What two of them agree on is told by the first.
                let is_told = origins.contains(&neighbour) && neighbour <= *origin;
                if is_told || !members.contains_key(&neighbour) {
                    continue;
                }
                let reverse = last_claim(database, neighbour, (*origin, carrier));
                let link = reverse.and_then(|reverse| match *origin < neighbour {
                    true => TopologyLink::agreed((*origin, neighbour), claim, reverse),
                    false => TopologyLink::agreed((neighbour, *origin), reverse, claim),
                });
                self.links.extend(link);
            }
        }
        self.links
            .sort_by_key(|link| (link.a, link.b, link.carrier));
        self.prefixes
            .values_mut()
            .for_each(|all| all.sort_unstable());
    }

    /// Takes in a record, but for its links.
    fn say(&mut self, origin: NodeId, member: &Member, body: &Body) {
        match body {
            Body::Node(body) => {
                self.nodes.insert(origin, body.transit);
            }
            Body::Links(_) => {
                self.nodes.entry(origin).or_default();
            }
            Body::Prefixes(body) => {
                let granted = body.prefixes.iter();
                for prefix in granted.filter(|prefix| member.may_announce(prefix)) {
                    self.prefixes.entry(*prefix).or_default().push(origin);
                }
            }
            Body::Removal(_) => {}
        }
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

    /// The same, from the graph before, when only the links and the transit prices of these nodes may be others.
    pub(crate) fn graph_after(
        &self,
        before: &Graph,
        class: Class,
        changed: &BTreeSet<NodeId>,
    ) -> Graph {
        if !before.is_of(self.nodes.keys()) {
            return self.graph(class);
        }
        let mut graph = before.clone();
        let mut costs: BTreeMap<(Vertex, Vertex), Cost> = BTreeMap::new();
        for at in changed.iter().filter_map(|node| before.vertex(*node)) {
            let edges = before.edges(at).iter();
            costs.extend(edges.map(|edge| ((at.min(edge.to), at.max(edge.to)), Cost::INFINITE)));
        }
        let is_changed =
            |link: &&TopologyLink| changed.contains(&link.a) || changed.contains(&link.b);
        for link in self.links.iter().filter(is_changed) {
            let ends = before.vertex(link.a).zip(before.vertex(link.b));
            if let Some(ends) = ends {
                let cost = costs.entry(ends).or_insert(Cost::INFINITE);
                *cost = link.cost_of(class).min(*cost);
            }
        }
        for ((a, b), cost) in costs {
            graph.set_cost(a, b, cost);
        }
        for node in changed {
            if let Some((at, transit)) = before.vertex(*node).zip(self.nodes.get(node)) {
                graph.set_transit(at, *transit);
            }
        }
        graph
    }
}

/// The links that a node claims, each as it claims it last.
fn last_claims(database: &Lsdb, origin: NodeId) -> BTreeMap<(NodeId, Carrier), &LinkEntry> {
    claims(database, origin)
        .map(|link| ((link.neighbour, link.carrier), link))
        .collect()
}

/// One of them.
fn last_claim(database: &Lsdb, origin: NodeId, end: (NodeId, Carrier)) -> Option<&LinkEntry> {
    claims(database, origin)
        .filter(|link| (link.neighbour, link.carrier) == end)
        .last()
}

fn claims(database: &Lsdb, origin: NodeId) -> impl Iterator<Item = &LinkEntry> {
    let bodies = database
        .of(origin)
        .filter_map(|(_, entry)| match entry.body() {
            Body::Links(body) => Some(&body.links),
            Body::Node(_) | Body::Prefixes(_) | Body::Removal(_) => None,
        });
    bodies.flatten()
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rand_chacha::ChaCha8Rng;
    use rand_core::{RngCore as _, SeedableRng as _};
    use wattle_model::{Instant, Micros, Ppm, SeqNo, UnixTime};
    use wattle_wire::key::SecretKey;
    use wattle_wire::record::{LinksBody, NodeBody, PrefixesBody, Record, RecordKey, RecordKind};

    use super::*;
    use crate::lsdb::Told;

    /// Members; one more node speaks.
    const NODES: u64 = 9;

    #[test]
    fn what_was_brought_up_to_date_is_what_the_whole_database_says() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let members = members();
        let mut database = Lsdb::default();
        let mut topology = Topology::default();
        let mut graph = Graph::default();
        for step in 0..2_000 {
            let changed: BTreeSet<_> = (0..1 + rng.next_u64() % 3)
                .map(|_| NodeId(rng.next_u64() % (NODES + 1)))
                .collect();
            for origin in &changed {
                if rng.next_u32().is_multiple_of(40) {
                    database.forget(*origin);
                } else {
                    database.insert(Instant(0), word(&mut rng, *origin, step));
                }
            }
            topology.update(&database, &members, &changed);
            let whole = Topology::of(&database, &members);
            assert_eq!(topology.nodes, whole.nodes, "step {step}");
            assert_eq!(topology.links, whole.links, "step {step}");
            assert_eq!(topology.prefixes, whole.prefixes, "step {step}");
            graph = topology.graph_after(&graph, Class::Latency, &changed);
            let made = whole.graph(Class::Latency);
            assert_eq!(graph.changes_since(&made, 0), Some(vec![]), "step {step}");
            assert_eq!(graph.fingerprint(), made.fingerprint());
        }
    }

    fn members() -> BTreeMap<NodeId, Member> {
        let member = Member {
            identity: SecretKey::from_seed(&[1; 32]).public(),
            serial: 1,
            prefixes: (0..2).map(prefix).collect(),
        };
        (0..NODES)
            .map(|node| (NodeId(node), member.clone()))
            .collect()
    }

    fn prefix(number: u8) -> Prefix {
        Prefix::new([10, number, 0, 0].into(), 16).expect("16 bits fit")
    }

    /// Anything that a node may say, about itself, others and nobody.
    fn word(rng: &mut ChaCha8Rng, origin: NodeId, step: u64) -> Arc<Told> {
        let at = UnixTime(1);
        let mut below = |limit: u64| rng.next_u64() % limit;
        let body = match below(6) {
            0 => Body::Node(NodeBody {
                at,
                transit: Cost(below(3)),
                ..NodeBody::default()
            }),
            1 => Body::Prefixes(PrefixesBody {
                at,
                prefixes: (0..below(4) as u8).map(prefix).collect(),
            }),
            _ => Body::Links(LinksBody {
                at,
                links: (0..below(6)).map(|_| link(&mut below)).collect(),
                ..LinksBody::default()
            }),
        };
        let kind = match &body {
            Body::Node(_) => RecordKind::Node,
            Body::Links(_) => RecordKind::Links,
            Body::Prefixes(_) => RecordKind::Prefixes,
            Body::Removal(_) => RecordKind::Removal,
        };
        let part = if kind == RecordKind::Links {
            below(2) as u8
        } else {
            0
        };
        let key = RecordKey { origin, kind, part };
        let signer = SecretKey::from_seed(&[1; 32]);
        let seq = SeqNo(step + 1);
        Arc::new(Told::of(Record::sign(
            NetworkId(1),
            key,
            seq,
            10,
            &body,
            &signer,
        )))
    }

    fn link(below: &mut impl FnMut(u64) -> u64) -> LinkEntry {
        LinkEntry {
            neighbour: NodeId(below(NODES + 1)),
            carrier: [Carrier::Udp4, Carrier::Quic][below(2) as usize],
            cost: [Cost(below(4)), Cost::INFINITE][usize::from(below(8) == 0)],
            apart: ApartCosts::NONE,
            rtt: Micros(0),
            jitter: Micros(0),
            loss: Ppm(0),
        }
    }
}
