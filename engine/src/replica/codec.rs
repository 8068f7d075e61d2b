//! SQLite rows to ZQL rows.
//!
//! A column's type affinity may have stored a text as a number; decoding by ZQL type undoes that. Cost
//! is one allocation a row and one a string; versions are shared by rows that follow each other.

use std::cell::RefCell;
use std::sync::Arc;

use rusqlite::Row;
use rusqlite::types::ValueRef;
use zql_spec::schema::{Table, ValueType};
use zql_spec::value::Value;

use super::error::ReplicaError;
use crate::commit::{StoredRow, Version};

/// The largest integer that a JavaScript number and its neighbours tell apart.
const MAX_SAFE_INTEGER: i64 = (1 << 53) - 1;

/// Decodes rows of one table: its visible columns in table order followed by `_0_version`, as
/// [`crate::sql`] selects them.
#[derive(Debug)]
pub struct RowCodec<'t> {
    table: &'t Table,
    min_version: Option<&'t Version>,
    /// The version that was stored last, and what it counts as.
    last_version: RefCell<Option<(Version, Version)>>,
}

impl<'t> RowCodec<'t> {
    /// A codec for a table whose rows count as at least `min_version`.
    pub fn new(table: &'t Table, min_version: Option<&'t Version>) -> Self {
        RowCodec { table, min_version, last_version: RefCell::new(None) }
    }

    /// Decodes the row whose first visible column is at `offset`.
    pub fn decode(&self, row: &Row<'_>, offset: usize) -> Result<Arc<StoredRow>, ReplicaError> {
        let count = self.table.columns.len();
        let mut values = Vec::with_capacity(count);
        for column in 0..count {
            values.push(self.value(column, row.get_ref(offset + column)?)?);
        }
        let version = self.version(row.get_ref(offset + count)?)?;
        Ok(Arc::new(StoredRow { values: values.into_boxed_slice(), version }))
    }

    /// Decodes one value of the column at this position. In line: it is most of what decoding a row takes.
    #[inline(always)]
    pub fn value(&self, column: usize, value: ValueRef<'_>) -> Result<Value, ReplicaError> {
        Ok(match (self.table.columns[column].value_type, value) {
            (_, ValueRef::Null) => Value::Null,
            (ValueType::Boolean, ValueRef::Integer(number)) => Value::Bool(number != 0),
            (ValueType::Boolean, ValueRef::Real(number)) => Value::Bool(number != 0.0),
            (ValueType::Number, ValueRef::Integer(number)) => {
                if !(-MAX_SAFE_INTEGER..=MAX_SAFE_INTEGER).contains(&number) {
                    return Err(self.error(column, &format!("value {number}"), "is outside of supported bounds"));
                }
                Value::Number(number as f64)
            }
            (ValueType::Number, ValueRef::Real(number)) => Value::Number(number),
            (ValueType::String, value) => Value::String(self.text(column, value)?),
            (ValueType::Json, value) => Value::Json(self.text(column, value)?),
            (ValueType::Boolean | ValueType::Number, ValueRef::Text(_) | ValueRef::Blob(_)) => {
                let expected = format!("is not a {}", self.table.columns[column].value_type.name());
                return Err(self.error(column, "value", &expected));
            }
        })
    }

    #[inline(always)]
    fn text(&self, column: usize, value: ValueRef<'_>) -> Result<Arc<str>, ReplicaError> {
        match value {
            ValueRef::Text(text) => match std::str::from_utf8(text) {
                Ok(text) => Ok(Arc::from(text)),
                Err(_) => Err(self.error(column, "value", "is not UTF-8")),
            },
            value => self.unusual_text(column, value),
        }
    }

    #[cold]
    fn unusual_text(&self, column: usize, value: ValueRef<'_>) -> Result<Arc<str>, ReplicaError> {
        match value {
            ValueRef::Integer(number) => Ok(Arc::from(number.to_string())),
            ValueRef::Real(number) => Ok(Arc::from(ryu_js::Buffer::new().format(number))),
            ValueRef::Null | ValueRef::Blob(_) | ValueRef::Text(_) => Err(self.error(column, "value", "is not text")),
        }
    }

    fn version(&self, value: ValueRef<'_>) -> Result<Version, ReplicaError> {
        let bytes = match value {
            ValueRef::Text(bytes) => bytes,
            _ => b"00",
        };
        let mut last = self.last_version.borrow_mut();
        // Rows that follow each other were mostly written together.
        if let Some((stored, version)) = &*last
            && stored.as_bytes() == bytes
        {
            return Ok(Arc::clone(version));
        }
        let stored = Version::from(std::str::from_utf8(bytes).unwrap_or("00"));
        let version = match self.min_version {
            Some(min) if *stored < **min => Arc::clone(min),
            _ => Arc::clone(&stored),
        };
        *last = Some((stored, Arc::clone(&version)));
        Ok(version)
    }

    #[cold]
    fn error(&self, column: usize, what: &str, problem: &str) -> ReplicaError {
        let Table { name, columns, .. } = self.table;
        ReplicaError::Value(format!("{what} (in {name}.{}) {problem}", columns[column].name))
    }
}
