//! How much of the past is kept in the outbox.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use wattle_mirror::Mirror;
use wattle_store::Store;

/// How often old events are dropped.
const TRIM_EVERY: Duration = Duration::from_secs(30);

/// Events dropped in one transaction: some milliseconds.
const TRIM_STEP: u32 = 5_000;

/// Drops events beyond the newest `keep`, but none that the mirror has not committed.
pub(crate) async fn trim(
    store: Store,
    mirror: Option<Arc<Mirror>>,
    keep: u64,
    stop: CancellationToken,
) {
    while stop
        .run_until_cancelled(tokio::time::sleep(TRIM_EVERY))
        .await
        .is_some()
    {
        let old = store.last_seq().saturating_sub(keep);
        let end = mirror
            .as_ref()
            .map_or(old, |mirror| old.min(mirror.status().committed_seq));
        loop {
            match store.trim_outbox(end, TRIM_STEP).await {
                Ok(gone) if gone == u64::from(TRIM_STEP) => {}
                Ok(_) => break,
                Err(error) => {
                    tracing::warn!(%error, "Old events could not be dropped");
                    break;
                }
            }
        }
    }
}
