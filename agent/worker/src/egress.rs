//! Packets that wait because the network takes less than comes: held before they are sealed, so that what is dropped
//! leaves no gap in a session, and sent by priority and turn when the sockets take something again.

use wattle_dataplane::packet::mark_congestion;
use wattle_dataplane::queue::Item;
use wattle_dataplane::segment::SuperPacket;
use wattle_dataplane::{DropReason, Marking, Origin, Packet, TunBatch, TxBatch, VnetHeader, flow};
use wattle_model::{Instant, NodeId};
use wattle_wire::frame::Header;

use crate::relay::marking;
use crate::worker::Worker;

/// What waits.
#[derive(Debug)]
pub(crate) enum Held {
    /// A packet or super-packet of this node's kernel.
    Packet {
        header: VnetHeader,
        bytes: Vec<u8>,
        /// Packets that it stands for.
        count: u64,
    },
    /// A relay frame, its header opened.
    Frame {
        from: NodeId,
        header: Header,
        bytes: Vec<u8>,
    },
}

impl Item for Held {
    fn bytes(&self) -> usize {
        match self {
            Self::Packet { bytes, .. } | Self::Frame { bytes, .. } => bytes.len(),
        }
    }

    fn mark(&mut self) -> bool {
        match self {
            Self::Packet { bytes, .. } => mark_congestion(bytes),
            // What a relay carries it cannot read.
            Self::Frame { .. } => false,
        }
    }
}

impl Worker {
    /// The sockets take nothing more, or take something again. While they take nothing, packets wait.
    pub fn set_congested(&mut self, congested: bool) {
        self.is_congested = congested;
    }

    /// Seals of what waits about as many bytes as `portion`; whether there was anything.
    pub fn release(
        &mut self,
        now: Instant,
        portion: usize,
        tx: &mut TxBatch,
        tun: &mut TunBatch,
    ) -> bool {
        let mut any = false;
        while tx.used() < portion {
            let mut dropped = Vec::new();
            let next = self.held.pop(now, |held| dropped.push(held));
            for held in dropped {
                self.drop_held(&held, DropReason::QueueDelay);
            }
            let Some(held) = next else { break };
            any = true;
            self.send_held(now, held, tx, tun);
        }
        self.end_run(now, tx);
        any
    }

    /// Lets a packet of this node's kernel wait.
    pub(crate) fn hold_packet(
        &mut self,
        now: Instant,
        header: VnetHeader,
        packet: &[u8],
        ip: &Packet,
    ) {
        let whole = SuperPacket::new(header, *ip, packet);
        let held = Held::Packet {
            header,
            bytes: packet.to_vec(),
            count: whole.map_or(1, |whole| whole.count() as u64),
        };
        let marking = Marking::of_dscp(ip.dscp);
        self.hold(now, marking, flow::hash(ip, packet), held);
    }

    /// Lets a relay frame wait.
    pub(crate) fn hold_frame(&mut self, now: Instant, from: NodeId, header: Header, frame: &[u8]) {
        let marking = marking(&header);
        let flow = header.flow;
        let bytes = frame.to_vec();
        let held = Held::Frame {
            from,
            header,
            bytes,
        };
        self.hold(now, marking, flow, held);
    }

    fn hold(&mut self, now: Instant, marking: Marking, flow: u32, held: Held) {
        for held in self.held.push(now, marking, flow, held) {
            self.drop_held(&held, DropReason::QueueFull);
        }
    }

    fn drop_held(&mut self, held: &Held, reason: DropReason) {
        match held {
            Held::Packet { count, .. } => {
                self.counters.tun_rx_packets += count;
                self.drops.add_from(Origin::Tun, reason, *count);
            }
            Held::Frame { .. } => self.drops.add_from(Origin::Wire, reason, 1),
        }
    }

    fn send_held(&mut self, now: Instant, held: Held, tx: &mut TxBatch, tun: &mut TunBatch) {
        match held {
            Held::Packet {
                header, mut bytes, ..
            } => self.packet_out(now, header, &mut bytes, tx, tun),
            Held::Frame {
                from,
                header,
                mut bytes,
            } => {
                let sent = match self.table.by_id(from) {
                    Some(slot) => self.forward(now, slot, header, &mut bytes, None, tx),
                    None => Err(DropReason::UnknownPeer),
                };
                if let Err(reason) = sent {
                    self.drops.add_from(Origin::Wire, reason, 1);
                }
            }
        }
    }
}
