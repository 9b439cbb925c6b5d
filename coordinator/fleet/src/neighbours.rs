//! Who is whose neighbour in a network too large for everybody to be everybody's (`docs/protocol/routing.md` §6): a few
//! at random, so that one network holds together with short ways, and a few that are near, so that ways are fast.
//!
//! Two rings connect everybody and give each node four neighbours that follow from ids alone. Up to four more are near:
//! of all pairs whose round trip is measured, or follows from measured links over a common neighbour, the fastest are
//! taken first. Pairs of one site that nobody has measured yet are tried. What was chosen before stays unless it is
//! clearly slower than what would take its place. Nodes that nobody can dial from anywhere get two that can be.

use std::collections::{BTreeMap, BTreeSet};

use wattle_model::{Micros, NodeId, NodeName, mix};
use wattle_wire::grant::{FULL_MESH, PeerSet};

/// Odd numbers that order the rings of everybody.
const RINGS: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0xc2b2_ae3d_27d4_eb4f];

/// Orders the ring of the nodes of one site.
const SITE_RING: u64 = 0x1656_67b1_9e37_79f9;

/// Orders the ring of those that can be dialled from anywhere.
const ANCHOR_RING: u64 = 0x27d4_eb2f_1656_67c5;

/// Neighbours that a node has because they are near, at most.
const NEAR: usize = 4;

/// Neighbours that can be dialled from anywhere, for a node that cannot.
const ANCHORS: usize = 2;

/// Taken for the round trip between two nodes of one site that nobody has measured.
const WITHIN_SITE: Micros = Micros(1_000);

/// A pair that was chosen before counts as faster by a quarter: jitter moves nobody.
const KEPT: (u64, u64) = (3, 4);

/// What is known of a member that may have neighbours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its id.
    pub node: NodeId,
    /// Where it stands.
    pub site: Option<NodeName>,
    /// Whether it can be dialled from anywhere.
    pub is_anchor: bool,
}

/// Two nodes, the lower id first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pair(NodeId, NodeId);

impl Pair {
    /// The pair of two different nodes.
    pub fn of(one: NodeId, other: NodeId) -> Self {
        Self(one.min(other), one.max(other))
    }
}

/// The neighbours that are chosen, and what they follow from.
#[derive(Debug, Clone, Default)]
pub struct Neighbours {
    members: Vec<Candidate>,
    /// What each pair measured last, those that have no link any more included: who turned out far is not tried again.
    rtts: BTreeMap<Pair, Micros>,
    chosen: Adjacencies,
}

/// The neighbours of each node, each pair in it twice; nobody is in it while everybody is everybody's.
type Adjacencies = BTreeMap<NodeId, BTreeSet<NodeId>>;

impl Neighbours {
    /// Goes on with the neighbours that a peer set names.
    pub fn resume(set: &PeerSet, members: Vec<Candidate>) -> Self {
        let named = set.peers.iter().filter_map(|(node, peer)| {
            let others = peer.neighbours.as_ref()?.iter().copied();
            Some((*node, others.filter(|other| other != node).collect()))
        });
        Self {
            members,
            rtts: BTreeMap::new(),
            chosen: named.collect(),
        }
    }

    /// Takes over who the members are; chooses anew if that is news.
    pub fn set_members(&mut self, members: Vec<Candidate>) {
        if members != self.members {
            self.members = members;
            self.chosen = self.choose();
        }
    }

    /// Takes over round trips as they are measured and chooses anew; tells whether that makes a difference.
    pub fn set_round_trips(&mut self, measured: BTreeMap<Pair, Micros>) -> bool {
        self.rtts.extend(measured);
        let chosen = self.choose();
        let differs = chosen != self.chosen;
        self.chosen = chosen;
        differs
    }

    /// A node's neighbours as a peer set names them: with the node itself, which leaves links with others to demand.
    pub fn named(&self, node: NodeId) -> Option<Vec<NodeId>> {
        let others = self.chosen.get(&node)?.iter().copied();
        Some([node].into_iter().chain(others).collect())
    }

    fn choose(&mut self) -> Adjacencies {
        if self.members.len() <= FULL_MESH {
            return Adjacencies::new();
        }
        let nodes = || self.members.iter().map(|member| member.node);
        let mut chosen: Adjacencies = nodes().map(|node| (node, BTreeSet::new())).collect();
        self.rtts
            .retain(|Pair(one, other), _| chosen.contains_key(one) && chosen.contains_key(other));
        for ring in RINGS {
            around(nodes(), ring).for_each(|pair| join(&mut chosen, pair));
        }
        anchored(&self.members).for_each(|pair| join(&mut chosen, pair));
        let mut places: BTreeMap<NodeId, usize> = nodes().map(|node| (node, NEAR)).collect();
        for Pair(one, other) in self.nearest() {
            let is_free = places[&one].min(places[&other]) > 0;
            if is_free && !chosen[&one].contains(&other) {
                join(&mut chosen, Pair(one, other));
                for node in [one, other] {
                    *places.entry(node).or_default() -= 1;
                }
            }
        }
        chosen
    }

