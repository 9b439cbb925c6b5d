//! How topology events stand in Kafka: names of topics and headers, the progress record, the choice of a partition,
//! and the words by which a cluster is named in configuration (`docs/protocol/topology-stream.md`).
//!
//! Knows nothing of sockets and opens no file: whoever connects hands in how a secret is read.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use wattle_model::NetworkId;
use zeroize::Zeroizing;

use crate::Timestamp;
use crate::secret::{SecretError, SecretRef, Secrets};
use crate::slots::{SlotMap, SlotMapError};
use crate::snapshot::SnapshotId;

/// Header: the event's place in the total order of one network's events.
pub const HEADER_SEQ: &str = "wattle-seq";
/// Header: the term of the coordinator that wrote the record.
pub const HEADER_TERM: &str = "wattle-term";
/// Header: the `seq` of the event before this one in the same partition; 0 for the first.
pub const HEADER_PREV_SEQ: &str = "wattle-prev-seq";
/// Header: name and version of the value's schema.
pub const HEADER_SCHEMA: &str = "wattle-schema";
/// Header: media type of the value.
pub const HEADER_CONTENT_TYPE: &str = "content-type";
/// Header of CloudEvents: version of its attributes.
pub const HEADER_CE_SPECVERSION: &str = "ce_specversion";
/// Header of CloudEvents: the event's id.
pub const HEADER_CE_ID: &str = "ce_id";
/// Header of CloudEvents: `/wattle/<network id>`.
pub const HEADER_CE_SOURCE: &str = "ce_source";
/// Header of CloudEvents: `io.wattle.topology.<kind>.<op>`.
pub const HEADER_CE_TYPE: &str = "ce_type";
/// Header of CloudEvents: the entity's key.
pub const HEADER_CE_SUBJECT: &str = "ce_subject";
/// Header of CloudEvents: the event's time.
pub const HEADER_CE_TIME: &str = "ce_time";

/// Schema of the values of the state topic: the entity alone.
pub const STATE_SCHEMA: &str = "wattle.topology.state/v1";
/// Schema of the values of the progress topic: [`ProgressRecord`].
pub const PROGRESS_SCHEMA: &str = "wattle.topology.progress/v1";

/// Key of records that carry nothing, in any topic: the mirror writes one where it has to finish a transaction that a
/// broker left half committed. Readers pass over them.
pub const FILLER_KEY: &str = "wattle-filler";

/// The topics of one network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topics {
    /// Every change, deleted by age.
    pub events: String,
    /// The newest image of everything there is, compacted.
    pub state: String,
    /// How far the mirror is, compacted, one partition.
    pub progress: String,
    /// The whole topology at regular times, one partition.
    pub snapshots: String,
    /// What nodes measure.
    pub metrics: String,
    /// What is wrong, one partition.
    pub alerts: String,
    /// Who did what, one partition, kept for ever.
    pub audit: String,
    /// What could not be written as it is, one partition.
    pub dlq: String,
}

impl Topics {
    /// The topics below `prefix`.
    pub fn below(prefix: &str) -> Self {
        Self {
            events: format!("{prefix}.topology.events.v1"),
            state: format!("{prefix}.topology.state.v1"),
            progress: format!("{prefix}.topology.progress.v1"),
            snapshots: format!("{prefix}.topology.snapshots.v1"),
            metrics: format!("{prefix}.metrics.links.v1"),
            alerts: format!("{prefix}.alerts.v1"),
            audit: format!("{prefix}.audit.v1"),
            dlq: format!("{prefix}.topology.dlq.v1"),
        }
    }
}

/// The key of a network's progress record, which is also the mirror's transactional id.
pub fn transactional_id(network: &str) -> String {
    format!("wattle-mirror-{network}")
}

/// How far the mirror is. Written in the same transaction as the events it speaks of.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ProgressRecord {
    /// The network.
    pub network: NetworkId,
    /// Term of the coordinator that wrote it.
    pub term: u64,
    /// The first event that was ever mirrored.
    pub first_seq: u64,
    /// Every event from `first_seq` to this one is in the events topic.
    pub last_seq: u64,
    /// The last event that is in the state topic; another than `last_seq` only while one of the topics is written anew.
    pub state_seq: u64,
    /// The last event of each partition of the events topic, for [`HEADER_PREV_SEQ`]; 0 for none.
    pub partitions: Vec<u64>,
    /// When it was written.
    pub ts: Timestamp,
    /// The last offset of each partition of the events topic that is known to be written, -1 for none; may lag. A
    /// partition that ends before it was truncated or made anew.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub offsets: Vec<i64>,
    /// As `offsets`, of the state topic.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub state_offsets: Vec<i64>,
    /// Version of the slot map in force; 0 without one.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub slots: u32,
    /// The last alert or audit record that is in its topic.
    #[serde(default, skip_serializing_if = "is_none_yet")]
    pub notices: u64,
    /// The last snapshot that is complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotId>,
    /// When it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_at: Option<Timestamp>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
