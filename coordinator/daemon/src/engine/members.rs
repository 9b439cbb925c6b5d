//! Membership as asked for by agents and operators: joins, leaves, removals, lists.

use std::net::IpAddr;

use wattle_api::Timestamp;
use wattle_api::agent::{ErrorCode, Join, ToAgent};
use wattle_api::notice::AuditAction;
use wattle_api::rest::{LeafCreated, LeafRequest, Node, PRIVATE_KEY, Problem};
use wattle_api::token::{JoinToken, TokenScope};
use wattle_api::topology::{Entity, EntityKey};
use wattle_fleet::{Applicant, Member, Refusal};
use wattle_model::{NodeId, Prefix};
use wattle_store::{Claim, TokenFound};
use wattle_wire::grant::Holder;
use wattle_wire::key::PublicKey;

use super::{Answer, Author, Connection, Engine};
use crate::clock::wall;
use crate::counters::Counter;

/// A refusal as agents and API clients see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    /// Kind, for agents.
    pub(crate) code: ErrorCode,
    /// HTTP status, for API clients.
    pub(crate) status: u16,
    /// Kind, for API clients.
    pub(crate) kind: &'static str,
    /// What and why.
    pub(crate) message: String,
    /// What to do.
    pub(crate) hint: &'static str,
}

impl Refused {
    /// The node was removed.
    pub(crate) fn removed(node: NodeId) -> Self {
        Self {
            code: ErrorCode::Removed,
            status: 409,
            kind: "removed",
            message: format!("node {node} was removed from the network"),
            hint: "join again with a fresh token, if it is to come back",
        }
    }

    /// The node never joined.
    pub(crate) fn not_a_member(node: NodeId) -> Self {
        Self {
            code: ErrorCode::NotAMember,
            status: 404,
            kind: "not-a-member",
            message: format!("node {node} is no member of this network"),
            hint: "make a token with `wattle tokens create` and run `wattle join TOKEN`",
        }
    }

    /// Something is not well at the moment.
    pub(crate) fn unavailable() -> Self {
        Self {
            code: ErrorCode::Unavailable,
            status: 503,
            kind: "unavailable",
            message: "the coordinator cannot write to its database".to_owned(),
            hint: "try again; if its disk is full, make room there; its log says more",
        }
    }

    fn token(code: ErrorCode, message: String) -> Self {
        let hint = "make another token with `wattle tokens create`";
        Self {
            code,
            status: 403,
            kind: "token",
            message,
            hint,
        }
    }

    /// The refusal as a message to an agent.
    pub(crate) fn to_message(&self) -> ToAgent {
        ToAgent::Error {
            code: self.code,
            message: self.message.clone(),
            hint: self.hint.to_owned(),
        }
    }

    /// The refusal as an answer to an API client.
    pub(crate) fn to_problem(&self) -> Problem {
        let title = self.kind.replace('-', " ");
        Problem::new(self.status, self.kind, &title, self.message.clone()).with_hint(self.hint)
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        let (code, status, kind, hint) = match &refusal {
            Refusal::NameMissing => (
                ErrorCode::NameTaken,
                422,
                "name-missing",
                "give one with --name",
            ),
            Refusal::NameTaken { .. } => (
                ErrorCode::NameTaken,
                409,
                "name-taken",
                "choose another with --name, or remove the other node first",
            ),
            Refusal::AlreadyMember(_) | Refusal::KeyTaken(_) => (
                ErrorCode::AlreadyMember,
                409,
                "already-member",
                "every host needs keys of its own: use an empty state directory",
            ),
            Refusal::IndexTaken { .. } | Refusal::AddressOutside(_) => (
                ErrorCode::AddressTaken,
                409,
                "address-taken",
                "leave it out to get a free one",
            ),
            Refusal::PlanExhausted(_) => (
                ErrorCode::AddressTaken,
                409,
                "plan-exhausted",
                "remove nodes that are gone, or make a network with a wider plan",
            ),
            Refusal::PrefixTaken { .. } | Refusal::PrefixInPlan(_) => (
                ErrorCode::PrefixTaken,
                409,
                "prefix-taken",
                "announce another prefix",
            ),
            Refusal::PrefixOutsideScope(_) => (
                ErrorCode::TokenScope,
                403,
                "prefix-not-allowed",
                "make a token that allows it with `wattle tokens create --announce PREFIX`",
            ),
            Refusal::NoSuchNode(_) => (
                ErrorCode::NotAMember,
                404,
                "no-such-node",
                "see `wattle nodes list`",
            ),
            Refusal::HostIsLeaf(_) => (
                ErrorCode::Malformed,
                422,
                "host-is-leaf",
                "name a node that runs the agent",
            ),
        };
        Self {
            code,
            status,
            kind,
            message: refusal.to_string(),
            hint,
        }
    }
}

