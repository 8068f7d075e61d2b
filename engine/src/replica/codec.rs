//! SQLite rows to ZQL rows.

use std::sync::Arc;

use rusqlite::Row;
use zql_spec::schema::Table;

use super::error::ReplicaError;
use crate::commit::StoredRow;

/// Decodes rows of one table: its visible columns in table order followed by `_0_version`, as
/// [`crate::sql`] selects them.
pub struct RowCodec {
    _private: (),
}

impl RowCodec {
    /// A codec for a table whose rows count as at least `min_version`.
    pub fn new(table: &Arc<Table>, min_version: Option<&str>) -> Self {
        let _ = (table, min_version);
        unimplemented!()
    }

    /// Decodes the row whose first visible column is at `offset`.
    pub fn decode(&self, row: &Row<'_>, offset: usize) -> Result<Arc<StoredRow>, ReplicaError> {
        let _ = (row, offset);
        unimplemented!()
    }
}
