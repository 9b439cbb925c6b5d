//! What changed between two revisions of the peer set, and how to apply it. Knows nothing of connections.

use std::collections::BTreeMap;
use std::sync::Arc;

use wattle_api::agent::{PeerEntry, PeerSetUpdate};
use wattle_api::{Bytes, Timestamp};
use wattle_wire::DecodeError;
use wattle_wire::grant::{Peer, PeerSet, PeerSetError, SignedGrant};
use wattle_wire::key::{PublicKey, SIGNATURE_LENGTH, SecretKey};
use wattle_wire::record::Record;

/// Revisions that are kept for deltas: an agent that was away for longer gets a snapshot. A set of 500 nodes is about
/// 240 kB, so this bounds the history at about 8 MB for them.
pub const HISTORY: usize = 32;

/// The newest signed peer set and the ones before it.
#[derive(Debug, Clone, Default)]
pub struct PeerSets {
    signed: Vec<u8>,
    history: BTreeMap<u64, Arc<PeerSet>>,
}

impl PeerSets {
    /// Continues from the newest set as it was stored.
    pub fn recover(signed: Vec<u8>, root: &PublicKey) -> Result<Self, PeerSetError> {
        let set = PeerSet::open(&signed, root)?;
        Ok(Self {
            signed,
            history: [(set.revision, Arc::new(set))].into(),
        })
    }

    /// Signs and keeps a newer set.
    pub fn push(&mut self, set: PeerSet, root: &SecretKey) {
        self.signed = set.sign(root);
        self.history.insert(set.revision, Arc::new(set));
        while self.history.len() > HISTORY {
            self.history.pop_first();
        }
    }

    /// Revision of the newest set; 0 before the first.
    pub fn revision(&self) -> u64 {
        self.history
            .last_key_value()
            .map_or(0, |(revision, _)| *revision)
    }

    /// The newest set; none before the first.
    pub fn newest(&self) -> Option<&PeerSet> {
        self.history.last_key_value().map(|(_, set)| set.as_ref())
    }

    /// The newest set with its signature.
    pub fn signed(&self) -> &[u8] {
        &self.signed
    }

    /// The newest set as a whole.
    pub fn snapshot(&self) -> PeerSetUpdate {
        PeerSetUpdate::Snapshot {
            revision: self.revision(),
            set: self.signed.as_slice().into(),
        }
    }

    /// What leads from revision `from` to the newest; the whole set if `from` is too old or unknown.
    pub fn update_from(&self, from: u64) -> PeerSetUpdate {
        match (self.history.get(&from), self.history.last_key_value()) {
            (Some(old), Some((_, new))) => self.delta(old, new),
            _ => self.snapshot(),
        }
    }

    fn delta(&self, old: &PeerSet, new: &PeerSet) -> PeerSetUpdate {
        let changed = new
            .peers
            .iter()
            .filter(|(node, peer)| old.peers.get(node) != Some(peer));
        let entry = |peer: &Peer| PeerEntry {
            grant: peer.grant.to_bytes().into(),
            candidates: peer.candidates.clone(),
            neighbours: peer.neighbours.clone(),
        };
        let news = |record: &&Record| !old.removals.contains(record);
        let signature = &self.signed[self.signed.len().saturating_sub(SIGNATURE_LENGTH)..];
        PeerSetUpdate::Delta {
            from: old.revision,
            revision: new.revision,
            at: Timestamp(new.at),
            peers: changed.map(|(_, peer)| entry(peer)).collect(),
            gone: old
                .peers
                .keys()
                .filter(|node| !new.peers.contains_key(node))
                .copied()
                .collect(),
            removals: new
                .removals
                .iter()
                .filter(news)
                .map(|r| Bytes::from(r.bytes()))
                .collect(),
            signature: signature.into(),
        }
    }
}

