//! Link-state database, flooding, cost, paths and backups (`docs/protocol/routing.md`).
//!
//! A [`Router`] hears of this node's links, exchanges signed records with its neighbours, and decides where packets for every
//! other node go: at best, in shares, and while the best is silent. It knows nothing of packets, sessions or sockets.
//!
//! ```text
//! loop {
//!     router.handle(input, now)          // a link, a message, the peer set, health
//!     router.handle_timeout(now)         // at router.poll_timeout(), or any time before or after
//!     while let Some(output) = router.poll_output() { … }
//! }
//! ```

pub mod adjacency;
pub mod backup;
pub mod cost;
pub mod course;
mod damping;
mod event;
mod explain;
mod flooding;
pub mod graph;
pub mod lsdb;
pub mod multipath;
pub mod order;
mod origin;
mod pacing;
mod policy;
mod router;
mod routes;
pub mod spf;
mod spreading;
mod topology;
mod verifier;

pub use backup::Protection;
pub use cost::{BASE, CostParts, Health};
pub use event::{Cause, Event, Happening};
pub use explain::{Explanation, Hop, Path, Verdict, Way};
pub use policy::{LinkPolicy, Policies, PolicyRule, Thousandths};
pub use router::{Config, Counters, Input, Link, Output, Router};
pub use routes::{Backup, NextHop, Preference, Route, Routes};
pub use topology::{Member, Members, Topology, TopologyLink};
pub use verifier::{EachTime, Verifier};
