//! Who is a member: admission with its checks, leaves, removal, and the signed peer set that follows from them
//! (`docs/protocol/grants.md`). Does not know tokens' secrets, connections or the database.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use wattle_api::token::TokenScope;
use wattle_model::{
    Instant, Micros, NetworkId, NodeId, NodeIndex, NodeName, Prefix, SeqNo, UnixTime, WgKey,
};
use wattle_wire::grant::{
    Grant, Holder, Peer, PeerSet, SignedGrant, is_dialable, leaf_id, removes,
};
use wattle_wire::key::{PublicKey, SecretKey};
use wattle_wire::record::{Body, Record, RecordKey, RecordKind, RemovalBody};

use crate::AddressPlan;
use crate::neighbours::{Candidate, Neighbours, Pair};

/// How long a grant is good: ten years. Membership ends by removal, which works within seconds; the date only bounds
/// what a forgotten copy of a peer set is worth.
pub const GRANT_VALIDITY_MS: u64 = 10 * 365 * 86_400_000;

/// Most candidates of one node: what a host with many interfaces has; a stranger's list is cut here.
pub const MAX_CANDIDATES: usize = 16;

/// Most members: indexes have 16 bits, and zero is nobody's.
pub const MAX_MEMBERS: usize = u16::MAX as usize;

/// A member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// What the root granted.
    pub grant: SignedGrant,
    /// Where others may dial it, best first.
    pub candidates: Vec<SocketAddr>,
    /// When it became a member.
    pub joined_at: UnixTime,
}

/// Who asks to become a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applicant {
    /// What holds the WireGuard key.
    pub holder: Holder,
    /// The WireGuard key.
    pub wireguard: WgKey,
    /// The name it would like.
    pub name: Option<NodeName>,
    /// The index it would like.
    pub index: Option<NodeIndex>,
    /// The addresses it would like instead of the plan's.
    pub addresses: Vec<IpAddr>,
    /// The prefixes it would like to announce; all that the scope allows if empty.
    pub prefixes: Vec<Prefix>,
    /// Where others may dial it.
    pub candidates: Vec<SocketAddr>,
}

/// Why an applicant is refused, or a member not found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Neither the token nor the applicant names a name.
    #[error("the node has no name: neither its token nor the node itself gives one")]
    NameMissing,
    /// The name is another's.
    #[error("the name `{name}` belongs to node {owner}")]
    NameTaken {
        /// The name.
        name: NodeName,
        /// Whose it is.
        owner: NodeId,
    },
    /// The identity is a member.
    #[error("node {0} is a member")]
    AlreadyMember(NodeId),
    /// The WireGuard key is another's.
    #[error("the WireGuard key belongs to node {0}")]
    KeyTaken(NodeId),
    /// The index is another's.
    #[error("index {index} belongs to node {owner}", index = index.0)]
    IndexTaken {
        /// The index.
        index: NodeIndex,
        /// Whose it is.
        owner: NodeId,
    },
    /// The index has no address in the plan, or none is free.
    #[error("the address plan has no address for {}", .0.map_or("another node".to_owned(), |i| format!("index {}", i.0)))]
    PlanExhausted(Option<NodeIndex>),
    /// The address lies outside the plan.
    #[error("the address {0} is not in the network's address plan")]
    AddressOutside(IpAddr),
    /// The prefix is another's, in whole or in part.
    #[error("{prefix} overlaps {other} of node `{owner}`")]
    PrefixTaken {
        /// What was asked.
        prefix: Prefix,
        /// What the other has.
        other: Prefix,
        /// Whose it is.
        owner: NodeName,
    },
    /// The prefix takes addresses of the plan.
    #[error("{0} overlaps the network's address plan")]
    PrefixInPlan(Prefix),
    /// The token does not allow the prefix.
    #[error("the token does not allow the prefix {0}")]
    PrefixOutsideScope(Prefix),
    /// There is no such member.
    #[error("there is no node {0}")]
    NoSuchNode(String),
    /// A leaf cannot host a leaf.
    #[error("`{0}` is a stock WireGuard device and cannot host another")]
    HostIsLeaf(NodeName),
}

