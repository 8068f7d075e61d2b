//! Answers that were read or hydrated a moment ago.
//!
//! Many groups that ask for one query at once (a feed after a deploy) share one list of rows. An answer is
//! good until a commit touches its graph. All cached answers together are bounded by rows; the oldest go
//! first.

use std::collections::VecDeque;
use std::sync::Arc;

use engine::catalogue::GraphId;
use engine::graph::{AnswerRow, QueryDelta};
use rustc_hash::FxHashMap;

/// Rows of all cached answers: a few dozen MB beyond what the graphs' subscribers hold anyway.
const MAX_ROWS: usize = 100_000;

/// See the module.
#[derive(Default)]
pub(crate) struct Answers {
    by_graph: FxHashMap<GraphId, (u64, Arc<[AnswerRow]>)>,
    /// By age; entries whose number is not the graph's current one are stale and skipped.
    order: VecDeque<(GraphId, u64)>,
    next: u64,
    rows: usize,
}

impl Answers {
    /// Remembers an answer.
    pub(crate) fn insert(&mut self, graph: GraphId, rows: &Arc<[AnswerRow]>) {
        self.remove(graph);
        if rows.len() > MAX_ROWS {
            return;
        }
        self.next += 1;
        self.rows += rows.len();
        self.by_graph.insert(graph, (self.next, Arc::clone(rows)));
        self.order.push_back((graph, self.next));
        while self.rows > MAX_ROWS || self.order.len() > 2 * self.by_graph.len() + 16 {
            let Some((oldest, number)) = self.order.pop_front() else { break };
            match self.by_graph.get(&oldest) {
                Some((current, _)) if *current == number && self.rows > MAX_ROWS => self.remove(oldest),
                Some((current, _)) if *current == number => self.order.push_back((oldest, number)),
                _ => {}
            }
        }
    }

    /// The answer of a graph that no commit has touched since.
    pub(crate) fn get(&self, graph: GraphId) -> Option<Arc<[AnswerRow]>> {
        self.by_graph.get(&graph).map(|(_, rows)| Arc::clone(rows))
    }

    /// Forgets a graph's answer.
    pub(crate) fn remove(&mut self, graph: GraphId) {
        if let Some((_, rows)) = self.by_graph.remove(&graph) {
            self.rows -= rows.len();
        }
    }
}

/// Applies a delta to a list of rows.
pub(crate) fn patch(rows: &mut Vec<AnswerRow>, delta: &QueryDelta) {
    if delta.changes.is_empty() {
        return;
    }
    let mut changes: FxHashMap<_, _> =
        delta.changes.iter().map(|change| ((Arc::clone(&change.table), change.key.clone()), change)).collect();
    rows.retain_mut(|row| {
        let Some(change) = changes.remove(&(Arc::clone(&row.table), row.key.clone())) else { return true };
        row.count = change.after;
        if let Some(content) = &change.row {
            row.row = Arc::clone(content);
        }
        change.after > 0
    });
    let new = changes.into_values().filter(|change| change.after > 0);
    rows.extend(new.filter_map(|change| {
        let row = change.row.clone()?;
        Some(AnswerRow { table: Arc::clone(&change.table), key: change.key.clone(), count: change.after, row })
    }));
}
