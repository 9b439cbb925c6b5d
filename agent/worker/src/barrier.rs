//! Barriers of a peer: answered only when all that came before them was handed to the kernel
//! (`docs/protocol/lanes.md §4`).

use wattle_dataplane::{DropReason, TxBatch};
use wattle_link::Traffic;
use wattle_model::{Endpoint, Instant, NodeId};
use wattle_wire::control::Control;

use crate::table::Slot;
use crate::worker::Worker;

/// Barriers that may wait for an answer: a peer's workers ask one by one, and not often.
const MAX_OWED: usize = 64;

/// An answer that is owed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owed {
    peer: NodeId,
    to: Endpoint,
    number: u32,
}

impl Worker {
    /// Whether there are barriers to be answered by [`Self::answer_barriers`].
    pub fn owes_answers(&self) -> bool {
        !self.owed.is_empty()
    }

    /// Answers barriers; to be called when all packets for the device were written.
    pub fn answer_barriers(&mut self, now: Instant, tx: &mut TxBatch) {
        for owed in std::mem::take(&mut self.owed) {
            let Some(slot) = self.table.by_id(owed.peer) else {
                continue;
            };
            let number = owed.number;
            let reply = Control::BarrierReply { number }.to_bytes();
            self.send_control(now, slot, owed.to, &reply, Traffic::Control, tx);
        }
    }

    /// A peer sent a barrier.
    pub(crate) fn barrier(&mut self, slot: Slot, from: Endpoint, number: u32) {
        if self.owed.len() == MAX_OWED {
            return self.unsent(DropReason::QueueFull);
        }
        self.owed.push(Owed {
            peer: self.table[slot].entry.id,
            to: from,
            number,
        });
    }
}
