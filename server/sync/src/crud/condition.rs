//! A ZQL condition on a row as SQL for Postgres, for permissions of mutations.
//!
//! Writes are judged where they happen, inside their transaction, so that a rule sees exactly what the mutation sees:
//! nothing that is still on its way to the replica is missing. The meaning is that of `zql_spec::compare`: comparisons
//! are two-valued, values of different types are never equal. SQL's third truth value does no harm, because conditions
//! are only ever combined by AND and OR, and what is not true in the end does not hold.
//!
//! Conditions that could not mean the same in Postgres (orders inside an EXISTS that is cut by a cursor, contents of
//! documents) are refused, which fails the mutation with a message.

use engine::replica::{ColumnSpec, TableSpec};
use zql_spec::ast::{Ast, Condition, Literal, SimpleOperator, ValuePosition};
use zql_spec::compare::compare;
use zql_spec::schema::ValueType;
use zql_spec::value::Value;

use super::operation::{Tables, quoted, relation};
use super::value::{Temporal, temporal, text};

/// Points in time that Postgres can hold, in milliseconds, but for its infinities.
const POSTGRES_TIMES: std::ops::Range<f64> = -210_866_803_200_000.0..9_224_318_016_000_000.0;

/// Writes conditions and collects the parameters that they need, all texts.
#[derive(Debug)]
pub(super) struct Writer<'a> {
    tables: &'a Tables,
    /// Values of `$1`, `$2`, …
    pub(super) parameters: Vec<String>,
    aliases: usize,
}

