//! Which rows each node of a query has.
//!
//! A node is one table access of the query, numbered in preorder: the root is 0; below each node come
//! first the EXISTS subqueries of its filter in written order (through and/or), each followed by its own
//! subtree, then its related subqueries, of which the last one with an alias counts, in the first one's place.

use std::cmp::Ordering;
use std::sync::Arc;

use super::database::{Database, Row};
use crate::ast::{
    Ast, Bound, Condition, CorrelatedSubquery, Direction, Literal, SimpleOperator, System, ValuePosition,
};
use crate::compare::compare;
use crate::like::ends_with_escape;
use crate::schema::{Schema, Table};
use crate::value::Value;

/// Why a query has no meaning; the text is the protocol's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub String);

/// What a node is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeRole {
    /// The query's own rows.
    Root,
    /// Rows related to a parent row.
    Related,
    /// Rows that decide a filter of a parent row.
    Exists,
}

/// One table access of a query.
#[derive(Clone, Debug)]
pub struct NodeInfo<'a> {
    /// The (sub)query.
    pub ast: &'a Ast,
    /// Its table.
    pub table: &'a Table,
    /// What the node is for.
    pub role: NodeRole,
    /// The parent node and how rows belong to its rows; absent for the root.
    pub parent: Option<(usize, &'a CorrelatedSubquery)>,
    /// Whether clients get the rows. False below a permission.
    pub synced: bool,
    exists: Vec<usize>,
    related: Vec<usize>,
}

/// A query over a database.
#[derive(Clone, Debug)]
pub struct Evaluation<'a> {
    pub(super) database: &'a Database,
    schema: &'a Schema,
    /// The nodes of the query.
    pub nodes: Vec<NodeInfo<'a>>,
}

impl<'a> Evaluation<'a> {
    /// Prepares to answer a query whose static parameters are bound.
    pub fn new(database: &'a Database, ast: &'a Ast) -> Result<Self, Invalid> {
        Self::over(database, &database.schema, ast)
    }

    /// The same for a client that knows the tables by other primary keys.
    pub fn over(database: &'a Database, schema: &'a Schema, ast: &'a Ast) -> Result<Self, Invalid> {
        let mut evaluation = Evaluation { database, schema, nodes: Vec::new() };
        evaluation.add(ast, NodeRole::Root, None, true, true)?;
        Ok(evaluation)
    }

    fn add(
        &mut self,
        ast: &'a Ast,
        role: NodeRole,
        parent: Option<(usize, &'a CorrelatedSubquery)>,
        synced: bool,
        flipped: bool,
    ) -> Result<usize, Invalid> {
        let table = self.schema.table(&ast.table).ok_or_else(|| {
            let known: Vec<&str> = self.schema.tables.keys().map(|name| &**name).collect();
            Invalid(format!(
                "table '{}' is not one of: {}. Check the spelling and ensure that the table has a primary key.",
                ast.table,
                known.join(",")
            ))
        })?;
        if let Some((parent, subquery)) = parent {
            let correlation = &subquery.correlation;
            if correlation.parent_field.len() != correlation.child_field.len() {
                return Err(Invalid("Correlation fields must have the same length".into()));
            }
            for column in &correlation.parent_field {
                require_column(self.nodes[parent].table, column)?;
            }
            for column in &correlation.child_field {
                require_column(table, column)?;
            }
            if ast.alias.is_none() {
                return Err(Invalid("Subquery must have an alias".into()));
            }
        }
        if role == NodeRole::Exists && !flipped && ast.start.is_some() {
            return Err(Invalid("EXISTS subqueries must not have start".into()));
        }
        if role == NodeRole::Exists && !flipped && !ast.related.is_empty() {
            return Err(Invalid("EXISTS subqueries must not have related".into()));
        }
        if ast.limit.is_some_and(|limit| limit < 0.0) {
            return Err(Invalid("Limit must be non-negative".into()));
        }
        let cursor = ast.start.iter().flat_map(|start| start.row.iter().map(|(column, _)| column));
        for column in ast.order_by.iter().map(|(column, _)| column).chain(cursor) {
            require_column(table, column)?;
        }
        let id = self.nodes.len();
        self.nodes.push(NodeInfo { ast, table, role, parent, synced, exists: Vec::new(), related: Vec::new() });
        if let Some(condition) = &ast.r#where {
            self.add_exists(condition, id, synced)?;
        }
        for related in effective(&ast.related) {
            let synced = synced && related.system != System::Permissions;
            let child = self.add(&related.subquery, NodeRole::Related, Some((id, related)), synced, false)?;
            self.nodes[id].related.push(child);
        }
        Ok(id)
    }

