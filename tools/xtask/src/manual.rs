//! Man pages and completions, as the command line itself prints them.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::command;

/// Shells and the names that their completion scripts must have.
pub(crate) const SHELLS: [(&str, &str); 3] = [
    ("bash", "wattle"),
    ("zsh", "_wattle"),
    ("fish", "wattle.fish"),
];

/// Writes all pages of `wattle` into a directory.
pub(crate) fn pages(wattle: &Path, directory: &Path) -> Result<()> {
    make(directory)?;
    command::run_prepared(
        Command::new(wattle)
            .args(["man", "--directory"])
            .arg(directory),
    )
}

/// Writes the completion scripts into one directory per shell.
pub(crate) fn completions(wattle: &Path, directory: &Path) -> Result<()> {
    for (shell, name) in SHELLS {
        completion(wattle, shell, &directory.join(shell).join(name))?;
    }
    Ok(())
}

/// Writes the completion script of one shell.
pub(crate) fn completion(wattle: &Path, shell: &str, file: &Path) -> Result<()> {
    if let Some(parent) = file.parent() {
        make(parent)?;
    }
    let script = command::output(Command::new(wattle).args(["completion", shell]))?;
    std::fs::write(file, script).with_context(|| format!("cannot write {}", file.display()))
}

fn make(directory: &Path) -> Result<()> {
    std::fs::create_dir_all(directory)
        .with_context(|| format!("cannot make {}", directory.display()))
}
