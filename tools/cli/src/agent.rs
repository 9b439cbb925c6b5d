//! The way to the agent: connect to its socket, name the node in the envelope.

use std::path::Path;
use std::time::Duration;

use wattle_control::Client;

use crate::failure::Outcome;
use crate::output::Output;

/// The agent answers from memory; what takes longer than this is stuck.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// Connects to the agent; an envelope needs the node's name, so it is asked for.
pub(crate) fn connect(socket: &Path, output: &mut Output) -> Outcome<Client> {
    let mut client = Client::connect(socket, PATIENCE)?;
    if output.is_json() {
        output.name_node(&client.whoami()?.node);
    }
    Ok(client)
}
