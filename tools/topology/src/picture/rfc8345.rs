//! `ietf-network-topology` (RFC 8345) with the layer 3 attributes of RFC 8346, as JSON (RFC 7951): for controllers and
//! inventories that read YANG data.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use wattle_api::topology::{LinkEntity, NodeEntity};
use wattle_model::{Carrier, NodeId};

use super::{Scene, key_of};

/// What stands for the metric of a link that cannot be used.
const UNUSABLE: u32 = u32::MAX;

pub(super) fn draw(scene: &Scene) -> String {
    let graph = &scene.graph;
    let network = json!({
        "network-id": "wattle",
        "network-types": { "ietf-l3-unicast-topology:l3-unicast-topology": {} },
        "ietf-l3-unicast-topology:l3-topology-attributes": {
            "name": match graph.ts() {
                Some(ts) => format!("wattle as of event {}, {ts}", graph.seq()),
                None => format!("wattle as of event {}", graph.seq()),
            },
        },
        "node": graph.nodes().map(|entity| node(scene, entity)).collect::<Vec<_>>(),
        "ietf-network-topology:link": graph.links().filter(|link| {
            graph.node(link.from).is_some() && graph.node(link.to).is_some()
        }).map(link).collect::<Vec<_>>(),
    });
    let document = json!({ "ietf-network:networks": { "network": [network] } });
    document.to_string() + "\n"
}

fn node(scene: &Scene, node: &NodeEntity) -> Value {
    let addresses = node.addresses.iter().map(|address| {
        let length = if address.is_ipv4() { 32 } else { 128 };
        format!("{address}/{length}")
    });
    let announced = scene.graph.prefixes();
    let announced = announced.filter(|prefix| prefix.origin == node.id);
    let prefixes: BTreeSet<String> = addresses
        .chain(announced.map(|prefix| prefix.prefix.to_string()))
        .collect();
    let prefixes: Vec<Value> = prefixes
        .into_iter()
        .map(|prefix| json!({ "prefix": prefix }))
        .collect();
    let points: Vec<Value> = points(scene, node.id)
        .into_iter()
        .map(|(neighbour, carrier)| json!({ "tp-id": point(neighbour, carrier) }))
        .collect();
    json!({
        "node-id": node.id.to_string(),
        "ietf-network-topology:termination-point": points,
        "ietf-l3-unicast-topology:l3-node-attributes": {
            "name": node.name,
            "prefix": prefixes,
        },
    })
}

/// Every link ends in a termination point of its own at each node, shared by its two directions.
fn points(scene: &Scene, node: NodeId) -> BTreeSet<(NodeId, Carrier)> {
    let ends = scene.graph.links().filter_map(|link| {
        if link.from == node {
            Some((link.to, link.carrier))
        } else if link.to == node {
            Some((link.from, link.carrier))
        } else {
            None
        }
    });
    ends.collect()
}

fn point(neighbour: NodeId, carrier: Carrier) -> String {
    format!("{neighbour}/{carrier}")
}

fn link(link: &LinkEntity) -> Value {
    let metric = link.cost_us.filter(|_| link.confirmed).unwrap_or(UNUSABLE);
    json!({
        "link-id": key_of(link).to_string(),
        "source": {
            "source-node": link.from.to_string(),
            "source-tp": point(link.to, link.carrier),
        },
        "destination": {
            "dest-node": link.to.to_string(),
            "dest-tp": point(link.from, link.carrier),
        },
        "ietf-l3-unicast-topology:l3-link-attributes": { "metric1": metric.to_string() },
    })
}

#[cfg(test)]
mod tests {
    use super::super::Format;
    use super::super::tests::scene;
    use super::*;

    #[test]
    fn every_link_ends_in_points_that_its_nodes_have() {
        let text = scene().draw(Format::Rfc8345).unwrap();
        let document: Value = serde_json::from_str(&text).unwrap();
        let network = &document["ietf-network:networks"]["network"][0];
        let mut known = BTreeSet::new();
        for node in network["node"].as_array().unwrap() {
            for point in node["ietf-network-topology:termination-point"]
                .as_array()
                .unwrap()
            {
                known.insert((
                    node["node-id"].as_str().unwrap(),
                    point["tp-id"].as_str().unwrap(),
                ));
            }
        }
        let links = network["ietf-network-topology:link"].as_array().unwrap();
        assert_eq!(links.len(), 6);
        for link in links {
            let end = |side: &str, node: &str, point: &str| {
                (
                    link[side][node].as_str().unwrap().to_owned(),
                    link[side][point].as_str().unwrap().to_owned(),
                )
            };
            for (node, point) in [
                end("source", "source-node", "source-tp"),
                end("destination", "dest-node", "dest-tp"),
            ] {
                assert!(
                    known.contains(&(node.as_str(), point.as_str())),
                    "{node} {point}"
                );
            }
        }
        let down = links
            .iter()
            .find(|link| link["link-id"] == "link:0000000000000003>0000000000000001/udp4");
        assert_eq!(
            down.unwrap()["ietf-l3-unicast-topology:l3-link-attributes"]["metric1"],
            UNUSABLE.to_string()
        );
    }
}
