//! The replica: Postgres's published tables in one SQLite file.
//!
//! One [`Writer`] applies upstream transactions and hands out what each changed as a
//! [`Commit`](crate::commit::Commit); any number of [`Reader`]s read exactly one version, pinned by a
//! [`Snapshot`]. [`InitialLoad`] makes the file: it appears under its name only when it is complete.
//! Layout and declared types are those of the reference server's replica in plain WAL mode, so every
//! SQLite tool opens it.
//!
//! It must not know Postgres: values arrive as SQLite storage values. Cost of a write grows with the
//! row and the table's indexes, never with the number of readers or queries.
//!
//! # The write-ahead log
//!
//! Checkpoints run on a thread of their own, beside the writer. The log can only begin anew when nothing
//! is pinned. The writer looks for such a moment once the log is long, and makes one, by holding new
//! pins back and giving up old ones, once it is too long.

mod adopt;
mod catalogue;
mod changelog;
mod codec;
mod ddl;
mod displace;
mod error;
mod images;
mod load;
mod native;
mod pins;
mod relation;
mod scan_status;
mod snapshot;
mod spec;
mod statistics;
#[cfg(test)]
mod tests;
mod track;
mod wal;
mod writer;

pub use codec::{CurrentRow, RowCodec};
pub use error::ReplicaError;
pub use load::{InitialLoad, LoadTable};
pub use rusqlite::types::Value as SqliteValue;
pub use scan_status::PlanLine;
pub use snapshot::{Reader, Snapshot};
pub use spec::{ColumnSpec, IndexSpec, TableSpec};
pub use statistics::{places, sampled_rows};
pub use writer::{Relation, Tx, Writer};

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, SyncSender};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use zql_spec::schema::Schema;

use crate::commit::Version;
use catalogue::Catalogue;
use pins::Pins;
use snapshot::Pool;

/// The column that holds the version at which a row was last written.
pub const VERSION_COLUMN: &str = "_0_version";

/// How long SQLite waits for another process's lock (a backup tool's, say) before it gives up.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);

/// Where the replica stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaState {
    /// The version of the initial sync: the lineage of the file.
    pub replica_version: Version,
    /// The last version applied.
    pub state_version: Version,
    /// The publications it mirrors, sorted.
    pub publications: Vec<String>,
}

/// What an initial sync is about.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The version of the copied snapshot.
    pub replica_version: String,
    /// The publications that are mirrored.
    pub publications: Vec<String>,
    /// JSON remembered as `initialSyncContext`; `{}` for none.
    pub context: String,
}

/// Sizes for operators to watch.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReplicaMetrics {
    /// Bytes of the database file.
    pub file_bytes: u64,
    /// Bytes of the write-ahead log file. It keeps its largest size; see `wal_pages`.
    pub wal_bytes: u64,
    /// Pages of the log in use after the last commit.
    pub wal_pages: u64,
    /// Versions that are pinned now.
    pub pinned: usize,
    /// How long the oldest pin has been held.
    pub oldest_pin: Duration,
}

/// The newest version, as readers see it.
#[derive(Clone)]
struct Published {
    version: Version,
    schema: Arc<Schema>,
    catalogue: Arc<Catalogue>,
    /// Which statistics there are: a greater number than those before.
    statistics: u64,
}

/// What is done with a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    /// It is read at pinned versions and written.
    Serve,
    /// It is looked at. The file belongs to somebody else, and nothing in it is changed.
    Inspect,
}

/// An open, complete replica.
pub struct Replica {
    path: PathBuf,
    replica_version: Version,
    publications: Vec<String>,
    access: Access,
    /// Replaced while the writer commits, so that a pin always meets the schema of its version.
    published: RwLock<Arc<Published>>,
    /// The newest pin, for others to share.
    shared: Mutex<Weak<Snapshot>>,
    pool: Pool,
    pins: Pins,
    writer_taken: AtomicBool,
    wal_pages: Arc<AtomicU64>,
    /// The write-ahead log, for making commits durable without the writer.
    wal: Mutex<Option<File>>,
    checkpoint: SyncSender<()>,
}

