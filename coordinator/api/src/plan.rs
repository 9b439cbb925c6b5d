//! The address plan: which addresses belong to which index, and which plans cannot work. Knows no nodes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};
use wattle_model::{NetworkId, NodeIndex, Prefix};

/// Why a plan cannot work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A prefix of the other family.
    #[error("`{}` is an {family} prefix, not {prefix}", .family.key())]
    Family {
        /// Where it was given.
        family: Family,
        /// What was given.
        prefix: Prefix,
    },
    /// Nodes cannot have addresses of this range.
    #[error("{prefix} holds addresses that no node can have; give one such as {}", .family.example())]
    Unusable {
        /// Where it was given.
        family: Family,
        /// What was given.
        prefix: Prefix,
    },
    /// Not enough room.
    #[error("the prefix has too few addresses for {members} nodes: {prefix}")]
    TooFew {
        /// Where it was given.
        family: Family,
        /// What was given.
        prefix: Prefix,
        /// How many nodes there are to be.
        members: usize,
    },
}

impl PlanError {
    /// Which prefix is wrong.
    pub const fn family(&self) -> Family {
        match self {
            Self::Family { family, .. }
            | Self::Unusable { family, .. }
            | Self::TooFew { family, .. } => *family,
        }
    }
}

/// One of the two prefixes of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Of IPv4.
    Ipv4,
    /// Of IPv6.
    Ipv6,
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Ipv4 => "IPv4",
            Self::Ipv6 => "IPv6",
        })
    }
}

impl Family {
    const fn key(self) -> &'static str {
        match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
        }
    }

    const fn example(self) -> &'static str {
        match self {
            Self::Ipv4 => "10.77.0.0/16",
            Self::Ipv6 => "fd57:1:2:3::/64",
        }
    }
}

/// Addresses of a network's nodes: the node with index i has the i-th address of each prefix.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressPlan {
    /// IPv4 addresses.
    pub ipv4: Option<Prefix>,
    /// IPv6 addresses.
    pub ipv6: Option<Prefix>,
}

impl AddressPlan {
    /// 100.72.0.0/16, inside the range that RFC 6598 keeps out of the Internet, and a /64 of RFC 4193 that is made
    /// from the network's id, so that two networks do not collide.
    pub fn default_of(network: NetworkId) -> Self {
        let id = network.to_be_bytes();
        let mut v6 = [0; 16];
        v6[0] = 0xfd;
        v6[1] = 0x57;
        v6[2..8].copy_from_slice(&id[..6]);
        Self {
            ipv4: Prefix::new(IpAddr::V4(Ipv4Addr::new(100, 72, 0, 0)), 16),
            ipv6: Prefix::new(IpAddr::V6(Ipv6Addr::from(v6)), 64),
        }
    }

    /// Finds what is wrong with the plan of a network that is to hold `members` nodes.
    pub fn check(&self, members: usize) -> Result<(), PlanError> {
        for (family, prefix) in [(Family::Ipv4, self.ipv4), (Family::Ipv6, self.ipv6)] {
            let Some(prefix) = prefix else { continue };
            if prefix.is_ipv6() != (family == Family::Ipv6) {
                return Err(PlanError::Family { family, prefix });
            }
            let first = nth(prefix, 1);
            if first.is_some_and(|first| !is_usable(first)) {
                return Err(PlanError::Unusable { family, prefix });
            }
            if nth(prefix, members as u128).is_none() {
                return Err(PlanError::TooFew {
                    family,
                    prefix,
                    members,
                });
            }
        }
        Ok(())
    }

    /// The addresses of `index`; empty if the index does not fit every prefix of the plan.
    pub fn addresses(&self, index: NodeIndex) -> Vec<IpAddr> {
        let prefixes = [self.ipv4, self.ipv6].into_iter().flatten();
        let addresses = prefixes.map(|prefix| nth(prefix, index.0.into()));
        addresses.collect::<Option<Vec<_>>>().unwrap_or_default()
    }

    /// Whether `prefix` takes addresses of the plan.
    pub fn overlaps(&self, prefix: &Prefix) -> bool {
        [self.ipv4, self.ipv6]
            .into_iter()
            .flatten()
            .any(|own| own.overlaps(prefix))
    }
}

