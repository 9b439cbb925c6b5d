//! Finding the size of packets that get to a peer whole (`docs/protocol/path-mtu.md`).

use wattle_dataplane::icmp::Problem;
use wattle_dataplane::{DropReason, Packet, TxBatch};
use wattle_model::Instant;
use wattle_wire::control::{Control, ENVELOPE_LENGTH};

use crate::outbound::Refused;
use crate::peer::Kind;
use crate::table::Slot;
use crate::worker::Worker;

/// What IPv6 never goes below (RFC 8200 §5): a sender would not believe less.
const IPV6_LEAST: u16 = 1280;

impl Worker {
    /// Lets a packet of `bytes` bytes pass if it gets to the peer whole; else its sender is told how large one may be.
    pub(crate) fn fits(
        &mut self,
        now: Instant,
        destination: Slot,
        ip: &Packet,
        bytes: usize,
    ) -> Result<(), Refused> {
        let peer = &mut self.table[destination];
        let mtu = peer.path_mtu.mtu();
        if bytes > usize::from(mtu) {
            let told = if ip.is_ipv6() {
                mtu.max(IPV6_LEAST)
            } else {
                mtu
            };
            return Err((DropReason::TooBig, Some(Problem::TooBig { mtu: told })));
        }
        if matches!(peer.kind, Kind::Node) {
            peer.path_mtu.sent(now, bytes);
            if peer.session.is_usable() {
                let due = peer.path_mtu.poll_timeout();
                self.due(now, due);
            }
        }
        Ok(())
    }

    /// Sends the probe that is due, if one is.
    pub(crate) fn probe_size(&mut self, now: Instant, slot: Slot, tx: &mut TxBatch) {
        let peer = &mut self.table[slot];
        if !peer.session.is_usable() {
            return;
        }
        if let Some(probe) = peer.path_mtu.handle_timeout(now) {
            let number = probe.number;
            let mut message = Control::SizeProbe { number }.to_bytes();
            message.resize(usize::from(probe.size) - ENVELOPE_LENGTH, 0);
            self.send_to_peer(now, slot, &message, tx);
        }
    }

    /// A probe of the peer's got through.
    pub(crate) fn answer_size(&mut self, now: Instant, slot: Slot, number: u32, tx: &mut TxBatch) {
        let reply = Control::SizeProbeReply { number };
        self.send_to_peer(now, slot, &reply.to_bytes(), tx);
    }
}
