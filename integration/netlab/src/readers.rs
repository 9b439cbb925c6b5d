//! Programs of others that read the topology from Kafka, or hold what was read: Flink, Kafka Connect, Neo4j.
//!
//! Their jars come from `tools/lib/readers.sh`; the environment variable [`LIBS`] says where they are. Each program is
//! one process on loopback, and never outlives the thread that started it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use crate::answer::output;
use crate::kafka::free_ports;
use crate::{Process, eventually};

/// Names the folder with the jars, of each program in a folder of its own.
pub const LIBS: &str = "WATTLE_READERS_LIBS";

/// Longer than any of them takes to start, or Flink to run a script: half a minute on an idle machine of two cores.
const PATIENCE: Duration = Duration::from_secs(240);

/// Packages of Java's own that one or another of them reaches into.
const OPEN_PACKAGES: [&str; 7] = [
    "java.io",
    "java.lang",
    "java.net",
    "java.nio",
    "java.util",
    "java.util.concurrent",
    "sun.nio.ch",
];

/// Each statement runs in a cluster of its own in the client's process.
const FLINK_CONFIGURATION: &str = "execution.target: local\nparallelism.default: 1\n";

/// What Flink's SQL client prints when it runs a script. The client's files go into `directory`.
pub fn flink_sql(directory: &Path, script: &str) -> Result<String> {
    fs::write(directory.join("config.yaml"), FLINK_CONFIGURATION)?;
    let file = directory.join("script.sql");
    fs::write(&file, script)?;
    let mut client = java("flink")?;
    client
        .env("FLINK_CONF_DIR", directory)
        .args(["org.apache.flink.table.client.SqlClient", "embedded", "-f"])
        .arg(&file);
    let mut client = Process::spawn("flink", client, directory)?;
    let status = client.wait(PATIENCE)?;
    let said = client.log();
    ensure!(
        status.success() && !said.contains("[ERROR]"),
        "{status}: {said}"
    );
    Ok(said)
}

/// A worker of Kafka Connect, alone.
#[derive(Debug)]
pub struct Connect {
    process: Process,
    directory: PathBuf,
    address: String,
}

impl Connect {
    /// Starts one for this broker, with its files in `directory`, and waits until it answers.
    pub fn start(directory: &Path, bootstrap: &str) -> Result<Self> {
        let [port] = free_ports()?;
        let address = format!("http://127.0.0.1:{port}");
        let properties = directory.join("worker.properties");
        let text = format!(
            "bootstrap.servers={bootstrap}\n\
             listeners={address}\n\
             offset.storage.file.filename={}\n\
             key.converter=org.apache.kafka.connect.converters.ByteArrayConverter\n\
             value.converter=org.apache.kafka.connect.converters.ByteArrayConverter\n\
             config.providers=file\n\
             config.providers.file.class=org.apache.kafka.common.config.provider.FileConfigProvider\n",
            directory.join("offsets").display()
        );
        fs::write(&properties, text)?;
        let mut worker = java("connect")?;
        worker
            .arg("org.apache.kafka.connect.cli.ConnectStandalone")
            .arg(&properties);
        let mut worker = Self {
            process: Process::spawn("connect", worker, directory)?,
            directory: directory.to_owned(),
            address,
        };
        wait_until_there(&mut worker.process, &worker.directory, &worker.address)?;
        Ok(worker)
    }

    /// Starts a connector with this configuration.
    pub fn add(&self, name: &str, configuration: &Value) -> Result<()> {
        let connector = json!({"name": name, "config": configuration});
        let url = format!("{}/connectors", self.address);
        post(&self.directory, &url, &connector)
            .with_context(|| self.process.log())
            .map(drop)
    }

    /// What the worker says of a connector: itself and each of its tasks.
    pub fn status(&self, name: &str) -> Result<Value> {
        get(&format!("{}/connectors/{name}/status", self.address))
    }
}

