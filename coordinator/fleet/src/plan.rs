//! The address plan: which addresses belong to which index. Knows no nodes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};
use wattle_model::{NetworkId, NodeIndex, Prefix};

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
