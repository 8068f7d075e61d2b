//! Data sets of conformance cases in the form that generators, replicas and SQL are made from.
//!
//! Definitions live as long as the process: there are a handful of data sets, each made once.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use zql_spec::conformance::{self, DataColumn, DataTable};
use zql_spec::schema::ValueType;
use zql_spec::value::Value;

use super::dataset::{ColumnDef, DataSet, Fill, Relationship, TableDef};

/// The definition of a data set. The values its columns take are those of its rows.
pub fn definition(data: &conformance::DataSet) -> &'static DataSet {
    static MADE: Mutex<Vec<&'static DataSet>> = Mutex::new(Vec::new());
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(found) = made.iter().find(|other| *other.name == *data.name) {
        return found;
    }
    let definition: &'static DataSet = Box::leak(Box::new(make(data)));
    made.push(definition);
    definition
}

fn text(text: &str) -> &'static str {
    Box::leak(text.to_owned().into_boxed_str())
}

fn list<T>(items: impl IntoIterator<Item = T>) -> &'static [T] {
    Box::leak(items.into_iter().collect::<Vec<T>>().into_boxed_slice())
}

fn names(names: &[impl AsRef<str>]) -> &'static [&'static str] {
    list(names.iter().map(|name| text(name.as_ref())))
}

fn make(data: &conformance::DataSet) -> DataSet {
    let types = data.enums.iter().map(|(name, labels)| {
        let labels: Vec<String> = labels.iter().map(|label| format!("'{}'", label.replace('\'', "''"))).collect();
        text(&format!("CREATE TYPE {name} AS ENUM ({})", labels.join(", ")))
    });
    DataSet {
        name: text(&data.name),
        types: list(types),
        tables: list(data.tables.iter().map(|table| make_table(data, table))),
        relationships: list(relationships(data)),
    }
}

fn make_table(data: &conformance::DataSet, table: &DataTable) -> TableDef {
    let column = |(position, column): (usize, &DataColumn)| ColumnDef {
        name: text(&column.name),
        pg_type: text(&column.pg_type),
        nullable: column.nullable,
        fill: fill(column, data.database.rows(&table.name).map(|row| row[position].clone()).collect()),
    };
    TableDef {
        name: text(&table.name),
        columns: list(table.columns.iter().enumerate().map(column)),
        primary_key: names(&table.primary_key),
        unique: list(table.unique.iter().map(|key| names(key))),
        indexes: list(table.indexes.iter().map(|key| names(key))),
        rows: data.database.rows(&table.name).count(),
    }
}

fn fill(column: &DataColumn, values: BTreeSet<Value>) -> Fill {
    let values = values.into_iter().filter(|value| !value.is_null());
    let texts = |values: Vec<Value>| {
        list(values.into_iter().filter_map(|value| match value {
            Value::String(value) | Value::Json(value) => Some(text(&value)),
            _ => None,
        }))
    };
    match column.value_type {
        ValueType::Boolean => Fill::Bool,
        ValueType::String => Fill::Texts(texts(values.collect())),
        ValueType::Json => Fill::Documents(texts(values.collect())),
        ValueType::Number => Fill::Numbers(list(values.filter_map(|value| match value {
            Value::Number(number) => Some(number),
            _ => None,
        }))),
    }
}

fn relationships(data: &conformance::DataSet) -> Vec<Relationship> {
    let mut relationships = Vec::new();
    for (from, table) in &data.zero.tables {
        for (name, hops) in &table.relationships {
            let Some(first) = hops.first() else { continue };
            relationships.push(Relationship {
                name: text(name),
                from: text(from),
                from_columns: names(&first.source_field),
                to: text(&first.dest_table),
                to_columns: names(&first.dest_field),
                then: hops
                    .get(1)
                    .map(|last| (names(&last.source_field), text(&last.dest_table), names(&last.dest_field))),
            });
        }
    }
    relationships
}
