//! Puts the pieces of snapshots together (`docs/protocol/topology-stream.md` §6). Pure. A snapshot counts once its end
//! was read and no piece is missing; one that was cut short never does.

use std::collections::BTreeMap;

use wattle_api::snapshot::{SnapshotId, SnapshotRecord};

use wattle_api::Timestamp;

use crate::graph::Graph;

/// The whole topology as one event left it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Which one.
    pub id: SnapshotId,
    /// When it was taken.
    pub ts: Timestamp,
    /// Everything there was.
    pub graph: Graph,
}

/// A snapshot of which pieces came.
#[derive(Debug, Clone)]
struct Part {
    ts: Timestamp,
    chunks: BTreeMap<u32, Vec<u8>>,
}

/// Takes the records of the snapshots topic, in order.
#[derive(Debug, Clone, Default)]
pub struct Assembler {
    parts: BTreeMap<SnapshotId, Part>,
}

/// Why a record is no part of a snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// It is not JSON of a [`SnapshotRecord`].
    #[error("no part of a snapshot: {0}")]
    Record(#[from] serde_json::Error),
    /// The end counts more or fewer entities than came.
    #[error("snapshot {id} has {found} entities where its end says {wanted}")]
    Count {
        /// Which snapshot.
        id: SnapshotId,
        /// How many came.
        found: u64,
        /// How many there should be.
        wanted: u64,
    },
}

impl Assembler {
    /// Takes the value of a record; gives a snapshot when this was the last piece of it.
    pub fn take(&mut self, value: &[u8]) -> Result<Option<Snapshot>, SnapshotError> {
        match serde_json::from_slice(value)? {
            SnapshotRecord::Begin(begin) => {
                let part = Part {
                    ts: begin.ts,
                    chunks: BTreeMap::new(),
                };
                self.parts.insert(begin.snapshot, part);
                Ok(None)
            }
            SnapshotRecord::Entities(entities) => {
                if let Some(part) = self.parts.get_mut(&entities.snapshot) {
                    part.chunks.insert(entities.chunk, value.to_vec());
                }
                Ok(None)
            }
            SnapshotRecord::End(end) => {
                let part = self.parts.remove(&end.snapshot);
                let whole = part.filter(|part| part.chunks.len() as u64 == u64::from(end.chunks));
                whole
                    .map(|part| part.finish(end.snapshot, end.entities))
                    .transpose()
            }
        }
    }
}

impl Part {
    fn finish(self, id: SnapshotId, wanted: u64) -> Result<Snapshot, SnapshotError> {
        let mut graph = Graph::default();
        let mut found = 0;
        for chunk in self.chunks.values() {
            if let SnapshotRecord::Entities(piece) = serde_json::from_slice(chunk)? {
                found += piece.entities.len() as u64;
                for entity in piece.entities {
                    graph.set(entity.key, Some(entity.after), id.seq);
                }
            }
        }
        if found != wanted {
            return Err(SnapshotError::Count { id, found, wanted });
        }
        graph.date(id.seq, Some(self.ts));
        Ok(Snapshot {
            id,
            ts: self.ts,
            graph,
        })
    }
}
