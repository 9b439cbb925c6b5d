//! `wattle-sim` runs a large fleet in virtual time: how it converges, what that costs, what a record and a restart cost.
//!
//! ```text
//!     wattle-sim NODES SEED      nodes choose up to eight neighbours each; every link takes 5 ms
//! ```
//!
//! It ends with one line of JSON; progress is on stderr. Times are virtual, but for those that are said to be the machine's.

mod failures;
mod restart;
mod spread;

use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use wattle_model::Micros;
use wattle_sim::{Fleet, NodeNumber};

/// One way: the round trip takes 10 ms.
const DELAY: Micros = Micros::from_millis(5);
/// After so long a fleet that has not come to rest never will.
const PATIENCE: Micros = Micros::from_secs(120);
/// Links that are cut at once.
const CUTS: [usize; 3] = [1, 10, 100];

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let [nodes, seed] = words[..] else {
        bail!("usage: wattle-sim NODES SEED");
    };
    let nodes: usize = nodes.parse().context("NODES is no number")?;
    ensure!(
        nodes > 32,
        "up to 32 nodes everybody is everybody's neighbour: a large fleet has more"
    );
    let line = run(nodes, seed.parse().context("SEED is no number")?)?;
    say(&line.to_string());
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the answer is a line on stdout")]
fn say(line: &str) {
    println!("{line}");
}

fn run(nodes: usize, seed: u64) -> Result<serde_json::Value> {
    let began = Instant::now();
    let tell = |what: &str| eprintln!("[{:4.0} s] {what}", began.elapsed().as_secs_f64());
    let mut fleet = Fleet::sparse(seed, nodes, |_| DELAY);
    tell(&format!(
        "{nodes} nodes, {} links: all start at once",
        fleet.network.edges.len()
    ));
    fleet.start_all();
    let start = until_it_rests(&mut fleet, &tell)?;
    tell(&format!(
        "all databases agree after {} ms",
        start.as_millis()
    ));
    // Prices of fresh links settle in the first minute.
    rest(&mut fleet, Micros::from_secs(60));
    tell("steady for a minute");
    let steady = spread::steady(&mut fleet);
    tell(&format!("{steady}"));
    let record = spread::one_record(&mut fleet);
    tell(&format!("one record: {record}"));
    let restart = restart::restart(&mut fleet, NodeNumber(nodes / 2))?;
    tell(&format!("restart: {restart}"));
    let mut failures = Vec::new();
    let links = fleet.network.edges.len();
    for cuts in CUTS.into_iter().filter(|cuts| cuts * 10 <= links) {
        rest(&mut fleet, Micros::from_secs(30));
        let outcome = failures::cut(&mut fleet, cuts)?;
        tell(&format!("{cuts} links cut: {outcome}"));
        failures.push(outcome);
    }
    Ok(serde_json::json!({
        "nodes": nodes,
        "links": fleet.network.edges.len(),
        "start_ms": start.as_millis(),
        "steady": steady,
        "record": record,
        "restart": restart,
        "failures": failures,
        "machine_s": began.elapsed().as_secs(),
    }))
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
