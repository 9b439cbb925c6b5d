//! Buffers between the worker and the kernel: datagrams on their way to the UDP socket, packets on their way to the TUN.
//!
//! Both are filled in place and emptied by the shell in few system calls. Neither allocates once it has its size;
//! what does not fit is refused, and the caller counts it.

use std::net::SocketAddr;
use std::ops::Range;

use wattle_model::{Checksum, Endpoint, NodeId};

use crate::coalesce::{OpenPacket, lone_partial};
use crate::packet::Packet;
use crate::segment::{complete_partial_checksum, write_partial_checksum};
use crate::vnet::{VNET_HEADER_LENGTH, VnetHeader};

/// Most datagrams of one [`Transmit`]: `UDP_MAX_SEGMENTS` of kernels before 6.8.
pub const MAX_SEGMENTS: usize = 64;
/// Most bytes of one [`Transmit`]: an IPv4 packet with its headers has at most 65535.
pub const MAX_TRANSMIT: usize = 65_000;
/// Bytes of a batch for the socket: eight super-packets before it is to be emptied. More would leave the caches cold and
/// cost memory, fewer would cost system calls.
const TX_CAPACITY: usize = 768 << 10;
/// Bytes of a batch for the device, which the shell empties between messages.
const TUN_CAPACITY: usize = 768 << 10;
/// What one further input may add in the worst case: a super-packet of 64 KiB in small datagrams, each with its
/// envelope. With less room than this, a batch is to be emptied first.
const RESERVE: usize = 256 << 10;

/// Datagrams from one source, where they were received.
#[derive(Debug)]
pub struct Datagrams<'a> {
    /// Their bytes, one behind the other.
    pub bytes: &'a mut [u8],
    /// Bytes of each datagram; the last may have fewer.
    pub segment: usize,
    /// Where in the memory of received datagrams they begin, if they may be sent on from there: they then stay as the
    /// worker leaves them until the batch is sent.
    pub at: Option<usize>,
}

impl<'a> Datagrams<'a> {
    /// Datagrams that are gone once they were looked at.
    pub fn passing(bytes: &'a mut [u8], segment: usize) -> Self {
        Self {
            bytes,
            segment,
            at: None,
        }
    }

    /// Each datagram with where it begins in the memory of received datagrams.
    pub fn each(self) -> impl Iterator<Item = (&'a mut [u8], Option<usize>)> {
        let segment = self.segment.max(1);
        let chunks = self.bytes.chunks_mut(segment).enumerate();
        chunks.map(move |(n, datagram)| (datagram, self.at.map(|at| at + n * segment)))
    }
}

/// Which memory a datagram lies in until it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The batch's own.
    Batch,
    /// That of received datagrams: a relay sends on from where it received.
    Received,
}

/// Equal datagrams to one address: one send with `UDP_SEGMENT`; or to one node, for a carrier that knows nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmit<To = SocketAddr> {
    /// Where to.
    pub to: To,
    /// The memory that the bytes lie in.
    pub place: Place,
    /// Which bytes of it.
    pub range: Range<usize>,
    /// Bytes of each datagram; the last may have fewer. Equal to the length of the range for a single one.
    pub segment: usize,
}

/// Datagrams to be sent, in order.
#[derive(Debug)]
pub struct TxBatch {
    bytes: Vec<u8>,
    used: usize,
    transmits: Vec<Transmit>,
    carried: Vec<Transmit<NodeId>>,
}

impl Default for TxBatch {
    fn default() -> Self {
        Self::new()
    }
}

impl TxBatch {
    /// An empty batch.
    pub fn new() -> Self {
        Self {
            bytes: vec![0; TX_CAPACITY],
            used: 0,
            transmits: Vec::with_capacity(64),
            carried: Vec::new(),
        }
    }

    /// Room for one datagram of at most `length` bytes; `None` if the batch is full. Counts once it is committed.
    pub fn space(&mut self, length: usize) -> Option<&mut [u8]> {
        self.bytes.get_mut(self.used..self.used + length)
    }

    /// The first `length` bytes of the space are a datagram for `to`.
    pub fn commit(&mut self, to: impl Into<Endpoint>, length: usize) {
        let range = self.used..self.used + length;
        self.used = range.end;
        self.append(to.into(), Place::Batch, range);
    }

    /// These bytes of the memory of received datagrams are a datagram for `to`.
    pub fn commit_received(&mut self, to: impl Into<Endpoint>, range: Range<usize>) {
        self.append(to.into(), Place::Received, range);
    }

