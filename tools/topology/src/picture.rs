//! Draws a [`Graph`] as text: a table, JSON, Graphviz, Mermaid. Pure.

use std::fmt::Write as _;
use std::str::FromStr;

use serde_json::json;
use wattle_api::topology::LinkEntity;

use crate::graph::Graph;

/// Name and version of the JSON document.
pub const SCHEMA: &str = "wattle.topology.graph/v1";

/// How to draw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Aligned text.
    Table,
    /// One document of [`SCHEMA`].
    Json,
    /// Graphviz.
    Dot,
    /// Mermaid, which Markdown viewers draw.
    Mermaid,
}

/// The names of the formats.
pub const FORMATS: [(&str, Format); 4] = [
    ("table", Format::Table),
    ("json", Format::Json),
    ("dot", Format::Dot),
    ("mermaid", Format::Mermaid),
];

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = FORMATS
            .iter()
            .find(|(name, _)| *name == text)
            .map(|(_, format)| *format);
        found.ok_or_else(|| format!("`{text}` is no format: table, json, dot or mermaid"))
    }
}

/// Draws the graph.
pub fn draw(graph: &Graph, format: Format) -> String {
    match format {
        Format::Table => table(graph),
        Format::Json => document(graph).to_string(),
        Format::Dot => dot(graph),
        Format::Mermaid => mermaid(graph),
    }
}

/// The graph as one JSON document.
pub fn document(graph: &Graph) -> serde_json::Value {
    json!({
        "schema": SCHEMA,
        "seq": graph.seq(),
        "nodes": graph.nodes().collect::<Vec<_>>(),
        "links": graph.links().collect::<Vec<_>>(),
        "prefixes": graph.prefixes().collect::<Vec<_>>(),
    })
}

fn table(graph: &Graph) -> String {
    let nodes = graph.nodes().map(|node| {
        let addresses: Vec<String> = node.addresses.iter().map(ToString::to_string).collect();
        vec![
            node.name.to_string(),
            node.id.to_string(),
            addresses.join(" "),
            node.site
                .as_ref()
                .map_or_else(|| "-".to_owned(), ToString::to_string),
            if node.reporting { "up" } else { "silent" }.to_owned(),
        ]
    });
    let links = graph.links().map(|link| {
        vec![
            graph.name(link.from),
            graph.name(link.to),
            link.carrier.to_string(),
            state(link).to_owned(),
            link.cost_us.map_or_else(|| "-".to_owned(), millis),
            millis(u32::try_from(link.rtt_us).unwrap_or(u32::MAX)),
            format!("{:.1} %", f64::from(link.loss_ppm) / 10_000.0),
        ]
    });
    let prefixes = graph
        .prefixes()
        .map(|prefix| vec![prefix.prefix.to_string(), graph.name(prefix.origin)]);
    let mut text = aligned(
        &["NODE", "ID", "ADDRESSES", "SITE", "STATE"],
        nodes.collect(),
    );
    text.push('\n');
    text += &aligned(
        &["FROM", "TO", "CARRIER", "STATE", "COST", "RTT", "LOSS"],
        links.collect(),
    );
    if graph.prefixes().next().is_some() {
        text.push('\n');
        text += &aligned(&["PREFIX", "NODE"], prefixes.collect());
    }
    let _ = writeln!(text, "\nas of event {}", graph.seq());
    text
}

fn dot(graph: &Graph) -> String {
    let mut text = "digraph wattle {\n  node [shape=box];\n".to_owned();
    for node in graph.nodes() {
        let style = if node.reporting { "" } else { ", style=dashed" };
        let _ = writeln!(text, "  \"{}\" [label=\"{}\"{style}];", node.id, node.name);
    }
    for link in graph.links() {
        let style = if link.cost_us.is_some() {
            ""
        } else {
            ", style=dashed, color=red"
        };
        let label = label(link);
        let _ = writeln!(
            text,
            "  \"{}\" -> \"{}\" [label=\"{label}\"{style}];",
            link.from, link.to
        );
    }
    text + "}\n"
}

fn mermaid(graph: &Graph) -> String {
    let mut text = "graph LR\n".to_owned();
    for node in graph.nodes() {
        let _ = writeln!(text, "  n{}[\"{}\"]", node.id, node.name);
    }
    for link in graph.links() {
        let arrow = if link.cost_us.is_some() {
            "-->"
        } else {
            "-.->"
        };
        let _ = writeln!(
            text,
            "  n{} {arrow}|\"{}\"| n{}",
            link.from,
            label(link),
            link.to
        );
    }
    text
}

fn label(link: &LinkEntity) -> String {
    match link.cost_us {
        Some(cost) => format!("{} {}", link.carrier, millis(cost)),
        None => format!("{} {}", link.carrier, state(link)),
    }
}

fn state(link: &LinkEntity) -> &'static str {
    match (link.cost_us, link.confirmed) {
        (Some(_), true) => "up",
        (Some(_), false) => "one-sided",
        (None, _) => "down",
    }
}

fn millis(us: u32) -> String {
    format!("{:.2} ms", f64::from(us) / 1_000.0)
}

fn aligned(head: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut lines = vec![
        head.iter()
            .map(|name| (*name).to_owned())
            .collect::<Vec<_>>(),
    ];
    lines.extend(rows);
    let width = |column: usize| {
        lines
            .iter()
            .map(|line| line[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        let cells = line
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"));
        let _ = writeln!(text, "{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::tests::{graph, link, node};

    fn pair() -> Graph {
        graph(&[
            node(1, "fra"),
            node(2, "ams"),
            link(1, 2, Some(700)),
            link(2, 1, None),
        ])
    }

    #[test]
    fn the_table_lists_nodes_and_both_directions() {
        assert_eq!(
            draw(&pair(), Format::Table),
            "NODE  ID                ADDRESSES  SITE  STATE\n\
             fra   0000000000000001  10.77.0.1  -     up\n\
             ams   0000000000000002  10.77.0.1  -     up\n\
             \n\
             FROM  TO   CARRIER  STATE  COST     RTT      LOSS\n\
             fra   ams  udp4     up     0.70 ms  1.50 ms  0.0 %\n\
             ams   fra  udp4     down   -        1.50 ms  0.0 %\n\
             \n\
             as of event 4\n"
        );
    }

    #[test]
    fn pictures_mark_what_cannot_be_used() {
        let dot = draw(&pair(), Format::Dot);
        assert!(
            dot.contains("\"0000000000000001\" -> \"0000000000000002\" [label=\"udp4 0.70 ms\"];"),
            "{dot}"
        );
        assert!(
            dot.contains("[label=\"udp4 down\", style=dashed, color=red];"),
            "{dot}"
        );
        let mermaid = draw(&pair(), Format::Mermaid);
        assert!(
            mermaid.contains("n0000000000000002 -.->|\"udp4 down\"| n0000000000000001"),
            "{mermaid}"
        );
    }

    #[test]
    fn json_names_its_schema() {
        let document = document(&pair());
        assert_eq!(document["schema"], SCHEMA);
        assert_eq!(document["links"].as_array().map(Vec::len), Some(2));
        assert!("svg".parse::<Format>().unwrap_err().contains("mermaid"));
    }
}
