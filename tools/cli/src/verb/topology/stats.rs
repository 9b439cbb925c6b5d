//! `stats`: what happened between two moments, counted.

use serde::Serialize;
use wattle_topology::picture::aligned;
use wattle_topology::{Counter, Share, Stats};

use super::line::word;
use super::past::{Past, span, time_of};
use crate::args::StreamArgs;
use crate::failure::Outcome;
use crate::human::clean;
use crate::output::{Output, wall_clock};
use crate::verb::answers;

pub(super) async fn run(given: (&str, &str), source: &StreamArgs, output: &mut Output) -> Outcome {
    let (from, to) = span(given)?;
    let mut past = Past::open(source).await?;
    let graph = past.at(from).await?;
    let begins = time_of(from, &graph);
    let mut events = past.events(&graph, from).await?;
    let mut counter = Counter::new(graph, begins);
    while let Some(event) = events.next_until(to).await? {
        counter.take(&event);
    }
    let stats = counter.finish(to.time().unwrap_or_else(wall_clock));
    output.answer(answers::TOPOLOGY_STATS, &stats, text)
}

fn text(stats: &Stats) -> String {
    let mut text = format!("{} to {}: {} events", stats.from, stats.to, stats.events);
    if stats.coalesced > 0 {
        text += &format!(", which stand for {} more measurements", stats.coalesced);
    }
    text.push('\n');
    let mut section = |title: &str, table: String| {
        text += &format!("\n{title}\n{table}");
    };
    let counts = |rows: Vec<(String, u64)>| {
        let rows = rows
            .into_iter()
            .map(|(word, count)| vec![word, count.to_string()]);
        rows.collect::<Vec<_>>()
    };
    section(
        "By kind, operation and cause",
        aligned(
            &["WHAT", "EVENTS"],
            counts([words(&stats.kinds), ops(stats), words(&stats.causes)].concat()),
        ),
    );
    if !stats.hours.is_empty() {
        let hours = stats
            .hours
            .iter()
            .map(|hour| (hour.begins.to_string(), hour.events));
        section(
            "By hour",
            aligned(&["HOUR BEGINS", "EVENTS"], counts(hours.collect())),
        );
    }
    for (title, shares) in [
        ("Links that flap", &stats.flappiest),
        (
            "Links that could be used least",
            &stats.least_available_links,
        ),
        ("Nodes that reported least", &stats.least_available_nodes),
    ] {
        if !shares.is_empty() {
            section(title, table(shares));
        }
    }
    let percent = |share: Option<f64>| share.map_or_else(|| "-".to_owned(), percent);
    text + &format!(
        "\navailability: links {}, nodes {}\n",
        percent(stats.link_availability),
        percent(stats.node_availability)
    )
}

fn words<T: Serialize>(counts: &std::collections::BTreeMap<T, u64>) -> Vec<(String, u64)> {
    counts
        .iter()
        .map(|(key, count)| (word(key), *count))
        .collect()
}

fn ops(stats: &Stats) -> Vec<(String, u64)> {
    let ops = stats.ops.iter();
    ops.map(|(op, count)| (super::line::deed(*op).to_owned(), *count))
        .collect()
}

fn table(shares: &[Share]) -> String {
    let rows = shares.iter().map(|share| {
        vec![
            clean(&share.label),
            share.flaps.to_string(),
            share.events.to_string(),
            percent(share.availability),
        ]
    });
    aligned(&["WHAT", "FLAPS", "EVENTS", "AVAILABLE"], rows.collect())
}

fn percent(share: f64) -> String {
    format!("{:.3} %", share * 100.0)
}

#[cfg(test)]
mod tests {
    use wattle_api::Timestamp;
    use wattle_topology::Graph;

    use super::*;

    #[test]
    fn a_quiet_span_is_said_in_few_lines() {
        let at = Timestamp::from_millis(1_795_385_280_000);
        let stats = Counter::new(Graph::default(), at).finish(at);
        assert_eq!(
            text(&stats),
            "2026-11-22T22:08:00.000Z to 2026-11-22T22:08:00.000Z: 0 events\n\n\
             By kind, operation and cause\nWHAT  EVENTS\n\navailability: links -, nodes -\n"
        );
    }
}
