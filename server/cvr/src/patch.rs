//! What an update tells clients. Every patch carries the version at which it happened; a client whose
//! base is at or past it has it already.

use std::sync::Arc;

use zql_spec::version::CvrVersion;

use crate::row::{QueryId, RowId};

/// A patch to a client's queries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryPatch {
    /// When it happened.
    pub to_version: Arc<CvrVersion>,
    /// `put` if true, `del` if false.
    pub put: bool,
    /// The query.
    pub query: QueryId,
    /// The client whose desire changed; `None` for the group's got queries.
    pub client: Option<Arc<str>>,
}

/// A patch to a client's rows. `T` is whatever the caller knows a row's contents by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowPatch<T> {
    /// When it happened.
    pub to_version: Arc<CvrVersion>,
    /// The row.
    pub row: RowId,
    /// The contents for a `put`, `None` for a `del`.
    pub put: Option<T>,
}

/// Whether a client at this base lacks what happened at a version. No base is before everything.
pub fn lacks(base: Option<&CvrVersion>, to_version: &CvrVersion) -> bool {
    base.is_none_or(|base| base < to_version)
}
