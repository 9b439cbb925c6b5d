//! A packet's way through the fleet at one moment, as the data planes would take it.
//!
//! A stand-in for the worker, with its rule ([`onward`]): it obeys routes and links' states, and cuts eat its packets. All its
//! packets are of one flow, the first next hop's, and they take no time.

use wattle_dataplane::{Candidate, Past, onward};
use wattle_model::waypoint::before;
use wattle_model::{LinkId, LinkState, NodeId, Waypoint};
use wattle_routing::NextHop;
use wattle_wire::frame::MAX_HOPS;

use crate::fleet::{Fleet, NodeNumber};
use crate::network::EdgeNumber;

/// What became of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It arrived, over these nodes.
    Arrived(Vec<NodeNumber>),
    /// It was lost at this node.
    Lost(NodeNumber),
    /// It went round in circles until its hops were used up.
    Circled,
}

/// Links that a packet may cross: one more than relays.
pub(crate) const MOST_LINKS: usize = MAX_HOPS as usize + 1;

/// The waypoints of a packet, next one first.
pub(crate) type Detour = Vec<Waypoint<NodeId>>;

/// Where a packet goes on.
struct Onward {
    edge: EdgeNumber,
    /// The waypoints of the detour that begins here.
    detour: Detour,
    /// How many detours begin here.
    detours: u8,
}

impl Fleet {
    /// Sends a packet.
    pub fn packet(&self, from: NodeNumber, to: NodeNumber) -> Fate {
        let mut trail = vec![from];
        let mut waypoints = Detour::new();
        let mut past = Past::NONE;
        while let Some(&at) = trail.last()
            && at != to
        {
            let own = self.nodes[at.0].id;
            if waypoints.first().is_some_and(|stop| stop.node == own) {
                waypoints.remove(0);
                past = past.at_waypoint();
            }
            let stop = waypoints.first().copied();
            let target = stop.map_or(self.nodes[to.0].id, |stop| stop.node);
            let straight = stop.and_then(|stop| self.straight(at, stop));
            let Some(onward) = straight.or_else(|| self.choose(at, target, past)) else {
                return Fate::Lost(at);
            };
            waypoints = before(&onward.detour, &waypoints).collect();
            past = Past {
                avoid: Some(at),
                detours: past.detours + onward.detours,
            };
            let edge = &self.network.edges[onward.edge.0];
            if edge.cut[usize::from(edge.ends[1] == at)] {
                return Fate::Lost(at);
            }
            if trail.len() > MOST_LINKS {
                return Fate::Circled;
            }
            trail.push(self.other_end(at, onward.edge));
        }
        Fate::Arrived(trail)
    }

    /// The link to a waypoint that is to be reached over it.
    fn straight(&self, at: NodeNumber, stop: Waypoint<NodeId>) -> Option<Onward> {
        let mut links = self.links_to(at, stop.node).filter(|_| stop.direct);
        let edge = links.find(|edge| self.state(at, *edge) == Some(LinkState::Up))?;
        Some(Onward {
            edge,
            detour: Detour::new(),
            detours: 0,
        })
    }

    fn choose(&self, at: NodeNumber, target: NodeId, past: Past<NodeNumber>) -> Option<Onward> {
        let process = self.nodes[at.0].process.as_ref()?;
        let route = process.router.routes().routes.get(&target);
        let next = route.map_or(&[][..], |route| &route.next);
        let edges = || next.iter().map(|next: &NextHop| edge(next.link));
        let backup = route.and_then(|route| route.backup.as_ref());
        let backup = backup.map(|backup| {
            let over = edge(backup.link);
            let beside = edges().map(|edge| self.other_end(at, edge));
            let neighbour = self.other_end(at, over);
            Candidate::backup(over, &backup.waypoints, neighbour, beside)
        });
        let links = || {
            let direct = self.links_to(at, target);
            onward::candidates(edges().next(), edges(), backup, direct)
        };
        let offer = |state, edge| {
            let is_so = self.state(at, edge) == Some(state);
            is_so.then(|| (self.other_end(at, edge), Ok(())))
        };
        let (taken, ()) = past.choose(onward::USABLE, links, offer).ok()?;
        Some(Onward {
            edge: taken.link,
            detour: taken.waypoints.to_vec(),
            detours: taken.choice.detours(),
        })
    }

    /// The links of a node that lead straight to another.
    fn links_to(&self, at: NodeNumber, to: NodeId) -> impl Iterator<Item = EdgeNumber> {
        let process = self.nodes[at.0].process.iter();
        let edges = process.flat_map(|process| process.links.keys().copied());
        edges.filter(move |edge| self.nodes[self.other_end(at, *edge).0].id == to)
    }

    fn state(&self, at: NodeNumber, edge: EdgeNumber) -> Option<LinkState> {
        let process = self.nodes[at.0].process.as_ref()?;
        Some(process.links.get(&edge)?.state())
    }

    fn other_end(&self, at: NodeNumber, edge: EdgeNumber) -> NodeNumber {
        let [one, other] = self.network.edges[edge.0].ends;
        if one == at { other } else { one }
    }
}

/// The fleet numbers links as it numbers edges.
const fn edge(link: LinkId) -> EdgeNumber {
    EdgeNumber(link.0 as usize)
}
