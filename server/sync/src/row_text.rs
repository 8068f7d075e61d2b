//! Rows as the JSON text that clients get.
//!
//! A row that changed is poked to every group that holds it, so the text of a changed row is made once and
//! shared ([`RowTexts`]). The rows of a first answer are written straight into the message, because they
//! are mostly one group's alone.

use std::sync::{Arc, Weak};

use engine::commit::StoredRow;
use engine::hydration::FoundRow;
use engine::replica::ReplicaError;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use zql_spec::json::{write_number, write_string};
use zql_spec::schema::Table;
use zql_spec::value::{Value, ValueRef};

/// How rows of one table are written.
#[derive(Debug)]
pub struct TableText {
    /// What precedes each value: for the first column the beginning of the whole patch.
    before: Box<[Box<str>]>,
}

impl TableText {
    /// Prepares a table.
    pub fn new(table: &Table) -> Self {
        let before = |(position, column): (usize, &zql_spec::schema::Column)| {
            let mut text = String::new();
            if position == 0 {
                text.push_str(r#"{"op":"put","tableName":"#);
                write_string(&table.name, &mut text);
                text.push_str(r#","value":{"#);
            } else {
                text.push(',');
            }
            write_string(&column.name, &mut text);
            text.push(':');
            text.into_boxed_str()
        };
        TableText { before: table.columns.iter().enumerate().map(before).collect() }
    }

    /// Appends the patch that puts a row.
    pub fn write_put(&self, row: &StoredRow, out: &mut String) {
        for (before, value) in self.before.iter().zip(&row.values) {
            out.push_str(before);
            write_value(value, out);
        }
        out.push_str("}}");
    }

    /// The same for a row that is not decoded.
    ///
    /// # Errors
    /// If clients cannot be given one of its values; what was appended is no patch then.
    pub fn write_found(&self, row: &FoundRow<'_>, out: &mut String) -> Result<(), ReplicaError> {
        row.each(|column, value| {
            out.push_str(&self.before[column]);
            write_borrowed(value, out);
        })?;
        out.push_str("}}");
        Ok(())
    }
}

/// Appends a value.
pub fn write_value(value: &Value, out: &mut String) {
    write_borrowed(ValueRef::from(value), out);
}

#[inline(always)]
fn write_borrowed(value: ValueRef<'_>, out: &mut String) {
    match value {
        ValueRef::Null => out.push_str("null"),
        ValueRef::Bool(true) => out.push_str("true"),
        ValueRef::Bool(false) => out.push_str("false"),
        ValueRef::Number(number) => write_number(number, out),
        ValueRef::String(text) => write_string(text, out),
        ValueRef::Json(json) => out.push_str(json),
    }
}

/// Locks that concurrent groups share; more than there are cores, so that they rarely meet.
const SHARDS: usize = 16;

/// Entries of a shard below which it is not swept: a sweep must be rare beside the look-ups.
const MIN_SWEEP: usize = 256;

/// Texts of rows by identity of the shared row. A text lives as long as its row is shared; what is left
/// behind is swept when a shard has doubled, so the size follows the rows that are being poked.
#[derive(Debug, Default)]
pub struct RowTexts {
    shards: [Mutex<Shard>; SHARDS],
}

#[derive(Debug, Default)]
struct Shard {
    // The weak handle keeps the allocation, so that an address means one row as long as it is here.
    texts: FxHashMap<usize, (Weak<StoredRow>, Arc<str>)>,
    sweep_at: usize,
}

impl RowTexts {
    /// The patch that puts a row.
    pub fn put(&self, table: &TableText, row: &Arc<StoredRow>) -> Arc<str> {
        let address = Arc::as_ptr(row) as usize;
        // The low bits of an address are alike for all rows.
        let mut shard = self.shards[(address >> 6) % SHARDS].lock();
        if let Some((_, text)) = shard.texts.get(&address) {
            return Arc::clone(text);
        }
        let mut text = String::with_capacity(256);
        table.write_put(row, &mut text);
        let text: Arc<str> = text.into();
        if shard.texts.len() >= shard.sweep_at.max(MIN_SWEEP) {
            shard.texts.retain(|_, (row, _)| row.strong_count() > 0);
            shard.sweep_at = shard.texts.len() * 2;
        }
        shard.texts.insert(address, (Arc::downgrade(row), Arc::clone(&text)));
        text
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use engine::commit::StoredRow;
    use zql_spec::schema::{Column, Table, ValueType};
    use zql_spec::value::Value;

    use super::{FoundRow, RowTexts, TableText};

    fn table() -> Table {
        let column = |name: &str| Column { name: name.into(), value_type: ValueType::Json, nullable: true };
        Table {
            name: "a\"b".into(),
            columns: ["id", "n", "j", "z"].map(column).into(),
            primary_key: vec![0],
            unique_keys: vec![vec![0]],
        }
    }

    #[test]
    fn rows_are_written_as_javascript_would() {
        let row = StoredRow {
            values: Box::new([
                Value::string("x\n☃"),
                Value::Number(1e21),
                Value::Json(r#"{"a":[1]}"#.into()),
                Value::Null,
            ]),
            version: "01".into(),
        };
        let mut out = String::new();
        TableText::new(&table()).write_put(&row, &mut out);
        assert_eq!(out, r#"{"op":"put","tableName":"a\"b","value":{"id":"x\n☃","n":1e+21,"j":{"a":[1]},"z":null}}"#);
        let mut found = String::new();
        TableText::new(&table()).write_found(&FoundRow::Decoded(Arc::new(row)), &mut found).unwrap();
        assert_eq!(found, out);
    }

    #[test]
    fn texts_are_shared_and_forgotten() {
        let texts = RowTexts::default();
        let table = TableText::new(&table());
        let row = |id: usize| {
            let values = [Value::Number(id as f64), Value::Null, Value::Null, Value::Null];
            Arc::new(StoredRow { values: Box::new(values), version: "01".into() })
        };
        let kept = row(0);
        let text = texts.put(&table, &kept);
        assert!(Arc::ptr_eq(&text, &texts.put(&table, &kept)));
        for id in 1..100_000 {
            let text = texts.put(&table, &row(id));
            assert!(text.contains(&format!("\"id\":{id},")), "{text}");
        }
        let entries: usize = texts.shards.iter().map(|shard| shard.lock().texts.len()).sum();
        assert!(entries <= 16 * 256, "{entries}");
        assert!(Arc::ptr_eq(&text, &texts.put(&table, &kept)));
    }
}
