//! Random transactions on a database: every kind of statement, alone and together.
//!
//! Unique keys hold after every operation, as they do in Postgres unless a constraint is deferred.

use std::sync::Arc;

use zql_spec::naive::{Database, Operation, Row, Transaction};
use zql_spec::value::Value;

use super::dataset::{DataSet, TableDef};
use super::rng::Rng;

/// Fills a database with a data set's first rows.
pub fn fill(data: &DataSet, rng: &mut Rng) -> Database {
    let mut database = Database::new(Arc::new(data.schema()));
    for table in data.tables {
        // Draws that collide with an earlier key are dropped, so the number of tries bounds the work.
        for _ in 0..table.rows {
            if let Some(operation) = insert(table, &database, rng) {
                database.apply(&[operation]);
            }
        }
    }
    database
}

/// The next transaction on a database; the database is not changed.
pub fn transaction(data: &DataSet, database: &Database, rng: &mut Rng) -> Transaction {
    let mut scratch = database.clone();
    let mut operations = Vec::new();
    let statements = [0, 1, 1, 1, 1, 2, 2, 3, 4, 6][rng.below(10)];
    for _ in 0..statements {
        for operation in statement(data, &scratch, rng) {
            scratch.apply(std::slice::from_ref(&operation));
            operations.push(operation);
        }
    }
    operations
}

fn statement(data: &DataSet, database: &Database, rng: &mut Rng) -> Vec<Operation> {
    // Larger tables change more often.
    let total: usize = data.tables.iter().map(|table| table.rows).sum();
    let mut at = rng.below(total);
    let table = data
        .tables
        .iter()
        .find(|table| {
            let found = at < table.rows;
            at = at.saturating_sub(table.rows);
            found
        })
        .unwrap_or(&data.tables[0]);
    let name = || Arc::<str>::from(table.name);
    match rng.below(100) {
        0..=27 => insert(table, database, rng).into_iter().collect(),
        28..=51 => update(table, database, rng, 1, false),
        52..=56 => {
            let rows = 2 + rng.below(6);
            update(table, database, rng, rows, false)
        }
        57..=61 => update(table, database, rng, 1, true),
        62..=77 => delete(table, database, rng, 1),
        78..=81 => {
            let rows = 2 + rng.below(8);
            delete(table, database, rng, rows)
        }
        82..=85 => null_out(table, database, rng),
        86..=90 => swap(table, database, rng),
        // A row that goes and comes back within a transaction, changed or not.
        91..=96 => {
            let Some(row) = any_row(table, database, rng) else { return Vec::new() };
            let key = database.key(table.name, &row);
            let mut back = row.to_vec();
            if rng.percent(60) {
                change(table, &mut back, rng, false);
            }
            vec![Operation::Delete { table: name(), key }, Operation::Insert { table: name(), row: back.into() }]
                .into_iter()
                .filter(|operation| match operation {
                    Operation::Insert { row: back, .. } => !conflicts(table, database, back, Some(&row)),
                    _ => true,
                })
                .collect()
        }
        97 => vec![Operation::Truncate { table: name() }],
        // An update that changes nothing.
        _ => match any_row(table, database, rng) {
            Some(row) => vec![Operation::Update { table: name(), key: database.key(table.name, &row), row }],
            None => Vec::new(),
        },
    }
}

fn any_row(table: &TableDef, database: &Database, rng: &mut Rng) -> Option<Row> {
    let rows: Vec<&Row> = database.rows(table.name).collect();
    if rows.is_empty() { None } else { Some(Row::clone(*rng.pick(&rows))) }
}

/// Whether a row has a unique key of another row. Keys with nulls collide with nothing.
fn conflicts(table: &TableDef, database: &Database, row: &[Value], instead_of: Option<&Row>) -> bool {
    let keys = table.keys();
    database.rows(table.name).filter(|other| Some(*other) != instead_of).any(|other| {
        keys.iter().any(|key| key.iter().all(|&column| !row[column].is_null() && row[column] == other[column]))
    })
}

fn insert(table: &TableDef, database: &Database, rng: &mut Rng) -> Option<Operation> {
    let row: Row = table.visible().map(|column| column.value(rng)).collect();
    (!conflicts(table, database, &row, None)).then(|| Operation::Insert { table: table.name.into(), row })
}

