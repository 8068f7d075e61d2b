//! A first answer as the server makes it, up to the text that clients get.

use std::sync::Arc;

use anyhow::Result;
use engine::graph::{Graph, hydrated_rows};
use engine::hydration::Hydrate;
use engine::query::Query;
use engine::replica::Snapshot;
use planner::Planner;
use rustc_hash::FxHashMap;
use sync::row_text::TableText;

use crate::hand::Sink;
use crate::tracker::TABLES;

/// What queries are answered with.
pub(crate) struct Answering<'a> {
    pub(crate) planner: Planner,
    pub(crate) snapshot: &'a Arc<Snapshot>,
    pub(crate) texts: FxHashMap<Arc<str>, TableText>,
}

/// How the rows of all tables are written.
pub(crate) fn texts(snapshot: &Snapshot) -> FxHashMap<Arc<str>, TableText> {
    let tables = TABLES.iter().filter_map(|(name, ..)| snapshot.schema.table(name));
    tables.map(|table| (Arc::clone(&table.name), TableText::new(table))).collect()
}

impl Answering<'_> {
    /// Answers a query: chooses plans, runs them, and writes each row once.
    pub(crate) fn write(&self, query: &Arc<Query>, sink: &mut Sink) -> Result<()> {
        let hydration = self.planner.hydrate(query, self.snapshot)?;
        for row in hydrated_rows(query, &hydration) {
            sink.row(|out| self.texts[&row.table].write_put(&row.row, out));
        }
        Ok(())
    }

    /// The same, and makes the state that keeps the answer current.
    pub(crate) fn write_with_state(&self, query: &Arc<Query>, sink: &mut Sink) -> Result<Graph> {
        let hydration = self.planner.hydrate(query, self.snapshot)?;
        let graph = Graph::new(Arc::clone(query), &hydration);
        for row in hydrated_rows(query, &hydration) {
            sink.row(|out| self.texts[&row.table].write_put(&row.row, out));
        }
        Ok(graph)
    }
}
