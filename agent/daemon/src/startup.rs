//! From flags to a running agent and back: everything is checked and opened in an order in which nothing has to be
//! taken back, and each refusal says what, why and what to do.

use std::io;
use std::path::PathBuf;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tracing_subscriber::EnvFilter;
use wattle_host::{Clock, Installed, Monitor, Netlink, NetlinkError, TunError, UdpError, Wanted};
use wattle_model::NodeId;
use wattle_wire::grant::PeerSetError;
use wattle_worker::{CipherCosts, CipherKind, Clamp, Place, Transit};

use crate::config::{Config, ConfigError, Overrides, Switch};
use crate::coordinator::{self, Uplink};
use crate::engine::{Ended, Engine, Inputs, Membership, Setting};
use crate::kernel;
use crate::local_api::{LocalApiError, LocalSocket};
use crate::metrics::{self, MetricsError};
use crate::notify::Notifier;
use crate::query::{EngineHandle, QUERY_QUEUE};
use crate::quic;
use crate::state::{Keys, Network, PeersFrom, StateDir, StateError};
use crate::threads::{self, Belongings};

/// What the command line says.
#[derive(Debug, Clone)]
pub struct Options {
    /// The state directory.
    pub state: PathBuf,
    /// A configuration file to read instead of the usual ones.
    pub config: Option<PathBuf>,
    /// Settings that win over the file's.
    pub overrides: Overrides,
}

/// Why the agent did not start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration is refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The state directory cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// There is no network yet.
    #[error(
        "this node has not joined a network ({} has no network.json); \
         run `wattle join TOKEN` with a token from `wattle tokens create`, or point --state at a directory made by \
         `wattle network create --offline`",
        .0.display()
    )]
    NotJoined(PathBuf),
    /// There is no peer set that could be used, and nobody to ask for one.
    #[error(
        "there is no usable peer set in {} and the network has no coordinator to ask for one; \
         copy the directory again from where `wattle network create --offline` made it",
        .0.display()
    )]
    NoPeerSet(PathBuf),
    /// The stored peer set is not one that the trust root signed.
    #[error("the peer set in {path} is refused: {source}; restore it, or join again", path = path.display())]
    PeerSet {
        /// The state directory.
        path: PathBuf,
        /// Why.
        source: PeerSetError,
    },
    /// The peer set is of others.
    #[error(
        "this node ({0}) is not in its network's peer set: its keys are not those that were granted; \
         restore identity.key, or join again"
    )]
    NotAMember(NodeId),
    /// The WireGuard key is not the granted one.
    #[error(
        "wireguard.key is not the key that was granted to this node, so nobody would answer it; \
         restore the file, or join again"
    )]
    ForeignKey,
    /// No TUN device.
    #[error(transparent)]
    Tun(#[from] TunError),
    /// No UDP sockets.
    #[error(transparent)]
    Udp(#[from] UdpError),
    /// No addresses or routes.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// No local socket.
    #[error(transparent)]
    LocalApi(#[from] LocalApiError),
    /// No metrics.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// The kernel has no threads or descriptors left.
    #[error(
        "the kernel refused to {doing}: {source}; raise the limits of the process (`ulimit -a`)"
    )]
    Resources {
        /// What was being done.
        doing: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The data thread ended by itself.
    #[error(
        "the TUN device is gone ({0}); was it removed with `ip link delete`? Start the agent again"
    )]
    DataThread(String),
}

/// Checks the configuration and nothing else.
pub fn check_config(options: &Options) -> Result<(), StartError> {
    load_config(options)?;
    Ok(())
}

