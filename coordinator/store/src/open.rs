//! Opening the database: pragmas, migrations, the lock against a second coordinator, the next term.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sqlx::Connection as _;
use sqlx::migrate::MigrateError;
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
    /// The file is no database, or its pages are damaged.
    #[error(
        "cannot {doing}: the database is damaged ({source}); stop the coordinator, restore coordinator.db (without \
         coordinator.db-wal and -shm) from a copy of the state directory, and start it again"
    )]
    Corrupt {
        /// What was being done.
        doing: &'static str,
        /// What SQLite says.
        source: sqlx::Error,
    },
    /// There is no room for more.
    #[error(
        "cannot {doing}: no room is left where the database is ({source}); make room, and the coordinator goes on by itself"
    )]
    Full {
        /// What was being done.
        doing: &'static str,
        /// What SQLite says.
        source: sqlx::Error,
    },
    /// A later version wrote the database.
    #[error(
        "the database was written by a later version (its tables are of step {found}, this program knows {known}); \
         install that version again, or restore a copy of the state directory from before it ran"
    )]
    Newer {
        /// The newest step that was applied.
        found: i64,
        /// The newest step of this program.
        known: i64,
    },
    /// The tables are not those of any version.
    #[error(
        "the database's tables are not as this program makes them ({0}); \
         restore a copy of the state directory, or run the version that made it"
    )]
    Migrate(sqlx::migrate::MigrateError),
    /// A file for the database cannot be made.
    #[error(
        "cannot make {path}: {source}; the state directory must be writable for the coordinator"
    )]
    Make {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
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
        self.map_err(|source| failed(what, source))
    }
}

impl StoreError {
    /// Whether it is over as soon as there is room again: nothing was written, nothing is damaged.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Full { .. })
    }
}

fn failed(doing: &'static str, source: sqlx::Error) -> StoreError {
    match code(&source) {
        Some(code) if is_full(code) => StoreError::Full { doing, source },
        Some(code) if is_damage(code) => StoreError::Corrupt { doing, source },
        _ => StoreError::Database { doing, source },
    }
}

/// SQLite's extended code: the lower eight bits are the code, those above say more.
fn code(error: &sqlx::Error) -> Option<u32> {
    error.as_database_error()?.code()?.parse().ok()
}

/// Whether SQLite says that a file could not grow: the database or its log (13), or what its processes share (4874).
fn is_full(code: u32) -> bool {
    code & 0xff == 13 || code == 4_874
}

/// Whether SQLite says that the file is no database (26) or that its pages contradict each other (11).
fn is_damage(code: u32) -> bool {
    matches!(code & 0xff, 11 | 26)
}

/// Opens the database for writing, made if need be and its tables brought to this version. One process at a time does,
/// the others wait for it: SQLite's migrator looks which steps are missing and takes them in two transactions, and of two
/// that turn a fresh file's log on, SQLite refuses one at once instead of letting it wait.
pub(crate) async fn open_for_writing(path: &Path) -> Result<SqlitePool, StoreError> {
    let _turn = wait_for_turn(path.with_extension("migrating")).await?;
    let pool = connect(path).await?;
    migrate(&pool).await?;
    Ok(pool)
}

async fn migrate(pool: &SqlitePool) -> Result<(), StoreError> {
    let migrator = sqlx::migrate!("./migrations");
    let known = migrator.iter().map(|step| step.version).max().unwrap_or(0);
    migrator.run(pool).await.map_err(|error| match error {
        MigrateError::VersionMissing(found) => StoreError::Newer { found, known },
        MigrateError::Execute(source) | MigrateError::ExecuteMigration(source, _) => {
            failed("bring the tables to this version", source)
        }
        other => StoreError::Migrate(other),
    })
}

/// Waits until no other process brings the tables to its version; the turn lasts until the file is closed.
async fn wait_for_turn(path: PathBuf) -> Result<File, StoreError> {
    let turn = path.clone();
    let taken = tokio::task::spawn_blocking(move || {
        let file = open_private(&turn)?;
        file.lock()?;
        Ok(file)
    });
    let taken = taken
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)));
    taken.map_err(|source| StoreError::Lock { path, source })
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
        let writer = open_for_writing(path).await?;
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

    /// The network.
    pub fn network(&self) -> NetworkId {
        self.stamp.network
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

/// One connection that writes. SQLite takes a transaction back by itself when the disk is full, and then knows nothing
/// to roll back; the connection would take itself to be amid a transaction for good, so it is replaced.
async fn connect(path: &Path) -> Result<SqlitePool, StoreError> {
    // SQLite gives its other files to whoever owns this one.
    open_private(path).map_err(|source| StoreError::Make {
        path: path.to_owned(),
        source,
    })?;
    SqlitePoolOptions::new()
        .max_connections(1)
        .before_acquire(|connection, _| Box::pin(async { Ok(!connection.is_in_transaction()) }))
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
    let file = open_private(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::Locked(
            database.parent().unwrap_or(database).to_owned(),
        )),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// Opens a file, made with mode 0600 for the directory's owner when it is missing.
fn open_private(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)?;
    if let Some(directory) = path.parent() {
        give_to_owner_of(directory, &file)?;
    }
    Ok(file)
}

/// The operator's commands run as root, the coordinator as the owner of the directory: root's files in it would be
/// closed to the coordinator, so they are handed over.
pub fn give_to_owner_of(directory: &Path, file: &File) -> io::Result<()> {
    let owner = directory.metadata()?;
    if file.metadata()?.uid() == 0 && owner.uid() != 0 {
        fchown(file, Some(owner.uid()), Some(owner.gid()))?;
    }
    Ok(())
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
