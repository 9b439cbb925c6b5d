//! What this node carries in the clear: packets from a leaf that it hosts, and to one.

use wattle_dataplane::icmp::{self, Problem};
use wattle_dataplane::{DropReason, Marking, Origin, Packet, TxBatch};
use wattle_model::{Checksum, Instant};

use crate::inbound::flow_of;
use crate::table::Slot;
use crate::worker::Worker;

impl Worker {
    /// Sends a packet of `from` on to `to` if it gets there whole; else its sender is told how large one may be.
    pub(crate) fn send_on(
        &mut self,
        now: Instant,
        (from, to): (Slot, Slot),
        ip: &Packet,
        packet: &mut [u8],
        tx: &mut TxBatch,
    ) {
        self.counters.leaf_packets += 1;
        for peer in [from, to] {
            self.clamp_mss(peer, ip, packet, Checksum::Complete);
        }
        if let Err((reason, problem)) = self.fits(now, to, ip, ip.length) {
            self.drops.count(reason);
            if let Some(problem) = problem {
                self.answer_sender(now, from, problem, ip, packet, tx);
            }
            return;
        }
        self.scratch[..ip.length].copy_from_slice(&packet[..ip.length]);
        self.send_scratch_from(now, Origin::Wire, to, ip, tx);
    }

    /// Tells the peer that sent a packet what is wrong with it.
    fn answer_sender(
        &mut self,
        now: Instant,
        sender: Slot,
        problem: Problem,
        ip: &Packet,
        packet: &[u8],
        tx: &mut TxBatch,
    ) {
        if self.icmp_tokens == 0 {
            return;
        }
        let Some(length) = icmp::answer(problem, ip, packet, &mut self.scratch) else {
            return;
        };
        self.icmp_tokens -= 1;
        let flow = flow_of(self.table[sender].entry.id);
        let sent = self
            .way(sender, flow, Marking::CONTROL)
            .map_err(|(reason, _)| reason)
            .and_then(|way| self.seal(sender, way, length, tx).map(|()| way));
        match sent {
            Ok(way) => {
                self.counters.control_tx_packets += 1;
                self.count_sent(now, way, 1);
            }
            Err(DropReason::UnknownSession) => {}
            Err(reason) => self.unsent(reason),
        }
    }
}
