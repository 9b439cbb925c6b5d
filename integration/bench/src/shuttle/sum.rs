//! Ones' complement sums in native order, unfolded, with the widest instructions that the CPU has: without a cipher they are
//! most of what the shuttle computes.
#![expect(
    unsafe_code,
    reason = "a function for wider instructions can be called only where they are known to exist"
)]

/// Bytes of one step; each lane of 64 bits takes words of 32 bits, which cannot overflow it within a packet.
const STEP: usize = 32;

/// Adds bytes to a sum. Every call but the last wants an even length.
pub(crate) fn add(bytes: &[u8], sum: u64) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if bytes.len() >= STEP && std::is_x86_feature_detected!("avx2") {
        // SAFETY: AVX2 was found on this CPU.
        return unsafe { add_wide(bytes, sum) };
    }
    add_words(bytes, sum)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn add_wide(bytes: &[u8], sum: u64) -> u64 {
    add_words(bytes, sum)
}

/// Inlined, so that it is compiled with the instructions of its caller.
#[inline(always)]
fn add_words(bytes: &[u8], sum: u64) -> u64 {
    let (steps, rest) = bytes.as_chunks::<STEP>();
    let mut lanes = [0_u64; STEP / 4];
    for step in steps {
        for (lane, word) in lanes.iter_mut().zip(step.as_chunks::<4>().0) {
            *lane += u64::from(u32::from_ne_bytes(*word));
        }
    }
    let (pairs, last) = rest.as_chunks::<2>();
    let mut sum = sum + lanes.iter().sum::<u64>();
    for pair in pairs {
        sum += u64::from(u16::from_ne_bytes(*pair));
    }
    if let [odd] = last {
        sum += u64::from(u16::from_ne_bytes([*odd, 0]));
    }
    sum
}

/// Folds a sum to 16 bits.
pub(crate) fn fold(sum: u64) -> u16 {
    let mut sum = sum;
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_the_words_one_by_one_at_every_length() {
        let bytes: Vec<u8> = (0..200_u32).map(|at| (at * 167 % 256) as u8).collect();
        for length in 0..bytes.len() {
            let mut naive = 7_u64;
            for pair in bytes[..length].chunks(2) {
                naive += u64::from(u16::from_ne_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
            }
            assert_eq!(
                fold(add(&bytes[..length], 7)),
                fold(naive),
                "{length} bytes"
            );
            assert_eq!(fold(add_words(&bytes[..length], 7)), fold(naive));
        }
    }
}
