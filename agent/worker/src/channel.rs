//! The fast channel (`docs/protocol/fast-channel.md`): its keys, and what comes over it.

use wattle_dataplane::segment::complete_partial_checksum;
use wattle_dataplane::{AppendError, DropReason, Marking, TunBatch, TxBatch};
use wattle_model::{Checksum, Instant};
use wattle_wire::control::{self, Control};

use crate::inbound::{Arrival, Verdict, flow_of, is_link_local, reason_of};
use crate::peer::Kind;
use crate::table::Slot;
use crate::worker::Worker;

impl Worker {
    /// A message of the fast channel, however it came. It is opened where it lies.
    pub(crate) fn channel_message(
        &mut self,
        now: Instant,
        slot: Slot,
        arrival: Arrival,
        message: &mut [u8],
        tx: &mut TxBatch,
        tun: &mut TunBatch,
    ) {
        let bytes = message.len();
        let (checksum, packet) = match self.table[slot].session.open_in_place(message) {
            Ok(opened) => opened,
            Err(refusal) => return self.drops.count(reason_of(refusal)),
        };
        if arrival.relayed.is_none() {
            self.learn_endpoint(now, slot, arrival.from, tx);
            self.count_received_bytes(slot, arrival.from, bytes);
        }
        self.lane_heard(slot, arrival);
        self.authentic(now, slot, arrival, tx);
        self.counters.channel_rx_packets += 1;
        if let Err(reason) = self.deliver(now, slot, arrival, checksum, packet, tx, tun) {
            self.drops.count(reason);
        }
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "a packet and where it came from and goes to"
    )]
    fn deliver(
        &mut self,
        now: Instant,
        slot: Slot,
        arrival: Arrival,
        checksum: Checksum,
        packet: &mut [u8],
        tx: &mut TxBatch,
        tun: &mut TunBatch,
    ) -> Result<(), DropReason> {
        // Messages between neighbours travel in the session's own messages.
        if is_link_local(packet) {
            return Err(DropReason::ControlMalformed);
        }
        match self.guard(slot, arrival, packet)? {
            Verdict::Deliver(ip) => {
                self.clamp_mss(slot, &ip, packet, checksum);
                let taken = tun.append(checksum, &ip, &packet[..ip.length]);
                taken.map_err(|error| match error {
                    AppendError::Full => DropReason::TunBatchFull,
                    AppendError::Checksum => DropReason::Malformed,
                })?;
                self.counters.tun_tx_packets += 1;
                Ok(())
            }
            Verdict::Send { to, ip } => {
                let packet = &mut packet[..ip.length];
                if checksum == Checksum::Partial && !complete_partial_checksum(&ip, packet) {
                    return Err(DropReason::Malformed);
                }
                self.send_on(now, (slot, to), &ip, packet, tx);
                Ok(())
            }
        }
    }

    /// Offers the peer a key for the fast channel, if one is due.
    pub(crate) fn offer_channel(&mut self, now: Instant, slot: Slot, tx: &mut TxBatch) {
        let (rng, peer) = (&mut self.rng, &mut self.table[slot]);
        let offer = peer.session.offer_channel(now, || rng.channel_key());
        if let Some(offer) = offer {
            self.send_to_peer(now, slot, &Control::ChannelKey(offer).to_bytes(), tx);
        }
    }

    /// A message about the fast channel; it may have come through relays.
    pub(crate) fn channel_control(
        &mut self,
        now: Instant,
        slot: Slot,
        message: &Control,
        tx: &mut TxBatch,
    ) {
        let session = &mut self.table[slot].session;
        match message {
            Control::ChannelKey(offer) => {
                let ack = session.channel_offered(offer);
                self.send_to_peer(now, slot, &Control::ChannelKeyAck(ack).to_bytes(), tx);
            }
            Control::ChannelKeyAck(ack) => session.channel_acknowledged(*ack),
            Control::Probe(_)
            | Control::ProbeReply(_)
            | Control::LinkKey(_)
            | Control::LinkKeyAck { .. }
            | Control::LinkKeyRequest
            | Control::Bye
            | Control::Observed(_)
            | Control::SizeProbe { .. }
            | Control::SizeProbeReply { .. }
            | Control::Lanes(_)
            | Control::Barrier { .. }
            | Control::BarrierReply { .. }
            | Control::Flood(_) => {}
        }
    }

    /// A packet for `slot` was sealed without the fast channel: wishes for one.
    pub(crate) fn want_channel(&mut self, now: Instant, slot: Slot) {
        let peer = &mut self.table[slot];
        if matches!(peer.kind, Kind::Node) {
            peer.session.want_channel();
            let due = peer.session.channel_due();
            self.due(now, due);
        }
    }

    /// Sends a message inside the session, over links or relays.
    pub(crate) fn send_to_peer(
        &mut self,
        now: Instant,
        slot: Slot,
        message: &[u8],
        tx: &mut TxBatch,
    ) {
        let peer = self.table[slot].entry.id;
        let sent = self
            .way(slot, flow_of(peer), Marking::CONTROL)
            .map_err(|(reason, _)| reason)
            .and_then(|way| {
                let length = control::wrap(self.config.node, peer, message, &mut self.scratch)
                    .ok_or(DropReason::ControlMalformed)?;
                self.seal(slot, way, length, tx)?;
                self.count_sent(now, way, 1);
                Ok(())
            });
        match sent {
            Ok(()) => self.counters.control_tx_packets += 1,
            Err(reason) => self.unsent(reason),
        }
    }
}
