//! From the wire to the TUN device: find the session, open, check the source, deliver.

use std::net::IpAddr;

use wattle_dataplane::packet::lower_ttl;
use wattle_dataplane::{DropReason, Marking, Packet, TunBatch, TxBatch};
use wattle_model::{Checksum, Endpoint, Instant, NodeId};
use wattle_tunnel::{CHANNEL_TYPE, Initiator, MIN_BUFFER, Message, Opened, Outcome, Refusal};
use wattle_wire::frame::FRAME_TYPE;

use crate::outbound::Way;
use crate::peer::Kind;
use crate::table::Slot;
use crate::worker::Worker;

/// How a session's message came.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrival {
    /// Who handed it over.
    pub(crate) from: Endpoint,
    /// What its relay frame said, if it came in one.
    pub(crate) relayed: Option<Relayed>,
}

impl Arrival {
    /// The address that is held responsible if this is one message too many. Who comes by relay or by QUIC has an
    /// identity to lose instead.
    fn address(self) -> Option<IpAddr> {
        match self.relayed {
            None => self.from.ip(),
            Some(_) => None,
        }
    }
}

/// What the header of a relay frame said.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Relayed {
    /// The node that made the message, as the neighbours on the way have it.
    pub(crate) source: NodeId,
    /// Relays on the way.
    pub(crate) crossed: u8,
}

impl Worker {
    /// One datagram from the UDP socket or from a QUIC connection; `at` is where it may be sent on from.
    pub(crate) fn inbound(
        &mut self,
        now: Instant,
        from: Endpoint,
        datagram: &mut [u8],
        at: Option<usize>,
        tx: &mut TxBatch,
        tun: &mut TunBatch,
    ) {
        self.counters.udp_rx_packets += 1;
        self.counters.udp_rx_bytes += datagram.len() as u64;
        match datagram.first() {
            Some(&(1..=4 | CHANNEL_TYPE)) => self.message(
                now,
                Arrival {
                    from,
                    relayed: None,
                },
                datagram,
                tx,
                tun,
            ),
            Some(&FRAME_TYPE) => self.frame(now, from, datagram, at, tx, tun),
            _ => self.drops.count(DropReason::UnknownType),
        }
    }

    /// One message of a session, however it came.
    pub(crate) fn message(
        &mut self,
        now: Instant,
        arrival: Arrival,
        datagram: &mut [u8],
        tx: &mut TxBatch,
        tun: &mut TunBatch,
    ) {
        let slot = match self.addressee(now, arrival, datagram, tx) {
            Ok(slot) => slot,
            Err(reason) => return self.drops.count(reason),
        };
        if datagram.first() == Some(&CHANNEL_TYPE) {
            return self.channel_message(now, slot, arrival, datagram, tx, tun);
        }
        let Some(space) = tun.space(datagram.len().max(MIN_BUFFER)) else {
            return self.drops.count(DropReason::TunBatchFull);
        };
        let address = arrival.address();
        let Opened {
            outcome,
            established,
        } = self.table[slot].session.open(now, address, datagram, space);
        if let Outcome::Refused(refusal) = outcome {
            return self.drops.count(reason_of(refusal));
        }
        if matches!(Message::of(datagram), Some(Message::Cookie { .. })) {
            // Whoever saw the initiation can make one, so it proves nothing about its sender.
            self.counters.session_rx_packets += 1;
            return;
        }
        if arrival.relayed.is_none() {
            self.learn_endpoint(now, slot, arrival.from, tx);
            self.count_received_bytes(slot, arrival.from, datagram.len());
        }
        if let Outcome::Reply(length) = outcome {
            let mut reply = [0; MIN_BUFFER];
            let length = length.min(MIN_BUFFER);
            reply[..length].copy_from_slice(&space[..length]);
            self.reply(slot, arrival, &reply[..length], tx);
        }
        if established {
            self.established(now, slot, tx);
        }
        match outcome {
            Outcome::Packet(length) => self.packet(now, slot, arrival, length, tx, tun),
            Outcome::Nothing | Outcome::Reply(_) => {
                self.counters.session_rx_packets += 1;
                self.authentic(now, slot, arrival, tx);
            }
            Outcome::Refused(_) => {}
        }
    }