impl<'a> Writer<'a> {
    /// The record of the operation is the first parameter.
    pub(super) fn new(tables: &'a Tables, record: &str) -> Writer<'a> {
        Writer { tables, parameters: vec![record.to_owned()], aliases: 0 }
    }

    /// A condition on the row `t0` of a table.
    pub(super) fn condition(&mut self, condition: &Condition, table: &TableSpec) -> Result<String, String> {
        self.write(condition, table, "t0")
    }

    fn write(&mut self, condition: &Condition, table: &TableSpec, row: &str) -> Result<String, String> {
        match condition {
            Condition::And(conditions) => self.join(conditions, table, row, " AND ", "true"),
            Condition::Or(conditions) => self.join(conditions, table, row, " OR ", "false"),
            Condition::Simple { op, left, right } => self.simple(*op, left, right, table, row),
            Condition::Exists { related, negated, .. } => {
                let Ast { table: name, r#where, start, limit, .. } = &*related.subquery;
                if start.is_some() {
                    return Err("A permission's EXISTS with a start cannot be evaluated for a mutation".to_owned());
                }
                let not = if *negated { "NOT " } else { "" };
                if *limit == Some(0.0) {
                    return Ok(if *negated { "true" } else { "false" }.to_owned());
                }
                let unknown = || format!("Table '{name}' is not a valid table.");
                let child = &self.tables.get(name).ok_or_else(unknown)?.0;
                self.aliases += 1;
                let alias = format!("t{}", self.aliases);
                let fields = related.correlation.parent_field.iter().zip(&related.correlation.child_field);
                let mut parts = Vec::new();
                for (parent, field) in fields {
                    parts.push(equal(column(table, parent)?, row, column(child, field)?, &alias));
                }
                if let Some(condition) = r#where {
                    parts.push(self.write(condition, child, &alias)?);
                }
                Ok(format!("{not}EXISTS (SELECT FROM {} AS {alias} WHERE {})", relation(child), parts.join(" AND ")))
            }
        }
    }

    fn join(
        &mut self,
        conditions: &[Condition],
        table: &TableSpec,
        row: &str,
        by: &str,
        empty: &str,
    ) -> Result<String, String> {
        let parts: Result<Vec<String>, String> =
            conditions.iter().map(|condition| self.write(condition, table, row)).collect();
        let parts = parts?;
        Ok(if parts.is_empty() { empty.to_owned() } else { format!("({})", parts.join(by)) })
    }

    fn simple(
        &mut self,
        op: SimpleOperator,
        left: &ValuePosition,
        right: &ValuePosition,
        table: &TableSpec,
        row: &str,
    ) -> Result<String, String> {
        let unbound = || Err("A permission's parameter is not bound".to_owned());
        let ValuePosition::Literal(right) = right else { return unbound() };
        match left {
            ValuePosition::Literal(Literal::Value(left)) => Ok(compare(left, op, right).to_string()),
            ValuePosition::Literal(Literal::List(_)) => Ok("false".to_owned()),
            ValuePosition::Column(name) => self.comparison(op, column(table, name)?, right, row),
            ValuePosition::Static { .. } => unbound(),
        }
    }

    fn comparison(
        &mut self,
        op: SimpleOperator,
        column: &ColumnSpec,
        right: &Literal,
        row: &str,
    ) -> Result<String, String> {
        use SimpleOperator::{Eq, ILike, In, Is, IsNot, Like, Ne, NotILike, NotIn, NotLike};
        let bare = format!("{row}.{}", quoted(&column.name));
        let (nothing, anything) = (|| "false".to_owned(), || format!("{bare} IS NOT NULL"));
        Ok(match (op, right) {
            (Is, Literal::Value(Value::Null)) => format!("{bare} IS NULL"),
            (IsNot, Literal::Value(Value::Null)) => anything(),
            (In | NotIn, Literal::List(list)) => {
                let mut equal = Vec::new();
                for value in list {
                    equal.extend(self.compared(column, &bare, "=", value)?);
                }
                match (op, equal.is_empty()) {
                    (In, true) => nothing(),
                    (In, false) => format!("({})", equal.join(" OR ")),
                    (_, true) => anything(),
                    (_, false) => format!("NOT ({})", equal.join(" OR ")),
                }
            }
            (In | NotIn, Literal::Value(_)) | (_, Literal::List(_) | Literal::Value(Value::Null)) => nothing(),
            (Eq | Is, Literal::Value(value)) => self.compared(column, &bare, "=", value)?.unwrap_or_else(nothing),
            (Ne, Literal::Value(value)) => self.compared(column, &bare, "<>", value)?.unwrap_or_else(anything),
            (IsNot, Literal::Value(value)) => match self.compared(column, &bare, "<>", value)? {
                Some(different) => format!("({bare} IS NULL OR {different})"),
                None => "true".to_owned(),
            },
            (Like | NotLike | ILike | NotILike, Literal::Value(value)) => {
                if value_type(column)? != ValueType::String {
                    return Ok(nothing());
                }
                let pattern = match value {
                    Value::String(pattern) | Value::Json(pattern) => pattern.to_string(),
                    other => other.to_json().to_string(),
                };
                let word = match op {
                    Like => "LIKE",
                    NotLike => "NOT LIKE",
                    ILike => "ILIKE",
                    _ => "NOT ILIKE",
                };
                let pattern = self.parameter(pattern);
                format!("{} {word} {pattern}", string(column, &bare))
            }
            (_, Literal::Value(value)) => {
                let operator = match op {
                    SimpleOperator::Lt => "<",
                    SimpleOperator::Gt => ">",
                    SimpleOperator::Le => "<=",
                    _ => ">=",
                };
                self.compared(column, &bare, operator, value)?.unwrap_or_else(nothing)
            }
        })
    }

    /// A column beside a value of the same type; nothing for one of another type.
    fn compared(
        &mut self,
        column: &ColumnSpec,
        bare: &str,
        operator: &str,
        value: &Value,
    ) -> Result<Option<String>, String> {
        let equality = matches!(operator, "=" | "<>");
        Ok(match (value_type(column)?, value) {
            (ValueType::Json, _) => {
                return Err(format!("A permission compares the contents of column '{}'", column.name));
            }
            (ValueType::Boolean, Value::Bool(bool)) => Some(format!("{bare} {operator} {bool}")),
            (ValueType::String, Value::String(text)) => {
                let parameter = self.parameter(text.to_string());
                let expression = string(column, bare);
                let collation = if equality { "" } else { " COLLATE \"C\"" };
                Some(format!("{expression}{collation} {operator} {parameter}"))
            }
            (ValueType::Number, Value::Number(number)) => Some(self.number(column, bare, operator, *number)),
            _ => None,
        })
    }

    fn number(&mut self, column: &ColumnSpec, bare: &str, operator: &str, number: f64) -> String {
        let in_range = POSTGRES_TIMES.contains(&number);
        let whole = number.fract() == 0.0 && number.abs() < 9.0e15;
        match (temporal(&column.pg_type), base(&column.pg_type)) {
            // Points in time have literals of their own, so that an index serves.
            (Some(form @ (Temporal::Timestamp | Temporal::TimestampTz)), _) if in_range => {
                let to = if form == Temporal::Timestamp { "timestamp" } else { "timestamptz" };
                let parameter = self.parameter(text(number, form));
                format!("{bare} {operator} {parameter}::{to}")
            }
            (Some(Temporal::Date), _) if in_range => {
                let parameter = self.parameter(text(number, Temporal::Timestamp));
                format!("{bare} {operator} {parameter}::timestamp")
            }
            (Some(Temporal::Date | Temporal::Timestamp | Temporal::TimestampTz), _) => {
                let parameter = self.parameter(decimal(number));
                format!("extract(epoch FROM {bare}) * 1000 {operator} {parameter}::numeric")
            }
            // The replica holds whole milliseconds of the day, in UTC.
            (Some(form), _) => {
                let time = if form == Temporal::TimeTz {
                    format!("({bare} AT TIME ZONE 'UTC')::time")
                } else {
                    bare.to_owned()
                };
                let parameter = self.parameter(decimal(number));
                format!("floor(extract(epoch FROM {time}) * 1000) {operator} {parameter}::numeric")
            }
            (None, "int2" | "int4" | "int8" | "smallint" | "integer" | "bigint") if whole => {
                let parameter = self.parameter(decimal(number));
                format!("{bare} {operator} {parameter}::int8")
            }
            (None, "float8" | "double precision") => {
                let parameter = self.parameter(decimal(number));
                format!("{bare} {operator} {parameter}::float8")
            }
            // By way of its text: 0.1 is the number that is written so, not the nearest one of four bytes.
            (None, "float4" | "real") => {
                let parameter = self.parameter(decimal(number));
                format!("{bare}::text::float8 {operator} {parameter}::float8")
            }
            (None, _) => {
                let parameter = self.parameter(decimal(number));
                format!("{bare} {operator} {parameter}::numeric")
            }
        }
    }

    fn parameter(&mut self, value: String) -> String {
        self.parameters.push(value);
        format!("${}::text", self.parameters.len())
    }
}

fn decimal(number: f64) -> String {
    ryu_js::Buffer::new().format(number).to_owned()
}

/// A type's name without its arguments.
fn base(pg_type: &str) -> &str {
    pg_type.split('(').next().unwrap_or_default().trim()
}

fn column<'t>(table: &'t TableSpec, name: &str) -> Result<&'t ColumnSpec, String> {
    let found = table.columns.iter().find(|column| column.name == name);
    found.ok_or_else(|| format!("no such column: {}.{name}", table.name))
}

