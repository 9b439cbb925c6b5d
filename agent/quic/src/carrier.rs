//! The QUIC thread: one endpoint, one owner of all contacts.
//!
//! A thread of its own with a runtime of its own, so that bulk traffic over QUIC holds up neither the data thread nor the
//! engine. Everything that happens comes to one loop; tasks beside it only wait: for a handshake, for a connection's
//! next datagram.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use quinn::{
    AckFrequencyConfig, Connection, ConnectionError, Endpoint, EndpointConfig, IdleTimeout,
    MtuDiscoveryConfig, Runtime as _, ServerConfig, TokioRuntime, TransportConfig, VarInt,
};
use ring::hmac;
use sha2::{Digest as _, Sha256};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use wattle_model::NodeId;
use wattle_wire::key::{PublicKey, SecretKey};

use crate::connection::{SEND_BUFFER, Sender, read};
use crate::contact::{Attempt, Contact, Dialled, KEEP_ALIVE, Turn};
use crate::identity::{Guests, Identity, IdentityError};
use crate::pipe::{Incoming, OUTBOX_SLOTS, Outgoing, Pipe, Shared, count};
use crate::socket::JoiningSocket;

/// The UDP port that nodes listen on and dial: the one that networks leave open.
pub const DEFAULT_PORT: u16 = 443;
/// The thread's name, by which the kernel's accounting is found.
const NAME: &str = "wattle-quic";
/// What quinn calls the other end; it never goes over the wire.
const PEER_NAME: &str = "wattle";
/// Between two looks at all contacts.
const TICK: Duration = Duration::from_millis(250);
/// Batches sent before other things have their turn.
const BURST: usize = 32;
/// A handshake of this node's takes no longer: four attempts of quinn's.
const DIAL_PATIENCE: Duration = Duration::from_secs(3);
/// A handshake of another's takes no longer.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);
/// Addresses of one node that are dialled, each this much after the one before.
const MOST_ADDRESSES: usize = 8;
const STAGGER: Duration = Duration::from_millis(50);
/// Handshakes of others under way beyond which an address has to be shown to be real, and beyond which none is begun.
const CALM_HANDSHAKES: usize = 32;
const MOST_HANDSHAKES: usize = 256;
/// Bytes that are kept of a handshake before it is begun: a first flight is two packets.
const INCOMING_BUFFER: u64 = 16 << 10;
/// A connection without any sign of life ends.
const IDLE: Duration = Duration::from_secs(12);
/// Assumed before the first round trip: a lost first packet is sent again after three times this, then with doubled
/// pauses. On a longer path that is one or two packets too many; on a short one it is what a lost packet costs.
const INITIAL_RTT: Duration = Duration::from_millis(40);
/// Bytes that may be under way before the first acknowledgement: a connection carries many flows, each of which could
/// begin with ten packets by itself.
const INITIAL_WINDOW: u64 = 32 * 1200;
/// Packets that may come before the other end has to acknowledge: as often as every second one would cost as much as
/// the data.
const ACKNOWLEDGE_EVERY: u32 = 10;
/// Bytes of received datagrams that wait inside quinn for the reader.
const RECEIVE_BUFFER: usize = 2 << 20;
/// What QUIC adds to a datagram: first byte, connection id, packet number, frame header, authenticator.
const OVERHEAD: u16 = 38;

/// What the carrier is started with.
pub struct Options {
    /// This node's identity.
    pub key: SecretKey,
    /// The bound socket; of both families, or of IPv4 alone.
    pub socket: UdpSocket,
    /// Largest datagram that is expected: path MTU discovery does not look further.
    pub largest_datagram: u16,
}

/// A node that a connection is wanted with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    /// Its identity.
    pub identity: PublicKey,
    /// Where it may be dialled; empty: it dials.
    pub addresses: Vec<SocketAddr>,
}

/// Why there is no QUIC.
#[derive(Debug, thiserror::Error)]
pub enum QuicError {
    /// The identity is of no use.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The kernel refuses threads, timers or socket options.
    #[error("the kernel refused to {doing}: {source}")]
    Kernel {
        /// What was being done.
        doing: &'static str,
        /// What it said.
        source: io::Error,
    },
}

