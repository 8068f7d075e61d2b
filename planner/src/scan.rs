//! Reads a table with one SQLite statement.
//!
//! The statement has the node's filter, order, start and limit in it as far as the plan lets it. A scan that is
//! the last step of a plan hands each row on as it is read ([`emit`]). Another short one runs to its end when it is first
//! polled; a long one ([`Leaf::stream`]) runs on its own thread, [`AHEAD`] batches ahead, and ends when the stream is
//! dropped. So memory grows with the batches ahead, not with the table.
//!
//! [`Leaf::stream`]: crate::plan::Leaf::stream

use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use arrow::array::RecordBatch;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::LexOrdering;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use engine::hydration::FoundRow;
use futures::{StreamExt, TryStreamExt, stream};
use rusqlite::Row;

use crate::emit::Found;
use crate::error::{Error, Result};
use crate::keys::KeyFilter;
use crate::measure::{Meter, Slot};
use crate::operator::{common_plan_methods, properties};
use crate::run::{Run, prepare};
use crate::statement::{BATCH_ROWS, Batcher, Statement};
use crate::together::Together;

/// Batches that a scan on its own thread may be ahead: one that is worked on and one that waits.
const AHEAD: usize = 2;

/// Reads a table.
#[derive(Debug)]
pub(crate) struct SqliteScanExec {
    run: Arc<Run>,
    statement: Arc<Statement>,
    stream: bool,
    slot: Slot,
    properties: Arc<PlanProperties>,
}

impl SqliteScanExec {
    pub(crate) fn new(
        run: Arc<Run>,
        statement: Arc<Statement>,
        stream: bool,
        order: Option<LexOrdering>,
        slot: Slot,
    ) -> Self {
        let properties = properties(&statement.schema, order);
        SqliteScanExec { run, statement, stream, slot, properties }
    }

    fn over(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> datafusion::common::Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }
}

impl DisplayAs for SqliteScanExec {
    fn fmt_as(&self, _: DisplayFormatType, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "SqliteScanExec: {}", self.statement.sql.text)
    }
}

impl ExecutionPlan for SqliteScanExec {
    common_plan_methods!();

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn execute(&self, _: usize, _: Arc<TaskContext>) -> datafusion::common::Result<SendableRecordBatchStream> {
        let schema = Arc::clone(&self.statement.schema);
        let (run, statement, slot) = (Arc::clone(&self.run), Arc::clone(&self.statement), self.slot);
        if self.stream {
            let batches = ReadAhead::new(run, statement, None, slot);
            let batches = stream::iter(batches).map(|batch| Ok(batch?));
            return Ok(Box::pin(RecordBatchStreamAdapter::new(schema, batches)));
        }
        let batches = stream::once(async move { read_all(&run, &statement, None, slot) })
            .map_ok(|batches| stream::iter(batches).map(Ok::<_, Error>))
            .try_flatten()
            .map_err(Into::into);
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, batches)))
    }
}

/// Runs the statement to its end and hands each row on.
pub(crate) fn emit(
    run: &Run,
    statement: &Statement,
    filter: Option<&KeyFilter>,
    slot: Slot,
    found: &mut Found<'_>,
) -> Result<()> {
    let mut meter = Meter::new(run, slot);
    let reader = run.reader.lock();
    let codec = run.codec(&statement.table);
    let offset = statement.whole_row();
    let mut prepared = prepare(&reader, statement, &run.query)?;
    let mut rows = prepared.raw_query();
    let mut scratch = Vec::new();
    let mut together = filter.and_then(Together::new);
    meter.execution();
    while let Some(row) = rows.next().map_err(|error| reader.error(error))? {
        meter.row(row);
        if let Some(batch) = &mut together {
            batch.push(row, codec.decode(row, offset))?;
            if batch.is_full() {
                batch.hand_on(found)?;
                together = together.filter(Together::pays);
            }
        } else if wanted(filter, row, &mut scratch)? {
            found(FoundRow::Current(&codec.current(row, offset)))?;
        }
    }
    if let Some(batch) = &mut together {
        batch.hand_on(found)?;
    }
    drop(rows);
    meter.finish(&reader, &statement.sql.text);
    Ok(())
}

fn wanted(filter: Option<&KeyFilter>, row: &Row<'_>, scratch: &mut Vec<u8>) -> Result<bool> {
    filter.map_or(Ok(true), |filter| filter.keeps(row, scratch))
}

