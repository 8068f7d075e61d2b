//! The replica: Postgres's published tables in one SQLite file.
//!
//! One [`Writer`] applies upstream transactions and hands out what each changed as a
//! [`Commit`](crate::commit::Commit); any number of [`Reader`]s read exactly one version, pinned by a
//! [`Snapshot`]. [`InitialLoad`] makes the file: it appears under its name only when it is complete.
//! Layout and declared types are those of the reference server's replica in plain WAL mode, so every
//! SQLite tool opens it.
//!
//! It must not know Postgres: values arrive as SQLite storage values. Cost of a write grows with the
//! row and the table's indexes, never with the number of readers or queries.

mod catalogue;
mod codec;
mod error;
mod load;
mod snapshot;
mod spec;
mod writer;

pub use codec::RowCodec;
pub use error::ReplicaError;
pub use load::{InitialLoad, LoadTable};
pub use rusqlite::types::Value as SqliteValue;
pub use snapshot::{Reader, Snapshot};
pub use spec::{ColumnSpec, IndexSpec, TableSpec};
pub use writer::{Relation, Tx, Writer};

use std::path::Path;
use std::sync::Arc;

use zql_spec::schema::Schema;

use crate::commit::Version;

/// Where the replica stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaState {
    /// The version of the initial sync: the lineage of the file.
    pub replica_version: Version,
    /// The last version applied.
    pub state_version: Version,
    /// The publications it mirrors, sorted.
    pub publications: Vec<String>,
}

/// What an initial sync is about.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The version of the copied snapshot.
    pub replica_version: String,
    /// The publications that are mirrored.
    pub publications: Vec<String>,
    /// JSON remembered as `initialSyncContext`.
    pub context: String,
}

/// Sizes for operators to watch.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReplicaMetrics {
    /// Bytes of the database file.
    pub file_bytes: u64,
    /// Bytes of the write-ahead log file.
    pub wal_bytes: u64,
    /// Versions that are pinned now.
    pub pinned: usize,
    /// How long the oldest pin has been held.
    pub oldest_pin: std::time::Duration,
}

/// An open, complete replica.
pub struct Replica {
    _private: (),
}

impl Replica {
    /// Opens a replica. `None` if there is no complete one under this path.
    pub fn open(path: &Path) -> Result<Option<Arc<Replica>>, ReplicaError> {
        let _ = path;
        unimplemented!()
    }

    /// Begins an initial sync. An existing replica stays until [`InitialLoad::finish`] replaces it.
    pub fn create(path: &Path, origin: &Origin) -> Result<InitialLoad, ReplicaError> {
        let _ = (path, origin);
        unimplemented!()
    }

    /// Deletes a replica and everything beside it.
    pub fn delete(path: &Path) -> Result<(), ReplicaError> {
        let _ = path;
        unimplemented!()
    }

    /// What queries can see at the newest version.
    pub fn schema(&self) -> Arc<Schema> {
        unimplemented!()
    }

    /// Where the replica stands.
    pub fn state(&self) -> ReplicaState {
        unimplemented!()
    }

    /// All replicated tables as declared, visible or not: what the change source compares upstream's with.
    pub fn tables(&self) -> Result<Vec<TableSpec>, ReplicaError> {
        unimplemented!()
    }

    /// All mirrored indexes.
    pub fn indexes(&self) -> Result<Vec<IndexSpec>, ReplicaError> {
        unimplemented!()
    }

    /// The writer. There is one: a second is refused until the first is dropped.
    pub fn writer(self: &Arc<Self>) -> Result<Writer, ReplicaError> {
        unimplemented!()
    }

    /// Pins the newest version. Pins of one version share it.
    pub fn pin(self: &Arc<Self>) -> Result<Arc<Snapshot>, ReplicaError> {
        unimplemented!()
    }

    /// Forces all commits so far to disk and gives the newest version that is then safe from power loss:
    /// what may be acknowledged upstream. Does not block the writer. (Every commit survives the death
    /// of the process without it.)
    pub fn make_durable(&self) -> Result<Version, ReplicaError> {
        unimplemented!()
    }

    /// Sizes for operators to watch.
    pub fn metrics(&self) -> ReplicaMetrics {
        unimplemented!()
    }
}
