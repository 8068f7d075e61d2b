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
use zql_spec::schema::Table;

use super::changes::{Changes, TableChanges};
use super::edit::Edit;
use super::filter::Probes;
use super::packed::Packed;
use super::plan::Plan;
use super::read::Read;
use super::state::NodeState;
use super::{AdvanceError, QueryDelta, RowDelta};
use crate::commit::{Key, StoredRow, Version};
use crate::query::{Node, NodeId, Query};

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
    pub(super) changes: &'a Changes<'a>,
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
        changes: &'a Changes<'a>,
        read: &'a mut dyn Read,
        reads_allowed: usize,
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
            reads_allowed,
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
    pub(super) fn changed(&self, node: NodeId) -> &'a TableChanges<'a> {
        &self.changes.tables[self.plan.nodes[node].table]
    }

    /// How many more rows may be read.
    pub(super) fn reads_left(&self) -> usize {
        self.reads_allowed.saturating_sub(self.rows_read + self.probes.asked)
    }

    /// Gives up before reads that would cost more than hydrating.
    pub(super) fn expect_reads(&self, reads: usize) -> Result<(), AdvanceError> {
        if reads > self.reads_left() { Err(AdvanceError::HydrateInstead) } else { Ok(()) }
    }

    /// Gives up once the reads cost more than hydrating.
    pub(super) fn check_reads(&self) -> Result<(), AdvanceError> {
        if self.reads_left() == 0 { Err(AdvanceError::HydrateInstead) } else { Ok(()) }
    }

    /// Sums the transitions up by row.
    fn delta(&self, version: &Version) -> QueryDelta {
        let mut changes = Vec::new();
        for (table, plan) in self.plan.tables.iter().enumerate() {
            let rows = self.changes.tables[table].len();
            if let [node] = plan.synced[..]
                && (self.transitions[node].left.is_empty() || self.node(node).edge.is_none())
            {
                // No row moves from group to group, so each is named once, with the image to tell.
                let Transitions { entered, left, stayed } = &self.transitions[node];
                let Table { name, primary_key, .. } = plan.definition(self.query);
                let delta = |key: Key, before: u32, row: Option<&Arc<StoredRow>>| {
                    let after = u32::from(row.is_some());
                    RowDelta { table: Arc::clone(name), key, before, after, row: row.map(Arc::clone) }
                };
                changes.reserve(entered.len() + left.len() + stayed.len());
                changes.extend(entered.iter().map(|(_, row)| delta(row.key(primary_key), 0, Some(row))));
                changes.extend(left.iter().map(|(key, _)| delta(key.unpack(), 1, None)));
                changes.extend(stayed.iter().map(|(_, _, row)| delta(row.key(primary_key), 1, Some(row))));
                continue;
            }
            let mut sums: FxHashMap<&Packed, Sum<'_>> = FxHashMap::default();
            for transitions in plan.synced.iter().map(|&node| &self.transitions[node]) {
                sums.reserve(rows.min(transitions.entered.len() + transitions.left.len() + transitions.stayed.len()));
                for (key, row) in &transitions.entered {
                    let sum = sums.entry(key).or_default();
                    sum.entered += 1;
                    sum.image = Some(row);
                }
                for (key, row) in &transitions.left {
                    let sum = sums.entry(key).or_default();
                    sum.left += 1;
                    sum.image = sum.image.or(row.as_ref());
                }
                for (key, _, row) in &transitions.stayed {
                    let sum = sums.entry(key).or_default();
                    sum.stayed += 1;
                    sum.image = Some(row);
                }
            }
            changes.extend(sums.into_iter().filter_map(|(key, sum)| self.row_delta(table, key, sum)));
        }
        QueryDelta { version: Arc::clone(version), changes }
    }

    /// What a row's transitions mean for the answer.
    fn row_delta(&self, table: usize, key: &Packed, sum: Sum<'_>) -> Option<RowDelta> {
        let plan = &self.plan.tables[table];
        let change = self.changes.tables[table].get(key);
        let old = match change {
            Some(change) => change.old,
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
            return None;
        }
        let send = after > 0 && (before == 0 || edited);
        let new = match change {
            Some(change) => change.new,
            None => sum.image,
        };
        let definition = plan.definition(self.query);
        // Sharing the values of a row at hand costs less than making them anew.
        let key = new.or(old).map_or_else(|| key.unpack(), |row| row.key(&definition.primary_key));
        let row = new.filter(|_| send).map(Arc::clone);
        debug_assert!(!send || row.is_some(), "a row that is in exists");
        Some(RowDelta { table: Arc::clone(&definition.name), key, before, after, row })
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
