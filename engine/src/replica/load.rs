//! The initial load: a whole replica written as fast as SQLite takes it.
//!
//! The file is built under another name without journal or fsync and gets its own name in the last
//! step, so a process that dies half-way leaves nothing that opens. Indexes come last: sorting once is
//! cheaper than inserting into a tree for every row. Cost is linear in the rows, n log n in each index.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::{CachedStatement, Connection, params_from_iter};

use super::catalogue::{create_index, create_table_sql, initialise, quote, write_column};
use super::error::ReplicaError;
use super::spec::{IndexSpec, TableSpec};
use super::{Origin, Replica, SqliteValue, beside};

/// Up to this size ANALYZE gathers statistics with samples; above it they are estimated, because reading
/// every index again would take minutes.
const FULL_ANALYZE_BYTES: u64 = 4 << 30;

/// Rows of one INSERT: past this, SQLite's per-statement cost is noise.
const ROWS_PER_INSERT: usize = 32;

/// SQLite's default bound on parameters of one statement.
const MAX_PARAMETERS: usize = 32_766;

/// A table of an initial load; cheap to copy to the workers that fill it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadTable(usize);

/// An initial load in progress. One thread owns it; copy workers send it batches.
pub struct InitialLoad {
    path: PathBuf,
    building: PathBuf,
    connection: Connection,
    version: String,
    tables: Vec<Target>,
    indexes: Vec<IndexSpec>,
}

struct Target {
    columns: usize,
    rows_per_insert: usize,
    one: String,
    many: String,
}

impl InitialLoad {
    pub(super) fn begin(path: &Path, origin: &Origin) -> Result<InitialLoad, ReplicaError> {
        let building = beside(path, "-loading");
        super::delete_family(&building)?;
        let connection = Connection::open(&building)?;
        connection.set_prepared_statement_cache_capacity(1024);
        connection.pragma_update(None, "page_size", 4096)?;
        connection.pragma_update(None, "journal_mode", "OFF")?;
        connection.pragma_update(None, "synchronous", "OFF")?;
        connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
        // Pages are written once; the cache only needs to hold the tails of the tables being filled.
        connection.pragma_update(None, "cache_size", -64 * 1024)?;
        connection.pragma_update(None, "threads", 2)?;
        connection.execute_batch("BEGIN EXCLUSIVE")?;
        initialise(&connection, origin)?;
        let version = origin.replica_version.clone();
        Ok(InitialLoad {
            path: path.to_owned(),
            building,
            connection,
            version,
            tables: Vec::new(),
            indexes: Vec::new(),
        })
    }

    /// Creates a table. Rows are appended with the columns of `table` in order.
    pub fn create_table(&mut self, table: &TableSpec) -> Result<LoadTable, ReplicaError> {
        self.connection.execute_batch(&create_table_sql(&table.name, &table.columns, Some(&self.version)))?;
        for column in &table.columns {
            write_column(&self.connection, &table.name, column)?;
        }
        let names: Vec<String> = table.columns.iter().map(|column| quote(&column.name)).collect();
        let columns = names.len();
        let rows_per_insert = (MAX_PARAMETERS / columns.max(1)).clamp(1, ROWS_PER_INSERT);
        let into = format!("INSERT INTO {} ({}) VALUES ", quote(&table.name), names.join(", "));
        let row = format!("({})", vec!["?"; columns].join(", "));
        self.tables.push(Target {
            columns,
            rows_per_insert,
            one: format!("{into}{row}"),
            many: format!("{into}{}", vec![row; rows_per_insert].join(", ")),
        });
        Ok(LoadTable(self.tables.len() - 1))
    }

    /// Appends rows, their values one after another; `values.len()` is a multiple of the column count.
    /// Best with a few hundred rows at a time. Drains `values` so that its memory can be used again.
    pub fn append(&mut self, table: LoadTable, values: &mut Vec<SqliteValue>) -> Result<(), ReplicaError> {
        let target = &self.tables[table.0];
        if target.columns == 0 || !values.len().is_multiple_of(target.columns) {
            return Err(ReplicaError::Mismatch(format!(
                "{} values do not make rows of {} columns",
                values.len(),
                target.columns
            )));
        }
        let batch = target.columns * target.rows_per_insert;
        let whole = values.len() / batch * batch;
        let insert =
            |statement: &mut CachedStatement<'_>, rows: &[SqliteValue]| statement.execute(params_from_iter(rows));
        if whole > 0 {
            let mut many = self.connection.prepare_cached(&target.many)?;
            for rows in values[..whole].chunks_exact(batch) {
                insert(&mut many, rows)?;
            }
        }
        if whole < values.len() {
            let mut one = self.connection.prepare_cached(&target.one)?;
            for row in values[whole..].chunks_exact(target.columns) {
                insert(&mut one, row)?;
            }
        }
        values.clear();
        Ok(())
    }

    /// Creates an index; call after all rows are in.
    pub fn create_index(&mut self, index: &IndexSpec) -> Result<(), ReplicaError> {
        self.indexes.push(index.clone());
        create_index(&self.connection, index)
    }

    /// Records what the change source wants to remember about a table.
    pub fn set_table_metadata(&mut self, table: &TableSpec) -> Result<(), ReplicaError> {
        super::ddl::write_table_metadata(&self.connection, table)
    }

    /// Gathers statistics, syncs the file and gives it its name.
    pub fn finish(self) -> Result<Arc<Replica>, ReplicaError> {
        let InitialLoad { path, building, connection, indexes, .. } = self;
        connection.execute_batch("COMMIT")?;
        if std::fs::metadata(&building)?.len() > FULL_ANALYZE_BYTES {
            super::statistics::analyse_all(&connection, &indexes)?;
        } else {
            connection.execute_batch("ANALYZE")?;
        }
        connection.pragma_update(None, "locking_mode", "NORMAL")?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.close().map_err(|(_, error)| error)?;
        File::open(&building)?.sync_all()?;
        super::delete_family(&path)?;
        std::fs::rename(&building, &path)?;
        if let Some(folder) = path.parent() {
            let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
            File::open(folder)?.sync_all()?;
        }
        Replica::open(&path)?.ok_or_else(|| ReplicaError::Mismatch("the loaded replica does not open".to_owned()))
    }
}
