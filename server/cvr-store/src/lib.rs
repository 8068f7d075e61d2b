//! Client view records in Postgres.
//!
//! The tables are those of a zero-cache at schema version 17, so either server can take a deployment over from
//! the other. One writer task takes the flushes of all groups that are waiting and commits them with one
//! statement; the rows of big flushes are written behind the poke by a second task. A group's failure
//! (another server owns it, somebody else wrote it) is that group's alone.
//!
//! It must not know sockets, queries or the engine. Statements a second do not grow with groups or
//! commits: while one batch is being committed, the next one gathers.

use std::sync::Arc;

use cvr::flush::Flush;
use cvr::patch::{QueryPatch, RowPatch};
use cvr::record::Cvr;
use cvr::row::{QueryId, Rows};
use deadpool_postgres::Pool;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use zql_spec::version::CvrVersion;

pub mod active;
pub mod behind;
pub mod error;
pub mod load;
pub mod purge;
pub mod schema;
pub mod writer;

mod batch;
mod catch_up;
mod connection;
mod lane;
mod sql;

pub use connection::Limits;
pub use error::{Rehome, StoreError};

use behind::{Lost, Waiting};
use connection::Connections;
use lane::Lane;
use writer::{Counters, Job, Writer};

/// Where records are kept and who keeps them.
#[derive(Clone, Debug)]
pub struct Options {
    /// The Postgres schema: `<app id>_<shard number>/cvr`.
    pub schema: String,
    /// Names this server process among all that write these records; new at each start.
    pub task_id: String,
}

/// What a client lacks: see [`Store::catch_up`].
#[derive(Clone, Debug)]
pub struct Range {
    /// The group.
    pub group: Arc<str>,
    /// What the client furthest behind has; `None` for nothing.
    pub after: Option<CvrVersion>,
    /// Up to where to go.
    pub up_to: CvrVersion,
    /// The version that the record must have in the store.
    pub current: CvrVersion,
    /// Queries whose rows the caller sends anyway; tombstones are given all the same.
    pub excluded: Vec<QueryId>,
}

/// What happened in a [`Range`]. Filter by each client's base with [`cvr::patch::lacks`].
#[derive(Clone, Debug, Default)]
pub struct CaughtUp {
    /// Rows: `put` is `Some(())` where the contents are to be read from the replica. In no order.
    pub rows: Vec<RowPatch<()>>,
    /// Got queries, then desires.
    pub queries: Vec<QueryPatch>,
}

/// The records in Postgres. Copies share one writer.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    options: Options,
    connections: Arc<Connections>,
    load: load::Statements,
    catch_up: String,
    touch: String,
    jobs: mpsc::Sender<Job>,
    waiting: Arc<Waiting>,
    counters: Arc<Counters>,
    behind: tokio::task::AbortHandle,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The writer ends with its queue; who writes behind would wait for ever.
        self.behind.abort();
        self.waiting.close();
    }
}

impl Store {
    /// Creates or migrates the tables and starts writing. Needs a Tokio runtime. Keeps two connections of its own
    /// beside those of the pool.
    pub async fn open(pool: Pool, options: Options) -> Result<Store, StoreError> {
        Store::open_with(pool, options, Limits::default()).await
    }

    /// The same with other limits of waiting.
    pub async fn open_with(pool: Pool, options: Options, limits: Limits) -> Result<Store, StoreError> {
        let mut client = pool.get().await?;
        schema::migrate(&mut client, &options.schema).await?;
        let schema = schema::quote(&options.schema);
        let waiting = Arc::new(Waiting::default());
        let counters = Arc::new(Counters::default());
        let (jobs, receiver) = mpsc::channel(writer::QUEUE);
        let load = load::Statements::new(&schema);
        let connections = Arc::new(Connections::new(pool, &options.schema, limits));
        let warm = load::warm_up(&client, &load).await;
        connections.done(client, warm).await?;
        let catch_up = catch_up::statement(&schema);
        let touch = format!(
            r#"UPDATE {schema}."instances" SET "lastActive" = to_timestamp($2::float8 / 1000),
                   "ttlClock" = CASE WHEN "owner" IS NOT DISTINCT FROM $4 THEN $3 ELSE "ttlClock" END
               WHERE "clientGroupID" = $1"#
        );
        let writer = Writer {
            jobs: receiver,
            connections: Arc::clone(&connections),
            waiting: Arc::clone(&waiting),
            counters: Arc::clone(&counters),
            task_id: options.task_id.clone(),
            lane: Arc::new(Lane::new(Arc::clone(&connections), options.task_id.clone())),
            apart: JoinSet::new(),
        };
        tokio::spawn(writer.run());
        let behind = tokio::spawn(behind::run(Arc::clone(&waiting), Arc::clone(&connections))).abort_handle();
        let inner = Inner { options, connections, load, catch_up, touch, jobs, waiting, counters, behind };
        Ok(Store { inner: Arc::new(inner) })
    }

