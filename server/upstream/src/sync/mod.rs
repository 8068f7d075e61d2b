//! The initial copy of all published tables, at one snapshot, into a new replica file.
//!
//! Several connections read tables at the same time, all at the snapshot that the replication slot
//! exported; one thread writes SQLite. Between them is a short queue of batches, so memory does not grow
//! with the tables. The file gets its name in the last step and the slot's row is completed just before
//! it, so what a crash leaves behind is never taken for a replica.

mod copy_format;
mod worker;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use engine::replica::{InitialLoad, LoadTable, Origin, Replica, ReplicaError, SqliteValue, TableSpec};
use parking_lot::Mutex;
use serde_json::{Map, Value};
use tokio::sync::mpsc;
use tokio_postgres::Client;
use tracing::info;

use crate::config::Config;
use crate::connection::{SharedTarget, Target};
use crate::error::Error;
use crate::names::{Names, ident, literal};
use crate::progress::{Progress, TableProgress};
use crate::published::{PublishedSchema, PublishedTable};
use crate::setup::checks::Server;
use crate::setup::shard::{self, Shard};
use crate::setup::slots::{self, NewSlot};
use crate::specs::{index_spec, table_spec};
use crate::validate::validate;

/// Batches that may wait for SQLite. Each is [`worker::BATCH_BYTES`] at most, so this bounds memory; two per
/// worker keep everybody busy.
const BATCHES_WAITING: usize = 16;

/// How often progress is told at most.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// Who hears about progress.
pub type OnProgress = Arc<dyn Fn(Progress) + Send + Sync>;

/// A finished copy.
pub(crate) struct Synced {
    pub(crate) replica: Arc<Replica>,
    pub(crate) slot: String,
}

/// A batch of rows on its way to SQLite.
pub(crate) struct Batch {
    table: usize,
    values: Vec<SqliteValue>,
}

/// What is copied, and where to.
pub(crate) struct Copying<'a> {
    pub(crate) target: &'a SharedTarget,
    pub(crate) names: &'a Names,
    pub(crate) config: &'a Config,
    pub(crate) path: &'a Path,
    pub(crate) progress: &'a OnProgress,
}

/// Copies everything. On an error the slot is dropped and no file appears.
pub(crate) async fn initial_sync(
    copying: &Copying<'_>,
    server: Server,
    client: &mut Client,
) -> Result<(Synced, Shard), Error> {
    let Copying { target, names, config, progress, .. } = copying;
    let started = Instant::now();
    progress(Progress::SettingUp);
    let shard = shard::ensure(client, names, &config.publications).await?;
    shard::fix_replica_identities(client, names).await?;
    let new = slots::create(target, client, names, server.version, config.slot_failover).await?;
    let slot = new.slot.clone();
    match copy(copying, client, &shard, new).await {
        Ok((replica, rows)) => {
            let elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
            info!(rows, elapsed_ms, "initial sync complete");
            progress(Progress::Done { rows, elapsed_ms });
            Ok((Synced { replica, slot }, shard))
        }
        Err(error) => {
            slots::discard(client, names, &slot).await;
            Err(error)
        }
    }
}

