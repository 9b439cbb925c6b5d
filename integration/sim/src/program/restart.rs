//! A node that comes back with an empty database, until it has everybody's records, with every signature judged.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use wattle_model::{LinkId, Micros};
use wattle_routing::{EachTime, Router, Verifier as _};
use wattle_sim::{Fleet, NodeNumber};

use crate::rest;

const PATIENCE: Micros = Micros::from_secs(30);

/// How a node ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// It told its neighbours, and is back so soon that they use a link to it at once.
    Stop,
    /// It fell silent: neighbours watch it for two seconds before they use a link to it again.
    Crash,
}

impl End {
    /// How long the node is away.
    const fn pause(self) -> Micros {
        match self {
            Self::Stop => Micros::from_secs(2),
            Self::Crash => Micros::from_secs(10),
        }
    }
}

/// Ends a node's process, starts it again after a pause, and waits. The database is to be synced from the moment on that both
/// ends use one of its links.
pub(crate) fn restart(fleet: &mut Fleet, node: NodeNumber, end: End) -> Result<Value> {
    match end {
        End::Stop => fleet.stop(node),
        End::Crash => fleet.crash(node),
    }
    rest(fleet, end.pause());
    let (flooded, whole) = (fleet.flooded, records(fleet, NodeNumber(0)));
    fleet.start(node);
    let linked = fleet.run_until(PATIENCE, |fleet| is_linked(fleet, node));
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

/// Whether both ends of one of the node's links use it.
fn is_linked(fleet: &Fleet, node: NodeNumber) -> bool {
    let is_used = |end: NodeNumber, link: LinkId| {
        let link = fleet
            .router(end)
            .and_then(|router| router.links().get(&link));
        link.is_some_and(|link| link.state.is_usable())
    };
    let links = fleet.router(node).into_iter().flat_map(Router::links);
    links.into_iter().any(|(id, _)| {
        let ends = fleet.network.edges[id.0 as usize].ends;
        ends.into_iter().all(|end| is_used(end, *id))
    })
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
        let is_signed = EachTime.is_signed(entry.record(), members.network, &member.identity);
        ensure!(is_signed, "a record in a database is forged");
    }
    Ok(began.elapsed().as_secs_f64() * 1e3)
}
