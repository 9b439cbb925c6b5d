//! Grants and peer sets (`docs/protocol/grants.md`): who may be which node with which addresses, signed
//! by the network's trust root.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};
use wattle_model::{NetworkId, NodeId, NodeIndex, NodeName, Prefix, UnixTime, WgKey};

use crate::DecodeError;
use crate::codec::{Reader, Writer};
use crate::key::{PublicKey, SIGNATURE_LENGTH, SecretKey};
use crate::record::{Body, Record, RecordKind};

/// Up to so many members are all neighbours of one another, unless a peer set says otherwise.
pub const FULL_MESH: usize = 32;

const VERSION: u8 = 1;
const GRANT_DOMAIN: &[u8] = b"wattle grant v1";
const PEER_SET_DOMAIN: &[u8] = b"wattle peer set v1";

/// What the trust root grants: this key may be this node, with these addresses, until then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The network.
    pub network: NetworkId,
    /// The node. For a leaf: derived from its WireGuard key, see `leaf_id`.
    pub node: NodeId,
    /// What holds the key: an agent, or a stock WireGuard device behind one.
    pub holder: Holder,
    /// The WireGuard key.
    pub wireguard: WgKey,
    /// Position in the address plan, unique in the network.
    pub index: NodeIndex,
    /// Name, unique in the network.
    pub name: NodeName,
    /// Addresses that the node owns.
    pub addresses: Vec<IpAddr>,
    /// Prefixes that the node may announce.
    pub prefixes: Vec<Prefix>,
    /// Tags, for policy.
    pub tags: Vec<NodeName>,
    /// Site, for partitions and people.
    pub site: Option<NodeName>,
    /// Grows with every grant of the node: a removal voids grants up to a serial.
    pub serial: u64,
    /// When the grant ends.
    pub not_after: UnixTime,
}

/// What holds a grant's WireGuard key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Holder {
    /// A host with an agent, known by its identity.
    Agent {
        /// Its identity key.
        identity: PublicKey,
    },
    /// A stock WireGuard device: it has a session with one node only, which forwards for it.
    Leaf {
        /// The node that it is attached to.
        host: NodeId,
    },
}

/// The id of a leaf: the first eight bytes of the SHA-256 of its WireGuard key.
pub fn leaf_id(wireguard: WgKey) -> NodeId {
    use sha2::Digest as _;
    let digest = sha2::Sha256::digest(wireguard.0);
    NodeId::from_be_bytes(std::array::from_fn(|i| digest[i]))
}

/// A grant with the trust root's signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedGrant {
    grant: Grant,
    signature: [u8; SIGNATURE_LENGTH],
}

impl Grant {
    /// All prefixes that the node owns: its addresses and what it may announce.
    pub fn owned(&self) -> impl Iterator<Item = Prefix> + '_ {
        let addresses = self.addresses.iter().map(|address| Prefix::host(*address));
        addresses.chain(self.prefixes.iter().copied())
    }

    /// The identity key, unless the holder is a leaf.
    pub const fn identity(&self) -> Option<PublicKey> {
        match self.holder {
            Holder::Agent { identity } => Some(identity),
            Holder::Leaf { .. } => None,
        }
    }

    /// The node that the leaf is attached to, if the holder is a leaf.
    pub const fn leaf_of(&self) -> Option<NodeId> {
        match self.holder {
            Holder::Agent { .. } => None,
            Holder::Leaf { host } => Some(host),
        }
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer
            .u8(VERSION)
            .put(&self.network.to_be_bytes())
            .put(&self.node.to_be_bytes());
        match self.holder {
            Holder::Agent { identity } => writer.u8(0).put(identity.as_bytes()),
            Holder::Leaf { host } => writer.u8(1).put(&host.to_be_bytes()),
        };
        writer
            .put(&self.wireguard.0)
            .u16(self.index.0)
            .counted(self.name.as_str().as_bytes())
            .list(self.addresses.iter(), |w, address| {
                w.address(*address);
            })
            .list(self.prefixes.iter(), |w, prefix| {
                w.prefix(*prefix);
            })
            .list(self.tags.iter(), |w, tag| {
                w.counted(tag.as_str().as_bytes());
            })
            .counted(self.site.as_ref().map_or("", NodeName::as_str).as_bytes())
            .u64(self.serial)
            .u64(self.not_after.0);
        writer.bytes
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match reader.u8()? {
            VERSION => {}
            version => return Err(DecodeError::Version(version)),
        }
        let network = NetworkId(reader.u64()?);
        let node = reader.node()?;
        let holder = match reader.u8()? {
            0 => {
                let identity = PublicKey::from_bytes(&reader.array()?)
                    .map_err(|_| DecodeError::Range("identity key"))?;
                if identity.node_id() != node {
                    return Err(DecodeError::Range("node id"));
                }
                Holder::Agent { identity }
            }
            1 => Holder::Leaf {
                host: reader.node()?,
            },
            _ => return Err(DecodeError::Range("holder")),
        };
        Ok(Self {
            network,
            node,
            holder,
            wireguard: WgKey(reader.array()?),
            index: NodeIndex(reader.u16()?),
            name: name(reader)?,
            addresses: reader.list(Reader::address)?,
            prefixes: reader.list(Reader::prefix)?,
            tags: reader.list(name)?,
            site: match reader.counted()? {
                [] => None,
                bytes => Some(parse_name(bytes)?),
            },
            serial: reader.u64()?,
            not_after: reader.time()?,
        })
    }
}

