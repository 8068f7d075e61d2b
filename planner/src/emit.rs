//! Gives the rows of a node as its plan finds them.
//!
//! Most plans end in a statement that reads whole rows. Such a row is handed on as SQLite has it, and decoded only if
//! somebody keeps it: it neither waits in the arena nor travels as a number. Only rows that are sorted or joined after
//! they were read whole do.

use std::sync::Arc;
use std::time::Instant;

use arrow::array::AsArray;
use arrow::datatypes::UInt32Type;
use datafusion::execution::TaskContext;
use engine::hydration::FoundRow;

use crate::error::Result;
use crate::in_place::{collect, each_batch};
use crate::keys::GivenKeys;
use crate::lookup;
use crate::physical::keyed_scan;
use crate::plan::{Col, Op, Rel};
use crate::run::Run;
use crate::scan;
use crate::statement::Statement;

/// The cost of a plan, in microseconds, from which on its reads are much: well above what mapping the file takes.
const MUCH: f64 = 250.0;

/// Takes a row.
pub(crate) type Found<'a> = dyn FnMut(FoundRow<'_>) -> Result<()> + 'a;

/// Runs the plan of a node. `keys` are those of the parents' rows, if the node has a parent.
pub(crate) fn emit(
    run: &Arc<Run>,
    plan: &Rel,
    keys: Option<&GivenKeys>,
    context: &Arc<TaskContext>,
    found: &mut Found<'_>,
) -> Result<()> {
    let Some(tally) = &run.tally else { return emit_rows(run, plan, keys, context, found) };
    let begun = Instant::now();
    let mut rows = 0;
    emit_rows(run, plan, keys, context, &mut |row| {
        rows += 1;
        found(row)
    })?;
    tally.set(0, rows, begun.elapsed());
    Ok(())
}

/// The operators of a plan are numbered in preorder, so that a run can be measured; the plan itself is the first.
fn emit_rows(
    run: &Arc<Run>,
    plan: &Rel,
    keys: Option<&GivenKeys>,
    context: &Arc<TaskContext>,
    found: &mut Found<'_>,
) -> Result<()> {
    if plan.cost > MUCH {
        run.reader.lock().read_much();
    }
    let batch = keys.map(|keys| &keys.batch);
    if plan.columns.contains(&Col::Row) {
        match &plan.op {
            Op::Scan(leaf) => {
                return scan::emit(run, Statement::of(&run.query, leaf, &plan.columns), None, Some(0), found);
            }
            Op::Lookup { input, by, leaf } => {
                let statement = Statement::of(&run.query, leaf, &plan.columns);
                if let (Op::Keys, Some(batch)) = (&input.op, batch) {
                    return lookup::emit(run, statement, batch, by, Some(0), found);
                }
                return each_batch(run, input, 1, batch, context, &mut |batch| {
                    lookup::emit(run, statement, &batch, by, Some(0), found)
                });
            }
            Op::Join { keys: of_keys, input, .. } => {
                if let Some(scan) = keyed_scan(run, plan, 0) {
                    let (set, last, columns) = match (&of_keys.op, keys) {
                        (Op::Keys, Some(given)) => {
                            (Arc::clone(&given.set), Some(given.batch.slice(0, 1)), scan.of_keys.clone())
                        }
                        _ => {
                            let number = 1 + input.size();
                            let wanted = collect(run, of_keys, number, batch, context, &scan.of_keys)?;
                            (Arc::new(wanted.set), wanted.last, wanted.columns)
                        }
                    };
                    return match scan.single(&set, last.as_ref()) {
                        _ if scan.matches_none(&set) => Ok(()),
                        Some(key) => lookup::emit(run, &scan.lookup, key, &columns, scan.slot, found),
                        None => scan::emit(run, &scan.scan, Some(&scan.filter(set)), scan.slot, found),
                    };
                }
            }
            _ => {}
        }
    }
    run.arena.lock().clear();
    let position = plan.position(Col::Row).unwrap_or(0);
    each_batch(run, plan, 0, batch, context, &mut |batch| {
        for &position in batch.column(position).as_primitive::<UInt32Type>().values() {
            let row = run.arena.lock().take(position)?;
            found(FoundRow::Decoded(row))?;
        }
        Ok(())
    })
}
