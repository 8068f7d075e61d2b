//! Scans a table for the rows whose key an input has, or has not: a semi or anti join whose rows come from a scan.
//!
//! The keys are collected first. Each row that the statement gives is then looked up before it is decoded, so that what
//! the join drops costs a step of SQLite and a hash. A single key goes into the statement instead: SQLite compares
//! faster than it hands rows out, and may know an index after all.

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::LexOrdering;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};

use crate::error::{Error, Result};
use crate::keys::{KeyFilter, KeySet, collect};
use crate::lookup::probe;
use crate::measure::Slot;
use crate::operator::{common_plan_methods, properties};
use crate::run::Run;
use crate::scan::{ReadAhead, read_all};
use crate::statement::Statement;

/// A scan and what its rows are matched by.
#[derive(Clone, Debug)]
pub(crate) struct KeyedScan {
    /// The scan.
    pub(crate) scan: Arc<Statement>,
    /// The same with the key as its parameters.
    pub(crate) lookup: Arc<Statement>,
    /// Whether the scan runs on a thread of its own.
    pub(crate) stream: bool,
    /// Positions of the key among the columns of the rows.
    pub(crate) of_rows: Vec<usize>,
    /// Positions of the key in the input.
    pub(crate) of_keys: Vec<usize>,
    /// Whether rows are kept that have no key.
    pub(crate) negated: bool,
    /// The number of the scan.
    pub(crate) slot: Slot,
}

impl KeyedScan {
    /// The filter over the scan's rows.
    pub(crate) fn filter(&self, keys: Arc<KeySet>) -> KeyFilter {
        let columns = self.of_rows.iter().map(|&position| self.scan.stored(position)).collect();
        KeyFilter { keys, columns, negated: self.negated }
    }

    /// Whether no row can match, so that none need be read.
    pub(crate) fn matches_none(&self, keys: &KeySet) -> bool {
        keys.len() == 0 && !self.negated
    }

    /// The one key, if there is one alone and the statement can take it.
    pub(crate) fn single<'k>(&self, keys: &KeySet, last: Option<&'k RecordBatch>) -> Option<&'k RecordBatch> {
        last.filter(|_| keys.len() == 1 && !self.negated)
    }
}

/// Scans by keys.
#[derive(Debug)]
pub(crate) struct KeyedScanExec {
    run: Arc<Run>,
    scan: KeyedScan,
    keys: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
}

impl KeyedScanExec {
    pub(crate) fn new(
        run: Arc<Run>,
        scan: KeyedScan,
        keys: Arc<dyn ExecutionPlan>,
        order: Option<LexOrdering>,
    ) -> Self {
        let properties = properties(&scan.scan.schema, order);
        KeyedScanExec { run, scan, keys, properties }
    }

    fn over(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> datafusion::common::Result<Arc<dyn ExecutionPlan>> {
        let keys = children.pop().unwrap_or_else(|| Arc::clone(&self.keys));
        let (run, scan, properties) = (Arc::clone(&self.run), self.scan.clone(), Arc::clone(&self.properties));
        Ok(Arc::new(KeyedScanExec { run, scan, keys, properties }))
    }
}

impl DisplayAs for KeyedScanExec {
    fn fmt_as(&self, _: DisplayFormatType, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "KeyedScanExec: {}", self.scan.scan.sql.text)
    }
}

impl ExecutionPlan for KeyedScanExec {
    common_plan_methods!();

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.keys]
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> datafusion::common::Result<SendableRecordBatchStream> {
        let schema = Arc::clone(&self.scan.scan.schema);
        let (run, scan) = (Arc::clone(&self.run), self.scan.clone());
        let keys = self.keys.execute(partition, context)?;
        let batches = stream::once(read(run, scan, keys)).try_flatten().map_err(Into::into);
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, batches)))
    }
}

async fn read(
    run: Arc<Run>,
    scan: KeyedScan,
    keys: SendableRecordBatchStream,
) -> Result<BoxStream<'static, Result<RecordBatch>>> {
    let (keys, last) = collect(keys, &scan.of_keys).await?;
    if scan.matches_none(&keys) {
        return Ok(stream::empty().boxed());
    }
    if let Some(key) = scan.single(&keys, last.as_ref()) {
        let batch = probe(&run, &scan.lookup, key, &scan.of_keys, scan.slot)?;
        return Ok(stream::iter([Ok::<_, Error>(batch)]).boxed());
    }
    let filter = scan.filter(Arc::new(keys));
    if scan.stream {
        return Ok(stream::iter(ReadAhead::new(run, scan.scan, Some(filter), scan.slot)).boxed());
    }
    let batches = read_all(&run, &scan.scan, Some(&filter), scan.slot)?;
    Ok(stream::iter(batches).map(Ok::<_, Error>).boxed())
}
