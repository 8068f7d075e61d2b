//! Short forms for schemas, values and queries.

use std::sync::Arc;

use zql_spec::ast::{
    Ast, Bound, Condition, CorrelatedSubquery, Correlation, Direction, Literal, SimpleOperator, System, ValuePosition,
};
use zql_spec::schema::{Column, Schema, Table, ValueType};
use zql_spec::value::Value;

/// A value from what a test writes: `n(1)`, `s("a")`.
pub(crate) fn n(number: impl Into<f64>) -> Value {
    Value::Number(number.into())
}

pub(crate) fn s(text: &str) -> Value {
    Value::string(text)
}

pub(crate) const NULL: Value = Value::Null;

/// A table; columns of the key are marked with `*`.
pub(crate) fn table(name: &str, columns: &[&str]) -> Table {
    let primary_key: Vec<usize> =
        columns.iter().enumerate().filter(|(_, column)| column.starts_with('*')).map(|(index, _)| index).collect();
    let columns = columns.iter().map(|column| Column {
        name: Arc::from(column.trim_start_matches('*')),
        value_type: ValueType::String,
        nullable: !column.starts_with('*'),
    });
    Table { name: Arc::from(name), columns: columns.collect(), unique_keys: vec![primary_key.clone()], primary_key }
}

pub(crate) fn schema(tables: &[(&str, &[&str])]) -> Schema {
    Schema::new(tables.iter().map(|(name, columns)| table(name, columns)))
}

/// A query under construction.
pub(crate) fn from(table: &str) -> Ast {
    Ast { table: Arc::from(table), alias: Some(Arc::from(table)), ..Ast::default() }
}

pub(crate) trait Build: Sized {
    fn filter(self, condition: Condition) -> Self;
    fn order(self, column: &str, direction: Direction) -> Self;
    fn first(self, limit: usize) -> Self;
    fn start(self, row: &[(&str, Value)], exclusive: bool) -> Self;
    fn related(self, alias: &str, parent: &str, child: &str, ast: Ast) -> Self;
}

impl Build for Ast {
    fn filter(mut self, condition: Condition) -> Self {
        self.r#where = Some(match self.r#where.take() {
            None => condition,
            Some(other) => Condition::And(vec![other, condition]),
        });
        self
    }

    fn order(mut self, column: &str, direction: Direction) -> Self {
        self.order_by.push((Arc::from(column), direction));
        self
    }

    fn first(mut self, limit: usize) -> Self {
        self.limit = Some(limit as f64);
        self
    }

    fn start(mut self, row: &[(&str, Value)], exclusive: bool) -> Self {
        let row = row.iter().map(|(column, value)| (Arc::from(*column), value.clone())).collect();
        self.start = Some(Bound { row, exclusive });
        self
    }

    fn related(mut self, alias: &str, parent: &str, child: &str, ast: Ast) -> Self {
        self.related.push(subquery(alias, parent, child, ast));
        self
    }
}

fn subquery(alias: &str, parent: &str, child: &str, mut ast: Ast) -> CorrelatedSubquery {
    ast.alias = Some(Arc::from(alias));
    let correlation = Correlation { parent_field: vec![Arc::from(parent)], child_field: vec![Arc::from(child)] };
    CorrelatedSubquery { correlation, subquery: Box::new(ast), hidden: false, system: System::Client }
}

pub(crate) fn cmp(column: &str, op: SimpleOperator, value: Value) -> Condition {
    let left = ValuePosition::Column(Arc::from(column));
    Condition::Simple { op, left, right: ValuePosition::Literal(Literal::Value(value)) }
}

pub(crate) fn eq(column: &str, value: Value) -> Condition {
    cmp(column, SimpleOperator::Eq, value)
}

pub(crate) fn exists(parent: &str, child: &str, ast: Ast) -> Condition {
    Condition::Exists { related: subquery("e", parent, child, ast), negated: false, flip: None, scalar: None }
}

pub(crate) fn not_exists(parent: &str, child: &str, ast: Ast) -> Condition {
    Condition::Exists { related: subquery("e", parent, child, ast), negated: true, flip: None, scalar: None }
}

/// The same EXISTS as a read permission.
pub(crate) fn permission(condition: Condition) -> Condition {
    match condition {
        Condition::Exists { mut related, negated, flip, scalar } => {
            related.system = System::Permissions;
            Condition::Exists { related, negated, flip, scalar }
        }
        other => other,
    }
}

pub(crate) fn or(conditions: impl Into<Vec<Condition>>) -> Condition {
    Condition::Or(conditions.into())
}
