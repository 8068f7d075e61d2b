//! How many nodes of each query hold a row, shared between the many rows that are held alike.
//!
//! It must not know rows. It grows with the distinct combinations of queries, which are few however many rows a group has.

use std::fmt::Write as _;
use std::sync::Arc;

use rustc_hash::FxHashSet;

use crate::row::{QueryId, write_string};

/// How many nodes of each query hold a row. Sorted by query, without zeros; empty for a row that
/// no query holds. Rows with equal counts share them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RefCounts(Arc<[(QueryId, u32)]>);

impl RefCounts {
    /// Counts by query; zeros are left out.
    pub fn new(counts: impl IntoIterator<Item = (QueryId, u32)>) -> Self {
        let mut counts: Vec<_> = counts.into_iter().filter(|&(_, count)| count > 0).collect();
        counts.sort();
        RefCounts(counts.into())
    }

    /// Whether no query holds the row.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The counts, by query.
    pub fn iter(&self) -> impl Iterator<Item = (&QueryId, u32)> {
        self.0.iter().map(|(query, count)| (query, *count))
    }

    /// Whether one of the queries holds the row.
    pub fn any(&self, queries: &FxHashSet<QueryId>) -> bool {
        self.0.iter().any(|(query, _)| queries.contains(query))
    }

    /// Appends the counts as a JSON object.
    pub fn write_json(&self, out: &mut String) {
        out.push('{');
        for (index, (query, count)) in self.0.iter().enumerate() {
            if index > 0 {
                out.push(',');
            }
            write_string(out, query);
            let _ = write!(out, ":{count}");
        }
        out.push('}');
    }

    fn set(&self, query: &QueryId, count: u32) -> Self {
        let others = self.0.iter().filter(|(other, _)| other != query).cloned();
        RefCounts::new(others.chain([(Arc::clone(query), count)]))
    }

    fn without(&self, queries: &FxHashSet<QueryId>) -> Self {
        RefCounts::new(self.0.iter().filter(|(query, _)| !queries.contains(query)).cloned())
    }
}

/// Shares equal [`RefCounts`]: a group has few distinct ones however many rows it has.
#[derive(Debug, Default)]
pub(crate) struct SharedCounts {
    known: FxHashSet<RefCounts>,
    /// Size at which counts that no row uses any more are dropped; twice what the last sweep left.
    sweep_at: usize,
    /// The last change asked for and its result: consecutive rows mostly change alike.
    last: Option<(RefCounts, QueryId, u32, RefCounts)>,
}

/// Smallest size at which [`SharedCounts`] is swept: below it, a sweep frees less than it costs.
const MIN_SWEEP: usize = 64;

impl SharedCounts {
    pub(crate) fn share(&mut self, counts: RefCounts) -> RefCounts {
        if let Some(known) = self.known.get(&counts) {
            return known.clone();
        }
        if self.known.len() >= self.sweep_at.max(MIN_SWEEP) {
            self.last = None;
            self.known.retain(|counts| Arc::strong_count(&counts.0) > 1);
            self.sweep_at = self.known.len() * 2;
        }
        self.known.insert(counts.clone());
        counts
    }

    pub(crate) fn set(&mut self, counts: &RefCounts, query: &QueryId, count: u32) -> RefCounts {
        if let Some((from, of, to, result)) = &self.last
            && Arc::ptr_eq(&from.0, &counts.0)
            && of == query
            && *to == count
        {
            return result.clone();
        }
        let result = self.share(counts.set(query, count));
        self.last = Some((counts.clone(), Arc::clone(query), count, result.clone()));
        result
    }

    pub(crate) fn without(&mut self, counts: &RefCounts, queries: &FxHashSet<QueryId>) -> RefCounts {
        if counts.any(queries) { self.share(counts.without(queries)) } else { counts.clone() }
    }

    pub(crate) fn none(&mut self) -> RefCounts {
        self.share(RefCounts::new([]))
    }
}
