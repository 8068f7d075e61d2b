//! The ZQL abstract syntax tree, typed.
//!
//! These types carry meaning, not text: the hash of a query depends on the key order of the JSON it
//! came as, which is kept by the normal form's own JSON representation and not here. Parsing (strict as
//! the wire wants it, lenient as API servers are read) turns JSON into these types and checks every
//! shape rule of the language once; past it nothing is stringly.

pub(crate) mod parse;
mod print;
#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use parse::ParseError;

use crate::value::Value;

/// A query over one table: filter, related rows, cursor, limit, order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ast {
    /// Always absent or empty in practice; kept because it takes part in the hash.
    pub schema: Option<Arc<str>>,
    /// Server-side table name.
    pub table: Arc<str>,
    /// Name of the relationship this query stands for; required on every subquery.
    pub alias: Option<Arc<str>>,
    /// Rows to keep; absent keeps all.
    pub r#where: Option<Condition>,
    /// Output relationships.
    pub related: Vec<CorrelatedSubquery>,
    /// Where in the order to begin.
    pub start: Option<Bound>,
    /// How many rows to keep, per parent row in a subquery. The wire allows any number; negative ones
    /// are refused when the query is resolved.
    pub limit: Option<f64>,
    /// Order as written; the primary key completes it.
    pub order_by: Vec<(Arc<str>, Direction)>,
}

/// A cursor: a (partial) row in the query's order.
#[derive(Clone, Debug, PartialEq)]
pub struct Bound {
    /// Column values; columns of the order that are missing here count as null.
    pub row: Vec<(Arc<str>, Value)>,
    /// Whether rows equal to the cursor are left out.
    pub exclusive: bool,
}

/// The direction of one order column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Nulls first.
    Asc,
    /// Nulls last.
    Desc,
}

/// A subquery and how its rows belong to a parent row.
#[derive(Clone, Debug, PartialEq)]
pub struct CorrelatedSubquery {
    /// The nth parent column equals the nth child column. Same length, at least one.
    pub correlation: Correlation,
    /// The subquery; its alias names the relationship.
    pub subquery: Box<Ast>,
    /// A junction hop: synced, but collapsed in result views.
    pub hidden: bool,
    /// Who asked for it.
    pub system: System,
}

/// Column pairs that tie child rows to a parent row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Correlation {
    /// Columns of the parent table.
    pub parent_field: Vec<Arc<str>>,
    /// Columns of the subquery's table.
    pub child_field: Vec<Arc<str>>,
}

/// On whose behalf a subquery stands in a query.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum System {
    /// A read permission: its rows filter and are never sent.
    Permissions,
    /// The application.
    #[default]
    Client,
    /// A test; treated as the application.
    Test,
}

/// A filter.
#[derive(Clone, Debug, PartialEq)]
pub enum Condition {
    /// A comparison.
    Simple {
        /// The operator.
        op: SimpleOperator,
        /// A column, a literal or a static parameter.
        left: ValuePosition,
        /// A literal or a static parameter, never a column.
        right: ValuePosition,
    },
    /// All must hold; empty is true.
    And(Vec<Condition>),
    /// One must hold; empty is false.
    Or(Vec<Condition>),
    /// Whether the subquery has rows for the parent row.
    Exists {
        /// The subquery.
        related: CorrelatedSubquery,
        /// `NOT EXISTS`.
        negated: bool,
        /// Plan hint; has no effect on results.
        flip: Option<bool>,
        /// Plan hint; has no effect on results.
        scalar: Option<bool>,
    },
}

/// A comparison operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SimpleOperator {
    /// `=`
    Eq,
    /// `!=`
    Ne,
    /// `IS`: equality under which null equals null.
    Is,
    /// `IS NOT`
    IsNot,
    /// `<`
    Lt,
    /// `>`
    Gt,
    /// `<=`
    Le,
    /// `>=`
    Ge,
    /// `LIKE`
    Like,
    /// `NOT LIKE`
    NotLike,
    /// `ILIKE`
    ILike,
    /// `NOT ILIKE`
    NotILike,
    /// `IN`
    In,
    /// `NOT IN`
    NotIn,
}

/// One side of a comparison.
#[derive(Clone, Debug, PartialEq)]
pub enum ValuePosition {
    /// A constant.
    Literal(Literal),
    /// A column of the query's table.
    Column(Arc<str>),
    /// A parameter to be bound before the query runs.
    Static {
        /// Which parameters.
        anchor: StaticAnchor,
        /// Path into them.
        field: Vec<Arc<str>>,
        /// Whether `field` was written as an array; takes part in the hash only.
        path: bool,
    },
}

/// A constant of a query.
#[derive(Clone, Debug, PartialEq)]
pub enum Literal {
    /// A string, number, boolean or null.
    Value(Value),
    /// A list for `IN`; holds no nulls.
    List(Vec<Value>),
}

/// The sources of static parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StaticAnchor {
    /// Claims of the user's token.
    AuthData,
    /// The row before a mutation.
    PreMutationRow,
}
