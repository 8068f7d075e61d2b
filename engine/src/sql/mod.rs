//! SQLite text for the nodes of a query.
//!
//! The text is built from sqlparser's syntax tree and every literal is bound, so one statement per
//! query shape is prepared and no value is ever spliced. SQL's three-valued logic is made to give the
//! language's two values: literals that cannot match a column's type are folded away here.

use rusqlite::types::Value as SqliteValue;

use crate::query::{NodeId, Query};

/// A statement and its values.
#[derive(Clone, Debug, PartialEq)]
pub struct Sql {
    /// The text. Parameters `?1` to `?lookup` are the caller's look-up values; the rest are [`Sql::binds`].
    pub text: String,
    /// Values of the parameters after the look-up's.
    pub binds: Vec<SqliteValue>,
    /// How many look-up parameters come first.
    pub lookup: usize,
}

/// How much of a node's filter a statement carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilterPart {
    /// All of it; EXISTS become correlated EXISTS.
    Full,
    /// The comparisons that must hold whatever the EXISTS say: a superset of the node's rows (exact if the filter has no EXISTS).
    Simple,
    /// Nothing.
    None,
}

/// What to select of a node: always its visible columns in table order, then `_0_version`.
#[derive(Clone, Copy, Debug)]
pub struct Access<'a> {
    /// How much of the filter.
    pub filter: FilterPart,
    /// Columns that must equal the look-up parameters `?1…` (null equals nothing).
    pub lookup: &'a [usize],
    /// Columns that must equal one of many keys: one look-up parameter, after those of `lookup`, holds a JSON array of
    /// arrays (of plain values if there is one column), see [`keys_json`].
    pub lookup_many: &'a [usize],
    /// Whether to sort in the node's order.
    pub order: bool,
    /// Whether to apply the node's start cursor.
    pub start: bool,
    /// Whether to apply the node's limit (to the whole statement).
    pub limit: bool,
}

/// The SELECT of a node.
pub fn node_select(query: &Query, node: NodeId, access: &Access<'_>) -> Sql {
    let _ = (query, node, access);
    unimplemented!()
}

/// The SELECT of the key columns or whole rows of the parents... see [`Access`]; counts rows instead of returning them.
pub fn node_count(query: &Query, node: NodeId, access: &Access<'_>) -> Sql {
    let _ = (query, node, access);
    unimplemented!()
}

/// The parameter of [`Access::lookup_many`].
pub fn keys_json<'a>(keys: impl IntoIterator<Item = &'a [zql_spec::value::Value]>) -> SqliteValue {
    let _ = keys.into_iter();
    unimplemented!()
}

/// The value as SQLite stores and compares it: booleans as 0/1, integral numbers as integers.
pub fn bind(value: &zql_spec::value::Value) -> SqliteValue {
    let _ = value;
    unimplemented!()
}
