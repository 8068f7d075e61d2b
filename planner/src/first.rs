//! Keeps the first rows of each key, in the order in which they come.
//!
//! This is the limit per parent row where it cannot be part of a probe: rows come in the node's order, so
//! the first ones of a key are the wanted ones. It remembers a count for each key it has seen.

use std::fmt;
use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::row::{RowConverter, SortField};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures::StreamExt;
use rustc_hash::FxHashMap;

use crate::error::Result;
use crate::operator::{common_plan_methods, properties};

/// Keeps the first rows of each key.
#[derive(Debug)]
pub(crate) struct FirstPerKeyExec {
    input: Arc<dyn ExecutionPlan>,
    keys: Vec<usize>,
    limit: usize,
    properties: Arc<PlanProperties>,
}

impl FirstPerKeyExec {
    /// Keeps `limit` rows for each combination of values in the columns `keys`.
    pub(crate) fn new(input: Arc<dyn ExecutionPlan>, keys: Vec<usize>, limit: usize) -> Self {
        let properties = properties(&input.schema(), None);
        FirstPerKeyExec { input, keys, limit, properties }
    }

    fn over(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> datafusion::common::Result<Arc<dyn ExecutionPlan>> {
        let input = children.pop().unwrap_or_else(|| Arc::clone(&self.input));
        Ok(Arc::new(FirstPerKeyExec::new(input, self.keys.clone(), self.limit)))
    }
}

impl DisplayAs for FirstPerKeyExec {
    fn fmt_as(&self, _: DisplayFormatType, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "FirstPerKeyExec: keys={:?}, limit={}", self.keys, self.limit)
    }
}

impl ExecutionPlan for FirstPerKeyExec {
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
        let schema = self.input.schema();
        let fields = self.keys.iter().map(|&key| SortField::new(schema.field(key).data_type().clone())).collect();
        let converter = RowConverter::new(fields)?;
        let mut counts = Counts { converter, keys: self.keys.clone(), limit: self.limit, seen: FxHashMap::default() };
        let input = self.input.execute(partition, context)?;
        let batches = input.map(move |batch| Ok(counts.keep(&batch?)?));
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, batches)))
    }
}

struct Counts {
    converter: RowConverter,
    keys: Vec<usize>,
    limit: usize,
    seen: FxHashMap<Box<[u8]>, usize>,
}

impl Counts {
    fn keep(&mut self, batch: &RecordBatch) -> Result<RecordBatch> {
        let columns: Vec<_> = self.keys.iter().map(|&key| Arc::clone(batch.column(key))).collect();
        let rows = self.converter.convert_columns(&columns)?;
        let kept: BooleanArray = rows
            .iter()
            .map(|row| {
                let bytes: &[u8] = row.as_ref();
                let count = match self.seen.get_mut(bytes) {
                    Some(count) => count,
                    None => self.seen.entry(bytes.into()).or_insert(0),
                };
                *count += 1;
                Some(*count <= self.limit)
            })
            .collect();
        Ok(filter_record_batch(batch, &kept)?)
    }
}