    /// Pairs that may be near, the nearest first.
    fn nearest(&self) -> impl Iterator<Item = Pair> {
        let measured = self.rtts.iter().map(|(pair, rtt)| (*pair, *rtt));
        let guessed = over_another(&self.rtts).chain(within_sites(&self.members));
        let guessed = guessed.filter(|(pair, _)| !self.rtts.contains_key(pair));
        let is_kept = |Pair(one, other): Pair| {
            let of_one = self.chosen.get(&one);
            of_one.is_some_and(|others| others.contains(&other))
        };
        let weighed = measured
            .chain(guessed)
            .map(|(pair, rtt)| match is_kept(pair) {
                true => (Micros(rtt.0.saturating_mul(KEPT.0) / KEPT.1), pair),
                false => (rtt, pair),
            });
        let ordered: BTreeSet<_> = weighed.collect();
        ordered.into_iter().map(|(_, pair)| pair)
    }
}

fn join(chosen: &mut Adjacencies, Pair(one, other): Pair) {
    for (node, neighbour) in [(one, other), (other, one)] {
        chosen.entry(node).or_default().insert(neighbour);
    }
}

/// Who stand beside one another where `nodes` stand in a ring: who joins parts one pair.
fn around(nodes: impl Iterator<Item = NodeId>, ring: u64) -> impl Iterator<Item = Pair> {
    let mut places: Vec<_> = nodes.map(|node| (mix(node.0 ^ ring), node)).collect();
    places.sort_unstable();
    let next = places.clone().into_iter().cycle().skip(1);
    let beside = places.into_iter().zip(next);
    beside
        .filter(|((_, one), (_, other))| one != other)
        .map(|((_, one), (_, other))| Pair::of(one, other))
}

/// Each node that cannot be dialled from anywhere, with those after it on a ring that can.
fn anchored(members: &[Candidate]) -> impl Iterator<Item = Pair> {
    let place = |node: NodeId| (mix(node.0 ^ ANCHOR_RING), node);
    let anchors = members.iter().filter(|member| member.is_anchor);
    let anchors: BTreeSet<_> = anchors.map(|member| place(member.node)).collect();
    let others = members.iter().filter(|member| !member.is_anchor);
    others.flat_map(move |member| {
        let after = anchors.range(place(member.node)..).chain(&anchors);
        let pair = |(_, anchor): &(u64, NodeId)| Pair::of(member.node, *anchor);
        after.take(ANCHORS).map(pair).collect::<Vec<_>>()
    })
}

/// Pairs with a common neighbour that is near to both, with the round trip over it.
fn over_another(rtts: &BTreeMap<Pair, Micros>) -> impl Iterator<Item = (Pair, Micros)> {
    let mut links: BTreeMap<NodeId, Vec<(Micros, NodeId)>> = BTreeMap::new();
    for (Pair(one, other), rtt) in rtts {
        links.entry(*one).or_default().push((*rtt, *other));
        links.entry(*other).or_default().push((*rtt, *one));
    }
    links.into_values().flat_map(|mut ends| {
        // The fastest alone: what lies behind a slow link is not near.
        ends.sort_unstable();
        ends.truncate(2 * NEAR);
        let mut pairs = vec![];
        for (at, (rtt, one)) in ends.iter().enumerate() {
            let others = ends[at + 1..].iter();
            let over = |(more, other): &(Micros, NodeId)| {
                (Pair::of(*one, *other), Micros(rtt.0.saturating_add(more.0)))
            };
            pairs.extend(others.map(over));
        }
        pairs
    })
}

