//! When the neighbours of a large network are chosen anew (`docs/protocol/routing.md` §6). Who they are `wattle_fleet`
//! decides.

use wattle_model::Micros;

use super::Engine;

/// How often neighbours follow what links measure. The near are found in several rounds, each of which moves links.
pub(super) const REWIRE_EVERY: Micros = Micros::from_secs(600);

impl Engine {
    /// Makes a new peer set where what links measured makes other neighbours better.
    pub(super) fn rewire(&mut self) {
        let now = self.clock.now();
        if now < self.rewire_at {
            return;
        }
        self.rewire_at = now + REWIRE_EVERY;
        let measured = self.topology.round_trips();
        self.pending.members_changed |= self.members.set_round_trips(now, measured);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::sync::mpsc;
    use tokio::time;
    use tokio_util::sync::CancellationToken;
    use wattle_api::agent::NetworkInfo;
    use wattle_api::token::TokenScope;
    use wattle_fleet::peer_set::PeerSets;
    use wattle_fleet::{AddressPlan, Applicant};
    use wattle_model::{ApartCosts, Carrier, Cost, NodeId, Ppm, SeqNo, UnixTime, WgKey};
    use wattle_store::Store;
    use wattle_wire::grant::Holder;
    use wattle_wire::key::SecretKey;
    use wattle_wire::record::{Body, LinkEntry, LinksBody, Record, RecordKey, RecordKind};

    use super::*;
    use crate::clock::wall;
    use crate::counters::Counters;
    use crate::engine::{Handle, Question};

    /// Longer than all that the test lets pass.
    const LIFETIME_S: u32 = 7_200;

    /// Input: 40 members; two that no ring joins measure a near link. Output: they are named for each other once ten minutes
    /// are over, and another two that measure one after that in the next ten.
    #[tokio::test]
    async fn who_measures_a_near_link_becomes_a_neighbour_within_ten_minutes() {
        let home = tempfile::tempdir().unwrap();
        let (engine, handle, queue) = engine_of(40, home.path()).await;
        let stop = CancellationToken::new();
        let running = tokio::spawn(engine.run(queue, stop.clone()));
        let mut sets = handle.sets.clone();

        for number in [1, 2] {
            let pair = strangers(&sets.borrow_and_update());
            measure(&handle, pair).await;
            pass(Duration::from(REWIRE_EVERY) - MARGIN).await;
            // It is answered after whatever is due.
            let look = handle.ask(|answer| Question::Topology { answer }).await;
            assert!(look.is_some());
            assert!(!sets.has_changed().unwrap(), "look {number} is early");
            pass(MARGIN).await;
            let changed = time::timeout(PATIENCE, sets.changed()).await;
            changed.unwrap().unwrap();
            let [one, other] = pair.map(id);
            let set = sets.borrow().newest().unwrap().clone();
            for (node, neighbour) in [(one, other), (other, one)] {
                let named = set.peers[&node].neighbours.as_ref().unwrap();
                assert!(named.contains(&neighbour), "look {number}");
            }
        }
        stop.cancel();
        running.await.unwrap().unwrap();
    }

    /// More than the steps of this test take.
    const MARGIN: Duration = Duration::from_secs(60);

    /// The engine's database answers within milliseconds.
    const PATIENCE: Duration = Duration::from_secs(30);

    /// Lets so much time pass at once. Otherwise it passes as outside, as the database does its work there.
    async fn pass(span: Duration) {
        time::pause();
        time::advance(span).await;
        time::resume();
    }

    fn key(seed: u8) -> SecretKey {
        SecretKey::from_seed(&[seed; 32])
    }

    fn id(seed: u8) -> NodeId {
        key(seed).public().node_id()
    }

    /// An engine with members of the seeds from 1 on.
    async fn engine_of(members: u8, home: &Path) -> (Engine, Handle, mpsc::Receiver<Question>) {
        let root = key(0);
        let network = NetworkInfo {
            id: root.public().network_id(),
            name: "lab".to_owned(),
            root_key: root.public().as_bytes().as_slice().into(),
            ipv4: None,
            ipv6: None,
            coordinators: vec![],
            fingerprint: vec![].into(),
        };
        let database = home.join("db");
        let store = Store::open(&database, network.id, "lab", "test").await;
        let plan = AddressPlan::default_of(network.id);
        let counters = Arc::new(Counters::default());
        let started = Engine::start(store.unwrap(), root, network, plan, counters);
        let (mut engine, handle, queue) = started.await.unwrap();
        for seed in 1..=members {
            let applicant = Applicant {
                holder: Holder::Agent {
                    identity: key(seed).public(),
                },
                wireguard: WgKey([seed; 32]),
                name: Some(format!("n{seed}").parse().unwrap()),
                index: None,
                addresses: vec![],
                prefixes: vec![],
                candidates: vec![],
            };
            let scope = TokenScope::default();
            let admitted = engine
                .members
                .admit(applicant, &scope, &engine.root, wall().0);
            engine.added(admitted.unwrap());
        }
        engine.commit().await.unwrap();
        (engine, handle, queue)
    }

    /// Two that are no neighbours.
    fn strangers(sets: &PeerSets) -> [u8; 2] {
        let peers = &sets.newest().unwrap().peers;
        let named = peers[&id(1)].neighbours.as_ref().unwrap();
        let other = (2..40).find(|other| !named.contains(&id(*other)));
        [1, other.unwrap()]
    }

    /// Both report a link to each other.
    async fn measure(handle: &Handle, [one, other]: [u8; 2]) {
        for (from, to) in [(one, other), (other, one)] {
            let link = LinkEntry {
                neighbour: id(to),
                carrier: Carrier::Udp4,
                cost: Cost(100),
                apart: ApartCosts::NONE,
                rtt: Micros(100),
                jitter: Micros(1),
                loss: Ppm(0),
            };
            let of = RecordKey {
                origin: id(from),
                kind: RecordKind::Links,
                part: 0,
            };
            let body = Body::Links(LinksBody {
                at: UnixTime(0),
                links: vec![link],
                ..LinksBody::default()
            });
            let network = key(0).public().network_id();
            let number = SeqNo::first_of(other.into());
            let record = Record::sign(network, of, number, LIFETIME_S, &body, &key(from));
            let reported = Question::Records {
                node: id(from),
                records: vec![record],
            };
            handle.tell(reported).await.unwrap();
        }
    }
}
