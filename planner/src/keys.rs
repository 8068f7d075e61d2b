//! Distinct keys: of the rows of a parent node, or of an EXISTS.
//!
//! Keys are kept as bytes that are equal if the values join. So a scan can ask for a row what the set says before
//! anything of the row is decoded, and a million keys take some thirty bytes each. A key with a null in it joins nothing
//! and is not kept.

use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float64Type};
use datafusion::execution::SendableRecordBatchStream;
use engine::byte_set::ByteSet;
use engine::commit::StoredRow;
use futures::StreamExt;
use rusqlite::Row;
use rusqlite::types::ValueRef;
use zql_spec::schema::{Table, ValueType};
use zql_spec::value::Value;

use crate::error::Result;
use crate::plan::Col;
use crate::statement::{Columns, schema};

/// A set of keys.
#[derive(Debug, Default)]
pub(crate) struct KeySet {
    keys: ByteSet,
    scratch: Vec<u8>,
}

impl KeySet {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Adds the values of a row; true if the key is new.
    fn add_row(&mut self, row: &StoredRow, columns: &[usize]) -> bool {
        self.scratch.clear();
        for &column in columns {
            match &row.values[column] {
                Value::Null => return false,
                Value::Bool(bool) => self.scratch.push(u8::from(*bool)),
                Value::Number(number) => push_number(*number, &mut self.scratch),
                Value::String(text) | Value::Json(text) => {
                    push_text(text.as_bytes(), columns.len() > 1, &mut self.scratch);
                }
            }
        }
        self.keys.insert(&self.scratch)
    }

    /// Adds the rows of a batch, with the columns at these positions; gives the position of a row with a new key.
    pub(crate) fn add_batch(&mut self, batch: &RecordBatch, columns: &[usize]) -> Option<usize> {
        let mut new = None;
        for row in 0..batch.num_rows() {
            self.scratch.clear();
            let mut null = false;
            for &column in columns {
                let column = batch.column(column);
                null |= column.is_null(row);
                match column.data_type() {
                    DataType::Utf8 => {
                        let text = column.as_string::<i32>().value(row);
                        push_text(text.as_bytes(), columns.len() > 1, &mut self.scratch);
                    }
                    DataType::Float64 => {
                        push_number(column.as_primitive::<Float64Type>().value(row), &mut self.scratch);
                    }
                    DataType::Boolean => self.scratch.push(u8::from(column.as_boolean().value(row))),
                    other => unreachable!("no key is of type {other}"),
                }
            }
            if !null && self.keys.insert(&self.scratch) {
                new = Some(row);
            }
        }
        new
    }
}

fn push_number(number: f64, out: &mut Vec<u8>) {
    // −0 and 0 are one number.
    out.extend_from_slice(&(number + 0.0).to_bits().to_le_bytes());
}

/// A text of a key of one column ends where the key ends.
fn push_text(text: &[u8], framed: bool, out: &mut Vec<u8>) {
    if framed {
        out.extend_from_slice(&(text.len() as u64).to_le_bytes());
    }
    out.extend_from_slice(text);
}

/// The distinct keys of the rows of a parent node, as they are collected.
#[derive(Debug)]
pub(crate) struct ParentKeys {
    table: Arc<Table>,
    child_columns: Vec<usize>,
    parent_columns: Vec<usize>,
    set: KeySet,
    columns: Columns,
}

/// All of them.
#[derive(Clone, Debug)]
pub(crate) struct GivenKeys {
    /// To look rows up in.
    pub(crate) set: Arc<KeySet>,
    /// To look rows up by.
    pub(crate) batch: RecordBatch,
}

impl ParentKeys {
    /// No keys yet, for these columns of a child's table and of its parent's.
    pub(crate) fn new(table: &Arc<Table>, child_columns: &[usize], parent_columns: &[usize]) -> Self {
        ParentKeys {
            table: Arc::clone(table),
            child_columns: child_columns.to_vec(),
            parent_columns: parent_columns.to_vec(),
            set: KeySet::default(),
            columns: Columns::of_table(table, child_columns),
        }
    }

    /// Adds a row of the parent.
    pub(crate) fn add(&mut self, row: &StoredRow) {
        if self.set.add_row(row, &self.parent_columns) {
            self.columns.push_row(row, &self.parent_columns);
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.set.len()
    }

    /// All of them.
    pub(crate) fn finish(mut self) -> Result<GivenKeys> {
        let columns: Vec<Col> = self.child_columns.iter().map(|&column| Col::Column(column)).collect();
        let batch = self.columns.finish(schema(&self.table, &columns), self.set.len())?;
        Ok(GivenKeys { set: Arc::new(self.set), batch })
    }
}

/// The keys of an EXISTS, and the last one that was new as a row of its own.
pub(crate) async fn collect(
    mut keys: SendableRecordBatchStream,
    columns: &[usize],
) -> Result<(KeySet, Option<RecordBatch>)> {
    let (mut set, mut last) = (KeySet::default(), None);
    while let Some(batch) = keys.next().await {
        let batch = batch?;
        if let Some(row) = set.add_batch(&batch, columns) {
            last = Some(batch.slice(row, 1));
        }
    }
    Ok((set, last))
}

/// Keeps the rows of a scan whose key is in a set, or those whose key is not.
#[derive(Clone, Debug)]
pub(crate) struct KeyFilter {
    /// The keys.
    pub(crate) keys: Arc<KeySet>,
    /// Where SQLite's row has the columns of the key, and their types.
    pub(crate) columns: Vec<(usize, ValueType)>,
    /// Whether rows are kept that have none.
    pub(crate) negated: bool,
}

impl KeyFilter {
    /// Whether it keeps SQLite's current row.
    pub(crate) fn keeps(&self, row: &Row<'_>, scratch: &mut Vec<u8>) -> Result<bool> {
        scratch.clear();
        let key = self.key(row, scratch)?.then_some(&scratch[..]);
        Ok(self.keeps_key(key))
    }

    /// Whether it keeps rows with this key, or without one.
    pub(crate) fn keeps_key(&self, key: Option<&[u8]>) -> bool {
        key.is_some_and(|key| self.keys.keys.contains(key)) != self.negated
    }

    /// Appends the key of SQLite's current row; false if it has none, and what was appended means nothing.
    pub(crate) fn key(&self, row: &Row<'_>, out: &mut Vec<u8>) -> Result<bool> {
        let framed = self.columns.len() > 1;
        for &(column, value_type) in &self.columns {
            match (value_type, row.get_ref(column)?) {
                (ValueType::Number, ValueRef::Integer(number)) => push_number(number as f64, out),
                (ValueType::Number, ValueRef::Real(number)) => push_number(number, out),
                (ValueType::Boolean, ValueRef::Integer(number)) => out.push(u8::from(number != 0)),
                (ValueType::Boolean, ValueRef::Real(number)) => out.push(u8::from(number != 0.0)),
                (ValueType::String | ValueType::Json, ValueRef::Text(text)) => push_text(text, framed, out),
                // Text that a column's affinity made a number.
                (ValueType::String | ValueType::Json, ValueRef::Integer(number)) => {
                    push_text(number.to_string().as_bytes(), framed, out);
                }
                (ValueType::String | ValueType::Json, ValueRef::Real(number)) => {
                    push_text(ryu_js::Buffer::new().format(number).as_bytes(), framed, out);
                }
                _ => return Ok(false),
            }
        }
        Ok(true)
    }
}