impl Engine {
    pub(super) async fn join(
        &mut self,
        identity: PublicKey,
        join: Join,
        connection: Option<Connection>,
        answer: Answer<ToAgent>,
    ) {
        match self.admit(identity, join).await {
            Ok(node) => self.later(move |engine| {
                if let Some(connection) = connection {
                    engine.attach(node, connection);
                }
                let _ = answer.send(engine.joined(node));
            }),
            Err(refused) => {
                self.counters.count(Counter::JoinsRefused);
                tracing::info!(node = %identity.node_id(), why = refused.message, "Join refused");
                let _ = answer.send(Err(refused));
            }
        }
    }

    async fn admit(&mut self, identity: PublicKey, join: Join) -> Result<NodeId, Refused> {
        let node = identity.node_id();
        let token: JoinToken = join
            .token
            .parse()
            .map_err(|why| Refused::token(ErrorCode::TokenUnknown, format!("{why}")))?;
        let hash = token.secret.hash();
        let Some(scope) = self.check_token(hash, node).await? else {
            // The answer to this very join was lost on its way.
            return Ok(node);
        };
        let applicant = Applicant {
            holder: Holder::Agent { identity },
            wireguard: join.wireguard_key,
            name: join.name,
            index: join.index,
            addresses: vec![],
            prefixes: join.prefixes,
            candidates: join.candidates,
        };
        self.members
            .admit(applicant, &scope, &self.root, wall().0)?;
        self.pending.change.claims.push(Claim { hash, node });
        self.added(node);
        let name = self.name_of(node);
        let by = Author::node(node);
        self.note(AuditAction::NodeJoined, &by, by.actor.clone(), name);
        self.counters.count(Counter::Joins);
        Ok(node)
    }

    /// What a token allows; `None` if this member joined with it.
    async fn check_token(
        &self,
        hash: [u8; 32],
        node: NodeId,
    ) -> Result<Option<TokenScope>, Refused> {
        let used = |by: NodeId| match self.members.member(node) {
            Some(_) if by == node => Ok(None),
            _ => Err(Refused::token(
                ErrorCode::TokenUsed,
                format!("the token was used by node {by}"),
            )),
        };
        let claims = &self.pending.change.claims;
        if let Some(claim) = claims.iter().find(|claim| claim.hash == hash) {
            return used(claim.node);
        }
        match self.store.tokens().find(hash, wall()).await {
            Ok(TokenFound::Good(scope)) => Ok(Some(scope)),
            Ok(TokenFound::Used(by)) => used(by.node),
            Ok(TokenFound::Expired(at)) => Err(Refused::token(
                ErrorCode::TokenExpired,
                format!("the token expired at {at}"),
            )),
            Ok(TokenFound::Unknown) => {
                let message = "the token is not one of this network".to_owned();
                Err(Refused::token(ErrorCode::TokenUnknown, message))
            }
            Err(error) => {
                tracing::error!(%error, "A token could not be looked up");
                Err(Refused::unavailable())
            }
        }
    }

    /// A member to be written, and the differences that it makes.
    pub(super) fn added(&mut self, node: NodeId) {
        let Some(member) = self.members.member(node) else {
            return;
        };
        let differences = self.topology.set_member(member.grant.grant());
        self.pending.change.differences.extend(differences);
        self.pending.change.members.push(member.clone());
        self.pending.members_changed = true;
    }

    fn name_of(&self, node: NodeId) -> String {
        let member = self.members.member(node);
        member.map_or_else(String::new, |member| member.grant.grant().name.to_string())
    }

    fn joined(&self, node: NodeId) -> Result<ToAgent, Refused> {
        let member = self
            .members
            .member(node)
            .ok_or_else(|| Refused::not_a_member(node))?;
        Ok(ToAgent::Joined {
            grant: member.grant.to_bytes().into(),
            network: Box::new(self.network.clone()),
            revision: self.sets.revision(),
            peer_set: self.sets.signed().into(),
        })
    }