    /// Who keeps records here.
    pub fn options(&self) -> &Options {
        &self.inner.options
    }

    /// What was written since the start.
    pub fn counters(&self) -> &Counters {
        &self.inner.counters
    }

    /// Reads a group's record (a new one if there is none), claiming it for this server if another one owns it
    /// since before `last_connect_time` (ms since the epoch). Waits for rows that are still being written, a few
    /// seconds at most where another server writes them.
    pub async fn load(&self, group: &str, last_connect_time: f64) -> Result<Cvr, StoreError> {
        let inner = &self.inner;
        inner.waiting.forget_failure(group);
        inner.waiting.settled(Some(group)).await?;
        let mut attempt = 1;
        loop {
            let client = inner.connections.get().await?;
            let record = load::record(&client, &inner.load, group, &inner.options.task_id, last_connect_time);
            let found = inner.connections.limited(record).await;
            match inner.connections.done(client, found).await? {
                load::Found::Record(cvr) => return Ok(*cvr),
                load::Found::Behind(version, rows_version) if attempt >= load::MAX_LOAD_ATTEMPTS => {
                    return Err(StoreError::ClientNotFound(format!(
                        "max attempts exceeded waiting for CVR@{version} to catch up from {rows_version}"
                    )));
                }
                load::Found::Behind(..) => tokio::time::sleep(load::LOAD_INTERVAL).await,
            }
            attempt += 1;
        }
    }

    /// Reads the rows that a group's clients hold. Call it with a record just loaded, or after
    /// [`Store::rows_written`]. Refused as [`Rehome::ConcurrentModification`] when the record is another one by now.
    pub async fn load_rows(&self, cvr: &Cvr) -> Result<Rows, StoreError> {
        if !cvr.stored {
            return Ok(Rows::default());
        }
        let connections = &self.inner.connections;
        let client = connections.get().await?;
        let rows = load::rows(&client, &self.inner.load, connections.limits.silence, cvr).await;
        connections.done(client, rows).await
    }

    /// Writes what an update changed, all or nothing. Big row sets follow behind. Once it was called, the flush may
    /// take place even if the future is dropped.
    pub async fn flush(&self, flush: Arc<Flush>) -> Result<(), StoreError> {
        let closed = || StoreError::Postgres("the server is stopping".to_owned());
        let (done, outcome) = oneshot::channel();
        self.inner.jobs.send(Job::Flush(flush, done)).await.map_err(|_| closed())?;
        outcome.await.map_err(|_| closed())?
    }

    /// Reads what happened between two versions.
    pub async fn catch_up(&self, range: Range) -> Result<CaughtUp, StoreError> {
        if range.after.as_ref().is_some_and(|after| *after >= range.up_to) {
            return Ok(CaughtUp::default());
        }
        self.inner.waiting.settled(Some(&range.group)).await?;
        let connections = &self.inner.connections;
        let client = connections.get().await?;
        let read = catch_up::read(&client, &self.inner.catch_up, connections.limits.silence, &range).await;
        connections.done(client, read).await
    }

    /// Waits until the rows of earlier flushes of a group are written.
    pub async fn rows_written(&self, group: &str) -> Result<(), StoreError> {
        self.inner.waiting.settled(Some(group)).await
    }

    /// Groups whose rows cannot be written, as it happens. One listener hears of each.
    pub fn lost(&self) -> Lost {
        Lost(Arc::clone(&self.inner.waiting))
    }

    /// Notes that a group is alive (ms since the epoch), whoever owns it, and its TTL clock (ms) if that is this server: a
    /// client may be connected to one that no longer does, and the clock is the owner's.
    pub async fn touch(&self, group: &str, last_active: f64, ttl_clock: f64) -> Result<(), StoreError> {
        let connections = &self.inner.connections;
        let client = connections.get().await?;
        let touched = connections.limited(async {
            let statement = client.prepare_cached(&self.inner.touch).await?;
            let owner = &self.inner.options.task_id;
            client.execute(&statement, &[&group, &last_active, &ttl_clock, owner]).await?;
            Ok(())
        });
        let touched = touched.await;
        connections.done(client, touched).await
    }

    /// Writes what is waiting, rows included, and stops. Later flushes fail.
    pub async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.inner.jobs.send(Job::Close(done)).await.is_ok() {
            let _ = closed.await;
        }
        let _ = self.inner.waiting.settled(None).await;
    }
}
