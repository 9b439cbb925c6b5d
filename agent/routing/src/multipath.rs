//! Which neighbours carry the packets for one destination, and in what shares.
//!
//! Every neighbour strictly nearer to the destination than this node may be used: each hop comes nearer, so no
//! choice that a node makes among them closes a loop, whatever the others choose. That is what makes both
//! sharing and holding on to the current next hop safe.

use wattle_model::{Cost, Micros};

use crate::graph::{Change, Edge, Graph, Vertex};
use crate::policy::Thousandths;
use crate::spf::Tree;

/// Shares are parts of this many buckets of the flow hash.
pub const BUCKETS: u32 = 256;
/// Next hops per destination; more would make shares too small to matter.
const MAX_NEXT_HOPS: usize = 8;
/// Paths share flows only when none is dearer than the best by more than this: beyond, the price is no longer
/// distance but loss or a full queue, and half of the flows would suffer for it.
const SHARE_WITHIN: u64 = 5_000;
/// A route is kept unless another is better by this much: noise below it is not worth a reordering.
const HOLD_ABSOLUTE: u64 = 500;

/// One neighbour as a way to one destination. The order of the fields is the order of preference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Candidate {
    /// Price of the best path that begins with this neighbour.
    pub cost: Cost,
    /// Links on it.
    pub hops: u32,
    /// The neighbour.
    pub neighbour: Vertex,
    /// Whether the neighbour is strictly nearer to the destination than this node.
    pub downstream: bool,
}

impl Candidate {
    /// The way that begins with this link; `onward` are shortest paths from its end, or from the destination.
    pub(crate) fn over(
        graph: &Graph,
        link: &Edge,
        onward: &Tree,
        destination: Vertex,
        downstream: bool,
    ) -> Self {
        // Prices are the same both ways.
        let far = match onward.root() == destination {
            true => link.to,
            false => destination,
        };
        let beyond = match link.to == destination {
            true => Cost(0),
            false => graph.transit(link.to).plus(onward.cost(far)),
        };
        Self {
            cost: link.cost.plus(beyond),
            hops: onward.hops(far).saturating_add(1),
            neighbour: link.to,
            downstream,
        }
    }
}

/// The shortest paths of a node and of its neighbours: all that choosing next hops needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forest {
    own: Tree,
    neighbours: Vec<Tree>,
}

impl Forest {
    /// Computes the trees of a node and of its neighbours.
    pub fn of(graph: &Graph, node: Vertex) -> Self {
        let neighbours = graph.edges(node).iter();
        Self {
            own: Tree::of(graph, node),
            neighbours: neighbours.map(|edge| Tree::of(graph, edge.to)).collect(),
        }
    }

    /// Makes these the trees of `graph`, which differs from the one before by `changes` only.
    pub fn update(&mut self, graph: &Graph, changes: &[Change]) {
        self.own.update(graph, changes);
        let mut known = std::mem::take(&mut self.neighbours);
        for edge in graph.edges(self.own.root()) {
            let at = known.iter().position(|tree| tree.root() == edge.to);
            let tree = match at.map(|at| known.swap_remove(at)) {
                Some(mut tree) => {
                    tree.update(graph, changes);
                    tree
                }
                None => Tree::of(graph, edge.to),
            };
            self.neighbours.push(tree);
        }
    }

    /// By vertex, whether a tree reaches it at another price than in the forest `before` these changes; `None` if all
    /// destinations may be concerned, since what lies between the roots of the trees is another.
    pub(crate) fn touched_since(&self, before: &Self, changes: &[Change]) -> Option<Vec<bool>> {
        let roots = || self.trees().map(Tree::root);
        let own = self.own.root();
        let is_near = |change: &Change| match *change {
            Change::Link { a, b, .. } => a == own || b == own,
            Change::Transit { at, .. } => roots().any(|root| root == at),
        };
        if !roots().eq(before.trees().map(Tree::root)) || changes.iter().any(is_near) {
            return None;
        }
        let mut touched = Vec::new();
        for (tree, before) in self.trees().zip(before.trees()) {
            tree.touched_since(before, &mut touched);
        }
        let is_same = |root: Vertex| !touched[root.0 as usize];
        roots().all(is_same).then_some(touched)
    }

