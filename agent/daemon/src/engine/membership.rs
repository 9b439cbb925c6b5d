//! Who is in the network and owns what: the accepted peer set, and what follows from it for this node.
//!
//! Pure. A set is taken over only if the trust root signed it and nobody is missing without a signed removal
//! (`wattle_wire::grant` judges both). Knows nothing of links, routes or files.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use wattle_control::NodeRef;
use wattle_model::{NodeId, Prefix, UnixTime};
use wattle_routing::{Member, Members, adjacency};
use wattle_wire::grant::{Grant, Peer, PeerSet, PeerSetError, is_dialable, removes};
use wattle_wire::key::PublicKey;
use wattle_wire::record::{Record, RecordKind};
use wattle_worker::{PeerEntry, Peers};

/// The accepted peer set, seen from one node.
#[derive(Debug, Clone)]
pub(crate) struct Membership {
    own: NodeId,
    root: PublicKey,
    set: PeerSet,
    /// Removals that reached us before a peer set with them did, by node.
    removals: BTreeMap<NodeId, Record>,
    /// This node's neighbours by the rule for large networks; `None` while all members are.
    chosen: Option<BTreeSet<NodeId>>,
    /// Those who are neighbours besides, because there is much to carry.
    on_demand: BTreeSet<NodeId>,
}

/// Where an operator's word for a destination leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Destination {
    /// The node.
    pub(crate) node: NodeId,
    /// The prefix that decided, if an address was asked for.
    pub(crate) prefix: Option<Prefix>,
}

impl Membership {
    /// A membership that knows nobody yet.
    pub(crate) fn new(own: NodeId, root: PublicKey) -> Self {
        let set = PeerSet::empty(root.network_id());
        Self {
            own,
            root,
            set,
            removals: BTreeMap::new(),
            chosen: None,
            on_demand: BTreeSet::new(),
        }
    }

    /// Takes over a signed peer set; says whether it changed anything.
    pub(crate) fn accept(&mut self, signed: &[u8]) -> Result<bool, PeerSetError> {
        let set = PeerSet::open(signed, &self.root)?;
        set.may_follow(&self.set)?;
        let changed = set != self.set;
        self.set = set;
        self.choose_neighbours();
        Ok(changed)
    }

    /// Takes over a removal signed by the trust root; says whether it removes somebody who was still in.
    pub(crate) fn remove(&mut self, removal: &Record) -> bool {
        let node = removal.origin();
        let Some(peer) = self.set.peers.get(&node) else {
            return false;
        };
        let is_removal = removal.key().kind == RecordKind::Removal
            && removal.verify(self.set.network, &self.root).is_ok()
            && removes(removal, node, peer.grant.grant().serial);
        let was_in = self.is_member(node);
        if is_removal {
            self.removals.insert(node, removal.clone());
            self.choose_neighbours();
        }
        is_removal && was_in
    }

    /// This node.
    pub(crate) const fn own(&self) -> NodeId {
        self.own
    }

    /// Revision of the set; 0 before the first.
    pub(crate) const fn revision(&self) -> u64 {
        self.set.revision
    }

    /// Removals by the trust root, from the set and from elsewhere.
    pub(crate) fn removals(&self) -> impl Iterator<Item = &Record> {
        self.set.removals.iter().chain(self.removals.values())
    }

    /// Every member, this node and leaves included.
    pub(crate) fn members(&self) -> impl Iterator<Item = &Peer> {
        self.set
            .peers
            .values()
            .filter(|peer| self.is_member(peer.node()))
    }

    /// Members with an agent, this node not included.
    pub(crate) fn others(&self) -> impl Iterator<Item = &Peer> {
        let own = self.own;
        self.members()
            .filter(move |p| p.node() != own && p.grant.grant().leaf_of().is_none())
    }

    /// The grant of a member.
    pub(crate) fn grant(&self, node: NodeId) -> Option<&Grant> {
        self.set
            .peers
            .get(&node)
            .filter(|_| self.is_member(node))
            .map(|peer| peer.grant.grant())
    }

