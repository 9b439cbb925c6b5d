//! The document that says what a Kafka cluster should be like: one TOML file with the tables `kafka` (how to reach it,
//! as in `coordinator.toml`), `desired` (topics, users, rights) and `cluster` (its servers).
//!
//! Reference: `docs/reference/kafka.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::Deserialize;
use wattle_api::secret::SecretRef;
use wattle_api::settings::{Complaint, text_of};
use wattle_api::stream::{Kafka, Mechanism};

use crate::acl::{Acl, Operation, Pattern, Permission, Resource};

/// The whole file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// How to reach the cluster as somebody who may change it; what the network's topics are like.
    pub kafka: Option<Kafka>,
    /// What should be in it.
    #[serde(default)]
    pub desired: Desired,
    /// Its servers.
    pub cluster: Option<Cluster>,
}

/// What should be in a cluster. What is not named here is left alone.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Desired {
    /// The network whose topics the cluster holds; no topics of a network if absent.
    pub network: Option<String>,
    /// Where history goes once it is old; the brokers' disks if absent.
    pub tiered: Option<TieredTopics>,
    /// More topics.
    pub topics: Vec<Topic>,
    /// Who logs in.
    pub users: Vec<User>,
    /// More rights than the users' roles bring.
    pub acls: Vec<Rule>,
    /// In which rack the leaders of a site's partitions belong.
    pub leaders: BTreeMap<String, String>,
    /// What should be gone.
    pub remove: Remove,
}

/// History in remote storage: `remote.storage.enable` on the topics of the network that are not compacted.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TieredTopics {
    /// How long the brokers keep what is in remote storage, too.
    pub local_hours: u32,
}

/// A topic besides the network's own.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// How many partitions.
    pub partitions: u32,
    /// Copies of each record; the cluster's default if absent.
    pub replication: Option<u16>,
    /// Its configuration; what is not named stays as it is.
    #[serde(default)]
    pub config: BTreeMap<String, String>,
}

/// Somebody who logs in by password, or by certificate if there is none.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// The name.
    pub name: String,
    /// How the password is proven: one of the two SCRAM mechanisms.
    #[serde(default)]
    pub mechanism: Mechanism,
    /// Rounds of hashing that a guess costs; 4096 to 16384.
    #[serde(default = "default_iterations")]
    pub iterations: u32,
    /// The file that holds the password.
    pub password_file: Option<PathBuf>,
    /// Instead, the variable of the environment that holds it.
    pub password_env: Option<String>,
    /// Instead, the credential of systemd that holds it.
    pub password_credential: Option<String>,
    /// What the user is for.
    pub role: Option<Role>,
    /// What the names of a reader's consumer groups begin with; the user's name if absent.
    pub group_prefix: Option<String>,
}

/// What a user may do with the network's topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Writes them: the coordinator.
    Mirror,
    /// Reads them, with consumer groups of its own.
    Reader,
}

/// One right.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Who: `User:name`, or `User:*`.
    pub principal: String,
    /// From where: an address, or `*`.
    #[serde(default = "anywhere")]
    pub host: String,
    /// On what kind of thing.
    pub resource: Resource,
    /// On which one.
    #[serde(default = "the_cluster")]
    pub name: String,
    /// Whether `name` is the whole name or its beginning.
    #[serde(default)]
    pub pattern: Pattern,
    /// What may be done.
    pub operations: Vec<Operation>,
    /// Whether it is allowed or forbidden.
    #[serde(default)]
    pub permission: Permission,
}

/// What should be gone. Removed only where that is allowed explicitly.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Remove {
    /// Topics, with all that is in them.
    pub topics: BTreeSet<String>,
    /// Users, with their passwords and rights.
    pub users: BTreeSet<String>,
}

/// The servers of a cluster (KRaft, static quorum).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// 16 bytes in base64 without padding, the same on all servers; made from the servers' addresses if absent.
    pub id: Option<String>,
    /// How clients speak to the servers.
    pub security: Security,
    /// Where a server keeps its data; `{id}` is the server's number.
    pub data_dir: String,
    /// Where PEM files are: `ca.pem`, and `broker-{id}.pem` with a key and its certificate.
    pub tls_dir: Option<PathBuf>,
    /// Users with all rights from the first start on; of `desired.users`, with a password.
    #[serde(default)]
    pub admins: Vec<String>,
    /// Remote storage for old segments.
    pub tiered: Option<TieredStorage>,
    /// Properties that go into every `server.properties` as they are, over those that are made here.
    #[serde(default)]
    pub properties: BTreeMap<String, String>,
    /// The servers.
    pub brokers: Vec<Server>,
}

