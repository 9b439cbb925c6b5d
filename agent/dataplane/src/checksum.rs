//! The Internet checksum (RFC 1071), whole and incremental (RFC 1624).
//!
//! Sums are folded ones' complement sums in network byte order; a checksum field holds the complement.

/// The ones' complement sum of `bytes`; an odd last byte counts as the upper half of a word.
pub fn sum(bytes: &[u8]) -> u16 {
    // Ones' complement addition does not mind the byte order, so words are added as they lie in memory, in wide
    // lanes that cannot overflow (65535 bytes are 16384 words of 32 bits), and swapped once at the end.
    let (words, rest) = bytes.as_chunks::<16>();
    let mut lanes = [0_u64; 4];
    for word in words {
        for (lane, part) in lanes.iter_mut().zip(word.as_chunks::<4>().0) {
            *lane += u64::from(u32::from_ne_bytes(*part));
        }
    }
    let mut total: u64 = lanes.iter().sum();
    let (pairs, last) = rest.as_chunks::<2>();
    for pair in pairs {
        total += u64::from(u16::from_ne_bytes(*pair));
    }
    if let [last] = last {
        total += u64::from(u16::from_ne_bytes([*last, 0]));
    }
    u16::from_be(fold(total))
}

/// The ones' complement sum of two sums.
pub const fn add(one: u16, other: u16) -> u16 {
    let (sum, carry) = one.overflowing_add(other);
    sum + carry as u16
}

/// A checksum after one of the words that it covers changed from `old` to `new` (RFC 1624 §3).
pub const fn updated(checksum: u16, old: u16, new: u16) -> u16 {
    !add(add(!checksum, !old), new)
}

/// The sum of the pseudo header of TCP, UDP and ICMPv6: both addresses, protocol and length of what is covered.
pub fn pseudo_header(addresses: &[u8], protocol: u8, length: usize) -> u16 {
    add(add(sum(addresses), u16::from(protocol)), length as u16)
}

fn fold(mut total: u64) -> u16 {
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn naive(bytes: &[u8]) -> u16 {
        let mut total = 0_u32;
        for pair in bytes.chunks(2) {
            total += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
            total = (total & 0xffff) + (total >> 16);
        }
        total as u16
    }

    proptest! {
        #[test]
        fn the_wide_sum_is_the_naive_sum(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
            prop_assert_eq!(sum(&bytes), naive(&bytes));
        }

        #[test]
        fn an_updated_checksum_is_the_one_computed_anew(mut words in proptest::collection::vec(any::<u16>(), 2..20), new: u16) {
            // The first word is not zero, as in any header: else both zeros of ones' complement could come up.
            words[0] |= 0x4000;
            let bytes = |words: &[u16]| words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<_>>();
            let before = !sum(&bytes(&words));
            let old = std::mem::replace(&mut words[1], new);
            prop_assert_eq!(updated(before, old, new), !sum(&bytes(&words)));
        }
    }
}