const fn is_zero(number: &u32) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
const fn is_none_yet(number: &u64) -> bool {
    *number == 0
}

/// The partition of a record: records of one site share one, so that a site's history has one order. Without a site
/// the entity itself decides. Frozen: FNV-1a (64 bit), then the finaliser of MurmurHash3, without which names that
/// differ in their last character only would share few partitions.
pub fn partition_of(site: Option<&str>, key: &str, partitions: u32) -> u32 {
    let name = site.filter(|site| !site.is_empty()).unwrap_or(key);
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let mixed = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    ((mixed ^ (mixed >> 33)) % u64::from(partitions.max(1))) as u32
}

/// A Kafka cluster and what to keep there: `[kafka]` of the coordinator's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kafka {
    /// `host:port` of some of the brokers.
    pub brokers: Vec<String>,
    /// What the names of the topics begin with; `wattle.<network>` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic_prefix: Option<String>,
    /// How to speak to the brokers.
    #[serde(default)]
    pub protocol: Protocol,
    /// User name and password; wanted by the `sasl_…` protocols.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sasl: Option<Sasl>,
    /// Certificates; for the protocols with TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// How topics are made that do not exist.
    #[serde(default)]
    pub topics: TopicSettings,
    /// Which partitions the sites own; by hash if empty.
    #[serde(default, skip_serializing_if = "is_unmapped")]
    pub slots: SlotMap,
    /// What happens when a topic with events is missing, recreated or truncated.
    #[serde(default)]
    pub lost_topic: LostTopic,
    /// Seconds between snapshots.
    #[serde(default = "snapshot_every")]
    pub snapshot_every_s: u32,
    /// Seconds between measurements.
    #[serde(default = "metrics_every")]
    pub metrics_every_s: u32,
}

/// A quarter of an hour: what a fresh reader has to replay at most.
const fn snapshot_every() -> u32 {
    900
}

const fn metrics_every() -> u32 {
    10
}

fn is_unmapped(slots: &SlotMap) -> bool {
    slots.0.is_empty()
}

/// What happens when a topic with events is missing, recreated or truncated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LostTopic {
    /// It is written anew from what the coordinator has, with a snapshot.
    #[default]
    Resnapshot,
    /// Nothing is written until somebody acts.
    Halt,
}

/// How to speak to a broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// Neither encrypted nor authenticated.
    #[default]
    Plaintext,
    /// TLS.
    Ssl,
    /// User and password without encryption.
    SaslPlaintext,
    /// User and password inside TLS.
    SaslSsl,
}

/// How a password is proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mechanism {
    /// The password itself is sent: only inside TLS.
    Plain,
    /// SCRAM with SHA-256.
    #[serde(rename = "scram-sha-256")]
    ScramSha256,
    /// SCRAM with SHA-512.
    #[default]
    #[serde(rename = "scram-sha-512")]
    ScramSha512,
}

/// A user of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sasl {
    /// How the password is proven.
    #[serde(default)]
    pub mechanism: Mechanism,
    /// The user.
    pub username: String,
    /// The file that holds the password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// Instead, the variable of the environment that holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_env: Option<String>,
    /// Instead, the credential of systemd that holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_credential: Option<String>,
}

/// Certificates as PEM files.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// Who may sign the brokers' certificates; the system's authorities if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Our certificate, if the brokers want one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_file: Option<PathBuf>,
    /// Its private key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// Instead, the variable of the environment that holds the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_env: Option<String>,
    /// Instead, the credential of systemd that holds the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_credential: Option<String>,
}

/// How topics are made. Existing topics are used as they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TopicSettings {
    /// Partitions of the events and state topics.
    pub partitions: u32,
    /// Copies of each record; the cluster's default if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replication: Option<u16>,
    /// How long events are kept.
    pub retention_days: u32,
    /// By partition: the rack of its leader when topics are made; the other copies go to other racks. Brokers are
    /// placed by the cluster where it is empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub racks: Vec<String>,
}

