//! `wattle-coordinator`: makes a network, admits its nodes, hands each its peer set, and keeps the topology's history.
//! Wiring and the command line only; decisions are in `wattle_fleet`, promises about disks in `wattle_store`.

mod agents;
mod api;
mod clock;
mod config;
mod counters;
mod engine;
mod invitation;
mod measurements;
mod mirror_health;
mod reachability;
mod retention;
mod serve;
mod state_dir;
mod tls;

use std::io::{self, IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory as _, Parser, Subcommand};
use miette::Report;
use nix::sys::stat::{Mode, umask};
use wattle_api::agent::DEFAULT_PORT;
use wattle_api::token::{DEFAULT_TTL_S, FOR_THIS_HOST_ONLY, JoinToken, TokenScope, is_host_port};
use wattle_fleet::AddressPlan;
use wattle_model::{NetworkId, NodeName, Prefix};
use wattle_store::Tokens;

use crate::config::Config;
use crate::state_dir::{NetworkFile, StateDir};

/// Where the packaged service keeps its state and finds its configuration.
const DEFAULT_STATE: &str = "/var/lib/wattle-coordinator";
const DEFAULT_CONFIG: &str = "/etc/wattle/coordinator.toml";

/// Coordinates a Wattle network: membership, peer sets, topology events.
#[derive(Debug, Parser)]
#[command(name = "wattle-coordinator", version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Makes a network: its root key, the TLS certificate, the administrator's token.
    Init(Init),
    /// Runs the coordinator.
    #[command(visible_alias = "run")]
    Serve(Serve),
    /// Tokens by which nodes join.
    #[command(subcommand)]
    Token(Token),
}

#[derive(Debug, Args)]
struct Init {
    /// Directory of the coordinator's state.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE)]
    state: PathBuf,
    /// Name of the network: letters, digits and `-`.
    #[arg(long, visible_alias = "name")]
    network: NodeName,
    /// Where to listen.
    #[arg(long, value_name = "ADDR:PORT", default_value_t = SocketAddr::from(([0; 8], DEFAULT_PORT)))]
    listen: SocketAddr,
    /// IPv4 addresses of the nodes [default: 100.72.0.0/16].
    #[arg(long, value_name = "CIDR")]
    ipv4: Option<Prefix>,
    /// IPv6 addresses of the nodes [default: a private /64 made from the network's id].
    #[arg(long, value_name = "CIDR")]
    ipv6: Option<Prefix>,
    /// Where agents find the coordinator; may be given several times [default: this host's addresses].
    #[arg(long, visible_alias = "advertise", value_name = "HOST[:PORT]", value_parser = host_port)]
    public_address: Vec<String>,
}

#[derive(Debug, Args)]
struct Serve {
    /// Directory of the coordinator's state.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE)]
    state: PathBuf,
    /// Configuration [default: /etc/wattle/coordinator.toml if it exists].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Token {
    /// Makes a token and prints it; works beside a running coordinator.
    Create(CreateToken),
}

#[derive(Debug, Args)]
struct CreateToken {
    #[command(flatten)]
    serve: Serve,
    /// The name that the node gets.
    #[arg(long)]
    name: Option<NodeName>,
    /// A prefix that the node may announce; may be given several times.
    #[arg(long, value_name = "CIDR")]
    prefix: Vec<Prefix>,
    /// A tag that the node gets; may be given several times.
    #[arg(long)]
    tag: Vec<NodeName>,
    /// The site that the node gets.
    #[arg(long)]
    site: Option<NodeName>,
    /// How long the token is good, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = DEFAULT_TTL_S,
          value_parser = clap::value_parser!(u64).range(1..=invitation::MAX_TTL_S))]
    ttl: u64,
}

fn main() -> ExitCode {
    // SQLite makes its files by the process's mask: nothing of the state is for others.
    umask(Mode::from_bits_truncate(0o077));
    let outcome = match Cli::parse().verb {
        Verb::Init(init) => make_network(&init),
        Verb::Serve(serve) => run(&serve),
        Verb::Token(Token::Create(create)) => create_token(create),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(report) => {
            let _ = writeln!(io::stderr(), "wattle-coordinator: {report:?}");
            ExitCode::FAILURE
        }
    }
}