/// The engine's end of the running carrier. It ends when the last clone is dropped.
#[derive(Debug, Clone)]
pub struct Handle {
    neighbours: watch::Sender<Vec<Neighbour>>,
    moved: Arc<Notify>,
}

impl Handle {
    /// Replaces the nodes that connections are wanted with. Connections with others end.
    pub fn set_neighbours(&self, neighbours: Vec<Neighbour>) {
        self.neighbours.send_if_modified(|current| {
            let changed = *current != neighbours;
            *current = neighbours;
            changed
        });
    }

    /// This host has other addresses than before.
    pub fn moved(&self) {
        self.moved.notify_one();
    }
}

/// Starts the carrier. `wake` is called when something waits in the pipe; it must not block.
///
/// # Errors
/// The kernel or the identity do not play along.
pub fn start(
    options: Options,
    wake: impl Fn() + Send + Sync + 'static,
) -> Result<(Handle, Pipe, JoinHandle<()>), QuicError> {
    let Options {
        key,
        socket,
        largest_datagram,
    } = options;
    let kernel = |doing| move |source| QuicError::Kernel { doing, source };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(kernel("start the QUIC runtime"))?;
    let guests = Guests::default();
    let identity = Identity::new(&key)?;
    let transport = Arc::new(transport(largest_datagram));
    let config = endpoint_config(&key);
    let server = server_config(&identity, guests.clone(), &transport)?;
    let inside = runtime.enter();
    let socket = TokioRuntime
        .wrap_udp_socket(socket)
        .map_err(kernel("set up the QUIC socket"))?;
    let socket = JoiningSocket::new(socket);
    runtime.spawn(Arc::clone(&socket).send_kept());
    let endpoint =
        Endpoint::new_with_abstract_socket(config, Some(server), socket, Arc::new(TokioRuntime))
            .map_err(kernel("set up the QUIC endpoint"))?;
    drop(inside);
    let shared = Arc::new(Shared::new(wake));
    let (outbox_end, outbox) = mpsc::channel(OUTBOX_SLOTS);
    let (neighbours_end, neighbours) = watch::channel(Vec::new());
    let moved = Arc::new(Notify::new());
    let carrier = Carrier {
        own: key.public().node_id(),
        identity,
        guests,
        transport,
        endpoint,
        shared: Arc::clone(&shared),
        contacts: BTreeMap::new(),
        tasks: JoinSet::new(),
        answering: 0,
        spread: key.public().as_bytes()[0],
    };
    let handle = Handle {
        neighbours: neighbours_end,
        moved: Arc::clone(&moved),
    };
    let thread = std::thread::Builder::new()
        .name(NAME.to_owned())
        .spawn(move || runtime.block_on(carrier.run(outbox, neighbours, &moved)))
        .map_err(kernel("start the QUIC thread"))?;
    let pipe = Pipe {
        shared,
        outbox: outbox_end,
    };
    Ok((handle, pipe, thread))
}

/// Resets are signed with a key made from the identity, so that a restarted node can tell its peers that their
/// connections are gone.
fn endpoint_config(key: &SecretKey) -> EndpointConfig {
    let mut digest = Sha256::new();
    digest.update(b"wattle quic stateless reset v1");
    digest.update(key.seed().as_slice());
    let reset = hmac::Key::new(hmac::HMAC_SHA256, &digest.finalize());
    EndpointConfig::new(Arc::new(reset))
}

fn server_config(
    identity: &Identity,
    guests: Guests,
    transport: &Arc<TransportConfig>,
) -> Result<ServerConfig, IdentityError> {
    let mut server = ServerConfig::with_crypto(Arc::new(identity.answers(guests)?));
    server
        .transport_config(Arc::clone(transport))
        .max_incoming(MOST_HANDSHAKES)
        .incoming_buffer_size(INCOMING_BUFFER)
        .incoming_buffer_size_total(INCOMING_BUFFER * MOST_HANDSHAKES as u64 / 4);
    Ok(server)
}

