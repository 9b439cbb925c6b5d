//! Choosing the link for a packet: the one its flow stays on, the path's link for its flow, another of the path, the backup,
//! the direct link.
//!
//! A suspect link is passed over at once, without asking anybody; that is the whole of fast healing on this side.

use wattle_dataplane::{Backup, DropReason, Path};
use wattle_model::{Carrier, Class, Endpoint, Instant, LinkId, LinkState, MAX_DETOURS, NodeIndex};
use wattle_wire::frame::Waypoints;

use crate::flowlets::Flow;
use crate::table::Slot;
use crate::worker::Worker;

/// The next hop of a packet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hop {
    /// The neighbour.
    pub(crate) next: Slot,
    pub(crate) carrier: Carrier,
    pub(crate) endpoint: Endpoint,
    /// Nodes to be passed, when the hop begins a detour.
    pub(crate) waypoints: Waypoints,
    /// Why this link.
    pub(crate) choice: Choice,
}

/// Why a packet goes over a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Choice {
    /// Its flow does, or it was told to.
    First,
    /// That one is not up; another one of the path, or a link straight there, is.
    Other,
    /// None of the path's takes the packet: a detour begins.
    Backup,
}

/// What lies behind a packet and bears on where it may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Past {
    /// The node that it came from and may not go back to, unless a waypoint says so.
    pub(crate) avoid: Option<Slot>,
    /// Detours that it began.
    pub(crate) detours: u8,
}

impl Past {
    /// A packet's that begins here.
    pub(crate) const NONE: Self = Self {
        avoid: None,
        detours: 0,
    };
}

/// How the packet travels to the neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Envelope {
    /// As a plain message if the neighbour is the destination, else in a relay frame.
    Shortest,
    /// In a relay frame in any case, because the message is somebody else's.
    Frame,
}

impl Worker {
    /// The next hop towards `target`.
    pub(crate) fn hop(
        &self,
        target: Slot,
        (class, flow): (Class, u32),
        envelope: Envelope,
        past: Past,
    ) -> Result<Hop, DropReason> {
        let mut reason = DropReason::NoPath;
        let ways = &self.table[target].ways;
        // Relays that do not forward come last.
        let left = [false, true];
        let passes = left.into_iter().take(1 + usize::from(ways.has_left()));
        let passes = passes.flat_map(|left| [(left, LinkState::Up), (left, LinkState::Suspect)]);
        for (left, state) in passes {
            for (choice, link, waypoints) in self.links_towards(target, class, flow) {
                if left != self.is_left(target, class, link) {
                    continue;
                }
                // A detour that begins where the packet came from is no return: its waypoint leads on.
                let avoid = past.avoid.filter(|_| waypoints.next().is_none());
                match self.hop_over(link, target, state, envelope, avoid) {
                    Ok(_) if choice == Choice::Backup && past.detours >= MAX_DETOURS => {
                        reason = DropReason::DetourLimit;
                    }
                    Ok(hop) => {
                        return Ok(Hop {
                            waypoints,
                            choice,
                            ..hop
                        });
                    }
                    Err(_) if reason == DropReason::DetourLimit => {}
                    Err(Unfit::Returns) => reason = DropReason::FrameReturned,
                    Err(Unfit::NoKey) => reason = DropReason::NoLinkKey,
                    Err(Unfit::Unusable) => {}
                }
            }
        }
        Err(reason)
    }

    /// The next hop of a flow that stays where it was before the last change, while the link there is up and leads on.
    pub(crate) fn lingering(
        &mut self,
        now: Instant,
        target: Slot,
        (class, flow): (Class, u32),
        envelope: Envelope,
        avoid: Option<Slot>,
    ) -> Option<Hop> {
        if !self.flowlets.may_linger(now) {
            return None;
        }
        let flow = Flow {
            class,
            target: self.table[target].entry.id,
            hash: flow,
            share: own_share(flow, self.own_index),
        };
        let path = self.forwarding.path(class, flow.target)?;
        let via = |link: LinkId| {
            let (next, _) = self.table.by_link(link)?;
            Some(self.table[next].entry.id)
        };
        let link = self.flowlets.link(now, flow, path, via)?;
        let hop = match self.is_left(target, class, link) {
            true => None,
            false => self
                .hop_over(link, target, LinkState::Up, envelope, avoid)
                .ok(),
        };
        if hop.is_none() {
            self.flowlets.settle(now, &flow);
        }
        hop
    }

    /// The hop to a neighbour over the first of its links that is up, for what may not go over anybody else.
    pub(crate) fn hop_straight(&self, next: Slot, waypoints: Waypoints) -> Option<Hop> {
        let peer = &self.table[next];
        let mut up = peer
            .ports
            .iter()
            .filter(|(_, port)| port.link.state() == LinkState::Up && port.endpoint.is_some());
        let (carrier, port) = up.next().filter(|_| peer.keys.can_seal())?;
        Some(Hop {
            next,
            carrier,
            endpoint: port.endpoint?,
            waypoints,
            choice: Choice::First,
        })
    }

