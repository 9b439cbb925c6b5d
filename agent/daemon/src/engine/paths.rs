//! The ways to a destination as people read them: hop by hop, with what each hop costs.

use std::collections::BTreeMap;

use wattle_control::{
    ApartReport, CostParts, ExplainReport, HopReport, PathReport, PathRole, PolicyReport, WayReport,
};
use wattle_model::{Carrier, Class, Cost, Instant, LinkState, NodeId, Waypoint};
use wattle_routing::graph::Graph;
use wattle_routing::spf::Tree;
use wattle_routing::{Explanation, Link, LinkPolicy, Router, Thousandths, Verdict, Way};
use wattle_wire::record::{Body, LinkEntry};

use super::{Destination, Membership};

/// Everything that a way is drawn from.
pub(super) struct Map<'a> {
    membership: &'a Membership,
    router: &'a Router,
    class: Class,
    graph: Graph,
    claims: BTreeMap<(NodeId, NodeId), LinkEntry>,
}

impl<'a> Map<'a> {
    /// The map of a class as the database describes it at the moment.
    pub(super) fn new(membership: &'a Membership, router: &'a Router, class: Class) -> Self {
        let graph = router.topology().graph(class);
        Self {
            membership,
            router,
            class,
            graph,
            claims: claims(router, class),
        }
    }

    /// All ways in use to a destination, then the backup; `None` if no route leads there.
    pub(super) fn path(&self, to: Destination) -> Option<PathReport> {
        let route = self.router.routes_of(self.class).routes.get(&to.node)?;
        let shares: u32 = route.next.iter().map(|next| u32::from(next.weight)).sum();
        let used = route.next.iter().filter_map(|next| {
            let share = u64::from(next.weight) * 1_000_000 / u64::from(shares.max(1));
            let nodes = self.nodes(next.neighbour, &[], to.node)?;
            Some(self.way(PathRole::Used, share as u32, &nodes))
        });
        let backup = route.backup.as_ref().and_then(|backup| {
            let nodes = self.nodes(backup.neighbour, &backup.waypoints, to.node)?;
            Some(self.way(PathRole::Backup, 0, &nodes))
        });
        Some(PathReport {
            destination: self.membership.node_ref(to.node),
            prefix: to.prefix,
            class: self.class,
            ways: used.chain(backup).collect(),
            left: Vec::new(),
            changed: None,
        })
    }

    /// Why packets go where they go; `None` if no route leads there.
    pub(super) fn explain(&self, to: Destination, now: Instant) -> Option<ExplainReport> {
        let chosen = self.path(to)?.ways.into_iter().next()?;
        let explanation = self.router.explain(self.class, to.node)?;
        let is_other = |way: &&Way| !matches!(way.verdict, Verdict::Preferred);
        let other = explanation
            .ways
            .iter()
            .filter(is_other)
            .min_by_key(|way| way.cost);
        let runner_up = other.and_then(|way| {
            let nodes = self.nodes(way.neighbour, &[], to.node)?;
            let role = match way.verdict {
                Verdict::Preferred | Verdict::Shared => PathRole::Used,
                Verdict::Backup => PathRole::Backup,
                Verdict::Dearer | Verdict::NotNearer => PathRole::Spare,
            };
            Some(self.way(role, 0, &nodes))
        });
        Some(ExplainReport {
            destination: self.membership.node_ref(to.node),
            prefix: to.prefix,
            class: self.class,
            cost: sum(chosen.hops.iter().map(|hop| hop.cost)),
            margin_us: runner_up
                .as_ref()
                .map(|way| way.cost_us.saturating_sub(chosen.cost_us)),
            runner_up,
            hold_ms: other.and_then(|way| self.hold_ms(way, now)),
            notes: self.notes(&explanation),
            chosen,
            changed: None,
        })
    }

    /// How long until a lower price of the way's first link counts, if it stays so low.
    fn hold_ms(&self, way: &Way, now: Instant) -> Option<u64> {
        let due = self.link(way)?.better_from(self.class)?;
        Some(due.since(now).as_millis())
    }

    /// The price of the way to a node's neighbours' measure: round trip and loss summed over the preferred way.
    pub(super) fn quality(&self, to: NodeId) -> Option<(u64, u32)> {
        let route = self.router.routes_of(self.class).routes.get(&to)?;
        let first = route.next.first()?.neighbour;
        let nodes = self.nodes(first, &[], to)?;
        let mut rtt = 0;
        let mut arrives = 1.0;
        for ends in nodes.windows(2) {
            let claim = self.claims.get(&(ends[0], ends[1]))?;
            rtt += claim.rtt.0;
            arrives *= 1.0 - f64::from(claim.loss.0) / 1e6;
        }
        Some((rtt, ((1.0 - arrives) * 1e6).round() as u32))
    }