impl SignedGrant {
    /// Signs a grant with the network's trust root.
    pub fn sign(grant: Grant, root: &SecretKey) -> Self {
        let signature = root.sign(GRANT_DOMAIN, &[&grant.to_bytes()]);
        Self { grant, signature }
    }

    /// The grant. It came from a verified peer set, or must be verified by the caller.
    pub const fn grant(&self) -> &Grant {
        &self.grant
    }

    /// Checks that `root` signed the grant, and that it is for the network whose root that is.
    ///
    /// # Errors
    /// Another network, or another signer.
    pub fn verify(&self, root: &PublicKey) -> Result<(), DecodeError> {
        if self.grant.network != root.network_id() {
            return Err(DecodeError::Network);
        }
        root.verify(GRANT_DOMAIN, &[&self.grant.to_bytes()], &self.signature)
    }

    /// The grant and its signature as bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.grant.to_bytes();
        bytes.extend_from_slice(&self.signature);
        bytes
    }

    /// Reads a signed grant; does not check the signature.
    ///
    /// # Errors
    /// The bytes are no grant.
    pub fn parse(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let grant = Grant::decode(&mut reader)?;
        let signature = reader.array()?;
        reader.end()?;
        Ok(Self { grant, signature })
    }
}

/// One node in a peer set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The node's grant.
    pub grant: SignedGrant,
    /// Where it may be dialled, best first; empty: it dials.
    pub candidates: Vec<SocketAddr>,
    /// The nodes that it is to have links with; `None`: with every node. If the node itself is among them, links with
    /// others may come on demand.
    pub neighbours: Option<Vec<NodeId>>,
}

impl Peer {
    /// The peer's id.
    pub const fn node(&self) -> NodeId {
        self.grant.grant.node
    }
}

/// Whether a node with these candidates can be dialled from anywhere: none but public ones, so nothing translates them.
pub fn is_dialable(candidates: &[SocketAddr]) -> bool {
    let mut addresses = candidates.iter().map(SocketAddr::ip);
    !candidates.is_empty() && addresses.all(is_public)
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let is_shared = v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64;
            let is_special = v4.is_loopback() || v4.is_unspecified() || v4.is_broadcast();
            !(is_shared || is_special || v4.is_private() || v4.is_link_local())
        }
        IpAddr::V6(v6) => {
            let is_special = v6.is_loopback() || v6.is_unspecified();
            !(is_special || v6.is_unique_local() || v6.is_unicast_link_local())
        }
    }
}

/// All members of a network as the trust root signed them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerSet {
    /// The network.
    pub network: NetworkId,
    /// Grows with every change.
    pub revision: u64,
    /// When it was signed.
    pub at: UnixTime,
    /// The members.
    pub peers: BTreeMap<NodeId, Peer>,
    /// Signed removals of former members.
    pub removals: Vec<Record>,
}