    fn add_exists(&mut self, condition: &'a Condition, id: usize, synced: bool) -> Result<(), Invalid> {
        match condition {
            Condition::And(conditions) | Condition::Or(conditions) => {
                conditions.iter().try_for_each(|condition| self.add_exists(condition, id, synced))
            }
            Condition::Exists { related, flip, .. } => {
                let synced = synced && related.system != System::Permissions;
                let flipped = *flip == Some(true);
                let child = self.add(&related.subquery, NodeRole::Exists, Some((id, related)), synced, flipped)?;
                self.nodes[id].exists.push(child);
                Ok(())
            }
            Condition::Simple { op, left, right } => {
                if let ValuePosition::Column(column) = left {
                    require_column(self.nodes[id].table, column)?;
                }
                let bound = |position: &ValuePosition| !matches!(position, ValuePosition::Static { .. });
                let ValuePosition::Literal(right) = right else { return Err(unbound()) };
                if !bound(left) {
                    return Err(unbound());
                }
                use SimpleOperator::{ILike, Like, NotILike, NotLike};
                match right {
                    Literal::Value(Value::String(pattern))
                        if matches!(op, Like | NotLike | ILike | NotILike) && ends_with_escape(pattern) =>
                    {
                        Err(Invalid("LIKE pattern must not end with escape character".into()))
                    }
                    _ => Ok(()),
                }
            }
        }
    }

    /// The rows of a node for one row of its parent node (none for the root), in order. All that match
    /// for an EXISTS node, whose limit, unless it is zero, has no effect on what the query means.
    pub fn rows(&self, id: usize, parent_row: Option<&[Value]>) -> Vec<Row> {
        let node = &self.nodes[id];
        let order = completed_order(node.ast, node.table);
        let mut rows: Vec<Row> = self
            .database
            .rows(&node.ast.table)
            .filter(|row| match (node.parent, parent_row) {
                (Some((parent, subquery)), Some(parent_row)) => {
                    joined(self.nodes[parent].table, parent_row, subquery, node.table, row)
                }
                _ => true,
            })
            .filter(|row| node.ast.start.as_ref().is_none_or(|start| after(start, node.table, &order, row)))
            .filter(|row| self.passes(id, row))
            .map(Arc::clone)
            .collect();
        rows.sort_by(|a, b| compare_rows(&order, a, b));
        let limit =
            node.ast.limit.filter(|limit| limit.fract() == 0.0 && (node.role != NodeRole::Exists || *limit == 0.0));
        if let Some(limit) = limit {
            rows.truncate(limit as usize);
        }
        rows
    }

    /// The related child nodes of a node.
    pub fn related(&self, id: usize) -> &[usize] {
        &self.nodes[id].related
    }

    /// Whether a row passes the filter of a node.
    pub fn passes(&self, id: usize, row: &[Value]) -> bool {
        let node = &self.nodes[id];
        let mut exists = node.exists.iter().copied();
        node.ast.r#where.as_ref().is_none_or(|condition| self.holds(condition, node.table, row, &mut exists))
    }

