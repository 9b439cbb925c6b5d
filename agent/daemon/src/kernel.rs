//! The task that keeps the kernel's addresses and routes as the engine wants them.
//!
//! Only the last wish counts, so a burst of changes is one reconciliation; the engine never waits for netlink.

use std::time::Duration;

use tokio::sync::watch;
use wattle_host::{Installed, Wanted};

/// Between two attempts after a failure, and between looks for what others have removed.
const RETRY: Duration = Duration::from_secs(2);
const RECHECK: Duration = Duration::from_secs(60);

/// Follows the engine's wishes until it is gone, then removes everything of ours.
pub(crate) async fn run(installed: Installed, mut wishes: watch::Receiver<Wanted>) {
    loop {
        let wanted = wishes.borrow_and_update().clone();
        let pause = match installed.reconcile(&wanted).await {
            Ok(0) => RECHECK,
            Ok(changes) => {
                tracing::debug!(changes, "kernel addresses and routes reconciled");
                RECHECK
            }
            Err(error) => {
                tracing::warn!(%error, "the kernel's addresses or routes are not as they should be");
                RETRY
            }
        };
        match tokio::time::timeout(pause, wishes.changed()).await {
            Ok(Ok(())) | Err(_) => {}
            Ok(Err(_)) => break,
        }
    }
    if let Err(error) = installed.remove().await {
        tracing::warn!(%error, "addresses, routes or rules of the agent are left in the kernel");
    }
}
