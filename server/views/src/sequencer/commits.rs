//! Commits: what they do to the graphs, and who is told.
//!
//! A mailbox gets all that one commit does to its queries at once. A graph that cannot advance is set aside and hydrated by
//! the workers, while all others go on. Grows with the graphs that a commit touches and their subscribers.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use engine::catalogue::{Catalogue, GraphId};
use engine::commit::Commit;
use engine::graph::{AdvanceError, QueryDelta, ReplicaRead};
use engine::replica::Snapshot;

use super::entry::State;
use super::{Posts, Sequencer};
use crate::answers::Answers;
use crate::event::Event;
use crate::workers::{Job, Target, panic_message};

impl Sequencer {
    pub(super) fn commit(&mut self, commit: Arc<Commit>, snapshot: Option<Arc<Snapshot>>) {
        let commit = match self.unread.take() {
            Some(mut earlier) => {
                earlier.compose(&commit);
                Arc::new(earlier)
            }
            None => commit,
        };
        let reader = snapshot.and_then(|snapshot| snapshot.reader().ok()).or_else(|| {
            // The pin was given up while it waited here. If the newest version is a later one, its commit is
            // on its way.
            let snapshot = self.replica.pin().ok()?;
            if snapshot.version == commit.version { snapshot.reader().ok() } else { None }
        });
        let Some(reader) = reader else {
            tracing::warn!(
                version = &*commit.version,
                "a version could not be read; its changes wait for the next one"
            );
            self.unread = Some(Arc::unwrap_or_clone(commit));
            return;
        };
        self.version = Arc::clone(&commit.version);
        self.snapshot = Some(Arc::clone(reader.snapshot()));
        if commit.schema_changed {
            let schema = Arc::clone(&reader.snapshot().schema);
            let version = Arc::clone(&commit.version);
            return self.end_all(&Event::SchemaChanged { version, schema });
        }
        let snapshot = Arc::clone(reader.snapshot());
        let mut read = ReplicaRead::new(reader);
        // Asked for only if the commit touches many graphs.
        let mut more = |wanted: usize| {
            let idle = std::thread::available_parallelism().map_or(1, usize::from) - 1;
            (0..wanted.min(idle)).filter_map(|_| snapshot.reader().ok().map(ReplicaRead::new)).collect()
        };
        let catalogue = &mut self.catalogue;
        match catch_unwind(AssertUnwindSafe(|| catalogue.commit_parallel(&commit, &mut read, &mut more))) {
            Ok(results) => {
                self.queue.evaluated(results.len());
                let mut posts = Posts::default();
                for (graph, result) in results {
                    self.answers.remove(graph);
                    match result {
                        Ok(delta) => self.post(graph, delta, &mut posts),
                        Err(error) => self.set_aside(graph, &error),
                    }
                }
                for (inbox, deltas) in posts.into_values() {
                    inbox.advance(&deltas);
                }
            }
            Err(panic) => {
                // What the panic left behind cannot be trusted, and which graph it was is not known.
                tracing::error!(message = panic_message(&*panic), "advancing the graphs panicked; all are dropped");
                self.end_all(&Event::Failed);
            }
        }
    }

    /// Collects a delta for all that know the answer it leads from.
    pub(super) fn post(&mut self, graph: GraphId, delta: QueryDelta, posts: &mut Posts) {
        self.changed_late(graph, &delta);
        let delta = Arc::new(delta);
        let Some(entry) = self.by_graph.get(&graph).and_then(|key| self.entries.get(key)) else { return };
        for (token, subscriber) in entry.subscribers.iter().filter(|(_, subscriber)| subscriber.told) {
            let inbox = &subscriber.inbox;
            let (_, deltas) =
                posts.entry(Arc::as_ptr(inbox) as usize).or_insert_with(|| (Arc::clone(inbox), Vec::new()));
            deltas.push((*token, Arc::clone(&subscriber.query_id), Arc::clone(&delta)));
        }
    }

    /// Hydrates a graph again that could not advance. Its subscribers wait: their other answers move on
    /// without it.
    pub(super) fn set_aside(&mut self, graph: GraphId, error: &AdvanceError) {
        let Some(entry) = self.by_graph.get(&graph).and_then(|key| self.entries.get_mut(key)) else { return };
        if !matches!(error, AdvanceError::HydrateInstead) {
            tracing::warn!(%error, "a query is hydrated again because it could not advance");
        }
        entry.state = State::Aside(graph);
        for subscriber in entry.subscribers.values().filter(|subscriber| subscriber.told) {
            subscriber.inbox.hold();
        }
        let job = Job {
            target: Target::Again(graph),
            query: Arc::clone(&entry.query),
            cancelled: Arc::clone(&entry.cancelled),
        };
        self.submit(job);
    }

    /// Drops every graph and tells every mailbox.
    pub(super) fn end_all(&mut self, event: &Event) {
        for (_, entry) in self.entries.drain() {
            entry.cancel();
            for subscriber in entry.subscribers.values() {
                subscriber.inbox.post_end(event.clone());
            }
        }
        self.catalogue = Catalogue::default();
        self.by_graph.clear();
        self.by_token.clear();
        self.answers = Answers::default();
        self.late.clear();
        self.lingering.clear();
    }
}
