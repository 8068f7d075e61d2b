//! A query's first answer, and who computes it.
//!
//! The planner implements [`Hydrate`]; the engine only knows the shape of the answer. A hydration holds,
//! per node of the query, the distinct rows that are in at one version: enough to build a graph's state
//! and to send the rows, and nothing that depends on how it was computed. Large ones are taken row by row.

use std::sync::Arc;

use zql_spec::value::ValueRef;

use crate::commit::{StoredRow, Version};
use crate::query::{NodeId, Query};
use crate::replica::{CurrentRow, ReplicaError};

/// The rows of every node of a query at one version.
#[derive(Clone, Debug)]
pub struct Hydration {
    /// The version that was read.
    pub version: Version,
    /// By node id: the distinct rows in that node. Root and limited nodes are complete windows; an
    /// EXISTS node holds up to [`crate::query::WITNESS_CAP`] rows a parent row. Nodes that are not
    /// synced (below a permission) are empty.
    pub nodes: Vec<Vec<Arc<StoredRow>>>,
}

/// Why a hydration failed.
#[derive(Debug, thiserror::Error)]
pub enum HydrateError {
    /// The query or the data is at fault; told to the client that asked.
    #[error("{0}")]
    Query(String),
    /// Reading the replica failed.
    #[error("reading the replica failed: {0}")]
    Replica(#[from] rusqlite::Error),
    /// The pinned version was given up meanwhile: pin again and hydrate again.
    #[error("the version that was read was given up")]
    Expired,
    /// Nobody waits for the answer any more.
    #[error("the hydration was cancelled")]
    Cancelled,
    /// A bug in the engine or planner.
    #[error("internal error: {0}")]
    Internal(String),
}

impl HydrateError {
    /// Whether the query or the data is at fault, so that it fails again whenever it is tried.
    pub fn is_of_query(&self) -> bool {
        match self {
            HydrateError::Query(_) => true,
            // SQLite does not take the statement, mostly because it is too deep or too long. Whatever else it says is of
            // the file and the machine.
            HydrateError::Replica(error) => {
                matches!(error.sqlite_error_code(), Some(rusqlite::ErrorCode::Unknown | rusqlite::ErrorCode::TooBig))
            }
            HydrateError::Expired | HydrateError::Cancelled | HydrateError::Internal(_) => false,
        }
    }
}

impl From<ReplicaError> for HydrateError {
    fn from(error: ReplicaError) -> Self {
        match error {
            ReplicaError::Sqlite(error) => HydrateError::Replica(error),
            ReplicaError::Value(message) => HydrateError::Query(message),
            ReplicaError::PinExpired(_) => HydrateError::Expired,
            error => HydrateError::Internal(error.to_string()),
        }
    }
}

/// A row as it is found. Two words, so that it is handed on in registers.
#[derive(Debug)]
pub enum FoundRow<'r> {
    /// Decoded: it was sorted or joined, or others are read by its values.
    Decoded(Arc<StoredRow>),
    /// As SQLite has it, until the next row is read.
    Current(&'r CurrentRow<'r>),
}

impl FoundRow<'_> {
    /// The row, to be kept.
    ///
    /// # Errors
    /// If clients cannot be given one of its values.
    pub fn decode(self) -> Result<Arc<StoredRow>, ReplicaError> {
        match self {
            FoundRow::Decoded(row) => Ok(row),
            FoundRow::Current(row) => row.decode(),
        }
    }

    /// Lends each value with its column's position.
    ///
    /// # Errors
    /// As [`FoundRow::decode`]; some values have been lent then.
    #[inline]
    pub fn each(&self, mut take: impl FnMut(usize, ValueRef<'_>)) -> Result<(), ReplicaError> {
        match self {
            FoundRow::Decoded(row) => {
                row.values.iter().enumerate().for_each(|(column, value)| take(column, ValueRef::from(value)));
                Ok(())
            }
            FoundRow::Current(row) => row.each(take),
        }
    }
}

/// Computes hydrations. `S` is the pinned version to read from.
pub trait Hydrate<S: ?Sized>: Send + Sync {
    /// Answers a query at the pinned version. Blocking; called from worker threads, concurrently.
    fn hydrate(&self, query: &Arc<Query>, snapshot: &Arc<S>) -> Result<Hydration, HydrateError>;

    /// The same, row by row as they are found: the distinct rows of each synced node, after all those of its parent.
    fn stream(&self, query: &Arc<Query>, snapshot: &Arc<S>, found: &mut Found<'_>) -> Result<(), HydrateError> {
        let hydration = self.hydrate(query, snapshot)?;
        for (node, rows) in hydration.nodes.into_iter().enumerate() {
            rows.into_iter().try_for_each(|row| found(node, FoundRow::Decoded(row)))?;
        }
        Ok(())
    }
}

/// Takes a row of a node. What fails ends the hydration.
pub type Found<'a> = dyn FnMut(NodeId, FoundRow<'_>) -> Result<(), ReplicaError> + 'a;