    fn notes(&self, explanation: &Explanation) -> Vec<String> {
        let has_no_weight = |way: &Way| {
            let policy = self.link(way).map(|link| link.policy(self.class));
            policy.is_some_and(|policy| policy.weight == Thousandths(0))
        };
        let notes = explanation.ways.iter().map(|way| {
            let name = self.membership.node_ref(way.neighbour).name;
            let verdict = match way.verdict {
                Verdict::Preferred => "preferred",
                Verdict::Shared => "shares the flows",
                Verdict::Backup => "backup, used while the others are silent",
                Verdict::Dearer if has_no_weight(way) => "has no weight",
                Verdict::Dearer => "costs more",
                Verdict::NotNearer => "is not nearer to the destination, packets could come back",
            };
            let settling = match way.advertised != way.link_cost {
                true => format!(
                    "; this end asks {}, both agree on {}",
                    way.advertised, way.link_cost
                ),
                false => String::new(),
            };
            format!(
                "via {name}: cost {}, {} hops, {verdict}{settling}{}",
                way.cost,
                way.hops,
                self.policy(way)
            )
        });
        notes.collect()
    }

    /// What the operator set for the way's link, if anything.
    fn policy(&self, way: &Way) -> String {
        let policy = self.link(way).map(|link| link.policy(self.class));
        let policy = policy.and_then(policy_report);
        policy.map_or_else(String::new, |policy| format!("; policy: {policy}"))
    }

    /// The link that a way begins with.
    fn link(&self, way: &Way) -> Option<&Link> {
        self.router.links().get(&way.link?)
    }

    /// The nodes of the way that begins with `neighbour`, this node first.
    fn nodes(
        &self,
        neighbour: NodeId,
        waypoints: &[Waypoint<NodeId>],
        to: NodeId,
    ) -> Option<Vec<NodeId>> {
        let mut nodes = vec![self.membership.own(), neighbour];
        let mut at = neighbour;
        for stop in waypoints.iter().copied().chain([Waypoint::new(to)]) {
            let leg = match stop.direct {
                true => vec![at, stop.node],
                false => self.shortest(at, stop.node)?,
            };
            nodes.extend(leg.into_iter().skip(1));
            at = stop.node;
        }
        Some(nodes)
    }

    fn shortest(&self, from: NodeId, to: NodeId) -> Option<Vec<NodeId>> {
        let tree = Tree::of(&self.graph, self.graph.vertex(from)?);
        let path = tree.path(self.graph.vertex(to)?)?;
        Some(path.into_iter().map(|at| self.graph.node(at)).collect())
    }

    fn way(&self, role: PathRole, weight_ppm: u32, nodes: &[NodeId]) -> WayReport {
        let last = nodes.last().copied();
        let hops: Vec<HopReport> = nodes
            .windows(2)
            .map(|ends| self.hop(ends[0], ends[1], Some(ends[1]) == last))
            .collect();
        let cost = sum(hops.iter().map(|hop| hop.cost));
        WayReport {
            role,
            weight_ppm,
            tier: cost.tier,
            cost_us: cost.total_us,
            hops,
        }
    }

    fn hop(&self, from: NodeId, to: NodeId, is_last: bool) -> HopReport {
        let ends = self.graph.vertex(from).zip(self.graph.vertex(to));
        let link = ends.map_or(Cost::INFINITE, |(a, b)| self.graph.cost(a, b));
        let transit = match (is_last, ends) {
            (false, Some((_, to))) => self.graph.transit(to),
            _ => Cost(0),
        };
        let claim = self.claims.get(&(from, to));
        let parts = match from == self.membership.own() {
            true => self.own_parts(to, link),
            false => of_others(link),
        };
        HopReport {
            from: self.membership.node_ref(from),
            to: self.membership.node_ref(to),
            carrier: claim.map(|claim| claim.carrier),
            cost: CostParts {
                health_us: transit.to_tell(),
                total_us: parts.total_us.saturating_add(transit.to_tell()),
                ..parts
            },
            rtt_us: claim.map(|claim| claim.rtt.0),
            loss_ppm: claim.map(|claim| claim.loss.0),
            suspect: from == self.membership.own() && self.is_suspect(to),
        }
    }

    /// Whether every link in use to a neighbour is silent.
    fn is_suspect(&self, neighbour: NodeId) -> bool {
        let one_is = |state| {
            let mut links = self.router.links().values();
            links.any(|link| link.neighbour == neighbour && link.state == state)
        };
        one_is(LinkState::Suspect) && !one_is(LinkState::Up)
    }

    /// What the price of our own link is made of; what damping and the other end add is held.
    fn own_parts(&self, neighbour: NodeId, agreed: Cost) -> CostParts {
        let links = self.router.links().values();
        let best = links
            .filter(|link| link.neighbour == neighbour && link.state != LinkState::Down)
            .min_by_key(|link| link.advertised_in(self.class));
        match best {
            Some(link) => control_parts(link, self.class, agreed),
            None => of_others(agreed),
        }
    }
}

