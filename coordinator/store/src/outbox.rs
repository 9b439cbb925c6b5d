//! Reading the outbox: for the mirror, for streams, and what may go.

use tokio::sync::watch;
use wattle_api::Timestamp;
use wattle_api::topology::TopologyEvent;

use crate::open::{BEGIN, Doing, Store, StoreError};

/// An event as it was written.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct OutboxRow {
    /// Its place in the total order.
    #[sqlx(try_from = "i64")]
    pub seq: u64,
    /// The term in which it was written.
    #[sqlx(try_from = "i64")]
    pub term: u64,
    /// A [`TopologyEvent`] in JSON.
    pub event: String,
}

impl OutboxRow {
    /// The event, parsed.
    pub fn event(&self) -> Result<TopologyEvent, StoreError> {
        serde_json::from_str(&self.event).map_err(|why| StoreError::Damaged {
            what: "event",
            why: why.to_string(),
        })
    }
}

impl Store {
    /// The oldest events after `seq`, in order, at most `limit`.
    pub async fn outbox_after(&self, seq: u64, limit: u32) -> Result<Vec<OutboxRow>, StoreError> {
        sqlx::query_as("SELECT seq, term, event FROM outbox WHERE seq > ? ORDER BY seq LIMIT ?")
            .bind(seq.cast_signed())
            .bind(limit)
            .fetch_all(&self.readers)
            .await
            .doing("read the outbox")
    }

    /// The newest event that is durable; 0 before the first.
    pub fn last_seq(&self) -> u64 {
        *self.newest.borrow()
    }

    /// The oldest event that is still in the outbox; one after the newest if it is empty.
    pub async fn first_seq(&self) -> Result<u64, StoreError> {
        let (first,): (Option<i64>,) = sqlx::query_as("SELECT min(seq) FROM outbox")
            .fetch_one(&self.readers)
            .await
            .doing("read the outbox")?;
        Ok(first.map_or(self.last_seq() + 1, i64::cast_unsigned))
    }

    /// The newest event that is not later than `time`; `None` if the oldest one that is kept is later, or none is kept.
    /// By bisection: numbers have no holes, and times follow them unless the clock was set back.
    pub async fn seq_at(&self, time: Timestamp) -> Result<Option<u64>, StoreError> {
        let (mut low, mut high) = (self.first_seq().await?, self.last_seq() + 1);
        let first = low;
        while low < high {
            let middle = low + (high - low) / 2;
            let rows = self.outbox_after(middle - 1, 1).await?;
            match rows.first() {
                Some(row) if row.event()?.ts > time => high = middle,
                // Events may be trimmed away meanwhile: those are old.
                Some(row) => low = row.seq + 1,
                None => high = middle,
            }
        }
        Ok((low > first).then(|| low - 1))
    }

    /// Follows [`Store::last_seq`].
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    /// Drops the events up to `seq`, at most `limit` of them so that writers do not wait long; returns how many went.
    /// Numbers are not given again. The caller must not name events that the mirror has not committed.
    pub async fn trim_outbox(&self, seq: u64, limit: u32) -> Result<u64, StoreError> {
        let doing = "trim the outbox";
        let mut tx = self.writer.begin_with(BEGIN).await.doing(doing)?;
        let gone = sqlx::query(
            "DELETE FROM outbox WHERE seq IN (SELECT seq FROM outbox WHERE seq <= ? ORDER BY seq LIMIT ?)",
        )
        .bind(seq.cast_signed())
        .bind(limit)
        .execute(&mut *tx)
        .await
        .doing(doing)?;
        tx.commit().await.doing(doing)?;
        Ok(gone.rows_affected())
    }
}
