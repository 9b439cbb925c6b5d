//! Calls of other programs: what failed is said with its whole command line.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::repository;

/// Runs a program whose output is for people.
pub(crate) fn run<S: AsRef<OsStr>>(program: &str, arguments: &[S]) -> Result<()> {
    run_prepared(Command::new(program).args(arguments))
}

/// As [`run`], for a command that was prepared further.
pub(crate) fn run_prepared(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot run {command:?}"))?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(())
}

/// Runs a program and takes what it prints.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("cannot run {command:?}"))?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{command:?} ended with {}: {complaint}",
        output.status
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// Builds crates as released; gives the directory with their programs.
pub(crate) fn build_release(crates: &[&str]) -> Result<PathBuf> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(repository())
        .args(["build", "--release", "--locked"]);
    for name in crates {
        cargo.args(["--package", name]);
    }
    run_prepared(&mut cargo)?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    Ok(repository()
        .join(target.unwrap_or_else(|| "target".into()))
        .join("release"))
}
