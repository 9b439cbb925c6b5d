//! The fleet in virtual time: the real cores of many nodes over an imagined network with faults from a seed.
//!
//! A [`Fleet`] runs every node's links and router against a clock that jumps from event to event; a [`scenario`] breaks things
//! and mends them; a [`topology`] is one line a link; the [`oracle`] says what must hold once it is quiet. The same seed is the same run. Messages cross the
//! network as the bytes that agents send; sessions and packets of users are not here yet, their place is the worker.

pub mod aftermath;
pub mod atlas;
mod cores;
mod courses;
pub mod fleet;
pub mod forward;
mod insync;
pub mod network;
pub mod oracle;
mod process;
pub mod scenario;
pub mod topology;
mod verdicts;

pub use atlas::{Atlas, Chart};
pub use fleet::{Fleet, NodeNumber, Traffic};
pub use forward::Fate;
pub use network::{Edge, EdgeNumber, Machine};
pub use topology::Plan;
