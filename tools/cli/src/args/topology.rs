//! `wattle topology`: its verbs and their arguments.

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use clap::{Args, Subcommand};
use wattle_model::NodeName;
use wattle_topology::{Format, picture};

use super::CoordinatorArgs;

/// How moments are written, as the help shows it.
const MOMENTS: &str = "\
Moments: 2026-11-22T03:12:00Z, 2026-11-22T04:12+01:00, 03:12 (UTC, the last time it was that), -2h, -1d12h, now, \
#1042 (as event 1042 left it).";

/// Verbs of `topology`.
#[derive(Debug, Subcommand)]
pub(crate) enum TopologyVerb {
    /// Print events as they come, one JSON object per line with --json
    #[command(after_help = MOMENTS)]
    Tail(TailArgs),
    /// Print the topology as it is
    Show {
        #[command(flatten)]
        source: StreamArgs,
        #[command(flatten)]
        map: MapArgs,
    },
    /// Print the topology as it was
    #[command(after_help = MOMENTS)]
    At {
        /// When
        #[arg(value_name = "MOMENT", allow_hyphen_values = true)]
        moment: String,
        #[command(flatten)]
        source: StreamArgs,
        #[command(flatten)]
        map: MapArgs,
    },
    /// Print what became different between two moments, and why
    #[command(after_help = MOMENTS)]
    Diff {
        /// The earlier moment
        #[arg(value_name = "MOMENT", allow_hyphen_values = true)]
        from: String,
        /// The later one
        #[arg(
            value_name = "MOMENT",
            allow_hyphen_values = true,
            default_value = "now"
        )]
        to: String,
        #[command(flatten)]
        source: StreamArgs,
        #[command(flatten)]
        map: MapArgs,
    },
    /// Print the cheapest way between two nodes, with the cost of each link
    #[command(after_help = MOMENTS)]
    Path {
        /// Where it begins: a node's name or id, or an address
        #[arg(value_name = "FROM")]
        from: String,
        /// Where it ends
        #[arg(value_name = "TO")]
        to: String,
        /// Over the topology as it was then
        #[arg(
            long,
            value_name = "MOMENT",
            allow_hyphen_values = true,
            default_value = "now"
        )]
        at: String,
        #[command(flatten)]
        source: StreamArgs,
    },
    /// Play history: each event at its time, faster, or step by step, with a small map of who reaches whom
    #[command(after_help = MOMENTS)]
    Replay {
        /// Begin here
        #[arg(
            long,
            value_name = "MOMENT",
            allow_hyphen_values = true,
            default_value = "-1h"
        )]
        from: String,
        /// End here
        #[arg(
            long,
            value_name = "MOMENT",
            allow_hyphen_values = true,
            default_value = "now"
        )]
        to: String,
        /// So many times faster than it was; no pause is longer than two seconds
        #[arg(long, value_name = "FACTOR", default_value_t = 60.0, value_parser = positive)]
        speed: f64,
        /// Wait for the Enter key before each event; q ends
        #[arg(long, conflicts_with = "speed")]
        step: bool,
        #[command(flatten)]
        source: StreamArgs,
    },
    /// Count what happened: events by kind, cause and hour, links that flap, availability
    #[command(after_help = MOMENTS)]
    Stats {
        /// Begin here
        #[arg(
            long,
            value_name = "MOMENT",
            allow_hyphen_values = true,
            default_value = "-24h"
        )]
        from: String,
        /// End here
        #[arg(
            long,
            value_name = "MOMENT",
            allow_hyphen_values = true,
            default_value = "now"
        )]
        to: String,
        #[command(flatten)]
        source: StreamArgs,
    },
    /// Check that the stream in Kafka lost, doubled and reordered nothing, and that its state is what its events tell;
    /// exit with 5 otherwise
    Verify {
        #[command(flatten)]
        source: StreamArgs,
    },
}

/// Arguments of `topology tail`.
#[derive(Debug, Args)]
pub(crate) struct TailArgs {
    #[command(flatten)]
    pub(crate) source: StreamArgs,
    /// Begin with the oldest event that is kept, instead of the next one
    #[arg(long, group = "start")]
    pub(crate) from_start: bool,
    /// Begin with the first event after this moment
    #[arg(
        long,
        value_name = "MOMENT",
        allow_hyphen_values = true,
        group = "start"
    )]
    pub(crate) since: Option<String>,
    /// Begin with everything there is, between two marks: after the second one it is complete
    #[arg(long, group = "start")]
    pub(crate) snapshot: bool,
    /// Only events of these kinds: node, link, prefix
    #[arg(long, value_name = "KIND", value_parser = ["node", "link", "prefix"])]
    pub(crate) kind: Vec<String>,
    /// Only events of these sites
    #[arg(long, value_name = "SITE")]
    pub(crate) site: Vec<NodeName>,
    /// Stop after so many events
    #[arg(long, value_name = "N")]
    pub(crate) max: Option<u64>,
}

/// How a topology is drawn.
#[derive(Debug, Args)]
pub(crate) struct MapArgs {
    /// How to show it
    #[arg(long, default_value = "table", value_parser = format())]
    pub(crate) format: Format,
    /// Coordinates for GeoJSON: a TOML file with a table `sites.NAME` for each site, with latitude and longitude
    #[arg(long, value_name = "FILE")]
    pub(crate) sites: Option<PathBuf>,
}

/// Where the topology stream is read.
#[derive(Debug, Args)]
pub(crate) struct StreamArgs {
    /// Read from these Kafka brokers, which want no credentials
    #[arg(
        long,
        value_name = "HOST:PORT",
        conflicts_with = "coordinator",
        group = "brokers"
    )]
    pub(crate) kafka: Option<String>,
    /// Read from the Kafka brokers of the table `kafka` in this file, as coordinator.toml has it
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with = "coordinator",
        group = "brokers"
    )]
    pub(crate) kafka_config: Option<PathBuf>,
    /// What the topics' names begin with
    #[arg(long, value_name = "PREFIX", requires = "brokers")]
    pub(crate) prefix: Option<String>,
    #[command(flatten)]
    pub(crate) coordinator: CoordinatorArgs,
}

fn format() -> impl clap::builder::TypedValueParser<Value = Format> {
    let names = picture::FORMATS.map(|(name, _)| name);
    PossibleValuesParser::new(names).try_map(|name| name.parse::<Format>())
}

fn positive(text: &str) -> Result<f64, String> {
    let number = text
        .parse::<f64>()
        .ok()
        .filter(|number| *number > 0.0 && number.is_finite());
    number.ok_or_else(|| "it is a number above 0, such as 60 or 0.5".to_owned())
}
