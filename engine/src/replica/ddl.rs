//! Schema changes inside a transaction.
//!
//! Rows are not rewritten: the table's minimum version is raised to the transaction's, so that all its
//! rows count as written now. Whether queries notice is found by comparing the schema before and after.
//! Cost is that of SQLite's own ALTER, a copy of the table for a change of type.

use rusqlite::{Connection, params};

use super::catalogue::{create_index, create_table_sql, quote, upstream_name, write_column};
use super::error::ReplicaError;
use super::spec::{ColumnSpec, IndexSpec, TableSpec};
use super::writer::Tx;

/// Records what the change source remembers about a table.
pub(super) fn write_table_metadata(connection: &Connection, table: &TableSpec) -> Result<(), ReplicaError> {
    let (schema, name) = upstream_name(&table.name);
    connection.execute(
        r#"INSERT INTO "_zero.tableMetadata" ("schema", "table", upstreamMetadata) VALUES (?, ?, ?)
           ON CONFLICT DO UPDATE SET upstreamMetadata = excluded.upstreamMetadata"#,
        params![schema, name, table.metadata],
    )?;
    Ok(())
}

impl Tx<'_> {
    /// Creates a table.
    pub fn create_table(&mut self, table: &TableSpec) -> Result<(), ReplicaError> {
        self.settle()?;
        let connection = &self.writer.connection;
        connection.execute_batch(&create_table_sql(&table.name, &table.columns, None))?;
        for column in &table.columns {
            write_column(connection, &table.name, column)?;
        }
        if table.metadata.is_some() {
            write_table_metadata(connection, table)?;
        }
        self.reload()
    }

    /// Gives a table the name, and the metadata, of `new`; its columns are left alone.
    pub fn rename_table(&mut self, old: &str, new: &TableSpec) -> Result<(), ReplicaError> {
        self.settle()?;
        let connection = &self.writer.connection;
        connection.execute_batch(&format!("ALTER TABLE {} RENAME TO {}", quote(old), quote(&new.name)))?;
        connection.execute(
            r#"UPDATE "_zero.column_metadata" SET table_name = ? WHERE table_name = ?"#,
            params![new.name, old],
        )?;
        let ((old_schema, old_name), (schema, name)) = (upstream_name(old), upstream_name(&new.name));
        connection.execute(
            r#"UPDATE OR REPLACE "_zero.tableMetadata" SET "schema" = ?, "table" = ? WHERE "schema" = ? AND "table" = ?"#,
            params![schema, name, old_schema, old_name],
        )?;
        if new.metadata.is_some() {
            write_table_metadata(connection, new)?;
        }
        self.raise(&new.name)?;
        self.reload()
    }

    /// Drops a table if it exists.
    pub fn drop_table(&mut self, table: &str) -> Result<(), ReplicaError> {
        self.settle()?;
        let connection = &self.writer.connection;
        connection.execute_batch(&format!("DROP TABLE IF EXISTS {}", quote(table)))?;
        connection.execute(r#"DELETE FROM "_zero.column_metadata" WHERE table_name = ?"#, [table])?;
        let (schema, name) = upstream_name(table);
        connection
            .execute(r#"DELETE FROM "_zero.tableMetadata" WHERE "schema" = ? AND "table" = ?"#, [schema, name])?;
        self.reload()
    }

    /// Remembers what the change source says about a table.
    pub fn set_table_metadata(&mut self, table: &TableSpec) -> Result<(), ReplicaError> {
        write_table_metadata(&self.writer.connection, table)?;
        self.reload()
    }

    /// Adds a column. Existing rows get its default.
    pub fn add_column(&mut self, table: &str, column: &ColumnSpec) -> Result<(), ReplicaError> {
        self.settle()?;
        let default = column.default.as_ref().map(|default| format!(" DEFAULT {default}")).unwrap_or_default();
        let connection = &self.writer.connection;
        connection.execute_batch(&format!(
            "ALTER TABLE {} ADD {} {}{default}",
            quote(table),
            quote(&column.name),
            quote(&column.declared_type())
        ))?;
        write_column(connection, table, column)?;
        if column.backfill.is_none() {
            self.raise(table)?;
        }
        self.reload()
    }

    /// Changes a column's name, type or metadata.
    pub fn update_column(&mut self, table: &str, old: &str, new: &ColumnSpec) -> Result<(), ReplicaError> {
        self.settle()?;
        let spec = self
            .catalogue
            .table(table)
            .ok_or_else(|| ReplicaError::Mismatch(format!("Unknown table {table}")))?
            .clone();
        let position = spec
            .columns
            .iter()
            .position(|column| column.name == old)
            .ok_or_else(|| ReplicaError::Mismatch(format!("Unknown column {old} of table {table}")))?;
        let before = &spec.columns[position];
        let mut changed = before.backfill != new.backfill;
        if before.declared_type() != new.declared_type() {
            self.copy_with_type(&spec, position, new)?;
            changed = true;
        } else if old != new.name {
            self.writer.connection.execute_batch(&format!(
                "ALTER TABLE {} RENAME COLUMN {} TO {}",
                quote(table),
                quote(old),
                quote(&new.name)
            ))?;
            changed = true;
        }
        let connection = &self.writer.connection;
        connection
            .execute(r#"DELETE FROM "_zero.column_metadata" WHERE table_name = ? AND column_name = ?"#, [table, old])?;
        write_column(connection, table, new)?;
        if changed {
            self.raise(table)?;
        }
        self.reload()
    }

    /// Replaces a table by a copy in which one column has another name and type.
    fn copy_with_type(&self, spec: &TableSpec, position: usize, new: &ColumnSpec) -> Result<(), ReplicaError> {
        let connection = &self.writer.connection;
        let mut columns = spec.columns.clone();
        let list = |columns: &[ColumnSpec]| {
            let names = columns.iter().map(|column| quote(&column.name) + ", ").collect::<String>();
            names + super::VERSION_COLUMN
        };
        let from = list(&columns);
        columns[position] = new.clone();
        let copy = format!("tmp.{}", spec.name);
        connection.execute_batch(&create_table_sql(&copy, &columns, None))?;
        connection.execute_batch(&format!(
            "INSERT INTO {} ({}) SELECT {from} FROM {}",
            quote(&copy),
            list(&columns),
            quote(&spec.name)
        ))?;
        connection.execute_batch(&format!(
            "DROP TABLE {name}; ALTER TABLE {} RENAME TO {name}",
            quote(&copy),
            name = quote(&spec.name)
        ))?;
        for index in self.catalogue.indexes.iter().filter(|index| index.table == spec.name) {
            let mut index = index.clone();
            for (column, _) in &mut index.columns {
                if *column == spec.columns[position].name {
                    column.clone_from(&new.name);
                }
            }
            create_index(connection, &index)?;
        }
        Ok(())
    }

    /// Drops a column. Its indexes must be gone.
    pub fn drop_column(&mut self, table: &str, column: &str) -> Result<(), ReplicaError> {
        self.settle()?;
        let connection = &self.writer.connection;
        connection.execute_batch(&format!("ALTER TABLE {} DROP {}", quote(table), quote(column)))?;
        connection.execute(
            r#"DELETE FROM "_zero.column_metadata" WHERE table_name = ? AND column_name = ?"#,
            [table, column],
        )?;
        self.raise(table)?;
        self.reload()
    }

    /// Creates an index.
    pub fn create_index(&mut self, index: &IndexSpec) -> Result<(), ReplicaError> {
        self.settle()?;
        create_index(&self.writer.connection, index)?;
        self.reload()
    }

    /// Drops an index if it exists.
    pub fn drop_index(&mut self, index: &str) -> Result<(), ReplicaError> {
        self.settle()?;
        self.writer.connection.execute_batch(&format!("DROP INDEX IF EXISTS {}", quote(index)))?;
        self.reload()
    }

    /// Makes all rows of a table count as written in this transaction.
    fn raise(&self, table: &str) -> Result<(), ReplicaError> {
        let (schema, name) = upstream_name(table);
        self.writer.connection.execute(
            r#"INSERT INTO "_zero.tableMetadata" ("schema", "table", minRowVersion) VALUES (?, ?, ?)
               ON CONFLICT DO UPDATE SET minRowVersion = excluded.minRowVersion"#,
            params![schema, name, &*self.version],
        )?;
        Ok(())
    }
}
