//! What a commit did to a query's answer.
//!
//! A delta lists only rows whose count or content changed. Deltas of one query compose, so that a
//! reader that fell behind is told about each row once; a composition is bounded by distinct rows.

use std::collections::hash_map::Entry;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::commit::{Key, StoredRow, Version};

/// How one row of a query's answer changed.
#[derive(Clone, Debug, PartialEq)]
pub struct RowDelta {
    /// The row's table.
    pub table: Arc<str>,
    /// The row's values of the primary key that the query was resolved with.
    pub key: Key,
    /// How many synced nodes of the query held the row before.
    pub before: u32,
    /// How many hold it now.
    pub after: u32,
    /// The row as it is now: present if it is in the answer and was not before, or changed.
    pub row: Option<Arc<StoredRow>>,
}

/// All changes of a query's answer between two versions.
#[derive(Clone, Debug, PartialEq)]
pub struct QueryDelta {
    /// The version the answer now stands at.
    pub version: Version,
    /// The changed rows, each once.
    pub changes: Vec<RowDelta>,
}

/// A row of a query's answer.
#[derive(Clone, Debug, PartialEq)]
pub struct AnswerRow {
    /// The row's table.
    pub table: Arc<str>,
    /// The row's values of the primary key that the query was resolved with.
    pub key: Key,
    /// How many synced nodes of the query hold the row.
    pub count: u32,
    /// The row.
    pub row: Arc<StoredRow>,
}

/// Consecutive deltas of one query as one.
#[derive(Clone, Debug)]
pub struct DeltaComposer {
    version: Version,
    rows: FxHashMap<(Arc<str>, Key), RowDelta>,
}

impl DeltaComposer {
    /// Begins with a delta.
    pub fn new(first: &QueryDelta) -> Self {
        let mut composer = DeltaComposer { version: Arc::clone(&first.version), rows: FxHashMap::default() };
        composer.add(first);
        composer
    }

    /// Appends the delta that follows.
    pub fn add(&mut self, next: &QueryDelta) {
        self.version = Arc::clone(&next.version);
        for change in &next.changes {
            match self.rows.entry((Arc::clone(&change.table), change.key.clone())) {
                Entry::Vacant(entry) => {
                    entry.insert(change.clone());
                }
                Entry::Occupied(mut entry) => {
                    let merged = entry.get_mut();
                    merged.after = change.after;
                    match &change.row {
                        Some(row) => merged.row = Some(Arc::clone(row)),
                        None if change.after == 0 => merged.row = None,
                        None => {}
                    }
                    if merged.before == merged.after && merged.row.is_none() {
                        entry.remove();
                    }
                }
            }
        }
    }

    /// How many rows the composition lists.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether nothing changed on balance.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The composition.
    pub fn finish(self) -> QueryDelta {
        QueryDelta { version: self.version, changes: self.rows.into_values().collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zql_spec::value::Value;

    #[test]
    fn deltas_compose() {
        let row =
            |text: &str| Some(Arc::new(StoredRow { values: Box::new([Value::string(text)]), version: Arc::from("1") }));
        let change = |before, after, row| QueryDelta {
            version: Arc::from("2"),
            changes: vec![RowDelta {
                table: Arc::from("t"),
                key: Key::from_iter([Value::Number(1.0)]),
                before,
                after,
                row,
            }],
        };
        // (first, second, composed)
        let table = [
            (change(0, 1, row("a")), change(1, 0, None), None),
            (change(1, 0, None), change(0, 1, row("b")), Some((1, 1, row("b")))),
            (change(0, 1, row("a")), change(1, 2, None), Some((0, 2, row("a")))),
            (change(1, 2, None), change(2, 1, None), None),
            (change(1, 1, row("a")), change(1, 0, None), Some((1, 0, None))),
            (change(1, 1, row("a")), change(1, 1, row("b")), Some((1, 1, row("b")))),
        ];
        for (first, second, expected) in table {
            let mut composer = DeltaComposer::new(&first);
            composer.add(&second);
            let composed = composer.finish();
            let found = composed.changes.first().map(|c| (c.before, c.after, c.row.clone()));
            assert_eq!(found, expected, "{first:?} then {second:?}");
        }
    }
}