/// Draws new values for some columns of a row.
fn change(table: &TableDef, row: &mut [Value], rng: &mut Rng, key: bool) {
    let columns: Vec<_> = table.visible().collect();
    let in_key = |column: usize| table.primary_key.contains(&columns[column].name);
    let candidates: Vec<usize> = (0..columns.len()).filter(|&column| in_key(column) == key).collect();
    if candidates.is_empty() {
        return;
    }
    for _ in 0..1 + rng.below(2) {
        let column = *rng.pick(&candidates);
        row[column] = columns[column].value(rng);
    }
}

fn update(table: &TableDef, database: &Database, rng: &mut Rng, rows: usize, key: bool) -> Vec<Operation> {
    let mut scratch = database.clone();
    let mut operations = Vec::new();
    for _ in 0..rows {
        let Some(old) = any_row(table, &scratch, rng) else { break };
        let mut row = old.to_vec();
        change(table, &mut row, rng, key);
        if key && rng.percent(50) {
            change(table, &mut row, rng, false);
        }
        if !conflicts(table, &scratch, &row, Some(&old)) {
            let key = scratch.key(table.name, &old);
            let operation = Operation::Update { table: table.name.into(), key, row: row.into() };
            scratch.apply(std::slice::from_ref(&operation));
            operations.push(operation);
        }
    }
    operations
}

fn delete(table: &TableDef, database: &Database, rng: &mut Rng, rows: usize) -> Vec<Operation> {
    let mut keys: Vec<Vec<Value>> = Vec::new();
    for _ in 0..rows {
        if let Some(row) = any_row(table, database, rng) {
            let key = database.key(table.name, &row);
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
    }
    keys.into_iter().map(|key| Operation::Delete { table: table.name.into(), key }).collect()
}

/// Sets one nullable column of several rows to null: what deleting a parent does to its children.
fn null_out(table: &TableDef, database: &Database, rng: &mut Rng) -> Vec<Operation> {
    let nullable: Vec<usize> =
        table.visible().enumerate().filter(|(_, column)| column.nullable).map(|(position, _)| position).collect();
    if nullable.is_empty() {
        return Vec::new();
    }
    let column = *rng.pick(&nullable);
    let Some(pattern) = any_row(table, database, rng) else { return Vec::new() };
    let rows = database.rows(table.name).filter(|row| row[column] == pattern[column]);
    rows.map(|row| {
        let mut values = row.to_vec();
        values[column] = Value::Null;
        let key = database.key(table.name, row);
        Operation::Update { table: table.name.into(), key, row: values.into() }
    })
    .collect()
}

/// Two rows exchange the values of a unique key, by way of a third value where the key must stay unique
/// all along; without a further unique key they exchange everything but their primary keys.
fn swap(table: &TableDef, database: &Database, rng: &mut Rng) -> Vec<Operation> {
    let (Some(a), Some(b)) = (any_row(table, database, rng), any_row(table, database, rng)) else { return Vec::new() };
    if a == b {
        return Vec::new();
    }
    let name = || Arc::<str>::from(table.name);
    let update = |key: &Row, row: Vec<Value>| Operation::Update {
        table: name(),
        key: database.key(table.name, key),
        row: row.into(),
    };
    let (mut new_a, mut new_b) = (a.to_vec(), b.to_vec());
    match table.keys().get(1) {
        Some(unique) => {
            for &column in unique {
                std::mem::swap(&mut new_a[column], &mut new_b[column]);
            }
            let mut aside = a.to_vec();
            let last = unique[unique.len() - 1];
            aside[last] = match &aside[last] {
                Value::Number(_) => Value::Number(-1.0),
                _ => Value::string("aside"),
            };
            if conflicts(table, database, &aside, Some(&a)) {
                return Vec::new();
            }
            vec![update(&a, aside), update(&b, new_b), update(&a, new_a)]
        }
        None => {
            let key = table.positions(table.primary_key);
            for column in (0..a.len()).filter(|column| !key.contains(column)) {
                std::mem::swap(&mut new_a[column], &mut new_b[column]);
            }
            vec![update(&a, new_a), update(&b, new_b)]
        }
    }
}
