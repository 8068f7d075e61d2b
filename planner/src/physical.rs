//! A plan as DataFusion operators, one for one.
//!
//! Nothing is optimised here or later: the tree is built in its final form, for one partition, so that
//! setting it up costs microseconds.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::SortOptions;
use arrow::datatypes::Schema;
use datafusion::common::{JoinType, NullEquality};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::expressions::{BinaryExpr, Column, NotExpr};
use datafusion::physical_expr::{LexOrdering, PhysicalExpr, PhysicalSortExpr};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode, PhysicalGroupBy};
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::joins::{HashJoinExecBuilder, PartitionMode};
use datafusion::physical_plan::limit::GlobalLimitExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use zql_spec::ast::Direction;

use crate::concat::ConcatExec;
use crate::error::{Error, Result};
use crate::first::FirstPerKeyExec;
use crate::keyed::{KeyedScan, KeyedScanExec};
use crate::lookup::SqliteLookupExec;
use crate::measure::MeasuredExec;
use crate::plan::{Col, Leaf, Match, Op, Rel, Truth};
use crate::run::Run;
use crate::scan::SqliteScanExec;
use crate::statement::{Statement, schema};

/// The operators of a plan whose first one has this number; those below follow in preorder. `keys` are the distinct
/// keys of the parents' rows, if the plan reads them.
pub(crate) fn build(
    run: &Arc<Run>,
    rel: &Rel,
    number: usize,
    keys: Option<&RecordBatch>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let operator = operator(run, rel, number, keys)?;
    Ok(match run.tally {
        Some(_) => Arc::new(MeasuredExec::new(Arc::clone(run), number, operator)),
        None => operator,
    })
}

fn operator(run: &Arc<Run>, rel: &Rel, number: usize, keys: Option<&RecordBatch>) -> Result<Arc<dyn ExecutionPlan>> {
    let table = &run.query.nodes[rel.node].table;
    let (slot, below) = (Some(number), number + 1);
    Ok(match &rel.op {
        Op::Empty => Arc::new(EmptyExec::new(schema(table, &rel.columns))),
        Op::Keys => {
            let batches: Vec<RecordBatch> = keys.cloned().into_iter().collect();
            MemorySourceConfig::try_new_exec(&[batches], schema(table, &rel.columns), None)?
        }
        Op::Scan(leaf) => {
            let statement = Arc::clone(Statement::of(&run.query, leaf, &rel.columns));
            let order = leaf.order.then(|| read_order(run, leaf, rel, &statement.schema)).flatten();
            Arc::new(SqliteScanExec::new(Arc::clone(run), statement, leaf.stream, order, slot))
        }
        Op::Lookup { input, by, leaf } => {
            let statement = Arc::clone(Statement::of(&run.query, leaf, &rel.columns));
            let input = build(run, input, below, keys)?;
            Arc::new(SqliteLookupExec::new(Arc::clone(run), statement, input, by.clone(), slot))
        }
        Op::Join { keys: of_keys, input, on, kind, build_rows } => {
            let number_of_keys = below + input.size();
            if let (Some(scan), Op::Scan(leaf)) = (keyed_scan(run, rel, number), &input.op) {
                let order = leaf.order.then(|| read_order(run, leaf, input, &scan.scan.schema)).flatten();
                let of_keys = build(run, of_keys, number_of_keys, keys)?;
                return Ok(Arc::new(KeyedScanExec::new(Arc::clone(run), scan, of_keys, order)));
            }
            let (of_keys, rows) = (build(run, of_keys, number_of_keys, keys)?, build(run, input, below, keys)?);
            let (of_keys_schema, rows_schema) = (of_keys.schema(), rows.schema());
            let on = on.iter().map(|&(key, row)| {
                let (key, row) = (column(&of_keys_schema, key), column(&rows_schema, row));
                if *build_rows { (row, key) } else { (key, row) }
            });
            let on = on.collect();
            let join_type = match (kind, build_rows) {
                (Match::Semi, false) => JoinType::RightSemi,
                (Match::Semi, true) => JoinType::LeftSemi,
                (Match::Anti, false) => JoinType::RightAnti,
                (Match::Anti, true) => JoinType::LeftAnti,
                (Match::Mark(_), false) => JoinType::RightMark,
                (Match::Mark(_), true) => JoinType::LeftMark,
            };
            let (left, right) = if *build_rows { (rows, of_keys) } else { (of_keys, rows) };
            HashJoinExecBuilder::new(left, right, on, join_type)
                .with_partition_mode(PartitionMode::CollectLeft)
                .with_null_equality(NullEquality::NullEqualsNothing)
                .build_exec()?
        }
        Op::Filter { input, truth } => {
            let built = build(run, input, below, keys)?;
            Arc::new(FilterExec::try_new(predicate(input, &built.schema(), truth)?, built)?)
        }
        Op::Distinct { input } => {
            let built = build(run, input, below, keys)?;
            let schema = built.schema();
            let columns = rel.columns.iter().map(|&wanted| {
                let (expression, position) = of_input(input, &schema, wanted)?;
                Ok((expression, schema.field(position).name().clone()))
            });
            let group = PhysicalGroupBy::new_single(columns.collect::<Result<_>>()?);
            Arc::new(AggregateExec::try_new(AggregateMode::Single, group, Vec::new(), Vec::new(), built, schema)?)
        }
        Op::Concat { inputs } => {
            let mut next = below;
            let built = inputs.iter().map(|input| {
                let number = next;
                next += input.size();
                let positions = rel
                    .columns
                    .iter()
                    .map(|&wanted| input.position(wanted).ok_or_else(|| internal("a column that its input lacks")));
                Ok((build(run, input, number, keys)?, positions.collect::<Result<Vec<_>>>()?))
            });
            Arc::new(ConcatExec::new(schema(table, &rel.columns), built.collect::<Result<_>>()?))
        }
        Op::Sort { input, order, fetch } => {
            let built = build(run, input, below, keys)?;
            let schema = built.schema();
            let order = order.iter().map(|&(column, direction)| {
                let (expression, _) = of_input(input, &schema, Col::Column(column))?;
                Ok(PhysicalSortExpr::new(expression, sort_options(direction)))
            });
            let order = LexOrdering::new(order.collect::<Result<Vec<_>>>()?)
                .ok_or_else(|| internal("a sort without columns"))?;
            Arc::new(SortExec::new(order, built).with_fetch(*fetch))
        }
        Op::First { input, keys: by, limit } => {
            let input = build(run, input, below, keys)?;
            if by.is_empty() {
                Arc::new(GlobalLimitExec::new(input, 0, Some(*limit)))
            } else {
                Arc::new(FirstPerKeyExec::new(input, by.clone(), *limit))
            }
        }
    })
}