    /// Whose session a message is for.
    fn addressee(
        &mut self,
        now: Instant,
        arrival: Arrival,
        datagram: &[u8],
        tx: &mut TxBatch,
    ) -> Result<Slot, DropReason> {
        let message = Message::of(datagram).ok_or(DropReason::UnknownType)?;
        let slot = match message.session() {
            Some(index) => self.by_session(index),
            None => self.initiator(arrival, datagram, tx)?,
        };
        let Some(source) = arrival.relayed.map(|relayed| relayed.source) else {
            let slot = slot.ok_or(DropReason::UnknownSession)?;
            return match arrival.from {
                Endpoint::Quic(node) if node != self.table[slot].entry.id => {
                    Err(DropReason::ForeignConnection)
                }
                Endpoint::Quic(_) | Endpoint::Udp(_) => Ok(slot),
            };
        };
        let claimed = self
            .table
            .by_id(source)
            .ok_or(DropReason::FrameUnknownNode)?;
        match slot {
            Some(slot) if slot == claimed => Ok(slot),
            Some(_) => Err(DropReason::FrameUnknownNode),
            None => {
                // A peer that this node knows by its neighbours believes in a session that this node lost
                // when it restarted: a handshake is quicker than the peer's patience.
                let peer = &mut self.table[claimed];
                peer.dialer.start(now, wattle_tunnel::DialRole::First);
                let due = peer.dialer.poll_timeout();
                self.due(now, due);
                Err(DropReason::UnknownSession)
            }
        }
    }

    fn by_session(&mut self, index: u32) -> Option<Slot> {
        if let Some(slot) = self.run.session(index) {
            return Some(slot);
        }
        let slot = self.table.by_session(index)?;
        self.run.found_session(index, slot);
        Some(slot)
    }

    /// Who made an initiation; strangers are not answered.
    fn initiator(
        &mut self,
        arrival: Arrival,
        datagram: &[u8],
        tx: &mut TxBatch,
    ) -> Result<Option<Slot>, DropReason> {
        let address = arrival.address();
        let mut cookie = [0; MIN_BUFFER];
        let (local, shares) = (&self.local, &mut self.shares);
        match local.initiator(shares, address, datagram, &mut cookie) {
            Initiator::Key(key) => self
                .table
                .by_key(key)
                .filter(|slot| self.may_have_session(*slot))
                .map(Some)
                .ok_or(DropReason::UnknownPeer),
            Initiator::Cookie(length) => {
                let way = Way::Direct {
                    to: arrival.from,
                    link: None,
                };
                if let Err(reason) = self.send_message(way, &cookie[..length.min(MIN_BUFFER)], tx) {
                    self.unsent(reason);
                }
                Err(DropReason::RateLimited)
            }
            Initiator::Refused(refusal) => Err(reason_of(refusal)),
        }
    }

    /// Leaves talk to the first worker only.
    fn may_have_session(&self, slot: Slot) -> bool {
        self.lane_number().is_none() || matches!(self.table[slot].kind, Kind::Node)
    }

    /// Sends a message back the way its cause came.
    fn reply(&mut self, slot: Slot, arrival: Arrival, message: &[u8], tx: &mut TxBatch) {
        let way = match arrival.relayed {
            None => Way::Direct {
                to: arrival.from,
                link: None,
            },
            Some(_) => match self.way(slot, flow_of(self.table[slot].entry.id), Marking::CONTROL) {
                Ok(way) => way,
                Err((reason, _)) => return self.unsent(reason),
            },
        };
        if let Err(reason) = self.send_message(way, message, tx) {
            self.unsent(reason);
        }
    }

