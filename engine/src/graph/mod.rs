//! The shared operator graph: a query's membership, kept current by sets.
mod delta;
pub mod read;

use std::sync::Arc;

pub use delta::{AnswerRow, DeltaComposer, QueryDelta, RowDelta};
pub use read::{Read, ReadError};

use crate::commit::{Commit, Version};
use crate::hydration::Hydration;
use crate::query::Query;

/// Why a graph did not advance. It is unchanged, and stays at its version.
#[derive(Debug, thiserror::Error)]
pub enum AdvanceError {
    /// Hydrating again costs less, or is the only way (a table was rewritten): do so and call
    /// [`Graph::rehydrated`].
    #[error("hydrating again is cheaper than advancing")]
    HydrateInstead,
    /// The database could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// A running query.
#[derive(Debug)]
pub struct Graph {
    query: Arc<Query>,
    version: Version,
}

impl Graph {
    /// A graph that stands where the hydration does.
    pub fn new(query: Arc<Query>, hydration: &Hydration) -> Self {
        Graph { query, version: Arc::clone(&hydration.version) }
    }

    /// The query.
    pub fn query(&self) -> &Arc<Query> {
        &self.query
    }

    /// The version of the last hydration or commit that reached the graph.
    pub fn version(&self) -> &Version {
        &self.version
    }

    /// Takes a commit. `read` stands at `commit.version`. On an error the graph is unchanged.
    pub fn advance(&mut self, _commit: &Commit, _read: &mut dyn Read) -> Result<QueryDelta, AdvanceError> {
        unimplemented!()
    }

    /// Replaces the state by a hydration's and tells the difference. Also for queries whose tables were rewritten.
    pub fn rehydrated(&mut self, _hydration: &Hydration) -> QueryDelta {
        unimplemented!()
    }

    /// The answer as it is now, for a late subscriber. `read` stands at the version of the last commit.
    pub fn rows(&self, _read: &mut dyn Read) -> Result<Vec<AnswerRow>, ReadError> {
        unimplemented!()
    }

    /// The memory that the state takes, in bytes, roughly.
    pub fn state_bytes(&self) -> usize {
        0
    }
}

/// The answer that a hydration holds, with counts.
pub fn hydrated_rows(_query: &Query, _hydration: &Hydration) -> Vec<AnswerRow> {
    unimplemented!()
}
