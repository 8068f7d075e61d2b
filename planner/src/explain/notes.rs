//! What no index would help, or what is worth knowing anyway: correlations, sorts, limits, sizes, patterns.
//!
//! Linear in the report.

use engine::query::{Filter, NodeId, Role};
use zql_spec::ast::{Literal, SimpleOperator};
use zql_spec::value::Value;

use super::Case;
use super::advice::with;
use super::alternatives::{columns, count, name};
use super::candidates::Candidate;
use super::maintenance::same_table;
use super::report::{Advice, NodeReport, Operator, Report};
use crate::choose::Chooser;
use crate::cost::Model;
use crate::plan::{Op, Rel};

/// An answer of more rows than this is worth a word: a client holds all of them, and so does the graph.
const ROWS_MANY: f64 = 10_000.0;

/// Sorting fewer rows than this is not worth a word.
const SORTED_MANY: f64 = 1_000.0;

/// What no index would help, or what is worth knowing anyway.
pub(super) fn notes(case: &Case<'_>, report: &Report, taken: &[Candidate], advice: &mut Vec<Advice>) {
    let model = case.model;
    let served = |node: NodeId, columns: &[usize]| {
        taken.iter().any(|candidate| {
            let leading = candidate.columns.iter().take(columns.len()).map(|&(column, _)| column);
            same_table(model.query, candidate.node, node)
                && candidate.columns.len() >= columns.len()
                && leading.into_iter().all(|column| columns.contains(&column))
        })
    };
    for (id, node) in model.query.nodes.iter().enumerate() {
        if let Some(edge) = &node.edge
            && !model.indexed(id, &edge.child_columns)
            && !served(id, &edge.child_columns)
        {
            let of = columns(model, id, &edge.child_columns);
            let rows = count(model.table_rows(id));
            let why = format!(
                "nothing indexes {of}, by which {} belong to {}: the plan avoids looking them up, but every look-up that it \
                 cannot avoid scans {rows} rows",
                name(model, id),
                name(model, edge.parent)
            );
            advice.push(Advice::note("correlation", why));
        }
        patterns(&node.filter, &mut |column, op, pattern| {
            if model.table_rows(id) >= SORTED_MANY {
                let of = columns(model, id, &[column]);
                let rows = count(model.table_rows(id));
                advice.push(Advice::note(
                    "filter",
                    format!("no index serves {of} {} '{pattern}': it is tested on up to {rows} rows", op.name()),
                ));
            }
        });
    }
    let advised = with(model, &taken.iter().collect::<Vec<_>>());
    for node in &report.nodes {
        let Some(plan) = &node.plan else { continue };
        let of = model.node(node.id);
        // Advice on the table speaks for itself where it helps; what it does not help with is still worth a word.
        let touched = taken.iter().any(|candidate| same_table(model.query, candidate.node, node.id));
        let keys = of.edge.as_ref().map(|edge| edge.child_columns.to_vec()).unwrap_or_default();
        if !(touched && advised.ordered(node.id, &of.filter, &keys)) {
            sorts(model, plan, advice);
        }
        let limit = of.limit.filter(|_| of.role != Role::Exists);
        if let Some(limit) = limit
            && let Some(leaf) = first_access(plan)
        {
            let keeps = |label: &str| ["TopK", "Limit", "First"].iter().any(|word| label.starts_with(word));
            let after = keeps(&plan.label) || plan.inputs.first().is_some_and(|input| keeps(&input.label));
            let rows = leaf.rows.map_or(leaf.rows_estimated, |rows| rows as f64);
            if after && too_many(rows, limit) && (!touched || still_late(&advised, node, limit)) {
                let (rows, of) = (count(rows), name(model, node.id));
                advice.push(Advice::note(
                    "limit",
                    format!("the limit {limit} of {of} cannot be part of the statement: {rows} rows are read to keep {limit}"),
                ));
            }
        }
    }
    if report.maintenance.rows >= ROWS_MANY {
        let (rows, bytes) = (count(report.maintenance.rows), report.maintenance.bytes / 1e6);
        let why = format!(
            "the answer holds {rows} rows: each client gets and keeps all of them, and the graph {bytes:.1} MB; a limit or a \
             narrower filter keeps it small"
        );
        advice.push(Advice::note("size", why));
    }
}

/// Whether a limit leaves so few of the rows that are read for it that it is worth a word.
fn too_many(rows: f64, limit: usize) -> bool {
    rows >= SORTED_MANY && rows >= 10.0 * limit as f64
}

/// Whether a node's limit comes after its rows were read with the indexes that are advised, too.
fn still_late(advised: &Model<'_>, node: &NodeReport, limit: usize) -> bool {
    let keys = node.keys.map(|keys| keys as f64).or(node.keys_estimated).map(|keys| keys as usize);
    let plan = Chooser::new(advised, None).rows(node.id, keys);
    let keeps = |rel: &Rel| matches!(rel.op, Op::Sort { fetch: Some(_), .. } | Op::First { .. });
    let mut read = &plan;
    while let Some(input) = read.inputs().into_iter().next().filter(|input| !matches!(input.op, Op::Keys)) {
        read = input;
    }
    (keeps(&plan) || plan.inputs().into_iter().next().is_some_and(keeps)) && too_many(read.rows, limit)
}

/// The operator at the bottom left: what is read first.
fn first_access(operator: &Operator) -> Option<&Operator> {
    match operator.inputs.first() {
        Some(input) if operator.access.is_none() || input.access.is_some() || !input.inputs.is_empty() => {
            first_access(input)
        }
        _ => operator.access.as_ref().map(|_| operator),
    }
}

fn sorts(model: &Model<'_>, operator: &Operator, advice: &mut Vec<Advice>) {
    if let Some(access) = &operator.access
        && access.sorts
    {
        let visited = access.rows_visited.map(|rows| rows as f64);
        let visited =
            visited.unwrap_or_else(|| model.visit(operator.node, &model.node(operator.node).filter, &[]).rows);
        if visited >= SORTED_MANY {
            let (rows, of) = (count(visited), name(model, operator.node));
            advice.push(Advice::note(
                "sort",
                format!("SQLite visits {rows} rows of {of} and sorts those that pass; no index gives this order"),
            ));
        }
    }
    operator.inputs.iter().for_each(|input| sorts(model, input, advice));
}

/// Calls back for patterns that no index could serve.
fn patterns(filter: &Filter, found: &mut dyn FnMut(usize, SimpleOperator, &str)) {
    match filter {
        Filter::And(filters) | Filter::Or(filters) => filters.iter().for_each(|filter| patterns(filter, found)),
        Filter::Compare(comparison) if matches!(comparison.op, SimpleOperator::Like | SimpleOperator::ILike) => {
            if let Literal::Value(Value::String(pattern)) = &comparison.literal {
                found(comparison.column, comparison.op, pattern);
            }
        }
        Filter::Compare(_) | Filter::Const(_) | Filter::Exists { .. } => {}
    }
}
