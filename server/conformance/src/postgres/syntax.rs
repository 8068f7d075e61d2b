//! The few shapes of SQL that are needed, as sqlparser syntax trees.
//!
//! Printing a tree never re-parenthesises, so every compound expression made here is nested on its own.

use sqlparser::ast::helpers::attached_token::AttachedToken;
use sqlparser::ast::{
    BinaryOperator, CastKind, DataType, DateTimeField, Distinct, ExactNumberInfo, Expr, ExtractSyntax, Function,
    FunctionArg, FunctionArgExpr, FunctionArgumentList, FunctionArguments, GroupByExpr, Ident, LimitClause, ObjectName,
    OrderBy, OrderByExpr, OrderByKind, OrderByOptions, Query, Select, SelectFlavor, SelectItem, SetExpr, TableAlias,
    TableFactor, TableWithJoins, Value,
};

pub(super) fn ident(name: &str) -> Ident {
    Ident::with_quote('"', name)
}

pub(super) fn column(alias: &str, name: &str) -> Expr {
    Expr::CompoundIdentifier(vec![ident(alias), ident(name)])
}

pub(super) fn bare_column(name: &str) -> Expr {
    Expr::Identifier(ident(name))
}

pub(super) fn parameter(number: usize, data_type: DataType) -> Expr {
    nested(cast(Expr::value(Value::Placeholder(format!("${number}"))), data_type))
}

pub(super) fn integer(number: usize) -> Expr {
    Expr::value(Value::Number(number.to_string(), false))
}

pub(super) fn constant(truth: bool) -> Expr {
    Expr::value(Value::Boolean(truth))
}

/// A constant, whatever the value of an expression: a parameter in it must not be lost.
pub(super) fn whatever(expr: Expr, truth: bool) -> Expr {
    binary(is_null(expr), if truth { BinaryOperator::Or } else { BinaryOperator::And }, constant(truth))
}

pub(super) fn nested(expr: Expr) -> Expr {
    Expr::Nested(Box::new(expr))
}

pub(super) fn binary(left: Expr, op: BinaryOperator, right: Expr) -> Expr {
    nested(Expr::BinaryOp { left: Box::new(left), op, right: Box::new(right) })
}

pub(super) fn is_null(expr: Expr) -> Expr {
    nested(Expr::IsNull(Box::new(expr)))
}

pub(super) fn is_not_null(expr: Expr) -> Expr {
    nested(Expr::IsNotNull(Box::new(expr)))
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

pub(super) fn call(name: &str, args: Vec<Expr>) -> Expr {
    Expr::Function(Function {
        name: ObjectName::from(vec![Ident::new(name)]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList {
            duplicate_treatment: None,
            args: args.into_iter().map(|expr| FunctionArg::Unnamed(FunctionArgExpr::Expr(expr))).collect(),
            clauses: Vec::new(),
        }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

/// All of them. No condition is true.
pub(super) fn and(conditions: Vec<Expr>) -> Expr {
    join(conditions, BinaryOperator::And, true)
}

/// One of them. No condition is false.
pub(super) fn or(conditions: Vec<Expr>) -> Expr {
    join(conditions, BinaryOperator::Or, false)
}

fn join(conditions: Vec<Expr>, op: BinaryOperator, empty: bool) -> Expr {
    let joined = conditions.into_iter().reduce(|left, right| binary(left, op.clone(), right));
    joined.unwrap_or_else(|| constant(empty))
}

pub(super) fn exists(subquery: Query, negated: bool) -> Expr {
    nested(Expr::Exists { subquery: Box::new(subquery), negated })
}

pub(super) fn scalar(subquery: Query) -> Expr {
    Expr::Subquery(Box::new(subquery))
}

pub(super) fn table(name: &str) -> TableFactor {
    TableFactor::Table {
        name: ObjectName::from(vec![ident(name)]),
        alias: None,
        args: None,
        with_hints: Vec::new(),
        version: None,
        with_ordinality: false,
        partitions: Vec::new(),
        json_path: None,
        sample: None,
        index_hints: Vec::new(),
    }
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
        select_token: AttachedToken::empty(),
        optimizer_hints: Vec::new(),
        distinct: (!parts.distinct_on.is_empty()).then_some(Distinct::On(parts.distinct_on)),
        select_modifiers: None,
        top: None,
        top_before_distinct: false,
        projection: parts.projection.into_iter().map(item).collect(),
        exclude: None,
        into: None,
        from: parts.from.into_iter().map(|relation| TableWithJoins { relation, joins: Vec::new() }).collect(),
        lateral_views: Vec::new(),
        prewhere: None,
        selection: (!parts.conditions.is_empty()).then(|| and(parts.conditions)),
        connect_by: Vec::new(),
        group_by: GroupByExpr::Expressions(Vec::new(), Vec::new()),
        cluster_by: Vec::new(),
        distribute_by: Vec::new(),
        sort_by: Vec::new(),
        having: None,
        named_window: Vec::new(),
        qualify: None,
        window_before_qualify: false,
        value_table_mode: None,
        flavor: SelectFlavor::Standard,
    };
    let limit = |limit| LimitClause::LimitOffset { limit: Some(integer(limit)), offset: None, limit_by: Vec::new() };
    let order = OrderBy { kind: OrderByKind::Expressions(parts.order), interpolate: None };
    Query {
        with: None,
        body: Box::new(SetExpr::Select(Box::new(select))),
        order_by: (!matches!(&order.kind, OrderByKind::Expressions(order) if order.is_empty())).then_some(order),
        limit_clause: parts.limit.map(limit),
        fetch: None,
        locks: Vec::new(),
        for_clause: None,
        settings: None,
        format_clause: None,
        pipe_operators: Vec::new(),
    }
}
