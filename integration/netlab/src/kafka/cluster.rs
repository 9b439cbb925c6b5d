//! Real Apache Kafka clusters of one or more servers, started from exactly what `wattle kafka render` writes.
//!
//! A cluster may have racks, TLS with SCRAM and certificates and access lists, and remote storage that is a directory
//! ([`Cluster::remote`]). Everything is on loopback, in one temporary directory, and ends with the thread that started it.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use wattle_api::stream::{Kafka, Protocol, Sasl, Tls};
use wattle_kafka::document::Document;
use wattle_kafka::render::render;

use super::{HEAP_MIB, KcatRecord, jars, java_arguments, read_with_kcat, start_server};

/// How long all servers may take to start.
const START: Duration = Duration::from_secs(120);

/// The class that plays remote storage: segments are files in a directory.
const LOCAL_TIERED: &str = "org.apache.kafka.server.log.remote.storage.LocalTieredStorage";

/// What a cluster should be like.
#[derive(Debug, Clone)]
pub struct Shape {
    /// How many servers, each in a rack of its own: `zone-1`, `zone-2`, ...
    pub servers: u32,
    /// TLS, SCRAM and access lists; the user [`Shape::ADMIN`] may everything.
    pub secured: bool,
    /// Remote storage.
    pub tiered: bool,
    /// Megabytes of heap for each server.
    pub heap_mib: u32,
    /// Where the servers keep their data, if not in the cluster's own directory.
    pub disk: Option<PathBuf>,
    /// More properties of all servers, over those for a small machine.
    pub properties: Vec<(String, String)>,
}

impl Shape {
    /// The user that may everything in a secured cluster.
    pub const ADMIN: &'static str = "admin";

    /// So many servers that anybody may use.
    pub fn open(servers: u32) -> Self {
        Self {
            servers,
            secured: false,
            tiered: false,
            heap_mib: 384,
            disk: None,
            properties: Vec::new(),
        }
    }

    /// So many servers with TLS, SCRAM and access lists.
    pub fn secured(servers: u32) -> Self {
        Self {
            secured: true,
            ..Self::open(servers)
        }
    }

    /// The same with remote storage.
    pub fn tiered(self) -> Self {
        Self {
            tiered: true,
            ..self
        }
    }

    /// The same with the data below this directory.
    pub fn on(self, disk: PathBuf) -> Self {
        Self {
            disk: Some(disk),
            ..self
        }
    }

    /// The same with one more property.
    pub fn with(mut self, key: &str, value: &str) -> Self {
        self.properties.push((key.to_owned(), value.to_owned()));
        self
    }
}

/// A running cluster. Killed when dropped; its data go with it.
#[derive(Debug)]
pub struct Cluster {
    home: TempDir,
    jars: PathBuf,
    shape: Shape,
    servers: Vec<Server>,
    authority: Option<Authority>,
}

#[derive(Debug)]
struct Server {
    id: u32,
    port: u16,
    certificate_port: u16,
    broker_port: u16,
    controller_port: u16,
    process: Option<Child>,
}

