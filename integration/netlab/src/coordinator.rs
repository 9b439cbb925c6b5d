//! A real coordinator on a host of the lab.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::mesh::binary;
use crate::{Host, Process, eventually};

const STARTS_WITHIN: Duration = Duration::from_secs(15);

/// A running coordinator with a network of its own; killed when dropped.
#[derive(Debug)]
pub struct Coordinator {
    host: Host,
    state: PathBuf,
    process: Process,
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
        let mut serve = verb(host, "serve", &state)?;
        if let Some(config) = config {
            serve.arg("--config").arg(config);
        }
        let process = host.spawn("coordinator", serve)?;
        // Any answer will do: it listens before it serves.
        let url = format!("https://{at}/");
        eventually("the coordinator answers", STARTS_WITHIN, || {
            let asked = host.run("curl", ["-sk", "-o", "/dev/null", "--max-time", "2", &url]);
            asked.map(|_| true)
        })?;
        Ok(Self {
            host: host.clone(),
            state,
            process,
        })
    }

    /// Ends it as a power cut would.
    pub fn kill(mut self) {
        self.process.kill();
    }

    /// A token with which one host can join.
    pub(crate) fn token(&self) -> Result<String> {
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
