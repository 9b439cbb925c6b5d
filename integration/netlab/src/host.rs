//! A host: a network namespace, and running things inside it.

use std::ffi::OsStr;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sched::{CloneFlags, setns};

use crate::Process;

/// A host of a lab. Clones are the same host.
#[derive(Debug, Clone)]
pub struct Host(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    namespace: String,
    directory: PathBuf,
}

impl Host {
    pub(crate) fn new(name: &str, namespace: String, directory: PathBuf) -> Result<Self> {
        std::fs::create_dir_all(&directory)?;
        output(Command::new("ip").args(["netns", "add", &namespace]))?;
        let host = Self(Arc::new(Inner {
            name: name.to_owned(),
            namespace,
            directory,
        }));
        // Detection of duplicate addresses would delay every address by a second.
        host.sh("ip link set lo up
             echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad
             echo 0 > /proc/sys/net/ipv6/conf/all/accept_dad
             echo 0 > /proc/sys/net/ipv6/conf/default/accept_ra")?;
        Ok(host)
    }

    /// Its name in the lab.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The name of its network namespace.
    pub fn namespace(&self) -> &str {
        &self.0.namespace
    }

    /// A directory of its own, which goes with the lab; logs are there.
    pub fn directory(&self) -> &Path {
        &self.0.directory
    }

    /// A command that will run in this host.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.0.namespace])
            .arg(program);
        command.current_dir(&self.0.directory);
        command
    }

    /// Runs a program to its end; what it printed, or an error with what it complained about.
    pub fn run<A: AsRef<OsStr>>(
        &self,
        program: &str,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<String> {
        output(self.command(program).args(arguments))
            .with_context(|| format!("on host {}", self.name()))
    }

    /// Runs a shell script to its end; what it printed.
    pub fn sh(&self, script: &str) -> Result<String> {
        self.run("sh", ["-euc", script])
    }

    /// Starts a program that runs on, its output in `<name>.log`.
    pub fn spawn(&self, name: &str, command: Command) -> Result<Process> {
        Process::spawn(name, command, &self.0.directory)
    }

    /// Loads an nft ruleset.
    pub fn nft(&self, rules: &str) -> Result<()> {
        let file = self.0.directory.join("nft.rules");
        std::fs::write(&file, rules)?;
        self.run("nft", [OsStr::new("-f"), file.as_os_str()])
            .map(drop)
    }

    /// Counts from here on what [`Self::frames_to`] tells, for a neighbour on an interface of its name.
    pub fn count_frames_to(&self, relay: &Self) -> Result<()> {
        let name = relay.name();
        self.nft(&format!(
            "add table inet flows
            add counter inet flows {name}
            add chain inet flows out {{ type filter hook output priority 0; }}
            add rule inet flows out oifname {name} meta l4proto udp @th,64,8 0x57 counter name {name}"
        ))
    }

    /// Bytes of relay frames that left for a neighbour: frames alone, since what agents say to each other is no flow's; in
    /// bytes, since several may leave at once.
    pub fn frames_to(&self, relay: &Self) -> Result<u64> {
        let listed = self.sh(&format!("nft list counter inet flows {}", relay.name()))?;
        let mut words = listed.split_whitespace();
        let count = words.by_ref().skip_while(|word| *word != "bytes").nth(1);
        Ok(count.context("no count")?.parse()?)
    }

    /// Whether one of three pings, half a second apart, is answered.
    pub fn reaches(&self, to: IpAddr) -> bool {
        self.run(
            "fping",
            ["-q", "-r", "2", "-B", "1", "-t", "500", &to.to_string()],
        )
        .is_ok()
    }

    /// TCP throughput to an `iperf3 -s` in Mbit/s as the receiver counted it.
    pub fn iperf3(&self, to: IpAddr, span: Duration) -> Result<f64> {
        let seconds = span.as_secs().max(1).to_string();
        let text = self.run("iperf3", ["-J", "-c", &to.to_string(), "-t", &seconds])?;
        let report: serde_json::Value = serde_json::from_str(&text)?;
        let bits = report["end"]["sum_received"]["bits_per_second"].as_f64();
        Ok(bits.with_context(|| format!("iperf3 reported {}", report["error"]))? / 1e6)
    }

    /// Runs `inside` on a thread that has this host's network: sockets made there belong to the host.
    pub fn inside<T: Send>(&self, inside: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.enter()?;
                inside()
            });
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Moves the calling thread into the host. Never call it on a thread that goes on to do other things.
    pub(crate) fn enter(&self) -> Result<()> {
        let path = Path::new("/run/netns").join(&self.0.namespace);
        let namespace = std::fs::File::open(&path).with_context(|| path.display().to_string())?;
        setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET).context("entering a network namespace")
    }
}

/// Runs a command to its end; what it printed, or an error with what it complained about.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("starting {command:?}"))?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(printed);
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(
        !complaint.is_empty() || !printed.is_empty(),
        "{command:?}: {}",
        output.status
    );
    bail!("{command:?}: {}\n{printed}{complaint}", output.status)
}
