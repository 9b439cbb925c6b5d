//! `wattle nodes`: the members that the coordinator knows.

use schemars::JsonSchema;
use serde::Serialize;
use wattle_api::rest::Node;
use wattle_model::NodeId;

use crate::args::{CoordinatorArgs, NodesVerb};
use crate::coordinator::{Coordinator, block_on};
use crate::failure::{Exit, Failure, Outcome};
use crate::human::{clean, list, or_unknown};
use crate::output::Output;
use crate::table::{Columns, Mood, Side};
use crate::verb::answers;

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
            output.answer(answers::NODES, &nodes, |nodes| table(nodes, coloured))
        }
        NodesVerb::Remove {
            node,
            dry_run,
            coordinator,
        } => {
            let removed = block_on(remove(&node, dry_run, &coordinator))?;
            output.answer(answers::NODE_REMOVED, &removed, show_removed)
        }
    }
}

/// A node that was removed, or would be.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Removed {
    /// Its id.
    id: NodeId,
    /// Its name.
    name: String,
    /// Whether nothing was changed, by `--dry-run`.
    dry_run: bool,
}

async fn remove(node: &str, dry_run: bool, coordinator: &CoordinatorArgs) -> Outcome<Removed> {
    let mut coordinator = Coordinator::connect(coordinator).await?;
    let nodes: Vec<Node> = coordinator.list("/nodes").await?;
    let found = &find(&nodes, node)?.entity;
    if !dry_run {
        coordinator.delete(&format!("/nodes/{}", found.id)).await?;
    }
    Ok(Removed {
        id: found.id,
        name: found.name.to_string(),
        dry_run,
    })
}

fn show_removed(removed: &Removed) -> String {
    let Removed { id, name, dry_run } = removed;
    match dry_run {
        true => format!("would remove {name} ({id}) for good; nothing was changed"),
        false => format!("{name} is removed; every node is told to end its sessions with it"),
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