impl Default for TopicSettings {
    fn default() -> Self {
        Self {
            partitions: 6,
            replication: None,
            retention_days: 90,
            racks: Vec::new(),
        }
    }
}

/// Why a `[kafka]` section cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KafkaConfigError {
    /// Nobody to speak to.
    #[error("kafka.brokers is empty: name at least one broker as host:port")]
    NoBrokers,
    /// A broker's address is malformed.
    #[error("kafka.brokers: `{0}` is not host:port")]
    Broker(String),
    /// The topic prefix has characters that Kafka refuses in topic names.
    #[error(
        "kafka.topic_prefix: `{0}` is no topic name; letters, digits, `.`, `_` and `-` are allowed, 200 at most"
    )]
    Prefix(String),
    /// Numbers of the topics out of range.
    #[error("kafka.topics: {0}")]
    Topics(&'static str),
    /// Numbers of the mirror out of range.
    #[error("kafka.{setting}: {rule}")]
    Number {
        /// Which setting.
        setting: &'static str,
        /// What is allowed.
        rule: &'static str,
    },
    /// The slot map cannot be used.
    #[error(transparent)]
    Slots(#[from] SlotMapError),
    /// The mirror does not act on a setting.
    #[error(
        "kafka.{0} has no effect yet: the mirror writes events, state and progress only, by the hash of the site; remove it"
    )]
    NoEffect(&'static str),
    /// A SASL protocol without a user.
    #[error(
        "kafka.protocol wants a user: add [kafka.sasl] with username and password_file, password_env or password_credential"
    )]
    NoUser,
    /// A user without a protocol that sends it.
    #[error("kafka.sasl is set but kafka.protocol has no SASL: use sasl_ssl (or sasl_plaintext)")]
    UserUnused,
    /// Certificates without a protocol that uses them.
    #[error("kafka.tls is set but kafka.protocol has no TLS: use ssl or sasl_ssl")]
    TlsUnused,
    /// A certificate without its key, or a key without its certificate.
    #[error(
        "kafka.tls: certificate_file and its key (key_file, key_env or key_credential) belong together"
    )]
    HalfCertificate,
    /// No password, or more than one.
    #[error(
        "kafka.sasl: name the password by one of password_file, password_env and password_credential"
    )]
    Password,
    /// More than one key.
    #[error("kafka.tls: name the key by one of key_file, key_env and key_credential")]
    Key,
    /// A secret cannot be used.
    #[error(transparent)]
    Secret(#[from] SecretError),
}

impl KafkaConfigError {
    /// The setting that is wrong, as a path below `[kafka]`.
    pub fn key(&self) -> &'static [&'static str] {
        match self {
            Self::NoBrokers | Self::Broker(_) => &["brokers"],
            Self::Prefix(_) => &["topic_prefix"],
            Self::Topics(why) if why.starts_with("partitions") => &["topics", "partitions"],
            Self::Topics(why) if why.starts_with("replication") => &["topics", "replication"],
            Self::Topics(why) if why.starts_with("racks") => &["topics", "racks"],
            Self::Number {
                setting: "snapshot_every_s",
                ..
            } => &["snapshot_every_s"],
            Self::Number { .. } => &["metrics_every_s"],
            Self::Slots(_) | Self::NoEffect("slots") => &["slots"],
            Self::NoEffect("lost_topic") => &["lost_topic"],
            Self::NoEffect("snapshot_every_s") => &["snapshot_every_s"],
            Self::NoEffect(_) => &["metrics_every_s"],
            Self::Topics(_) => &["topics", "retention_days"],
            Self::NoUser => &["protocol"],
            Self::UserUnused => &["sasl"],
            Self::TlsUnused | Self::HalfCertificate => &["tls"],
            Self::Password => &["sasl"],
            Self::Key => &["tls"],
            Self::Secret(error) => match error.setting() {
                KEY_FILE => &["tls", "key_file"],
                KEY_ENV => &["tls", "key_env"],
                KEY_CREDENTIAL => &["tls", "key_credential"],
                PASSWORD_ENV => &["sasl", "password_env"],
                PASSWORD_CREDENTIAL => &["sasl", "password_credential"],
                _ => &["sasl", "password_file"],
            },
        }
    }
}

const PASSWORD_FILE: &str = "kafka.sasl.password_file";
const PASSWORD_ENV: &str = "kafka.sasl.password_env";
const PASSWORD_CREDENTIAL: &str = "kafka.sasl.password_credential";
const KEY_FILE: &str = "kafka.tls.key_file";
const KEY_ENV: &str = "kafka.tls.key_env";
const KEY_CREDENTIAL: &str = "kafka.tls.key_credential";

