//! From changed rows of EXISTS nodes to the rows whose membership may depend on them.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::AdvanceError;
use super::advance::{Advance, READ_CHUNK};
use super::filter::{Truth, simple_truth};
use super::packed::Packed;
use super::plan::{Keeps, Plan};
use super::read::{Apply, Lookup};
use super::window::Window;
use crate::commit::{Key, StoredRow};
use crate::query::{NodeId, Query, Role};

/// Pairs of touched key and active group that are looked up one by one, rather than all rows of a touched
/// key: a look-up costs about as much as reading ten rows.
const MAX_PAIRS: usize = 64;

impl Advance<'_> {
    /// Reads the rows of a node whose EXISTS were touched.
    pub(super) fn lift(&mut self, id: NodeId) -> Result<(), AdvanceError> {
        let (query, plan) = (self.query, self.plan);
        let node = self.node(id);
        if node.synced && node.role != Role::Exists && self.nodes[id].groups.is_empty() {
            return Ok(());
        }
        // Rows after the end of a full window are not in, and come in only when it is refilled.
        let last = match (node.role, plan.nodes[id].keeps) {
            (Role::Root, Keeps::First(limit)) => {
                let window = self.nodes[id].groups.get(&Packed::default());
                window.and_then(|group| Window::last_if_full(&group.members, limit))
            }
            _ => None,
        };
        let last = last.map(|last| last.unpack_place(&node.order));
        let mut lifted: FxHashMap<Packed, Arc<StoredRow>> = FxHashMap::default();
        for &exists in &plan.nodes[id].exists {
            let Some(edge) = &query.nodes[exists].edge else { continue };
            if self.touched[exists].is_empty() {
                continue;
            }
            let mut columns = edge.parent_columns.to_vec();
            let mut keys: Vec<Key> = self.touched[exists].iter().map(Packed::unpack).collect();
            // With few groups, only their rows are read: others cannot be in.
            let groups = &self.nodes[id].groups;
            if node.role == Role::Related
                && keys.len().saturating_mul(groups.len()) <= MAX_PAIRS
                && let Some(group) = &node.edge
            {
                columns.extend(&group.child_columns);
                let pairs = keys.iter().flat_map(|key| groups.keys().map(move |group| (key, group.unpack())));
                keys = pairs.map(|(key, group)| key.iter().cloned().chain(group).collect()).collect();
            }
            self.expect_reads(keys.len())?;
            let key_columns = &node.table.primary_key;
            for keys in keys.chunks(READ_CHUNK) {
                let lookup = Lookup {
                    until: last.as_deref(),
                    // One more than may be read shows that it was too many.
                    limit: Some(self.reads_left() + 1),
                    ..Lookup::new(query, id, &columns, Apply::Simple)
                };
                let mut rows = keys.len();
                self.read.lookup(&lookup, keys, &mut |_, row| {
                    rows += 1;
                    lifted.insert(Packed::columns(&row, key_columns), row);
                })?;
                self.rows_read += rows;
                self.check_reads()?;
            }
        }
        self.lifted[id] = lifted;
        Ok(())
    }

    /// Collects the parent keys whose truth an EXISTS node may have changed.
    pub(super) fn touch(&mut self, id: NodeId) {
        let node = self.node(id);
        let (Role::Exists, Some(edge)) = (node.role, &node.edge) else { return };
        let mut touched = std::mem::take(&mut self.touched[id]);
        for (_, change) in self.changed(id).iter() {
            for row in contributions(self.query, self.plan, id, change.old, change.new) {
                touched.extend(Packed::joining(row, &edge.child_columns));
            }
        }
        for row in self.lifted[id].values() {
            touched.extend(Packed::joining(row, &edge.child_columns));
        }
        // A witness that this commit cannot have changed shows that the EXISTS held and holds.
        touched.retain(|key| !self.surely_holds(id, key));
        self.touched[id] = touched;
    }

    /// Whether the state shows that an EXISTS held before the commit and holds after it for this key.
    fn surely_holds(&self, id: NodeId, key: &Packed) -> bool {
        let Some(group) = self.nodes[id].groups.get(key) else { return false };
        if self.plan.nodes[id].exists.iter().any(|&exists| !self.touched[exists].is_empty()) {
            return false;
        }
        let changed = self.changed(id);
        group.members.keys().any(|member| !changed.contains(&member))
    }
}

/// The images of a changed row that may decide an EXISTS differently than before.
pub(super) fn contributions<'c>(
    query: &Query,
    plan: &Plan,
    id: NodeId,
    old: Option<&'c Arc<StoredRow>>,
    new: Option<&'c Arc<StoredRow>>,
) -> SmallVec<[&'c Arc<StoredRow>; 2]> {
    let node = &query.nodes[id];
    let truth = |row: Option<&Arc<StoredRow>>| row.map_or(Truth::False, |row| simple_truth(query, node, row));
    let (before, after) = (truth(old), truth(new));
    if let (Some(old), Some(new)) = (old, new) {
        let same = |columns: &[usize]| columns.iter().all(|&column| old.values[column] == new.values[column]);
        let same = match (before, after) {
            (Truth::False, _) | (_, Truth::False) => false,
            (Truth::True, Truth::True) => node.edge.as_ref().is_none_or(|edge| same(&edge.child_columns)),
            // With the same relevant columns it contributes what it did, unless its own EXISTS were
            // touched: then it is read as one of those.
            _ => same(&plan.nodes[id].relevant),
        };
        if same {
            return SmallVec::new();
        }
    }
    let old = old.filter(|_| before != Truth::False);
    let new = new.filter(|_| after != Truth::False);
    old.into_iter().chain(new).collect()
}
