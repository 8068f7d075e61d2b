//! Transactions as text, one operation a line.
//!
//! `insert TABLE {column: value, …}` (what is missing is null), `update TABLE KEY {column: value, …}`,
//! `delete TABLE KEY`, `truncate TABLE`.

use std::sync::Arc;

use super::dataset::{DataSet, DataTable};
use super::key;
use crate::json::Json;
use crate::naive::{Database, Operation, Row};
use crate::value::Value;

/// The operations of a transaction on a database, which is left as it is.
///
/// # Errors
/// When a line is no operation, or one that the database's rows do not allow.
pub fn operations(lines: &[String], data: &DataSet, database: &Database) -> Result<Vec<Operation>, String> {
    let mut state = database.clone();
    let mut operations = Vec::new();
    for line in lines {
        let operation = operation(line, data, &state).map_err(|what| format!("{what} in {line:?}"))?;
        state.apply(std::slice::from_ref(&operation));
        operations.push(operation);
    }
    Ok(operations)
}

/// The line of an operation.
pub fn print_operation(operation: &Operation, data: &DataSet) -> String {
    let name = operation.table();
    let columns = |row: &Row| {
        let columns = data.table(name).map_or(&[][..], |table| &table.columns);
        Json::Object(columns.iter().zip(row.iter()).map(|(c, value)| (Arc::clone(&c.name), value.to_json())).collect())
    };
    match operation {
        Operation::Insert { row, .. } => format!("insert {name} {}", columns(row)),
        Operation::Update { key, row, .. } => format!("update {name} {} {}", key::print(key), columns(row)),
        Operation::Delete { key, .. } => format!("delete {name} {}", key::print(key)),
        Operation::Truncate { .. } => format!("truncate {name}"),
    }
}

fn operation(line: &str, data: &DataSet, database: &Database) -> Result<Operation, String> {
    let (kind, rest) = line.split_once(' ').ok_or("no operation")?;
    let (name, rest) = rest.trim_start().split_once(' ').unwrap_or((rest.trim_start(), ""));
    let def = data.table(name).ok_or_else(|| format!("no table {name}"))?;
    let table = Arc::clone(&def.name);
    let existing = |key: &[Value]| database.tables.get(&table).and_then(|rows| rows.get(key)).cloned();
    match kind {
        "insert" => {
            let row = changed(def, None, rest)?;
            if existing(&database.key(name, &row)).is_some() {
                return Err("there is a row with this key".into());
            }
            unique(def, database, &row, None)?;
            Ok(Operation::Insert { table, row })
        }
        "update" => {
            let (key, rest) = key::take(def, rest)?;
            let old = existing(&key).ok_or("there is no such row")?;
            let row = changed(def, Some(&old), rest)?;
            let new_key = database.key(name, &row);
            if new_key != key && existing(&new_key).is_some() {
                return Err("there is a row with the new key".into());
            }
            unique(def, database, &row, Some(&old))?;
            Ok(Operation::Update { table, key, row })
        }
        "delete" => {
            let (key, rest) = key::take(def, rest)?;
            existing(&key).ok_or("there is no such row")?;
            if rest.trim().is_empty() { Ok(Operation::Delete { table, key }) } else { Err("more than a key".into()) }
        }
        "truncate" if rest.trim().is_empty() => Ok(Operation::Truncate { table }),
        _ => Err("expected insert, update, delete or truncate".into()),
    }
}

/// A row with columns changed.
fn changed(table: &DataTable, old: Option<&Row>, json: &str) -> Result<Row, String> {
    let json = Json::parse(json.trim()).map_err(|error| error.to_string())?;
    let entries = json.as_object().ok_or("columns are an object")?;
    if let Some((unknown, _)) = entries.iter().find(|(name, _)| table.position(name).is_none()) {
        return Err(format!("{} has no column {unknown}", table.name));
    }
    let cell = |(at, column): (usize, &super::DataColumn)| match (json.get(&column.name), old) {
        (Some(json), _) => column.value(json),
        (None, Some(old)) => Ok(old[at].clone()),
        (None, None) => column.value(&Json::Null),
    };
    table.columns.iter().enumerate().map(cell).collect()
}

/// Whether the further unique keys hold.
fn unique(table: &DataTable, database: &Database, row: &Row, instead_of: Option<&Row>) -> Result<(), String> {
    for key in &table.unique {
        let positions: Vec<usize> = key.iter().filter_map(|name| table.position(name)).collect();
        let same = |other: &&Row| positions.iter().all(|&column| row[column].joins(&other[column]));
        if database.rows(&table.name).filter(|other| Some(*other) != instead_of).any(|other| same(&other)) {
            return Err(format!("there is a row with the same {}", key.join(", ")));
        }
    }
    Ok(())
}
