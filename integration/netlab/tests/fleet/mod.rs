//! A coordinator in a process of its own that mirrors to a real broker, and members that report as much as wanted.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use wattle_api::notice::{Alert, AlertKind};
use wattle_api::rest::Page;
use wattle_api::stream::{HEADER_PREV_SEQ, HEADER_SEQ};
use wattle_api::token::JoinToken;
use wattle_model::NodeId;
use wattle_netlab::block_on;
use wattle_netlab::kafka::Broker;
use wattle_netlab::mesh::binary;

use crate::member::Agent;

const AGENTS: u8 = 8;
pub(crate) const TOPIC: &str = "wattle.lab.topology.events.v1";
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// A coordinator with a network of its own and a `[kafka]` section.
pub(crate) struct Coordinator {
    /// Its configuration and its log.
    directory: TempDir,
    state: PathBuf,
    address: String,
    process: Option<Child>,
}

impl Coordinator {
    pub(crate) fn start(broker: &Broker) -> Self {
        Self::start_with(broker, None, "")
    }

    /// The same with its state in a directory of its own, which is not there yet, and more of a configuration.
    pub(crate) fn start_with(broker: &Broker, state: Option<&Path>, more: &str) -> Self {
        let section = format!("{more}[kafka]\nbrokers = [\"{}\"]\n", broker.bootstrap());
        Self::configured(state, &section)
    }

    /// The same with a configuration of one's own.
    pub(crate) fn configured(state: Option<&Path>, configuration: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let state = state.map_or_else(|| directory.path().join("state"), Path::to_owned);
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let address = format!("127.0.0.1:{port}");
        let configuration = format!("log = \"warn\"\n{configuration}");
        fs::write(directory.path().join("coordinator.toml"), configuration).unwrap();
        let mut coordinator = Self {
            directory,
            state,
            address: address.clone(),
            process: None,
        };
        coordinator.command(&["init", "--network", "lab", "--listen", &address]);
        coordinator.run();
        coordinator
    }

    pub(crate) fn run(&mut self) {
        self.spawn();
        self.until(|_| true);
    }

    /// Starts it and does not wait.
    pub(crate) fn spawn(&mut self) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_file())
            .unwrap();
        let process = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(binary("wattle-coordinator").unwrap())
            .arg("serve")
            .args(self.state())
            .arg("--config")
            .arg(self.directory.path().join("coordinator.toml"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.process = Some(process);
    }

    /// Whether it ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.process
            .as_mut()
            .is_none_or(|process| process.try_wait().unwrap().is_some())
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    pub(crate) fn log_file(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Waits until the network, as the API shows it, is as `wanted`.
    pub(crate) fn until(&self, wanted: impl Fn(&Value) -> bool) -> Value {
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

    /// The last event, once no agent is there and no more comes: measurements that are held back come within a second.
    pub(crate) fn last_of_all(&self) -> u64 {
        let last = || self.until(|_| true)["last_seq"].as_u64().unwrap();
        let mut found = last();
        loop {
            std::thread::sleep(Duration::from_secs(3));
            match last() {
                same if same == found => return found,
                later => found = later,
            }
        }
    }

    /// Waits until something holds.
    pub(crate) fn eventually(&self, what: &str, holds: impl Fn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds() {
            assert!(
                Instant::now() < deadline,
                "{what}: not within {PATIENCE:?}\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until it has ended by itself or something holds; says whether it ended.
    pub(crate) fn ends_or(&mut self, holds: impl Fn(&Self) -> bool) -> bool {
        let deadline = Instant::now() + PATIENCE;
        while !self.has_ended() {
            if holds(self) {
                return false;
            }
            assert!(Instant::now() < deadline, "nothing came\n{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        true
    }

    /// The alerts of a kind that are raised.
    pub(crate) fn alerts(&self, kind: AlertKind) -> Vec<Alert> {
        let page: Page<Alert> = serde_json::from_str(&self.curl(&[], "alerts")).unwrap();
        let alerts = page.items.into_iter();
        alerts.filter(|alert| alert.kind == kind).collect()
    }

    /// What `/metrics` says of one thing.
    pub(crate) fn metric(&self, name: &str) -> Option<u64> {
        let (text, _) = self.request(&[], "metrics");
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
    }

    /// The body of the answer; empty if there is none.
    pub(crate) fn curl(&self, more: &[&str], path: &str) -> String {
        let (body, status) = self.request(more, &format!("api/v1/{path}"));
        if status == 0 { String::new() } else { body }
    }

    /// The body and the status of the answer; the status is 0 if there is none.
    pub(crate) fn request(&self, more: &[&str], path: &str) -> (String, u16) {
        let token = fs::read_to_string(self.state.join("admin.token")).unwrap();
        let output = Command::new("curl")
            .args([
                "-sk",
                "-w",
                "\n%{http_code}",
                "--max-time",
                "10",
                "-H",
                &format!("Authorization: Bearer {}", token.trim()),
            ])
            .args(more)
            .arg(format!("https://{}/{path}", self.address))
            .output()
            .expect("curl is installed");
        let answer = String::from_utf8_lossy(&output.stdout);
        let (body, status) = answer.rsplit_once('\n').unwrap();
        (body.to_owned(), status.parse().unwrap())
    }

    pub(crate) fn token(&self) -> JoinToken {
        self.command(&["token", "create"]).parse().unwrap()
    }

    pub(crate) fn state(&self) -> [String; 2] {
        ["--state".to_owned(), self.state.display().to_string()]
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> String {
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

/// Agents in a thread of their own.
pub(crate) struct Fleet {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<()>,
}

impl Fleet {
    pub(crate) fn join(coordinator: &Coordinator) -> Self {
        let agents: Vec<Agent> = (1..=AGENTS)
            .map(|seed| Agent::join(seed, coordinator.token()))
            .collect();
        let ids: Vec<NodeId> = agents.iter().map(Agent::id).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let end = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            block_on(async {
                let lives = agents.into_iter().map(|agent| {
                    let others = ids.iter().copied().filter(|id| *id != agent.id()).collect();
                    tokio::spawn(live(agent, others, Arc::clone(&end)))
                });
                for life in lives.collect::<Vec<_>>() {
                    life.await.unwrap();
                }
            });
        });
        Self { stop, thread }
    }

    pub(crate) fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
    }
}

/// Reports again and again, whatever happens to the coordinator.
async fn live(agent: Agent, others: Vec<NodeId>, stop: Arc<AtomicBool>) {
    let mut counter = 0;
    while !stop.load(Ordering::Relaxed) {
        if let Ok(mut connection) = agent.hello().await {
            while !stop.load(Ordering::Relaxed) {
                counter += 1;
                let report = agent.report(counter, &others);
                if connection.send(&report).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(40)).await;
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A second opinion, with nothing of ours between broker and count.
pub(crate) fn kcat_agrees(broker: &Broker, last: u64) {
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