/// The join of this number as a scan that looks its rows up, if its rows come from a scan and are kept or dropped by their
/// key alone.
pub(crate) fn keyed_scan(run: &Run, rel: &Rel, number: usize) -> Option<KeyedScan> {
    let Op::Join { input, on, kind: kind @ (Match::Semi | Match::Anti), build_rows: false, .. } = &rel.op else {
        return None;
    };
    let Op::Scan(leaf) = &input.op else { return None };
    let key = on.iter().map(|&(_, row)| match input.columns[row] {
        Col::Column(column) => Some(column),
        _ => None,
    });
    let key = key.collect::<Option<_>>()?;
    Some(KeyedScan {
        scan: Arc::clone(Statement::of(&run.query, leaf, &input.columns)),
        lookup: Arc::clone(Statement::keyed(&run.query, leaf, &input.columns, key)),
        stream: leaf.stream,
        of_rows: on.iter().map(|&(_, row)| row).collect(),
        of_keys: on.iter().map(|&(key, _)| key).collect(),
        negated: *kind == Match::Anti,
        slot: Some(number + 1),
    })
}

/// Nulls come first upwards and last downwards.
fn sort_options(direction: Direction) -> SortOptions {
    let descending = direction == Direction::Desc;
    SortOptions { descending, nulls_first: !descending }
}

/// The leading columns of the node's order that a scan in that order gives.
fn read_order(run: &Run, leaf: &Leaf, rel: &Rel, schema: &Schema) -> Option<LexOrdering> {
    let order = run.query.nodes[leaf.node].order.iter().map_while(|&(of_table, direction)| {
        let (expression, _) = of_input(rel, schema, Col::Column(of_table)).ok()?;
        Some(PhysicalSortExpr::new(expression, sort_options(direction)))
    });
    LexOrdering::new(order)
}

fn predicate(input: &Rel, schema: &Schema, truth: &Truth) -> Result<Arc<dyn PhysicalExpr>> {
    let all = |terms: &[Truth], operator: Operator| -> Result<Arc<dyn PhysicalExpr>> {
        let mut terms = terms.iter().map(|term| predicate(input, schema, term));
        let first = terms.next().ok_or_else(|| internal("a condition without terms"))??;
        terms.try_fold(first, |left, right| {
            Ok(Arc::new(BinaryExpr::new(left, operator, right?)) as Arc<dyn PhysicalExpr>)
        })
    };
    Ok(match truth {
        Truth::Col(wanted) => of_input(input, schema, *wanted)?.0,
        Truth::Not(wanted) => Arc::new(NotExpr::new(of_input(input, schema, *wanted)?.0)),
        Truth::And(terms) => all(terms, Operator::And)?,
        Truth::Or(terms) => all(terms, Operator::Or)?,
    })
}

/// A column of a relation as an expression, and its position.
fn of_input(input: &Rel, schema: &Schema, wanted: Col) -> Result<(Arc<dyn PhysicalExpr>, usize)> {
    let position = input.position(wanted).ok_or_else(|| internal("a column that its input lacks"))?;
    Ok((column(schema, position), position))
}

fn column(schema: &Schema, position: usize) -> Arc<dyn PhysicalExpr> {
    Arc::new(Column::new(schema.field(position).name(), position))
}

fn internal(message: &str) -> Error {
    Error::DataFusion(datafusion::common::DataFusionError::Internal(message.to_owned()))
}
