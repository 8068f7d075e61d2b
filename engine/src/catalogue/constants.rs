//! Columns whose values a query fixes.
//!
//! A row that matters to a node has one of a few constant values in some columns: because the node's
//! filter says so, or because the parent's column that it equals, or that of an EXISTS that must hold,
//! is fixed. Routing looks rows up by these columns. Linear in the query.

use rustc_hash::FxHashMap;
use zql_spec::ast::{Literal, SimpleOperator};
use zql_spec::value::Value;

use crate::graph::packed::Packed;
use crate::query::{Filter, Query};

/// Longest IN list that counts as a constant: every value is an entry of the routing index.
const MAX_VALUES: usize = 64;

/// Most columns looked up together; more would not tell queries much better apart.
const MAX_COLUMNS: usize = 3;

/// The columns of a node that are fixed, each with its possible values.
#[derive(Clone, Debug, Default)]
struct Fixed {
    columns: FxHashMap<usize, Vec<Value>>,
    /// Whether the parent fixes one of them.
    from_above: bool,
}

/// Fixed columns and the values they may have together. By default no columns, which all rows share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Anchor {
    /// Positions, ascending.
    pub(super) columns: Vec<usize>,
    /// Values of these columns.
    pub(super) values: Vec<Packed>,
    /// Whether the parent's rows have a part in it.
    pub(super) from_above: bool,
}

impl Default for Anchor {
    fn default() -> Self {
        Anchor { columns: Vec::new(), values: vec![Packed::default()], from_above: false }
    }
}

/// The anchor of each node, where there is one.
pub(super) fn anchors(query: &Query) -> Vec<Option<Anchor>> {
    let mut fixed: Vec<Fixed> = vec![Fixed::default(); query.nodes.len()];
    for id in (0..query.nodes.len()).rev() {
        let mut own = Fixed::default();
        conjuncts(&query.nodes[id].filter, &mut |filter| conjunct(query, filter, &fixed, &mut own));
        fixed[id] = own;
    }
    for id in 0..query.nodes.len() {
        let Some(edge) = &query.nodes[id].edge else { continue };
        for (parent, &child) in edge.parent_columns.iter().zip(&edge.child_columns) {
            if let Some(values) = fixed[edge.parent].columns.get(parent).cloned() {
                fixed[id].columns.entry(child).or_insert(values);
                fixed[id].from_above = true;
            }
        }
    }
    fixed.into_iter().map(anchor).collect()
}

fn conjuncts<'a>(filter: &'a Filter, found: &mut dyn FnMut(&'a Filter)) {
    match filter {
        Filter::And(filters) => filters.iter().for_each(|filter| conjuncts(filter, found)),
        filter => found(filter),
    }
}

fn conjunct(query: &Query, filter: &Filter, fixed: &[Fixed], own: &mut Fixed) {
    match filter {
        Filter::Compare(comparison) => {
            let values = match (comparison.op, &comparison.literal) {
                (SimpleOperator::Eq | SimpleOperator::Is, Literal::Value(value)) if !value.is_null() => {
                    vec![value.clone()]
                }
                (SimpleOperator::In, Literal::List(values)) if values.len() <= MAX_VALUES => values.clone(),
                _ => return,
            };
            fix(own, comparison.column, values);
        }
        Filter::Exists { node, negated: false } => {
            if let Some(edge) = &query.nodes[*node].edge {
                for (&parent, child) in edge.parent_columns.iter().zip(&edge.child_columns) {
                    if let Some(values) = fixed[*node].columns.get(child) {
                        fix(own, parent, values.clone());
                    }
                }
            }
        }
        _ => {}
    }
}

/// Of two sets of values for a column both must hold; the shorter is kept.
fn fix(fixed: &mut Fixed, column: usize, values: Vec<Value>) {
    let kept = fixed.columns.entry(column).or_insert_with(|| values.clone());
    if values.len() < kept.len() {
        *kept = values;
    }
}

/// Picks the columns with the fewest values, and of those with more than one value one at most.
fn anchor(fixed: Fixed) -> Option<Anchor> {
    let mut columns: Vec<(usize, Vec<Value>)> = fixed.columns.into_iter().collect();
    columns.sort_by_key(|(column, values)| (values.len() > 1, values.len(), *column));
    let single = columns.iter().take_while(|(_, values)| values.len() <= 1).count();
    columns.truncate((single + 1).min(MAX_COLUMNS));
    if columns.is_empty() {
        return None;
    }
    columns.sort_by_key(|(column, _)| *column);
    let mut rows: Vec<Vec<Value>> = vec![Vec::new()];
    for (_, values) in &columns {
        let with = |row: &Vec<Value>, value: &Value| row.iter().chain([value]).cloned().collect();
        rows = rows.iter().flat_map(|row| values.iter().map(move |value| with(row, value))).collect();
    }
    let mut values: Vec<Packed> = rows.iter().map(Packed::of).collect();
    values.sort();
    values.dedup();
    let columns = columns.into_iter().map(|(column, _)| column).collect();
    Some(Anchor { columns, values, from_above: fixed.from_above })
}
