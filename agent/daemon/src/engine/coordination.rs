//! The engine and its coordinator: what it says is checked, stored, used and acknowledged in this order; what this node
//! knows is told to it, anew after each reconnection and when something found no room in the queue to it.

use std::net::{IpAddr, SocketAddr};

use wattle_api::agent::ToCoordinator;
use wattle_control::{CoordinatorState, HealthLevel};
use wattle_model::Instant;
use wattle_routing::Input;

use super::event_log::Happening;
use super::{Engine, Stopping};
use crate::coordinator::{FromCoordinator, Uplink};

/// Records in one message to the coordinator.
const RECORDS_PER_MESSAGE: usize = 64;
/// Addresses that are told to the coordinator.
const MAX_CANDIDATES: usize = 16;

/// What is known of the connection to the coordinator.
pub(super) struct CoordinatorView {
    /// How it does.
    pub(super) state: CoordinatorState,
    /// When something was heard.
    pub(super) heard: Option<Instant>,
    /// Why it is away.
    pub(super) error: Option<String>,
}

impl CoordinatorView {
    /// Nothing was tried yet.
    pub(super) const fn new() -> Self {
        Self {
            state: CoordinatorState::Away,
            heard: None,
            error: None,
        }
    }
}

impl Engine {
    pub(super) fn coordinator_says(&mut self, word: FromCoordinator, uplink: Option<&mut Uplink>) {
        let now = self.clock.now();
        match word {
            FromCoordinator::Connecting => self.coordinator.state = CoordinatorState::Connecting,
            FromCoordinator::Connected { revision } => {
                self.coordinator_heard(now);
                self.coordinator.state = CoordinatorState::Connected;
                self.coordinator.error = None;
                self.relieve("removed");
                tracing::info!(revision, "Coordinator connected");
                self.tell_everything(uplink);
            }
            FromCoordinator::Away(error) => {
                if self.coordinator.error.as_ref() != Some(&error) {
                    tracing::warn!(%error, "Coordinator away; the mesh goes on without it");
                }
                self.coordinator.state = CoordinatorState::Away;
                self.coordinator.error = Some(error);
            }
            FromCoordinator::Heard => self.coordinator_heard(now),
            FromCoordinator::PeerSet(signed) => {
                self.coordinator_heard(now);
                self.peer_set_offered(&signed, uplink);
            }
            FromCoordinator::Records(records) => {
                self.coordinator_heard(now);
                for record in records {
                    self.router.handle(Input::Removal(record), now);
                }
            }
            FromCoordinator::Refused { message, hint } => {
                self.coordinator_heard(now);
                self.coordinator.error = Some(format!("{message}; {hint}"));
                self.trouble(
                    HealthLevel::Error,
                    "removed",
                    format!("the coordinator refused this node: {message}; {hint}"),
                );
            }
        }
    }

    fn coordinator_heard(&mut self, now: Instant) {
        self.coordinator.heard = Some(now);
    }

    /// A peer set is stored before it is used and acknowledged; a refused one changes nothing.
    fn peer_set_offered(&mut self, signed: &[u8], uplink: Option<&mut Uplink>) {
        let mut membership = self.setting.membership.clone();
        match membership.accept(signed) {
            Err(refused) => {
                self.counters.peer_sets_refused += 1;
                let text = format!("a peer set of the coordinator was refused: {refused}");
                self.happened(Happening::new("peer_set_refused", text.clone()));
                self.trouble(HealthLevel::Error, "peer_set_refused", text);
            }
            Ok(changed) => {
                if let Err(error) = self.setting.state.store_peers(signed) {
                    // Used all the same; not acknowledged, so it comes again.
                    self.trouble(HealthLevel::Error, "state_not_written", error.to_string());
                } else {
                    self.relieve("state_not_written");
                    if let Some(uplink) = uplink {
                        uplink.holds(membership.revision());
                        uplink.say(ToCoordinator::Ack {
                            revision: membership.revision(),
                        });
                    }
                }
                self.relieve("peer_set_refused");
                self.counters.peer_sets_accepted += 1;
                if changed {
                    self.setting.membership = membership;
                    let revision = self.membership().revision();
                    let text = format!("peer set {revision} is in use");
                    let event = Happening::new("peer_set_changed", text);
                    self.happened(event.field("revision", revision));
                    self.removals_from_set();
                    self.members_changed();
                }
            }
        }
    }

