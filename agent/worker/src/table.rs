//! Finding a peer: by id, index, key, session index, endpoint, link.

use std::collections::BTreeMap;
use std::ops::{Index, IndexMut};

use wattle_model::{Carrier, Endpoint, LinkId, NodeId, NodeIndex, WgKey};

use crate::peer::Peer;

/// Where a peer is kept. Valid until peers are set anew or dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Slot(usize);

/// All peers and the ways to find them.
#[derive(Debug, Default)]
pub(crate) struct PeerTable {
    slots: Vec<Option<Peer>>,
    by_id: BTreeMap<NodeId, Slot>,
    by_index: BTreeMap<NodeIndex, Slot>,
    by_key: BTreeMap<WgKey, Slot>,
    by_session: BTreeMap<u32, Slot>,
    by_endpoint: BTreeMap<Endpoint, Slot>,
    /// Link ids are given once per peer and carrier and never again to others.
    link_ids: BTreeMap<(NodeId, Carrier), LinkId>,
    links: Vec<(NodeId, Carrier)>,
}

impl PeerTable {
    /// Takes a peer in.
    pub(crate) fn insert(&mut self, peer: Peer) -> Slot {
        let slot = Slot(
            self.slots
                .iter()
                .position(Option::is_none)
                .unwrap_or(self.slots.len()),
        );
        self.by_id.insert(peer.entry.id, slot);
        self.by_index.insert(peer.entry.index, slot);
        self.by_key.insert(peer.entry.key, slot);
        self.by_session.insert(peer.session.index(), slot);
        match self.slots.get_mut(slot.0) {
            Some(free) => *free = Some(peer),
            None => self.slots.push(Some(peer)),
        }
        slot
    }

    /// Lets a peer go.
    pub(crate) fn remove(&mut self, slot: Slot) -> Option<Peer> {
        let peer = self.slots.get_mut(slot.0)?.take()?;
        self.by_id.retain(|_, at| *at != slot);
        self.by_index.retain(|_, at| *at != slot);
        self.by_key.retain(|_, at| *at != slot);
        self.by_session.retain(|_, at| *at != slot);
        self.by_endpoint.retain(|_, at| *at != slot);
        Some(peer)
    }

    /// Every peer's slot.
    pub(crate) fn slots(&self) -> Vec<Slot> {
        self.by_id.values().copied().collect()
    }

    /// Every peer, by its id.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Peer> {
        self.by_id.values().map(|slot| &self[*slot])
    }

    pub(crate) fn by_id(&self, id: NodeId) -> Option<Slot> {
        self.by_id.get(&id).copied()
    }

    pub(crate) fn by_index(&self, index: NodeIndex) -> Option<Slot> {
        self.by_index.get(&index).copied()
    }

    pub(crate) fn by_key(&self, key: WgKey) -> Option<Slot> {
        self.by_key.get(&key).copied()
    }

    pub(crate) fn by_session(&self, index: u32) -> Option<Slot> {
        self.by_session.get(&index).copied()
    }

    pub(crate) fn by_endpoint(&self, endpoint: Endpoint) -> Option<Slot> {
        self.by_endpoint.get(&endpoint).copied()
    }

    /// The peer and carrier of a link, if the peer is still known.
    pub(crate) fn by_link(&self, link: LinkId) -> Option<(Slot, Carrier)> {
        let (peer, carrier) = self.links.get(link.0 as usize)?;
        Some((self.by_id(*peer)?, *carrier))
    }

    /// Sets where a peer is heard from; `old` is where it was before.
    pub(crate) fn moved(&mut self, slot: Slot, old: Option<Endpoint>, new: Endpoint) {
        if let Some(old) = old
            && self.by_endpoint(old) == Some(slot)
        {
            self.by_endpoint.remove(&old);
        }
        self.by_endpoint.insert(new, slot);
    }

    /// A peer's index in the address plan changed.
    pub(crate) fn renumber(&mut self, slot: Slot, index: NodeIndex) {
        self.by_index.retain(|_, at| *at != slot);
        self.by_index.insert(index, slot);
    }

    /// The id of the link to `peer` over `carrier`: the same as long as the process lives.
    pub(crate) fn link_id(&mut self, peer: NodeId, carrier: Carrier) -> LinkId {
        *self.link_ids.entry((peer, carrier)).or_insert_with(|| {
            self.links.push((peer, carrier));
            LinkId(self.links.len() as u32 - 1)
        })
    }
}

impl Index<Slot> for PeerTable {
    type Output = Peer;

    fn index(&self, slot: Slot) -> &Peer {
        self.slots[slot.0]
            .as_ref()
            .expect("slots are looked up in the verb that uses them")
    }
}

impl IndexMut<Slot> for PeerTable {
    fn index_mut(&mut self, slot: Slot) -> &mut Peer {
        self.slots[slot.0]
            .as_mut()
            .expect("slots are looked up in the verb that uses them")
    }
}
