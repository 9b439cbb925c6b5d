//! `wattle leave`: the agent tells the others and forgets the network; without an agent, only its state is forgotten.

use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;
use wattle_agent::state::{Network, StateDir, StateError};
use wattle_control::{Client, ClientError, CoordinatorState};

use crate::agent::PATIENCE;
use crate::args::LeaveArgs;
use crate::failure::{Exit, Failure, Outcome};
use crate::output::Output;
use crate::verb::answers;

/// What the operator does in the node's place.
const NOBODY_TOLD: &str = "so nobody is told: wattle nodes remove NAME, on the coordinator's host";

/// What was left.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Left {
    /// The network; `null` where none was joined.
    network: Option<String>,
    /// Whether the coordinator was at hand to tell the others.
    told_the_others: bool,
    /// Whether nothing was changed, by `--dry-run`.
    dry_run: bool,
}

/// Leaves the network.
pub(crate) fn run(socket: &Path, args: &LeaveArgs, output: &mut Output) -> Outcome {
    let left = match Client::connect(socket, PATIENCE) {
        Ok(agent) => with_agent(agent, args, output)?,
        Err(ClientError::Unreachable { .. }) => without_agent(args, output)?,
        Err(other) => return Err(other.into()),
    };
    output.answer(answers::LEAVE, &left, show)
}

/// The coordinator tells the others; an agent that does not have it at hand leaves without a word.
fn with_agent(mut agent: Client, args: &LeaveArgs, output: &mut Output) -> Outcome<Left> {
    let status = agent.status()?;
    let coordinator = status.coordinator.as_ref().map(|report| report.state);
    if coordinator.is_some_and(|state| state != CoordinatorState::Connected) {
        output.warn(format!("the coordinator is away, {NOBODY_TOLD}"));
    }
    if !args.dry_run {
        agent.leave()?;
    }
    Ok(Left {
        network: Some(status.network.name),
        told_the_others: coordinator == Some(CoordinatorState::Connected),
        dry_run: args.dry_run,
    })
}

fn without_agent(args: &LeaveArgs, output: &mut Output) -> Outcome<Left> {
    let state = open(&args.state)?;
    let network = state.network().unwrap_or_default();
    if network
        .as_ref()
        .is_some_and(|network| network.coordinator.is_some())
    {
        output.warn(format!("no agent runs, {NOBODY_TOLD}"));
    }
    if !args.dry_run {
        state.forget_network().map_err(failure)?;
    }
    let name = network.map(|Network { name, .. }| name);
    Ok(Left {
        network: name,
        told_the_others: false,
        dry_run: args.dry_run,
    })
}

/// An agent that is just stopping holds the directory for a moment.
fn open(path: &Path) -> Outcome<StateDir> {
    if !path.exists() {
        let what = format!("{} does not exist", path.display());
        return Err(Failure::new(
            Exit::NotFound,
            what,
            "this host is no node",
            "name its state: --state DIR",
        ));
    }
    for _ in 0..10 {
        match StateDir::open(path) {
            Err(StateError::InUse { .. }) => sleep(Duration::from_millis(100)),
            opened => return opened.map_err(failure),
        }
    }
    StateDir::open(path).map_err(failure)
}

fn failure(error: StateError) -> Failure {
    Failure::new(
        Exit::Failure,
        "the state directory cannot be used",
        error,
        "",
    )
}

fn show(left: &Left) -> String {
    let Some(network) = &left.network else {
        return "this node was in no network".to_owned();
    };
    let verb = if left.dry_run { "would leave" } else { "left" };
    format!("{verb} {network}; the keys of this node stay for a later join")
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::os::unix::net::UnixListener;

    use wattle_control::{CoordinatorReport, Reply, StatusReport};

    use super::*;
    use crate::output::tests::captured;
    use crate::verb::sample;

    #[test]
    fn a_host_that_is_no_node_is_told_so() {
        let home = tempfile::tempdir().unwrap();
        let args = LeaveArgs {
            state: home.path().join("none"),
            dry_run: false,
        };
        let failure = run(&home.path().join("socket"), &args, &mut captured(false).0).unwrap_err();
        assert_eq!(failure.exit, Exit::NotFound);
    }

    #[test]
    fn the_others_are_told_only_if_the_coordinator_is_there() {
        let report = |state| CoordinatorReport {
            url: "https://c:5741".into(),
            state,
            last_heard_ms: None,
            last_error: None,
        };
        let cases = [
            (None, false, false),
            (Some(CoordinatorState::Connected), true, false),
            (Some(CoordinatorState::Connecting), false, true),
            (Some(CoordinatorState::Away), false, true),
        ];
        for (state, told, warned) in cases {
            let status = StatusReport {
                coordinator: state.map(report),
                ..sample::status()
            };
            let (home, socket) = agent(vec![Reply::Status(Box::new(status)), Reply::Done]);
            let (mut output, written) = captured(true);
            let args = LeaveArgs {
                state: home.path().join("s"),
                dry_run: false,
            };
            run(&socket, &args, &mut output).unwrap();
            let envelope: serde_json::Value = serde_json::from_str(&written()).unwrap();
            assert_eq!(envelope["data"]["told_the_others"], told, "{state:?}");
            let warnings = envelope["warnings"].to_string();
            assert_eq!(warnings.contains("nobody is told"), warned, "{warnings}");
        }
    }

    /// Answers each request of one client with the next of `replies`.
    fn agent(replies: Vec<Reply>) -> (tempfile::TempDir, std::path::PathBuf) {
        let home = tempfile::tempdir().unwrap();
        let socket = home.path().join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let requests = BufReader::new(stream.try_clone().unwrap()).lines();
            for (_, reply) in requests.zip(replies) {
                stream
                    .write_all(&wattle_control::encode(&reply).unwrap())
                    .unwrap();
            }
        });
        (home, socket)
    }

    #[test]
    fn without_an_agent_the_network_is_forgotten_and_the_keys_stay() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("s");
        let root = wattle_wire::key::SecretKey::from_seed(&[3; 32]).public();
        let state = StateDir::open(&path).unwrap();
        let node = state.keys().unwrap().node_id();
        let network = Network {
            network: root.network_id(),
            name: "lab".into(),
            root,
            coordinator: None,
            ipv4: None,
            ipv6: None,
        };
        state.store_network(&network).unwrap();
        drop(state);
        for (dry_run, there) in [(true, true), (false, false)] {
            let args = LeaveArgs {
                state: path.clone(),
                dry_run,
            };
            run(&home.path().join("socket"), &args, &mut captured(false).0).unwrap();
            assert_eq!(wattle_agent::state::has_network(&path), there);
        }
        assert_eq!(
            StateDir::open(&path).unwrap().keys().unwrap().node_id(),
            node
        );
    }
}