impl Sasl {
    /// A user with SCRAM-SHA-512 whose password is in a file.
    pub fn in_file(username: &str, password: impl Into<PathBuf>) -> Self {
        Self {
            mechanism: Mechanism::default(),
            username: username.to_owned(),
            password_file: Some(password.into()),
            password_env: None,
            password_credential: None,
        }
    }

    /// Where the password is.
    pub fn password(&self) -> Result<SecretRef, KafkaConfigError> {
        let found = SecretRef::only(
            self.password_file.as_deref(),
            self.password_env.as_deref(),
            self.password_credential.as_deref(),
        );
        found.ok().flatten().ok_or(KafkaConfigError::Password)
    }

    /// Reads the password.
    pub fn read_password(
        &self,
        secrets: &impl Secrets,
    ) -> Result<Zeroizing<String>, KafkaConfigError> {
        let password = self.password()?;
        let setting = match password {
            SecretRef::File(_) => PASSWORD_FILE,
            SecretRef::Variable(_) => PASSWORD_ENV,
            SecretRef::Credential(_) => PASSWORD_CREDENTIAL,
        };
        Ok(password.read(setting, secrets)?)
    }
}

impl Tls {
    /// Where the private key is, if there is one.
    pub fn key(&self) -> Result<Option<SecretRef>, KafkaConfigError> {
        SecretRef::only(
            self.key_file.as_deref(),
            self.key_env.as_deref(),
            self.key_credential.as_deref(),
        )
        .map_err(|_| KafkaConfigError::Key)
    }

    /// Reads the private key, if there is one.
    pub fn read_key(
        &self,
        secrets: &impl Secrets,
    ) -> Result<Option<Zeroizing<String>>, KafkaConfigError> {
        let Some(key) = self.key()? else {
            return Ok(None);
        };
        let setting = match key {
            SecretRef::File(_) => KEY_FILE,
            SecretRef::Variable(_) => KEY_ENV,
            SecretRef::Credential(_) => KEY_CREDENTIAL,
        };
        Ok(Some(key.read(setting, secrets)?))
    }
}

impl Kafka {
    /// A cluster without authentication: what tests and small networks have.
    pub fn plaintext(broker: &str) -> Self {
        Self {
            brokers: vec![broker.to_owned()],
            topic_prefix: None,
            protocol: Protocol::Plaintext,
            sasl: None,
            tls: None,
            topics: TopicSettings::default(),
            slots: SlotMap::default(),
            lost_topic: LostTopic::default(),
            snapshot_every_s: snapshot_every(),
            metrics_every_s: metrics_every(),
        }
    }

    /// The topics for the network of this name.
    pub fn topics_of(&self, network: &str) -> Topics {
        match &self.topic_prefix {
            Some(prefix) => Topics::below(prefix),
            None => Topics::below(&format!("wattle.{network}")),
        }
    }

    /// The properties for a Kafka client (librdkafka's names).
    pub fn properties(
        &self,
        secrets: &impl Secrets,
    ) -> Result<Vec<(&'static str, String)>, KafkaConfigError> {
        self.check()?;
        let mut properties = vec![
            ("bootstrap.servers", self.brokers.join(",")),
            ("security.protocol", self.protocol.name().to_owned()),
        ];
        if let Some(sasl) = &self.sasl {
            let password = sasl.read_password(secrets)?;
            properties.push(("sasl.mechanism", sasl.mechanism.name().to_owned()));
            properties.push(("sasl.username", sasl.username.clone()));
            properties.push(("sasl.password", password.to_string()));
        }
        let tls = self.tls.clone().unwrap_or_default();
        if let Some(key) = tls.read_key(secrets)? {
            properties.push(("ssl.key.pem", key.to_string()));
        }
        let files = [
            ("ssl.ca.location", tls.ca_file),
            ("ssl.certificate.location", tls.certificate_file),
        ];
        for (name, file) in files {
            properties.extend(file.map(|file| (name, file.display().to_string())));
        }
        Ok(properties)
    }

