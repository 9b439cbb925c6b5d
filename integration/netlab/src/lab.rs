//! The lab: owns all hosts, and leaves nothing behind.
//!
//! Two ways clean up: `Drop`, and a reaper, a shell that waits on a pipe until this process is gone however it went.
//! `PR_SET_PDEATHSIG` would not do: it fires when the *thread* that spawned a child ends, and it forgets grandchildren.
//! A process belongs to the lab when it lives in one of its namespaces.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::host::output;
use crate::link::Attachment;
use crate::{Host, eventually};

/// Labs made by this process; their names carry the number.
static LABS: AtomicU32 = AtomicU32::new(0);

/// A network of hosts for one test.
#[derive(Debug)]
pub struct Lab {
    prefix: String,
    directory: PathBuf,
    hosts: BTreeMap<String, Host>,
    pub(crate) attachments: Vec<Attachment>,
    pub(crate) subnets: u16,
    reaper: Child,
}

impl Lab {
    /// An empty lab. Leftovers of labs whose process is dead are removed first. Needs root.
    pub fn new(name: &str) -> Result<Self> {
        ensure!(
            nix::unistd::geteuid().is_root(),
            "a lab needs root for network namespaces"
        );
        Self::sweep();
        let number = LABS.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("wl-{}-{number}-", std::process::id());
        let directory = std::env::temp_dir().join(format!("{prefix}{name}"));
        std::fs::create_dir_all(&directory)?;
        let reaper = reaper(&prefix, &directory)?;
        Ok(Self {
            prefix,
            directory,
            hosts: BTreeMap::new(),
            attachments: Vec::new(),
            subnets: 0,
            reaper,
        })
    }

    /// A host without any link.
    pub fn host(&mut self, name: &str) -> Result<Host> {
        ensure!(
            !self.hosts.contains_key(name),
            "there is a host {name} already"
        );
        let namespace = format!("{}{name}", self.prefix);
        let host = Host::new(name, namespace, self.directory.join(name))?;
        self.hosts.insert(name.to_owned(), host.clone());
        Ok(host)
    }

    /// Several hosts.
    pub fn hosts<const N: usize>(&mut self, names: [&str; N]) -> Result<[Host; N]> {
        let hosts = names
            .iter()
            .map(|name| self.host(name))
            .collect::<Result<Vec<_>>>()?;
        hosts.try_into().ok().context("as many hosts as names")
    }

    /// A directory that goes with the lab.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Removes what labs of dead processes left behind. Labs of running processes are not touched.
    pub fn sweep() {
        for namespace in namespaces("wl-") {
            if is_of_dead_process(&namespace) {
                remove_namespace(&namespace);
            }
        }
        let Ok(files) = std::fs::read_dir(std::env::temp_dir()) else {
            return;
        };
        for file in files.flatten() {
            if file.file_name().to_str().is_some_and(is_of_dead_process) {
                let _gone = std::fs::remove_dir_all(file.path());
            }
        }
    }

    /// The last lines of all logs, for a test that failed.
    fn tell_logs(&self) {
        for host in self.hosts.values() {
            let Ok(files) = std::fs::read_dir(host.directory()) else {
                continue;
            };
            for path in files.flatten().map(|file| file.path()) {
                if path.extension().is_none_or(|extension| extension != "log") {
                    continue;
                }
                let log = std::fs::read_to_string(&path).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                let tail = &lines[lines.len().saturating_sub(40)..];
                eprintln!("--- {}\n{}", path.display(), tail.join("\n"));
            }
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.tell_logs();
        }
        self.attachments.clear();
        for namespace in namespaces(&self.prefix) {
            remove_namespace(&namespace);
        }
        if std::env::var_os("WATTLE_NETLAB_KEEP").is_none() {
            let _gone = std::fs::remove_dir_all(&self.directory);
        }
        drop(self.reaper.stdin.take());
        let _reaped = self.reaper.wait();
    }
}

/// Runs a story in a lab of its own; panics with the whole chain of causes if it fails.
pub fn story(name: &str, story: impl FnOnce(&mut Lab) -> Result<()>) {
    let mut lab = match Lab::new(name) {
        Ok(lab) => lab,
        Err(error) => panic!("NOT RUN: {name}: {error:#}"),
    };
    if let Err(error) = story(&mut lab) {
        panic!("{name}: {error:#}");
    }
}

/// Whether the name is `wl-<pid>-…` and there is no such process any more.
fn is_of_dead_process(name: &str) -> bool {
    let mut words = name.split('-');
    let pid = (words.next() == Some("wl"))
        .then(|| words.next()?.parse::<u32>().ok())
        .flatten();
    pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
}

fn namespaces(prefix: &str) -> Vec<String> {
    let Ok(files) = std::fs::read_dir("/run/netns") else {
        return Vec::new();
    };
    let names = files
        .flatten()
        .filter_map(|file| file.file_name().into_string().ok());
    names.filter(|name| name.starts_with(prefix)).collect()
}

fn remove_namespace(namespace: &str) {
    let pids = || output(Command::new("ip").args(["netns", "pids", namespace]));
    let _emptied = eventually("an empty namespace", Duration::from_secs(5), || {
        let pids = pids()?;
        for pid in pids.split_whitespace().filter_map(|pid| pid.parse().ok()) {
            let pid = nix::unistd::Pid::from_raw(pid);
            let _gone = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
            let _reaped = nix::sys::wait::waitpid(pid, Some(nix::sys::wait::WaitPidFlag::WNOHANG));
        }
        Ok(pids.is_empty())
    });
    let _removed = output(Command::new("ip").args(["netns", "del", namespace]));
}

/// A shell that cleans up when the other end of its stdin closes, which the kernel does at any end of this process.
fn reaper(prefix: &str, directory: &Path) -> Result<Child> {
    const SCRIPT: &str = r#"
        trap '' INT TERM HUP
        cd /
        read -r _
        for namespace in $(ls /run/netns 2>/dev/null | grep "^$1"); do
            kill -9 $(ip netns pids "$namespace") 2>/dev/null
            ip netns del "$namespace" 2>/dev/null
        done
        [ -n "$WATTLE_NETLAB_KEEP" ] || rm -rf "$2"
    "#;
    let mut command = Command::new("setsid");
    command
        .args(["sh", "-c", SCRIPT, "wattle-netlab-reaper", prefix])
        .arg(directory);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.spawn().context("starting the reaper")
}