    pub(super) fn remove(&mut self, name: &str, by: &Author, answer: Answer<()>) {
        let removed = self
            .members
            .find(name)
            .and_then(|node| self.members.remove(node, &self.root, wall().0));
        let removals = match removed {
            Ok(removals) => removals,
            Err(refusal) => {
                let _ = answer.send(Err(refusal.into()));
                return;
            }
        };
        for removal in &removals {
            let node = removal.origin();
            let differences = self.topology.remove_member(node);
            self.pending.change.differences.extend(differences);
            self.pending
                .change
                .members
                .retain(|member| member.grant.grant().node != node);
            self.pending
                .change
                .records
                .retain(|record| record.origin() != node);
            tracing::info!(%node, actor = by.actor, "Node removed");
            let detail = format!("asked for as {name}");
            self.note(AuditAction::NodeRemoved, by, format!("node:{node}"), detail);
        }
        self.pending
            .change
            .removals
            .extend(removals.iter().cloned());
        self.pending.members_changed = true;
        self.later(move |engine| {
            engine.spread(&removals);
            for removal in &removals {
                engine.detach(removal.origin(), &Refused::removed(removal.origin()));
            }
            let _ = answer.send(Ok(()));
        });
    }

    pub(super) fn add_leaf(
        &mut self,
        request: LeafRequest,
        by: &Author,
        answer: Answer<LeafCreated>,
    ) {
        match self.attach_leaf(request) {
            Ok((leaf, host)) => {
                self.added(leaf);
                let detail = format!("{} at {}", self.name_of(leaf), self.name_of(host));
                self.note(AuditAction::LeafAdded, by, format!("node:{leaf}"), detail);
                self.later(move |engine| {
                    let _ = answer.send(engine.leaf_created(leaf, host));
                });
            }
            Err(refusal) => drop(answer.send(Err(refusal.into()))),
        }
    }

    fn attach_leaf(&mut self, request: LeafRequest) -> Result<(NodeId, NodeId), Refusal> {
        let host = self.members.find(request.host.as_str())?;
        let applicant = Applicant {
            holder: Holder::Leaf { host },
            wireguard: request.public_key,
            name: Some(request.name),
            index: None,
            addresses: request.addresses,
            prefixes: request.prefixes,
            candidates: vec![],
        };
        let leaf = self
            .members
            .admit_leaf(host, applicant, &self.root, wall().0)?;
        Ok((leaf, host))
    }

    fn leaf_created(&self, leaf: NodeId, host: NodeId) -> Result<LeafCreated, Refused> {
        let member = |node| {
            self.members
                .member(node)
                .ok_or_else(|| Refused::not_a_member(node))
        };
        let (leaf, host) = (member(leaf)?, member(host)?);
        let grant = leaf.grant.grant();
        Ok(LeafCreated {
            id: grant.node,
            index: grant.index,
            addresses: grant.addresses.clone(),
            wg_quick: self.wg_quick(leaf, host),
        })
    }

    /// A file for `wg-quick` of the leaf. Everything of the network and all announced prefixes go to the host.
    fn wg_quick(&self, leaf: &Member, host: &Member) -> String {
        let own = leaf.grant.grant();
        let plan = [self.plan.ipv4, self.plan.ipv6].into_iter().flatten();
        let others = self.members.members().filter(|(node, _)| *node != own.node);
        let announced =
            others.flat_map(|(_, member)| member.grant.grant().prefixes.iter().copied());
        let allowed: Vec<String> = plan
            .chain(announced)
            .map(|p: Prefix| p.to_string())
            .collect();
        let addresses: Vec<String> = own
            .addresses
            .iter()
            .map(|a: &IpAddr| Prefix::host(*a).to_string())
            .collect();
        let endpoint = match host.candidates.first() {
            Some(candidate) => format!("Endpoint = {candidate}\n"),
            None => "# Endpoint = the host's address and UDP port\n".to_owned(),
        };
        format!(
            "[Interface]\nPrivateKey = {PRIVATE_KEY}\nAddress = {}\nMTU = 1360\n\n[Peer]\n\
             PublicKey = {}\nAllowedIPs = {}\n{endpoint}PersistentKeepalive = 25\n",
            addresses.join(", "),
            host.grant.grant().wireguard,
            allowed.join(", "),
        )
    }

    pub(super) fn nodes(&self) -> Vec<Node> {
        self.members
            .members()
            .filter_map(|(node, member)| self.node(node, member))
            .collect()
    }

    fn node(&self, node: NodeId, member: &Member) -> Option<Node> {
        let Entity::Node(entity) = self.topology.entity(EntityKey::Node(node))? else {
            return None;
        };
        let connected = self.connected.get(&node);
        Some(Node {
            entity: entity.clone(),
            wireguard_key: member.grant.grant().wireguard,
            prefixes: member.grant.grant().prefixes.clone(),
            candidates: member.candidates.clone(),
            connected: connected.is_some(),
            acked_revision: connected.map_or(0, |connected| connected.acked),
            joined_at: Timestamp(member.joined_at),
            last_seen_at: self.last_seen.get(&node).copied().map(Timestamp),
        })
    }
}
