//! Pinned versions and the connections that read them.
//!
//! A pin is a connection inside a read transaction. More connections join it at exactly its version
//! through SQLite's snapshot API. A pin keeps the write-ahead log from being reset, so pins are meant to be
//! brief; one that outlives the log's bound is given up ([`ReplicaError::PinExpired`]) and its holder pins again.
//!
//! SQLite drops a connection's mapping of the file whenever the connection moves to another version, and mapping it again
//! costs as much as reading twenty pages. So connections map the file only for reads of much ([`Reader::read_much`]); what
//! a commit needs is a pin and a few rows.

use std::cell::Cell;
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rusqlite::{Connection, InterruptHandle};
use zql_spec::schema::{Schema, Table};
use zql_spec::value::Value;

use super::codec::RowCodec;
use super::error::ReplicaError;
use super::native;
use super::scan_status::{self, PlanLine};
use super::{Access, Published, Replica};
use crate::commit::{StoredRow, Version};
use crate::sql::{Sql, fits};

/// Idle connections kept between pins: as many as a large machine has reading threads.
const POOL_MAX: usize = 64;

/// Statements kept prepared on a connection: the statements of a few hundred distinct query nodes.
const STATEMENTS_MAX: usize = 256;

/// How much of the file a connection maps into memory for reads of much. What is mapped is read without a copy, and counts as memory of this
/// process once it was: each connection's by itself, though it is one cache of the operating system's for all.
const MAPPED_BYTES: i64 = 256 << 20;

/// How long opening a reader waits for a checkpoint, during which SQLite refuses to open snapshots.
const CHECKPOINT_WAIT: Duration = Duration::from_secs(30);

/// Opens a connection that only reads.
pub(super) fn open_reading(path: &Path, access: Access) -> Result<Connection, ReplicaError> {
    let connection = super::open_connection(path, access)?;
    connection.pragma_update(None, "query_only", true)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.pragma_update(None, "mmap_size", 0)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    // A connection that has never read cannot open a snapshot.
    connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    Ok(connection)
}