    fn append(&mut self, to: Endpoint, place: Place, range: Range<usize>) {
        match to {
            Endpoint::Udp(to) => append(&mut self.transmits, to, place, range),
            Endpoint::Quic(to) => append(&mut self.carried, to, place, range),
        }
    }

    /// Copies a finished datagram in; whether there was room.
    #[must_use]
    pub fn push(&mut self, to: impl Into<Endpoint>, datagram: &[u8]) -> bool {
        let Some(space) = self.space(datagram.len()) else {
            return false;
        };
        space.copy_from_slice(datagram);
        self.commit(to, datagram.len());
        true
    }

    /// Whether the batch should be sent before the worker is given further input.
    pub fn is_nearly_full(&self) -> bool {
        self.bytes.len() - self.used < RESERVE
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.transmits.is_empty() && self.carried.is_empty()
    }

    /// What to send from the UDP sockets, in order.
    pub fn transmits(&self) -> &[Transmit] {
        &self.transmits
    }

    /// What to send to nodes over QUIC, in order.
    pub fn carried(&self) -> &[Transmit<NodeId>] {
        &self.carried
    }

    /// The bytes of a transmit; `received` is the memory of received datagrams.
    pub fn bytes<'a, To>(&'a self, transmit: &Transmit<To>, received: &'a [u8]) -> &'a [u8] {
        let memory = match transmit.place {
            Place::Batch => &self.bytes,
            Place::Received => received,
        };
        &memory[transmit.range.clone()]
    }

    /// Every datagram by itself, in order per carrier.
    pub fn datagrams<'a>(
        &'a self,
        received: &'a [u8],
    ) -> impl Iterator<Item = (Endpoint, &'a [u8])> {
        let plain = self.transmits.iter().flat_map(move |transmit| {
            let to = Endpoint::Udp(transmit.to);
            let each = self.each(transmit, received);
            each.map(move |datagram| (to, datagram))
        });
        let carried = self.carried.iter().flat_map(move |transmit| {
            let to = Endpoint::Quic(transmit.to);
            let each = self.each(transmit, received);
            each.map(move |datagram| (to, datagram))
        });
        plain.chain(carried)
    }

    fn each<'a, To>(
        &'a self,
        transmit: &Transmit<To>,
        received: &'a [u8],
    ) -> impl Iterator<Item = &'a [u8]> {
        self.bytes(transmit, received)
            .chunks(transmit.segment.max(1))
    }

    /// The first `count` of [`Self::transmits`] are done with, and `bytes` (whole datagrams) of the next one.
    pub fn sent(&mut self, count: usize, bytes: usize) {
        self.transmits.drain(..count);
        if let Some(next) = self.transmits.first_mut() {
            next.range.start += bytes;
        }
        self.forget_bytes();
    }

    /// What was to be sent over QUIC is done with.
    pub fn clear_carried(&mut self) {
        self.carried.clear();
        self.forget_bytes();
    }

    /// What the sockets did not take stays for later: it is moved to the front of the batch's own memory. How many
    /// datagrams there was no room for; they are dropped.
    pub fn keep(&mut self, received: &[u8]) -> u64 {
        let own = |transmit: &Transmit| transmit.place == Place::Batch;
        let first = self.transmits.iter().find(|transmit| own(transmit));
        let first = first.map_or(self.used, |transmit| transmit.range.start);
        self.bytes.copy_within(first..self.used, 0);
        self.used -= first;
        let mut dropped = 0;
        let (bytes, used) = (&mut self.bytes, &mut self.used);
        self.transmits.retain_mut(|transmit| {
            if own(transmit) {
                transmit.range = transmit.range.start - first..transmit.range.end - first;
                return true;
            }
            let Some(room) = bytes.get_mut(*used..*used + transmit.range.len()) else {
                dropped += transmit.segments() as u64;
                return false;
            };
            room.copy_from_slice(&received[transmit.range.clone()]);
            transmit.range = *used..*used + transmit.range.len();
            transmit.place = Place::Batch;
            *used = transmit.range.end;
            true
        });
        dropped
    }

    /// Bytes of the batch's own memory that are taken.
    pub fn used(&self) -> usize {
        self.used
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.transmits.clear();
        self.carried.clear();
        self.forget_bytes();
    }

    fn forget_bytes(&mut self) {
        if self.is_empty() {
            self.used = 0;
        }
    }
}

