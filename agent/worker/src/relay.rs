//! Relay frames of others: open the header, look up, re-seal, forward. The payload is not looked at.

use wattle_dataplane::{Choice, DropReason, Marking, Past, TunBatch, TxBatch};
use wattle_model::{Endpoint, Instant};
use wattle_tunnel::FrameRefusal;
use wattle_wire::frame::{HEADER_LENGTH, Header, MAX_HOPS};

use crate::Transit;
use crate::inbound::{Arrival, Relayed};
use crate::path::{Envelope, Exit};
use crate::run::{Course, Onward};
use crate::table::Slot;
use crate::worker::Worker;

impl Worker {
    /// A datagram that claims to be a relay frame; `at` is where it may be sent on from.
    pub(crate) fn frame(
        &mut self,
        now: Instant,
        from: Endpoint,
        frame: &mut [u8],
        at: Option<usize>,
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
        if self.is_congested {
            return self.hold_frame(now, self.table[slot].entry.id, header, frame);
        }
        if let Err(reason) = self.forward(now, slot, header, frame, at, tx) {
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

    /// Sends a frame on, sealed anew where it lies; copied only if it may not stay there until it is sent.
    pub(crate) fn forward(
        &mut self,
        now: Instant,
        from: Slot,
        header: Header,
        frame: &mut [u8],
        at: Option<usize>,
        tx: &mut TxBatch,
    ) -> Result<(), DropReason> {
        let hop_limit = header
            .hop_limit
            .checked_sub(1)
            .ok_or(DropReason::HopLimit)?;
        let Onward { hop, waypoints } = self.onward(now, from, &header)?;
        let header = Header {
            hop_limit,
            detours: header.detours + hop.choice.detours(),
            waypoints,
            ..header
        };
        if !self.table[hop.next].keys.seal(&header, frame) {
            return Err(DropReason::NoLinkKey);
        }
        let length = frame.len();
        match at {
            Some(at) => tx.commit_received(hop.endpoint, at..at + length),
            None if tx.push(hop.endpoint, frame) => {}
            None => return Err(DropReason::TxBatchFull),
        }
        self.counters.udp_tx_packets += 1;
        self.counters.udp_tx_bytes += length as u64;
        self.count_sent_bytes(hop.next, hop.carrier, length);
        self.counters.relayed_packets += 1;
        if hop.choice != Choice::First {
            self.counters.backup_packets += 1;
        }
        self.link_relayed(now, hop.next, hop.carrier);
        Ok(())
    }

    /// Where a frame goes on, with the waypoints that are then left.
    fn onward(&mut self, now: Instant, from: Slot, header: &Header) -> Result<Onward, DropReason> {
        let class = marking(header).class;
        let course = Course {
            from,
            destination: header.destination,
            class,
            flow: header.flow,
            detours: header.detours,
            waypoints: header.waypoints,
        };
        if let Some(onward) = self.run.onward(&course) {
            return Ok(onward);
        }
        if self.config.transit == Transit::Refuse {
            return Err(DropReason::TransitRefused);
        }
        let came = Past {
            avoid: Some(from),
            detours: header.detours,
        };
        let next = header.waypoints.next();
        let (past, left) = match next.is_some_and(|stop| stop.node == self.own_index) {
            true => (came.at_waypoint(), header.waypoints.reached()),
            false => (came, header.waypoints),
        };
        let stop = left.next();
        let target = match stop {
            Some(stop) => self.table.by_index(stop.node),
            None => self.table.by_id(header.destination),
        };
        let target = target.ok_or(DropReason::FrameUnknownNode)?;
        let straight = match stop {
            Some(stop) if stop.direct => self.straight(target).map(Exit::plain),
            _ => None,
        };
        let flow = (class, header.flow);
        let lingering = || self.lingering(now, target, flow, Envelope::Frame, past);
        let hop = match straight.or_else(lingering) {
            Some(hop) => hop,
            None => self.hop(target, flow, Envelope::Frame, past)?,
        };
        let waypoints = hop.waypoints.before(&left);
        let onward = Onward { hop, waypoints };
        self.run.found_onward(course, onward);
        Ok(onward)
    }
}

/// How a frame is to be treated.
pub(crate) fn marking(header: &Header) -> Marking {
    Marking::from_bytes([header.class_priority, header.precedence_weight])
}
