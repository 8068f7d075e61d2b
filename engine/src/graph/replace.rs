//! A graph that becomes what a fresh hydration of its query says, and what that changes.
//!
//! Costs what the two answers have rows. Contents are not kept, so a row that was written since the graph's version is
//! told again even if the query sees nothing new in it.

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use super::packed::Packed;
use super::plan::{Keeps, TablePlan};
use super::read::Read;
use super::state::Members;
use super::{AdvanceError, AnswerRow, DeltaComposer, Graph, QueryDelta, RowDelta, hydrated_rows};
use crate::commit::Commit;
use crate::hydration::Hydration;

/// The rows of one table that an answer had.
enum Before<'a> {
    /// Only the root reads the table and keeps all that pass: its state is the list.
    Root(&'a Members),
    /// By how many nodes each row is held.
    Counts(FxHashMap<Packed, u32>),
}

impl Graph {
    /// Replaces the state by a hydration's and tells the difference. Also for queries whose tables were rewritten.
    pub fn rehydrated(&mut self, hydration: &Hydration) -> QueryDelta {
        let next = Graph::new(Arc::clone(&self.query), hydration);
        let rows = hydrated_rows(&self.query, hydration);
        self.replaced(next, rows)
    }

    /// Becomes `next`, which a hydration of the same query led to that gave these rows, and tells the difference.
    pub fn replaced(&mut self, next: Graph, rows: Vec<AnswerRow>) -> QueryDelta {
        let changes = self.differences(&next, rows);
        self.become_next(next);
        QueryDelta { version: Arc::clone(&self.version), changes }
    }

    fn become_next(&mut self, next: Graph) {
        let took = self.hydration_time;
        *self = next;
        if self.hydration_time.is_zero() {
            self.hydration_time = took;
        }
    }

    /// As [`Graph::replaced`], and then takes the composition of the commits since the hydration. The delta
    /// covers both. On an error the graph is unchanged.
    pub(crate) fn replaced_and_advanced(
        &mut self,
        next: Graph,
        rows: Vec<AnswerRow>,
        since: Option<(&Commit, &mut dyn Read)>,
    ) -> Result<QueryDelta, AdvanceError> {
        let Some((commit, read)) = since else { return Ok(self.replaced(next, rows)) };
        // Told apart before `next` moves on, which may fail: then nothing is replaced.
        let first = QueryDelta { version: Arc::clone(&next.version), changes: self.differences(&next, rows) };
        let mut next = next;
        let advanced = next.advance(commit, read)?;
        self.become_next(next);
        let mut delta = DeltaComposer::new(&first);
        delta.add(&advanced);
        Ok(delta.finish())
    }

    fn root_members(&self, table: &TablePlan) -> Option<&Members> {
        let alone = table.synced[..] == [0] && self.plan.nodes[0].keeps == Keeps::All;
        self.nodes[0].groups.get(&Packed::default()).filter(|_| alone).map(|group| &group.members)
    }

    fn differences(&self, next: &Graph, rows: Vec<AnswerRow>) -> Vec<RowDelta> {
        let before = self.plan.tables.iter().map(|table| match self.root_members(table) {
            Some(members) => Before::Root(members),
            None => Before::Counts(self.counts_of(table)),
        });
        let before: Vec<Before<'_>> = before.collect();
        let mut after: Vec<FxHashSet<Packed>> = vec![FxHashSet::default(); before.len()];
        let mut changes = Vec::with_capacity(rows.len());
        let mut table = 0;
        for AnswerRow { table: name, key, count, row } in rows {
            let is_of = |position: usize| self.plan.tables[position].definition(&self.query).name == name;
            if !is_of(table) {
                let Some(found) = (0..before.len()).find(|&position| is_of(position)) else { continue };
                table = found;
            }
            let packed = Packed::of(&key);
            let was = match &before[table] {
                Before::Root(members) => u32::from(members.has(&packed)),
                Before::Counts(counts) => counts.get(&packed).copied().unwrap_or(0),
            };
            if let Before::Counts(_) = &before[table] {
                after[table].insert(packed);
            }
            // Contents are not kept: a row that was written since the graph's version may have changed.
            let send = was == 0 || row.version > self.version;
            if was != count || send {
                changes.push(RowDelta { table: name, key, before: was, after: count, row: send.then_some(row) });
            }
        }
        for (table, before) in before.into_iter().enumerate() {
            let plan = &self.plan.tables[table];
            let mut gone = |key: Packed, was: u32| {
                let name = Arc::clone(&plan.definition(&self.query).name);
                changes.push(RowDelta { table: name, key: key.unpack(), before: was, after: 0, row: None });
            };
            match before {
                Before::Root(members) => {
                    let now = next.root_members(plan);
                    let left = members.keys().filter(|key| !now.is_some_and(|members| members.has(key)));
                    left.for_each(|key| gone(key, 1));
                }
                Before::Counts(counts) => {
                    let left = counts.into_iter().filter(|(key, _)| !after[table].contains(key));
                    left.for_each(|(key, was)| gone(key, was));
                }
            }
        }
        changes
    }
}
