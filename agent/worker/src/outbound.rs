//! From the TUN device to the wire: check the source, find the destination, cut, seal, frame.

use std::net::IpAddr;

use wattle_dataplane::icmp::{self, Problem};
use wattle_dataplane::segment::{
    SuperPacket, checksum_state, complete_checksum, complete_partial_checksum,
};
use wattle_dataplane::vnet::Gso;
use wattle_dataplane::{
    Choice, DropReason, Marking, Packet, Past, TunBatch, TxBatch, VnetHeader, flow,
};
use wattle_link::Traffic;
use wattle_model::{Carrier, Checksum, Endpoint, Instant};
use wattle_tunnel::{CHANNEL_HEADER, DATA_OVERHEAD, MIN_BUFFER};
use wattle_wire::frame::{HEADER_LENGTH, Header, MAX_HOPS};

use crate::path::{Envelope, Hop};
use crate::peer::Kind;
use crate::relay::marking;
use crate::table::Slot;
use crate::worker::Worker;

/// Room that padding may need behind a packet.
const PADDING_ROOM: usize = 16;

/// Where a sealed message goes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Way {
    /// Plain, to this address.
    Direct {
        to: Endpoint,
        link: Option<(Slot, Carrier)>,
    },
    /// In a relay frame, to this neighbour.
    Relayed { hop: Hop, header: Header },
}

impl Worker {
    /// A packet or super-packet of this node's kernel.
    pub(crate) fn outbound(
        &mut self,
        now: Instant,
        header: VnetHeader,
        packet: &mut [u8],
        tx: &mut TxBatch,
        tun: &mut TunBatch,
    ) {
        let Some(ip) = Packet::parse(packet) else {
            self.counters.tun_rx_packets += 1;
            return self.drops.count(DropReason::Malformed);
        };
        match SuperPacket::new(header, ip, packet) {
            Some(whole) => {
                let count = whole.count();
                self.counters.tun_rx_packets += count as u64;
                let sent = self.admit(&ip, whole.largest()).and_then(|destination| {
                    self.send_segments(now, destination, flow::hash(&ip, packet), &whole, tx)
                });
                if let Err((reason, problem)) = sent {
                    self.refuse(reason, count as u64, problem, &ip, packet, tun);
                }
            }
            None => {
                self.counters.tun_rx_packets += 1;
                let packet = &mut packet[..ip.length];
                let checksum = checksum_state(header, &ip, packet);
                // What has a checksum that is not TCP's or UDP's is completed here.
                let completed = checksum.is_some() || complete_checksum(header, packet);
                if header.gso != Gso::None || !completed {
                    return self.drops.count(DropReason::Malformed);
                }
                let checksum = checksum.unwrap_or(Checksum::Complete);
                let sent = self.admit(&ip, ip.length).and_then(|destination| {
                    self.clamp_mss(destination, &ip, packet, checksum);
                    self.send_packet(now, destination, &ip, checksum, packet, tx)
                });
                if let Err((reason, problem)) = sent {
                    self.refuse(reason, 1, problem, &ip, packet, tun);
                }
            }
        }
    }

    /// Sends an ordinary packet of this node's kernel.
    fn send_packet(
        &mut self,
        now: Instant,
        destination: Slot,
        ip: &Packet,
        checksum: Checksum,
        packet: &mut [u8],
        tx: &mut TxBatch,
    ) -> Result<(), Refused> {
        self.fits(now, destination, ip, packet.len())?;
        let marking = Marking::of_dscp(ip.dscp);
        let way = self.way_of_flow(now, destination, flow::hash(ip, packet), marking)?;
        let write = |space: &mut [u8]| {
            space.get_mut(..packet.len())?.copy_from_slice(packet);
            Some(packet.len())
        };
        if let Some(sent) = self.seal_in_place(destination, way, packet.len(), checksum, write, tx)
        {
            sent.map_err(silent)?;
            self.count_sent(now, way, 1);
            return Ok(());
        }
        if checksum == Checksum::Partial && !complete_partial_checksum(ip, packet) {
            return Err(silent(DropReason::Malformed));
        }
        self.scratch[..packet.len()].copy_from_slice(packet);
        let sent = self.send_or_wait(now, destination, way, packet.len(), tx);
        self.count_sent(now, way, sent.map_err(silent)?);
        Ok(())
    }

