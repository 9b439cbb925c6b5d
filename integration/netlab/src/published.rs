//! What the command line prints with `--json`, judged by the schemas in `docs/schemas` and a validator that has nothing
//! of ours in it: Python's `jsonschema`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::answer::{output, python};

const PROGRAM: &str = include_str!("published.py");

/// The names of all answers that have a schema, such as `wattle.status/v1`.
pub fn names() -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for file in std::fs::read_dir(folder())? {
        let path = file?.path();
        let is_answer = path.file_name().and_then(|name| name.to_str());
        if !is_answer.is_some_and(|name| name.starts_with("cli-")) {
            continue;
        }
        let schema: serde_json::Value = serde_json::from_slice(&std::fs::read(&path)?)?;
        let name = schema["properties"]["schema"]["const"].as_str();
        names.insert(name.with_context(|| path.display().to_string())?.to_owned());
    }
    Ok(names)
}

/// Fails unless each line fits the schema that it names; which names that were.
pub fn judge(lines: &str) -> Result<BTreeSet<String>> {
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), lines)?;
    let mut judge = Command::new(python("jsonschema", "python3-jsonschema")?);
    judge
        .args(["-c", PROGRAM])
        .arg(folder())
        .stdin(file.reopen()?);
    let said = String::from_utf8(output(&mut judge)?.stdout)?;
    let wrong: Vec<&str> = said
        .lines()
        .filter(|line| line.starts_with("wrong "))
        .collect();
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    let names = said.lines().filter_map(|line| line.strip_prefix("name "));
    Ok(names.map(str::to_owned).collect())
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/schemas")
}
