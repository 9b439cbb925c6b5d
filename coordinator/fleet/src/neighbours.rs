//! Who is whose neighbour in a network too large for everybody to be everybody's (`docs/protocol/routing.md` §6): a few
//! at random, so that one network holds together with short ways, and a few that are near, so that ways are fast.
//!
//! Two rings connect everybody and give each node four neighbours that follow from ids alone. Up to four more are near:
//! of all pairs whose round trip is measured, or follows from measured links over a common neighbour, the fastest are
//! taken first. Pairs of one site that nobody has measured yet are tried. What was chosen before stays unless it is
//! clearly slower than what would take its place, or has no link. Who turned out far, or to have no link, is tried again
//! when that is long ago. Nodes that nobody can dial from anywhere get two that can be.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use wattle_model::{Instant, Micros, NodeId, NodeName, mix};
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

/// For how long what a link measured last counts after its end: networks change. This and the next take up to twice as
/// long, each pair its own time, so that only a few are tried again at once.
const REMEMBERED: Micros = Micros::from_secs(12 * 3_600);

/// For how long a pair that got no link is left out; less, so that one that was near is tried by what it measured.
const LEFT_OUT: Micros = Micros::from_secs(6 * 3_600);

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
    /// What each pair measured last, those that have no link any more included: who turned out far is not tried again soon.
    rtts: BTreeMap<Pair, RoundTrip>,
    /// Pairs that were chosen and got no link, and when that was seen.
    failed: BTreeMap<Pair, Instant>,
    /// Chosen pairs that had no link when round trips were taken over last, though both nodes had others.
    missed: BTreeSet<Pair>,
    chosen: Adjacencies,
}

/// What a pair's link measured last, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct RoundTrip {
    rtt: Micros,
    at: Instant,
}

/// The neighbours of each node, each pair in it twice; nobody is in it while everybody is everybody's.
type Adjacencies = BTreeMap<NodeId, BTreeSet<NodeId>>;

impl Neighbours {
    /// Goes on with the neighbours that a peer set names, and with what links measured.
    pub fn resume(
        set: &PeerSet,
        members: Vec<Candidate>,
        now: Instant,
        measured: BTreeMap<Pair, Micros>,
    ) -> Self {
        let named = set.peers.iter().filter_map(|(node, peer)| {
            let others = peer.neighbours.as_ref()?.iter().copied();
            Some((*node, others.filter(|other| other != node).collect()))
        });
        let mut neighbours = Self {
            members,
            chosen: named.collect(),
            ..Self::default()
        };
        neighbours.remember(now, measured);
        neighbours
    }

    /// Takes over who the members are; chooses anew if that is news.
    pub fn set_members(&mut self, members: Vec<Candidate>) {
        if members != self.members {
            self.members = members;
            self.chosen = self.choose();
        }
    }

