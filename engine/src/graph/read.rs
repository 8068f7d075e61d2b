//! What a graph asks of a database that stands at the commit's version.
//!
//! Every request names a node of the query and goes through an index on the node's side: rows by the
//! values of some columns, or whether an EXISTS has rows. Requests take many keys at once, so that an
//! implementation prepares one statement for all of them. Cost grows with the keys and the rows found.

use std::sync::Arc;
use std::time::Duration;

use zql_spec::value::Value;

use crate::commit::{Key, StoredRow};
use crate::query::{NodeId, Query};
use crate::replica::ReplicaError;

/// How much of a node's filter a read applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Apply {
    /// Nothing, not even the start: rows as they are.
    Nothing,
    /// The start and the part of the filter without EXISTS, which every row of the node passes.
    Simple,
    /// The start and the whole filter.
    Complete,
}

/// A read of a node's rows by the values of some of its table's columns.
#[derive(Clone, Copy, Debug)]
pub struct Lookup<'a> {
    /// The query.
    pub query: &'a Query,
    /// The node that is read.
    pub node: NodeId,
    /// The columns that the keys give values for; none reads the whole node (then there is one empty key).
    pub columns: &'a [usize],
    /// What rows must pass besides.
    pub apply: Apply,
    /// Only rows that come later than this in the node's order; a value per order column.
    pub after: Option<&'a [Value]>,
    /// Only rows that come no later than this in the node's order; a value per order column.
    pub until: Option<&'a [Value]>,
    /// Whether rows of one key must come in the node's order.
    pub ordered: bool,
    /// Most rows per key.
    pub limit: Option<usize>,
}

impl<'a> Lookup<'a> {
    /// All rows of a node by these columns, in no order.
    pub fn new(query: &'a Query, node: NodeId, columns: &'a [usize], apply: Apply) -> Self {
        Lookup { query, node, columns, apply, after: None, until: None, ordered: false, limit: None }
    }
}

/// Reading failed; the graph is unchanged.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The replica could not be read, or a row in it could not be understood.
    #[error(transparent)]
    Replica(#[from] ReplicaError),
    /// A query that resolved has no SQL: a bug.
    #[error("internal error: {0}")]
    Internal(String),
}

/// A database at one version.
pub trait Read {
    /// Gives the rows of each key, with the key's position in `keys`; keys in order. A null in a key
    /// finds nothing.
    fn lookup(
        &mut self,
        lookup: &Lookup<'_>,
        keys: &[Key],
        found: &mut dyn FnMut(usize, Arc<StoredRow>),
    ) -> Result<(), ReadError>;

    /// For each key whether the EXISTS node `node` has a row whose child columns equal it, with its
    /// complete filter. A null in a key finds nothing.
    fn exists(&mut self, query: &Query, node: NodeId, keys: &[Key]) -> Result<Vec<bool>, ReadError>;

    /// The time since some moment that stays the same, if whoever reads knows it: what taking rows costs is learned from it.
    fn clock(&self) -> Option<Duration> {
        None
    }
}
