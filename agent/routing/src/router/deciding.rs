//! When routes are computed, and what is told of the difference.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use wattle_model::{Carrier, Cost, Instant, LinkId, Micros, NodeId};

use super::{Output, Router};
use crate::event::{Cause, Happening};
use crate::routes::{self, Neighbours, Routes};
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
/// When the next computation of routes is due, and why.
#[derive(Debug, Clone, Copy)]
pub(super) struct Computing {
    pub(super) due: Instant,
    pub(super) cause: Cause,
    pub(super) last: Instant,
    pub(super) pause: usize,
}

impl Router {
    pub(super) fn compute_soon(&mut self, now: Instant, cause: Cause) {
        self.compute_after(now, cause, PAUSES[self.computing.pause]);
    }

    /// Something is lost: packets may be falling into the hole.
    pub(super) fn compute_urgently(&mut self, now: Instant, cause: Cause) {
        let pause = PAUSES[self.computing.pause.min(1)];
        self.compute_after(now, cause, pause);
    }

    fn compute_after(&mut self, now: Instant, cause: Cause, pause: Micros) {
        let due = (self.computing.last + pause).max(now);
        if due < self.computing.due {
            self.computing.cause = cause;
            self.computing.due = due;
        }
    }

    pub(super) fn compute(&mut self, now: Instant, cause: Cause) {
        let calm = now.since(self.computing.last) >= CALM;
        let pause = if calm {
            0
        } else {
            (self.computing.pause + 1).min(PAUSES.len() - 1)
        };
        self.computing = Computing {
            due: Instant::NEVER,
            cause,
            last: now,
            pause,
        };
        self.counters.computations += 1;
        self.topology = Topology::of(&self.database, &self.members.nodes);
        self.leave_out_lost_links();
        self.graph = self.topology.graph();
        self.spared.clear();
        let neighbours = self.neighbours();
        let routes = routes::compute(
            &self.topology,
            &self.graph,
            self.node,
            &neighbours,
            &self.routes,
            &self.preferences,
        );
        if routes != *self.routes {
            let before = std::mem::replace(&mut self.routes, Arc::new(routes));
            self.outputs
                .push_back(Output::Routes(Arc::clone(&self.routes)));
            self.tell_routes(now, cause, &before);
        }
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

    /// Usable links by neighbour, best first, by the price that both ends agree on.
    pub(super) fn neighbours(&self) -> Neighbours {
        let node = self.node;
        let own = self.topology.links.iter().filter_map(|link| {
            let neighbour = match (link.a == node, link.b == node) {
                (true, _) => link.b,
                (_, true) => link.a,
                (false, false) => return None,
            };
            Some(((neighbour, link.carrier), link.cost))
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

    pub(super) fn tell_routes(&mut self, now: Instant, cause: Cause, before: &Routes) {
        let after = Arc::clone(&self.routes);
        let hops = |routes: &Routes, node: &NodeId| -> Vec<NodeId> {
            let route = routes.routes.get(node);
            route.map_or_else(Vec::new, |r| {
                r.next.iter().map(|next| next.neighbour).collect()
            })
        };
        let nodes: BTreeSet<&NodeId> = before.routes.keys().chain(after.routes.keys()).collect();
        for node in nodes {
            let (old, new) = (hops(before, node), hops(&after, node));
            if old == new {
                continue;
            }
            match (old.is_empty(), new.is_empty()) {
                (true, false) => self.event(now, cause, Happening::NodeJoined { node: *node }),
                (false, true) => self.event(now, cause, Happening::NodeLeft { node: *node }),
                (true, true) | (false, false) => {}
            }
            let cost = after
                .routes
                .get(node)
                .map_or(Cost::INFINITE, |route| route.cost);
            let what = Happening::RouteChanged {
                destination: *node,
                before: old,
                after: new,
                cost,
            };
            self.event(now, cause, what);
        }
    }
}
