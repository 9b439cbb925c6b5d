//! Cutting: a super-packet of the kernel becomes packets of the overlay's MTU with complete checksums.
//!
//! The arithmetic of the kernel's `tcp_gso_segment` and `__udp_gso_segment`. Reads one buffer, writes another;
//! whatever contradicts itself is `None`.

use wattle_model::Checksum;

use crate::checksum;
use crate::packet::{Fragment, Packet, TCP, UDP};
use crate::vnet::{Gso, NEEDS_CSUM, VnetHeader};

const TCP_FIN: u8 = 0x01;
const TCP_PSH: u8 = 0x08;
const TCP_CWR: u8 = 0x80;
const TCP_CHECKSUM: usize = 16;
const UDP_CHECKSUM: usize = 6;

/// A packet from the TUN device that stands for several.
#[derive(Debug, Clone, Copy)]
pub struct SuperPacket<'a> {
    bytes: &'a [u8],
    ip: Packet,
    /// Where the transport payload begins.
    payload: usize,
    /// Payload bytes per segment.
    size: usize,
}

impl<'a> SuperPacket<'a> {
    /// Understands a super-packet whose headers were already read; `None` if header and packet contradict each other.
    pub fn new(header: VnetHeader, ip: Packet, bytes: &'a [u8]) -> Option<Self> {
        let bytes = bytes.get(..ip.length)?;
        let transport = bytes.get(ip.transport..)?;
        let (protocol, length) = match header.gso {
            Gso::None => return None,
            Gso::TcpV4 | Gso::TcpV6 => (TCP, usize::from(*transport.get(12)? >> 4) * 4),
            Gso::UdpL4 => (UDP, 8),
        };
        let least = if protocol == TCP { 20 } else { 8 };
        if ip.protocol != protocol
            || ip.fragment != Fragment::Whole
            || length < least
            || length >= transport.len()
            || header.gso_size == 0
        {
            return None;
        }
        Some(Self {
            bytes,
            ip,
            payload: ip.transport + length,
            size: header.gso_size.into(),
        })
    }

    /// Its headers.
    pub fn ip(&self) -> Packet {
        self.ip
    }

    /// How many packets it stands for.
    pub fn count(&self) -> usize {
        (self.bytes.len() - self.payload).div_ceil(self.size)
    }

    /// Bytes of the largest of them.
    pub fn largest(&self) -> usize {
        self.payload + self.size.min(self.bytes.len() - self.payload)
    }

    /// Writes packet number `index` to the front of `out`; its length, or `None` if there is none or no room.
    pub fn write(&self, index: usize, checksum: Checksum, out: &mut [u8]) -> Option<usize> {
        let start = self.payload.checked_add(index.checked_mul(self.size)?)?;
        let chunk = self
            .bytes
            .get(start..self.bytes.len().min(start + self.size))?;
        if chunk.is_empty() {
            return None;
        }
        let length = self.payload + chunk.len();
        let out = out.get_mut(..length)?;
        out[..self.payload].copy_from_slice(&self.bytes[..self.payload]);
        out[self.payload..].copy_from_slice(chunk);
        let last = start + chunk.len() == self.bytes.len();
        self.fix_network(index, out);
        match self.ip.protocol {
            TCP => self.fix_tcp(index, last, out),
            _ => self.fix_udp(out),
        }
        match checksum {
            Checksum::Complete => write_checksum(&self.ip, out),
            Checksum::Partial => write_partial_checksum(&self.ip, out),
        }
        Some(length)
    }

    fn fix_network(&self, index: usize, out: &mut [u8]) {
        if self.ip.is_ipv6() {
            let length = (out.len() - 40) as u16;
            out[4..6].copy_from_slice(&length.to_be_bytes());
            return;
        }
        let id = u16::from_be_bytes([out[4], out[5]]).wrapping_add(index as u16);
        let length = out.len() as u16;
        out[2..4].copy_from_slice(&length.to_be_bytes());
        out[4..6].copy_from_slice(&id.to_be_bytes());
        out[10..12].fill(0);
        let checksum = !checksum::sum(&out[..self.ip.transport]);
        out[10..12].copy_from_slice(&checksum.to_be_bytes());
    }

