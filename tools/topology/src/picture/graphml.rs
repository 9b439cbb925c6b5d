//! GraphML: for Gephi, yEd, networkx.

use std::fmt::Write as _;

use wattle_api::topology::{EntityKey, LinkEntity, NodeEntity};

use super::{Scene, escape, key_of};

/// Name, element and type of each attribute.
const KEYS: [(&str, &str, &str); 15] = [
    ("name", "node", "string"),
    ("site", "node", "string"),
    ("addresses", "node", "string"),
    ("prefixes", "node", "string"),
    ("reporting", "node", "boolean"),
    ("transit_cost_us", "node", "long"),
    ("agent_version", "node", "string"),
    ("change", "node", "string"),
    ("carrier", "edge", "string"),
    ("confirmed", "edge", "boolean"),
    ("cost_us", "edge", "long"),
    ("rtt_us", "edge", "long"),
    ("jitter_us", "edge", "long"),
    ("loss_ppm", "edge", "long"),
    ("change", "edge", "string"),
];

pub(super) fn draw(scene: &Scene) -> String {
    let mut text = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
                    <graphml xmlns=\"http://graphml.graphdrawing.org/xmlns\">\n"
        .to_owned();
    for (name, element, kind) in KEYS {
        let _ = writeln!(
            text,
            "  <key id=\"{element}_{name}\" for=\"{element}\" attr.name=\"{name}\" attr.type=\"{kind}\"/>"
        );
    }
    text += "  <graph id=\"wattle\" edgedefault=\"directed\">\n";
    for node in scene.graph.nodes() {
        let _ = writeln!(text, "    <node id=\"{}\">", node.id);
        data(&mut text, "node", of_node(scene, node));
        text += "    </node>\n";
    }
    // GraphML wants both ends of an edge to be there.
    let known = |node| scene.graph.node(node).is_some();
    let links = scene.graph.links();
    for link in links.filter(|link| known(link.from) && known(link.to)) {
        let key = escape::xml(&key_of(link).to_string());
        let _ = writeln!(
            text,
            "    <edge id=\"{key}\" source=\"{}\" target=\"{}\">",
            link.from, link.to
        );
        data(&mut text, "edge", of_link(scene, link));
        text += "    </edge>\n";
    }
    text + "  </graph>\n</graphml>\n"
}

type Data = Vec<(&'static str, Option<String>)>;

fn of_node(scene: &Scene, node: &NodeEntity) -> Data {
    let join = |items: Vec<String>| (!items.is_empty()).then(|| items.join(" "));
    let announced = scene.graph.prefixes();
    let announced = announced.filter(|prefix| prefix.origin == node.id);
    vec![
        ("name", Some(node.name.to_string())),
        ("site", node.site.as_ref().map(ToString::to_string)),
        (
            "addresses",
            join(node.addresses.iter().map(ToString::to_string).collect()),
        ),
        (
            "prefixes",
            join(announced.map(|prefix| prefix.prefix.to_string()).collect()),
        ),
        ("reporting", Some(node.reporting.to_string())),
        (
            "transit_cost_us",
            node.transit_cost_us.map(|cost| cost.to_string()),
        ),
        ("agent_version", node.agent_version.clone()),
        (
            "change",
            scene.word(EntityKey::Node(node.id)).map(str::to_owned),
        ),
    ]
}

fn of_link(scene: &Scene, link: &LinkEntity) -> Data {
    vec![
        ("carrier", Some(link.carrier.to_string())),
        ("confirmed", Some(link.confirmed.to_string())),
        ("cost_us", link.cost_us.map(|cost| cost.to_string())),
        ("rtt_us", Some(link.rtt_us.to_string())),
        ("jitter_us", Some(link.jitter_us.to_string())),
        ("loss_ppm", Some(link.loss_ppm.to_string())),
        ("change", scene.word(key_of(link)).map(str::to_owned)),
    ]
}

fn data(text: &mut String, element: &str, data: Data) {
    for (name, value) in data {
        if let Some(value) = value {
            let value = escape::xml(&value);
            let _ = writeln!(text, "      <data key=\"{element}_{name}\">{value}</data>");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Format;
    use super::super::tests::changed;
    use super::*;

    #[test]
    fn attributes_are_declared_and_hostile_text_stays_text() {
        let mut scene = changed();
        let mut node = scene.graph.find("fra").unwrap().clone();
        node.agent_version = Some("<v&\"1\">\u{1}".into());
        let key = EntityKey::Node(node.id);
        scene
            .graph
            .set(key, Some(wattle_api::topology::Entity::Node(node)), 0);
        let text = scene.draw(Format::GraphMl).unwrap();
        for line in [
            "<data key=\"node_agent_version\">&lt;v&amp;&quot;1&quot;&gt;\u{fffd}</data>",
            "<edge id=\"link:0000000000000001&gt;0000000000000002/udp4\" source=\"0000000000000001\"",
            "<data key=\"edge_change\">changed</data>",
            "<data key=\"node_prefixes\">10.1.0.0/16</data>",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        for used in text
            .lines()
            .filter_map(|line| line.trim().strip_prefix("<data key=\""))
        {
            let name = used.split('"').next().unwrap();
            assert!(text.contains(&format!("<key id=\"{name}\" ")), "{name}");
        }
    }
}
