//! `wattle-spf` measures shortest paths, changes of them, and what backups cover.
//!
//! ```text
//!     wattle-spf paths NODES DEGREE SEED RUNS    full runs of ours, of petgraph and of a binary heap in turn; changes of one link
//!     wattle-spf backups FOLDER                  every failure of every map in a folder
//! ```
//!
//! It ends with one line of JSON; progress is on stderr. Every variant's distances are compared before anything is measured.

mod paths;
mod rivals;

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use wattle_routing::Routes;
use wattle_sim::aftermath::{self, Coverage};
use wattle_sim::{Atlas, Chart};

const USAGE: &str =
    "usage: wattle-spf paths NODES DEGREE SEED RUNS\n       wattle-spf backups FOLDER";

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let line = match words[..] {
        ["paths", nodes, degree, seed, runs] => paths::measure(&paths::Order {
            nodes: number("NODES", nodes)?,
            degree: number("DEGREE", degree)?,
            seed: number("SEED", seed)?,
            runs: number("RUNS", runs)?,
        })?,
        ["backups", folder] => backups(&Atlas::read(Path::new(folder))?),
        _ => bail!(USAGE),
    };
    say(&line.to_string());
    Ok(())
}

fn number<T>(what: &str, text: &str) -> Result<T>
where
    T: std::str::FromStr,
    T::Err: std::error::Error + Send + Sync + 'static,
{
    text.parse()
        .with_context(|| format!("{what} cannot be {text}"))
}

#[expect(clippy::print_stdout, reason = "the answer is a line on stdout")]
fn say(line: &str) {
    println!("{line}");
}

/// Breaks everything in every map, each by itself.
fn backups(atlas: &Atlas) -> serde_json::Value {
    let mut total = Coverage::default();
    let mut least = serde_json::Map::new();
    for (at, chart) in atlas.charts.iter().enumerate() {
        let coverage = one(chart);
        eprintln!(
            "{} of {}: {} {coverage:?}",
            at + 1,
            atlas.charts.len(),
            chart.name
        );
        total.add(&coverage);
        if coverage.arrive < coverage.affected {
            let percent = 100.0 * coverage.arrive as f64 / coverage.affected as f64;
            least.insert(chart.name.clone(), percent.into());
        }
    }
    serde_json::json!({
        "maps": atlas.charts.len(),
        "affected": total.affected,
        "arrive": total.arrive,
        "far": total.far,
        "loops": total.loops,
        "below": least,
    })
}

fn one(chart: &Chart) -> Coverage {
    let graph = chart.graph();
    let nobody = Routes::default();
    let nodes = graph.vertices().map(|vertex| graph.node(vertex));
    let routes: Vec<_> = nodes
        .map(|node| Arc::new(Routes::in_graph(&graph, node, &nobody)))
        .collect();
    aftermath::coverage(&graph, &routes)
}