    /// Sends the packet in the scratch buffer; for packets of leaves and for those that have waited.
    pub(crate) fn send_scratch(
        &mut self,
        now: Instant,
        destination: Slot,
        ip: &Packet,
        tx: &mut TxBatch,
    ) -> Result<(), DropReason> {
        let hash = flow::hash(ip, &self.scratch);
        let marking = Marking::of_dscp(ip.dscp);
        let way = self
            .way_of_flow(now, destination, hash, marking)
            .map_err(|(reason, _)| reason)?;
        let sent = self.send_or_wait(now, destination, way, ip.length, tx)?;
        self.count_sent(now, way, sent);
        Ok(())
    }

    /// The peer that a packet of this node is for, if this node may send it.
    fn admit(&self, ip: &Packet, largest: usize) -> Result<Slot, Refused> {
        if ip.is_unroutable() {
            return Err(silent(DropReason::Unroutable));
        }
        if !self.ownership.owns(self.config.node, ip.source) {
            return Err(silent(DropReason::ForeignSource));
        }
        if largest > usize::from(self.config.mtu) {
            return Err((
                DropReason::TooBig,
                Some(Problem::TooBig {
                    mtu: self.config.mtu,
                }),
            ));
        }
        self.destination(ip.destination)
    }

    /// The peer that packets to `address` go to: a leaf of this node, or the node that the routes name.
    pub(crate) fn destination(&self, address: IpAddr) -> Result<Slot, Refused> {
        let leaf = self.ownership.owners(address).iter().find_map(|owner| {
            let slot = self.table.by_id(*owner)?;
            matches!(self.table[slot].kind, Kind::Leaf(_)).then_some(slot)
        });
        if let Some(leaf) = leaf {
            return Ok(leaf);
        }
        let no_route = (DropReason::NoRoute, Some(Problem::NoRoute));
        let node = self.forwarding.destination(address).ok_or(no_route)?;
        if node == self.config.node {
            return Err((DropReason::ToSelf, Some(Problem::NoRoute)));
        }
        self.table
            .by_id(node)
            .ok_or(silent(DropReason::UnknownPeer))
    }

    /// The way to a peer.
    pub(crate) fn way(
        &self,
        destination: Slot,
        flow: u32,
        marking: Marking,
    ) -> Result<Way, Refused> {
        let peer = &self.table[destination];
        if self.lane_number().is_some() {
            let to = self.lane_endpoint(destination);
            let to = to.ok_or(silent(DropReason::NoEndpoint))?;
            return Ok(Way::Direct { to, link: None });
        }
        if let Kind::Leaf(endpoint) = peer.kind {
            let to = endpoint.or_else(|| peer.entry.candidates.first().copied().map(Endpoint::Udp));
            let to = to.ok_or((DropReason::NoEndpoint, Some(Problem::NoRoute)))?;
            return Ok(Way::Direct { to, link: None });
        }
        let unreachable = |reason| (reason, Some(Problem::NoRoute));
        let hop = self
            .hop(
                destination,
                (marking.class, flow),
                Envelope::Shortest,
                Past::NONE,
            )
            .map_err(unreachable)?;
        Ok(self.way_over(hop, destination, flow, marking))
    }

    /// The way of a packet of a flow, which may stay where it was.
    fn way_of_flow(
        &mut self,
        now: Instant,
        destination: Slot,
        flow: u32,
        marking: Marking,
    ) -> Result<Way, Refused> {
        let course = (marking.class, flow);
        match self.lingering(now, destination, course, Envelope::Shortest, Past::NONE) {
            Some(hop) => Ok(self.way_over(hop, destination, flow, marking)),
            None => self.way(destination, flow, marking),
        }
    }

    fn way_over(&self, hop: Hop, destination: Slot, flow: u32, marking: Marking) -> Way {
        if hop.next == destination {
            return Way::Direct {
                to: hop.endpoint,
                link: Some((hop.next, hop.carrier)),
            };
        }
        Way::Relayed {
            hop,
            header: self.header(destination, flow, marking, &hop),
        }
    }

