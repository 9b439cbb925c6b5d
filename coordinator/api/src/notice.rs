//! What the coordinator says besides topology events (`docs/protocol/topology-stream.md` §10): alerts and the audit
//! trail. Both are written in the database transaction of what they speak of, numbered densely, and mirrored to Kafka
//! exactly once.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_with::{DeserializeFromStr, SerializeDisplay};
use wattle_model::NetworkId;

use crate::Timestamp;
use crate::topology::{EntityKey, EntityKeyError};

/// Schema of the values of the alerts topic: [`Alert`].
pub const ALERT_SCHEMA: &str = "wattle.alert/v1";

/// Schema of the values of the audit topic: [`AuditRecord`].
pub const AUDIT_SCHEMA: &str = "wattle.audit/v1";

/// Header of alerts and audit records: their place among both, dense, from 1.
pub const HEADER_NOTICE: &str = "wattle-notice";

/// An alert is raised, or cleared. Its key in Kafka is its id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alert {
    /// The same from raise to clear: `<kind>/<key>`.
    pub id: String,
    /// What is wrong.
    pub kind: AlertKind,
    /// With what.
    pub key: AlertKey,
    /// Whether it is wrong or well again.
    pub state: AlertState,
    /// How bad it is.
    pub severity: Severity,
    /// For people: what was seen.
    pub detail: String,
    /// Why, where programs may want to tell causes apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<MirrorCause>,
    /// When the trouble was first seen.
    pub since: Timestamp,
    /// Comings and goings since the alert was last told that were not told: too short, or too many.
    pub suppressed: u64,
    /// Whether it comes and goes so often that it stays raised until it has been quiet for long.
    pub flapping: bool,
    /// The newest event at that moment.
    pub seq: u64,
    /// The network.
    pub network: NetworkId,
    /// When it was told.
    pub ts: Timestamp,
}

/// What an alert is about: an entity of the topology, or `kafka`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, SerializeDisplay, DeserializeFromStr,
)]
pub enum AlertKey {
    /// An entity.
    Entity(EntityKey),
    /// The mirror and the cluster that it writes to.
    Kafka,
}

/// [`AlertKey::Kafka`] in text.
const KAFKA: &str = "kafka";

impl fmt::Display for AlertKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Entity(key) => key.fmt(f),
            Self::Kafka => f.write_str(KAFKA),
        }
    }
}

impl FromStr for AlertKey {
    type Err = EntityKeyError;

    fn from_str(text: &str) -> Result<Self, EntityKeyError> {
        match text {
            KAFKA => Ok(Self::Kafka),
            entity => entity.parse().map(Self::Entity),
        }
    }
}

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlertKind {
    /// A member does not report any more.
    NodeSilent,
    /// A link is reported no more, though both its ends are members.
    LinkLost,
    /// A link loses much.
    LinkLossy,
    /// Nothing reaches Kafka; events wait in the outbox.
    MirrorStalled,
    /// Kafka misses events for good, or lost some that it had.
    HistoryLost,
    /// A kind that this version does not know.
    #[serde(other)]
    Unknown,
}

impl AlertKind {
    /// The kind as it stands in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NodeSilent => "node_silent",
            Self::LinkLost => "link_lost",
            Self::LinkLossy => "link_lossy",
            Self::MirrorStalled => "mirror_stalled",
            Self::HistoryLost => "history_lost",
            Self::Unknown => "unknown",
        }
    }

    /// How bad that is.
    pub const fn severity(self) -> Severity {
        match self {
            Self::NodeSilent | Self::HistoryLost => Severity::Critical,
            Self::LinkLost | Self::LinkLossy | Self::MirrorStalled | Self::Unknown => {
                Severity::Warning
            }
        }
    }
}

/// Whether an alert holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlertState {
    /// It is wrong.
    Raised,
    /// It is well again.
    Cleared,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Somebody should look.
    Warning,
    /// Somebody should look at once.
    Critical,
}

/// What keeps the mirror from writing to Kafka, and how it says so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MirrorTrouble {
    /// What keeps it.
    pub cause: MirrorCause,
    /// For people: what was seen.
    pub detail: String,
}

/// Why the mirror cannot write to Kafka.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MirrorCause {
    /// No broker answers.
    Unreachable,
    /// The brokers refuse the credentials.
    Credentials,
    /// A right is missing.
    NotAuthorised,
    /// Too few copies of a partition are in step.
    TooFewInSync,
    /// A topic is missing and cannot be made, or does not fit.
    Topic,
    /// A topic was lost, and the configuration says to stop.
    TopicLost,
    /// A topic takes no record of the smallest useful size.
    Oversize,
    /// A transaction of another producer hangs.
    HangingTransaction,
    /// The topics hold what this coordinator never wrote.
    ForeignTopics,
    /// Another coordinator mirrors this network.
    Superseded,
    /// The coordinator's own database cannot be read.
    Outbox,
    /// A cause that has no word, or one that this version does not know.
    #[serde(other)]
    Other,
}

/// Who did what. Its key in Kafka is its subject.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRecord {
    /// What was done.
    pub action: AuditAction,
    /// By whom: `admin`, `node:<id>`, or `coordinator`.
    pub actor: String,
    /// To what: `node:<id>`, `token:<id>`, `kafka` or `network`.
    pub subject: String,
    /// For people: more of it; never a secret.
    pub detail: String,
    /// The Git revision that asked for it; `null` if it was not asked for by a repository.
    pub revision: Option<String>,
    /// The newest event before it; 0 before the first.
    pub seq: u64,
    /// Term of the coordinator.
    pub term: u64,
    /// The network.
    pub network: NetworkId,
    /// When.
    pub ts: Timestamp,
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuditAction {
    /// A coordinator started.
    CoordinatorStarted,
    /// A node joined with a token.
    NodeJoined,
    /// A node was removed, or left.
    NodeRemoved,
    /// A stock WireGuard device was attached.
    LeafAdded,
    /// A join token was made.
    TokenCreated,
    /// A join token was withdrawn.
    TokenWithdrawn,
    /// Events were dropped from a full outbox.
    OutboxDropped,
    /// An action that this version does not know.
    #[serde(other)]
    Unknown,
}