/// How clients speak to the servers of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Security {
    /// Neither encrypted nor authenticated; anybody may do anything.
    Plaintext,
    /// User and password inside TLS, and certificates on the port for them; servers know each other by certificate.
    SaslSsl,
}

/// A plugin that stores segments elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TieredStorage {
    /// Its class.
    pub class: String,
    /// Where its jars are.
    pub class_path: Option<String>,
    /// Its own properties, without their prefix.
    #[serde(default)]
    pub properties: BTreeMap<String, String>,
}

/// One server: broker, and controller if it is among the first three.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// Its number.
    pub id: u32,
    /// Where everybody reaches it.
    pub host: String,
    /// Where it stands: what fails together.
    pub rack: Option<String>,
    /// Port for clients.
    #[serde(default = "client_port")]
    pub port: u16,
    /// Port for clients that show a certificate.
    #[serde(default = "certificate_port")]
    pub certificate_port: u16,
    /// Port for the other servers.
    #[serde(default = "broker_port")]
    pub broker_port: u16,
    /// Port for the quorum.
    #[serde(default = "controller_port")]
    pub controller_port: u16,
}

const fn client_port() -> u16 {
    9092
}

const fn certificate_port() -> u16 {
    9093
}

const fn broker_port() -> u16 {
    9094
}

const fn controller_port() -> u16 {
    9095
}

const fn default_iterations() -> u32 {
    8_192
}

fn anywhere() -> String {
    "*".to_owned()
}

fn the_cluster() -> String {
    Acl::CLUSTER.to_owned()
}

impl Document {
    /// Reads a document and finds what is wrong in it without connecting.
    pub fn parse(bytes: &[u8]) -> Result<Self, Complaint> {
        let text = text_of(bytes)?;
        let document: Self =
            toml::from_str(text).map_err(|error| Complaint::of_toml(text, &error))?;
        if let Some(kafka) = &document.kafka {
            kafka.check().map_err(|error| {
                let key: Vec<&str> = ["kafka"].iter().chain(error.key()).copied().collect();
                Complaint::of_key(text, &key, error.to_string())
            })?;
        }
        document.fault().map_or(Ok(document), |(key, why)| {
            Err(Complaint::of_key(text, key, why))
        })
    }

    /// The setting that is wrong, and why.
    fn fault(&self) -> Option<(&'static [&'static str], String)> {
        self.desired
            .fault()
            .or_else(|| self.cluster.as_ref().and_then(Cluster::fault))
            .or_else(|| self.admins_fault())
    }

    fn admins_fault(&self) -> Option<(&'static [&'static str], String)> {
        let cluster = self.cluster.as_ref()?;
        let known = |name: &&String| {
            let user = self.desired.users.iter().find(|user| user.name == **name);
            user.is_some_and(|user| user.password().is_some())
        };
        let stranger = cluster.admins.iter().find(|name| !known(name))?;
        let why = format!("`{stranger}` is no user with a password of desired.users");
        Some((&["cluster", "admins"], why))
    }
}

impl Desired {
    fn fault(&self) -> Option<(&'static [&'static str], String)> {
        if self.network.is_none() && self.users.iter().any(|user| user.role.is_some()) {
            let why = "a role is about a network's topics: set desired.network";
            return Some((&["desired", "users"], why.to_owned()));
        }
        let topics = self.topics.iter().find_map(Topic::fault);
        let users = self.users.iter().find_map(User::fault);
        let rules = self.acls.iter().find_map(Rule::fault);
        topics
            .map(|why| (&["desired", "topics"][..], why))
            .or(users.map(|why| (&["desired", "users"][..], why)))
            .or(rules.map(|why| (&["desired", "acls"][..], why)))
            .or_else(|| self.contradiction())
    }

    fn contradiction(&self) -> Option<(&'static [&'static str], String)> {
        if let Some(topic) = twice(self.topics.iter().map(|topic| &topic.name)) {
            return Some((&["desired", "topics"], format!("{topic} is there twice")));
        }
        if let Some(user) = twice(self.users.iter().map(|user| &user.name)) {
            return Some((&["desired", "users"], format!("{user} is there twice")));
        }
        let topic = self
            .topics
            .iter()
            .find(|topic| self.remove.topics.contains(&topic.name));
        let user = self
            .users
            .iter()
            .find(|user| self.remove.users.contains(&user.name));
        let name = topic
            .map(|topic| &topic.name)
            .or(user.map(|user| &user.name))?;
        let why = format!("{name} is to be there, too");
        Some((&["desired", "remove"], why))
    }
}