/// The signed set that an update makes of the set in hand. Checks the root's signature over the result.
pub fn apply(
    current: &PeerSet,
    update: &PeerSetUpdate,
    root: &PublicKey,
) -> Result<Vec<u8>, PeerSetError> {
    let signed = match update {
        PeerSetUpdate::Snapshot { set, .. } => set.0.clone(),
        PeerSetUpdate::Delta {
            revision,
            at,
            peers,
            gone,
            removals,
            signature,
            ..
        } => {
            let mut set = PeerSet {
                revision: *revision,
                at: at.0,
                ..current.clone()
            };
            for node in gone {
                set.peers.remove(node);
            }
            for entry in peers {
                let peer = Peer {
                    grant: SignedGrant::parse(&entry.grant.0)?,
                    candidates: entry.candidates.clone(),
                    neighbours: entry.neighbours.clone(),
                };
                set.peers.insert(peer.node(), peer);
            }
            for removal in removals {
                let removal = Record::parse(&removal.0)?;
                set.removals
                    .retain(|known| known.origin() != removal.origin());
                set.removals.push(removal);
            }
            // Removals stand in the order of their nodes in a set that the coordinator wrote.
            set.removals.sort_by_key(Record::origin);
            set.with_signature(&signature.to_array().ok_or(DecodeError::Signature)?)
        }
    };
    PeerSet::open(&signed, root)?.may_follow(current)?;
    Ok(signed)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use wattle_api::token::TokenScope;
    use wattle_model::{Instant, Micros, UnixTime, WgKey};
    use wattle_wire::grant::Holder;

    use super::*;
    use crate::AddressPlan;
    use crate::membership::{Applicant, Membership};
    use crate::neighbours::Pair;

    const NOW: UnixTime = UnixTime(1_795_385_280_000);

    /// A network that nobody has joined yet.
    fn nobody() -> (SecretKey, Membership, PeerSets) {
        let root = SecretKey::from_seed(&[1; 32]);
        let network = root.public().network_id();
        let members = Membership::recover(network, AddressPlan::default_of(network), 0, [], []);
        (root, members, PeerSets::default())
    }

    fn join(members: &mut Membership, root: &SecretKey, seed: u8) {
        let applicant = Applicant {
            holder: Holder::Agent {
                identity: SecretKey::from_seed(&[seed; 32]).public(),
            },
            wireguard: WgKey([seed; 32]),
            name: Some(format!("n{seed}").parse().unwrap()),
            index: None,
            addresses: vec![],
            prefixes: vec![],
            candidates: vec![],
        };
        members
            .admit(applicant, &TokenScope::default(), root, NOW)
            .unwrap();
    }

    #[test]
    fn deltas_lead_to_the_very_bytes_of_the_newest_set() {
        let (root, mut members, mut sets) = nobody();
        let mut seen = vec![];
        for round in 2..40_u8 {
            join(&mut members, &root, round);
            let first = members.members().next().unwrap().0;
            if round % 4 == 0 {
                members.remove(first, &root, NOW).unwrap();
            } else {
                let address = format!("192.0.2.{round}:1").parse().unwrap();
                assert!(members.set_candidates(first, vec![address]));
            }
            sets.push(members.revise(NOW), &root);
            seen.push(sets.signed().to_vec());
        }
        for old in seen
            .iter()
            .map(|bytes| PeerSet::open(bytes, &root.public()).unwrap())
        {
            let update = sets.update_from(old.revision);
            let kept = old.revision + HISTORY as u64 > sets.revision();
            assert_eq!(matches!(update, PeerSetUpdate::Delta { .. }), kept);
            assert_eq!(apply(&old, &update, &root.public()).unwrap(), sets.signed());
        }
    }

    #[test]
    fn a_pair_that_turns_out_near_changes_the_entries_of_its_two_nodes() {
        let (root, mut members, mut sets) = nobody();
        for seed in 1..=40 {
            join(&mut members, &root, seed);
        }
        sets.push(members.revise(NOW), &root);
        let peers = &sets.newest().unwrap().peers;
        let (node, peer) = peers.first_key_value().unwrap();
        let named = peer.neighbours.as_ref().unwrap();
        let other = peers.keys().find(|other| !named.contains(other)).unwrap();
        let near = [(Pair::of(*node, *other), Micros(100))];
        let ends = BTreeSet::from([*node, *other]);

        assert!(members.set_round_trips(Instant(0), near.into()));
        sets.push(members.revise(NOW), &root);
        let PeerSetUpdate::Delta { peers, .. } = sets.update_from(1) else {
            panic!("the revision before is kept");
        };
        let changed = peers
            .iter()
            .map(|entry| SignedGrant::parse(&entry.grant.0).unwrap().grant().node);
        assert_eq!(changed.collect::<BTreeSet<_>>(), ends);
    }

    #[test]
    fn a_delta_on_the_wrong_set_is_noticed() {
        let (root, mut members, mut sets) = nobody();
        for seed in 2..5 {
            join(&mut members, &root, seed);
            sets.push(members.revise(NOW), &root);
        }
        let update = sets.update_from(2);
        let wrong = sets.history[&1].as_ref();
        assert!(apply(wrong, &update, &root.public()).is_err());
    }
}
