//! What programs print: they must do well, and JSON comes line by line.

use std::collections::BTreeMap;
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::mesh::binary;

/// `wattle topology` with these arguments, reading from this source.
pub fn wattle_topology(source: &[String], arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(binary("wattle")?);
    command.arg("topology").args(arguments).args(source);
    Ok(command)
}

/// What `wattle topology verify` counts and must not find.
pub const FINDINGS: [&str; 7] = [
    "lost",
    "duplicated",
    "reordered",
    "broken_links",
    "broken_images",
    "state_wrong",
    "snapshots_wrong",
];

/// Runs a program that must do well.
pub fn output(command: &mut Command) -> Result<Output> {
    let output = command
        .output()
        .with_context(|| format!("running {command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {said}");
    Ok(output)
}

/// A Python that has these modules, of which Debian has `packages`: the first on the path, or the distribution's own.
pub fn python(modules: &str, packages: &str) -> Result<&'static str> {
    let able = |python: &&str| {
        let mut check = Command::new(python);
        check.args(["-c", &format!("import {modules}")]);
        let status = check.stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    };
    let mut known = ["python3", "/usr/bin/python3"].into_iter();
    let found = known.find(able);
    found.with_context(|| format!("no python3 has {modules} (Debian: {packages})"))
}

/// The JSON objects that a program that must do well prints, one a line.
pub fn json_lines(command: &mut Command) -> Result<Vec<Value>> {
    let output = output(command)?;
    let text = String::from_utf8_lossy(&output.stdout);
    let lines = text.lines().map(serde_json::from_str);
    lines
        .collect::<Result<_, _>>()
        .with_context(|| format!("{command:?} printed: {text}"))
}

/// Every entity of a topology that `wattle topology` told as JSON, by its key.
pub fn entities(document: &Value) -> Result<BTreeMap<String, Value>> {
    let mut entities = BTreeMap::new();
    for (list, kind) in [("nodes", "node"), ("links", "link"), ("prefixes", "prefix")] {
        let items = document[list].as_array();
        for item in items.with_context(|| format!("no {list} in {document}"))? {
            entities.insert(key(kind, item)?, item.clone());
        }
    }
    Ok(entities)
}

fn key(kind: &str, item: &Value) -> Result<String> {
    let text = |field: &str| {
        let text = item[field].as_str();
        text.with_context(|| format!("no {field} in {item}"))
    };
    Ok(match kind {
        "node" => format!("node:{}", text("id")?),
        "link" => format!(
            "link:{}>{}/{}",
            text("from")?,
            text("to")?,
            text("carrier")?
        ),
        _ => format!("prefix:{}", text("prefix")?),
    })
}
