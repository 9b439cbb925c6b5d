//! Alerts and audit records: written with what they speak of, read by the mirror, dropped when Kafka has them.

use sqlx::{Sqlite, Transaction};
use wattle_api::notice::{Alert, AlertState, AuditRecord};

use crate::open::{BEGIN, Doing, Store, StoreError};

/// An alert or an audit record as it goes to Kafka.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Its place among both; dense unless a transaction was taken back.
    pub nr: u64,
    /// Which of both.
    pub kind: NoticeKind,
    /// Its key in Kafka.
    pub key: String,
    /// An [`Alert`] or [`AuditRecord`] in JSON.
    pub value: String,
}

/// What a notice is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoticeKind {
    /// An [`Alert`].
    Alert,
    /// An [`AuditRecord`].
    Audit,
}

impl Store {
    /// The oldest notices after `nr`, in order, at most `limit`.
    pub async fn notices_after(&self, nr: u64, limit: u32) -> Result<Vec<Notice>, StoreError> {
        let sql = "SELECT nr, kind, key, value FROM notice WHERE nr > ? ORDER BY nr LIMIT ?";
        let rows: Vec<(i64, String, String, String)> = sqlx::query_as(sql)
            .bind(nr.cast_signed())
            .bind(limit)
            .fetch_all(&self.readers)
            .await
            .doing("read alerts and audit records")?;
        let notice = |(nr, kind, key, value): (i64, String, String, String)| Notice {
            nr: nr.cast_unsigned(),
            kind: match kind.as_str() {
                "alert" => NoticeKind::Alert,
                _ => NoticeKind::Audit,
            },
            key,
            value,
        };
        Ok(rows.into_iter().map(notice).collect())
    }

    /// Writes an audit record by itself, for what changes nothing else.
    pub async fn note(&self, record: &AuditRecord) -> Result<(), StoreError> {
        let doing = "write an audit record";
        let mut tx = self.writer.begin_with(BEGIN).await.doing(doing)?;
        write(&mut tx, &[], std::slice::from_ref(record)).await?;
        tx.commit().await.doing(doing)
    }

    /// Drops notices up to `written`, and of the rest all but the newest `keep`; how many of the rest.
    pub async fn trim_notices(&self, written: u64, keep: u64) -> Result<u64, StoreError> {
        let doing = "drop old alerts and audit records";
        sqlx::query("DELETE FROM notice WHERE nr <= ?")
            .bind(written.cast_signed())
            .execute(&self.writer)
            .await
            .doing(doing)?;
        let given_up = sqlx::query(
            "DELETE FROM notice WHERE nr <= (SELECT coalesce(max(nr), 0) FROM notice) - ?",
        );
        let given_up = given_up.bind(keep.cast_signed()).execute(&self.writer);
        Ok(given_up.await.doing(doing)?.rows_affected())
    }

    /// The alerts that are raised, by id.
    pub async fn alerts(&self) -> Result<Vec<Alert>, StoreError> {
        let doing = "read the alerts";
        let rows: Vec<(String,)> = sqlx::query_as("SELECT alert FROM alert ORDER BY id")
            .fetch_all(&self.readers)
            .await
            .doing(doing)?;
        let parse = |(text,): &(String,)| {
            serde_json::from_str(text).map_err(|why| StoreError::Damaged {
                what: "alert",
                why: why.to_string(),
            })
        };
        rows.iter().map(parse).collect()
    }
}

/// Writes alerts and audit records, and remembers which alerts are raised.
pub(crate) async fn write(
    tx: &mut Transaction<'static, Sqlite>,
    alerts: &[Alert],
    audits: &[AuditRecord],
) -> Result<(), StoreError> {
    for alert in alerts {
        let text = text(alert, "alert")?;
        insert(tx, "alert", &alert.id, &text).await?;
        let remember = match alert.state {
            AlertState::Raised => sqlx::query("INSERT OR REPLACE INTO alert VALUES (?, ?)")
                .bind(&alert.id)
                .bind(text),
            AlertState::Cleared => sqlx::query("DELETE FROM alert WHERE id = ?").bind(&alert.id),
        };
        remember.execute(&mut **tx).await.doing("write an alert")?;
    }
    for audit in audits {
        insert(tx, "audit", &audit.subject, &text(audit, "audit record")?).await?;
    }
    Ok(())
}

async fn insert(
    tx: &mut Transaction<'static, Sqlite>,
    kind: &'static str,
    key: &str,
    value: &str,
) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO notice (kind, key, value) VALUES (?, ?, ?)")
        .bind(kind)
        .bind(key)
        .bind(value)
        .execute(&mut **tx)
        .await
        .doing("write an alert or audit record")?;
    Ok(())
}

fn text(value: &impl serde::Serialize, what: &'static str) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|why| StoreError::Damaged {
        what,
        why: why.to_string(),
    })
}
