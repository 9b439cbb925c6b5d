//! Join tokens: one printable line that carries everything a host needs to reach its coordinator, to know that it is
//! the right one, and to prove that it was invited. The coordinator keeps only the SHA-256 of the secret.
//!
//! Form: `wattle1-` and base64url without padding of: network id (8), certificate fingerprint (32), secret (32), count
//! of addresses (1), each address as length (1) and text, and the first four bytes of the SHA-256 of all of that.

use std::fmt;
use std::str::FromStr;

use base64::engine::{Engine as _, general_purpose::URL_SAFE_NO_PAD};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use wattle_model::{NetworkId, NodeId, NodeName, Prefix};
use zeroize::Zeroizing;

use crate::Timestamp;

/// What every token of this version begins with.
pub const PREFIX: &str = "wattle1-";

/// Most addresses of coordinators in one token.
pub const MAX_ADDRESSES: usize = 4;

/// How long a token is good unless said otherwise, in seconds.
pub const DEFAULT_TTL_S: u64 = 600;

const CHECKSUM: usize = 4;

/// 256 random bits that prove an invitation; hidden in `Debug`, wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<[u8; 32]>);

impl Secret {
    /// The secret made of these bytes, which must be random.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// What the coordinator stores and looks up: the SHA-256.
    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.0.as_slice()).into()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// An invitation as it is handed to a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// The network that it leads into.
    pub network: NetworkId,
    /// SHA-256 of the coordinator's certificate.
    pub fingerprint: [u8; 32],
    /// Proof of the invitation.
    pub secret: Secret,
    /// `host:port` of the coordinators, in the order to try.
    pub addresses: Vec<String>,
}

/// Why a text is no join token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Another text altogether, or a later version.
    #[error(
        "a join token begins with `{PREFIX}`; copy the whole line that `wattle tokens create` printed"
    )]
    Prefix,
    /// Characters outside base64url.
    #[error("the join token has a character that does not belong there; copy the whole line again")]
    Alphabet,
    /// Cut off, or a character was changed.
    #[error(
        "the join token is damaged or cut off (its checksum does not fit); copy the whole line again"
    )]
    Checksum,
    /// The checksum fits, yet the inside does not.
    #[error("the join token holds no valid coordinator address; make another one")]
    Content,
}

impl JoinToken {
    /// Whether only the coordinator's own host can use it.
    pub fn is_for_this_host_only(&self) -> bool {
        let is_loopback = |address: &String| {
            let socket = address.parse::<std::net::SocketAddr>();
            socket.is_ok_and(|socket| socket.ip().is_loopback())
                || address.starts_with("localhost:")
        };
        self.addresses.iter().all(is_loopback)
    }
}

/// What to do about a token that only the coordinator's own host can use.
pub const FOR_THIS_HOST_ONLY: &str = "only this host can use the token: it names the coordinator by a loopback address. \
     Set public_addresses = [\"HOST:5741\"] in /etc/wattle/coordinator.toml (and listen, if that is a loopback address), \
     restart the coordinator and make another token";

impl FromStr for JoinToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let body = text.trim().strip_prefix(PREFIX).ok_or(TokenError::Prefix)?;
        let bytes = URL_SAFE_NO_PAD.decode(body).map_err(|error| match error {
            base64::DecodeError::InvalidByte(..) => TokenError::Alphabet,
            _ => TokenError::Checksum,
        })?;
        let bytes = Zeroizing::new(bytes);
        let Some((content, checksum)) = bytes.split_last_chunk::<CHECKSUM>() else {
            return Err(TokenError::Checksum);
        };
        if checksum_of(content) != *checksum {
            return Err(TokenError::Checksum);
        }
        parse_content(content).ok_or(TokenError::Content)
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut content = Zeroizing::new(Vec::with_capacity(256));
        content.extend_from_slice(&self.network.to_be_bytes());
        content.extend_from_slice(&self.fingerprint);
        content.extend_from_slice(self.secret.0.as_slice());
        let addresses = &self.addresses[..self.addresses.len().min(MAX_ADDRESSES)];
        content.push(u8::try_from(addresses.len()).unwrap_or(0));
        for address in addresses {
            content.push(u8::try_from(address.len()).map_err(|_| fmt::Error)?);
            content.extend_from_slice(address.as_bytes());
        }
        let checksum = checksum_of(&content);
        content.extend_from_slice(&checksum);
        write!(f, "{PREFIX}{}", URL_SAFE_NO_PAD.encode(content.as_slice()))
    }
}

fn checksum_of(content: &[u8]) -> [u8; CHECKSUM] {
    let hash = Sha256::digest(content);
    [hash[0], hash[1], hash[2], hash[3]]
}

