//! The parts of a plan that only read SQLite, run without operators of DataFusion.
//!
//! Setting an operator up costs more than reading a few rows does, and the plans of most queries end in look-ups by keys that
//! one statement gives. So scans, look-ups, scans by keys, what follows each other and distinct rowids are run here, batch by
//! batch, on the thread that asks. Every other join, and all that sorts or counts, is DataFusion's, and so is a run that is
//! measured, operator by operator. Memory is that of the operators: the batches of a short scan, and a set of rowids.

use std::sync::Arc;

use arrow::array::{AsArray, Int64Array, RecordBatch};
use arrow::datatypes::Int64Type;
use datafusion::execution::TaskContext;
use futures::StreamExt;
use futures::executor::block_on;
use rustc_hash::FxHashSet;

use crate::error::{Error, Result};
use crate::keys::{KeyFilter, KeySet};
use crate::lookup;
use crate::physical::{self, keyed_scan};
use crate::plan::{Col, Op, Rel};
use crate::run::Run;
use crate::scan::{self, ReadAhead};
use crate::statement::Statement;

/// Takes a batch.
pub(crate) type Take<'a> = dyn FnMut(RecordBatch) -> Result<()> + 'a;

/// Runs a plan and hands its batches on. Its first operator has this number; `keys` are those of the parents' rows.
pub(crate) fn each_batch(
    run: &Arc<Run>,
    plan: &Rel,
    number: usize,
    keys: Option<&RecordBatch>,
    context: &Arc<TaskContext>,
    take: &mut Take<'_>,
) -> Result<()> {
    if run.tally.is_none() {
        match &plan.op {
            Op::Keys => return keys.cloned().map_or(Ok(()), take),
            Op::Scan(leaf) => {
                let statement = Statement::of(&run.query, leaf, &plan.columns);
                return each_of_scan(run, statement, leaf.stream, None, take);
            }
            Op::Lookup { input, by, leaf } => {
                let statement = Statement::of(&run.query, leaf, &plan.columns);
                return each_batch(run, input, number + 1, keys, context, &mut |batch| {
                    take(lookup::probe(run, statement, &batch, by, None)?)
                });
            }
            Op::Concat { inputs } if inputs.iter().all(|input| input.columns == plan.columns) => {
                let mut number = number + 1;
                for input in inputs {
                    each_batch(run, input, number, keys, context, take)?;
                    number += input.size();
                }
                return Ok(());
            }
            Op::Distinct { input } if plan.columns == [Col::RowId] && input.columns == plan.columns => {
                let mut seen = FxHashSet::default();
                return each_batch(run, input, number + 1, keys, context, &mut |batch| {
                    let ids = batch.column(0).as_primitive::<Int64Type>().values();
                    let new: Int64Array = ids.iter().copied().filter(|&id| seen.insert(id)).collect::<Vec<_>>().into();
                    take(RecordBatch::try_new(batch.schema(), vec![Arc::new(new)]).map_err(Error::from)?)
                });
            }
            Op::Join { keys: of_keys, input, .. } => {
                if let Some(scan) = keyed_scan(run, plan, number) {
                    let wanted = collect(run, of_keys, number + 1 + input.size(), keys, context, &scan.of_keys)?;
                    return match scan.single(&wanted.set, wanted.last.as_ref()) {
                        _ if scan.matches_none(&wanted.set) => Ok(()),
                        Some(key) => take(lookup::probe(run, &scan.lookup, key, &wanted.columns, None)?),
                        None => {
                            let filter = scan.filter(Arc::new(wanted.set));
                            each_of_scan(run, &scan.scan, scan.stream, Some(filter), take)
                        }
                    };
                }
            }
            _ => {}
        }
    }
    let mut batches = physical::build(run, plan, number, keys)?.execute(0, Arc::clone(context))?;
    while let Some(batch) = block_on(batches.next()) {
        take(batch?)?;
    }
    Ok(())
}

fn each_of_scan(
    run: &Arc<Run>,
    statement: &Arc<Statement>,
    stream: bool,
    filter: Option<KeyFilter>,
    take: &mut Take<'_>,
) -> Result<()> {
    if stream {
        return ReadAhead::new(Arc::clone(run), Arc::clone(statement), filter, None).try_for_each(|batch| take(batch?));
    }
    scan::read_all(run, statement, filter.as_ref(), None)?.into_iter().try_for_each(take)
}

/// Keys that rows are matched by.
pub(crate) struct Wanted {
    pub(crate) set: KeySet,
    /// The last one that was new, as a row of its own.
    pub(crate) last: Option<RecordBatch>,
    /// Where that row has the columns of the key.
    pub(crate) columns: Vec<usize>,
}

/// Collects the keys that a plan gives in these of its columns. A set needs nothing distinct, so what would make it so is
/// left out.
pub(crate) fn collect(
    run: &Arc<Run>,
    plan: &Rel,
    number: usize,
    keys: Option<&RecordBatch>,
    context: &Arc<TaskContext>,
    columns: &[usize],
) -> Result<Wanted> {
    let below = match &plan.op {
        Op::Distinct { input } if run.tally.is_none() => {
            let positions: Option<Vec<usize>> =
                columns.iter().map(|&column| input.position(plan.columns[column])).collect();
            positions.map(|positions| (&**input, number + 1, positions))
        }
        _ => None,
    };
    let (plan, number, columns) = below.unwrap_or_else(|| (plan, number, columns.to_vec()));
    let mut wanted = Wanted { set: KeySet::default(), last: None, columns };
    each_batch(run, plan, number, keys, context, &mut |batch| {
        if let Some(row) = wanted.set.add_batch(&batch, &wanted.columns) {
            wanted.last = Some(batch.slice(row, 1));
        }
        Ok(())
    })?;
    Ok(wanted)
}
