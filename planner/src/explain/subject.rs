//! What a query is explained with: a version of a replica, or the statistics of one.

use std::sync::Arc;

use engine::replica::{ReplicaError, Snapshot};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tempfile::TempDir;
use zql_spec::schema::Table;

use crate::Planner;
use crate::error::Result;
use crate::run::Run;
use crate::statistics::{Measured, Statistics};
use crate::stats::TableStats;

/// What a query is explained with.
pub struct Subject {
    /// The version that is read; of an empty replica if there are only statistics.
    pub(crate) snapshot: Arc<Snapshot>,
    statistics: Option<Statistics>,
    /// Measured when first asked for: only advice wants to know.
    columns: Mutex<FxHashMap<(Arc<str>, usize), Measured>>,
    _scratch: Option<TempDir>,
}

impl Subject {
    /// A pinned version of a replica.
    pub fn replica(snapshot: &Arc<Snapshot>) -> Subject {
        let columns = Mutex::default();
        Subject { snapshot: Arc::clone(snapshot), statistics: None, columns, _scratch: None }
    }

    /// Statistics. An empty replica is made from them, for SQLite to plan with.
    ///
    /// # Errors
    /// When that replica cannot be made: the statistics contradict themselves, or there is no room for temporary files.
    pub fn statistics(statistics: Statistics) -> std::result::Result<Subject, ReplicaError> {
        let folder = TempDir::new()?;
        let snapshot = statistics.scratch(&folder.path().join("scratch.db"))?;
        Ok(Subject { snapshot, statistics: Some(statistics), columns: Mutex::default(), _scratch: Some(folder) })
    }

    /// Whether there are rows to run queries on.
    pub fn has_data(&self) -> bool {
        self.statistics.is_none()
    }

    /// The version.
    pub fn version(&self) -> &str {
        match &self.statistics {
            Some(statistics) => &statistics.state_version,
            None => &self.snapshot.version,
        }
    }

    /// What queries can see.
    pub fn schema(&self) -> &zql_spec::schema::Schema {
        &self.snapshot.schema
    }

    /// What is known of the tables of each node of a query.
    pub(crate) fn stats(&self, planner: &Planner, run: &Run) -> Result<Vec<Arc<TableStats>>> {
        match &self.statistics {
            None => planner.stats(run),
            Some(statistics) => {
                Ok(run.query.nodes.iter().map(|node| Arc::new(statistics.of_table(&node.table))).collect())
            }
        }
    }

    /// How many rows have one value of these columns, by what is known of each column by itself.
    pub(crate) fn rows_per_key(&self, table: &Arc<Table>, columns: &[usize], rows: f64) -> Result<f64> {
        let (mut keys, mut nulls) = (1.0_f64, 0.0_f64);
        for &column in columns {
            let known = self.column(table, column, rows)?;
            keys *= known.distinct.max(1.0);
            nulls = nulls.max(known.nulls);
        }
        Ok(((rows - nulls).max(1.0) / keys).max(1.0))
    }

    fn column(&self, table: &Arc<Table>, column: usize, rows: f64) -> Result<Measured> {
        let name = &table.columns[column].name;
        if let Some(statistics) = &self.statistics {
            let known = statistics.table(&table.name);
            let known = known.and_then(|table| table.columns.iter().find(|known| *known.name == **name));
            return Ok(Measured {
                distinct: known.and_then(|known| known.distinct).unwrap_or(10.0),
                nulls: known.and_then(|known| known.nulls).unwrap_or(0.0),
                bytes: known.and_then(|known| known.bytes).unwrap_or(0.0),
            });
        }
        let place = (Arc::clone(&table.name), column);
        if let Some(known) = self.columns.lock().get(&place) {
            return Ok(*known);
        }
        let reader = self.snapshot.reader()?;
        let measured = Measured::read(&reader, table, name, rows)?;
        self.columns.lock().insert(place, measured);
        Ok(measured)
    }
}

impl std::fmt::Debug for Subject {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Subject").field("version", &self.version()).finish_non_exhaustive()
    }
}