fn value_type(column: &ColumnSpec) -> Result<ValueType, String> {
    column.value_type().ok_or_else(|| format!("A permission compares column '{}', which is not synced", column.name))
}

/// A column of some textual type as the text that clients see.
fn string(column: &ColumnSpec, bare: &str) -> String {
    match base(&column.pg_type) {
        "text" | "varchar" | "character varying" if !column.is_enum => bare.to_owned(),
        // A cast would take the padding off.
        "bpchar" | "character" => format!("textin(bpcharout({bare}))"),
        _ => format!("{bare}::text"),
    }
}

/// Columns that tie rows of an EXISTS to their parent.
fn equal(parent: &ColumnSpec, parent_row: &str, child: &ColumnSpec, child_row: &str) -> String {
    let (left, right) =
        (format!("{child_row}.{}", quoted(&child.name)), format!("{parent_row}.{}", quoted(&parent.name)));
    if parent.pg_type == child.pg_type && parent.dimensions == child.dimensions {
        return format!("{left} = {right}");
    }
    match (child.value_type(), parent.value_type()) {
        (Some(ValueType::String), Some(ValueType::String)) => {
            format!("{} = {}", string(child, &left), string(parent, &right))
        }
        (Some(ValueType::Number), Some(ValueType::Number))
            if temporal(&child.pg_type).is_none() && temporal(&parent.pg_type).is_none() =>
        {
            format!("{left} = {right}")
        }
        _ => "false".to_owned(),
    }
}
