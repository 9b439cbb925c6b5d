//! The forwarding snapshot: which node a packet is for, and over which links it gets there.
//!
//! Made by the router, read by the worker, never changed: a change is a new snapshot. It says nothing about who
//! *owns* an address; that is [`Ownership`](crate::guard::Ownership), which comes from grants alone.

use std::net::IpAddr;

use wattle_model::{Class, LinkId, NodeId, NodeIndex, Prefix, Waypoint};

use crate::fib::PrefixMap;

/// Shares of a path are parts of this many buckets of the flow hash.
pub const BUCKETS: usize = 256;

/// Prefix to destination node, destination node to links.
#[derive(Debug, Clone, Default)]
pub struct Forwarding {
    prefixes: PrefixMap<NodeId>,
    /// Sorted by node, for each class; empty where a class is priced as latency is.
    paths: [Vec<(NodeId, Path)>; Class::ALL.len()],
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
    /// Nodes to be passed first, next one first; at most [`MAX_WAYPOINTS`](wattle_model::MAX_WAYPOINTS) count.
    pub waypoints: Vec<Waypoint<NodeIndex>>,
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

    /// The same shares with as few flows as possible on another link than `before` had them on.
    #[must_use]
    fn keeping(mut self, before: &Self) -> Self {
        let mut left = vec![0_usize; self.next.len()];
        for index in &self.buckets {
            left[usize::from(*index)] += 1;
        }
        let kept = |flow: usize, left: &mut Vec<usize>| {
            let link = before.pick(flow as u32)?;
            let at = self.next.iter().position(|next| next.link == link)?;
            left[at] = left[at].checked_sub(1)?;
            Some(at as u8)
        };
        let kept: Vec<_> = (0..self.buckets.len())
            .map(|flow| kept(flow, &mut left))
            .collect();
        let mut free = (0..)
            .zip(&left)
            .flat_map(|(at, count)| std::iter::repeat_n(at, *count));
        for (bucket, kept) in self.buckets.iter_mut().zip(kept) {
            *bucket = kept.or_else(|| free.next()).unwrap_or(*bucket);
        }
        self
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
        let forwarding = Self {
            prefixes: PrefixMap::new(prefixes),
            paths: Default::default(),
        };
        forwarding.with_class(Class::Latency, paths)
    }

    /// The same with paths for the packets of a class. Of equal nodes the last one given counts.
    #[must_use]
    pub fn with_class(
        mut self,
        class: Class,
        paths: impl IntoIterator<Item = (NodeId, Path)>,
    ) -> Self {
        let mut paths: Vec<_> = paths.into_iter().collect();
        paths.reverse();
        paths.sort_by_key(|(node, _)| *node);
        paths.dedup_by_key(|(node, _)| *node);
        self.paths[usize::from(class.code())] = paths;
        self
    }

    /// The same paths and shares, with as few flows as possible on another link than in the snapshot `before`.
    #[must_use]
    pub fn keeping(mut self, before: &Self) -> Self {
        for class in Class::ALL {
            let paths = &mut self.paths[usize::from(class.code())];
            let earlier = |node| before.path(class, node);
            *paths = std::mem::take(paths)
                .into_iter()
                .map(|(node, path)| match earlier(node) {
                    Some(earlier) => (node, path.keeping(earlier)),
                    None => (node, path),
                })
                .collect();
        }
        self
    }

    /// The node that packets to `address` are for: the longest prefix that holds it decides.
    pub fn destination(&self, address: IpAddr) -> Option<NodeId> {
        self.prefixes.lookup(address).copied()
    }

    /// The ways of a class to `node`.
    pub fn path(&self, class: Class, node: NodeId) -> Option<&Path> {
        let paths = self.of_class(class);
        let at = paths.binary_search_by_key(&node, |(node, _)| *node).ok()?;
        Some(&paths[at].1)
    }

    fn of_class(&self, class: Class) -> &[(NodeId, Path)] {
        match self.paths[usize::from(class.code())].as_slice() {
            [] => &self.paths[usize::from(Class::Latency.code())],
            apart => apart,
        }
    }

