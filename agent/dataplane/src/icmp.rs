//! Answers to packets that cannot go on: too big, unreachable, time exceeded (RFC 792, RFC 1191, RFC 4443).
//!
//! Made by the agent and handed to the kernel of the node that sent the packet. How often is the caller's business.

use std::net::IpAddr;

use crate::checksum;
use crate::packet::{Fragment, ICMP, ICMPV6, IPV4_HEADER, IPV6_HEADER, Packet};

/// Bytes of the longest answer: an IPv6 packet of the minimum MTU (RFC 4443 §2.4 c).
pub const MAX_ANSWER: usize = 1_280;
/// Bytes of the longest answer over IPv4 (RFC 1812 §4.3.2.3).
const MAX_ANSWER_V4: usize = 576;
const ICMP_HEADER: usize = 8;
const HOP_LIMIT: u8 = 64;

/// What went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// The packet is longer than `mtu` and may not be fragmented.
    TooBig {
        /// The MTU that it does not fit.
        mtu: u16,
    },
    /// No route leads to the destination.
    NoRoute,
    /// The destination or the source is administratively forbidden.
    Prohibited,
    /// The hop limit ended.
    TimeExceeded,
}

/// Writes the answer to `packet` into `out`; its length, or `None` if no answer is due.
///
/// It comes as from the packet's destination: a kernel takes no packet of a device whose source is an address of its own
/// (a martian), and who else on the way would it know?
pub fn answer(problem: Problem, packet: &Packet, bytes: &[u8], out: &mut [u8]) -> Option<usize> {
    if !deserves_answer(packet, bytes) {
        return None;
    }
    let original = bytes.get(..packet.length)?;
    match packet.destination {
        IpAddr::V4(from) => answer_v4(problem, from.octets(), original, out),
        IpAddr::V6(from) => answer_v6(problem, from.octets(), original, out),
    }
}

/// RFC 1122 §3.2.2, RFC 4443 §2.4 e: never answer errors, further fragments, or what does not come from one host.
fn deserves_answer(packet: &Packet, bytes: &[u8]) -> bool {
    let kind = bytes.get(packet.transport).copied();
    let is_error = match packet.protocol {
        ICMP => !matches!(kind, Some(0 | 8 | 13 | 14)),
        ICMPV6 => kind.is_none_or(|kind| kind < 128),
        _ => false,
    };
    !is_error && packet.fragment != Fragment::Further && !packet.is_unroutable()
}

fn answer_v4(problem: Problem, from: [u8; 4], original: &[u8], out: &mut [u8]) -> Option<usize> {
    let (kind, code, mtu) = match problem {
        Problem::TooBig { mtu } => (3, 4, mtu),
        Problem::NoRoute => (3, 0, 0),
        Problem::Prohibited => (3, 13, 0),
        Problem::TimeExceeded => (11, 0, 0),
    };
    let quoted = original
        .len()
        .min(MAX_ANSWER_V4 - IPV4_HEADER - ICMP_HEADER);
    let length = IPV4_HEADER + ICMP_HEADER + quoted;
    let out = out.get_mut(..length)?;
    out[..12].copy_from_slice(&[0x45, 0, 0, 0, 0, 0, 0, 0, HOP_LIMIT, ICMP, 0, 0]);
    out[2..4].copy_from_slice(&(length as u16).to_be_bytes());
    out[12..16].copy_from_slice(&from);
    out[16..20].copy_from_slice(&original[12..16]);
    let checksum = !checksum::sum(&out[..IPV4_HEADER]);
    out[10..12].copy_from_slice(&checksum.to_be_bytes());
    let icmp = &mut out[IPV4_HEADER..];
    icmp[..6].copy_from_slice(&[kind, code, 0, 0, 0, 0]);
    icmp[6..8].copy_from_slice(&mtu.to_be_bytes());
    icmp[ICMP_HEADER..].copy_from_slice(&original[..quoted]);
    let checksum = !checksum::sum(icmp);
    icmp[2..4].copy_from_slice(&checksum.to_be_bytes());
    Some(length)
}

