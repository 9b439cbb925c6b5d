//! `wattle topology`: the network as it is, as it was, and what happened to it, from Kafka or from the coordinator.

mod line;
mod past;
mod replay;
mod source;
mod stats;
mod tail;
mod verify;
mod view;

pub(super) use tail::{Mark, Told};
pub(super) use view::Way;

use crate::args::TopologyVerb;
use crate::coordinator::block_on;
use crate::failure::Outcome;
use crate::output::Output;

/// Reads the stream.
pub(crate) fn run(verb: TopologyVerb, output: &mut Output) -> Outcome {
    block_on(async {
        match verb {
            TopologyVerb::Tail(args) => tail::run(&args, output).await,
            TopologyVerb::Show { source, map } => view::show(&source, &map, output).await,
            TopologyVerb::At {
                moment,
                source,
                map,
            } => view::at(&moment, &source, &map, output).await,
            TopologyVerb::Diff {
                from,
                to,
                source,
                map,
            } => view::diff(&from, &to, &source, &map, output).await,
            TopologyVerb::Path {
                from,
                to,
                at,
                source,
            } => view::path((&from, &to), &at, &source, output).await,
            TopologyVerb::Replay {
                from,
                to,
                speed,
                step,
                source,
            } => {
                let pace = if step {
                    replay::Pace::Step
                } else {
                    replay::Pace::Speed(speed)
                };
                replay::run((&from, &to), pace, &source, output).await
            }
            TopologyVerb::Stats { from, to, source } => {
                stats::run((&from, &to), &source, output).await
            }
            TopologyVerb::Verify { source } => verify::run(&source, output).await,
        }
    })
}
