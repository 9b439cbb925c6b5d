//! A packet's way through the fleet at one moment, as the data planes would take it: next hop, else backup.
//!
//! A stand-in for the worker: it obeys routes and links' states, and cuts eat its packets. It takes no time.

use wattle_model::{LinkState, NodeId};
use wattle_routing::{Backup, NextHop};

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

/// Most hops of a packet.
const HOP_LIMIT: usize = 16;

impl Fleet {
    /// Sends a packet.
    pub fn packet(&self, from: NodeNumber, to: NodeNumber) -> Fate {
        let mut trail = vec![from];
        let mut waypoints: Vec<NodeId> = Vec::new();
        while let Some(&at) = trail.last()
            && at != to
        {
            let came_from = trail.iter().rev().nth(1).copied();
            if waypoints.first() == Some(&self.nodes[at.0].id) {
                waypoints.remove(0);
            }
            let target = waypoints.first().copied();
            // Never back to where it came from, unless a waypoint says so.
            let came_from = came_from.filter(|_| target.is_none());
            let target = target.unwrap_or(self.nodes[to.0].id);
            let Some((edge, mut detour)) = self.choose(at, target, came_from) else {
                return Fate::Lost(at);
            };
            // A relay frame has room for two: a detour on the way to a waypoint is a stop before it.
            if let (Some(_), Some(waypoint)) = (detour.first(), waypoints.first()) {
                detour.truncate(1);
                detour.push(*waypoint);
            }
            if !detour.is_empty() {
                waypoints = detour;
            }
            let edge = &self.network.edges[edge.0];
            let direction = usize::from(edge.ends[1] == at);
            if edge.cut[direction] {
                return Fate::Lost(at);
            }
            if trail.len() > HOP_LIMIT {
                return Fate::Circled;
            }
            trail.push(edge.ends[1 - direction]);
        }
        Fate::Arrived(trail)
    }

    fn choose(
        &self,
        at: NodeNumber,
        target: NodeId,
        came_from: Option<NodeNumber>,
    ) -> Option<(EdgeNumber, Vec<NodeId>)> {
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
            is_up(&backup.edge()).then(|| (backup.edge(), backup.waypoints.clone()))
        };
        next.map(|edge| (edge, Vec::new())).or_else(backup)
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
