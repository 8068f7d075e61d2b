//! Measures what keeping an answer current costs: rows are deleted and put back on a copy of the replica, one change a commit,
//! and a running query takes each as a server would.
//!
//! The copy is as large as the replica and lies in the folder for temporary files while it is needed. Rows of the answer
//! are taken, as those are what reaches the query; of tables that only decide, the first rows. The time is that of the graph
//! alone: finding it, writing the replica and telling clients are not in it.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use engine::commit::Commit;
use engine::graph::{Graph, ReplicaRead};
use engine::hydration::{Hydrate, Hydration};
use engine::query::Query;
use engine::replica::{Replica, SqliteValue, Writer};
use engine::sql::bind;
use planner::Planner;
use planner::explain::report::{MeasuredChanges, Report};
use rusqlite::{OptionalExtension, params_from_iter};
use tempfile::TempDir;
use zql_spec::ast::Ast;
use zql_spec::version::StateVersion;

use crate::sources::Source;

/// Rows of each table that are changed. Their costs differ by what hangs on them.
const ROWS: usize = 32;

/// How long the changes of one table may take.
const BUDGET: Duration = Duration::from_millis(500);

/// Largest replica that is copied without being asked: that takes about a second.
const COPY_MAX_BYTES: u64 = 128 << 20;

/// A copy of a replica that may be written.
pub(crate) struct Scratch {
    replica: Arc<Replica>,
    writer: Writer,
    _folder: TempDir,
}

impl Scratch {
    /// Makes one, unless the replica is too large and nobody asked; none of statistics.
    pub(crate) fn new(source: &Source, path: &Path, asked: bool) -> Result<Option<Scratch>> {
        let Some(replica) = source.replica() else { return Ok(None) };
        if !asked && std::fs::metadata(path)?.len() > COPY_MAX_BYTES {
            return Ok(None);
        }
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("copy.db");
        replica.copy_to(&path).context("copy the replica")?;
        let Some(replica) = Replica::open(&path)? else { bail!("the copy of the replica does not open") };
        let writer = replica.writer()?;
        Ok(Some(Scratch { replica, writer, _folder: folder }))
    }

    /// Measures changes of the tables of a query.
    pub(crate) fn measure(&mut self, ast: &Ast, report: &mut Report) -> Result<()> {
        let query = Arc::new(Query::resolve(ast, &self.replica.schema())?);
        let planner = Planner::new();
        let hydration = planner.hydrate(&query, &self.replica.pin()?)?;
        let mut running = Running { graph: Graph::new(Arc::clone(&query), &hydration), planner, took: Vec::new() };
        for change in &mut report.maintenance.changes {
            let keys = self.keys(&query, &hydration, &change.table)?;
            let begun = Instant::now();
            running.took.clear();
            for key in keys {
                if begun.elapsed() > BUDGET {
                    break;
                }
                self.change(&change.table, &key, &mut running)?;
            }
            // The first ones pay for statements that a server has prepared.
            running.took.sort_unstable();
            let changes = running.took.len();
            if let Some(median) = running.took.get(changes / 2) {
                change.measured = Some(MeasuredChanges { changes, median: median.as_secs_f64() * 1e6 });
            }
        }
        Ok(())
    }

    /// Keys of rows of a table, spread over those of the answer.
    fn keys(&self, query: &Query, hydration: &Hydration, table: &str) -> Result<Vec<Vec<SqliteValue>>> {
        let Some(of) = self.replica.schema().table(table).cloned() else { return Ok(Vec::new()) };
        let key: Vec<String> = of.primary_key.iter().map(|&column| quote(&of.columns[column].name)).collect();
        let reader = self.replica.pin()?.reader()?;
        let mut keys = Vec::new();
        let nodes = query.nodes.iter().zip(&hydration.nodes).filter(|(node, _)| *node.table.name == *table);
        for rows in nodes.map(|(_, rows)| rows).filter(|rows| !rows.is_empty()) {
            for row in rows.iter().step_by(rows.len().div_ceil(ROWS)) {
                keys.push(of.primary_key.iter().map(|&column| bind(&row.values[column])).collect());
            }
        }
        if keys.is_empty() {
            let sql = format!("SELECT {} FROM {} LIMIT {ROWS}", key.join(", "), quote(table));
            let mut statement = reader.prepare(&sql)?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                keys.push((0..key.len()).map(|position| row.get(position)).collect::<Result<_, _>>()?);
            }
        }
        keys.truncate(ROWS);
        Ok(keys)
    }

    /// Deletes a row and puts it back, each in a transaction of its own.
    fn change(&mut self, table: &str, key: &[SqliteValue], running: &mut Running) -> Result<()> {
        let tables = self.replica.tables();
        let spec = tables.iter().find(|spec| spec.name == table).context("a table of the replica")?;
        let columns: Vec<&str> = spec.columns.iter().map(|column| column.name.as_str()).collect();
        let of = self.replica.schema().table(table).cloned().context("a table that queries see")?;
        let key_columns: Vec<&str> = of.primary_key.iter().map(|&column| &*of.columns[column].name).collect();
        let quoted: Vec<String> = columns.iter().map(|column| quote(column)).collect();
        let equal: Vec<String> = key_columns.iter().map(|column| format!("{} = ?", quote(column))).collect();
        let sql = format!("SELECT {} FROM {} WHERE {}", quoted.join(", "), quote(table), equal.join(" AND "));
        let reader = self.replica.pin()?.reader()?;
        let row: rusqlite::Result<Vec<SqliteValue>> = reader.query_row(&sql, params_from_iter(key), |row| {
            (0..columns.len()).map(|position| row.get(position)).collect()
        });
        drop(reader);
        let Some(row) = row.optional()? else { return Ok(()) };
        for insert in [false, true] {
            let Some(next) = next_version(&self.replica.state().state_version) else { return Ok(()) };
            let mut tx = self.writer.begin(&next)?;
            let relation = tx.relation(table, &columns, &key_columns)?;
            if insert {
                tx.insert(&relation, &row)?;
            } else {
                tx.delete(&relation, key)?;
            }
            let commit = tx.commit()?;
            running.take(&commit, &self.replica)?;
        }
        Ok(())
    }
}

/// A query that follows the copy.
struct Running {
    graph: Graph,
    planner: Planner,
    took: Vec<Duration>,
}

impl Running {
    fn take(&mut self, commit: &Commit, replica: &Arc<Replica>) -> Result<()> {
        let snapshot = replica.pin()?;
        let mut read = ReplicaRead::new(snapshot.reader()?);
        let begun = Instant::now();
        if self.graph.advance(commit, &mut read).is_err() {
            // Hydrating is cheaper, so that is what it costs.
            let query = Arc::clone(self.graph.query());
            let hydration = self.planner.hydrate(&query, &snapshot)?;
            self.graph = Graph::new(query, &hydration);
        }
        self.took.push(begun.elapsed());
        Ok(())
    }
}

fn next_version(version: &str) -> Option<String> {
    let version = StateVersion::from_shared(version.into()).ok()?;
    Some(StateVersion::from_lsn(version.lsn()?.checked_add(1)?).as_str().to_owned())
}

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
