//! `wattled`, the agent. Reads its flags and hands over to the library.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use wattle_agent::config::Overrides;
use wattle_agent::startup::{self, Options};
use wattle_agent::state::DEFAULT_STATE;

/// Joins this host to its Wattle network and forwards its packets.
///
/// Settings come from STATE/wattled.toml, else /etc/wattle/wattled.toml, else the defaults; flags win over both.
/// The node must have joined a network before: see `wattle join` and `wattle network create --offline`.
#[derive(Debug, Parser)]
#[command(name = "wattled", version)]
struct Flags {
    /// Directory of the node's keys and peer set.
    #[arg(long, value_name = "DIR", env = "WATTLE_STATE", default_value = DEFAULT_STATE)]
    state: PathBuf,
    /// Configuration file to read instead of the usual ones.
    #[arg(long, value_name = "FILE", env = "WATTLE_CONFIG")]
    config: Option<PathBuf>,
    /// Name of the TUN device.
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,
    /// UDP port to listen on; 0 for any.
    #[arg(long, value_name = "PORT")]
    listen_port: Option<u16>,
    /// Path of the local socket.
    #[arg(long, value_name = "PATH", env = "WATTLE_SOCKET")]
    socket: Option<PathBuf>,
    /// Loopback address to serve metrics on.
    #[arg(long, value_name = "ADDR:PORT")]
    metrics: Option<SocketAddr>,
    /// Log level or filter directives.
    #[arg(long, value_name = "FILTER", env = "WATTLE_LOG")]
    log: Option<String>,
    /// Only check the configuration and say what is wrong with it.
    #[arg(long)]
    check_config: bool,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let options = Options {
        state: flags.state,
        config: flags.config,
        overrides: Overrides {
            interface: flags.interface,
            listen_port: flags.listen_port,
            socket: flags.socket,
            metrics: flags.metrics,
            log: flags.log,
        },
    };
    let outcome = match flags.check_config {
        true => startup::check_config(&options),
        false => startup::run(&options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("wattled: {error}");
            ExitCode::FAILURE
        }
    }
}
