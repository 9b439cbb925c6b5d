//! What is done to each packet on its way out and in: nothing, or one AEAD operation in place.
//!
//! The key is a constant and both directions use it: this measures ciphers and protects nothing.

use anyhow::{Context, Result};
use ring::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

use crate::{HEADER, TAG};

const KEY: [u8; 32] = [7; 32];

/// The cipher of one direction.
pub(crate) struct Cipher(Option<LessSafeKey>);

impl Cipher {
    pub(crate) fn named(name: &str) -> Result<Self> {
        let algorithm = match name {
            "none" => return Ok(Self(None)),
            "chacha20-poly1305" => &CHACHA20_POLY1305,
            "aes-256-gcm" => &AES_256_GCM,
            _ => {
                anyhow::bail!("no cipher {name}; there are none, chacha20-poly1305 and aes-256-gcm")
            }
        };
        let key = UnboundKey::new(algorithm, &KEY)
            .ok()
            .context("the key does not fit")?;
        Ok(Self(Some(LessSafeKey::new(key))))
    }

    /// Seals the packet where it lies and returns its authenticator.
    pub(crate) fn seal(&self, counter: u64, packet: &mut [u8]) -> [u8; TAG] {
        let mut written = [0; TAG];
        let Some(key) = &self.0 else { return written };
        if let Ok(tag) = key.seal_in_place_separate_tag(nonce(counter), Aad::empty(), packet) {
            written.copy_from_slice(tag.as_ref());
        }
        written
    }

    /// Opens a datagram where it lies; `None` when it is not what the other end sealed.
    pub(crate) fn open<'a>(&self, datagram: &'a mut [u8]) -> Option<&'a mut [u8]> {
        let (header, sealed) = datagram.split_at_mut(HEADER);
        let Some(key) = &self.0 else {
            let end = sealed.len() - TAG;
            return Some(&mut sealed[..end]);
        };
        let counter = header[8..].try_into().ok().map(u64::from_le_bytes)?;
        key.open_in_place(nonce(counter), Aad::empty(), sealed).ok()
    }
}

/// The header in front of a packet with this counter.
pub(crate) fn header(counter: u64) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[8..].copy_from_slice(&counter.to_le_bytes());
    header
}

fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_end_seals_the_other_opens_and_a_changed_bit_is_refused() {
        for name in ["chacha20-poly1305", "aes-256-gcm"] {
            let cipher = Cipher::named(name).unwrap();
            let mut datagram = header(9).to_vec();
            datagram.extend_from_slice(b"a packet of some length");
            let tag = cipher.seal(9, &mut datagram[HEADER..]);
            datagram.extend_from_slice(&tag);
            assert!(!datagram.windows(6).any(|window| window == b"packet"));
            let mut changed = datagram.clone();
            changed[HEADER + 3] ^= 1;
            assert!(cipher.open(&mut changed).is_none());
            assert_eq!(
                cipher.open(&mut datagram).unwrap(),
                b"a packet of some length"
            );
        }
    }
}
