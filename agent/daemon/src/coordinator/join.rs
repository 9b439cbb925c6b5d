//! Becoming a member: one connection, one token, and what comes back is checked before it is believed.

use std::net::SocketAddr;

use wattle_api::agent::{Join, NetworkInfo, PROTOCOL, ToAgent, ToCoordinator};
use wattle_api::token::JoinToken;
use wattle_model::{NodeName, Prefix};
use wattle_wire::grant::{PeerSet, PeerSetError};
use wattle_wire::key::PublicKey;

use super::{Connection, ConnectionError};
use crate::state::{CoordinatorAddress, Fingerprint, Keys, Network, StateDir, StateError};

/// What a node asks for when it joins.
#[derive(Debug, Clone)]
pub struct JoinRequest {
    /// The invitation.
    pub token: JoinToken,
    /// The name it would like.
    pub name: Option<NodeName>,
    /// Prefixes it wants to announce.
    pub prefixes: Vec<Prefix>,
    /// Where others may dial it.
    pub candidates: Vec<SocketAddr>,
}

/// What the node has become.
#[derive(Debug, Clone)]
pub struct Joined {
    /// The network.
    pub network: Network,
    /// Members besides this node.
    pub others: usize,
    /// This node's name.
    pub name: NodeName,
}

/// Why a node did not become a member.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// No coordinator of the token can be talked to.
    #[error("{0}")]
    Connection(#[from] ConnectionError),
    /// The coordinator refused.
    #[error("the coordinator refused: {message}; {hint}")]
    Refused {
        /// What and why.
        message: String,
        /// What to do.
        hint: String,
    },
    /// The coordinator said something that does not belong here.
    #[error("the coordinator answered something else than was asked; are both of one version?")]
    Unexpected,
    /// The answer is for another network than the token.
    #[error(
        "the coordinator answered for another network than the token is for; make a fresh token"
    )]
    ForeignNetwork,
    /// The peer set is not one that the network's root signed.
    #[error("the coordinator's peer set is refused: {0}")]
    PeerSet(#[from] PeerSetError),
    /// The peer set does not have us in it.
    #[error("the coordinator's peer set lacks this node; make a fresh token and try again")]
    NotInSet,
    /// What we became cannot be stored.
    #[error(transparent)]
    State(#[from] StateError),
}

/// Joins with the keys in `state` and stores there what the node has become.
pub async fn join(state: &StateDir, request: JoinRequest) -> Result<Joined, JoinError> {
    let keys = state.keys()?;
    let mut connection = open_any(&request.token, &keys).await?;
    let fingerprint = Fingerprint(request.token.fingerprint);
    let expected = request.token.network;
    connection.send(&hello()).await?;
    connection
        .send(&ToCoordinator::Join(Box::new(message(request, &keys))))
        .await?;
    let (info, signed_set) = match answer_to_join(&mut connection).await? {
        ToAgent::Joined {
            network, peer_set, ..
        } => (*network, peer_set.0),
        ToAgent::Error { message, hint, .. } => return Err(JoinError::Refused { message, hint }),
        _ => return Err(JoinError::Unexpected),
    };
    let network = network_of(info, fingerprint).ok_or(JoinError::ForeignNetwork)?;
    if network.network != expected {
        return Err(JoinError::ForeignNetwork);
    }
    let set = PeerSet::open(&signed_set, &network.root)?;
    let own = set.peers.get(&keys.node_id()).ok_or(JoinError::NotInSet)?;
    let name = own.grant.grant().name.clone();
    state.store_peers(&signed_set)?;
    // Last: a directory that names a network is complete.
    state.store_network(&network)?;
    Ok(Joined {
        network,
        others: set.peers.len() - 1,
        name,
    })
}

async fn open_any(token: &JoinToken, keys: &Keys) -> Result<Connection, ConnectionError> {
    let fingerprint = Fingerprint(token.fingerprint);
    let mut failure = ConnectionError::Closed;
    for address in &token.addresses {
        match Connection::open(address, fingerprint, keys.identity()).await {
            Ok(connection) => return Ok(connection),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// A node whose earlier join was answered, but not heard, is a member and is welcomed first.
async fn answer_to_join(connection: &mut Connection) -> Result<ToAgent, ConnectionError> {
    loop {
        match connection.receive().await? {
            ToAgent::Welcome { .. } | ToAgent::PeerSet(_) => {}
            answer => return Ok(answer),
        }
    }
}

fn hello() -> ToCoordinator {
    ToCoordinator::Hello {
        protocol: PROTOCOL,
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        revision: 0,
        epoch: 0,
        features: Vec::new(),
    }
}

fn message(request: JoinRequest, keys: &Keys) -> Join {
    Join {
        token: request.token.to_string(),
        name: request.name,
        wireguard_key: keys.wireguard_public(),
        index: None,
        prefixes: request.prefixes,
        candidates: request.candidates,
    }
}

/// The network as it is stored; `None` if its root key is not the one that its id names.
fn network_of(info: NetworkInfo, fingerprint: Fingerprint) -> Option<Network> {
    let root = PublicKey::from_bytes(&info.root_key.to_array()?).ok()?;
    (root.network_id() == info.id).then_some(Network {
        network: info.id,
        name: info.name,
        root,
        coordinator: Some(CoordinatorAddress {
            addresses: info.coordinators,
            fingerprint,
        }),
        ipv4: info.ipv4,
        ipv6: info.ipv6,
    })
}
