//! The program `wattle-sim`: what it says of networks that it is given, and what it promises of a large fleet.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

/// Bytes a second that a node may send while nothing happens, headers included.
const STEADY: f64 = 1_000.0;
/// Messages that may carry one record, by node of degree 8; an ideal tree takes one.
const RECORD: f64 = 1.3;
/// Until the last route of any node changes after links were cut.
const CONVERGED_MS: u64 = 2_500;
/// The longest that packets of a pair of nodes may be lost.
const OUTAGE_MS: u64 = 1_000;

/// Until a node that comes back has everybody's records, from when both ends use its first link; what their signatures take
/// of the machine's time is told beside it and not counted.
const SYNCED_MS: f64 = 250.0;

/// Nodes of the large fleet; another number with `WATTLE_SIM_NODES`.
const NODES: &str = "1000";

#[test]
#[ignore = "takes minutes: run with --release by tools/test unit"]
fn a_large_fleet_converges_after_one_ten_and_a_hundred_failures_and_a_restart() {
    let nodes = std::env::var("WATTLE_SIM_NODES").unwrap_or(NODES.to_owned());
    let answer = answer(&[&nodes, "1"]);
    println!("{answer}");
    let steady = answer["steady"]["wire_bytes_per_s"].as_f64();
    assert!(steady.is_some_and(|bytes| bytes < STEADY), "{steady:?}");
    let record = &answer["record"];
    let most = RECORD * answer["nodes"].as_f64().expect("a number");
    let messages = record["messages"].as_f64();
    assert!(messages.is_some_and(|all| all <= most), "{record}");
    assert!(record["everybody_after_ms"].is_u64(), "{record}");
    for ended in ["restart", "crash"].map(|end| &answer[end]) {
        let synced = ended["synced_after_first_link_ms"].as_f64();
        assert!(synced.is_some_and(|ms| ms <= SYNCED_MS), "{ended}");
    }
    let failures = answer["failures"].as_array().expect("failures");
    let cuts: Vec<_> = failures.iter().map(|each| each["cut"].as_u64()).collect();
    let links = answer["links"].as_u64();
    let expected = [1, 10, 100].into_iter();
    let expected = expected.filter(|cut| Some(cut * 10) <= links).map(Some);
    assert_eq!(cuts, expected.collect::<Vec<_>>());
    failures.iter().for_each(heals);
}

#[test]
fn links_in_words_and_a_map_by_its_name_are_run_with_a_cut_that_heals() {
    let file = written(
        "ring",
        "# a ring\na b 5ms\nb c 5ms busy\nc d 5ms\nd a 5ms\n",
    );
    for of in [["--topology", &file], ["--map", "nobel-us"]] {
        let answer = answer(&of);
        let failures = answer["failures"].as_array().expect("failures");
        assert_eq!(failures.len(), 1, "{answer}");
        heals(&failures[0]);
        assert!(failures[0]["path_changes"].as_u64() > Some(0), "{answer}");
    }
}

#[test]
fn threads_change_no_outcome() {
    let answers = ["1", "4"].map(|threads| {
        let output = program(&["48", "3"])
            .env("WATTLE_SIM_THREADS", threads)
            .output();
        let output = output.expect("wattle-sim runs");
        let mut answer: Value = serde_json::from_slice(&output.stdout).expect("one line of JSON");
        answer["machine_s"] = Value::Null;
        for ended in ["restart", "crash"] {
            answer[ended]["signatures_ms_of_this_machine"] = Value::Null;
        }
        answer
    });
    assert!(answers[0]["failures"][1]["path_changes"].as_u64() > Some(0));
    assert_eq!(answers[0], answers[1]);
}

#[test]
fn what_is_no_network_is_refused_with_the_place_and_the_reason() {
    for (text, words) in [
        ("a b 5ms\n\nb c soon\n", &["line 3", "soon is no time"][..]),
        ("a b 5ms\na b 5ms\n", &["line 2", "already"]),
        ("a b 5ms\nc d 5ms\n", &["no links lead from a to c"]),
        ("# nothing\n", &["there is no link in it"]),
    ] {
        let file = written("nonsense", text);
        let said = refusal(&["--topology", &file]);
        let whole = said.contains(&file) && words.iter().all(|word| said.contains(word));
        assert!(whole, "{text}: {said}");
    }
    assert!(refusal(&["--topology", "/nonexistent"]).contains("/nonexistent"));
    assert!(refusal(&["--map", "atlantis"]).contains("sndlib/abilene"));
    for unclear in [&[][..], &["--graph", "x"], &["100", "1", "2"]] {
        assert!(refusal(unclear).contains("usage"), "{unclear:?}");
    }
}

/// Packets are lost for a moment at most, none goes in circles, and routes come to rest.
fn heals(failure: &Value) {
    let number = |name: &str| failure[name].as_u64().expect("a number");
    let summary = failure.as_object().expect("an object").iter();
    let summary = summary.filter(|(_, value)| value.is_number());
    let summary: Vec<_> = summary.collect();
    assert!(number("pairs") > 0, "{summary:?}");
    assert_eq!(number("ever_circled"), 0, "{summary:?}");
    assert!(number("converged_ms") <= CONVERGED_MS, "{summary:?}");
    assert!(number("longest_outage_ms") <= OUTAGE_MS, "{summary:?}");
    for lost in ["holes", "circles"] {
        let last = failure[lost].as_array().and_then(|ticks| ticks.last());
        assert_eq!(last.and_then(Value::as_u64), Some(0), "{lost}: {summary:?}");
    }
}

fn answer(arguments: &[&str]) -> Value {
    let output = run(arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}");
    serde_json::from_slice(&output.stdout).expect("one line of JSON")
}

fn refusal(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert!(!output.status.success(), "{arguments:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn run(arguments: &[&str]) -> Output {
    let output = program(arguments).output();
    output.expect("wattle-sim runs")
}

fn program(arguments: &[&str]) -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_wattle-sim"));
    program.args(arguments);
    program
}

fn written(name: &str, text: &str) -> String {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.links"));
    std::fs::write(&file, text).expect("a file");
    file.display().to_string()
}
