//! SQLite text for the nodes of a query.
//!
//! The text is built from sqlparser's syntax tree and every literal is bound, so one statement per
//! query shape is prepared and no value is ever spliced. SQL's three-valued logic is made to give the
//! language's two values: literals that cannot match a column's type are folded away here.
//!
//! Building costs microseconds and grows with the query, not with data: what graphs read by is built once (`kept.rs`), and
//! everything else once per batch of keys.

mod condition;
pub(crate) mod functions;
mod kept;
pub mod leaf;
pub mod syntax;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use rusqlite::types::{ToSqlOutput, Value as SqliteValue, ValueRef};
use rustc_hash::FxHashMap;
use sqlparser::ast::{BinaryOperator, Expr};
use zql_spec::ast::{Direction, Literal};
use zql_spec::schema::ValueType;
use zql_spec::value::Value;

pub use condition::{is_glob, looks_numeric};
pub(crate) use kept::{Kept, kept_exists, kept_select};

use crate::query::{NodeId, Place, Query};
use condition::{Side, alias, comparable, glob, pattern_text};

/// A statement and its values.
#[derive(Clone, Debug, PartialEq)]
pub struct Sql {
    /// The text. Parameters `?1` to `?lookup` are the caller's look-up values; the rest are [`Sql::binds`].
    pub text: String,
    /// Values of the parameters after the look-up's.
    pub binds: Vec<SqliteValue>,
    /// How many look-up parameters come first.
    pub lookup: usize,
    /// Where each of the values comes from.
    origins: Vec<Origin>,
}

/// Where a value of a statement comes from, so that another query of the same shape can be given its own.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Origin {
    /// It is the same for all of the shape.
    Shape,
    /// The constant of a comparison.
    Literal(Place),
    /// The only value of a list that can equal one of the column.
    OneOf(Place),
    /// All such values of a list.
    List(Place),
    /// A pattern.
    Pattern(Place),
    /// A pattern, as GLOB has it.
    Glob(Place),
    /// The cursor of a node: a value of its order.
    Start(NodeId, usize),
}

impl Sql {
    /// The statement's own values for another query of the same shape: one that differs in constants alone, and in these
    /// neither in type nor in whether they are null, [`looks_numeric`], [`is_glob`] or a list of at most one value.
    pub fn values_of(&self, query: &Query) -> Vec<SqliteValue> {
        let owned = |value: ToSqlOutput<'_>| match value {
            ToSqlOutput::Owned(value) => value,
            ToSqlOutput::Borrowed(value) => value.try_into().unwrap_or(SqliteValue::Null),
            _ => SqliteValue::Null,
        };
        let of = |(origin, value): (&Origin, &SqliteValue)| origin.value(query).map_or_else(|| value.clone(), owned);
        self.origins.iter().zip(&self.binds).map(of).collect()
    }

    /// Binds the statement's own values for such a query.
    pub fn bind_for(&self, query: &Query, statement: &mut rusqlite::Statement<'_>) -> rusqlite::Result<()> {
        for (position, (origin, value)) in self.origins.iter().zip(&self.binds).enumerate() {
            let position = self.lookup + position + 1;
            match origin.value(query) {
                Some(value) => statement.raw_bind_parameter(position, value)?,
                None => statement.raw_bind_parameter(position, value)?,
            }
        }
        Ok(())
    }

    /// Binds the look-up values and the statement's own.
    pub fn bind_to(&self, statement: &mut rusqlite::Statement<'_>, lookup: &[Value]) -> rusqlite::Result<()> {
        debug_assert_eq!(lookup.len(), self.lookup, "a value for each look-up parameter");
        for (position, value) in lookup.iter().enumerate() {
            statement.raw_bind_parameter(position + 1, bind(value))?;
        }
        self.bind_own(statement)
    }

    /// Binds the statement's own values only.
    pub fn bind_own(&self, statement: &mut rusqlite::Statement<'_>) -> rusqlite::Result<()> {
        for (position, value) in self.binds.iter().enumerate() {
            statement.raw_bind_parameter(self.lookup + position + 1, value)?;
        }
        Ok(())
    }
}

impl Origin {
    fn value(self, query: &Query) -> Option<ToSqlOutput<'_>> {
        let (node, comparison) = match self {
            Origin::Shape => return None,
            Origin::Start(node, column) => {
                return Some(bound(query.nodes.get(node)?.start.as_ref()?.values.get(column)?));
            }
            Origin::Literal(place)
            | Origin::OneOf(place)
            | Origin::List(place)
            | Origin::Pattern(place)
            | Origin::Glob(place) => query.comparison(place)?,
        };
        let value_type = node.table.columns[comparison.column].value_type;
        Some(match (self, &comparison.literal) {
            (Origin::Glob(_), Literal::Value(pattern)) => ToSqlOutput::Owned(glob(pattern)?.into()),
            (Origin::Pattern(_), Literal::Value(pattern)) => ToSqlOutput::Owned(pattern_text(pattern).into()),
            (_, Literal::Value(value)) => bound(value),
            (Origin::OneOf(_), Literal::List(list)) => bound(list.iter().find(|value| fits(value_type, value))?),
            (_, Literal::List(list)) => {
                ToSqlOutput::Owned(json_array(list.iter().filter(|value| fits(value_type, value))).into())
            }
        })
    }
}

