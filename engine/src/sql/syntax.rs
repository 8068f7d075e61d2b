//! The few shapes of SQL that are needed, as sqlparser syntax trees. What is public is no dialect's: the conformance suite
//! makes Postgres's SQL of it.
//!
//! Printing a tree never re-parenthesises, so every compound expression made here is nested on its own.

use sqlparser::ast::helpers::attached_token::AttachedToken;
use sqlparser::ast::{
    BinaryOperator, CastKind, DataType, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList,
    FunctionArguments, GroupByExpr, Ident, LimitClause, ObjectName, OrderBy, OrderByExpr, OrderByKind, OrderByOptions,
    Query, Select, SelectFlavor, SelectItem, SetExpr, TableAlias, TableFactor, TableFunctionArgs, TableWithJoins,
    UnaryOperator, Value,
};

/// A name in quotes.
pub fn ident(name: &str) -> Ident {
    Ident::with_quote('"', name)
}

pub(super) fn column(alias: &str, name: &str) -> Expr {
    Expr::CompoundIdentifier(vec![Ident::new(alias), ident(name)])
}

pub(super) fn parameter(number: usize) -> Expr {
    Expr::value(Value::Placeholder(format!("?{number}")))
}

/// A number.
pub fn integer(number: usize) -> Expr {
    Expr::value(Value::Number(number.to_string(), false))
}

pub(super) fn constant(truth: bool) -> Expr {
    integer(usize::from(truth))
}

/// An expression in parentheses.
pub fn nested(expr: Expr) -> Expr {
    Expr::Nested(Box::new(expr))
}

/// An operator between two expressions.
pub fn binary(left: Expr, op: BinaryOperator, right: Expr) -> Expr {
    nested(Expr::BinaryOp { left: Box::new(left), op, right: Box::new(right) })
}

/// `IS NULL`.
pub fn is_null(expr: Expr) -> Expr {
    nested(Expr::IsNull(Box::new(expr)))
}

/// `IS NOT NULL`.
pub fn is_not_null(expr: Expr) -> Expr {
    nested(Expr::IsNotNull(Box::new(expr)))
}

/// Hides a column's affinity, and with it its indexes.
pub(super) fn without_affinity(expr: Expr) -> Expr {
    nested(Expr::UnaryOp { op: UnaryOperator::Plus, expr: Box::new(expr) })
}

pub(super) fn cast_text(expr: Expr) -> Expr {
    Expr::Cast { kind: CastKind::Cast, expr: Box::new(expr), data_type: DataType::Text, array: false, format: None }
}