/// All members of a network, former ones' removals, and the newest peer set.
#[derive(Debug, Clone)]
pub struct Membership {
    network: NetworkId,
    plan: AddressPlan,
    members: BTreeMap<NodeId, Member>,
    removals: BTreeMap<NodeId, Record>,
    names: BTreeMap<NodeName, NodeId>,
    indexes: BTreeMap<NodeIndex, NodeId>,
    revision: u64,
    neighbours: Neighbours,
}

impl Membership {
    /// The members and removals as they were stored, at a revision of the peer set.
    pub fn recover(
        network: NetworkId,
        plan: AddressPlan,
        revision: u64,
        members: impl IntoIterator<Item = Member>,
        removals: impl IntoIterator<Item = Record>,
    ) -> Self {
        let mut membership = Self {
            network,
            plan,
            members: BTreeMap::new(),
            removals: removals
                .into_iter()
                .map(|record| (record.origin(), record))
                .collect(),
            names: BTreeMap::new(),
            indexes: BTreeMap::new(),
            revision,
            neighbours: Neighbours::default(),
        };
        for member in members {
            membership.insert(member);
        }
        membership
    }

    /// All members, by id.
    pub fn members(&self) -> impl ExactSizeIterator<Item = (NodeId, &Member)> {
        self.members.iter().map(|(node, member)| (*node, member))
    }

    /// One member.
    pub fn member(&self, node: NodeId) -> Option<&Member> {
        self.members.get(&node)
    }

    /// The member with this name, or with this id in text.
    pub fn find(&self, name: &str) -> Result<NodeId, Refusal> {
        let by_id = || name.parse().ok().filter(|id| self.members.contains_key(id));
        let by_name = name
            .parse::<NodeName>()
            .ok()
            .and_then(|name| self.names.get(&name).copied());
        by_name
            .or_else(by_id)
            .ok_or_else(|| Refusal::NoSuchNode(name.to_owned()))
    }

    /// Whether the node was removed and did not come back.
    pub fn is_removed(&self, node: NodeId) -> bool {
        self.removals.contains_key(&node) && !self.members.contains_key(&node)
    }

    /// Signed removals of former members.
    pub fn removals(&self) -> impl Iterator<Item = &Record> {
        self.removals.values()
    }

    /// Revision of the newest peer set.
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    /// Checks everything about an applicant and makes it a member, or changes nothing.
    pub fn admit(
        &mut self,
        applicant: Applicant,
        scope: &TokenScope,
        root: &SecretKey,
        now: UnixTime,
    ) -> Result<NodeId, Refusal> {
        let node = match applicant.holder {
            Holder::Agent { identity } => identity.node_id(),
            Holder::Leaf { .. } => leaf_id(applicant.wireguard),
        };
        self.check_key(node, &applicant)?;
        let name = self.choose_name(&applicant, scope)?;
        let prefixes = self.choose_prefixes(&applicant, scope)?;
        let (index, addresses) = self.choose_addresses(&applicant)?;
        let grant = Grant {
            network: self.network,
            node,
            holder: applicant.holder,
            wireguard: applicant.wireguard,
            index,
            name,
            addresses,
            prefixes,
            tags: scope.tags.clone(),
            site: scope.site.clone(),
            serial: self.next_serial(node),
            not_after: UnixTime(now.0 + GRANT_VALIDITY_MS),
        };
        let mut candidates = applicant.candidates;
        candidates.truncate(MAX_CANDIDATES);
        self.insert(Member {
            grant: SignedGrant::sign(grant, root),
            candidates,
            joined_at: now,
        });
        Ok(node)
    }

    /// Attaches a stock WireGuard device to a node.
    pub fn admit_leaf(
        &mut self,
        host: NodeId,
        mut leaf: Applicant,
        root: &SecretKey,
        now: UnixTime,
    ) -> Result<NodeId, Refusal> {
        let host_member = self
            .members
            .get(&host)
            .ok_or_else(|| Refusal::NoSuchNode(host.to_string()))?;
        let host_grant = host_member.grant.grant();
        if host_grant.leaf_of().is_some() {
            return Err(Refusal::HostIsLeaf(host_grant.name.clone()));
        }
        let scope = TokenScope {
            prefixes: leaf.prefixes.clone(),
            site: host_grant.site.clone(),
            ..TokenScope::default()
        };
        leaf.holder = Holder::Leaf { host };
        self.admit(leaf, &scope, root, now)
    }

