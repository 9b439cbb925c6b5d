//! `wattle`: asks the agent on its local socket, the coordinator, or the topology stream, and shows the answers.
//!
//! A verb is a function from arguments to output; what it prints for people is made by a pure function over the
//! report that `--json` prints as it is. Decides nothing about the mesh. Reference: `docs/reference/cli.md`.

mod agent;
mod args;
mod coordinator;
mod failure;
mod graph;
mod human;
mod output;
mod pinned;
mod plan;
mod settings;
mod table;
mod verb;

use std::process::ExitCode;

use clap::Parser as _;

use crate::args::Cli;
use crate::output::Output;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut output = Output::to_stdout(cli.json);
    match verb::run(cli, &mut output) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads has enough, as with `wattle events | head`.
        Err(failure) if failure.is_broken_pipe() => ExitCode::SUCCESS,
        Err(failure) => {
            output.failure(&failure);
            ExitCode::from(failure.exit as u8)
        }
    }
}