async fn copy(
    copying: &Copying<'_>,
    client: &Client,
    shard: &Shard,
    new: NewSlot,
) -> Result<(Arc<Replica>, u64), Error> {
    let &Copying { target, names, config, path, progress } = copying;
    let reader = import_snapshot(target, "initial-sync", &new.snapshot).await?;
    let schema = PublishedSchema::read(&reader, &shard.publications).await?;
    validate(&schema)?;
    let tables = plan(&reader, &schema).await?;
    let origin = Origin {
        replica_version: new.version.as_str().to_owned(),
        publications: shard.publications.clone(),
        context: Value::Object(sync_context(names, config)).to_string(),
    };
    info!(tables = tables.len(), version = new.version.as_str(), "copying the published tables");

    let shared = Arc::new(Shared {
        tables,
        next: AtomicU64::new(0),
        failed: AtomicBool::new(false),
        spare: Mutex::new(Vec::new()),
    });
    let (batches, incoming) = mpsc::channel(BATCHES_WAITING);
    let workers = config.copy_workers.clamp(1, 64).min(shared.tables.len().max(1));
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..workers {
        let (target, snapshot) = (Arc::clone(target), new.snapshot.clone());
        let (shared, batches) = (Arc::clone(&shared), batches.clone());
        running.spawn(async move {
            let result = worker::copy_tables(&target, &snapshot, &shared, &batches).await;
            if result.is_err() {
                shared.failed.store(true, Ordering::Relaxed);
            }
            result
        });
    }
    drop(batches);
    let loader = {
        let (path, shared, progress) = (path.to_owned(), Arc::clone(&shared), Arc::clone(progress));
        tokio::task::spawn_blocking(move || load(&path, &origin, &shared, incoming, &progress))
    };
    let mut first_error = None;
    while let Some(result) = running.join_next().await {
        let result = result.map_err(|error| Error::Protocol(format!("a copy worker failed: {error}")));
        if let Err(error) = result.and_then(|result| result) {
            // Those that only stopped because another failed may be seen before it.
            if first_error.as_ref().is_none_or(worker::is_stopped) {
                first_error = Some(error);
            }
        }
    }
    let loaded = loader.await.map_err(|error| Error::Protocol(format!("the loader failed: {error}")))?;
    // The loader stops when the workers do; the reason is the one that came first.
    let mut load = match (loaded, first_error) {
        (Err(error), _) if !worker::is_stopped(&error) => return Err(error),
        (_, Some(error)) | (Err(error), None) => return Err(error),
        (Ok(load), None) => load,
    };
    // All snapshots are done with; the session may end.
    drop(reader);
    drop(new.session);

    progress(Progress::Indexing);
    let rows = shared.tables.iter().map(|table| table.rows.load(Ordering::Relaxed)).sum();
    let indexes: Vec<_> = schema.indexes.iter().filter_map(|index| index_spec(&schema, index)).collect();
    let load = tokio::task::spawn_blocking(move || {
        for index in &indexes {
            load.create_index(index)?;
        }
        Ok::<_, ReplicaError>(load)
    })
    .await
    .map_err(|error| Error::Protocol(format!("the loader failed: {error}")))?
    .map_err(replica_error("create the indexes"))?;
    let schema_text =
        serde_json::to_string(&schema).map_err(|error| Error::Protocol(format!("the published schema: {error}")))?;
    slots::mark_complete(client, names, &new.replica_id, &schema_text, &sync_context(names, config)).await?;
    let replica = tokio::task::spawn_blocking(move || load.finish())
        .await
        .map_err(|error| Error::Protocol(format!("the loader failed: {error}")))?
        .map_err(replica_error("complete the replica file"))?;
    Ok((replica, rows))
}

/// What the workers and the loader share.
pub(crate) struct Shared {
    /// Tables, largest first, so that no worker starts a large one last.
    pub(crate) tables: Vec<CopyTable>,
    /// The next table nobody copies yet.
    pub(crate) next: AtomicU64,
    /// Whether somebody failed, so that the others stop.
    pub(crate) failed: AtomicBool,
    /// Emptied batches, so that their memory is used again.
    pub(crate) spare: Mutex<Vec<Vec<SqliteValue>>>,
}

/// A table to copy.
pub(crate) struct CopyTable {
    pub(crate) spec: TableSpec,
    /// The COPY statement.
    pub(crate) statement: String,
    /// How each column is decoded.
    pub(crate) decoders: Vec<crate::values::Decoder>,
    total_rows: u64,
    total_bytes: u64,
    pub(crate) rows: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) done: AtomicBool,
}

impl Shared {
    fn progress(&self) -> Progress {
        let table = |table: &CopyTable| TableProgress {
            table: table.spec.name.clone(),
            rows: table.rows.load(Ordering::Relaxed),
            total_rows: table.total_rows,
            bytes: table.bytes.load(Ordering::Relaxed),
            total_bytes: table.total_bytes,
            done: table.done.load(Ordering::Relaxed),
        };
        Progress::Copying(self.tables.iter().map(table).collect())
    }
}

/// Opens a session that sees exactly the exported snapshot.
pub(crate) async fn import_snapshot(target: &Target, purpose: &str, snapshot: &str) -> Result<Client, Error> {
    let client = target.connect(purpose).await?;
    let statement = format!(
        "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {}; \
         SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0",
        literal(snapshot)
    );
    client.batch_execute(&statement).await.map_err(Error::postgres("import the slot's snapshot"))?;
    Ok(client)
}

