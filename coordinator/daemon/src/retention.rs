//! How much of the past is kept in the outbox, and how much may wait there.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use wattle_api::notice::{AuditAction, AuditRecord};
use wattle_mirror::Mirror;
use wattle_store::{Loss, Store, StoreError};

use crate::clock::wall;
use crate::config::Outbox;

/// How often old events are dropped.
const TRIM_EVERY: Duration = Duration::from_secs(30);

/// Events dropped in one transaction: some milliseconds.
const TRIM_STEP: u32 = 5_000;

/// Alerts and audit records that wait for a mirror at most.
const MAX_NOTICES: u64 = 100_000;

/// Drops events beyond the newest `keep_events`, but none that the mirror has not committed, unless more than
/// `max_events` wait for it. The mirror finds those missing and says so in the topics.
pub(crate) async fn trim(
    store: Store,
    mirror: Option<Arc<Mirror>>,
    limits: Outbox,
    stop: CancellationToken,
) {
    while stop
        .run_until_cancelled(tokio::time::sleep(TRIM_EVERY))
        .await
        .is_some()
    {
        let status = mirror.as_ref().map(|mirror| mirror.status());
        let old = store.last_seq().saturating_sub(limits.keep_events);
        let end = status
            .as_ref()
            .map_or(old, |status| old.min(status.committed_seq));
        drop_up_to(&store, end).await;
        if let Some(status) = &status {
            let full = store.last_seq().saturating_sub(limits.max_events);
            give_up(&store, full, end, status.committed_seq).await;
        }
        let written = status.map_or(0, |status| status.notices);
        match store.trim_notices(written, MAX_NOTICES).await {
            Ok(0) => {}
            Ok(_) if mirror.is_none() => {}
            Ok(given_up) => tracing::error!(
                given_up,
                "Too many alerts and audit records wait: the oldest are given up before Kafka has them"
            ),
            Err(error) => {
                tracing::warn!(%error, "Old alerts and audit records could not be dropped");
            }
        }
    }
}

/// Drops events up to `end`, if that is more than those that may go, up to `dropped`. `committed` is the last that is in
/// Kafka; 0 while that is not known, and then the mirror finds out what is missing.
async fn give_up(store: &Store, end: u64, dropped: u64, committed: u64) {
    let first = match store.first_seq().await {
        Ok(first) if first <= end && end > dropped => first,
        Ok(_) => return,
        Err(error) => {
            tracing::warn!(%error, "The outbox could not be read");
            return;
        }
    };
    tracing::error!(
        first,
        last = end,
        "The outbox is full: its oldest events are given up before Kafka has them"
    );
    if let Err(error) = note(store, first, end, committed).await {
        tracing::warn!(%error, "The full outbox could not be noted; nothing is given up");
        return;
    }
    drop_up_to(store, end).await;
}

/// Before anything is dropped: whatever ends the process meanwhile, what goes is told.
async fn note(store: &Store, first: u64, end: u64, committed: u64) -> Result<(), StoreError> {
    if committed > 0 && committed < end {
        let first = committed + 1;
        let detail = format!("the outbox was full: events {first} to {end} will never be in Kafka");
        let at = wall();
        store.note_loss(&Loss { detail, at }).await?;
    }
    let record = AuditRecord {
        action: AuditAction::OutboxDropped,
        actor: "coordinator".to_owned(),
        subject: "kafka".to_owned(),
        detail: format!("events {first} to {end}"),
        revision: None,
        seq: store.last_seq(),
        term: store.term(),
        network: store.network(),
        ts: wall(),
    };
    store.note(&record).await
}

async fn drop_up_to(store: &Store, end: u64) {
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
