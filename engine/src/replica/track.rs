//! What a transaction did to the rows of visible tables.
//!
//! Rows are tracked by SQLite's row id, which survives a change of key, so that keys may be swapped in
//! any order inside a transaction. At the end the images are put by key. Memory grows with the distinct
//! rows a transaction touches, up to [`TRACKED_ROWS_MAX`]; beyond it a table is only said to be rewritten.

use std::sync::Arc;

use indexmap::IndexMap;
use rustc_hash::{FxBuildHasher, FxHashMap, FxHashSet};
use zql_spec::schema::Table;

use crate::commit::{ColumnSet, Commit, Outline, RowChange, StoredRow, TableDelta, Version};

/// Rows of one transaction that are listed with their images. Beyond it, maintaining queries row by row
/// costs more than hydrating them again, and the images alone would take hundreds of megabytes.
const TRACKED_ROWS_MAX: usize = 200_000;

type Image = Option<Arc<StoredRow>>;

#[derive(Default)]
struct Rows {
    table: Option<Arc<Table>>,
    by_rowid: IndexMap<i64, (Image, Image), FxBuildHasher>,
    /// Found out while the images are at hand.
    changed: ColumnSet,
}

/// The changes of a transaction so far.
#[derive(Default)]
pub(super) struct Track {
    tables: FxHashMap<Arc<str>, Rows>,
    rewritten: FxHashSet<Arc<str>>,
    rows: usize,
}

impl Track {
    /// Whether images of this table are still wanted.
    pub(super) fn wants(&self, table: &str) -> bool {
        !self.rewritten.contains(table)
    }

    /// Gives up listing a table's rows.
    pub(super) fn rewrite(&mut self, table: &Arc<str>) {
        if let Some(rows) = self.tables.remove(table) {
            self.rows -= rows.by_rowid.len();
        }
        self.rewritten.insert(Arc::clone(table));
    }

    /// The row's image as the transaction left it so far: `None` if it did not touch the row.
    pub(super) fn current(&self, table: &str, rowid: i64) -> Option<&Arc<StoredRow>> {
        self.tables.get(table)?.by_rowid.get(&rowid)?.1.as_ref()
    }

    /// Notes a write. `old` is the image before it, and is ignored if the transaction touched the row before.
    pub(super) fn note(&mut self, table: &Arc<Table>, rowid: i64, old: Image, new: Image) {
        if !self.wants(&table.name) {
            return;
        }
        let rows = self.tables.entry(Arc::clone(&table.name)).or_default();
        if rows.table.is_none() {
            rows.table = Some(Arc::clone(table));
        }
        rows.changed.add(ColumnSet::between(old.as_deref(), new.as_deref()));
        let before = rows.by_rowid.len();
        rows.by_rowid.entry(rowid).and_modify(|images| images.1 = new.clone()).or_insert((old, new));
        self.rows += rows.by_rowid.len() - before;
        if self.rows > TRACKED_ROWS_MAX {
            // The table with the most rows goes; it is nearly always the one just written.
            let largest = self.tables.iter().max_by_key(|(_, rows)| rows.by_rowid.len());
            if let Some(name) = largest.map(|(name, _)| Arc::clone(name)) {
                self.rewrite(&name);
            }
        }
    }

    /// The commit that all of it makes.
    pub(super) fn commit(self, base: Version, version: Version, schema_changed: bool) -> Commit {
        let mut commit = Commit::empty(base, version);
        commit.schema_changed = schema_changed;
        if schema_changed {
            return commit;
        }
        commit.rewritten = self.rewritten;
        for (name, rows) in self.tables {
            let Some(table) = rows.table else { continue };
            let mut delta = TableDelta::default();
            delta.rows.reserve(rows.by_rowid.len());
            let mut news = Vec::new();
            let keeps_key = |old: &StoredRow, new: &StoredRow| {
                table.primary_key.iter().all(|&column| old.values[column] == new.values[column])
            };
            for (old, new) in rows.by_rowid.into_values() {
                if let (Some(before), Some(after)) = (&old, &new)
                    && keeps_key(before, after)
                {
                    // No other row had or has this key.
                    delta.rows.insert(after.key(&table.primary_key), RowChange { old, new });
                    continue;
                }
                if let Some(old) = old {
                    let key = old.key(&table.primary_key);
                    delta.rows.insert(key, RowChange { old: Some(old), new: None });
                }
                news.extend(new);
            }
            for new in news {
                let key = new.key(&table.primary_key);
                delta.rows.entry(key).or_insert(RowChange { old: None, new: None }).new = Some(new);
            }
            let key = table.primary_key.iter().copied().collect();
            delta.outline = Some(Outline { key, changed: rows.changed });
            if !delta.rows.is_empty() {
                commit.tables.insert(name, delta);
            }
        }
        commit
    }
}
