//! `wattle-coordinator serve`: wiring. Opens the state, starts the engine and the mirror, and hands each connection to
//! whoever speaks its protocol, until it is told to stop.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wattle_api::agent::{ALPN, NetworkInfo};
use wattle_mirror::{Mirror, StoreOutbox};
use wattle_store::Store;

use crate::agents::Agent;
use crate::api::{Api, router};
use crate::config::Config;
use crate::counters::{Counter, Counters};
use crate::engine::{Engine, EngineError, Handle};
use crate::invitation::Inviter;
use crate::measurements::publish;
use crate::mirror_health;
use crate::reachability;
use crate::retention::trim;
use crate::state_dir::StateDir;
use crate::tls;

/// Connections at a time: each costs at most some 5 MiB, in practice 100 kB.
const MAX_CONNECTIONS: usize = 10_000;

/// A client that takes longer for its TLS handshake is let go.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);

/// Connections that are still busy so long after the end was asked for are cut.
const FINISH_WITHIN: Duration = Duration::from_secs(5);

/// Why the coordinator cannot run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    /// The engine ended.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The database cannot be opened.
    #[error(transparent)]
    Store(#[from] wattle_store::StoreError),
    /// The certificate cannot be used.
    #[error("the TLS certificate cannot be used: {0}")]
    Tls(#[from] rustls::Error),
    /// The address is taken or not ours.
    #[error(
        "cannot listen on {address}: {source}; choose another with `listen` in the configuration"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// The mirror refuses its configuration.
    #[error(transparent)]
    Mirror(#[from] wattle_mirror::MirrorError),
    /// The kernel refused.
    #[error("cannot wait for signals: {0}")]
    Signal(std::io::Error),
}

/// What every connection needs.
struct Server {
    acceptor: TlsAcceptor,
    api: Arc<Api>,
    engine: Handle,
    counters: Arc<Counters>,
    stop: CancellationToken,
    tasks: TaskTracker,
    places: Arc<Semaphore>,
}

/// Runs until SIGTERM or SIGINT.
pub(crate) async fn serve(state: StateDir, config: Config) -> Result<(), ServeError> {
    let address = config.listen.unwrap_or(state.network.listen);
    let listener = TcpListener::bind(address)
        .await
        .map_err(|source| ServeError::Listen { address, source })?;
    let acceptor = TlsAcceptor::from(tls::server_config(&state)?);
    let name = config
        .name
        .clone()
        .unwrap_or_else(|| "coordinator".to_owned());
    let network = network_info(&state, &config, listener.local_addr().unwrap_or(address));
    let store = Store::open(&state.database(), network.id, &network.name, &name).await?;
    let counters = Arc::new(Counters::default());
    let (engine, handle, queue) = Engine::start(
        store.clone(),
        state.root.clone(),
        network.clone(),
        state.plan(),
        Arc::clone(&counters),
    )
    .await?;
    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    let mirror = start_mirror(&config, &network, &store)?;
    if let (Some(mirror), Some(config)) = (&mirror, mirror_config(&config, &network, &store)) {
        let publisher = mirror.publisher(&config)?;
        tasks.spawn(publish(publisher, handle.clone(), config, stop.clone()));
    }
    tasks.spawn(mirror_health::watch(
        mirror.clone(),
        store.clone(),
        handle.clone(),
        stop.clone(),
    ));
    tasks.spawn(trim(
        store.clone(),
        mirror.clone(),
        config.outbox.clone(),
        stop.clone(),
    ));
    let api = Api {
        engine: handle.clone(),
        store,
        inviter: inviter(&network, &state, name),
        network,
        admin_hash: state.admin_hash,
        counters: Arc::clone(&counters),
        mirror: mirror.clone(),
    };
    let server = Server {
        acceptor,
        api: Arc::new(api),
        engine: handle,
        counters,
        stop: stop.clone(),
        tasks: tasks.clone(),
        places: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
    };
    tracing::info!(address = %listener.local_addr().unwrap_or(address), "Coordinator is listening");
    let engine_stop = CancellationToken::new();
    let mut engine = tokio::spawn(engine.run(queue, engine_stop.clone()));
    let outcome = tokio::select! {
        () = server.accept(&listener) => Ok(()),
        signal = until_told() => signal.map_err(ServeError::Signal),
        ended = &mut engine => Err(engine_error(ended)),
    };
    drop(listener);
    stop.cancel();
    tasks.close();
    let _ = timeout(FINISH_WITHIN, tasks.wait()).await;
    engine_stop.cancel();
    stop_mirror(mirror).await;
    drop(server);
    if outcome.is_ok() {
        engine
            .await
            .map_err(|_| wattle_store::StoreError::Fenced(0))
            .map_err(ServeError::from)??;
        tracing::info!("Coordinator has stopped");
    }
    outcome
}

/// What agents are told of the network.
pub(crate) fn network_info(state: &StateDir, config: &Config, listen: SocketAddr) -> NetworkInfo {
    let root = state.root.public();
    NetworkInfo {
        id: root.network_id(),
        name: state.network.name.clone(),
        root_key: root.as_bytes().as_slice().into(),
        ipv4: state.network.ipv4,
        ipv6: state.network.ipv6,
        coordinators: public_addresses(state, config, listen),
        fingerprint: state.fingerprint.as_slice().into(),
    }
}

/// What every token carries.
pub(crate) fn inviter(network: &NetworkInfo, state: &StateDir, coordinator: String) -> Inviter {
    Inviter {
        network: network.id,
        fingerprint: state.fingerprint,
        addresses: network.coordinators.clone(),
        coordinator,
    }
}

/// Where agents find the coordinator: as configured, as `init` was told or found, or where it listens.
fn public_addresses(state: &StateDir, config: &Config, listen: SocketAddr) -> Vec<String> {
    match &config.public_addresses {
        Some(addresses) if !addresses.is_empty() => addresses.clone(),
        _ if !state.network.public_addresses.is_empty() => state.network.public_addresses.clone(),
        _ => reachability::of(listen, &state.plan()),
    }
}

fn start_mirror(
    config: &Config,
    network: &NetworkInfo,
    store: &Store,
) -> Result<Option<Arc<Mirror>>, ServeError> {
    let Some(config) = mirror_config(config, network, store) else {
        return Ok(None);
    };
    Ok(Some(Arc::new(Mirror::start(
        config,
        StoreOutbox::new(store.clone(), tokio::runtime::Handle::current()),
    )?)))
}

fn mirror_config(
    config: &Config,
    network: &NetworkInfo,
    store: &Store,
) -> Option<wattle_mirror::Config> {
    let kafka = config.kafka.clone()?;
    Some(wattle_mirror::Config {
        kafka,
        network: network.id,
        network_name: network.name.clone(),
        term: store.term(),
    })
}

/// The mirror's end blocks until its transaction under way is done.
async fn stop_mirror(mirror: Option<Arc<Mirror>>) {
    let _ = tokio::task::spawn_blocking(move || {
        if let Some(mirror) = mirror.and_then(Arc::into_inner) {
            mirror.stop();
        }
    })
    .await;
}

fn engine_error(ended: Result<Result<(), EngineError>, tokio::task::JoinError>) -> ServeError {
    match ended {
        Ok(Err(error)) => error.into(),
        Ok(Ok(())) => wattle_store::StoreError::Fenced(0).into(),
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

async fn until_told() -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

impl Server {
    async fn accept(&self, listener: &TcpListener) {
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, most likely: others must close theirs first.
                    tracing::warn!(%error, "A connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
                self.counters.count(Counter::ConnectionsRefused);
                continue;
            };
            let connection = self.connection();
            self.tasks.spawn(async move {
                connection.run(stream).await;
                drop(place);
            });
        }
    }

    fn connection(&self) -> Incoming {
        Incoming {
            acceptor: self.acceptor.clone(),
            api: Arc::clone(&self.api),
            engine: self.engine.clone(),
            counters: Arc::clone(&self.counters),
            stop: self.stop.clone(),
        }
    }
}

/// A connection before it is known what it speaks.
struct Incoming {
    acceptor: TlsAcceptor,
    api: Arc<Api>,
    engine: Handle,
    counters: Arc<Counters>,
    stop: CancellationToken,
}

impl Incoming {
    async fn run(self, stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        let handshake = timeout(HANDSHAKE_WITHIN, self.acceptor.accept(stream));
        let Ok(Ok(stream)) = handshake.await else {
            return self.counters.count(Counter::HandshakesFailed);
        };
        let session = stream.get_ref().1;
        let identity = tls::identity(session.peer_certificates());
        match (session.alpn_protocol() == Some(ALPN), identity) {
            (true, Some(identity)) => {
                let agent = Agent {
                    identity,
                    engine: self.engine,
                    counters: self.counters,
                };
                agent.serve(stream, self.stop).await;
            }
            // An agent without a certificate has no identity.
            (true, None) => self.counters.count(Counter::HandshakesFailed),
            (false, _) => self.serve_http(stream).await,
        }
    }

    async fn serve_http(self, stream: tokio_rustls::server::TlsStream<TcpStream>) {
        let service = TowerToHyperService::new(router(self.api));
        let builder = auto::Builder::new(TokioExecutor::new());
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        tokio::select! {
            _ = connection.as_mut() => {}
            () = self.stop.cancelled() => {
                // Streams of events never end by themselves.
                connection.as_mut().graceful_shutdown();
                let _ = timeout(Duration::from_millis(500), connection).await;
            }
        }
    }
}
