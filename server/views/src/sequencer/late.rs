//! Answers for those that subscribe a running query whose answer is large.
//!
//! Reading its rows would hold up every commit. So the sequencer only lists their keys; a hydration thread reads them at
//! the version at which they were listed, and what changed meanwhile is composed and put on top. The rows are those of the
//! graph, witnesses included: what the graph says later of a row holds for whoever was told then.

use std::sync::Arc;

use engine::catalogue::GraphId;
use engine::graph::{AnswerRow, DeltaComposer, QueryDelta};

use super::entry::State;
use super::{MAX_ATTEMPTS, Sequencer};
use crate::answers::patch;
use crate::event::HydrateFailure;
use crate::mailbox::Token;
use crate::workers::{Job, Prepared, Target};

impl Sequencer {
    /// Has the rows of a running graph read, unless they are being read. The graphs' version is pinned.
    pub(super) fn read_late(&mut self, key: &Arc<str>, graph: GraphId) {
        if self.late.contains_key(&graph) {
            return;
        }
        let (Some(entry), Some(running), Some(snapshot)) =
            (self.entries.get(key), self.catalogue.get(graph), &self.snapshot)
        else {
            return;
        };
        let target = Target::Late(Arc::clone(key), graph, Arc::new(running.keys()), Arc::clone(snapshot));
        let job = Job { target, query: Arc::clone(&entry.query), cancelled: Arc::clone(&entry.cancelled) };
        self.late.insert(graph, None);
        self.submit(job);
    }

    /// Remembers what changes while rows are read.
    pub(super) fn changed_late(&mut self, graph: GraphId, delta: &QueryDelta) {
        match self.late.get_mut(&graph) {
            None => {}
            Some(Some(since)) => since.add(delta),
            Some(none) => *none = Some(DeltaComposer::new(delta)),
        }
    }

    /// Tells those that wait for the rows.
    pub(super) fn late_done(&mut self, key: &Arc<str>, graph: GraphId, result: Result<Prepared, HydrateFailure>) {
        self.hydrations -= 1;
        let Some(since) = self.late.remove(&graph) else { return };
        let Some(entry) = self.entries.get_mut(key) else { return };
        if entry.state != State::Live(graph) {
            // It was set aside; whoever waits is told when it is back.
            return;
        }
        let waiting: Vec<Token> =
            entry.subscribers.iter().filter(|(_, subscriber)| !subscriber.told).map(|(token, _)| *token).collect();
        match result {
            Ok(Prepared { mut rows, .. }) => {
                entry.attempts = 0;
                if let Some(since) = since {
                    patch(&mut rows, &since.finish());
                }
                let rows: Arc<[AnswerRow]> = rows.into();
                self.answers.insert(graph, &rows);
                self.tell(key, &rows);
            }
            // The pinned version may have been given up: the next try pins a newer one.
            Err(error) => {
                entry.attempts += 1;
                if entry.attempts < MAX_ATTEMPTS {
                    if let Some(first) = waiting.first() {
                        self.tell_late(*first);
                    }
                    return;
                }
                entry.attempts = 0;
                waiting.into_iter().for_each(|token| self.fail(key, Some(token), &error));
            }
        }
    }
}