    /// Ends a membership, and with it those of the leaves that the node hosts. Returns the signed removals.
    pub fn remove(
        &mut self,
        node: NodeId,
        root: &SecretKey,
        now: UnixTime,
    ) -> Result<Vec<Record>, Refusal> {
        if !self.members.contains_key(&node) {
            return Err(Refusal::NoSuchNode(node.to_string()));
        }
        let leaves = self
            .members
            .iter()
            .filter(|(_, m)| m.grant.grant().leaf_of() == Some(node));
        let gone: Vec<NodeId> = leaves.map(|(leaf, _)| *leaf).chain([node]).collect();
        Ok(gone
            .into_iter()
            .filter_map(|node| self.remove_one(node, root, now))
            .collect())
    }

    /// Takes over where a node can be dialled; tells whether that is news.
    pub fn set_candidates(&mut self, node: NodeId, mut candidates: Vec<SocketAddr>) -> bool {
        candidates.truncate(MAX_CANDIDATES);
        match self.members.get_mut(&node) {
            Some(member) if member.candidates != candidates => {
                member.candidates = candidates;
                true
            }
            Some(_) | None => false,
        }
    }

    /// Goes on with the neighbours that a peer set names, and with what links measured.
    pub fn resume(&mut self, set: &PeerSet, now: Instant, measured: BTreeMap<Pair, Micros>) {
        self.neighbours = Neighbours::resume(set, self.candidates(), now, measured);
    }

    /// Takes over round trips as all links measure them; tells whether other neighbours follow from them.
    pub fn set_round_trips(&mut self, now: Instant, measured: BTreeMap<Pair, Micros>) -> bool {
        self.neighbours.set_round_trips(now, measured)
    }

    /// Makes the next revision of the peer set.
    pub fn revise(&mut self, now: UnixTime) -> PeerSet {
        self.revision += 1;
        self.neighbours.set_members(self.candidates());
        let peers = self.members.iter().map(|(node, member)| {
            let peer = Peer {
                grant: member.grant.clone(),
                candidates: member.candidates.clone(),
                neighbours: self.neighbours.named(*node),
            };
            (*node, peer)
        });
        PeerSet {
            network: self.network,
            revision: self.revision,
            at: now,
            peers: peers.collect(),
            removals: self.removals.values().cloned().collect(),
        }
    }

    /// Who may have neighbours.
    fn candidates(&self) -> Vec<Candidate> {
        let members = self.members.iter().filter_map(|(node, member)| {
            let grant = member.grant.grant();
            grant.leaf_of().is_none().then(|| Candidate {
                node: *node,
                site: grant.site.clone(),
                is_anchor: is_dialable(&member.candidates),
            })
        });
        members.collect()
    }

    fn check_key(&self, node: NodeId, applicant: &Applicant) -> Result<(), Refusal> {
        if self.members.contains_key(&node) {
            return Err(Refusal::AlreadyMember(node));
        }
        let same_key = |m: &&Member| m.grant.grant().wireguard == applicant.wireguard;
        match self.members.values().find(same_key) {
            Some(owner) => Err(Refusal::KeyTaken(owner.grant.grant().node)),
            None => Ok(()),
        }
    }

    fn choose_name(&self, applicant: &Applicant, scope: &TokenScope) -> Result<NodeName, Refusal> {
        let name = scope
            .name
            .as_ref()
            .or(applicant.name.as_ref())
            .ok_or(Refusal::NameMissing)?;
        match self.names.get(name) {
            Some(owner) => Err(Refusal::NameTaken {
                name: name.clone(),
                owner: *owner,
            }),
            None => Ok(name.clone()),
        }
    }

    fn choose_prefixes(
        &self,
        applicant: &Applicant,
        scope: &TokenScope,
    ) -> Result<Vec<Prefix>, Refusal> {
        let asked = if applicant.prefixes.is_empty() {
            &scope.prefixes
        } else {
            &applicant.prefixes
        };
        let asked: BTreeSet<Prefix> = asked.iter().copied().collect();
        for prefix in &asked {
            if !scope
                .prefixes
                .iter()
                .any(|allowed| lies_within(prefix, allowed))
            {
                return Err(Refusal::PrefixOutsideScope(*prefix));
            }
            if self.plan.overlaps(prefix) {
                return Err(Refusal::PrefixInPlan(*prefix));
            }
            self.check_free(prefix)?;
        }
        Ok(asked.into_iter().collect())
    }

