//! Coming to a session: whom to dial when and over what, and what follows once it is there.

use wattle_dataplane::{DropReason, Marking, Packet, TxBatch};
use wattle_link::Traffic;
use wattle_model::{Carrier, Instant};
use wattle_tunnel::{DialRole, MIN_BUFFER};

use crate::Event;
use crate::inbound::flow_of;
use crate::outbound::Way;
use crate::peer::Kind;
use crate::table::Slot;
use crate::worker::Worker;

impl Worker {
    /// Makes the attempt that is due, if one is.
    pub(crate) fn dial(&mut self, now: Instant, slot: Slot, tx: &mut TxBatch) {
        let peer = &mut self.table[slot];
        if peer.session.wants_rekey(now) {
            peer.dialer.start(now, DialRole::First);
        }
        if now < peer.dialer.poll_timeout() {
            return;
        }
        // Whoever has begun makes one attempt, so that a peer's mistaken packets cause few of them.
        let wanted = peer.entry.adjacent
            || !peer.waiting.is_empty()
            || peer.session.is_usable()
            || peer.lane.wants_session();
        if !wanted && peer.dialer.attempts() > 0 {
            return peer.dialer.stop();
        }
        let random = self.rng.word();
        if self.table[slot].dialer.is_due(now, random) {
            let mut initiation = [0; MIN_BUFFER];
            if let Some(length) = self.table[slot].session.initiate(now, &mut initiation) {
                self.send_handshake(slot, &initiation[..length], tx);
                self.ask_for_the_way(now, slot);
            }
        }
    }

    /// Packets wait for a handshake: the link that it goes over is asked whether it lives, as it would be for packets.
    fn ask_for_the_way(&mut self, now: Instant, slot: Slot) {
        let peer = &self.table[slot];
        if peer.waiting.is_empty() {
            return;
        }
        let way = self.way(slot, flow_of(peer.entry.id), Marking::CONTROL);
        if let Some((next, carrier)) = way.ok().and_then(|way| way.link()) {
            self.link_sent(now, next, carrier, 0, Traffic::Data);
        }
    }

    /// A link is no longer trusted: handshakes that packets wait for may have gone over it.
    pub(crate) fn dial_again(&mut self, now: Instant) {
        for slot in self.table.slots() {
            let peer = &mut self.table[slot];
            if !peer.waiting.is_empty() && !peer.session.is_usable() {
                peer.dialer.restart(now, DialRole::First);
                self.due(now, now);
            }
        }
    }

    /// Sends a handshake message where it may find the peer: over a link that is up, else to every address that the
    /// peer may have and through relays; the peer answers the copy that comes first.
    pub(crate) fn send_handshake(&mut self, slot: Slot, message: &[u8], tx: &mut TxBatch) {
        let peer = &self.table[slot];
        let routed = self
            .way(slot, flow_of(peer.entry.id), Marking::CONTROL)
            .ok();
        let mut ways = Vec::new();
        let is_leaf = matches!(peer.kind, Kind::Leaf(_));
        if (peer.entry.adjacent || is_leaf) && !peer.has_usable_link() {
            for carrier in Carrier::ALL {
                ways.extend(
                    peer.addresses(carrier)
                        .into_iter()
                        .map(|to| Way::Direct { to, link: None }),
                );
            }
        }
        ways.extend(routed.filter(|way| !is_leaf || matches!(way, Way::Relayed { .. })));
        for way in ways {
            // Not told to the link: of many copies one arrives, and that is no loss.
            if let Err(reason) = self.send_message(way, message, tx) {
                self.unsent(reason);
            }
        }
    }

    /// A handshake was completed.
    pub(crate) fn established(&mut self, now: Instant, slot: Slot, tx: &mut TxBatch) {
        self.counters.handshakes += 1;
        let peer = &mut self.table[slot];
        peer.dialer.stop();
        peer.keys.session_renewed(now);
        let event = Event::Session {
            peer: peer.entry.id,
            handshake_at: now,
        };
        self.tell(event);
        if self.table[slot].entry.adjacent {
            self.open_ports(now, slot);
            self.send_observed(now, slot, tx);
            if self.has_lanes() {
                self.tell_lanes(now, slot, true, tx);
            }
            self.due(now, now);
        }
        if self.lane_number().is_some() {
            self.lane_established(now, slot);
        }
        while let Some((origin, packet)) = self.table[slot].waiting.pop() {
            let Some(ip) = Packet::parse(&packet) else {
                self.drops.add_from(origin, DropReason::Malformed, 1);
                continue;
            };
            self.scratch[..packet.len()].copy_from_slice(&packet);
            self.send_scratch_from(now, origin, slot, &ip, tx);
        }
    }

    /// What is due once a second for one peer.
    pub(crate) fn tick(&mut self, now: Instant, slot: Slot, tx: &mut TxBatch) {
        let mut message = [0; MIN_BUFFER];
        let peer = &mut self.table[slot];
        let due = peer.session.tick(now, &mut message);
        while let Some(origin) = peer.waiting.pop_expired(now) {
            self.drops.add_from(origin, DropReason::SessionTimeout, 1);
        }
        if peer.entry.adjacent && !peer.session.is_usable() {
            peer.dialer.start(now, peer.role);
        }
        if self.has_lanes() {
            self.ask_for_lanes(now, slot, tx);
            self.forget_directions(slot);
        }
        if let Some(length) = due {
            self.send_handshake(slot, &message[..length.min(MIN_BUFFER)], tx);
        }
    }
}
