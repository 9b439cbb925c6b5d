//! What the engine looks at each second of the data thread, beside everything that it is told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use wattle_model::NodeId;
use wattle_worker::Status;

use super::demand::Carried;
use crate::worker_handle::WorkerHandle;

/// Between two looks.
pub(crate) const PULSE: Duration = Duration::from_secs(1);

/// What the engine looks at each second.
#[derive(Debug, Clone, Default)]
pub(crate) struct WorkerPulse {
    /// How full the data thread's queue is, in percent.
    pub(crate) queue: u8,
    /// What was carried for each peer.
    pub(crate) carried: Vec<Carried>,
}

impl WorkerPulse {
    fn of(status: &Status) -> Self {
        let percent = status.held_bytes * 100 / wattle_dataplane::QUEUE_BYTES as u64;
        let mut links: BTreeMap<NodeId, (u64, bool)> = BTreeMap::new();
        for link in &status.links {
            let (bytes, is_linked) = links.entry(link.peer).or_default();
            *bytes += link.tx_bytes + link.rx_bytes;
            *is_linked |= link.state.is_usable();
        }
        let carried = status.sessions.iter().map(|session| {
            let (link_bytes, is_linked) = links.get(&session.peer).copied().unwrap_or_default();
            Carried {
                peer: session.peer,
                bytes: session.tx_bytes + session.rx_bytes,
                link_bytes,
                is_linked,
            }
        });
        Self {
            queue: percent.min(100) as u8,
            carried: carried.collect(),
        }
    }
}

/// Asks the data thread beside the engine, which must not wait for a busy one.
pub(crate) fn watch(worker: WorkerHandle) -> watch::Receiver<Arc<WorkerPulse>> {
    let (tell, told) = watch::channel(Arc::default());
    tokio::spawn(async move {
        while !tell.is_closed() {
            tokio::time::sleep(PULSE).await;
            if let Some(report) = worker.status().await {
                tell.send_replace(Arc::new(WorkerPulse::of(&report.worker)));
            }
        }
    });
    told
}
