//! The transaction that leads from one database to another, so that cases can share what is costly to make.

use std::sync::Arc;

use zql_spec::naive::{Database, Operation};

/// Deletes what is not in `to`, and inserts what is; a row that differs goes and comes back.
pub(crate) fn undo(from: &Database, to: &Database) -> Vec<Operation> {
    let mut operations = Vec::new();
    for (table, rows) in &from.tables {
        let wanted = to.tables.get(table);
        for (key, row) in rows {
            if wanted.and_then(|rows| rows.get(key)) != Some(row) {
                operations.push(Operation::Delete { table: Arc::clone(table), key: key.clone() });
            }
        }
    }
    for (table, rows) in &to.tables {
        let there = from.tables.get(table);
        for (key, row) in rows {
            if there.and_then(|rows| rows.get(key)) != Some(row) {
                operations.push(Operation::Insert { table: Arc::clone(table), row: Arc::clone(row) });
            }
        }
    }
    operations
}
