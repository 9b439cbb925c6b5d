//! A real Apache Kafka broker (KRaft, one process) on loopback, and `kcat` as the foreign consumer.
//!
//! The jars come from `tools/lib/kafka.sh`; the environment variable [`LIBS`] says where they are. A broker can be
//! killed and started again on the same port with the same data; it never outlives the thread that started it.

pub mod cluster;
pub mod mirrored;
pub mod proxy;

use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;
use wattle_api::stream::FILLER_KEY;

use self::proxy::Proxy;

/// Names the folder with the jars of Kafka.
pub const LIBS: &str = "WATTLE_KAFKA_LIBS";

/// How long a broker may take to start: 4 s on an idle machine of two cores.
const START: Duration = Duration::from_secs(90);

/// Memory of a server's heap, and of Kafka's tools.
const HEAP_MIB: u32 = 512;

/// Who may speak to the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Everybody.
    Open,
    /// Users with SCRAM-SHA-512 and access lists: [`ADMIN`] may everything, [`GUEST`] nothing.
    Scram,
}

/// A user with all rights, and its password.
pub const ADMIN: (&str, &str) = ("wattle", "weave-the-fence");

/// A user without any right, and its password.
pub const GUEST: (&str, &str) = ("guest", "just-looking");

/// A broker. Killed when dropped; its data go with it.
#[derive(Debug)]
pub struct Broker {
    dir: TempDir,
    jars: PathBuf,
    port: u16,
    open_port: u16,
    process: Option<Child>,
}

impl Broker {
    /// Starts a broker with empty data and waits until it answers.
    pub fn start(access: Access) -> Result<Self> {
        Self::start_in(access, None)
    }

    /// The same with its data in a directory of its own, which is there.
    pub fn start_in(access: Access, data: Option<&Path>) -> Result<Self> {
        Self::launch(access, data, None)
    }

    /// The same behind a proxy: clients that ask it find the broker there alone, [`Broker::kcat`] goes past it.
    pub fn start_behind_proxy() -> Result<(Self, Proxy)> {
        let proxy = Proxy::start()?;
        let broker = Self::launch(Access::Open, None, Some(&proxy))?;
        Ok((broker, proxy))
    }

    fn launch(access: Access, data: Option<&Path>, proxy: Option<&Proxy>) -> Result<Self> {
        let jars = jars()?;
        let dir = tempfile::Builder::new().prefix("wl-kafka-").tempdir()?;
        let data = data.map_or_else(|| dir.path().join("data"), Path::to_owned);
        let [open, scram, controller, behind] = free_ports()?;
        let port = if access == Access::Scram { scram } else { open };
        let broker = Self {
            dir,
            jars,
            port,
            open_port: open,
            process: None,
        };
        let mut text = Self::configuration(access, &data, [open, scram, controller]);
        if let Some(proxy) = proxy {
            proxy.lead_to(behind);
            text = Self::with_proxy(&text, behind, proxy.port());
        }
        fs::write(broker.properties(), text)?;
        broker.format(access)?;
        let mut broker = broker;
        broker.restart()?;
        Ok(broker)
    }

    /// `host:port` for clients.
    pub fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Ends the broker as a power cut would.
    pub fn kill(&mut self) -> Result<()> {
        let Some(mut process) = self.process.take() else {
            return Ok(());
        };
        process.kill()?;
        process.wait()?;
        Ok(())
    }

    /// Starts the broker again with the data it left, and waits until it answers.
    pub fn restart(&mut self) -> Result<()> {
        self.spawn()?;
        self.wait_until_ready()
    }

    /// Starts the broker again without waiting.
    pub fn spawn(&mut self) -> Result<()> {
        self.kill()?;
        let child = start_server(&self.jars, HEAP_MIB, &self.properties(), &self.log())?;
        self.process = Some(child);
        Ok(())
    }

