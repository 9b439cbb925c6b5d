//! Views of IP packets: where the headers are and what they say. Made from any bytes, never panics.
//!
//! RFC 791, RFC 8200 (extension headers are walked as far as needed to find the transport header), RFC 9293, RFC 768.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::checksum;

/// Protocol number of ICMP.
pub const ICMP: u8 = 1;
/// Protocol number of TCP.
pub const TCP: u8 = 6;
/// Protocol number of UDP.
pub const UDP: u8 = 17;
/// Protocol number of ICMPv6.
pub const ICMPV6: u8 = 58;

/// Bytes of an IPv6 header, and of an IPv4 header without options.
pub(crate) const IPV6_HEADER: usize = 40;
pub(crate) const IPV4_HEADER: usize = 20;
/// Extension headers that are looked through; a packet with more is of an unknown protocol.
const MAX_EXTENSIONS: usize = 8;

/// What the headers of a packet say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// Where it comes from.
    pub source: IpAddr,
    /// Where it goes.
    pub destination: IpAddr,
    /// The transport protocol.
    pub protocol: u8,
    /// Where the transport header begins.
    pub transport: usize,
    /// Bytes of the packet, by its own account.
    pub length: usize,
    /// Time to live or hop limit.
    pub ttl: u8,
    /// Differentiated services code point (RFC 2474).
    pub dscp: u8,
    /// Whether the packet is a fragment, and which.
    pub fragment: Fragment,
    /// IPv4: may not be fragmented. IPv6: always so.
    pub dont_fragment: bool,
}

/// Whether a packet is a fragment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fragment {
    /// A whole packet.
    Whole,
    /// The first fragment: it has a transport header.
    First,
    /// A further one: it has none.
    Further,
}

impl Packet {
    /// Reads the headers; `None` if the bytes are no packet, or fewer than the packet says.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        match bytes.first()? >> 4 {
            4 => Self::parse_v4(bytes),
            6 => Self::parse_v6(bytes),
            _ => None,
        }
    }

    /// Whether the packet is IPv6.
    pub fn is_ipv6(&self) -> bool {
        self.source.is_ipv6()
    }

    /// Source and destination port, if the packet has them.
    pub fn ports(&self, bytes: &[u8]) -> Option<[u8; 4]> {
        if !matches!(self.protocol, TCP | UDP) || self.fragment != Fragment::Whole {
            return None;
        }
        bytes
            .get(self.transport..self.length)?
            .first_chunk()
            .copied()
    }

    /// Whether the destination is one that no node can own: multicast, broadcast, link-local, unspecified.
    pub fn is_unroutable(&self) -> bool {
        is_special(self.destination) || is_special(self.source)
    }

    fn parse_v4(bytes: &[u8]) -> Option<Self> {
        let header: &[u8; IPV4_HEADER] = bytes.first_chunk()?;
        let transport = usize::from(header[0] & 15) * 4;
        let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if transport < IPV4_HEADER || length < transport || length > bytes.len() {
            return None;
        }
        let fragmentation = u16::from_be_bytes([header[6], header[7]]);
        Some(Self {
            source: Ipv4Addr::new(header[12], header[13], header[14], header[15]).into(),
            destination: Ipv4Addr::new(header[16], header[17], header[18], header[19]).into(),
            protocol: header[9],
            transport,
            length,
            ttl: header[8],
            dscp: header[1] >> 2,
            fragment: Fragment::of(fragmentation & 0x1fff, fragmentation & 0x2000 != 0),
            dont_fragment: fragmentation & 0x4000 != 0,
        })
    }

    fn parse_v6(bytes: &[u8]) -> Option<Self> {
        let header: &[u8; IPV6_HEADER] = bytes.first_chunk()?;
        let length = IPV6_HEADER + usize::from(u16::from_be_bytes([header[4], header[5]]));
        if length > bytes.len() {
            return None;
        }
        let address =
            |at: usize| Ipv6Addr::from(std::array::from_fn::<u8, 16, _>(|i| header[at + i]));
        let extensions = Extensions::walk(header[6], &bytes[..length]);
        Some(Self {
            source: address(8).into(),
            destination: address(24).into(),
            protocol: extensions.protocol,
            transport: extensions.transport,
            length,
            ttl: header[7],
            dscp: (header[0] << 4 | header[1] >> 4) >> 2,
            fragment: extensions.fragment,
            dont_fragment: true,
        })
    }
}

impl Fragment {
    fn of(offset: u16, more: bool) -> Self {
        match (offset, more) {
            (0, false) => Self::Whole,
            (0, true) => Self::First,
            _ => Self::Further,
        }
    }
}

/// Where the chain of IPv6 extension headers ends.
struct Extensions {
    protocol: u8,
    transport: usize,
    fragment: Fragment,
}