/// Runs the agent until it is told to stop.
pub fn run(options: &Options) -> Result<(), StartError> {
    let config = load_config(options)?;
    start_logging(&config.log);
    hide_memory();
    let state = StateDir::open(&options.state)?;
    let node = Node::load(state, &config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("wattle-engine")
        .enable_all()
        .build()
        .map_err(resources("start its threads"))?;
    runtime.block_on(serve(config, node))
}

/// What the disk says about this node.
struct Node {
    state: StateDir,
    keys: Keys,
    network: Network,
    membership: Membership,
    epoch: u32,
}

impl Node {
    fn load(state: StateDir, config: &Config) -> Result<Self, StartError> {
        let Some(network) = state.network()? else {
            return Err(StartError::NotJoined(state.path().to_owned()));
        };
        let keys = state.granted_keys()?;
        let membership = load_membership(&state, &network, &keys)?;
        let epoch = state.next_epoch()?;
        let node = membership.node_ref(keys.node_id());
        tracing::info!(
            node = %node.name, id = %node.id, network = %network.name, epoch,
            revision = membership.revision(), interface = %config.interface, "Starting"
        );
        Ok(Self {
            state,
            keys,
            network,
            membership,
            epoch,
        })
    }
}

fn load_membership(
    state: &StateDir,
    network: &Network,
    keys: &Keys,
) -> Result<Membership, StartError> {
    let mut membership = Membership::new(keys.node_id(), network.root);
    let found = state.peers()?;
    for damage in &found.damages {
        tracing::warn!(%damage, "A stored peer set is damaged");
    }
    if found.from == PeersFrom::Previous {
        tracing::warn!(
            "Using the peer set before the last one; the coordinator will bring the newest"
        );
    }
    let path = state.path().to_owned();
    match found.signed_set {
        Some(signed) => {
            membership
                .accept(&signed)
                .map_err(|source| StartError::PeerSet { path, source })?;
            keep_two_copies(state, found.from, &signed);
        }
        None if network.coordinator.is_some() => {
            tracing::warn!("No usable peer set on disk; asking the coordinator for one");
            return Ok(membership);
        }
        None => return Err(StartError::NoPeerSet(path)),
    }
    match membership.own_grant() {
        None => Err(StartError::NotAMember(keys.node_id())),
        Some(grant) if grant.wireguard != keys.wireguard_public() => Err(StartError::ForeignKey),
        Some(_) => Ok(membership),
    }
}

/// A set that came with the directory has one copy, and so has one whose other copy is damaged.
fn keep_two_copies(state: &StateDir, from: PeersFrom, signed: &[u8]) {
    let has_one = from == PeersFrom::Previous || !state.has_previous_peers();
    if has_one && let Err(error) = state.store_peers(signed) {
        tracing::warn!(%error, "There is one intact copy of the peer set only");
    }
}

async fn serve(config: Config, node: Node) -> Result<(), StartError> {
    let mut belongings = Belongings::open(&config)?;
    let listen_port = belongings.listen_port();
    let (index, offload) = (belongings.tun().index(), belongings.tun().offload());
    let bells = belongings.bells();
    let bells = bells.map_err(resources("make an eventfd"))?;
    let (quic, pipe) = quic::open(&config, &node.keys, &bells[0]);
    let installed = Installed::new(Netlink::connect()?, index, config.routing_table).await?;
    installed.netlink().bring_up(index, config.mtu).await?;
    let monitor = Monitor::subscribe()?;
    let socket = LocalSocket::bind(&config.socket)?;
    let scrapes = match config.metrics {
        Some(address) => Some(metrics::bind(address).await?),
        None => None,
    };
    let interrupts = signals().map_err(resources("listen for signals"))?;

    let costs = channel_costs(&config);
    let few_workers = belongings.trouble.take();
    let started = belongings.start(bells, pipe, |place| {
        worker_config(&config, &node.keys, costs, place)
    });
    let threads::Running {
        handle: worker,
        events,
        crew,
        threads,
    } = started.map_err(resources("start the data threads"))?;
    let crew = crew.map(|crew| tokio::spawn(crew.run()));

    let (queries_end, queries) = mpsc::channel(QUERY_QUEUE);
    let device = config.interface.clone();
    let table = kernel::Table::new(Netlink::connect()?, device, index, config.routing_table);
    let handle = EngineHandle::new(queries_end, worker.clone(), table);
    let clients_turned_away = socket.turned_away();
    let api = tokio::spawn(socket.serve(handle.clone()));
    let scraping = scrapes.map(|listener| tokio::spawn(metrics::serve(listener, handle)));

    let (wishes_end, wishes) = watch::channel(Wanted::default());
    let netlink = Netlink::connect()?;
    let kernel = tokio::spawn(kernel::run(installed, wishes));
    let uplink = node.network.coordinator.clone().map(|address| {
        let (uplink, side) = Uplink::new(node.membership.revision());
        let task = coordinator::run(address, node.keys.clone(), node.epoch, side);
        (uplink, tokio::spawn(task))
    });
    let (uplink, uplink_task) = uplink.unzip();

    tracing::info!(interface = %config.interface, listen_port, quic_port = quic.port(), ?offload, "Forwarding");
    let setting = Setting {
        config,
        listen_port,
        quic,
        few_workers,
        interface_index: index,
        state: node.state,
        keys: node.keys,
        network: node.network,
        membership: node.membership,
        epoch: node.epoch,
        clients_turned_away,
    };
    let inputs = Inputs {
        events,
        queries,
        uplink,
        monitor,
        netlink,
        interrupts,
        notifier: Notifier::from_environment(),
    };
    let ended = Engine::new(setting, worker.clone(), wishes_end)
        .run(inputs)
        .await;

    api.abort();
    let _ = api.await;
    if let Some(crew) = crew {
        crew.abort();
        let _ = crew.await;
    }
    if let Some(scraping) = scraping {
        scraping.abort();
    }
    let _ = kernel.await;
    if let Some(task) = uplink_task {
        // A `Leave` on its way is worth a moment.
        let _ = tokio::time::timeout(std::time::Duration::from_secs(2), task).await;
    }
    worker.stop();
    let outcome = threads::join(threads);
    match (ended, outcome) {
        (Ended::WorkerGone, Err(error)) => Err(StartError::DataThread(error.to_string())),
        (Ended::WorkerGone, Ok(())) => Err(StartError::DataThread("no reason given".to_owned())),
        (Ended::Stopped, _) => Ok(()),
    }
}

fn worker_config(
    config: &Config,
    keys: &Keys,
    channel: Option<CipherCosts>,
    place: Place,
) -> wattle_worker::Config {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).expect("a Linux kernel always has random numbers");
    wattle_worker::Config {
        node: keys.node_id(),
        wg_private: *keys.wireguard_private(),
        mtu: config.mtu,
        seed,
        cipher: CipherKind::Noise,
        channel,
        transit: if config.transit {
            Transit::Relay
        } else {
            Transit::Refuse
        },
        mss_clamp: match config.mss_clamp {
            Switch::On => Clamp::On,
            Switch::Off => Clamp::Off,
        },
        place,
    }
}

