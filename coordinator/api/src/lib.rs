//! Where agent, coordinator and readers of the topology meet: the agent protocol, join tokens, topology events,
//! REST types, the address plan. Types and their encodings only.
//!
//! Knows nothing of sockets, clocks, databases, nor of what is inside the signed byte strings it carries
//! (`wattle_wire` does). JSON Schemas of what leaves the network's own programs are in
//! `docs/schemas`.

pub mod agent;
pub mod bytes;
pub mod frame;
pub mod gap;
pub mod measurement;
pub mod notice;
pub mod plan;
pub mod rest;
mod schema;
pub mod secret;
pub mod settings;
pub mod slots;
pub mod snapshot;
pub mod stream;
pub mod time;
pub mod token;
pub mod topics;
pub mod topology;

pub use bytes::Bytes;
pub use time::Timestamp;
