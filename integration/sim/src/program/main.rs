//! `wattle-sim` runs a large fleet in virtual time: how it converges, what that costs, what a record and a restart cost.
//!
//! ```text
//!     wattle-sim NODES [SEED]              nodes choose up to eight neighbours each; every link takes 5 ms
//!     wattle-sim --topology FILE [SEED]    the links that FILE says, one a line (`a b 5ms jitter 1ms loss 2%`)
//!     wattle-sim --map NAME|FILE [SEED]    a public network: one that lies beside this crate, or a file of node-link JSON
//! ```
//!
//! It ends with one line of JSON, which `tools/bench sim --plots DIR` draws; progress is on stderr. Times are virtual, but for
//! those that are said to be the machine's. All processors are used, or as many as `WATTLE_SIM_THREADS` says: that changes no
//! outcome.

mod failures;
mod restart;
mod source;
mod spread;

use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use wattle_model::Micros;
use wattle_sim::{Fleet, NodeNumber};

use crate::restart::End;

/// After so long a fleet that has not come to rest never will.
const PATIENCE: Micros = Micros::from_secs(120);
/// Up to so many nodes start at once with empty databases; a larger fleet is made as one that is in sync, or the start would take
/// longer than the rest.
const MOST_FROM_NOTHING: usize = 300;
/// Links that are cut at once.
const CUTS: [usize; 3] = [1, 10, 100];
const USAGE: &str =
    "usage: wattle-sim NODES [SEED] | --topology FILE [SEED] | --map NAME|FILE [SEED]";

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (network, seed) = match words[..] {
        ["--topology", file, ref seed @ ..] => (source::topology(file)?, seed),
        ["--map", name, ref seed @ ..] => (source::map(name)?, seed),
        [nodes, ref seed @ ..] if !nodes.starts_with('-') => (source::sparse(nodes)?, seed),
        _ => bail!(USAGE),
    };
    let seed = match seed {
        [] => 1,
        [seed] => seed.parse().context("SEED is no number")?,
        _ => bail!(USAGE),
    };
    let line = run(network.fleet(seed))?;
    say(&line.to_string());
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the answer is a line on stdout")]
fn say(line: &str) {
    println!("{line}");
}

fn run(mut fleet: Fleet) -> Result<serde_json::Value> {
    fleet.reads_all = true;
    let began = Instant::now();
    let tell = |what: &str| eprintln!("[{:4.0} s] {what}", began.elapsed().as_secs_f64());
    let nodes = fleet.nodes.len();
    tell(&format!(
        "{nodes} nodes, {} links",
        fleet.network.edges.len()
    ));
    let start = match nodes <= MOST_FROM_NOTHING {
        true => Some(start_from_nothing(&mut fleet, &tell)?),
        false => None,
    };
    if start.is_none() {
        fleet.start_in_sync();
        ensure!(agree(&fleet), "the databases do not agree");
        tell("links are up, every node has been given everybody's records");
    }
    // Prices of fresh links settle in the first minute.
    rest(&mut fleet, Micros::from_secs(60));
    tell("steady for a minute");
    let steady = spread::steady(&mut fleet);
    tell(&format!("{steady}"));
    let record = spread::one_record(&mut fleet);
    tell(&format!("one record: {record}"));
    let ended = NodeNumber(nodes / 2);
    let restart = restart::restart(&mut fleet, ended, End::Stop)?;
    tell(&format!("restart: {restart}"));
    let crash = restart::restart(&mut fleet, ended, End::Crash)?;
    tell(&format!("crash: {crash}"));
    let mut failures = Vec::new();
    let links = fleet.network.edges.len();
    for cuts in CUTS.into_iter().filter(|cuts| cuts * 10 <= links.max(10)) {
        rest(&mut fleet, Micros::from_secs(30));
        let Some(outcome) = failures::cut(&mut fleet, cuts) else {
            tell(&format!(
                "{cuts} links cannot be cut without cutting a node off"
            ));
            continue;
        };
        tell(&format!("{cuts} links cut: {outcome}"));
        failures.push(outcome);
    }
    Ok(serde_json::json!({
        "nodes": nodes,
        "links": fleet.network.edges.len(),
        "start_ms": start.map(Micros::as_millis),
        "steady": steady,
        "record": record,
        "restart": restart,
        "crash": crash,
        "failures": failures,
        "machine_s": began.elapsed().as_secs(),
    }))
}

/// Everybody tells everybody everything: until the databases agree.
fn start_from_nothing(fleet: &mut Fleet, tell: &impl Fn(&str)) -> Result<Micros> {
    fleet.start_all();
    let start = until_it_rests(fleet, tell)?;
    tell(&format!(
        "all start at once: databases agree after {} ms",
        start.as_millis()
    ));
    Ok(start)
}

/// Lets time pass; what routers tell people is forgotten, it would fill the memory.
fn rest(fleet: &mut Fleet, span: Micros) {
    let end = fleet.now + span;
    while fleet.now < end {
        fleet.run(Micros::from_secs(1).min(end.since(fleet.now)));
        fleet.events.clear();
    }
}

fn until_it_rests(fleet: &mut Fleet, tell: &impl Fn(&str)) -> Result<Micros> {
    let began = fleet.now;
    let step = Micros::from_millis(100);
    while !agree(fleet) {
        ensure!(
            fleet.now.since(began) < PATIENCE,
            "the databases never agree"
        );
        fleet.run(step);
        fleet.events.clear();
        if fleet.now.since(began).0 % 1_000_000 < step.0 {
            tell(&format!(
                "{} s of virtual time",
                fleet.now.since(began).as_millis() / 1_000
            ));
        }
    }
    Ok(fleet.now.since(began))
}

/// Whether every database is the same and holds something of everybody.
fn agree(fleet: &Fleet) -> bool {
    let processes = fleet.nodes.iter().filter_map(|node| node.process.as_ref());
    let mut databases = processes.map(|process| process.router.database());
    let Some(first) = databases.next() else {
        return false;
    };
    let is_whole = first.len() >= 3 * fleet.nodes.len();
    is_whole && databases.all(|database| database.fingerprint() == first.fingerprint())
}
