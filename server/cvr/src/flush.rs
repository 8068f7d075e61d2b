//! What an update writes to the store.
//!
//! A flush names the version it was made from; the store refuses it when the record has another one by then.
//! It holds each row, query and desire once, in its final form, so a store may write it with one statement a
//! table, in any order of rows.

use std::sync::Arc;

use zql_spec::version::CvrVersion;

use crate::record::{Cvr, Query};
use crate::row::{QueryId, RefCounts, RowId};

/// When an update is finished: what the caller's clocks say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FlushTimes {
    /// When a client of the group last connected here, in ms since the epoch: the claim to own the record.
    pub last_connect_time: f64,
    /// Now, in ms since the epoch.
    pub last_active: f64,
    /// The group's TTL clock, in ms. See [`crate::ttl::Schedule`].
    pub ttl_clock: f64,
}

/// What one update changed.
#[derive(Clone, Debug)]
pub struct Flush {
    /// The version that the record has in the store, if nobody else wrote it.
    pub expected: CvrVersion,
    /// Whether the store had no record of the group when this one was made.
    pub first: bool,
    /// Whether client schema or profile are to be written: rare, and the schema is big.
    pub identity_changed: bool,
    /// The record from now on.
    pub cvr: Cvr,
    /// When a client last connected here, in ms since the epoch.
    pub last_connect_time: f64,
    /// Clients that joined.
    pub new_clients: Vec<Arc<str>>,
    /// Clients that left.
    pub deleted_clients: Vec<Arc<str>>,
    /// Queries that changed; each is written in full.
    pub queries: Vec<QueryWrite>,
    /// Desires that changed; each is written in full.
    pub desires: Vec<DesireWrite>,
    /// Rows that changed; each is written in full.
    pub rows: Vec<RowWrite>,
}

/// A query's row in the store.
#[derive(Clone, Debug)]
pub struct QueryWrite {
    /// The query.
    pub id: QueryId,
    /// Its record.
    pub query: Query,
    /// Whether it remains only as a tombstone.
    pub deleted: bool,
}

/// A desire's row in the store.
#[derive(Clone, Debug)]
pub struct DesireWrite {
    /// Who desires.
    pub client: Arc<str>,
    /// What is desired.
    pub query: QueryId,
    /// When the desire changed.
    pub patch_version: Arc<CvrVersion>,
    /// Whether it ended (deleted or inactivated).
    pub deleted: bool,
    /// Its time to live in ms, clamped.
    pub ttl: f64,
    /// The TTL clock at which it became inactive.
    pub inactivated_at: Option<f64>,
}

/// A row's row in the store.
#[derive(Clone, Debug)]
pub struct RowWrite {
    /// The row.
    pub row: RowId,
    /// The row's own version.
    pub row_version: Arc<str>,
    /// When the clients were told.
    pub patch_version: Arc<CvrVersion>,
    /// Who holds it; `None` for a tombstone.
    pub ref_counts: Option<RefCounts>,
}