    fn choose_addresses(&self, applicant: &Applicant) -> Result<(NodeIndex, Vec<IpAddr>), Refusal> {
        let index = match applicant.index {
            Some(index) => index,
            None => self.free_index(applicant)?,
        };
        if let Some(owner) = self.indexes.get(&index) {
            return Err(Refusal::IndexTaken {
                index,
                owner: *owner,
            });
        }
        let planned = self.plan.addresses(index);
        if planned.is_empty() {
            return Err(Refusal::PlanExhausted(Some(index)));
        }
        let addresses = if applicant.addresses.is_empty() {
            planned
        } else {
            applicant.addresses.clone()
        };
        for address in &addresses {
            if !self.plan.overlaps(&Prefix::host(*address)) {
                return Err(Refusal::AddressOutside(*address));
            }
            self.check_free(&Prefix::host(*address))?;
        }
        Ok((index, addresses))
    }

    /// The lowest index that is free together with its addresses.
    fn free_index(&self, applicant: &Applicant) -> Result<NodeIndex, Refusal> {
        let taken: BTreeSet<IpAddr> = self
            .members
            .values()
            .flat_map(|m| m.grant.grant().addresses.iter().copied())
            .collect();
        for index in (1..=u16::MAX).map(NodeIndex) {
            if self.indexes.contains_key(&index) {
                continue;
            }
            let addresses = self.plan.addresses(index);
            if addresses.is_empty() {
                break;
            }
            let free = addresses.iter().all(|address| !taken.contains(address));
            if free || !applicant.addresses.is_empty() {
                return Ok(index);
            }
        }
        Err(Refusal::PlanExhausted(None))
    }

    fn check_free(&self, prefix: &Prefix) -> Result<(), Refusal> {
        for member in self.members.values() {
            let grant = member.grant.grant();
            if let Some(other) = grant.owned().find(|owned| owned.overlaps(prefix)) {
                return Err(Refusal::PrefixTaken {
                    prefix: *prefix,
                    other,
                    owner: grant.name.clone(),
                });
            }
        }
        Ok(())
    }

    fn next_serial(&self, node: NodeId) -> u64 {
        match self.removals.get(&node).map(Record::body) {
            Some(Body::Removal(removal)) => removal.serial + 1,
            _ => 1,
        }
    }

    fn insert(&mut self, member: Member) {
        let grant = member.grant.grant();
        self.names.insert(grant.name.clone(), grant.node);
        self.indexes.insert(grant.index, grant.node);
        self.members.insert(grant.node, member);
    }

    fn remove_one(&mut self, node: NodeId, root: &SecretKey, now: UnixTime) -> Option<Record> {
        let member = self.members.remove(&node)?;
        let grant = member.grant.grant();
        self.names.remove(&grant.name);
        self.indexes.remove(&grant.index);
        let key = RecordKey {
            origin: node,
            kind: RecordKind::Removal,
            part: 0,
        };
        let body = Body::Removal(RemovalBody {
            at: now,
            serial: grant.serial,
        });
        let removal = Record::sign(
            self.network,
            key,
            SeqNo(grant.serial),
            u32::MAX,
            &body,
            root,
        );
        debug_assert!(removes(&removal, node, grant.serial));
        self.removals.insert(node, removal.clone());
        Some(removal)
    }
}

/// Whether every address of `inner` is one of `outer`.
pub(crate) fn lies_within(inner: &Prefix, outer: &Prefix) -> bool {
    outer.contains(inner.address())
        && inner.length() >= outer.length()
        && inner.is_ipv6() == outer.is_ipv6()
}

