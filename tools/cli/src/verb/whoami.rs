//! `wattle whoami` and `wattle metrics`: the agent about itself.

use std::path::Path;

use wattle_api::Timestamp;
use wattle_control::{Role, WhoamiReport};

use crate::agent;
use crate::failure::Outcome;
use crate::human::{clean, list};
use crate::output::Output;
use crate::verb::answers;

/// Shows who the node is and what the caller may do.
pub(crate) fn run(socket: &Path, output: &mut Output) -> Outcome {
    let report = agent::connect(socket, output)?.whoami()?;
    output.answer(answers::WHOAMI, &report, show)
}

/// Prints the agent's metrics.
pub(crate) fn metrics(socket: &Path, output: &mut Output) -> Outcome {
    let report = agent::connect(socket, output)?.metrics()?;
    output.answer(answers::METRICS, &report, |report| report.text.clone())
}

fn show(report: &WhoamiReport) -> String {
    let ends = report
        .grant_not_after_unix_ms
        .map(|at| Timestamp::from_millis(at).to_string());
    let may = match report.caller_role {
        Role::Admin => "look and change",
        Role::Reader => "look",
    };
    let lines = [
        ("node", format!("{} ({})", report.node.name, report.node.id)),
        (
            "network",
            format!("{} ({})", report.network.name, report.network.id),
        ),
        ("addresses", list(&report.addresses)),
        ("identity key", report.identity_key.clone()),
        ("wireguard key", report.public_key.to_string()),
        ("grant ends", ends.unwrap_or_else(|| "never".to_owned())),
        ("you", format!("user {}, may {may}", report.caller_uid)),
    ];
    lines.iter().fold(String::new(), |text, (name, value)| {
        text + &format!("{name:<14} {}\n", clean(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verb::sample;

    #[test]
    fn it_tells_the_node_its_keys_and_the_callers_rights() {
        insta::assert_snapshot!(show(&sample::whoami()), @"
        node           r1 (0000000000000001)
        network        lab (00000000000000aa)
        addresses      10.77.0.1 fd57::1
        identity key   AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=
        wireguard key  AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=
        grant ends     2026-11-22T22:08:00.000Z
        you            user 1000, may look
        ");
    }
}
