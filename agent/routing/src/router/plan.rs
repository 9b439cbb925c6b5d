//! What a router decides for the packets of each class, and what it decided them on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use wattle_model::{Class, Instant, NodeId};

use super::turn::Held;
use crate::backup::{Found, Search};
use crate::graph::Graph;
use crate::multipath::Forest;
use crate::routes::{Decisions, Neighbours, Preference, Routes, Weights};

/// The routes of one class, and all that keeping them up to date needs.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// The network with the prices of the class.
    pub(super) graph: Graph,
    /// What else this node decided on.
    pub(super) basis: Basis,
    pub(super) routes: Arc<Routes>,
    /// The shortest paths of this node and its neighbours.
    pub(super) forest: Option<Forest>,
    /// What was decided on them last.
    pub(super) decisions: Decisions,
    /// The search for better backups that goes on behind them.
    pub(super) search: Option<Search>,
    /// What earlier searches found, while none goes on.
    pub(super) found: Found,
    /// Destinations whose backup may be bettered.
    pub(super) open: Vec<NodeId>,
    /// The one that the search came to last: where prices never rest, it goes on from there, not from the start.
    pub(super) reached: Option<NodeId>,
    /// When the search goes on.
    pub(super) search_due: Option<Instant>,
    pub(super) held: Option<Held>,
}

/// What routes depend on beside the graph: what this node knows and wants of its own links.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Basis {
    pub(super) neighbours: Neighbours,
    pub(super) weights: Weights,
    /// An operator's.
    pub(super) preferences: Vec<Preference>,
}

impl Basis {
    /// Whether an operator has no say in it.
    pub(super) fn is_plain(&self) -> bool {
        self.weights.is_empty() && self.preferences.is_empty()
    }
}

impl Plan {
    /// Leaves of the search what it found.
    pub(super) fn end_search(&mut self) {
        if let Some(search) = self.search.take() {
            self.found = search.into_found();
        }
    }

    fn poll_timeout(&self) -> Instant {
        let search = self.search_due.unwrap_or(Instant::NEVER);
        let held = self.held.as_ref().map_or(Instant::NEVER, |held| held.due);
        search.min(held)
    }
}

/// The plan of latency, and those of the classes that somebody prices apart.
#[derive(Debug)]
pub(super) struct Plans(BTreeMap<Class, Plan>);

impl Default for Plans {
    fn default() -> Self {
        Self(BTreeMap::from([(Class::Latency, Plan::default())]))
    }
}

impl Plans {
    /// The plan that packets of a class follow.
    pub(super) fn of(&self, class: Class) -> &Plan {
        let apart = self.0.get(&class);
        apart.unwrap_or_else(|| &self.0[&Class::Latency])
    }

    /// The classes beside latency that have a plan.
    pub(super) fn apart(&self) -> impl Iterator<Item = Class> + '_ {
        self.0.keys().copied().filter(|class| !class.is_latency())
    }

    /// Every class that has a plan.
    pub(super) fn classes(&self) -> Vec<Class> {
        self.0.keys().copied().collect()
    }

    /// Leaves these classes beside latency; those that had a plan and have none any more.
    pub(super) fn keep(&mut self, apart: &BTreeSet<Class>) -> Vec<Class> {
        for class in apart {
            if self.0.contains_key(class) {
                continue;
            }
            // So far its packets went as those of latency: what differs is a change, which has its order.
            let latency = self.of(Class::Latency);
            let plan = Plan {
                graph: latency.graph.clone(),
                routes: Arc::clone(&latency.routes),
                ..Plan::default()
            };
            self.put(*class, plan);
        }
        let gone: Vec<_> = self
            .apart()
            .filter(|class| !apart.contains(class))
            .collect();
        self.0.retain(|class, _| !gone.contains(class));
        gone
    }

    /// Has a class's plan worked on: [`Self::put`] brings it back.
    pub(super) fn take(&mut self, class: Class) -> Plan {
        self.0
            .get_mut(&class)
            .map(std::mem::take)
            .unwrap_or_default()
    }

    /// See [`Self::take`].
    pub(super) fn put(&mut self, class: Class, plan: Plan) {
        self.0.insert(class, plan);
    }

    pub(super) fn poll_timeout(&self) -> Instant {
        let all = self.0.values().map(Plan::poll_timeout);
        all.min().unwrap_or(Instant::NEVER)
    }
}
