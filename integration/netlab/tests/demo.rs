//! The demo's judgement of what it measured, on documents as it prints them.

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

#[test]
fn a_demo_passes_only_within_the_promised_figures() -> Result<()> {
    assert_eq!(verdict(&document(300, json!(3_000)))?, Vec::<String>::new());
    for (outage, left, word) in [
        (301, json!(3_000), "median outage is 301 ms"),
        (300, json!(3_001), "within 3000 ms"),
        (300, Value::Null, "within 10 s"),
    ] {
        let wrong = verdict(&document(outage, left))?;
        assert_eq!(wrong.len(), 1, "{wrong:?}");
        assert!(wrong[0].contains(word), "{wrong:?}");
    }
    assert!(!verdict(&json!({ "error": "stopped early" }))?.is_empty());
    Ok(())
}

/// A demo in which everything else went well.
fn document(outage_ms: u32, left_after_ms: Value) -> Value {
    let quick = json!({ "outage_ms": outage_ms, "path_after": ["a1", "r2", "b1"] });
    let mut breaks = vec![quick; 6];
    breaks[3]["left_after_ms"] = left_after_ms;
    json!({
        "pairs": 30,
        "pairs_reachable": 30,
        "breaks": breaks,
        "outage_ms": { "median": outage_ms, "max": outage_ms },
        "events": { "expected": 9, "seen": 9, "lost": 0, "duplicated": 0 },
        "agents_ended": [],
        "leftovers": [],
    })
}

fn verdict(document: &Value) -> Result<Vec<String>> {
    const JUDGE: &str = "import json, sys; sys.path.insert(0, sys.argv[1]); import demo; \
                         print(json.dumps(demo.verdict(json.load(sys.stdin))))";
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../demo");
    let mut python = Command::new("python3")
        .args(["-B", "-c", JUDGE, folder])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("python3 runs the demo and judges it")?;
    let mut input = python.stdin.take().context("it was piped")?;
    input.write_all(document.to_string().as_bytes())?;
    drop(input);
    let output = python.wait_with_output()?;
    ensure!(output.status.success(), "{}", output.status);
    Ok(serde_json::from_slice(&output.stdout)?)
}
