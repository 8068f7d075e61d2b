//! A graph that becomes what a fresh hydration of its query says, and what that changes.
//!
//! Costs what the two answers have rows. Contents are not kept, so a row that was written since the graph's version is
//! told again even if the query sees nothing new in it.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::packed::Packed;
use super::plan::{Keeps, TablePlan};
use super::read::Read;
use super::state::Members;
use super::{AdvanceError, AnswerRow, DeltaComposer, Graph, QueryDelta, RowDelta, hydrated_rows};
use crate::byte_set::{ByteSet, Meeting};
use crate::commit::{Commit, Key};
use crate::hydration::Hydration;

/// The rows of one table that an answer had, and which of them it still has.
enum Before<'a> {
    /// Only the root reads the table and keeps all that pass: its state is the list.
    Root(Meeting<'a>),
    /// By how many nodes each row is held, and whether it was met.
    Counts(FxHashMap<Packed, (u32, bool)>),
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
        let changes = self.differences(rows);
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
        let first = QueryDelta { version: Arc::clone(&next.version), changes: self.differences(rows) };
        let mut next = next;
        let advanced = next.advance(commit, read)?;
        self.become_next(next);
        let mut delta = DeltaComposer::new(&first);
        delta.add(&advanced);
        Ok(delta.finish())
    }

    /// The state of the root if that is the list of a table's rows.
    fn root_rows(&self, table: &TablePlan) -> Option<&ByteSet> {
        let alone = table.synced[..] == [0] && self.plan.nodes[0].keeps == Keeps::All;
        let root = self.nodes[0].groups.get(&Packed::default()).filter(|_| alone)?;
        match &root.members {
            Members::Many(rows) => Some(rows),
            Members::Few(_) | Members::Window(_) => None,
        }
    }

    fn differences(&self, rows: Vec<AnswerRow>) -> Vec<RowDelta> {
        let before = self.plan.tables.iter().map(|table| match self.root_rows(table) {
            Some(rows) => Before::Root(rows.meeting()),
            None => {
                let counts = self.counts_of(table).into_iter();
                Before::Counts(counts.map(|(key, count)| (key, (count, false))).collect())
            }
        });
        let mut before: Vec<Before<'_>> = before.collect();
        let mut changes = Vec::with_capacity(rows.len());
        let mut table = 0;
        for AnswerRow { table: name, key, count, row } in rows {
            let is_of = |position: usize| self.plan.tables[position].definition(&self.query).name == name;
            if !is_of(table) {
                let Some(found) = (0..before.len()).find(|&position| is_of(position)) else { continue };
                table = found;
            }
            let packed = Packed::of(&key);
            let was = match &mut before[table] {
                Before::Root(rows) => u32::from(rows.meets(packed.bytes())),
                Before::Counts(counts) => counts.get_mut(&packed).map_or(0, |(count, met)| {
                    *met = true;
                    *count
                }),
            };
            // Contents are not kept: a row that was written since the graph's version may have changed.
            let send = was == 0 || row.version > self.version;
            if was != count || send {
                changes.push(RowDelta { table: name, key, before: was, after: count, row: send.then_some(row) });
            }
        }
        for (before, plan) in before.into_iter().zip(&self.plan.tables) {
            let name = &plan.definition(&self.query).name;
            let gone = |key: Key, was| RowDelta { table: Arc::clone(name), key, before: was, after: 0, row: None };
            match before {
                Before::Root(rows) => {
                    changes.extend(rows.others().map(|key| gone(Packed::from_bytes(key).unpack(), 1)))
                }
                Before::Counts(counts) => {
                    let left = counts.into_iter().filter(|(_, (_, met))| !met);
                    changes.extend(left.map(|(key, (was, _))| gone(key.unpack(), was)));
                }
            }
        }
        changes
    }
}
