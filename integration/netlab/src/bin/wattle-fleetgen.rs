//! A fleet without a mesh: nodes that join a coordinator with the real agent's client and push signed links records at a
//! given rate, each changing a link, for tests of the coordinator and of what reads its events. Survives a coordinator
//! that is killed: it reconnects and goes on with newer records.
//!
//! Prints one JSON object at the end: nodes, records sent, the events they make, reconnections.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;
use tokio::time::{Instant, sleep, sleep_until};
use wattle_agent::coordinator::{Connection, ConnectionError};
use wattle_agent::state::Fingerprint;
use wattle_api::agent::{Join, PROTOCOL, ToAgent, ToCoordinator};
use wattle_api::token::JoinToken;
use wattle_model::{
    ApartCosts, Carrier, Cost, Micros, NetworkId, NodeId, Ppm, Prefix, SeqNo, UnixTime, WgKey,
};
use wattle_wire::key::SecretKey;
use wattle_wire::record::{
    Body, LinkEntry, LinksBody, PrefixesBody, Record, RecordKey, RecordKind,
};

/// Pause before the coordinator is tried again.
const PAUSE: Duration = Duration::from_millis(100);

/// A coordinator that is away for half a minute stays away.
const JOIN_ATTEMPTS: u32 = 300;

/// Nodes that join a coordinator and push link-state records.
#[derive(Debug, Parser)]
struct Options {
    /// State directory of the coordinator: tokens are made there.
    #[arg(long)]
    state: PathBuf,
    /// The coordinator's program.
    #[arg(long, default_value = "wattle-coordinator")]
    coordinator: PathBuf,
    /// How many nodes join.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u8).range(2..=200))]
    nodes: u8,
    /// Links of each node, and so events of each record.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=20))]
    links: u8,
    /// Topology events to make at least.
    #[arg(long, default_value_t = 1_000)]
    events: u64,
    /// Events a second of the whole fleet; 0 = as fast as the coordinator takes them.
    #[arg(long, default_value_t = 0)]
    rate: u64,
    /// Sites over which the nodes are spread, `site-0` and on; none by default.
    #[arg(long, default_value_t = 0)]
    sites: u8,
    /// How many of the nodes announce a prefix: 10.N.NODE.0/24, where N is 200 and the seed.
    #[arg(long, default_value_t = 0)]
    prefixes: u8,
    /// Makes the keys of this fleet differ from those of another.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(..=55))]
    seed: u8,
}

impl Options {
    /// What a node announces.
    fn prefix(&self, index: u8) -> Option<Result<Prefix>> {
        let prefix = format!("10.{}.{index}.0/24", 200 + self.seed);
        (index < self.prefixes).then(|| Ok(prefix.parse()?))
    }
}

/// One node.
struct Node {
    key: SecretKey,
    at: JoinToken,
    link: Connection,
    /// Newest record; the upper half is the boot epoch.
    seq: SeqNo,
    reconnections: u64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let options = Options::parse();
    ensure!(
        options.links < options.nodes,
        "--links must be fewer than --nodes"
    );
    let mut nodes = Vec::new();
    for index in 0..options.nodes {
        let mut node = Node::join(&options, index).await?;
        if let Some(prefix) = options.prefix(index) {
            node.announce(prefix?).await;
        }
        nodes.push(node);
    }
    let ids: Vec<NodeId> = nodes.iter().map(Node::id).collect();
    let (mut records, mut events) = (0_u64, 0_u64);
    let start = Instant::now();
    while events < options.events {
        let at = usize::try_from(records)? % nodes.len();
        let others = (1..=usize::from(options.links)).map(|hop| ids[(at + hop) % ids.len()]);
        let others: Vec<NodeId> = others.collect();
        nodes[at].report(&others, 1_000 + records).await;
        records += 1;
        events += u64::from(options.links);
        if options.rate > 0 {
            sleep_until(start + Duration::from_secs_f64(events as f64 / options.rate as f64)).await;
        }
    }
    for node in &mut nodes {
        node.flush().await?;
    }
    let reconnections: u64 = nodes.iter().map(|node| node.reconnections).sum();
    let seconds = start.elapsed().as_secs_f64();
    writeln!(
        std::io::stdout(),
        r#"{{"nodes":{},"records":{records},"events":{events},"reconnections":{reconnections},"seconds":{seconds:.3}}}"#,
        options.nodes
    )?;
    Ok(())
}

