//! The whole way of an event: agents that speak the real protocol, the real coordinator in a process of its own, a real
//! broker, and `kcat`. Both processes are killed with -9 amid ten thousand events. `sudo tools/test kafka` runs it.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use wattle_agent::coordinator::{Connection, ConnectionError};
use wattle_agent::state::Fingerprint;
use wattle_api::agent::{Join, PROTOCOL, ToAgent, ToCoordinator};
use wattle_api::stream::{HEADER_PREV_SEQ, HEADER_SEQ, Kafka};
use wattle_api::token::JoinToken;
use wattle_model::{Carrier, Cost, Micros, NetworkId, NodeId, Ppm, SeqNo, UnixTime, WgKey};
use wattle_netlab::kafka::{Access, Broker};
use wattle_netlab::mesh::binary;
use wattle_topology::{Source, verify};
use wattle_wire::key::SecretKey;
use wattle_wire::record::{Body, LinkEntry, LinksBody, Record, RecordKey, RecordKind};

const EVENTS: u64 = 10_000;
const COORDINATOR_KILLS: u64 = 20;
/// The broker is killed with every fourth kill of the coordinator: five times.
const BROKER_EVERY: u64 = 4;
const AGENTS: u8 = 8;
const TOPIC: &str = "wattle.lab.topology.events.v1";
const PATIENCE: Duration = Duration::from_secs(120);

#[test]
#[ignore = "needs a Kafka broker: run by tools/test kafka"]
fn ten_thousand_events_survive_twenty_kills_of_the_coordinator_and_five_of_the_broker() {
    let mut broker = Broker::start(Access::Open).unwrap();
    let mut coordinator = Coordinator::start(&broker);
    let fleet = Fleet::join(&coordinator);
    let began = Instant::now();
    for kill in 1..=COORDINATOR_KILLS {
        coordinator.until(|network| {
            network["last_seq"].as_u64() >= Some(EVENTS * kill / COORDINATOR_KILLS)
        });
        let broker_too = kill % BROKER_EVERY == 0;
        if broker_too {
            broker.kill().unwrap();
        }
        coordinator.kill();
        if broker_too {
            broker.spawn().unwrap();
        }
        coordinator.run();
    }
    fleet.stop();
    broker.wait_until_ready().unwrap();
    let network = coordinator.until(|network| network["mirrored_seq"] == network["last_seq"]);
    let last = network["last_seq"].as_u64().unwrap();
    println!(
        "{COORDINATOR_KILLS} + {} kills, {last} events in {:.0} s",
        COORDINATOR_KILLS / BROKER_EVERY,
        began.elapsed().as_secs_f64()
    );
    assert!(last >= EVENTS);
    let found = block_on(async {
        let source = Source::find(Kafka::plaintext(&broker.bootstrap()))
            .await
            .unwrap();
        verify(&source).await.unwrap()
    });
    println!("{found:?}");
    assert!(found.is_clean(), "{found:#?}");
    assert_eq!(
        (found.first_seq, found.last_seq, found.seen),
        (1, last, last)
    );
    kcat_agrees(&broker, last);
}

#[test]
#[ignore = "needs a Kafka broker: run by tools/test kafka"]
fn kcat_sees_nodes_and_links_come_and_go_while_they_do() {
    let broker = Broker::start(Access::Open).unwrap();
    let coordinator = Coordinator::start(&broker);
    let first = Agent::join(1, &coordinator);
    coordinator.until(|network| network["mirrored_seq"].as_u64() >= Some(1));
    let mut kcat = Kcat::follow(&broker);

    let second = Agent::join(2, &coordinator);
    kcat.sees(
        "io.wattle.topology.node.c",
        &format!("node:{}", second.id()),
    );
    let link = format!("link:{}>{}/udp4", first.id(), second.id());
    block_on(async {
        let mut connection = first.hello().await.unwrap();
        connection
            .send(&first.report(1, &[second.id()]))
            .await
            .unwrap();
        kcat.sees("io.wattle.topology.link.c", &link);
        connection.send(&first.report(2, &[])).await.unwrap();
        kcat.sees("io.wattle.topology.link.d", &link);
        connection
            .send(&first.report(3, &[second.id()]))
            .await
            .unwrap();
        kcat.sees("io.wattle.topology.link.c", &link);
    });
    coordinator.curl(&["-X", "DELETE"], "nodes/n2");
    kcat.sees(
        "io.wattle.topology.node.d",
        &format!("node:{}", second.id()),
    );
}

