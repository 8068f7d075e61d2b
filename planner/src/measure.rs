//! Counts what the operators of a plan do, for explain: rows and time of each, and of leaves the executions of
//! their statement, the rows and bytes that it gave and what SQLite visited for them.
//!
//! A run that is not measured pays one test of an option per row. Operators are numbered in preorder; a number
//! leads to the operator's [`OpTally`]. A scan that is part of a join has no operator of its own: what its statement
//! gave is all that is known of it.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use engine::replica::{PlanLine, Reader, SqliteValue};
use futures::{StreamExt, stream};
use parking_lot::Mutex;
use rusqlite::Row;
use rusqlite::types::ValueRef;

use crate::operator::common_plan_methods;
use crate::run::Run;

/// The number of an operator in a run that is measured.
pub(crate) type Slot = Option<usize>;

/// What the operators of the plan that runs have done so far.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    operators: Mutex<Vec<OpTally>>,
    /// How many of the rows that SQLite gave are kept for each leaf.
    keep: usize,
}

/// What one operator did.
#[derive(Clone, Debug, Default)]
pub(crate) struct OpTally {
    /// Rows it gave.
    pub(crate) rows: u64,
    /// Time it and its inputs took.
    pub(crate) time: Duration,
    /// What its statement did, if it has one.
    pub(crate) leaf: LeafTally,
}

/// What the statement of a leaf did.
#[derive(Clone, Debug, Default)]
pub(crate) struct LeafTally {
    /// How often it was started.
    pub(crate) executions: u64,
    /// Rows that SQLite gave.
    pub(crate) read: u64,
    /// Bytes of their values.
    pub(crate) bytes: u64,
    /// Time that running it and decoding its rows took.
    pub(crate) time: Duration,
    /// The statement.
    pub(crate) sql: String,
    /// SQLite's plan with the rows that it visited.
    pub(crate) plan: Vec<PlanLine>,
    /// The first rows.
    pub(crate) rows: Vec<Vec<SqliteValue>>,
}

impl LeafTally {
    /// Rows that SQLite visited. Its sorters count too, but those rows were visited before.
    pub(crate) fn visited(&self) -> u64 {
        let loops = self.plan.iter().filter(|line| line.text.starts_with("SCAN") || line.text.starts_with("SEARCH"));
        loops.filter_map(|line| line.visits).sum()
    }

    fn add(&mut self, other: LeafTally) {
        self.executions += other.executions;
        self.read += other.read;
        self.bytes += other.bytes;
        self.time += other.time;
        self.rows.extend(other.rows);
        if self.plan.is_empty() {
            (self.sql, self.plan) = (other.sql, other.plan);
            return;
        }
        // One statement has one plan.
        for (line, more) in self.plan.iter_mut().zip(other.plan) {
            let sum = |one: Option<u64>, other: Option<u64>| Some(one? + other?);
            line.loops = sum(line.loops, more.loops);
            line.visits = sum(line.visits, more.visits);
        }
    }
}

impl Tally {
    /// A tally that keeps so many of the rows that SQLite gives for each leaf.
    pub(crate) fn keeping(keep: usize) -> Tally {
        Tally { operators: Mutex::default(), keep }
    }

    /// Begins anew, for a plan of so many operators.
    pub(crate) fn begin(&self, operators: usize) {
        *self.operators.lock() = vec![OpTally::default(); operators];
    }

    /// What the operators have done, by number.
    pub(crate) fn take(&self) -> Vec<OpTally> {
        std::mem::take(&mut *self.operators.lock())
    }

    /// Says what an operator did as a whole.
    pub(crate) fn set(&self, number: usize, rows: u64, time: Duration) {
        self.with(number, |operator| (operator.rows, operator.time) = (rows, time));
    }

    fn with(&self, slot: usize, change: impl FnOnce(&mut OpTally)) {
        if let Some(operator) = self.operators.lock().get_mut(slot) {
            change(operator);
        }
    }
}

/// Watches a statement at work.
pub(crate) struct Meter<'r> {
    at: Option<(&'r Tally, usize, Instant)>,
    leaf: LeafTally,
}

impl<'r> Meter<'r> {
    /// For the statement of an operator; without a number it does nothing.
    pub(crate) fn new(run: &'r Run, slot: Slot) -> Meter<'r> {
        let at = run.tally.as_ref().zip(slot).map(|(tally, slot)| (tally, slot, Instant::now()));
        Meter { at, leaf: LeafTally::default() }
    }

    /// The statement is started.
    pub(crate) fn execution(&mut self) {
        self.leaf.executions += 1;
    }

    /// SQLite gave a row.
    pub(crate) fn row(&mut self, row: &Row<'_>) {
        let Some((tally, ..)) = self.at else { return };
        self.leaf.read += 1;
        let columns = row.as_ref().column_count();
        let values = (0..columns).filter_map(|column| row.get_ref(column).ok());
        self.leaf.bytes += values.map(bytes).sum::<u64>();
        if self.leaf.rows.len() < tally.keep {
            self.leaf.rows.push((0..columns).map(|column| row.get(column).unwrap_or(SqliteValue::Null)).collect());
        }
    }

    /// The statement has ended, and its last rows were let go.
    pub(crate) fn finish(mut self, reader: &Reader, sql: &str) {
        let Some((tally, slot, begun)) = self.at else { return };
        self.leaf.time = begun.elapsed();
        self.leaf.plan = reader.plan(sql);
        sql.clone_into(&mut self.leaf.sql);
        tally.with(slot, |operator| {
            let room = tally.keep.saturating_sub(operator.leaf.rows.len());
            self.leaf.rows.truncate(room);
            operator.leaf.add(self.leaf);
        });
    }
}

fn bytes(value: ValueRef<'_>) -> u64 {
    match value {
        ValueRef::Null => 0,
        ValueRef::Integer(_) | ValueRef::Real(_) => 8,
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes.len() as u64,
    }
}

/// Passes the batches of another operator on, and counts.
#[derive(Debug)]
pub(crate) struct MeasuredExec {
    run: Arc<Run>,
    slot: usize,
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
}

impl MeasuredExec {
    /// Counts for the operator of this number.
    pub(crate) fn new(run: Arc<Run>, slot: usize, input: Arc<dyn ExecutionPlan>) -> Self {
        let properties = Arc::clone(input.properties());
        MeasuredExec { run, slot, input, properties }
    }

    fn over(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> datafusion::common::Result<Arc<dyn ExecutionPlan>> {
        let input = children.pop().unwrap_or_else(|| Arc::clone(&self.input));
        Ok(Arc::new(MeasuredExec::new(Arc::clone(&self.run), self.slot, input)))
    }
}

impl DisplayAs for MeasuredExec {
    fn fmt_as(&self, _: DisplayFormatType, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "MeasuredExec")
    }
}

impl ExecutionPlan for MeasuredExec {
    common_plan_methods!();

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> datafusion::common::Result<SendableRecordBatchStream> {
        let (run, slot) = (Arc::clone(&self.run), self.slot);
        let mut input = self.input.execute(partition, context)?;
        let schema = input.schema();
        let batches = stream::poll_fn(move |context| {
            let begun = Instant::now();
            let polled = input.poll_next_unpin(context);
            let time = begun.elapsed();
            let rows = match &polled {
                std::task::Poll::Ready(Some(Ok(batch))) => batch.num_rows() as u64,
                _ => 0,
            };
            if let Some(tally) = &run.tally {
                tally.with(slot, |operator| {
                    operator.time += time;
                    operator.rows += rows;
                });
            }
            polled
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, batches)))
    }
}
