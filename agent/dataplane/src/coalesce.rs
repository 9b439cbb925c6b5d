//! Joining: consecutive segments of one TCP flow become one super-packet for the kernel.
//!
//! The rules of the kernel's `tcp_gro_receive`: what is joined could be cut again into the very same packets. Only
//! segments whose checksum is right are joined, because the kernel does not look at it again.

use crate::checksum;
use crate::packet::{Fragment, IPV4_HEADER, IPV6_HEADER, Packet, TCP};
use crate::segment::transport_checksum;
use crate::vnet::{Gso, NEEDS_CSUM, VnetHeader};

/// Most bytes of a super-packet: what fits the length field of IPv4.
const MAX_LENGTH: usize = 65_535;
const TCP_PSH: u8 = 0x08;
const TCP_ACK: u8 = 0x10;
const TCP_CHECKSUM: usize = 16;

/// The last packet of a batch, while segments may still be added to it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OpenPacket {
    ip: Packet,
    /// Where the payload begins.
    payload: usize,
    /// Bytes so far.
    length: usize,
    /// Payload bytes of the first segment, and so of all but the last.
    size: usize,
    segments: usize,
    next_seq: u32,
    /// Whether the first segment's checksum was found right.
    verified: bool,
    /// Nothing may follow: the last segment was short, or pushed.
    complete: bool,
}

impl OpenPacket {
    /// A packet that others may be added to; `None` if none may.
    pub(crate) fn of(packet: &[u8]) -> Option<Self> {
        let segment = Segment::of(packet)?;
        Some(Self {
            ip: segment.ip,
            payload: segment.payload,
            length: packet.len(),
            size: segment.length,
            segments: 1,
            next_seq: segment.seq.wrapping_add(segment.length as u32),
            verified: false,
            complete: segment.pushed,
        })
    }

    /// Whether `new` goes on where `packet` ends; then how many payload bytes are to be appended.
    pub(crate) fn joins(&mut self, packet: &mut [u8], new: &[u8]) -> Option<usize> {
        if self.complete || new.len() < self.payload {
            return None;
        }
        let segment = Segment::of(new)?;
        let follows = segment.payload == self.payload
            && segment.seq == self.next_seq
            && segment.length <= self.size
            && self.length + segment.length <= MAX_LENGTH
            && self.same_headers(packet, new);
        if !follows || !self.verify(packet) || transport_checksum(&segment.ip, new) != 0 {
            return None;
        }
        if segment.pushed {
            packet[self.ip.transport + 13] |= TCP_PSH;
        }
        self.complete = segment.pushed || segment.length < self.size;
        self.length += segment.length;
        self.segments += 1;
        self.next_seq = self.next_seq.wrapping_add(segment.length as u32);
        Some(segment.length)
    }

    /// Writes lengths and the partial checksum of what was joined; `None` if nothing was.
    pub(crate) fn finish(&self, packet: &mut [u8]) -> Option<VnetHeader> {
        if self.segments < 2 {
            return None;
        }
        let transport = self.ip.transport;
        let (gso, addresses) = match self.ip.is_ipv6() {
            true => {
                packet[4..6].copy_from_slice(&((self.length - IPV6_HEADER) as u16).to_be_bytes());
                (Gso::TcpV6, 8..40)
            }
            false => {
                packet[2..4].copy_from_slice(&(self.length as u16).to_be_bytes());
                packet[10..12].fill(0);
                let checksum = !checksum::sum(&packet[..transport]);
                packet[10..12].copy_from_slice(&checksum.to_be_bytes());
                (Gso::TcpV4, 12..20)
            }
        };
        let pseudo = checksum::pseudo_header(&packet[addresses], TCP, self.length - transport);
        packet[transport + TCP_CHECKSUM..][..2].copy_from_slice(&pseudo.to_be_bytes());
        Some(VnetHeader {
            flags: NEEDS_CSUM,
            gso,
            hdr_len: self.payload as u16,
            gso_size: self.size as u16,
            csum_start: transport as u16,
            csum_offset: TCP_CHECKSUM as u16,
        })
    }

    fn verify(&mut self, packet: &[u8]) -> bool {
        self.verified = self.verified || transport_checksum(&self.ip, packet) == 0;
        self.verified
    }

    /// Whether all header fields agree that do not differ between the segments of one super-packet.
    fn same_headers(&self, packet: &[u8], new: &[u8]) -> bool {
        let (tcp, new_tcp) = (
            &packet[self.ip.transport..self.payload],
            &new[self.ip.transport..self.payload],
        );
        let network = match self.ip.is_ipv6() {
            true => packet[..4] == new[..4] && packet[6..IPV6_HEADER] == new[6..IPV6_HEADER],
            false => {
                // Segments of a super-packet have consecutive identifications.
                let id = |packet: &[u8]| u16::from_be_bytes([packet[4], packet[5]]);
                packet[..2] == new[..2]
                    && id(new) == id(packet).wrapping_add(self.segments as u16)
                    && packet[6..10] == new[6..10]
                    && packet[12..IPV4_HEADER] == new[12..IPV4_HEADER]
            }
        };
        network
            && tcp[..4] == new_tcp[..4]
            && tcp[8..13] == new_tcp[8..13]
            && tcp[14..16] == new_tcp[14..16]
            && tcp[18..] == new_tcp[18..]
    }
}

/// A TCP segment that may be part of a super-packet.
struct Segment {
    ip: Packet,
    payload: usize,
    length: usize,
    seq: u32,
    pushed: bool,
}

impl Segment {
    fn of(bytes: &[u8]) -> Option<Self> {
        let ip = Packet::parse(bytes)?;
        let plain = if ip.is_ipv6() {
            IPV6_HEADER
        } else {
            IPV4_HEADER
        };
        if ip.protocol != TCP
            || ip.transport != plain
            || ip.fragment != Fragment::Whole
            || ip.length != bytes.len()
        {
            return None;
        }
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
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::batch::{Coalescing, TunBatch};
    use crate::packet::{Packet, samples};
    use crate::segment::SuperPacket;
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
                let length = whole.write(index, &mut out).unwrap();
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
            let again: Vec<_> = read(&mut batch).iter().flat_map(|(header, packet)| cut(*header, packet)).collect();
            prop_assert_eq!(again, packets);
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
