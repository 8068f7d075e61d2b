//! A graph's state: which rows are in.
//!
//! Per synced node the active groups, per group the member rows' keys. A group is the rows of a node
//! with the same child columns; it is active while a parent row has these values. Grows with the rows that
//! are in: about 64 bytes a row, 100 a group.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::packed::Packed;
use super::plan::Keeps;
use crate::byte_set::ByteSet;
use crate::commit::StoredRow;
use crate::query::Node;

/// Members that are searched one by one before a hash set is cheaper.
const FEW_MEMBERS: usize = 12;

/// The active groups of a node, by their child columns' values.
#[derive(Clone, Debug, Default)]
pub(super) struct NodeState {
    pub(super) groups: FxHashMap<Packed, Group>,
}

#[derive(Clone, Debug)]
pub(super) struct Group {
    /// Rows of the parent node that have the group's values; 1 at the root.
    pub(super) parents: u32,
    pub(super) members: Members,
}

/// The keys of a group's rows.
#[derive(Clone, Debug)]
pub(super) enum Members {
    /// Few rows, or witnesses.
    Few(FewKeys),
    /// Many rows.
    Many(Box<ByteSet>),
    /// The first rows in order, by their place. Boxed, because most groups are few rows and there are many groups.
    #[allow(clippy::box_collection)]
    Window(Box<BTreeMap<Packed, Packed>>),
}

/// Bytes of a few keys that take no allocation: what makes the whole 32 bytes long.
const INLINE_BYTES: usize = 23;

/// A few keys one after the other, each behind its length: two short ones take no allocation.
#[derive(Clone, Debug, Default)]
pub(super) struct FewKeys(SmallVec<[u8; INLINE_BYTES]>);

impl FewKeys {
    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &self.0[..];
        std::iter::from_fn(move || {
            let (length, after) = match *rest {
                [] => return None,
                // A length that does not fit a byte follows in four.
                [u8::MAX, a, b, c, d, ..] => (u32::from_le_bytes([a, b, c, d]) as usize, &rest[5..]),
                [length, ..] => (usize::from(length), &rest[1..]),
            };
            let (key, after) = after.split_at(length);
            rest = after;
            Some(key)
        })
    }

    fn contains(&self, key: &[u8]) -> bool {
        self.iter().any(|other| other == key)
    }

    fn push(&mut self, key: &[u8]) {
        match u8::try_from(key.len()) {
            Ok(length) if length < u8::MAX => self.0.push(length),
            _ => {
                self.0.push(u8::MAX);
                let length = u32::try_from(key.len()).expect("a row's key takes less than 4 GB");
                self.0.extend_from_slice(&length.to_le_bytes());
            }
        }
        self.0.extend_from_slice(key);
    }

    fn remove(&mut self, key: &[u8]) {
        if self.contains(key) {
            let mut rest = FewKeys::default();
            self.iter().filter(|other| *other != key).for_each(|key| rest.push(key));
            *self = rest;
        }
    }

    fn heap_bytes(&self) -> usize {
        if self.0.spilled() { self.0.capacity() } else { 0 }
    }
}

impl Members {
    pub(super) fn empty(keeps: Keeps) -> Self {
        match keeps {
            Keeps::All | Keeps::Witnesses => Members::Few(FewKeys::default()),
            Keeps::First(_) => Members::Window(Box::default()),
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Members::Few(keys) => keys.iter().count(),
            Members::Many(keys) => keys.len(),
            Members::Window(window) => window.len(),
        }
    }

    pub(super) fn keys(&self) -> Box<dyn Iterator<Item = Packed> + '_> {
        match self {
            Members::Few(keys) => Box::new(keys.iter().map(Packed::from_bytes)),
            Members::Many(keys) => Box::new(keys.iter().map(Packed::from_bytes)),
            Members::Window(window) => Box::new(window.values().cloned()),
        }
    }

    /// Whether a row is a member, by its key and its image of the time.
    pub(super) fn contains(&self, node: &Node, key: &Packed, row: &StoredRow) -> bool {
        match self {
            Members::Few(keys) => keys.contains(key.bytes()),
            Members::Many(keys) => keys.contains(key.bytes()),
            Members::Window(window) => window.contains_key(&Packed::place(row, &node.order)),
        }
    }

    /// Adds a row.
    pub(super) fn insert(&mut self, node: &Node, key: Packed, row: &StoredRow) {
        match self {
            Members::Window(window) => {
                window.insert(Packed::place(row, &node.order), key);
            }
            _ => self.insert_key(key),
        }
    }

    /// Adds a row of a group that is no window.
    pub(super) fn insert_key(&mut self, key: Packed) {
        match self {
            Members::Few(keys) if keys.contains(key.bytes()) => {}
            Members::Few(keys) if keys.iter().count() < FEW_MEMBERS => keys.push(key.bytes()),
            Members::Few(keys) => {
                let mut many = ByteSet::default();
                keys.iter().chain([key.bytes()]).for_each(|key| {
                    many.insert(key);
                });
                *self = Members::Many(Box::new(many));
            }
            Members::Many(keys) => {
                keys.insert(key.bytes());
            }
            Members::Window(_) => debug_assert!(false, "rows of a window are added with their place"),
        }
    }

    /// Removes a row of a group that is no window.
    pub(super) fn remove_key(&mut self, key: &Packed) {
        match self {
            Members::Few(keys) => keys.remove(key.bytes()),
            Members::Many(keys) => {
                keys.remove(key.bytes());
                if keys.len() <= FEW_MEMBERS / 2 {
                    let mut few = FewKeys::default();
                    keys.iter().for_each(|key| few.push(key));
                    *self = Members::Few(few);
                }
            }
            Members::Window(_) => debug_assert!(false, "rows of a window are removed by their place"),
        }
    }

    fn heap_bytes(&self) -> usize {
        match self {
            Members::Few(keys) => keys.heap_bytes(),
            Members::Many(keys) => size_of::<ByteSet>() + keys.heap_bytes(),
            Members::Window(window) => {
                window.iter().map(|(place, key)| 2 * size_of::<Packed>() + place.heap_bytes() + key.heap_bytes()).sum()
            }
        }
    }
}

impl NodeState {
    /// The group that a row belongs to at a node, unless a null keeps it out of every group.
    pub(super) fn group_of(node: &Node, row: &StoredRow) -> Option<Packed> {
        match &node.edge {
            None => Some(Packed::default()),
            Some(edge) => Packed::joining(row, &edge.child_columns),
        }
    }

    /// Whether the node holds a row, by its key and its image of the time.
    pub(super) fn holds(&self, node: &Node, key: &Packed, row: &StoredRow) -> bool {
        NodeState::group_of(node, row)
            .and_then(|group| self.groups.get(&group))
            .is_some_and(|group| group.members.contains(node, key, row))
    }

    pub(super) fn rows(&self) -> usize {
        self.groups.values().map(|group| group.members.len()).sum()
    }

    pub(super) fn bytes(&self) -> usize {
        let slots = self.groups.capacity() * 8 / 7 * (size_of::<(Packed, Group)>() + 1);
        let heap = self.groups.iter().map(|(key, group)| key.heap_bytes() + group.members.heap_bytes());
        slots + heap.sum::<usize>()
    }
}
