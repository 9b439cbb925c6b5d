//! A mesh of real agents: writes `nodes.toml` and has `wattle network create --offline` make the state directories, or
//! lets every host join a coordinator, and runs `wattled` in each host.
//!
//! The binaries come from `WATTLE_BIN_DIR`, or lie beside the test's own in the target directory.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::metrics::Metrics;
use crate::probe::Echo;
use crate::{Coordinator, Host, Lab, PATIENCE, Process, eventually};

/// The UDP port of every agent.
pub const PORT: u16 = 51_820;
/// The device of every agent.
pub const INTERFACE: &str = "wattle0";

/// Describes a mesh before it is made.
#[derive(Debug)]
pub struct MeshBuilder {
    directory: PathBuf,
    nodes: Vec<Node>,
    leaves: Vec<Leaf>,
    settings: String,
}

#[derive(Debug)]
struct Node {
    host: Host,
    endpoints: Vec<IpAddr>,
    neighbours: Option<Vec<String>>,
    prefixes: Vec<String>,
}

#[derive(Debug)]
struct Leaf {
    name: String,
    host: String,
    public_key: String,
    address: IpAddr,
}

/// A mesh of running agents.
#[derive(Debug)]
pub struct Mesh {
    directory: PathBuf,
    agents: BTreeMap<String, Agent>,
}

#[derive(Debug)]
struct Agent {
    host: Host,
    address: Ipv4Addr,
    address_v6: Ipv6Addr,
    process: Option<Process>,
}

impl Lab {
    /// A mesh with these nodes; everybody may dial everybody at all addresses that the hosts have in the lab.
    pub fn mesh(&self, name: &str, hosts: &[&Host]) -> MeshBuilder {
        let node = |host: &&Host| Node {
            host: (*host).clone(),
            endpoints: self
                .ends(host)
                .iter()
                .flat_map(|end| [end.v4.into(), end.v6.into()])
                .collect(),
            neighbours: None,
            prefixes: Vec::new(),
        };
        let nodes = hosts.iter().map(node).collect();
        MeshBuilder {
            directory: self.directory().join(name),
            nodes,
            leaves: Vec::new(),
            settings: String::new(),
        }
    }
}

impl MeshBuilder {
    /// Nobody is told where to dial this node, as when it is behind a NAT.
    pub fn hidden(mut self, host: &Host) -> Result<Self> {
        self.node(host)?.endpoints.clear();
        Ok(self)
    }

    /// Others dial this node at IPv6 addresses only.
    pub fn only_ipv6(mut self) -> Self {
        for node in &mut self.nodes {
            node.endpoints.retain(IpAddr::is_ipv6);
        }
        self
    }

    /// Links are wanted between these alone.
    pub fn only_links(mut self, links: &[(&Host, &Host)]) -> Self {
        for node in &mut self.nodes {
            let other = |(a, b): &(&Host, &Host)| {
                let name = node.host.name();
                (a.name() == name)
                    .then(|| b.name().to_owned())
                    .or((b.name() == name).then(|| a.name().to_owned()))
            };
            node.neighbours = Some(links.iter().filter_map(other).collect());
        }
        self
    }

    /// The node may announce this prefix and does.
    pub fn announces(mut self, host: &Host, prefix: &str) -> Result<Self> {
        self.node(host)?.prefixes.push(prefix.to_owned());
        Ok(self)
    }

    /// A stock WireGuard device hangs on `host`.
    pub fn leaf(mut self, name: &str, host: &Host, public_key: &str, address: IpAddr) -> Self {
        let public_key = public_key.trim().to_owned();
        self.leaves.push(Leaf {
            name: name.to_owned(),
            host: host.name().to_owned(),
            public_key,
            address,
        });
        self
    }

    /// Adds a line to the configuration of every agent of a network without a coordinator.
    pub fn setting(mut self, line: &str) -> Self {
        self.settings += line;
        self.settings += "\n";
        self
    }

    fn node(&mut self, host: &Host) -> Result<&mut Node> {
        let node = self
            .nodes
            .iter_mut()
            .find(|node| node.host.name() == host.name());
        node.with_context(|| format!("{} is no node of this mesh", host.name()))
    }

