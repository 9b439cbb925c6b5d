//! `wattle init`: the first steps of a network in one: the coordinator's state, the coordinator, this node, an invitation.

use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde::Serialize;
use wattle_api::rest::{TokenCreated, TokenRequest};

use crate::args::{CoordinatorArgs, InitArgs, JoinArgs};
use crate::coordinator::{Coordinator, DEFAULT_STATE, block_on};
use crate::failure::{Exit, Failure, Outcome};
use crate::output::Output;
use crate::verb::join;

/// A coordinator that has just been started serves within this time.
const STARTS_WITHIN: Duration = Duration::from_secs(10);

/// What was made.
#[derive(Debug, Serialize)]
struct Initialised {
    network: String,
    state: std::path::PathBuf,
    started: bool,
    joined: bool,
    /// For the next host; absent while no coordinator runs.
    token: Option<String>,
}

/// Makes a network.
pub(crate) fn run(args: &InitArgs, output: &mut Output) -> Outcome {
    make_state(args)?;
    let started = args.state == Path::new(DEFAULT_STATE) && start(output);
    let mut initialised = Initialised {
        network: args.name.to_string(),
        state: args.state.clone(),
        started,
        joined: false,
        token: None,
    };
    if started {
        if !args.no_join {
            join::run(&invited(first_token(args)?), output)?;
            initialised.joined = true;
        }
        initialised.token = Some(first_token(args)?);
    }
    output.answer("init", &initialised, show)
}

fn make_state(args: &InitArgs) -> Outcome {
    let mut command = Command::new("wattle-coordinator");
    command
        .arg("init")
        .arg("--state")
        .arg(&args.state)
        .args(["--name", args.name.as_str()]);
    for address in &args.advertise {
        command.args(["--advertise", address]);
    }
    if let Some(listen) = args.listen {
        command.args(["--listen", &listen.to_string()]);
    }
    for (flag, prefix) in [("--ipv4", args.ipv4), ("--ipv6", args.ipv6)] {
        if let Some(prefix) = prefix {
            command.args([flag, &prefix.to_string()]);
        }
    }
    let what = "the coordinator's state was not made";
    let made = command.output().map_err(|error| match error.kind() {
        ErrorKind::NotFound => Failure::new(
            Exit::NotFound,
            what,
            "the program wattle-coordinator is not installed",
            "apt install ./wattle-coordinator_*.deb",
        ),
        _ => Failure::file(what, &error, "run wattle-coordinator init by hand"),
    })?;
    if made.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&made.stderr).trim().to_owned();
    let exit = made
        .status
        .code()
        .filter(|code| *code == 2)
        .map_or(Exit::Failure, |_| Exit::Usage);
    Err(Failure::new(exit, what, why, "wattle init --help"))
}

/// Whether systemd runs the coordinator now.
fn start(output: &mut Output) -> bool {
    if !Path::new("/run/systemd/system").exists() {
        return false;
    }
    let status = Command::new("systemctl")
        .args(["enable", "--now", "--quiet", "wattle-coordinator"])
        .status();
    let started = status.is_ok_and(|status| status.success());
    if !started {
        output.warn("the coordinator did not start: journalctl -u wattle-coordinator -n 50");
    }
    started
}

/// A token; the coordinator may still be starting.
fn first_token(args: &InitArgs) -> Outcome<String> {
    let coordinator = CoordinatorArgs {
        coordinator: None,
        fingerprint: None,
        token_file: None,
        coordinator_state: args.state.clone(),
    };
    let end = Instant::now() + STARTS_WITHIN;
    loop {
        let created: Outcome<TokenCreated> = block_on(async {
            Coordinator::connect(&coordinator)
                .await?
                .post("/tokens", &TokenRequest::default())
                .await
        });
        match created {
            Ok(created) => return Ok(created.token),
            Err(failure) if failure.exit != Exit::Unreachable || Instant::now() >= end => {
                return Err(failure);
            }
            Err(_) => sleep(Duration::from_millis(100)),
        }
    }
}

fn invited(token: String) -> JoinArgs {
    JoinArgs {
        token,
        state: wattle_agent::state::DEFAULT_STATE.into(),
        name: None,
        announce: Vec::new(),
        no_start: false,
    }
}

fn show(initialised: &Initialised) -> String {
    let Initialised {
        network,
        state,
        token,
        ..
    } = initialised;
    match token {
        Some(token) => format!(
            "network {network}: on the next host run, within ten minutes:\nwattle join {token}"
        ),
        None => format!(
            "network {network} is made in {state}. Next:\n\
             wattle-coordinator run --state {state}\n\
             wattle tokens create --coordinator-state {state}",
            state = state.display()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_systemd_the_next_commands_are_told() {
        let initialised = Initialised {
            network: "lab".into(),
            state: "/srv/c".into(),
            started: false,
            joined: false,
            token: None,
        };
        let text = show(&initialised);
        assert!(text.ends_with(
            "wattle-coordinator run --state /srv/c\nwattle tokens create --coordinator-state /srv/c"
        ));
    }

    #[test]
    fn the_last_line_is_the_invitation() {
        let initialised = Initialised {
            network: "lab".into(),
            state: "/srv/c".into(),
            started: true,
            joined: true,
            token: Some("wattle1-x".into()),
        };
        assert_eq!(
            show(&initialised).lines().last(),
            Some("wattle join wattle1-x")
        );
    }
}