/// Why a peer set is not taken over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerSetError {
    /// The bytes are no peer set, or the trust root did not sign it or one of its grants.
    #[error("the peer set is not valid: {0}")]
    Invalid(#[from] DecodeError),
    /// It is older than the one in use.
    #[error("the peer set has revision {offered}, older than {current}, which is in use")]
    Older {
        /// Revision of the offered set.
        offered: u64,
        /// Revision of the set in use.
        current: u64,
    },
    /// A member of the set in use is missing, and no signed removal says that it may be.
    #[error("the peer set lacks {0} without a signed removal")]
    Shrunken(NodeId),
    /// A member is in the set although its grant was removed.
    #[error("the peer set has {0}, whose grant was removed")]
    Removed(NodeId),
    /// Two members claim the same name, index, address or overlapping prefixes.
    #[error("{first} and {second} both claim {what}")]
    Conflict {
        /// One of the two.
        first: NodeId,
        /// The other.
        second: NodeId,
        /// What they claim.
        what: String,
    },
}

impl PeerSet {
    /// An empty set, from which a network grows.
    pub const fn empty(network: NetworkId) -> Self {
        Self {
            network,
            revision: 0,
            at: UnixTime(0),
            peers: BTreeMap::new(),
            removals: Vec::new(),
        }
    }

    /// The set with the trust root's signature, as bytes.
    pub fn sign(&self, root: &SecretKey) -> Vec<u8> {
        let mut bytes = self.to_bytes();
        let signature = root.sign(PEER_SET_DOMAIN, &[&bytes]);
        bytes.extend_from_slice(&signature);
        bytes
    }

    /// The set with a signature that was made elsewhere over the same content, as bytes; `open` tells whether it holds.
    pub fn with_signature(&self, signature: &[u8; SIGNATURE_LENGTH]) -> Vec<u8> {
        let mut bytes = self.to_bytes();
        bytes.extend_from_slice(signature);
        bytes
    }

    /// Reads a signed set and checks every signature in it, and that no two members claim the same thing.
    ///
    /// # Errors
    /// The bytes are no peer set that `root` signed, or it contradicts itself.
    pub fn open(bytes: &[u8], root: &PublicKey) -> Result<Self, PeerSetError> {
        let (signed, signature) = bytes
            .split_last_chunk::<SIGNATURE_LENGTH>()
            .ok_or(DecodeError::Truncated)?;
        root.verify(PEER_SET_DOMAIN, &[signed], signature)?;
        let set = Self::parse(signed)?;
        if set.network != root.network_id() {
            return Err(DecodeError::Network.into());
        }
        for peer in set.peers.values() {
            peer.grant.verify(root)?;
        }
        for removal in &set.removals {
            removal.verify(set.network, root)?;
        }
        set.check_removals()?;
        set.check_conflicts()?;
        Ok(set)
    }

    /// Checks that this set may follow `current`: not older, and no member gone without a signed removal.
    ///
    /// # Errors
    /// It may not.
    pub fn may_follow(&self, current: &Self) -> Result<(), PeerSetError> {
        if self.revision < current.revision {
            return Err(PeerSetError::Older {
                offered: self.revision,
                current: current.revision,
            });
        }
        for (node, peer) in &current.peers {
            let gone = !self.peers.contains_key(node);
            if gone && !self.is_removed(*node, peer.grant.grant.serial) {
                return Err(PeerSetError::Shrunken(*node));
            }
        }
        Ok(())
    }

    /// Whether a removal in this set voids the node's grant with this serial.
    pub fn is_removed(&self, node: NodeId, serial: u64) -> bool {
        self.removals
            .iter()
            .any(|removal| removes(removal, node, serial))
    }

    fn check_removals(&self) -> Result<(), PeerSetError> {
        for (node, peer) in &self.peers {
            if self.is_removed(*node, peer.grant.grant.serial) {
                return Err(PeerSetError::Removed(*node));
            }
        }
        Ok(())
    }

