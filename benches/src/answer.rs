//! A first answer as the server makes it, up to the text that clients get.

use std::sync::Arc;

use anyhow::Result;
use engine::commit::{Key, StoredRow};
use engine::graph::{Graph, GraphBuilder};
use engine::hydration::{FoundRow, Hydrate};
use engine::query::{NodeId, Query};
use engine::replica::{ReplicaError, Snapshot};
use planner::Planner;
use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::SmallVec;
use sync::row_text::TableText;

use crate::hand::Sink;

/// What queries are answered with.
pub(crate) struct Answering<'a> {
    pub(crate) planner: Planner,
    pub(crate) snapshot: &'a Arc<Snapshot>,
    pub(crate) texts: FxHashMap<Arc<str>, TableText>,
}

/// How the rows of all tables are written.
pub(crate) fn texts(snapshot: &Snapshot) -> FxHashMap<Arc<str>, TableText> {
    snapshot.schema.tables.values().map(|table| (Arc::clone(&table.name), TableText::new(table))).collect()
}

/// Tells each row once, though several nodes may give it.
struct Once<'q> {
    query: &'q Query,
    /// By node: whether another synced node reads the same table.
    shared: SmallVec<[bool; 8]>,
    told: FxHashSet<(usize, Key)>,
}

impl<'q> Once<'q> {
    fn new(query: &'q Query) -> Self {
        let readers = |table: &str| query.nodes.iter().filter(|node| node.synced && *node.table.name == *table).count();
        let shared = query.nodes.iter().map(|node| readers(&node.table.name) > 1).collect();
        Once { query, shared, told: FxHashSet::default() }
    }

    fn first(&mut self, node: NodeId, row: &StoredRow) -> bool {
        let table = &self.query.nodes[node].table;
        !self.shared[node] || self.told.insert((Arc::as_ptr(table) as usize, row.key(&table.primary_key)))
    }

    /// The row, if it is the first time.
    fn take<'r>(&mut self, node: NodeId, row: FoundRow<'r>) -> std::result::Result<Option<FoundRow<'r>>, ReplicaError> {
        if !self.shared[node] {
            return Ok(Some(row));
        }
        let row = row.decode()?;
        Ok(self.first(node, &row).then_some(FoundRow::Decoded(row)))
    }
}

impl Answering<'_> {
    /// How rows of a node are written. They come node by node, so the last one is asked for again.
    fn text<'t>(&'t self, query: &Query, node: NodeId, last: &mut Option<(NodeId, &'t TableText)>) -> &'t TableText {
        match last {
            Some((of, text)) if *of == node => text,
            _ => last.insert((node, &self.texts[&query.nodes[node].table.name])).1,
        }
    }

    /// Answers a query: chooses plans, runs them, and writes each row once.
    pub(crate) fn write(&self, query: &Arc<Query>, sink: &mut Sink) -> Result<()> {
        let mut once = Once::new(query);
        let mut text = None;
        Ok(self.planner.stream(query, self.snapshot, &mut |node, row| {
            let Some(row) = once.take(node, row)? else { return Ok(()) };
            let mut written = Ok(());
            sink.row(|out| written = self.text(query, node, &mut text).write_found(&row, out));
            written
        })?)
    }

    /// The same, and makes the state that keeps the answer current.
    pub(crate) fn write_with_state(&self, query: &Arc<Query>, sink: &mut Sink) -> Result<Graph> {
        let mut once = Once::new(query);
        let mut graph = GraphBuilder::new(Arc::clone(query));
        let mut text = None;
        self.planner.stream(query, self.snapshot, &mut |node, row| {
            let row = row.decode()?;
            if graph.row(node, &row) && once.first(node, &row) {
                sink.row(|out| self.text(query, node, &mut text).write_put(&row, out));
            }
            Ok(())
        })?;
        Ok(graph.finish(Arc::clone(&self.snapshot.version)))
    }
}