    /// This node's own grant, if it is a member.
    pub(crate) fn own_grant(&self) -> Option<&Grant> {
        self.grant(self.own)
    }

    /// A node by id and name; its id stands for the name of one that is no member.
    pub(crate) fn node_ref(&self, node: NodeId) -> NodeRef {
        let name = self
            .set
            .peers
            .get(&node)
            .map(|peer| peer.grant.grant().name.to_string());
        NodeRef {
            id: node,
            name: name.unwrap_or_else(|| node.to_string()),
        }
    }

    /// Whether this node and `peer` are to have links: neither is kept from the other, and one of them names the other, the
    /// rule for large networks makes them neighbours, or they have much to say to each other.
    pub(crate) fn is_adjacent(&self, peer: NodeId) -> bool {
        match self.adjacency(peer) {
            Adjacency::Kept => false,
            Adjacency::Given => true,
            Adjacency::OnDemand => self.on_demand.contains(&peer),
        }
    }

    /// Whether this node and `peer` may have links and are no neighbours by themselves.
    pub(crate) fn may_link_on_demand(&self, peer: NodeId) -> bool {
        let is_node = |grant: &Grant| grant.leaf_of().is_none();
        self.grant(peer).is_some_and(is_node) && self.adjacency(peer) == Adjacency::OnDemand
    }

    /// Who is a neighbour besides from here on.
    pub(crate) fn set_on_demand(&mut self, peers: BTreeSet<NodeId>) {
        self.on_demand = peers;
    }

    /// How many are.
    pub(crate) fn on_demand(&self) -> usize {
        let peers = self.on_demand.iter();
        peers.filter(|peer| self.may_link_on_demand(**peer)).count()
    }

    fn adjacency(&self, peer: NodeId) -> Adjacency {
        let words = [self.word(self.own, peer), self.word(peer, self.own)];
        let by_rule = self
            .chosen
            .as_ref()
            .is_none_or(|chosen| chosen.contains(&peer));
        if words.contains(&Word::Refuses) {
            Adjacency::Kept
        } else if words.contains(&Word::Names) || by_rule && !words.contains(&Word::Leaves) {
            Adjacency::Given
        } else {
            Adjacency::OnDemand
        }
    }

    /// Everybody whose link state counts, with the keys that sign it.
    pub(crate) fn routing_members(&self) -> Members {
        let members = self.members().filter_map(|peer| {
            let grant = peer.grant.grant();
            let member = Member {
                identity: grant.identity()?,
                serial: grant.serial,
                prefixes: grant.prefixes.clone(),
            };
            Some((grant.node, member))
        });
        Members {
            network: self.set.network,
            root: self.root,
            nodes: members.collect(),
        }
    }

    /// Everybody that the data worker may talk to at this time.
    pub(crate) fn worker_peers(&self, now: UnixTime) -> Arc<Peers> {
        let own = self.own_grant();
        let valid = self.members().filter(|peer| peer.node() != self.own);
        let valid = valid.filter(|peer| peer.grant.grant().not_after > now);
        Arc::new(Peers {
            own_prefixes: own.map(|grant| grant.owned().collect()).unwrap_or_default(),
            own_index: own.map(|grant| grant.index).unwrap_or_default(),
            peers: valid.map(|peer| self.entry(peer)).collect(),
        })
    }

    /// The prefixes of every member's addresses, with the node that packets to them are for: a leaf's host stands
    /// for it, except on the host itself.
    pub(crate) fn address_prefixes(&self) -> impl Iterator<Item = (Prefix, NodeId)> {
        self.members().flat_map(|peer| {
            let grant = peer.grant.grant();
            let node = match grant.leaf_of() {
                Some(host) if host != self.own => host,
                _ => grant.node,
            };
            // A leaf announces nothing by itself: what it was granted is reachable while its host is.
            let prefixes = if grant.leaf_of().is_some() {
                grant.prefixes.clone()
            } else {
                Vec::new()
            };
            let addresses = grant.addresses.iter().map(|address| Prefix::host(*address));
            addresses.chain(prefixes).map(move |prefix| (prefix, node))
        })
    }

