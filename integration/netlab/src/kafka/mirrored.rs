//! A coordinator on loopback whose network is mirrored to a broker, and a fleet that has no mesh.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

use super::Broker;
use crate::answer::output;
use crate::eventually;
use crate::mesh::binary;

/// Longer than a coordinator takes to start, and to mirror some thousand events.
const PATIENCE: Duration = Duration::from_secs(60);

/// Longer than a coordinator holds back what changes often: a second.
const QUIET: Duration = Duration::from_secs(2);

/// A coordinator of the network `lab`. Killed when dropped; its data go with it.
#[derive(Debug)]
pub struct Mirrored {
    directory: TempDir,
    address: String,
    process: Child,
}

impl Mirrored {
    /// Prefix of the network's topics.
    pub const PREFIX: &str = "wattle.lab";

    /// Starts one with an empty network, and waits until it answers.
    pub fn start(broker: &Broker) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = port.local_addr()?.to_string();
        drop(port);
        let config = directory.path().join("coordinator.toml");
        let state = directory.path().join("state");
        let section = format!(
            "log = \"warn\"\n[kafka]\nbrokers = [\"{}\"]\n",
            broker.bootstrap()
        );
        fs::write(&config, section)?;
        let program = binary("wattle-coordinator")?;
        let mut init = Command::new(&program);
        init.args(["init", "--network", "lab", "--listen", &address, "--state"]);
        output(init.arg(&state))?;
        let process = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(&program)
            .args(["serve", "--state"])
            .arg(&state)
            .arg("--config")
            .arg(&config)
            .stderr(Stdio::null())
            .spawn()
            .context("starting the coordinator through setpriv (Debian: util-linux)")?;
        let coordinator = Self {
            directory,
            address,
            process,
        };
        eventually("the coordinator answers", PATIENCE, || {
            coordinator.network().map(|_| true)
        })?;
        Ok(coordinator)
    }

    /// A directory for a test's files, which goes with the coordinator.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// How the command line finds it.
    pub fn options(&self) -> [String; 4] {
        let state = self.directory.path().join("state").display().to_string();
        let words = [
            "--coordinator",
            &self.address,
            "--coordinator-state",
            &state,
        ];
        words.map(str::to_owned)
    }

    /// Lets a fleet join and report: `wattle-fleetgen` with these arguments.
    pub fn grow(&self, arguments: &[&str]) -> Result<()> {
        let mut fleet = Command::new(binary("wattle-fleetgen")?);
        fleet
            .args(arguments)
            .arg("--coordinator")
            .arg(binary("wattle-coordinator")?)
            .arg("--state")
            .arg(self.directory.path().join("state"));
        output(&mut fleet).map(drop)
    }

    /// Removes a node for good.
    pub fn remove(&self, node: &str) -> Result<()> {
        self.ask(&["-X", "DELETE"], &format!("api/v1/nodes/{node}"))
            .map(drop)
    }

    /// Its metrics, as Prometheus reads them.
    pub fn metrics(&self) -> Result<String> {
        Ok(String::from_utf8(self.ask(&[], "metrics")?)?)
    }

    /// Waits until everything that happened is in Kafka.
    pub fn wait_until_mirrored(&self) -> Result<()> {
        eventually("everything is mirrored", PATIENCE, || {
            let network = self.network()?;
            Ok(network["last_seq"].is_u64() && network["last_seq"] == network["mirrored_seq"])
        })
        .map(drop)
    }

    /// Waits until everything that happened is in Kafka, and nothing more comes.
    pub fn wait_until_quiet(&self) -> Result<()> {
        loop {
            self.wait_until_mirrored()?;
            let newest = self.network()?["last_seq"].clone();
            thread::sleep(QUIET);
            if self.network()?["last_seq"] == newest {
                return Ok(());
            }
        }
    }

    fn network(&self) -> Result<Value> {
        Ok(serde_json::from_slice(&self.ask(&[], "api/v1/network")?)?)
    }

    /// What it answers to a request.
    fn ask(&self, arguments: &[&str], path: &str) -> Result<Vec<u8>> {
        let token = self.directory.path().join("state/admin.token");
        let token = fs::read_to_string(&token).context("the administrator's token")?;
        let mut curl = Command::new("curl");
        curl.args(["-sk", "--fail", "--max-time", "10"])
            .args(arguments)
            .args(["-H", &format!("Authorization: Bearer {}", token.trim())])
            .arg(format!("https://{}/{path}", self.address));
        let answer = curl.output().context("running curl")?;
        ensure!(answer.status.success(), "{path}: {}", answer.status);
        Ok(answer.stdout)
    }
}

impl Drop for Mirrored {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _reaped = self.process.wait();
    }
}