/// The version that the connection's transaction reads.
fn version_of(connection: &Connection) -> rusqlite::Result<Version> {
    connection
        .prepare_cached(r#"SELECT stateVersion FROM "_zero.replicationState""#)?
        .query_row([], |row| Ok(Version::from(row.get_ref(0)?.as_str()?)))
}

/// A connection, and whether it maps the file.
struct Pooled {
    connection: Connection,
    mapped: Cell<bool>,
}

impl Pooled {
    fn open(replica: &Replica) -> Result<Pooled, ReplicaError> {
        let connection = open_reading(&replica.path, replica.access)?;
        Ok(Pooled { connection, mapped: Cell::new(false) })
    }

    fn map(&self, map: bool) -> rusqlite::Result<()> {
        if self.mapped.get() != map {
            let bytes = if map { MAPPED_BYTES } else { 0 };
            self.connection.pragma_update(None, "mmap_size", bytes)?;
            self.mapped.set(map);
        }
        Ok(())
    }
}

impl Deref for Pooled {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

/// Connections that are in no transaction.
#[derive(Default)]
pub(super) struct Pool {
    idle: Mutex<Vec<Pooled>>,
}

impl Pool {
    fn take(&self, replica: &Replica) -> Result<Pooled, ReplicaError> {
        match self.idle.lock().pop() {
            Some(connection) => Ok(connection),
            None => Pooled::open(replica),
        }
    }

    fn give(&self, connection: Pooled) {
        // A connection whose transaction does not end is closed instead.
        if connection.execute_batch("ROLLBACK").is_ok() && connection.map(false).is_ok() {
            let mut idle = self.idle.lock();
            if idle.len() < POOL_MAX {
                idle.push(connection);
            }
        }
    }
}

/// One version of the replica, readable as long as this lives. Hold it briefly: it keeps the
/// write-ahead log from being reset.
pub struct Snapshot {
    /// The pinned version.
    pub version: Version,
    /// What queries can see at that version.
    pub schema: Arc<Schema>,
    replica: Arc<Replica>,
    published: Arc<Published>,
    /// Absent when the file is only looked at: SQLite knows no snapshots of a log that is empty.
    handle: Option<native::Snapshot>,
    /// Connections at this version that nobody uses at the moment. Together with the lent ones there is
    /// always at least one, which is the pin.
    idle: Mutex<Vec<Pooled>>,
    interrupts: Mutex<Vec<InterruptHandle>>,
    expired: AtomicBool,
    pub(super) since: Instant,
}

impl Snapshot {
    /// Pins the newest version. The caller keeps the writer from publishing another meanwhile.
    pub(super) fn pin(replica: &Arc<Replica>, published: &Arc<Published>) -> Result<Arc<Snapshot>, ReplicaError> {
        let connection = replica.pool.take(replica)?;
        connection.execute_batch("BEGIN")?;
        let pinned = (|| {
            let version = version_of(&connection)?;
            let handle = match replica.access {
                Access::Serve => Some(native::Snapshot::of(&connection)?),
                Access::Inspect => None,
            };
            Ok::<_, ReplicaError>((version, handle))
        })();
        match pinned {
            Ok((version, handle)) => Ok(Arc::new(Snapshot {
                version,
                schema: Arc::clone(&published.schema),
                replica: Arc::clone(replica),
                published: Arc::clone(published),
                handle,
                interrupts: Mutex::new(vec![connection.get_interrupt_handle()]),
                idle: Mutex::new(vec![connection]),
                expired: AtomicBool::new(false),
                since: Instant::now(),
            })),
            Err(error) => {
                replica.pool.give(connection);
                Err(error)
            }
        }
    }

    /// A pooled connection that reads at exactly this version. For one thread at a time.
    ///
    /// # Errors
    /// [`ReplicaError::PinExpired`] if the version was given up: pin again.
    pub fn reader(self: &Arc<Self>) -> Result<Reader, ReplicaError> {
        if self.expired.load(Ordering::Acquire) {
            return Err(ReplicaError::PinExpired(Arc::clone(&self.version)));
        }
        let idle = self.idle.lock().pop();
        let connection = match idle {
            Some(connection) => connection,
            None => self.join()?,
        };
        Ok(Reader { snapshot: Arc::clone(self), connection: Some(connection), measured: false })
    }

    /// Another connection at this version.
    fn join(&self) -> Result<Pooled, ReplicaError> {
        let connection = self.replica.pool.take(&self.replica)?;
        let deadline = Instant::now() + CHECKPOINT_WAIT;
        let Some(handle) = &self.handle else {
            connection.execute_batch("BEGIN")?;
            if version_of(&connection)? == self.version {
                return Ok(connection);
            }
            self.replica.forget_shared(&self.version);
            return Err(ReplicaError::PinExpired(Arc::clone(&self.version)));
        };
        loop {
            connection.execute_batch("BEGIN")?;
            let error = match handle.open(&connection) {
                Ok(()) => {
                    self.interrupts.lock().push(connection.get_interrupt_handle());
                    return Ok(connection);
                }
                Err(error) => error,
            };
            connection.execute_batch("ROLLBACK")?;
            match error.sqlite_error() {
                Some(sqlite) if sqlite.code == rusqlite::ErrorCode::DatabaseBusy && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                // The log was reset: possible for a version that was wholly in the database file.
                Some(sqlite) if sqlite.extended_code == rusqlite::ffi::SQLITE_ERROR_SNAPSHOT => {
                    self.replica.forget_shared(&self.version);
                    return Err(ReplicaError::PinExpired(Arc::clone(&self.version)));
                }
                _ => return Err(error.into()),
            }
        }
    }

    /// The codec for rows of a table at this version.
    pub fn codec<'t>(&'t self, table: &'t Table) -> RowCodec<'t> {
        RowCodec::new(table, self.published.catalogue.min_versions.get(&table.name))
    }

    /// Which statistics of the replica can be read: a greater number, and plans are chosen anew.
    pub fn statistics(&self) -> u64 {
        self.published.statistics
    }

    /// Whether the version was given up.
    pub fn is_expired(&self) -> bool {
        self.expired.load(Ordering::Acquire)
    }

    /// Gives the version up: running statements are interrupted, no reader is opened any more.
    pub(super) fn expire(&self) {
        self.expired.store(true, Ordering::Release);
        for interrupt in &*self.interrupts.lock() {
            interrupt.interrupt();
        }
        // Idle connections hold the log for nothing.
        let idle = std::mem::take(&mut *self.idle.lock());
        for connection in idle {
            self.replica.pool.give(connection);
        }
    }
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot").field("version", &self.version).finish_non_exhaustive()
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        for connection in self.idle.get_mut().drain(..) {
            self.replica.pool.give(connection);
        }
        self.replica.pins.released();
    }
}

/// A connection inside a read transaction at the snapshot's version. Goes back to the snapshot when dropped.
pub struct Reader {
    snapshot: Arc<Snapshot>,
    /// Present until dropped.
    connection: Option<Pooled>,
    measured: bool,
}

impl Reader {
    /// The version read.
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// Says that many pages of the file will be read: from now on they come straight from the page cache of the operating
    /// system, until the version is let go. Where that cannot be had they are read as before.
    pub fn read_much(&self) {
        if let Some(Err(error)) = self.connection.as_ref().map(|connection| connection.map(true)) {
            tracing::debug!(%error, "the replica is read without mapping it");
        }
    }

    /// Runs a node's SELECT and decodes its rows. `lookup` holds a value for each of [`Sql::lookup`] and
    /// `columns` the columns they stand for: a null, or a value of another type than its column's, finds nothing.
    pub fn rows(
        &self,
        sql: &Sql,
        table: &Arc<Table>,
        columns: &[usize],
        lookup: &[Value],
        found: &mut dyn FnMut(Arc<StoredRow>),
    ) -> Result<(), ReplicaError> {
        let mistyped = |(&column, value): (&usize, &Value)| !fits(table.columns[column].value_type, value);
        if columns.iter().zip(lookup).any(mistyped) {
            return Ok(());
        }
        let codec = self.snapshot.codec(table);
        let mut statement = self.prepare_cached(&sql.text)?;
        sql.bind_to(&mut statement, lookup)?;
        let mut rows = statement.raw_query();
        while let Some(row) = rows.next().map_err(|error| self.error(error))? {
            found(codec.decode(row, 0)?);
        }
        Ok(())
    }

    /// Counts from now on what statements visit; [`Reader::plan`] tells. For explaining: it slows them down.
    pub fn measure(&mut self) -> Result<(), ReplicaError> {
        self.measured = true;
        Ok(scan_status::count(self, true)?)
    }

    /// SQLite's plan for a statement that is prepared, with what was counted since it was last asked for.
    pub fn plan(&self, sql: &str) -> Vec<PlanLine> {
        scan_status::take(self, sql)
    }

    /// An error of this connection: an interruption means that the pin was given up.
    pub fn error(&self, error: rusqlite::Error) -> ReplicaError {
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::OperationInterrupted) if self.snapshot.is_expired() => {
                ReplicaError::PinExpired(Arc::clone(&self.snapshot.version))
            }
            _ => ReplicaError::Sqlite(error),
        }
    }
}

impl Deref for Reader {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.connection.as_ref().expect("a reader has its connection until it is dropped")
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        if self.measured && scan_status::count(&connection, false).is_err() {
            // It would go on counting; a new one is opened in its place.
            return;
        }
        let mut idle = self.snapshot.idle.lock();
        // Checked under the lock that `expire` empties the list under.
        if self.snapshot.is_expired() {
            drop(idle);
            self.snapshot.replica.pool.give(connection);
        } else {
            idle.push(connection);
        }
    }
}