/// A network has two nodes at least.
const FEWEST_NODES: usize = 2;

impl Init {
    /// The prefixes given, and for the rest those of every network with this id.
    fn plan(&self, network: NetworkId) -> AddressPlan {
        let default = AddressPlan::default_of(network);
        AddressPlan {
            ipv4: self.ipv4.or(default.ipv4),
            ipv6: self.ipv6.or(default.ipv6),
        }
    }

    /// Where it is found: as told, or the host's addresses. They are kept, since a host that boots may not have them
    /// yet when the coordinator starts.
    fn public_addresses(&self, plan: &AddressPlan) -> Vec<String> {
        match self.public_address.is_empty() {
            true => reachability::of_host(self.listen, plan),
            false => self.public_address.clone(),
        }
    }
}

fn make_network(init: &Init) -> Result<(), Report> {
    if let Err(error) = init.plan(NetworkId::default()).check(FEWEST_NODES) {
        Cli::command()
            .error(ErrorKind::ValueValidation, error)
            .exit();
    }
    let state = StateDir::init(&init.state, |root| {
        let AddressPlan { ipv4, ipv6 } = init.plan(root.public().network_id());
        NetworkFile {
            name: init.network.to_string(),
            ipv4,
            ipv6,
            listen: init.listen,
            public_addresses: init.public_addresses(&AddressPlan { ipv4, ipv6 }),
        }
    })
    .map_err(plain)?;
    say(&format!(
        "network {} ({}) is made in {}\nfingerprint {}",
        state.network.name,
        state.root.public().network_id(),
        init.state.display(),
        state_dir::hex(&state.fingerprint),
    ))
}

fn run(serve: &Serve) -> Result<(), Report> {
    let config = read_config(serve.config.as_deref())?;
    let filter = config.log.clone().unwrap_or_else(|| "info".to_owned());
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .or_else(|_| tracing_subscriber::EnvFilter::try_new(filter))
        .map_err(plain)?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
    let state = StateDir::open(&serve.state).map_err(plain)?;
    let runtime = tokio::runtime::Runtime::new().map_err(plain)?;
    runtime.block_on(serve::serve(state, config)).map_err(plain)
}

fn create_token(create: CreateToken) -> Result<(), Report> {
    let config = read_config(create.serve.config.as_deref())?;
    let state = StateDir::open(&create.serve.state).map_err(plain)?;
    let listen = config.listen.unwrap_or(state.network.listen);
    let network = serve::network_info(&state, &config, listen);
    let inviter = serve::inviter(&network, &state, String::new());
    let scope = TokenScope {
        name: create.name,
        prefixes: create.prefix,
        tags: create.tag,
        site: create.site,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(plain)?;
    let created = runtime.block_on(async {
        let tokens = Tokens::open(&state.database()).await?;
        inviter
            .invite(&tokens, &scope, create.ttl, clock::wall())
            .await
    });
    let token = created.map_err(plain)?.token;
    let for_this_host = |token: JoinToken| token.is_for_this_host_only();
    if token.parse().is_ok_and(for_this_host) {
        let _ = writeln!(io::stderr(), "wattle-coordinator: {FOR_THIS_HOST_ONLY}");
    }
    say(&token)
}

fn read_config(given: Option<&Path>) -> Result<Config, Report> {
    match given {
        Some(path) => Config::read(path).map_err(|error| Report::new(*error)),
        None if Path::new(DEFAULT_CONFIG).exists() => read_config(Some(Path::new(DEFAULT_CONFIG))),
        None => Ok(Config::default()),
    }
}

fn host_port(text: &str) -> Result<String, String> {
    let with_port = format!("{text}:{DEFAULT_PORT}");
    [text.to_owned(), with_port]
        .into_iter()
        .find(|address| is_host_port(address))
        .ok_or_else(|| format!("`{text}` is not host:port"))
}

fn plain(error: impl std::error::Error) -> Report {
    miette::miette!("{error}")
}

fn say(text: &str) -> Result<(), Report> {
    writeln!(io::stdout(), "{text}").map_err(plain)
}
