//! A real coordinator on a host of the lab.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::mesh::binary;
use crate::{Host, Process, eventually};

const STARTS_WITHIN: Duration = Duration::from_secs(15);

/// A coordinator with a network of its own; killed when dropped.
#[derive(Debug)]
pub struct Coordinator {
    host: Host,
    at: SocketAddr,
    state: PathBuf,
    config: Option<PathBuf>,
    process: Option<Process>,
}

impl Coordinator {
    /// Makes a network on `host` and serves it there at `at`.
    pub fn start(host: &Host, at: SocketAddr) -> Result<Self> {
        Self::start_with(host, at, None)
    }

    /// The same with a configuration of its own.
    pub fn start_with(host: &Host, at: SocketAddr, config: Option<&Path>) -> Result<Self> {
        let state = host.directory().join("coordinator");
        let mut init = verb(host, "init", &state)?;
        init.args(["--network", "lab", "--listen", &at.to_string()])
            .args(["--public-address", &at.to_string()])
            .args(["--ipv4", "10.77.0.0/16", "--ipv6", "fd57:77::/64"]);
        crate::host::output(&mut init)?;
        let mut coordinator = Self {
            host: host.clone(),
            at,
            state,
            config: config.map(Path::to_owned),
            process: None,
        };
        coordinator.run()?;
        Ok(coordinator)
    }

    /// Serves the network with the state that is there, and waits until it answers.
    pub fn run(&mut self) -> Result<()> {
        let mut serve = verb(&self.host, "serve", &self.state)?;
        if let Some(config) = &self.config {
            serve.arg("--config").arg(config);
        }
        self.process = Some(self.host.spawn("coordinator", serve)?);
        // Any answer will do: it listens before it serves.
        let url = format!("https://{}/", self.at);
        eventually("the coordinator answers", STARTS_WITHIN, || {
            let ask = ["-sk", "-o", "/dev/null", "--max-time", "2", &url];
            self.host.run("curl", ask).map(|_| true)
        })?;
        Ok(())
    }

    /// Ends it as a power cut would.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// A token with which one host can join.
    pub fn token(&self) -> Result<String> {
        let mut create = self.host.command(binary("wattle-coordinator")?);
        create.args(["token", "create", "--state"]).arg(&self.state);
        Ok(crate::host::output(&mut create)?.trim().to_owned())
    }
}

fn verb(host: &Host, verb: &str, state: &Path) -> Result<Command> {
    let mut command = host.command(binary("wattle-coordinator")?);
    command.arg(verb).arg("--state").arg(state);
    Ok(command)
}