    /// Those of `wanted` that this node may announce, and those that it may not.
    pub(crate) fn announceable(&self, wanted: &[Prefix]) -> (BTreeSet<Prefix>, BTreeSet<Prefix>) {
        let granted = self
            .own_grant()
            .map(|grant| grant.prefixes.as_slice())
            .unwrap_or_default();
        wanted
            .iter()
            .partition(|prefix| granted.iter().any(|wide| covers(wide, prefix)))
    }

    /// The node that an operator means: by name, by id, or by an address that it owns.
    pub(crate) fn find(&self, word: &str) -> Option<Destination> {
        let by_name = self
            .members()
            .find(|peer| peer.grant.grant().name.as_str() == word);
        if let Some(peer) = by_name {
            return Some(Destination {
                node: peer.node(),
                prefix: None,
            });
        }
        if let Ok(address) = word.parse::<IpAddr>() {
            return self.owner(address);
        }
        let id: NodeId = word.parse().ok()?;
        self.grant(id).map(|grant| Destination {
            node: grant.node,
            prefix: None,
        })
    }

    /// Who owns an address: the longest granted prefix decides.
    pub(crate) fn owner(&self, address: IpAddr) -> Option<Destination> {
        let owned = self.members().flat_map(|peer| {
            peer.grant
                .grant()
                .owned()
                .map(|prefix| (prefix, peer.node()))
        });
        let holding = owned.filter(|(prefix, _)| prefix.contains(address));
        let (prefix, node) = holding.max_by_key(|(prefix, _)| prefix.length())?;
        Some(Destination {
            node,
            prefix: Some(prefix),
        })
    }

    fn is_member(&self, node: NodeId) -> bool {
        let Some(peer) = self.set.peers.get(&node) else {
            return false;
        };
        let serial = peer.grant.grant().serial;
        !self
            .removals
            .get(&node)
            .is_some_and(|removal| removes(removal, node, serial))
    }

    /// What the set says that a node thinks of another as a neighbour.
    fn word(&self, node: NodeId, other: NodeId) -> Word {
        match self.set.peers.get(&node).map(|peer| &peer.neighbours) {
            Some(Some(neighbours)) if neighbours.contains(&other) => Word::Names,
            Some(Some(neighbours)) if neighbours.contains(&node) => Word::Leaves,
            Some(None) => Word::Accepts,
            Some(Some(_)) | None => Word::Refuses,
        }
    }

    fn choose_neighbours(&mut self) {
        let agents = |peer: &&Peer| peer.grant.grant().leaf_of().is_none();
        let members: BTreeSet<NodeId> = self.members().filter(agents).map(Peer::node).collect();
        let anchors = self
            .members()
            .filter(agents)
            .filter(|peer| is_dialable(&peer.candidates));
        let anchors = anchors.map(Peer::node).collect();
        self.chosen = adjacency::chosen(self.own, &members, &anchors);
    }

    fn entry(&self, peer: &Peer) -> PeerEntry {
        let grant = peer.grant.grant();
        PeerEntry {
            id: grant.node,
            index: grant.index,
            name: Some(grant.name.clone()),
            key: grant.wireguard,
            prefixes: grant.owned().collect(),
            candidates: peer.candidates.clone(),
            adjacent: grant.leaf_of().is_none() && self.is_adjacent(grant.node),
            leaf_of: grant.leaf_of(),
        }
    }
}

/// What two nodes are to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Adjacency {
    /// Kept from each other.
    Kept,
    /// Neighbours.
    Given,
    /// Neighbours if they have much to say to each other.
    OnDemand,
}

