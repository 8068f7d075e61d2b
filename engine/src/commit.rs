//! What changed in the replica between two versions.
//!
//! The writer knows each row's old and new image when it writes it, so a commit is complete: whoever
//! holds one needs no change log. Commits compose (first old image, last new image per row), and a
//! row that comes back to where it was vanishes, so a reader that fell behind takes all that is
//! waiting as one delta whose size is the number of distinct rows touched.

use std::sync::Arc;

use indexmap::IndexMap;
use rustc_hash::{FxBuildHasher, FxHashMap, FxHashSet};
use smallvec::SmallVec;
use zql_spec::value::Value;

/// A replica version: the text of a state version. Orders as bytes.
pub type Version = Arc<str>;

/// The values of a row's key columns, in key order.
pub type Key = SmallVec<[Value; 1]>;

/// A row as the replica holds it at some version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRow {
    /// The version at which the row was last written (its `_0_version`, raised to the table's minimum). First, so that rows
    /// are told apart by it, without a look at their values.
    pub version: Version,
    /// Values of the visible columns, in table order.
    pub values: Box<[Value]>,
}

impl StoredRow {
    /// The values at these positions.
    pub fn key(&self, columns: &[usize]) -> Key {
        columns.iter().map(|&column| self.values[column].clone()).collect()
    }
}

/// A row before and after; at least one side is present.
#[derive(Clone, Debug)]
pub struct RowChange {
    /// The image before the commit; absent for an insert.
    pub old: Option<Arc<StoredRow>>,
    /// The image after the commit; absent for a delete.
    pub new: Option<Arc<StoredRow>>,
}

/// The changed rows of one table, by the replica's own row key.
#[derive(Clone, Debug, Default)]
pub struct TableDelta {
    /// Changes by key, in the order in which they were written: whoever takes all of a large commit reads its images one
    /// after the other from memory. A change of key is a delete and an insert.
    pub rows: IndexMap<Key, RowChange, FxBuildHasher>,
    /// What is known of all of them, if anything is.
    pub outline: Option<Outline>,
}

/// What the changes of one table have in common: whoever knows it need not look at each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outline {
    /// The columns of the keys that the changes are listed by.
    pub key: SmallVec<[usize; 2]>,
    /// Columns in which a row may have changed; all of them if a row came or went.
    pub changed: ColumnSet,
}

/// Columns of a table, by position. Those from the 64th on are not told apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ColumnSet(u64);

impl ColumnSet {
    /// Every column.
    pub const ALL: ColumnSet = ColumnSet(u64::MAX);

    /// The columns in which two images of a row differ; all of them if there is but one image.
    pub fn between(old: Option<&StoredRow>, new: Option<&StoredRow>) -> ColumnSet {
        let (Some(old), Some(new)) = (old, new) else { return ColumnSet::ALL };
        let pairs = old.values.iter().zip(&new.values).enumerate();
        pairs.filter(|(_, (old, new))| old != new).map(|(column, _)| column).collect()
    }

    /// Adds the columns of another set.
    pub fn add(&mut self, other: ColumnSet) {
        self.0 |= other.0;
    }

    /// Whether the sets have a column in common.
    pub fn meets(self, other: ColumnSet) -> bool {
        self.0 & other.0 != 0
    }
}

impl FromIterator<usize> for ColumnSet {
    fn from_iter<T: IntoIterator<Item = usize>>(columns: T) -> Self {
        ColumnSet(columns.into_iter().fold(0, |set, column| set | 1 << column.min(63)))
    }
}

/// All changes from one version to another.
#[derive(Clone, Debug)]
pub struct Commit {
    /// The version before.
    pub base: Version,
    /// The version after; greater than `base`.
    pub version: Version,
    /// Changed rows by table. Only tables that queries can see.
    pub tables: FxHashMap<Arc<str>, TableDelta>,
    /// Tables whose changes are not listed row by row (truncated, or too many to list): graphs that
    /// read one hydrate again and are compared.
    pub rewritten: FxHashSet<Arc<str>>,
    /// Whether the schema changed: every graph is resolved and hydrated again.
    pub schema_changed: bool,
}

impl Commit {
    /// An empty commit between two versions.
    pub fn empty(base: Version, version: Version) -> Self {
        Commit { base, version, tables: FxHashMap::default(), rewritten: FxHashSet::default(), schema_changed: false }
    }

    /// Appends the commit that follows: the result leads from `self.base` to `next.version`.
    pub fn compose(&mut self, next: &Commit) {
        debug_assert_eq!(self.version, next.base, "commits compose only end to start");
        self.version = Arc::clone(&next.version);
        self.schema_changed |= next.schema_changed;
        for table in &next.rewritten {
            self.rewritten.insert(Arc::clone(table));
            self.tables.remove(table);
        }
        for (table, delta) in &next.tables {
            if self.rewritten.contains(table) {
                continue;
            }
            let into = self.tables.entry(Arc::clone(table)).or_default();
            into.outline = match (into.outline.take(), &delta.outline) {
                (_, outline) if into.rows.is_empty() => outline.clone(),
                (Some(mut outline), Some(next)) if outline.key == next.key => {
                    outline.changed.add(next.changed);
                    Some(outline)
                }
                _ => None,
            };
            for (key, change) in &delta.rows {
                into.merge(key.clone(), change.clone());
            }
        }
    }

    /// How many rows the commit lists.
    pub fn row_count(&self) -> usize {
        self.tables.values().map(|table| table.rows.len()).sum()
    }
}

impl TableDelta {
    /// Adds a later change of a row, of which nothing is known.
    pub fn add(&mut self, key: Key, change: RowChange) {
        self.outline = None;
        self.merge(key, change);
    }

    fn merge(&mut self, key: Key, change: RowChange) {
        use indexmap::map::Entry;
        match self.rows.entry(key) {
            Entry::Vacant(entry) => {
                entry.insert(change);
            }
            Entry::Occupied(mut entry) => {
                entry.get_mut().new = change.new;
                let merged = entry.get();
                if merged.old.is_none() && merged.new.is_none() {
                    entry.swap_remove();
                }
            }
        }
    }
}