impl Replica {
    /// Opens a replica. `None` if there is no complete one under this path.
    ///
    /// # Errors
    /// SQLite and file errors; a damaged file is an error for which [`ReplicaError::is_corruption`] holds.
    pub fn open(path: &Path) -> Result<Option<Arc<Replica>>, ReplicaError> {
        if !path.try_exists()? || std::fs::metadata(path)?.len() == 0 {
            return Ok(None);
        }
        adopt::adopt(path)?;
        let connection = open_connection(path, Access::Serve)?;
        let Some(state) = state_of(&connection, path)? else { return Ok(None) };
        let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
        if mode != "wal" {
            return Err(ReplicaError::Mismatch(format!("the replica's journal mode stays {mode}")));
        }
        touch(&connection)?;
        let catalogue = Catalogue::read(&connection)?;
        let (checkpoint, wanted) = mpsc::sync_channel(1);
        // This connection lives as long as the replica: SQLite deletes the log with the last one.
        std::thread::Builder::new().name("checkpoint".to_owned()).spawn(move || {
            while wanted.recv().is_ok() {
                // Busy is no failure: the next signal tries again.
                if let Err(error) = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())) {
                    tracing::warn!(%error, "checkpoint failed");
                }
            }
        })?;
        Ok(Some(Replica::new(path, Access::Serve, state, catalogue, checkpoint)))
    }

    /// Opens a replica that another process may be serving, to read it. The file is not changed, there is no
    /// writer, and pins read the version that is newest when each of their connections begins: one that meets
    /// another version than its pin's fails with [`ReplicaError::PinExpired`].
    ///
    /// # Errors
    /// As [`Replica::open`].
    pub fn inspect(path: &Path) -> Result<Option<Arc<Replica>>, ReplicaError> {
        if !path.try_exists()? || std::fs::metadata(path)?.len() == 0 {
            return Ok(None);
        }
        let connection = open_connection(path, Access::Inspect)?;
        let Some(state) = state_of(&connection, path)? else { return Ok(None) };
        let catalogue = Catalogue::read(&connection)?;
        let (checkpoint, _) = mpsc::sync_channel(1);
        Ok(Some(Replica::new(path, Access::Inspect, state, catalogue, checkpoint)))
    }

    fn new(
        path: &Path,
        access: Access,
        state: ReplicaState,
        catalogue: Catalogue,
        checkpoint: SyncSender<()>,
    ) -> Arc<Replica> {
        let published = Published {
            version: state.state_version,
            schema: Arc::new(catalogue.schema()),
            catalogue: Arc::new(catalogue),
            statistics: statistics::next(),
        };
        Arc::new(Replica {
            path: path.to_owned(),
            replica_version: state.replica_version,
            publications: state.publications,
            access,
            published: RwLock::new(Arc::new(published)),
            shared: Mutex::new(Weak::new()),
            pool: Pool::default(),
            pins: Pins::default(),
            writer_taken: AtomicBool::new(access == Access::Inspect),
            wal_pages: Arc::new(AtomicU64::new(0)),
            wal: Mutex::new(None),
            checkpoint,
        })
    }

    /// Begins an initial sync. An existing replica stays until [`InitialLoad::finish`] replaces it.
    pub fn create(path: &Path, origin: &Origin) -> Result<InitialLoad, ReplicaError> {
        InitialLoad::begin(path, origin)
    }

    /// Deletes a replica and everything beside it.
    pub fn delete(path: &Path) -> Result<(), ReplicaError> {
        delete_family(&beside(path, "-loading"))?;
        delete_family(path)
    }

    /// What queries can see at the newest version.
    pub fn schema(&self) -> Arc<Schema> {
        Arc::clone(&self.published.read().schema)
    }

    /// Where the replica stands.
    pub fn state(&self) -> ReplicaState {
        ReplicaState {
            replica_version: Arc::clone(&self.replica_version),
            state_version: Arc::clone(&self.published.read().version),
            publications: self.publications.clone(),
        }
    }

    /// All replicated tables as declared, visible or not: what the change source compares upstream's with.
    pub fn tables(&self) -> Vec<TableSpec> {
        self.published.read().catalogue.tables.clone()
    }

    /// All mirrored indexes.
    pub fn indexes(&self) -> Vec<IndexSpec> {
        self.published.read().catalogue.indexes.clone()
    }

    /// The writer. There is one: a second is refused until the first is dropped.
    pub fn writer(self: &Arc<Self>) -> Result<Writer, ReplicaError> {
        if self.writer_taken.swap(true, Ordering::AcqRel) {
            return Err(ReplicaError::WriterTaken);
        }
        Writer::open(self).inspect_err(|_| self.writer_taken.store(false, Ordering::Release))
    }

    /// Pins the newest version. Pins of one version share it.
    ///
    /// Blocks while the log is being reset. A thread must not wait here while it holds an older pin
    /// that nobody else will drop.
    pub fn pin(self: &Arc<Self>) -> Result<Arc<Snapshot>, ReplicaError> {
        let _gate = self.pins.enter();
        let published = self.published.read();
        let mut shared = self.shared.lock();
        if let Some(snapshot) = shared.upgrade()
            && snapshot.version == published.version
            && snapshot.statistics() == published.statistics
            && !snapshot.is_expired()
        {
            return Ok(snapshot);
        }
        let snapshot = Snapshot::pin(self, &published)?;
        debug_assert_eq!(snapshot.version, published.version, "the file is at the published version");
        self.pins.add(&snapshot);
        *shared = Arc::downgrade(&snapshot);
        Ok(snapshot)
    }

    /// Forces all commits so far to disk and gives the newest version that is then safe from power loss:
    /// what may be acknowledged upstream. Does not block the writer. (Every commit survives the death
    /// of the process without it.)
    pub fn make_durable(&self) -> Result<Version, ReplicaError> {
        let version = Arc::clone(&self.published.read().version);
        let mut wal = self.wal.lock();
        // SQLite keeps the file for as long as a connection is open, so the handle stays the right one.
        // It holds no lock on this file that closing ours could drop.
        let file = match &mut *wal {
            Some(file) => file,
            none => none.insert(File::open(beside(&self.path, "-wal"))?),
        };
        file.sync_data()?;
        Ok(version)
    }

    /// Writes the newest version to a file of its own, which must not exist. It is as large as the rows are.
    pub fn copy_to(&self, path: &Path) -> Result<(), ReplicaError> {
        let Some(target) = path.to_str() else {
            return Err(ReplicaError::Mismatch("a copy's path must be UTF-8".to_owned()));
        };
        open_connection(&self.path, self.access)?.execute("VACUUM INTO ?1", [target])?;
        Ok(())
    }

    /// What SQLite says of the file, by the names under which zero-cache tells it; numbers and words as text.
    pub fn file_facts(&self) -> Result<Vec<(&'static str, String)>, ReplicaError> {
        let connection = snapshot::open_reading(&self.path, self.access)?;
        let facts = [
            ("page count", "page_count"),
            ("page size", "page_size"),
            ("journal mode", "journal_mode"),
            ("synchronous", "synchronous"),
            ("cache size", "cache_size"),
            ("auto vacuum", "auto_vacuum"),
            ("freelist count", "freelist_count"),
            ("wal autocheckpoint", "wal_autocheckpoint"),
        ];
        let fact = |(name, pragma): (&'static str, &str)| {
            let value = connection.pragma_query_value(None, pragma, |row| row.get::<_, rusqlite::types::Value>(0))?;
            let text = match value {
                rusqlite::types::Value::Integer(number) => number.to_string(),
                rusqlite::types::Value::Text(text) => text,
                other => format!("{other:?}"),
            };
            Ok((name, text))
        };
        facts.into_iter().map(fact).collect()
    }

    /// Entries of the reference's change log.
    pub fn change_log_size(&self) -> Result<i64, ReplicaError> {
        let connection = snapshot::open_reading(&self.path, self.access)?;
        Ok(connection.query_row(r#"SELECT count(*) FROM "_zero.changeLog2""#, [], |row| row.get(0))?)
    }

    /// Sizes for operators to watch.
    pub fn metrics(&self) -> ReplicaMetrics {
        let size = |path: &Path| std::fs::metadata(path).map_or(0, |metadata| metadata.len());
        let (pinned, oldest_pin) = self.pins.measure();
        ReplicaMetrics {
            file_bytes: size(&self.path),
            wal_bytes: size(&beside(&self.path, "-wal")),
            wal_pages: self.wal_pages.load(Ordering::Relaxed),
            pinned,
            oldest_pin,
        }
    }

    /// Lets the next pin be a new one.
    fn forget_shared(&self, version: &Version) {
        let mut shared = self.shared.lock();
        if shared.upgrade().is_some_and(|snapshot| snapshot.version == *version) {
            *shared = Weak::new();
        }
    }
}

impl std::fmt::Debug for Replica {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replica").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Where a file stands; `None` if it is no complete replica.
fn state_of(connection: &Connection, path: &Path) -> Result<Option<ReplicaState>, ReplicaError> {
    match catalogue::read_state(connection) {
        // Also what SQLite says about a reference server's file with its logs beside it.
        Err(error) if error.is_corruption() => {
            tracing::warn!(path = %path.display(), %error, "not a replica that can be opened");
            Ok(None)
        }
        state => state,
    }
}

/// A connection to a replica file, which must exist.
fn open_connection(path: &Path, access: Access) -> Result<Connection, ReplicaError> {
    let mode = match access {
        Access::Serve => OpenFlags::SQLITE_OPEN_READ_WRITE,
        Access::Inspect => OpenFlags::SQLITE_OPEN_READ_ONLY,
    };
    // Without a log nobody has the file open, and SQLite would leave one behind beside a file that is only read.
    let alone = access == Access::Inspect && !beside(path, "-wal").exists();
    let uri = alone.then(|| immutable_uri(path)).flatten();
    let connection = match uri {
        Some(uri) => {
            Connection::open_with_flags(uri, mode | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI)?
        }
        None => Connection::open_with_flags(path, mode | OpenFlags::SQLITE_OPEN_NO_MUTEX)?,
    };
    connection.busy_timeout(BUSY_TIMEOUT)?;
    if access == Access::Serve {
        connection.pragma_update(None, "wal_autocheckpoint", 0)?;
        connection.pragma_update(None, "synchronous", "NORMAL")?;
    }
    // On by default in a build that can count; only `zql explain` and the inspector want to know.
    scan_status::count(&connection, false)?;
    // With STAT4, SQLite prepares a statement again whenever a value that its plan looked at is bound anew:
    // 8 µs for a probe that takes 2. A statement here is prepared once and probed with many keys.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    crate::sql::functions::register(&connection)?;
    Ok(connection)
}

/// The name by which SQLite opens a file without looking for a log; none for paths that are not UTF-8.
fn immutable_uri(path: &Path) -> Option<String> {
    let mut uri = String::from("file:");
    for c in path.to_str()?.chars() {
        match c {
            '%' => uri.push_str("%25"),
            '?' => uri.push_str("%3f"),
            '#' => uri.push_str("%23"),
            c => uri.push(c),
        }
    }
    uri.push_str("?immutable=1");
    Some(uri)
}

/// Writes something that means nothing: snapshots need a log that has been written to, and SQLite does
/// not write a page whose content stays.
fn touch(connection: &Connection) -> Result<(), ReplicaError> {
    connection.execute(r#"UPDATE "_zero.replicationState" SET writeTimeMs = coalesce(writeTimeMs, 0) + 1"#, [])?;
    Ok(())
}

/// The path with something appended to its last part.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Removes a database file and all that SQLite puts beside it.
fn delete_family(path: &Path) -> Result<(), ReplicaError> {
    for suffix in ["-wal", "-wal2", "-shm", "-journal", ""] {
        match std::fs::remove_file(beside(path, suffix)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}
