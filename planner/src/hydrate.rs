//! Answers a query node by node.
//!
//! Nodes are in preorder, so a node's parent has its rows when the node's turn comes; their distinct keys
//! are what the node is read by. Nodes that are not synced are only conditions of others and stay empty.

use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::UInt32Type;
use datafusion::execution::TaskContext;
use datafusion::prelude::SessionConfig;
use engine::commit::{Key, StoredRow};
use engine::hydration::{Hydrate, HydrateError, Hydration};
use engine::query::{Edge, Query};
use engine::replica::Snapshot;
use futures::StreamExt;
use futures::executor::block_on;
use rustc_hash::FxHashSet;

use crate::choose::{Chooser, Dice, STREAM_ROWS};
use crate::cost::Model;
use crate::error::Result;
use crate::physical;
use crate::plan::Rel;
use crate::run::Run;
use crate::statement::{BATCH_ROWS, key_batch};
use crate::stats::StatsCache;

/// Plans and runs hydrations. One for a process; it holds statistics and DataFusion's settings.
pub struct Planner {
    stats: StatsCache,
    context: Arc<TaskContext>,
    dice: Option<Dice>,
}

/// A node's plan, how many keys it was made for, and what it gave.
pub(crate) struct NodeAnswer {
    pub(crate) plan: Rel,
    pub(crate) keys: Option<usize>,
    pub(crate) rows: Vec<Arc<StoredRow>>,
}

impl Default for Planner {
    fn default() -> Self {
        Planner::new()
    }
}

impl Planner {
    /// A planner without statistics; they are read as queries need them.
    pub fn new() -> Self {
        let config = SessionConfig::new().with_target_partitions(1).with_batch_size(BATCH_ROWS);
        let context = Arc::new(TaskContext::default().with_session_config(config));
        Planner { stats: StatsCache::default(), context, dice: None }
    }

    /// A planner that picks any possible plan instead of the cheapest, for tests: all must give one answer.
    pub fn careless(seed: u64) -> Self {
        Planner { dice: Some(Dice(seed)), ..Planner::new() }
    }

    /// Answers a query: by node, unless the node is not synced or has no parent rows.
    pub(crate) fn answer(&self, query: &Arc<Query>, snapshot: &Arc<Snapshot>) -> Result<Vec<Option<NodeAnswer>>> {
        let run = Run::new(query, snapshot)?;
        let model = self.model(&run)?;
        let mut chooser = Chooser::new(&model, self.dice);
        let mut answers: Vec<Option<NodeAnswer>> = Vec::with_capacity(query.nodes.len());
        for (id, node) in query.nodes.iter().enumerate() {
            if !node.synced {
                answers.push(None);
                continue;
            }
            let Some(edge) = &node.edge else {
                let plan = chooser.rows(id, None);
                let rows = self.run(&run, &plan, None)?;
                answers.push(Some(NodeAnswer { plan, keys: None, rows }));
                continue;
            };
            let keys = match &answers[edge.parent] {
                Some(parent) => distinct_keys(&parent.rows, edge),
                None => Vec::new(),
            };
            if keys.is_empty() {
                answers.push(None);
                continue;
            }
            let plan = chooser.rows(id, Some(keys.len()));
            let rows = match &plan.op {
                crate::plan::Op::Empty => Vec::new(),
                _ => {
                    let batch = key_batch(&node.table, &edge.child_columns, keys.iter())?;
                    self.run(&run, &plan, Some(&batch))?
                }
            };
            answers.push(Some(NodeAnswer { plan, keys: Some(keys.len()), rows }));
        }
        Ok(answers)
    }

    /// Chooses the plans of all nodes and builds their operators without running them, as if parents had as many
    /// keys as is expected. Gives how many nodes there are plans for.
    pub fn plan(&self, query: &Arc<Query>, snapshot: &Arc<Snapshot>) -> std::result::Result<usize, HydrateError> {
        Ok(self.plan_all(query, snapshot)?)
    }

    fn plan_all(&self, query: &Arc<Query>, snapshot: &Arc<Snapshot>) -> Result<usize> {
        let run = Run::new(query, snapshot)?;
        let model = self.model(&run)?;
        let mut chooser = Chooser::new(&model, self.dice);
        let mut expected: Vec<f64> = Vec::with_capacity(query.nodes.len());
        for (id, node) in query.nodes.iter().enumerate() {
            let keys = node.edge.as_ref().map(|edge| expected[edge.parent].ceil().max(1.0) as usize);
            if !node.synced {
                expected.push(0.0);
                continue;
            }
            let plan = chooser.rows(id, keys);
            let batch = match &node.edge {
                Some(edge) => Some(key_batch(&node.table, &edge.child_columns, std::iter::empty())?),
                None => None,
            };
            physical::build(&run, &plan, batch.as_ref())?;
            expected.push(plan.rows);
        }
        Ok(query.nodes.iter().filter(|node| node.synced).count())
    }

    /// The estimates of a query.
    fn model<'q>(&self, run: &'q Run) -> Result<Model<'q>> {
        let reader = run.reader.lock();
        let stats = run.query.nodes.iter().map(|node| self.stats.get(&reader, &node.table));
        let stats = stats.collect::<rusqlite::Result<Vec<_>>>()?;
        Ok(Model::new(&run.query, stats, if self.dice.is_some() { 0.0 } else { STREAM_ROWS }))
    }

    /// Runs the plan of a node.
    fn run(&self, run: &Arc<Run>, plan: &Rel, keys: Option<&arrow::array::RecordBatch>) -> Result<Vec<Arc<StoredRow>>> {
        run.arena.lock().clear();
        let operators = physical::build(run, plan, keys)?;
        let mut stream = operators.execute(0, Arc::clone(&self.context))?;
        let mut rows = Vec::new();
        while let Some(batch) = block_on(stream.next()) {
            let batch = batch?;
            let positions = batch.column(plan.position(crate::plan::Col::Row).unwrap_or(0));
            let positions = positions.as_primitive::<UInt32Type>();
            let arena = run.arena.lock();
            rows.reserve(positions.len());
            for &position in positions.values() {
                rows.push(arena.get(position)?);
            }
        }
        Ok(rows)
    }
}

/// The distinct keys of the parent's rows. A null in a key belongs to no row.
fn distinct_keys(rows: &[Arc<StoredRow>], edge: &Edge) -> Vec<Key> {
    let mut seen: FxHashSet<Key> = FxHashSet::default();
    let mut keys = Vec::new();
    for row in rows {
        if edge.parent_columns.iter().any(|&column| row.values[column].is_null()) {
            continue;
        }
        let key = row.key(&edge.parent_columns);
        if !seen.contains(&key) {
            seen.insert(key.clone());
            keys.push(key);
        }
    }
    keys
}

impl Hydrate<Snapshot> for Planner {
    fn hydrate(&self, query: &Arc<Query>, snapshot: &Arc<Snapshot>) -> std::result::Result<Hydration, HydrateError> {
        let answers = self.answer(query, snapshot)?;
        let nodes = answers.into_iter().map(|answer| answer.map(|answer| answer.rows).unwrap_or_default()).collect();
        Ok(Hydration { version: Arc::clone(&snapshot.version), nodes })
    }
}
