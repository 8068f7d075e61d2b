//! What both kinds of update share: a copy of the record, its one version step, and what to write of it.

use std::sync::Arc;

use indexmap::{IndexMap, IndexSet};
use rustc_hash::FxBuildHasher;
use zql_spec::version::CvrVersion;

use crate::flush::{DesireWrite, Flush, FlushTimes, QueryWrite, RowWrite};
use crate::record::{Cvr, Query};
use crate::row::QueryId;

/// A record being changed.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) original: Cvr,
    pub(crate) cvr: Cvr,
    /// `cvr.version`, shared by everything that happens at it.
    version: Arc<CvrVersion>,
    pub(crate) identity_changed: bool,
    pub(crate) new_clients: Vec<Arc<str>>,
    pub(crate) deleted_clients: Vec<Arc<str>>,
    changed_queries: IndexSet<QueryId, FxBuildHasher>,
    removed_queries: Vec<QueryWrite>,
    desires: IndexMap<(Arc<str>, QueryId), DesireWrite, FxBuildHasher>,
}

impl Draft {
    pub(crate) fn new(cvr: &Cvr) -> Self {
        Draft {
            original: cvr.clone(),
            cvr: cvr.clone(),
            version: Arc::new(cvr.version.clone()),
            identity_changed: !cvr.stored,
            new_clients: Vec::new(),
            deleted_clients: Vec::new(),
            changed_queries: IndexSet::default(),
            removed_queries: Vec::new(),
            desires: IndexMap::default(),
        }
    }

    /// The version that changes happen at, so far.
    pub(crate) fn version(&self) -> &Arc<CvrVersion> {
        &self.version
    }

    pub(crate) fn set_version(&mut self, version: CvrVersion) {
        self.version = Arc::new(version.clone());
        self.cvr.version = version;
    }

    pub(crate) fn bumped(&self) -> bool {
        self.cvr.version != self.original.version
    }

    /// Takes the version step, unless it was taken.
    pub(crate) fn bump(&mut self) -> Arc<CvrVersion> {
        if !self.bumped() {
            self.set_version(self.original.version.next_config());
        }
        Arc::clone(&self.version)
    }

    /// A query to change; it will be written.
    pub(crate) fn query_mut(&mut self, id: &QueryId) -> Option<&mut Query> {
        let query = Arc::make_mut(&mut self.cvr.queries).get_mut(id)?;
        self.changed_queries.insert(Arc::clone(id));
        Some(query)
    }

    pub(crate) fn insert_query(&mut self, id: &QueryId, query: Query) {
        Arc::make_mut(&mut self.cvr.queries).insert(Arc::clone(id), query);
        self.changed_queries.insert(Arc::clone(id));
    }

    /// Takes a query out of the record, leaving a tombstone.
    pub(crate) fn remove_query(&mut self, id: &QueryId) {
        let at = Arc::clone(&self.version);
        if let Some(mut query) = Arc::make_mut(&mut self.cvr.queries).shift_remove(id) {
            self.changed_queries.shift_remove(id);
            query.patch_version = Some(at);
            query.transformation_hash = None;
            query.transformation_version = None;
            self.removed_queries.push(QueryWrite { id: Arc::clone(id), query, deleted: true });
        }
    }

    pub(crate) fn write_desire(&mut self, write: DesireWrite) {
        self.desires.insert((Arc::clone(&write.client), Arc::clone(&write.query)), write);
    }

    /// The record from now on, and what to write; nothing if nothing is to be written, in which case the record
    /// stays what it was, version and times included.
    pub(crate) fn finish(mut self, rows: Vec<RowWrite>, times: FlushTimes) -> Option<Arc<Flush>> {
        let nothing = rows.is_empty()
            && !self.identity_changed
            && self.new_clients.is_empty()
            && self.deleted_clients.is_empty()
            && self.changed_queries.is_empty()
            && self.removed_queries.is_empty()
            && self.desires.is_empty();
        if nothing {
            return None;
        }
        let changed = self.changed_queries.into_iter().filter_map(|id| {
            let query = self.cvr.queries.get(&id)?.clone();
            Some(QueryWrite { id, query, deleted: false })
        });
        let queries = changed.chain(self.removed_queries).collect();
        self.cvr.last_active = times.last_active;
        self.cvr.ttl_clock = times.ttl_clock;
        self.cvr.stored = true;
        Some(Arc::new(Flush {
            expected: self.original.version,
            first: !self.original.stored,
            identity_changed: self.identity_changed,
            last_connect_time: times.last_connect_time,
            cvr: self.cvr,
            new_clients: self.new_clients,
            deleted_clients: self.deleted_clients,
            queries,
            desires: self.desires.into_values().collect(),
            rows,
        }))
    }
}
