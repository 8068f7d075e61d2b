//! Looks the keys of scanned rows up in a large set, many at once.
//!
//! A set that outgrows the caches answers each look-up after several waits for memory. Asked one after the other, with
//! the reading of a row between them, these waits add up; asked in a row they overlap. The rows have to be decoded before
//! it is known whether they are kept, so this is for scans that keep most of them. Memory is that of [`ROWS`] rows.

use std::ops::Range;
use std::sync::Arc;

use engine::commit::StoredRow;
use engine::hydration::FoundRow;
use engine::replica::ReplicaError;
use rusqlite::Row;

use crate::emit::Found;
use crate::error::Result;
use crate::keys::KeyFilter;

/// Rows whose keys are looked up at once: more waits than a core can have open.
const ROWS: usize = 32;

/// Keys of a set that a core's own cache holds: some 25 bytes each.
const CACHED_KEYS: usize = 1 << 16;

/// Rows that show how many are kept.
const TRIAL_ROWS: usize = 1 << 10;

/// Rows on their way through a filter.
pub(crate) struct Together<'f> {
    filter: &'f KeyFilter,
    rows: Vec<std::result::Result<Arc<StoredRow>, ReplicaError>>,
    keys: Vec<u8>,
    /// Where the key of each row is, if it has one.
    places: Vec<Option<Range<usize>>>,
    kept: Vec<bool>,
    rows_seen: usize,
    rows_kept: usize,
}

impl<'f> Together<'f> {
    /// For a filter with so many keys that it pays.
    pub(crate) fn new(filter: &'f KeyFilter) -> Option<Self> {
        (filter.keys.len() > CACHED_KEYS).then(|| Together {
            filter,
            rows: Vec::with_capacity(ROWS),
            keys: Vec::new(),
            places: Vec::with_capacity(ROWS),
            kept: Vec::with_capacity(ROWS),
            rows_seen: 0,
            rows_kept: 0,
        })
    }

    /// Adds SQLite's current row and what it was decoded to.
    pub(crate) fn push(
        &mut self,
        row: &Row<'_>,
        decoded: std::result::Result<Arc<StoredRow>, ReplicaError>,
    ) -> Result<()> {
        let begin = self.keys.len();
        let has_key = self.filter.key(row, &mut self.keys)?;
        self.places.push(has_key.then_some(begin..self.keys.len()));
        self.rows.push(decoded);
        Ok(())
    }

    pub(crate) fn is_full(&self) -> bool {
        self.rows.len() >= ROWS
    }

    /// Hands the rows on that the filter keeps, in the order in which they came.
    ///
    /// # Errors
    /// If one of them is a row that clients cannot be given.
    pub(crate) fn hand_on(&mut self, found: &mut Found<'_>) -> Result<()> {
        let keys = &self.keys;
        // Nothing else happens between the look-ups.
        self.kept.extend(self.places.drain(..).map(|place| self.filter.keeps_key(place.map(|place| &keys[place]))));
        self.rows_seen += self.rows.len();
        for (row, kept) in self.rows.drain(..).zip(self.kept.drain(..)) {
            if kept {
                self.rows_kept += 1;
                found(FoundRow::Decoded(row?))?;
            }
        }
        self.keys.clear();
        Ok(())
    }

    /// Whether most rows are kept, as far as is known.
    pub(crate) fn pays(&self) -> bool {
        self.rows_seen < TRIAL_ROWS || self.rows_kept * 2 > self.rows_seen
    }
}
