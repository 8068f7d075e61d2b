//! A data set, its rows and its transactions as SQL for Postgres.

use std::fmt::Write;

use zql_spec::json::Json;
use zql_spec::naive::{Database, Operation};
use zql_spec::value::Value;

use super::dataset::{DataSet, TableDef};

/// The statements that create a data set's types, tables and indexes.
pub fn schema_sql(data: &DataSet) -> String {
    let mut sql = String::new();
    for statement in data.types {
        let _ = writeln!(sql, "{statement};");
    }
    for table in data.tables {
        let mut parts: Vec<String> = table
            .columns
            .iter()
            .map(|column| {
                let null = if column.nullable { "" } else { " NOT NULL" };
                format!("\"{}\" {}{null}", column.name, column.pg_type)
            })
            .collect();
        parts.push(format!("PRIMARY KEY ({})", names(table.primary_key)));
        parts.extend(table.unique.iter().map(|key| format!("UNIQUE ({})", names(key))));
        let _ = writeln!(sql, "CREATE TABLE \"{}\" ({});", table.name, parts.join(", "));
        for index in table.indexes {
            let _ = writeln!(sql, "CREATE INDEX ON \"{}\" ({});", table.name, names(index));
        }
    }
    sql
}

/// The statements that insert all rows of a database.
pub fn data_sql(data: &DataSet, database: &Database) -> String {
    let mut sql = String::new();
    for table in data.tables {
        for row in database.rows(table.name) {
            insert(table, row, &mut sql);
        }
    }
    sql
}

/// A transaction, from BEGIN to COMMIT.
pub fn transaction_sql(data: &DataSet, transaction: &[Operation]) -> String {
    format!("BEGIN;\n{}COMMIT;\n", operations_sql(data, transaction))
}

/// The statements of a transaction, without BEGIN and COMMIT.
pub fn operations_sql(data: &DataSet, transaction: &[Operation]) -> String {
    let mut sql = String::new();
    for operation in transaction {
        let table = data.table(operation.table());
        match operation {
            Operation::Insert { row, .. } => insert(table, row, &mut sql),
            Operation::Update { key, row, .. } => {
                let columns = table.visible().zip(row.iter());
                let set: Vec<String> = columns
                    .map(|(column, value)| format!("\"{}\" = {}", column.name, literal(column.pg_type, value)))
                    .collect();
                let _ =
                    writeln!(sql, "UPDATE \"{}\" SET {} WHERE {};", table.name, set.join(", "), where_key(table, key));
            }
            Operation::Delete { key, .. } => {
                let _ = writeln!(sql, "DELETE FROM \"{}\" WHERE {};", table.name, where_key(table, key));
            }
            Operation::Truncate { .. } => {
                let _ = writeln!(sql, "TRUNCATE \"{}\";", table.name);
            }
        }
    }
    sql
}

fn names(columns: &[&str]) -> String {
    columns.iter().map(|column| format!("\"{column}\"")).collect::<Vec<_>>().join(", ")
}

fn insert(table: &TableDef, row: &[Value], sql: &mut String) {
    let columns: Vec<&str> = table.visible().map(|column| column.name).collect();
    let values: Vec<String> = table.visible().zip(row).map(|(column, value)| literal(column.pg_type, value)).collect();
    let _ = writeln!(sql, "INSERT INTO \"{}\" ({}) VALUES ({});", table.name, names(&columns), values.join(", "));
}

fn where_key(table: &TableDef, key: &[Value]) -> String {
    let columns = table.primary_key.iter().zip(key).map(|(name, value)| {
        let pg_type = table.columns.iter().find(|column| column.name == *name).map_or("text", |column| column.pg_type);
        format!("\"{name}\" = {}", literal(pg_type, value))
    });
    columns.collect::<Vec<_>>().join(" AND ")
}

fn quoted(text: &str) -> String {
    // The escaped form, whatever `standard_conforming_strings` says.
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

fn literal(pg_type: &str, value: &Value) -> String {
    match value {
        Value::Null => "NULL".into(),
        Value::Bool(bool) => bool.to_string(),
        Value::String(text) => format!("{}::{pg_type}", quoted(text)),
        Value::Json(text) if pg_type.ends_with("[]") => array(pg_type, text),
        Value::Json(text) => format!("{}::{pg_type}", quoted(text)),
        Value::Number(number) => match pg_type {
            // Times are milliseconds; microseconds are exact in a numeric literal.
            "timestamptz" => format!("'epoch'::timestamptz + {number:.3} * interval '1 millisecond'"),
            "timestamp" => format!("'epoch'::timestamp + {number:.3} * interval '1 millisecond'"),
            "date" => format!("'epoch'::date + {:.0}", number / 86_400_000.0),
            "time" => format!("'00:00'::time + {number:.3} * interval '1 millisecond'"),
            "timetz" => format!("(('00:00'::time + {number:.3} * interval '1 millisecond')::text || '+00')::timetz"),
            // In parentheses: a cast binds closer than a sign.
            pg_type => format!("({number:e})::{pg_type}"),
        },
    }
}

fn array(pg_type: &str, json: &str) -> String {
    let element = pg_type.trim_end_matches("[]");
    let elements = Json::parse(json).ok();
    let elements = elements.as_ref().and_then(Json::as_array).unwrap_or_default();
    let elements: Vec<String> = elements.iter().map(|json| literal(element, &Value::from_json(json))).collect();
    format!("ARRAY[{}]::{pg_type}", elements.join(", "))
}
