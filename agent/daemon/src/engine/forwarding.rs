//! From routes between nodes to what a packet needs: which prefix is which node's, which link is next, and what the
//! kernel must send into the mesh. Pure.

use std::collections::BTreeSet;

use wattle_dataplane::{Backup, Forwarding, NextLink, Path};
use wattle_host::Wanted;
use wattle_model::Prefix;
use wattle_routing::{Route, Routes, Topology};

use super::Membership;

/// The data thread's snapshot: members' addresses from their grants, announced prefixes from routing.
pub(super) fn snapshot(membership: &Membership, routes: &Routes) -> Forwarding {
    let announced = routes
        .prefixes
        .iter()
        .map(|(prefix, node)| (*prefix, *node));
    let prefixes = announced.chain(membership.address_prefixes());
    let paths = routes
        .routes
        .iter()
        .map(|(node, route)| (*node, path(membership, route)));
    Forwarding::new(prefixes, paths)
}

fn path(membership: &Membership, route: &Route) -> Path {
    let next = route.next.iter();
    let next = next
        .map(|hop| NextLink {
            link: hop.link,
            weight: hop.weight,
        })
        .collect();
    let backup = route.backup.and_then(|backup| {
        let waypoints = match backup.waypoint {
            None => Vec::new(),
            // A waypoint that has no index (its grant is gone) would lead nowhere.
            Some(node) => vec![membership.grant(node)?.index],
        };
        Some(Backup {
            link: backup.link,
            waypoints,
        })
    });
    Path::new(next, backup, u8::try_from(route.hops).unwrap_or(u8::MAX))
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
    on_link: &BTreeSet<Prefix>,
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
    let announced = topology
        .prefixes
        .iter()
        .filter(|(_, origins)| !origins.contains(&membership.own()))
        .map(|(prefix, _)| *prefix)
        .filter(|prefix| !on_link.iter().any(|near| near.overlaps(prefix)));
    let single: Vec<Prefix> = single.collect();
    Wanted {
        addresses,
        routes: plan
            .iter()
            .copied()
            .chain(single)
            .chain(announced)
            .collect(),
    }
}
