//! What the workers of one node hand each other (`docs/protocol/lanes.md §5`), and what the first one does with it.
//!
//! The shell carries it: from the further workers to the first over one bounded queue, in order, so that packets of a
//! flow stay in order; from the first to each of the others over another.

use std::net::SocketAddr;

use wattle_dataplane::segment::SuperPacket;
use wattle_dataplane::{DropReason, Origin, Packet, TunBatch, TxBatch, VnetHeader};
use wattle_link::Traffic;
use wattle_model::{Instant, NodeId};

use crate::config::Place;
use crate::inbound::flow_of;
use crate::table::Slot;
use crate::worker::Worker;

/// Most that may wait for the shell: what one input of the shell can make, and packets that waited for a lane.
const MAX_OUTGOING: usize = 4_096;

/// Something that one worker hands another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Passed {
    /// To a further worker: where its lane to a peer goes; `None` if it is not to be used.
    Lane {
        /// The peer.
        peer: NodeId,
        /// Where the peer's worker listens.
        to: Option<SocketAddr>,
    },
    /// To a further worker: the peer answered a barrier that was sent on its behalf.
    Answered {
        /// The peer.
        peer: NodeId,
        /// The barrier's number, as the worker gave it.
        number: u32,
    },
    /// To the first worker: a packet of the device for a peer that is not reached over a lane.
    Packet {
        /// The packet's header.
        header: VnetHeader,
        /// The packet.
        bytes: Vec<u8>,
    },
    /// To the first worker: a packet of a peer, opened and checked, for a leaf of this node.
    Forward {
        /// The leaf.
        to: NodeId,
        /// The packet.
        bytes: Vec<u8>,
    },
    /// To the first worker: sends a barrier behind what was handed over before.
    Barrier {
        /// The peer.
        peer: NodeId,
        /// Which worker asks.
        worker: u8,
        /// The barrier's number.
        number: u32,
    },
    /// To the first worker: a lane to the peer carries packets.
    Carried {
        /// The peer.
        peer: NodeId,
    },
}

impl Worker {
    /// What another worker of this node is to be given, oldest first: which one (the first is 0), and what.
    pub fn poll_passed(&mut self) -> Option<(u8, Passed)> {
        self.outgoing.pop_front()
    }

    /// The other worker had no room for it.
    pub fn refused(&mut self, passed: &Passed) {
        self.drop_passed(passed);
    }

    /// Takes what another worker of this node hands over.
    pub fn handle_passed(
        &mut self,
        now: Instant,
        passed: Passed,
        tx: &mut TxBatch,
        tun: &mut TunBatch,
    ) {
        match passed {
            Passed::Lane { peer, to } => self.lane_directed(now, peer, to),
            Passed::Answered { peer, number } => self.lane_switched(now, peer, number),
            Passed::Packet { header, mut bytes } => {
                self.handle_tun(now, header, &mut bytes, tx, tun);
            }
            Passed::Forward { to, bytes } => self.forward_to_leaf(now, to, &bytes, tx),
            Passed::Barrier {
                peer,
                worker,
                number,
            } => self.begin_barrier(now, peer, worker, number, tx),
            Passed::Carried { peer } => self.lane_carried(now, peer),
        }
    }

    /// Leaves something for another worker.
    pub(crate) fn pass(&mut self, to: u8, passed: Passed) {
        if self.outgoing.len() == MAX_OUTGOING {
            return self.drop_passed(&passed);
        }
        self.outgoing.push_back((to, passed));
    }

    /// Which of the further workers this is.
    pub(crate) fn lane_number(&self) -> Option<u8> {
        match self.config.place {
            Place::First { .. } => None,
            Place::Further(number) => Some(number),
        }
    }

    fn drop_passed(&mut self, passed: &Passed) {
        let reason = DropReason::HandoverFull;
        match passed {
            Passed::Packet { header, bytes } => {
                let count = packets_in(*header, bytes);
                self.counters.tun_rx_packets += count;
                self.drops.add_from(Origin::Tun, reason, count);
            }
            Passed::Forward { .. } => self.drops.add_from(Origin::Wire, reason, 1),
            // Each of them is said again, or waited for in vain for a moment.
            Passed::Lane { .. }
            | Passed::Answered { .. }
            | Passed::Barrier { .. }
            | Passed::Carried { .. } => self.unsent(reason),
        }
    }

    fn forward_to_leaf(&mut self, now: Instant, to: NodeId, packet: &[u8], tx: &mut TxBatch) {
        let (Some(slot), Some(ip)) = (self.table.by_id(to), Packet::parse(packet)) else {
            return self
                .drops
                .add_from(Origin::Wire, DropReason::UnknownPeer, 1);
        };
        self.scratch[..packet.len()].copy_from_slice(packet);
        self.send_scratch_from(now, Origin::Wire, slot, &ip, tx);
    }

    /// Packets go over a lane: the link beside it is watched as if they went over it.
    fn lane_carried(&mut self, now: Instant, peer: NodeId) {
        let hop = self
            .table
            .by_id(peer)
            .and_then(|slot| self.direct_hop(slot));
        if let Some(hop) = hop {
            self.link_sent(now, hop.next, hop.carrier, 0, Traffic::Data);
        }
    }

    /// The flow that decides over which link a peer's lanes go beside.
    pub(crate) fn lane_flow(&self, slot: Slot) -> u32 {
        flow_of(self.table[slot].entry.id)
    }
}

/// How many packets a packet of the device stands for.
pub(crate) fn packets_in(header: VnetHeader, packet: &[u8]) -> u64 {
    let whole = Packet::parse(packet).and_then(|ip| {
        let whole = SuperPacket::new(header, ip, packet)?;
        Some(whole.count() as u64)
    });
    whole.unwrap_or(1)
}