    fn fix_tcp(&self, index: usize, last: bool, out: &mut [u8]) {
        let tcp = &mut out[self.ip.transport..];
        let first_seq = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
        let seq = first_seq.wrapping_add((index * self.size) as u32);
        tcp[4..8].copy_from_slice(&seq.to_be_bytes());
        if !last {
            tcp[13] &= !(TCP_FIN | TCP_PSH);
        }
        if index > 0 {
            tcp[13] &= !TCP_CWR;
        }
    }

    fn fix_udp(&self, out: &mut [u8]) {
        let at = self.ip.transport + 4;
        let length = (out.len() - self.ip.transport) as u16;
        out[at..at + 2].copy_from_slice(&length.to_be_bytes());
    }
}

/// What the checksum of an ordinary packet is; `None` if header and packet contradict each other, or where the header
/// means a checksum that is not TCP's or UDP's.
pub fn checksum_state(header: VnetHeader, ip: &Packet, bytes: &[u8]) -> Option<Checksum> {
    if header.flags & NEEDS_CSUM == 0 {
        return Some(Checksum::Complete);
    }
    let (start, offset) = partial_checksum(ip, bytes)?;
    ((header.csum_start, header.csum_offset) == (start, offset)).then_some(Checksum::Partial)
}

/// Where a packet with a partial checksum has it: start of what is summed, and offset from there. `None` for what cannot
/// have one: other protocols, fragments, packets without room for the field.
pub(crate) fn partial_checksum(ip: &Packet, bytes: &[u8]) -> Option<(u16, u16)> {
    let (header, offset) = match ip.protocol {
        TCP => (20, TCP_CHECKSUM),
        UDP => (8, UDP_CHECKSUM),
        _ => return None,
    };
    let fits = ip.transport + header <= ip.length && ip.length <= bytes.len();
    (fits && ip.fragment == Fragment::Whole).then_some((ip.transport as u16, offset as u16))
}

/// Completes the partial checksum of a packet of a peer in place; `false` if it cannot have one.
#[must_use]
pub fn complete_partial_checksum(ip: &Packet, bytes: &mut [u8]) -> bool {
    let whole = partial_checksum(ip, bytes).is_some();
    if whole {
        write_checksum(ip, &mut bytes[..ip.length]);
    }
    whole
}

