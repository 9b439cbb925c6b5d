//! When routes are computed, and from what.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use wattle_model::{Carrier, Class, Cost, Instant, LinkId, Micros, NodeId};

use super::plan::{Basis, Plan};
use super::trigger::Trigger;
use super::{Output, Router};
use crate::backup::{EXHAUSTIVE, Found, Search};
use crate::graph::Change;
use crate::multipath::{Forest, Trees};
use crate::policy::Thousandths;
use crate::routes::{self, Decisions, Earlier, Grounds, Neighbours, Progress, Routes, Weights};
use crate::topology::Topology;

/// Pauses between computations while changes keep coming (RFC 8405 with shorter ones), and the calm after which they
/// start anew. Bad news waits for the second of them at most.
const PAUSES: [Micros; 8] = [
    Micros::from_millis(10),
    Micros::from_millis(20),
    Micros::from_millis(50),
    Micros::from_millis(100),
    Micros::from_millis(100),
    Micros::from_millis(100),
    Micros::from_millis(200),
    Micros::from_millis(500),
];
const CALM: Micros = Micros::from_secs(1);
/// Differences between two graphs from which trees are brought up to date; more of them are computed anew.
const MOST_CHANGES: usize = 16;
/// What the search for backups may look at at once, in nodes and links, and the pause after that: 2 to 4 ms of every 100.
/// Networks of a hundred nodes are done in one go. In those with more than [`EXHAUSTIVE`] nodes it begins after a pause, so
/// that nothing is searched for what is about to change again.
const SEARCH_BUDGET: usize = 200_000;
const SEARCH_PAUSE: Micros = Micros::from_millis(100);

/// Nodes whose word is read anew, beside all others'; when more of them spoke, everybody's is.
const MOST_UNREAD: usize = 16;

/// Who spoke since the database was read last.
#[derive(Debug)]
pub(super) enum Unread {
    /// These, or they lost a record.
    Of(BTreeSet<NodeId>),
    /// Anybody.
    All,
}

impl Unread {
    pub(super) fn add(&mut self, origin: NodeId) {
        if let Self::Of(origins) = self {
            origins.insert(origin);
            if origins.len() > MOST_UNREAD {
                *self = Self::All;
            }
        }
    }

    /// What is read by this, while everything is unless it is said.
    fn take(&mut self) -> Self {
        std::mem::replace(self, Self::Of(BTreeSet::new()))
    }
}

/// When the next computation of routes is due, and why.
#[derive(Debug, Clone, Copy)]
pub(super) struct Computing {
    pub(super) due: Instant,
    pub(super) trigger: Trigger,
    pub(super) last: Instant,
    pub(super) pause: usize,
}

impl Router {
    pub(super) fn compute_soon(&mut self, now: Instant, trigger: impl Into<Trigger>) {
        self.compute_after(now, trigger.into(), PAUSES[self.computing.pause]);
    }

    /// Something is lost: packets may be falling into the hole.
    pub(super) fn compute_urgently(&mut self, now: Instant, trigger: Trigger) {
        let pause = PAUSES[self.computing.pause.min(1)];
        self.compute_after(now, trigger, pause);
    }

    fn compute_after(&mut self, now: Instant, trigger: Trigger, pause: Micros) {
        let due = (self.computing.last + pause).max(now);
        if due < self.computing.due {
            self.computing.trigger = trigger;
            self.computing.due = due;
        }
    }

    pub(super) fn compute(&mut self, now: Instant, trigger: Trigger) {
        let calm = now.since(self.computing.last) >= CALM;
        let pause = if calm {
            0
        } else {
            (self.computing.pause + 1).min(PAUSES.len() - 1)
        };
        self.computing = Computing {
            due: Instant::NEVER,
            trigger,
            last: now,
            pause,
        };
        self.counters.computations += 1;
        // What is left out of this node's own links changes without a word.
        self.unread.add(self.node);
        let unread = self.unread.take();
        let members = &self.members.nodes;
        match &unread {
            Unread::Of(origins) => self.topology.update(&self.database, members, origins),
            Unread::All => self.topology = Topology::of(&self.database, members),
        }
        self.leave_out_lost_links();
        for class in self.plans.keep(&self.topology.apart()) {
            self.outputs
                .push_back(Output::Routes(class, Arc::default()));
        }
        for class in self.plans.classes() {
            let mut plan = self.plans.take(class);
            self.compute_class(now, trigger, (class, &mut plan), &unread);
            self.plans.put(class, plan);
        }
    }