#[derive(Debug)]
struct Authority(Issuer<'static, KeyPair>);

impl Cluster {
    /// Renders, formats and starts a cluster, and waits until every server answers.
    pub fn start(shape: Shape) -> Result<Self> {
        let mut cluster = Self::render(shape)?;
        cluster.format()?;
        for at in 0..cluster.servers.len() {
            cluster.spawn(at)?;
        }
        cluster.wait_until_ready()?;
        Ok(cluster)
    }

    /// `host:port` of every server, for clients that log in by password, or anyhow where nobody logs in.
    pub fn bootstrap(&self) -> Vec<String> {
        let ports = self.servers.iter().map(|server| server.port);
        ports.map(|port| format!("127.0.0.1:{port}")).collect()
    }

    /// `host:port` of every server, for clients that show a certificate.
    pub fn certificate_bootstrap(&self) -> Vec<String> {
        let ports = self.servers.iter().map(|server| server.certificate_port);
        ports.map(|port| format!("127.0.0.1:{port}")).collect()
    }

    /// The settings by which `user` logs in by password; in an open cluster, anybody's.
    pub fn kafka(&self, user: &str) -> Kafka {
        let open = Kafka {
            brokers: self.bootstrap(),
            ..Kafka::plaintext("")
        };
        if !self.shape.secured {
            return open;
        }
        Kafka {
            protocol: Protocol::SaslSsl,
            sasl: Some(Sasl::in_file(user, self.password_file(user))),
            tls: Some(Tls {
                ca_file: Some(self.tls_dir().join("ca.pem")),
                ..Tls::default()
            }),
            ..open
        }
    }

    /// The settings by which `user` logs in by a certificate, which is made here.
    pub fn kafka_by_certificate(&self, user: &str) -> Result<Kafka> {
        self.issue(user)?;
        let file = |name: String| Some(self.tls_dir().join(name));
        Ok(Kafka {
            brokers: self.certificate_bootstrap(),
            protocol: Protocol::Ssl,
            tls: Some(Tls {
                ca_file: file("ca.pem".to_owned()),
                certificate_file: file(format!("{user}.crt")),
                key_file: file(format!("{user}.key")),
                ..Tls::default()
            }),
            ..Kafka::plaintext("")
        })
    }

    /// The file with a user's password, made if it is not there.
    pub fn add_password(&self, user: &str) -> Result<PathBuf> {
        let path = self.password_file(user);
        write_secret(&path, &format!("the password, of {user}]\n"))?;
        Ok(path)
    }

    /// The document that the cluster was rendered from. It has the tables `desired` (the administrator alone) and `cluster`.
    pub fn document(&self) -> Result<String> {
        Ok(fs::read_to_string(self.home.path().join("kafka.toml"))?)
    }

    /// Where all files of the cluster are.
    pub fn dir(&self) -> &Path {
        self.home.path()
    }

    /// Where server `at` (from 0) keeps its data.
    pub fn data(&self, at: usize) -> PathBuf {
        self.disk().join(format!("data-{}", self.servers[at].id))
    }

    /// Where remote storage keeps its segments.
    pub fn remote(&self) -> PathBuf {
        self.home.path().join("remote")
    }

    /// How many servers there are.
    pub fn len(&self) -> usize {
        self.servers.len()
    }

    /// Whether there is none, which cannot be.
    pub fn is_empty(&self) -> bool {
        self.servers.is_empty()
    }

    /// Ends server `at` (from 0) as a power cut would.
    pub fn kill(&mut self, at: usize) -> Result<()> {
        if let Some(mut process) = self.servers[at].process.take() {
            process.kill()?;
            process.wait()?;
        }
        Ok(())
    }

    /// Freezes server `at`: it neither works nor ends.
    pub fn pause(&self, at: usize) -> Result<()> {
        self.signal(at, Signal::SIGSTOP)
    }

    /// Lets a frozen server go on.
    pub fn resume(&self, at: usize) -> Result<()> {
        self.signal(at, Signal::SIGCONT)
    }

    /// Starts server `at` with the data it has, without waiting.
    pub fn spawn(&mut self, at: usize) -> Result<()> {
        self.kill(at)?;
        let properties = self.server_dir(at).join("server.properties");
        let heap_mib = self.shape.heap_mib;
        let child = start_server(&self.jars, heap_mib, &properties, &self.log(at))?;
        self.servers[at].process = Some(child);
        Ok(())
    }

    /// Starts server `at` with the data it has and waits until all of the cluster answers.
    pub fn restart(&mut self, at: usize) -> Result<()> {
        self.spawn(at)?;
        self.wait_until_ready()
    }

    /// Waits until all servers that run are in the cluster.
    pub fn wait_until_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + START;
        loop {
            let running = self
                .servers
                .iter()
                .filter(|server| server.process.is_some());
            let running = running.count();
            let (listed, said) = self.listed()?;
            if listed == running {
                return Ok(());
            }
            self.fail_if_ended()?;
            ensure!(
                Instant::now() < deadline,
                "kcat sees {listed} of {running} servers: {said}\n{}",
                self.log_tails()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// The committed records of a topic as the administrator's kcat sees them; fillers are passed over.
    pub fn kcat(&self, topic: &str) -> Result<Vec<KcatRecord>> {
        read_with_kcat(self.kcat_command(Shape::ADMIN), topic)
    }

    /// `kcat` as `user`; more arguments can be added. In a secured cluster the user shows a certificate, which the
    /// administrator has and [`Cluster::kafka_by_certificate`] makes for others: Debian 12's librdkafka 2.0 does not get
    /// through SCRAM-SHA-512.
    pub fn kcat_command(&self, user: &str) -> Command {
        let mut command = Command::new("kcat");
        if !self.shape.secured {
            command.args(["-b", &self.bootstrap().join(",")]);
            return command;
        }
        command.args(["-b", &self.certificate_bootstrap().join(",")]);
        let file = |name: String| self.tls_dir().join(name).display().to_string();
        for property in [
            "security.protocol=ssl".to_owned(),
            format!("ssl.ca.location={}", file("ca.pem".to_owned())),
            format!("ssl.certificate.location={}", file(format!("{user}.crt"))),
            format!("ssl.key.location={}", file(format!("{user}.key"))),
        ] {
            command.args(["-X", &property]);
        }
        command
    }

    /// The last lines of every server's log.
    pub fn log_tails(&self) -> String {
        let mut text = String::new();
        for at in 0..self.servers.len() {
            let log = fs::read_to_string(self.log(at)).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(20)..].join("\n");
            let _ = writeln!(text, "-- server {}\n{tail}", self.servers[at].id);
        }
        text
    }

    fn render(shape: Shape) -> Result<Self> {
        let home = tempfile::Builder::new().prefix("wl-kafka-").tempdir()?;
        let servers = (1..=shape.servers)
            .map(Server::with_free_ports)
            .collect::<Result<_>>()?;
        let authority = shape.secured.then(Authority::new).transpose()?;
        let cluster = Self {
            home,
            jars: jars()?,
            shape,
            servers,
            authority,
        };
        cluster.make_secrets()?;
        let text = cluster.describe();
        fs::write(cluster.home.path().join("kafka.toml"), &text)?;
        let document = Document::parse(text.as_bytes())
            .map_err(|complaint| anyhow::anyhow!("{complaint:?} in\n{text}"))?;
        for file in render(&document) {
            let path = cluster.home.path().join(&file.path);
            fs::create_dir_all(path.parent().context("a file is in a directory")?)?;
            fs::write(&path, &file.text)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(file.mode))?;
        }
        Ok(cluster)
    }

    /// The document of this cluster.
    fn describe(&self) -> String {
        let home = self.home.path().display();
        let mut text = String::new();
        if self.shape.secured {
            let password = self.password_file(Shape::ADMIN);
            let _ = writeln!(
                text,
                "[[desired.users]]\nname = \"{}\"\npassword_file = \"{}\"\n",
                Shape::ADMIN,
                password.display()
            );
        }
        let security = if self.shape.secured {
            "sasl_ssl"
        } else {
            "plaintext"
        };
        let _ = writeln!(
            text,
            "[cluster]\nsecurity = \"{security}\"\ndata_dir = \"{}/data-{{id}}\"",
            self.disk().display()
        );
        if self.shape.secured {
            let _ = writeln!(
                text,
                "tls_dir = \"{home}/tls\"\nadmins = [\"{}\"]",
                Shape::ADMIN
            );
        }
        if self.shape.tiered {
            let jars = self.jars.display();
            let _ = writeln!(
                text,
                "\n[cluster.tiered]\nclass = \"{LOCAL_TIERED}\"\nclass_path = \"{jars}/tiered/*:{jars}/tiered/classes/\"\n\
                 properties = {{ dir = \"{}\" }}",
                self.remote().display()
            );
        }
        text.push_str("\n[cluster.properties]\n");
        for (key, value) in self.properties() {
            let _ = writeln!(text, "\"{key}\" = \"{value}\"");
        }
        for server in &self.servers {
            let _ = writeln!(text, "\n[[cluster.brokers]]\n{}", server.describe());
        }
        text
    }

    /// Keys for a small machine and for quick tests, then those of the shape.
    fn properties(&self) -> std::collections::BTreeMap<String, String> {
        let small = [
            ("offsets.topic.num.partitions", "1"),
            ("transaction.state.log.num.partitions", "1"),
            (
                "transaction.abort.timed.out.transaction.cleanup.interval.ms",
                "1000",
            ),
            ("share.coordinator.state.topic.num.partitions", "1"),
            ("group.initial.rebalance.delay.ms", "0"),
            ("log.cleaner.dedupe.buffer.size", "8388608"),
            ("log.retention.check.interval.ms", "1000"),
            ("log.initial.task.delay.ms", "1000"),
            ("num.network.threads", "2"),
            ("num.io.threads", "2"),
            // A server that is killed is noticed within seconds.
            ("broker.session.timeout.ms", "6000"),
            ("broker.heartbeat.interval.ms", "1000"),
            ("replica.lag.time.max.ms", "3000"),
        ];
        let tiered = [
            ("remote.log.manager.task.interval.ms", "500"),
            ("rlmm.config.remote.log.metadata.topic.num.partitions", "1"),
        ];
        let own = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect()
        };
        let tiered = if self.shape.tiered {
            own(&tiered)
        } else {
            Vec::new()
        };
        let all = own(&small).into_iter().chain(tiered);
        all.chain(self.shape.properties.iter().cloned()).collect()
    }

    fn make_secrets(&self) -> Result<()> {
        let Some(authority) = &self.authority else {
            return Ok(());
        };
        fs::create_dir_all(self.tls_dir())?;
        fs::create_dir_all(self.home.path().join("passwords"))?;
        fs::write(self.tls_dir().join("ca.pem"), authority.pem()?)?;
        write_secret(&self.password_file(Shape::ADMIN), "weave-the-fence\n")?;
        for server in &self.servers {
            let name = format!("broker-{}", server.id);
            let (certificate, key) = authority.issue(&name)?;
            write_secret(
                &self.tls_dir().join(format!("{name}.pem")),
                &(key + &certificate),
            )?;
        }
        self.issue(Shape::ADMIN)
    }

    /// Makes the certificate of a user.
    fn issue(&self, user: &str) -> Result<()> {
        let authority = self
            .authority
            .as_ref()
            .context("an open cluster has no certificates")?;
        let (certificate, key) = authority.issue(user)?;
        fs::write(self.tls_dir().join(format!("{user}.crt")), certificate)?;
        write_secret(&self.tls_dir().join(format!("{user}.key")), &key)
    }

    fn format(&self) -> Result<()> {
        let tool: Vec<String> = java_arguments(&self.jars, HEAP_MIB).into();
        let tool = format!("java {} kafka.tools.StorageTool", tool.join(" "));
        // A shell splits the tool's words, and would find files for the star in the class path.
        let wrapper = self.home.path().join("kafka-storage.sh");
        fs::write(&wrapper, format!("#!/bin/sh\nset -f\nexec {tool} \"$@\"\n"))?;
        fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755))?;
        for at in 0..self.servers.len() {
            let output = Command::new(self.server_dir(at).join("format.sh"))
                .env("KAFKA_STORAGE", &wrapper)
                .output()
                .context("running format.sh")?;
            ensure!(
                output.status.success(),
                "format.sh: {}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(())
    }

    /// How many servers kcat sees, none while it gets no answer, and what it complains of.
    fn listed(&self) -> Result<(usize, String)> {
        let output = self
            .kcat_command(Shape::ADMIN)
            .args(["-L", "-J", "-m", "5"])
            .output()
            .context("running kcat (Debian: apt-get install kcat)")?;
        let listing: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let listed = listing["brokers"].as_array().map_or(0, Vec::len);
        Ok((listed, String::from_utf8_lossy(&output.stderr).into_owned()))
    }

    fn fail_if_ended(&mut self) -> Result<()> {
        for server in &mut self.servers {
            let ended = server
                .process
                .as_mut()
                .map(Child::try_wait)
                .transpose()?
                .flatten();
            if let Some(status) = ended {
                let id = server.id;
                bail!("server {id} ended with {status}:\n{}", self.log_tails());
            }
        }
        Ok(())
    }

    fn signal(&self, at: usize, signal: Signal) -> Result<()> {
        let process = self.servers[at]
            .process
            .as_ref()
            .context("the server does not run")?;
        Ok(kill(Pid::from_raw(i32::try_from(process.id())?), signal)?)
    }

    fn server_dir(&self, at: usize) -> PathBuf {
        self.home
            .path()
            .join(format!("broker-{}", self.servers[at].id))
    }

    fn log(&self, at: usize) -> PathBuf {
        self.home
            .path()
            .join(format!("broker-{}.log", self.servers[at].id))
    }

    /// Below which the servers keep their data.
    fn disk(&self) -> &Path {
        self.shape.disk.as_deref().unwrap_or(self.home.path())
    }

    fn tls_dir(&self) -> PathBuf {
        self.home.path().join("tls")
    }

    fn password_file(&self, user: &str) -> PathBuf {
        self.home.path().join("passwords").join(user)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for at in 0..self.servers.len() {
            if let Err(error) = self.kill(at) {
                eprintln!("killing server {at}: {error}");
            }
        }
    }
}

