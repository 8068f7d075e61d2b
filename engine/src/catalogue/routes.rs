//! Which nodes a changed row may matter to.
//!
//! Per table there are a few indexes, one for each set of columns that queries look rows up by: columns
//! that a query fixes, columns that tie a node's rows to its parent's, or none. An index leads from
//! values to nodes. Where many nodes share the values they are told apart by their filters, each tested
//! once, and EXISTS nodes by what they decide: the rows above them are read, once for all graphs, and
//! looked up in their place ([`Lift`]). So a changed row costs a look-up per set of columns, a test per
//! distinct filter, and then what it touches; never the number of running graphs.
//! Memory grows with the active groups of all graphs, about 90 bytes each.

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::SmallVec;

use super::GraphId;
use crate::commit::{RowChange, StoredRow};
use crate::graph::packed::Packed;

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
    pub(super) node: u32,
    pub(super) matter: Matter,
    /// Hash of what rows alone decide: equal for nodes that see the same changes as far as that goes. Of 64
    /// bits, so that among a million filters two differing ones meet once in 10^8 servers.
    pub(super) filter: u64,
}

/// Interests that are searched one by one before a hash set is cheaper.
const FEW: usize = 8;

/// The interests in one value.
#[derive(Debug)]
pub(super) enum Interests {
    Few(SmallVec<[Interest; 1]>),
    Many(Box<FxHashSet<Interest>>),
}

/// Interests in rows with the same values.
#[derive(Debug)]
pub(super) enum Bucket {
    /// Few: tested one by one.
    Few(SmallVec<[Interest; 1]>),
    /// Many, or some with a lift: by filter.
    Many(Box<FxHashMap<u64, Filtered>>),
}

/// Interests with the same filter.
#[derive(Debug, Default)]
pub(super) struct Filtered {
    /// Nodes that are told whenever the filter passes.
    pub(super) interests: FxHashSet<Interest>,
    /// Nodes that are told if the row decides one of theirs.
    pub(super) lifts: Vec<Lift>,
}

/// One step from a node's rows to its parent's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hop {
    /// Columns of the row at hand.
    pub(super) from: Vec<usize>,
    /// The parent's table.
    pub(super) table: Arc<str>,
    /// Columns of the parent's table, pairwise equal.
    pub(super) to: Vec<usize>,
}

/// A way from the rows of an EXISTS node up to rows of a node that has values to be found by.
#[derive(Debug)]
pub(super) struct Lift {
    pub(super) hops: Vec<Hop>,
    columns: Vec<usize>,
    values: FxHashMap<Packed, Interests>,
}

/// The nodes to tell about rows with certain values in some columns.
#[derive(Debug)]
struct Index {
    columns: Vec<usize>,
    values: FxHashMap<Packed, Bucket>,
}

/// What becomes of interests in every change of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unanchored {
    Give,
    Skip,
}

/// What leads from the changes of one table to nodes.
#[derive(Debug, Default)]
pub(super) struct TableRoutes {
    indexes: Vec<Index>,
}

/// Where in a table's routes something is registered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    pub(super) columns: &'a [usize],
    pub(super) values: &'a Packed,
}

impl Interests {
    fn add(&mut self, interest: Interest) {
        match self {
            Interests::Few(few) if few.contains(&interest) => {}
            Interests::Few(few) if few.len() < FEW => few.push(interest),
            Interests::Few(few) => {
                *self = Interests::Many(Box::new(few.drain(..).chain([interest]).collect()));
            }
            Interests::Many(many) => drop(many.insert(interest)),
        }
    }

    /// Removes an interest; tells whether none is left.
    fn remove(&mut self, interest: &Interest) -> bool {
        match self {
            Interests::Few(few) => {
                few.retain(|other| other != interest);
                few.is_empty()
            }
            Interests::Many(many) => {
                many.remove(interest);
                many.is_empty()
            }
        }
    }

