//! Reading everything back after a start.

use sqlx::{Sqlite, Transaction};
use wattle_api::topology::Entity;
use wattle_fleet::Member;
use wattle_model::UnixTime;
use wattle_wire::grant::SignedGrant;
use wattle_wire::record::Record;

use crate::open::{Doing, Store, StoreError};

const DOING: &str = "read the state";

/// What the coordinator knew when it last committed.
#[derive(Debug, Clone)]
pub struct State {
    /// The members.
    pub members: Vec<Member>,
    /// Removals of former members.
    pub removals: Vec<Record>,
    /// Revision of the newest peer set; 0 before the first.
    pub revision: u64,
    /// The newest peer set with its signature.
    pub peer_set: Option<Vec<u8>>,
    /// The replica of the link-state database.
    pub records: Vec<Record>,
    /// The topology.
    pub entities: Vec<Entity>,
    /// The newest event; the topology is as that event left it.
    pub seq: u64,
}

impl Store {
    /// Reads the whole state at one moment.
    pub async fn state(&self) -> Result<State, StoreError> {
        let mut tx = self.readers.begin().await.doing(DOING)?;
        let (seq, revision, peer_set): (i64, i64, Option<Vec<u8>>) =
            sqlx::query_as("SELECT seq, revision, peer_set FROM coordinator")
                .fetch_one(&mut *tx)
                .await
                .doing(DOING)?;
        Ok(State {
            members: members(&mut tx).await?,
            removals: records(&mut tx, "SELECT record FROM removal ORDER BY node").await?,
            revision: revision.cast_unsigned(),
            peer_set,
            records: records(&mut tx, "SELECT record FROM record ORDER BY key").await?,
            entities: entities(&mut tx).await?,
            seq: seq.cast_unsigned(),
        })
    }
}

async fn members(tx: &mut Transaction<'_, Sqlite>) -> Result<Vec<Member>, StoreError> {
    let rows: Vec<(Vec<u8>, String, i64)> =
        sqlx::query_as("SELECT grant, candidates, joined_at FROM member ORDER BY node")
            .fetch_all(&mut **tx)
            .await
            .doing(DOING)?;
    rows.into_iter()
        .map(|(grant, candidates, joined_at)| {
            Ok(Member {
                grant: SignedGrant::parse(&grant).map_err(damaged("grant"))?,
                candidates: serde_json::from_str(&candidates).map_err(damaged("candidate list"))?,
                joined_at: UnixTime(joined_at.cast_unsigned()),
            })
        })
        .collect()
}

async fn records(
    tx: &mut Transaction<'_, Sqlite>,
    sql: &'static str,
) -> Result<Vec<Record>, StoreError> {
    let rows: Vec<(Vec<u8>,)> = sqlx::query_as(sql)
        .fetch_all(&mut **tx)
        .await
        .doing(DOING)?;
    rows.iter()
        .map(|(bytes,)| Record::parse(bytes).map_err(damaged("record")))
        .collect()
}

async fn entities(tx: &mut Transaction<'_, Sqlite>) -> Result<Vec<Entity>, StoreError> {
    let rows: Vec<(String,)> = sqlx::query_as("SELECT entity FROM entity ORDER BY key")
        .fetch_all(&mut **tx)
        .await
        .doing(DOING)?;
    rows.iter()
        .map(|(text,)| serde_json::from_str(text).map_err(damaged("entity")))
        .collect()
}

fn damaged<E: std::fmt::Display>(what: &'static str) -> impl Fn(E) -> StoreError {
    move |why| StoreError::Damaged {
        what,
        why: why.to_string(),
    }
}
