//! Identity keys: Ed25519 (RFC 8032), verified strictly.

use std::fmt;
use std::str::FromStr;

use base64::engine::{Engine as _, general_purpose::STANDARD as BASE64};
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use serde_with::{DeserializeFromStr, SerializeDisplay};
use sha2::{Digest as _, Sha256};
use wattle_model::{NetworkId, NodeId};
use zeroize::Zeroizing;

use crate::DecodeError;

/// Bytes of a signature.
pub const SIGNATURE_LENGTH: usize = 64;

/// The public half of an identity or of a network's trust root.
#[derive(Clone, Copy, PartialEq, Eq, SerializeDisplay, DeserializeFromStr)]
pub struct PublicKey(VerifyingKey);

/// Why a key was refused. Never shows the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not base64 of 32 bytes.
    #[error("a key is 32 bytes in base64 (44 characters)")]
    Encoding,
    /// 32 bytes that are no point of the curve, or a weak one.
    #[error("these 32 bytes are not an Ed25519 public key")]
    Point,
}

impl PublicKey {
    /// The key of these 32 bytes.
    ///
    /// # Errors
    /// They are no point of the curve, or one of small order, which would sign anything.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, KeyError> {
        match VerifyingKey::from_bytes(bytes) {
            Ok(key) if !key.is_weak() => Ok(Self(key)),
            _ => Err(KeyError::Point),
        }
    }

    /// The key's 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// The id of the node whose identity this is.
    pub fn node_id(&self) -> NodeId {
        NodeId::from_be_bytes(self.digest())
    }

    /// The id of the network whose trust root this is.
    pub fn network_id(&self) -> NetworkId {
        NetworkId::from_be_bytes(self.digest())
    }

    fn digest(&self) -> [u8; 8] {
        let digest = Sha256::digest(self.as_bytes());
        std::array::from_fn(|i| digest[i])
    }

    /// Checks a signature over `domain` and `parts`.
    ///
    /// # Errors
    /// The signature is not this key's over exactly these bytes.
    pub fn verify(
        &self,
        domain: &[u8],
        parts: &[&[u8]],
        signature: &[u8; SIGNATURE_LENGTH],
    ) -> Result<(), DecodeError> {
        self.0
            .verify_strict(&message(domain, parts), &Signature::from_bytes(signature))
            .map_err(|_| DecodeError::Signature)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&BASE64.encode(self.as_bytes()))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        Self::from_bytes(&*decode(text)?)
    }
}

/// The secret half. Wiped when dropped, never printed.
#[derive(Clone)]
pub struct SecretKey(SigningKey);

impl SecretKey {
    /// The key of this seed; the seed must come from the system's random source.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// The seed, as it is kept on disk.
    pub fn seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }

    /// The seed in base64, as it is kept on disk.
    pub fn to_base64(&self) -> Zeroizing<String> {
        Zeroizing::new(BASE64.encode(*self.seed()))
    }

    /// Reads what `to_base64` wrote.
    ///
    /// # Errors
    /// The text is not base64 of 32 bytes.
    pub fn from_base64(text: &str) -> Result<Self, KeyError> {
        Ok(Self::from_seed(&*decode(text)?))
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }

    /// Signs `domain` and `parts`.
    pub fn sign(&self, domain: &[u8], parts: &[&[u8]]) -> [u8; SIGNATURE_LENGTH] {
        self.0.sign(&message(domain, parts)).to_bytes()
    }

    /// The key in PKCS#8 (DER), for a certificate of this identity.
    ///
    /// # Errors
    /// The encoder failed, which takes a lack of memory.
    pub fn to_pkcs8_der(&self) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        use ed25519_dalek::pkcs8::EncodePrivateKey as _;
        let document = self.0.to_pkcs8_der().map_err(|_| KeyError::Encoding)?;
        Ok(Zeroizing::new(document.as_bytes().to_vec()))
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey([redacted])")
    }
}

/// What is signed: the domain's length and text, so that no message of one domain is one of another.
fn message(domain: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    let length = 1 + domain.len() + parts.iter().map(|part| part.len()).sum::<usize>();
    let mut message = Vec::with_capacity(length);
    message.push(domain.len() as u8);
    message.extend_from_slice(domain);
    for part in parts {
        message.extend_from_slice(part);
    }
    message
}

fn decode(text: &str) -> Result<Zeroizing<[u8; 32]>, KeyError> {
    let bytes = Zeroizing::new(BASE64.decode(text.trim()).map_err(|_| KeyError::Encoding)?);
    let array: [u8; 32] = bytes
        .as_slice()
        .try_into()
        .map_err(|_| KeyError::Encoding)?;
    Ok(Zeroizing::new(array))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_holds_for_its_domain_only() {
        let key = SecretKey::from_seed(&[7; 32]);
        let signature = key.sign(b"one", &[b"a", b"b"]);
        assert_eq!(key.public().verify(b"one", &[b"ab"], &signature), Ok(()));
        assert!(key.public().verify(b"two", &[b"ab"], &signature).is_err());
        assert!(key.public().verify(b"on", &[b"eab"], &signature).is_err());
    }

    #[test]
    fn secrets_are_not_printed() {
        let key = SecretKey::from_seed(&[7; 32]);
        assert_eq!(format!("{key:?}"), "SecretKey([redacted])");
    }

    #[test]
    fn weak_points_are_no_keys() {
        let mut identity_element = [0; 32];
        identity_element[0] = 1;
        assert_eq!(
            PublicKey::from_bytes(&identity_element),
            Err(KeyError::Point)
        );
    }
}