    /// Takes over round trips as all links measure them and chooses anew; tells whether that makes a difference.
    pub fn set_round_trips(&mut self, now: Instant, measured: BTreeMap<Pair, Micros>) -> bool {
        self.miss(now, &measured);
        self.remember(now, measured);
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

    /// A chosen pair without a link for the second time in a row failed, unless one of its nodes is away as a whole.
    fn miss(&mut self, now: Instant, measured: &BTreeMap<Pair, Micros>) {
        let ends = measured.keys().flat_map(|Pair(one, other)| [*one, *other]);
        let present: BTreeSet<NodeId> = ends.collect();
        let is_missed = |pair: &Pair| {
            let Pair(one, other) = pair;
            !measured.contains_key(pair) && present.contains(one) && present.contains(other)
        };
        let missed: BTreeSet<Pair> = pairs(&self.chosen).filter(is_missed).collect();
        let again = missed.intersection(&self.missed);
        self.failed.extend(again.map(|pair| (*pair, now)));
        self.missed = missed;
    }

    /// Takes down what links measure, and forgets what is long ago.
    fn remember(&mut self, now: Instant, measured: BTreeMap<Pair, Micros>) {
        self.failed.retain(|pair, at| {
            !measured.contains_key(pair) && now.since(*at) < own_time(*pair, LEFT_OUT)
        });
        let measured = measured.into_iter();
        let last = measured.map(|(pair, rtt)| (pair, RoundTrip { rtt, at: now }));
        self.rtts.extend(last);
        self.rtts
            .retain(|pair, last| now.since(last.at) < own_time(*pair, REMEMBERED));
    }

    fn choose(&mut self) -> Adjacencies {
        if self.members.len() <= FULL_MESH {
            return Adjacencies::new();
        }
        let nodes = || self.members.iter().map(|member| member.node);
        let mut chosen: Adjacencies = nodes().map(|node| (node, BTreeSet::new())).collect();
        let are_members =
            |Pair(one, other): &Pair| chosen.contains_key(one) && chosen.contains_key(other);
        self.rtts.retain(|pair, _| are_members(pair));
        self.failed.retain(|pair, _| are_members(pair));
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
        let may_have_link = |(pair, _): &(Pair, Micros)| !self.failed.contains_key(pair);
        let measured = self.rtts.iter().map(|(pair, last)| (*pair, last.rtt));
        let measured = measured.filter(may_have_link);
        let guessed = over_another(measured.clone()).chain(within_sites(&self.members));
        let guessed = guessed.filter(|(pair, _)| !self.rtts.contains_key(pair));
        let guessed = guessed.filter(may_have_link);
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

/// A pair's time between `least` and twice as much.
fn own_time(Pair(one, other): Pair, least: Micros) -> Micros {
    Micros(least.0 + mix(one.0 ^ mix(other.0)) % least.0)
}

/// Each pair once.
fn pairs(chosen: &Adjacencies) -> impl Iterator<Item = Pair> {
    let above = |node: &NodeId| (Bound::Excluded(*node), Bound::Unbounded);
    chosen.iter().flat_map(move |(node, others)| {
        let others = others.range(above(node));
        others.map(|other| Pair(*node, *other))
    })
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
fn over_another(
    measured: impl Iterator<Item = (Pair, Micros)>,
) -> impl Iterator<Item = (Pair, Micros)> {
    let mut links: BTreeMap<NodeId, Vec<(Micros, NodeId)>> = BTreeMap::new();
    for (Pair(one, other), rtt) in measured {
        links.entry(one).or_default().push((rtt, other));
        links.entry(other).or_default().push((rtt, one));
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

    /// Looks at what links measure come ten minutes apart.
    fn look(number: u64) -> Instant {
        Instant(number * 600_000_000)
    }

    const LOOKS_TO_SETTLE: u64 = 30;
    const LOOKS_A_DAY: u64 = 144;

    /// What the links of `chosen` measure, each `percent` of what it is on average.
    fn measured(chosen: &Adjacencies, percent: impl Fn(Pair) -> u64) -> BTreeMap<Pair, Micros> {
        pairs(chosen)
            .map(|pair| (pair, Micros(rtt(pair).0 * percent(pair) / 100)))
            .collect()
    }

    /// Chooses again and again, with what the last choice could measure.
    fn settled(members: &[Candidate]) -> Neighbours {
        let mut neighbours = chosen(members);
        for number in 0..LOOKS_TO_SETTLE {
            let measured = measured(&neighbours.chosen, |_| 100);
            neighbours.set_round_trips(look(number), measured);
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
            let pairs = pairs(&neighbours.chosen);
            pairs.filter(|pair| rtt(*pair) <= Micros(3_000)).count()
        };
        let (before, after) = (near(chosen(&members)), near(settled(&members)));
        assert!(before < 20 && after > 50, "{before} {after}");
    }

    #[test]
    fn jitter_and_who_joins_or_leaves_move_few() {
        let settled = settled(&line(200));
        let old: BTreeSet<Pair> = pairs(&settled.chosen).collect();
        let mut jittered = settled.clone();
        let jitter = |Pair(one, other): Pair| 95 + mix(one.0 ^ (other.0 << 20)) % 10;
        let now = look(LOOKS_TO_SETTLE);
        jittered.set_round_trips(now, measured(&settled.chosen, jitter));
        let jittered = pairs(&jittered.chosen).collect();
        assert!(old.difference(&jittered).count() <= old.len() / 50);
        let of_others = |pair: &&Pair| pair.1 != NodeId(200);
        for count in [201, 199] {
            let mut neighbours = settled.clone();
            neighbours.set_members(line(count));
            let pairs = pairs(&neighbours.chosen).collect();
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
    /// once and give way to near ones; half a day to a day later they are tried again, a few at a time, and with them others
    /// that turn out nearer.
    #[test]
    fn who_turned_out_far_is_tried_again_much_later() {
        let members = in_ten_sites();
        let mut neighbours = settled(&members);
        let settled: BTreeSet<Pair> = pairs(&neighbours.chosen).collect();
        let near = |chosen: &BTreeSet<Pair>| {
            let near = chosen.iter().filter(|pair| rtt(**pair) < Micros(10_000));
            near.count()
        };
        assert!(near(&settled) > 100);

        let far = within_sites(&members).map(|(pair, _)| pair);
        let mut far: BTreeSet<Pair> = far.filter(|pair| !settled.contains(pair)).collect();
        assert!(far.len() > 50);
        let mut before = settled.clone();
        for number in LOOKS_TO_SETTLE..LOOKS_TO_SETTLE + LOOKS_A_DAY {
            neighbours.set_round_trips(look(number), measured(&neighbours.chosen, |_| 100));
            let chosen: BTreeSet<Pair> = pairs(&neighbours.chosen).collect();
            let moved = before.difference(&chosen).count();
            assert!(
                moved == 0 || number >= LOOKS_A_DAY / 2,
                "look {number}: {moved}"
            );
            assert!(moved <= settled.len() / 10, "look {number}: {moved}");
            far.retain(|pair| !chosen.contains(pair));
            before = chosen;
        }
        assert_eq!(far, BTreeSet::new());
        assert!(near(&before) > near(&settled));
    }

    #[test]
    fn a_near_pair_without_a_link_loses_its_place_until_it_is_tried_again() {
        let members = line(100);
        let mut neighbours = settled(&members);
        let by_rings: BTreeSet<Pair> = pairs(&chosen(&members).chosen).collect();
        let near = |pair: &Pair| !by_rings.contains(pair) && rtt(*pair) <= Micros(2_000);
        let Pair(one, other) = pairs(&neighbours.chosen).find(near).unwrap();
        let mut looks = LOOKS_TO_SETTLE..;
        let mut is_chosen_after_a_look = || {
            let mut measured = measured(&neighbours.chosen, |_| 100);
            measured.remove(&Pair(one, other));
            neighbours.set_round_trips(look(looks.next().unwrap()), measured);
            neighbours.chosen[&one].contains(&other)
        };
        assert!(is_chosen_after_a_look(), "it may come back");
        assert!(!is_chosen_after_a_look());
        let later = (0..LOOKS_A_DAY / 2).position(|_| is_chosen_after_a_look());
        assert!(later.unwrap() as u64 >= LOOKS_A_DAY / 4 - 1, "{later:?}");
        assert!(is_chosen_after_a_look(), "it has its time to come up");
        assert!(!is_chosen_after_a_look());
    }

    #[test]
    fn who_is_away_as_a_whole_keeps_its_places() {
        let mut neighbours = settled(&line(100));
        let settled = neighbours.chosen.clone();
        let away = NodeId(50);
        for number in 0..3 {
            let mut measured = measured(&settled, |_| 100);
            measured.retain(|Pair(one, other), _| *one != away && *other != away);
            neighbours.set_round_trips(look(LOOKS_TO_SETTLE + number), measured);
            assert_eq!(neighbours.chosen, settled);
        }
    }

    #[test]
    fn who_joins_after_a_restart_of_the_coordinator_moves_few() {
        let settled = settled(&line(200)).chosen;
        let mut neighbours = Neighbours {
            members: line(200),
            chosen: settled.clone(),
            ..Neighbours::default()
        };
        neighbours.remember(Instant(0), measured(&settled, |_| 100));
        neighbours.set_members(line(201));
        let joined = pairs(&neighbours.chosen).collect();
        let old: BTreeSet<Pair> = pairs(&settled).collect();
        assert!(old.difference(&joined).count() <= 4);
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
