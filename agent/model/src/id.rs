//! Identities: of nodes, networks, links, records.

use std::fmt;
use std::str::FromStr;

use base64::DecodeError;
use base64::engine::{Engine as _, general_purpose::STANDARD as BASE64};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_with::{DeserializeFromStr, SerializeDisplay};

/// Why a textual id was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseIdError {
    /// The text does not have the length of the id.
    #[error("expected {expected} characters, found {found}")]
    Length {
        /// Characters that the id has.
        expected: usize,
        /// Characters that were found.
        found: usize,
    },
    /// The text has a character outside the id's alphabet.
    #[error("`{0}` is not in the alphabet of this id")]
    Alphabet(char),
    /// The final characters carry bits that belong to no byte, or the padding is off.
    #[error("the final characters are not those of a whole number of bytes")]
    Trailing,
}

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, JsonSchema,
            SerializeDisplay, DeserializeFromStr,
        )]
        #[schemars(extend("pattern" = "^[0-9a-f]{16}$"))]
        pub struct $name(#[schemars(with = "String")] pub u64);

        impl $name {
            /// Reads the id from its eight big-endian bytes.
            pub const fn from_be_bytes(bytes: [u8; 8]) -> Self {
                Self(u64::from_be_bytes(bytes))
            }

            /// The eight big-endian bytes of the id, as they stand on the wire.
            pub const fn to_be_bytes(self) -> [u8; 8] {
                self.0.to_be_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:016x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                if let Some(c) = text.chars().find(|c| !c.is_ascii_hexdigit()) {
                    return Err(ParseIdError::Alphabet(c));
                }
                if text.len() != 16 {
                    return Err(ParseIdError::Length { expected: 16, found: text.len() });
                }
                u64::from_str_radix(text, 16).map(Self).map_err(|_| ParseIdError::Trailing)
            }
        }
    };
}

hex_id! {
    /// A node: the first eight bytes of the SHA-256 of its Ed25519 identity key.
    NodeId
}

hex_id! {
    /// A network: the first eight bytes of the SHA-256 of its trust root's Ed25519 key.
    NetworkId
}

/// Position of a node in the network's address plan, unique in the network; names waypoints in two bytes.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[serde(transparent)]
pub struct NodeIndex(pub u16);

/// A link of this node: an adjacency over one carrier. Local meaning only.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[serde(transparent)]
pub struct LinkId(pub u32);

/// What carries a link's datagrams.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Carrier {
    /// WireGuard over UDP over IPv4.
    Udp4,
    /// WireGuard over UDP over IPv6.
    Udp6,
    /// WireGuard inside QUIC, over either.
    Quic,
}

impl Carrier {
    /// Every carrier, in order.
    pub const ALL: [Self; 3] = [Self::Udp4, Self::Udp6, Self::Quic];

    /// The carrier of plain datagrams to `address`.
    pub const fn of(address: std::net::SocketAddr) -> Self {
        match address {
            std::net::SocketAddr::V4(_) => Self::Udp4,
            std::net::SocketAddr::V6(_) => Self::Udp6,
        }
    }

    /// The carrier's number on the wire.
    pub const fn code(self) -> u8 {
        match self {
            Self::Udp4 => 4,
            Self::Udp6 => 6,
            Self::Quic => 9,
        }
    }

    /// The carrier with this number on the wire, if it is a known one.
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            4 => Some(Self::Udp4),
            6 => Some(Self::Udp6),
            9 => Some(Self::Quic),
            _ => None,
        }
    }
}

impl fmt::Display for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Udp4 => "udp4",
            Self::Udp6 => "udp6",
            Self::Quic => "quic",
        })
    }
}

impl FromStr for Carrier {
    type Err = UnknownCarrier;

    fn from_str(text: &str) -> Result<Self, UnknownCarrier> {
        let mut known = Self::ALL.into_iter();
        known
            .find(|carrier| carrier.to_string() == text)
            .ok_or(UnknownCarrier)
    }
}

/// The name is no carrier's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a carrier is udp4, udp6 or quic")]
pub struct UnknownCarrier;

/// Age of a record: boot epoch of its origin (upper half) and a counter (lower half). Never wraps.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct SeqNo(pub u64);

impl SeqNo {
    /// The first number of a boot epoch.
    pub const fn first_of(epoch: u32) -> Self {
        Self((epoch as u64) << 32 | 1)
    }

    /// The boot epoch.
    pub const fn epoch(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The number after this one; saturates, so it never wraps back to old age.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// Whether a record with this number replaces one with `other`.
    pub const fn newer_than(self, other: Self) -> bool {
        self.0 > other.0
    }
}

/// An X25519 public key of WireGuard; printed and read as base64, as `wg` does.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    JsonSchema,
    SerializeDisplay,
    DeserializeFromStr,
)]
pub struct WgKey(#[schemars(with = "String")] pub [u8; 32]);

impl fmt::Display for WgKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&BASE64.encode(self.0))
    }
}

impl fmt::Debug for WgKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for WgKey {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        if text.len() != 44 {
            return Err(ParseIdError::Length {
                expected: 44,
                found: text.len(),
            });
        }
        match BASE64.decode(text) {
            Ok(bytes) => bytes
                .try_into()
                .map(Self)
                .map_err(|_| ParseIdError::Trailing),
            Err(DecodeError::InvalidByte(_, byte)) => Err(ParseIdError::Alphabet(byte.into())),
            Err(_) => Err(ParseIdError::Trailing),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_print_as_they_parse() {
        let id: NodeId = "00ff00ff12345678".parse().unwrap();
        assert_eq!(id.to_string(), "00ff00ff12345678");
        assert!("00ff".parse::<NodeId>().is_err());
        assert!("zzff00ff12345678".parse::<NodeId>().is_err());
    }

    #[test]
    fn wireguard_keys_print_as_wg_prints_them() {
        let key = WgKey(std::array::from_fn(|i| i as u8));
        assert_eq!(
            key.to_string(),
            "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
        );
        assert_eq!(key.to_string().parse::<WgKey>().unwrap(), key);
        assert!("AAEC".parse::<WgKey>().is_err());
    }

    #[test]
    fn carriers_read_back_from_their_names_and_numbers() {
        for carrier in Carrier::ALL {
            assert_eq!(carrier.to_string().parse(), Ok(carrier));
            assert_eq!(Carrier::from_code(carrier.code()), Some(carrier));
            let json = format!("\"{carrier}\"");
            assert_eq!(serde_json::from_str::<Carrier>(&json).unwrap(), carrier);
        }
        assert_eq!("tcp".parse::<Carrier>(), Err(UnknownCarrier));
    }

    #[test]
    fn sequence_numbers_never_grow_younger() {
        assert!(SeqNo::first_of(2).newer_than(SeqNo::first_of(1).next()));
        assert_eq!(SeqNo(u64::MAX).next(), SeqNo(u64::MAX));
    }
}
