//! A commit's rows by the identity that a query gives them.
//!
//! Commits name rows by the replica's key; a client may have chosen another unique key as the identity
//! of a table's rows. A row that changed that key is a delete and an insert here, and two rows that
//! swapped it are two edits. Grows with the changed rows, which are borrowed from the commit: a large one is mostly edits
//! that are only walked through, so the others are looked up by a table that is made when the first one is asked for.

use std::cell::OnceCell;
use std::hash::BuildHasher;
use std::sync::Arc;

use hashbrown::HashTable;
use rustc_hash::{FxBuildHasher, FxHashMap};

use super::packed::Packed;
use super::plan::Plan;
use crate::commit::{RowChange, StoredRow};
use crate::query::Query;

/// A row before and after.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Change<'c> {
    pub(super) old: Option<&'c Arc<StoredRow>>,
    pub(super) new: Option<&'c Arc<StoredRow>>,
}

/// The changed rows of each of a query's tables.
#[derive(Debug)]
pub(super) struct Changes<'c> {
    pub(super) tables: Vec<TableChanges<'c>>,
}

/// The changed rows of one table.
#[derive(Debug, Default)]
pub(super) struct TableChanges<'c> {
    /// Rows that kept their key: no other change can have the same one.
    edits: Vec<(Packed, Change<'c>)>,
    /// Where they are by key.
    places: OnceCell<HashTable<u32>>,
    /// Rows that came or went: one may have taken the key of another.
    others: FxHashMap<Packed, Change<'c>>,
}

/// Edits that are searched one by one before a table is cheaper.
const FEW: usize = 8;

impl<'c> Changes<'c> {
    pub(super) fn new(plan: &Plan) -> Self {
        Changes { tables: plan.tables.iter().map(|_| TableChanges::default()).collect() }
    }

    /// Adds a change of a row of a table, given by its position in the plan.
    pub(super) fn add(&mut self, query: &Query, plan: &Plan, table: usize, change: &'c RowChange) {
        let key_columns = &plan.tables[table].definition(query).primary_key;
        let rows = &mut self.tables[table];
        debug_assert!(rows.places.get().is_none(), "changes are added before they are looked up");
        let keeps_key = |old: &StoredRow, new: &StoredRow| {
            key_columns.iter().all(|&column| old.values[column] == new.values[column])
        };
        match (&change.old, &change.new) {
            (Some(old), Some(new)) if keeps_key(old, new) => {
                let change = Change { old: Some(old), new: Some(new) };
                rows.edits.push((Packed::columns(new, key_columns), change));
            }
            (old, new) => {
                if let Some(old) = old {
                    rows.others.entry(Packed::columns(old, key_columns)).or_default().old = Some(old);
                }
                if let Some(new) = new {
                    rows.others.entry(Packed::columns(new, key_columns)).or_default().new = Some(new);
                }
            }
        }
    }

    /// Makes room for changes of a table, which are mostly edits.
    pub(super) fn reserve(&mut self, table: usize, rows: usize) {
        self.tables[table].edits.reserve(rows);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tables.iter().all(|table| table.len() == 0)
    }
}

impl<'c> TableChanges<'c> {
    pub(super) fn len(&self) -> usize {
        self.edits.len() + self.others.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Packed, &Change<'c>)> {
        self.edits.iter().map(|(key, change)| (key, change)).chain(&self.others)
    }

    pub(super) fn get(&self, key: &Packed) -> Option<&Change<'c>> {
        if let Some(change) = self.others.get(key) {
            return Some(change);
        }
        if self.edits.len() <= FEW {
            return self.edits.iter().find(|(of, _)| of == key).map(|(_, change)| change);
        }
        let places = self.places.get_or_init(|| {
            let mut places = HashTable::with_capacity(self.edits.len());
            for place in 0..self.edits.len() as u32 {
                let hash = |&place: &u32| FxBuildHasher.hash_one(&self.edits[place as usize].0);
                places.insert_unique(hash(&place), place, hash);
            }
            places
        });
        let is_it = |&place: &u32| self.edits[place as usize].0 == *key;
        places.find(FxBuildHasher.hash_one(key), is_it).map(|&place| &self.edits[place as usize].1)
    }

    pub(super) fn contains(&self, key: &Packed) -> bool {
        self.get(key).is_some()
    }
}
