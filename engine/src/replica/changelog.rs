//! `_zero.changeLog2`: the latest change of every row, as the reference server and tools read it.
//!
//! This server does not read it: commits carry what changed. So it is written behind them: the rows of small commits wait
//! in memory until there are enough for their pages to be worth writing, there is nothing else to write, or the writer ends.
//! A commit of very many rows is one entry that tells readers to start over, as they would after a truncate. That an earlier
//! process was killed before it wrote its last rows is told in the same way, so a reader never misses a change.
//!
//! The table grows to one entry for each row ever touched; what waits is bounded by [`ROWS_WAITING`].

use std::fmt::Write;
use std::sync::Arc;

use rusqlite::{Connection, params};
use rustc_hash::FxHashMap;
use zql_spec::json::write_string;
use zql_spec::schema::{Schema, Table};
use zql_spec::value::Value;

use super::error::ReplicaError;
use crate::commit::{Commit, Key, Version};

/// Rows that wait: writing them takes half a millisecond, which one commit in so many then takes longer. Their entries
/// share a few pages, where each by itself would write three.
pub(super) const ROWS_WAITING: usize = 128;

/// Rows of one commit that are logged. Readers take one after the other of those; from so many on it costs them no more to
/// start over, and writing the entries costs as much as the rows.
pub(super) const ROWS_LOGGED_MAX: usize = 10_000;

/// The log, and the rows that it does not have yet.
pub(super) struct ChangeLog {
    waiting: FxHashMap<(Arc<str>, Key), Entry>,
}

/// The latest change of a row.
#[derive(Clone, Debug)]
struct Entry {
    version: Version,
    position: i64,
    set: bool,
}

/// What a commit did to the log in its transaction; it holds once the transaction is committed.
#[must_use]
pub(super) enum Written {
    /// Nothing: its rows are to wait.
    Nothing,
    /// All that waited and its own.
    Everything,
}

