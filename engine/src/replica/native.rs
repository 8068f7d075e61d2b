//! SQLite's C interface where rusqlite does not wrap it: snapshots and scan statistics.
//!
//! All unsafe code of the workspace is here. What leaves this module owns its memory: a [`Snapshot`] what SQLite gave,
//! a [`ScanLine`] a copy. It must not know what versions or plans are. Costs are SQLite's own, but for [`take_scan`],
//! which is linear in the statements that a connection keeps prepared.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::{self, NonNull};

use rusqlite::{Connection, ffi};

/// SQLite's own description of a version: which frames of the log are part of it.
pub(super) struct Snapshot(NonNull<ffi::sqlite3_snapshot>);

// SAFETY: the object is a plain copy of the log's header; SQLite never changes it after
// sqlite3_snapshot_get and only reads it in sqlite3_snapshot_open, from any thread.
unsafe impl Send for Snapshot {}
// SAFETY: as above; all use after creation is read-only.
unsafe impl Sync for Snapshot {}

impl Drop for Snapshot {
    fn drop(&mut self) {
        // SAFETY: the pointer came from sqlite3_snapshot_get and is freed once, here.
        unsafe { ffi::sqlite3_snapshot_free(self.0.as_ptr()) }
    }
}

impl Snapshot {
    /// The snapshot of the connection's open read transaction.
    pub(super) fn of(connection: &Connection) -> rusqlite::Result<Snapshot> {
        let mut snapshot = ptr::null_mut();
        // SAFETY: the handle is valid while the connection is borrowed and used by this thread alone; the
        // name is a NUL-terminated constant; the out pointer is checked below.
        let code = unsafe { ffi::sqlite3_snapshot_get(connection.handle(), c"main".as_ptr(), &mut snapshot) };
        match NonNull::new(snapshot) {
            Some(snapshot) if code == ffi::SQLITE_OK => Ok(Snapshot(snapshot)),
            _ => Err(rusqlite::Error::SqliteFailure(ffi::Error::new(code), Some("sqlite3_snapshot_get".to_owned()))),
        }
    }

    /// Starts a read transaction at the snapshot on a connection that has begun one and not read yet.
    pub(super) fn open(&self, connection: &Connection) -> rusqlite::Result<()> {
        // SAFETY: the connection's handle is valid while borrowed and used by this thread alone; the
        // snapshot is alive for as long as `self` is borrowed.
        let code = unsafe { ffi::sqlite3_snapshot_open(connection.handle(), c"main".as_ptr(), self.0.as_ptr()) };
        if code == ffi::SQLITE_OK { Ok(()) } else { Err(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)) }
    }
}

/// A statement that a connection keeps prepared. It is alive while the connection, which only this thread uses,
/// prepares and finalises no other, so it does not leave this module.
struct Statement<'c> {
    statement: NonNull<ffi::sqlite3_stmt>,
    _connection: &'c Connection,
}

/// What SQLite tells of one line of a statement's plan. Figures that it did not count are negative.
pub(super) struct ScanLine {
    pub(super) id: i32,
    pub(super) parent: i32,
    pub(super) text: String,
    pub(super) loops: i64,
    pub(super) visits: i64,
}

/// The plan of the connection's prepared statement with this text, with what was counted since it was last taken. Empty
/// if there is no such statement or nothing is counted.
pub(super) fn take_scan(connection: &Connection, sql: &str) -> Vec<ScanLine> {
    let Some(statement) = Statement::find(connection, sql) else { return Vec::new() };
    let lines = (0..).map_while(|index| statement.scan_line(index)).collect();
    statement.reset_scan();
    lines
}

impl<'c> Statement<'c> {
    /// The connection's prepared statement with this text.
    fn find(connection: &'c Connection, sql: &str) -> Option<Statement<'c>> {
        let mut next = ptr::null_mut();
        loop {
            // SAFETY: the connection is open while it is borrowed and used by this thread alone; the statement is null
            // or one of its own.
            next = unsafe { ffi::sqlite3_next_stmt(connection.handle(), next) };
            let statement = NonNull::new(next)?;
            // SAFETY: the statement is alive, and so is its text while it is.
            let text = unsafe { ffi::sqlite3_sql(next) };
            // SAFETY: as above; the text is NUL-terminated.
            if !text.is_null() && unsafe { CStr::from_ptr(text) }.to_bytes() == sql.as_bytes() {
                return Some(Statement { statement, _connection: connection });
            }
        }
    }

    /// A line of the statement's plan with what was counted; none past the last line.
    fn scan_line(&self, index: c_int) -> Option<ScanLine> {
        let mut text: *const c_char = ptr::null();
        if !self.figure(index, ffi::SQLITE_SCANSTAT_EXPLAIN, &mut text) {
            return None;
        }
        let (mut id, mut parent): (c_int, c_int) = (0, 0);
        self.figure(index, ffi::SQLITE_SCANSTAT_SELECTID, &mut id);
        self.figure(index, ffi::SQLITE_SCANSTAT_PARENTID, &mut parent);
        let (mut loops, mut visits): (i64, i64) = (-1, -1);
        self.figure(index, ffi::SQLITE_SCANSTAT_NLOOP, &mut loops);
        self.figure(index, ffi::SQLITE_SCANSTAT_NVISIT, &mut visits);
        let text = if text.is_null() {
            String::new()
        } else {
            // SAFETY: SQLite gave a NUL-terminated text that lives as long as the statement; it is copied here.
            unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
        };
        Some(ScanLine { id, parent, text, loops, visits })
    }

    /// Begins counting anew.
    fn reset_scan(&self) {
        // SAFETY: the statement is alive, see the type.
        unsafe { ffi::sqlite3_stmt_scanstatus_reset(self.statement.as_ptr()) }
    }

    /// Reads one figure of one line; false past the last line. `T` is what SQLite documents for `what`.
    fn figure<T>(&self, index: c_int, what: c_int, into: &mut T) -> bool {
        let out = ptr::from_mut(into).cast::<c_void>();
        let statement = self.statement.as_ptr();
        // SAFETY: the statement is alive, see the type; `out` points to a value of the type that SQLite writes for
        // `what`.
        let code =
            unsafe { ffi::sqlite3_stmt_scanstatus_v2(statement, index, what, ffi::SQLITE_SCANSTAT_COMPLEX, out) };
        code == ffi::SQLITE_OK
    }
}