fn transport(largest_datagram: u16) -> TransportConfig {
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(largest_datagram.saturating_add(OVERHEAD));
    let mut acknowledging = AckFrequencyConfig::default();
    acknowledging.ack_eliciting_threshold(VarInt::from_u32(ACKNOWLEDGE_EVERY));
    let mut window = quinn::congestion::CubicConfig::default();
    window.initial_window(INITIAL_WINDOW);
    let idle = u32::try_from(IDLE.as_millis()).unwrap_or(u32::MAX);
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(idle))))
        .initial_rtt(INITIAL_RTT)
        .mtu_discovery_config(Some(discovery))
        .ack_frequency_config(Some(acknowledging))
        .congestion_controller_factory(Arc::new(window))
        .datagram_send_buffer_size(SEND_BUFFER)
        .datagram_receive_buffer_size(Some(RECEIVE_BUFFER));
    transport
}

struct Carrier {
    own: NodeId,
    identity: Identity,
    guests: Guests,
    transport: Arc<TransportConfig>,
    endpoint: Endpoint,
    shared: Arc<Shared>,
    contacts: BTreeMap<NodeId, Entry>,
    tasks: JoinSet<Done>,
    /// Handshakes of others under way.
    answering: usize,
    /// Spreads attempts; nothing depends on it being hard to guess.
    spread: u8,
}

struct Entry {
    neighbour: Neighbour,
    contact: Contact<Sender>,
    /// What the data thread knows: which connection, and where it leads.
    told: Option<(usize, SocketAddr)>,
    /// Where the last connection led: who moved is in no list yet.
    seen: Option<SocketAddr>,
}

/// What a task was for, and how it ended.
enum Done {
    Dialled(NodeId, Attempt, Option<Connection>),
    Answered(Option<Connection>),
    Ended(NodeId, usize, ConnectionError),
}