    /// Removals that the set carries travel through the mesh too, to those whom the coordinator does not reach.
    pub(super) fn removals_from_set(&mut self) {
        let now = self.clock.now();
        let removals: Vec<_> = self
            .membership()
            .removals()
            .map(|r| r.bytes().to_vec())
            .collect();
        for removal in removals {
            self.router.handle(Input::Removal(removal), now);
        }
    }

    fn tell_everything(&mut self, uplink: Option<&mut Uplink>) {
        let Some(uplink) = uplink else { return };
        uplink.begin_anew();
        let database = self.router.database();
        self.fresh_records = database
            .iter()
            .map(|(_, entry)| entry.record().clone())
            .collect();
        self.tell_candidates(Some(&mut *uplink));
        self.tell_records(Some(uplink));
    }

    /// What was left out while too much waited for the coordinator is told once there is room for it.
    pub(super) fn tell_what_was_left_out(&mut self, uplink: Option<&mut Uplink>) {
        let Some(uplink) = uplink else { return };
        if self.coordinator.state == CoordinatorState::Connected && uplink.must_repeat() {
            tracing::info!("Telling the coordinator everything again: some of it found no room");
            self.tell_everything(Some(&mut *uplink));
            let revision = uplink.held();
            uplink.say(ToCoordinator::Ack { revision });
        }
    }

    pub(super) fn tell_records(&mut self, uplink: Option<&mut Uplink>) {
        let fresh = std::mem::take(&mut self.fresh_records);
        let Some(uplink) = uplink else { return };
        if self.coordinator.state != CoordinatorState::Connected {
            return;
        }
        for records in fresh.chunks(RECORDS_PER_MESSAGE) {
            self.counters.records_up += records.len() as u64;
            let records = records.iter().map(|record| record.bytes().into()).collect();
            uplink.say(ToCoordinator::Records { records });
        }
        self.counters.uplink_dropped = uplink.dropped();
    }

    pub(super) fn tell_candidates(&mut self, uplink: Option<&mut Uplink>) {
        if let Some(uplink) = uplink
            && self.coordinator.state == CoordinatorState::Connected
        {
            uplink.say(ToCoordinator::Candidates {
                candidates: self.candidates(),
            });
        }
    }

    /// Where others may dial this node: what the operator said, the host's own addresses, where neighbours see it.
    fn candidates(&self) -> Vec<SocketAddr> {
        let configured = self.setting.config.endpoints.iter().copied();
        let own_prefixes = self.membership().own_grant();
        let inside = |address: &IpAddr| own_prefixes.is_some_and(|g| g.addresses.contains(address));
        let port = self.setting.listen_port;
        let found = self
            .interface_addresses
            .iter()
            .filter(|address| !inside(address));
        let found = found.map(|address| SocketAddr::new(*address, port));
        let mut all: Vec<SocketAddr> = Vec::new();
        for candidate in configured
            .chain(found)
            .chain(self.reflexive.iter().copied())
        {
            if !all.contains(&candidate) && all.len() < MAX_CANDIDATES {
                all.push(candidate);
            }
        }
        all
    }

