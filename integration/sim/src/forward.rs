//! A packet's way through the fleet at one moment, as the data planes would take it: next hop, else backup.
//!
//! A stand-in for the worker: it obeys routes and links' states, and cuts eat its packets. It takes no time.

use wattle_model::waypoint::before;
use wattle_model::{LinkState, MAX_DETOURS, NodeId, Waypoint};
use wattle_routing::{Backup, NextHop};
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
    /// The detour that begins here, if one does.
    detour: Option<Detour>,
}

impl Onward {
    const fn over(edge: EdgeNumber) -> Self {
        let detour = None;
        Self { edge, detour }
    }
}

impl Fleet {
    /// Sends a packet.
    pub fn packet(&self, from: NodeNumber, to: NodeNumber) -> Fate {
        let mut trail = vec![from];
        let mut waypoints = Detour::new();
        let mut detours = 0;
        while let Some(&at) = trail.last()
            && at != to
        {
            let came_from = trail.iter().rev().nth(1).copied();
            let own = self.nodes[at.0].id;
            let is_stop = waypoints.first().is_some_and(|stop| stop.node == own);
            if is_stop {
                waypoints.remove(0);
            }
            let stop = waypoints.first().copied();
            // Never back to where it came from, unless a waypoint is here.
            let came_from = came_from.filter(|_| !is_stop);
            let target = stop.map_or(self.nodes[to.0].id, |stop| stop.node);
            let straight = stop.and_then(|stop| self.straight(at, stop));
            let chosen = straight.or_else(|| self.choose(at, target, came_from));
            let chosen = chosen.filter(|onward| onward.detour.is_none() || detours < MAX_DETOURS);
            let Some(onward) = chosen else {
                return Fate::Lost(at);
            };
            if let Some(detour) = onward.detour {
                waypoints = before(&detour, &waypoints).collect();
                detours += 1;
            }
            let edge = &self.network.edges[onward.edge.0];
            let direction = usize::from(edge.ends[1] == at);
            if edge.cut[direction] {
                return Fate::Lost(at);
            }
            if trail.len() > MOST_LINKS {
                return Fate::Circled;
            }
            trail.push(edge.ends[1 - direction]);
        }
        Fate::Arrived(trail)
    }

    /// The link to a waypoint that is to be reached over it.
    fn straight(&self, at: NodeNumber, stop: Waypoint<NodeId>) -> Option<Onward> {
        let process = self.nodes[at.0].process.as_ref().filter(|_| stop.direct)?;
        let mut links = process.links.iter();
        links
            .find(|(edge, link)| {
                let ends = self.network.edges[edge.0].ends;
                let leads = ends.iter().any(|end| self.nodes[end.0].id == stop.node);
                leads && link.state() == LinkState::Up
            })
            .map(|(edge, _)| Onward::over(*edge))
    }

    fn choose(
        &self,
        at: NodeNumber,
        target: NodeId,
        came_from: Option<NodeNumber>,
    ) -> Option<Onward> {
        let process = self.nodes[at.0].process.as_ref()?;
        let route = process.router.routes().routes.get(&target)?;
        let back = came_from.map(|number| self.nodes[number.0].id);
        let is_up = |edge: &EdgeNumber| {
            process
                .links
                .get(edge)
                .is_some_and(|link| link.state() == LinkState::Up)
        };
        let next = route
            .next
            .iter()
            .filter(|next| Some(next.neighbour) != back)
            .map(NextHop::edge)
            .find(&is_up);
        let backup = || {
            let backup = route
                .backup
                .as_ref()
                .filter(|backup| Some(backup.neighbour) != back || !backup.waypoints.is_empty())?;
            is_up(&backup.edge()).then(|| Onward {
                edge: backup.edge(),
                detour: Some(backup.waypoints.clone()),
            })
        };
        next.map(Onward::over).or_else(backup)
    }
}

/// The fleet numbers links as it numbers edges.
trait OverEdge {
    fn edge(&self) -> EdgeNumber;
}

impl OverEdge for NextHop {
    fn edge(&self) -> EdgeNumber {
        EdgeNumber(self.link.0 as usize)
    }
}

impl OverEdge for Backup {
    fn edge(&self) -> EdgeNumber {
        EdgeNumber(self.link.0 as usize)
    }
}
