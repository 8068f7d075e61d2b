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
    /// Somebody wants to read the replica at the version of the graphs.
    Pin(Arc<Inbox>),
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

    /// So many graphs took a commit.
    pub(super) fn evaluated(&self, graphs: usize) {
        self.metrics.lock().evaluations += graphs as u64;
    }

    pub(crate) fn metrics(&self) -> Metrics {
        *self.metrics.lock()
    }
}

#[cfg(test)]
mod tests {
    use engine::commit::{Key, RowChange, StoredRow, TableDelta, Version};
    use zql_spec::value::Value;

    use super::*;

    fn version(number: usize) -> Version {
        Version::from(format!("1{number:06}"))
    }

    /// Commit `number`: edits row `number % 50`, which commit `number - 50` edited before.
    fn commit(number: usize) -> Commit {
        let image = |number: usize| {
            Arc::new(StoredRow { values: Box::new([Value::Number(number as f64)]), version: version(number) })
        };
        let key = Key::from_iter([Value::Number((number % 50) as f64)]);
        let change = RowChange { old: Some(image(number.saturating_sub(50))), new: Some(image(number)) };
        let mut commit = Commit::empty(version(number - 1), version(number));
        let delta = TableDelta { rows: [(key, change)].into_iter().collect(), outline: None };
        commit.tables.insert(Arc::from("issue"), delta);
        commit
    }

    #[test]
    fn commits_that_wait_are_one_step() {
        let queue = Queue::default();
        for number in 1..=1000 {
            queue.push_commit(Arc::new(commit(number)), None);
        }
        let (taken, _) = queue.take(None).and_then(|round| round.commit).expect("commits wait");
        assert_eq!((&taken.base, &taken.version), (&version(0), &version(1000)));
        let rows = &taken.tables["issue"].rows;
        assert_eq!(rows.len(), 50, "each row once");
        for change in rows.values() {
            let value = |image: &Option<Arc<StoredRow>>| image.as_ref().map(|row| row.values[0].clone());
            let (Some(Value::Number(old)), Some(Value::Number(new))) = (value(&change.old), value(&change.new)) else {
                panic!("{change:?}")
            };
            assert!(old == 0.0 && new > 950.0, "from the first old image to the last new one, not {old} to {new}");
        }
        assert_eq!(queue.metrics().commits, 1);
        assert!(queue.take(Some(Duration::ZERO)).is_some_and(|round| round.commit.is_none()), "nothing is left");
    }
}