impl Extensions {
    fn walk(first: u8, bytes: &[u8]) -> Self {
        const HOP_BY_HOP: u8 = 0;
        const ROUTING: u8 = 43;
        const FRAGMENT: u8 = 44;
        const DESTINATION: u8 = 60;
        let mut found = Self {
            protocol: first,
            transport: IPV6_HEADER,
            fragment: Fragment::Whole,
        };
        for _ in 0..MAX_EXTENSIONS {
            let Some(extension) = bytes
                .get(found.transport..)
                .and_then(<[u8]>::first_chunk::<8>)
            else {
                break;
            };
            let length = match found.protocol {
                HOP_BY_HOP | ROUTING | DESTINATION => 8 * (usize::from(extension[1]) + 1),
                FRAGMENT => {
                    let field = u16::from_be_bytes([extension[2], extension[3]]);
                    found.fragment = Fragment::of(field >> 3, field & 1 != 0);
                    8
                }
                _ => break,
            };
            if found.transport + length > bytes.len() {
                break;
            }
            found.protocol = extension[0];
            found.transport += length;
            if found.fragment == Fragment::Further {
                break;
            }
        }
        found
    }
}

/// Lowers time to live or hop limit by `relays` (what a packet crossed without being seen); `false` if it ends.
#[must_use]
pub fn lower_ttl(bytes: &mut [u8], relays: u8) -> bool {
    let (at, protocol_at) = match bytes.first().map(|first| first >> 4) {
        Some(4) if bytes.len() >= IPV4_HEADER => (8, Some(9)),
        Some(6) if bytes.len() >= IPV6_HEADER => (7, None),
        _ => return false,
    };
    if bytes[at] <= relays {
        return false;
    }
    let old = bytes[at];
    bytes[at] -= relays;
    if let Some(protocol) = protocol_at.map(|at| bytes[at]) {
        let checksum = u16::from_be_bytes([bytes[10], bytes[11]]);
        let word = |ttl| u16::from_be_bytes([ttl, protocol]);
        let checksum = checksum::updated(checksum, word(old), word(old - relays));
        bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
    }
    true
}

/// Marks that congestion was met (RFC 3168 §5); `false` if the packet's transport does not know such marks.
#[must_use]
pub fn mark_congestion(bytes: &mut [u8]) -> bool {
    match bytes.first().map(|first| first >> 4) {
        Some(4) if bytes.len() >= IPV4_HEADER => {
            if bytes[1] & 3 == 0 {
                return false;
            }
            let word = |bytes: &[u8]| u16::from_be_bytes([bytes[0], bytes[1]]);
            let old = word(bytes);
            bytes[1] |= 3;
            let checksum = u16::from_be_bytes([bytes[10], bytes[11]]);
            let checksum = checksum::updated(checksum, old, word(bytes));
            bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
            true
        }
        Some(6) if bytes.len() >= IPV6_HEADER => {
            let capable = bytes[1] & 0x30 != 0;
            if capable {
                bytes[1] |= 0x30;
            }
            capable
        }
        _ => false,
    }
}

fn is_special(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            v4.is_multicast()
                || v4.is_broadcast()
                || v4.is_link_local()
                || v4.is_loopback()
                || v4.is_unspecified()
        }
        IpAddr::V6(v6) => {
            v6.is_multicast()
                || v6.is_unicast_link_local()
                || v6.is_loopback()
                || v6.is_unspecified()
        }
    }
}

#[cfg(test)]
pub(crate) mod samples {
    //! Packets for tests.

    use super::*;

    /// A TCP or UDP packet with correct checksums.
    pub(crate) fn packet(
        source: &str,
        destination: &str,
        protocol: u8,
        header: &[u8],
        payload: &[u8],
    ) -> Vec<u8> {
        let transport: Vec<u8> = header.iter().chain(payload).copied().collect();
        let mut packet = match (source.parse().unwrap(), destination.parse().unwrap()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut ip = vec![0x45, 0, 0, 0, 0x12, 0x34, 0x40, 0, 64, protocol, 0, 0];
                ip[2..4].copy_from_slice(&((20 + transport.len()) as u16).to_be_bytes());
                ip.extend(source.octets());
                ip.extend(destination.octets());
                let checksum = !checksum::sum(&ip);
                ip[10..12].copy_from_slice(&checksum.to_be_bytes());
                ip
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let mut ip = vec![0x60, 0, 0, 0, 0, 0, protocol, 64];
                ip[4..6].copy_from_slice(&(transport.len() as u16).to_be_bytes());
                ip.extend(source.octets());
                ip.extend(destination.octets());
                ip
            }
            _ => panic!("one address family"),
        };
        let at = packet.len();
        let addresses = if at == 20 { 12 } else { 8 };
        let pseudo = checksum::pseudo_header(&packet[addresses..at], protocol, transport.len());
        packet.extend(transport);
        let field = at + if protocol == TCP { 16 } else { 6 };
        let checksum = !checksum::add(pseudo, checksum::sum(&packet[at..]));
        packet[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
        packet
    }

