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
use zql_spec::version::CvrVersion;

pub mod error;

pub use error::{Rehome, StoreError};

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
    options: Arc<Options>,
}

fn unfinished<T>() -> Result<T, StoreError> {
    Err(StoreError::Unsupported("the store does not serve this yet".to_owned()))
}

impl Store {
    /// Creates or migrates the tables and starts writing. Needs a Tokio runtime.
    pub async fn open(_pool: deadpool_postgres::Pool, options: Options) -> Result<Store, StoreError> {
        Ok(Store { options: Arc::new(options) })
    }

    /// Who keeps records here.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Reads a group's record (a new one if there is none), claiming it for this server if another one owns it
    /// since before `last_connect_time` (ms since the epoch). Waits for rows that are still being written, a few
    /// seconds at most.
    pub async fn load(&self, _group: &str, _last_connect_time: f64) -> Result<Cvr, StoreError> {
        unfinished()
    }

    /// Reads the rows that a group's clients hold.
    pub async fn load_rows(&self, _cvr: &Cvr) -> Result<Rows, StoreError> {
        unfinished()
    }

    /// Writes what an update changed, all or nothing. Big row sets follow behind.
    pub async fn flush(&self, _flush: Arc<Flush>) -> Result<(), StoreError> {
        unfinished()
    }

    /// Reads what happened between two versions.
    pub async fn catch_up(&self, _range: Range) -> Result<CaughtUp, StoreError> {
        unfinished()
    }

    /// Waits until the rows of earlier flushes of a group are written.
    pub async fn rows_written(&self, _group: &str) -> Result<(), StoreError> {
        unfinished()
    }

    /// Notes that a group is alive (ms since the epoch) and its TTL clock (ms), whoever owns it.
    pub async fn touch(&self, _group: &str, _last_active: f64, _ttl_clock: f64) -> Result<(), StoreError> {
        unfinished()
    }

    /// Writes what is waiting and stops.
    pub async fn close(&self) {}
}
