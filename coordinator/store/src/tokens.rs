//! Invitations at rest: made, listed, looked up, withdrawn. Using one up is part of a [`crate::Change`].

use std::path::Path;

use sqlx::sqlite::SqlitePool;
use wattle_api::Timestamp;
use wattle_api::token::{TokenRecord, TokenScope, TokenUse};

use crate::open::{Doing, StoreError, open_for_writing};

/// The table of tokens. Several processes may have it open: the coordinator, and `token create` beside it.
#[derive(Debug, Clone)]
pub struct Tokens {
    pool: SqlitePool,
}

/// What is known of a token that somebody shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenFound {
    /// Never made here, or withdrawn.
    Unknown,
    /// Used already.
    Used(TokenUse),
    /// Past its time.
    Expired(Timestamp),
    /// Good for this.
    Good(TokenScope),
}

type Row = (String, String, i64, i64, Option<i64>, Option<String>);

impl Tokens {
    /// Opens the table of an existing database, beside a coordinator that may be running.
    pub async fn open(database: &Path) -> Result<Self, StoreError> {
        Ok(Self::of(open_for_writing(database).await?))
    }

    pub(crate) const fn of(pool: SqlitePool) -> Self {
        Self { pool }
    }

    /// Keeps a token under the SHA-256 of its secret.
    pub async fn create(
        &self,
        hash: [u8; 32],
        scope: &TokenScope,
        now: Timestamp,
        expires_at: Timestamp,
    ) -> Result<TokenRecord, StoreError> {
        let record = TokenRecord {
            id: hash[..6].iter().map(|byte| format!("{byte:02x}")).collect(),
            scope: scope.clone(),
            created_at: now,
            expires_at,
            used: None,
        };
        let scope = serde_json::to_string(scope).map_err(|why| StoreError::Damaged {
            what: "token",
            why: why.to_string(),
        })?;
        sqlx::query("INSERT INTO token VALUES (?, ?, ?, ?, ?, NULL, NULL)")
            .bind(hash.as_slice())
            .bind(&record.id)
            .bind(scope)
            .bind(now.as_millis().cast_signed())
            .bind(expires_at.as_millis().cast_signed())
            .execute(&self.pool)
            .await
            .doing("write a token")?;
        Ok(record)
    }

    /// All tokens, the newest first.
    pub async fn list(&self) -> Result<Vec<TokenRecord>, StoreError> {
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT id, scope, created_at, expires_at, used_at, used_by FROM token ORDER BY created_at DESC, id",
        )
        .fetch_all(&self.pool)
        .await
        .doing("list tokens")?;
        rows.into_iter().map(record).collect()
    }

    /// Withdraws a token that was not used; tells whether there was one.
    pub async fn withdraw(&self, id: &str) -> Result<bool, StoreError> {
        let gone = sqlx::query("DELETE FROM token WHERE id = ? AND used_at IS NULL")
            .bind(id)
            .execute(&self.pool)
            .await
            .doing("withdraw a token")?;
        Ok(gone.rows_affected() > 0)
    }

    /// Looks a token up by the SHA-256 of its secret. What an attacker can learn from the time this takes is about
    /// hashes, not secrets.
    pub async fn find(&self, hash: [u8; 32], now: Timestamp) -> Result<TokenFound, StoreError> {
        let row: Option<Row> = sqlx::query_as(
            "SELECT id, scope, created_at, expires_at, used_at, used_by FROM token WHERE hash = ?",
        )
        .bind(hash.as_slice())
        .fetch_optional(&self.pool)
        .await
        .doing("look a token up")?;
        let Some(row) = row else {
            return Ok(TokenFound::Unknown);
        };
        let token = record(row)?;
        Ok(match token.used {
            Some(used) => TokenFound::Used(used),
            None if token.expires_at <= now => TokenFound::Expired(token.expires_at),
            None => TokenFound::Good(token.scope),
        })
    }
}

fn record(
    (id, scope, created_at, expires_at, used_at, used_by): Row,
) -> Result<TokenRecord, StoreError> {
    let damaged = |why: String| StoreError::Damaged { what: "token", why };
    let used = match (used_at, used_by) {
        (Some(at), Some(node)) => Some(TokenUse {
            at: Timestamp::from_millis(at.cast_unsigned()),
            node: node
                .parse()
                .map_err(|_| damaged(format!("node id {node}")))?,
        }),
        _ => None,
    };
    Ok(TokenRecord {
        id,
        scope: serde_json::from_str(&scope).map_err(|why| damaged(why.to_string()))?,
        created_at: Timestamp::from_millis(created_at.cast_unsigned()),
        expires_at: Timestamp::from_millis(expires_at.cast_unsigned()),
        used,
    })
}