impl Carrier {
    async fn run(
        mut self,
        mut outbox: mpsc::Receiver<Outgoing>,
        mut neighbours: watch::Receiver<Vec<Neighbour>>,
        moved: &Notify,
    ) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                outgoing = outbox.recv() => match outgoing {
                    Some(outgoing) => {
                        self.send_burst(&outgoing, &mut outbox);
                        // Connections are driven by tasks of their own, which have their turn here.
                        tokio::task::yield_now().await;
                    }
                    None => break,
                },
                changed = neighbours.changed() => match changed {
                    Ok(()) => {
                        let wanted = neighbours.borrow_and_update().clone();
                        self.neighbours_changed(wanted);
                    }
                    Err(_) => break,
                },
                Some(done) = self.tasks.join_next() => match done {
                    Ok(done) => self.done(done),
                    Err(error) => tracing::error!(%error, "A QUIC task failed"),
                },
                Some(incoming) = self.endpoint.accept() => self.answer(incoming),
                () = moved.notified() => self.moved(),
                _ = tick.tick() => self.tick(),
            }
        }
        self.endpoint.close(VarInt::from_u32(0), b"");
        self.tasks.abort_all();
        let _ = timeout(Duration::from_millis(500), self.endpoint.wait_idle()).await;
    }

    // --- datagrams -------------------------------------------------------------------------------

    fn send_burst(&mut self, first: &Outgoing, outbox: &mut mpsc::Receiver<Outgoing>) {
        let now = Instant::now();
        self.send(now, first);
        for _ in 1..BURST {
            let Ok(next) = outbox.try_recv() else { return };
            self.send(now, &next);
        }
    }

    fn send(&mut self, now: Instant, outgoing: &Outgoing) {
        self.shared.taken(outgoing);
        let tally = &self.shared.tally;
        let entry = self.contacts.get_mut(&outgoing.to);
        match entry.and_then(|entry| entry.contact.best()) {
            Some(sender) => sender.send(now, outgoing, tally),
            None => {
                let lost = outgoing.bytes.len().div_ceil(outgoing.segment);
                count(&tally.drop_no_connection, lost as u64);
            }
        }
    }

    // --- who is wanted ---------------------------------------------------------------------------

    fn neighbours_changed(&mut self, wanted: Vec<Neighbour>) {
        self.guests.set(wanted.iter().map(|wanted| wanted.identity));
        let wanted: BTreeMap<NodeId, Neighbour> = wanted
            .into_iter()
            .map(|neighbour| (neighbour.identity.node_id(), neighbour))
            .filter(|(node, _)| *node != self.own)
            .collect();
        let stays = |node: &NodeId, entry: &Entry| {
            let same = |wanted: &Neighbour| wanted.identity == entry.neighbour.identity;
            wanted.get(node).is_some_and(same)
        };
        let gone: Vec<NodeId> = self
            .contacts
            .iter()
            .filter(|(node, entry)| !stays(node, entry))
            .map(|(node, _)| *node)
            .collect();
        for node in gone {
            self.forget(node);
        }
        for (node, neighbour) in wanted {
            match self.contacts.get_mut(&node) {
                Some(entry) => {
                    if entry.neighbour.addresses != neighbour.addresses {
                        entry.neighbour = neighbour;
                        entry.contact.encouraged();
                    }
                }
                None => {
                    let turn = match self.own < node {
                        true => Turn::First,
                        false => Turn::Second,
                    };
                    let entry = Entry {
                        neighbour,
                        contact: Contact::new(turn),
                        told: None,
                        seen: None,
                    };
                    self.contacts.insert(node, entry);
                }
            }
        }
        self.tick();
    }

    fn forget(&mut self, node: NodeId) {
        let Some(entry) = self.contacts.remove(&node) else {
            return;
        };
        for sender in entry.contact.connections() {
            close(&sender.quinn);
        }
        if entry.told.is_some() {
            self.shared.deliver(Incoming::Connection {
                peer: node,
                remote: None,
            });
        }
    }

    fn moved(&mut self) {
        for entry in self.contacts.values_mut() {
            entry.contact.moved(received);
        }
        self.tick();
    }

    fn tick(&mut self) {
        let now = Instant::now();
        let nodes: Vec<NodeId> = self.contacts.keys().copied().collect();
        for node in nodes {
            let Some(entry) = self.contacts.get_mut(&node) else {
                continue;
            };
            entry.contact.observe(now, received);
            for surplus in entry.contact.surplus(now) {
                close(&surplus.quinn);
            }
            entry.tell(node, &self.shared);
            if entry.can_be_dialled()
                && let Some(attempt) = entry.contact.dials(now)
            {
                self.dial(node, attempt);
            }
        }
    }

    // --- handshakes ------------------------------------------------------------------------------

    fn dial(&mut self, node: NodeId, attempt: Attempt) {
        let Some(entry) = self.contacts.get(&node) else {
            return;
        };
        let (identity, addresses) = (entry.neighbour.identity, entry.addresses());
        let (endpoint, transport) = (self.endpoint.clone(), Arc::clone(&self.transport));
        let config = self.identity.dials(&identity);
        self.tasks.spawn(async move {
            let connection = match config {
                Ok(config) => {
                    let mut config = quinn::ClientConfig::new(Arc::new(config));
                    config.transport_config(transport);
                    first_of(endpoint, config, addresses).await
                }
                Err(error) => {
                    tracing::error!(%error, "A QUIC handshake cannot be made");
                    None
                }
            };
            Done::Dialled(node, attempt, connection)
        });
    }

    fn answer(&mut self, incoming: quinn::Incoming) {
        if self.answering >= MOST_HANDSHAKES {
            count(&self.shared.tally.drop_handshakes, 1);
            return incoming.ignore();
        }
        if self.answering >= CALM_HANDSHAKES && !incoming.remote_address_validated() {
            // Whoever asks again from there can at least hear us: a flood of made-up addresses cannot.
            let _asks_again = incoming.retry();
            return;
        }
        self.answering += 1;
        self.tasks.spawn(async move {
            let handshake = async { incoming.accept().ok()?.await.ok() };
            let connection = timeout(ANSWER_PATIENCE, handshake).await.ok().flatten();
            Done::Answered(connection)
        });
    }

    fn done(&mut self, done: Done) {
        let now = Instant::now();
        match done {
            Done::Dialled(node, attempt, connection) => {
                if connection.is_none() {
                    count(&self.shared.tally.unanswered_dials, 1);
                }
                self.spread = self.spread.wrapping_mul(37).wrapping_add(101);
                if let Some(entry) = self.contacts.get_mut(&node) {
                    entry.contact.dialled(now, attempt, self.spread);
                }
                if let Some(connection) = connection {
                    self.connected(now, node, connection, Dialled::Here);
                }
            }
            Done::Answered(connection) => {
                self.answering -= 1;
                let known = connection.and_then(|connection| {
                    let node = self.guests.of(&connection)?;
                    Some((node, connection))
                });
                match known {
                    Some((node, connection)) => {
                        self.connected(now, node, connection, Dialled::There);
                    }
                    None => count(&self.shared.tally.refused_handshakes, 1),
                }
            }
            Done::Ended(node, id, error) => self.ended(now, node, id, &error),
        }
    }

    fn connected(&mut self, now: Instant, node: NodeId, connection: Connection, dialled: Dialled) {
        let Some(entry) = self.contacts.get_mut(&node) else {
            // It was taken out while its handshake was under way.
            return close(&connection);
        };
        count(&self.shared.tally.connected, 1);
        let sender = Sender::new(connection.clone(), now);
        tracing::debug!(peer = %node, remote = %sender.remote(), ?dialled, "QUIC connected");
        if let Some(surplus) = entry.contact.add(now, sender, dialled, received) {
            close(&surplus.quinn);
        }
        entry.tell(node, &self.shared);
        let shared = Arc::clone(&self.shared);
        self.tasks.spawn(async move {
            let id = connection.stable_id();
            Done::Ended(node, id, read(connection, node, shared).await)
        });
    }

    fn ended(&mut self, now: Instant, node: NodeId, id: usize, error: &ConnectionError) {
        tracing::debug!(peer = %node, %error, "QUIC connection ended");
        if let Some(entry) = self.contacts.get_mut(&node) {
            let is_it = |sender: &Sender| sender.quinn.stable_id() == id;
            entry.contact.remove(now, is_it);
            entry.tell(node, &self.shared);
            if entry.can_be_dialled()
                && let Some(attempt) = entry.contact.dials(now)
            {
                self.dial(node, attempt);
            }
        }
    }
}