fn answer_v6(problem: Problem, from: [u8; 16], original: &[u8], out: &mut [u8]) -> Option<usize> {
    let (kind, code, mtu) = match problem {
        Problem::TooBig { mtu } => (2, 0, mtu),
        Problem::NoRoute => (1, 0, 0),
        Problem::Prohibited => (1, 1, 0),
        Problem::TimeExceeded => (3, 0, 0),
    };
    let quoted = original.len().min(MAX_ANSWER - IPV6_HEADER - ICMP_HEADER);
    let length = IPV6_HEADER + ICMP_HEADER + quoted;
    let out = out.get_mut(..length)?;
    out[..8].copy_from_slice(&[0x60, 0, 0, 0, 0, 0, ICMPV6, HOP_LIMIT]);
    out[4..6].copy_from_slice(&((ICMP_HEADER + quoted) as u16).to_be_bytes());
    out[8..24].copy_from_slice(&from);
    out[24..40].copy_from_slice(&original[8..24]);
    let pseudo = checksum::pseudo_header(&out[8..40], ICMPV6, ICMP_HEADER + quoted);
    let icmp = &mut out[IPV6_HEADER..];
    icmp[..4].copy_from_slice(&[kind, code, 0, 0]);
    icmp[4..8].copy_from_slice(&u32::from(mtu).to_be_bytes());
    icmp[ICMP_HEADER..].copy_from_slice(&original[..quoted]);
    let checksum = !checksum::add(pseudo, checksum::sum(icmp));
    icmp[2..4].copy_from_slice(&checksum.to_be_bytes());
    Some(length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::samples;
    use crate::segment::transport_checksum;

    fn answered(problem: Problem, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut out = [0; MAX_ANSWER];
        let length = answer(problem, &Packet::parse(bytes).unwrap(), bytes, &mut out)?;
        Some(out[..length].to_vec())
    }

    #[test]
    fn too_big_says_the_mtu_and_quotes_the_packet() {
        let original = samples::udp("10.0.0.1", "10.0.0.2", &[3; 1_400]);
        let answer = answered(Problem::TooBig { mtu: 1_360 }, &original).unwrap();
        let packet = Packet::parse(&answer).unwrap();
        assert_eq!(
            (packet.source.to_string(), packet.destination.to_string()),
            ("10.0.0.2".into(), "10.0.0.1".into())
        );
        assert_eq!(
            (
                answer[20],
                answer[21],
                u16::from_be_bytes([answer[26], answer[27]])
            ),
            (3, 4, 1_360)
        );
        assert_eq!(
            (checksum::sum(&answer[..20]), checksum::sum(&answer[20..])),
            (0xffff, 0xffff)
        );
        assert_eq!(answer[28..], original[..548]);

        let original = samples::udp("fd00::1", "fd00::2", &[3; 1_400]);
        let answer = answered(Problem::TooBig { mtu: 1_360 }, &original).unwrap();
        let packet = Packet::parse(&answer).unwrap();
        assert_eq!(
            (
                answer.len(),
                answer[40],
                answer[46..48] == 1_360_u16.to_be_bytes()
            ),
            (1_280, 2, true)
        );
        assert_eq!(transport_checksum(&packet, &answer), 0);
    }

    #[test]
    fn errors_are_not_answered() {
        let original = samples::udp("10.0.0.1", "10.0.0.2", b"x");
        let error = answered(Problem::NoRoute, &original).unwrap();
        assert_eq!(answered(Problem::NoRoute, &error), None);
        let original = samples::udp("fd00::1", "fd00::2", b"x");
        let error = answered(Problem::TimeExceeded, &original).unwrap();
        assert_eq!(answered(Problem::NoRoute, &error), None);
        let multicast = samples::udp("fd00::1", "ff02::2", b"x");
        assert_eq!(answered(Problem::NoRoute, &multicast), None);
    }
}
