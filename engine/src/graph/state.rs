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
    Few(SmallVec<[Packed; 1]>),
    /// Many rows.
    Many(Box<ByteSet>),
    /// The first rows in order, by their place. Boxed, because most groups are few rows and there are many groups.
    #[allow(clippy::box_collection)]
    Window(Box<BTreeMap<Packed, Packed>>),
}

impl Members {
    pub(super) fn empty(keeps: Keeps) -> Self {
        match keeps {
            Keeps::All | Keeps::Witnesses => Members::Few(SmallVec::new()),
            Keeps::First(_) => Members::Window(Box::default()),
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Members::Few(keys) => keys.len(),
            Members::Many(keys) => keys.len(),
            Members::Window(window) => window.len(),
        }
    }

    pub(super) fn keys(&self) -> Box<dyn Iterator<Item = Packed> + '_> {
        match self {
            Members::Few(keys) => Box::new(keys.iter().cloned()),
            Members::Many(keys) => Box::new(keys.iter().map(Packed::from_bytes)),
            Members::Window(window) => Box::new(window.values().cloned()),
        }
    }

    /// Whether a group that is no window has a row.
    pub(super) fn has(&self, key: &Packed) -> bool {
        match self {
            Members::Few(keys) => keys.contains(key),
            Members::Many(keys) => keys.contains(key.bytes()),
            Members::Window(window) => window.values().any(|other| other == key),
        }
    }

    /// Whether a row is a member, by its key and its image of the time.
    pub(super) fn contains(&self, node: &Node, key: &Packed, row: &StoredRow) -> bool {
        match self {
            Members::Few(keys) => keys.contains(key),
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
            Members::Few(keys) if keys.contains(&key) => {}
            Members::Few(keys) if keys.len() < FEW_MEMBERS => keys.push(key),
            Members::Few(keys) => {
                let mut many = ByteSet::default();
                keys.iter().chain([&key]).for_each(|key| {
                    many.insert(key.bytes());
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
            Members::Few(keys) => keys.retain(|other| other != key),
            Members::Many(keys) => {
                keys.remove(key.bytes());
                if keys.len() <= FEW_MEMBERS / 2 {
                    *self = Members::Few(keys.iter().map(Packed::from_bytes).collect());
                }
            }
            Members::Window(_) => debug_assert!(false, "rows of a window are removed by their place"),
        }
    }

    fn heap_bytes(&self) -> usize {
        match self {
            Members::Few(keys) => {
                let spilled = if keys.spilled() { keys.capacity() * size_of::<Packed>() } else { 0 };
                spilled + keys.iter().map(Packed::heap_bytes).sum::<usize>()
            }
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