/// Writes the checksum of a whole TCP or UDP packet.
fn write_checksum(ip: &Packet, bytes: &mut [u8]) {
    let at = checksum_at(ip);
    bytes[at..at + 2].fill(0);
    let checksum = transport_checksum(ip, bytes);
    bytes[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
}

/// Writes the sum of the pseudo header where the checksum belongs.
pub(crate) fn write_partial_checksum(ip: &Packet, bytes: &mut [u8]) {
    let at = checksum_at(ip);
    let length = bytes.len() - ip.transport;
    let pseudo = checksum::pseudo_header(&bytes[addresses(ip)], ip.protocol, length);
    bytes[at..at + 2].copy_from_slice(&pseudo.to_be_bytes());
}

fn checksum_at(ip: &Packet) -> usize {
    ip.transport
        + match ip.protocol {
            TCP => TCP_CHECKSUM,
            _ => UDP_CHECKSUM,
        }
}

fn addresses(ip: &Packet) -> std::ops::Range<usize> {
    if ip.is_ipv6() { 8..40 } else { 12..20 }
}

/// Completes a partial checksum of an ordinary packet in place; `false` if the header contradicts the packet.
#[must_use]
pub fn complete_checksum(header: VnetHeader, bytes: &mut [u8]) -> bool {
    if header.flags & NEEDS_CSUM == 0 {
        return true;
    }
    let start = usize::from(header.csum_start);
    let at = start + usize::from(header.csum_offset);
    if start >= bytes.len() || at + 2 > bytes.len() {
        return false;
    }
    // The field holds the sum of the pseudo header, so summing over it completes it.
    let checksum = nonzero(!checksum::sum(&bytes[start..]));
    bytes[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
    true
}

/// The complement of the sum over pseudo header and transport bytes: the value of the checksum field if that is
/// zero in `bytes`; zero if the field is right.
pub(crate) fn transport_checksum(ip: &Packet, bytes: &[u8]) -> u16 {
    let transport = &bytes[ip.transport..];
    let pseudo = checksum::pseudo_header(&bytes[addresses(ip)], ip.protocol, transport.len());
    let checksum = !checksum::add(pseudo, checksum::sum(transport));
    if ip.protocol == UDP {
        nonzero(checksum)
    } else {
        checksum
    }
}

/// Zero means "no checksum" in UDP; its other form in ones' complement does not.
const fn nonzero(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::packet::samples;

    fn cut(header: VnetHeader, bytes: &[u8]) -> Vec<Vec<u8>> {
        let ip = Packet::parse(bytes).unwrap();
        let whole = SuperPacket::new(header, ip, bytes).unwrap();
        (0..whole.count())
            .map(|index| {
                let mut out = vec![0; 2_000];
                let length = whole.write(index, Checksum::Complete, &mut out).unwrap();
                out.truncate(length);
                out
            })
            .collect()
    }

    fn gso(gso: Gso, gso_size: u16) -> VnetHeader {
        VnetHeader {
            gso,
            gso_size,
            flags: NEEDS_CSUM,
            ..VnetHeader::default()
        }
    }

    fn is_right(packet: &[u8]) -> bool {
        let ip = Packet::parse(packet).unwrap();
        let transport = matches!(transport_checksum(&ip, packet), 0 | 0xffff);
        ip.length == packet.len()
            && transport
            && (ip.is_ipv6() || checksum::sum(&packet[..20]) == 0xffff)
    }

    #[test]
    fn flags_stand_where_they_belong() {
        let packet = samples::tcp(false, 100, TCP_CWR | TCP_PSH | TCP_FIN | 0x10, &[7; 250]);
        let flags: Vec<_> = cut(gso(Gso::TcpV4, 100), &packet)
            .iter()
            .map(|packet| packet[33])
            .collect();
        assert_eq!(flags, [TCP_CWR | 0x10, 0x10, TCP_PSH | TCP_FIN | 0x10]);
    }

    #[test]
    fn a_segment_with_a_partial_checksum_completes_to_the_very_same() {
        for v6 in [false, true] {
            let packet = samples::tcp(v6, 100, 0x10, &[7; 2_501]);
            let ip = Packet::parse(&packet).unwrap();
            let header = gso(if v6 { Gso::TcpV6 } else { Gso::TcpV4 }, 1_000);
            let whole = SuperPacket::new(header, ip, &packet).unwrap();
            for (index, complete) in cut(header, &packet).iter().enumerate() {
                let mut out = vec![0; 2_000];
                let length = whole.write(index, Checksum::Partial, &mut out).unwrap();
                out.truncate(length);
                assert_ne!(&out, complete);
                let ip = Packet::parse(&out).unwrap();
                assert!(complete_partial_checksum(&ip, &mut out));
                assert_eq!(&out, complete);
            }
        }
    }

    #[test]
    fn only_tcp_and_udp_have_partial_checksums() {
        let udp = samples::udp("10.0.0.1", "10.0.0.2", b"hello");
        let header = VnetHeader {
            flags: NEEDS_CSUM,
            csum_start: 20,
            csum_offset: 6,
            ..VnetHeader::default()
        };
        let state =
            |header, bytes: &[u8]| checksum_state(header, &Packet::parse(bytes).unwrap(), bytes);
        assert_eq!(state(header, &udp), Some(Checksum::Partial));
        assert_eq!(state(VnetHeader::default(), &udp), Some(Checksum::Complete));
        let mut icmp = udp.clone();
        icmp[9] = 1;
        let mut fragment = udp.clone();
        fragment[6] = 0x20;
        let odd = VnetHeader {
            csum_offset: 4,
            ..header
        };
        for (header, bytes) in [(header, &icmp), (header, &fragment), (odd, &udp)] {
            assert_eq!(state(header, bytes), None);
        }
        for mut bytes in [icmp, fragment] {
            let ip = Packet::parse(&bytes).unwrap();
            assert!(!complete_partial_checksum(&ip, &mut bytes));
        }
    }

    #[test]
    fn partial_checksums_are_completed() {
        let right = samples::udp("10.0.0.1", "10.0.0.2", b"hello");
        let mut partial = right.clone();
        let pseudo = checksum::pseudo_header(&right[12..20], UDP, right.len() - 20);
        partial[26..28].copy_from_slice(&pseudo.to_be_bytes());
        let header = VnetHeader {
            flags: NEEDS_CSUM,
            csum_start: 20,
            csum_offset: 6,
            ..VnetHeader::default()
        };
        assert!(complete_checksum(header, &mut partial));
        assert_eq!(partial, right);
        assert!(!complete_checksum(
            VnetHeader {
                csum_start: 4_000,
                ..header
            },
            &mut partial
        ));
        assert!(!complete_checksum(
            VnetHeader {
                csum_offset: 4_000,
                ..header
            },
            &mut partial
        ));
    }

    proptest! {
        #[test]
        fn segments_are_right_and_hold_the_payload(v6: bool, payload in proptest::collection::vec(any::<u8>(), 1..9_000), size in 100_u16..1_300) {
            let packet = samples::tcp(v6, u32::MAX - 500, 0x18, &payload);
            let kind = if v6 { Gso::TcpV6 } else { Gso::TcpV4 };
            let segments = cut(gso(kind, size), &packet);
            let headers = packet.len() - payload.len();
            let mut seq = u32::MAX - 500;
            let mut joined: Vec<u8> = Vec::new();
            for segment in &segments {
                prop_assert!(is_right(segment));
                prop_assert_eq!(&segment[headers - 28..headers - 24], &seq.to_be_bytes());
                seq = seq.wrapping_add((segment.len() - headers) as u32);
                joined.extend(&segment[headers..]);
            }
            prop_assert_eq!(joined, payload);
        }

        #[test]
        fn datagrams_are_right_and_hold_the_payload(v6: bool, payload in proptest::collection::vec(any::<u8>(), 1..9_000), size in 100_u16..1_300) {
            let (source, destination) = if v6 { ("fd00::1", "fd00::2") } else { ("10.0.0.1", "10.0.0.2") };
            let segments = cut(gso(Gso::UdpL4, size), &samples::udp(source, destination, &payload));
            let joined: Vec<u8> = segments.iter().flat_map(|segment| &segment[if v6 { 48 } else { 28 }..]).copied().collect();
            prop_assert!(segments.iter().all(|segment| is_right(segment)));
            prop_assert_eq!(joined, payload);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), kind in 0_usize..4, gso_size: u16, csum_start in 0_u16..400, csum_offset in 0_u16..400) {
            let gso = [Gso::None, Gso::TcpV4, Gso::TcpV6, Gso::UdpL4][kind];
            let header = VnetHeader { gso, gso_size, flags: NEEDS_CSUM, csum_start, csum_offset, hdr_len: 0 };
            let mut bytes = bytes;
            if let Some(whole) = Packet::parse(&bytes).and_then(|ip| SuperPacket::new(header, ip, &bytes)) {
                let mut out = [0; 400];
                for index in 0..whole.count() + 1 {
                    let _ = whole.write(index, Checksum::Complete, &mut out);
                }
            }
            let _ = complete_checksum(header, &mut bytes);
        }
    }
}
