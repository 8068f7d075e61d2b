//! From the rows of a parent node to the groups of its child, and from candidates to members.

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use super::AdvanceError;
use super::advance::{Advance, READ_CHUNK, Transitions};
use super::edit::Edit;
use super::filter::{Truth, simple_truth};
use super::packed::Packed;
use super::plan::Keeps;
use super::read::{Apply, Lookup};
use super::state::{Group, Members, NodeState};
use super::window::Window;
use crate::commit::{Key, StoredRow};
use crate::query::{Edge, Node, NodeId, WITNESS_CAP};

/// A row that may come, leave or move.
struct Candidate {
    key: Packed,
    /// Its group and image as a member before the commit.
    old: Option<(Packed, Arc<StoredRow>)>,
    /// Its group and image now, if that group goes on and the row may be in it.
    new: Option<(Packed, Arc<StoredRow>)>,
    /// What the row alone tells of the filter now.
    truth: Truth,
}

/// The candidates of one group that is limited.
#[derive(Default)]
pub(super) struct GroupCandidates {
    /// Members that are candidates, with their old image.
    pub(super) gone: Vec<(Packed, Arc<StoredRow>)>,
    /// Rows that pass now.
    pub(super) coming: Vec<(Packed, Arc<StoredRow>)>,
}

impl Advance<'_> {
    /// Brings one synced node to the new version: its groups, then their members.
    pub(super) fn descend(&mut self, id: NodeId) -> Result<(), AdvanceError> {
        let (opened, closed) = self.groups(id);
        let mut transitions = Transitions::default();
        for group in &closed {
            self.close(id, group, &mut transitions);
        }
        self.open(id, opened, &mut transitions)?;
        let candidates = self.candidates(id, &closed, &mut transitions);
        let candidates = self.decide(id, candidates)?;
        match self.plan.nodes[id].keeps {
            Keeps::All => self.keep_all(id, candidates, &mut transitions),
            keeps => {
                let mut groups: FxHashMap<Packed, GroupCandidates> = FxHashMap::default();
                for Candidate { key, old, new, .. } in candidates {
                    if let Some((group, row)) = old {
                        groups.entry(group).or_default().gone.push((key.clone(), row));
                    }
                    if let Some((group, row)) = new {
                        groups.entry(group).or_default().coming.push((key, row));
                    }
                }
                match keeps {
                    Keeps::First(limit) => {
                        for (group, candidates) in groups {
                            self.keep_first(id, limit, group, candidates, &mut transitions)?;
                        }
                    }
                    _ => self.keep_witnesses(id, groups, &mut transitions)?,
                }
            }
        }
        self.complete_images(id, &mut transitions)?;
        self.transitions[id] = transitions;
        self.check_reads()
    }

    /// The groups that the parent's rows open (with their parents) and close. Counts of the others are edited.
    fn groups(&mut self, id: NodeId) -> (Vec<(Packed, u32)>, FxHashSet<Packed>) {
        let (mut opened, mut closed) = (Vec::new(), FxHashSet::default());
        let Some(edge) = &self.node(id).edge else { return (opened, closed) };
        for (group, change) in self.parent_changes(edge) {
            let before = self.nodes[id].groups.get(&group).map_or(0, |group| group.parents);
            match (before, i64::from(before) + change) {
                (_, after) if after == i64::from(before) => {}
                (0, after) => opened.push((group, u32::try_from(after).unwrap_or(0))),
                (_, after) if after <= 0 => {
                    debug_assert_eq!(after, 0, "a group has as many parents as left it");
                    self.edits.push(Edit::Close { node: id, group: group.clone() });
                    closed.insert(group);
                }
                _ => self.edits.push(Edit::Parents { node: id, group, change }),
            }
        }
        (opened, closed)
    }

    /// How many parent rows each group gained or lost.
    fn parent_changes(&self, edge: &Edge) -> FxHashMap<Packed, i64> {
        let transitions = &self.transitions[edge.parent];
        let columns = &edge.parent_columns;
        let mut changes: FxHashMap<Packed, i64> = FxHashMap::default();
        for (_, row) in &transitions.entered {
            if let Some(group) = Packed::joining(row, columns) {
                *changes.entry(group).or_default() += 1;
            }
        }
        for (key, row) in &transitions.left {
            let group = match row {
                Some(row) => Packed::joining(row, columns),
                None => from_key(self.node(edge.parent), key, columns),
            };
            if let Some(group) = group {
                *changes.entry(group).or_default() -= 1;
            }
        }
        for (_, old, new) in &transitions.stayed {
            if columns.iter().all(|&column| old.values[column] == new.values[column]) {
                continue;
            }
            if let Some(group) = Packed::joining(old, columns) {
                *changes.entry(group).or_default() -= 1;
            }
            if let Some(group) = Packed::joining(new, columns) {
                *changes.entry(group).or_default() += 1;
            }
        }
        changes
    }

    /// All rows of a group leave.
    fn close(&self, id: NodeId, group: &Packed, transitions: &mut Transitions) {
        let Some(group) = self.nodes[id].groups.get(group) else { return };
        let changed = self.changed(id);
        for key in group.members.keys() {
            let old = changed.get(&key).and_then(|change| change.old.map(Arc::clone));
            transitions.left.push((key, old));
        }
    }

    /// Reads the groups that became active.
    fn open(
        &mut self,
        id: NodeId,
        opened: Vec<(Packed, u32)>,
        transitions: &mut Transitions,
    ) -> Result<(), AdvanceError> {
        let Some(edge) = &self.node(id).edge else { return Ok(()) };
        if opened.is_empty() {
            return Ok(());
        }
        let node = self.node(id);
        let keeps = self.plan.nodes[id].keeps;
        let limit = match keeps {
            Keeps::All => None,
            Keeps::First(limit) => Some(limit),
            Keeps::Witnesses => Some(WITNESS_CAP),
        };
        let (groups, parents): (Vec<Packed>, Vec<u32>) = opened.into_iter().unzip();
        let mut contents: Vec<Group> =
            parents.into_iter().map(|parents| Group { parents, members: Members::empty(keeps) }).collect();
        let keys: Vec<Key> = groups.iter().filter(|_| limit != Some(0)).map(Packed::unpack).collect();
        self.expect_reads(keys.len())?;
        for (chunk, keys) in keys.chunks(READ_CHUNK).enumerate() {
            let ordered = matches!(keeps, Keeps::First(_));
            let lookup = Lookup { ordered, limit, ..Lookup::new(self.query, id, &edge.child_columns, Apply::Complete) };
            let mut rows = keys.len();
            self.read.lookup(&lookup, keys, &mut |index, row| {
                rows += 1;
                let key = Packed::columns(&row, &node.table.primary_key);
                contents[chunk * READ_CHUNK + index].members.insert(node, key.clone(), &row);
                transitions.entered.push((key, row));
            })?;
            self.rows_read += rows;
            self.check_reads()?;
        }
        for (group, content) in groups.into_iter().zip(contents) {
            self.edits.push(Edit::Open { node: id, group, content });
        }
        Ok(())
    }

    /// Whether a group was active and goes on.
    fn goes_on(&self, id: NodeId, group: &Packed, closed: &FxHashSet<Packed>) -> bool {
        self.nodes[id].groups.contains_key(group) && !closed.contains(group)
    }

    /// The rows that this commit may bring into groups that go on, or take out of them. Rows that it
    /// leaves where they are are noted as such.
    fn candidates(&self, id: NodeId, closed: &FxHashSet<Packed>, transitions: &mut Transitions) -> Vec<Candidate> {
        let node = self.node(id);
        let state = &self.nodes[id];
        let relevant = &self.plan.nodes[id].relevant;
        let lifted = &self.lifted[id];
        let mut candidates = Vec::new();
        let group_of = |row: &Arc<StoredRow>| {
            let group = NodeState::group_of(node, row).filter(|group| self.goes_on(id, group, closed))?;
            Some((group, Arc::clone(row)))
        };
        for (key, change) in self.changed(id).iter() {
            if let (Some(before), Some(after)) = (change.old, change.new)
                && !lifted.contains_key(key)
                && relevant.iter().all(|&column| before.values[column] == after.values[column])
            {
                let group = NodeState::group_of(node, before).filter(|group| !closed.contains(group));
                let group = group.and_then(|group| state.groups.get(&group));
                if before != after && group.is_some_and(|group| group.members.contains(node, key, before)) {
                    transitions.stayed.push((key.clone(), Arc::clone(before), Arc::clone(after)));
                }
                continue;
            }
            let old = change.old.and_then(group_of);
            let new = change.new.and_then(group_of);
            let is_member = |(group, row): &(Packed, Arc<StoredRow>)| {
                state.groups.get(group).is_some_and(|group| group.members.contains(node, key, row))
            };
            let old = old.filter(is_member);
            self.candidate(id, key, old, new, &mut candidates);
        }
        for (key, row) in lifted {
            if self.changed(id).contains(key) {
                continue;
            }
            let Some((group, row)) = group_of(row) else { continue };
            let is_member = state.groups.get(&group).is_some_and(|group| group.members.contains(node, key, &row));
            let new = Some((group, row));
            self.candidate(id, key, new.clone().filter(|_| is_member), new, &mut candidates);
        }
        self.needed(id, candidates)
    }

    /// Adds a candidate unless it neither was in nor can be.
    fn candidate(
        &self,
        id: NodeId,
        key: &Packed,
        old: Option<(Packed, Arc<StoredRow>)>,
        new: Option<(Packed, Arc<StoredRow>)>,
        candidates: &mut Vec<Candidate>,
    ) {
        let node = self.node(id);
        let truth = new.as_ref().map_or(Truth::False, |(_, row)| simple_truth(self.query, node, row));
        let new = new.filter(|_| truth != Truth::False);
        if old.is_some() || new.is_some() {
            candidates.push(Candidate { key: key.clone(), old, new, truth });
        }
    }

    /// Leaves out what limited groups need not decide: a full group takes new rows only in place of
    /// members that are in question, and a full window only before its last place.
    fn needed(&self, id: NodeId, mut candidates: Vec<Candidate>) -> Vec<Candidate> {
        let node = self.node(id);
        let groups = &self.nodes[id].groups;
        match self.plan.nodes[id].keeps {
            Keeps::All => {}
            Keeps::Witnesses => {
                let in_question: FxHashSet<Packed> =
                    candidates.iter().filter_map(|c| c.old.as_ref()).map(|(group, _)| group.clone()).collect();
                let full = |group: &Packed| groups.get(group).is_some_and(|g| g.members.len() >= WITNESS_CAP);
                candidates.retain_mut(|candidate| {
                    candidate.new.take_if(|(group, _)| {
                        let was_here = candidate.old.as_ref().is_some_and(|(old, _)| old == group);
                        !was_here && full(group) && !in_question.contains(group)
                    });
                    candidate.old.is_some() || candidate.new.is_some()
                });
            }
            Keeps::First(limit) => candidates.retain_mut(|candidate| {
                candidate.new.take_if(|(group, row)| {
                    let last = groups.get(group).and_then(|group| Window::last_if_full(&group.members, limit));
                    limit == 0 || last.is_some_and(|last| Packed::place(row, &node.order) > *last)
                });
                candidate.old.is_some() || candidate.new.is_some()
            }),
        }
        candidates
    }

    /// Decides the candidates: those that are out keep no `new`.
    fn decide(&mut self, id: NodeId, mut candidates: Vec<Candidate>) -> Result<Vec<Candidate>, AdvanceError> {
        let open: Vec<usize> = (0..candidates.len())
            .filter(|&index| candidates[index].new.is_some() && candidates[index].truth == Truth::Open)
            .collect();
        let rows: Vec<Arc<StoredRow>> =
            open.iter().filter_map(|&index| candidates[index].new.as_ref().map(|(_, row)| Arc::clone(row))).collect();
        // What was not touched is as the state has it.
        let (touched, nodes) = (&self.touched, self.nodes);
        let known = |exists: NodeId, key: &Packed| match touched[exists].contains(key) {
            true => None,
            false => nodes[exists].groups.get(key).map(|group| group.members.len() > 0),
        };
        let most = self.reads_left();
        let decided = self.probes.decide(self.query, id, &rows, &known, self.read, most)?;
        let decided = decided.ok_or(AdvanceError::HydrateInstead)?;
        for (index, passes) in open.into_iter().zip(decided) {
            if !passes {
                candidates[index].new = None;
            }
        }
        Ok(candidates)
    }

    fn keep_all(&mut self, id: NodeId, candidates: Vec<Candidate>, transitions: &mut Transitions) {
        #[derive(Default)]
        struct SetEdit {
            remove: Vec<Packed>,
            insert: Vec<Packed>,
        }
        let mut edits: FxHashMap<Packed, SetEdit> = FxHashMap::default();
        for Candidate { key, old, new, .. } in candidates {
            match (old, new) {
                (Some((before, old)), Some((after, new))) if before == after => {
                    if old != new {
                        transitions.stayed.push((key, old, new));
                    }
                }
                (old, new) => {
                    if let Some((group, row)) = old {
                        edits.entry(group).or_default().remove.push(key.clone());
                        transitions.left.push((key.clone(), Some(row)));
                    }
                    if let Some((group, row)) = new {
                        edits.entry(group).or_default().insert.push(key.clone());
                        transitions.entered.push((key, row));
                    }
                }
            }
        }
        for (group, SetEdit { remove, insert }) in edits {
            self.edits.push(Edit::Set { node: id, group, remove, insert });
        }
    }

    fn keep_first(
        &mut self,
        id: NodeId,
        limit: usize,
        group: Packed,
        candidates: GroupCandidates,
        transitions: &mut Transitions,
    ) -> Result<(), AdvanceError> {
        let node = self.node(id);
        let Some(Group { members: Members::Window(before), .. }) = self.nodes[id].groups.get(&group) else {
            return Ok(());
        };
        let mut window = Window::new(node, limit, before, candidates);
        if let Some((after, missing)) = window.missing() {
            let columns = node.edge.as_ref().map_or(&[][..], |edge| &edge.child_columns);
            let lookup = Lookup {
                after: Some(&after),
                ordered: true,
                limit: Some(missing),
                ..Lookup::new(self.query, id, columns, Apply::Complete)
            };
            let mut rows = Vec::new();
            self.read.lookup(&lookup, &[group.unpack()], &mut |_, row| rows.push(row))?;
            self.rows_read += rows.len() + 1;
            rows.into_iter().for_each(|row| window.refill(row));
        }
        let (remove, insert) = window.finish(transitions);
        if !remove.is_empty() || !insert.is_empty() {
            self.edits.push(Edit::Window { node: id, group, remove, insert });
        }
        Ok(())
    }

    fn keep_witnesses(
        &mut self,
        id: NodeId,
        groups: FxHashMap<Packed, GroupCandidates>,
        transitions: &mut Transitions,
    ) -> Result<(), AdvanceError> {
        let node = self.node(id);
        // Group, its witnesses from now on, and the rows that came in.
        type Edited = (Packed, Members, Vec<(Packed, Arc<StoredRow>)>);
        let mut edited: Vec<Edited> = Vec::with_capacity(groups.len());
        let mut short: Vec<usize> = Vec::new();
        for (group, GroupCandidates { gone, coming }) in groups {
            let Some(content) = self.nodes[id].groups.get(&group) else { continue };
            let mut gone: FxHashMap<Packed, Arc<StoredRow>> = gone.into_iter().collect();
            let mut witnesses = Members::empty(Keeps::Witnesses);
            for key in content.members.keys().filter(|key| !gone.contains_key(key)) {
                witnesses.insert_key(key);
            }
            let (returning, mut coming): (Vec<_>, Vec<_>) =
                coming.into_iter().partition(|(key, _)| gone.contains_key(key));
            for (key, new) in returning {
                let Some(old) = gone.remove(&key) else { continue };
                witnesses.insert_key(key.clone());
                if old != new {
                    transitions.stayed.push((key, old, new));
                }
            }
            transitions.left.extend(gone.into_iter().map(|(key, row)| (key, Some(row))));
            if content.members.len() >= WITNESS_CAP && witnesses.len() < WITNESS_CAP {
                // There may be rows that never were candidates: all that can follow are read.
                coming.clear();
                short.push(edited.len());
            }
            edited.push((group, witnesses, coming));
        }
        let columns = node.edge.as_ref().map_or(&[][..], |edge| &edge.child_columns);
        let lookup = Lookup { limit: Some(WITNESS_CAP), ..Lookup::new(self.query, id, columns, Apply::Complete) };
        self.expect_reads(short.len())?;
        for short in short.chunks(READ_CHUNK) {
            let keys: Vec<Key> = short.iter().map(|&index| edited[index].0.unpack()).collect();
            let mut rows = keys.len();
            self.read.lookup(&lookup, &keys, &mut |index, row| {
                rows += 1;
                edited[short[index]].2.push((Packed::columns(&row, &node.table.primary_key), row));
            })?;
            self.rows_read += rows;
            self.check_reads()?;
        }
        for (group, mut witnesses, coming) in edited {
            for (key, row) in coming {
                if witnesses.len() < WITNESS_CAP && !witnesses.keys().any(|other| other == key) {
                    witnesses.insert_key(key.clone());
                    transitions.entered.push((key, row));
                }
            }
            self.edits.push(Edit::Witnesses { node: id, group, members: witnesses });
        }
        Ok(())
    }

    /// Gives the rows that left without an image theirs. Those that the commit does not list are what they
    /// were, and are read if their images are needed.
    fn complete_images(&mut self, id: NodeId, transitions: &mut Transitions) -> Result<(), AdvanceError> {
        let changed = self.changed(id);
        let mut pushed_out = FxHashSet::default();
        let mut missing = Vec::new();
        for (index, (key, image)) in transitions.left.iter_mut().enumerate().filter(|(_, (_, image))| image.is_none()) {
            match changed.get(key) {
                Some(change) => {
                    *image = change.old.map(Arc::clone);
                    pushed_out.insert(key.clone());
                }
                None => missing.push(index),
            }
        }
        // A row that was edited in place and then pushed out of its window did not stay.
        if !pushed_out.is_empty() {
            transitions.stayed.retain(|(key, _, _)| !pushed_out.contains(key));
        }
        if !self.plan.nodes[id].needs_image || missing.is_empty() {
            return Ok(());
        }
        self.expect_reads(missing.len())?;
        let keys: Vec<Key> = missing.iter().map(|&index| transitions.left[index].0.unpack()).collect();
        let lookup = Lookup::new(self.query, id, &self.node(id).table.primary_key, Apply::Nothing);
        self.read.lookup(&lookup, &keys, &mut |index, row| transitions.left[missing[index]].1 = Some(row))?;
        self.rows_read += keys.len();
        Ok(())
    }
}

/// A group's values by the parent row's key, which holds all of them.
fn from_key(parent: &Node, key: &Packed, columns: &[usize]) -> Option<Packed> {
    let key = key.unpack();
    let values = columns.iter().map(|column| {
        let position = parent.table.primary_key.iter().position(|other| other == column)?;
        key.get(position).filter(|value| !value.is_null())
    });
    values.collect::<Option<Vec<_>>>().map(Packed::of)
}