fn twice<'a>(names: impl Iterator<Item = &'a String>) -> Option<&'a String> {
    let mut seen = BTreeSet::new();
    names.into_iter().find(|name| !seen.insert(*name))
}

impl Topic {
    fn fault(&self) -> Option<String> {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if !(1..=249).contains(&self.name.len()) || !self.name.chars().all(legal) {
            return Some(format!("`{}` is no topic name", self.name));
        }
        if !(1..=10_000).contains(&self.partitions) {
            return Some(format!("{}: partitions is 1 to 10000", self.name));
        }
        if self
            .replication
            .is_some_and(|copies| !(1..=16).contains(&copies))
        {
            return Some(format!("{}: replication is 1 to 16", self.name));
        }
        None
    }
}

impl User {
    /// Where the password is; none for users with certificates.
    pub fn password(&self) -> Option<SecretRef> {
        self.passwords().ok().flatten()
    }

    fn passwords(&self) -> Result<Option<SecretRef>, Vec<SecretRef>> {
        SecretRef::only(
            self.password_file.as_deref(),
            self.password_env.as_deref(),
            self.password_credential.as_deref(),
        )
    }

    fn fault(&self) -> Option<String> {
        if self.name.is_empty() || self.name.contains(|c: char| c.is_control() || c == ':') {
            return Some(format!("`{}` is no user name", self.name));
        }
        if self.passwords().is_err() {
            let why =
                "name the password by one of password_file, password_env and password_credential";
            return Some(format!("{}: {why}", self.name));
        }
        if self.mechanism == Mechanism::Plain {
            let why = "a cluster keeps passwords for SCRAM only: use scram-sha-512";
            return Some(format!("{}: {why}", self.name));
        }
        if !(4_096..=16_384).contains(&self.iterations) {
            return Some(format!("{}: iterations is 4096 to 16384", self.name));
        }
        None
    }
}

impl Rule {
    fn fault(&self) -> Option<String> {
        if !self.principal.contains(':') {
            let why = "is no principal: write User:NAME";
            return Some(format!("`{}` {why}", self.principal));
        }
        if self.operations.is_empty() {
            return Some(format!("{}: name at least one operation", self.principal));
        }
        None
    }
}

impl Cluster {
    fn fault(&self) -> Option<(&'static [&'static str], String)> {
        const BROKERS: &[&str] = &["cluster", "brokers"];
        if self.brokers.is_empty() {
            return Some((BROKERS, "name at least one broker".to_owned()));
        }
        let ids: BTreeSet<u32> = self.brokers.iter().map(|server| server.id).collect();
        if ids.len() < self.brokers.len() {
            return Some((BROKERS, "two brokers have one id".to_owned()));
        }
        let racks = self
            .brokers
            .iter()
            .filter(|server| server.rack.is_some())
            .count();
        if racks != 0 && racks != self.brokers.len() {
            return Some((
                BROKERS,
                "either all brokers have a rack, or none".to_owned(),
            ));
        }
        if self.brokers.iter().any(|server| !server.is_sound()) {
            let why = "a host has no blanks and no slashes, and the ports of a broker differ";
            return Some((BROKERS, why.to_owned()));
        }
        if self.id.as_ref().is_some_and(|id| !is_cluster_id(id)) {
            let why = "an id is 22 characters of base64 (as of kafka-storage.sh random-uuid)";
            return Some((&["cluster", "id"], why.to_owned()));
        }
        match (self.security, &self.tls_dir, self.admins.is_empty()) {
            (Security::SaslSsl, None, _) => {
                let why = "sasl_ssl wants PEM files: set cluster.tls_dir";
                Some((&["cluster", "security"], why.to_owned()))
            }
            (Security::SaslSsl, _, true) => {
                let why = "nobody could administer the cluster: name users in cluster.admins";
                Some((&["cluster", "security"], why.to_owned()))
            }
            (Security::SaslSsl | Security::Plaintext, _, _) => None,
        }
    }
}

impl Server {
    fn is_sound(&self) -> bool {
        let ports = [
            self.port,
            self.certificate_port,
            self.broker_port,
            self.controller_port,
        ];
        let distinct: BTreeSet<u16> = ports.into_iter().filter(|port| *port != 0).collect();
        let strange = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | ',' | '@');
        distinct.len() == ports.len() && !self.host.is_empty() && !self.host.contains(strange)
    }
}

fn is_cluster_id(text: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    text.len() == 22 && text.chars().all(legal) && !text.starts_with('-')
}
