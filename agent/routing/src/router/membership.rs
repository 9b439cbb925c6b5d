//! Who belongs to the network: by the peer set, until a removal that the trust root signed.

use std::collections::BTreeSet;
use std::sync::Arc;

use wattle_model::{Instant, NodeId};
use wattle_wire::record::RecordKind;

use super::Router;
use super::deciding::Unread;
use super::trigger::Trigger;
use crate::event::{Cause, Happening};
use crate::topology::Members;

impl Router {
    pub(super) fn members_changed(&mut self, now: Instant, members: Members) {
        self.members = Arc::new(members);
        self.unread = Unread::All;
        self.origin.heard_by(self.members.nodes.len());
        self.expel(now, Cause::PeerSet.into());
        let neighbours: BTreeSet<NodeId> = self.links.values().map(|link| link.neighbour).collect();
        for neighbour in neighbours {
            self.adjust_adjacency(now, neighbour);
        }
        // What was refused from those who are members by now is with the neighbours.
        for adjacency in self.adjacencies.values_mut() {
            adjacency.compare_soon(now);
        }
        self.compute_soon(now, Cause::PeerSet);
    }

    /// Forgets who is no member, by the peer set or by a signed removal.
    pub(super) fn expel(&mut self, now: Instant, trigger: Trigger) {
        let removed = &self.removed;
        let is_void =
            |id: &NodeId, serial: u64| removed.get(id).is_some_and(|voided| serial <= *voided);
        let voided: Vec<_> = self
            .members
            .nodes
            .iter()
            .filter(|(id, member)| is_void(id, member.serial))
            .map(|(id, member)| (*id, member.serial))
            .collect();
        for (node, serial) in voided {
            Arc::make_mut(&mut self.members).nodes.remove(&node);
            self.unread = Unread::All;
            self.event(now, trigger, Happening::NodeRemoved { node, serial });
        }
        let strangers: BTreeSet<NodeId> = self
            .database
            .iter()
            .map(|(key, _)| key.origin)
            .filter(|origin| !self.members.nodes.contains_key(origin))
            .collect();
        for origin in strangers {
            let keys: Vec<_> = self.database.of(origin).map(|(key, _)| *key).collect();
            if self.database.forget(origin) {
                self.unread.add(origin);
                self.outputs_of_expiry(keys.into_iter().filter(|k| k.kind != RecordKind::Removal));
                self.compute_soon(now, trigger);
            }
        }
        self.adjacencies
            .retain(|id, _| self.members.nodes.contains_key(id));
    }
}
