//! What SQLite counted while it ran a statement: its own plan, line by line, with the rows it visited.
//!
//! To count, SQLite reads the processor's clock around every step of a statement, so connections do not count unless a
//! [`Reader`](super::Reader) is told to ([`Reader::measure`](super::Reader::measure)). Finding a statement is linear in
//! the statements that a connection keeps prepared.

use rusqlite::Connection;
use rusqlite::config::DbConfig;

use super::native;

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
    let mut depths: Vec<(i32, usize)> = Vec::new();
    let mut lines = Vec::new();
    for line in native::take_scan(connection, sql).into_iter().filter(|line| !line.text.is_empty()) {
        let depth = depths.iter().find(|(id, _)| *id == line.parent).map_or(0, |(_, depth)| depth + 1);
        depths.push((line.id, depth));
        let (loops, visits) = (u64::try_from(line.loops).ok(), u64::try_from(line.visits).ok());
        lines.push(PlanLine { depth, text: line.text, loops, visits });
    }
    lines
}
