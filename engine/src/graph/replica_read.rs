//! Reads of the replica at one version, for graphs.

use std::sync::Arc;

use super::read::{Lookup, Read, ReadError};
use crate::commit::{Key, StoredRow};
use crate::query::{NodeId, Query};
use crate::replica::Reader;

/// A [`Read`] over a pinned version of the replica.
pub struct ReplicaRead {
    _reader: Reader,
}

impl ReplicaRead {
    /// Reads at the reader's version.
    pub fn new(reader: Reader) -> Self {
        ReplicaRead { _reader: reader }
    }
}

impl Read for ReplicaRead {
    fn lookup(
        &mut self,
        _lookup: &Lookup<'_>,
        _keys: &[Key],
        _found: &mut dyn FnMut(usize, Arc<StoredRow>),
    ) -> Result<(), ReadError> {
        Err(ReadError::Internal("reads of the replica are not there yet".into()))
    }

    fn exists(&mut self, _query: &Query, _node: NodeId, _keys: &[Key]) -> Result<Vec<bool>, ReadError> {
        Err(ReadError::Internal("reads of the replica are not there yet".into()))
    }
}
