//! Members of a network that are nothing but their keys and the protocol that they speak with the coordinator.

use std::sync::Arc;
use wattle_netlab::block_on;

use wattle_agent::coordinator::{Connection, ConnectionError};
use wattle_agent::state::Fingerprint;
use wattle_api::agent::{Join, PROTOCOL, ToAgent, ToCoordinator};
use wattle_api::token::JoinToken;
use wattle_model::{
    ApartCosts, Carrier, Cost, Micros, NetworkId, NodeId, Ppm, SeqNo, UnixTime, WgKey,
};
use wattle_wire::key::SecretKey;
use wattle_wire::record::{Body, LinkEntry, LinksBody, Record, RecordKey, RecordKind};

/// A member that is nothing but its keys and its connection.
#[derive(Clone)]
pub(crate) struct Agent {
    key: SecretKey,
    network: NetworkId,
    token: Arc<JoinToken>,
}

impl Agent {
    /// Joins with the token as `n<seed>`.
    pub(crate) fn join(seed: u8, token: JoinToken) -> Self {
        let key = SecretKey::from_seed(&[seed; 32]);
        let token = Arc::new(token);
        let mut agent = Self {
            key,
            network: NetworkId(0),
            token,
        };
        let join = Join {
            token: agent.token.to_string(),
            name: Some(format!("n{seed}").parse().unwrap()),
            wireguard_key: WgKey([seed; 32]),
            index: None,
            prefixes: vec![],
            candidates: vec![],
        };
        block_on(async {
            let mut connection = agent.hello().await.unwrap();
            connection
                .send(&ToCoordinator::Join(Box::new(join)))
                .await
                .unwrap();
            match connection.receive().await.unwrap() {
                ToAgent::Joined { network, .. } => agent.network = network.id,
                other => panic!("{other:?}"),
            }
        });
        agent
    }

    pub(crate) fn id(&self) -> NodeId {
        self.key.public().node_id()
    }

    pub(crate) async fn hello(&self) -> Result<Connection, ConnectionError> {
        let (address, pin) = (
            &self.token.addresses[0],
            Fingerprint(self.token.fingerprint),
        );
        let mut connection = Connection::open(address, pin, &self.key).await?;
        let hello = ToCoordinator::Hello {
            protocol: PROTOCOL,
            agent_version: "test".into(),
            revision: 0,
            epoch: 1,
            features: vec![],
        };
        connection.send(&hello).await?;
        Ok(connection)
    }

    /// Links over all carriers to `neighbours`, with measurements that differ with each `counter`. Each is told once a
    /// second at most.
    pub(crate) fn report(&self, counter: u64, neighbours: &[NodeId]) -> ToCoordinator {
        let each = |neighbour| Carrier::ALL.map(|carrier| (neighbour, carrier));
        let links = neighbours.iter().flat_map(each);
        let links = links.map(|(neighbour, carrier)| LinkEntry {
            neighbour: *neighbour,
            carrier,
            cost: Cost(100),
            apart: ApartCosts::NONE,
            rtt: Micros(1_000 + counter * 1_000 % 900_000),
            jitter: Micros(1),
            loss: Ppm(0),
        });
        let body = Body::Links(LinksBody {
            at: UnixTime(1),
            links: links.collect(),
            ..LinksBody::default()
        });
        let key = RecordKey {
            origin: self.id(),
            kind: RecordKind::Links,
            part: 0,
        };
        let record = Record::sign(
            self.network,
            key,
            SeqNo(1 << 32 | counter),
            3_600,
            &body,
            &self.key,
        );
        ToCoordinator::Records {
            records: vec![record.bytes().into()],
        }
    }
}