    /// Takes from `exists` the nodes of the EXISTS conditions in written order; so nothing is cut short.
    fn holds(
        &self,
        condition: &Condition,
        table: &Table,
        row: &[Value],
        exists: &mut dyn Iterator<Item = usize>,
    ) -> bool {
        match condition {
            Condition::And(conditions) | Condition::Or(conditions) => {
                let held: Vec<bool> =
                    conditions.iter().map(|condition| self.holds(condition, table, row, exists)).collect();
                match condition {
                    Condition::And(_) => !held.contains(&false),
                    _ => held.contains(&true),
                }
            }
            Condition::Exists { negated, .. } => {
                let node = exists.next().expect("every EXISTS condition has a node");
                self.rows(node, Some(row)).is_empty() == *negated
            }
            Condition::Simple { op, left, right } => {
                let ValuePosition::Literal(right) = right else { return false };
                match left {
                    ValuePosition::Column(name) => compare(value(table, row, name), *op, right),
                    ValuePosition::Literal(Literal::Value(left)) => compare(left, *op, right),
                    _ => false,
                }
            }
        }
    }
}

fn unbound() -> Invalid {
    Invalid("static values should be resolved before creating predicates".into())
}

fn require_column(table: &Table, column: &str) -> Result<(), Invalid> {
    match table.column_index(column) {
        Some(_) => Ok(()),
        None => Err(Invalid(format!("no such column: {}.{column}", table.name))),
    }
}

fn value<'r>(table: &Table, row: &'r [Value], column: &str) -> &'r Value {
    &row[table.column_index(column).expect("columns were checked")]
}

/// Related subqueries by alias: the last one counts, in the place of the first.
fn effective(related: &[CorrelatedSubquery]) -> Vec<&CorrelatedSubquery> {
    let last = |alias| related.iter().rfind(|other| other.subquery.alias == alias);
    let first = |i: usize| related[..i].iter().all(|other| other.subquery.alias != related[i].subquery.alias);
    (0..related.len()).filter(|&i| first(i)).filter_map(|i| last(related[i].subquery.alias.clone())).collect()
}

/// Whether a row belongs to a parent row. Null equals nothing.
fn joined(parent: &Table, parent_row: &[Value], subquery: &CorrelatedSubquery, table: &Table, row: &[Value]) -> bool {
    let correlation = &subquery.correlation;
    correlation
        .parent_field
        .iter()
        .zip(&correlation.child_field)
        .all(|(of_parent, of_child)| value(parent, parent_row, of_parent).joins(value(table, row, of_child)))
}

/// The written order and then the columns of the primary key. Repeated columns do no harm.
pub(super) fn completed_order(ast: &Ast, table: &Table) -> Vec<(usize, Direction)> {
    let written = ast
        .order_by
        .iter()
        .map(|(name, direction)| (table.column_index(name).expect("columns were checked"), *direction));
    written.chain(table.primary_key.iter().map(|&column| (column, Direction::Asc))).collect()
}

fn directed(order: Ordering, direction: Direction) -> Ordering {
    match direction {
        Direction::Asc => order,
        Direction::Desc => order.reverse(),
    }
}

pub(super) fn compare_rows(order: &[(usize, Direction)], a: &[Value], b: &[Value]) -> Ordering {
    order
        .iter()
        .map(|&(column, direction)| directed(a[column].cmp(&b[column]), direction))
        .find(|order| order.is_ne())
        .unwrap_or(Ordering::Equal)
}

/// Whether a row comes after a cursor. Columns that the cursor lacks count as null.
fn after(start: &Bound, table: &Table, order: &[(usize, Direction)], row: &[Value]) -> bool {
    let cursor = |column: usize| {
        let name = &table.columns[column].name;
        start.row.iter().find(|(other, _)| other == name).map_or(Value::Null, |(_, value)| value.clone())
    };
    let order = order
        .iter()
        .map(|&(column, direction)| directed(cursor(column).cmp(&row[column]), direction))
        .find(|order| order.is_ne())
        .unwrap_or(Ordering::Equal);
    order.is_lt() || (order.is_eq() && !start.exclusive)
}