    /// Makes the state directories without starting anybody.
    pub fn create(self) -> Result<Mesh> {
        std::fs::create_dir_all(&self.directory)?;
        let file = self.directory.join("nodes.toml");
        std::fs::write(&file, self.nodes_toml()?)?;
        let mut create = std::process::Command::new(binary("wattle")?);
        create
            .args(["network", "create", "--offline"])
            .arg(self.directory.join("net"));
        crate::host::output(create.arg("--nodes").arg(&file))?;
        let agent = |(i, node): (usize, &Node)| {
            let agent = Agent {
                host: node.host.clone(),
                address: address(i),
                address_v6: address_v6(address(i)),
                process: None,
            };
            (node.host.name().to_owned(), agent)
        };
        let mesh = Mesh {
            directory: self.directory,
            agents: self.nodes.iter().enumerate().map(agent).collect(),
        };
        for node in &self.nodes {
            mesh.set(&node.host, &self.settings)?;
        }
        Ok(mesh)
    }

    /// Makes the state directories, starts all agents and waits until they agree.
    pub fn start(self) -> Result<Mesh> {
        let mut mesh = self.create()?;
        mesh.start_all()?;
        mesh.wait_converged(PATIENCE)?;
        Ok(mesh)
    }

    /// Lets every host join the coordinator, starts all agents and waits until they agree. What else was said about the
    /// nodes counts in networks without a coordinator only.
    pub fn join(self, coordinator: &Coordinator) -> Result<Mesh> {
        let mut mesh = Mesh {
            directory: self.directory,
            agents: BTreeMap::new(),
        };
        for Node { host, .. } in self.nodes {
            mesh.join(&host, coordinator)?;
        }
        mesh.wait_converged(PATIENCE)?;
        Ok(mesh)
    }

    fn nodes_toml(&self) -> Result<String> {
        let mut text =
            "[network]\nname = \"lab\"\nipv4 = \"10.77.0.0/16\"\nipv6 = \"fd57:77::/64\"\n"
                .to_owned();
        for (i, node) in self.nodes.iter().enumerate() {
            let endpoints: Vec<String> = node
                .endpoints
                .iter()
                .map(|ip| SocketAddr::new(*ip, PORT).to_string())
                .collect();
            writeln!(
                text,
                "\n[[node]]\nname = {:?}\naddresses = [\"{}\", \"{}\"]",
                node.host.name(),
                address(i),
                address_v6(address(i))
            )?;
            writeln!(
                text,
                "endpoints = {endpoints:?}\nlisten_port = {PORT}\ninterface = {INTERFACE:?}"
            )?;
            if let Some(neighbours) = &node.neighbours {
                writeln!(text, "neighbours = {neighbours:?}")?;
            }
            if !node.prefixes.is_empty() {
                writeln!(text, "prefixes = {:?}", node.prefixes)?;
            }
        }
        for Leaf {
            name,
            host,
            public_key,
            address,
        } in &self.leaves
        {
            writeln!(text, "\n[[leaf]]\nname = {name:?}\nhost = {host:?}")?;
            writeln!(
                text,
                "public_key = {public_key:?}\naddresses = [\"{address}\"]"
            )?;
        }
        Ok(text)
    }
}

/// The overlay address of the node that was named as the i-th.
fn address(i: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, i as u8 + 1)
}

/// The IPv6 address beside it.
fn address_v6(v4: Ipv4Addr) -> Ipv6Addr {
    Ipv6Addr::new(0xfd57, 0x77, 0, 0, 0, 0, 0, v4.octets()[3].into())
}

impl Mesh {
    /// The overlay address of a node.
    pub fn address(&self, host: &Host) -> Result<IpAddr> {
        Ok(self.agent(host)?.address.into())
    }

    /// The IPv6 overlay address of a node.
    pub fn address_v6(&self, host: &Host) -> Result<IpAddr> {
        Ok(self.agent(host)?.address_v6.into())
    }

    /// The state directory of a node.
    pub fn state(&self, host: &Host) -> PathBuf {
        self.directory.join("net").join(host.name())
    }

    /// Adds lines at the end of the configuration that an agent reads when it starts.
    pub fn set(&self, host: &Host, line: &str) -> Result<()> {
        let path = self.state(host).join("wattled.toml");
        let text = std::fs::read_to_string(&path)?;
        Ok(std::fs::write(path, format!("{text}{line}\n"))?)
    }

    /// The agent's control socket.
    pub fn socket(&self, host: &Host) -> PathBuf {
        host.directory().join("wattled.sock")
    }

