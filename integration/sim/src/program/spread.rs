//! What nodes send when nothing happens, and what one record costs on its way to everybody.

use serde_json::{Value, json};
use wattle_model::Micros;
use wattle_routing::Input;
use wattle_sim::fleet::{granted_prefix, stolen_prefix};
use wattle_sim::{Fleet, NodeNumber};

use crate::rest;

/// What carries a message over UDP: IPv4 and UDP headers, and WireGuard's.
const CARRIAGE: u64 = 28 + 32;
const MINUTE: u64 = 60;

/// Bytes per second and node over a minute.
pub(crate) fn steady(fleet: &mut Fleet) -> Value {
    let (sent, flooded) = (fleet.sent, fleet.flooded);
    rest(fleet, Micros::from_secs(MINUTE));
    let (sent, flooded) = (fleet.sent.since(&sent), fleet.flooded.since(&flooded));
    let per_node = |bytes: u64| bytes as f64 / (MINUTE * fleet.nodes.len() as u64) as f64;
    json!({
        "payload_bytes_per_s": per_node(sent.bytes),
        "wire_bytes_per_s": per_node(sent.bytes + sent.datagrams * CARRIAGE),
        "datagrams_per_s": per_node(sent.datagrams),
        "link_state_bytes_per_s": per_node(flooded.bytes),
    })
}

/// News from one node that changes no route: it announces one prefix less, which nobody believed to be its own.
pub(crate) fn one_record(fleet: &mut Fleet) -> Value {
    let before = (fleet.updates, fleet.flooded, fingerprints(fleet));
    let began = fleet.now;
    let teller = NodeNumber(7.min(fleet.nodes.len() - 1));
    let (granted, stolen) = (granted_prefix(teller), stolen_prefix(teller));
    fleet.tell(teller, Input::Prefixes(vec![granted]));
    let everybody = fleet.run_until(Micros::from_secs(5), |fleet| {
        fingerprints(fleet)
            .iter()
            .zip(&before.2)
            .all(|(after, before)| after != before)
    });
    rest(fleet, Micros::from_secs(2));
    let updates = fleet.updates.since(&before.0);
    let all = fleet.flooded.since(&before.1);
    fleet.tell(teller, Input::Prefixes(vec![granted, stolen]));
    rest(fleet, Micros::from_secs(20));
    json!({
        "messages": updates.datagrams,
        "bytes": updates.bytes,
        "with_acknowledgements": all.datagrams,
        "everybody_after_ms": everybody.map(Micros::as_millis),
        "began_at_s": began.0 / 1_000_000,
    })
}

fn fingerprints(fleet: &Fleet) -> Vec<u64> {
    let processes = fleet.nodes.iter().filter_map(|node| node.process.as_ref());
    processes
        .map(|process| process.router.database().fingerprint())
        .collect()
}
