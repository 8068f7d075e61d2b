//! A larger world of the same kind: copies of a database side by side.
//!
//! Keys, and what refers to them, differ between copies; everything else is the same in all. So rows are related within
//! their copy alone, and whatever a query means, its answer grows with the copies and no faster.

use std::collections::BTreeSet;
use std::sync::Arc;

use zql_spec::naive::{Database, Operation, Row};
use zql_spec::value::Value;

use super::dataset::{DataSet, TableDef};

/// So many copies of a database. The first one is the database itself.
pub fn multiply(data: &DataSet, database: &Database, copies: usize) -> Database {
    let mut many = Database::new(Arc::new(data.schema()));
    for table in data.tables {
        let keys = key_columns(data, table);
        for copy in 0..copies {
            for row in database.rows(table.name) {
                let values = row.iter().enumerate().map(|(column, value)| match keys.contains(&column) {
                    true => of_copy(value, copy),
                    false => value.clone(),
                });
                let row: Row = values.collect();
                many.apply(&[Operation::Insert { table: table.name.into(), row }]);
            }
        }
    }
    many
}

fn of_copy(value: &Value, copy: usize) -> Value {
    match value {
        Value::String(text) if copy > 0 => Value::string(format!("{text}~{copy}")),
        Value::Number(number) => Value::Number(number + 1000.0 * copy as f64),
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
