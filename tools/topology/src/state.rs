//! Reads the state topic: the network as it is. A consumer that begins knows that it has all of it when the end of every
//! partition was seen; the newest number in the headers says which event it stands for.

use std::collections::BTreeMap;

use wattle_api::stream::HEADER_SEQ;
use wattle_api::topology::{Entity, EntityKey};

use crate::error::TopologyError;
use crate::graph::Graph;
use crate::reader::{From, Reader, Record};
use crate::source::Source;

/// The newest image of everything, tombstones included, with the events that left them so.
#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    pub(crate) images: BTreeMap<EntityKey, (u64, Option<Entity>)>,
}

impl State {
    /// Reads the topic to its end.
    pub(crate) fn read(source: &Source) -> Result<Self, TopologyError> {
        let mut reader = Reader::open(source, &source.topics.state, From::Oldest)?;
        let mut state = Self::default();
        let mut bad = None;
        reader.read_to_end(|record| {
            if let Err(reason) = state.take(&record) {
                bad.get_or_insert((record, reason));
            }
            Ok(())
        })?;
        match bad {
            Some((record, reason)) => Err(reader.bad(&record, reason)),
            None => Ok(state),
        }
    }

    /// The network as it is.
    pub(crate) fn into_graph(self) -> Graph {
        let mut graph = Graph::default();
        for (key, (seq, image)) in self.images {
            graph.set(key, image, seq);
        }
        graph
    }

    /// The newest event that it knows of.
    pub(crate) fn seq(&self) -> u64 {
        self.images.values().map(|(seq, _)| *seq).max().unwrap_or(0)
    }

    /// A key that moved to another partition has an image there and a tombstone here, of one event: the image counts.
    fn take(&mut self, record: &Record) -> Result<(), String> {
        let key = std::str::from_utf8(&record.key).map_err(|error| error.to_string())?;
        let key: EntityKey = key.parse().map_err(|error| format!("key: {error}"))?;
        let value = record
            .value
            .as_deref()
            .map(serde_json::from_slice::<Entity>)
            .transpose();
        let image = value.map_err(|error| format!("value: {error}"))?;
        let seq = record.number(HEADER_SEQ).unwrap_or(0);
        let known = self.images.get(&key);
        let newer = known.is_none_or(|(known, old)| {
            seq > *known || (seq == *known && (image.is_some() || old.is_none()))
        });
        if newer {
            self.images.insert(key, (seq, image));
        }
        Ok(())
    }
}
