//! `network.json`: which network this node has joined, and whom it trusts.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_with::{DeserializeFromStr, SerializeDisplay};
use wattle_model::{NetworkId, Prefix};
use wattle_wire::key::PublicKey;

use super::{StateError, file};

pub(super) const FILE: &str = "network.json";

/// What a node knows of its network before it has heard from anybody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Its id: the truncated hash of the trust root's key.
    pub network: NetworkId,
    /// Its name.
    pub name: String,
    /// Public key of its trust root.
    pub root: PublicKey,
    /// The coordinator, if the network has one.
    #[serde(default)]
    pub coordinator: Option<CoordinatorAddress>,
    /// IPv4 prefix of the address plan.
    #[serde(default)]
    pub ipv4: Option<Prefix>,
    /// IPv6 prefix of the address plan.
    #[serde(default)]
    pub ipv6: Option<Prefix>,
}

/// Where the coordinator is and how it is recognised.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoordinatorAddress {
    /// `host:port` of the coordinators, in the order to try.
    pub addresses: Vec<String>,
    /// SHA-256 of the certificate, 64 hexadecimal digits.
    pub fingerprint: Fingerprint,
}

/// SHA-256 of a certificate.
#[derive(Clone, Copy, PartialEq, Eq, SerializeDisplay, DeserializeFromStr)]
pub struct Fingerprint(pub [u8; 32]);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Fingerprint {
    type Err = FingerprintError;

    fn from_str(text: &str) -> Result<Self, FingerprintError> {
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(FingerprintError);
        }
        let mut bytes = [0; 32];
        for (byte, at) in bytes.iter_mut().zip((0..64).step_by(2)) {
            *byte = u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| FingerprintError)?;
        }
        Ok(Self(bytes))
    }
}

/// A text is no fingerprint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a fingerprint is the SHA-256 of a certificate: 64 hexadecimal digits")]
pub struct FingerprintError;

pub(super) fn load(directory: &Path) -> Result<Option<Network>, StateError> {
    let path = directory.join(FILE);
    let Some(content) = file::read(&path)? else {
        return Ok(None);
    };
    let parsed = serde_json::from_slice::<Network>(&content).map_err(|error| error.to_string());
    let checked = parsed.and_then(|network| match network.root.network_id() {
        id if id == network.network => Ok(network),
        _ => Err("its root key does not belong to its network id".to_owned()),
    });
    let remedy = "restore it from a backup, or run `wattle leave` and join again";
    checked.map(Some).map_err(|reason| StateError::Damaged {
        path,
        reason,
        remedy,
    })
}

pub(super) fn store(directory: &Path, network: &Network) -> Result<(), StateError> {
    let mut text = serde_json::to_vec_pretty(network).expect("plain fields always serialise");
    text.push(b'\n');
    file::replace(directory, FILE, &text)
}

#[cfg(test)]
pub(super) fn example() -> Network {
    let root = wattle_wire::key::SecretKey::from_seed(&[3; 32]).public();
    Network {
        network: root.network_id(),
        name: "lab".to_owned(),
        root,
        coordinator: None,
        ipv4: "10.77.0.0/16".parse().ok(),
        ipv6: "fd57::/64".parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::StateDir;

    #[test]
    fn a_network_reads_back_as_it_was_stored() {
        let parent = tempfile::tempdir().unwrap();
        let state = StateDir::open(&parent.path().join("s")).unwrap();
        assert_eq!(state.network().unwrap(), None);
        let network = Network {
            coordinator: Some(CoordinatorAddress {
                addresses: vec!["192.0.2.1:5741".to_owned()],
                fingerprint: "ab".repeat(32).parse().unwrap(),
            }),
            ..example()
        };
        state.store_network(&network).unwrap();
        assert_eq!(state.network().unwrap(), Some(network));
    }

    #[test]
    fn a_damaged_network_is_refused_with_what_to_do() {
        let parent = tempfile::tempdir().unwrap();
        let state = StateDir::open(&parent.path().join("s")).unwrap();
        let good = serde_json::to_vec(&example()).unwrap();
        for cut in 0..good.len() {
            state.store_file(FILE, &good[..cut]).unwrap();
            let error = state.network().unwrap_err().to_string();
            assert!(
                error.contains("is damaged") && error.contains("wattle leave"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_root_key_of_another_network_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let state = StateDir::open(&parent.path().join("s")).unwrap();
        state
            .store_network(&Network {
                network: NetworkId(1),
                ..example()
            })
            .unwrap();
        assert!(
            state
                .network()
                .unwrap_err()
                .to_string()
                .contains("does not belong")
        );
    }
}
