//! Mermaid: for Markdown viewers. Each direction of a link is an arrow.

use std::fmt::Write as _;

use wattle_api::topology::EntityKey;

use super::{Scene, colour, escape, key_of, label};
use crate::graph::is_usable;

pub(super) fn draw(scene: &Scene) -> String {
    let mut text = "graph LR\n".to_owned();
    for node in scene.graph.nodes() {
        let name = escape::mermaid(node.name.as_str());
        let _ = writeln!(text, "  n{}[\"{name}\"]", node.id);
    }
    let known = |node| scene.graph.node(node).is_some();
    let links = scene.graph.links();
    let links = links.filter(|link| known(link.from) && known(link.to));
    let mut styles = String::new();
    for (at, link) in links.enumerate() {
        let arrow = if is_usable(link) { "-->" } else { "-.->" };
        let label = escape::mermaid(&label(link));
        let _ = writeln!(text, "  n{} {arrow}|\"{label}\"| n{}", link.from, link.to);
        if let Some(fate) = scene.fate(key_of(link)) {
            let _ = writeln!(styles, "  linkStyle {at} stroke:{}", colour(fate));
        }
    }
    for node in scene.graph.nodes() {
        if let Some(fate) = scene.fate(EntityKey::Node(node.id)) {
            let _ = writeln!(styles, "  style n{} stroke:{}", node.id, colour(fate));
        }
    }
    text + &styles
}

#[cfg(test)]
mod tests {
    use super::super::Format;
    use super::super::tests::{changed, scene};

    #[test]
    fn arrows_and_styles_are_those_of_mermaid() {
        let text = scene().draw(Format::Mermaid).unwrap();
        assert!(
            text.contains("  n0000000000000003 -.->|\"udp4 down\"| n0000000000000001\n"),
            "{text}"
        );
        let text = changed().draw(Format::Mermaid).unwrap();
        assert!(text.contains("  linkStyle 0 stroke:#bc6c00\n"), "{text}");
        assert!(
            text.contains("  style n0000000000000005 stroke:#1a7f37\n"),
            "{text}"
        );
    }
}
