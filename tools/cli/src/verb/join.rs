//! `wattle join`: makes this host a node of a network.

use std::io::Read as _;
use std::path::Path;
use std::process::Command;

use schemars::JsonSchema;
use serde::Serialize;
use wattle_agent::config::CONFIG_FILE;
use wattle_agent::coordinator::{ConnectionError, JoinError, JoinRequest, Joined};
use wattle_agent::state::{DEFAULT_STATE, StateDir, StateError};
use wattle_api::token::JoinToken;
use wattle_model::NodeName;

use crate::args::JoinArgs;
use crate::coordinator::block_on;
use crate::failure::{Exit, Failure, Outcome};
use crate::output::Output;
use crate::settings::{self, Settings};
use crate::verb::answers;

/// What the host has become.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Membership {
    /// The network.
    network: wattle_control::NetworkRef,
    /// Its name in the network.
    name: NodeName,
    /// How many other nodes the network has.
    others: usize,
    /// Its state directory.
    state: std::path::PathBuf,
    /// Whether its agent was started.
    started: bool,
}

/// Joins with the token and starts the agent.
pub(crate) fn run(args: &JoinArgs, output: &mut Output) -> Outcome {
    if args.dry_run {
        return would_join(args, output);
    }
    let membership = become_node(args, output)?;
    output.answer(answers::JOIN, &membership, show)?;
    if !membership.started {
        output.note(&format!(
            "start it: wattled --state {}",
            args.state.display()
        ));
    }
    Ok(())
}

/// Makes this host a node and starts its agent; what it has become is for the caller to tell.
pub(super) fn become_node(args: &JoinArgs, output: &mut Output) -> Outcome<Membership> {
    let token = token(&args.token)?;
    let settings = announcing(args)?;
    let state = StateDir::open(&args.state).map_err(state_failure)?;
    refuse_member(&state)?;
    let request = JoinRequest {
        token,
        name: args.name.clone().or_else(host_name),
        prefixes: args.announce.clone(),
        candidates: Vec::new(),
    };
    let joined = block_on(async { Ok(wattle_agent::coordinator::join(&state, request).await) })?;
    let joined = joined.map_err(join_failure)?;
    if let Some(settings) = &settings {
        store_settings(&state, settings, output)?;
    }
    // The agent takes the lock of the directory.
    drop(state);
    let started = !args.no_start && args.state == Path::new(DEFAULT_STATE) && start_agent(output);
    Ok(describe(joined, &args.state, started))
}

/// Made before the token is used up: settings that the agent refuses would leave half a node.
fn announcing(args: &JoinArgs) -> Outcome<Option<Settings>> {
    if args.announce.is_empty() {
        return Ok(None);
    }
    settings::announcing(&args.state, &args.announce).map(Some)
}

/// What the agent announces is what its settings say.
fn store_settings(state: &StateDir, settings: &Settings, output: &mut Output) -> Outcome {
    state
        .store_file(CONFIG_FILE, settings.text.as_bytes())
        .map_err(|error| {
            let what = "this host has joined, but what it announces could not be stored";
            let next = "list the networks as `prefixes` in its wattled.toml, then systemctl restart wattled";
            Failure::new(Exit::Failure, what, error, next)
        })?;
    if let Some(system) = &settings.copied_from {
        output.note(&format!(
            "{} is made from {}, with what is announced; the agent reads it alone",
            state.path().join(CONFIG_FILE).display(),
            system.display()
        ));
    }
    Ok(())
}

/// What a join would be.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Intended {
    /// The network's id.
    network: wattle_model::NetworkId,
    /// Where the coordinator is asked: `host:port`.
    coordinators: Vec<String>,
    /// The name to ask for; `null` leaves it to the coordinator.
    name: Option<NodeName>,
    /// What the node would announce.
    announce: Vec<wattle_model::Prefix>,
    /// Its state directory.
    state: std::path::PathBuf,
    /// Always true.
    dry_run: bool,
}

/// The coordinator is not asked: looking a token up is joining with it.
fn would_join(args: &JoinArgs, output: &mut Output) -> Outcome {
    let token = token(&args.token)?;
    announcing(args)?;
    if wattle_agent::state::has_network(&args.state) {
        return Err(member("a network", &args.state));
    }
    let intended = Intended {
        network: token.network,
        coordinators: token.addresses,
        name: args.name.clone().or_else(host_name),
        announce: args.announce.clone(),
        state: args.state.clone(),
        dry_run: true,
    };
    output.answer(answers::JOIN_DRY_RUN, &intended, |intended| {
        format!(
            "would join the network {} at {}, with state in {}; the coordinator was not asked, nothing was changed",
            intended.network,
            intended.coordinators.join(", "),
            intended.state.display()
        )
    })
}

fn token(given: &str) -> Outcome<JoinToken> {
    let mut text = given.to_owned();
    if given == "-" {
        text.clear();
        std::io::stdin()
            .take(4_096)
            .read_to_string(&mut text)
            .map_err(|error| {
                Failure::file(
                    "cannot read the token",
                    &error,
                    "pipe it into `wattle join -`",
                )
            })?;
    }
    text.trim().parse().map_err(|error| {
        Failure::new(
            Exit::Usage,
            "the token is not valid",
            error,
            "wattle tokens create, on the coordinator's host",
        )
    })
}

fn refuse_member(state: &StateDir) -> Outcome {
    let Some(network) = state.network().map_err(state_failure)? else {
        return Ok(());
    };
    Err(member(
        &format!("the network {}", network.name),
        state.path(),
    ))
}