/// How much of a node's filter a statement carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FilterPart {
    /// All of it; EXISTS become correlated EXISTS.
    #[default]
    Full,
    /// The comparisons that hold whatever the EXISTS say: a superset of the node's rows, exact if the
    /// filter has no EXISTS.
    Simple,
    /// Nothing.
    None,
}

/// What to select of a node: always its visible columns in table order, then `_0_version`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Access<'a> {
    /// How much of the filter.
    pub filter: FilterPart,
    /// Columns that must equal the look-up parameters `?1…`; null equals nothing. The caller sees to it that
    /// a value's type is its column's ([`fits`]): SQLite would convert it.
    pub lookup: &'a [usize],
    /// Columns that must equal one of many keys. One look-up parameter, after those of `lookup`, takes the
    /// keys as [`keys_json`] writes them.
    pub lookup_many: &'a [usize],
    /// Whether to apply the node's start cursor.
    pub start: bool,
    /// Only rows after this in the node's order: a value per order column.
    pub after: Option<&'a [Value]>,
    /// Only rows up to this, and with it, in the node's order: a value per order column.
    pub until: Option<&'a [Value]>,
    /// Whether to sort in the node's order.
    pub order: bool,
    /// Most rows of the statement.
    pub limit: Option<usize>,
}

/// The SELECT of a node.
pub fn node_select(query: &Query, node: NodeId, access: &Access<'_>) -> Sql {
    let table = &query.nodes[node].table;
    let mut projection: Vec<Expr> =
        table.columns.iter().map(|column| syntax::column(&alias(node), &column.name)).collect();
    projection.push(syntax::column(&alias(node), crate::replica::VERSION_COLUMN));
    build(query, node, access, projection)
}

/// A SELECT of other columns of a node.
pub fn node_select_columns(query: &Query, node: NodeId, access: &Access<'_>, columns: &[usize]) -> Sql {
    let table = &query.nodes[node].table;
    let projection = columns.iter().map(|&column| syntax::column(&alias(node), &table.columns[column].name)).collect();
    build(query, node, access, projection)
}

/// Whether an EXISTS node has a row for a parent's values, which are the look-up parameters in the order
/// of the edge's child columns: one row if so, none if not.
pub fn node_exists(query: &Query, node: NodeId) -> Sql {
    let columns = query.nodes[node].edge.as_ref().map(|edge| edge.child_columns.clone()).unwrap_or_default();
    let access = Access { lookup: &columns, start: true, limit: Some(1), ..Access::default() };
    build(query, node, &access, vec![syntax::integer(1)])
}

fn build(query: &Query, node: NodeId, access: &Access<'_>, projection: Vec<Expr>) -> Sql {
    let table = &query.nodes[node].table;
    let name = alias(node);
    let lookup = access.lookup.len() + usize::from(!access.lookup_many.is_empty());
    let mut builder = Builder::after(lookup);
    let mut conditions = Vec::new();
    for (position, &column) in access.lookup.iter().enumerate() {
        let parameter = syntax::parameter(position + 1);
        conditions.push(syntax::binary(comparable(table, &name, column), BinaryOperator::Eq, parameter));
    }
    if !access.lookup_many.is_empty() {
        let columns: Vec<Expr> = access.lookup_many.iter().map(|&column| comparable(table, &name, column)).collect();
        conditions.push(one_of_many(columns, syntax::parameter(lookup)));
    }
    if let (true, Some(start)) = (access.start, &query.nodes[node].start) {
        conditions.extend(builder.bound(query, node, &start.values, Side::After, !start.exclusive));
    }
    if let Some(after) = access.after {
        conditions.extend(builder.bound(query, node, after, Side::After, false));
    }
    if let Some(until) = access.until {
        conditions.extend(builder.bound(query, node, until, Side::Until, true));
    }
    conditions.extend(builder.whole_filter(query, node, access.filter));
    let order = if access.order { &query.nodes[node].order[..] } else { &[] };
    let order = order
        .iter()
        .map(|&(column, direction)| syntax::sort(comparable(table, &name, column), direction == Direction::Asc))
        .collect();
    let limit = access.limit.map(|limit| builder.bind(Origin::Shape, SqliteValue::Integer(limit as i64)));
    let select = syntax::select(projection, syntax::table(&table.name, Some(&name)), conditions, order, limit);
    builder.finish(select.to_string(), lookup)
}