/// A call of a function.
pub fn call(name: &str, args: Vec<Expr>) -> Expr {
    Expr::Function(Function {
        name: ObjectName::from(vec![Ident::new(name)]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList {
            duplicate_treatment: None,
            args: args.into_iter().map(unnamed).collect(),
            clauses: Vec::new(),
        }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

/// Whether a text matches a pattern of GLOB, or does not; null for a null text.
pub(super) fn glob(text: Expr, pattern: Expr, wanted: bool) -> Expr {
    let matched = binary(text, BinaryOperator::Custom("GLOB".into()), pattern);
    if wanted { matched } else { nested(Expr::UnaryOp { op: UnaryOperator::Not, expr: Box::new(matched) }) }
}

/// The condition, and for what share of rows SQLite shall take it to hold. It means what it means without.
pub(super) fn likelihood(condition: Expr, share: f64) -> Expr {
    // SQLite wants a constant with a point between 0 and 1.
    let share = Value::Number(format!("{:.9}", share.clamp(1e-9, 1.0)), false);
    call("likelihood", vec![condition, Expr::value(share)])
}

fn unnamed(expr: Expr) -> FunctionArg {
    FunctionArg::Unnamed(FunctionArgExpr::Expr(expr))
}

/// All of them. No condition is true.
pub(super) fn and(conditions: Vec<Expr>) -> Expr {
    join(conditions, &BinaryOperator::And).unwrap_or_else(|| constant(true))
}

/// One of them. No condition is false.
pub(super) fn or(conditions: Vec<Expr>) -> Expr {
    join(conditions, &BinaryOperator::Or).unwrap_or_else(|| constant(false))
}

/// Most conditions in a row: SQLite counts each as one level and takes a thousand.
const CHAIN_MAX: usize = 50;

/// An operator between all conditions; none if there are no conditions.
pub fn join(mut conditions: Vec<Expr>, op: &BinaryOperator) -> Option<Expr> {
    if conditions.len() > CHAIN_MAX {
        let right = join(conditions.split_off(conditions.len() / 2), op)?;
        return Some(binary(join(conditions, op)?, op.clone(), right));
    }
    let many = conditions.len() > 1;
    let joined = conditions.into_iter().reduce(|left, right| Expr::BinaryOp {
        left: Box::new(left),
        op: op.clone(),
        right: Box::new(right),
    })?;
    Some(if many { nested(joined) } else { joined })
}

pub(super) fn exists(subquery: Query, negated: bool) -> Expr {
    Expr::Exists { subquery: Box::new(subquery), negated }
}

pub(super) fn in_subquery(expr: Expr, subquery: Query, negated: bool) -> Expr {
    nested(Expr::InSubquery { expr: Box::new(expr), subquery: Box::new(subquery), negated })
}

/// `json_each(array)`: the rows of a JSON array, in column `value`.
pub(super) fn json_each(array: Expr) -> TableFactor {
    let mut factor = table("json_each", None);
    if let TableFactor::Table { name, args, .. } = &mut factor {
        *name = ObjectName::from(vec![Ident::new("json_each")]);
        *args = Some(TableFunctionArgs { args: vec![unnamed(array)], settings: None });
    }
    factor
}

/// A table, under another name if one is given.
pub fn table(name: &str, alias: Option<&str>) -> TableFactor {
    TableFactor::Table {
        name: ObjectName::from(vec![ident(name)]),
        alias: alias.map(|alias| TableAlias { explicit: true, name: Ident::new(alias), columns: Vec::new(), at: None }),
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

pub(super) fn sort(expr: Expr, ascending: bool) -> OrderByExpr {
    OrderByExpr { expr, options: OrderByOptions { asc: Some(ascending), nulls_first: None }, with_fill: None }
}

pub(super) fn select(
    projection: Vec<Expr>,
    from: TableFactor,
    conditions: Vec<Expr>,
    order: Vec<OrderByExpr>,
    limit: Option<Expr>,
) -> Query {
    let select = Select {
        projection: projection.into_iter().map(SelectItem::UnnamedExpr).collect(),
        from: vec![TableWithJoins { relation: from, joins: Vec::new() }],
        selection: (!conditions.is_empty()).then(|| and(conditions)),
        ..nothing()
    };
    query(select, order, limit)
}

/// A SELECT of nothing, to be filled in.
pub fn nothing() -> Select {
    Select {
        select_token: AttachedToken::empty(),
        optimizer_hints: Vec::new(),
        distinct: None,
        select_modifiers: None,
        top: None,
        top_before_distinct: false,
        projection: Vec::new(),
        exclude: None,
        into: None,
        from: Vec::new(),
        lateral_views: Vec::new(),
        prewhere: None,
        selection: None,
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
    }
}

/// A SELECT with its order and limit.
pub fn query(select: Select, order: Vec<OrderByExpr>, limit: Option<Expr>) -> Query {
    Query {
        with: None,
        body: Box::new(SetExpr::Select(Box::new(select))),
        order_by: (!order.is_empty()).then_some(OrderBy { kind: OrderByKind::Expressions(order), interpolate: None }),
        limit_clause: limit.map(|limit| LimitClause::LimitOffset {
            limit: Some(limit),
            offset: None,
            limit_by: Vec::new(),
        }),
        fetch: None,
        locks: Vec::new(),
        for_clause: None,
        settings: None,
        format_clause: None,
        pipe_operators: Vec::new(),
    }
}
