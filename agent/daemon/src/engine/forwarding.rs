//! From routes between nodes to what a packet needs: which prefix is which node's, which link is next, and what the
//! kernel must send into the mesh. Pure.

use std::collections::{BTreeMap, BTreeSet};

use wattle_dataplane::{Backup, Forwarding, NextLink, Path};
use wattle_host::Wanted;
use wattle_model::{Class, NodeId, Prefix, Waypoint};
use wattle_routing::{Route, Router, Topology};

use super::Membership;

/// The data thread's snapshot: members' addresses from their grants, announced prefixes and the paths of all classes from
/// routing.
pub(super) fn snapshot(membership: &Membership, router: &Router) -> Forwarding {
    let announced = router.routes().prefixes.iter();
    let announced = announced.map(|(prefix, node)| (*prefix, *node));
    let prefixes = announced.chain(membership.address_prefixes());
    let paths = |class| {
        let routes = router.routes_of(class).routes.iter();
        routes.map(|(node, route)| (*node, path(membership, route)))
    };
    let forwarding = Forwarding::new(prefixes, paths(Class::Latency));
    let apart = router.apart();
    apart.fold(forwarding, |forwarding, class| {
        forwarding.with_class(class, paths(class))
    })
}

fn path(membership: &Membership, route: &Route) -> Path {
    let next = route.next.iter();
    let next = next
        .map(|hop| NextLink {
            link: hop.link,
            weight: hop.weight,
        })
        .collect();
    let backup = route.backup.as_ref().and_then(|backup| {
        // A waypoint that has no index (its grant is gone) would lead nowhere.
        let named = |stop: &Waypoint<NodeId>| {
            let grant = membership.grant(stop.node)?;
            Some(stop.map(|_| grant.index))
        };
        let waypoints: Option<Vec<_>> = backup.waypoints.iter().map(named).collect();
        Some(Backup {
            link: backup.link,
            waypoints: waypoints?,
        })
    });
    Path::new(next, backup, u8::try_from(route.hops).unwrap_or(u8::MAX))
}

/// A prefix that others announce and that this host reaches otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LeftOut {
    /// The prefix.
    pub(super) prefix: Prefix,
    /// Who announces it.
    pub(super) origins: BTreeSet<NodeId>,
    /// The host's own network that overlaps it.
    pub(super) near: Prefix,
    /// The interface which that network is on.
    pub(super) interface: String,
}

/// The kernel's part: our addresses, and everything that leads into the mesh.
///
/// Announced prefixes stay while they are announced, reachable or not: a packet for one must not leave the host in
/// the clear. A prefix that overlaps a network which the host is attached to is left out, so that no other node can
/// take the host's own neighbourhood away.
pub(super) fn wanted(
    membership: &Membership,
    topology: &Topology,
    plan: impl Iterator<Item = Prefix>,
    on_link: &BTreeMap<Prefix, String>,
) -> Wanted {
    let own = membership.own_grant();
    let addresses = own
        .map(|grant| grant.addresses.iter().copied().collect())
        .unwrap_or_default();
    let plan: Vec<Prefix> = plan.collect();
    let members = membership
        .members()
        .filter(|peer| peer.node() != membership.own());
    let single = members
        .flat_map(|peer| {
            peer.grant
                .grant()
                .addresses
                .iter()
                .copied()
                .map(Prefix::host)
        })
        .filter(|host| !plan.iter().any(|prefix| prefix.contains(host.address())));
    let behind = behind_others(membership, topology).into_keys();
    let behind = behind.filter(|prefix| overlapping(on_link, prefix).is_none());
    let single: Vec<Prefix> = single.collect();
    Wanted {
        addresses,
        routes: plan.iter().copied().chain(single).chain(behind).collect(),
    }
}

/// The prefixes that [`wanted`] leaves out.
pub(super) fn left_out(
    membership: &Membership,
    topology: &Topology,
    on_link: &BTreeMap<Prefix, String>,
) -> Vec<LeftOut> {
    let behind = behind_others(membership, topology).into_iter();
    let left_out = behind.filter_map(|(prefix, origins)| {
        let (near, interface) = overlapping(on_link, &prefix)?;
        Some(LeftOut {
            prefix,
            origins,
            near: *near,
            interface: interface.clone(),
        })
    });
    left_out.collect()
}

/// Networks behind others: what nodes announce but this one does not, and what leaves were granted.
fn behind_others(
    membership: &Membership,
    topology: &Topology,
) -> BTreeMap<Prefix, BTreeSet<NodeId>> {
    let announced = topology
        .prefixes
        .iter()
        .filter(|(_, origins)| !origins.contains(&membership.own()));
    let announced = announced.flat_map(|(prefix, origins)| {
        let origins = origins.iter();
        origins.map(move |origin| (*prefix, *origin))
    });
    let leaves = membership
        .members()
        .map(|peer| peer.grant.grant())
        .filter(|grant| grant.leaf_of().is_some());
    let granted = leaves.flat_map(|leaf| {
        let prefixes = leaf.prefixes.iter();
        prefixes.map(move |prefix| (*prefix, leaf.node))
    });
    let mut all: BTreeMap<Prefix, BTreeSet<NodeId>> = BTreeMap::new();
    for (prefix, origin) in announced.chain(granted) {
        all.entry(prefix).or_default().insert(origin);
    }
    all
}

fn overlapping<'a>(
    on_link: &'a BTreeMap<Prefix, String>,
    prefix: &Prefix,
) -> Option<(&'a Prefix, &'a String)> {
    on_link.iter().find(|(near, _)| near.overlaps(prefix))
}
