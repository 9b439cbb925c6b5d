//! The verbs. Each takes its arguments and writes to the output; most only ask and show.

mod alerts;
pub(crate) mod answers;
mod drain;
mod events;
mod explain;
mod init;
mod join;
mod kafka;
mod leave;
mod leaves;
mod links;
mod manual;
mod network;
mod nodes;
mod path;
mod peers;
mod ping;
mod prefer;
mod routes;
mod status;
mod tokens;
mod topo;
mod topology;
mod trace;
mod version;
mod whoami;

use crate::args::{Cli, LinksVerb, NetworkVerb, Verb};
use crate::failure::Outcome;
use crate::output::Output;

/// Does what the command line says.
pub(crate) fn run(cli: Cli, output: &mut Output) -> Outcome {
    let socket = cli.socket.as_path();
    match cli.verb {
        Verb::Init(args) => init::run(&args, output),
        Verb::Join(args) => join::run(&args, output),
        Verb::Leave(args) => leave::run(socket, &args, output),
        Verb::Status(args) => status::run(socket, &args, output),
        Verb::Peers => peers::run(socket, output),
        Verb::Links(args) => match args.verb {
            Some(LinksVerb::Show { neighbour }) => links::show(socket, &neighbour, output),
            None => links::run(socket, args.neighbour, output),
        },
        Verb::Routes(args) => routes::run(socket, &args, output),
        Verb::Topo(args) => topo::run(socket, args.format, output),
        Verb::Path(args) => path::run(socket, args, output),
        Verb::Trace(args) => trace::run(socket, &args, output),
        Verb::Drain(args) => drain::run(socket, &args, output),
        Verb::Undrain(args) => drain::undo(socket, &args, output),
        Verb::Prefer(args) => prefer::run(socket, args, output),
        Verb::Ping(args) => ping::run(socket, &args, output),
        Verb::Explain(args) => explain::run(socket, args, output),
        Verb::Events(args) => events::run(socket, args.follow, output),
        Verb::Topology(verb) => topology::run(verb, output),
        Verb::Kafka(verb) => kafka::run(verb, output),
        Verb::Whoami => whoami::run(socket, output),
        Verb::Metrics => whoami::metrics(socket, output),
        Verb::Network(NetworkVerb::Create { offline, nodes }) => {
            network::create(&offline, &nodes, output)
        }
        Verb::Alerts { coordinator } => alerts::run(&coordinator, output),
        Verb::Nodes(verb) => nodes::run(verb, output),
        Verb::Tokens(verb) => tokens::run(verb, output),
        Verb::Leaves(verb) => leaves::run(verb, output),
        Verb::Version => version::run(socket, output),
        Verb::Completion { shell } => manual::completion(shell, output),
        Verb::Man { directory } => manual::man(directory.as_deref(), output),
    }
}

#[cfg(test)]
pub(crate) mod sample;
