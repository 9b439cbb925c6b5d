//! Who is connected, and what each connection is told. One connection per node: a later one takes over.

use std::net::SocketAddr;

use tokio::sync::mpsc;
use wattle_api::agent::{ErrorCode, NetworkInfo, ToAgent};
use wattle_model::NodeId;
use wattle_wire::key::PublicKey;
use wattle_wire::record::Record;

use super::{Answer, Engine, Refused};
use crate::clock::wall;
use crate::counters::Counter;

/// Messages that wait for one agent, besides its peer set, of which only the newest is kept. When full, the agent does
/// not read: it is let go and comes back.
pub(crate) const AGENT_QUEUE: usize = 64;

/// The engine's end of a connection.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    /// Tells connections of one node apart.
    pub(crate) id: u64,
    /// Version of the agent's program.
    pub(crate) agent_version: String,
    /// Where messages to the agent go; closed when the engine lets go.
    pub(crate) sender: mpsc::Sender<ToAgent>,
}

/// What a hello gets.
#[derive(Debug)]
pub(crate) enum Admission {
    /// The node is a member.
    Member(Box<NetworkInfo>),
    /// It is none, or no longer one: it may join.
    Stranger(Refused),
}

/// A connected member.
#[derive(Debug)]
pub(super) struct Connected {
    connection: Connection,
    pub(super) acked: u64,
}

impl Engine {
    pub(super) fn hello(
        &mut self,
        identity: &PublicKey,
        connection: Connection,
        answer: Answer<Admission>,
    ) {
        let node = identity.node_id();
        let admission = if self.members.member(node).is_some() {
            self.attach(node, connection);
            Admission::Member(Box::new(self.network.clone()))
        } else if self.members.is_removed(node) {
            Admission::Stranger(Refused::removed(node))
        } else {
            Admission::Stranger(Refused::not_a_member(node))
        };
        let _ = answer.send(Ok(admission));
    }

    pub(super) fn attach(&mut self, node: NodeId, connection: Connection) {
        self.last_seen.insert(node, wall().0);
        tracing::info!(%node, version = connection.agent_version, "Agent connected");
        let before = self.connected.insert(
            node,
            Connected {
                connection,
                acked: 0,
            },
        );
        if let Some(before) = before {
            let _ = before.connection.sender.try_send(ToAgent::Error {
                code: ErrorCode::Superseded,
                message: format!("another connection of node {node} took over"),
                hint: "if two hosts share one identity key, join one of them anew".to_owned(),
            });
        }
    }

    pub(super) fn gone(&mut self, node: NodeId, connection: u64) {
        if self
            .connected
            .get(&node)
            .is_some_and(|c| c.connection.id == connection)
        {
            self.connected.remove(&node);
            tracing::info!(%node, "Agent disconnected");
        }
    }

    pub(super) fn ack(&mut self, node: NodeId, revision: u64) {
        self.last_seen.insert(node, wall().0);
        if let Some(connected) = self.connected.get_mut(&node) {
            connected.acked = revision;
        }
    }

    pub(super) fn candidates(&mut self, node: NodeId, candidates: Vec<SocketAddr>) {
        if self.members.set_candidates(node, candidates)
            && let Some(member) = self.members.member(node)
        {
            self.pending.change.members.push(member.clone());
            self.pending.members_changed = true;
        }
    }

    /// Tells every agent of removals at once, ahead of the peer set, so that they flood through the mesh too.
    pub(super) fn spread(&mut self, removals: &[Record]) {
        let records = removals
            .iter()
            .map(|record| record.bytes().into())
            .collect();
        let message = ToAgent::Records { records };
        let counters = self.counters.clone();
        self.connected.retain(|node, connected| {
            let taken = connected
                .connection
                .sender
                .try_send(message.clone())
                .is_ok();
            if !taken {
                counters.count(Counter::AgentsTooSlow);
                tracing::warn!(%node, "An agent does not read its messages and is let go");
            }
            taken
        });
    }

    /// Says why and lets go.
    pub(super) fn detach(&mut self, node: NodeId, why: &Refused) {
        if let Some(connected) = self.connected.remove(&node) {
            let _ = connected.connection.sender.try_send(why.to_message());
        }
    }
}
