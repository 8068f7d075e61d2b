//! The few shapes of Postgres's SQL that are needed, as sqlparser syntax trees; what is no dialect's is the engine's.
//!
//! Printing a tree never re-parenthesises, so every compound expression made here is nested on its own.

use engine::sql::syntax::{join, nothing, query};
use sqlparser::ast::{
    BinaryOperator, CastKind, DataType, DateTimeField, Distinct, ExactNumberInfo, Expr, ExtractSyntax, ObjectName,
    OrderByExpr, OrderByOptions, Query, Select, SelectItem, TableAlias, TableFactor, TableWithJoins, Value,
};

pub(super) use engine::sql::syntax::{binary, call, ident, integer, is_not_null, is_null, nested, table};

pub(super) fn column(alias: &str, name: &str) -> Expr {
    Expr::CompoundIdentifier(vec![ident(alias), ident(name)])
}

pub(super) fn bare_column(name: &str) -> Expr {
    Expr::Identifier(ident(name))
}

pub(super) fn parameter(number: usize, data_type: DataType) -> Expr {
    nested(cast(Expr::value(Value::Placeholder(format!("${number}"))), data_type))
}

pub(super) fn constant(truth: bool) -> Expr {
    Expr::value(Value::Boolean(truth))
}

/// A constant, whatever the value of an expression: a parameter in it must not be lost.
pub(super) fn whatever(expr: Expr, truth: bool) -> Expr {
    binary(is_null(expr), if truth { BinaryOperator::Or } else { BinaryOperator::And }, constant(truth))
}

/// `IS NOT DISTINCT FROM`, or `IS DISTINCT FROM`.
pub(super) fn same(left: Expr, right: Expr, negated: bool) -> Expr {
    let (left, right) = (Box::new(left), Box::new(right));
    nested(if negated { Expr::IsDistinctFrom(left, right) } else { Expr::IsNotDistinctFrom(left, right) })
}

pub(super) fn like(expr: Expr, pattern: Expr, negated: bool) -> Expr {
    let (expr, pattern) = (Box::new(expr), Box::new(pattern));
    nested(Expr::Like { negated, any: false, expr, pattern, escape_char: None })
}

pub(super) fn in_list(expr: Expr, list: Vec<Expr>, negated: bool) -> Expr {
    nested(Expr::InList { expr: Box::new(expr), list, negated })
}

pub(super) fn cast(expr: Expr, data_type: DataType) -> Expr {
    Expr::Cast { kind: CastKind::Cast, expr: Box::new(expr), data_type, array: false, format: None }
}

pub(super) fn double() -> DataType {
    DataType::DoublePrecision
}

pub(super) fn collate(expr: Expr, collation: &str) -> Expr {
    nested(Expr::Collate { expr: Box::new(expr), collation: ObjectName::from(vec![ident(collation)]) })
}

/// A value as its type prints it.
pub(super) fn printed(expr: Expr) -> Expr {
    let path = Expr::value(Value::SingleQuotedString("{}".into()));
    binary(call("to_jsonb", vec![expr]), BinaryOperator::HashLongArrow, path)
}

/// Milliseconds of a date or time.
pub(super) fn milliseconds(expr: Expr) -> Expr {
    let seconds = Expr::Extract { field: DateTimeField::Epoch, syntax: ExtractSyntax::From, expr: Box::new(expr) };
    // In numeric first: microseconds are exact there.
    let seconds = cast(seconds, DataType::Numeric(ExactNumberInfo::None));
    cast(binary(seconds, BinaryOperator::Multiply, integer(1000)), double())
}

/// All of them. No condition is true.
pub(super) fn and(conditions: Vec<Expr>) -> Expr {
    join(conditions, &BinaryOperator::And).unwrap_or_else(|| constant(true))
}

/// One of them. No condition is false.
pub(super) fn or(conditions: Vec<Expr>) -> Expr {
    join(conditions, &BinaryOperator::Or).unwrap_or_else(|| constant(false))
}

pub(super) fn exists(subquery: Query, negated: bool) -> Expr {
    nested(Expr::Exists { subquery: Box::new(subquery), negated })
}

pub(super) fn scalar(subquery: Query) -> Expr {
    Expr::Subquery(Box::new(subquery))
}

pub(super) fn derived(subquery: Query, alias: &str, lateral: bool) -> TableFactor {
    let alias = TableAlias { explicit: true, name: ident(alias), columns: Vec::new(), at: None };
    TableFactor::Derived { lateral, subquery: Box::new(subquery), alias: Some(alias), sample: None }
}

/// The language's order: null is lowest.
pub(super) fn sort(expr: Expr, ascending: bool) -> OrderByExpr {
    let options = OrderByOptions { asc: Some(ascending), nulls_first: Some(ascending) };
    OrderByExpr { expr, options, with_fill: None }
}

/// What a SELECT has.
#[derive(Default)]
pub(super) struct Parts {
    /// Named expressions.
    pub(super) projection: Vec<(Expr, String)>,
    pub(super) distinct_on: Vec<Expr>,
    pub(super) from: Vec<TableFactor>,
    pub(super) conditions: Vec<Expr>,
    pub(super) order: Vec<OrderByExpr>,
    pub(super) limit: Option<usize>,
}

pub(super) fn select(parts: Parts) -> Query {
    let item = |(expr, alias): (Expr, String)| SelectItem::ExprWithAlias { expr, alias: ident(&alias) };
    let select = Select {
        distinct: (!parts.distinct_on.is_empty()).then_some(Distinct::On(parts.distinct_on)),
        projection: parts.projection.into_iter().map(item).collect(),
        from: parts.from.into_iter().map(|relation| TableWithJoins { relation, joins: Vec::new() }).collect(),
        selection: (!parts.conditions.is_empty()).then(|| and(parts.conditions)),
        ..nothing()
    };
    query(select, parts.order, parts.limit.map(integer))
}
