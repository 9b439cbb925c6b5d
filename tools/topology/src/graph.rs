//! The network at one moment, and how events change it. Pure: what reads Kafka or a coordinator hands events in.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use wattle_api::Timestamp;
use wattle_api::rest::Topology;
use wattle_api::topology::{
    Entity, EntityKey, LinkEntity, NodeEntity, PrefixEntity, TopologyEvent,
};
use wattle_model::{NodeId, NodeName};

/// Everything there is, by its key.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Graph {
    entities: BTreeMap<EntityKey, Entity>,
    seq: u64,
    ts: Option<Timestamp>,
}

impl Graph {
    /// The newest event that it knows of; 0 before the first.
    pub const fn seq(&self) -> u64 {
        self.seq
    }

    /// The moment that it shows, if somebody asked for one; else the time of the newest event, where that is known.
    pub const fn ts(&self) -> Option<Timestamp> {
        self.ts
    }

    /// Takes an event in. Events must come in order, those of a snapshot in any.
    pub fn apply(&mut self, event: &TopologyEvent) {
        self.set(event.key, event.after.clone(), event.id.seq);
        self.ts = self.ts.max(Some(event.ts));
    }

    /// How an entity is after event `seq`; `None` if it is no more.
    pub fn set(&mut self, key: EntityKey, after: Option<Entity>, seq: u64) {
        match after {
            Some(entity) => self.entities.insert(key, entity),
            None => self.entities.remove(&key),
        };
        self.seq = self.seq.max(seq);
    }

    /// Says which moment this is: everything up to event `seq`, and nothing after it.
    pub(crate) const fn date(&mut self, seq: u64, ts: Option<Timestamp>) {
        self.seq = seq;
        self.ts = ts;
    }

    /// All entities, ordered by key.
    pub fn entities(&self) -> impl ExactSizeIterator<Item = (&EntityKey, &Entity)> {
        self.entities.iter()
    }

    /// One entity.
    pub fn entity(&self, key: EntityKey) -> Option<&Entity> {
        self.entities.get(&key)
    }

    /// All nodes.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeEntity> {
        self.entities.values().filter_map(|entity| match entity {
            Entity::Node(node) => Some(node),
            Entity::Link(_) | Entity::Prefix(_) => None,
        })
    }

    /// All links, each direction by itself.
    pub fn links(&self) -> impl Iterator<Item = &LinkEntity> {
        self.entities.values().filter_map(|entity| match entity {
            Entity::Link(link) => Some(link),
            Entity::Node(_) | Entity::Prefix(_) => None,
        })
    }

    /// All announced prefixes.
    pub fn prefixes(&self) -> impl Iterator<Item = &PrefixEntity> {
        self.entities.values().filter_map(|entity| match entity {
            Entity::Prefix(prefix) => Some(prefix),
            Entity::Node(_) | Entity::Link(_) => None,
        })
    }

    /// One node.
    pub fn node(&self, id: NodeId) -> Option<&NodeEntity> {
        match self.entities.get(&EntityKey::Node(id)) {
            Some(Entity::Node(node)) => Some(node),
            Some(Entity::Link(_) | Entity::Prefix(_)) | None => None,
        }
    }

    /// The node of this name or id.
    pub fn find(&self, name_or_id: &str) -> Option<&NodeEntity> {
        let named = self.nodes().find(|node| node.name.as_str() == name_or_id);
        named.or_else(|| self.node(name_or_id.parse().ok()?))
    }

    /// The name of a node, or its id if it is not known.
    pub fn name(&self, node: NodeId) -> String {
        match self.node(node) {
            Some(node) => NodeName::as_str(&node.name).to_owned(),
            None => node.to_string(),
        }
    }

    /// An entity as people call it: `fra`, `fra > ams udp4`, `10.1.0.0/16`.
    pub fn label(&self, key: EntityKey) -> String {
        match key {
            EntityKey::Node(node) => self.name(node),
            EntityKey::Link(from, to, carrier) => {
                format!("{} > {} {carrier}", self.name(from), self.name(to))
            }
            EntityKey::Prefix(prefix) => prefix.to_string(),
        }
    }
}

/// Whether packets can be sent over a link: it has a price and its other end reports it, too.
pub const fn is_usable(link: &LinkEntity) -> bool {
    link.confirmed && link.cost_us.is_some()
}