    /// Finds what is wrong with the section for the mirror: what [`Self::check`] finds, and settings that it does not
    /// act on.
    pub fn check_for_mirror(&self) -> Result<(), KafkaConfigError> {
        self.check()?;
        let without_effect = [
            (is_unmapped(&self.slots), "slots"),
            (self.lost_topic == LostTopic::default(), "lost_topic"),
            (
                self.snapshot_every_s == snapshot_every(),
                "snapshot_every_s",
            ),
            (self.metrics_every_s == metrics_every(), "metrics_every_s"),
        ];
        match without_effect.iter().find(|(is_default, _)| !is_default) {
            Some((_, setting)) => Err(KafkaConfigError::NoEffect(setting)),
            None => Ok(()),
        }
    }

    /// Finds what is wrong with the section without connecting.
    pub fn check(&self) -> Result<(), KafkaConfigError> {
        if self.brokers.is_empty() {
            return Err(KafkaConfigError::NoBrokers);
        }
        if let Some(bad) = self.brokers.iter().find(|broker| !is_host_port(broker)) {
            return Err(KafkaConfigError::Broker(bad.clone()));
        }
        if let Some(prefix) = self
            .topic_prefix
            .as_ref()
            .filter(|prefix| !is_topic_name(prefix))
        {
            return Err(KafkaConfigError::Prefix(prefix.clone()));
        }
        self.topics.check()?;
        self.slots.check(self.topics.partitions)?;
        if !(10..=86_400).contains(&self.snapshot_every_s) {
            let (setting, rule) = ("snapshot_every_s", "10 to 86400 seconds");
            return Err(KafkaConfigError::Number { setting, rule });
        }
        if !(1..=3_600).contains(&self.metrics_every_s) {
            let (setting, rule) = ("metrics_every_s", "1 to 3600 seconds");
            return Err(KafkaConfigError::Number { setting, rule });
        }
        match (self.protocol.has_sasl(), &self.sasl) {
            (true, None) => return Err(KafkaConfigError::NoUser),
            (false, Some(_)) => return Err(KafkaConfigError::UserUnused),
            (true, Some(sasl)) => drop(sasl.password()?),
            (false, None) => {}
        }
        match &self.tls {
            Some(_) if !self.protocol.has_tls() => Err(KafkaConfigError::TlsUnused),
            Some(tls) if tls.certificate_file.is_some() != tls.key()?.is_some() => {
                Err(KafkaConfigError::HalfCertificate)
            }
            Some(_) | None => Ok(()),
        }
    }
}

impl TopicSettings {
    fn check(&self) -> Result<(), KafkaConfigError> {
        if !(1..=1_000).contains(&self.partitions) {
            return Err(KafkaConfigError::Topics("partitions is 1 to 1000"));
        }
        if self
            .replication
            .is_some_and(|copies| !(1..=16).contains(&copies))
        {
            return Err(KafkaConfigError::Topics("replication is 1 to 16"));
        }
        if !(1..=36_500).contains(&self.retention_days) {
            return Err(KafkaConfigError::Topics("retention_days is 1 to 36500"));
        }
        if !self.racks.is_empty() && self.racks.len() != self.partitions as usize {
            return Err(KafkaConfigError::Topics(
                "racks names one rack for each partition, or none at all",
            ));
        }
        Ok(())
    }
}

impl Protocol {
    /// Its name in librdkafka's properties.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plaintext => "plaintext",
            Self::Ssl => "ssl",
            Self::SaslPlaintext => "sasl_plaintext",
            Self::SaslSsl => "sasl_ssl",
        }
    }

    /// Whether a user logs in.
    pub const fn has_sasl(self) -> bool {
        matches!(self, Self::SaslPlaintext | Self::SaslSsl)
    }

    /// Whether it is encrypted.
    pub const fn has_tls(self) -> bool {
        matches!(self, Self::Ssl | Self::SaslSsl)
    }
}

impl Mechanism {
    /// Its name in the protocol and in librdkafka's properties.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

fn is_host_port(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty()
            && !host.contains([',', ' ', '/'])
            && port.parse::<u16>().is_ok_and(|port| port != 0)
    })
}

