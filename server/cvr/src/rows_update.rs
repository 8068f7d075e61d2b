//! Updates that the engine causes: queries executed and removed, rows that came, changed and went.
//!
//! An update happens at one replica state. Rows come with absolute counts (how many nodes of the query hold the
//! row at that state), so giving the same rows twice changes nothing. Its steps, in this order:
//! [`QueryUpdate::track`] (only if queries were executed or removed), [`QueryUpdate::receive`] and
//! [`QueryUpdate::patches`] as often as wanted, [`QueryUpdate::drop_unreferenced`] and its patches (only after
//! `track`), [`QueryUpdate::finish`]. Patches may be sent at once; `pokeEnd` follows the commit of the flush.
//!
//! A row whose own version has not changed keeps the version at which it was last sent: clients that are
//! up to date do not lack it, and clients that are behind receive it. So executing a query again is also catching up.

use std::sync::Arc;

use indexmap::IndexMap;
use indexmap::map::Entry;
use rustc_hash::{FxBuildHasher, FxHashSet};
use zql_spec::version::{CvrVersion, StateVersion};

use crate::CvrError;
use crate::draft::Draft;
use crate::flush::{Flush, FlushTimes, RowWrite};
use crate::patch::{QueryPatch, RowPatch};
use crate::record::{Counts, Cvr, Signature};
use crate::row::{QueryId, RefCounts, RowId, RowRecord, Rows};

/// A row's contents and its own version.
#[derive(Clone, Debug)]
pub struct Contents<T> {
    /// The row's version (`_0_version`).
    pub row_version: Arc<str>,
    /// The contents, in whatever form the caller sends them.
    pub value: T,
}

/// A query that ran.
#[derive(Clone, Debug)]
pub struct Executed {
    /// The query.
    pub query: QueryId,
    /// The hash of the AST that ran.
    pub hash: Arc<str>,
    /// How its rows are counted.
    pub counts: Counts,
}

/// An update caused by the engine.
#[derive(Debug)]
pub struct QueryUpdate<T> {
    draft: Draft,
    /// Queries executed or removed: what the record says about them is void.
    tracked: FxHashSet<QueryId>,
    touched: IndexMap<RowId, Touched<T>, FxBuildHasher>,
    /// Positions in `touched` that changed since the last patches.
    dirty: Vec<usize>,
}

#[derive(Debug)]
struct Touched<T> {
    existing: Option<RowRecord>,
    row_version: Option<Arc<str>>,
    ref_counts: RefCounts,
    /// Contents not sent yet.
    value: Option<T>,
    last: Option<Sent>,
    dirty: bool,
}

/// The last patch of a row.
#[derive(Debug)]
struct Sent {
    to_version: Arc<CvrVersion>,
    /// The row version that was put; `None` for a `del`.
    put: Option<Arc<str>>,
}

impl<T> QueryUpdate<T> {
    /// Begins an update to this state of a replica that was made at `replica_version`.
    pub fn new(cvr: &Cvr, state: StateVersion, replica_version: &Arc<str>) -> Result<Self, CvrError> {
        if let Some(own) = &cvr.replica_version
            && **own > **replica_version
        {
            return Err(CvrError::Internal(format!("the replica {replica_version} is older than the record's {own}")));
        }
        if state < cvr.version.state {
            return Err(CvrError::Internal(format!("the state {state} is older than the record's {}", cvr.version)));
        }
        let mut draft = Draft::new(cvr);
        draft.cvr.replica_version = Some(Arc::clone(replica_version));
        if state > cvr.version.state {
            draft.set_version(CvrVersion::at(state));
        }
        Ok(QueryUpdate { draft, tracked: FxHashSet::default(), touched: IndexMap::default(), dirty: Vec::new() })
    }

    /// Takes a version step even if the state is the record's own: for changes that arrive in two updates at one
    /// state. If nothing is written, the version stays.
    pub fn bump(&mut self) {
        self.draft.bump();
    }

