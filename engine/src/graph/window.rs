//! A window's next state: the first rows in order, from the rows that stay, the candidates that pass
//! and, if it was full and falls short, rows that follow its old end.
//!
//! Cost grows with the candidates and the rows that are pushed out, not with the window.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::advance::Transitions;
use super::downward::GroupCandidates;
use super::packed::Packed;
use super::state::Members;
use crate::commit::{Key, StoredRow};
use crate::query::Node;

/// A window under change.
pub(super) struct Window<'a> {
    node: &'a Node,
    limit: usize,
    /// The window before, by place.
    before: &'a BTreeMap<Packed, Packed>,
    /// Rows of it that left, by key: their place, and their old image where it is known.
    left: FxHashMap<Packed, (Packed, Option<Arc<StoredRow>>)>,
    /// Rows that come (back), by place.
    coming: BTreeMap<Packed, (Packed, Arc<StoredRow>)>,
}

impl<'a> Window<'a> {
    /// The last place of a window that can take no row after it.
    pub(super) fn last_if_full(members: &Members, limit: usize) -> Option<&Packed> {
        match members {
            Members::Window(window) if window.len() >= limit => window.last_key_value().map(|(place, _)| place),
            _ => None,
        }
    }

    /// Takes the candidates out of and into the window, and pushes out what is too much.
    pub(super) fn new(
        node: &'a Node,
        limit: usize,
        before: &'a BTreeMap<Packed, Packed>,
        candidates: GroupCandidates,
    ) -> Self {
        let place = |row: &StoredRow| Packed::place(row, &node.order);
        let left = candidates.gone.into_iter().map(|(key, row)| (key, (place(&row), Some(row)))).collect();
        let coming = candidates.coming.into_iter().map(|(key, row)| (place(&row), (key, row))).collect();
        let mut window = Window { node, limit, before, left, coming };
        window.evict();
        window
    }

    fn len(&self) -> usize {
        self.before.len() - self.left.len() + self.coming.len()
    }

    /// Pushes out the last rows until the window keeps its limit.
    fn evict(&mut self) {
        let mut too_many = self.len().saturating_sub(self.limit);
        let before = self.before;
        let mut staying = before.iter().rev().peekable();
        while too_many > 0 {
            while staying.next_if(|(_, key)| self.left.contains_key(*key)).is_some() {}
            let last_coming = self.coming.last_key_value().map(|(place, _)| place);
            match staying.peek() {
                Some((place, key)) if last_coming.is_none_or(|last| last < *place) => {
                    self.left.insert((*key).clone(), ((*place).clone(), None));
                    staying.next();
                }
                _ => {
                    self.coming.pop_last();
                }
            }
            too_many -= 1;
        }
    }

    /// If the window was full and falls short: after which place, and how many rows it wants.
    pub(super) fn missing(&self) -> Option<(Key, usize)> {
        let missing = self.limit.saturating_sub(self.len());
        if missing == 0 || self.before.len() < self.limit {
            return None;
        }
        let (last, _) = self.before.last_key_value()?;
        Some((last.unpack_place(&self.node.order), missing))
    }

    /// Takes a row that follows the old end.
    pub(super) fn refill(&mut self, row: Arc<StoredRow>) {
        let key = Packed::columns(&row, &self.node.table.primary_key);
        self.coming.insert(Packed::place(&row, &self.node.order), (key, row));
    }

    /// Notes who came and left; gives the places to free and the rows to place.
    pub(super) fn finish(mut self, transitions: &mut Transitions) -> (Vec<Packed>, Vec<(Packed, Packed)>) {
        let mut remove = Vec::new();
        let mut insert = Vec::new();
        for (place, (key, new)) in self.coming {
            match self.left.remove(&key) {
                None => {
                    insert.push((place, key.clone()));
                    transitions.entered.push((key, new));
                }
                Some((old_place, old)) => {
                    if old_place != place {
                        remove.push(old_place);
                        insert.push((place, key.clone()));
                    }
                    if let Some(old) = old.filter(|old| *old != new) {
                        transitions.stayed.push((key, old, new));
                    }
                }
            }
        }
        for (key, (place, row)) in self.left {
            remove.push(place);
            transitions.left.push((key, row));
        }
        (remove, insert)
    }
}
