//! The initial load: a whole replica written as fast as SQLite takes it.
//!
//! The file is built under another name without journal or fsync and gets its own name in the last
//! step, so a process that dies half-way leaves nothing that opens.

use std::sync::Arc;

use super::error::ReplicaError;
use super::spec::{IndexSpec, TableSpec};
use super::{Replica, SqliteValue};

/// A table of an initial load; cheap to copy to the workers that fill it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadTable(usize);

/// An initial load in progress. One thread owns it; copy workers send it batches.
pub struct InitialLoad {
    _private: (),
}

impl InitialLoad {
    /// Creates a table. Rows are appended with the columns of `table` in order.
    pub fn create_table(&mut self, table: &TableSpec) -> Result<LoadTable, ReplicaError> {
        let _ = table;
        unimplemented!()
    }

    /// Appends rows, their values one after another; `values.len()` is a multiple of the column count.
    /// Best with a few hundred rows at a time. Drains `values` so that its memory can be used again.
    pub fn append(&mut self, table: LoadTable, values: &mut Vec<SqliteValue>) -> Result<(), ReplicaError> {
        let _ = (table, values);
        unimplemented!()
    }

    /// Creates an index; call after all rows are in.
    pub fn create_index(&mut self, index: &IndexSpec) -> Result<(), ReplicaError> {
        let _ = index;
        unimplemented!()
    }

    /// Gathers statistics, syncs the file and gives it its name.
    pub fn finish(self) -> Result<Arc<Replica>, ReplicaError> {
        unimplemented!()
    }
}