    pub(crate) fn header(
        &self,
        destination: Slot,
        flow: u32,
        marking: Marking,
        hop: &Hop,
    ) -> Header {
        let [class_priority, precedence_weight] = marking.to_bytes();
        Header {
            destination: self.table[destination].entry.id,
            source: self.config.node,
            hop_limit: MAX_HOPS,
            class_priority,
            precedence_weight,
            flow,
            lane: 0,
            detours: hop.choice.detours(),
            waypoints: hop.waypoints,
        }
    }

    /// Cuts a super-packet straight into sealed messages.
    fn send_segments(
        &mut self,
        now: Instant,
        destination: Slot,
        hash: u32,
        whole: &SuperPacket<'_>,
        tx: &mut TxBatch,
    ) -> Result<(), Refused> {
        self.fits(now, destination, &whole.ip(), whole.largest())?;
        let marking = Marking::of_dscp(whole.ip().dscp);
        let way = self.way_of_flow(now, destination, hash, marking)?;
        let mut sent = 0;
        for index in 0..whole.count() {
            let write = |space: &mut [u8]| whole.write(index, Checksum::Partial, space);
            let (most, partial) = (whole.largest(), Checksum::Partial);
            if let Some(sealed) = self.seal_in_place(destination, way, most, partial, write, tx) {
                match sealed {
                    Ok(()) => sent += 1,
                    Err(reason) => self.drops.count(reason),
                }
                continue;
            }
            let Some(length) = whole.write(index, Checksum::Complete, &mut self.scratch) else {
                self.drops.count(DropReason::Malformed);
                continue;
            };
            match self.send_or_wait(now, destination, way, length, tx) {
                Ok(count) => sent += count,
                Err(reason) => self.drops.count(reason),
            }
        }
        self.count_sent(now, way, sent);
        Ok(())
    }

    /// Sends the first `length` bytes of the scratch buffer, or lets them wait for the session; how many were sent.
    fn send_or_wait(
        &mut self,
        now: Instant,
        destination: Slot,
        way: Way,
        length: usize,
        tx: &mut TxBatch,
    ) -> Result<u64, DropReason> {
        if self.table[destination].session.is_usable() {
            self.want_channel(now, destination);
            return self.seal(destination, way, length, tx).map(|()| 1);
        }
        let (origin, peer) = (self.drops.origin(), &mut self.table[destination]);
        if !peer.waiting.push(now, origin, &self.scratch[..length]) {
            return Err(DropReason::SessionQueueFull);
        }
        peer.dialer.start(now, wattle_tunnel::DialRole::First);
        let due = peer.dialer.poll_timeout();
        self.due(now, due);
        Ok(0)
    }

    /// Seals a packet of at most `most` bytes, which `write` puts into place, for the fast channel; `None` if the peer
    /// has none.
    fn seal_in_place(
        &mut self,
        destination: Slot,
        way: Way,
        most: usize,
        checksum: Checksum,
        write: impl FnOnce(&mut [u8]) -> Option<usize>,
        tx: &mut TxBatch,
    ) -> Option<Result<(), DropReason>> {
        let peer = &mut self.table[destination];
        let (mtu, session) = (usize::from(peer.path_mtu.mtu()), &mut peer.session);
        session.suite()?;
        let front = way.front();
        let Some(space) = tx.space(front + most + PADDING_ROOM + DATA_OVERHEAD) else {
            return Some(Err(DropReason::TxBatchFull));
        };
        let message = &mut space[front..];
        let Some(length) = write(&mut message[CHANNEL_HEADER..]) else {
            return Some(Err(DropReason::Malformed));
        };
        let sealed = session.seal_in_place(message, length, mtu, checksum)?;
        self.counters.channel_tx_packets += 1;
        Some(self.finish(way, front + sealed, tx))
    }