    /// The version that the record has if the update writes anything: the poke's id.
    pub fn version(&self) -> &CvrVersion {
        &self.draft.cvr.version
    }

    /// The record as it would be.
    pub fn cvr(&self) -> &Cvr {
        &self.draft.cvr
    }

    /// Says which queries were executed and which are removed. Their rows are void until received. Unknown queries are
    /// passed over.
    pub fn track(&mut self, executed: &[Executed], removed: &[QueryId]) -> Result<Vec<QueryPatch>, CvrError> {
        if !self.touched.is_empty() {
            return Err(CvrError::Internal("queries must be tracked before rows are received".to_owned()));
        }
        // Row differences need a version to happen at even where no hash changed; if there are none, nothing is
        // written and the version stays.
        if !executed.is_empty() || !removed.is_empty() {
            self.draft.bump();
        }
        let version = Arc::clone(self.draft.version());
        let mut patches = Vec::new();
        let patch = |query: &QueryId, put| QueryPatch {
            to_version: Arc::clone(&version),
            put,
            query: Arc::clone(query),
            client: None,
        };
        for Executed { query: id, hash, counts } in executed {
            let Some(query) = self.draft.cvr.queries.get(id) else { continue };
            self.tracked.insert(Arc::clone(id));
            let signature = Signature::of(*counts);
            if query.transformation_hash.as_ref() == Some(hash) && query.signature == signature {
                continue;
            }
            if let Some(query) = self.draft.query_mut(id) {
                query.signature = signature;
                if query.transformation_hash.as_ref() != Some(hash) {
                    query.transformation_hash = Some(Arc::clone(hash));
                    query.transformation_version = Some(Arc::clone(&version));
                }
                if !query.body.is_internal() && query.patch_version.is_none() {
                    query.patch_version = Some(Arc::clone(&version));
                    patches.push(patch(id, true));
                }
            }
        }
        for id in removed {
            match self.draft.cvr.queries.get(id) {
                None => continue,
                Some(query) if query.body.is_internal() => {
                    return Err(CvrError::Internal(format!("internal query {id} cannot be removed")));
                }
                Some(_) => {}
            }
            self.tracked.insert(Arc::clone(id));
            self.draft.remove_query(id);
            patches.push(patch(id, false));
        }
        Ok(patches)
    }

    /// Takes a row of a query: how many of the query's nodes hold it at the update's state (0: it left), and
    /// its contents if it is new to the query or changed.
    pub fn receive(&mut self, rows: &mut Rows, query: &QueryId, row: RowId, count: u32, contents: Option<Contents<T>>) {
        let index = self.touch(rows, row);
        let touched = &mut self.touched[index];
        touched.ref_counts = rows.counts.set(&touched.ref_counts, query, count);
        if let Some(Contents { row_version, value }) = contents {
            touched.row_version = Some(row_version);
            touched.value = Some(value);
        }
    }

    /// After all rows of the executed queries: gives up the rows that none of them holds any more.
    pub fn drop_unreferenced(&mut self, rows: &mut Rows) {
        if self.tracked.is_empty() {
            return;
        }
        let void: Vec<RowId> = rows
            .iter()
            .filter(|(row, record)| record.ref_counts.any(&self.tracked) && !self.touched.contains_key(*row))
            .map(|(row, _)| row.clone())
            .collect();
        for row in void {
            self.touch(rows, row);
        }
    }