fn parse_content(content: &[u8]) -> Option<JoinToken> {
    let (network, rest) = content.split_first_chunk::<8>()?;
    let (fingerprint, rest) = rest.split_first_chunk::<32>()?;
    let (secret, rest) = rest.split_first_chunk::<32>()?;
    let (count, mut rest) = rest.split_first()?;
    let mut addresses = Vec::new();
    for _ in 0..*count {
        let (length, tail) = rest.split_first()?;
        let (address, tail) = tail.split_at_checked(usize::from(*length))?;
        addresses.push(
            std::str::from_utf8(address)
                .ok()
                .filter(|a| is_host_port(a))?
                .to_owned(),
        );
        rest = tail;
    }
    let fits = rest.is_empty() && (1..=MAX_ADDRESSES).contains(&addresses.len());
    fits.then(|| JoinToken {
        network: NetworkId::from_be_bytes(*network),
        fingerprint: *fingerprint,
        secret: Secret::new(*secret),
        addresses,
    })
}

/// Whether `text` is `name:port`, `1.2.3.4:port` or `[v6]:port`, as can be dialled.
pub fn is_host_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else {
        return false;
    };
    let host_fits = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty()
                && host
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
        }
    };
    host_fits && text.len() <= 255 && port.parse::<u16>().is_ok_and(|p| p != 0)
}

/// What a token allows. Empty and `null` mean: nothing was said, the coordinator's defaults hold.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TokenScope {
    /// The name that the node gets.
    pub name: Option<NodeName>,
    /// The node may announce prefixes that lie within these.
    pub prefixes: Vec<Prefix>,
    /// Tags that the node gets.
    pub tags: Vec<NodeName>,
    /// Site that the node gets.
    pub site: Option<NodeName>,
}

/// A token as the coordinator remembers it: never the secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TokenRecord {
    /// Names the token in lists and audit: the first bytes of the hash of its secret, in hexadecimal.
    pub id: String,
    /// What it allows.
    pub scope: TokenScope,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends.
    pub expires_at: Timestamp,
    /// When it was used, and by whom.
    pub used: Option<TokenUse>,
}

/// The one use of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TokenUse {
    /// When.
    pub at: Timestamp,
    /// The node that joined with it.
    pub node: NodeId,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> JoinToken {
        JoinToken {
            network: NetworkId(7),
            fingerprint: [3; 32],
            secret: Secret::new([9; 32]),
            addresses: vec!["coordinator.example:5741".into(), "[fd00::1]:5741".into()],
        }
    }

    #[test]
    fn a_token_parses_as_it_prints_even_with_a_newline_after_it() {
        let text = format!("{}\n", token());
        assert_eq!(text.parse::<JoinToken>().unwrap(), token());
    }

    #[test]
    fn every_truncation_and_every_changed_character_is_noticed() {
        let text = token().to_string();
        for end in 0..text.len() {
            assert!(text[..end].parse::<JoinToken>().is_err(), "cut at {end}");
        }
        for at in PREFIX.len()..text.len() {
            let mut damaged = text.clone().into_bytes();
            damaged[at] = if damaged[at] == b'A' { b'B' } else { b'A' };
            let damaged = String::from_utf8(damaged).unwrap();
            assert!(damaged.parse::<JoinToken>().is_err(), "changed at {at}");
        }
    }

    #[test]
    fn errors_say_what_to_do() {
        assert_eq!("tskey-auth-1".parse::<JoinToken>(), Err(TokenError::Prefix));
        assert_eq!(
            "wattle1-a b".parse::<JoinToken>(),
            Err(TokenError::Alphabet)
        );
        assert_eq!("wattle1-".parse::<JoinToken>(), Err(TokenError::Checksum));
        assert!(
            TokenError::Checksum
                .to_string()
                .contains("copy the whole line again")
        );
    }

    #[test]
    fn debug_output_hides_the_secret() {
        let debug = format!("{:?}", token());
        assert!(
            debug.contains("Secret(..)") && !debug.contains("9, 9"),
            "{debug}"
        );
    }

    #[test]
    fn only_what_can_be_dialled_is_an_address() {
        for good in ["a:1", "10.0.0.1:5741", "[::1]:5741", "co.example.org:443"] {
            assert!(is_host_port(good), "{good}");
        }
        for bad in [
            "",
            "a",
            ":1",
            "a:",
            "a:0",
            "a:99999",
            "::1:5741",
            "[::1]",
            "a b:1",
            "http://a:1",
        ] {
            assert!(!is_host_port(bad), "{bad}");
        }
    }

    #[test]
    fn a_token_with_loopback_addresses_alone_is_for_one_host() {
        let token = |addresses: &[&str]| JoinToken {
            network: NetworkId(1),
            fingerprint: [0; 32],
            secret: Secret::new([0; 32]),
            addresses: addresses
                .iter()
                .map(|&address| address.to_owned())
                .collect(),
        };
        for addresses in [&["127.0.0.1:5741"][..], &["[::1]:1", "localhost:1"]] {
            assert!(token(addresses).is_for_this_host_only(), "{addresses:?}");
        }
        for addresses in [&["192.0.2.1:5741"][..], &["[::1]:1", "c.example:1"]] {
            assert!(!token(addresses).is_for_this_host_only(), "{addresses:?}");
        }
    }
}
