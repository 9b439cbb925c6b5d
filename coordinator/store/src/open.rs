//! Opening the database: pragmas, migrations, the lock against a second coordinator, the next term.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use tokio::sync::watch;
use wattle_fleet::Stamp;
use wattle_model::NetworkId;

use crate::tokens::Tokens;

/// How long a statement waits for the writer of another process (`token create`), which is done within milliseconds.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections that only read: API requests, streams and the mirror share them.
const READERS: u32 = 4;

/// Begins a transaction that writes, so that it waits for others here and never fails half-way.
pub(crate) const BEGIN: &str = "BEGIN IMMEDIATE";

/// What went wrong with the database.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another coordinator runs on the same state directory.
    #[error(
        "another coordinator runs on {0}: stop it first, or give this one its own state directory"
    )]
    Locked(PathBuf),
    /// The lock file cannot be made.
    #[error("cannot lock {path}: {source}")]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The database belongs to another network.
    #[error(
        "the database is of network {found}, not {wanted}: its root key and its database do not belong together"
    )]
    OtherNetwork {
        /// What the database says.
        found: String,
        /// What was asked for.
        wanted: NetworkId,
    },
    /// Another coordinator opened the database after this one.
    #[error(
        "term {0} is over: another coordinator opened the database; this one writes nothing more"
    )]
    Fenced(u64),
    /// The token was used, ran out or was withdrawn since it was looked up.
    #[error("the token was used by another node at the same moment, or has just expired")]
    TokenLost,
    /// A stored value does not parse: a damaged file, or one of a later version.
    #[error(
        "the database holds a {what} that cannot be read ({why}); restore a copy of the state directory"
    )]
    Damaged {
        /// Which kind of value.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The tables cannot be brought to this version.
    #[error("cannot bring the database's tables to this version: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// A statement failed.
    #[error("cannot {doing}: {source}")]
    Database {
        /// What was being done.
        doing: &'static str,
        /// Why not.
        source: sqlx::Error,
    },
}

/// Says what was being done when a statement failed.
pub(crate) trait Doing<T> {
    fn doing(self, what: &'static str) -> Result<T, StoreError>;
}

impl<T> Doing<T> for Result<T, sqlx::Error> {
    fn doing(self, what: &'static str) -> Result<T, StoreError> {
        self.map_err(|source| StoreError::Database {
            doing: what,
            source,
        })
    }
}

/// The open database. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Store {
    pub(crate) writer: SqlitePool,
    pub(crate) readers: SqlitePool,
    pub(crate) stamp: Arc<Stamp>,
    pub(crate) newest: Arc<watch::Sender<u64>>,
    lock: Arc<File>,
}

impl Store {
    /// Opens the database of a network, makes it if need be, and begins the next term.
    pub async fn open(
        path: &Path,
        network: NetworkId,
        network_name: &str,
        coordinator: &str,
    ) -> Result<Self, StoreError> {
        let lock = lock(path)?;
        let writer = connect(path).await?;
        sqlx::migrate!("./migrations").run(&writer).await?;
        let (term, seq) = begin_term(&writer, network).await?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .connect_with(options(path).read_only(true))
            .await
            .doing("open the database for reading")?;
        let stamp = Stamp {
            network,
            network_name: network_name.to_owned(),
            coordinator: coordinator.to_owned(),
            term,
        };
        Ok(Self {
            writer,
            readers,
            stamp: Arc::new(stamp),
            newest: Arc::new(watch::Sender::new(seq)),
            lock: Arc::new(lock),
        })
    }

    /// The term: grows with every opening, stands in every event, fences whoever opened before.
    pub fn term(&self) -> u64 {
        self.stamp.term
    }

    /// The tokens.
    pub fn tokens(&self) -> Tokens {
        Tokens::of(self.writer.clone())
    }

    /// Closes the connections; commits that began are finished.
    pub async fn close(self) {
        self.readers.close().await;
        self.writer.close().await;
        drop(self.lock);
    }
}

pub(crate) async fn connect(path: &Path) -> Result<SqlitePool, StoreError> {
    SqlitePoolOptions::new()
        .max_connections(1)
        .connect_with(options(path))
        .await
        .doing("open the database")
}

fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(BUSY_TIMEOUT)
}

/// The kernel drops the lock with the process, however it ends.
fn lock(database: &Path) -> Result<File, StoreError> {
    let path = database.with_extension("lock");
    let failed = |source| StoreError::Lock {
        path: path.clone(),
        source,
    };
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::Locked(
            database.parent().unwrap_or(database).to_owned(),
        )),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

async fn begin_term(writer: &SqlitePool, network: NetworkId) -> Result<(u64, u64), StoreError> {
    let doing = "begin a term";
    let mut tx = writer.begin_with(BEGIN).await.doing(doing)?;
    sqlx::query("INSERT OR IGNORE INTO coordinator VALUES (0, ?, 0, 0, 0, NULL)")
        .bind(network.to_string())
        .execute(&mut *tx)
        .await
        .doing(doing)?;
    let (found, term, seq): (String, i64, i64) =
        sqlx::query_as("UPDATE coordinator SET term = term + 1 RETURNING network, term, seq")
            .fetch_one(&mut *tx)
            .await
            .doing(doing)?;
    if found != network.to_string() {
        return Err(StoreError::OtherNetwork {
            found,
            wanted: network,
        });
    }
    tx.commit().await.doing(doing)?;
    Ok((term.cast_unsigned(), seq.cast_unsigned()))
}
