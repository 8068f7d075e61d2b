//! One step of a graph: what a commit does to its membership.
//!
//! Two passes over the nodes, both on the state as it was, and then the edits: so a step that fails
//! leaves the graph as it was. Upwards ([`super::upward`]), the changed rows of EXISTS nodes name the
//! keys of their parents' rows that may now be decided differently, up to the nodes that hold rows.
//! Downwards ([`super::downward`]), each node decides its candidates once at the new version, and rows
//! that came or left open and close the groups of its children.
//!
//! Cost grows with the changed rows that the query can see, the rows whose EXISTS they touch and the
//! rows that come and leave; never with the rows that are in.

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use super::changes::{Change, Changes};
use super::edit::Edit;
use super::filter::Probes;
use super::packed::Packed;
use super::plan::Plan;
use super::read::Read;
use super::state::NodeState;
use super::{AdvanceError, QueryDelta, RowDelta};
use crate::commit::{StoredRow, Version};
use crate::query::{Node, NodeId, Query};

/// Rows and probes that an advance may always ask the database for. At 5 to 10 µs each that is the
/// time of a hydration of middling size, below which comparing with one is not worth it.
const FREE_READS: usize = 5_000;

/// Past [`FREE_READS`], reads allowed per row of state: hydrating reads each row of state once, at about
/// the cost of one probe, besides what it reads to decide.
const READS_PER_ROW: usize = 1;

/// Keys of one request: between requests it is checked whether reading has become too dear.
pub(super) const READ_CHUNK: usize = 256;

/// The rows that came to, left or changed in a node.
#[derive(Debug, Default)]
pub(super) struct Transitions {
    /// Rows that are in and were not, or that moved to another group.
    pub(super) entered: Vec<(Packed, Arc<StoredRow>)>,
    /// Rows that were in and are not, or that moved, with their old image where it is known.
    pub(super) left: Vec<(Packed, Option<Arc<StoredRow>>)>,
    /// Changed rows that are where they were: key, before, after.
    pub(super) stayed: Vec<(Packed, Arc<StoredRow>, Arc<StoredRow>)>,
}

pub(super) struct Advance<'a> {
    pub(super) query: &'a Query,
    pub(super) plan: &'a Plan,
    pub(super) nodes: &'a [NodeState],
    pub(super) read: &'a mut dyn Read,
    pub(super) changes: &'a Changes,
    /// By EXISTS node: values of the parent's columns for which its truth may have changed.
    pub(super) touched: Vec<FxHashSet<Packed>>,
    /// By node: rows whose EXISTS were touched and that pass its simple filter, at the new version.
    pub(super) lifted: Vec<FxHashMap<Packed, Arc<StoredRow>>>,
    pub(super) probes: Probes,
    pub(super) transitions: Vec<Transitions>,
    pub(super) edits: Vec<Edit>,
    /// Rows read so far.
    pub(super) rows_read: usize,
    reads_allowed: usize,
}

impl<'a> Advance<'a> {
    pub(super) fn new(
        query: &'a Query,
        plan: &'a Plan,
        nodes: &'a [NodeState],
        changes: &'a Changes,
        read: &'a mut dyn Read,
        state_rows: usize,
    ) -> Self {
        let count = query.nodes.len();
        Advance {
            query,
            plan,
            nodes,
            read,
            changes,
            touched: vec![FxHashSet::default(); count],
            lifted: vec![FxHashMap::default(); count],
            probes: Probes::default(),
            transitions: (0..count).map(|_| Transitions::default()).collect(),
            edits: Vec::new(),
            rows_read: 0,
            reads_allowed: FREE_READS + READS_PER_ROW * state_rows,
        }
    }

    /// Computes the delta, the edits of the state, and how many rows it has more or fewer then.
    pub(super) fn run(mut self, version: &Version) -> Result<(QueryDelta, Vec<Edit>, i64), AdvanceError> {
        for node in (0..self.query.nodes.len()).rev() {
            self.lift(node)?;
            self.touch(node);
        }
        for node in 0..self.query.nodes.len() {
            if self.query.nodes[node].synced {
                self.descend(node)?;
            }
        }
        let delta = self.delta(version);
        let rows = self.transitions.iter().map(|node| node.entered.len() as i64 - node.left.len() as i64).sum();
        Ok((delta, self.edits, rows))
    }

    pub(super) fn node(&self, node: NodeId) -> &'a Node {
        &self.query.nodes[node]
    }

    /// The changed rows of a node's table.
    pub(super) fn changed(&self, node: NodeId) -> &'a FxHashMap<Packed, Change> {
        &self.changes.tables[self.plan.nodes[node].table]
    }

    /// How many more rows may be read.
    pub(super) fn reads_left(&self) -> usize {
        self.reads_allowed.saturating_sub(self.rows_read + self.probes.asked)
    }

    /// Gives up once the reads cost more than hydrating.
    pub(super) fn check_reads(&self) -> Result<(), AdvanceError> {
        if self.reads_left() == 0 { Err(AdvanceError::HydrateInstead) } else { Ok(()) }
    }

    /// Sums the transitions up by row.
    fn delta(&self, version: &Version) -> QueryDelta {
        let mut changes = Vec::new();
        for (table, plan) in self.plan.tables.iter().enumerate() {
            let mut rows: FxHashMap<&Packed, Sum<'_>> = FxHashMap::default();
            for transitions in plan.synced.iter().map(|&node| &self.transitions[node]) {
                for (key, row) in &transitions.entered {
                    let sum = rows.entry(key).or_default();
                    sum.entered += 1;
                    sum.image = Some(row);
                }
                for (key, row) in &transitions.left {
                    let sum = rows.entry(key).or_default();
                    sum.left += 1;
                    sum.image = sum.image.or(row.as_ref());
                }
                for (key, _, row) in &transitions.stayed {
                    let sum = rows.entry(key).or_default();
                    sum.stayed += 1;
                    sum.image = Some(row);
                }
            }
            let name = &self.query.nodes[plan.any].table.name;
            for (key, sum) in rows {
                let change = self.changes.tables[table].get(key);
                let old = match change {
                    Some(change) => change.old.as_ref(),
                    None => sum.image,
                };
                let before = match plan.synced[..] {
                    // A row is in at most one group of a node.
                    [_] => sum.left + sum.stayed,
                    _ => old.map_or(0, |old| {
                        let holds = |&&node: &&NodeId| self.nodes[node].holds(&self.query.nodes[node], key, old);
                        plan.synced.iter().filter(holds).count() as u32
                    }),
                };
                let after = (before + sum.entered).saturating_sub(sum.left);
                let edited = change.is_some_and(|change| change.old != change.new);
                if before == after && !(edited && after > 0) {
                    continue;
                }
                let send = after > 0 && (before == 0 || edited);
                let new = match change {
                    Some(change) => change.new.as_ref(),
                    None => sum.image,
                };
                let row = new.filter(|_| send).map(Arc::clone);
                debug_assert!(!send || row.is_some(), "a row that is in exists");
                changes.push(RowDelta { table: Arc::clone(name), key: key.unpack(), before, after, row });
            }
        }
        QueryDelta { version: Arc::clone(version), changes }
    }
}

/// What happened to a row over the nodes of its table.
#[derive(Default)]
struct Sum<'a> {
    entered: u32,
    left: u32,
    stayed: u32,
    /// An image, for rows that the commit does not list: then it is the same before and after.
    image: Option<&'a Arc<StoredRow>>,
}