    pub(crate) fn tcp(v6: bool, seq: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut header = [
            0x10, 0x01, 0x20, 0x02, 0, 0, 0, 0, 0, 0, 0, 9, 0x80, flags, 1, 0, 0, 0, 0, 0, 1, 1, 8,
            10, 0, 0, 0, 1, 0, 0, 0, 2,
        ]
        .to_vec();
        header[4..8].copy_from_slice(&seq.to_be_bytes());
        header[12] = 0x80;
        match v6 {
            false => packet("10.0.0.1", "10.0.0.2", TCP, &header, payload),
            true => packet("fd00::1", "fd00::2", TCP, &header, payload),
        }
    }

    pub(crate) fn udp(source: &str, destination: &str, payload: &[u8]) -> Vec<u8> {
        let length = (8 + payload.len()) as u16;
        let mut header = [0x10, 0x01, 0x20, 0x02, 0, 0, 0, 0];
        header[4..6].copy_from_slice(&length.to_be_bytes());
        packet(source, destination, UDP, &header, payload)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn headers_say_what_was_written() {
        let bytes = samples::udp("10.0.0.1", "10.0.0.2", b"hello");
        let packet = Packet::parse(&bytes).unwrap();
        assert_eq!(packet.source.to_string(), "10.0.0.1");
        assert_eq!(
            (packet.protocol, packet.transport, packet.length, packet.ttl),
            (UDP, 20, 33, 64)
        );
        assert_eq!(packet.ports(&bytes), Some([0x10, 1, 0x20, 2]));
        let bytes = samples::udp("fd00::1", "fd00::2", b"hello");
        let packet = Packet::parse(&bytes).unwrap();
        assert_eq!(
            (packet.protocol, packet.transport, packet.length),
            (UDP, 40, 53)
        );
    }

    #[test]
    fn extension_headers_are_looked_through() {
        let mut bytes = samples::udp("fd00::1", "fd00::2", b"hello");
        bytes.splice(40..40, [UDP, 0, 0, 0, 0, 0, 0, 0]);
        bytes[6] = 60;
        bytes[5] += 8;
        let packet = Packet::parse(&bytes).unwrap();
        assert_eq!((packet.protocol, packet.transport), (UDP, 48));
        bytes[6] = 44;
        bytes[42..44].copy_from_slice(&(1_u16 << 3).to_be_bytes());
        let packet = Packet::parse(&bytes).unwrap();
        assert_eq!(
            (packet.fragment, packet.ports(&bytes)),
            (Fragment::Further, None)
        );
    }

    #[test]
    fn truncated_packets_are_none() {
        for bytes in [
            samples::udp("10.0.0.1", "10.0.0.2", b"x"),
            samples::udp("fd00::1", "fd00::2", b"x"),
        ] {
            for length in 0..bytes.len() {
                assert_eq!(Packet::parse(&bytes[..length]), None);
            }
        }
    }

    #[test]
    fn a_lowered_ttl_keeps_the_checksum_right() {
        for relays in 0..64 {
            let mut bytes = samples::udp("10.0.0.1", "10.0.0.2", b"hello");
            assert!(lower_ttl(&mut bytes, relays));
            assert_eq!(
                (bytes[8], checksum::sum(&bytes[..20])),
                (64 - relays, 0xffff)
            );
        }
        assert!(!lower_ttl(
            &mut samples::udp("10.0.0.1", "10.0.0.2", b""),
            64
        ));
        assert!(!lower_ttl(
            &mut samples::udp("fd00::1", "fd00::2", b""),
            200
        ));
        assert!(!lower_ttl(&mut [], 1));
    }

    #[test]
    fn congestion_is_marked_where_the_transport_knows_marks() {
        for (from, to) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
            let mut bytes = samples::udp(from, to, b"hello");
            let before = bytes.clone();
            assert!(!mark_congestion(&mut bytes));
            assert_eq!(bytes, before);
            // Expedited forwarding, capable of marks.
            let v4 = bytes[0] >> 4 == 4;
            if v4 {
                bytes[1] = 46 << 2 | 2;
                bytes[10..12].fill(0);
                let checksum = !checksum::sum(&bytes[..20]);
                bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
            } else {
                bytes[0] |= 46 >> 2;
                bytes[1] |= (46 & 3) << 6 | 2 << 4;
            }
            let dscp = |bytes: &[u8]| Packet::parse(bytes).unwrap().dscp;
            assert_eq!(dscp(&bytes), 46);
            assert!(mark_congestion(&mut bytes) && mark_congestion(&mut bytes));
            let ecn = if v4 { bytes[1] & 3 } else { bytes[1] >> 4 & 3 };
            assert_eq!((dscp(&bytes), ecn), (46, 3));
            if v4 {
                assert_eq!(checksum::sum(&bytes[..20]), 0xffff);
            }
        }
        assert!(!mark_congestion(&mut []));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), version in 3_u8..8) {
            if let Some(first) = bytes.first_mut() {
                *first = version << 4 | (*first & 15);
            }
            if let Some(packet) = Packet::parse(&bytes) {
                prop_assert!(packet.length <= bytes.len() && packet.transport <= packet.length);
                let _ = packet.ports(&bytes);
            }
            let _ = lower_ttl(&mut bytes, 3);
            let _ = mark_congestion(&mut bytes);
        }
    }
}