/// A second opinion, with nothing of ours between broker and count.
fn kcat_agrees(broker: &Broker, last: u64) {
    let records = broker.kcat(TOPIC).unwrap();
    let seqs: Vec<u64> = records
        .iter()
        .map(|record| record.number(HEADER_SEQ).unwrap())
        .collect();
    let different: BTreeSet<u64> = seqs.iter().copied().collect();
    assert_eq!(different, (1..=last).collect(), "kcat misses some");
    assert_eq!(seqs.len() as u64, last, "kcat sees some twice");
    let mut ends = BTreeMap::new();
    for (record, seq) in records.iter().zip(seqs) {
        let before = ends.insert(record.partition, seq).unwrap_or(0);
        assert!(
            seq > before,
            "kcat sees {seq} after {before} in partition {}",
            record.partition
        );
        assert_eq!(record.number(HEADER_PREV_SEQ).unwrap(), before);
    }
}

/// A coordinator with a network of its own and a `[kafka]` section.
struct Coordinator {
    directory: TempDir,
    address: String,
    process: Option<Child>,
}

impl Coordinator {
    fn start(broker: &Broker) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let address = format!("127.0.0.1:{port}");
        let section = format!(
            "log = \"warn\"\n[kafka]\nbrokers = [\"{}\"]\n",
            broker.bootstrap()
        );
        fs::write(directory.path().join("coordinator.toml"), section).unwrap();
        let mut coordinator = Self {
            directory,
            address: address.clone(),
            process: None,
        };
        coordinator.command(&["init", "--network", "lab", "--listen", &address]);
        coordinator.run();
        coordinator
    }

    fn run(&mut self) {
        let process = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(binary("wattle-coordinator").unwrap())
            .arg("serve")
            .args(self.state())
            .arg("--config")
            .arg(self.directory.path().join("coordinator.toml"))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.process = Some(process);
        self.until(|_| true);
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Waits until the network, as the API shows it, is as `wanted`.
    fn until(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.curl(&[], "network");
            if let Ok(network) = serde_json::from_str(&answer)
                && wanted(&network)
            {
                return network;
            }
            assert!(
                Instant::now() < deadline,
                "{answer}\n{}",
                self.curl(&[], "mirror")
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The body of the answer; empty if there is none.
    fn curl(&self, more: &[&str], path: &str) -> String {
        let token = fs::read_to_string(self.directory.path().join("state/admin.token")).unwrap();
        let output = Command::new("curl")
            .args([
                "-sk",
                "--max-time",
                "10",
                "-H",
                &format!("Authorization: Bearer {}", token.trim()),
            ])
            .args(more)
            .arg(format!("https://{}/api/v1/{path}", self.address))
            .output()
            .expect("curl is installed");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn token(&self) -> JoinToken {
        self.command(&["token", "create"]).parse().unwrap()
    }

    fn state(&self) -> [String; 2] {
        [
            "--state".to_owned(),
            self.directory.path().join("state").display().to_string(),
        ]
    }

    fn command(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(binary("wattle-coordinator").unwrap());
        let output = command.args(arguments).args(self.state()).output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A member that is nothing but its keys and its connection.
#[derive(Clone)]
struct Agent {
    key: SecretKey,
    network: NetworkId,
    token: Arc<JoinToken>,
}

impl Agent {
    fn join(seed: u8, coordinator: &Coordinator) -> Self {
        let key = SecretKey::from_seed(&[seed; 32]);
        let token = Arc::new(coordinator.token());
        let mut agent = Self {
            key,
            network: NetworkId(0),
            token,
        };
        let join = Join {
            token: agent.token.to_string(),
            name: Some(format!("n{seed}").parse().unwrap()),
            wireguard_key: WgKey([seed; 32]),
            index: None,
            prefixes: vec![],
            candidates: vec![],
        };
        block_on(async {
            let mut connection = agent.hello().await.unwrap();
            connection
                .send(&ToCoordinator::Join(Box::new(join)))
                .await
                .unwrap();
            match connection.receive().await.unwrap() {
                ToAgent::Joined { network, .. } => agent.network = network.id,
                other => panic!("{other:?}"),
            }
        });
        agent
    }

    fn id(&self) -> NodeId {
        self.key.public().node_id()
    }

    async fn hello(&self) -> Result<Connection, ConnectionError> {
        let (address, pin) = (
            &self.token.addresses[0],
            Fingerprint(self.token.fingerprint),
        );
        let mut connection = Connection::open(address, pin, &self.key).await?;
        let hello = ToCoordinator::Hello {
            protocol: PROTOCOL,
            agent_version: "test".into(),
            revision: 0,
            epoch: 1,
            features: vec![],
        };
        connection.send(&hello).await?;
        Ok(connection)
    }

    /// The links to `neighbours`, with measurements that differ with each `counter`.
    fn report(&self, counter: u64, neighbours: &[NodeId]) -> ToCoordinator {
        let links = neighbours.iter().map(|neighbour| LinkEntry {
            neighbour: *neighbour,
            carrier: Carrier::Udp4,
            cost: Cost(100),
            rtt: Micros(1_000 + counter * 1_000 % 900_000),
            jitter: Micros(1),
            loss: Ppm(0),
        });
        let body = Body::Links(LinksBody {
            at: UnixTime(1),
            links: links.collect(),
        });
        let key = RecordKey {
            origin: self.id(),
            kind: RecordKind::Links,
            part: 0,
        };
        let record = Record::sign(
            self.network,
            key,
            SeqNo(1 << 32 | counter),
            3_600,
            &body,
            &self.key,
        );
        ToCoordinator::Records {
            records: vec![record.bytes().into()],
        }
    }

    /// Reports again and again, whatever happens to the coordinator.
    async fn live(self, others: Vec<NodeId>, stop: Arc<AtomicBool>) {
        let mut counter = 0;
        while !stop.load(Ordering::Relaxed) {
            if let Ok(mut connection) = self.hello().await {
                while !stop.load(Ordering::Relaxed) {
                    counter += 1;
                    if connection
                        .send(&self.report(counter, &others))
                        .await
                        .is_err()
                    {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(40)).await;
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Agents in a thread of their own.
struct Fleet {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<()>,
}

impl Fleet {
    fn join(coordinator: &Coordinator) -> Self {
        let agents: Vec<Agent> = (1..=AGENTS)
            .map(|seed| Agent::join(seed, coordinator))
            .collect();
        let ids: Vec<NodeId> = agents.iter().map(Agent::id).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let end = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            block_on(async {
                let lives = agents.into_iter().map(|agent| {
                    let others = ids.iter().copied().filter(|id| *id != agent.id()).collect();
                    tokio::spawn(agent.live(others, Arc::clone(&end)))
                });
                for life in lives.collect::<Vec<_>>() {
                    life.await.unwrap();
                }
            });
        });
        Self { stop, thread }
    }

    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
    }
}

/// `kcat` that follows the events.
struct Kcat {
    process: Child,
    headers: Receiver<String>,
}

impl Kcat {
    fn follow(broker: &Broker) -> Self {
        let mut process = broker
            .kcat_command()
            .args([
                "-C",
                "-t",
                TOPIC,
                "-o",
                "beginning",
                "-u",
                "-q",
                "-f",
                "%h\n",
            ])
            .args(["-X", "isolation.level=read_committed"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let (sender, headers) = mpsc::channel();
        std::thread::spawn(move || {
            lines
                .map_while(Result::ok)
                .try_for_each(|line| sender.send(line))
        });
        Self { process, headers }
    }

    /// Waits for an event of this type about this entity.
    fn sees(&mut self, kind: &str, key: &str) {
        let began = Instant::now();
        let (kind, key) = (format!("ce_type={kind}"), format!("ce_subject={key}"));
        loop {
            let left = PATIENCE.saturating_sub(began.elapsed());
            let headers = self
                .headers
                .recv_timeout(left)
                .unwrap_or_else(|_| panic!("kcat sees no {kind} {key}"));
            let pairs: Vec<&str> = headers.split(',').collect();
            if pairs.contains(&kind.as_str()) && pairs.contains(&key.as_str()) {
                eprintln!(
                    "{kind} seen by kcat after {} ms",
                    began.elapsed().as_millis()
                );
                return;
            }
        }
    }
}

impl Drop for Kcat {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(work)
}