fn is_topic_name(text: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    (1..=200).contains(&text.len()) && text.chars().all(legal)
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::Path;

    use super::*;

    #[test]
    fn the_partition_of_a_site_is_frozen() {
        // A change here moves every site of every network to another partition.
        for (site, partition) in [("fra1", FRA1), ("ams2", AMS2), ("home", HOME)] {
            assert_eq!(partition_of(Some(site), "node:1", 6), partition, "{site}");
            assert_eq!(partition_of(Some(site), "node:2", 6), partition, "{site}");
        }
        assert_eq!(partition_of(Some(""), "fra1", 6), FRA1);
        assert_eq!(partition_of(None, "fra1", 6), FRA1);
    }

    const FRA1: u32 = 2;
    const AMS2: u32 = 3;
    const HOME: u32 = 5;

    #[test]
    fn entities_without_a_site_spread_over_all_partitions() {
        let mut seen = [0; 6];
        for node in 0..600_u64 {
            seen[partition_of(None, &format!("node:{node:016x}"), 6) as usize] += 1;
        }
        assert!(seen.iter().all(|&n| (60..140).contains(&n)), "{seen:?}");
    }

    #[test]
    fn a_section_that_cannot_work_is_refused_with_a_hint() {
        let ok = Kafka::plaintext("k1:9092");
        assert!(ok.check().is_ok());
        let sasl = || Some(Sasl::in_file("u", "/nonexistent"));
        let cases: [(Kafka, &str); 8] = [
            (
                Kafka {
                    brokers: vec![],
                    ..ok.clone()
                },
                "name at least one broker",
            ),
            (
                Kafka {
                    brokers: vec!["k1".into()],
                    ..ok.clone()
                },
                "`k1` is not host:port",
            ),
            (
                Kafka {
                    topic_prefix: Some("a b".into()),
                    ..ok.clone()
                },
                "is no topic name",
            ),
            (
                Kafka {
                    protocol: Protocol::SaslSsl,
                    ..ok.clone()
                },
                "add [kafka.sasl]",
            ),
            (
                Kafka {
                    sasl: sasl(),
                    ..ok.clone()
                },
                "use sasl_ssl",
            ),
            (
                Kafka {
                    tls: Some(Tls::default()),
                    ..ok.clone()
                },
                "use ssl or sasl_ssl",
            ),
            (
                Kafka {
                    protocol: Protocol::Ssl,
                    tls: Some(Tls {
                        key_file: Some("k".into()),
                        ..Tls::default()
                    }),
                    ..ok.clone()
                },
                "belong together",
            ),
            (
                Kafka {
                    topics: TopicSettings {
                        partitions: 0,
                        ..TopicSettings::default()
                    },
                    ..ok.clone()
                },
                "partitions is 1 to 1000",
            ),
        ];
        for (section, part) in cases {
            let error = section.check().unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn the_password_comes_from_its_file_and_stands_in_no_debug_output() {
        let section = Kafka {
            protocol: Protocol::SaslPlaintext,
            sasl: Some(Sasl::in_file("wattle", "/run/secret")),
            ..Kafka::plaintext("k1:9092")
        };
        let properties = section.properties(&File(Some(0o600))).unwrap();
        assert!(properties.contains(&("sasl.password", "hunter2".to_owned())));
        assert!(!format!("{section:?}").contains("hunter2"));
        let error = section.properties(&File(None)).unwrap_err().to_string();
        assert!(error.contains("password_file /run/secret"), "{error}");
    }

    #[test]
    fn secrets_that_others_can_read_are_refused() {
        let with_password = Kafka {
            protocol: Protocol::SaslSsl,
            sasl: Some(Sasl::in_file("u", "/p")),
            ..Kafka::plaintext("k1:9092")
        };
        let with_key = Kafka {
            protocol: Protocol::Ssl,
            tls: Some(Tls {
                ca_file: None,
                certificate_file: Some("/c".into()),
                key_file: Some("/k".into()),
                ..Tls::default()
            }),
            ..Kafka::plaintext("k1:9092")
        };
        for (section, words) in [
            (with_password, "password_file /p"),
            (with_key, "key_file /k"),
        ] {
            for mode in [0o600, 0o400, 0o640, 0o100_440] {
                assert!(section.properties(&File(Some(mode))).is_ok(), "{mode:o}");
            }
            for mode in [0o644, 0o604, 0o660, 0o601, 0o100_777] {
                let error = section
                    .properties(&File(Some(mode)))
                    .unwrap_err()
                    .to_string();
                assert!(
                    error.contains(words) && error.contains("chmod 0640"),
                    "{error}"
                );
            }
        }
    }

    /// A file with these permission bits; `None` is one that may not be read.
    struct File(Option<u32>);

    impl Secrets for File {
        fn mode(&self, _: &Path) -> io::Result<u32> {
            self.0.ok_or_else(|| io::ErrorKind::PermissionDenied.into())
        }

        fn text(&self, path: &Path) -> io::Result<String> {
            self.mode(path).map(|_| "hunter2\n".to_owned())
        }

        fn variable(&self, _: &str) -> Option<String> {
            None
        }
    }
}
