//! The rows of one input after the other.
//!
//! DataFusion's union runs its inputs as partitions, which only tasks of a runtime can bring together again;
//! a hydration runs on one thread, so it takes them in turn. Nothing is kept.

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures::{StreamExt, stream};

use crate::operator::{common_plan_methods, properties};

/// Gives the rows of its inputs in turn.
#[derive(Debug)]
pub(crate) struct ConcatExec {
    inputs: Vec<Arc<dyn ExecutionPlan>>,
    /// For each input, where it has the columns.
    columns: Vec<Vec<usize>>,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
}

impl ConcatExec {
    /// Gives rows of this schema: of each input, the columns at these positions.
    pub(crate) fn new(schema: SchemaRef, inputs: Vec<(Arc<dyn ExecutionPlan>, Vec<usize>)>) -> Self {
        let properties = properties(&schema, None);
        let (inputs, columns) = inputs.into_iter().unzip();
        ConcatExec { inputs, columns, schema, properties }
    }

    fn over(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> datafusion::common::Result<Arc<dyn ExecutionPlan>> {
        let inputs = children.into_iter().zip(self.columns.iter().cloned()).collect();
        Ok(Arc::new(ConcatExec::new(Arc::clone(&self.schema), inputs)))
    }
}

impl DisplayAs for ConcatExec {
    fn fmt_as(&self, _: DisplayFormatType, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "ConcatExec")
    }
}

impl ExecutionPlan for ConcatExec {
    common_plan_methods!();

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        self.inputs.iter().collect()
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> datafusion::common::Result<SendableRecordBatchStream> {
        let schema = Arc::clone(&self.schema);
        let mut streams = Vec::with_capacity(self.inputs.len());
        for (input, columns) in self.inputs.iter().zip(&self.columns) {
            let (columns, schema) = (columns.clone(), Arc::clone(&schema));
            let of_input = input.execute(partition, Arc::clone(&context))?;
            streams.push(of_input.map(move |batch| {
                let batch = batch?;
                let columns = columns.iter().map(|&column| Arc::clone(batch.column(column))).collect();
                Ok(RecordBatch::try_new(Arc::clone(&schema), columns)?)
            }));
        }
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, stream::iter(streams).flatten())))
    }
}