    fn trees(&self) -> impl Iterator<Item = &Tree> {
        [&self.own].into_iter().chain(&self.neighbours)
    }
}

/// The network with the shortest paths of one node and of its neighbours.
#[derive(Debug, Clone, Copy)]
pub struct Trees<'a> {
    /// The network.
    pub graph: &'a Graph,
    /// From this node.
    pub own: &'a Tree,
    /// From each neighbour, in the order of the node's links.
    pub neighbours: &'a [Tree],
}

impl<'a> Trees<'a> {
    /// The network as the forest's node sees it; the forest must be of this network.
    pub fn of(graph: &'a Graph, forest: &'a Forest) -> Self {
        Self {
            graph,
            own: &forest.own,
            neighbours: &forest.neighbours,
        }
    }

    /// Every neighbour that reaches `destination`, best first.
    pub fn candidates(&self, destination: Vertex) -> Vec<Candidate> {
        let links = self.graph.edges(self.own.root()).iter();
        let mut candidates: Vec<_> = links
            .zip(self.neighbours)
            .map(|(link, tree)| {
                let downstream = tree.cost(destination) < self.own.cost(destination);
                Candidate::over(self.graph, link, tree, destination, downstream)
            })
            .filter(|candidate| candidate.cost.is_finite())
            .collect();
        candidates.sort_unstable();
        candidates
    }
}

/// Chooses the next hops out of `candidates` (best first): the first one returned is the preferred one.
///
/// A destination that is a neighbour gets everything itself: relaying what can go directly buys nothing. For the same
/// reason no flow takes more links than the preferred way has.
pub fn choose(
    candidates: &[Candidate],
    destination: Vertex,
    current: Option<Vertex>,
) -> Vec<Candidate> {
    let Some(best) = candidates.iter().find(|candidate| candidate.downstream) else {
        return Vec::new();
    };
    let preferred = candidates
        .iter()
        .find(|candidate| Some(candidate.neighbour) == current && candidate.downstream)
        .filter(|kept| !is_worth_changing(kept, best))
        .unwrap_or(best);
    let mut chosen = vec![*preferred];
    if preferred.neighbour == destination {
        return chosen;
    }
    chosen.extend(
        candidates
            .iter()
            .filter(|other| other.neighbour != preferred.neighbour && other.downstream)
            .filter(|other| shares_with(other, best) && other.hops <= preferred.hops)
            .take(MAX_NEXT_HOPS - 1),
    );
    chosen
}

/// Those of `nearer`, all nearer to the destination than the node, to whom it may send packets, whatever it chose before.
pub(crate) fn choices(
    nearer: &[Candidate],
    destination: Vertex,
) -> impl Iterator<Item = &Candidate> {
    let best = nearer.iter().min();
    let may_be_preferred = move |candidate: &Candidate| {
        best.is_some_and(|best| match best.neighbour == destination {
            true => candidate.neighbour == destination,
            false => !is_worth_changing(candidate, best),
        })
    };
    let preferred = nearer.iter().filter(move |one| may_be_preferred(one));
    let most = preferred.map(|one| one.hops).max().unwrap_or_default();
    nearer.iter().filter(move |candidate| {
        let may_share = best.is_some_and(|best| {
            best.neighbour != destination && shares_with(candidate, best) && candidate.hops <= most
        });
        may_be_preferred(candidate) || may_share
    })
}

/// The most that a way may cost more than the best one and still be used, when no way costs more than twice `longest`.
pub(crate) fn slack(longest: Micros) -> Micros {
    let longest = 2 * longest.0;
    let shared = (longest * 3 / 10).min(SHARE_WITHIN);
    let held = HOLD_ABSOLUTE.max(longest / 19);
    Micros(shared.max(held))
}

