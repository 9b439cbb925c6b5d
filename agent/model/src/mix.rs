//! Chance that everybody draws alike: who stands where on a ring, whose turn it is.

/// Spreads a number over all others (the finaliser of splitmix64). Part of the protocol (`docs/protocol/routing.md` §6): who
/// computes another one has other neighbours.
pub const fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}
