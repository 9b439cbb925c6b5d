//! The picture that programs read: a graph, or what became different, as one JSON document. `docs/schemas` has the
//! schemas of both (`cli-topology`, `cli-topology-diff`).

use schemars::JsonSchema;
use serde::Serialize;
use wattle_api::Timestamp;
use wattle_api::topology::{LinkEntity, NodeEntity, PrefixEntity};

use crate::diff::{self, Diff};
use crate::graph::Graph;
use crate::picture::SCHEMA;

/// One JSON document.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Document<'a> {
    /// The network at one moment.
    Graph(GraphDocument<'a>),
    /// What became different.
    Diff(DiffDocument<'a>),
}

/// The network at one moment.
#[derive(Debug, Serialize, JsonSchema)]
pub struct GraphDocument<'a> {
    /// Name and version of this document.
    #[schemars(extend("const" = SCHEMA))]
    schema: &'static str,
    /// The newest event that it knows of; 0 before the first.
    seq: u64,
    /// The moment that it shows, if somebody asked for one; else the time of the newest event, where that is known.
    ts: Option<Timestamp>,
    /// All nodes, by id.
    nodes: Vec<&'a NodeEntity>,
    /// All links, by ends and carrier.
    links: Vec<&'a LinkEntity>,
    /// All announced prefixes.
    prefixes: Vec<&'a PrefixEntity>,
}

/// What became different.
#[derive(Debug, Serialize, JsonSchema)]
pub struct DiffDocument<'a> {
    /// Name and version of this document.
    #[schemars(extend("const" = diff::SCHEMA))]
    schema: &'static str,
    #[serde(flatten)]
    diff: &'a Diff,
}

impl<'a> Document<'a> {
    pub(super) fn of(graph: &'a Graph) -> Self {
        Self::Graph(GraphDocument {
            schema: SCHEMA,
            seq: graph.seq(),
            ts: graph.ts(),
            nodes: graph.nodes().collect(),
            links: graph.links().collect(),
            prefixes: graph.prefixes().collect(),
        })
    }

    pub(super) const fn of_diff(diff: &'a Diff) -> Self {
        Self::Diff(DiffDocument {
            schema: diff::SCHEMA,
            diff,
        })
    }
}