/// Whether a node can have the address.
pub fn is_usable(address: IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast() || v4.octets()[0] == 0,
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !(address.is_unspecified() || address.is_multicast() || address.is_loopback() || link_local)
}

/// The `n`-th address of a prefix. The first is the prefix itself, and the last of IPv4 its broadcast address: nobody's.
fn nth(prefix: Prefix, n: u128) -> Option<IpAddr> {
    let (bits, first) = match prefix.address() {
        IpAddr::V4(v4) => (32, u128::from(v4.to_bits())),
        IpAddr::V6(v6) => (128, v6.to_bits()),
    };
    let size = 1_u128
        .checked_shl(bits - u32::from(prefix.length()))
        .unwrap_or(u128::MAX);
    let last_taken = if prefix.is_ipv6() {
        size - 1
    } else {
        size.saturating_sub(2)
    };
    if n == 0 || n > last_taken {
        return None;
    }
    Some(match prefix.address() {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(first + n).ok()?)),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from_bits(first + n)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(v4: &str) -> AddressPlan {
        AddressPlan {
            ipv4: Some(v4.parse().unwrap()),
            ipv6: Some("fd57::/64".parse().unwrap()),
        }
    }

    #[test]
    fn an_index_names_one_address_of_each_family() {
        let addresses = plan("10.77.0.0/16").addresses(NodeIndex(258));
        assert_eq!(
            addresses,
            [
                "10.77.1.2".parse::<IpAddr>().unwrap(),
                "fd57::102".parse().unwrap()
            ]
        );
    }

    #[test]
    fn network_and_broadcast_address_are_nobodys() {
        let plan = plan("10.77.0.0/30");
        assert!(plan.addresses(NodeIndex(0)).is_empty());
        assert_eq!(plan.addresses(NodeIndex(2)).len(), 2);
        assert!(plan.addresses(NodeIndex(3)).is_empty());
    }

    #[test]
    fn a_plan_that_cannot_work_is_refused_with_what_is_wrong() {
        let plan = |v4: &str, v6: &str| AddressPlan {
            ipv4: Some(v4.parse().unwrap()),
            ipv6: Some(v6.parse().unwrap()),
        };
        assert_eq!(plan("10.77.0.0/30", "fd57::/64").check(2), Ok(()));
        assert_eq!(AddressPlan::default_of(NetworkId(0)).check(65_533), Ok(()));
        let cases = [
            (
                "fd00::/64",
                "fd57::/64",
                "`ipv4` is an IPv4 prefix, not fd00::/64",
            ),
            (
                "10.77.0.0/16",
                "10.78.0.0/16",
                "`ipv6` is an IPv6 prefix, not 10.78.0.0/16",
            ),
            (
                "10.0.0.0/32",
                "fd57::/64",
                "too few addresses for 2 nodes: 10.0.0.0/32",
            ),
            ("10.0.0.0/31", "fd57::/64", "too few addresses for 2 nodes"),
            (
                "10.77.0.0/16",
                "fd57::/127",
                "too few addresses for 2 nodes",
            ),
            (
                "127.0.0.0/8",
                "fd57::/64",
                "no node can have; give one such as 10.77.0.0/16",
            ),
            ("224.0.0.0/8", "fd57::/64", "no node can have"),
            (
                "10.77.0.0/16",
                "fe80::/64",
                "no node can have; give one such as fd57:1:2:3::/64",
            ),
        ];
        for (v4, v6, expected) in cases {
            let refusal = plan(v4, v6).check(2).unwrap_err().to_string();
            assert!(refusal.contains(expected), "{refusal}");
        }
    }

    #[test]
    fn two_networks_have_two_ranges_of_ipv6() {
        let (a, b) = (
            AddressPlan::default_of(NetworkId(1 << 40)),
            AddressPlan::default_of(NetworkId(2 << 40)),
        );
        assert_ne!(a.ipv6, b.ipv6);
        assert!(a.overlaps(&"100.72.9.0/24".parse().unwrap()));
        assert!(!a.overlaps(&"10.0.0.0/8".parse().unwrap()));
    }
}