impl std::convert::From<Topology> for Graph {
    fn from(topology: Topology) -> Self {
        let nodes = topology.nodes.into_iter().map(Entity::Node);
        let links = topology.links.into_iter().map(Entity::Link);
        let prefixes = topology.prefixes.into_iter().map(Entity::Prefix);
        let entities = nodes.chain(links).chain(prefixes);
        Self {
            entities: entities.map(|entity| (entity.key(), entity)).collect(),
            seq: topology.seq,
            ts: Some(topology.ts),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use wattle_api::topology::{Cause, EventId, Op, Source};
    use wattle_model::{Carrier, NetworkId, NodeIndex};

    use super::*;

    pub(crate) fn node(id: u64, name: &str) -> Entity {
        Entity::Node(NodeEntity {
            id: NodeId(id),
            name: name.parse().unwrap(),
            index: NodeIndex(id as u16),
            addresses: vec!["10.77.0.1".parse().unwrap()],
            tags: vec![],
            site: None,
            leaf_of: None,
            reporting: true,
            agent_version: None,
            epoch: None,
            transit_cost_us: Some(0),
        })
    }

    pub(crate) fn at_site(node: Entity, site: &str) -> Entity {
        let Entity::Node(node) = node else {
            panic!("not a node");
        };
        Entity::Node(NodeEntity {
            site: Some(site.parse().unwrap()),
            ..node
        })
    }

    pub(crate) fn link(from: u64, to: u64, cost_us: Option<u32>) -> Entity {
        Entity::Link(LinkEntity {
            from: NodeId(from),
            to: NodeId(to),
            from_name: None,
            to_name: None,
            carrier: Carrier::Udp4,
            confirmed: true,
            tier: 0,
            cost_us,
            rtt_us: 1_500,
            jitter_us: 20,
            loss_ppm: 0,
        })
    }

    pub(crate) fn prefix(text: &str, origin: u64) -> Entity {
        Entity::Prefix(PrefixEntity {
            prefix: text.parse().unwrap(),
            origin: NodeId(origin),
            origin_name: None,
        })
    }

    pub(crate) fn graph(entities: &[Entity]) -> Graph {
        let mut graph = Graph::default();
        for (seq, entity) in (1..).zip(entities) {
            graph.set(entity.key(), Some(entity.clone()), seq);
        }
        graph
    }

    /// Event `seq` at that many seconds, from one image to the other.
    pub(crate) fn event(seq: u64, before: Option<Entity>, after: Option<Entity>) -> TopologyEvent {
        let key = after.as_ref().or(before.as_ref()).unwrap().key();
        let (op, cause) = match (&before, &after) {
            (None, _) => (Op::Create, Cause::LinkReported),
            (Some(_), Some(_)) => (Op::Update, Cause::LinkMeasured),
            (Some(_), None) => (Op::Delete, Cause::LinkWithdrawn),
        };
        TopologyEvent {
            id: EventId { term: 1, seq },
            kind: key.kind(),
            key,
            op,
            before,
            after,
            cause,
            source: Source {
                network: NetworkId(1),
                network_name: "lab".into(),
                coordinator: "c".into(),
                term: 1,
                seq,
                reporter: None,
                record_seq: None,
                site: None,
                observed_at: None,
                coalesced: 0,
            },
            ts: Timestamp::from_millis(seq * 1_000),
            omitted: None,
        }
    }

    #[test]
    fn what_is_gone_is_not_shown_and_the_newest_event_is_known() {
        let mut graph = graph(&[node(1, "a"), node(2, "b"), link(1, 2, Some(700))]);
        graph.set(link(1, 2, None).key(), None, 9);
        assert_eq!(
            (graph.nodes().count(), graph.links().count(), graph.seq()),
            (2, 0, 9)
        );
        assert_eq!(graph.name(NodeId(2)), "b");
        assert_eq!(graph.name(NodeId(3)), "0000000000000003");
    }

    #[test]
    fn a_node_is_found_by_name_and_by_id() {
        let graph = graph(&[node(1, "a"), node(2, "b")]);
        assert_eq!(graph.find("b").map(|node| node.id), Some(NodeId(2)));
        assert_eq!(
            graph
                .find("0000000000000001")
                .map(|node| node.name.as_str()),
            Some("a")
        );
        assert_eq!(graph.find("c"), None);
    }
}