/// What a node's entry says of another node as its neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    Names,
    /// It has neighbours enough, and may have others on demand.
    Leaves,
    Accepts,
    Refuses,
}

fn covers(wide: &Prefix, narrow: &Prefix) -> bool {
    wide.is_ipv6() == narrow.is_ipv6()
        && wide.length() <= narrow.length()
        && wide.contains(narrow.address())
}

#[cfg(test)]
mod tests {
    use wattle_model::SeqNo;
    use wattle_model::{NodeIndex, WgKey};
    use wattle_wire::grant::{Holder, SignedGrant, leaf_id};
    use wattle_wire::key::SecretKey;
    use wattle_wire::record::{Body, RecordKey, RemovalBody};

    use super::*;

    const LONG: UnixTime = UnixTime(u64::MAX);

    /// Input: a, b, c and a phone behind b; c has links with b alone. Output: what a sees.
    #[test]
    fn a_set_becomes_peers_with_adjacencies_leaves_and_owners() {
        let network = Lab::new();
        let mut at_a = network.membership("a");
        assert!(at_a.accept(&network.signed(1)).unwrap());
        assert!(
            !at_a.accept(&network.signed(1)).unwrap(),
            "the same set changes nothing"
        );

        let peers = at_a.worker_peers(UnixTime(0));
        let by_name = |name: &str| {
            let mut all = peers.peers.iter();
            all.find(|peer| peer.name.as_ref().is_some_and(|n| n.as_str() == name))
                .unwrap()
        };
        assert_eq!(peers.peers.len(), 3);
        assert!(by_name("b").adjacent && !by_name("c").adjacent && !by_name("phone").adjacent);
        assert_eq!(by_name("phone").leaf_of, Some(network.id("b")));

        let address: IpAddr = "10.0.0.9".parse().unwrap();
        assert_eq!(at_a.owner(address).unwrap().node, by_name("phone").id);
        let through = at_a
            .address_prefixes()
            .find(|(prefix, _)| prefix.contains(address));
        assert_eq!(
            through.unwrap().1,
            network.id("b"),
            "others reach a leaf through its host"
        );
        assert_eq!(at_a.find("c").unwrap().node, network.id("c"));
        assert_eq!(
            at_a.find("192.168.3.7").unwrap().prefix,
            "192.168.3.0/24".parse().ok()
        );
        assert_eq!(at_a.find("nobody"), None);
    }

    #[test]
    fn a_set_that_lacks_somebody_without_a_removal_is_refused() {
        let mut network = Lab::new();
        let mut at_a = network.membership("a");
        at_a.accept(&network.signed(1)).unwrap();
        let gone = network.set.peers.remove(&network.id("c")).unwrap();
        let refused = at_a.accept(&network.signed(2)).unwrap_err();
        assert_eq!(refused, PeerSetError::Shrunken(gone.node()));
        assert_eq!((at_a.revision(), at_a.members().count()), (1, 4));
        network.set.removals.push(network.removal(gone.node()));
        assert!(at_a.accept(&network.signed(2)).unwrap());
        assert_eq!(at_a.members().count(), 3);
    }

    #[test]
    fn a_signed_removal_ends_a_membership_before_any_set_does() {
        let network = Lab::new();
        let mut at_a = network.membership("a");
        at_a.accept(&network.signed(1)).unwrap();
        let removal = network.removal(network.id("c"));
        assert!(at_a.remove(&removal));
        assert!(!at_a.remove(&removal), "once is enough");
        assert_eq!(at_a.grant(network.id("c")), None);
        assert!(
            at_a.worker_peers(UnixTime(0))
                .peers
                .iter()
                .all(|p| p.id != network.id("c"))
        );
        assert!(
            !at_a.remove(&foreign_removal(&network)),
            "another root removes nobody"
        );
    }

    #[test]
    fn grants_that_ended_are_no_peers() {
        let network = Lab::new();
        let mut at_a = network.membership("a");
        at_a.accept(&network.signed(1)).unwrap();
        assert!(at_a.worker_peers(LONG).peers.is_empty());
    }