impl Entry {
    fn can_be_dialled(&self) -> bool {
        self.seen.is_some() || !self.neighbour.addresses.is_empty()
    }

    /// Where to dial, the likeliest first.
    fn addresses(&self) -> Vec<SocketAddr> {
        let listed = self.neighbour.addresses.iter().copied();
        let others = listed.filter(|address| Some(*address) != self.seen);
        self.seen.into_iter().chain(others).collect()
    }

    /// Tells the data thread which connection there is, if that is news.
    fn tell(&mut self, node: NodeId, shared: &Shared) {
        let best = self.contact.best();
        let best = best.map(|sender| (sender.quinn.stable_id(), sender.remote()));
        if best == self.told {
            return;
        }
        if let (Some((before, _)), Some((id, remote))) = (self.told, best)
            && before == id
        {
            count(&shared.tally.migrations, 1);
            tracing::info!(peer = %node, %remote, "A QUIC peer goes on from another address");
        }
        self.told = best;
        self.seen = best.map(|(_, remote)| remote).or(self.seen);
        shared.deliver(Incoming::Connection {
            peer: node,
            remote: best.map(|(_, remote)| remote),
        });
    }
}

/// Dials all addresses, one shortly after the other; the first that answers with the right key wins.
async fn first_of(
    endpoint: Endpoint,
    config: quinn::ClientConfig,
    addresses: Vec<SocketAddr>,
) -> Option<Connection> {
    let mut races = JoinSet::new();
    for (address, place) in addresses.into_iter().take(MOST_ADDRESSES).zip(0..) {
        let (endpoint, config) = (endpoint.clone(), config.clone());
        races.spawn(async move {
            sleep(STAGGER * place).await;
            let dialled = endpoint.connect_with(config, address, PEER_NAME);
            let handshake = match dialled {
                Ok(handshake) => handshake.await.map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            if let Err(error) = &handshake {
                tracing::debug!(%address, error, "QUIC handshake failed");
            }
            handshake.ok()
        });
    }
    let first = async {
        while let Some(outcome) = races.join_next().await {
            if let Ok(Some(connection)) = outcome {
                return Some(connection);
            }
        }
        None
    };
    timeout(DIAL_PATIENCE, first).await.ok().flatten()
}

/// Packets that came over a connection; those that a client gets from another address than it dialled do not count.
fn received(sender: &Sender) -> u64 {
    sender.quinn.stats().udp_rx.datagrams
}

fn close(connection: &Connection) {
    connection.close(VarInt::from_u32(0), b"");
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("socket", &self.socket)
            .field("largest_datagram", &self.largest_datagram)
            .finish_non_exhaustive()
    }
}
