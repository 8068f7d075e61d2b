//! Hydrations: what the workers have read becomes a running graph, brought up to date by the commits since.
//!
//! Grows with the rows of the answer and with what came to it while it was read.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use engine::catalogue::GraphId;
use engine::graph::{AnswerRow, Graph, QueryDelta, ReplicaRead};
use engine::replica::Snapshot;

use super::entry::State;
use super::{MAX_ATTEMPTS, Message, Posts, Sequencer};
use crate::answers::patch;
use crate::event::HydrateFailure;
use crate::recent::Since;
use crate::workers::{Done, Job, Prepared, Target, panic_message};

impl Sequencer {
    pub(super) fn submit(&mut self, job: Job) {
        self.hydrations += 1;
        if self.jobs.send(job).is_err() {
            tracing::error!("the hydration threads are gone");
        }
    }

    /// A reader at the version of the graphs, if that is the replica's newest; else its commit is on its
    /// way here.
    pub(super) fn read(&mut self) -> Option<ReplicaRead> {
        self.pinned()?.reader().ok().map(ReplicaRead::new)
    }

    pub(super) fn pinned(&mut self) -> Option<Arc<Snapshot>> {
        if self.snapshot.is_none() {
            self.snapshot = self.replica.pin().ok().filter(|snapshot| snapshot.version == self.version);
        }
        self.snapshot.clone()
    }

    pub(super) fn done(&mut self, done: Done) {
        if let Target::Late(key, graph, ..) = &done.target {
            return self.late_done(key, *graph, done.result);
        }
        let Some(version) = done.version.clone() else {
            self.hydrations -= 1;
            if let Err(error) = done.result {
                let key = self.key_of_target(&done.target);
                key.into_iter().for_each(|key| self.fail(&key, None, &error));
            }
            return;
        };
        if version > self.version {
            // It read a commit that has not come here yet.
            self.deferred.push(Message::Done(done));
            return;
        }
        let since = self.recent.since(&version, &self.version);
        if matches!(since, Since::Commit(_)) && self.read().is_none() {
            self.deferred.push(Message::Done(done));
            return;
        }
        self.hydrations -= 1;
        self.recent.done(&version);
        let Some(key) = self.key_of_target(&done.target) else { return };
        let Prepared { graph: next, rows } = match done.result {
            Err(error) => return self.fail(&key, None, &error),
            Ok(_) if matches!(since, Since::Lost) => return self.again(&key, done.target, "commits outran it"),
            Ok(prepared) => prepared,
        };
        let Some(next) = next else { return };
        let Target::Again(graph) = done.target else { return self.install(&key, *next, rows, since) };
        let mut read = self.read();
        let since = match (&since, &mut read) {
            (Since::Commit(commit), Some(read)) => Some((commit.as_ref(), read as &mut dyn engine::graph::Read)),
            _ => None,
        };
        let catalogue = &mut self.catalogue;
        match catch_unwind(AssertUnwindSafe(|| catalogue.replace(graph, *next, rows, since))) {
            Ok(Ok(delta)) => self.resume(&key, graph, delta),
            Ok(Err(error)) => self.again(&key, done.target, &error.to_string()),
            Err(panic) => self.fail(&key, None, &internal(panic_message(&*panic))),
        }
    }

    pub(super) fn key_of_target(&self, target: &Target) -> Option<Arc<str>> {
        match target {
            Target::New(key) => {
                let entry = self.entries.get(key)?;
                matches!(entry.state, State::Hydrating).then(|| Arc::clone(key))
            }
            Target::Again(graph) => self.by_graph.get(graph).cloned(),
            Target::Late(key, ..) => Some(Arc::clone(key)),
        }
    }

    /// Hydrates once more, unless that has been tried too often.
    pub(super) fn again(&mut self, key: &Arc<str>, target: Target, why: &str) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.attempts += 1;
        if entry.attempts >= MAX_ATTEMPTS {
            let message = format!("the query could not be brought up to date in {MAX_ATTEMPTS} attempts: {why}");
            return self.fail(key, None, &internal(&message));
        }
        let job = Job { target, query: Arc::clone(&entry.query), cancelled: Arc::clone(&entry.cancelled) };
        self.submit(job);
    }

    /// Takes a new graph into the catalogue, brought up to date, and tells those that wait for it.
    pub(super) fn install(&mut self, key: &Arc<str>, mut graph: Graph, mut rows: Vec<AnswerRow>, since: Since) {
        if let Since::Commit(commit) = &since {
            let Some(mut read) = self.read() else { return self.again(key, Target::New(Arc::clone(key)), "no reader") };
            match catch_unwind(AssertUnwindSafe(|| graph.advance(commit, &mut read))) {
                Ok(Ok(delta)) => patch(&mut rows, &delta),
                Ok(Err(error)) => return self.again(key, Target::New(Arc::clone(key)), &error.to_string()),
                Err(panic) => return self.fail(key, None, &internal(panic_message(&*panic))),
            }
        }
        let id = self.catalogue.insert(graph);
        self.by_graph.insert(id, Arc::clone(key));
        if let Some(entry) = self.entries.get_mut(key) {
            entry.state = State::Live(id);
            entry.attempts = 0;
        }
        let rows: Arc<[AnswerRow]> = rows.into();
        self.answers.insert(id, &rows);
        self.tell(key, &rows);
    }

    /// Lets the subscribers of a graph that was set aside go on.
    pub(super) fn resume(&mut self, key: &Arc<str>, graph: GraphId, delta: QueryDelta) {
        if !delta.changes.is_empty() {
            let mut posts = Posts::default();
            self.post(graph, delta, &mut posts);
            for (inbox, deltas) in posts.into_values() {
                inbox.advance(&deltas);
            }
        }
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.state = State::Live(graph);
        entry.attempts = 0;
        let mut late = Vec::new();
        for (token, subscriber) in &entry.subscribers {
            if subscriber.told {
                subscriber.inbox.release(&self.version);
            } else {
                late.push(*token);
            }
        }
        if let Some(first) = late.first() {
            self.tell_late(*first);
        }
    }
}

fn internal(message: &str) -> HydrateFailure {
    HydrateFailure::Internal(format!("internal error: {message}").into())
}
