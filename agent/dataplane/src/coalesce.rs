//! Joining: consecutive segments of one TCP flow, or datagrams of one UDP flow, become one super-packet for the kernel.
//!
//! The rules of the kernel's `tcp_gro_receive` and `udp_gro_receive`: what is joined could be cut again into the very
//! same packets. Only packets whose checksum is right are joined, because the kernel does not look at it again; where it
//! is partial, the session has vouched for the bytes.

use wattle_model::Checksum;

use crate::batch::{Coalescing, MAX_SEGMENTS};
use crate::checksum;
use crate::packet::{Fragment, IPV4_HEADER, IPV6_HEADER, Packet, TCP, UDP};
use crate::segment::{partial_checksum, transport_checksum};
use crate::vnet::{Gso, NEEDS_CSUM, VnetHeader};

/// Most bytes of a super-packet: what fits the length field of IPv4.
const MAX_LENGTH: usize = 65_535;
const TCP_PSH: u8 = 0x08;
const TCP_ACK: u8 = 0x10;
const TCP_CHECKSUM: usize = 16;
const UDP_CHECKSUM: usize = 6;
const UDP_HEADER: usize = 8;

/// The last packet of a batch, while others may still be added to it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OpenPacket {
    ip: Packet,
    /// Where the payload begins.
    payload: usize,
    /// Bytes so far.
    length: usize,
    /// Payload bytes of the first part, and so of all but the last.
    size: usize,
    parts: usize,
    next_seq: u32,
    checksum: Checksum,
    /// Whether the first part's checksum was found right.
    verified: bool,
    /// Nothing may follow: the last part was short, or pushed.
    complete: bool,
}

impl OpenPacket {
    /// A packet that others may be added to; `None` if none may.
    pub(crate) fn of(packet: &[u8], coalescing: Coalescing, checksum: Checksum) -> Option<Self> {
        let part = match coalescing {
            Coalescing::Off => None,
            Coalescing::On => Part::of(packet, checksum).filter(|part| part.ip.protocol == TCP),
            Coalescing::WithUdp => Part::of(packet, checksum),
        }?;
        Some(Self {
            ip: part.ip,
            payload: part.payload,
            length: packet.len(),
            size: part.length,
            parts: 1,
            next_seq: part.next_seq(),
            checksum,
            verified: false,
            complete: part.pushed,
        })
    }

    /// Whether `new` goes on where `packet` ends; then how many payload bytes are to be appended.
    pub(crate) fn joins(
        &mut self,
        packet: &mut [u8],
        new: &[u8],
        checksum: Checksum,
    ) -> Option<usize> {
        if self.complete || new.len() < self.payload || checksum != self.checksum {
            return None;
        }
        let part = Part::of(new, checksum)?;
        let follows = part.payload == self.payload
            && part.ip.protocol == self.ip.protocol
            && part.seq == self.next_seq
            && part.length <= self.size
            && self.parts < MAX_SEGMENTS
            && self.length + part.length <= MAX_LENGTH
            && self.same_headers(packet, new);
        let right = match checksum {
            Checksum::Partial => true,
            Checksum::Complete => follows && self.verify(packet) && is_right(&part.ip, new),
        };
        if !follows || !right {
            return None;
        }
        if part.pushed {
            packet[self.ip.transport + 13] |= TCP_PSH;
        }
        self.complete = part.pushed || part.length < self.size;
        self.length += part.length;
        self.parts += 1;
        self.next_seq = part.next_seq();
        Some(part.length)
    }

