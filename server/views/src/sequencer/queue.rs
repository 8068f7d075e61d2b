//! What waits for the sequencer.
//!
//! Commits that wait are one commit: the queue is bounded by distinct rows however far the sequencer falls
//! behind. Messages are bounded by subscriptions.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use engine::commit::Commit;
use engine::query::Query;
use engine::replica::Snapshot;
use parking_lot::{Condvar, Mutex};

use crate::Metrics;
use crate::mailbox::{Inbox, Token};
use crate::workers::Done;

/// A request or result for the sequencer.
pub(crate) enum Message {
    /// Somebody wants a query.
    Subscribe { inbox: Arc<Inbox>, query_id: Arc<str>, token: Token, query: Arc<Query> },
    /// Somebody no longer does.
    Unsubscribe { token: Token },
    /// A hydration ended.
    Done(Done),
    /// A hydration was not begun because nobody waited for it any more.
    Cancelled,
    /// A subscriber of a running graph still waits for the rows.
    Late(Token),
}

/// A commit and a pin of its version; no pin if that failed.
type Pinned = (Arc<Commit>, Option<Arc<Snapshot>>);

/// What one round handles.
pub(super) struct Round {
    pub(super) commit: Option<Pinned>,
    pub(super) messages: VecDeque<Message>,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Queue {
    waiting: Mutex<Waiting>,
    filled: Condvar,
    metrics: Mutex<Metrics>,
}

#[derive(Default)]
struct Waiting {
    commit: Option<Pinned>,
    messages: VecDeque<Message>,
    shut_down: bool,
}

impl Queue {
    pub(crate) fn push(&self, message: Message) {
        self.waiting.lock().messages.push_back(message);
        self.filled.notify_one();
    }

    pub(crate) fn push_commit(&self, commit: Arc<Commit>, snapshot: Option<Arc<Snapshot>>) {
        let mut waiting = self.waiting.lock();
        let commit = match waiting.commit.take() {
            Some((earlier, _)) => {
                let mut composed = Arc::unwrap_or_clone(earlier);
                composed.compose(&commit);
                Arc::new(composed)
            }
            None => commit,
        };
        waiting.commit = Some((commit, snapshot));
        drop(waiting);
        self.filled.notify_one();
    }

    pub(crate) fn shut_down(&self) {
        self.waiting.lock().shut_down = true;
        self.filled.notify_one();
    }

    /// Waits for something to do, at most for the given time. `None` when it is time to end.
    pub(super) fn take(&self, timeout: Option<Duration>) -> Option<Round> {
        let mut waiting = self.waiting.lock();
        if !waiting.shut_down && waiting.commit.is_none() && waiting.messages.is_empty() {
            match timeout {
                Some(timeout) => {
                    self.filled.wait_for(&mut waiting, timeout);
                }
                None => self.filled.wait(&mut waiting),
            }
        }
        if waiting.shut_down {
            return None;
        }
        if waiting.commit.is_some() {
            self.metrics.lock().commits += 1;
        }
        Some(Round { commit: waiting.commit.take(), messages: std::mem::take(&mut waiting.messages) })
    }

    pub(super) fn set_metrics(&self, graphs: usize, subscriptions: usize, hydrations: usize) {
        let mut metrics = self.metrics.lock();
        (metrics.graphs, metrics.subscriptions, metrics.hydrations) = (graphs, subscriptions, hydrations);
    }

    pub(crate) fn metrics(&self) -> Metrics {
        *self.metrics.lock()
    }
}
