//! When this node takes to routes that it decided on (`docs/protocol/routing.md` §2), and what is told of the difference.

use std::collections::BTreeSet;
use std::sync::Arc;

use wattle_model::{Class, Cost, Instant, LinkId, Micros, NodeId};

use super::deciding::search_backups;
use super::plan::Plan;
use super::trigger::Trigger;
use super::{Output, Router};
use crate::event::Happening;
use crate::graph::{Change, Graph};
use crate::order;
use crate::routes::{Route, Routes};

/// Routes are held no longer than this, whatever else changes in the meantime.
const MOST_HELD: Micros = Micros::from_millis(1_000);

/// Routes that are decided but not used until it is this node's turn.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) routes: Routes,
    pub(super) due: Instant,
    since: Instant,
    trigger: Trigger,
    changes: Vec<Change>,
}

impl Held {
    /// Whether one thing may have caused all changes: a link, or a node with its links.
    fn is_about(&self, others: &[Change]) -> bool {
        let ends = |change: &Change| match *change {
            Change::Link { a, b, .. } => [a, b],
            Change::Transit { at, .. } => [at, at],
        };
        let mut all = self.changes.iter().chain(others).map(ends);
        let Some(first) = all.next() else { return true };
        let rest: Vec<_> = all.collect();
        first
            .iter()
            .any(|end| rest.iter().all(|ends| ends.contains(end)))
    }
}

impl Router {
    /// Goes on with the search for better backups, and takes to held routes, if it is time for it.
    pub(super) fn decide_on(&mut self, now: Instant) {
        if self.plans.poll_timeout() > now {
            return;
        }
        for class in self.plans.classes() {
            let mut plan = self.plans.take(class);
            self.decide_class(now, class, &mut plan);
            self.plans.put(class, plan);
        }
    }

    fn decide_class(&mut self, now: Instant, class: Class, plan: &mut Plan) {
        if plan.search_due.is_some_and(|due| due <= now) {
            self.go_on_searching(now, class, plan);
        }
        if plan.held.as_ref().is_some_and(|held| held.due <= now)
            && let Some(held) = plan.held.take()
        {
            self.take(now, (class, plan), held.routes, held.trigger);
        }
    }

    /// Betters the backups of the routes that were decided last; those in use are copied only if somebody else reads them.
    fn go_on_searching(&mut self, now: Instant, class: Class, plan: &mut Plan) {
        if let Some(mut held) = plan.held.take() {
            search_backups(now, plan, &mut held.routes);
            plan.held = Some(held);
            return;
        }
        let mut routes = std::mem::take(&mut plan.routes);
        let is_better = search_backups(now, plan, Arc::make_mut(&mut routes));
        if is_better {
            let routes = Arc::clone(&routes);
            self.outputs.push_back(Output::Routes(class, routes));
        }
        plan.routes = routes;
    }

    /// Takes to other routes when it is this node's turn; at once where packets would else be lost.
    pub(super) fn hold_or_take(
        &mut self,
        now: Instant,
        (class, plan): (Class, &mut Plan),
        routes: Routes,
        trigger: Trigger,
        (before, changes): (&Graph, Option<Vec<Change>>),
    ) {
        let own = plan.graph.vertex(self.node);
        let (Some(own), Some(changes)) = (own, changes) else {
            // Too much changed at once for an order.
            plan.held = None;
            self.take(now, (class, plan), routes, trigger);
            return;
        };
        let delay = order::delay(before, &plan.graph, own, &changes);
        let held = plan.held.take();
        let earlier = held
            .as_ref()
            .map_or_else(Vec::new, |held| held.changes.clone());
        let since = held.as_ref().map_or(now, |held| held.since);
        let (due, first) = match held {
            Some(held) if changes.is_empty() => (held.due, held.trigger),
            // Another failure before the first one is settled: nobody's turn is known any more.
            Some(held) if !held.is_about(&changes) => (now, trigger),
            Some(held) => {
                let due = held.due.max(now + delay);
                (due.min(held.since + MOST_HELD), held.trigger)
            }
            None => (now + delay.min(MOST_HELD), trigger),
        };
        // What is about one thing began with the first that was heard of it.
        let first = first.or_began(trigger);
        if due <= now {
            self.take(now, (class, plan), routes, first);
            return;
        }
        let bridge = self.bridge(plan, &routes);
        plan.held = Some(Held {
            routes,
            due,
            since,
            trigger: first,
            changes: [earlier, changes].concat(),
        });
        self.take(now, (class, plan), bridge, trigger);
    }

    /// The routes until this node's turn: those in use, where they lead somewhere.
    fn bridge(&self, plan: &Plan, next: &Routes) -> Routes {
        let is_used = |link: &LinkId| {
            self.links
                .get(link)
                .is_some_and(|link| link.damper.is_some())
        };
        let leads = |route: &&Arc<Route>| {
            let backup = route.backup.as_ref().map(|backup| backup.link);
            let links = route.next.iter().map(|next| next.link);
            links.chain(backup).any(|link| is_used(&link))
        };
        let routes = next.routes.iter().map(|(node, next)| {
            let current = plan.routes.routes.get(node).filter(leads);
            (*node, current.unwrap_or(next).clone())
        });
        Routes {
            routes: routes.collect(),
            prefixes: next.prefixes.clone(),
        }
    }

    pub(super) fn take(
        &mut self,
        now: Instant,
        (class, plan): (Class, &mut Plan),
        routes: Routes,
        trigger: Trigger,
    ) {
        if routes != *plan.routes {
            let before = std::mem::replace(&mut plan.routes, Arc::new(routes));
            let after = Arc::clone(&plan.routes);
            self.outputs
                .push_back(Output::Routes(class, Arc::clone(&after)));
            self.tell_routes(now, trigger, class, (&before, &after));
        }
    }

    fn tell_routes(
        &mut self,
        now: Instant,
        trigger: Trigger,
        class: Class,
        (before, after): (&Routes, &Routes),
    ) {
        let other_than = |one: &Routes, other: &Routes| {
            let routes = one.routes.iter();
            let others = routes.filter(|(node, route)| other.routes.get(node) != Some(route));
            others.map(|(node, _)| *node).collect::<BTreeSet<NodeId>>()
        };
        for node in &(&other_than(before, after) | &other_than(after, before)) {
            let hops = |routes| next_hops(routes, *node);
            if hops(before).eq(hops(after)) {
                continue;
            }
            let (old, new): (Vec<_>, Vec<_>) = (hops(before).collect(), hops(after).collect());
            // A node comes and goes in all classes at once.
            match (old.is_empty(), new.is_empty()) {
                (true, false) if class.is_latency() => {
                    self.event(now, trigger, Happening::NodeJoined { node: *node });
                }
                (false, true) if class.is_latency() => {
                    self.event(now, trigger, Happening::NodeLeft { node: *node });
                }
                _ => {}
            }
            let cost = after
                .routes
                .get(node)
                .map_or(Cost::INFINITE, |route| route.cost);
            let what = Happening::RouteChanged {
                class,
                destination: *node,
                before: old,
                after: new,
                cost,
            };
            self.event(now, trigger, what);
        }
    }
}

fn next_hops(routes: &Routes, node: NodeId) -> impl Iterator<Item = NodeId> + '_ {
    let route = routes.routes.get(&node).into_iter();
    route.flat_map(|route| route.next.iter().map(|next| next.neighbour))
}
