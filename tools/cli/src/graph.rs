//! The mesh as a picture: Graphviz, Mermaid, SVG. The two directions of a link are one edge.

use std::collections::BTreeMap;

use wattle_control::{TopoLink, TopoReport};
use wattle_model::{Carrier, NodeId};

use crate::human::{clean, micros, or_unknown, percent};

/// A link of two nodes: the claims of its first end, then of its second.
struct Edge<'a> {
    ends: (usize, usize),
    carrier: Carrier,
    directions: Vec<&'a TopoLink>,
}

/// Nodes by position in the report; edges in the order of their ends.
fn edges(report: &TopoReport) -> Vec<Edge<'_>> {
    let place: BTreeMap<NodeId, usize> = report
        .nodes
        .iter()
        .enumerate()
        .map(|(at, node)| (node.node.id, at))
        .collect();
    let mut edges: BTreeMap<_, Vec<&TopoLink>> = BTreeMap::new();
    for link in &report.links {
        let (Some(&from), Some(&to)) = (place.get(&link.from.id), place.get(&link.to.id)) else {
            continue;
        };
        edges
            .entry((from.min(to), from.max(to), link.carrier))
            .or_default()
            .push(link);
    }
    let edges = edges.into_iter();
    edges
        .map(|((a, b, carrier), directions)| Edge {
            ends: (a, b),
            carrier,
            directions,
        })
        .collect()
}

impl Edge<'_> {
    fn is_usable(&self) -> bool {
        self.directions.iter().any(|link| link.cost_us.is_some())
    }

    /// Price and loss, of the worse direction.
    fn label(&self) -> String {
        if !self.is_usable() {
            return format!("{} down", self.carrier);
        }
        let cost = self.directions.iter().filter_map(|link| link.cost_us).max();
        let cost = or_unknown(cost, |cost| micros(cost.into()));
        match self
            .directions
            .iter()
            .filter_map(|link| link.loss_ppm)
            .max()
        {
            None | Some(0) => format!("{} {cost}", self.carrier),
            Some(loss) => format!("{} {cost} loss {}", self.carrier, percent(loss)),
        }
    }
}

/// For Graphviz: `wattle topo --format dot | dot -Tsvg`.
pub(crate) fn dot(report: &TopoReport) -> String {
    let mut text = "graph wattle {\n  node [shape=box, style=rounded];\n".to_owned();
    for (at, node) in report.nodes.iter().enumerate() {
        let address = node
            .addresses
            .first()
            .map(|a| format!("\\n{a}"))
            .unwrap_or_default();
        let style = match (node.is_self, node.reachable) {
            (true, _) => ", penwidth=2",
            (false, true) => "",
            (false, false) => ", color=red",
        };
        text += &format!(
            "  n{at} [label=\"{}{address}\"{style}];\n",
            quoted(&node.node.name)
        );
    }
    for edge in edges(report) {
        let style = if edge.is_usable() {
            ""
        } else {
            ", style=dashed"
        };
        let (a, b) = edge.ends;
        text += &format!("  n{a} -- n{b} [label=\"{}\"{style}];\n", edge.label());
    }
    text + "}\n"
}

fn quoted(name: &str) -> String {
    clean(name).replace('\\', "\\\\").replace('"', "\\\"")
}

/// For Markdown.
pub(crate) fn mermaid(report: &TopoReport) -> String {
    let mut text = "graph LR\n".to_owned();
    for (at, node) in report.nodes.iter().enumerate() {
        text += &format!(
            "  n{at}[\"{}\"]\n",
            clean(&node.node.name).replace('"', "#quot;")
        );
    }
    for edge in edges(report) {
        let line = if edge.is_usable() { "---" } else { "-.-" };
        let (a, b) = edge.ends;
        text += &format!("  n{a} {line}|\"{}\"| n{b}\n", edge.label());
    }
    text
}

const SIZE: f64 = 640.0;
const MARGIN: f64 = 70.0;

