//! Which nodes a changed row may matter to.
//!
//! Per table there are a few indexes, one for each set of columns that queries look rows up by: columns
//! that a query fixes, and the columns that tie a node's rows to its parent's. An index leads from values to nodes. What
//! has no such columns is listed once per distinct filter. So a changed row costs a look-up per set of
//! columns and a test per distinct filter, and then what it touches; never the number of running graphs.
//! Memory grows with the active groups of all graphs, about 90 bytes each.

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::SmallVec;

use super::GraphId;
use crate::commit::RowChange;
use crate::graph::packed::Packed;
use crate::query::NodeId;

/// How a row may matter to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Matter {
    /// As a member, or as one that may become one.
    Member,
    /// As a row that decides an EXISTS.
    Truth,
}

/// A node of a graph that wants to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Interest {
    pub(super) graph: GraphId,
    pub(super) node: NodeId,
    pub(super) matter: Matter,
}

/// Interests that are searched one by one before a hash set is cheaper.
const FEW: usize = 8;

/// The interests in one value.
#[derive(Debug)]
pub(super) enum Interests {
    Few(SmallVec<[Interest; 1]>),
    Many(Box<FxHashSet<Interest>>),
}

impl Default for Interests {
    fn default() -> Self {
        Interests::Few(SmallVec::new())
    }
}

impl Interests {
    pub(super) fn add(&mut self, interest: Interest) {
        match self {
            Interests::Few(few) if few.contains(&interest) => {}
            Interests::Few(few) if few.len() < FEW => few.push(interest),
            Interests::Few(few) => {
                let mut many: FxHashSet<Interest> = few.drain(..).collect();
                many.insert(interest);
                *self = Interests::Many(Box::new(many));
            }
            Interests::Many(many) => {
                many.insert(interest);
            }
        }
    }

    pub(super) fn remove(&mut self, interest: &Interest) {
        match self {
            Interests::Few(few) => few.retain(|other| other != interest),
            Interests::Many(many) => {
                many.remove(interest);
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        match self {
            Interests::Few(few) => few.is_empty(),
            Interests::Many(many) => many.is_empty(),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Interest> {
        let (few, many) = match self {
            Interests::Few(few) => (Some(few.iter()), None),
            Interests::Many(many) => (None, Some(many.iter())),
        };
        few.into_iter().flatten().chain(many.into_iter().flatten())
    }
}

/// The nodes to tell about rows with certain values in some columns.
#[derive(Debug)]
struct Index {
    columns: Vec<usize>,
    values: FxHashMap<Packed, Interests>,
}

/// What leads from the changes of one table to nodes.
#[derive(Debug, Default)]
pub(super) struct TableRoutes {
    indexes: Vec<Index>,
    /// Interests of nodes that fix nothing, by what stands for their filter.
    pub(super) filters: FxHashMap<Arc<str>, Interests>,
}

impl TableRoutes {
    /// Tells a node about rows with these values.
    pub(super) fn add(&mut self, columns: &[usize], values: Packed, interest: Interest) {
        let index = match self.indexes.iter().position(|index| index.columns == columns) {
            Some(index) => index,
            None => {
                self.indexes.push(Index { columns: columns.to_vec(), values: FxHashMap::default() });
                self.indexes.len() - 1
            }
        };
        self.indexes[index].values.entry(values).or_default().add(interest);
    }

    /// Undoes [`TableRoutes::add`].
    pub(super) fn remove(&mut self, columns: &[usize], values: &Packed, interest: &Interest) {
        let Some(position) = self.indexes.iter().position(|index| index.columns == columns) else { return };
        let index = &mut self.indexes[position];
        if let Some(interests) = index.values.get_mut(values) {
            interests.remove(interest);
            if interests.is_empty() {
                index.values.remove(values);
            }
        }
        if index.values.is_empty() {
            self.indexes.swap_remove(position);
        }
    }

    /// Tells a node about all rows that pass its filter.
    pub(super) fn add_filter(&mut self, filter: &Arc<str>, interest: Interest) {
        self.filters.entry(Arc::clone(filter)).or_default().add(interest);
    }

    /// Undoes [`TableRoutes::add_filter`].
    pub(super) fn remove_filter(&mut self, filter: &Arc<str>, interest: &Interest) {
        if let Some(interests) = self.filters.get_mut(filter) {
            interests.remove(interest);
            if interests.is_empty() {
                self.filters.remove(filter);
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.indexes.is_empty() && self.filters.is_empty()
    }

    /// The interests in a change by the values of its images.
    pub(super) fn by_values<'a>(&'a self, change: &'a RowChange) -> impl Iterator<Item = &'a Interest> {
        self.indexes.iter().flat_map(move |index| {
            let values = |row| Packed::columns(row, &index.columns);
            let old = change.old.as_deref().map(values);
            let new = change.new.as_deref().map(values).filter(|new| old.as_ref() != Some(new));
            let found = |values: Option<Packed>| values.and_then(|values| index.values.get(&values));
            [found(old), found(new)].into_iter().flatten().flat_map(Interests::iter)
        })
    }

    /// Entries, for metrics.
    pub(super) fn len(&self) -> usize {
        self.indexes.iter().map(|index| index.values.len()).sum::<usize>() + self.filters.len()
    }
}
