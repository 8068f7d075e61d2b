//! SQLite rows to ZQL rows.
//!
//! A column's type affinity may have stored a text as a number; decoding by ZQL type undoes that. A row that is kept
//! costs two allocations and one a string, which is as much as reading a narrow one; so whoever only looks at a row
//! takes it as a [`CurrentRow`], which costs none. Versions are shared by rows that follow each other.

use std::cell::RefCell;
use std::sync::Arc;

use rusqlite::Row;
use rusqlite::types::ValueRef as Stored;
use zql_spec::schema::{Table, ValueType};
use zql_spec::value::{Value, ValueRef};

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
            self.look(column, row.get_ref(offset + column), |value| values.push(Value::from(value)))?;
        }
        let version = self.version(row.get_ref(offset + count)?)?;
        Ok(Arc::new(StoredRow { values: values.into_boxed_slice(), version }))
    }

    /// The row whose first visible column is at `offset`, not decoded yet.
    pub fn current<'r>(&'r self, row: &'r Row<'r>, offset: usize) -> CurrentRow<'r> {
        CurrentRow { codec: self, row, offset }
    }

    /// Decodes one value of the column at this position.
    #[inline(always)]
    pub fn value(&self, column: usize, stored: Stored<'_>) -> Result<Value, ReplicaError> {
        self.look(column, Ok(stored), |value| Value::from(value))
    }

    /// Decodes one value of the column at this position and lends it.
    ///
    /// In line, and each kind of value by itself: this is most of what reading a row takes, and a value that is put
    /// together here only to be taken apart by whoever takes it makes the processor wait for its own writes.
    #[inline(always)]
    fn look<R>(
        &self,
        column: usize,
        stored: rusqlite::Result<Stored<'_>>,
        take: impl FnOnce(ValueRef<'_>) -> R,
    ) -> Result<R, ReplicaError> {
        let value_type = self.table.columns[column].value_type;
        Ok(match stored {
            Ok(Stored::Null) => take(ValueRef::Null),
            Ok(Stored::Integer(number)) => match value_type {
                ValueType::Number if (-MAX_SAFE_INTEGER..=MAX_SAFE_INTEGER).contains(&number) => {
                    take(ValueRef::Number(number as f64))
                }
                ValueType::Number => {
                    return Err(self.error(column, &format!("value {number}"), "is outside of supported bounds"));
                }
                ValueType::Boolean => take(ValueRef::Bool(number != 0)),
                ValueType::String => take(ValueRef::String(&number.to_string())),
                ValueType::Json => take(ValueRef::Json(&number.to_string())),
            },
            Ok(Stored::Real(number)) => match value_type {
                ValueType::Number => take(ValueRef::Number(number)),
                ValueType::Boolean => take(ValueRef::Bool(number != 0.0)),
                ValueType::String => take(ValueRef::String(ryu_js::Buffer::new().format(number))),
                ValueType::Json => take(ValueRef::Json(ryu_js::Buffer::new().format(number))),
            },
            Ok(Stored::Text(text)) => match (value_type, std::str::from_utf8(text)) {
                (ValueType::String, Ok(text)) => take(ValueRef::String(text)),
                (ValueType::Json, Ok(text)) => take(ValueRef::Json(text)),
                (ValueType::String | ValueType::Json, Err(_)) => {
                    return Err(self.error(column, "value", "is not UTF-8"));
                }
                (ValueType::Boolean | ValueType::Number, _) => return Err(self.other_type(column)),
            },
            Ok(Stored::Blob(_)) => return Err(self.other_type(column)),
            Err(error) => return Err(error.into()),
        })
    }

    #[cold]
    fn other_type(&self, column: usize) -> ReplicaError {
        let expected = match self.table.columns[column].value_type {
            ValueType::String | ValueType::Json => "text",
            ValueType::Boolean => "a boolean",
            ValueType::Number => "a number",
        };
        self.error(column, "value", &format!("is not {expected}"))
    }

    fn version(&self, stored: Stored<'_>) -> Result<Version, ReplicaError> {
        let bytes = match stored {
            Stored::Text(bytes) => bytes,
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

/// The row at which a statement stands.
#[derive(Clone, Copy, Debug)]
pub struct CurrentRow<'r> {
    codec: &'r RowCodec<'r>,
    row: &'r Row<'r>,
    offset: usize,
}

impl CurrentRow<'_> {
    /// The row, to be kept.
    pub fn decode(&self) -> Result<Arc<StoredRow>, ReplicaError> {
        self.codec.decode(self.row, self.offset)
    }

    /// Lends each value with its column's position.
    #[inline]
    pub fn each(&self, mut take: impl FnMut(usize, ValueRef<'_>)) -> Result<(), ReplicaError> {
        for column in 0..self.codec.table.columns.len() {
            self.codec.look(column, self.row.get_ref(self.offset + column), |value| take(column, value))?;
        }
        Ok(())
    }
}