    fn check_conflicts(&self) -> Result<(), PeerSetError> {
        let mut claims: BTreeMap<String, NodeId> = BTreeMap::new();
        let mut prefixes: Vec<(Prefix, NodeId)> = Vec::new();
        for (node, peer) in &self.peers {
            let grant = peer.grant.grant();
            let names = [
                format!("name {}", grant.name),
                format!("index {}", grant.index.0),
            ];
            let keys = [format!("WireGuard key {}", grant.wireguard)];
            for what in names.into_iter().chain(keys) {
                if let Some(first) = claims.insert(what.clone(), *node) {
                    return Err(PeerSetError::Conflict {
                        first,
                        second: *node,
                        what,
                    });
                }
            }
            prefixes.extend(grant.owned().map(|prefix| (prefix, *node)));
        }
        // In this order a prefix directly follows the one that it may lie in, per address family.
        prefixes.sort_by_key(|(prefix, _)| (prefix.address(), prefix.length()));
        let mut outer: Option<(Prefix, NodeId)> = None;
        for (prefix, node) in prefixes {
            match outer {
                Some((wide, owner)) if wide.overlaps(&prefix) => {
                    if owner != node {
                        let what = format!("{prefix}");
                        return Err(PeerSetError::Conflict {
                            first: owner,
                            second: node,
                            what,
                        });
                    }
                }
                _ => outer = Some((prefix, node)),
            }
        }
        Ok(())
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer
            .u8(VERSION)
            .put(&self.network.to_be_bytes())
            .u64(self.revision)
            .u64(self.at.0);
        writer.list(self.peers.values(), |w, peer| {
            w.counted(&peer.grant.to_bytes());
            w.list(peer.candidates.iter(), |w, candidate| {
                w.socket_address(*candidate);
            });
            match &peer.neighbours {
                None => {
                    w.u8(0);
                }
                Some(neighbours) => {
                    w.u8(1).list(neighbours.iter(), |w, node| {
                        w.put(&node.to_be_bytes());
                    });
                }
            }
        });
        writer.list(self.removals.iter(), |w, removal| {
            w.counted(removal.bytes());
        });
        writer.bytes
    }

    fn parse(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        match reader.u8()? {
            VERSION => {}
            version => return Err(DecodeError::Version(version)),
        }
        let network = NetworkId(reader.u64()?);
        let revision = reader.u64()?;
        let at = reader.time()?;
        let peers = reader.list(decode_peer)?;
        let count = peers.len();
        let peers: BTreeMap<_, _> = peers.into_iter().map(|peer| (peer.node(), peer)).collect();
        if peers.len() != count {
            return Err(DecodeError::Range("duplicate node"));
        }
        let removals = reader.list(|r| Record::parse(r.counted()?))?;
        if removals
            .iter()
            .any(|removal| removal.key().kind != RecordKind::Removal)
        {
            return Err(DecodeError::Range("removal"));
        }
        reader.end()?;
        Ok(Self {
            network,
            revision,
            at,
            peers,
            removals,
        })
    }
}

/// Whether a (verified) removal voids the node's grant with this serial.
pub fn removes(removal: &Record, node: NodeId, serial: u64) -> bool {
    removal.origin() == node
        && matches!(removal.body(), Body::Removal(body) if serial <= body.serial)
}

fn decode_peer(reader: &mut Reader<'_>) -> Result<Peer, DecodeError> {
    let grant = SignedGrant::parse(reader.counted()?)?;
    let candidates = reader.list(Reader::socket_address)?;
    let neighbours = match reader.u8()? {
        0 => None,
        1 => Some(reader.list(Reader::node)?),
        _ => return Err(DecodeError::Range("neighbours")),
    };
    Ok(Peer {
        grant,
        candidates,
        neighbours,
    })
}

fn name(reader: &mut Reader<'_>) -> Result<NodeName, DecodeError> {
    parse_name(reader.counted()?)
}

fn parse_name(bytes: &[u8]) -> Result<NodeName, DecodeError> {
    std::str::from_utf8(bytes)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or(DecodeError::Range("name"))
}
