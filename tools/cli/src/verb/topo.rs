//! `wattle topo`: the mesh as this node knows it.

use std::path::Path;

use wattle_control::{TopoLink, TopoNode, TopoReport};

use crate::args::TopoFormat;
use crate::failure::Outcome;
use crate::human::{list, micros, or_unknown, percent};
use crate::output::Output;
use crate::table::{Columns, Mood, Side};
use crate::verb::answers;
use crate::{agent, graph};

const NODES: [(&str, Side); 6] = [
    ("NODE", Side::Left),
    ("ADDRESSES", Side::Left),
    ("PREFIXES", Side::Left),
    ("SITE", Side::Left),
    ("REACHABLE", Side::Left),
    ("COST", Side::Right),
];

const LINKS: [(&str, Side); 7] = [
    ("FROM", Side::Left),
    ("TO", Side::Left),
    ("CARRIER", Side::Left),
    ("COST", Side::Right),
    ("RTT", Side::Right),
    ("JITTER", Side::Right),
    ("LOSS", Side::Right),
];

/// Shows the mesh.
pub(crate) fn run(socket: &Path, format: TopoFormat, output: &mut Output) -> Outcome {
    if format == TopoFormat::Json {
        output.switch_to_json();
    }
    let report = agent::connect(socket, output)?.topo()?;
    let coloured = output.is_coloured();
    output.answer(answers::TOPO, &report, |report| match format {
        TopoFormat::Table | TopoFormat::Json => tables(report, coloured),
        TopoFormat::Dot => graph::dot(report),
        TopoFormat::Mermaid => graph::mermaid(report),
        TopoFormat::Svg => graph::svg(report),
    })
}

fn tables(report: &TopoReport, coloured: bool) -> String {
    let mut nodes = Columns::new(coloured, &NODES);
    for node in &report.nodes {
        let mood = if node.reachable {
            Mood::Good
        } else {
            Mood::Bad
        };
        nodes.row(node_cells(node), Some((4, mood)));
    }
    let mut links = Columns::new(coloured, &LINKS);
    for link in &report.links {
        links.row(link_cells(link), None);
    }
    nodes.finish() + "\n" + &links.finish()
}

fn node_cells(node: &TopoNode) -> Vec<String> {
    let reachable = match (node.is_self, node.reachable) {
        (true, _) => "self",
        (false, true) => "yes",
        (false, false) => "no",
    };
    vec![
        node.node.name.clone(),
        list(&node.addresses),
        list(&node.prefixes),
        or_unknown(node.site.clone(), |site| site),
        reachable.to_owned(),
        or_unknown(node.cost_us, |cost| micros(cost.into())),
    ]
}

fn link_cells(link: &TopoLink) -> Vec<String> {
    vec![
        link.from.name.clone(),
        link.to.name.clone(),
        link.carrier.to_string(),
        or_unknown(link.cost_us, |cost| micros(cost.into())),
        or_unknown(link.rtt_us, micros),
        or_unknown(link.jitter_us, micros),
        or_unknown(link.loss_ppm, percent),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verb::sample;

    #[test]
    fn nodes_and_both_directions_of_every_link() {
        insta::assert_snapshot!(tables(&sample::topo(), false), @"
        NODE  ADDRESSES  PREFIXES  SITE  REACHABLE    COST
        r1    10.77.0.1  -         -     self          0us
        r2    10.77.0.2  -         fra1  yes        13.1ms
        r3    10.77.0.3  -         -     no              -

        FROM  TO  CARRIER    COST     RTT  JITTER  LOSS
        r1    r2  udp4     13.1ms  24.2ms   300us  3.0%
        r2    r1  udp4     12.5ms  24.2ms   300us    0%
        r2    r3  udp4          -  24.2ms   300us  100%
        r3    r2  udp4          -  24.2ms   300us    0%
        ");
    }
}