    fn iter(&self) -> impl Iterator<Item = &Interest> {
        let (few, many) = match self {
            Interests::Few(few) => (Some(few.iter()), None),
            Interests::Many(many) => (None, Some(many.iter())),
        };
        few.into_iter().flatten().chain(many.into_iter().flatten())
    }
}

impl Bucket {
    /// Sorts the interests by filter.
    fn by_filter(&mut self) -> &mut FxHashMap<u64, Filtered> {
        if let Bucket::Few(few) = self {
            let mut filters: FxHashMap<u64, Filtered> = FxHashMap::default();
            for interest in few.drain(..) {
                filters.entry(interest.filter).or_default().interests.insert(interest);
            }
            *self = Bucket::Many(Box::new(filters));
        }
        match self {
            Bucket::Many(filters) => filters,
            Bucket::Few(_) => unreachable!("made many above"),
        }
    }

    fn add(&mut self, interest: Interest) {
        match self {
            Bucket::Few(few) if few.contains(&interest) => {}
            Bucket::Few(few) if few.len() < FEW => few.push(interest),
            _ => drop(self.by_filter().entry(interest.filter).or_default().interests.insert(interest)),
        }
    }

    fn remove(&mut self, interest: &Interest) {
        match self {
            Bucket::Few(few) => few.retain(|other| other != interest),
            Bucket::Many(filters) => {
                if let Some(filtered) = filters.get_mut(&interest.filter) {
                    filtered.interests.remove(interest);
                    if filtered.is_empty() {
                        filters.remove(&interest.filter);
                    }
                }
            }
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Bucket::Few(few) => few.is_empty(),
            Bucket::Many(filters) => filters.is_empty(),
        }
    }
}

impl Bucket {
    /// All interests in it.
    pub(super) fn interests(&self) -> impl Iterator<Item = &Interest> {
        let (few, many) = match self {
            Bucket::Few(few) => (Some(few.iter()), None),
            Bucket::Many(filters) => (None, Some(filters.values())),
        };
        let many = many.into_iter().flatten();
        let many = many.flat_map(|filtered| filtered.interests.iter().chain(filtered.lifts.iter().flat_map(Lift::all)));
        few.into_iter().flatten().chain(many)
    }
}

impl Filtered {
    fn is_empty(&self) -> bool {
        self.interests.is_empty() && self.lifts.is_empty()
    }

    /// An interest that stands for all as far as a row alone decides.
    pub(super) fn any(&self) -> Option<&Interest> {
        self.interests.iter().chain(self.lifts.iter().flat_map(Lift::all)).next()
    }
}

impl Lift {
    /// The interests in a row that the hops lead to.
    pub(super) fn of_row(&self, row: &StoredRow) -> impl Iterator<Item = &Interest> {
        self.values.get(&Packed::columns(row, &self.columns)).into_iter().flat_map(Interests::iter)
    }

    /// All interests.
    pub(super) fn all(&self) -> impl Iterator<Item = &Interest> {
        self.values.values().flat_map(Interests::iter)
    }

    /// How many values lead to interests.
    pub(super) fn len(&self) -> usize {
        self.values.len()
    }
}

impl TableRoutes {
    fn bucket(&mut self, place: Place<'_>) -> &mut Bucket {
        let index = match self.indexes.iter().position(|index| index.columns == place.columns) {
            Some(index) => index,
            None => {
                self.indexes.push(Index { columns: place.columns.to_vec(), values: FxHashMap::default() });
                self.indexes.len() - 1
            }
        };
        let values = &mut self.indexes[index].values;
        values.entry(place.values.clone()).or_insert_with(|| Bucket::Few(SmallVec::new()))
    }

