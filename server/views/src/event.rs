//! What a mailbox tells a client group.

use std::sync::Arc;

use engine::commit::Version;
use engine::graph::{AnswerRow, QueryDelta};
use engine::hydration::HydrateError;
use engine::replica::Snapshot;
use zql_spec::schema::Schema;

/// News for a client group, in an order that makes every event consistent with the ones before.
#[derive(Clone, Debug)]
pub enum Event {
    /// A query's first answer. Everything the mailbox said before stands at this version or an older one.
    Hydrated {
        /// The subscriber's name for the query.
        query_id: Arc<str>,
        /// The version of the answer.
        version: Version,
        /// The rows; shared by all that were told.
        rows: Arc<[AnswerRow]>,
    },
    /// A query could not be answered; it is no longer subscribed.
    HydrateFailed {
        /// The subscriber's name for the query.
        query_id: Arc<str>,
        /// Why.
        error: HydrateFailure,
    },
    /// Answers changed. Queries that are not listed stand at this version unchanged.
    Advanced {
        /// The version of all answers now.
        version: Version,
        /// The changes, at most one delta a query, none empty.
        deltas: Vec<(Arc<str>, Arc<QueryDelta>)>,
    },
    /// The schema changed: no query is subscribed any more. Resolve them again and subscribe anew; the
    /// client view record tells what changed.
    SchemaChanged {
        /// The version from which on the schema holds.
        version: Version,
        /// What queries can see now.
        schema: Arc<Schema>,
    },
    /// What was asked for by [`crate::Mailbox::pin`]: the replica at the version at which all that the mailbox said before
    /// stands. Nothing when that could not be had; ask again.
    Pinned {
        /// The version, readable until it is given up.
        snapshot: Option<Arc<Snapshot>>,
    },
    /// The running queries failed and were dropped, this mailbox's among them: a bug, told in the log.
    /// Subscribe anew.
    Failed,
}

/// Why a query could not be answered, to be told to all that asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum HydrateFailure {
    /// The query or the data is at fault: it fails whenever it is tried.
    #[error("{0}")]
    Query(Arc<str>),
    /// The server is at fault: it may do better next time.
    #[error("{0}")]
    Internal(Arc<str>),
}

impl From<HydrateError> for HydrateFailure {
    fn from(error: HydrateError) -> Self {
        let message = error.to_string().into();
        if error.is_of_query() { HydrateFailure::Query(message) } else { HydrateFailure::Internal(message) }
    }
}