/// The identity key behind a member, unless it is a leaf.
pub fn identity_of(member: &Member) -> Option<PublicKey> {
    member.grant.grant().identity()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixTime = UnixTime(1_795_385_280_000);

    fn root() -> SecretKey {
        SecretKey::from_seed(&[1; 32])
    }

    fn empty() -> Membership {
        let network = root().public().network_id();
        let plan = AddressPlan {
            ipv4: Some("10.77.0.0/29".parse().unwrap()),
            ipv6: Some("fd57::/64".parse().unwrap()),
        };
        Membership::recover(network, plan, 0, [], [])
    }

    fn applicant(seed: u8, name: &str) -> Applicant {
        Applicant {
            holder: Holder::Agent {
                identity: SecretKey::from_seed(&[seed; 32]).public(),
            },
            wireguard: WgKey([seed; 32]),
            name: Some(name.parse().unwrap()),
            index: None,
            addresses: vec![],
            prefixes: vec![],
            candidates: vec![format!("192.0.2.{seed}:51820").parse().unwrap()],
        }
    }

    fn scope(prefixes: &[&str]) -> TokenScope {
        TokenScope {
            prefixes: prefixes.iter().map(|p| p.parse().unwrap()).collect(),
            ..TokenScope::default()
        }
    }

    fn forty_and_a_phone() -> (Membership, NodeId) {
        let network = root().public().network_id();
        let plan = AddressPlan::default_of(network);
        let mut members = Membership::recover(network, plan, 0, [], []);
        for seed in 1..=40 {
            admit(&mut members, applicant(seed, &format!("n{seed}")), &[]).unwrap();
        }
        let host = members.members().next().unwrap().0;
        let phone = applicant(99, "phone");
        let phone = members.admit_leaf(host, phone, &root(), NOW).unwrap();
        (members, phone)
    }

    fn not_yet_neighbours(set: &PeerSet) -> (NodeId, NodeId) {
        let mut named = set.peers.iter();
        let (node, others) = named
            .find_map(|(node, peer)| Some((*node, peer.neighbours.as_ref()?)))
            .unwrap();
        let mut agents = set.peers.values().filter(|peer| peer.neighbours.is_some());
        let other = agents.find(|peer| !others.contains(&peer.node())).unwrap();
        (node, other.node())
    }

    fn admit(to: &mut Membership, who: Applicant, prefixes: &[&str]) -> Result<NodeId, Refusal> {
        to.admit(who, &scope(prefixes), &root(), NOW)
    }

    #[test]
    fn members_get_the_lowest_free_index_and_its_addresses() {
        let mut members = empty();
        let a = admit(&mut members, applicant(1, "a"), &[]).unwrap();
        let b = admit(&mut members, applicant(2, "b"), &[]).unwrap();
        members.remove(a, &root(), NOW).unwrap();
        let c = admit(&mut members, applicant(3, "c"), &[]).unwrap();
        let index = |node| members.member(node).unwrap().grant.grant().index.0;
        assert_eq!((index(b), index(c)), (2, 1));
        let addresses = &members.member(c).unwrap().grant.grant().addresses;
        assert_eq!(
            *addresses,
            [
                "10.77.0.1".parse::<IpAddr>().unwrap(),
                "fd57::1".parse().unwrap()
            ]
        );
    }

    #[test]
    fn what_another_node_has_is_refused_by_name_and_changes_nothing() {
        let mut members = empty();
        let a = admit(&mut members, applicant(1, "a"), &["192.168.0.0/16"]).unwrap();
        let cases: [(Applicant, &[&str], &str); 8] = [
            (applicant(1, "x"), &[], "is a member"),
            (applicant(2, "a"), &[], "the name `a` belongs to node"),
            (
                Applicant {
                    wireguard: WgKey([1; 32]),
                    ..applicant(2, "b")
                },
                &[],
                "the WireGuard key belongs",
            ),
            (
                Applicant {
                    index: Some(NodeIndex(1)),
                    ..applicant(2, "b")
                },
                &[],
                "index 1 belongs to",
            ),
            (
                applicant(2, "b"),
                &["192.168.7.0/24"],
                "192.168.7.0/24 overlaps 192.168.0.0/16 of node `a`",
            ),
            (
                applicant(2, "b"),
                &["10.0.0.0/8"],
                "overlaps the network's address plan",
            ),
            (
                Applicant {
                    prefixes: vec!["172.16.0.0/12".parse().unwrap()],
                    ..applicant(2, "b")
                },
                &["172.16.0.0/16"],
                "the token does not allow the prefix 172.16.0.0/12",
            ),
            (
                Applicant {
                    index: Some(NodeIndex(7)),
                    ..applicant(2, "b")
                },
                &[],
                "no address for index 7",
            ),
        ];
        for (who, prefixes, part) in cases {
            let refusal = admit(&mut members, who, prefixes).unwrap_err().to_string();
            assert!(refusal.contains(part), "{refusal}");
        }
        assert_eq!(
            members.members().map(|(node, _)| node).collect::<Vec<_>>(),
            [a]
        );
    }

    #[test]
    fn a_full_plan_is_said_to_be_full() {
        let mut members = empty();
        for seed in 1..=6 {
            admit(&mut members, applicant(seed, &format!("n{seed}")), &[]).unwrap();
        }
        let refusal = admit(&mut members, applicant(9, "n9"), &[]).unwrap_err();
        assert_eq!(refusal, Refusal::PlanExhausted(None));
    }

    #[test]
    fn a_removed_node_may_come_back_with_a_grant_that_its_removal_does_not_void() {
        let mut members = empty();
        let a = admit(&mut members, applicant(1, "a"), &[]).unwrap();
        members.remove(a, &root(), NOW).unwrap();
        assert!(members.is_removed(a));
        assert_eq!(admit(&mut members, applicant(1, "a"), &[]).unwrap(), a);
        assert!(!members.is_removed(a));
        let set = members.revise(NOW);
        PeerSet::open(&set.sign(&root()), &root().public()).unwrap();
    }

    #[test]
    fn peer_sets_follow_one_another_through_joins_and_removals() {
        let mut members = empty();
        let a = admit(&mut members, applicant(1, "a"), &["192.168.0.0/24"]).unwrap();
        let first = members.revise(NOW);
        admit(&mut members, applicant(2, "b"), &[]).unwrap();
        let second = members.revise(NOW);
        let removals = members.remove(a, &root(), NOW).unwrap();
        let third = members.revise(NOW);
        assert_eq!((first.revision, third.revision, removals.len()), (1, 3, 1));
        for set in [&first, &second, &third] {
            assert_eq!(
                PeerSet::open(&set.sign(&root()), &root().public()).unwrap(),
                *set
            );
        }
        second.may_follow(&first).unwrap();
        third.may_follow(&second).unwrap();
        assert!(!third.peers.contains_key(&a));
    }

    /// Input: forty agents and a phone. Output: A names B if B names A, each names itself, and the phone has no say.
    #[test]
    fn a_large_network_s_neighbours_are_named_alike_at_both_ends() {
        let (mut members, phone) = forty_and_a_phone();
        let set = members.revise(NOW);
        assert_eq!(set.peers[&phone].neighbours, None);
        let agents = set.peers.iter().filter(|(node, _)| **node != phone);
        let named: BTreeMap<NodeId, &Vec<NodeId>> = agents
            .map(|(node, peer)| (*node, peer.neighbours.as_ref().unwrap()))
            .collect();
        assert_eq!(named.len(), 40);
        for (node, others) in &named {
            assert!((4..=9).contains(&others.len()), "{node}: {others:?}");
            assert!(others.contains(node));
            assert!(others.iter().all(|other| named[other].contains(node)));
        }
    }

    #[test]
    fn who_starts_again_goes_on_with_the_neighbours_of_the_stored_set() {
        let (mut members, _) = forty_and_a_phone();
        let (a, b) = not_yet_neighbours(&members.revise(NOW));
        let near = BTreeMap::from([(Pair::of(a, b), Micros(100))]);
        assert!(members.set_round_trips(Instant(0), near.clone()));
        let set = members.revise(NOW);
        assert!(!members.set_round_trips(Instant(0), near.clone()));
        assert!(set.peers[&a].neighbours.as_ref().unwrap().contains(&b));

        let kept: Vec<_> = members.members().map(|(_, kept)| kept.clone()).collect();
        let (network, plan) = (members.network, members.plan.clone());
        let mut again = Membership::recover(network, plan, set.revision, kept, []);
        again.resume(&set, Instant(0), near);
        assert_eq!(again.revise(NOW).peers, set.peers);
    }

    #[test]
    fn a_leaf_goes_with_its_host() {
        let mut members = empty();
        let host = admit(&mut members, applicant(1, "a"), &[]).unwrap();
        let phone = Applicant {
            candidates: vec![],
            ..applicant(2, "phone")
        };
        let leaf = members
            .admit_leaf(host, phone.clone(), &root(), NOW)
            .unwrap();
        assert_eq!(
            members.member(leaf).unwrap().grant.grant().leaf_of(),
            Some(host)
        );
        let refusal = members
            .admit_leaf(leaf, applicant(3, "watch"), &root(), NOW)
            .unwrap_err();
        assert!(matches!(refusal, Refusal::HostIsLeaf(_)));
        assert_eq!(members.remove(host, &root(), NOW).unwrap().len(), 2);
        assert_eq!(members.members().len(), 0);
    }
}
