//! One record for Kafka: its topic, its partition, and the headers that all records of a session share. Pure.

use std::borrow::Cow;

use wattle_api::slots::SlotVersion;
use wattle_api::stream::{
    HEADER_CE_ID, HEADER_CE_SOURCE, HEADER_CE_SPECVERSION, HEADER_CE_SUBJECT, HEADER_CE_TIME,
    HEADER_CE_TYPE, HEADER_CONTENT_TYPE, HEADER_SCHEMA, HEADER_SEQ, HEADER_TERM, Topics,
    partition_of,
};
use wattle_model::{NodeId, NodeName};

use crate::Config;
use crate::error::MirrorError;
use crate::position::Position;

/// The headers of a record.
pub(crate) type Headers = Vec<(&'static str, Cow<'static, str>)>;

/// One record for Kafka.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) topic: Topic,
    pub(crate) partition: u32,
    pub(crate) key: String,
    /// `None`: the entity is gone.
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) timestamp_ms: u64,
    pub(crate) headers: Headers,
}

/// Which of the network's topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Topic {
    Events,
    State,
    Progress,
    Snapshots,
    Alerts,
    Audit,
    Dlq,
}

impl Topic {
    pub(crate) fn name(self, topics: &Topics) -> &str {
        match self {
            Self::Events => &topics.events,
            Self::State => &topics.state,
            Self::Progress => &topics.progress,
            Self::Snapshots => &topics.snapshots,
            Self::Alerts => &topics.alerts,
            Self::Audit => &topics.audit,
            Self::Dlq => &topics.dlq,
        }
    }
}

/// What all records of one session have in common.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    pub(crate) config: Config,
    pub(crate) topics: Topics,
    /// The largest record that the topics take.
    pub(crate) limit: usize,
    term: String,
    source: String,
}

impl Context {
    pub(crate) fn new(config: Config, topics: Topics, limit: usize) -> Self {
        Self {
            term: config.term.to_string(),
            source: format!("/wattle/{}", config.network),
            config,
            topics,
            limit,
        }
    }

    /// The slot map that a position was written under.
    pub(crate) fn slots(&self, position: &Position) -> Result<Option<&SlotVersion>, MirrorError> {
        match position.slots {
            0 => Ok(None),
            version => match self.config.kafka.slots.version(version) {
                Some(slots) => Ok(Some(slots)),
                None => Err(MirrorError::SlotsForgotten { version }),
            },
        }
    }

    /// Headers that every record has.
    pub(crate) fn headers(&self, seq: u64, schema: &'static str) -> Headers {
        vec![
            (HEADER_SEQ, seq.to_string().into()),
            (HEADER_TERM, self.term.clone().into()),
            (HEADER_SCHEMA, schema.into()),
            (HEADER_CONTENT_TYPE, "application/json".into()),
        ]
    }

    /// The attributes of CloudEvents as headers.
    pub(crate) fn cloud_event(
        &self,
        kind: &'static str,
        id: String,
        subject: String,
        time: String,
    ) -> Headers {
        vec![
            (HEADER_CE_SPECVERSION, "1.0".into()),
            (HEADER_CE_ID, id.into()),
            (HEADER_CE_SOURCE, self.source.clone().into()),
            (HEADER_CE_TYPE, kind.into()),
            (HEADER_CE_SUBJECT, subject.into()),
            (HEADER_CE_TIME, time.into()),
        ]
    }
}

/// A session's context for tests.
#[cfg(test)]
pub(crate) fn context(limit: usize) -> Context {
    let config = Config {
        kafka: wattle_api::stream::Kafka::plaintext("k:9092"),
        network: wattle_model::NetworkId(1),
        network_name: "lab".into(),
        term: 3,
    };
    Context::new(config, Topics::below("wattle.lab"), limit)
}

/// The partition of an entity's records.
pub(crate) fn partition(
    slots: Option<&SlotVersion>,
    partitions: usize,
    site: Option<&NodeName>,
    key: &str,
    owner: Option<NodeId>,
) -> u32 {
    match slots {
        Some(slots) => slots.slot(site, owner.unwrap_or_default()),
        None => partition_of(site.map(NodeName::as_str), key, partitions as u32),
    }
}

pub(crate) fn json(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("topology types have string keys and serialise infallibly")
}
