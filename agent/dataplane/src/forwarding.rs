//! The forwarding snapshot: which node a packet is for, and over which links it gets there.
//!
//! Made by the router, read by the worker, never changed: a change is a new snapshot. It says nothing about who
//! *owns* an address; that is [`Ownership`](crate::guard::Ownership), which comes from grants alone.

use std::net::IpAddr;

use wattle_model::{LinkId, NodeId, NodeIndex, Prefix};

use crate::fib::PrefixMap;

/// Shares of a path are parts of this many buckets of the flow hash.
pub const BUCKETS: usize = 256;
/// Most waypoints of a backup: what a relay frame has room for.
pub const MAX_WAYPOINTS: usize = 2;

/// Prefix to destination node, destination node to links.
#[derive(Debug, Clone, Default)]
pub struct Forwarding {
    prefixes: PrefixMap<NodeId>,
    /// Sorted by node.
    paths: Vec<(NodeId, Path)>,
}

/// One link that begins a path, and its share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextLink {
    /// The link.
    pub link: LinkId,
    /// Its share, relative to the others' weights.
    pub weight: u16,
}

/// Where packets go while every next link is suspect or down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    /// The link.
    pub link: LinkId,
    /// Nodes to be passed first, next one first; at most [`MAX_WAYPOINTS`] count.
    pub waypoints: Vec<NodeIndex>,
}

/// The ways to one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    next: Vec<NextLink>,
    /// Index into `next` for each bucket; empty when there is one next link.
    buckets: Vec<u8>,
    backup: Option<Backup>,
    hops: u8,
}

impl Path {
    /// A path over these links, `hops` links long on the best of them.
    pub fn new(next: Vec<NextLink>, backup: Option<Backup>, hops: u8) -> Self {
        let buckets = if next.len() > 1 {
            fill_buckets(&next)
        } else {
            Vec::new()
        };
        Self {
            next,
            buckets,
            backup,
            hops,
        }
    }

    /// A path over one link.
    pub fn single(link: LinkId) -> Self {
        Self::new(vec![NextLink { link, weight: 1 }], None, 1)
    }

    /// The link that carries flows with this hash, while it is healthy.
    pub fn pick(&self, flow: u32) -> Option<LinkId> {
        let index = match self.buckets.get(flow as usize % BUCKETS) {
            Some(index) => usize::from(*index),
            None => 0,
        };
        self.next.get(index).map(|next| next.link)
    }

    /// Every next link, in the order in which they were given.
    pub fn next_links(&self) -> &[NextLink] {
        &self.next
    }

    /// The way around.
    pub fn backup(&self) -> Option<&Backup> {
        self.backup.as_ref()
    }

    /// Links on the best path.
    pub fn hops(&self) -> u8 {
        self.hops
    }
}

impl Forwarding {
    /// The snapshot of these prefixes and paths. Of equal prefixes or nodes the last one given counts.
    pub fn new(
        prefixes: impl IntoIterator<Item = (Prefix, NodeId)>,
        paths: impl IntoIterator<Item = (NodeId, Path)>,
    ) -> Self {
        let mut paths: Vec<_> = paths.into_iter().collect();
        paths.reverse();
        paths.sort_by_key(|(node, _)| *node);
        paths.dedup_by_key(|(node, _)| *node);
        Self {
            prefixes: PrefixMap::new(prefixes),
            paths,
        }
    }

    /// The node that packets to `address` are for: the longest prefix that holds it decides.
    pub fn destination(&self, address: IpAddr) -> Option<NodeId> {
        self.prefixes.lookup(address).copied()
    }

    /// The ways to `node`.
    pub fn path(&self, node: NodeId) -> Option<&Path> {
        let at = self
            .paths
            .binary_search_by_key(&node, |(node, _)| *node)
            .ok()?;
        Some(&self.paths[at].1)
    }

    /// Every node that there is a path to.
    pub fn paths(&self) -> impl Iterator<Item = (NodeId, &Path)> {
        self.paths.iter().map(|(node, path)| (*node, path))
    }

    /// Every prefix with the node that its packets are for; of equal ones the last counts.
    pub fn prefixes(&self) -> impl Iterator<Item = (Prefix, NodeId)> {
        self.prefixes.iter().map(|(prefix, node)| (prefix, *node))
    }

    /// How many prefixes lead somewhere.
    pub fn prefix_count(&self) -> usize {
        self.prefixes.len()
    }
}

/// Gives each link the buckets of its share, in proportion to the weights, rounded so that all buckets are given.
fn fill_buckets(next: &[NextLink]) -> Vec<u8> {
    let total: u64 = next
        .iter()
        .map(|next| u64::from(next.weight))
        .sum::<u64>()
        .max(1);
    let mut buckets = Vec::with_capacity(BUCKETS);
    let mut sum = 0;
    for (index, next) in next.iter().enumerate().take(usize::from(u8::MAX)) {
        sum += u64::from(next.weight);
        let end = (sum * BUCKETS as u64 / total) as usize;
        buckets.resize(end.max(buckets.len()), index as u8);
    }
    buckets.resize(BUCKETS, 0);
    buckets
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(link: u32, weight: u16) -> NextLink {
        NextLink {
            link: LinkId(link),
            weight,
        }
    }

    #[test]
    fn shares_follow_the_weights() {
        let path = Path::new(vec![next(1, 3), next(2, 1)], None, 1);
        let count = |link| {
            (0..256)
                .filter(|flow| path.pick(*flow) == Some(LinkId(link)))
                .count()
        };
        assert_eq!((count(1), count(2)), (192, 64));
    }

    #[test]
    fn weights_of_zero_share_nothing_and_break_nothing() {
        let path = Path::new(vec![next(1, 0), next(2, 0)], None, 1);
        assert_eq!(path.pick(77), Some(LinkId(1)));
        let path = Path::new(vec![next(1, 0), next(2, 9)], None, 1);
        assert!((0..256).all(|flow| path.pick(flow) == Some(LinkId(2))));
        assert_eq!(Path::new(vec![], None, 1).pick(1), None);
    }

    #[test]
    fn the_longest_prefix_names_the_node_and_the_node_its_path() {
        let forwarding = Forwarding::new(
            [
                ("10.0.0.0/8".parse().unwrap(), NodeId(1)),
                ("10.1.0.0/16".parse().unwrap(), NodeId(2)),
            ],
            [
                (NodeId(2), Path::single(LinkId(7))),
                (NodeId(1), Path::single(LinkId(6))),
            ],
        );
        let node = forwarding.destination("10.1.2.3".parse().unwrap()).unwrap();
        assert_eq!(node, NodeId(2));
        assert_eq!(forwarding.path(node).unwrap().pick(0), Some(LinkId(7)));
        assert_eq!(forwarding.destination("11.0.0.1".parse().unwrap()), None);
        assert_eq!(forwarding.path(NodeId(9)), None);
    }
}
