//! `wattle status`: one screen, or one exit code.

use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use wattle_control::{
    CoordinatorReport, CoordinatorState, DrainMode, HealthLevel, LinkReport, StatusReport,
};

use crate::agent;
use crate::args::{Check, StatusArgs};
use crate::failure::{Exit, Failure, Outcome, gave_up};
use crate::human::{clean, list, micros, millis, or_unknown, percent};
use crate::output::Output;
use crate::verb::answers;

/// Between two looks while waiting: small against a second, costs the agent nothing.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Shows the status, or checks it.
pub(crate) fn run(socket: &Path, args: &StatusArgs, output: &mut Output) -> Outcome {
    match (args.check, args.wait) {
        (None, _) => {
            let report = agent::connect(socket, output)?.status()?;
            output.answer(answers::STATUS, &*report, screen)
        }
        (Some(check), None) => {
            let report = agent::connect(socket, output)?.status()?;
            output.answer(answers::STATUS, &*report, |report| verdict(check, report))?;
            passes(check, &report)
        }
        (Some(check), Some(seconds)) => wait(socket, check, Duration::from_secs(seconds), output),
    }
}

fn wait(socket: &Path, check: Check, patience: Duration, output: &mut Output) -> Outcome {
    let end = Instant::now() + patience;
    loop {
        let looked = agent::connect(socket, output).and_then(|mut client| Ok(client.status()?));
        match &looked {
            Ok(report) if passes(check, report).is_ok() => {
                return output.answer(answers::STATUS, &**report, |report| verdict(check, report));
            }
            Err(failure) if failure.exit == Exit::Permission => return looked.map(drop),
            Ok(_) | Err(_) => {}
        }
        if Instant::now() >= end {
            let mut failure = gave_up(word(check), patience, "wattle status");
            if let Err(seen) = looked.and_then(|report| passes(check, &report)) {
                failure.why += &format!(": {}", seen.why);
            }
            return Err(failure);
        }
        sleep(LOOK_EVERY);
    }
}

const fn word(check: Check) -> &'static str {
    match check {
        Check::Live => "live",
        Check::Ready => "ready",
        Check::Converged => "converged",
    }
}

fn verdict(check: Check, report: &StatusReport) -> String {
    match passes(check, report) {
        Ok(()) => format!("{} is {}", clean(&report.node.name), word(check)),
        Err(failure) => format!(
            "{} is not {}: {}",
            clean(&report.node.name),
            word(check),
            failure.why
        ),
    }
}

fn passes(check: Check, report: &StatusReport) -> Outcome {
    let passed = match check {
        Check::Live => true,
        Check::Ready => report.ready,
        Check::Converged => report.ready && report.converged,
    };
    if passed {
        return Ok(());
    }
    let why = match report.waiting_for.as_slice() {
        [] => "the agent is starting".to_owned(),
        waiting => format!("waiting for {}", clean(&waiting.join(", "))),
    };
    let what = format!("the node is not {}", word(check));
    Err(Failure::new(
        Exit::Check,
        what,
        why,
        "wattle peers, wattle links",
    ))
}