/// Pairs that stand beside one another on the ring of their site.
fn within_sites(members: &[Candidate]) -> impl Iterator<Item = (Pair, Micros)> {
    let mut sites: BTreeMap<&NodeName, Vec<NodeId>> = BTreeMap::new();
    for member in members {
        if let Some(site) = &member.site {
            sites.entry(site).or_default().push(member.node);
        }
    }
    let pairs = sites.into_values();
    let pairs = pairs.flat_map(|nodes| around(nodes.into_iter(), SITE_RING));
    pairs.map(|pair| (pair, WITHIN_SITE))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nodes on a line, a millisecond of round trip apart for each step.
    fn line(count: u64) -> Vec<Candidate> {
        (1..=count)
            .map(|node| Candidate {
                node: NodeId(node),
                site: None,
                is_anchor: false,
            })
            .collect()
    }

    fn rtt(Pair(one, other): Pair) -> Micros {
        Micros((other.0 - one.0) * 1_000)
    }

    /// What is chosen for these nodes before anything is measured.
    fn chosen(members: &[Candidate]) -> Neighbours {
        let mut neighbours = Neighbours::default();
        neighbours.set_members(members.to_vec());
        neighbours
    }

    /// What the links of `chosen` measure, each `percent` of what it is on average.
    fn measured(chosen: &Adjacencies, percent: impl Fn(Pair) -> u64) -> BTreeMap<Pair, Micros> {
        let pairs = pairs(chosen).into_iter();
        pairs
            .map(|pair| (pair, Micros(rtt(pair).0 * percent(pair) / 100)))
            .collect()
    }

    fn pairs(chosen: &Adjacencies) -> BTreeSet<Pair> {
        let each = chosen.iter();
        each.flat_map(|(node, others)| others.iter().map(|other| Pair::of(*node, *other)))
            .collect()
    }

    /// Chooses again and again, with what the last choice could measure.
    fn settled(members: &[Candidate]) -> Neighbours {
        let mut neighbours = chosen(members);
        for _ in 0..30 {
            neighbours.set_round_trips(measured(&neighbours.chosen, |_| 100));
        }
        neighbours
    }

    fn reaches_all(chosen: &Adjacencies) -> bool {
        let start = *chosen.keys().next().unwrap();
        let (mut reached, mut edge) = (BTreeSet::from([start]), vec![start]);
        while let Some(node) = edge.pop() {
            edge.extend(chosen[&node].iter().filter(|other| reached.insert(**other)));
        }
        reached.len() == chosen.len()
    }

    #[test]
    fn up_to_32_are_all_neighbours() {
        assert_eq!(chosen(&line(32)).named(NodeId(1)), None);
        assert!(chosen(&line(33)).named(NodeId(1)).is_some());
    }

    #[test]
    fn every_size_is_connected_with_three_to_eight_neighbours_that_agree() {
        for count in [33, 34, 57, 100, 333, 1_000] {
            let chosen = settled(&line(count)).chosen;
            assert!(reaches_all(&chosen), "{count}");
            for (node, others) in &chosen {
                assert!((3..=8).contains(&others.len()), "{count}: {others:?}");
                assert!(!others.contains(node));
                assert!(others.iter().all(|other| chosen[other].contains(node)));
            }
            let ends: usize = chosen.values().map(BTreeSet::len).sum();
            assert!(ends >= 7 * chosen.len(), "{count}: {ends}");
        }
    }

    #[test]
    fn the_near_are_found_by_what_their_neighbours_measure() {
        let members = line(100);
        let near = |neighbours: Neighbours| {
            let pairs = pairs(&neighbours.chosen).into_iter();
            pairs.filter(|pair| rtt(*pair) <= Micros(3_000)).count()
        };
        let (before, after) = (near(chosen(&members)), near(settled(&members)));
        assert!(before < 20 && after > 50, "{before} {after}");
    }

    #[test]
    fn jitter_and_who_joins_or_leaves_move_few() {
        let settled = settled(&line(200));
        let old = pairs(&settled.chosen);
        let mut jittered = settled.clone();
        let jitter = |Pair(one, other): Pair| 95 + mix(one.0 ^ (other.0 << 20)) % 10;
        jittered.set_round_trips(measured(&settled.chosen, jitter));
        let jittered = pairs(&jittered.chosen);
        assert!(old.difference(&jittered).count() <= old.len() / 50);
        let of_others = |pair: &&Pair| pair.1 != NodeId(200);
        for count in [201, 199] {
            let mut neighbours = settled.clone();
            neighbours.set_members(line(count));
            let pairs = pairs(&neighbours.chosen);
            assert!(old.difference(&pairs).filter(of_others).count() <= 4);
        }
    }

    #[test]
    fn a_site_s_nodes_are_tried_before_anything_is_measured() {
        for (node, others) in &chosen(&in_ten_sites()).chosen {
            let together = others.iter().filter(|other| other.0 % 10 == node.0 % 10);
            assert!(together.count() >= 2, "{node}: {others:?}");
        }
    }

    /// Input: sites whose nodes are far from one another, and others that are near. Output: links within sites are tried
    /// once, give way to near ones and do not come back.
    #[test]
    fn who_turned_out_far_is_not_tried_again() {
        let mut neighbours = settled(&in_ten_sites());
        let settled = neighbours.chosen.clone();
        let apart = |Pair(one, other): &Pair| one.0 % 10 != other.0 % 10;
        let near = pairs(&settled).into_iter().filter(apart);
        let near = near.filter(|pair| rtt(*pair) < Micros(10_000));
        assert!(near.count() > 50);
        for _ in 0..4 {
            neighbours.set_round_trips(measured(&neighbours.chosen, |_| 100));
            assert_eq!(neighbours.chosen, settled);
        }
    }

    #[test]
    fn who_cannot_be_dialled_has_two_who_can() {
        let mut members = line(100);
        let is_anchor = |node: NodeId| node.0.is_multiple_of(25);
        for member in &mut members {
            member.is_anchor = is_anchor(member.node);
        }
        let chosen = chosen(&members).chosen;
        for (node, others) in chosen.iter().filter(|(node, _)| !is_anchor(**node)) {
            let anchors = others.iter().filter(|other| is_anchor(**other));
            assert!(anchors.count() >= ANCHORS, "{node}: {others:?}");
        }
    }

    /// A line whose neighbours on it stand in different sites.
    fn in_ten_sites() -> Vec<Candidate> {
        let mut members = line(100);
        for member in &mut members {
            member.site = Some(format!("s{}", member.node.0 % 10).parse().unwrap());
        }
        members
    }
}
