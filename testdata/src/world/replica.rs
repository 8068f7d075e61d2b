//! A data set in a SQLite replica, and transactions through the replica's writer.

use std::path::Path;
use std::sync::Arc;

use engine::commit::Commit;
use engine::replica::{ColumnSpec, IndexSpec, Origin, Replica, ReplicaError, SqliteValue, TableSpec, Writer};
use engine::sql::bind;
use zql_spec::ast::Direction;
use zql_spec::naive::{Database, Operation, Row};
use zql_spec::value::Value;

use super::dataset::{ColumnDef, DataSet, TableDef};

/// Makes a replica of a database, at version `00`.
pub fn create_replica(data: &DataSet, database: &Database, path: &Path) -> Result<Arc<Replica>, ReplicaError> {
    load_replica(data, path, |table| database.rows(table.name).cloned())
}

/// Creates a replica of the rows that a function gives for each table, as [`create_replica`] does.
pub fn load_replica<R: Iterator<Item = Row>>(
    data: &DataSet,
    path: &Path,
    mut rows: impl FnMut(&'static TableDef) -> R,
) -> Result<Arc<Replica>, ReplicaError> {
    let origin = Origin { replica_version: "00".into(), publications: vec!["zero_data".into()], context: "{}".into() };
    let mut load = Replica::create(path, &origin)?;
    for table in data.tables {
        let loaded = load.create_table(&table_spec(data, table))?;
        for row in rows(table) {
            let mut visible = row.iter();
            let mut values: Vec<SqliteValue> = table
                .columns
                .iter()
                .map(|column| match column.fill.value_type() {
                    Some(_) => visible.next().map_or(SqliteValue::Null, bind),
                    None => SqliteValue::Null,
                })
                .collect();
            load.append(loaded, &mut values)?;
        }
    }
    for table in data.tables {
        let keys = std::iter::once((table.primary_key, true)).chain(table.unique.iter().map(|key| (*key, true)));
        let indexes = keys.chain(table.indexes.iter().map(|columns| (*columns, false)));
        for (i, (columns, unique)) in indexes.enumerate() {
            load.create_index(&IndexSpec {
                name: format!("{}_{i}", table.name),
                table: table.name.into(),
                unique,
                columns: columns.iter().map(|&column| (column.into(), Direction::Asc)).collect(),
            })?;
        }
    }
    load.finish()
}

fn table_spec(data: &DataSet, table: &TableDef) -> TableSpec {
    TableSpec {
        name: table.name.into(),
        upstream_schema: "public".into(),
        upstream_name: table.name.into(),
        columns: table.columns.iter().map(|column| column_spec(data, column)).collect(),
        metadata: None,
    }
}

fn column_spec(data: &DataSet, column: &ColumnDef) -> ColumnSpec {
    let created = format!("CREATE TYPE {} AS ENUM", column.pg_type.trim_end_matches("[]"));
    ColumnSpec {
        name: column.name.into(),
        pg_type: catalogue_name(column.pg_type).into(),
        dimensions: u8::from(column.pg_type.ends_with("[]")),
        is_enum: data.types.iter().any(|statement| statement.starts_with(&created)),
        not_null: !column.nullable,
        ..ColumnSpec::default()
    }
}

/// A type as Postgres's catalogue names it: without length or dimensions.
fn catalogue_name(pg_type: &str) -> &str {
    match pg_type.trim_end_matches("[]").split('(').next().unwrap_or_default() {
        "char" => "bpchar",
        name => name,
    }
}

/// Applies a transaction as the stream from upstream would.
pub fn apply_to_replica(
    data: &DataSet,
    writer: &mut Writer,
    version: &str,
    transaction: &[Operation],
) -> Result<Commit, ReplicaError> {
    let values = |values: &[Value]| values.iter().map(bind).collect::<Vec<SqliteValue>>();
    let mut tx = writer.begin(version)?;
    for operation in transaction {
        let table = data.table(operation.table());
        let columns: Vec<&str> = table.visible().map(|column| column.name).collect();
        let relation = tx.relation(table.name, &columns, table.primary_key)?;
        match operation {
            Operation::Insert { row, .. } => tx.insert(&relation, &values(row))?,
            Operation::Update { key, row, .. } => {
                let positions = table.positions(table.primary_key);
                let same_key = positions.iter().zip(key).all(|(&position, value)| row[position] == *value);
                let old_key = values(key);
                let row: Vec<Option<SqliteValue>> = values(row).into_iter().map(Some).collect();
                tx.update(&relation, (!same_key).then_some(&old_key), &row)?;
            }
            Operation::Delete { key, .. } => tx.delete(&relation, &values(key))?,
            Operation::Truncate { .. } => tx.truncate(table.name)?,
        }
    }
    tx.commit()
}