fn shares_with(other: &Candidate, best: &Candidate) -> bool {
    let shortest = best.cost.micros();
    let longest = (shortest * 13 / 10).min(shortest + SHARE_WITHIN);
    other.cost.tiers() == best.cost.tiers() && other.cost.micros() <= longest
}

/// In a better tier, or at least 5 % and half a millisecond better, or no dearer with fewer hops: a shorter path frees relays.
fn is_worth_changing(kept: &Candidate, best: &Candidate) -> bool {
    let kept_for = kept.cost.micros();
    let gain = kept_for.saturating_sub(best.cost.micros());
    let clearly = gain >= HOLD_ABSOLUTE && gain * 20 >= kept_for;
    kept.cost.tiers() != best.cost.tiers() || clearly || best.hops < kept.hops
}

/// Those of `chosen` that an operator wants to take flows; all of them if there is none.
pub(crate) fn with_weight(
    chosen: Vec<Candidate>,
    weight: impl Fn(&Candidate) -> Thousandths,
) -> Vec<Candidate> {
    let weighty = chosen.iter().filter(|one| weight(one) > Thousandths(0));
    let weighty: Vec<_> = weighty.copied().collect();
    if weighty.is_empty() { chosen } else { weighty }
}

/// Shares of [`BUCKETS`], inversely to the square of the cost times the operator's weight, none of them zero (largest
/// remainders).
pub fn weights(chosen: &[Candidate], weight: impl Fn(&Candidate) -> Thousandths) -> Vec<u16> {
    let times = chosen.iter().map(|candidate| candidate.cost.micros());
    let Some(best) = times.min() else {
        return Vec::new();
    };
    let merit = |candidate: &Candidate| {
        let ratio = (best << 16) / candidate.cost.micros().max(1);
        // Where none has weight there is no policy.
        let weight = match weight(candidate) {
            Thousandths(0) => Thousandths::ONE,
            weight => weight,
        };
        (ratio * ratio * u64::from(weight.0)).max(1)
    };
    let total: u64 = chosen.iter().map(merit).sum();
    let spare = u64::from(BUCKETS) - chosen.len() as u64;
    let mut shares: Vec<(u64, u64)> = chosen
        .iter()
        .map(|candidate| {
            let exact = u128::from(merit(candidate)) * u128::from(spare);
            (
                (exact / u128::from(total)) as u64 + 1,
                (exact % u128::from(total)) as u64,
            )
        })
        .collect();
    let mut order: Vec<usize> = (0..shares.len()).collect();
    order.sort_by_key(|at| std::cmp::Reverse(shares[*at].1));
    let missing = u64::from(BUCKETS) - shares.iter().map(|(share, _)| share).sum::<u64>();
    for at in order.into_iter().take(missing as usize) {
        shares[at].0 += 1;
    }
    shares.into_iter().map(|(share, _)| share as u16).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(neighbour: u32, cost: u64) -> Candidate {
        Candidate {
            cost: Cost(cost),
            hops: 2,
            neighbour: Vertex(neighbour),
            downstream: true,
        }
    }

    fn shared(costs: &[u64]) -> usize {
        let candidates: Vec<_> = (1..)
            .zip(costs)
            .map(|(id, cost)| candidate(id, *cost))
            .collect();
        choose(&candidates, Vertex(99), None).len()
    }

    #[test]
    fn flows_are_shared_among_near_equals_only() {
        assert_eq!(shared(&[1_000, 1_300, 1_301]), 2);
    }

    /// Input: what the way in use costs, the best one, whether packets move.
    #[test]
    fn a_way_is_kept_until_another_is_better_by_a_twentieth_and_by_half_a_millisecond() {
        for (kept, best, moves) in [
            (10_000, 10_000, false),
            (10_000, 9_501, false),
            (10_000, 9_500, true),
            (100_000, 95_001, false),
            (100_000, 95_000, true),
            // A tenth, but of next to nothing.
            (4_990, 4_491, false),
            (4_990, 4_490, true),
        ] {
            let chosen = choose(&kept_and_best(kept, best), Vertex(99), Some(Vertex(1)));
            assert_eq!(chosen[0].neighbour == Vertex(2), moves, "{kept} {best}");
            let new = choose(&kept_and_best(kept, best), Vertex(99), None);
            assert_eq!(
                new[0].neighbour,
                Vertex(2),
                "nothing is kept: {kept} {best}"
            );
        }
    }

    #[test]
    fn no_way_is_kept_that_could_loop_or_is_longer_or_in_a_worse_tier() {
        let in_use = |change: fn(&mut Candidate)| {
            let mut candidates = kept_and_best(10_000, 9_900);
            change(&mut candidates[1]);
            choose(&candidates, Vertex(99), Some(Vertex(1)))[0].neighbour
        };
        assert_eq!(in_use(|_| ()), Vertex(1));
        assert_eq!(in_use(|kept| kept.downstream = false), Vertex(2));
        assert_eq!(in_use(|kept| kept.hops += 1), Vertex(2));
        assert_eq!(in_use(|kept| kept.cost = kept.cost.in_tier(1)), Vertex(2));
    }

    fn kept_and_best(kept: u64, best: u64) -> [Candidate; 2] {
        [candidate(2, best), candidate(1, kept)]
    }

    #[test]
    fn shares_are_in_proportion_to_the_weights_over_the_squares_of_the_costs() {
        for (ways, shares) in [
            (&[(1_000, 1_000), (1_000, 1_000)][..], &[128, 128][..]),
            (&[(1_000, 3_000), (1_000, 1_000)], &[192, 64]),
            (&[(1_000, 1_000), (1_000, 500)], &[170, 86]),
            (
                &[(1_000, 3_000), (1_000, 1_000), (1_000, 1_000)],
                &[153, 52, 51],
            ),
            // Dearer by a fifth: 1 / 1.44 of the flows, which the weight makes up for.
            (&[(1_000, 1_000), (1_200, 1_440)], &[128, 128]),
            (&[(1_000, 100_000), (1_000, 1)], &[255, 1]),
            // None has weight: as if there were no policy.
            (&[(1_000, 0), (1_200, 0)], &[151, 105]),
        ] {
            let chosen: Vec<_> = (0..)
                .zip(ways)
                .map(|(id, (cost, _))| candidate(id, *cost))
                .collect();
            let of = |one: &Candidate| Thousandths(ways[one.neighbour.0 as usize].1);
            assert_eq!(weights(&chosen, of), shares, "{ways:?}");
        }
    }

    #[test]
    fn a_way_without_weight_takes_flows_only_where_no_other_shares_them() {
        let weight = |one: &Candidate| Thousandths(if one.neighbour.0 == 1 { 0 } else { 1_000 });
        for (costs, taking) in [
            (&[1_000, 1_000][..], &[2][..]),
            (&[1_000, 1_300], &[2]),
            (&[1_000, 1_301], &[1]),
            (&[1_000, 1_000, 1_000], &[2, 3]),
            (&[1_000], &[1]),
        ] {
            let candidates: Vec<_> = (1..)
                .zip(costs)
                .map(|(id, cost)| candidate(id, *cost))
                .collect();
            let near = choose(&candidates, Vertex(99), None);
            let left = with_weight(near, weight);
            let left: Vec<_> = left.iter().map(|one| one.neighbour.0).collect();
            assert_eq!(left, taking, "{costs:?}");
        }
    }

    #[test]
    fn a_way_with_more_links_has_no_share_and_one_with_fewer_has() {
        let of = |first, second| {
            let mut candidates = [candidate(1, 1_000), candidate(2, 1_100)];
            (candidates[0].hops, candidates[1].hops) = (first, second);
            choose(&candidates, Vertex(99), None).len()
        };
        assert_eq!((of(2, 3), of(2, 2), of(3, 2)), (1, 2, 2));
    }

    #[test]
    fn no_flow_is_shared_into_loss_however_long_the_way() {
        // 50 ms around; the other way is as long, and 5 % of its packets get lost.
        assert_eq!(shared(&[50_000, 55_000, 63_000]), 2);
    }
}