impl Node {
    async fn join(options: &Options, index: u8) -> Result<Self> {
        let mut seed = [options.seed; 32];
        seed[0] = index;
        let key = SecretKey::from_seed(&seed);
        let at = token(options, index)?;
        let mut node = None;
        for _ in 0..JOIN_ATTEMPTS {
            // The same token again: a coordinator that was killed after the join answers it once more.
            match joined(&at, &key, &format!("fleet-{}-{index}", options.seed)).await {
                Ok(link) => {
                    node = Some(link);
                    break;
                }
                Err(error) if error.downcast_ref::<ConnectionError>().is_some() => {
                    sleep(PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
        let link = node.context("the coordinator stays away")?;
        Ok(Self {
            key,
            at,
            link,
            seq: SeqNo::first_of(1),
            reconnections: 0,
        })
    }

    fn id(&self) -> NodeId {
        self.key.public().node_id()
    }

    /// Sends a links record that differs from the last one in every link.
    async fn report(&mut self, to: &[NodeId], rtt: u64) {
        self.seq = self.seq.next();
        self.push(&self.links(to, rtt)).await;
    }

    /// Sends what it announces.
    async fn announce(&mut self, prefix: Prefix) {
        let body = Body::Prefixes(PrefixesBody {
            at: UnixTime(0),
            prefixes: vec![prefix],
        });
        self.push(&self.sign(RecordKind::Prefixes, &body)).await;
    }

    /// Sends a record; again after a reconnection, until it is taken.
    async fn push(&mut self, record: &Record) {
        let records = vec![record.bytes().into()];
        let message = ToCoordinator::Records { records };
        while self.link.send(&message).await.is_err() {
            self.reconnect().await;
        }
    }

    /// Waits until the coordinator has read everything that was sent.
    async fn flush(&mut self) -> Result<()> {
        let nonce = self.seq.0;
        loop {
            if self.link.send(&ToCoordinator::Ping { nonce }).await.is_ok()
                && self.pong(nonce).await
            {
                return Ok(());
            }
            self.reconnect().await;
        }
    }

    async fn pong(&mut self, nonce: u64) -> bool {
        loop {
            match self.link.receive().await {
                Ok(ToAgent::Pong { nonce: heard }) if heard == nonce => return true,
                Ok(_) => {}
                Err(_) => return false,
            }
        }
    }

    async fn reconnect(&mut self) {
        self.reconnections += 1;
        loop {
            sleep(PAUSE).await;
            if let Ok(link) = open(&self.at, &self.key).await {
                self.link = link;
                return;
            }
        }
    }

    fn links(&self, to: &[NodeId], rtt: u64) -> Record {
        let entry = |neighbour: &NodeId| LinkEntry {
            neighbour: *neighbour,
            carrier: Carrier::Udp4,
            cost: Cost(100),
            apart: ApartCosts::NONE,
            rtt: Micros(rtt),
            jitter: Micros(1),
            loss: Ppm(0),
        };
        let links = to.iter().map(entry).collect();
        let body = Body::Links(LinksBody {
            at: UnixTime(0),
            links,
            ..LinksBody::default()
        });
        self.sign(RecordKind::Links, &body)
    }

    fn sign(&self, kind: RecordKind, body: &Body) -> Record {
        let key = RecordKey {
            origin: self.id(),
            kind,
            part: 0,
        };
        let network: NetworkId = self.at.network;
        Record::sign(network, key, self.seq, 3_600, body, &self.key)
    }
}

/// The connection of a node that has joined.
async fn joined(at: &JoinToken, key: &SecretKey, name: &str) -> Result<Connection> {
    let mut link = open(at, key).await?;
    let join = Join {
        token: at.to_string(),
        name: Some(name.parse()?),
        wireguard_key: WgKey(*key.public().as_bytes()),
        index: None,
        // All that the token allows.
        prefixes: vec![],
        candidates: vec![],
    };
    link.send(&ToCoordinator::Join(Box::new(join))).await?;
    loop {
        match link.receive().await? {
            ToAgent::Joined { .. } => return Ok(link),
            ToAgent::Welcome { .. } | ToAgent::PeerSet(_) => {}
            ToAgent::Error { message, hint, .. } => bail!("{message}; {hint}"),
            other => bail!("the coordinator answered a join with {other:?}"),
        }
    }
}

async fn open(at: &JoinToken, key: &SecretKey) -> Result<Connection, ConnectionError> {
    let mut link = Connection::open(&at.addresses[0], Fingerprint(at.fingerprint), key).await?;
    link.send(&ToCoordinator::Hello {
        protocol: PROTOCOL,
        agent_version: "fleetgen".to_owned(),
        revision: 0,
        epoch: 1,
        features: vec![],
    })
    .await?;
    Ok(link)
}

fn token(options: &Options, index: u8) -> Result<JoinToken> {
    let mut create = Command::new(&options.coordinator);
    create
        .args(["token", "create"])
        .arg("--state")
        .arg(&options.state);
    if let Some(site) = index.checked_rem(options.sites) {
        create.args(["--site", &format!("site-{site}")]);
    }
    if let Some(prefix) = options.prefix(index) {
        create.args(["--prefix", &prefix?.to_string()]);
    }
    let output = create
        .output()
        .context("wattle-coordinator cannot be run; give --coordinator PATH")?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?.parse()?)
}