    /// Every node that packets of a class have a path to.
    pub fn paths(&self, class: Class) -> impl Iterator<Item = (NodeId, &Path)> {
        self.of_class(class)
            .iter()
            .map(|(node, path)| (*node, path))
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

    fn shared(links: &[(u32, u16)]) -> Forwarding {
        let next = links.iter().map(|(link, weight)| next(*link, *weight));
        Forwarding::new([], [(NodeId(1), Path::new(next.collect(), None, 2))])
    }

    fn picks(forwarding: &Forwarding) -> Vec<u32> {
        let path = forwarding.path(Class::Latency, NodeId(1)).unwrap();
        (0..256).map(|flow| path.pick(flow).unwrap().0).collect()
    }

    fn moved(before: &Forwarding, after: &Forwarding) -> usize {
        let pairs = picks(before).into_iter().zip(picks(after));
        pairs.filter(|(before, after)| before != after).count()
    }

    #[test]
    fn only_the_flows_of_a_link_that_went_move_whichever_it_is() {
        let three = shared(&[(1, 86), (2, 85), (3, 85)]);
        for gone in 1..=3 {
            let left = [1, 2, 3].into_iter().filter(|link| *link != gone);
            let left: Vec<_> = left.map(|link| (link, 128)).collect();
            let two = shared(&left).keeping(&three);
            let lost = picks(&three).iter().filter(|link| **link == gone).count();
            assert_eq!(moved(&three, &two), lost, "{gone}");
            // It comes back: it gets its share, and nobody else's flows change places.
            let again = shared(&[(1, 86), (2, 85), (3, 85)]).keeping(&two);
            let share = picks(&again).iter().filter(|link| **link == gone).count();
            assert_eq!(
                (moved(&two, &again), share),
                (share, 86 - usize::from(gone > 1))
            );
        }
    }

    #[test]
    fn a_change_of_weights_moves_the_difference_only() {
        let before = shared(&[(1, 128), (2, 128)]);
        let after = shared(&[(2, 96), (1, 160)]).keeping(&before);
        assert_eq!(moved(&before, &after), 32);
        let one = shared(&[(2, 1)]);
        assert_eq!(moved(&after, &one.keeping(&after)), 160);
    }

    #[test]
    fn three_equal_relays_share_flows_within_a_tenth_and_a_flow_stays_where_it_is() {
        let three = shared(&[(1, 86), (2, 85), (3, 85)]);
        let path = three.path(Class::Latency, NodeId(1)).unwrap();
        let mut flows = [0_u32; 3];
        for port in 0..30_000_u16 {
            let mut bytes = crate::packet::samples::udp("10.0.0.1", "10.0.0.2", b"");
            bytes[20..22].copy_from_slice(&port.to_be_bytes());
            let hash =
                |bytes: &[u8]| crate::flow::hash(&crate::Packet::parse(bytes).unwrap(), bytes);
            let link = path.pick(hash(&bytes)).unwrap();
            assert_eq!(path.pick(hash(&bytes.clone())), Some(link));
            flows[link.0 as usize - 1] += 1;
        }
        assert!(
            flows.iter().all(|count| (9_000..=11_000).contains(count)),
            "{flows:?}"
        );
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
        assert_eq!(
            forwarding.path(Class::Latency, node).unwrap().pick(0),
            Some(LinkId(7))
        );
        assert_eq!(forwarding.destination("11.0.0.1".parse().unwrap()), None);
        assert_eq!(forwarding.path(Class::Latency, NodeId(9)), None);
    }

    #[test]
    fn a_class_without_paths_of_its_own_goes_the_way_of_latency() {
        let to = |link| [(NodeId(1), Path::single(LinkId(link)))];
        let forwarding = Forwarding::new([], to(1)).with_class(Class::Bulk, to(2));
        let link = |class| forwarding.path(class, NodeId(1)).unwrap().pick(0);
        for (class, expected) in [(Class::Latency, 1), (Class::Bulk, 2), (Class::Admin, 1)] {
            assert_eq!(link(class), Some(LinkId(expected)), "{class}");
        }
    }
}
