//! Tasks of the workspace: man pages, completions, Debian packages. Run as `cargo xtask TASK`.
//!
//! Knows where things lie in the repository and which programs to call; what the programs print is theirs.

mod command;
mod deb;
mod manual;
mod stage;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

/// Tasks of the workspace.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", version)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Write the manual's pages
    Man(Output),
    /// Write the completion scripts for bash, zsh and fish
    Completions(Output),
    /// Build the Debian packages of the agent with its command line, and of the coordinator
    Package {
        /// Where the packages are put
        #[arg(long, value_name = "DIR", default_value = "dist")]
        output: PathBuf,
        /// Package these programs instead of building them
        #[arg(long, value_name = "DIR")]
        programs: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
struct Output {
    /// Where they are put
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Ask the `wattle` there instead of building it
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
}

fn main() -> ExitCode {
    let Cli { task } = Cli::parse();
    let outcome = match task {
        Task::Man(args) => programs(args.programs, &["wattle-cli"])
            .and_then(|programs| manual::pages(&programs.join("wattle"), &args.output)),
        Task::Completions(args) => programs(args.programs, &["wattle-cli"])
            .and_then(|programs| manual::completions(&programs.join("wattle"), &args.output)),
        Task::Package {
            output,
            programs: given,
        } => programs(given, &deb::CRATES).and_then(|programs| deb::build_all(&programs, &output)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The directory with the programs: the given one, or that of a release build.
fn programs(given: Option<PathBuf>, crates: &[&str]) -> anyhow::Result<PathBuf> {
    match given {
        Some(directory) => Ok(std::path::absolute(directory)?),
        None => command::build_release(crates),
    }
}

/// The repository's top.
fn repository() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors()
        .nth(2)
        .expect("the crate lies two levels below the top")
}