fn channel_costs(config: &Config) -> Option<CipherCosts> {
    if config.fast_channel == Switch::Off {
        return None;
    }
    let costs = CipherCosts::measure(|| Clock.now().0 * 1_000);
    tracing::debug!(?costs, "Measured the ciphers of the fast channel");
    Some(costs)
}

fn load_config(options: &Options) -> Result<Config, ConfigError> {
    let config = Config::load(options.config.as_deref(), &options.state)?;
    config.overridden(options.overrides.clone())
}

/// Logs to standard error; under systemd the journal adds the time.
fn start_logging(filter: &str) {
    // boringtun shouts ERROR for every neighbour that is away; the worker tells what matters of it.
    let quiet = match filter.contains("boringtun") {
        true => filter.to_owned(),
        // quinn_udp warns of every network that is unreachable for a moment.
        false => format!("boringtun=off,quinn_udp=off,{filter}"),
    };
    let filter = EnvFilter::try_new(quiet).unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr);
    let in_journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let started = match in_journal {
        true => log.without_time().with_ansi(false).try_init(),
        false => log
            .with_ansi(io::IsTerminal::is_terminal(&io::stderr()))
            .try_init(),
    };
    // A host process that embeds the library may have its own log.
    drop(started);
}

/// Keys are in memory: no core dumps, no debugger of another process of the same user.
fn hide_memory() {
    if let Err(error) = nix::sys::prctl::set_dumpable(false) {
        tracing::warn!(%error, "core dumps could not be switched off");
    }
}

fn signals() -> io::Result<[Signal; 2]> {
    Ok([
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    ])
}

fn resources(doing: &'static str) -> impl FnOnce(io::Error) -> StartError {
    move |source| StartError::Resources { doing, source }
}
