//! One running query: its graph and who listens.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use engine::catalogue::GraphId;
use engine::query::Query;
use rustc_hash::FxHashMap;

use crate::mailbox::{Inbox, Token};

/// A query that somebody subscribes, or did a moment ago.
pub(super) struct Entry {
    pub(super) query: Arc<Query>,
    pub(super) state: State,
    pub(super) subscribers: FxHashMap<Token, Subscriber>,
    /// Hydrations in a row that could not be used.
    pub(super) attempts: u32,
    /// Tells a waiting hydration that nobody wants it.
    pub(super) cancelled: Arc<AtomicBool>,
}

/// Where an entry's graph is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Being made.
    Hydrating,
    /// In the catalogue, current.
    Live(GraphId),
    /// In the catalogue, set aside and being hydrated again.
    Aside(GraphId),
}

/// One subscription.
pub(super) struct Subscriber {
    pub(super) inbox: Arc<Inbox>,
    pub(super) query_id: Arc<str>,
    /// Whether it has the answer, so that deltas mean something to it.
    pub(super) told: bool,
}

impl Entry {
    pub(super) fn new(query: Arc<Query>) -> Self {
        Entry {
            query,
            state: State::Hydrating,
            subscribers: FxHashMap::default(),
            attempts: 0,
            cancelled: Arc::default(),
        }
    }

    pub(super) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }
}

/// A text that is equal exactly for queries whose graphs are interchangeable. Aliases take no part: they
/// name relationships on the client only.
pub(super) fn key_of(query: &Query) -> Arc<str> {
    let mut key = String::with_capacity(128 * query.nodes.len());
    for node in &query.nodes {
        let result = writeln!(
            key,
            "{:?}{:?}{:?}{:?}{:?}{:?}{:?}{:?}{}",
            node.table.name,
            node.table.primary_key,
            node.role,
            node.edge,
            node.filter,
            node.order,
            node.start,
            node.limit,
            node.synced
        );
        result.expect("writing to a string does not fail");
    }
    key.into()
}