    /// Works on a bucket, and forgets it if it is empty then.
    fn empty(&mut self, place: Place<'_>, remove: impl FnOnce(&mut Bucket)) {
        let Some(position) = self.indexes.iter().position(|index| index.columns == place.columns) else { return };
        let values = &mut self.indexes[position].values;
        let Some(bucket) = values.get_mut(place.values) else { return };
        remove(bucket);
        if bucket.is_empty() {
            values.remove(place.values);
        }
        if values.is_empty() {
            self.indexes.swap_remove(position);
        }
    }

    /// Tells a node about rows with these values.
    pub(super) fn add(&mut self, place: Place<'_>, interest: Interest) {
        self.bucket(place).add(interest);
    }

    /// Undoes [`TableRoutes::add`].
    pub(super) fn remove(&mut self, place: Place<'_>, interest: &Interest) {
        self.empty(place, |bucket| bucket.remove(interest));
    }

    /// Tells an EXISTS node about rows with these values that decide rows which have `top` where the hops lead.
    pub(super) fn add_lift(&mut self, place: Place<'_>, hops: &[Hop], top: Place<'_>, interest: Interest) {
        let lifts = &mut self.bucket(place).by_filter().entry(interest.filter).or_default().lifts;
        let lift = match lifts.iter().position(|lift| lift.hops == hops && lift.columns == top.columns) {
            Some(lift) => lift,
            None => {
                let (hops, columns) = (hops.to_vec(), top.columns.to_vec());
                lifts.push(Lift { hops, columns, values: FxHashMap::default() });
                lifts.len() - 1
            }
        };
        let values = &mut lifts[lift].values;
        values.entry(top.values.clone()).or_insert_with(|| Interests::Few(SmallVec::new())).add(interest);
    }

    /// Undoes [`TableRoutes::add_lift`].
    pub(super) fn remove_lift(&mut self, place: Place<'_>, hops: &[Hop], top: Place<'_>, interest: &Interest) {
        self.empty(place, |bucket| {
            let filters = bucket.by_filter();
            let Some(filtered) = filters.get_mut(&interest.filter) else { return };
            let lifts = &mut filtered.lifts;
            let position = lifts.iter().position(|lift| lift.hops == hops && lift.columns == top.columns);
            let Some(position) = position else { return };
            let values = &mut lifts[position].values;
            if values.get_mut(top.values).is_some_and(|interests| interests.remove(interest)) {
                values.remove(top.values);
            }
            if values.is_empty() {
                lifts.swap_remove(position);
            }
            if filtered.is_empty() {
                filters.remove(&interest.filter);
            }
        });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.indexes.is_empty()
    }

    /// The interests in a change by the values of its images, and those in every change unless they are skipped.
    pub(super) fn buckets<'a>(
        &'a self,
        change: &'a RowChange,
        unanchored: Unanchored,
    ) -> impl Iterator<Item = &'a Bucket> {
        let indexes = self.indexes.iter();
        let given = indexes.filter(move |index| unanchored == Unanchored::Give || !index.columns.is_empty());
        given.flat_map(move |index| {
            let (old, new) = (change.old.as_deref(), change.new.as_deref());
            let same = |new: &&StoredRow| {
                old.is_some_and(|old| index.columns.iter().all(|&column| old.values[column] == new.values[column]))
            };
            let found = |row: Option<&StoredRow>| index.values.get(&Packed::columns(row?, &index.columns));
            [found(old), found(new.filter(|new| !same(new)))].into_iter().flatten()
        })
    }

    /// The interests that are told of, or tested against, every row.
    pub(super) fn unanchored(&self) -> impl Iterator<Item = &Interest> {
        let buckets =
            self.indexes.iter().filter(|index| index.columns.is_empty()).flat_map(|index| index.values.values());
        buckets.flat_map(Bucket::interests)
    }

    /// Whether some nodes are told by values.
    pub(super) fn is_anchored(&self) -> bool {
        self.indexes.iter().any(|index| !index.columns.is_empty())
    }

    /// Values that lead somewhere, for metrics.
    pub(super) fn len(&self) -> usize {
        self.indexes.iter().map(|index| index.values.len()).sum()
    }
}