    fn compute_class(
        &mut self,
        now: Instant,
        trigger: Trigger,
        (class, plan): (Class, &mut Plan),
        unread: &Unread,
    ) {
        let graph = match unread {
            Unread::Of(origins) if class.is_latency() => {
                self.topology.graph_after(&plan.graph, class, origins)
            }
            Unread::Of(_) | Unread::All => self.topology.graph(class),
        };
        let before = std::mem::replace(&mut plan.graph, graph);
        let changes = plan.graph.changes_since(&before, MOST_CHANGES);
        if class.is_latency() && changes.as_deref().is_none_or(reshapes) {
            self.spared.clear();
        }
        let basis = Basis {
            neighbours: self.neighbours(class),
            weights: self.weights(class),
            preferences: self.preferences.clone(),
        };
        let is_other = std::mem::replace(&mut plan.basis, basis) != plan.basis;
        if is_other {
            plan.decisions = Decisions::default();
        } else if changes.as_ref().is_some_and(Vec::is_empty) {
            self.decide_prefixes(now, class, plan, trigger);
            return;
        }
        let mut routes = self.decide(plan, changes.as_deref());
        match plan.graph.len() <= EXHAUSTIVE {
            true => {
                search_backups(now, plan, &mut routes);
            }
            false => search_later(now, plan),
        }
        self.hold_or_take(now, (class, plan), routes, trigger, (&before, changes));
    }

    /// The routes of the same network are the same, and the search for backups goes on; the prefixes may have moved.
    fn decide_prefixes(&mut self, now: Instant, class: Class, plan: &mut Plan, trigger: Trigger) {
        let latest = plan
            .held
            .as_ref()
            .map_or(&*plan.routes, |held| &held.routes);
        let prefixes = routes::prefixes(&self.topology, self.node, &latest.routes);
        if let Some(held) = &mut plan.held {
            held.routes.prefixes.clone_from(&prefixes);
        }
        if prefixes != plan.routes.prefixes {
            let routes = Routes {
                prefixes,
                ..Routes::clone(&plan.routes)
            };
            self.take(now, (class, plan), routes, trigger);
        }
    }

    /// Next hops by shortest paths, which are brought up to date when little changed.
    fn decide(&mut self, plan: &mut Plan, changes: Option<&[Change]>) -> Routes {
        plan.open.clear();
        plan.end_search();
        if changes.is_none_or(|changes| changes.iter().any(opens)) {
            plan.found = Found::default();
        }
        let Some(own) = plan.graph.vertex(self.node) else {
            plan.forest = None;
            plan.decisions = Decisions::default();
            return Routes::default();
        };
        let (forest, touched) = match (plan.forest.take(), changes) {
            (Some(before), Some(changes)) => {
                self.counters.updates += 1;
                let mut forest = before.clone();
                forest.update(&plan.graph, changes);
                let touched = forest.touched_since(&before, changes);
                (forest, touched)
            }
            (None, _) | (_, None) => (Forest::of(&plan.graph, own), None),
        };
        let decisions = std::mem::take(&mut plan.decisions);
        // Whom an operator prefers may be chosen otherwise the second time.
        let is_plain = plan.basis.is_plain();
        let earlier = touched
            .as_ref()
            .filter(|_| is_plain)
            .map(|touched| Earlier {
                decisions: &decisions,
                touched,
            });
        let grounds = Grounds {
            topology: &self.topology,
            trees: Trees::of(&plan.graph, &forest),
            neighbours: &plan.basis.neighbours,
            weights: &plan.basis.weights,
            preferences: &plan.basis.preferences,
        };
        let (routes, decisions) = routes::compute(&grounds, &plan.routes, earlier);
        let mut open = decisions.open(&plan.graph);
        if let Some(reached) = plan.reached {
            let rest = open.partition_point(|id| *id < reached);
            open.rotate_left(rest);
        }
        plan.open = open;
        plan.decisions = decisions;
        let search = Search::with_courses(own, Arc::clone(&self.courses));
        plan.search = Some(search.knowing(std::mem::take(&mut plan.found)));
        plan.forest = Some(forest);
        routes
    }

