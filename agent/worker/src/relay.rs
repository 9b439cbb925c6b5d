//! Relay frames of others: open the header, look up, re-seal, forward. The payload is not looked at.

use wattle_dataplane::{DropReason, TunBatch, TxBatch};
use wattle_link::Traffic;
use wattle_model::{Endpoint, Instant};
use wattle_tunnel::FrameRefusal;
use wattle_wire::frame::{HEADER_LENGTH, Header, MAX_HOPS, Waypoints};

use crate::Transit;
use crate::inbound::{Arrival, Relayed};
use crate::path::Envelope;
use crate::table::Slot;
use crate::worker::Worker;

impl Worker {
    /// A datagram that claims to be a relay frame.
    pub(crate) fn frame(
        &mut self,
        now: Instant,
        from: Endpoint,
        frame: &mut [u8],
        tx: &mut TxBatch,
        tun: &mut TunBatch,
    ) {
        let Some(slot) = self.table.by_endpoint(from) else {
            return self.drops.count(DropReason::FrameUnknownKey);
        };
        let header = match self.table[slot].keys.open(frame) {
            Ok(header) => header,
            Err(refusal) => return self.refuse_frame(now, slot, refusal, tx),
        };
        self.link_heard(now, slot, from, tx);
        self.count_received_bytes(slot, from, frame.len());
        let header = Header {
            waypoints: self.remaining(header.waypoints),
            ..header
        };
        if header.destination == self.config.node {
            let crossed = MAX_HOPS.saturating_sub(header.hop_limit);
            let relayed = Some(Relayed {
                source: header.source,
                crossed,
            });
            return self.message(
                now,
                Arrival { from, relayed },
                &mut frame[HEADER_LENGTH..],
                tx,
                tun,
            );
        }
        if let Err(reason) = self.forward(now, slot, header, &frame[HEADER_LENGTH..], tx) {
            self.drops.count(reason);
        }
    }

    fn refuse_frame(&mut self, now: Instant, slot: Slot, refusal: FrameRefusal, tx: &mut TxBatch) {
        let reason = match refusal {
            FrameRefusal::Malformed => DropReason::FrameMalformed,
            FrameRefusal::UnknownKey => DropReason::FrameUnknownKey,
            FrameRefusal::Unauthentic => DropReason::FrameUnauthentic,
            FrameRefusal::Replayed => DropReason::FrameReplayed,
        };
        self.drops.count(reason);
        if refusal == FrameRefusal::UnknownKey
            && let Some(request) = self.table[slot].keys.request(now)
        {
            self.send_control_best(now, slot, &request.to_bytes(), tx);
        }
    }

    /// The waypoints that are left when this node is passed.
    fn remaining(&self, waypoints: Waypoints) -> Waypoints {
        if waypoints.next() == Some(self.own_index) {
            waypoints.reached()
        } else {
            waypoints
        }
    }

    fn forward(
        &mut self,
        now: Instant,
        from: Slot,
        header: Header,
        payload: &[u8],
        tx: &mut TxBatch,
    ) -> Result<(), DropReason> {
        if self.config.transit == Transit::Refuse {
            return Err(DropReason::TransitRefused);
        }
        let hop_limit = header
            .hop_limit
            .checked_sub(1)
            .ok_or(DropReason::HopLimit)?;
        let target = match header.waypoints.next() {
            Some(waypoint) => self.table.by_index(waypoint),
            None => self.table.by_id(header.destination),
        };
        let target = target.ok_or(DropReason::FrameUnknownNode)?;
        // Never back to where it came from, unless a waypoint says so.
        let avoid = header.waypoints.next().is_none().then_some(from);
        let hop = self.hop(target, header.flow, Envelope::Frame, avoid)?;
        let waypoints = match (hop.waypoints.next(), header.waypoints.next()) {
            (None, _) => header.waypoints,
            (Some(_), None) => hop.waypoints,
            (Some(detour), Some(waypoint)) => Waypoints::two(detour, waypoint),
        };
        let length = HEADER_LENGTH + payload.len();
        let space = tx.space(length).ok_or(DropReason::TxBatchFull)?;
        space[HEADER_LENGTH..].copy_from_slice(payload);
        let header = Header {
            hop_limit,
            waypoints,
            ..header
        };
        if !self.table[hop.next].keys.seal(&header, space) {
            return Err(DropReason::NoLinkKey);
        }
        tx.commit(hop.endpoint, length);
        self.counters.udp_tx_packets += 1;
        self.counters.udp_tx_bytes += length as u64;
        self.count_sent_bytes(hop.next, hop.carrier, length);
        self.counters.relayed_packets += 1;
        if hop.is_detour {
            self.counters.backup_packets += 1;
        }
        self.link_sent(now, hop.next, hop.carrier, 1, Traffic::Data);
        Ok(())
    }
}
