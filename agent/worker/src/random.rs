//! The worker's random numbers: from a seed that the shell drew, so that a run can be repeated.

use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};
use wattle_tunnel::{ChannelKeyBytes, KeyBytes};

/// A cryptographic generator.
pub(crate) struct Random(ChaCha20Rng);

impl Random {
    pub(crate) fn new(seed: [u8; 32]) -> Self {
        Self(ChaCha20Rng::from_seed(seed))
    }

    pub(crate) fn word(&mut self) -> u32 {
        self.0.next_u32()
    }

    /// A link key.
    pub(crate) fn key(&mut self) -> KeyBytes {
        let mut key = KeyBytes::default();
        self.0.fill_bytes(&mut *key);
        key
    }

    /// A key of the fast channel.
    pub(crate) fn channel_key(&mut self) -> ChannelKeyBytes {
        let mut key = ChannelKeyBytes::default();
        self.0.fill_bytes(&mut *key);
        key
    }
}

impl std::fmt::Debug for Random {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Random([redacted])")
    }
}
