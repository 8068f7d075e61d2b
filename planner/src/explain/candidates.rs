//! The indexes that could serve a query and do not exist: for its correlations, its filters and its orders.
//!
//! They are proposals; [`super::advice`] finds out what each is worth. A few for each node of the query.

use engine::query::{Filter, NodeId, Role};
use zql_spec::ast::{Direction, SimpleOperator};

use super::alternatives::{columns, count, name};
use super::maintenance::same_table;
use crate::cost::Model;

/// An index that does not exist.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) node: NodeId,
    pub(super) columns: Vec<(usize, Direction)>,
    /// How many leading columns have one value, if it is to give an order after them.
    pub(super) fixed: usize,
    /// What it would serve.
    pub(super) serves: String,
    pub(super) rows_per_key: Vec<f64>,
}

/// The indexes that could serve a query and do not exist.
pub(super) fn candidates(model: &Model<'_>) -> Vec<Candidate> {
    let mut found: Vec<Candidate> = Vec::new();
    for (id, node) in model.query.nodes.iter().enumerate() {
        let asc = |columns: &[usize]| columns.iter().map(|&column| (column, Direction::Asc)).collect::<Vec<_>>();
        let mut add = |id: NodeId, columns: Vec<(usize, Direction)>, fixed: usize, serves: String| {
            let positions: Vec<usize> = columns.iter().map(|&(column, _)| column).collect();
            let repeated = positions.iter().enumerate().any(|(at, column)| positions[..at].contains(column));
            let known = found.iter().any(|other| same_table(model.query, other.node, id) && other.columns == columns);
            if !positions.is_empty() && !repeated && !known && !model.leads(id, &positions) {
                found.push(Candidate { node: id, columns, fixed, serves, rows_per_key: Vec::new() });
            }
        };
        let (equal, ranged) = fixed(&node.filter);
        let keys = node.edge.as_ref().map(|edge| edge.child_columns.to_vec()).unwrap_or_default();
        let order: Vec<(usize, Direction)> = written_order(model, id);
        let rows = count(model.table_rows(id));
        if let Some(edge) = &node.edge {
            let of = columns(model, id, &keys);
            let serves = format!(
                "nothing indexes {of}, by which {} belong to {}; a look-up scans {rows} rows",
                name(model, id),
                name(model, edge.parent)
            );
            add(id, asc(&keys), 0, serves);
            let more: Vec<usize> =
                keys.iter().copied().chain(equal.iter().copied().filter(|column| !keys.contains(column))).collect();
            let serves = format!("finds the {} of a row and those that pass the filter at once", name(model, id));
            add(id, asc(&more), 0, serves);
            if node.role == Role::Exists {
                let of = columns(model, edge.parent, &edge.parent_columns);
                let serves = format!("nothing indexes {of}, by which rows are found for {}", name(model, id));
                add(edge.parent, asc(&edge.parent_columns), 0, serves);
            }
        }
        for &column in &equal {
            let of = columns(model, id, &[column]);
            add(id, asc(&[column]), 0, format!("nothing indexes {of}, which the query fixes; {rows} rows are scanned"));
        }
        add(id, asc(&equal), 0, format!("the query fixes {} together", columns(model, id, &equal)));
        for &column in &ranged {
            let with: Vec<usize> = equal.iter().copied().chain([column]).collect();
            add(id, asc(&with), 0, format!("the query asks for a range of {}", columns(model, id, &[column])));
        }
        if node.limit.is_some() && node.role != Role::Exists && !order.is_empty() {
            let by: Vec<usize> = order.iter().map(|&(column, _)| column).collect();
            let serves = |fixed: &[usize]| {
                let within =
                    if fixed.is_empty() { String::new() } else { format!(" within {}", columns(model, id, fixed)) };
                format!("the first rows by {}{within} are found by sorting", columns(model, id, &by))
            };
            for fixed in [&keys[..], &equal[..], &[]] {
                let rest = order.iter().filter(|(column, _)| !fixed.contains(column)).copied();
                // One direction can be walked both ways, and is easier to use for something else.
                let one_way = order.iter().all(|(_, direction)| *direction == order[0].1);
                let rest = rest.map(|(column, direction)| (column, if one_way { Direction::Asc } else { direction }));
                add(id, asc(fixed).into_iter().chain(rest).collect(), fixed.len(), serves(fixed));
            }
        }
    }
    found
}

/// The order as it was written: without the columns of the primary key that only complete it.
fn written_order(model: &Model<'_>, id: NodeId) -> Vec<(usize, Direction)> {
    let node = model.node(id);
    let mut order = node.order.clone();
    while order.len() > 1
        && order
            .last()
            .is_some_and(|(column, direction)| *direction == Direction::Asc && node.table.primary_key.contains(column))
    {
        order.pop();
    }
    order
}

/// Columns that a filter fixes to constants, and those that it demands a range of.
fn fixed(filter: &Filter) -> (Vec<usize>, Vec<usize>) {
    let (mut equal, mut ranged) = (Vec::new(), Vec::new());
    let mut take = |filter: &Filter| {
        if let Filter::Compare(comparison) = filter {
            let into = match comparison.op {
                SimpleOperator::Eq | SimpleOperator::Is | SimpleOperator::In => &mut equal,
                SimpleOperator::Lt | SimpleOperator::Le | SimpleOperator::Gt | SimpleOperator::Ge => &mut ranged,
                _ => return,
            };
            if !into.contains(&comparison.column) {
                into.push(comparison.column);
            }
        }
    };
    match filter {
        Filter::And(filters) => filters.iter().for_each(take),
        Filter::Or(filters) => filters.iter().for_each(|filter| match filter {
            // Each branch of a disjunction may use an index of its own.
            Filter::And(filters) => filters.iter().for_each(&mut take),
            filter => take(filter),
        }),
        filter => take(filter),
    }
    (equal, ranged)
}
