//! Choosing the link for a packet: the one its flow stays on, else the first that [`onward`] allows of those that lead on.
//!
//! A suspect link is passed over at once, without asking anybody; that is the whole of fast healing on this side.

use std::iter;

use wattle_dataplane::{Candidate, Choice, DropReason, Past, Path, onward};
use wattle_model::{Carrier, Class, Endpoint, Instant, LinkId, LinkState, NodeIndex};
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

/// A link that datagrams can be sent over, whatever they are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Exit {
    /// The neighbour at its other end.
    pub(crate) next: Slot,
    pub(crate) carrier: Carrier,
    pub(crate) endpoint: Endpoint,
}

impl Exit {
    /// The hop over it of a packet that has nothing to pass but what it already has.
    pub(crate) fn plain(self) -> Hop {
        self.hop(Choice::First, Waypoints::NONE)
    }

    /// The hop over it of a packet that goes there for a reason.
    pub(crate) fn hop(self, choice: Choice, waypoints: Waypoints) -> Hop {
        let Self {
            next,
            carrier,
            endpoint,
        } = self;
        Hop {
            next,
            carrier,
            endpoint,
            waypoints,
            choice,
        }
    }
}

/// How the packet travels to the neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Envelope {
    /// As a plain message if the neighbour is the destination, else in a relay frame.
    Shortest,
    /// In a relay frame in any case, because the message is somebody else's.
    Frame,
}

/// What a link is for a packet: the neighbour at its other end, and the way there or what it lacks.
type Offer = (Slot, Result<Exit, DropReason>);

impl Worker {
    /// The next hop towards `target`.
    pub(crate) fn hop(
        &self,
        target: Slot,
        (class, flow): (Class, u32),
        envelope: Envelope,
        past: Past<Slot>,
    ) -> Result<Hop, DropReason> {
        let ways = &self.table[target].ways;
        // Relays that do not forward come last.
        let left = [false, true];
        let passes = left.into_iter().take(1 + usize::from(ways.has_left()));
        let passes = passes.flat_map(|left| onward::USABLE.map(|state| (left, state)));
        let candidates = || self.links_towards(target, class, flow);
        let offer = |(left, state): (bool, LinkState), link| match left
            == self.is_left(target, class, link)
        {
            true => self.offer(link, state, target, envelope),
            false => None,
        };
        let (chosen, exit) = past.choose(passes, candidates, offer)?;
        let waypoints = Waypoints::of(chosen.waypoints.iter().copied());
        Ok(exit.hop(chosen.choice, waypoints))
    }

    /// The next hop of a flow that stays where it was before the last change, while the link there is up and leads on.
    pub(crate) fn lingering(
        &mut self,
        now: Instant,
        target: Slot,
        (class, flow): (Class, u32),
        envelope: Envelope,
        past: Past<Slot>,
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
        let stays = || iter::once(Candidate::<_, NodeIndex>::plain(Choice::First, link));
        let offer = |state, link| self.offer(link, state, target, envelope);
        let chosen = match self.is_left(target, class, link) {
            true => None,
            false => past.choose([LinkState::Up], stays, offer).ok(),
        };
        if chosen.is_none() {
            self.flowlets.settle(now, &flow);
        }
        chosen.map(|(_, exit)| exit.plain())
    }

    /// The first of the links to a neighbour that is up and takes frames, for what may not go over anybody else.
    pub(crate) fn straight(&self, next: Slot) -> Option<Exit> {
        let peer = &self.table[next];
        let mut up = peer
            .ports
            .iter()
            .filter(|(_, port)| port.link.state() == LinkState::Up && port.endpoint.is_some());
        let (carrier, port) = up.next().filter(|_| peer.keys.can_seal())?;
        Some(Exit {
            next,
            carrier,
            endpoint: port.endpoint?,
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
    ) -> impl Iterator<Item = Candidate<'_, LinkId, NodeIndex>> {
        let peer = &self.table[target];
        let path = self.forwarding.path(class, peer.entry.id);
        let picked = path.and_then(|path| path.pick(own_share(flow, self.own_index)));
        let next = path
            .into_iter()
            .flat_map(Path::next_links)
            .map(|next| next.link);
        let neighbour = |link| self.table.by_link(link).map(|(slot, _)| slot);
        let backup = path.and_then(|path| Some((path, path.backup()?)));
        let backup = backup.into_iter().filter_map(move |(path, backup)| {
            let next = path.next_links().iter();
            let next = next.filter_map(|next| neighbour(next.link));
            let over = neighbour(backup.link)?;
            let (link, waypoints) = (backup.link, backup.waypoints.as_slice());
            Some(Candidate::backup(link, waypoints, over, next))
        });
        let direct = Carrier::ALL
            .into_iter()
            .filter_map(|carrier| peer.port(carrier))
            .map(|port| port.id);
        onward::candidates(picked, next, backup, direct)
    }

    /// What a link in this state is for a packet; nothing while it is in another.
    fn offer(
        &self,
        link: LinkId,
        state: LinkState,
        target: Slot,
        envelope: Envelope,
    ) -> Option<Offer> {
        let (next, carrier) = self.table.by_link(link)?;
        let peer = &self.table[next];
        let port = peer
            .port(carrier)
            .filter(|port| port.link.state() == state)?;
        let exit = Exit {
            next,
            carrier,
            endpoint: port.endpoint?,
        };
        let framed = envelope == Envelope::Frame || next != target;
        let takes = match framed && !peer.keys.can_seal() {
            true => Err(DropReason::NoLinkKey),
            false => Ok(exit),
        };
        Some((next, takes))
    }
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
