//! Aligned text: what is there, what became different, and a small map of who reaches whom.

use std::fmt::Write as _;

use super::{Scene, millis, state};
use crate::diff::{Because, Change, Diff, Fate};
use crate::graph::{Graph, is_usable};

/// Nodes of the largest [`matrix`]: three columns each, and the names before them, fill a terminal.
const MATRIX: usize = 24;

pub(super) fn draw(scene: &Scene) -> String {
    match &scene.diff {
        Some(diff) => differences(diff),
        None => tables(&scene.graph),
    }
}

fn tables(graph: &Graph) -> String {
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
            link.cost_us
                .map_or_else(|| "-".to_owned(), |cost| millis(cost.into())),
            millis(link.rtt_us),
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
    text.push('\n');
    let _ = writeln!(text, "{}", dated(graph.seq(), graph.ts()));
    text
}

fn dated(seq: u64, ts: Option<wattle_api::Timestamp>) -> String {
    match ts {
        Some(ts) => format!("as of event {seq}, {ts}"),
        None => format!("as of event {seq}"),
    }
}

fn differences(diff: &Diff) -> String {
    let rows = diff.changes.iter().map(|change| {
        vec![
            sign(change.fate).to_owned(),
            change.kind.as_str().to_owned(),
            change.label.clone(),
            what(change),
            why(&change.because),
        ]
    });
    let mut text = aligned(
        &["", "KIND", "WHAT", "DIFFERENCE", "CAUSES"],
        rows.collect(),
    );
    let count = |fate| {
        diff.changes
            .iter()
            .filter(|change| change.fate == fate)
            .count()
    };
    let _ = writeln!(
        text,
        "\n{} appeared, {} vanished, {} changed; {} changed and are as before",
        count(Fate::Appeared),
        count(Fate::Vanished),
        count(Fate::Changed),
        diff.unchanged.len()
    );
    let _ = writeln!(
        text,
        "from event {} to {}{}",
        diff.from_seq,
        diff.to_seq,
        match (diff.from, diff.to) {
            (Some(from), Some(to)) => format!(", {from} to {to}"),
            (Some(_), None) | (None, _) => String::new(),
        }
    );
    text
}

const fn sign(fate: Fate) -> &'static str {
    match fate {
        Fate::Appeared => "+",
        Fate::Vanished => "-",
        Fate::Changed => "~",
    }
}

fn what(change: &Change) -> String {
    let fields = change
        .fields
        .iter()
        .map(|field| format!("{} {} -> {}", field.field, field.before, field.after));
    match change.fate {
        Fate::Appeared => "appeared".to_owned(),
        Fate::Vanished => "vanished".to_owned(),
        Fate::Changed => printable(&fields.collect::<Vec<_>>().join(", ")),
    }
}

fn why(because: &Because) -> String {
    let causes = because.causes.iter().map(|(cause, count)| {
        let word = serde_json::to_value(cause).ok();
        let word = word.and_then(|word| word.as_str().map(str::to_owned));
        let word = word.unwrap_or_else(|| "unknown".to_owned());
        match count {
            1 => word,
            count => format!("{word} x{count}"),
        }
    });
    causes.collect::<Vec<_>>().join(", ")
}

/// Text that cannot steer a terminal.
fn printable(text: &str) -> String {
    let chars = text.chars();
    chars
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

/// A small map of who reaches whom: rows send, columns receive; `#` a link that can be used, `x` one that cannot,
/// `.` none. A network of more than 24 nodes is a line of counts.
pub fn matrix(graph: &Graph) -> String {
    let nodes: Vec<_> = graph.nodes().collect();
    let usable = graph.links().filter(|link| is_usable(link)).count();
    let links = graph.links().count();
    let reporting = nodes.iter().filter(|node| node.reporting).count();
    let counts = format!(
        "{reporting} of {} nodes report, {usable} of {links} links can be used\n",
        nodes.len()
    );
    if nodes.len() > MATRIX || nodes.is_empty() {
        return counts;
    }
    let width = nodes
        .iter()
        .map(|node| node.name.as_str().len())
        .max()
        .unwrap_or(0);
    let mut text = String::new();
    for (row, from) in nodes.iter().enumerate() {
        let cells = nodes.iter().enumerate().map(|(column, to)| {
            if row == column {
                return if from.reporting { " o" } else { " -" };
            }
            let mut between = graph
                .links()
                .filter(|link| (link.from, link.to) == (from.id, to.id))
                .peekable();
            match (between.peek().is_some(), between.any(is_usable)) {
                (false, _) => " .",
                (true, true) => " #",
                (true, false) => " x",
            }
        });
        let cells: String = cells.collect();
        let _ = writeln!(text, "{:width$} {cells}", from.name.as_str());
    }
    text + &counts
}

/// Columns under their headings, two blanks between them.
pub fn aligned(head: &[&str], rows: Vec<Vec<String>>) -> String {
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
    use super::super::Format;
    use super::super::tests::{changed, scene};
    use super::*;

    #[test]
    fn the_table_lists_nodes_and_both_directions() {
        assert_eq!(
            scene().draw(Format::Table).unwrap(),
            "NODE  ID                ADDRESSES  SITE  STATE\n\
             fra   0000000000000001  10.77.0.1  de    up\n\
             ber   0000000000000002  10.77.0.1  de    up\n\
             ams   0000000000000003  10.77.0.1  nl    up\n\
             roam  0000000000000004  10.77.0.1  -     up\n\
             \n\
             FROM  TO    CARRIER  STATE  COST      RTT      LOSS\n\
             fra   ber   udp4     up     0.70 ms   1.50 ms  0.0 %\n\
             fra   ams   udp4     up     5.00 ms   1.50 ms  0.0 %\n\
             fra   roam  udp4     up     12.00 ms  1.50 ms  0.0 %\n\
             ber   fra   udp4     up     0.90 ms   1.50 ms  0.0 %\n\
             ams   fra   udp4     down   -         1.50 ms  0.0 %\n\
             roam  fra   udp4     up     12.00 ms  1.50 ms  0.0 %\n\
             \n\
             PREFIX       NODE\n\
             10.1.0.0/16  ams\n\
             \n\
             as of event 11\n"
        );
    }

    #[test]
    fn differences_are_signed_and_have_their_causes() {
        let text = changed().draw(Format::Table).unwrap();
        for line in [
            "-  node    ams ",
            "+  node    osl ",
            "~  link    fra > ber udp4 ",
            "  cost_us 700 -> 1400  link_measured",
            "-  prefix  10.1.0.0/16 ",
            "1 appeared, 4 vanished, 1 changed; 0 changed and are as before",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn the_map_shows_who_reaches_whom() {
        assert_eq!(
            matrix(&scene().graph),
            "fra   o # # #\n\
             ber   # o . .\n\
             ams   x . o .\n\
             roam  # . . o\n\
             4 of 4 nodes report, 5 of 6 links can be used\n"
        );
        assert_eq!(
            matrix(&Graph::default()),
            "0 of 0 nodes report, 0 of 0 links can be used\n"
        );
    }
}
