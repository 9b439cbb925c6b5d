//! `wattle ping`: measured round trips; each reply names the way it took.

use std::path::Path;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;
use wattle_control::{PingReport, Reply, Request};

use crate::agent::{self, PATIENCE};
use crate::args::PingArgs;
use crate::failure::{Exit, Failure, Outcome};
use crate::human::{clean, micros, or_unknown, percent};
use crate::output::Output;
use crate::verb::answers;
use crate::verb::path::of_class;

/// The round trips of one call, summed up.
#[derive(Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Summary {
    /// Round trips tried.
    sent: u32,
    /// Those that came back.
    received: u32,
    /// The shortest.
    min_rtt_us: Option<u64>,
    /// Their mean.
    mean_rtt_us: Option<u64>,
    /// The longest.
    max_rtt_us: Option<u64>,
}

/// Measures round trips to a destination; exits with 6 if no reply came.
pub(crate) fn run(socket: &Path, args: &PingArgs, output: &mut Output) -> Outcome {
    let client = agent::connect(socket, output)?;
    let patience = Duration::from_millis(u64::from(args.interval) + u64::from(args.timeout));
    let request = Request::Ping {
        dst: args.destination.clone(),
        count: args.count,
        interval_ms: args.interval,
        timeout_ms: args.timeout,
        class: args.class,
    };
    let mut round_trips = Vec::new();
    for reply in client.stream(&request, Some(patience + PATIENCE))? {
        if let Reply::Ping(report) = reply? {
            output.answer(answers::PING, &report, line)?;
            round_trips.push(report.rtt_us);
        }
    }
    let summary = summarise(&round_trips);
    output.answer(answers::PING_SUMMARY, &summary, summary_line)?;
    if summary.received > 0 {
        return Ok(());
    }
    let what = format!("no reply from {}", clean(&args.destination));
    let why = format!("{} sent, none came back", summary.sent);
    Err(Failure::new(
        Exit::Timeout,
        what,
        why,
        format!("wattle path {}", clean(&args.destination)),
    ))
}

fn line(report: &PingReport) -> String {
    let relays: Vec<_> = report.relays.iter().map(|node| clean(&node.name)).collect();
    let way = if relays.is_empty() {
        "direct".to_owned()
    } else {
        format!("via {}", relays.join(" > "))
    };
    let (whose, name) = (of_class(report.class), clean(&report.from.name));
    match report.rtt_us {
        Some(rtt) => format!(
            "{whose}reply from {name} ({}) {way} in {} seq {}",
            report.address,
            micros(rtt),
            report.sequence
        ),
        None => format!(
            "no {whose}reply from {name} ({}) seq {}",
            report.address, report.sequence
        ),
    }
}

fn summarise(round_trips: &[Option<u64>]) -> Summary {
    let came: Vec<u64> = round_trips.iter().flatten().copied().collect();
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Summary {
        sent: count(round_trips.len()),
        received: count(came.len()),
        min_rtt_us: came.iter().copied().min(),
        mean_rtt_us: came.iter().sum::<u64>().checked_div(came.len() as u64),
        max_rtt_us: came.iter().copied().max(),
    }
}

fn summary_line(summary: &Summary) -> String {
    let lost = summary.sent - summary.received;
    let loss = u64::from(lost) * 1_000_000 / u64::from(summary.sent.max(1));
    format!(
        "{} sent, {} received, {} lost; rtt min/mean/max {}/{}/{}",
        summary.sent,
        summary.received,
        percent(u32::try_from(loss).unwrap_or(u32::MAX)),
        or_unknown(summary.min_rtt_us, micros),
        or_unknown(summary.mean_rtt_us, micros),
        or_unknown(summary.max_rtt_us, micros),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verb::sample;

    #[test]
    fn a_reply_names_the_way_it_took() {
        assert_eq!(
            line(&sample::ping()),
            "reply from r3 (10.77.0.3) via r2 in 48.1ms seq 1"
        );
        let lost = PingReport {
            rtt_us: None,
            ..sample::ping()
        };
        assert_eq!(line(&lost), "no reply from r3 (10.77.0.3) seq 1");
    }

    #[test]
    fn who_asks_with_packets_of_another_class_sees_which() {
        let report = PingReport {
            class: wattle_model::Class::Bulk,
            ..sample::ping()
        };
        assert_eq!(
            line(&report),
            "bulk reply from r3 (10.77.0.3) via r2 in 48.1ms seq 1"
        );
    }

    #[test]
    fn the_summary_counts_what_was_lost() {
        let summary = summarise(&[Some(1_000), None, Some(3_000), None]);
        assert_eq!(
            summary_line(&summary),
            "4 sent, 2 received, 50% lost; rtt min/mean/max 1.0ms/2.0ms/3.0ms"
        );
        assert_eq!(summarise(&[]), Summary::default());
        assert!(summary_line(&Summary::default()).starts_with("0 sent, 0 received, 0% lost"));
    }
}