fn one_of_many(mut columns: Vec<Expr>, keys: Expr) -> Expr {
    let value = || Expr::Identifier("value".into());
    let (operand, fields) = if columns.len() == 1 {
        (columns.remove(0), vec![value()])
    } else {
        let field = |position: usize| {
            let path = Expr::value(sqlparser::ast::Value::SingleQuotedString(format!("$[{position}]")));
            syntax::call("json_extract", vec![value(), path])
        };
        let fields = (0..columns.len()).map(field).collect();
        (Expr::Tuple(columns), fields)
    };
    let each = syntax::select(fields, syntax::json_each(keys), Vec::new(), Vec::new(), None);
    syntax::in_subquery(operand, each, false)
}

/// The parameter of [`Access::lookup_many`]. Keys that hold a null are left out: they equal nothing.
pub fn keys_json<'a>(keys: impl IntoIterator<Item = &'a [Value]>) -> SqliteValue {
    let mut text = String::from("[");
    for key in keys {
        if key.iter().any(Value::is_null) {
            continue;
        }
        if text.len() > 1 {
            text.push(',');
        }
        match key {
            [value] => write_json(&mut text, value),
            values => text.push_str(&json_array(values)),
        }
    }
    text.push(']');
    SqliteValue::Text(text)
}

/// The value as SQLite stores and compares it: booleans as 0 and 1, integral numbers as integers.
pub fn bind(value: &Value) -> SqliteValue {
    match value {
        Value::Null => SqliteValue::Null,
        Value::Bool(bool) => SqliteValue::Integer(i64::from(*bool)),
        Value::Number(number) => match integral(*number) {
            Some(integer) => SqliteValue::Integer(integer),
            None => SqliteValue::Real(*number),
        },
        Value::String(text) | Value::Json(text) => SqliteValue::Text(text.to_string()),
    }
}

/// The same without a copy of a text.
fn bound(value: &Value) -> ToSqlOutput<'_> {
    match value {
        Value::String(text) | Value::Json(text) => ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes())),
        value => ToSqlOutput::Owned(bind(value)),
    }
}

/// Whether a value can equal values of a column of this type. Null cannot.
pub fn fits(value_type: ValueType, value: &Value) -> bool {
    matches!(
        (value_type, value),
        (ValueType::Boolean, Value::Bool(_))
            | (ValueType::Number, Value::Number(_))
            | (ValueType::String, Value::String(_))
            | (ValueType::Json, Value::Json(_))
    )
}

/// The number as an integer if that loses nothing.
fn integral(number: f64) -> Option<i64> {
    // Above 2^53 doubles are integers too, and i64 holds them exactly below 2^63.
    (number.fract() == 0.0 && number.abs() < 9.2e18).then_some(number as i64)
}

fn json_array<'a>(values: impl IntoIterator<Item = &'a Value>) -> String {
    let mut text = String::from("[");
    for value in values {
        if text.len() > 1 {
            text.push(',');
        }
        write_json(&mut text, value);
    }
    text.push(']');
    text
}

/// Writes a value so that SQLite's JSON functions give it back as [`bind`] would.
fn write_json(text: &mut String, value: &Value) {
    use std::fmt::Write;
    match value {
        Value::Null => text.push_str("null"),
        Value::Bool(bool) => text.push_str(if *bool { "true" } else { "false" }),
        Value::Number(number) => match integral(*number) {
            Some(integer) => {
                let _ = write!(text, "{integer}");
            }
            // SQLite reads a number that is too large as infinity.
            None if number.is_infinite() => text.push_str(if *number > 0.0 { "9e999" } else { "-9e999" }),
            None => text.push_str(ryu_js::Buffer::new().format(*number)),
        },
        Value::String(string) | Value::Json(string) => {
            text.push_str(&serde_json::Value::from(&**string).to_string());
        }
    }
}

/// By comparison ([`Place::key`]): the share of rows for which it holds, where SQLite's own estimate is far from it. It
/// takes the mean of an index for every constant.
pub type Likelihoods = FxHashMap<(u32, u32), f64>;

/// Values bound while a statement is built.
struct Builder {
    binds: Vec<SqliteValue>,
    origins: Vec<Origin>,
    next: usize,
    likelihoods: Arc<Likelihoods>,
}

impl Builder {
    /// Begins after so many look-up parameters.
    fn after(lookup: usize) -> Self {
        Builder { binds: Vec::new(), origins: Vec::new(), next: lookup + 1, likelihoods: Arc::default() }
    }

    fn bind(&mut self, origin: Origin, value: SqliteValue) -> Expr {
        self.binds.push(value);
        self.origins.push(origin);
        self.next += 1;
        syntax::parameter(self.next - 1)
    }

    fn finish(self, text: String, lookup: usize) -> Sql {
        Sql { text, binds: self.binds, lookup, origins: self.origins }
    }
}
