//! The network at one moment, and how events change it. Pure but for [`read`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use wattle_api::rest::Topology;
use wattle_api::stream::HEADER_SEQ;
use wattle_api::topology::{
    Entity, EntityKey, LinkEntity, NodeEntity, PrefixEntity, TopologyEvent,
};
use wattle_model::{NodeId, NodeName};

use crate::error::TopologyError;
use crate::reader::{From, Reader};
use crate::source::Source;

/// Everything there is, by its key.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Graph {
    entities: BTreeMap<EntityKey, Entity>,
    seq: u64,
}

impl Graph {
    /// The newest event that it knows of.
    pub const fn seq(&self) -> u64 {
        self.seq
    }

    /// Takes an event in. Events must come in order, those of a snapshot in any.
    pub fn apply(&mut self, event: &TopologyEvent) {
        self.set(event.key, event.after.clone(), event.id.seq);
    }

    /// How an entity is after event `seq`; `None` if it is no more.
    pub fn set(&mut self, key: EntityKey, after: Option<Entity>, seq: u64) {
        match after {
            Some(entity) => self.entities.insert(key, entity),
            None => self.entities.remove(&key),
        };
        self.seq = self.seq.max(seq);
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

    /// The name of a node, or its id if it is not known.
    pub fn name(&self, node: NodeId) -> String {
        match self.entities.get(&EntityKey::Node(node)) {
            Some(Entity::Node(node)) => NodeName::as_str(&node.name).to_owned(),
            Some(Entity::Link(_) | Entity::Prefix(_)) | None => node.to_string(),
        }
    }
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
        }
    }
}

/// Reads the state topic to its end.
pub(crate) fn read(source: &Source) -> Result<Graph, TopologyError> {
    let mut reader = Reader::open(source, &source.topics.state, From::Oldest)?;
    let mut graph = Graph::default();
    let mut bad = None;
    reader.read_to_end(|record| {
        if let Err(reason) = take(&mut graph, &record) {
            bad.get_or_insert((record, reason));
        }
        Ok(())
    })?;
    match bad {
        Some((record, reason)) => Err(reader.bad(&record, reason)),
        None => Ok(graph),
    }
}

fn take(graph: &mut Graph, record: &crate::reader::Record) -> Result<(), String> {
    let key = std::str::from_utf8(&record.key).map_err(|error| error.to_string())?;
    let key: EntityKey = key.parse().map_err(|error| format!("key: {error}"))?;
    let value = record
        .value
        .as_deref()
        .map(serde_json::from_slice)
        .transpose();
    let after = value.map_err(|error| format!("value: {error}"))?;
    graph.set(key, after, record.number(HEADER_SEQ).unwrap_or(0));
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use wattle_model::{Carrier, NodeIndex};

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

    pub(crate) fn link(from: u64, to: u64, cost_us: Option<u32>) -> Entity {
        Entity::Link(LinkEntity {
            from: NodeId(from),
            to: NodeId(to),
            from_name: None,
            to_name: None,
            carrier: Carrier::Udp4,
            confirmed: true,
            cost_us,
            rtt_us: 1_500,
            jitter_us: 20,
            loss_ppm: 0,
        })
    }

    pub(crate) fn graph(entities: &[Entity]) -> Graph {
        let mut graph = Graph::default();
        for (seq, entity) in (1..).zip(entities) {
            graph.set(entity.key(), Some(entity.clone()), seq);
        }
        graph
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
}