/// Adds a datagram to the last transmit if that may grow, else as one of its own.
fn append<To: PartialEq>(
    transmits: &mut Vec<Transmit<To>>,
    to: To,
    place: Place,
    range: Range<usize>,
) {
    match transmits.last_mut() {
        Some(last) if last.takes(&to, place, &range) => last.range.end = range.end,
        _ => transmits.push(Transmit {
            to,
            place,
            segment: range.len(),
            range,
        }),
    }
}

impl<To: PartialEq> Transmit<To> {
    /// How many datagrams these are.
    pub fn segments(&self) -> usize {
        self.range.len().div_ceil(self.segment.max(1))
    }

    fn takes(&self, to: &To, place: Place, next: &Range<usize>) -> bool {
        self.to == *to
            && self.place == place
            && self.range.end == next.start
            && next.len() <= self.segment
            && self.range.len().is_multiple_of(self.segment)
            && self.segments() < MAX_SEGMENTS
            && self.range.len() + next.len() <= MAX_TRANSMIT
    }
}

/// Which packets for the TUN device may be joined into super-packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Coalescing {
    /// None: the kernel refuses super-packets.
    Off,
    /// Consecutive segments of one TCP flow.
    On,
    /// … and consecutive datagrams of one UDP flow (Linux 6.2 and later).
    WithUdp,
}

/// Why a packet was not taken into a [`TunBatch`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppendError {
    /// The batch is full.
    Full,
    /// The packet cannot have the partial checksum that it claims.
    Checksum,
}

/// Packets for the TUN device, in order, each behind its virtio-net header.
#[derive(Debug)]
pub struct TunBatch {
    bytes: Vec<u8>,
    used: usize,
    packets: Vec<Range<usize>>,
    coalescing: Coalescing,
    /// The last packet, as long as it may still grow.
    open: Option<OpenPacket>,
}

impl TunBatch {
    /// An empty batch.
    pub fn new(coalescing: Coalescing) -> Self {
        Self {
            bytes: vec![0; TUN_CAPACITY],
            used: 0,
            packets: Vec::with_capacity(256),
            coalescing,
            open: None,
        }
    }

    /// Sets whether packets may be joined from here on.
    pub fn set_coalescing(&mut self, coalescing: Coalescing) {
        self.coalescing = coalescing;
    }

    /// Room for one packet of at most `length` bytes; `None` if the batch is full. Counts once it is committed.
    pub fn space(&mut self, length: usize) -> Option<&mut [u8]> {
        let start = self.used + VNET_HEADER_LENGTH;
        self.bytes.get_mut(start..start + length)
    }

    /// The first `length` bytes of the space are a packet; it may be joined to the one before.
    pub fn commit(&mut self, length: usize) {
        let start = self.used + VNET_HEADER_LENGTH;
        let end = start + length;
        if let Some(open) = &mut self.open {
            let range = self.packets.last().cloned().unwrap_or_default();
            let (before, new) = self.bytes[..end].split_at_mut(self.used);
            if let Some(payload) = open.joins(
                &mut before[range.start + VNET_HEADER_LENGTH..],
                &new[VNET_HEADER_LENGTH..],
                Checksum::Complete,
            ) {
                let payload_start = end - payload;
                self.bytes.copy_within(payload_start..end, self.used);
                self.used += payload;
                if let Some(range) = self.packets.last_mut() {
                    range.end = self.used;
                }
                return;
            }
            self.close();
        }
        self.begin(VnetHeader::default(), Checksum::Complete, length);
    }

    /// Copies a packet of a peer in; it may be joined to the one before. `packet` is exactly as long as `ip` says.
    ///
    /// # Errors
    /// There is no room, or the packet cannot have the partial checksum that it claims.
    pub fn append(
        &mut self,
        checksum: Checksum,
        ip: &Packet,
        packet: &[u8],
    ) -> Result<(), AppendError> {
        let start = self.used + VNET_HEADER_LENGTH;
        if self.bytes.len() < start + packet.len() {
            return Err(AppendError::Full);
        }
        if let Some(open) = &mut self.open {
            let first = self.packets.last().map_or(0, |range| range.start);
            let (before, room) = self.bytes.split_at_mut(self.used);
            let joined = &mut before[first + VNET_HEADER_LENGTH..];
            if let Some(payload) = open.joins(joined, packet, checksum) {
                room[..payload].copy_from_slice(&packet[packet.len() - payload..]);
                self.used += payload;
                if let Some(range) = self.packets.last_mut() {
                    range.end = self.used;
                }
                return Ok(());
            }
            self.close();
        }
        let copy = &mut self.bytes[start..][..packet.len()];
        copy.copy_from_slice(packet);
        let header = match (checksum, self.coalescing) {
            (Checksum::Complete, _) => VnetHeader::default(),
            // A kernel that takes no super-packets may take no headers either.
            (Checksum::Partial, Coalescing::Off) => {
                if !complete_partial_checksum(ip, copy) {
                    return Err(AppendError::Checksum);
                }
                VnetHeader::default()
            }
            (Checksum::Partial, _) => {
                let header = lone_partial(ip, copy).ok_or(AppendError::Checksum)?;
                write_partial_checksum(ip, copy);
                header
            }
        };
        self.begin(header, checksum, packet.len());
        Ok(())
    }

