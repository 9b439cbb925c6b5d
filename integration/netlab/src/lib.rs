//! Networks to test in: hosts, links, NATs, impairments in network namespaces, real brokers, real agents.
//!
//! A test reads like a story: make a [`Lab`], give it hosts, link them, cut a link, ask what was lost. Everything
//! carries the name `wl-<pid>-…` and is gone after any end of the test, a `kill -9` included. Knows Wattle only as a
//! set of binaries ([`mesh`]).

pub mod answer;
pub mod capture;
mod coordinator;
pub mod guide;
mod host;
pub mod kafka;
mod lab;
mod link;
pub mod mesh;
mod metrics;
mod nat;
pub mod probe;
mod process;
pub mod published;
pub mod readers;
pub mod transfer;
mod wire;

pub use coordinator::Coordinator;
pub use host::Host;
pub use lab::{Lab, story};
pub use link::{End, Segment};
pub use mesh::{Mesh, MeshBuilder};
pub use metrics::Metrics;
pub use nat::Nat;
pub use process::Process;
pub use wire::Shape;

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long a test waits for a state that is no promise: seconds on a machine of its own, more where others take processors.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What becomes of asynchronous work, which this thread waits for.
pub fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(work)
}

/// Asks `question` again until it says yes; fails with `what` after `patience`.
pub fn eventually(
    what: &str,
    patience: Duration,
    mut question: impl FnMut() -> Result<bool>,
) -> Result<Duration> {
    let start = Instant::now();
    let mut last = Ok(false);
    while start.elapsed() < patience {
        last = question();
        if matches!(last, Ok(true)) {
            return Ok(start.elapsed());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    match last {
        Err(error) => Err(error.context(format!("not within {patience:?}: {what}"))),
        Ok(_) => bail!("not within {patience:?}: {what}"),
    }
}