/// A picture on its own: nodes placed by springs, edges labelled with their price.
pub(crate) fn svg(report: &TopoReport) -> String {
    let edges = edges(report);
    let places = layout(report.nodes.len(), &edges);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {SIZE} {SIZE}\" \
         font-family=\"sans-serif\" font-size=\"12\" text-anchor=\"middle\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for edge in &edges {
        let ((x1, y1), (x2, y2)) = (places[edge.ends.0], places[edge.ends.1]);
        let style = if edge.is_usable() {
            "#555"
        } else {
            "#c22\" stroke-dasharray=\"4 4"
        };
        let (x, y) = (f64::midpoint(x1, x2), f64::midpoint(y1, y2) - 4.0);
        text += &format!(
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{style}\"/>\n\
             <text x=\"{x:.1}\" y=\"{y:.1}\" fill=\"#555\">{}</text>\n",
            edge.label()
        );
    }
    for (node, (x, y)) in report.nodes.iter().zip(&places) {
        let stroke = if node.reachable || node.is_self {
            "#286"
        } else {
            "#c22"
        };
        let width = if node.is_self { 3 } else { 1 };
        text += &format!(
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"22\" fill=\"#efe\" stroke=\"{stroke}\" \
             stroke-width=\"{width}\"/>\n<text x=\"{x:.1}\" y=\"{:.1}\">{}</text>\n",
            y + 4.0,
            escaped(&node.node.name)
        );
    }
    text + "</svg>\n"
}

fn escaped(name: &str) -> String {
    clean(name)
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

fn layout(count: usize, edges: &[Edge<'_>]) -> Vec<(f64, f64)> {
    let ends: Vec<_> = edges.iter().map(|edge| edge.ends).collect();
    wattle_topology::picture::layout::places(count, &ends, SIZE, MARGIN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verb::sample;

    #[test]
    fn graphviz_gets_one_edge_per_link_with_the_worse_price() {
        insta::assert_snapshot!(dot(&sample::topo()), @r#"
        graph wattle {
          node [shape=box, style=rounded];
          n0 [label="r1\n10.77.0.1", penwidth=2];
          n1 [label="r2\n10.77.0.2"];
          n2 [label="r3\n10.77.0.3", color=red];
          n0 -- n1 [label="udp4 13.1ms loss 3.0%"];
          n1 -- n2 [label="udp4 down", style=dashed];
        }
        "#);
    }

    #[test]
    fn mermaid_gets_the_same_edges() {
        insta::assert_snapshot!(mermaid(&sample::topo()), @r#"
        graph LR
          n0["r1"]
          n1["r2"]
          n2["r3"]
          n0 ---|"udp4 13.1ms loss 3.0%"| n1
          n1 -.-|"udp4 down"| n2
        "#);
    }

    #[test]
    fn a_picture_holds_every_node_inside_its_frame_apart_from_the_others() {
        let report = sample::topo();
        let places = layout(report.nodes.len(), &edges(&report));
        for (at, (x, y)) in places.iter().enumerate() {
            assert!((0.0..=SIZE).contains(x) && (0.0..=SIZE).contains(y));
            assert!(
                places[..at]
                    .iter()
                    .all(|(a, b)| f64::hypot(x - a, y - b) > 44.0)
            );
        }
        let picture = svg(&report);
        assert_eq!(picture.matches("<circle").count(), 3);
        assert_eq!(picture.matches("<line").count(), 2);
        assert_eq!(picture, svg(&report));
    }

    #[test]
    fn hostile_names_stay_inside_their_quotes() {
        let mut report = sample::topo();
        report.nodes[0].node.name = "a\"]; x<script>\u{1b}".into();
        assert!(dot(&report).contains("label=\"a\\\"]; x<script>\u{fffd}\\n10.77.0.1\""));
        assert!(!svg(&report).contains("<script>"));
        assert!(!mermaid(&report).contains("a\""));
    }

    #[test]
    fn an_empty_mesh_and_a_lonely_node_are_pictures_too() {
        let mut report = sample::topo();
        report.links.clear();
        report.nodes.truncate(1);
        assert!(svg(&report).contains("<circle"));
        report.nodes.clear();
        assert!(svg(&report).ends_with("</svg>\n"));
    }
}
