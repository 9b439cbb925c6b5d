//! Reads the topology stream of a Wattle network: the network as it is, as it was, and everything that happened to it,
//! from Kafka or from the lines that the coordinator's API sends.
//!
//! - [`Source::find`] names the network's topics on a cluster; [`graph`], [`at`], [`tail`] and [`verify`] read them.
//! - [`sse::Decoder`] turns the lines of `/api/v1/events/stream` into the same events.
//! - The rest is pure and the same for both: [`Graph`] is the network at one moment, [`Moment`] names one, [`Rewind`] and
//!   [`Forward`] go there, [`Differ`] tells what became different and why, [`Route`] finds the shortest path, [`Counter`]
//!   counts, [`Scene`] draws.
//!
//! Knows nothing of HTTP, terminals or files: the command line does that. Kafka's client blocks, so each reader has a
//! thread of its own and hands over through a bounded channel.
//!
//! # Example
//!
//! What the network looked like two hours ago, and what changed since:
//!
//! ```no_run
//! use wattle_api::Timestamp;
//! use wattle_api::stream::Kafka;
//! use wattle_topology::{Differ, Format, Item, Moment, Scene, Source, Start, at, tail};
//!
//! # async fn example(now: Timestamp) -> Result<(), Box<dyn std::error::Error>> {
//! let source = Source::find(Kafka::plaintext("kafka-1:9092")).await?;
//! let then = Moment::parse("-2h", now)?;
//! let before = at(&source, then).await?;
//! println!("{}", Scene::of(before.clone()).draw(Format::Table)?);
//!
//! let start = Start::After { seq: before.seq(), since: then.time().unwrap_or(now) };
//! let mut events = tail(&source, start).await?;
//! let newest = wattle_topology::newest(&source).await?;
//! let mut differ = Differ::new(before);
//! while let Some(Item::Event(event)) = events.next().await.transpose()? {
//!     differ.take(&event);
//!     if event.id.seq >= newest {
//!         break;
//!     }
//! }
//! let (_, after, diff) = differ.finish(Some(now));
//! println!("{}", Scene::of_diff(after, diff).draw(Format::Mermaid)?);
//! # Ok(())
//! # }
//! ```
//!
//! Without Kafka and without waiting, from events that come from anywhere:
//!
//! ```
//! use wattle_topology::{Format, Graph, Scene};
//!
//! let mut graph = Graph::default();
//! // graph.apply(&event) for each event, in order
//! let picture = Scene::of(graph).draw(Format::Dot).unwrap();
//! assert!(picture.starts_with("digraph"));
//! ```

mod audit;
mod brake;
mod diff;
mod error;
mod graph;
mod history;
mod horizon;
mod images;
mod merge;
mod moment;
mod order;
pub mod picture;
mod reader;
mod rewind;
mod route;
mod sequence;
mod site;
pub mod snapshot;
mod snapshots;
mod source;
pub mod sse;
mod state;
mod stats;
mod tail;

pub use crate::audit::Verification;
pub use crate::diff::{
    Because, Change, Diff, Differ, Fate, FieldChange, SCHEMA as DIFF_SCHEMA, Transient,
};
pub use crate::error::TopologyError;
pub use crate::graph::{Graph, is_usable};
pub use crate::moment::{Moment, MomentError};
pub use crate::picture::{
    DiffDocument, Document, Format, GraphDocument, PictureError, Place, Places, Scene,
};
pub use crate::rewind::{Forward, Rewind};
pub use crate::route::{Hop, Route};
pub use crate::site::SiteTail;
pub use crate::source::{Source, TopicDescription, describe_topics};
pub use crate::stats::{Counter, Hour, Share, Stats};
pub use crate::tail::{Item, Start, Tail, WINDOW};

/// Follows the events of a network in the order of their sequence numbers.
pub async fn tail(source: &Source, start: Start) -> Result<Tail, TopologyError> {
    let source = source.clone();
    blocking(move || Tail::open(&source, start)).await
}

/// Follows the events of some sites in the order of their sequence numbers, reading only the partitions that are theirs,
/// wherever they move.
pub async fn tail_sites(
    source: &Source,
    sites: &[wattle_model::NodeName],
    start: Start,
) -> Result<SiteTail, TopologyError> {
    let (source, sites) = (source.clone(), sites.iter().cloned().collect());
    blocking(move || SiteTail::open(&source, sites, start)).await
}

/// Reads the state topic to its end: the network as it is.
pub async fn graph(source: &Source) -> Result<Graph, TopologyError> {
    let source = source.clone();
    blocking(move || Ok(state::State::read(&source)?.into_graph())).await
}

/// Reads what is needed to say how the network was at a moment: everything before the first event that is later.
pub async fn at(source: &Source, moment: Moment) -> Result<Graph, TopologyError> {
    let source = source.clone();
    blocking(move || history::at(&source, moment)).await
}

/// The newest event that the mirror has committed; 0 before the first.
pub async fn newest(source: &Source) -> Result<u64, TopologyError> {
    let source = source.clone();
    blocking(move || Ok(reader::progress(&source)?.map_or(0, |progress| progress.last_seq))).await
}

/// Reads every event and checks that none is lost, doubled or out of order, that each begins where the one before it left
/// its entity, and that the state topic is what the events tell.
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
