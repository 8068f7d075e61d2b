//! Statements for the planner's leaves: any projection and any part of a node's filter.

use std::sync::Arc;

use sqlparser::ast::{BinaryOperator, Expr};
use zql_spec::ast::Direction;

use rusqlite::types::Value as SqliteValue;

use super::condition::{Side, alias, comparable};
use super::{Builder, FilterPart, Likelihoods, Origin, Sql, syntax};
use crate::query::{Filter, NodeId, Query};

/// What a leaf selects of a row.
#[derive(Clone, Copy, Debug)]
pub enum Project<'a> {
    /// SQLite's rowid.
    RowId,
    /// A column as it is compared.
    Column(usize),
    /// Whether a filter over the row holds: 1, or 0 or null if not.
    Truth(&'a Filter),
    /// The visible columns in table order, then `_0_version`.
    WholeRow,
}

/// What the look-up parameters `?1…` must equal.
#[derive(Clone, Copy, Debug)]
pub enum LookUp<'a> {
    /// There are none.
    None,
    /// These columns.
    Columns(&'a [usize]),
    /// SQLite's rowid.
    RowId,
}

/// A leaf's statement.
#[derive(Clone, Copy, Debug)]
pub struct LeafSelect<'a> {
    /// What to select.
    pub project: &'a [Project<'a>],
    /// A filter over the node's rows; an EXISTS in it becomes a correlated EXISTS.
    pub filter: &'a Filter,
    /// What to look up by.
    pub lookup: LookUp<'a>,
    /// Whether to apply the node's start cursor.
    pub start: bool,
    /// Whether to sort in the node's order.
    pub order: bool,
    /// Most rows of the statement.
    pub limit: Option<usize>,
    /// What SQLite is told of the constants.
    pub likelihoods: &'a Arc<Likelihoods>,
}

/// The statement of a leaf.
pub fn leaf_select(query: &Query, node: NodeId, leaf: &LeafSelect<'_>) -> Sql {
    let table = &query.nodes[node].table;
    let name = alias(node);
    let mut conditions = Vec::new();
    let lookup = match leaf.lookup {
        LookUp::None => 0,
        LookUp::Columns(columns) => {
            for (position, &column) in columns.iter().enumerate() {
                let parameter = syntax::parameter(position + 1);
                conditions.push(syntax::binary(comparable(table, &name, column), BinaryOperator::Eq, parameter));
            }
            columns.len()
        }
        LookUp::RowId => {
            conditions.push(syntax::binary(rowid(&name), BinaryOperator::Eq, syntax::parameter(1)));
            1
        }
    };
    let mut builder = Builder::after(lookup);
    builder.likelihoods = Arc::clone(leaf.likelihoods);
    let mut projection = Vec::new();
    for item in leaf.project {
        match item {
            Project::RowId => projection.push(rowid(&name)),
            Project::Column(column) => projection.push(comparable(table, &name, *column)),
            Project::Truth(filter) => projection.push(builder.filter(query, node, filter, FilterPart::Full)),
            Project::WholeRow => {
                projection.extend(table.columns.iter().map(|column| syntax::column(&name, &column.name)));
                projection.push(syntax::column(&name, crate::replica::VERSION_COLUMN));
            }
        }
    }
    if let (true, Some(start)) = (leaf.start, &query.nodes[node].start) {
        conditions.extend(builder.bound(query, node, &start.values, Side::After, !start.exclusive));
    }
    match leaf.filter {
        Filter::Const(true) => {}
        Filter::And(filters) => {
            for filter in filters {
                conditions.push(builder.filter(query, node, filter, FilterPart::Full));
            }
        }
        filter => conditions.push(builder.filter(query, node, filter, FilterPart::Full)),
    }
    let order = if leaf.order { &query.nodes[node].order[..] } else { &[] };
    let order = order
        .iter()
        .map(|&(column, direction)| syntax::sort(comparable(table, &name, column), direction == Direction::Asc))
        .collect();
    let limit = leaf.limit.map(|limit| builder.bind(Origin::Shape, SqliteValue::Integer(limit as i64)));
    let select = syntax::select(projection, syntax::table(&table.name, Some(&name)), conditions, order, limit);
    builder.finish(select.to_string(), lookup)
}

fn rowid(alias: &str) -> Expr {
    Expr::CompoundIdentifier(vec![sqlparser::ast::Ident::new(alias), sqlparser::ast::Ident::new("_rowid_")])
}