    /// Waits until the broker answers.
    pub fn wait_until_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + START;
        while !self.answers()? {
            let ended = self
                .process
                .as_mut()
                .map(Child::try_wait)
                .transpose()?
                .flatten();
            if let Some(status) = ended {
                bail!("the broker ended with {status}:\n{}", self.log_tail());
            }
            ensure!(
                Instant::now() < deadline,
                "the broker does not answer:\n{}",
                self.log_tail()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// The records of a topic that are committed, as kcat sees them; fillers are passed over.
    pub fn kcat(&self, topic: &str) -> Result<Vec<KcatRecord>> {
        read_with_kcat(self.kcat_command(), topic)
    }

    /// `kcat` with the address of this broker; more arguments can be added.
    pub fn kcat_command(&self) -> Command {
        let mut command = Command::new("kcat");
        command.args(["-b", &format!("127.0.0.1:{}", self.open_port)]);
        command
    }

    /// The last lines of the broker's log.
    pub fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// The directory of its configuration, data and log.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn answers(&self) -> Result<bool> {
        let status = self
            .kcat_command()
            .args(["-L", "-m", "2"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .context("running kcat (Debian: apt-get install kcat)")?;
        Ok(status.success())
    }

    fn format(&self, access: Access) -> Result<()> {
        let mut command = Command::new("java");
        command
            .args(java_arguments(&self.jars, HEAP_MIB))
            .args(["kafka.tools.StorageTool", "format", "--standalone"])
            .args(["-t", "d2F0dGxlLXdhdHRsZS13dA", "-c"])
            .arg(self.properties());
        if access == Access::Scram {
            for (user, password) in [ADMIN, GUEST] {
                command.arg("--add-scram");
                command.arg(format!("SCRAM-SHA-512=[name={user},password={password}]"));
            }
        }
        let output = command
            .output()
            .context("running java (openjdk-17-jre-headless)")?;
        ensure!(
            output.status.success(),
            "format: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    /// Keys for a small machine and for quick tests; the rest are Kafka's defaults.
    fn configuration(access: Access, data: &Path, ports: [u16; 3]) -> String {
        let [open, scram, controller] = ports;
        let mut text = format!(
            "process.roles=broker,controller\n\
             node.id=1\n\
             controller.quorum.bootstrap.servers=127.0.0.1:{controller}\n\
             controller.listener.names=CONTROLLER\n\
             inter.broker.listener.name=PLAINTEXT\n\
             listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT\n\
             log.dir={}\n\
             offsets.topic.replication.factor=1\n\
             offsets.topic.num.partitions=1\n\
             transaction.state.log.replication.factor=1\n\
             transaction.state.log.min.isr=1\n\
             transaction.state.log.num.partitions=1\n\
             transaction.abort.timed.out.transaction.cleanup.interval.ms=1000\n\
             share.coordinator.state.topic.replication.factor=1\n\
             share.coordinator.state.topic.min.isr=1\n\
             group.initial.rebalance.delay.ms=0\n\
             auto.create.topics.enable=false\n\
             log.cleaner.dedupe.buffer.size=8388608\n\
             log.cleaner.backoff.ms=500\n\
             num.network.threads=2\n\
             num.io.threads=2\n",
            data.display()
        );
        let mut listeners =
            format!("PLAINTEXT://127.0.0.1:{open},CONTROLLER://127.0.0.1:{controller}");
        if access == Access::Scram {
            listeners.push_str(&format!(",SASL_PLAINTEXT://127.0.0.1:{scram}"));
            text.push_str(
                "sasl.enabled.mechanisms=SCRAM-SHA-512\n\
                 listener.name.sasl_plaintext.scram-sha-512.sasl.jaas.config=\
                 org.apache.kafka.common.security.scram.ScramLoginModule required;\n\
                 authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n\
                 allow.everyone.if.no.acl.found=false\n",
            );
            // The listener without users is the broker's own and that of kcat.
            let _ = writeln!(text, "super.users=User:ANONYMOUS;User:{}", ADMIN.0);
        }
        let _ = writeln!(text, "listeners={listeners}");
        let _ = writeln!(text, "advertised.listeners={listeners}");
        text
    }

    /// With another listener, which is said to be where the proxy is.
    fn with_proxy(configuration: &str, behind: u16, proxy: u16) -> String {
        let with = |line: &str| match line.split_once('=') {
            Some(("listeners", _)) => format!("{line},PROXIED://127.0.0.1:{behind}\n"),
            Some(("advertised.listeners", _)) => {
                format!("{line},PROXIED://127.0.0.1:{proxy}\n")
            }
            Some(("listener.security.protocol.map", _)) => format!("{line},PROXIED:PLAINTEXT\n"),
            _ => format!("{line}\n"),
        };
        configuration.lines().map(with).collect()
    }

    fn properties(&self) -> PathBuf {
        self.dir.path().join("server.properties")
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("broker.log")
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            eprintln!("killing the broker: {error}");
        }
    }
}

/// Reads a topic from its beginning to its end; `kcat` knows where.
fn read_with_kcat(mut kcat: Command, topic: &str) -> Result<Vec<KcatRecord>> {
    let output = kcat
        .args([
            "-C",
            "-t",
            topic,
            "-o",
            "beginning",
            "-e",
            "-q",
            "-f",
            KCAT_FORMAT,
        ])
        .args(["-X", "isolation.level=read_committed"])
        .output()?;
    ensure!(
        output.status.success(),
        "kcat: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout)?
        .lines()
        .map(KcatRecord::parse)
        .filter(|record| !record.as_ref().is_ok_and(|record| record.key == FILLER_KEY))
        .collect()
}

const KCAT_FORMAT: &str = "%p\t%o\t%k\t%h\t%S\t%s\n";

/// One record as `kcat -f` prints it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KcatRecord {
    /// Its partition.
    pub partition: i32,
    /// Its offset there.
    pub offset: i64,
    /// Its key.
    pub key: String,
    /// Its headers, in order.
    pub headers: Vec<(String, String)>,
    /// Its value; `None` for a tombstone.
    pub value: Option<String>,
}

impl KcatRecord {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// The number in a header.
    pub fn number(&self, name: &str) -> Result<u64> {
        let text = self
            .header(name)
            .with_context(|| format!("no header {name} in {self:?}"))?;
        text.parse()
            .with_context(|| format!("header {name}={text}"))
    }

    fn parse(line: &str) -> Result<Self> {
        let mut fields = line.splitn(6, '\t');
        let mut next = || {
            fields
                .next()
                .with_context(|| format!("kcat printed: {line}"))
        };
        let (partition, offset) = (next()?.parse()?, next()?.parse()?);
        let (key, headers, size) = (next()?.to_owned(), next()?, next()?);
        let headers = headers.split(',').filter_map(|pair| pair.split_once('='));
        let headers = headers
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        // kcat prints a length of -1 for a null value.
        let value = if size == "-1" {
            None
        } else {
            Some(next()?.to_owned())
        };
        Ok(Self {
            partition,
            offset,
            key,
            headers,
            value,
        })
    }
}

fn jars() -> Result<PathBuf> {
    let Some(jars) = std::env::var_os(LIBS).map(PathBuf::from) else {
        bail!(
            "{LIBS} is not set: run the tests through `sudo tools/test kafka`, or set it to what tools/lib/kafka.sh prints"
        );
    };
    ensure!(
        jars.join("complete").exists(),
        "{LIBS}={}: no Kafka there",
        jars.display()
    );
    Ok(jars)
}

/// Starts a server with `properties`; what it says goes to the end of `log`.
fn start_server(jars: &Path, heap_mib: u32, properties: &Path, log: &Path) -> Result<Child> {
    let log = File::options().create(true).append(true).open(log)?;
    // No server may survive the test, however that ends.
    Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "java"])
        .args(java_arguments(jars, heap_mib))
        .arg("kafka.Kafka")
        .arg(properties)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("starting java through setpriv (Debian: openjdk-17-jre-headless, util-linux)")
}

/// Servers of tests live for seconds: they begin with classes that are parsed already, where tools/lib/kafka.sh could
/// make them, and compile little.
fn java_arguments(jars: &Path, heap_mib: u32) -> [String; 7] {
    [
        format!("-Xmx{heap_mib}m"),
        "-XX:+UseSerialGC".to_owned(),
        "-XX:TieredStopAtLevel=1".to_owned(),
        format!("-XX:SharedArchiveFile={}/classes.jsa", jars.display()),
        "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn".to_owned(),
        "-cp".to_owned(),
        format!("{}/*", jars.display()),
    ]
}

/// Ports that nobody uses. They stay free only by luck until the broker binds them, which has proven to be enough.
pub(crate) fn free_ports<const N: usize>() -> Result<[u16; N]> {
    let mut listeners = Vec::with_capacity(N);
    let mut ports = [0; N];
    for port in &mut ports {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        *port = listener.local_addr()?.port();
        listeners.push(listener);
    }
    Ok(ports)
}
