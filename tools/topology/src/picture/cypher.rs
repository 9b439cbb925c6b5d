//! Cypher statements that bring a graph database (Neo4j and its like) to this picture. Run again they change nothing.
//! Of a diff only the changes are stated; what vanished is deleted. A node to which others still report links stays as
//! their end, without a name, as it is merged where only a link names it.

use std::fmt::Write as _;

use wattle_api::topology::{Entity, EntityKey};

use super::{Scene, escape::cypher, state};
use crate::diff::Fate;

pub(super) fn draw(scene: &Scene) -> String {
    let mut text =
        "CREATE CONSTRAINT wattle_node IF NOT EXISTS FOR (n:WattleNode) REQUIRE n.id IS UNIQUE;\n"
            .to_owned();
    let wanted = |key| scene.diff.is_none() || scene.fate(key).is_some();
    let mut deletes = false;
    // Nodes come first among the keys, so links find their ends.
    for (key, entity) in scene.graph.entities().filter(|(key, _)| wanted(**key)) {
        let vanished = scene.fate(*key) == Some(Fate::Vanished);
        let statement = if vanished {
            delete(*key)
        } else {
            merge(entity)
        };
        deletes |= vanished;
        let _ = writeln!(text, "{statement}");
    }
    if deletes {
        text.push_str("MATCH (n:WattleNode) WHERE n.name IS NULL AND NOT (n)--() DELETE n;\n");
    }
    text
}

fn merge(entity: &Entity) -> String {
    match entity {
        Entity::Node(node) => {
            let addresses = node
                .addresses
                .iter()
                .map(|address| cypher(&address.to_string()));
            format!(
                "MERGE (n:WattleNode {{id: {}}}) SET n.name = {}, n.site = {}, n.addresses = [{}], n.reporting = {}, \
                 n.transit_cost_us = {}, n.agent_version = {};",
                cypher(&node.id.to_string()),
                cypher(node.name.as_str()),
                text(node.site.as_ref().map(wattle_model::NodeName::as_str)),
                addresses.collect::<Vec<_>>().join(", "),
                node.reporting,
                number(node.transit_cost_us),
                text(node.agent_version.as_deref()),
            )
        }
        Entity::Link(link) => format!(
            "MERGE (a:WattleNode {{id: {}}}) MERGE (b:WattleNode {{id: {}}}) \
             MERGE (a)-[l:LINK {{key: {}}}]->(b) SET l.carrier = {}, l.state = {}, l.cost_us = {}, l.rtt_us = {}, \
             l.jitter_us = {}, l.loss_ppm = {};",
            cypher(&link.from.to_string()),
            cypher(&link.to.to_string()),
            cypher(&entity.key().to_string()),
            cypher(&link.carrier.to_string()),
            cypher(state(link)),
            number(link.cost_us),
            link.rtt_us,
            link.jitter_us,
            link.loss_ppm,
        ),
        Entity::Prefix(prefix) => format!(
            "MERGE (n:WattleNode {{id: {}}}) MERGE (p:WattlePrefix {{prefix: {}}}) MERGE (n)-[:ANNOUNCES]->(p) \
             WITH n, p MATCH (other)-[r:ANNOUNCES]->(p) WHERE other <> n DELETE r;",
            cypher(&prefix.origin.to_string()),
            cypher(&prefix.prefix.to_string()),
        ),
    }
}

fn delete(key: EntityKey) -> String {
    match key {
        EntityKey::Node(node) => {
            let id = cypher(&node.to_string());
            format!("MATCH (n:WattleNode {{id: {id}}}) SET n = {{id: {id}}};")
        }
        EntityKey::Link(..) => format!(
            "MATCH ()-[l:LINK {{key: {}}}]->() DELETE l;",
            cypher(&key.to_string())
        ),
        EntityKey::Prefix(prefix) => format!(
            "MATCH (p:WattlePrefix {{prefix: {}}}) DETACH DELETE p;",
            cypher(&prefix.to_string())
        ),
    }
}

fn text(value: Option<&str>) -> String {
    value.map_or_else(|| "null".to_owned(), cypher)
}

fn number(value: Option<u32>) -> String {
    value.map_or_else(|| "null".to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::Format;
    use super::super::tests::{changed, scene};

    #[test]
    fn a_graph_is_merged_and_a_diff_deletes_what_vanished() {
        let text = scene().draw(Format::Cypher).unwrap();
        assert_eq!(text.lines().count(), 12);
        assert!(
            text.contains(
                "MERGE (n:WattleNode {id: '0000000000000001'}) SET n.name = 'fra', n.site = 'de'"
            ),
            "{text}"
        );
        let text = changed().draw(Format::Cypher).unwrap();
        assert_eq!(text.lines().count(), 8);
        for line in [
            "MATCH (n:WattleNode {id: '0000000000000003'}) SET n = {id: '0000000000000003'};",
            "MATCH (n:WattleNode) WHERE n.name IS NULL AND NOT (n)--() DELETE n;",
            "MATCH ()-[l:LINK {key: 'link:0000000000000001>0000000000000003/udp4'}]->() DELETE l;",
            "MATCH (p:WattlePrefix {prefix: '10.1.0.0/16'}) DETACH DELETE p;",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
