//! Reads a table by the keys of its input, one indexed probe a key: an index join.
//!
//! A limit is part of the probe, so the first rows of each key cost nothing beyond themselves. Rows come
//! grouped by key, in the input's order, and in the node's order within a key if the statement sorts.
//! Each batch of keys gives one batch of rows.

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float64Type, Int64Type};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use engine::hydration::FoundRow;
use futures::StreamExt;
use rusqlite::Row;
use rusqlite::types::{ToSqlOutput, Value as SqliteValue, ValueRef};
use zql_spec::value::Value;

use crate::emit::Found;
use crate::error::Result;
use crate::measure::{Meter, Slot};
use crate::operator::{common_plan_methods, properties};
use crate::run::{Run, prepare};
use crate::statement::{Batcher, Statement};

/// Reads a table by keys.
#[derive(Debug)]
pub(crate) struct SqliteLookupExec {
    run: Arc<Run>,
    statement: Arc<Statement>,
    input: Arc<dyn ExecutionPlan>,
    by: Vec<usize>,
    slot: Slot,
    properties: Arc<PlanProperties>,
}

impl SqliteLookupExec {
    /// Runs the statement for each row of the input with the columns `by` as its look-up parameters.
    pub(crate) fn new(
        run: Arc<Run>,
        statement: Arc<Statement>,
        input: Arc<dyn ExecutionPlan>,
        by: Vec<usize>,
        slot: Slot,
    ) -> Self {
        let properties = properties(&statement.schema, None);
        SqliteLookupExec { run, statement, input, by, slot, properties }
    }

    fn over(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> datafusion::common::Result<Arc<dyn ExecutionPlan>> {
        let input = children.pop().unwrap_or_else(|| Arc::clone(&self.input));
        let (run, statement) = (Arc::clone(&self.run), Arc::clone(&self.statement));
        Ok(Arc::new(SqliteLookupExec::new(run, statement, input, self.by.clone(), self.slot)))
    }
}

impl DisplayAs for SqliteLookupExec {
    fn fmt_as(&self, _: DisplayFormatType, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "SqliteLookupExec: {}", self.statement.sql.text)
    }
}

impl ExecutionPlan for SqliteLookupExec {
    common_plan_methods!();

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> datafusion::common::Result<SendableRecordBatchStream> {
        let (run, statement, by) = (Arc::clone(&self.run), Arc::clone(&self.statement), self.by.clone());
        let slot = self.slot;
        let input = self.input.execute(partition, context)?;
        let batches = input.map(move |keys| Ok(probe(&run, &statement, &keys?, &by, slot)?));
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.statement.schema), batches)))
    }
}

/// The rows of a batch of keys.
pub(crate) fn probe(
    run: &Run,
    statement: &Statement,
    keys: &RecordBatch,
    by: &[usize],
    slot: Slot,
) -> Result<RecordBatch> {
    let codec = run.codec(&statement.table);
    let mut batcher = Batcher::new(statement, &codec);
    let mut arena = run.arena.lock();
    each(run, statement, keys, by, slot, |row| batcher.push(row, &mut arena))?;
    batcher.finish()
}

/// Hands the rows of a batch of keys on.
pub(crate) fn emit(
    run: &Run,
    statement: &Statement,
    keys: &RecordBatch,
    by: &[usize],
    slot: Slot,
    found: &mut Found<'_>,
) -> Result<()> {
    let codec = run.codec(&statement.table);
    let offset = statement.whole_row();
    each(run, statement, keys, by, slot, |row| found(FoundRow::Current(&codec.current(row, offset))))
}

fn each(
    run: &Run,
    statement: &Statement,
    keys: &RecordBatch,
    by: &[usize],
    slot: Slot,
    mut take: impl FnMut(&Row<'_>) -> Result<()>,
) -> Result<()> {
    let keys: Vec<Keys<'_>> = by.iter().map(|&column| Keys::new(keys.column(column))).collect();
    let rows_of_keys = keys.first().map_or(0, Keys::len);
    let mut meter = Meter::new(run, slot);
    let reader = run.reader.lock();
    let mut prepared = prepare(&reader, statement, &run.query)?;
    for key in 0..rows_of_keys {
        for (position, column) in keys.iter().enumerate() {
            prepared.raw_bind_parameter(position + 1, column.value(key))?;
        }
        meter.execution();
        let mut rows = prepared.raw_query();
        while let Some(row) = rows.next().map_err(|error| reader.error(error))? {
            meter.row(row);
            take(row)?;
        }
    }
    meter.finish(&reader, &statement.sql.text);
    Ok(())
}

/// A column of keys as SQLite compares them. A null is bound as null, which equals nothing.
enum Keys<'a> {
    Text(&'a arrow::array::StringArray),
    Number(&'a arrow::array::Float64Array),
    Boolean(&'a arrow::array::BooleanArray),
    RowId(&'a arrow::array::Int64Array),
}

impl<'a> Keys<'a> {
    fn new(column: &'a ArrayRef) -> Self {
        match column.data_type() {
            DataType::Utf8 => Keys::Text(column.as_string()),
            DataType::Float64 => Keys::Number(column.as_primitive::<Float64Type>()),
            DataType::Boolean => Keys::Boolean(column.as_boolean()),
            DataType::Int64 => Keys::RowId(column.as_primitive::<Int64Type>()),
            other => unreachable!("no column of a plan is of type {other}"),
        }
    }

    fn len(&self) -> usize {
        match self {
            Keys::Text(column) => column.len(),
            Keys::Number(column) => column.len(),
            Keys::Boolean(column) => column.len(),
            Keys::RowId(column) => column.len(),
        }
    }

    fn value(&self, row: usize) -> ToSqlOutput<'a> {
        match self {
            Keys::Text(column) if column.is_valid(row) => {
                ToSqlOutput::Borrowed(ValueRef::Text(column.value(row).as_bytes()))
            }
            Keys::Number(column) if column.is_valid(row) => {
                ToSqlOutput::Owned(engine::sql::bind(&Value::Number(column.value(row))))
            }
            Keys::Boolean(column) if column.is_valid(row) => {
                ToSqlOutput::Owned(SqliteValue::Integer(i64::from(column.value(row))))
            }
            Keys::RowId(column) if column.is_valid(row) => ToSqlOutput::Owned(SqliteValue::Integer(column.value(row))),
            _ => ToSqlOutput::Owned(SqliteValue::Null),
        }
    }
}
