//! Lowering the maximum segment size that a TCP connection announces, so that full segments fit a path whose ICMP errors
//! do not get to their senders (RFC 9293 §3.7.1, RFC 6691; checksums by RFC 1624).
//!
//! Only SYNs carry the option. One without it is left alone: its sender may be sent 536 bytes over IPv4 and 1220 over
//! IPv6 (RFC 9293 §3.7.1), which fit every path. Knows nothing of paths; whatever contradicts itself is left alone.

use wattle_model::Checksum;

use crate::checksum;
use crate::packet::{Fragment, IPV4_HEADER, IPV6_HEADER, Packet, TCP};

/// Bytes of a TCP header without options. Options are the sender's to subtract (RFC 6691 §2).
const TCP_HEADER: usize = 20;
const TCP_SYN: u8 = 0x02;
const TCP_CHECKSUM: usize = 16;
const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const MSS: u8 = 2;

/// Lowers the maximum segment size of a SYN to what packets of `mtu` bytes hold; whether there was anything to lower.
pub fn clamp(ip: &Packet, bytes: &mut [u8], checksum: Checksum, mtu: u16) -> bool {
    let headers = TCP_HEADER
        + if ip.is_ipv6() {
            IPV6_HEADER
        } else {
            IPV4_HEADER
        };
    let most = mtu.saturating_sub(headers as u16);
    let Some(header) = syn_header(ip, bytes) else {
        return false;
    };
    let mut lowered = false;
    let mut at = TCP_HEADER;
    while let Some(option) = TcpOption::at(header, at) {
        if option.kind == MSS && option.length == 4 {
            lowered |= lower(header, at + 2, most, checksum);
        }
        at += option.length;
    }
    lowered
}

/// The TCP header of a SYN; `None` for every other packet.
fn syn_header<'a>(ip: &Packet, bytes: &'a mut [u8]) -> Option<&'a mut [u8]> {
    if ip.protocol != TCP || ip.fragment == Fragment::Further {
        return None;
    }
    let tcp = bytes.get_mut(ip.transport..ip.length)?;
    let length = usize::from(*tcp.get(12)? >> 4) * 4;
    let is_syn = *tcp.get(13)? & TCP_SYN != 0;
    if !is_syn || length < TCP_HEADER {
        return None;
    }
    tcp.get_mut(..length)
}

/// What kind of option a header has somewhere, and how long it is.
struct TcpOption {
    kind: u8,
    length: usize,
}

impl TcpOption {
    /// `None` behind the last one.
    fn at(header: &[u8], at: usize) -> Option<Self> {
        let kind = *header.get(at)?;
        let length = match kind {
            END => return None,
            NO_OPERATION => 1,
            _ => usize::from(*header.get(at + 1)?),
        };
        let is_whole = (length >= 2 || kind == NO_OPERATION) && at + length <= header.len();
        is_whole.then_some(Self { kind, length })
    }
}

