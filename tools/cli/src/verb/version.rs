//! `wattle version`: of this program and of the agent.

use std::path::Path;

use schemars::JsonSchema;
use serde::Serialize;

use crate::agent::PATIENCE;
use crate::failure::Outcome;
use crate::output::Output;
use crate::verb::answers;

/// The versions.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Versions {
    /// This program's.
    cli: &'static str,
    /// The agent's; `null` while none runs.
    agent: Option<String>,
}

/// Shows the versions; an agent that is not running is no failure.
pub(crate) fn run(socket: &Path, output: &mut Output) -> Outcome {
    let agent =
        wattle_control::Client::connect(socket, PATIENCE).and_then(|mut agent| agent.version());
    let versions = Versions {
        cli: env!("CARGO_PKG_VERSION"),
        agent: agent.ok().map(|report| report.version),
    };
    if versions
        .agent
        .as_deref()
        .is_some_and(|agent| agent != versions.cli)
    {
        output.warn("the agent has another version: systemctl restart wattled");
    }
    output.answer(answers::VERSION, &versions, |versions| {
        let agent = versions.agent.as_deref().unwrap_or("not running");
        format!("wattle {}\nwattled {agent}\n", versions.cli)
    })
}