    /// Makes a host a node by `wattle join`, starts its agent, and learns from it which addresses it was given.
    fn join(&mut self, host: &Host, coordinator: &Coordinator) -> Result<()> {
        let mut join = host.command(binary("wattle")?);
        join.args(["join", &coordinator.token()?, "--no-start"])
            .args(["--name", host.name(), "--state"])
            .arg(self.state(host));
        crate::host::output(&mut join)?;
        let unknown = Agent {
            host: host.clone(),
            address: Ipv4Addr::UNSPECIFIED,
            address_v6: Ipv6Addr::UNSPECIFIED,
            process: None,
        };
        self.agents.insert(host.name().to_owned(), unknown);
        self.start(host)?;
        let mut status = serde_json::Value::Null;
        eventually("the agent answers", PATIENCE, || {
            status = self.data(host, &["status"])?;
            Ok(true)
        })?;
        let given = status["addresses"].as_array().into_iter().flatten();
        let agent = self.agents.get_mut(host.name()).context("just added")?;
        for address in given.filter_map(serde_json::Value::as_str) {
            match address.parse()? {
                IpAddr::V4(v4) => agent.address = v4,
                IpAddr::V6(v6) => agent.address_v6 = v6,
            }
        }
        Ok(())
    }

    /// Starts all agents.
    pub fn start_all(&mut self) -> Result<()> {
        let hosts: Vec<Host> = self
            .agents
            .values()
            .map(|agent| agent.host.clone())
            .collect();
        hosts.iter().try_for_each(|host| self.start(host))
    }

    /// Starts the agent of a host.
    pub fn start(&mut self, host: &Host) -> Result<()> {
        self.start_behind(host, &[])
    }

    /// Starts the agent of a host by a program that ends in it.
    pub fn start_behind(&mut self, host: &Host, wrapper: &[&str]) -> Result<()> {
        let mut command = host.command("env");
        command
            .args(wrapper)
            .arg(binary("wattled")?)
            .arg("--state")
            .arg(self.state(host))
            .arg("--socket")
            .arg(self.socket(host));
        let process = host.spawn("wattled", command)?;
        let agent = self
            .agents
            .get_mut(host.name())
            .context("no node of this mesh")?;
        agent.process = Some(process);
        Ok(())
    }

    /// The running agent of a host.
    pub fn process(&mut self, host: &Host) -> Result<&mut Process> {
        let agent = self
            .agents
            .get_mut(host.name())
            .context("no node of this mesh")?;
        agent
            .process
            .as_mut()
            .with_context(|| format!("no agent runs on {}", host.name()))
    }

    /// Ends the agent of a host as a power cut would.
    pub fn kill(&mut self, host: &Host) -> Result<()> {
        self.process(host)?.kill();
        self.agents
            .get_mut(host.name())
            .context("no node of this mesh")?
            .process = None;
        Ok(())
    }

    /// Asks the agent of a host to end, waits until it has, and returns its log.
    pub fn stop(&mut self, host: &Host) -> Result<String> {
        let process = self.process(host)?;
        let status = process.terminate(Duration::from_secs(10))?;
        let log = process.log();
        ensure!(
            status.success(),
            "wattled on {} ended with {status}:\n{log}",
            host.name()
        );
        self.agents
            .get_mut(host.name())
            .context("no node of this mesh")?
            .process = None;
        Ok(log)
    }

    /// The CLI, about to ask the agent of a host.
    pub fn command(&self, host: &Host) -> Result<std::process::Command> {
        let mut command = host.command(binary("wattle")?);
        command.arg("--socket").arg(self.socket(host));
        Ok(command)
    }

    /// Asks the agent of a host with the CLI; its answer.
    pub fn wattle(&self, host: &Host, arguments: &[&str]) -> Result<String> {
        crate::host::output(self.command(host)?.args(arguments))
    }

    /// The same with `--json`, and of the answer the data.
    pub fn data(&self, host: &Host, arguments: &[&str]) -> Result<serde_json::Value> {
        let arguments: Vec<&str> = ["--json"].iter().chain(arguments).copied().collect();
        let mut answer: serde_json::Value = serde_json::from_str(&self.wattle(host, &arguments)?)?;
        Ok(answer["data"].take())
    }

    /// What the agent of a host has dropped for a reason, by its metrics.
    pub fn dropped(&self, host: &Host, reason: &str) -> Result<u64> {
        let label = format!("reason=\"{reason}\"");
        let metrics = self.metrics(host)?;
        // A reason that did not occur has no line.
        Ok(metrics.sum("wattle_worker_dropped_packets_total", &label))
    }

    /// The figures of the agent of a host, taken at one moment.
    pub fn metrics(&self, host: &Host) -> Result<Metrics> {
        Metrics::parse(&self.wattle(host, &["metrics"])?)
    }

