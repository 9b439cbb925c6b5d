//! Why packets go where they go: every way that this node could take to a destination, and the verdict on each.

use serde::{Deserialize, Serialize};
use wattle_model::{Class, Cost, LinkId, Measurement, NodeId};

use crate::cost::CostParts;
use crate::multipath::{Forest, Trees};
use crate::router::Router;
use crate::routes::Route;
use crate::spf::Tree;

/// The path that packets take, as far as this node can tell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Path {
    /// Its links, in order.
    pub hops: Vec<Hop>,
    /// Its price: links, and transit through the nodes between them.
    pub cost: Cost,
}

/// One link of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hop {
    /// Where it begins.
    pub from: NodeId,
    /// Where it ends.
    pub to: NodeId,
    /// The link's price.
    pub cost: Cost,
    /// What transit through the node at its end adds; zero at the destination.
    pub transit: Cost,
}

/// All ways to a destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The destination.
    pub destination: NodeId,
    /// The route in use.
    pub route: Option<Route>,
    /// The preferred path.
    pub path: Option<Path>,
    /// Every neighbour as a way, best first: after the chosen ones comes the runner-up.
    pub ways: Vec<Way>,
}

/// One neighbour as a way to a destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Way {
    /// The neighbour.
    pub neighbour: NodeId,
    /// The best link to it.
    pub link: Option<LinkId>,
    /// The price of the whole way.
    pub cost: Cost,
    /// Its links.
    pub hops: u32,
    /// The price of the link to the neighbour, as both ends agree on.
    pub link_cost: Cost,
    /// The price that this node tells others, which changes late when it falls.
    pub advertised: Cost,
    /// What the link is measured to be.
    pub measurement: Measurement,
    /// What its price is made of.
    pub parts: CostParts,
    /// Whether it is used, and why not.
    pub verdict: Verdict,
}

/// Whether a way is used, and why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Packets prefer it.
    Preferred,
    /// Packets share it.
    Shared,
    /// Packets take it while the others are silent.
    Backup,
    /// It costs more.
    Dearer,
    /// The neighbour is not nearer to the destination: packets could come back.
    NotNearer,
}

impl Router {
    /// The path that packets of a class take to `destination`, as far as this node can tell: others may hold on to older
    /// choices.
    pub fn path(&self, class: Class, destination: NodeId) -> Option<Path> {
        let graph = self.graph_of(class);
        let route = self.routes_of(class).routes.get(&destination)?;
        let first = graph.vertex(route.next.first()?.neighbour)?;
        let own = graph.vertex(self.node)?;
        let onward = Tree::of(graph, first).path(graph.vertex(destination)?)?;
        let vertices: Vec<_> = [own].into_iter().chain(onward).collect();
        let hops: Vec<Hop> = vertices
            .windows(2)
            .map(|ends| {
                let to = graph.node(ends[1]);
                let transit = if to == destination {
                    Cost(0)
                } else {
                    graph.transit(ends[1])
                };
                Hop {
                    from: graph.node(ends[0]),
                    to,
                    cost: graph.cost(ends[0], ends[1]),
                    transit,
                }
            })
            .collect();
        let cost = hops
            .iter()
            .fold(Cost(0), |sum, hop| sum.plus(hop.cost).plus(hop.transit));
        Some(Path { hops, cost })
    }

    /// Why packets of a class go where they go to reach `destination`.
    pub fn explain(&self, class: Class, destination: NodeId) -> Option<Explanation> {
        let graph = self.graph_of(class);
        let own = graph.vertex(self.node)?;
        let target = graph.vertex(destination).filter(|target| *target != own)?;
        let route = self.routes_of(class).routes.get(&destination);
        let route = route.map(|route| Route::clone(route));
        // What a way costs that does not come back here.
        let onward = graph.closed_at(own);
        let forest = Forest::of(&onward, own);
        let trees = Trees::of(&onward, &forest);
        let ways = trees
            .candidates(target)
            .into_iter()
            .map(|candidate| {
                let neighbour = graph.node(candidate.neighbour);
                let link = self
                    .links
                    .iter()
                    .filter(|(_, link)| link.neighbour == neighbour)
                    .min_by_key(|(id, link)| (link.advertised_in(class), **id));
                Way {
                    neighbour,
                    link: link.map(|(id, _)| *id),
                    cost: candidate.cost,
                    hops: candidate.hops,
                    link_cost: graph.cost(own, candidate.neighbour),
                    advertised: link.map_or(Cost::INFINITE, |(_, link)| link.advertised_in(class)),
                    measurement: link.map(|(_, link)| link.measurement).unwrap_or_default(),
                    parts: link.map(|(_, link)| link.parts(class)).unwrap_or_default(),
                    verdict: verdict(route.as_ref(), neighbour, candidate.downstream),
                }
            })
            .collect();
        Some(Explanation {
            destination,
            route,
            path: self.path(class, destination),
            ways,
        })
    }
}

fn verdict(route: Option<&Route>, neighbour: NodeId, downstream: bool) -> Verdict {
    let position = route.and_then(|route| {
        route
            .next
            .iter()
            .position(|next| next.neighbour == neighbour)
    });
    let backup = route.and_then(|route| route.backup.as_ref());
    match position {
        Some(0) => Verdict::Preferred,
        Some(_) => Verdict::Shared,
        None if backup.is_some_and(|backup| backup.neighbour == neighbour) => Verdict::Backup,
        None if downstream => Verdict::Dearer,
        None => Verdict::NotNearer,
    }
}