    /// Who leaves for good says so; who is merely stopped is noticed by the silence.
    pub(super) fn say_goodbye(&self, uplink: Option<&mut Uplink>) {
        if let (Stopping::Leaves, Some(uplink)) = (self.stopping, uplink) {
            uplink.say(ToCoordinator::Leave);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;
    use wattle_host::{Wake, Wanted};
    use wattle_model::{NodeIndex, UnixTime};
    use wattle_wire::grant::{Grant, Holder, Peer, PeerSet, SignedGrant};
    use wattle_wire::key::SecretKey;

    use super::*;
    use crate::config::Config;
    use crate::coordinator::Side;
    use crate::engine::{Membership, Setting};
    use crate::state::{Network, StateDir};
    use crate::worker_handle::WorkerHandle;

    #[test]
    fn what_found_no_room_is_told_again_once_there_is_some_and_once_only() {
        let directory = tempfile::tempdir().unwrap();
        let mut engine = engine(directory.path());
        let (mut uplink, mut side) = Uplink::new(1);
        engine.coordinator.state = CoordinatorState::Connected;
        while uplink.dropped() == 0 {
            uplink.say(ToCoordinator::Ping { nonce: 1 });
        }
        engine.members_changed();
        engine.obey_router(Some(&mut uplink));
        assert!(uplink.dropped() > 1, "the node's own records found no room");

        engine.tell_what_was_left_out(Some(&mut uplink));
        let full = waiting(&mut side);
        let pings = full
            .iter()
            .all(|message| matches!(message, ToCoordinator::Ping { .. }));
        assert!(pings, "not before there is room");

        engine.tell_what_was_left_out(Some(&mut uplink));
        let told = waiting(&mut side);
        let records: usize = told.iter().map(records_in).sum();
        assert_eq!(records, engine.router.database().len());
        assert!(records > 0);
        assert!(told.contains(&ToCoordinator::Ack { revision: 1 }));
        let candidates =
            |message: &ToCoordinator| matches!(message, ToCoordinator::Candidates { .. });
        assert!(told.iter().any(candidates));

        engine.tell_what_was_left_out(Some(&mut uplink));
        assert_eq!(waiting(&mut side), []);
    }

    fn waiting(side: &mut Side) -> Vec<ToCoordinator> {
        std::iter::from_fn(|| side.waiting()).collect()
    }

    fn records_in(message: &ToCoordinator) -> usize {
        match message {
            ToCoordinator::Records { records } => records.len(),
            _ => 0,
        }
    }

    /// The engine of the only member of a network.
    fn engine(directory: &std::path::Path) -> Engine {
        let state = StateDir::open(&directory.join("state")).unwrap();
        let keys = state.keys().unwrap();
        let root = SecretKey::from_seed(&[7; 32]);
        let mut membership = Membership::new(keys.node_id(), root.public());
        let grant = Grant {
            network: root.public().network_id(),
            node: keys.node_id(),
            holder: Holder::Agent {
                identity: keys.identity_public(),
            },
            wireguard: keys.wireguard_public(),
            index: NodeIndex(1),
            name: "only".parse().unwrap(),
            addresses: vec![],
            prefixes: vec![],
            tags: vec![],
            site: None,
            serial: 1,
            not_after: UnixTime(u64::MAX),
        };
        let peer = Peer {
            grant: SignedGrant::sign(grant, &root),
            candidates: vec![],
            neighbours: None,
        };
        let mut set = PeerSet::empty(root.public().network_id());
        set.revision = 1;
        set.peers.insert(keys.node_id(), peer);
        membership.accept(&set.sign(&root)).unwrap();
        let setting = Setting {
            config: Config::default(),
            listen_port: 1,
            few_workers: None,
            interface_index: 1,
            state,
            keys,
            network: Network {
                network: root.public().network_id(),
                name: "lab".to_owned(),
                root: root.public(),
                coordinator: None,
                ipv4: None,
                ipv6: None,
            },
            membership,
            epoch: 1,
            clients_turned_away: std::sync::Arc::default(),
            quic: crate::quic::Quic::default(),
        };
        let (wishes, _kernel) = watch::channel(Wanted::default());
        Engine::new(
            setting,
            WorkerHandle::new(vec![Wake::new().unwrap()]),
            wishes,
        )
    }
}