    /// Seals the first `length` bytes of the scratch buffer straight into the batch.
    pub(crate) fn seal(
        &mut self,
        destination: Slot,
        way: Way,
        length: usize,
        tx: &mut TxBatch,
    ) -> Result<(), DropReason> {
        let front = way.front();
        let room = front + (length + PADDING_ROOM + DATA_OVERHEAD).max(MIN_BUFFER);
        let space = tx.space(room).ok_or(DropReason::TxBatchFull)?;
        let peer = &mut self.table[destination];
        let (mtu, session) = (usize::from(peer.path_mtu.mtu()), &mut peer.session);
        let content = &mut self.scratch[..length + PADDING_ROOM];
        let sealed = session
            .seal(content, length, mtu, &mut space[front..])
            .ok_or(DropReason::UnknownSession)?;
        self.finish(way, front + sealed, tx)
    }

    /// Sends a finished message of a session.
    pub(crate) fn send_message(
        &mut self,
        way: Way,
        message: &[u8],
        tx: &mut TxBatch,
    ) -> Result<(), DropReason> {
        let front = way.front();
        let space = tx
            .space(front + message.len())
            .ok_or(DropReason::TxBatchFull)?;
        space[front..].copy_from_slice(message);
        self.finish(way, front + message.len(), tx)?;
        self.counters.session_tx_packets += 1;
        Ok(())
    }

    /// Puts the frame's header in front, if there is one, and commits the datagram.
    fn finish(&mut self, way: Way, length: usize, tx: &mut TxBatch) -> Result<(), DropReason> {
        let to = match way {
            Way::Direct { to, link } => {
                if let Some((slot, carrier)) = link {
                    self.count_sent_bytes(slot, carrier, length);
                }
                to
            }
            Way::Relayed { hop, header } => {
                let space = tx.space(length).ok_or(DropReason::TxBatchFull)?;
                if !self.table[hop.next].keys.seal(&header, space) {
                    return Err(DropReason::NoLinkKey);
                }
                self.count_sent_bytes(hop.next, hop.carrier, length);
                hop.endpoint
            }
        };
        tx.commit(to, length);
        self.counters.udp_tx_packets += 1;
        self.counters.udp_tx_bytes += length as u64;
        Ok(())
    }

    /// Tells the link what was sent over it.
    pub(crate) fn count_sent(&mut self, now: Instant, way: Way, datagrams: u64) {
        if datagrams == 0 {
            return;
        }
        if let Way::Relayed { hop, header } = way {
            self.way_used(now, marking(&header).class, &hop, header.destination);
            if hop.choice != Choice::First {
                self.counters.backup_packets += datagrams;
            }
        }
        match way.link() {
            Some((slot, carrier)) => {
                self.link_sent(now, slot, carrier, datagrams, Traffic::Data);
            }
            None if self.lane_number().is_some() => self.counters.lane_packets += datagrams,
            None => self.counters.leaf_packets += datagrams,
        }
    }

    /// Counts a drop, and tells the kernel what is wrong if that helps it.
    fn refuse(
        &mut self,
        reason: DropReason,
        count: u64,
        problem: Option<Problem>,
        ip: &Packet,
        packet: &[u8],
        tun: &mut TunBatch,
    ) {
        self.drops.add(reason, count);
        let Some(problem) = problem else { return };
        if self.icmp_tokens == 0 {
            return;
        }
        let mut answer = [0; icmp::MAX_ANSWER];
        if let Some(length) = icmp::answer(problem, ip, packet, &mut answer)
            && tun.push(VnetHeader::default(), &answer[..length])
        {
            self.icmp_tokens -= 1;
            self.counters.answer_packets += 1;
        }
    }
}

impl Way {
    /// The link that it begins with; `None` to an address that has none.
    pub(crate) fn link(&self) -> Option<(Slot, Carrier)> {
        match self {
            Self::Direct { link, .. } => *link,
            Self::Relayed { hop, .. } => Some((hop.next, hop.carrier)),
        }
    }

    /// Bytes in front of the message.
    fn front(&self) -> usize {
        match self {
            Self::Direct { .. } => 0,
            Self::Relayed { .. } => HEADER_LENGTH,
        }
    }
}

/// Why a packet is not sent, and what to tell its sender.
pub(crate) type Refused = (DropReason, Option<Problem>);

fn silent(reason: DropReason) -> Refused {
    (reason, None)
}
