//! The one writer: upstream transactions in, commits out.
//!
//! A transaction of upstream is one SQLite transaction. Old images are read by key before each write,
//! so that the [`Commit`] says all there is to know. Values are SQLite storage values, already converted:
//! booleans as 0/1, JSON and arrays as text, times as milliseconds.

use crate::commit::Commit;

use super::SqliteValue;
use super::error::ReplicaError;
use super::spec::{ColumnSpec, IndexSpec, TableSpec};

/// The write side of a replica. There is one.
pub struct Writer {
    _private: (),
}

impl Writer {
    /// Begins a transaction that leads to `version`, which must be greater than the newest one.
    /// Dropping the transaction rolls it back.
    pub fn begin(&mut self, version: &str) -> Result<Tx<'_>, ReplicaError> {
        let _ = version;
        unimplemented!()
    }
}

/// A table and the columns in which its rows arrive: names resolved and statements made once. Valid in
/// the transaction that made it and later ones, until the schema changes; making one that was made
/// before is a look-up.
#[derive(Clone, Debug)]
pub struct Relation {
    index: usize,
}

/// One upstream transaction.
pub struct Tx<'w> {
    _writer: &'w mut Writer,
}

impl Tx<'_> {
    /// Resolves a table, the columns of its rows in the stream and the columns of its row key (empty if
    /// upstream has none; for replica identity `full`, pass none: the table's own key is used).
    pub fn relation(&mut self, table: &str, columns: &[&str], key: &[&str]) -> Result<Relation, ReplicaError> {
        let _ = (table, columns, key);
        unimplemented!()
    }

    /// Inserts a row, replacing one with the same key.
    pub fn insert(&mut self, relation: &Relation, row: &[SqliteValue]) -> Result<(), ReplicaError> {
        let _ = (relation.index, row);
        unimplemented!()
    }

    /// Updates the row with the old key, or with the new row's key if no old key is given. `None` in `row` is an unchanged column
    /// that upstream did not send. A row that is not there is inserted.
    pub fn update(
        &mut self,
        relation: &Relation,
        old_key: Option<&[SqliteValue]>,
        row: &[Option<SqliteValue>],
    ) -> Result<(), ReplicaError> {
        let _ = (relation, old_key, row);
        unimplemented!()
    }

    /// Deletes the row with this key (values of the relation's key columns, in the order given there).
    pub fn delete(&mut self, relation: &Relation, key: &[SqliteValue]) -> Result<(), ReplicaError> {
        let _ = (relation, key);
        unimplemented!()
    }

    /// Deletes all rows of a table.
    pub fn truncate(&mut self, table: &str) -> Result<(), ReplicaError> {
        let _ = table;
        unimplemented!()
    }

    /// Creates a table.
    pub fn create_table(&mut self, table: &TableSpec) -> Result<(), ReplicaError> {
        let _ = table;
        unimplemented!()
    }

    /// Renames a table.
    pub fn rename_table(&mut self, old: &str, new: &TableSpec) -> Result<(), ReplicaError> {
        let _ = (old, new);
        unimplemented!()
    }

    /// Drops a table if it exists.
    pub fn drop_table(&mut self, table: &str) -> Result<(), ReplicaError> {
        let _ = table;
        unimplemented!()
    }

    /// Remembers what the change source says about a table.
    pub fn set_table_metadata(&mut self, table: &TableSpec) -> Result<(), ReplicaError> {
        let _ = table;
        unimplemented!()
    }

    /// Adds a column.
    pub fn add_column(&mut self, table: &str, column: &ColumnSpec) -> Result<(), ReplicaError> {
        let _ = (table, column);
        unimplemented!()
    }

    /// Changes a column's name, type or metadata.
    pub fn update_column(&mut self, table: &str, old: &str, new: &ColumnSpec) -> Result<(), ReplicaError> {
        let _ = (table, old, new);
        unimplemented!()
    }

    /// Drops a column.
    pub fn drop_column(&mut self, table: &str, column: &str) -> Result<(), ReplicaError> {
        let _ = (table, column);
        unimplemented!()
    }

    /// Creates an index.
    pub fn create_index(&mut self, index: &IndexSpec) -> Result<(), ReplicaError> {
        let _ = index;
        unimplemented!()
    }

    /// Drops an index if it exists.
    pub fn drop_index(&mut self, index: &str) -> Result<(), ReplicaError> {
        let _ = index;
        unimplemented!()
    }

    /// Commits. The new version is visible to pins made after this returns.
    pub fn commit(self) -> Result<Commit, ReplicaError> {
        unimplemented!()
    }
}
