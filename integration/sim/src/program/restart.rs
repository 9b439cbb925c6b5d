//! A node that comes back with an empty database, until it has everybody's records, with every signature judged.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use wattle_model::Micros;
use wattle_routing::{EachTime, Router, Verifier as _};
use wattle_sim::{Fleet, NodeNumber};

use crate::rest;

const PATIENCE: Micros = Micros::from_secs(30);

/// Ends a node's process, starts it ten seconds later, and waits.
pub(crate) fn restart(fleet: &mut Fleet, node: NodeNumber) -> Result<Value> {
    fleet.crash(node);
    rest(fleet, Micros::from_secs(10));
    let (flooded, whole) = (fleet.flooded, records(fleet, NodeNumber(0)));
    fleet.start(node);
    let linked = fleet.run_until(PATIENCE, |fleet| {
        let router = fleet.router(node);
        router.is_some_and(|router| router.links().values().any(|link| link.state.is_usable()))
    });
    let linked = linked.context("the node that came back gets no link")?;
    let synced = fleet.run_until(PATIENCE, |fleet| records(fleet, node) >= whole);
    let synced = synced.context("the node that came back never has all records")?;
    let flooded = fleet.flooded.since(&flooded);
    let router = fleet.router(node).context("it runs")?;
    let judged = judge(router)?;
    rest(fleet, Micros::from_secs(30));
    Ok(json!({
        "records": whole,
        "first_link_after_ms": linked.as_millis(),
        "synced_after_first_link_ms": synced.0 as f64 / 1e3,
        "signatures_ms_of_this_machine": judged,
        "messages": flooded.datagrams,
        "bytes": flooded.bytes,
    }))
}

fn records(fleet: &Fleet, node: NodeNumber) -> usize {
    fleet
        .router(node)
        .map_or(0, |router| router.database().len())
}

/// What judging every signature of a database takes: the fleet itself remembers verdicts, and its clock is virtual.
fn judge(router: &Router) -> Result<f64> {
    let members = router.members();
    let began = Instant::now();
    for (key, entry) in router.database().iter() {
        let member = members
            .nodes
            .get(&key.origin)
            .context("records of members only")?;
        let is_signed = EachTime.is_signed(&entry.record, members.network, &member.identity);
        ensure!(is_signed, "a record in a database is forged");
    }
    Ok(began.elapsed().as_secs_f64() * 1e3)
}
