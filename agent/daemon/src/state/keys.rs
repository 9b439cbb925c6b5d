//! The two keys of a node, made on it and never leaving it.

use std::fmt;
use std::path::Path;

use base64::engine::{Engine as _, general_purpose::STANDARD as BASE64};
use wattle_model::{NodeId, WgKey};
use wattle_wire::key::{PublicKey, SecretKey};
use x25519_dalek::StaticSecret;
use zeroize::Zeroizing;

use super::{StateError, file};

/// File of the identity's seed.
pub(super) const IDENTITY_FILE: &str = "identity.key";
const WIREGUARD_FILE: &str = "wireguard.key";
const REMEDY: &str = "restore it from a backup, or remove it and join the network again";

/// The identity (Ed25519) and the WireGuard key (X25519) of a node.
#[derive(Clone)]
pub struct Keys {
    identity: SecretKey,
    wireguard: StaticSecret,
}

impl Keys {
    /// Makes keys that nobody else has.
    pub fn generate() -> Self {
        Self::from_secrets(&random_secret(), &random_secret())
    }

    pub(super) fn load_or_create(directory: &Path) -> Result<Self, StateError> {
        let identity = secret_in(directory, IDENTITY_FILE)?;
        let wireguard = secret_in(directory, WIREGUARD_FILE)?;
        Ok(Self::from_secrets(&identity, &wireguard))
    }

    /// The keys of a node that has used them: a missing one is an error, for a fresh one would be nobody's.
    pub(super) fn load(directory: &Path) -> Result<Self, StateError> {
        let missing = |name: &str| StateError::MissingKey {
            path: directory.join(name),
        };
        let stored = |name| stored_secret(directory, name)?.ok_or_else(|| missing(name));
        let (identity, wireguard) = (stored(IDENTITY_FILE)?, stored(WIREGUARD_FILE)?);
        Ok(Self::from_secrets(&identity, &wireguard))
    }

    fn from_secrets(identity: &[u8; 32], wireguard: &[u8; 32]) -> Self {
        Self {
            identity: SecretKey::from_seed(identity),
            wireguard: StaticSecret::from(*wireguard),
        }
    }

    /// The key that signs this node's records and answers for it in TLS.
    pub const fn identity(&self) -> &SecretKey {
        &self.identity
    }

    /// The public half of the identity.
    pub fn identity_public(&self) -> PublicKey {
        self.identity.public()
    }

    /// The node's id.
    pub fn node_id(&self) -> NodeId {
        self.identity_public().node_id()
    }

    /// The private key of the WireGuard sessions.
    pub fn wireguard_private(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.wireguard.to_bytes())
    }

    /// The public half of the WireGuard key.
    pub fn wireguard_public(&self) -> WgKey {
        WgKey(x25519_dalek::PublicKey::from(&self.wireguard).to_bytes())
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys({}, secrets redacted)", self.node_id())
    }
}

fn secret_in(directory: &Path, name: &str) -> Result<Zeroizing<[u8; 32]>, StateError> {
    if let Some(secret) = stored_secret(directory, name)? {
        return Ok(secret);
    }
    let secret = random_secret();
    let text = Zeroizing::new(BASE64.encode(*secret) + "\n");
    file::replace(directory, name, text.as_bytes())?;
    Ok(secret)
}

fn stored_secret(directory: &Path, name: &str) -> Result<Option<Zeroizing<[u8; 32]>>, StateError> {
    let path = directory.join(name);
    let Some(content) = file::read_secret(&path)?.map(Zeroizing::new) else {
        return Ok(None);
    };
    let decoded = decode(&content).map(Some);
    decoded.map_err(|reason| StateError::Damaged {
        path,
        reason,
        remedy: REMEDY,
    })
}

fn decode(content: &[u8]) -> Result<Zeroizing<[u8; 32]>, String> {
    let text = content.trim_ascii();
    let bytes = BASE64.decode(text).map(Zeroizing::new);
    let bytes = bytes.map_err(|_| "it is not the base64 text of a key".to_owned())?;
    let length = bytes.len();
    let secret = <[u8; 32]>::try_from(bytes.as_slice());
    secret
        .map(Zeroizing::new)
        .map_err(|_| format!("a key has 32 bytes, this one has {length}"))
}

fn random_secret() -> Zeroizing<[u8; 32]> {
    let mut secret = Zeroizing::new([0; 32]);
    getrandom::fill(secret.as_mut_slice()).expect("a Linux kernel always has random numbers");
    secret
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::StateDir;

    #[test]
    fn a_damaged_key_is_refused_and_left_alone() {
        let parent = tempfile::tempdir().unwrap();
        let state = StateDir::open(&parent.path().join("s")).unwrap();
        state.keys().unwrap();
        for (content, words) in [("", "0"), ("####", "base64"), ("AAEC\n", "has 3")] {
            state
                .store_file(WIREGUARD_FILE, content.as_bytes())
                .unwrap();
            let error = state.keys().unwrap_err().to_string();
            assert!(
                error.contains("is damaged") && error.contains(words),
                "{error}"
            );
            let kept = std::fs::read(state.path().join(WIREGUARD_FILE)).unwrap();
            assert_eq!(
                kept,
                content.as_bytes(),
                "a key is never replaced behind the operator's back"
            );
        }
    }

    #[test]
    fn the_wireguard_key_is_the_one_that_wg_would_derive() {
        // From RFC 7748 §6.1, Alice's key pair.
        let private = [
            0x77, 0x07, 0x6d, 0x0a, 0x73, 0x18, 0xa5, 0x7d, 0x3c, 0x16, 0xc1, 0x72, 0x51, 0xb2,
            0x66, 0x45, 0xdf, 0x4c, 0x2f, 0x87, 0xeb, 0xc0, 0x99, 0x2a, 0xb1, 0x77, 0xfb, 0xa5,
            0x1d, 0xb9, 0x2c, 0x2a,
        ];
        let keys = Keys::from_secrets(&[7; 32], &private);
        let expected = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";
        assert_eq!(keys.wireguard_public().to_string(), expected);
    }

    #[test]
    fn keys_print_without_their_secrets() {
        let keys = Keys::generate();
        assert_eq!(
            format!("{keys:?}"),
            format!("Keys({}, secrets redacted)", keys.node_id())
        );
    }
}
