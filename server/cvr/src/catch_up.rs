//! What a client is told that has nothing yet.
//!
//! A client with a cookie is caught up from the store, which remembers what went. One without needs only what is
//! there, and that is in memory: a second tab costs no query.

use std::sync::Arc;

use rustc_hash::FxHashSet;
use zql_spec::version::CvrVersion;

use crate::patch::{QueryPatch, RowPatch};
use crate::record::Cvr;
use crate::row::{QueryId, Rows};

/// All that the group's clients hold since `up_to` or earlier: rows whose contents the caller reads, got queries,
/// everybody's desires. Rows of `excluded` queries are left out; the caller sends them anyway. `rows` must be
/// those of `cvr`.
pub fn from_nothing(
    cvr: &Cvr,
    rows: &Rows,
    up_to: &CvrVersion,
    excluded: &FxHashSet<QueryId>,
) -> (Vec<RowPatch<()>>, Vec<QueryPatch>) {
    let row_patches = rows
        .iter()
        .filter(|(_, record)| *record.patch_version <= *up_to && !record.ref_counts.any(excluded))
        .map(|(row, record)| RowPatch {
            to_version: Arc::clone(&record.patch_version),
            row: row.clone(),
            put: Some(()),
        })
        .collect();
    let mut patches = Vec::new();
    for (id, query) in cvr.queries.iter().filter(|(_, query)| !query.body.is_internal()) {
        if let Some(version) = &query.patch_version {
            patches.push(QueryPatch {
                to_version: Arc::clone(version),
                put: true,
                query: Arc::clone(id),
                client: None,
            });
        }
    }
    let unknown = Arc::new(up_to.clone());
    for (client, desired) in cvr.clients.iter() {
        for id in desired {
            // A query that failed and was removed is still desired; since when is not known any more.
            let desire = cvr.queries.get(id).and_then(|query| query.clients.get(client));
            patches.push(QueryPatch {
                to_version: Arc::clone(desire.map_or(&unknown, |desire| &desire.version)),
                put: true,
                query: Arc::clone(id),
                client: Some(Arc::clone(client)),
            });
        }
    }
    patches.retain(|patch| *patch.to_version <= *up_to);
    (row_patches, patches)
}