/// A Neo4j server, community edition, that asks nobody for a password.
#[derive(Debug)]
pub struct Neo4j {
    process: Process,
    directory: PathBuf,
    address: String,
}

impl Neo4j {
    /// Starts one with an empty database below `directory`, and waits until it answers.
    pub fn start(directory: &Path) -> Result<Self> {
        let [port] = free_ports()?;
        let text = format!(
            "dbms.security.auth_enabled=false\n\
             dbms.usage_report.enabled=false\n\
             server.bolt.enabled=false\n\
             server.http.listen_address=127.0.0.1:{port}\n\
             server.memory.pagecache.size=64m\n"
        );
        fs::write(directory.join("neo4j.conf"), text)?;
        let mut server = java("neo4j")?;
        server
            .arg("org.neo4j.server.CommunityEntryPoint")
            .arg(format!("--home-dir={}", directory.display()))
            .arg(format!("--config-dir={}", directory.display()));
        let mut server = Self {
            process: Process::spawn("neo4j", server, directory)?,
            directory: directory.to_owned(),
            address: format!("http://127.0.0.1:{port}"),
        };
        wait_until_there(&mut server.process, &server.directory, &server.address)?;
        Ok(server)
    }

    /// The rows that a statement returns, in a transaction of its own.
    pub fn run(&self, statement: &str, parameters: &Value) -> Result<Vec<Value>> {
        let body = json!({"statements": [{"statement": statement, "parameters": parameters}]});
        let url = format!("{}/db/neo4j/tx/commit", self.address);
        let answer = post(&self.directory, &url, &body)?;
        let errors = &answer["errors"];
        ensure!(
            errors.as_array().is_some_and(Vec::is_empty),
            "{errors}: {statement}"
        );
        let rows = answer["results"][0]["data"].as_array();
        let rows = rows.with_context(|| format!("no result in {answer}"))?;
        Ok(rows.iter().map(|row| row["row"].clone()).collect())
    }
}

/// Java with the jars of a program.
fn java(program: &str) -> Result<Command> {
    let Some(libs) = std::env::var_os(LIBS).map(PathBuf::from) else {
        bail!(
            "{LIBS} is not set: run the tests through `sudo tools/test readers`, or set it to what tools/lib/readers.sh prints"
        );
    };
    let jars = libs.join(program);
    ensure!(
        jars.join("complete").exists(),
        "{LIBS}={}: no {program} there",
        libs.display()
    );
    let mut java = Command::new("setpriv");
    java.args(["--pdeathsig", "KILL", "java"])
        .args(["-Xmx1g", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
        .arg("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn")
        .args(OPEN_PACKAGES.map(|package| format!("--add-opens=java.base/{package}=ALL-UNNAMED")))
        .args(["-cp", &format!("{}/*", jars.display())]);
    Ok(java)
}

fn wait_until_there(process: &mut Process, directory: &Path, address: &str) -> Result<()> {
    let mut runs = true;
    eventually("an answer", PATIENCE, || {
        runs = process.is_running();
        Ok(!runs || get(address).is_ok())
    })?;
    ensure!(
        runs,
        "it ended, in {}: {}",
        directory.display(),
        process.log()
    );
    Ok(())
}

fn get(url: &str) -> Result<Value> {
    answer(Command::new("curl").arg(url))
}

/// The body goes through a file: it may be longer than a command line.
fn post(directory: &Path, url: &str, body: &Value) -> Result<Value> {
    let file = directory.join("body.json");
    fs::write(&file, body.to_string())?;
    let mut curl = Command::new("curl");
    curl.args(["-H", "Content-Type: application/json", "--data-binary"])
        .arg(format!("@{}", file.display()))
        .arg(url);
    answer(&mut curl)
}

fn answer(curl: &mut Command) -> Result<Value> {
    let said = output(curl.args(["-s", "--fail-with-body", "--max-time", "60"]))?;
    Ok(serde_json::from_slice(&said.stdout)?)
}
