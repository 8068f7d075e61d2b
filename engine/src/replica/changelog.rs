//! `_zero.changeLog2`: the latest change of every row, as the reference server's tools expect it.
//!
//! This server does not read it: commits carry what changed. One entry a changed row, written with one
//! prepared statement at the end of the transaction; it grows to one entry for each row ever touched.

use std::fmt::Write;

use rusqlite::{Connection, params};
use zql_spec::schema::{Schema, Table};
use zql_spec::value::Value;

use super::error::ReplicaError;
use crate::commit::{Commit, Key, RowChange};

/// Writes the entries of a commit.
pub(super) fn write(connection: &Connection, schema: &Schema, commit: &Commit) -> Result<(), ReplicaError> {
    let mut replace = connection.prepare_cached(
        r#"INSERT OR REPLACE INTO "_zero.changeLog2" (stateVersion, pos, "table", rowKey, op) VALUES (?, ?, ?, ?, ?)"#,
    )?;
    let version = &*commit.version;
    let mut position = 0_i64;
    for (name, delta) in &commit.tables {
        let Some(table) = schema.table(name) else { continue };
        let by_name = key_by_name(table);
        let entry = |(key, change): (&Key, &RowChange)| {
            let mut text = String::with_capacity(32);
            write_key(&mut text, &by_name, key);
            (text, if change.new.is_some() { "s" } else { "d" })
        };
        // In the order of the index over keys, so that a large commit writes its pages one after the other.
        let mut entries: Vec<(String, &str)> = delta.rows.iter().map(entry).collect();
        entries.sort_unstable();
        for (key, op) in entries {
            replace.execute(params![version, position, &**name, key, op])?;
            position += 1;
        }
    }
    // Readers start over for any table-wide entry, so one is enough for a transaction.
    let whole = commit.rewritten.iter().next().map(|table| (&**table, "t"));
    let whole = whole.or_else(|| commit.schema_changed.then_some(("", "r")));
    if let Some((table, op)) = whole {
        replace.execute(params![version, -1, table, version, op])?;
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
    names.into_iter().map(|(name, position)| (format!("{}:", serde_json::Value::from(name)), position)).collect()
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
            Value::String(string) => text.push_str(&serde_json::Value::from(&**string).to_string()),
            Value::Json(json) => text.push_str(json),
        }
    }
    text.push('}');
}
