//! `wattle path`: the computed way, hop by hop, with what each hop costs, and the backup.

use std::path::Path;

use wattle_api::Timestamp;
use wattle_control::{ChangeReport, HopReport, PathReport, PathRole, WayReport};
use wattle_model::Class;

use crate::agent;
use crate::args::DestinationArgs;
use crate::failure::Outcome;
use crate::human::{clean, micros, or_unknown, percent};
use crate::output::Output;
use crate::verb::answers;
use crate::verb::links::{priced, sum};

/// Shows the way to a destination.
pub(crate) fn run(socket: &Path, args: DestinationArgs, output: &mut Output) -> Outcome {
    let report = agent::connect(socket, output)?.path(args.destination, args.class)?;
    output.answer(answers::PATH, &report, show)
}

fn show(report: &PathReport) -> String {
    let by = report
        .prefix
        .map(|prefix| format!(" by {prefix}"))
        .unwrap_or_default();
    let mut text = format!(
        "{}to {} ({}){by}\n",
        of_class(report.class),
        clean(&report.destination.name),
        report.destination.id
    );
    for shown in &report.ways {
        text += &way(shown);
    }
    for relay in &report.left {
        text += &format!(
            "  left: {} does not pass on what is for {}\n",
            clean(&relay.name),
            clean(&report.destination.name)
        );
    }
    text += &change(report.changed.as_ref());
    text
}

/// Whose way it is, where not all packets take it.
pub(crate) fn of_class(class: Class) -> String {
    match class {
        Class::Latency => String::new(),
        class => format!("{class} "),
    }
}

/// What changed the way last, why, and how long that took.
pub(crate) fn change(change: Option<&ChangeReport>) -> String {
    let Some(change) = change else {
        return String::new();
    };
    let why = why(change.cause.as_deref(), change.latency_us);
    let at = Timestamp::from_millis(change.at_unix_ms);
    format!("  last change {at}: {}{why}\n", clean(&change.text))
}

/// Why something happened, and how long that took.
pub(crate) fn why(cause: Option<&str>, latency_us: Option<u64>) -> String {
    let cause = cause.map_or(String::new(), |cause| format!("; cause: {}", clean(cause)));
    let took = latency_us.map_or(String::new(), |us| {
        format!(", {} after it began", micros(us))
    });
    cause + &took
}

/// One way and its hops.
pub(crate) fn way(way: &WayReport) -> String {
    let role = match way.role {
        PathRole::Used => format!("used {}", percent(way.weight_ppm)),
        PathRole::Backup => "backup".to_owned(),
        PathRole::Spare => "spare".to_owned(),
    };
    let cost = priced(way.tier, way.cost_us);
    let mut text = format!("  {role}: {}  cost {cost}\n", names(way));
    for hop in &way.hops {
        text += &hop_line(hop);
    }
    text
}

/// The nodes of a way: `r1 > r2 > r3`.
pub(crate) fn names(way: &WayReport) -> String {
    let first = way.hops.first().map(|hop| &hop.from);
    let nodes = first.into_iter().chain(way.hops.iter().map(|hop| &hop.to));
    nodes
        .map(|node| clean(&node.name))
        .collect::<Vec<_>>()
        .join(" > ")
}

fn hop_line(hop: &HopReport) -> String {
    let suspect = if hop.suspect { "  suspect" } else { "" };
    format!(
        "    {} > {}  {}  rtt {}  loss {}  cost {}{suspect}\n",
        clean(&hop.from.name),
        clean(&hop.to.name),
        or_unknown(hop.carrier, |carrier| carrier.to_string()),
        or_unknown(hop.rtt_us, micros),
        or_unknown(hop.loss_ppm, percent),
        sum(&hop.cost),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verb::sample;

    #[test]
    fn a_path_shows_its_hops_their_prices_and_the_backup() {
        insta::assert_snapshot!(show(&sample::path()), @"
        to r3 (0000000000000003) by 10.77.0.3/32
          used 100%: r1 > r2 > r3  cost 26.2ms
            r1 > r2  udp4  rtt 24.2ms  loss 3.0%  cost 13.1ms = base 100us + rtt 12.1ms + jitter 300us + loss 600us
            r2 > r3  udp4  rtt 24.2ms  loss 3.0%  cost 13.1ms = base 100us + rtt 12.1ms + jitter 300us + loss 600us
          backup: r1 > r3  cost 40.0ms
            r1 > r3  -  rtt -  loss -  cost 40.0ms
          last change 2026-11-22T22:08:00.000Z: r3 goes via r2, before via r4; cause: links of r4, 152ms after it began
        ");
    }

    #[test]
    fn a_silent_hop_and_a_relay_that_is_left_are_shown() {
        let mut path = sample::path();
        path.ways[0].hops[0].suspect = true;
        path.left = path.ways[0].hops[..1]
            .iter()
            .map(|hop| hop.to.clone())
            .collect();
        let text = show(&path);
        let silent: Vec<_> = text
            .lines()
            .filter(|line| line.ends_with("suspect"))
            .collect();
        assert!(silent.len() == 1 && silent[0].contains("r1 > r2"), "{text}");
        assert!(
            text.contains("  left: r2 does not pass on what is for r3\n"),
            "{text}"
        );
    }
}
