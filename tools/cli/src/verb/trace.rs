//! `wattle trace`: the way to a destination, and the round trips to each node on it.

use std::path::Path;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;
use wattle_control::{ChangeReport, NodeRef, PathReport, PathRole, PingReport, Reply, Request};
use wattle_model::Class;

use crate::agent::{self, PATIENCE};
use crate::args::TraceArgs;
use crate::failure::Outcome;
use crate::human::{clean, micros, or_unknown};
use crate::output::Output;
use crate::verb::answers;
use crate::verb::path::{change, of_class};

/// Between two round trips.
const INTERVAL_MS: u32 = 50;

/// The way, measured.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Trace {
    /// Where the way ends.
    destination: NodeRef,
    /// Which packets take it.
    #[serde(skip_serializing_if = "Class::is_latency")]
    class: Class,
    /// The nodes on it, in order.
    hops: Vec<Traced>,
    /// What changed the way last.
    changed: Option<ChangeReport>,
}

/// A node on the way, and the best of the round trips to it.
#[derive(Debug, Serialize, JsonSchema)]
struct Traced {
    /// The node.
    node: NodeRef,
    /// What the way up to here costs, as computed.
    cost_us: u32,
    /// What the round trip up to here is, by the links' measurements.
    expected_rtt_us: Option<u64>,
    /// Round trips tried.
    sent: u32,
    /// Those that came back.
    received: u32,
    /// The shortest of them.
    min_rtt_us: Option<u64>,
    /// The relays that the last reply came over.
    relays: Vec<NodeRef>,
}

/// Measures the way to a destination hop by hop.
pub(crate) fn run(socket: &Path, args: &TraceArgs, output: &mut Output) -> Outcome {
    let mut client = agent::connect(socket, output)?;
    let path = client.path(args.destination.clone(), args.class)?;
    let mut trace = expected(path);
    for hop in &mut trace.hops {
        let client = agent::connect(socket, output)?;
        let request = Request::Ping {
            dst: hop.node.id.to_string(),
            count: args.count,
            interval_ms: INTERVAL_MS,
            timeout_ms: args.timeout,
            class: args.class,
        };
        let patience = Duration::from_millis(u64::from(args.timeout + INTERVAL_MS));
        for reply in client.stream(&request, Some(patience + PATIENCE))? {
            if let Reply::Ping(report) = reply? {
                hop.take(report);
            }
        }
    }
    output.answer(answers::TRACE, &trace, show)
}

/// The nodes on the way that most packets take.
fn expected(path: PathReport) -> Trace {
    let used = path.ways.into_iter().find(|way| way.role == PathRole::Used);
    let (mut cost_us, mut rtt) = (0_u32, Some(0));
    let hops = used.into_iter().flat_map(|way| way.hops).map(|hop| {
        cost_us = cost_us.saturating_add(hop.cost.total_us);
        rtt = rtt.zip(hop.rtt_us).map(|(sum, rtt)| sum + rtt);
        Traced {
            node: hop.to,
            cost_us,
            expected_rtt_us: rtt,
            sent: 0,
            received: 0,
            min_rtt_us: None,
            relays: Vec::new(),
        }
    });
    Trace {
        hops: hops.collect(),
        destination: path.destination,
        class: path.class,
        changed: path.changed,
    }
}

impl Traced {
    fn take(&mut self, report: PingReport) {
        self.sent += 1;
        let Some(rtt) = report.rtt_us else { return };
        self.received += 1;
        self.min_rtt_us = Some(self.min_rtt_us.map_or(rtt, |least| least.min(rtt)));
        self.relays = report.relays;
    }
}

fn show(trace: &Trace) -> String {
    let whose = of_class(trace.class);
    let mut text = format!("{whose}to {}\n", clean(&trace.destination.name));
    for (number, hop) in trace.hops.iter().enumerate() {
        let relays: Vec<_> = hop.relays.iter().map(|node| clean(&node.name)).collect();
        let way = match (hop.received, relays.is_empty()) {
            (0, _) => "no reply".to_owned(),
            (_, true) => "direct".to_owned(),
            (_, false) => format!("via {}", relays.join(" > ")),
        };
        text += &format!(
            "  {} {}  {way}  rtt {} of {} expected  {}/{} replies  cost {}\n",
            number + 1,
            clean(&hop.node.name),
            or_unknown(hop.min_rtt_us, micros),
            or_unknown(hop.expected_rtt_us, micros),
            hop.received,
            hop.sent,
            micros(hop.cost_us.into()),
        );
    }
    text += &change(trace.changed.as_ref());
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verb::sample;

    #[test]
    fn a_trace_shows_each_node_with_what_was_expected_and_what_was_measured() {
        let mut trace = expected(sample::path());
        trace.hops[1].take(sample::ping());
        trace.hops[1].take(PingReport {
            rtt_us: None,
            ..sample::ping()
        });
        insta::assert_snapshot!(show(&trace), @"
        to r3
          1 r2  no reply  rtt - of 24.2ms expected  0/0 replies  cost 13.1ms
          2 r3  via r2  rtt 48.1ms of 48.4ms expected  1/2 replies  cost 26.2ms
          last change 2026-11-22T22:08:00.000Z: r3 goes via r2, before via r4; cause: links of r4, 152ms after it began
        ");
    }
}