    /// An echo at the overlay address of a node.
    pub fn echo(&self, host: &Host) -> Result<(SocketAddr, Echo)> {
        let at = SocketAddr::new(self.address(host)?, 7);
        Ok((at, host.echo(at)?))
    }

    /// Waits until every running agent says that it has converged; how long that took.
    pub fn wait_converged(&mut self, patience: Duration) -> Result<Duration> {
        let running: Vec<Host> = self.running();
        eventually("all agents converged", patience, || {
            for host in &running {
                let process = self.process(host)?;
                if !process.is_running() {
                    bail!("wattled on {} has ended:\n{}", host.name(), process.log());
                }
                self.wattle(host, &["status", "--check", "converged"])?;
            }
            Ok(true)
        })
    }

    /// Waits until every running agent reaches every other by ping over IPv4 and IPv6; an error names the pair that does not.
    pub fn wait_all_reach_all(&self, patience: Duration) -> Result<()> {
        let running = self.running();
        for from in &running {
            for to in running.iter().filter(|to| to.name() != from.name()) {
                for address in [self.address(to)?, self.address_v6(to)?] {
                    eventually("a ping answered", patience, || Ok(from.reaches(address)))
                        .with_context(|| format!("{} does not reach {address}", from.name()))?;
                }
            }
        }
        Ok(())
    }

    /// Waits until every running agent reaches every other over IPv4 and IPv6, asked all at once; how long that took.
    pub fn wait_complete(&self, patience: Duration) -> Result<Duration> {
        let began = Instant::now();
        let running = self.running();
        for from in &running {
            let others = running.iter().filter(|to| to.name() != from.name());
            let mut ping: Vec<String> = ["-q", "-r", "0", "-t", "300", "-i", "1"]
                .map(str::to_owned)
                .into();
            for to in others {
                ping.extend([
                    self.address(to)?.to_string(),
                    self.address_v6(to)?.to_string(),
                ]);
            }
            let left = patience.saturating_sub(began.elapsed());
            eventually("every other node answers", left, || {
                from.run("fping", &ping).map(|_| true)
            })
            .with_context(|| format!("{} does not reach all others", from.name()))?;
        }
        Ok(began.elapsed())
    }

    /// Waits until no running agent has changed a route for two seconds: what is lost from then on is lost for a cause.
    pub fn wait_settled(&self, patience: Duration) -> Result<()> {
        const QUIET: Duration = Duration::from_secs(2);
        let mut last = Vec::new();
        let mut since = Instant::now();
        eventually("routes that stay", patience, || {
            let mut now = Vec::new();
            for host in self.running() {
                now.push(ways(&self.data(&host, &["routes"])?));
            }
            if now != last {
                (last, since) = (now, Instant::now());
            }
            Ok(since.elapsed() >= QUIET)
        })?;
        Ok(())
    }

    fn running(&self) -> Vec<Host> {
        let running = self.agents.values().filter(|agent| agent.process.is_some());
        running.map(|agent| agent.host.clone()).collect()
    }

    fn agent(&self, host: &Host) -> Result<&Agent> {
        self.agents
            .get(host.name())
            .with_context(|| format!("{} is no node of this mesh", host.name()))
    }
}

/// Which links lead to which prefix, of a table of routes; not what they cost.
fn ways(routes: &serde_json::Value) -> Vec<(String, String)> {
    let routes = routes["routes"].as_array().into_iter().flatten();
    let ways = routes.flat_map(|route| {
        let prefix = route["prefix"].to_string();
        let next_hops = route["next_hops"].as_array().into_iter().flatten();
        next_hops.map(move |hop| (prefix.clone(), format!("{} {}", hop["role"], hop["link"])))
    });
    ways.collect()
}

/// Where a binary of the workspace is.
pub fn binary(name: &str) -> Result<PathBuf> {
    let directory = match std::env::var_os("WATTLE_BIN_DIR") {
        Some(directory) => PathBuf::from(directory),
        // Tests lie in target/<profile>/deps, the binaries one above.
        None => std::env::current_exe()?
            .parent()
            .and_then(Path::parent)
            .map(Path::to_owned)
            .context("the test's own path has no parent")?,
    };
    let path = directory.join(name);
    ensure!(
        path.exists(),
        "{} is missing: build it (`cargo build -p wattle-agent -p wattle-cli`), or set WATTLE_BIN_DIR",
        path.display()
    );
    Ok(path)
}
