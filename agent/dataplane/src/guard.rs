//! Who owns an address: the source guard's table. Made from signed grants alone, never from link state.

use std::net::IpAddr;

use wattle_model::{NodeId, Prefix};

use crate::fib::PrefixMap;

/// Prefix to its owners. Several nodes may be granted one prefix; then each of them may use it.
#[derive(Debug, Clone, Default)]
pub struct Ownership(PrefixMap<Vec<NodeId>>);

impl Ownership {
    /// The table of these grants.
    pub fn new(grants: impl IntoIterator<Item = (Prefix, NodeId)>) -> Self {
        let mut grants: Vec<_> = grants.into_iter().collect();
        grants.sort_unstable();
        grants.dedup();
        let owners = grants.chunk_by(|(one, _), (other, _)| one == other);
        Self(PrefixMap::new(owners.map(|same| {
            (same[0].0, same.iter().map(|(_, node)| *node).collect())
        })))
    }

    /// The owners of an address: those of the longest granted prefix that holds it.
    pub fn owners(&self, address: IpAddr) -> &[NodeId] {
        self.0.lookup(address).map_or(&[], Vec::as_slice)
    }

    /// Whether `node` owns `address`.
    pub fn owns(&self, node: NodeId, address: IpAddr) -> bool {
        self.owners(address).contains(&node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_grant_decides_and_may_be_shared() {
        let (site, host, spare) = (NodeId(1), NodeId(2), NodeId(3));
        let ownership = Ownership::new([
            ("192.168.0.0/16".parse().unwrap(), site),
            ("192.168.7.0/24".parse().unwrap(), host),
            ("192.168.7.0/24".parse().unwrap(), spare),
        ]);
        let owns = |node, address: &str| ownership.owns(node, address.parse().unwrap());
        assert!(owns(site, "192.168.1.1") && !owns(site, "192.168.7.1"));
        assert!(owns(host, "192.168.7.1") && owns(spare, "192.168.7.1"));
        assert!(!owns(host, "10.0.0.1"));
    }
}
