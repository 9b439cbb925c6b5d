//! The agent's connection to its coordinator (`docs/protocol/coordinator.md`).
//!
//! Carries messages and reconnects; what a peer set may change is decided by the engine. The mesh never waits for it.

mod connection;
mod join;
mod uplink;

pub use connection::{Connection, ConnectionError};
pub use join::{JoinError, JoinRequest, Joined, join};
pub use uplink::{FromCoordinator, Side, Uplink, run};
