//! A client group in small: it reads its mailbox in order and keeps what it was told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use engine::commit::{Key, StoredRow, Version};
use engine::graph::QueryDelta;
use engine::query::Query;
use views::{Event, HydrateFailure, Mailbox, Views};

type Answer = BTreeMap<(Arc<str>, Key), (u32, Arc<StoredRow>)>;

/// See the module.
pub(crate) struct Group {
    pub(crate) mailbox: Mailbox,
    /// The version of all answers.
    pub(crate) version: Version,
    pub(crate) answers: BTreeMap<Arc<str>, Answer>,
    /// Subscribed and not yet told.
    pub(crate) pending: BTreeSet<Arc<str>>,
    pub(crate) failures: BTreeMap<Arc<str>, HydrateFailure>,
}

impl Group {
    pub(crate) fn new(views: &Views) -> Self {
        Group {
            mailbox: views.mailbox(),
            version: Arc::from(""),
            answers: BTreeMap::new(),
            pending: BTreeSet::new(),
            failures: BTreeMap::new(),
        }
    }

    pub(crate) fn subscribe(&mut self, name: &str, query: &Arc<Query>) {
        self.answers.remove(name);
        self.pending.insert(Arc::from(name));
        self.mailbox.subscribe(Arc::from(name), Arc::clone(query));
    }

    pub(crate) fn unsubscribe(&mut self, name: &str) {
        self.answers.remove(name);
        self.pending.remove(name);
        self.mailbox.unsubscribe(name);
    }

    /// Waits for the next event and applies it.
    pub(crate) async fn next(&mut self) -> Event {
        let event = self.mailbox.recv().await;
        self.apply(&event);
        event
    }

    /// Reads until every subscription was answered.
    pub(crate) async fn settle(&mut self) {
        while !self.pending.is_empty() {
            self.next().await;
        }
    }

    pub(crate) fn apply(&mut self, event: &Event) {
        match event {
            Event::Hydrated { query_id, version, rows } => {
                assert!(*version >= self.version, "versions do not go back");
                assert!(self.pending.remove(query_id), "{query_id} was not asked for");
                self.version = Arc::clone(version);
                let mut answer = Answer::new();
                for row in rows.iter() {
                    assert!(row.count > 0);
                    let key = (Arc::clone(&row.table), row.key.clone());
                    let twice = answer.insert(key, (row.count, Arc::clone(&row.row)));
                    assert!(twice.is_none(), "each row is listed once");
                }
                self.answers.insert(Arc::clone(query_id), answer);
            }
            Event::HydrateFailed { query_id, error } => {
                assert!(self.pending.remove(query_id) || self.answers.remove(query_id).is_some());
                self.failures.insert(Arc::clone(query_id), error.clone());
            }
            Event::Advanced { version, deltas } => {
                assert!(*version > self.version || !deltas.is_empty());
                assert!(*version >= self.version, "versions do not go back");
                self.version = Arc::clone(version);
                for (name, delta) in deltas {
                    let answer = self.answers.get_mut(name).unwrap_or_else(|| panic!("{name} has no answer yet"));
                    advance(answer, delta);
                }
            }
            Event::Pinned { snapshot: None } => {}
            Event::Pinned { snapshot: Some(snapshot) } => {
                assert!(snapshot.version >= self.version, "versions do not go back");
                self.version = Arc::clone(&snapshot.version);
            }
            Event::SchemaChanged { .. } | Event::Failed => {
                self.answers.clear();
                self.pending.clear();
            }
        }
    }
}

fn advance(answer: &mut Answer, delta: &QueryDelta) {
    assert!(!delta.changes.is_empty());
    for change in &delta.changes {
        let key = (Arc::clone(&change.table), change.key.clone());
        let before = answer.get(&key).map_or(0, |(count, _)| *count);
        assert_eq!(before, change.before, "{change:?}");
        match (change.after, &change.row, answer.get_mut(&key)) {
            (0, None, Some(_)) => drop(answer.remove(&key)),
            (after, Some(row), _) if after > 0 => drop(answer.insert(key, (after, Arc::clone(row)))),
            (after, None, Some(held)) => held.0 = after,
            _ => panic!("{change:?}"),
        }
    }
}