/// What to copy, with Postgres's estimates of how much that is.
async fn plan(client: &Client, schema: &PublishedSchema) -> Result<Vec<CopyTable>, Error> {
    let oids: Vec<u32> = schema.tables.iter().map(|table| table.oid).collect();
    let rows = client
        .query(
            "SELECT c.oid, greatest(sum(x.reltuples), 0)::int8, sum(pg_table_size(x.oid))::int8
               FROM pg_catalog.pg_class c
               JOIN pg_catalog.pg_class x
                 ON x.oid = c.oid OR (c.relkind = 'p' AND x.oid IN (SELECT relid FROM pg_partition_tree(c.oid) WHERE isleaf))
              WHERE c.oid = ANY ($1) GROUP BY c.oid",
            &[&oids],
        )
        .await
        .map_err(Error::postgres("estimate the tables' sizes"))?;
    let sizes: rustc_hash::FxHashMap<u32, (u64, u64)> = rows
        .iter()
        .map(|row| {
            let size = |column| u64::try_from(row.get::<_, i64>(column)).unwrap_or(0);
            (row.get::<_, u32>(0), (size(1), size(2)))
        })
        .collect();
    let mut tables: Vec<CopyTable> = schema
        .tables
        .iter()
        .map(|table| {
            let (total_rows, total_bytes) = sizes.get(&table.oid).copied().unwrap_or_default();
            CopyTable {
                spec: table_spec(table),
                statement: copy_statement(table),
                decoders: table
                    .columns_in_order()
                    .iter()
                    .map(|(_, column)| crate::values::column_decoder(column))
                    .collect(),
                total_rows,
                total_bytes,
                rows: AtomicU64::new(0),
                bytes: AtomicU64::new(0),
                done: AtomicBool::new(false),
            }
        })
        .collect();
    tables.sort_by_key(|table| std::cmp::Reverse(table.total_bytes));
    Ok(tables)
}

fn copy_statement(table: &PublishedTable) -> String {
    let columns: Vec<String> = table
        .columns_in_order()
        .iter()
        .map(|(name, column)| crate::values::column_decoder(column).copy_expression(name))
        .collect();
    let filters: Vec<String> = table.row_filters().iter().map(|filter| format!("({filter})")).collect();
    let condition = if filters.is_empty() { String::new() } else { format!(" WHERE {}", filters.join(" OR ")) };
    format!(
        "COPY (SELECT {} FROM {}.{}{condition}) TO STDOUT WITH (FORMAT binary)",
        columns.join(","),
        ident(&table.schema),
        ident(&table.name)
    )
}

/// The thread that writes SQLite: creates the tables, then appends what comes.
fn load(
    path: &Path,
    origin: &Origin,
    shared: &Shared,
    mut incoming: mpsc::Receiver<Batch>,
    progress: &OnProgress,
) -> Result<InitialLoad, Error> {
    let mut load = Replica::create(path, origin).map_err(replica_error("create the replica file"))?;
    let mut tables: Vec<LoadTable> = Vec::with_capacity(shared.tables.len());
    for table in &shared.tables {
        tables.push(load.create_table(&table.spec).map_err(replica_error("create a table of the replica"))?);
    }
    progress(shared.progress());
    let mut told = Instant::now();
    while let Some(mut batch) = incoming.blocking_recv() {
        load.append(tables[batch.table], &mut batch.values).map_err(replica_error("write the replica file"))?;
        batch.values.clear();
        shared.spare.lock().push(batch.values);
        if told.elapsed() >= PROGRESS_INTERVAL {
            told = Instant::now();
            progress(shared.progress());
        }
    }
    progress(shared.progress());
    if shared.failed.load(Ordering::Relaxed) {
        return Err(worker::stopped());
    }
    Ok(load)
}

/// What is remembered, upstream and in the file, about who made the replica.
fn sync_context(names: &Names, config: &Config) -> Map<String, Value> {
    let mut context = config.server_context.clone();
    context.insert("appID".to_owned(), Value::from(names.app.clone()));
    context.insert("taskID".to_owned(), Value::from(config.task_id.clone()));
    context.insert("timestamp".to_owned(), Value::from(u64::try_from(slots::epoch_ms()).unwrap_or(0)));
    context
}

/// Wraps an error of the replica with what was being done.
pub(crate) fn replica_error(context: &'static str) -> impl FnOnce(ReplicaError) -> Error {
    move |error| Error::Replica { context: context.to_owned(), message: error.to_string() }
}
