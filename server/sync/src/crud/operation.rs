//! One operation of a CRUD mutation, checked against the replicated tables, and its SQL.
//!
//! Names go into the text quoted, values in one JSON parameter that Postgres takes apart by the table's own types. So a
//! statement's text depends on a table and the columns written, and on nothing that a client could smuggle in.

use std::collections::BTreeMap;
use std::fmt::Write;

use engine::replica::TableSpec;
use serde::Deserialize;
use serde_json::value::RawValue;
use zql_spec::schema::{Schema, Table};

use super::value;

/// An operation as the client writes it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawOperation {
    op: Kind,
    table_name: String,
    primary_key: Vec<String>,
    value: BTreeMap<String, Box<RawValue>>,
}

/// The only argument of a CRUD mutation.
#[derive(Debug, Deserialize)]
pub(super) struct Arguments {
    pub(super) ops: Vec<RawOperation>,
}

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    Insert,
    Upsert,
    Update,
    Delete,
}

/// An operation on a table that exists, with a key that names at most one row.
#[derive(Debug)]
pub(super) struct Operation {
    pub(super) kind: Kind,
    pub(super) table: TableSpec,
    /// Columns that name the row.
    key: Vec<String>,
    /// Columns that are written.
    columns: Vec<String>,
    /// The values: a JSON object.
    pub(super) record: String,
}

impl Operation {
    /// Checks an operation. The error is for the client.
    pub(super) fn new(raw: &RawOperation, tables: &Tables) -> Result<Operation, String> {
        let name = &raw.table_name;
        let (spec, table) = tables.get(name).ok_or_else(|| format!("Table '{name}' is not a valid table."))?;
        let mut key: Vec<&str> = raw.primary_key.iter().map(String::as_str).collect();
        key.sort_unstable();
        key.dedup();
        let is_key = |positions: &Vec<usize>| {
            let mut columns: Vec<&str> = positions.iter().map(|&at| &*table.columns[at].name).collect();
            columns.sort_unstable();
            columns == key
        };
        // Or else an operation on a row could be one on many, past the permissions of all but one.
        if !table.unique_keys.iter().any(is_key) {
            return Err(format!("{key:?} is not a primary key or unique index of table '{name}'"));
        }
        for column in &key {
            let value = raw.value.get(*column).ok_or_else(|| {
                format!("Primary key column '{column}' is missing from operation value for table {name}")
            })?;
            if value.get().starts_with(['{', '[', 'n']) {
                return Err(format!(
                    "Primary key column '{column}' of table {name} must be a string, number or boolean"
                ));
            }
        }
        let unknown = raw.value.keys().find(|name| !spec.columns.iter().any(|column| column.name == **name));
        if let Some(column) = unknown {
            return Err(format!("Table '{name}' has no replicated column '{column}'."));
        }
        let mut record = String::from("{");
        for (index, (column, value)) in raw.value.iter().enumerate() {
            if index > 0 {
                record.push(',');
            }
            zql_spec::json::write_string(column, &mut record);
            record.push(':');
            let spec = spec.columns.iter().find(|spec| spec.name == *column);
            value::write_value(value, spec.map_or("", |spec| &spec.pg_type), &mut record);
        }
        record.push('}');
        Ok(Operation {
            kind: raw.op,
            table: spec.clone(),
            key: key.into_iter().map(str::to_owned).collect(),
            columns: raw.value.keys().cloned().collect(),
            record,
        })
    }

    /// Whether a column is written.
    pub(super) fn writes(&self, column: &str) -> bool {
        self.columns.iter().any(|written| written == column)
    }

    /// The statement that does it, with the record as its parameter.
    pub(super) fn sql(&self) -> String {
        let table = relation(&self.table);
        let source = format!("json_populate_record(NULL::{table}, $1::text::json) AS r");
        let list = |columns: &[String], prefix: &str| {
            columns.iter().map(|column| format!("{prefix}{}", quoted(column))).collect::<Vec<_>>().join(", ")
        };
        let set = |from: &str| {
            let assign = |column: &String| format!("{0} = {from}.{0}", quoted(column));
            self.columns.iter().map(assign).collect::<Vec<_>>().join(", ")
        };
        let insert = || {
            format!(
                "INSERT INTO {table} ({}) SELECT {} FROM {source} ON CONFLICT ({}) DO",
                list(&self.columns, ""),
                list(&self.columns, "r."),
                list(&self.key, "")
            )
        };
        match self.kind {
            Kind::Insert => format!("{} NOTHING", insert()),
            Kind::Upsert => format!("{} UPDATE SET {}", insert(), set("EXCLUDED")),
            Kind::Update => format!("UPDATE {table} AS t SET {} FROM {source} WHERE {}", set("r"), self.is_row("t")),
            Kind::Delete => format!("DELETE FROM {table} AS t USING {source} WHERE {}", self.is_row("t")),
        }
    }

    /// A statement that gives what a condition on the row `t0` says, or no row if there is none. The record is its
    /// first parameter.
    pub(super) fn check_sql(&self, condition: &str) -> String {
        let table = relation(&self.table);
        format!(
            "SELECT coalesce({condition}, false) FROM {table} AS t0, json_populate_record(NULL::{table}, \
             $1::text::json) AS r WHERE {}",
            self.is_row("t0")
        )
    }

    fn is_row(&self, alias: &str) -> String {
        let mut text = String::new();
        for (index, column) in self.key.iter().enumerate() {
            let and = if index > 0 { " AND " } else { "" };
            let _ = write!(text, "{and}{alias}.{0} = r.{0}", quoted(column));
        }
        text
    }
}

/// The tables that clients can write, by their names in the replica.
#[derive(Debug)]
pub(super) struct Tables {
    tables: BTreeMap<String, (TableSpec, std::sync::Arc<Table>)>,
}

impl Tables {
    /// All but those of the schemas that are the app's own.
    pub(super) fn new(specs: Vec<TableSpec>, schema: &Schema, own: &[&str]) -> Tables {
        let own =
            |name: &str| own.iter().any(|schema| name.strip_prefix(schema).is_some_and(|rest| rest.starts_with('.')));
        let tables = specs.into_iter().filter(|spec| !own(&spec.name));
        let tables = tables.filter_map(|spec| {
            let table = schema.table(&spec.name)?;
            Some((spec.name.clone(), (spec, std::sync::Arc::clone(table))))
        });
        Tables { tables: tables.collect() }
    }

    pub(super) fn get(&self, name: &str) -> Option<&(TableSpec, std::sync::Arc<Table>)> {
        self.tables.get(name)
    }
}

/// A table's name in Postgres.
pub(super) fn relation(table: &TableSpec) -> String {
    format!("{}.{}", quoted(&table.upstream_schema), quoted(&table.upstream_name))
}

/// An identifier in Postgres.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