    /// The next `length` bytes behind the room for a header are a packet that others may be joined to.
    fn begin(&mut self, header: VnetHeader, checksum: Checksum, length: usize) {
        let start = self.used + VNET_HEADER_LENGTH;
        let end = start + length;
        self.bytes[self.used..start].copy_from_slice(&header.to_bytes());
        self.packets.push(self.used..end);
        self.used = end;
        self.open = OpenPacket::of(&self.bytes[start..end], self.coalescing, checksum);
    }

    /// Copies a finished packet in, with its header; whether there was room.
    #[must_use]
    pub fn push(&mut self, header: VnetHeader, packet: &[u8]) -> bool {
        self.close();
        let Some(space) = self.space(packet.len()) else {
            return false;
        };
        space.copy_from_slice(packet);
        let start = self.used + VNET_HEADER_LENGTH;
        self.bytes[self.used..start].copy_from_slice(&header.to_bytes());
        self.packets.push(self.used..start + packet.len());
        self.used = start + packet.len();
        true
    }

    /// Whether the batch should be written before the worker is given further input.
    pub fn is_nearly_full(&self) -> bool {
        self.bytes.len() - self.used < RESERVE
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// How many packets (super-packets count once) there are to write.
    pub fn len(&self) -> usize {
        self.packets.len()
    }

    /// The packets to write, each beginning with its ten-byte virtio-net header. Ends the joining.
    pub fn packets(&mut self) -> impl Iterator<Item = &[u8]> {
        self.close();
        self.packets.iter().map(|range| &self.bytes[range.clone()])
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.used = 0;
        self.open = None;
        self.packets.clear();
    }

    /// Writes the lengths, the checksum and the virtio-net header of what was joined.
    fn close(&mut self) {
        if let (Some(open), Some(range)) = (self.open.take(), self.packets.last()) {
            let (header, packet) = self.bytes[range.clone()].split_at_mut(VNET_HEADER_LENGTH);
            if let Some(finished) = open.finish(packet) {
                header.copy_from_slice(&finished.to_bytes());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    fn sent(batch: &TxBatch, received: &[u8]) -> Vec<(Endpoint, Vec<u8>)> {
        let datagrams = batch.datagrams(received);
        datagrams.map(|(to, bytes)| (to, bytes.to_vec())).collect()
    }

    #[test]
    fn what_is_kept_is_sent_later_in_order_wherever_it_lay() {
        let mut received = vec![7; 5_000];
        let mut batch = TxBatch::new();
        for number in 0..10 {
            assert!(batch.push(to(1), &[number; 1_000]));
        }
        batch.commit_received(to(2), 1_000..2_000);
        batch.commit_received(to(2), 2_000..3_000);
        assert!(batch.push(to(3), &[99; 10]));
        let all = sent(&batch, &received);
        batch.sent(0, 9_000);
        assert_eq!(sent(&batch, &received), all[9..]);
        batch.sent(1, 0);
        assert_eq!(batch.keep(&received), 0);
        received.fill(0);
        assert_eq!(sent(&batch, &received), all[10..]);
        assert!(batch.used() <= 2_010 + 10_000);
        batch.sent(2, 0);
        assert!(batch.is_empty() && batch.used() == 0);
    }

    #[test]
    fn what_does_not_fit_is_dropped_and_counted() {
        let received = vec![7; 60_000];
        let mut batch = TxBatch::new();
        for _ in 0..20 {
            batch.commit_received(to(1), 0..60_000);
        }
        let kept = TX_CAPACITY / 60_000;
        assert_eq!(batch.keep(&received), 20 - kept as u64);
        assert_eq!(batch.transmits().len(), kept);
        assert_eq!(batch.keep(&received), 0);
    }
}
