//! What a plan depends on of a query: everything but its constants, and of these what kind they are.
//!
//! Two queries with one shape have the same nodes, so that a plan for the one is a plan for the other, and the same
//! SQL text with other values. Of constants it holds what decides the text (type, null, text that looks like a number,
//! patterns that SQLite can match itself, lists of no or one value) and how long a list is, roughly. Table definitions are
//! not part of it: shapes are compared within one schema.

use engine::query::{Filter, Node, Query};
use engine::sql::{fits, is_glob, looks_numeric};
use smallvec::SmallVec;
use zql_spec::ast::{Direction, Literal, SimpleOperator};
use zql_spec::value::Value;

/// The bytes of a shape: those of a query of few nodes take no allocation.
pub(crate) type Shape = SmallVec<[u8; 256]>;

/// The shape of a query as bytes.
pub(crate) fn shape(query: &Query) -> Shape {
    let mut shape = Shape::new();
    for node in &query.nodes {
        write_node(node, &mut shape);
    }
    shape
}

fn number(number: usize, out: &mut Shape) {
    out.extend_from_slice(&(number as u64).to_le_bytes());
}

fn small(number: usize, out: &mut Shape) {
    match u8::try_from(number) {
        Ok(number) if number < u8::MAX => out.push(number),
        _ => {
            out.push(u8::MAX);
            self::number(number, out);
        }
    }
}

fn list(numbers: &[usize], out: &mut Shape) {
    small(numbers.len(), out);
    numbers.iter().for_each(|&number| small(number, out));
}

fn write_node(node: &Node, out: &mut Shape) {
    small(node.table.name.len(), out);
    out.extend_from_slice(node.table.name.as_bytes());
    small(node.table.columns.len(), out);
    // A client may know a table by another of its keys.
    list(&node.table.primary_key, out);
    out.extend([node.role as u8, u8::from(node.synced)]);
    match &node.edge {
        None => out.push(0),
        Some(edge) => {
            out.push(1);
            small(edge.parent, out);
            list(&edge.parent_columns, out);
            list(&edge.child_columns, out);
        }
    }
    match node.limit {
        None => out.push(0),
        Some(limit) => {
            out.push(1);
            number(limit, out);
        }
    }
    small(node.order.len(), out);
    for &(column, direction) in &node.order {
        small(column, out);
        out.push(u8::from(direction == Direction::Desc));
    }
    match &node.start {
        None => out.push(0),
        Some(start) => {
            out.push(1 + u8::from(start.exclusive));
            start.values.iter().for_each(|value| out.push(kind(value)));
        }
    }
    write_filter(node, &node.filter, out);
}

fn write_filter(node: &Node, filter: &Filter, out: &mut Shape) {
    match filter {
        Filter::Const(truth) => out.extend([0, u8::from(*truth)]),
        Filter::And(filters) | Filter::Or(filters) => {
            out.push(if matches!(filter, Filter::And(_)) { 1 } else { 2 });
            small(filters.len(), out);
            filters.iter().for_each(|filter| write_filter(node, filter, out));
        }
        Filter::Exists { node, negated } => {
            out.extend([3, u8::from(*negated)]);
            small(*node, out);
        }
        Filter::Compare(comparison) => {
            out.extend([4, comparison.op as u8]);
            small(comparison.column, out);
            match &comparison.literal {
                Literal::Value(value) if !value.is_null() && is_pattern(comparison.op) => {
                    out.push(8 + u8::from(is_glob(value)));
                }
                Literal::Value(value) => out.push(kind(value)),
                Literal::List(values) => {
                    let value_type = node.table.columns[comparison.column].value_type;
                    let fitting = values.iter().filter(|value| fits(value_type, value)).count();
                    out.push(16 + fitting.min(2) as u8);
                    out.push(values.len().checked_ilog2().map_or(0, |log| 1 + log as u8));
                }
            }
        }
    }
}

fn is_pattern(op: SimpleOperator) -> bool {
    use SimpleOperator as Op;
    matches!(op, Op::Like | Op::NotLike | Op::ILike | Op::NotILike)
}

/// What of a value may decide how SQL is written.
fn kind(value: &Value) -> u8 {
    match value {
        Value::Null => 0,
        Value::Bool(_) => 1,
        Value::Number(_) => 2,
        Value::Json(_) => 3,
        Value::String(text) if looks_numeric(text) => 4,
        Value::String(_) => 5,
    }
}