/// Runs the statement to its end.
pub(crate) fn read_all(
    run: &Run,
    statement: &Statement,
    filter: Option<&KeyFilter>,
    slot: Slot,
) -> Result<Vec<RecordBatch>> {
    let mut meter = Meter::new(run, slot);
    let mut batches = Vec::new();
    let reader = run.reader.lock();
    let mut arena = run.arena.lock();
    let codec = run.codec(&statement.table);
    let mut prepared = prepare(&reader, statement, &run.query)?;
    let mut rows = prepared.raw_query();
    let mut batcher = Batcher::new(statement, &codec);
    let mut scratch = Vec::new();
    meter.execution();
    while let Some(row) = rows.next().map_err(|error| reader.error(error))? {
        meter.row(row);
        if !wanted(filter, row, &mut scratch)? {
            continue;
        }
        batcher.push(row, &mut arena)?;
        if batcher.len() == BATCH_ROWS {
            batches.push(batcher.finish()?);
        }
    }
    if batcher.len() > 0 {
        batches.push(batcher.finish()?);
    }
    drop(rows);
    meter.finish(&reader, &statement.sql.text);
    Ok(batches)
}

/// Batches of a scan that runs on its own thread from when the first one is asked for.
pub(crate) struct ReadAhead {
    run: Arc<Run>,
    statement: Arc<Statement>,
    filter: Option<KeyFilter>,
    slot: Slot,
    receiver: Option<Receiver<Ahead>>,
    /// Waited for in the end, if what it did is of interest.
    thread: Option<JoinHandle<()>>,
    ended: bool,
}

/// What the thread of a scan says: a batch, or nothing more, or why it failed.
type Ahead = Result<Option<RecordBatch>>;

impl ReadAhead {
    /// A scan that has not begun, for the rows that a filter keeps.
    pub(crate) fn new(run: Arc<Run>, statement: Arc<Statement>, filter: Option<KeyFilter>, slot: Slot) -> Self {
        ReadAhead { run, statement, filter, slot, receiver: None, thread: None, ended: false }
    }
}

impl Drop for ReadAhead {
    fn drop(&mut self) {
        // The thread ends when it finds that nobody takes its batches.
        self.receiver = None;
        if let Some(thread) = self.thread.take().filter(|_| self.run.tally.is_some()) {
            // That it panicked has been told by the missing end of its batches.
            let _ = thread.join();
        }
    }
}

impl Iterator for ReadAhead {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        if self.receiver.is_none() {
            let (sender, receiver) = sync_channel(AHEAD);
            let (run, statement) = (Arc::clone(&self.run), Arc::clone(&self.statement));
            let (filter, slot) = (self.filter.take(), self.slot);
            let read = move || {
                if let Err(error) = read_ahead(&run, &statement, filter.as_ref(), slot, &sender) {
                    // Nobody listens any more if this fails, and then nobody needs to know.
                    let _ = sender.send(Err(error));
                }
            };
            match std::thread::Builder::new().name("scan".to_owned()).spawn(read) {
                Ok(thread) => self.thread = Some(thread),
                Err(error) => {
                    self.ended = true;
                    return Some(Err(Error::Replica(error.into())));
                }
            }
            self.receiver = Some(receiver);
        }
        let said = self.receiver.as_ref().and_then(|receiver| receiver.recv().ok());
        let item = match said {
            Some(item) => item.transpose(),
            // It panicked: what came before is not all.
            None => Some(Err(Error::Broken("a scan's thread ended before its scan"))),
        };
        self.ended = !matches!(item, Some(Ok(_)));
        item
    }
}

fn read_ahead(
    run: &Run,
    statement: &Statement,
    filter: Option<&KeyFilter>,
    slot: Slot,
    sender: &SyncSender<Ahead>,
) -> Result<()> {
    let mut reader = run.snapshot.reader()?;
    reader.read_much();
    if run.tally.is_some() {
        reader.measure()?;
    }
    let mut meter = Meter::new(run, slot);
    let codec = run.codec(&statement.table);
    let mut prepared = prepare(&reader, statement, &run.query)?;
    let mut rows = prepared.raw_query();
    let mut batcher = Batcher::new(statement, &codec);
    let mut scratch = Vec::new();
    // The first batch is small, so that a plan that stops early stops soon.
    let mut size = BATCH_ROWS / 16;
    meter.execution();
    loop {
        let row = rows.next().map_err(|error| reader.error(error))?;
        if let Some(row) = row {
            meter.row(row);
            if !wanted(filter, row, &mut scratch)? {
                continue;
            }
            // Not held while waiting for the consumer, who may be adding rows of its own.
            batcher.push(row, &mut run.arena.lock())?;
            if batcher.len() < size {
                continue;
            }
            size = BATCH_ROWS;
            if sender.send(Ok(Some(batcher.finish()?))).is_err() {
                break;
            }
        } else {
            // Whether anybody listens to the end does not matter here.
            if batcher.len() == 0 || sender.send(Ok(Some(batcher.finish()?))).is_ok() {
                let _ = sender.send(Ok(None));
            }
            break;
        }
    }
    drop(rows);
    meter.finish(&reader, &statement.sql.text);
    Ok(())
}