    /// A packet of a peer, in the uncommitted space of the batch.
    fn packet(
        &mut self,
        now: Instant,
        slot: Slot,
        arrival: Arrival,
        length: usize,
        tx: &mut TxBatch,
        tun: &mut TunBatch,
    ) {
        let Some(packet) = tun.space(length) else {
            return self.drops.count(DropReason::TunBatchFull);
        };
        self.lane_heard(slot, arrival);
        if is_link_local(packet) {
            return self.neighbour_message(now, slot, arrival, packet, tx);
        }
        self.authentic(now, slot, arrival, tx);
        match self.guard(slot, arrival, packet) {
            Ok(Verdict::Deliver(ip)) => {
                self.clamp_mss(slot, &ip, packet, Checksum::Complete);
                tun.commit(ip.length);
                self.counters.tun_tx_packets += 1;
            }
            Ok(Verdict::Send { to, ip }) => self.send_on(now, (slot, to), &ip, packet, tx),
            Err(reason) => self.drops.count(reason),
        }
    }

    /// Whether a packet's source is its sender's, and where the packet goes.
    pub(crate) fn guard(
        &mut self,
        slot: Slot,
        arrival: Arrival,
        packet: &mut [u8],
    ) -> Result<Verdict, DropReason> {
        let ip = Packet::parse(packet).ok_or(DropReason::Malformed)?;
        let crossed = arrival.relayed.map_or(0, |relayed| relayed.crossed);
        let (verdict, hops) = match self.run.delivers(slot, &ip) {
            true => (Verdict::Deliver(ip), crossed),
            false => self.judge(slot, crossed, ip)?,
        };
        if hops > 0 && !lower_ttl(packet, hops) {
            return Err(DropReason::TtlExpired);
        }
        Ok(verdict)
    }

    /// The same without the run's memory; and how many hops the packet has made.
    fn judge(&mut self, slot: Slot, crossed: u8, ip: Packet) -> Result<(Verdict, u8), DropReason> {
        let sender = self.table[slot].entry.id;
        if !self.ownership.owns(sender, ip.source) {
            self.table[slot].spoofed += 1;
            return Err(DropReason::SpoofedSource);
        }
        if ip.is_unroutable() {
            return Err(DropReason::Unroutable);
        }
        let from_leaf = matches!(self.table[slot].kind, Kind::Leaf(_));
        // This node is a hop of its own for what it forwards in the clear, to or from a leaf.
        if self.ownership.owns(self.config.node, ip.destination) {
            if !from_leaf {
                self.run.found_delivered(slot, &ip);
            }
            return Ok((Verdict::Deliver(ip), crossed + u8::from(from_leaf)));
        }
        let to = self
            .destination(ip.destination)
            .map_err(|(reason, _)| reason)?;
        let to_leaf = matches!(self.table[to].kind, Kind::Leaf(_));
        if !from_leaf && !to_leaf {
            return Err(DropReason::ForeignDestination);
        }
        Ok((Verdict::Send { to, ip }, crossed + 1))
    }

    /// Something authentic came over a link.
    pub(crate) fn authentic(
        &mut self,
        now: Instant,
        slot: Slot,
        arrival: Arrival,
        tx: &mut TxBatch,
    ) {
        if arrival.relayed.is_none() {
            self.link_heard(now, slot, arrival.from, tx);
        }
    }
}

/// What becomes of a packet whose source is in order.
pub(crate) enum Verdict {
    /// It is for this node.
    Deliver(Packet),
    /// It comes from or goes to a leaf.
    Send { to: Slot, ip: Packet },
}

/// The hash that a session's handshakes travel under.
pub(crate) fn flow_of(peer: NodeId) -> u32 {
    (peer.0 >> 32) as u32 ^ peer.0 as u32
}

/// Whether a packet claims to be a message between neighbours: none of those ever reaches the TUN device.
pub(crate) fn is_link_local(packet: &[u8]) -> bool {
    packet.len() >= 40 && packet[0] >> 4 == 6 && packet[8] == 0xfe && packet[9] & 0xc0 == 0x80
}

pub(crate) fn reason_of(refusal: Refusal) -> DropReason {
    match refusal {
        Refusal::Malformed => DropReason::Malformed,
        Refusal::Unauthentic => DropReason::Unauthentic,
        Refusal::Replayed => DropReason::Replayed,
        Refusal::CounterExhausted => DropReason::CounterExhausted,
        Refusal::UnknownKey => DropReason::UnknownSession,
        Refusal::RateLimited => DropReason::RateLimited,
        Refusal::NoRoom => DropReason::TunBatchFull,
    }
}