    /// Input: forty nodes, a named b beside the rule. Output: a's and b's neighbours, by each of them.
    #[test]
    fn in_a_large_network_few_are_neighbours_by_rule_and_whoever_is_named() {
        let mut network = Lab::large();
        let (a, c) = (network.id("a"), network.id("c"));
        let everybody: Vec<_> = network.set.peers.keys().copied().collect();
        network.set.peers.get_mut(&c).unwrap().neighbours = Some(vec![a]);
        let neighbours = |own: &str| -> BTreeSet<NodeId> {
            let mut membership = network.membership(own);
            membership.accept(&network.signed(1)).unwrap();
            let all = everybody.iter().copied();
            all.filter(|peer| *peer != network.id(own) && membership.is_adjacent(*peer))
                .collect()
        };
        let (of_a, of_c) = (neighbours("a"), neighbours("c"));
        assert!((4..=9).contains(&of_a.len()), "{of_a:?}");
        assert_eq!(of_c, BTreeSet::from([a]));
        assert!(of_a.contains(&c) && !neighbours("b").contains(&c));
        let far = everybody
            .iter()
            .find(|peer| **peer != a && !of_a.contains(peer));
        let far = network.set.peers[far.unwrap()].grant.grant().name.clone();
        assert!(!neighbours(far.as_str()).contains(&a), "both ends agree");
    }

    /// Input: a large network that the coordinator's choice makes a ring. Output: each node's neighbours are the two beside
    /// it, whatever the rule says, and everybody else may be one on demand.
    #[test]
    fn chosen_neighbours_take_the_place_of_the_rule_and_leave_the_rest_to_demand() {
        let mut network = Lab::large();
        let phone = network.id("phone");
        let all = network.set.peers.keys().copied();
        let nodes: Vec<NodeId> = all.filter(|node| *node != phone).collect();
        let beside = |at: usize| [1, nodes.len() - 1].map(|by| nodes[(at + by) % nodes.len()]);
        for (at, node) in nodes.iter().enumerate() {
            let chosen = [*node].into_iter().chain(beside(at)).collect();
            network.set.peers.get_mut(node).unwrap().neighbours = Some(chosen);
        }
        for (at, own) in nodes.iter().enumerate().step_by(7) {
            let mut membership = Membership::new(*own, network.root.public());
            membership.accept(&network.signed(1)).unwrap();
            for other in nodes.iter().filter(|node| *node != own) {
                let is_beside = beside(at).contains(other);
                assert_eq!(membership.is_adjacent(*other), is_beside);
                assert_eq!(membership.may_link_on_demand(*other), !is_beside);
            }
            membership.set_on_demand(nodes.iter().copied().collect());
            assert!(nodes.iter().all(|other| membership.is_adjacent(*other)));
        }
    }

    /// Who may be no neighbour is none whatever there is to carry.
    #[test]
    fn links_on_demand_are_for_those_alone_whom_nothing_keeps_apart() {
        let mut network = Lab::large();
        let (a, c) = (network.id("a"), network.id("c"));
        network.set.peers.get_mut(&c).unwrap().neighbours = Some(Vec::new());
        let mut at_a = network.membership("a");
        at_a.accept(&network.signed(1)).unwrap();
        let others: BTreeSet<_> = at_a.others().map(Peer::node).collect();
        let neighbours = |at_a: &Membership| -> BTreeSet<NodeId> {
            let others = others.iter().copied();
            others.filter(|peer| at_a.is_adjacent(*peer)).collect()
        };
        let before = neighbours(&at_a);
        at_a.set_on_demand(others.clone());
        let after = neighbours(&at_a);
        let mut everybody_else = others;
        everybody_else.remove(&c);
        assert_eq!(after, everybody_else);
        assert!(before.is_subset(&after) && before.len() <= 9 && !before.contains(&a));
        assert_eq!(at_a.on_demand(), after.len() - before.len());
        assert!(!at_a.may_link_on_demand(c) && !at_a.may_link_on_demand(network.id("phone")));
    }