impl Server {
    fn with_free_ports(id: u32) -> Result<Self> {
        let [port, certificate_port, broker_port, controller_port] = super::free_ports()?;
        Ok(Self {
            id,
            port,
            certificate_port,
            broker_port,
            controller_port,
            process: None,
        })
    }

    fn describe(&self) -> String {
        let Self {
            id,
            port,
            certificate_port,
            broker_port,
            controller_port,
            ..
        } = self;
        format!(
            "id = {id}\nhost = \"127.0.0.1\"\nrack = \"zone-{id}\"\nport = {port}\n\
             certificate_port = {certificate_port}\nbroker_port = {broker_port}\n\
             controller_port = {controller_port}"
        )
    }
}

impl Authority {
    fn new() -> Result<Self> {
        let mut parameters = parameters("wattle-test-ca")?;
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Ok(Self(Issuer::new(parameters, KeyPair::generate()?)))
    }

    fn pem(&self) -> Result<String> {
        let mut parameters = parameters("wattle-test-ca")?;
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Ok(parameters.self_signed(self.0.key())?.pem())
    }

    /// A certificate of this name, good for loopback, and its key.
    fn issue(&self, name: &str) -> Result<(String, String)> {
        let key = KeyPair::generate()?;
        let certificate = parameters(name)?.signed_by(&key, &self.0)?;
        Ok((certificate.pem(), key.serialize_pem()))
    }
}

fn parameters(name: &str) -> Result<CertificateParams> {
    let mut parameters =
        CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()])?;
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, name);
    Ok(parameters)
}

/// Writes a file for its owner alone.
fn write_secret(path: &Path, text: &str) -> Result<()> {
    use std::io::Write as _;
    let mut options = File::options();
    let mut file = options
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    Ok(file.write_all(text.as_bytes())?)
}
