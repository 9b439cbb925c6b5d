//! One transaction: everything that a batch of inputs changed, and the events that say so.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};
use sqlx::{Sqlite, Transaction};
use wattle_api::Timestamp;
use wattle_api::notice::{Alert, AuditRecord};
use wattle_api::topology::TopologyEvent;
use wattle_fleet::{Difference, Member};
use wattle_model::NodeId;
use wattle_wire::record::{Record, RecordKey};

use crate::notices;
use crate::open::{BEGIN, Doing, Store, StoreError};

const DOING: &str = "write a change";

type Tx = Transaction<'static, Sqlite>;

/// What to write at once: all of it or nothing.
#[derive(Debug, Clone, Default)]
pub struct Change {
    /// Tokens to use up; if one cannot be, nothing is written.
    pub claims: Vec<Claim>,
    /// Members to add, or to put in place of the ones with the same id.
    pub members: Vec<Member>,
    /// Removals; their members go.
    pub removals: Vec<Record>,
    /// The newest peer set with its revision.
    pub peer_set: Option<(u64, Vec<u8>)>,
    /// Records to keep, each in place of the one with the same key.
    pub records: Vec<Record>,
    /// Records to forget.
    pub forgotten: Vec<RecordKey>,
    /// Changes of the topology, in order; each becomes an event.
    pub differences: Vec<Difference>,
    /// Alerts that are raised or cleared.
    pub alerts: Vec<Alert>,
    /// Who did what.
    pub audits: Vec<AuditRecord>,
}

/// The use of a token.
#[derive(Debug, Clone)]
pub struct Claim {
    /// SHA-256 of its secret.
    pub hash: [u8; 32],
    /// Who joins with it.
    pub node: NodeId,
}

/// What a commit did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// The newest event, be it of this commit or of an earlier one.
    pub last_seq: u64,
    /// How many events this commit added.
    pub events: u64,
}

impl Change {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.claims.is_empty()
            && self.members.is_empty()
            && self.removals.is_empty()
            && self.peer_set.is_none()
            && self.records.is_empty()
            && self.forgotten.is_empty()
            && self.differences.is_empty()
            && self.alerts.is_empty()
            && self.audits.is_empty()
    }
}

impl Store {
    /// Writes a change, durably, and then wakes whoever follows the outbox.
    pub async fn commit(&self, change: &Change, now: Timestamp) -> Result<Committed, StoreError> {
        let mut tx = self.writer.begin_with(BEGIN).await.doing(DOING)?;
        let events = change.differences.len() as u64;
        let last_seq = self.advance(&mut tx, events).await?;
        for claim in &change.claims {
            use_token(&mut tx, claim, now).await?;
        }
        write_members(&mut tx, &change.members).await?;
        write_removals(&mut tx, &change.removals).await?;
        if let Some((revision, signed)) = &change.peer_set {
            write_peer_set(&mut tx, *revision, signed).await?;
        }
        write_records(&mut tx, &change.records, &change.forgotten).await?;
        if events > 0 {
            write_entities(&mut tx, &change.differences).await?;
            let first = last_seq - events + 1;
            self.write_events(&mut tx, &change.differences, first, now)
                .await?;
        }
        notices::write(&mut tx, &change.alerts, &change.audits).await?;
        tx.commit().await.doing(DOING)?;
        if events > 0 {
            self.newest.send_replace(last_seq);
        }
        Ok(Committed { last_seq, events })
    }

    /// Reserves `events` numbers; refuses if the term is over.
    async fn advance(&self, tx: &mut Tx, events: u64) -> Result<u64, StoreError> {
        let seq: Option<(i64,)> =
            sqlx::query_as("UPDATE coordinator SET seq = seq + ? WHERE term = ? RETURNING seq")
                .bind(events.cast_signed())
                .bind(self.term().cast_signed())
                .fetch_optional(&mut **tx)
                .await
                .doing(DOING)?;
        seq.map(|(seq,)| seq.cast_unsigned())
            .ok_or_else(|| StoreError::Fenced(self.term()))
    }

    /// One statement for all events: each would cost a round trip to SQLite's thread.
    async fn write_events(
        &self,
        tx: &mut Tx,
        differences: &[Difference],
        first: u64,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let numbered = differences.iter().zip(first..);
        let events: Vec<TopologyEvent> = numbered
            .map(|(difference, seq)| difference.to_event(&self.stamp, seq, now))
            .collect();
        let events = serde_json::to_string(&events).map_err(unwritable("event"))?;
        sqlx::query(
            "INSERT INTO outbox (seq, term, event) SELECT ? + key, ?, value FROM json_each(?)",
        )
        .bind(first.cast_signed())
        .bind(self.term().cast_signed())
        .bind(events)
        .execute(&mut **tx)
        .await
        .doing(DOING)?;
        Ok(())
    }
}