    /// Whether a link leads to a relay that does not pass on what is for `target`.
    fn is_left(&self, target: Slot, class: Class, link: LinkId) -> bool {
        let ways = &self.table[target].ways;
        ways.has_left()
            && self.table.by_link(link).is_some_and(|(next, _)| {
                next != target && ways.is_left(class, self.table[next].entry.id)
            })
    }

    /// The links that lead to `target`, the one to use first.
    fn links_towards(
        &self,
        target: Slot,
        class: Class,
        flow: u32,
    ) -> impl Iterator<Item = (Choice, LinkId, Waypoints)> {
        let peer = &self.table[target];
        let path = self.forwarding.path(class, peer.entry.id);
        let picked = path.and_then(|path| path.pick(own_share(flow, self.own_index)));
        let others = path
            .into_iter()
            .flat_map(Path::next_links)
            .map(|next| next.link);
        let backup = path.and_then(|path| Some((path, path.backup()?)));
        let backup = backup.into_iter().map(|(path, backup)| {
            let waypoints = Waypoints::of(backup.waypoints.iter().copied());
            let choice = match self.is_parallel(path, backup) {
                true => Choice::Other,
                false => Choice::Backup,
            };
            (choice, backup.link, waypoints)
        });
        let direct = Carrier::ALL
            .into_iter()
            .filter_map(|carrier| peer.port(carrier))
            .map(|port| port.id);
        let plain = |choice| move |link| (choice, link, Waypoints::NONE);
        let others = others.filter(move |link| Some(*link) != picked);
        picked
            .into_iter()
            .map(plain(Choice::First))
            .chain(others.map(plain(Choice::Other)))
            .chain(backup)
            .chain(direct.map(plain(Choice::Other)))
    }

    /// Whether a backup is another link to a next hop: no detour, the packet comes as near as over the first one.
    fn is_parallel(&self, path: &Path, backup: &Backup) -> bool {
        let neighbour = |link| self.table.by_link(link).map(|(slot, _)| slot);
        let over = neighbour(backup.link);
        backup.waypoints.is_empty()
            && over.is_some()
            && path
                .next_links()
                .iter()
                .any(|next| neighbour(next.link) == over)
    }

    fn hop_over(
        &self,
        link: LinkId,
        target: Slot,
        state: LinkState,
        envelope: Envelope,
        avoid: Option<Slot>,
    ) -> Result<Hop, Unfit> {
        let (next, carrier) = self.table.by_link(link).ok_or(Unfit::Unusable)?;
        let peer = &self.table[next];
        let port = peer
            .port(carrier)
            .filter(|port| port.link.state() == state)
            .ok_or(Unfit::Unusable)?;
        let endpoint = port.endpoint.ok_or(Unfit::Unusable)?;
        if avoid == Some(next) {
            return Err(Unfit::Returns);
        }
        let framed = envelope == Envelope::Frame || next != target;
        if framed && !peer.keys.can_seal() {
            return Err(Unfit::NoKey);
        }
        Ok(Hop {
            next,
            carrier,
            endpoint,
            waypoints: Waypoints::NONE,
            choice: Choice::First,
        })
    }
}

/// Why a link is not taken.
enum Unfit {
    /// It is not in the state that is looked for, or unknown.
    Unusable,
    /// It leads back to where the packet came from.
    Returns,
    /// Its neighbour has acknowledged no link key.
    NoKey,
}

/// The flow's hash as this node shares by it: if all relays cut the same hash alike, the flows that reach one of them would
/// all go on over the same link.
fn own_share(flow: u32, own: NodeIndex) -> u32 {
    let mixed = flow ^ u32::from(own.0).wrapping_mul(0x9e37_79b9);
    let mixed = (mixed ^ mixed >> 16).wrapping_mul(0x85eb_ca6b);
    let mixed = (mixed ^ mixed >> 13).wrapping_mul(0xc2b2_ae35);
    mixed ^ mixed >> 16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_relay_sends_over_one_link_the_next_one_shares_again() {
        let first = |flow: &u32| own_share(*flow, NodeIndex(1)) % 256 < 86;
        let flows: Vec<u32> = (0..30_000_u32)
            .map(|flow| flow.wrapping_mul(0x0100_0193))
            .filter(first)
            .collect();
        let again = flows
            .iter()
            .filter(|flow| own_share(**flow, NodeIndex(2)) % 256 < 86);
        let third = flows.len() / 3;
        assert!(
            (third * 9 / 10..=third * 11 / 10).contains(&again.count()),
            "{}",
            flows.len()
        );
    }
}