fn screen(report: &StatusReport) -> String {
    let mut lines = vec![
        (
            "node",
            format!(
                "{} ({})  {}",
                report.node.name,
                report.node.id,
                list(&report.addresses)
            ),
        ),
        (
            "network",
            format!("{} ({})", report.network.name, report.network.id),
        ),
        ("agent", agent_line(report)),
        (
            "coordinator",
            or_unknown(report.coordinator.as_ref(), coordinator_line),
        ),
        (
            "peers",
            format!(
                "{}/{} reachable",
                report.peers_reachable, report.peers_total
            ),
        ),
        (
            "links",
            format!("{}/{} up", report.links_up, report.links_total),
        ),
        ("routes", report.routes_total.to_string()),
        ("announces", list(&report.prefixes)),
        ("offloads", list(&report.offloads)),
        (
            "workers",
            format!("{}/{} carry packets", report.workers_active, report.workers),
        ),
        ("peer set", format!("revision {}", report.peer_set_revision)),
        (
            "worst link",
            or_unknown(report.worst_link.as_ref(), link_line),
        ),
    ];
    if !report.ready {
        lines.push((
            "state",
            format!("not ready: waiting for {}", report.waiting_for.join(", ")),
        ));
    } else if !report.converged {
        lines.push((
            "state",
            format!("settling: waiting for {}", report.waiting_for.join(", ")),
        ));
    } else {
        lines.push(("state", "converged".to_owned()));
    }
    let mut text = String::new();
    for (name, value) in lines {
        text += &format!("{name:<12} {}\n", clean(&value));
    }
    if let Some(drain) = &report.drain {
        let how = match drain.mode {
            DrainMode::Soft => "others go around this node where they can",
            DrainMode::Hard => "others go around this node, or nowhere",
        };
        let left = drain.left_s.map(|left| format!(" for {left} s"));
        text += &format!("! drained{}: {how}\n", left.unwrap_or_default());
    }
    for preference in &report.preferences {
        let to = preference.destination.as_ref();
        let to = to.map_or(String::new(), |node| format!(" to {}", clean(&node.name)));
        text += &format!("! packets{to} prefer {}\n", clean(&preference.via.name));
    }
    for line in &report.health {
        let level = match line.level {
            HealthLevel::Info => "info",
            HealthLevel::Warning => "warning",
            HealthLevel::Error => "error",
        };
        text += &format!("# {level}: {} ({})\n", clean(&line.text), clean(&line.code));
    }
    text
}

fn agent_line(report: &StatusReport) -> String {
    format!(
        "{}, up {}, {} mtu {}, udp port {}, pid {}",
        report.version,
        millis(report.uptime_ms),
        report.interface,
        report.mtu_bytes,
        report.listen_port,
        report.pid
    )
}

fn coordinator_line(coordinator: &CoordinatorReport) -> String {
    let state = match coordinator.state {
        CoordinatorState::Connected => "connected",
        CoordinatorState::Connecting => "connecting",
        CoordinatorState::Away => "away",
    };
    let heard = coordinator
        .last_heard_ms
        .map(|ms| format!(", heard {} ago", millis(ms)));
    let error = coordinator
        .last_error
        .as_ref()
        .map(|error| format!(", {error}"));
    format!(
        "{state} {}{}{}",
        coordinator.url,
        heard.unwrap_or_default(),
        error.unwrap_or_default()
    )
}

fn link_line(link: &LinkReport) -> String {
    format!(
        "{} {} rtt {} jitter {} loss {} cost {}",
        link.peer.name,
        link.carrier,
        or_unknown(link.rtt_us, micros),
        or_unknown(link.jitter_us, micros),
        or_unknown(link.loss_ppm, percent),
        or_unknown(link.cost, |cost| micros(cost.total_us.into())),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verb::sample;

    #[test]
    fn one_screen_tells_how_the_node_does() {
        insta::assert_snapshot!(screen(&sample::status()), @"
        node         r1 (0000000000000001)  10.77.0.1
        network      lab (00000000000000aa)
        agent        0.1.0, up 1m01s, wattle0 mtu 1360, udp port 51820, pid 42
        coordinator  away https://c:5741, heard 12s ago, connection refused
        peers        1/2 reachable
        links        1/2 up
        routes       3
        announces    192.168.9.0/24
        offloads     vnet tso
        workers      1/2 carry packets
        peer set     revision 4
        worst link   r2 udp4 rtt 24.2ms jitter 300us loss 3.0% cost 13.1ms
        state        settling: waiting for r3
        # warning: r3 is not reachable (peer_unreachable)
        ");
    }

    #[test]
    fn a_check_passes_or_fails_with_5_and_says_what_is_waited_for() {
        let mut report = sample::status();
        assert!(passes(Check::Live, &report).is_ok());
        assert!(passes(Check::Ready, &report).is_ok());
        let failure = passes(Check::Converged, &report).unwrap_err();
        assert_eq!(
            (failure.exit, failure.why.as_str()),
            (Exit::Check, "waiting for r3")
        );
        report.ready = false;
        report.converged = true;
        assert!(
            passes(Check::Converged, &report).is_err(),
            "what is not ready is not converged"
        );
    }
}
