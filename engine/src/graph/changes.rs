//! A commit's rows by the identity that a query gives them.
//!
//! Commits name rows by the replica's key; a client may have chosen another unique key as the identity
//! of a table's rows. A row that changed that key is a delete and an insert here, and two rows that
//! swapped it are two edits. Grows with the changed rows.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::packed::Packed;
use super::plan::Plan;
use crate::commit::{RowChange, StoredRow};
use crate::query::Query;

/// A row before and after.
#[derive(Clone, Debug, Default)]
pub(super) struct Change {
    pub(super) old: Option<Arc<StoredRow>>,
    pub(super) new: Option<Arc<StoredRow>>,
}

/// The changed rows of each of a query's tables.
#[derive(Debug)]
pub(super) struct Changes {
    pub(super) tables: Vec<FxHashMap<Packed, Change>>,
}

impl Changes {
    pub(super) fn new(plan: &Plan) -> Self {
        Changes { tables: plan.tables.iter().map(|_| FxHashMap::default()).collect() }
    }

    /// Adds a change of a row of a table, given by its position in the plan.
    pub(super) fn add(&mut self, query: &Query, plan: &Plan, table: usize, change: &RowChange) {
        let key_columns = &plan.tables[table].definition(query).primary_key;
        let rows = &mut self.tables[table];
        let keeps_key = |old: &StoredRow, new: &StoredRow| {
            key_columns.iter().all(|&column| old.values[column] == new.values[column])
        };
        match (&change.old, &change.new) {
            (Some(old), Some(new)) if keeps_key(old, new) => {
                let known = rows.entry(Packed::columns(new, key_columns)).or_default();
                (known.old, known.new) = (Some(Arc::clone(old)), Some(Arc::clone(new)));
            }
            (old, new) => {
                if let Some(old) = old {
                    rows.entry(Packed::columns(old, key_columns)).or_default().old = Some(Arc::clone(old));
                }
                if let Some(new) = new {
                    rows.entry(Packed::columns(new, key_columns)).or_default().new = Some(Arc::clone(new));
                }
            }
        }
    }

    /// Makes room for changes of a table.
    pub(super) fn reserve(&mut self, table: usize, rows: usize) {
        self.tables[table].reserve(rows);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tables.iter().all(FxHashMap::is_empty)
    }
}