/// Lowers the value at `at` and updates the checksum, unless that is partial: it does not cover the header yet.
fn lower(header: &mut [u8], at: usize, most: u16, state: Checksum) -> bool {
    let value = u16::from_be_bytes([header[at], header[at + 1]]);
    if value <= most {
        return false;
    }
    header[at..at + 2].copy_from_slice(&most.to_be_bytes());
    if state == Checksum::Complete {
        // A value at an odd place lies across two words of the sum, its bytes swapped.
        let word = |value: u16| match at.is_multiple_of(2) {
            true => value,
            false => value.swap_bytes(),
        };
        let field = [header[TCP_CHECKSUM], header[TCP_CHECKSUM + 1]];
        let updated = checksum::updated(u16::from_be_bytes(field), word(value), word(most));
        header[TCP_CHECKSUM..TCP_CHECKSUM + 2].copy_from_slice(&updated.to_be_bytes());
    }
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::packet::samples;
    use crate::segment::{complete_partial_checksum, transport_checksum, write_partial_checksum};

    const SYN: u8 = TCP_SYN;
    const SYN_ACK: u8 = TCP_SYN | 0x10;
    const ACK: u8 = 0x10;

    /// A TCP packet with these flags and options (padded to whole words) and a right checksum.
    fn tcp(v6: bool, flags: u8, options: &[u8]) -> Vec<u8> {
        let mut header = vec![
            0x10, 1, 0x20, 2, 0, 0, 0, 1, 0, 0, 0, 9, 0, flags, 1, 0, 0, 0, 0, 0,
        ];
        header.extend(options);
        header.resize(header.len().next_multiple_of(4), END);
        header[12] = (header.len() * 4) as u8;
        match v6 {
            false => samples::packet("10.0.0.1", "10.0.0.2", TCP, &header, b"data"),
            true => samples::packet("fd00::1", "fd00::2", TCP, &header, b"data"),
        }
    }

    fn clamped(packet: &[u8], checksum: Checksum, mtu: u16) -> Option<Vec<u8>> {
        let mut bytes = packet.to_vec();
        let lowered = clamp(&Packet::parse(packet).unwrap(), &mut bytes, checksum, mtu);
        assert_eq!(lowered, bytes != packet, "what it says is what it did");
        lowered.then_some(bytes)
    }

    fn has_right_checksum(packet: &[u8]) -> bool {
        transport_checksum(&Packet::parse(packet).unwrap(), packet) == 0
    }

    #[test]
    fn a_syn_and_its_answer_announce_no_more_than_the_path_carries() {
        for flags in [SYN, SYN_ACK] {
            for (v6, most) in [(false, 1_240_u16), (true, 1_220)] {
                let packet = tcp(v6, flags, &[MSS, 4, 0x05, 0xb4, 1, 1, 4, 2]);
                let lowered = clamped(&packet, Checksum::Complete, 1_280).unwrap();
                assert_eq!(
                    lowered,
                    tcp(
                        v6,
                        flags,
                        &[&[MSS, 4][..], &most.to_be_bytes(), &[1, 1, 4, 2]].concat()
                    ),
                    "one value differs, and the checksum is the one computed anew"
                );
            }
        }
    }

    #[test]
    fn nothing_is_ever_raised_and_nothing_but_the_option_of_a_syn_is_touched() {
        let [high, low] = 1_240_u16.to_be_bytes();
        for (packet, why) in [
            (tcp(false, SYN, &[MSS, 4, high, low]), "it fits exactly"),
            (tcp(false, SYN, &[MSS, 4, 2, 0x18]), "it is smaller"),
            (tcp(false, SYN, &[]), "536 bytes fit every path"),
            (tcp(false, SYN, &[1, 1, 4, 2]), "other options only"),
            (tcp(false, ACK, &[MSS, 4, 5, 0xb4]), "no SYN"),
            (tcp(false, SYN, &[END, MSS, 4, 5, 0xb4]), "behind the end"),
            (
                tcp(false, SYN, &[MSS, 3, 5, 0xb4]),
                "an option of another length",
            ),
            (
                tcp(false, SYN, &[3, 0, MSS, 4, 5, 0xb4]),
                "behind an option without length",
            ),
            (
                tcp(false, SYN, &[8, 40, MSS, 4, 5, 0xb4]),
                "an option beyond the header",
            ),
            (samples::udp("10.0.0.1", "10.0.0.2", &[2; 40]), "no TCP"),
        ] {
            assert_eq!(clamped(&packet, Checksum::Complete, 1_280), None, "{why}");
        }
        let mut further = tcp(false, SYN, &[MSS, 4, 5, 0xb4]);
        further[7] = 1;
        assert_eq!(
            clamped(&further, Checksum::Complete, 1_280),
            None,
            "no header in it"
        );
    }

    #[test]
    fn the_option_is_found_behind_others_at_odd_places_and_behind_extension_headers() {
        for padding in 0..8 {
            let mut options = vec![NO_OPERATION; padding];
            options.extend([MSS, 4, 0xff, 0xfe]);
            let lowered = clamped(&tcp(false, SYN, &options), Checksum::Complete, 1_400).unwrap();
            assert!(has_right_checksum(&lowered), "{padding} bytes before it");
            assert_eq!(lowered[42 + padding..44 + padding], 1_360_u16.to_be_bytes());
        }
        let mut chained = tcp(true, SYN, &[MSS, 4, 5, 0xb4]);
        // A hop-by-hop header, then destination options of two units.
        let chain = [
            60, 0, 1, 4, 0, 0, 0, 0, TCP, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        ];
        chained.splice(40..40, chain);
        chained[6] = 0;
        chained[5] += chain.len() as u8;
        let lowered = clamped(&chained, Checksum::Complete, 1_280).unwrap();
        assert!(has_right_checksum(&lowered));
        assert_eq!(lowered[40 + 24 + 22..][..2], 1_220_u16.to_be_bytes());
    }

    #[test]
    fn every_option_of_the_kind_is_lowered_and_a_tiny_path_leaves_nothing() {
        let twice = tcp(true, SYN, &[MSS, 4, 5, 0xb4, 1, MSS, 4, 9, 0]);
        let lowered = clamped(&twice, Checksum::Complete, 1_280).unwrap();
        assert!(has_right_checksum(&lowered));
        assert_eq!(
            (lowered[62..64].to_vec(), lowered[67..69].to_vec()),
            (vec![4, 0xc4], vec![4, 0xc4])
        );
        let least = clamped(&twice, Checksum::Complete, 10).unwrap();
        assert_eq!(least[62..64], [0, 0]);
    }

    #[test]
    fn a_partial_checksum_stays_and_completes_to_the_right_one() {
        for v6 in [false, true] {
            let whole = tcp(v6, SYN, &[1, MSS, 4, 5, 0xb4]);
            let mut partial = whole.clone();
            let ip = Packet::parse(&whole).unwrap();
            write_partial_checksum(&ip, &mut partial);
            let mut lowered = clamped(&partial, Checksum::Partial, 1_280).unwrap();
            assert!(complete_partial_checksum(&ip, &mut lowered));
            assert_eq!(Some(lowered), clamped(&whole, Checksum::Complete, 1_280));
        }
    }

    proptest! {
        #[test]
        fn a_clamped_packet_is_right_and_announces_at_most_what_fits(
            v6: bool,
            flags: u8,
            options in proptest::collection::vec(prop_oneof![Just(MSS), Just(4), Just(NO_OPERATION), any::<u8>()], 0..40),
            mtu in 0_u16..3_000,
        ) {
            let packet = tcp(v6, flags, &options);
            if let Some(lowered) = clamped(&packet, Checksum::Complete, mtu) {
                prop_assert!(has_right_checksum(&lowered));
                prop_assert_eq!(lowered.len(), packet.len());
                prop_assert_eq!(clamped(&lowered, Checksum::Complete, mtu), None, "once is enough");
                let transport = Packet::parse(&packet).unwrap().transport;
                prop_assert!(flags & SYN != 0);
                prop_assert_eq!(&lowered[..transport + 16], &packet[..transport + 16]);
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), version in 4_u8..7, protocol: bool, mtu: u16) {
            if let [first, _, _, _, _, _, v6, _, _, v4, ..] = &mut bytes[..] {
                *first = version << 4 | 5;
                if protocol { (*v6, *v4) = (TCP, TCP); }
            }
            if let Some(ip) = Packet::parse(&bytes) {
                let _ = clamp(&ip, &mut bytes, Checksum::Complete, mtu);
            }
        }
    }
}
