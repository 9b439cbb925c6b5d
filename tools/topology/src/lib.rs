//! Reads the topology stream: from Kafka, or from the lines that the coordinator's API sends.
//!
//! - [`Source::find`] names the network's topics on a cluster; [`tail`], [`graph`] and [`verify`] read them.
//! - [`sse::Decoder`] turns the lines of `/api/v1/events/stream` into the same events.
//! - [`Graph`] is the network at one moment; [`picture`] draws it.
//!
//! Knows nothing of HTTP, terminals or files: the command line does that. Kafka's client blocks, so each reader has a
//! thread of its own and hands over through a bounded channel.

mod audit;
mod error;
mod graph;
mod merge;
pub mod picture;
mod reader;
mod source;
pub mod sse;
mod tail;

pub use crate::audit::Verification;
pub use crate::error::TopologyError;
pub use crate::graph::Graph;
pub use crate::picture::Format;
pub use crate::source::{Source, TopicDescription, describe_topics};
pub use crate::tail::{Item, Start, Tail};

/// Follows the events of a network in the order of their sequence numbers.
pub async fn tail(source: &Source, start: Start) -> Result<Tail, TopologyError> {
    let source = source.clone();
    blocking(move || Tail::open(&source, start)).await
}

/// Reads the state topic to its end: the network as it is.
pub async fn graph(source: &Source) -> Result<Graph, TopologyError> {
    let source = source.clone();
    blocking(move || graph::read(&source)).await
}

/// Reads every event and checks that none is lost, doubled or out of order.
pub async fn verify(source: &Source) -> Result<Verification, TopologyError> {
    let source = source.clone();
    blocking(move || audit::read(&source)).await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, TopologyError> + Send + 'static,
) -> Result<T, TopologyError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or(Err(TopologyError::Interrupted))
}