impl ChangeLog {
    /// The log of a replica at a version. Entries that a process before this one did not come to write are made up for.
    pub(super) fn open(connection: &Connection, initial: &str, version: &str) -> Result<ChangeLog, ReplicaError> {
        let newest: Option<String> =
            connection.query_row(r#"SELECT max(stateVersion) FROM "_zero.changeLog2""#, [], |row| row.get(0))?;
        if version != initial && newest.is_none_or(|newest| *newest < *version) {
            start_over(connection, version, "", "r")?;
        }
        Ok(ChangeLog { waiting: FxHashMap::default() })
    }

    /// Writes what is due into the transaction of a commit.
    pub(super) fn write(
        &self,
        connection: &Connection,
        schema: &Schema,
        commit: &Commit,
    ) -> Result<Written, ReplicaError> {
        if let Some((table, op)) = table_wide(commit) {
            // Readers start over for any table-wide entry, so one covers all that waits.
            start_over(connection, &commit.version, table, op)?;
            return Ok(Written::Everything);
        }
        let rows = commit.row_count();
        if rows > 0 && self.waiting.len() + rows <= ROWS_WAITING {
            return Ok(Written::Nothing);
        }
        let waiting = self.waiting.iter().map(|((table, key), entry)| (table, key, entry.clone()));
        write_entries(connection, schema, waiting.chain(entries_of(commit)))?;
        Ok(Written::Everything)
    }

    /// The transaction is committed.
    pub(super) fn committed(&mut self, commit: &Commit, written: Written) {
        match written {
            Written::Everything => self.waiting.clear(),
            Written::Nothing => {
                let own = entries_of(commit).map(|(table, key, entry)| ((Arc::clone(table), key.clone()), entry));
                self.waiting.extend(own);
            }
        }
    }

    /// Writes all that waits.
    pub(super) fn finish(&mut self, connection: &Connection, schema: &Schema) -> Result<(), ReplicaError> {
        let waiting = self.waiting.drain().collect::<Vec<_>>();
        if waiting.is_empty() {
            return Ok(());
        }
        connection.execute_batch("BEGIN IMMEDIATE")?;
        let entries = waiting.iter().map(|((table, key), entry)| (table, key, entry.clone()));
        let written = write_entries(connection, schema, entries);
        connection.execute_batch(if written.is_ok() { "COMMIT" } else { "ROLLBACK" })?;
        written
    }
}

/// The rows of a commit.
fn entries_of(commit: &Commit) -> impl Iterator<Item = (&Arc<str>, &Key, Entry)> {
    let rows = commit.tables.iter().flat_map(|(name, delta)| delta.rows.iter().map(move |(key, row)| (name, key, row)));
    rows.zip(0..).map(|((name, key, row), position)| {
        (name, key, Entry { version: Arc::clone(&commit.version), position, set: row.new.is_some() })
    })
}

/// The table and kind of an entry that tells readers of a commit to start over.
fn table_wide(commit: &Commit) -> Option<(&str, &'static str)> {
    let large = || commit.tables.iter().find(|(_, delta)| delta.rows.len() > ROWS_LOGGED_MAX).map(|(name, _)| name);
    let truncated = commit.rewritten.iter().next().or_else(large).map(|table| (&**table, "t"));
    truncated.or_else(|| commit.schema_changed.then_some(("", "r")))
}

const REPLACE: &str =
    r#"INSERT OR REPLACE INTO "_zero.changeLog2" (stateVersion, pos, "table", rowKey, op) VALUES (?, ?, ?, ?, ?)"#;

fn start_over(connection: &Connection, version: &str, table: &str, op: &str) -> Result<(), ReplicaError> {
    connection.prepare_cached(REPLACE)?.execute(params![version, -1, table, version, op])?;
    Ok(())
}

fn write_entries<'e>(
    connection: &Connection,
    schema: &Schema,
    entries: impl Iterator<Item = (&'e Arc<str>, &'e Key, Entry)>,
) -> Result<(), ReplicaError> {
    let mut names: FxHashMap<&Arc<str>, Vec<(String, usize)>> = FxHashMap::default();
    let mut lines: Vec<(&Arc<str>, String, Entry)> = Vec::with_capacity(entries.size_hint().0);
    for (name, key, entry) in entries {
        let Some(table) = schema.table(name) else { continue };
        let mut text = String::with_capacity(32);
        write_key(&mut text, names.entry(name).or_insert_with(|| key_by_name(table)), key);
        lines.push((name, text, entry));
    }
    if lines.is_empty() {
        return Ok(());
    }
    // In the order of the index over keys, so that its pages are written one after the other; of one row the latest last.
    lines.sort_unstable_by(|(a, x, one), (b, y, other)| (a, x, &one.version).cmp(&(b, y, &other.version)));
    let mut replace = connection.prepare_cached(REPLACE)?;
    for (name, key, entry) in lines {
        let op = if entry.set { "s" } else { "d" };
        replace.execute(params![&*entry.version, entry.position, &**name, key, op])?;
    }
    Ok(())
}

/// The key's columns as JSON member prefixes with their positions in the key, sorted by name.
fn key_by_name(table: &Table) -> Vec<(String, usize)> {
    let mut names: Vec<(&str, usize)> = table
        .primary_key
        .iter()
        .enumerate()
        .map(|(position, &column)| (&*table.columns[column].name, position))
        .collect();
    names.sort_unstable();
    names
        .into_iter()
        .map(|(name, position)| {
            let mut prefix = String::new();
            write_string(name, &mut prefix);
            prefix.push(':');
            (prefix, position)
        })
        .collect()
}

fn write_key(text: &mut String, names: &[(String, usize)], key: &Key) {
    text.push('{');
    for (name, position) in names {
        if text.len() > 1 {
            text.push(',');
        }
        text.push_str(name);
        match &key[*position] {
            Value::Null => text.push_str("null"),
            Value::Bool(bool) => text.push(if *bool { '1' } else { '0' }),
            Value::Number(number) if number.fract() == 0.0 && number.abs() < 9e15 => {
                let _ = write!(text, "{}", *number as i64);
            }
            Value::Number(number) => text.push_str(ryu_js::Buffer::new().format(*number)),
            Value::String(string) => write_string(string, text),
            Value::Json(json) => text.push_str(json),
        }
    }
    text.push('}');
}