    /// Writes lengths and the partial checksum of what was joined; `None` if nothing was.
    pub(crate) fn finish(&self, packet: &mut [u8]) -> Option<VnetHeader> {
        if self.parts < 2 {
            return None;
        }
        let transport = self.ip.transport;
        let addresses = if self.ip.is_ipv6() {
            packet[4..6].copy_from_slice(&((self.length - IPV6_HEADER) as u16).to_be_bytes());
            8..IPV6_HEADER
        } else {
            packet[2..4].copy_from_slice(&(self.length as u16).to_be_bytes());
            packet[10..12].fill(0);
            let checksum = !checksum::sum(&packet[..transport]);
            packet[10..12].copy_from_slice(&checksum.to_be_bytes());
            12..IPV4_HEADER
        };
        let length = self.length - transport;
        let (gso, field) = match (self.ip.protocol, self.ip.is_ipv6()) {
            (TCP, false) => (Gso::TcpV4, TCP_CHECKSUM),
            (TCP, true) => (Gso::TcpV6, TCP_CHECKSUM),
            _ => {
                packet[transport + 4..][..2].copy_from_slice(&(length as u16).to_be_bytes());
                (Gso::UdpL4, UDP_CHECKSUM)
            }
        };
        let pseudo = checksum::pseudo_header(&packet[addresses], self.ip.protocol, length);
        packet[transport + field..][..2].copy_from_slice(&pseudo.to_be_bytes());
        Some(VnetHeader {
            flags: NEEDS_CSUM,
            gso,
            hdr_len: self.payload as u16,
            gso_size: self.size as u16,
            csum_start: transport as u16,
            csum_offset: field as u16,
        })
    }

    fn verify(&mut self, packet: &[u8]) -> bool {
        self.verified = self.verified || is_right(&self.ip, packet);
        self.verified
    }

    /// Whether all header fields agree that do not differ between the parts of one super-packet.
    fn same_headers(&self, packet: &[u8], new: &[u8]) -> bool {
        let transport = self.ip.transport..self.payload;
        let (old_header, new_header) = (&packet[transport.clone()], &new[transport]);
        let network = match self.ip.is_ipv6() {
            true => packet[..4] == new[..4] && packet[6..IPV6_HEADER] == new[6..IPV6_HEADER],
            false => {
                packet[..2] == new[..2]
                    && (self.ip.dont_fragment || self.has_next_id(packet, new))
                    && packet[6..10] == new[6..10]
                    && packet[12..IPV4_HEADER] == new[12..IPV4_HEADER]
            }
        };
        let same = |range: std::ops::Range<usize>| old_header[range.clone()] == new_header[range];
        network
            && same(0..4)
            && (self.ip.protocol == UDP
                || same(8..13) && same(14..16) && same(18..old_header.len()))
    }

    /// Parts of a super-packet have consecutive identifications. (What may not be fragmented has none that means
    /// anything: RFC 6864 §4.1.)
    fn has_next_id(&self, packet: &[u8], new: &[u8]) -> bool {
        let id = |packet: &[u8]| u16::from_be_bytes([packet[4], packet[5]]);
        id(new) == id(packet).wrapping_add(self.parts as u16)
    }
}

/// A packet that may be part of a super-packet.
struct Part {
    ip: Packet,
    payload: usize,
    length: usize,
    /// Zero for UDP, which has no order of its own.
    seq: u32,
    pushed: bool,
}

impl Part {
    fn of(bytes: &[u8], checksum: Checksum) -> Option<Self> {
        let ip = Packet::parse(bytes)?;
        let plain = if ip.is_ipv6() {
            IPV6_HEADER
        } else {
            IPV4_HEADER
        };
        if ip.transport != plain || ip.fragment != Fragment::Whole || ip.length != bytes.len() {
            return None;
        }
        match ip.protocol {
            TCP => Self::of_tcp(ip, bytes),
            UDP => Self::of_udp(ip, bytes, checksum),
            _ => None,
        }
    }

    fn of_tcp(ip: Packet, bytes: &[u8]) -> Option<Self> {
        let tcp: &[u8; 20] = bytes[ip.transport..].first_chunk()?;
        let header = usize::from(tcp[12] >> 4) * 4;
        let payload = ip.transport + header;
        if header < 20 || payload >= bytes.len() || tcp[13] & !TCP_PSH != TCP_ACK {
            return None;
        }
        Some(Self {
            ip,
            payload,
            length: bytes.len() - payload,
            seq: u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]),
            pushed: tcp[13] & TCP_PSH != 0,
        })
    }

    fn of_udp(ip: Packet, bytes: &[u8], checksum: Checksum) -> Option<Self> {
        let udp: &[u8; UDP_HEADER] = bytes[ip.transport..].first_chunk()?;
        let payload = ip.transport + UDP_HEADER;
        let stated = usize::from(u16::from_be_bytes([udp[4], udp[5]]));
        // A checksum of zero is none, and must not become one.
        let has_none = checksum == Checksum::Complete && udp[6..] == [0, 0];
        if stated != bytes.len() - ip.transport || payload == bytes.len() || has_none {
            return None;
        }
        Some(Self {
            ip,
            payload,
            length: bytes.len() - payload,
            seq: 0,
            pushed: false,
        })
    }

    fn next_seq(&self) -> u32 {
        match self.ip.protocol {
            TCP => self.seq.wrapping_add(self.length as u32),
            _ => 0,
        }
    }
}

