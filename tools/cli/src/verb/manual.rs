//! `wattle man` and `wattle completion`: made from the command line's own definition.

use std::path::Path;

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::args::Cli;
use crate::failure::{Failure, Outcome};
use crate::output::Output;

/// Prints the completion script of a shell.
pub(crate) fn completion(shell: Shell, output: &mut Output) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "wattle", &mut script);
    output.text(&String::from_utf8_lossy(&script))
}

/// Prints the manual's first page, or writes all pages.
pub(crate) fn man(directory: Option<&Path>, output: &mut Output) -> Outcome {
    let command = Cli::command().disable_help_subcommand(true);
    let Some(directory) = directory else {
        let mut page = Vec::new();
        clap_mangen::Man::new(command).render(&mut page)?;
        return output.text(&String::from_utf8_lossy(&page));
    };
    clap_mangen::generate_to(command, directory).map_err(|error| {
        let what = format!("cannot write the manual to {}", directory.display());
        Failure::file(
            what,
            &error,
            "name a directory that exists: wattle man --directory DIR",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::tests::captured;

    #[test]
    fn every_verb_has_a_page() {
        let directory = tempfile::tempdir().unwrap();
        man(Some(directory.path()), &mut captured(false).0).unwrap();
        for name in ["wattle.1", "wattle-status.1", "wattle-network-create.1"] {
            let page = std::fs::read_to_string(directory.path().join(name)).unwrap();
            assert!(page.contains(".SH SYNOPSIS"), "{name}");
        }
    }

    #[test]
    fn completion_knows_the_verbs() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let (mut output, written) = captured(false);
            completion(shell, &mut output).unwrap();
            assert!(written().contains("explain"), "{shell}");
        }
    }
}