async fn use_token(tx: &mut Tx, claim: &Claim, now: Timestamp) -> Result<(), StoreError> {
    let used = sqlx::query(
        "UPDATE token SET used_at = ?1, used_by = ?2 WHERE hash = ?3 AND used_at IS NULL AND expires_at > ?1",
    )
    .bind(now.as_millis().cast_signed())
    .bind(claim.node.to_string())
    .bind(claim.hash.as_slice())
    .execute(&mut **tx)
    .await
    .doing("use a token")?;
    if used.rows_affected() == 1 {
        Ok(())
    } else {
        Err(StoreError::TokenLost)
    }
}

async fn write_members(tx: &mut Tx, members: &[Member]) -> Result<(), StoreError> {
    for member in members {
        let candidates = serde_json::to_string(&member.candidates).map_err(unwritable("member"))?;
        sqlx::query("INSERT OR REPLACE INTO member VALUES (?, ?, ?, ?)")
            .bind(member.grant.grant().node.to_string())
            .bind(member.grant.to_bytes())
            .bind(candidates)
            .bind(member.joined_at.0.cast_signed())
            .execute(&mut **tx)
            .await
            .doing("write a member")?;
    }
    Ok(())
}

async fn write_removals(tx: &mut Tx, removals: &[Record]) -> Result<(), StoreError> {
    for removal in removals {
        let node = removal.origin().to_string();
        sqlx::query("INSERT OR REPLACE INTO removal VALUES (?, ?)")
            .bind(&node)
            .bind(removal.bytes())
            .execute(&mut **tx)
            .await
            .doing("write a removal")?;
        sqlx::query("DELETE FROM member WHERE node = ?")
            .bind(&node)
            .execute(&mut **tx)
            .await
            .doing("remove a member")?;
        sqlx::query("DELETE FROM record WHERE key LIKE ? || '/%'")
            .bind(&node)
            .execute(&mut **tx)
            .await
            .doing("forget a node's records")?;
    }
    Ok(())
}

async fn write_peer_set(tx: &mut Tx, revision: u64, signed: &[u8]) -> Result<(), StoreError> {
    sqlx::query("UPDATE coordinator SET revision = ?, peer_set = ?")
        .bind(revision.cast_signed())
        .bind(signed)
        .execute(&mut **tx)
        .await
        .doing("write the peer set")?;
    Ok(())
}

async fn write_records(
    tx: &mut Tx,
    records: &[Record],
    forgotten: &[RecordKey],
) -> Result<(), StoreError> {
    let newest: BTreeMap<RecordKey, &Record> = records.iter().map(|r| (r.key(), r)).collect();
    let rows = newest
        .values()
        .map(|r| json!([text(r.key()), hex(r.bytes())]));
    execute(
        tx,
        "INSERT OR REPLACE INTO record SELECT value->>0, unhex(value->>1) FROM json_each(?)",
        rows.collect(),
    )
    .await?;
    execute(
        tx,
        "DELETE FROM record WHERE key IN (SELECT value FROM json_each(?))",
        forgotten.iter().map(|key| json!(text(*key))).collect(),
    )
    .await
}

/// Several differences of one entity leave the last one's image.
async fn write_entities(tx: &mut Tx, differences: &[Difference]) -> Result<(), StoreError> {
    let last: BTreeMap<_, _> = differences
        .iter()
        .map(|d| (d.key, d.after.as_ref()))
        .collect();
    let (mut present, mut gone) = (Vec::new(), Vec::new());
    for (key, entity) in last {
        match entity {
            Some(entity) => {
                let entity = serde_json::to_value(entity).map_err(unwritable("entity"))?;
                present.push(json!([key.to_string(), entity]));
            }
            None => gone.push(json!(key.to_string())),
        }
    }
    execute(
        tx,
        "INSERT OR REPLACE INTO entity SELECT value->>0, value->1 FROM json_each(?)",
        present,
    )
    .await?;
    execute(
        tx,
        "DELETE FROM entity WHERE key IN (SELECT value FROM json_each(?))",
        gone,
    )
    .await
}

async fn execute(tx: &mut Tx, sql: &'static str, rows: Vec<Value>) -> Result<(), StoreError> {
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query(sql)
        .bind(Value::from(rows).to_string())
        .execute(&mut **tx)
        .await
        .doing(DOING)?;
    Ok(())
}

/// The key of a record as it stands in the table: `<origin>/<kind>/<part>`.
fn text(key: RecordKey) -> String {
    format!("{}/{}/{}", key.origin, key.kind.code(), key.part)
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        write!(text, "{byte:02x}").expect("writing to a string cannot fail");
    }
    text
}

fn unwritable(what: &'static str) -> impl Fn(serde_json::Error) -> StoreError {
    move |why| StoreError::Damaged {
        what,
        why: why.to_string(),
    }
}
