//! Graphviz: sites as clusters, each direction of a link an edge.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use wattle_api::topology::{EntityKey, NodeEntity};
use wattle_model::NodeName;

use super::{Scene, colour, escape, key_of, label};
use crate::graph::is_usable;

pub(super) fn draw(scene: &Scene) -> String {
    let mut text = "digraph wattle {\n  node [shape=box];\n".to_owned();
    let mut sites: BTreeMap<Option<&str>, Vec<&NodeEntity>> = BTreeMap::new();
    for node in scene.graph.nodes() {
        let site = node.site.as_ref().map(NodeName::as_str);
        sites.entry(site).or_default().push(node);
    }
    for (site, nodes) in sites {
        let indent = if let Some(site) = site {
            let site = escape::dot(site);
            let _ = writeln!(
                text,
                "  subgraph \"cluster_{site}\" {{\n    label=\"{site}\";"
            );
            "    "
        } else {
            "  "
        };
        for node in nodes {
            let style = style(scene, EntityKey::Node(node.id), node.reporting);
            let name = escape::dot(node.name.as_str());
            let _ = writeln!(text, "{indent}\"{}\" [label=\"{name}\"{style}];", node.id);
        }
        if site.is_some() {
            text += "  }\n";
        }
    }
    for link in scene.graph.links() {
        let style = style(scene, key_of(link), is_usable(link));
        let label = escape::dot(&label(link));
        let _ = writeln!(
            text,
            "  \"{}\" -> \"{}\" [label=\"{label}\"{style}];",
            link.from, link.to
        );
    }
    text + "}\n"
}

fn style(scene: &Scene, key: EntityKey, good: bool) -> String {
    let colour = scene.fate(key).map(colour);
    let colour = colour.or((!good).then_some("red"));
    let colour = colour.map(|colour| format!(", color=\"{colour}\", fontcolor=\"{colour}\""));
    let dashed = if good { "" } else { ", style=dashed" };
    format!("{dashed}{}", colour.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::super::Format;
    use super::super::tests::{changed, scene};

    #[test]
    fn pictures_mark_what_cannot_be_used_and_what_changed() {
        let dot = scene().draw(Format::Dot).unwrap();
        for line in [
            "subgraph \"cluster_de\" {",
            "\"0000000000000001\" -> \"0000000000000002\" [label=\"udp4 0.70 ms\"];",
            "[label=\"udp4 down\", style=dashed, color=\"red\", fontcolor=\"red\"];",
        ] {
            assert!(dot.contains(line), "{line} is not in\n{dot}");
        }
        let dot = changed().draw(Format::Dot).unwrap();
        for line in [
            "[label=\"ams\", color=\"#cf222e\", fontcolor=\"#cf222e\"];",
            "[label=\"osl\", color=\"#1a7f37\", fontcolor=\"#1a7f37\"];",
            "[label=\"udp4 1.40 ms\", color=\"#bc6c00\", fontcolor=\"#bc6c00\"];",
        ] {
            assert!(dot.contains(line), "{line} is not in\n{dot}");
        }
    }
}
