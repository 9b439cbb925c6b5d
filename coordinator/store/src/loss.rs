//! What Kafka will never have, or had and lost: noted before anybody hears of it, and kept, since it stays lost.

use wattle_api::Timestamp;

use crate::open::{Doing, Store, StoreError};

/// History that is lost for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// For people: what is lost, and why.
    pub detail: String,
    /// When that was seen.
    pub at: Timestamp,
}

impl Store {
    /// Keeps a loss, in place of the one before it.
    pub async fn note_loss(&self, loss: &Loss) -> Result<(), StoreError> {
        sqlx::query("INSERT OR REPLACE INTO loss VALUES (0, ?, ?)")
            .bind(&loss.detail)
            .bind(loss.at.as_millis().cast_signed())
            .execute(&self.writer)
            .await
            .doing("write what was lost")?;
        Ok(())
    }

    /// The newest loss, however old it is.
    pub async fn last_loss(&self) -> Result<Option<Loss>, StoreError> {
        let row: Option<(String, i64)> = sqlx::query_as("SELECT detail, at FROM loss")
            .fetch_optional(&self.readers)
            .await
            .doing("read what was lost")?;
        Ok(row.map(|(detail, at)| Loss {
            detail,
            at: Timestamp::from_millis(at.cast_unsigned()),
        }))
    }
}