fn member(network: &str, state: &Path) -> Failure {
    let what = format!("this node is in {network} already");
    let why = format!("{} holds its state", state.display());
    let next = "wattle leave, or another directory: --state DIR";
    Failure::new(Exit::Failure, what, why, next)
}

/// The first label of the host's name, if it can be a node's name.
fn host_name() -> Option<NodeName> {
    let name = nix::unistd::gethostname().ok()?.into_string().ok()?;
    name.split('.').next()?.to_lowercase().parse().ok()
}

fn state_failure(error: StateError) -> Failure {
    let exit = match &error {
        StateError::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
            Exit::Permission
        }
        StateError::ForeignOwner { .. } => Exit::Permission,
        _ => Exit::Failure,
    };
    let next = if exit == Exit::Permission {
        "sudo wattle join …"
    } else {
        ""
    };
    Failure::new(exit, "the state directory cannot be used", error, next)
}

fn join_failure(error: JoinError) -> Failure {
    let what = "this host did not become a node";
    match error {
        JoinError::Refused { message, hint } => Failure::new(Exit::Failure, what, message, hint),
        JoinError::Connection(error) => {
            let exit = match error {
                ConnectionError::Unreachable { .. } => Exit::Unreachable,
                ConnectionError::Slow(_) => Exit::Timeout,
                _ => Exit::Failure,
            };
            let next = "systemctl status wattle-coordinator on the coordinator's host; is TCP 5741 let through?";
            Failure::new(exit, what, error, next)
        }
        JoinError::State(error) => state_failure(error),
        other => Failure::new(
            Exit::Failure,
            what,
            other,
            "wattle tokens create, on the coordinator's host",
        ),
    }
}

/// Whether systemd runs the agent now.
pub(super) fn start_agent(output: &mut Output) -> bool {
    if !Path::new("/run/systemd/system").exists() {
        return false;
    }
    let status = Command::new("systemctl")
        .args(["enable", "--now", "--quiet", "wattled"])
        .status();
    let started = status.is_ok_and(|status| status.success());
    if !started {
        output.warn("the agent did not start: journalctl -u wattled -n 50");
    }
    started
}

fn describe(joined: Joined, state: &Path, started: bool) -> Membership {
    let Joined {
        network,
        others,
        name,
    } = joined;
    let network = wattle_control::NetworkRef {
        id: network.network,
        name: network.name,
    };
    Membership {
        network,
        name,
        others,
        state: state.to_owned(),
        started,
    }
}

pub(super) fn show(membership: &Membership) -> String {
    let Membership {
        network,
        name,
        others,
        started,
        ..
    } = membership;
    let next = if *started { "; the agent runs" } else { "" };
    format!(
        "joined {} as {name}, with {others} others{next}",
        network.name
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::tests::captured;

    #[test]
    fn a_damaged_token_is_a_usage_error_that_says_how_to_get_another() {
        for text in ["", "hello", "wattle1-", "wattle1-AAAA"] {
            let failure = token(text).unwrap_err();
            assert_eq!(failure.exit, Exit::Usage);
            assert!(failure.next.contains("wattle tokens create"));
        }
    }

    #[test]
    fn a_refusal_of_the_coordinator_is_told_with_its_hint() {
        let refused = JoinError::Refused {
            message: "the token was used".into(),
            hint: "make another".into(),
        };
        let failure = join_failure(refused);
        assert_eq!(
            (failure.why.as_str(), failure.next.as_str()),
            ("the token was used", "make another")
        );
        let away = ConnectionError::Slow("c:5741".into());
        assert_eq!(
            join_failure(JoinError::Connection(away)).exit,
            Exit::Timeout
        );
    }

    #[test]
    fn a_dry_run_joins_nothing_and_makes_nothing() {
        let home = tempfile::tempdir().unwrap();
        let state = home.path().join("s");
        let token = JoinToken {
            network: wattle_model::NetworkId(7),
            fingerprint: [0; 32],
            secret: wattle_api::token::Secret::new([0; 32]),
            // Nobody listens there: who asked would fail.
            addresses: vec!["127.0.0.1:1".into()],
        };
        let args = JoinArgs {
            token: token.to_string(),
            state: state.clone(),
            name: None,
            announce: vec!["10.1.0.0/16".parse().unwrap()],
            no_start: false,
            dry_run: true,
        };
        let (mut output, written) = captured(true);
        run(&args, &mut output).unwrap();
        assert!(
            written().contains(r#""announce":["10.1.0.0/16"]"#),
            "{}",
            written()
        );
        assert!(!state.exists());
    }

    #[test]
    fn what_is_announced_is_stored_where_the_agent_reads_it() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("s");
        let state = StateDir::open(&path).unwrap();
        let announced = settings::announcing(&path, &["10.1.0.0/16".parse().unwrap()]).unwrap();
        store_settings(&state, &announced, &mut captured(true).0).unwrap();
        let config = wattle_agent::config::Config::load(None, &path).unwrap();
        assert_eq!(config.prefixes, ["10.1.0.0/16".parse().unwrap()]);
    }

    #[test]
    fn a_member_does_not_join_twice() {
        let home = tempfile::tempdir().unwrap();
        let state = StateDir::open(&home.path().join("s")).unwrap();
        assert!(refuse_member(&state).is_ok());
        let root = wattle_wire::key::SecretKey::from_seed(&[3; 32]).public();
        let network = wattle_agent::state::Network {
            network: root.network_id(),
            name: "lab".into(),
            root,
            coordinator: None,
            ipv4: None,
            ipv6: None,
        };
        state.store_network(&network).unwrap();
        assert!(
            refuse_member(&state)
                .unwrap_err()
                .what
                .contains("in the network lab already")
        );
    }
}
