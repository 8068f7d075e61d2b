//! A larger world of the same kind: copies of a database side by side.
//!
//! Keys, and what refers to them, differ between copies; everything else is the same in all. So rows are related within
//! their copy alone, and whatever a query means, its answer grows with the copies and no faster.

use std::collections::BTreeSet;
use std::sync::Arc;

use zql_spec::naive::{Database, Operation, Row};
use zql_spec::value::Value;

use super::dataset::{DataSet, TableDef};

/// By how much numbers of one copy and the next differ: a prime, so that no two of a data set (days, in milliseconds) meet.
const APART: f64 = 1_000_003.0;

/// Numbers beyond this are too near the end of what clients can be given.
const FAR: f64 = (1u64 << 52) as f64;

/// So many copies of a database. The first one is the database itself.
pub fn multiply(data: &DataSet, database: &Database, number: usize) -> Database {
    let mut many = Database::new(Arc::new(data.schema()));
    for table in data.tables {
        for row in copies(data, database, number, table) {
            many.apply(&[Operation::Insert { table: table.name.into(), row }]);
        }
    }
    many
}

/// The rows of a table in so many copies of a database, one after the other: worlds that fit no memory can be made of them.
pub fn copies<'d>(
    data: &DataSet,
    database: &'d Database,
    number: usize,
    table: &TableDef,
) -> impl Iterator<Item = Row> + use<'d> {
    let apart = key_columns(data, table);
    let keys = table.keys();
    let name = table.name;
    (0..number).flat_map(move |copy| {
        let (apart, keys) = (apart.clone(), keys.clone());
        database.rows(name).filter_map(move |row| {
            let values = row.iter().enumerate().map(|(column, value)| match apart.contains(&column) {
                true => of_copy(value, copy),
                false => value.clone(),
            });
            let copied: Row = values.collect();
            // Keys of booleans cannot be told apart: such a row is there once.
            let same = |&column: &usize| copied[column] == row[column] && !row[column].is_null();
            let again = copy > 0 && keys.iter().any(|key| key.iter().all(same));
            (!again).then_some(copied)
        })
    })
}

fn of_copy(value: &Value, copy: usize) -> Value {
    match value {
        Value::String(text) if copy > 0 => Value::string(format!("{text}~{copy}")),
        // Towards zero where adding would leave the numbers that clients can be given.
        Value::Number(number) if *number > FAR => Value::Number(number - APART * copy as f64),
        Value::Number(number) => Value::Number(number + APART * copy as f64),
        value => value.clone(),
    }
}

/// The columns of a table that tell its rows apart or relate them.
fn key_columns(data: &DataSet, table: &TableDef) -> BTreeSet<usize> {
    let mut columns: BTreeSet<usize> = table.keys().into_iter().flatten().collect();
    let mut add = |of: &str, names: &[&str]| {
        if of == table.name {
            columns.extend(table.positions(names));
        }
    };
    for relationship in data.relationships {
        add(relationship.from, relationship.from_columns);
        add(relationship.to, relationship.to_columns);
        if let Some((of_junction, behind, columns)) = relationship.then {
            add(relationship.to, of_junction);
            add(behind, columns);
        }
    }
    columns
}
