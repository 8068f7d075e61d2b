//! What SQLite counted while it ran a statement: its own plan, line by line, with the rows it visited.
//!
//! To count, SQLite reads the processor's clock around every step of a statement, so connections do not count unless a
//! [`Reader`](super::Reader) is told to ([`Reader::measure`](super::Reader::measure)). SQLite gives the counters through an
//! interface that rusqlite does not wrap: the second and last place of the workspace with unsafe code, and
//! all of it reads. Finding a statement is linear in the statements that a connection keeps prepared.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ffi};

/// A line of SQLite's plan for a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanLine {
    /// How deep it stands below the outermost lines.
    pub depth: usize,
    /// The text, as `EXPLAIN QUERY PLAN` gives it.
    pub text: String,
    /// How often the loop was started, if it is one and was counted.
    pub loops: Option<u64>,
    /// Rows that the loop visited, those it rejected among them.
    pub visits: Option<u64>,
}

/// Makes a connection count, or not. Statements that were prepared before are prepared again.
pub(super) fn count(connection: &Connection, on: bool) -> rusqlite::Result<()> {
    connection.flush_prepared_statement_cache();
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_STMT_SCANSTATUS, on).map(|_| ())
}

/// The plan of a statement that the connection has prepared, with what was counted since it was last taken.
/// Empty if there is no such statement or nothing is counted.
pub(super) fn take(connection: &Connection, sql: &str) -> Vec<PlanLine> {
    let Some(statement) = find(connection, sql) else { return Vec::new() };
    let mut ids: Vec<(c_int, usize)> = Vec::new();
    let mut lines = Vec::new();
    for index in 0.. {
        let mut text: *const c_char = ptr::null();
        if !read(statement, index, ffi::SQLITE_SCANSTAT_EXPLAIN, &mut text) {
            break;
        }
        let (mut id, mut parent): (c_int, c_int) = (0, 0);
        read(statement, index, ffi::SQLITE_SCANSTAT_SELECTID, &mut id);
        read(statement, index, ffi::SQLITE_SCANSTAT_PARENTID, &mut parent);
        let (mut loops, mut visits): (i64, i64) = (-1, -1);
        read(statement, index, ffi::SQLITE_SCANSTAT_NLOOP, &mut loops);
        read(statement, index, ffi::SQLITE_SCANSTAT_NVISIT, &mut visits);
        if text.is_null() {
            continue;
        }
        let depth = ids.iter().find(|(other, _)| *other == parent).map_or(0, |(_, depth)| depth + 1);
        ids.push((id, depth));
        // SAFETY: SQLite gave a NUL-terminated text that lives as long as the statement, which the connection
        // keeps while it is borrowed; it is copied here.
        let text = unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned();
        lines.push(PlanLine { depth, text, loops: u64::try_from(loops).ok(), visits: u64::try_from(visits).ok() });
    }
    // SAFETY: the statement is alive, see `find`.
    unsafe { ffi::sqlite3_stmt_scanstatus_reset(statement) };
    lines
}

/// The connection's prepared statement with this text. It lives at least until the connection, which only this thread
/// uses, prepares or finalises another one: not before the caller of [`take`] goes on.
fn find(connection: &Connection, sql: &str) -> Option<*mut ffi::sqlite3_stmt> {
    let mut statement = ptr::null_mut();
    loop {
        // SAFETY: the connection is open while it is borrowed and used by this thread alone; the statement is null
        // or one of its own.
        statement = unsafe { ffi::sqlite3_next_stmt(connection.handle(), statement) };
        if statement.is_null() {
            return None;
        }
        // SAFETY: the statement is alive, and so is its text while it is.
        let text = unsafe { ffi::sqlite3_sql(statement) };
        // SAFETY: as above; the text is NUL-terminated.
        if !text.is_null() && unsafe { CStr::from_ptr(text) }.to_bytes() == sql.as_bytes() {
            return Some(statement);
        }
    }
}

/// Reads one figure of one line; false past the last line. `T` is what SQLite documents for `what`.
fn read<T>(statement: *mut ffi::sqlite3_stmt, index: c_int, what: c_int, into: &mut T) -> bool {
    let out: *mut T = into;
    // SAFETY: the statement is alive, see `find`; `out` points to a value of the type that SQLite writes for `what`.
    let code = unsafe {
        ffi::sqlite3_stmt_scanstatus_v2(statement, index, what, ffi::SQLITE_SCANSTAT_COMPLEX, out.cast::<c_void>())
    };
    code == 0
}
