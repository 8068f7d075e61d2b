//! Keys of rows as text: `i1`, `7`, `"a b"`, `p1/t2` for several columns.

use std::sync::Arc;

use super::dataset::DataTable;
use crate::json::Json;
use crate::value::Value;

/// Words that mean something else where a key may stand.
const RESERVED: [&str; 5] = ["true", "false", "null", "none", "first"];

/// The text of a key.
pub(super) fn print(key: &[Value]) -> String {
    key.iter().map(part).collect::<Vec<_>>().join("/")
}

fn part(value: &Value) -> String {
    match value {
        Value::String(text) if is_plain(text) => text.to_string(),
        other => other.to_json().to_string(),
    }
}

fn is_plain(text: &str) -> bool {
    let letters = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    letters && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-')) && !RESERVED.contains(&text)
}

/// Takes a key of a table from the front of a text; gives the rest.
pub(super) fn take<'a>(table: &DataTable, text: &'a str) -> Result<(Vec<Value>, &'a str), String> {
    let mut rest = text.trim_start();
    let mut key = Vec::new();
    for i in 0..table.primary_key.len() {
        if i > 0 {
            rest = rest.strip_prefix('/').ok_or_else(|| format!("the key of {} has more columns", table.name))?;
        }
        let end = if rest.starts_with('"') {
            quoted_end(rest).ok_or("a text in a key does not end")?
        } else {
            rest.find(|c: char| c.is_whitespace() || c == '/').unwrap_or(rest.len())
        };
        let (word, after) = rest.split_at(end);
        rest = after;
        key.push(if is_plain(word) {
            Value::String(Arc::from(word))
        } else {
            Value::from_json(&Json::parse(word).map_err(|_| format!("{word:?} is no part of a key"))?)
        });
    }
    Ok((key, rest))
}

fn quoted_end(text: &str) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            '"' if !escaped => return Some(at + 1),
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    None
}
