//! What a further worker does otherwise than the first: it has no links, only lanes, and whatever does not go over a
//! lane it hands to the first worker (`docs/protocol/lanes.md §3`).

use std::net::SocketAddr;

use wattle_dataplane::{DropReason, Origin, Packet, TunBatch, TxBatch, VnetHeader};
use wattle_model::{Endpoint, Instant, NodeId};
use wattle_wire::control::Control;

use crate::event::LaneStatus;
use crate::handover::{Passed, packets_in};
use crate::inbound::Arrival;
use crate::lane::{Choice, Step};
use crate::peer::Kind;
use crate::table::Slot;
use crate::worker::Worker;

impl Worker {
    /// Sees to it that [`Self::is_settled`] once everything that was sent over lanes so far has arrived.
    pub fn settle(&mut self, now: Instant, tx: &mut TxBatch) {
        if self.lane_number().is_none() {
            return;
        }
        for slot in self.table.slots() {
            if let Some(step) = self.table[slot].lane.settle(now) {
                self.take_step(now, slot, step, tx);
            }
        }
    }

    /// Whether everything that was sent before [`Self::settle`] has arrived or was given up.
    pub fn is_settled(&self) -> bool {
        self.lane_number().is_none() || self.table.iter().all(|peer| peer.lane.is_settled())
    }

    /// Has every lane take over anew, as is needed when the worker is given flows of others.
    pub fn close_lanes(&mut self, now: Instant) {
        for slot in self.table.slots() {
            self.table[slot].lane.begin_anew();
            self.lane_due(now, slot);
        }
    }

    /// Sends of what waited for lanes to take over, until the batch has about `portion` bytes; whether any is left that
    /// can be sent.
    pub fn resume(
        &mut self,
        now: Instant,
        portion: usize,
        tx: &mut TxBatch,
        tun: &mut TunBatch,
    ) -> bool {
        while self.has_released() && tx.used() < portion {
            let Some((header, mut bytes)) = self.released.pop_front() else {
                break;
            };
            self.packet_on(now, header, &mut bytes, tx, tun);
        }
        self.has_released()
    }

    /// Whether [`Self::resume`] has something to do.
    pub fn has_released(&self) -> bool {
        !self.released.is_empty() && !self.is_congested
    }

    /// Chooses the way of a packet of this node's kernel; whether it goes over its lane.
    pub(crate) fn takes_lane(&mut self, now: Instant, header: VnetHeader, packet: &[u8]) -> bool {
        let destination = Packet::parse(packet)
            .and_then(|ip| self.destination(ip.destination).ok())
            .filter(|slot| matches!(self.table[*slot].kind, Kind::Node));
        let choice = destination.map_or(Choice::First, |slot| {
            let peer = &mut self.table[slot];
            let choice = peer.lane.choose(now, peer.session.is_usable());
            let due = peer.lane.poll_timeout();
            self.due(now, due);
            choice
        });
        match (choice, destination) {
            (Choice::Lane, Some(slot)) => {
                let peer = &mut self.table[slot];
                if peer.lane.sent(now) {
                    let peer = peer.entry.id;
                    self.pass(0, Passed::Carried { peer });
                }
                let due = self.table[slot].lane.poll_timeout();
                self.due(now, due);
                true
            }
            (Choice::Hold, Some(slot)) => {
                if !self.table[slot].lane.hold(header, packet) {
                    let count = packets_in(header, packet);
                    self.counters.tun_rx_packets += count;
                    let reason = DropReason::LaneQueueFull;
                    self.drops.add_from(Origin::Tun, reason, count);
                }
                false
            }
            _ => {
                self.counters.handed_packets += packets_in(header, packet);
                let bytes = packet.to_vec();
                self.pass(0, Passed::Packet { header, bytes });
                false
            }
        }
    }

    /// Where the lane to a peer goes.
    pub(crate) fn lane_endpoint(&self, slot: Slot) -> Option<Endpoint> {
        self.table[slot].lane.endpoint().map(Endpoint::Udp)
    }

    /// The first worker says where a lane goes.
    pub(crate) fn lane_directed(&mut self, now: Instant, peer: NodeId, to: Option<SocketAddr>) {
        if let Some(slot) = self.table.by_id(peer) {
            self.table[slot].lane.direct(to);
            self.lane_due(now, slot);
        }
    }

    /// What went by way of the first worker has arrived.
    pub(crate) fn lane_switched(&mut self, now: Instant, peer: NodeId, number: u32) {
        if let Some(slot) = self.table.by_id(peer) {
            self.table[slot].lane.switched(now, number);
            self.lane_due(now, slot);
        }
    }

    /// The peer answered a barrier that went over the lane.
    pub(crate) fn lane_answered(&mut self, now: Instant, slot: Slot, number: u32) {
        self.table[slot].lane.answered(now, number);
        self.lane_due(now, slot);
    }

    /// A handshake was completed.
    pub(crate) fn lane_established(&mut self, now: Instant, slot: Slot) {
        self.table[slot].lane.established(now);
        self.lane_due(now, slot);
    }

    /// A packet of the peer came over its lane.
    pub(crate) fn lane_heard(&mut self, slot: Slot, arrival: Arrival) {
        if self.lane_number().is_some()
            && let (Endpoint::Udp(from), None) = (arrival.from, arrival.relayed)
        {
            self.table[slot].lane.heard_from(from);
        }
    }

    /// Does what is due for a lane.
    pub(crate) fn run_lane(&mut self, now: Instant, slot: Slot, tx: &mut TxBatch) {
        loop {
            let peer = &mut self.table[slot];
            let was_open = peer.lane.is_open();
            let step = peer.lane.step(now, peer.session.is_usable());
            if was_open && !peer.lane.is_open() {
                self.counters.lanes_lost += 1;
            }
            let Some(step) = step else { return };
            self.take_step(now, slot, step, tx);
        }
    }

    pub(crate) fn lane_status(&self) -> Vec<LaneStatus> {
        let Some(worker) = self.lane_number() else {
            return Vec::new();
        };
        let lanes = self.table.iter().filter_map(|peer| {
            Some(LaneStatus {
                worker,
                peer: peer.entry.id,
                endpoint: peer.lane.endpoint()?,
                is_open: peer.lane.is_open(),
            })
        });
        lanes.collect()
    }

    fn take_step(&mut self, now: Instant, slot: Slot, step: Step, tx: &mut TxBatch) {
        match step {
            Step::Dial => {
                let peer = &mut self.table[slot];
                peer.dialer.restart(now, peer.role);
                let due = peer.dialer.poll_timeout();
                self.due(now, due);
            }
            Step::Ask(number) => {
                // The keys of the fast channel are there when the lane takes over.
                self.want_channel(now, slot);
                self.send_to_peer(now, slot, &Control::Barrier { number }.to_bytes(), tx);
            }
            Step::Switch(number) => {
                let peer = self.table[slot].entry.id;
                let worker = self.lane_number().unwrap_or_default();
                self.pass(
                    0,
                    Passed::Barrier {
                        peer,
                        worker,
                        number,
                    },
                );
            }
            Step::Release => {
                let held = self.table[slot].lane.take_held();
                self.released.extend(held);
            }
        }
    }

    fn lane_due(&mut self, now: Instant, slot: Slot) {
        let due = self.table[slot].lane.poll_timeout();
        self.due(now, due);
    }
}