/// The header of a packet that stays alone although its checksum is partial; `None` if it cannot have one.
pub(crate) fn lone_partial(ip: &Packet, bytes: &[u8]) -> Option<VnetHeader> {
    let (csum_start, csum_offset) = partial_checksum(ip, bytes)?;
    Some(VnetHeader {
        flags: NEEDS_CSUM,
        csum_start,
        csum_offset,
        ..VnetHeader::default()
    })
}

/// Whether the transport checksum is right.
fn is_right(ip: &Packet, bytes: &[u8]) -> bool {
    matches!(
        (ip.protocol, transport_checksum(ip, bytes)),
        (TCP, 0) | (UDP, 0xffff)
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use wattle_model::Checksum;

    use crate::batch::{AppendError, Coalescing, TunBatch};
    use crate::packet::{Packet, samples};
    use crate::segment::{SuperPacket, complete_checksum, write_partial_checksum};
    use crate::vnet::{Gso, VNET_HEADER_LENGTH, VnetHeader};

    fn write(batch: &mut TunBatch, packets: &[Vec<u8>]) {
        for packet in packets {
            batch.space(packet.len()).unwrap().copy_from_slice(packet);
            batch.commit(packet.len());
        }
    }

    fn read(batch: &mut TunBatch) -> Vec<(VnetHeader, Vec<u8>)> {
        let split = |bytes: &[u8]| {
            let (header, packet) = bytes.split_first_chunk::<VNET_HEADER_LENGTH>().unwrap();
            (VnetHeader::from_bytes(header).unwrap(), packet.to_vec())
        };
        batch.packets().map(split).collect()
    }

    fn cut(header: VnetHeader, bytes: &[u8]) -> Vec<Vec<u8>> {
        let Some(whole) = SuperPacket::new(header, Packet::parse(bytes).unwrap(), bytes) else {
            return vec![bytes.to_vec()];
        };
        (0..whole.count())
            .map(|index| {
                let mut out = vec![0; 2_000];
                let length = whole.write(index, Checksum::Complete, &mut out).unwrap();
                out.truncate(length);
                out
            })
            .collect()
    }

    #[test]
    fn segments_of_one_flow_become_one_super_packet() {
        for v6 in [false, true] {
            let original = samples::tcp(v6, 5, 0x18, &[1; 10_000]);
            let kind = if v6 { Gso::TcpV6 } else { Gso::TcpV4 };
            let segments = cut(
                VnetHeader {
                    gso: kind,
                    gso_size: 1_300,
                    ..VnetHeader::default()
                },
                &original,
            );
            let mut batch = TunBatch::new(Coalescing::On);
            write(&mut batch, &segments);
            let read = read(&mut batch);
            assert_eq!(read.len(), 1);
            assert_eq!((read[0].0.gso, read[0].0.gso_size), (kind, 1_300));
            assert_eq!(read[0].1.len(), original.len());
        }
    }

    #[test]
    fn what_the_kernel_would_not_join_is_not_joined() {
        let first = samples::tcp(true, 0, 0x10, &[1; 100]);
        let second = samples::tcp(true, 100, 0x10, &[2; 100]);
        let joined = |second: Vec<u8>| {
            let mut batch = TunBatch::new(Coalescing::On);
            write(&mut batch, &[first.clone(), second]);
            batch.len() == 1
        };
        assert!(joined(second.clone()));
        assert!(!joined(samples::tcp(true, 101, 0x10, &[2; 100])), "a gap");
        assert!(
            !joined(samples::tcp(true, 100, 0x11, &[2; 100])),
            "the end of the stream"
        );
        assert!(
            !joined(samples::tcp(true, 100, 0x10, &[2; 101])),
            "longer than the first"
        );
        assert!(!joined(samples::tcp(true, 100, 0x10, &[])), "no payload");
        assert!(
            !joined(samples::tcp(false, 100, 0x10, &[2; 100])),
            "another family"
        );
        for byte in 0..second.len() {
            let mut damaged = second.clone();
            damaged[byte] ^= 0x10;
            assert!(!joined(damaged), "byte {byte}");
        }
    }

    #[test]
    fn datagrams_of_one_flow_become_one_super_packet_where_the_kernel_takes_it() {
        for (from, to) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
            let packets: Vec<_> = [100, 100, 100, 60, 100]
                .into_iter()
                .map(|length| samples::udp(from, to, &vec![length as u8; length]))
                .collect();
            let mut batch = TunBatch::new(Coalescing::WithUdp);
            write(&mut batch, &packets);
            let joined = read(&mut batch);
            assert_eq!(joined.len(), 2, "the shorter one ends the super-packet");
            assert_eq!((joined[0].0.gso, joined[0].0.gso_size), (Gso::UdpL4, 100));
            let again: Vec<_> = joined
                .iter()
                .flat_map(|(header, packet)| cut(*header, packet))
                .collect();
            let payloads = |packets: &[Vec<u8>]| -> Vec<Vec<u8>> {
                packets
                    .iter()
                    .map(|packet| packet[packet.len().min(28)..].to_vec())
                    .collect()
            };
            assert_eq!(payloads(&again), payloads(&packets));
            let mut batch = TunBatch::new(Coalescing::On);
            write(&mut batch, &packets);
            assert_eq!(batch.len(), 5);
        }
    }

    #[test]
    fn datagrams_without_a_checksum_or_with_a_wrong_one_stay_alone() {
        let right = samples::udp("10.0.0.1", "10.0.0.2", &[1; 100]);
        for checksum in [[0, 0], [1, 2]] {
            let mut wrong = right.clone();
            wrong[26..28].copy_from_slice(&checksum);
            let mut batch = TunBatch::new(Coalescing::WithUdp);
            write(&mut batch, &[right.clone(), wrong.clone(), right.clone()]);
            assert_eq!(batch.len(), 3);
            assert_eq!(read(&mut batch)[1].1, wrong);
        }
    }

    fn append(batch: &mut TunBatch, checksum: Checksum, packet: &[u8]) -> Result<(), AppendError> {
        batch.append(checksum, &Packet::parse(packet).unwrap(), packet)
    }

    fn partial(packet: &[u8]) -> Vec<u8> {
        let mut partial = packet.to_vec();
        write_partial_checksum(&Packet::parse(packet).unwrap(), &mut partial);
        partial
    }

    #[test]
    fn partial_checksums_are_joined_unseen_and_completed_where_the_kernel_does_not() {
        for v6 in [false, true] {
            let packets: Vec<_> = (0..4)
                .map(|number| samples::tcp(v6, number * 100, 0x10, &[number as u8; 100]))
                .collect();
            let mut batch = TunBatch::new(Coalescing::On);
            for packet in &packets {
                append(&mut batch, Checksum::Partial, &partial(packet)).unwrap();
            }
            let joined = read(&mut batch);
            assert_eq!((joined.len(), joined[0].0.gso_size), (1, 100));
            let payloads = |packets: &[Vec<u8>]| -> Vec<Vec<u8>> {
                packets
                    .iter()
                    .map(|packet| packet[packet.len() - 100..].to_vec())
                    .collect()
            };
            let again = cut(joined[0].0, &joined[0].1);
            assert_eq!(payloads(&again), payloads(&packets));

            let mut batch = TunBatch::new(Coalescing::Off);
            for packet in &packets {
                append(&mut batch, Checksum::Partial, &partial(packet)).unwrap();
            }
            let alone = read(&mut batch).into_iter().map(|(_, packet)| packet);
            assert_eq!(alone.collect::<Vec<_>>(), packets);
        }
    }

    #[test]
    fn a_lone_packet_with_a_partial_checksum_says_so_and_one_without_a_checksum_is_refused() {
        let whole = samples::udp("fd00::1", "fd00::2", b"hello");
        let mut batch = TunBatch::new(Coalescing::WithUdp);
        // Whatever stands in the field: the sum of the pseudo header is made here.
        append(&mut batch, Checksum::Partial, &whole).unwrap();
        let (header, mut packet) = read(&mut batch).remove(0);
        assert_ne!(packet, whole);
        assert!(complete_checksum(header, &mut packet));
        assert_eq!(packet, whole);
        let mut icmp = samples::udp("10.0.0.1", "10.0.0.2", b"hello");
        icmp[9] = 1;
        for coalescing in [Coalescing::Off, Coalescing::WithUdp] {
            let mut batch = TunBatch::new(coalescing);
            assert_eq!(
                append(&mut batch, Checksum::Partial, &icmp),
                Err(AppendError::Checksum)
            );
            assert!(batch.is_empty());
        }
    }

    #[test]
    fn packets_with_and_without_checksum_are_not_joined_to_each_other() {
        let packets = [
            samples::tcp(true, 0, 0x10, &[1; 100]),
            partial(&samples::tcp(true, 100, 0x10, &[2; 100])),
            samples::tcp(true, 200, 0x10, &[3; 100]),
        ];
        let mut batch = TunBatch::new(Coalescing::On);
        for (packet, checksum) in
            packets
                .iter()
                .zip([Checksum::Complete, Checksum::Partial, Checksum::Complete])
        {
            append(&mut batch, checksum, packet).unwrap();
        }
        assert_eq!(batch.len(), 3);
    }

    #[test]
    fn nothing_is_joined_when_the_kernel_refuses() {
        let mut batch = TunBatch::new(Coalescing::Off);
        let packets = [
            samples::tcp(true, 0, 0x10, &[1; 100]),
            samples::tcp(true, 100, 0x10, &[2; 100]),
        ];
        write(&mut batch, &packets);
        assert_eq!(
            read(&mut batch)
                .into_iter()
                .map(|(_, packet)| packet)
                .collect::<Vec<_>>(),
            packets
        );
    }

    proptest! {
        #[test]
        fn what_was_joined_can_be_cut_into_the_same_packets(
            lengths in proptest::collection::vec((1_usize..1_300, any::<bool>(), 0_u32..3), 1..60), v6: bool,
        ) {
            // Mostly a stream in order, with pushes, gaps and odd lengths between.
            let mut seq = 77_u32;
            let packets: Vec<_> = lengths.iter().map(|(length, pushed, gap)| {
                let length = if length % 3 == 0 { *length } else { 1_000 };
                let flags = if *pushed && length % 5 == 0 { 0x18 } else { 0x10 };
                seq = seq.wrapping_add(u32::from(*gap == 0));
                let packet = samples::tcp(v6, seq, flags, &vec![length as u8; length]);
                seq = seq.wrapping_add(length as u32);
                packet
            }).collect();
            let mut batch = TunBatch::new(Coalescing::On);
            write(&mut batch, &packets);
            let without_id = |mut packet: Vec<u8>| {
                if !v6 {
                    packet[4..6].fill(0);
                    packet[10..12].fill(0);
                }
                packet
            };
            let again: Vec<_> = read(&mut batch).iter().flat_map(|(header, packet)| cut(*header, packet)).collect();
            prop_assert_eq!(again.into_iter().map(without_id).collect::<Vec<_>>(), packets.into_iter().map(without_id).collect::<Vec<_>>());
        }

        #[test]
        fn arbitrary_packets_never_panic(packets in proptest::collection::vec((any::<bool>(), proptest::collection::vec(any::<u8>(), 0..120), 0_usize..150, any::<u8>()), 0..8)) {
            let mut batch = TunBatch::new(Coalescing::On);
            let packets: Vec<_> = packets.into_iter().map(|(v6, payload, flip, with)| {
                let mut packet = samples::tcp(v6, 0, 0x10, &payload);
                if let Some(byte) = packet.get_mut(flip) { *byte ^= with; }
                packet
            }).collect();
            write(&mut batch, &packets);
            prop_assert!(read(&mut batch).len() <= packets.len());
        }
    }
}
