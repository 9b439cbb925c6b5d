//! Who pays for a drop: packets in are packets out and named drops, for the device and for the carriers each by itself.
//!
//! While a packet is handled, the agent may have to send messages of its own, and packets that waited for a session may
//! leave. Their drops are not the packet's. [`Counters`](crate::Counters) has the sums that hold.

use wattle_dataplane::{DropReason, Origin, Packet, TxBatch};
use wattle_model::Instant;

use crate::handover::Passed;
use crate::table::Slot;
use crate::worker::Worker;

impl Worker {
    /// Does `work` for packets of `origin`, so that their drops count as its own; how many datagrams were sent.
    pub(crate) fn on_behalf_of(&mut self, origin: Origin, work: impl FnOnce(&mut Self)) -> u64 {
        let (outer, before) = (self.drops.origin(), self.counters.udp_tx_packets);
        self.drops.set_origin(origin);
        work(self);
        self.drops.set_origin(outer);
        self.counters.udp_tx_packets - before
    }

    /// Sends the packet in the scratch buffer, or lets it wait, or drops it, for whoever it came from.
    pub(crate) fn send_scratch_from(
        &mut self,
        now: Instant,
        origin: Origin,
        to: Slot,
        ip: &Packet,
        tx: &mut TxBatch,
    ) {
        if self.lane_number().is_some() {
            let bytes = self.scratch[..ip.length].to_vec();
            let to = self.table[to].entry.id;
            return self.pass(0, Passed::Forward { to, bytes });
        }
        let sent = self.on_behalf_of(origin, |worker| {
            if let Err(reason) = worker.send_scratch(now, to, ip, tx) {
                worker.drops.count(reason);
            }
        });
        match origin {
            Origin::Tun => self.counters.sent_packets += sent,
            Origin::Wire => self.counters.forwarded_packets += sent,
            // The agent's own messages never wait and never come from a leaf.
            Origin::Agent => {}
        }
    }

    /// A message of the agent itself was not sent.
    pub(crate) fn unsent(&mut self, reason: DropReason) {
        self.drops.add_from(Origin::Agent, reason, 1);
    }
}