/// What is known of a price that others made.
fn of_others(cost: Cost) -> CostParts {
    CostParts {
        tier: cost.tiers(),
        total_us: cost.to_tell(),
        ..CostParts::default()
    }
}

/// The parts of a link's price in the local socket's words. What policy adds stands by itself, what it takes off is taken off
/// every part; what is left of `agreed` is held.
pub(super) fn control_parts(link: &Link, class: Class, agreed: Cost) -> CostParts {
    let parts = link.parts(class);
    let less = link.policy(class).multiplier.min(Thousandths::ONE);
    let micros = |span: wattle_model::Micros| {
        let left = span.0.saturating_mul(less.0.into()) / 1_000;
        u32::try_from(left).unwrap_or(u32::MAX)
    };
    let measured = CostParts {
        base_us: micros(parts.base),
        rtt_us: micros(parts.propagation).saturating_add(micros(parts.queueing)),
        jitter_us: micros(parts.jitter),
        loss_us: micros(parts.loss),
        carrier_us: micros(parts.carrier),
        ..CostParts::default()
    };
    let sum = [
        measured.base_us,
        measured.rtt_us,
        measured.jitter_us,
        measured.loss_us,
        measured.carrier_us,
    ]
    .into_iter()
    .fold(0, u32::saturating_add);
    let price = link.price(class).to_tell().max(sum);
    // A price that fell is believed late, one that rose is told in steps: within those the parts are scaled by nothing.
    let total_us = agreed.to_tell().max(price);
    CostParts {
        tier: agreed.tiers(),
        total_us,
        policy_us: price - sum,
        held_us: total_us - price,
        ..measured
    }
}

/// What a link costs packets of the classes that this node prices apart.
pub(super) fn apart(link: &Link) -> Vec<ApartReport> {
    let costs = link.advertised_apart();
    let reports = costs.iter().map(|(class, cost)| ApartReport {
        class,
        cost: control_parts(link, class, cost),
        policy: policy_report(link.policy(class)),
    });
    reports.collect()
}

/// A policy that changes something, in the local socket's words.
pub(super) fn policy_report(policy: &LinkPolicy) -> Option<PolicyReport> {
    let decimal = |factor: Thousandths| f64::from(factor.0) / 1_000.0;
    (*policy != LinkPolicy::default()).then(|| PolicyReport {
        weight: decimal(policy.weight),
        multiplier: decimal(policy.multiplier),
        addend_us: policy.addend.0,
        tier: policy.tier,
    })
}

fn sum(parts: impl Iterator<Item = CostParts>) -> CostParts {
    parts.fold(CostParts::default(), |a, b| CostParts {
        tier: a.tier.saturating_add(b.tier),
        total_us: a.total_us.saturating_add(b.total_us),
        base_us: a.base_us.saturating_add(b.base_us),
        rtt_us: a.rtt_us.saturating_add(b.rtt_us),
        jitter_us: a.jitter_us.saturating_add(b.jitter_us),
        loss_us: a.loss_us.saturating_add(b.loss_us),
        carrier_us: a.carrier_us.saturating_add(b.carrier_us),
        health_us: a.health_us.saturating_add(b.health_us),
        policy_us: a.policy_us.saturating_add(b.policy_us),
        held_us: a.held_us.saturating_add(b.held_us),
    })
}

/// The cheapest claim of each direction.
fn claims(router: &Router, class: Class) -> BTreeMap<(NodeId, NodeId), LinkEntry> {
    let mut claims: BTreeMap<(NodeId, NodeId), LinkEntry> = BTreeMap::new();
    for (from, link) in all_claims(router) {
        let best = claims.entry((from, link.neighbour)).or_insert(link);
        if link.cost_of(class) < best.cost_of(class) {
            *best = link;
        }
    }
    claims
}

/// Every link that a member reports, in order.
pub(super) fn all_claims(router: &Router) -> Vec<(NodeId, LinkEntry)> {
    let mut all = Vec::new();
    for (key, entry) in router.database().iter() {
        match entry.body() {
            Body::Links(body) => all.extend(body.links.iter().map(|link| (key.origin, *link))),
            Body::Node(_) | Body::Prefixes(_) | Body::Removal(_) => {}
        }
    }
    all
}

/// The price that both ends agree on, by ends and carrier.
pub(super) fn agreed(router: &Router) -> BTreeMap<(NodeId, NodeId, Carrier), Cost> {
    let links = router.topology().links.iter();
    links
        .flat_map(|link| {
            [(link.a, link.b), (link.b, link.a)].map(|(a, b)| ((a, b, link.carrier), link.cost))
        })
        .collect()
}