    /// The patches of the rows received since the last call.
    pub fn patches(&mut self) -> Result<Vec<RowPatch<T>>, CvrError> {
        let mut patches = Vec::with_capacity(self.dirty.len());
        for index in std::mem::take(&mut self.dirty) {
            let Some((row, touched)) = self.touched.get_index_mut(index) else { continue };
            touched.dirty = false;
            let (at, put, value) = if touched.ref_counts.is_empty() {
                touched.value = None;
                let held = touched.existing.is_some() || touched.last.is_some();
                if !held || touched.last.as_ref().is_some_and(|last| last.put.is_none()) {
                    continue;
                }
                (Arc::clone(self.draft.version()), None, None)
            } else {
                let Some(row_version) = touched.row_version.clone() else {
                    return Err(CvrError::Internal(format!(
                        "row {} of {} is new but has no contents",
                        row.to_json(),
                        row.table()
                    )));
                };
                let Some(value) = touched.value.take() else { continue };
                let sent = touched.last.as_ref().and_then(|last| last.put.as_ref());
                if sent.is_some_and(|sent| *sent >= row_version) {
                    continue;
                }
                (touched.patch_version(self.draft.version()), Some(row_version), Some(value))
            };
            if Arc::ptr_eq(&at, self.draft.version()) && !self.draft.bumped() {
                return Err(not_bumped());
            }
            // A version never goes back within a poke.
            let to_version = match &touched.last {
                Some(last) if last.to_version > at => Arc::clone(&last.to_version),
                _ => at,
            };
            touched.last = Some(Sent { to_version: Arc::clone(&to_version), put });
            patches.push(RowPatch { to_version, row: row.clone(), put: value });
        }
        Ok(patches)
    }

    /// What to write. Nothing to write means that the record stays what it was, whatever was sent: those
    /// patches were only for clients that were behind.
    pub fn finish(self, times: FlushTimes) -> Result<Option<Arc<Flush>>, CvrError> {
        let version = Arc::clone(self.draft.version());
        let mut writes = Vec::new();
        for (row, touched) in self.touched {
            if touched.ref_counts.is_empty() {
                // Rows that came and went within the update leave no trace.
                if let Some(existing) = touched.existing {
                    let row_version = touched.row_version.unwrap_or(existing.row_version);
                    let patch_version = Arc::clone(&version);
                    writes.push(RowWrite { row, row_version, patch_version, ref_counts: None });
                }
                continue;
            }
            let patch_version = touched.patch_version(&version);
            let Some(row_version) = touched.row_version else { continue };
            let unchanged = touched.existing.as_ref().is_some_and(|existing| {
                existing.ref_counts == touched.ref_counts
                    && existing.row_version == row_version
                    && existing.patch_version == patch_version
            });
            if !unchanged {
                writes.push(RowWrite { row, row_version, patch_version, ref_counts: Some(touched.ref_counts) });
            }
        }
        if !self.draft.bumped() && writes.iter().any(|write| Arc::ptr_eq(&write.patch_version, &version)) {
            return Err(not_bumped());
        }
        Ok(self.draft.finish(writes, times))
    }

    fn touch(&mut self, rows: &mut Rows, row: RowId) -> usize {
        let index = match self.touched.entry(row) {
            Entry::Occupied(entry) => entry.index(),
            Entry::Vacant(entry) => {
                let existing = rows.get(entry.key()).cloned();
                let ref_counts = match &existing {
                    Some(existing) => rows.counts.without(&existing.ref_counts, &self.tracked),
                    None => rows.counts.none(),
                };
                let row_version = existing.as_ref().map(|existing| Arc::clone(&existing.row_version));
                let index = entry.index();
                entry.insert(Touched { existing, row_version, ref_counts, value: None, last: None, dirty: false });
                index
            }
        };
        let touched = &mut self.touched[index];
        if !touched.dirty {
            touched.dirty = true;
            self.dirty.push(index);
        }
        index
    }
}

impl<T> Touched<T> {
    /// A row that still has the version at which it was sent was last sent then.
    fn patch_version(&self, new: &Arc<CvrVersion>) -> Arc<CvrVersion> {
        match &self.existing {
            Some(existing) if Some(&existing.row_version) == self.row_version.as_ref() => {
                Arc::clone(&existing.patch_version)
            }
            _ => Arc::clone(new),
        }
    }
}

fn not_bumped() -> CvrError {
    CvrError::Internal("Expected CVR version to have been bumped above original".to_owned())
}