    /// This node's own links are what it knows of them, not what it has told yet.
    fn leave_out_lost_links(&mut self) {
        let used = self.links.values().filter(|link| link.damper.is_some());
        let used: BTreeSet<_> = used.map(|link| (link.neighbour, link.carrier)).collect();
        let node = self.node;
        self.topology
            .links
            .retain(|link| match (link.a == node, link.b == node) {
                (true, _) => used.contains(&(link.b, link.carrier)),
                (_, true) => used.contains(&(link.a, link.carrier)),
                (false, false) => true,
            });
    }

    /// What an operator wants neighbours to carry, by this node's links.
    fn weights(&self, class: Class) -> Weights {
        let links = self.links.iter();
        let weights = links.map(|(id, link)| (*id, link.policy(class).weight));
        let weighted = weights.filter(|(_, weight)| *weight != Thousandths::ONE);
        weighted.collect()
    }

    /// Usable links by neighbour, best first, by the price that both ends agree on.
    pub(super) fn neighbours(&self, class: Class) -> Neighbours {
        let node = self.node;
        let own = self.topology.links.iter().filter_map(|link| {
            let neighbour = match (link.a == node, link.b == node) {
                (true, _) => link.b,
                (_, true) => link.a,
                (false, false) => return None,
            };
            Some(((neighbour, link.carrier), link.cost_of(class)))
        });
        let agreed: BTreeMap<(NodeId, Carrier), Cost> = own.collect();
        let mut neighbours: BTreeMap<NodeId, Vec<(Cost, Carrier, LinkId)>> = BTreeMap::new();
        for (id, link) in self.links.iter().filter(|(_, link)| link.damper.is_some()) {
            if let Some(cost) = agreed.get(&(link.neighbour, link.carrier)) {
                let links = neighbours.entry(link.neighbour).or_default();
                links.push((*cost, link.carrier, *id));
            }
        }
        neighbours
            .into_iter()
            .map(|(neighbour, mut links)| {
                links.sort_unstable();
                (
                    neighbour,
                    links.into_iter().map(|(.., link)| link).collect(),
                )
            })
            .collect()
    }
}

/// Whether links came or went: prices alone leave the trees along which records spread as they are.
fn reshapes(changes: &[Change]) -> bool {
    changes.iter().any(|change| match change {
        Change::Link { before, after, .. } => !(before.is_finite() && after.is_finite()),
        Change::Transit { .. } => false,
    })
}

/// Goes on with the search for better backups of these routes; whether it found one.
pub(super) fn search_backups(now: Instant, plan: &mut Plan, routes: &mut Routes) -> bool {
    let mut progress = Progress::default();
    if let Some(search) = &mut plan.search {
        let on = (&plan.graph, &plan.basis.neighbours);
        progress = routes::better(routes, &mut plan.open, search, on, SEARCH_BUDGET);
        plan.reached = progress.reached.or(plan.reached);
    }
    search_later(now, plan);
    if plan.search_due.is_none() {
        plan.end_search();
    }
    progress.bettered
}

/// Whether a link came, or a node began to carry transit: they may be part of a better way around than those that were found.
fn opens(change: &Change) -> bool {
    let (Change::Link { before, after, .. } | Change::Transit { before, after, .. }) = change;
    !before.is_finite() && after.is_finite()
}

fn search_later(now: Instant, plan: &mut Plan) {
    plan.search_due = (!plan.open.is_empty()).then(|| now + SEARCH_PAUSE);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Vertex;

    #[test]
    fn links_that_come_or_go_make_other_trees_and_prices_do_not() {
        let link = |before, after| Change::Link {
            a: Vertex(0),
            b: Vertex(1),
            before,
            after,
        };
        let drained = Change::Transit {
            at: Vertex(0),
            before: Cost(0),
            after: Cost::INFINITE,
        };
        assert!(!reshapes(&[link(Cost(1), Cost(2)), drained]));
        assert!(reshapes(&[drained, link(Cost(1), Cost::INFINITE)]));
        assert!(reshapes(&[link(Cost::INFINITE, Cost(1))]));
    }
}
