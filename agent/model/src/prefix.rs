//! IP prefixes.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde_with::{DeserializeFromStr, SerializeDisplay};

/// An IPv4 or IPv6 prefix without host bits. A plain address parses as a host prefix.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    JsonSchema,
    SerializeDisplay,
    DeserializeFromStr,
)]
pub struct Prefix(#[schemars(with = "String")] IpNet);

/// Why a prefix was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// Neither an address nor `address/length`.
    #[error("`{0}` is not an IP prefix such as 10.1.0.0/16 or fd00::/64")]
    Syntax(String),
    /// Bits are set right of the prefix length.
    #[error("`{found}` has host bits set; did you mean {meant}?")]
    HostBits {
        /// What was found.
        found: String,
        /// The prefix with these host bits cleared.
        meant: Prefix,
    },
}

impl Prefix {
    /// The prefix of `length` bits that holds `address`; `None` if the length is beyond the address family's.
    pub fn new(address: IpAddr, length: u8) -> Option<Self> {
        IpNet::new(address, length)
            .ok()
            .map(|net| Self(net.trunc()))
    }

    /// The prefix that holds `address` alone.
    pub fn host(address: IpAddr) -> Self {
        Self(IpNet::from(address))
    }

    /// The first address.
    pub fn address(&self) -> IpAddr {
        self.0.addr()
    }

    /// Length in bits.
    pub fn length(&self) -> u8 {
        self.0.prefix_len()
    }

    /// Whether the prefix is of IPv6.
    pub fn is_ipv6(&self) -> bool {
        matches!(self.0, IpNet::V6(_))
    }

    /// Whether it is one single address.
    pub fn is_host(&self) -> bool {
        self.0.prefix_len() == self.0.max_prefix_len()
    }

    /// Whether `address` lies inside.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address)
    }

    /// Whether the two share an address.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.0.contains(&other.0) || other.0.contains(&self.0)
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::host(address));
        }
        let net: IpNet = text
            .parse()
            .map_err(|_| PrefixError::Syntax(text.to_owned()))?;
        if net.trunc() != net {
            return Err(PrefixError::HostBits {
                found: text.to_owned(),
                meant: Self(net.trunc()),
            });
        }
        Ok(Self(net))
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_bits_are_refused_with_the_prefix_that_was_meant() {
        let error = "10.1.2.3/16".parse::<Prefix>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "`10.1.2.3/16` has host bits set; did you mean 10.1.0.0/16?"
        );
    }

    #[test]
    fn an_address_is_a_host_prefix() {
        let prefix: Prefix = "fd00::1".parse().unwrap();
        assert!(prefix.is_host() && prefix.is_ipv6());
        assert_eq!(prefix.to_string(), "fd00::1/128");
    }
}
