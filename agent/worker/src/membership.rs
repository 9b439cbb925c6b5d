//! A changed peer set: who is new, who is gone, who has other keys or addresses.

use std::collections::BTreeMap;

use wattle_dataplane::{DropReason, Ownership};
use wattle_model::{Carrier, Instant, LinkState, NodeId};
use wattle_tunnel::{DialRole, Dialer, LinkKeys, PathMtu, Rekey, Session};

use crate::lane::Lane;
use crate::lanes::PeerLanes;
use crate::peer::{Kind, Peer, Ports, Waiting};
use crate::table::Slot;
use crate::ways::Ways;
use crate::worker::Worker;
use crate::{Event, PeerEntry, Peers};

impl Worker {
    /// Replaces the peers.
    pub(crate) fn set_peers(&mut self, now: Instant, peers: &Peers) {
        self.own_index = peers.own_index;
        self.ownership = self.owners(peers);
        let node = self.config.node;
        let kept: BTreeMap<NodeId, &PeerEntry> = peers
            .peers
            .iter()
            .filter(|entry| entry.id != node && entry.leaf_of.is_none_or(|host| host == node))
            .map(|entry| (entry.id, entry))
            .collect();
        for slot in self.table.slots() {
            let peer = &self.table[slot].entry;
            let same = kept
                .get(&peer.id)
                .is_some_and(|entry| entry.key == peer.key && entry.leaf_of == peer.leaf_of);
            if !same {
                self.forget(now, slot);
            }
        }
        for entry in kept.into_values() {
            match self.table.by_id(entry.id) {
                Some(slot) => self.update(now, slot, entry),
                None => self.admit_peer(now, entry),
            }
        }
    }

    /// Ends sessions and links of a peer.
    pub(crate) fn drop_peer(&mut self, now: Instant, id: NodeId) {
        if let Some(slot) = self.table.by_id(id) {
            self.forget(now, slot);
        }
    }

    /// Who owns what; behind its host, what a leaf of another node owns is its host's.
    fn owners(&self, peers: &Peers) -> Ownership {
        let node = self.config.node;
        let own = peers.own_prefixes.iter().map(|prefix| (*prefix, node));
        let others = peers.peers.iter().flat_map(|entry| {
            let owner = entry
                .leaf_of
                .filter(|host| *host != node)
                .unwrap_or(entry.id);
            entry.prefixes.iter().map(move |prefix| (*prefix, owner))
        });
        Ownership::new(own.chain(others))
    }

    fn admit_peer(&mut self, now: Instant, entry: &PeerEntry) {
        let index = self.fresh_session_index();
        let adjacent = self.is_adjacent(entry);
        let is_leaf = entry.leaf_of.is_some();
        let role = if self.config.node < entry.id {
            DialRole::First
        } else {
            DialRole::Second
        };
        let rekey = if role == DialRole::First && !is_leaf {
            Rekey::Ours
        } else {
            Rekey::Theirs
        };
        let mut dialer = Dialer::default();
        if adjacent {
            dialer.start(now, role);
        }
        self.due(now, dialer.poll_timeout());
        self.table.insert(Peer {
            entry: PeerEntry {
                adjacent,
                ..entry.clone()
            },
            kind: if is_leaf {
                Kind::Leaf(None)
            } else {
                Kind::Node
            },
            session: Session::new(&self.local, entry.key, index, rekey),
            role,
            dialer,
            keys: LinkKeys::default(),
            ports: Ports::default(),
            quic: None,
            waiting: Waiting::default(),
            path_mtu: PathMtu::new(self.config.mtu),
            lane: Lane::default(),
            lanes: PeerLanes::default(),
            ways: Ways::default(),
            spoofed: 0,
        });
    }

    fn update(&mut self, now: Instant, slot: Slot, entry: &PeerEntry) {
        let entry = PeerEntry {
            adjacent: self.is_adjacent(entry),
            ..entry.clone()
        };
        let peer = &mut self.table[slot];
        if peer.entry == entry {
            return;
        }
        let news =
            peer.entry.candidates != entry.candidates || peer.entry.adjacent != entry.adjacent;
        let renumbered = peer.entry.index != entry.index;
        let index = entry.index;
        peer.entry = entry;
        if renumbered {
            self.table.renumber(slot, index);
        }
        if news {
            self.reconsider(now, slot);
        }
    }

    /// Whether this worker is to have links to the peer.
    fn is_adjacent(&self, entry: &PeerEntry) -> bool {
        entry.adjacent && entry.leaf_of.is_none() && self.lane_number().is_none()
    }

    /// Adjacency or addresses of a peer changed.
    fn reconsider(&mut self, now: Instant, slot: Slot) {
        if !self.table[slot].entry.adjacent {
            self.close_ports(now, slot);
            return;
        }
        let peer = &mut self.table[slot];
        if peer.session.is_usable() {
            self.open_ports(now, slot);
        }
        let peer = &mut self.table[slot];
        if !peer.has_usable_link() {
            peer.dialer.restart(now, peer.role);
            let due = peer.dialer.poll_timeout();
            self.due(now, due);
        }
    }

    fn forget(&mut self, now: Instant, slot: Slot) {
        self.close_ports(now, slot);
        if let Some(mut peer) = self.table.remove(slot) {
            while let Some((origin, _)) = peer.waiting.pop() {
                self.drops.add_from(origin, DropReason::UnknownPeer, 1);
            }
            // The first worker says what becomes of packets for a peer that is gone.
            self.released.extend(peer.lane.take_held());
        }
    }

    pub(crate) fn close_ports(&mut self, now: Instant, slot: Slot) {
        for carrier in Carrier::ALL {
            let peer = &mut self.table[slot];
            let Some(port) = peer.ports.at(carrier).take() else {
                continue;
            };
            let event = Event::Link {
                link: port.id,
                peer: peer.entry.id,
                carrier,
                endpoint: None,
                state: LinkState::Down,
                measurement: port.link.measurement().unwrap_or_default(),
                at: now,
            };
            self.tell(event);
        }
    }

    /// A session index that nobody can guess and that this node does not use yet.
    fn fresh_session_index(&mut self) -> u32 {
        loop {
            let index = self.rng.word() >> 8;
            if self.table.by_session(index).is_none() {
                return index;
            }
        }
    }
}
