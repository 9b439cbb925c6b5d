//! `wattle routes`: where prefixes are reached, from any of the three places where routes live.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use schemars::JsonSchema;
use serde::Serialize;
use wattle_control::{NextHopReport, PathRole, RouteReport, RouteSource, RouteView, RoutesReport};
use wattle_model::{Class, Prefix};

use crate::agent;
use crate::args::RoutesArgs;
use crate::failure::{Exit, Failure, Outcome};
use crate::human::{clean, micros, percent};
use crate::output::Output;
use crate::verb::answers;

/// A prefix and where it is, when it is not everywhere.
#[derive(Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Difference {
    /// The prefix.
    prefix: Prefix,
    /// Whether routing decided it.
    in_rib: bool,
    /// Whether packets follow it.
    in_fib: bool,
    /// Whether the kernel sends it to the device.
    in_kernel: bool,
}

/// Shows routes, or how their three places differ.
pub(crate) fn run(socket: &Path, args: &RoutesArgs, output: &mut Output) -> Outcome {
    if args.diff {
        return diff(socket, output);
    }
    let view = match args {
        RoutesArgs { fib: true, .. } => RouteView::Fib,
        RoutesArgs { kernel: true, .. } => RouteView::Kernel,
        _ => RouteView::Rib,
    };
    let report = agent::connect(socket, output)?.routes(view, args.class)?;
    output.answer(answers::ROUTES, &report, show)
}

fn diff(socket: &Path, output: &mut Output) -> Outcome {
    let mut client = agent::connect(socket, output)?;
    let mut ask = |view| client.routes(view, Class::Latency);
    let (rib, fib, kernel) = (
        ask(RouteView::Rib)?,
        ask(RouteView::Fib)?,
        ask(RouteView::Kernel)?,
    );
    let differences = differences(&rib, &fib, &kernel);
    output.answer(answers::ROUTES_DIFF, &differences, |found| {
        show_differences(found)
    })?;
    if differences.is_empty() {
        return Ok(());
    }
    let why = format!("{} prefixes are not in all three places", differences.len());
    Err(Failure::new(
        Exit::Check,
        "the routes differ",
        why,
        "journalctl -u wattled -n 50",
    ))
}

/// The kernel leads every prefix to the agent; one wide route may stand for many, and own prefixes need none.
fn differences(rib: &RoutesReport, fib: &RoutesReport, kernel: &RoutesReport) -> Vec<Difference> {
    let foreign = |report: &RoutesReport| -> BTreeSet<Prefix> {
        let foreign = report
            .routes
            .iter()
            .filter(|route| route.source != RouteSource::Local);
        foreign.map(|route| route.prefix).collect()
    };
    let (rib, fib, kernel) = (foreign(rib), foreign(fib), foreign(kernel));
    let covered = |prefix: &Prefix| {
        kernel.iter().any(|wide| {
            wide.is_ipv6() == prefix.is_ipv6()
                && wide.length() <= prefix.length()
                && wide.contains(prefix.address())
        })
    };
    let all: BTreeSet<Prefix> = rib.union(&fib).copied().collect();
    let places = all.into_iter().map(|prefix| Difference {
        prefix,
        in_rib: rib.contains(&prefix),
        in_fib: fib.contains(&prefix),
        in_kernel: covered(&prefix),
    });
    places
        .filter(|place| !(place.in_rib && place.in_fib && place.in_kernel))
        .collect()
}

fn show_differences(differences: &[Difference]) -> String {
    let mut text = String::new();
    for Difference {
        prefix,
        in_rib,
        in_fib,
        in_kernel,
    } in differences
    {
        let missing = BTreeMap::from([("rib", in_rib), ("fib", in_fib), ("kernel", in_kernel)]);
        let missing: Vec<_> = missing
            .iter()
            .filter(|(_, there)| !***there)
            .map(|(p, _)| *p)
            .collect();
        text += &format!("! {prefix} missing in {}\n", missing.join(", "));
    }
    text
}

fn show(report: &RoutesReport) -> String {
    report.routes.iter().map(route).collect()
}

fn route(route: &RouteReport) -> String {
    let owner = route
        .node
        .as_ref()
        .map(|node| format!(" {}", clean(&node.name)));
    let device = route
        .device
        .as_ref()
        .map(|device| format!(" dev {}", clean(device)));
    let table = route.table.map(|table| format!(" table {table}"));
    let source = match route.source {
        RouteSource::Local => " local",
        RouteSource::Address => "",
        RouteSource::Announced => " announced",
        RouteSource::Leaf => " leaf",
        RouteSource::Kernel => " kernel",
    };
    let rest = [owner, device, table]
        .map(Option::unwrap_or_default)
        .concat();
    let mut text = format!("> {}{rest}{source}\n", route.prefix);
    for hop in &route.next_hops {
        text += &next_hop(hop);
    }
    text
}

fn next_hop(hop: &NextHopReport) -> String {
    let cost = hop
        .cost_us
        .map(|cost| format!(" cost {}", micros(cost.into())));
    let role = match hop.role {
        PathRole::Used => format!(" weight {}", percent(hop.weight_ppm)),
        PathRole::Backup => " backup".to_owned(),
        PathRole::Spare => " spare".to_owned(),
    };
    let cost = cost.unwrap_or_default();
    format!(
        "    via {} (link {}){cost}{role}\n",
        clean(&hop.via.name),
        hop.link.0
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verb::sample;

    #[test]
    fn a_prefix_and_its_ways() {
        insta::assert_snapshot!(show(&sample::routes()), @"
        > 10.77.0.1/32 r1 local
        > 10.77.0.2/32 r2
            via r2 (link 2) cost 13.1ms weight 100%
            via r3 (link 3) cost 40.0ms backup
        > 192.168.7.0/24 r2 announced
            via r2 (link 2) cost 13.1ms weight 60%
            via r3 (link 3) cost 14.0ms weight 40%
        ");
    }

    #[test]
    fn a_prefix_missing_in_one_place_is_found_and_a_wide_kernel_route_is_enough() {
        let rib = sample::routes();
        let mut fib = sample::routes();
        let mut kernel = sample::routes();
        kernel.routes.truncate(1);
        kernel.routes[0].prefix = "10.77.0.0/16".parse().unwrap();
        kernel.routes[0].source = RouteSource::Kernel;
        fib.routes
            .retain(|route| route.prefix != "10.77.0.2".parse().unwrap());
        let found = differences(&rib, &fib, &kernel);
        assert_eq!(
            show_differences(&found),
            "! 10.77.0.2/32 missing in fib\n! 192.168.7.0/24 missing in kernel\n"
        );
    }
}