    #[test]
    fn only_granted_prefixes_are_announced() {
        let network = Lab::new();
        let mut at_c = network.membership("c");
        at_c.accept(&network.signed(1)).unwrap();
        let wanted = [
            "192.168.3.0/24",
            "192.168.3.128/25",
            "192.168.0.0/16",
            "fd00::/8",
        ];
        let (allowed, refused) = at_c.announceable(&wanted.map(|text| text.parse().unwrap()));
        assert_eq!((allowed.len(), refused.len()), (2, 2));
    }

    struct Lab {
        root: SecretKey,
        set: PeerSet,
    }

    impl Lab {
        fn new() -> Self {
            let root = SecretKey::from_seed(&[99; 32]);
            let mut lab = Self {
                set: PeerSet::empty(root.public().network_id()),
                root,
            };
            for (index, name) in ["a", "b", "c"].into_iter().enumerate() {
                lab.add_agent(name, index as u8 + 1);
            }
            let phone = leaf_id(WgKey([9; 32]));
            lab.add(phone, Holder::Leaf { host: lab.id("b") }, "phone", 9);
            let only_b = Some(vec![lab.id("b")]);
            let c = lab.id("c");
            lab.set.peers.get_mut(&c).unwrap().neighbours = only_b;
            lab
        }

        /// Forty agents more than [`Self::new`] has.
        fn large() -> Self {
            let mut lab = Self::new();
            for index in 20..60 {
                lab.add_agent(&format!("n{index}"), index);
            }
            lab
        }

        fn add_agent(&mut self, name: &str, index: u8) {
            let identity = SecretKey::from_seed(&[index; 32]).public();
            self.add(identity.node_id(), Holder::Agent { identity }, name, index);
        }

        fn add(&mut self, node: NodeId, holder: Holder, name: &str, index: u8) {
            let prefixes = match name {
                "c" => vec!["192.168.3.0/24".parse().unwrap()],
                _ => vec![],
            };
            let grant = Grant {
                network: self.set.network,
                node,
                holder,
                wireguard: WgKey([index; 32]),
                index: NodeIndex(index.into()),
                name: name.parse().unwrap(),
                addresses: vec![IpAddr::from([10, 0, 0, index])],
                prefixes,
                tags: vec![],
                site: None,
                serial: 1,
                not_after: UnixTime(u64::MAX - 1),
            };
            let grant = SignedGrant::sign(grant, &self.root);
            let peer = Peer {
                grant,
                candidates: vec![],
                neighbours: None,
            };
            self.set.peers.insert(node, peer);
        }

        fn id(&self, name: &str) -> NodeId {
            let named = |peer: &&Peer| peer.grant.grant().name.as_str() == name;
            self.set.peers.values().find(named).unwrap().node()
        }

        fn signed(&self, revision: u64) -> Vec<u8> {
            PeerSet {
                revision,
                ..self.set.clone()
            }
            .sign(&self.root)
        }

        fn membership(&self, name: &str) -> Membership {
            Membership::new(self.id(name), self.root.public())
        }

        fn removal(&self, node: NodeId) -> Record {
            signed_removal(self.set.network, node, &self.root)
        }
    }

    fn foreign_removal(network: &Lab) -> Record {
        let stranger = SecretKey::from_seed(&[77; 32]);
        signed_removal(network.set.network, network.id("b"), &stranger)
    }

    fn signed_removal(network: wattle_model::NetworkId, node: NodeId, root: &SecretKey) -> Record {
        let key = RecordKey {
            origin: node,
            kind: RecordKind::Removal,
            part: 0,
        };
        let body = Body::Removal(RemovalBody {
            at: UnixTime(1),
            serial: 1,
        });
        Record::sign(network, key, SeqNo(1), 3_600, &body, root)
    }
}
