//! The task that keeps the kernel's addresses and routes as the engine wants them, and looking at what is there.
//!
//! Only the last wish counts, so a burst of changes is one reconciliation; the engine never waits for netlink.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use wattle_control::{ErrorCode, Reply, RouteReport, RouteSource, RoutesReport};
use wattle_host::{Installed, Netlink, Wanted};

use crate::local_api::refusal;

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

/// The agent's routing table, for looking at.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    netlink: Arc<Netlink>,
    device: String,
    interface: u32,
    table: u32,
}

impl Table {
    /// The routes to `device`, whose index is `interface`, in `table`.
    pub(crate) fn new(netlink: Netlink, device: String, interface: u32, table: u32) -> Self {
        Self {
            netlink: Arc::new(netlink),
            device,
            interface,
            table,
        }
    }

    /// What the kernel has of ours at this moment, whoever has changed it.
    pub(crate) async fn routes(&self) -> Reply {
        match self.netlink.routes(self.interface, self.table).await {
            Ok(prefixes) => {
                let routes = prefixes.into_iter().map(|prefix| RouteReport {
                    prefix,
                    node: None,
                    source: RouteSource::Kernel,
                    tier: 0,
                    cost_us: None,
                    next_hops: Vec::new(),
                    device: Some(self.device.clone()),
                    table: Some(self.table),
                });
                Reply::Routes(RoutesReport {
                    routes: routes.collect(),
                })
            }
            Err(error) => {
                let what = "the kernel's routes were not read";
                let next = "journalctl -u wattled";
                Reply::Error(refusal(ErrorCode::Failure, what, error.to_string(), next))
            }
        }
    }
}
