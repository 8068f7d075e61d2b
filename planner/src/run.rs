//! What the operators of one plan share while it runs: the pinned version, a connection and the arena.
//!
//! Hydrations are called from blocking threads, so operators read SQLite in place, on the thread that
//! polls them: no hand-over between threads for the queries that are most common. Only long scans whose
//! rows may not all be wanted read ahead on a thread of their own (see [`crate::scan`]).
//!
//! The arena holds rows that were decoded whole before it was known that they are wanted, until they are taken or the
//! plan ends.

use std::sync::Arc;

use engine::commit::StoredRow;
use engine::query::Query;
use engine::replica::{Reader, ReplicaError, RowCodec, Snapshot};
use parking_lot::Mutex;
use rusqlite::CachedStatement;
use zql_spec::schema::Table;

use crate::error::{Error, Result};
use crate::measure::Tally;
use crate::statement::Statement;

/// One run of a plan.
pub(crate) struct Run {
    /// The query that is answered.
    pub(crate) query: Arc<Query>,
    /// The version that is read.
    pub(crate) snapshot: Arc<Snapshot>,
    /// The connection for reads in place. Held for a batch at a time and never while waiting.
    pub(crate) reader: Mutex<Reader>,
    /// Rows decoded whole.
    pub(crate) arena: Mutex<Arena>,
    /// What the operators did, if anybody wants to know.
    pub(crate) tally: Option<Tally>,
}

/// Rows decoded whole, by position. A row that clients cannot be given fails the query only if it is part of
/// the answer: a join may drop it yet.
#[derive(Default)]
pub(crate) struct Arena {
    rows: Vec<Option<Arc<StoredRow>>>,
    failures: Vec<(usize, String)>,
}

impl Arena {
    /// Forgets all rows.
    pub(crate) fn clear(&mut self) {
        self.rows.clear();
        self.failures.clear();
    }

    /// Adds a row, or why it is none, and gives its position.
    pub(crate) fn push(&mut self, row: std::result::Result<Arc<StoredRow>, ReplicaError>) -> Result<u32> {
        let position = self.rows.len();
        match row {
            Ok(row) => self.rows.push(Some(row)),
            Err(ReplicaError::Value(message)) => {
                self.failures.push((position, message));
                self.rows.push(None);
            }
            Err(error) => return Err(error.into()),
        }
        u32::try_from(position).map_err(|_| Error::TooManyRows)
    }

    /// The row added last, unless it is none.
    pub(crate) fn last(&self) -> Option<&StoredRow> {
        self.rows.last().and_then(Option::as_deref)
    }

    /// Takes the row at a position out. Plans give each row once.
    ///
    /// # Errors
    /// If it is a row that clients cannot be given.
    pub(crate) fn take(&mut self, position: u32) -> Result<Arc<StoredRow>> {
        let position = position as usize;
        match self.rows.get_mut(position).and_then(Option::take) {
            Some(row) => Ok(row),
            None => {
                let failure = self.failures.iter().find(|(failed, _)| *failed == position);
                let message = failure.map_or_else(|| "the row is gone".to_owned(), |(_, message)| message.clone());
                Err(Error::Replica(ReplicaError::Value(message)))
            }
        }
    }
}

impl std::fmt::Debug for Run {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Run").field("version", &self.snapshot.version).finish_non_exhaustive()
    }
}

impl Run {
    /// A run at the pinned version.
    pub(crate) fn new(query: &Arc<Query>, snapshot: &Arc<Snapshot>) -> Result<Arc<Run>> {
        let reader = snapshot.reader()?;
        Ok(Arc::new(Run::with(query, snapshot, reader, None)))
    }

    /// A run that is measured.
    pub(crate) fn measured(query: &Arc<Query>, snapshot: &Arc<Snapshot>, tally: Tally) -> Result<Arc<Run>> {
        let mut reader = snapshot.reader()?;
        reader.measure()?;
        Ok(Arc::new(Run::with(query, snapshot, reader, Some(tally))))
    }

    fn with(query: &Arc<Query>, snapshot: &Arc<Snapshot>, reader: Reader, tally: Option<Tally>) -> Run {
        let (query, snapshot) = (Arc::clone(query), Arc::clone(snapshot));
        Run { query, snapshot, reader: Mutex::new(reader), arena: Mutex::default(), tally }
    }

    /// The codec of a table's rows.
    pub(crate) fn codec<'t>(&'t self, table: &'t Table) -> RowCodec<'t> {
        self.snapshot.codec(table)
    }
}

/// Prepares a statement, with the constants of a query bound.
pub(crate) fn prepare<'r>(reader: &'r Reader, statement: &Statement, query: &Query) -> Result<CachedStatement<'r>> {
    let mut prepared = reader.prepare_cached(&statement.sql.text)?;
    statement.sql.bind_for(query, &mut prepared)?;
    Ok(prepared)
}
