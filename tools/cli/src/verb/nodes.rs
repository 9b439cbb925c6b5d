//! `wattle nodes`: the members that the coordinator knows.

use wattle_api::rest::Node;

use crate::args::NodesVerb;
use crate::coordinator::{Coordinator, block_on};
use crate::failure::{Exit, Failure, Outcome};
use crate::human::{clean, list, or_unknown};
use crate::output::Output;
use crate::table::{Columns, Mood, Side};

const HEADINGS: [(&str, Side); 8] = [
    ("NAME", Side::Left),
    ("ID", Side::Left),
    ("ADDRESSES", Side::Left),
    ("PREFIXES", Side::Left),
    ("CONNECTED", Side::Left),
    ("REVISION", Side::Right),
    ("JOINED", Side::Left),
    ("SEEN", Side::Left),
];

/// Shows or removes nodes.
pub(crate) fn run(verb: NodesVerb, output: &mut Output) -> Outcome {
    match verb {
        NodesVerb::List { coordinator } => {
            let nodes: Vec<Node> = block_on(async {
                Coordinator::connect(&coordinator)
                    .await?
                    .list("/nodes")
                    .await
            })?;
            let coloured = output.is_coloured();
            output.answer("nodes", &nodes, |nodes| table(nodes, coloured))
        }
        NodesVerb::Remove { node, coordinator } => {
            let removed = block_on(async {
                let mut coordinator = Coordinator::connect(&coordinator).await?;
                let nodes: Vec<Node> = coordinator.list("/nodes").await?;
                let found = find(&nodes, &node)?;
                coordinator
                    .delete(&format!("/nodes/{}", found.entity.id))
                    .await?;
                Ok(found.entity.name.to_string())
            })?;
            output.answer("node_removed", &removed, |name| {
                format!("{name} is removed; every node is told to end its sessions with it")
            })
        }
    }
}

fn find<'a>(nodes: &'a [Node], wanted: &str) -> Outcome<&'a Node> {
    let matches =
        |node: &&Node| node.entity.name.as_str() == wanted || node.entity.id.to_string() == wanted;
    nodes.iter().find(matches).ok_or_else(|| {
        let what = format!("no node `{}`", clean(wanted));
        Failure::new(
            Exit::NotFound,
            what,
            "the coordinator has none of this name or id",
            "wattle nodes list",
        )
    })
}

fn table(nodes: &[Node], coloured: bool) -> String {
    let mut table = Columns::new(coloured, &HEADINGS);
    for node in nodes {
        let (connected, mood) = match (node.entity.leaf_of, node.connected) {
            (Some(_), _) => ("leaf", Mood::Good),
            (None, true) => ("yes", Mood::Good),
            (None, false) => ("no", Mood::Odd),
        };
        let cells = vec![
            node.entity.name.to_string(),
            node.entity.id.to_string(),
            list(&node.entity.addresses),
            list(&node.prefixes),
            connected.to_owned(),
            node.acked_revision.to_string(),
            node.joined_at.to_string(),
            or_unknown(node.last_seen_at, |at| at.to_string()),
        ];
        table.row(cells, Some((4, mood)));
    }
    table.finish()
}
