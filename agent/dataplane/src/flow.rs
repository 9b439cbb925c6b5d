//! The hash of a flow: addresses, protocol and ports. The same for every packet of a flow, so that a flow keeps its path.

use std::net::IpAddr;

use crate::packet::Packet;

/// The flow that a packet belongs to; fragments are told apart by addresses and protocol only.
pub fn hash(packet: &Packet, bytes: &[u8]) -> u32 {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for address in [packet.source, packet.destination] {
        match address {
            IpAddr::V4(v4) => state = mix(state, u64::from(u32::from(v4))),
            IpAddr::V6(v6) => {
                let bits = u128::from(v6);
                state = mix(mix(state, (bits >> 64) as u64), bits as u64);
            }
        }
    }
    let ports = u32::from_be_bytes(packet.ports(bytes).unwrap_or_default());
    state = mix(state, u64::from(packet.protocol) << 32 | u64::from(ports));
    (state >> 32) as u32 ^ state as u32
}

/// A 64-bit finaliser (Stafford's variant 13): every input bit changes half of the output bits.
fn mix(state: u64, input: u64) -> u64 {
    let mut x = state ^ input;
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::samples;

    fn flow(bytes: &[u8]) -> u32 {
        hash(&Packet::parse(bytes).unwrap(), bytes)
    }

    #[test]
    fn a_flow_keeps_its_hash_whatever_it_carries() {
        assert_eq!(
            flow(&samples::tcp(false, 1, 16, b"a")),
            flow(&samples::tcp(false, 9, 24, b"bc"))
        );
        assert_ne!(
            flow(&samples::tcp(false, 1, 16, b"a")),
            flow(&samples::tcp(true, 1, 16, b"a"))
        );
    }

    #[test]
    fn flows_spread_evenly_over_buckets() {
        let mut buckets = [0_u32; 16];
        for port in 0..4_096_u16 {
            let mut bytes = samples::udp("10.0.0.1", "10.0.0.2", b"");
            bytes[20..22].copy_from_slice(&port.to_be_bytes());
            buckets[flow(&bytes) as usize % 16] += 1;
        }
        assert!(
            buckets.iter().all(|count| (180..340).contains(count)),
            "{buckets:?}"
        );
    }
}
