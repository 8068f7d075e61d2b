//! The shared operator graph: which rows a query's answer holds, kept current by sets.
//!
//! A graph starts from a hydration and takes commits. It keeps membership only: per synced node of the
//! query the active groups and the keys of their rows ([`state`]); contents stay in the replica. A commit is
//! taken as one set: membership before is known from the state, membership after is decided once, at the
//! new version, through [`Read`]. So nothing flickers inside a transaction, and any number of commits cost
//! what their composition costs.
//!
//! Invariant: the state after any commit is that of a fresh hydration, up to the choice of witnesses.
//!
//! It must not know how a hydration was computed, who subscribes, or SQL (but for the one
//! implementation of `Read` over the replica).
//!
//! Memory grows with the rows that are in (about 64 bytes a row, 100 a group); the time of an advance with
//! the changed rows that the query can see and what they bring and take, not with the rows that are in.

mod advance;
mod build;
mod changes;
mod delta;
mod downward;
mod edit;
pub(crate) mod filter;
pub(crate) mod packed;
mod plan;
pub mod read;
mod replace;
mod replica_read;
mod state;
mod upkeep;
mod upward;
mod window;

use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;

pub use build::{AnswerBuilder, GraphBuilder, hydrated_rows};
pub use delta::{AnswerRow, DeltaComposer, QueryDelta, RowDelta};
pub(crate) use edit::Activation;
pub use read::{Read, ReadError};
pub use replica_read::ReplicaRead;
pub use upkeep::{Kept, Upkeep, upkeep};

use advance::Advance;
use changes::Changes;
use packed::Packed;
use plan::{Keeps, Plan};
use read::{Apply, Lookup};
use state::NodeState;

use crate::commit::{Commit, Key, Outline, RowChange, StoredRow, Version};
use crate::hydration::Hydration;
use crate::query::{NodeId, Query, Role};

/// Why a graph did not advance. It is unchanged, and stays at its version.
#[derive(Debug, thiserror::Error)]
pub enum AdvanceError {
    /// Hydrating again costs less, or is the only way (a table was rewritten): do so and call
    /// [`Graph::rehydrated`].
    #[error("hydrating again is cheaper than advancing")]
    HydrateInstead,
    /// The database could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// A running query.
#[derive(Debug)]
pub struct Graph {
    query: Arc<Query>,
    plan: Plan,
    version: Version,
    nodes: Vec<NodeState>,
    /// Rows of all nodes.
    row_count: usize,
    /// What the last hydration took; zero if nobody said.
    hydration_time: Duration,
}

/// What hydrating takes for a row where it was not measured.
const ROW_TIME: Duration = Duration::from_micros(3);

/// What it takes to have another thread hydrate.
const HAND_OVER: Duration = Duration::from_micros(200);

/// Rows and probes that an advance may always ask the database for if nobody said what hydrating takes.
const FREE_READS: usize = 5_000;

/// Past [`FREE_READS`], reads allowed per row of state: hydrating reads each row of state once, at about
/// the cost of one probe, besides what it reads to decide.
const READS_PER_ROW: usize = 1;

/// What a row or a probe takes to read by an index, one of many: 5 to 10 µs.
const READ_TIME: Duration = Duration::from_micros(5);

/// Reads that are always allowed: hydrating again begins on another thread in about their time.
const MIN_READS: usize = 100;

/// The keys of an answer's rows at one version.
#[derive(Debug)]
pub struct AnswerKeys {
    query: Arc<Query>,
    /// By table: a node that reads it, the keys, and how many nodes hold each; one does if there is no list.
    tables: Vec<(NodeId, Vec<Key>, Option<Vec<u32>>)>,
}

impl AnswerKeys {
    /// Reads the rows. `read` stands at the version of the graph when it gave the keys.
    pub fn read(&self, read: &mut dyn Read) -> Result<Vec<AnswerRow>, ReadError> {
        let mut rows = Vec::with_capacity(self.tables.iter().map(|(_, keys, _)| keys.len()).sum());
        for (node, keys, counts) in &self.tables {
            let table = &self.query.nodes[*node].table;
            let lookup = Lookup::new(&self.query, *node, &table.primary_key, Apply::Nothing);
            read.lookup(&lookup, keys, &mut |index, row| {
                let (key, count) = (keys[index].clone(), counts.as_ref().map_or(1, |counts| counts[index]));
                rows.push(AnswerRow { table: Arc::clone(&table.name), key, count, row });
            })?;
        }
        Ok(rows)
    }
}

/// A node of a running query, for explain and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeDescription {
    /// The node.
    pub node: NodeId,
    /// The table it reads.
    pub table: Arc<str>,
    /// What it is for.
    pub role: Role,
    /// Its relationship's name; empty for the root.
    pub alias: Arc<str>,
    /// Columns whose values name its groups.
    pub group_columns: Vec<Arc<str>>,
    /// Active groups. None below a permission, where nothing is kept.
    pub groups: usize,
    /// Rows that are in.
    pub rows: usize,
    /// Bytes of its state, roughly.
    pub bytes: usize,
}

impl Graph {
    /// A graph that stands where the hydration does.
    pub fn new(query: Arc<Query>, hydration: &Hydration) -> Self {
        let mut build = GraphBuilder::new(query);
        for (node, rows) in hydration.nodes.iter().enumerate() {
            rows.iter().for_each(|row| {
                build.row(node, row);
            });
        }
        build.finish(Arc::clone(&hydration.version))
    }

    /// The query.
    pub fn query(&self) -> &Arc<Query> {
        &self.query
    }

    /// The version of the last hydration or commit that reached the graph.
    pub fn version(&self) -> &Version {
        &self.version
    }

    /// Takes a commit. `read` stands at `commit.version`. On an error the graph is unchanged.
    pub fn advance(&mut self, commit: &Commit, read: &mut dyn Read) -> Result<QueryDelta, AdvanceError> {
        let rows = self.plan.tables.iter().enumerate().filter_map(|(position, table)| {
            let delta = commit.tables.get(&self.query.nodes[table.any].table.name)?;
            Some(delta.rows.values().map(move |change| (position, change)))
        });
        let mut changes = Changes::new(&self.plan);
        for (table, change) in rows.flatten() {
            changes.add(&self.query, &self.plan, table, change);
        }
        self.check_rewritten(commit)?;
        self.take(&commit.version, &changes, read).map(|(delta, _)| delta)
    }

    /// Takes those rows of a commit that the graph can see, and tells which groups opened and closed.
    pub(crate) fn advance_by(
        &mut self,
        commit: &Commit,
        rows: &[(&Arc<str>, &RowChange)],
        read: &mut dyn Read,
    ) -> Result<(QueryDelta, Vec<Activation>), AdvanceError> {
        self.check_rewritten(commit)?;
        let mut changes = Changes::new(&self.plan);
        for of_table in rows.chunk_by(|(name, _), (next, _)| Arc::ptr_eq(name, next)) {
            let is_of = |table: &plan::TablePlan| self.query.nodes[table.any].table.name == *of_table[0].0;
            let Some(table) = self.plan.tables.iter().position(is_of) else { continue };
            changes.reserve(table, of_table.len());
            of_table.iter().for_each(|(_, change)| changes.add(&self.query, &self.plan, table, change));
        }
        self.take(&commit.version, &changes, read)
    }

    fn check_rewritten(&self, commit: &Commit) -> Result<(), AdvanceError> {
        let rewritten = !commit.rewritten.is_empty()
            && self.query.nodes.iter().any(|node| commit.rewritten.contains(&node.table.name));
        if rewritten || commit.schema_changed { Err(AdvanceError::HydrateInstead) } else { Ok(()) }
    }

    fn take(
        &mut self,
        version: &Version,
        changes: &Changes<'_>,
        read: &mut dyn Read,
    ) -> Result<(QueryDelta, Vec<Activation>), AdvanceError> {
        if changes.is_empty() {
            self.version = Arc::clone(version);
            return Ok((QueryDelta { version: Arc::clone(version), changes: Vec::new() }, Vec::new()));
        }
        let advance = Advance::new(&self.query, &self.plan, &self.nodes, changes, read, self.reads_allowed());
        let (delta, edits, rows) = advance.run(version)?;
        let activations = edit::apply(&mut self.nodes, edits);
        self.row_count = self.row_count.saturating_add_signed(rows as isize);
        debug_assert_eq!(self.row_count, self.nodes.iter().map(NodeState::rows).sum::<usize>(), "rows are counted");
        self.version = Arc::clone(version);
        Ok((delta, activations))
    }

    /// The answer as it is now, for a late subscriber. `read` stands at the version of the last commit.
    pub fn rows(&self, read: &mut dyn Read) -> Result<Vec<AnswerRow>, ReadError> {
        self.keys().read(read)
    }

    /// The keys of the answer as it is now, to read its rows by elsewhere.
    pub fn keys(&self) -> AnswerKeys {
        let of_table = |table: &plan::TablePlan| match table.synced[..] {
            // A row is in at most one group of a node.
            [node] => {
                let keys = self.nodes[node].groups.values().flat_map(|group| group.members.keys());
                (table.any, keys.map(|key| key.unpack()).collect(), None)
            }
            _ => {
                let counts = self.counts_of(table).into_iter().map(|(key, count)| (key.unpack(), count));
                let (keys, counts) = counts.unzip();
                (table.any, keys, Some(counts))
            }
        };
        AnswerKeys { query: Arc::clone(&self.query), tables: self.plan.tables.iter().map(of_table).collect() }
    }

    /// How many synced nodes hold each row of a table.
    fn counts_of(&self, table: &plan::TablePlan) -> FxHashMap<Packed, u32> {
        let mut counts: FxHashMap<Packed, u32> = FxHashMap::default();
        for group in table.synced.iter().flat_map(|&node| self.nodes[node].groups.values()) {
            for key in group.members.keys() {
                *counts.entry(key).or_default() += 1;
            }
        }
        counts
    }

    /// Remembers how long hydrating the query took. A commit that would keep the graph longer is not taken.
    pub fn set_hydration_time(&mut self, took: Duration) {
        self.hydration_time = took;
    }

    /// Trusts what hydrating took a little less: the machine may have been busy, or its caches cold.
    pub(crate) fn doubt_hydration_time(&mut self) {
        self.hydration_time -= self.hydration_time / 16;
    }

    /// How long it is expected to take to hydrate again and to tell the difference.
    pub(crate) fn rehydration_time(&self) -> Duration {
        let known = if self.hydration_time.is_zero() { ROW_TIME * self.row_count as u32 } else { self.hydration_time };
        known + known / 10 + HAND_OVER
    }

    /// Rows and probes that an advance may ask the database for before hydrating again is cheaper.
    fn reads_allowed(&self) -> usize {
        let by_state = FREE_READS + READS_PER_ROW * self.row_count;
        if self.hydration_time.is_zero() {
            return by_state;
        }
        let by_time = self.rehydration_time().as_nanos() / READ_TIME.as_nanos();
        by_state.min(usize::try_from(by_time).unwrap_or(usize::MAX).max(MIN_READS))
    }

    /// Rows of all nodes; a row counts once per node that holds it.
    pub fn row_count(&self) -> usize {
        self.row_count
    }

    /// The memory that the state takes, in bytes, roughly. Walks the state.
    pub fn state_bytes(&self) -> usize {
        size_of::<Graph>() + self.nodes.iter().map(|node| size_of::<NodeState>() + node.bytes()).sum::<usize>()
    }

    /// The nodes and the sizes of their states. Walks the state.
    pub fn describe(&self) -> Vec<NodeDescription> {
        let describe = |(id, state): (NodeId, &NodeState)| {
            let node = &self.query.nodes[id];
            let columns = node.edge.iter().flat_map(|edge| &edge.child_columns);
            NodeDescription {
                node: id,
                table: Arc::clone(&node.table.name),
                role: node.role,
                alias: Arc::clone(&node.alias),
                group_columns: columns.map(|&column| Arc::clone(&node.table.columns[column].name)).collect(),
                groups: state.groups.len(),
                rows: state.rows(),
                bytes: state.bytes(),
            }
        };
        self.nodes.iter().enumerate().map(describe).collect()
    }

    /// A node's active groups: their values, how many parent rows have them, and the keys of their rows.
    /// For explain and tests.
    pub fn members(&self, node: NodeId) -> impl Iterator<Item = (Key, u32, Vec<Key>)> {
        self.nodes[node].groups.iter().map(|(values, group)| {
            (values.unpack(), group.parents, group.members.keys().map(|key| key.unpack()).collect())
        })
    }

    /// Whether a changed row may be, or have been, a member of a node, or change one that is. Rows that a full
    /// window has no place for are not seen: it reads them when it falls short.
    pub(crate) fn sees_member(&self, id: NodeId, change: &RowChange) -> bool {
        let node = &self.query.nodes[id];
        let sees = |row: &Arc<StoredRow>| {
            let group = NodeState::group_of(node, row).and_then(|group| self.nodes[id].groups.get(&group));
            let Some(group) = group else { return false };
            if let Keeps::First(limit) = self.plan.nodes[id].keeps
                && window::Window::last_if_full(&group.members, limit)
                    .is_some_and(|last| Packed::place(row, &node.order) > *last)
            {
                return false;
            }
            filter::simple_truth(&self.query, node, row) != filter::Truth::False
        };
        change.old.as_ref().is_some_and(sees) || change.new.as_ref().is_some_and(sees)
    }

    /// Whether a changed row passed or passes a node's filter, as far as the row alone decides.
    pub(crate) fn may_pass(&self, id: NodeId, change: &RowChange) -> bool {
        let node = &self.query.nodes[id];
        let passes = |row: &Arc<StoredRow>| filter::simple_truth(&self.query, node, row) != filter::Truth::False;
        change.old.as_ref().is_some_and(passes) || change.new.as_ref().is_some_and(passes)
    }

    /// Whether a changed row may change the truth of an EXISTS node for some parent row.
    pub(crate) fn sees_truth(&self, id: NodeId, change: &RowChange) -> bool {
        !upward::contributions(&self.query, &self.plan, id, change.old.as_ref(), change.new.as_ref()).is_empty()
    }

    /// Whether changes of a table leave each of its rows where it is, in or not, in all nodes.
    pub(crate) fn stays(&self, table: &str, outline: &Outline) -> bool {
        let mut nodes = self.query.nodes.iter().zip(&self.plan.nodes).filter(|(node, _)| *node.table.name == *table);
        nodes.all(|(node, plan)| {
            // A client may know the rows by another key.
            node.table.primary_key[..] == outline.key[..] && !plan.moving.meets(outline.changed)
        })
    }

    /// The keys of the rows of a table that are in; a row's may come more than once.
    pub(crate) fn keys_of<'g>(&'g self, table: &'g str) -> impl Iterator<Item = Key> + 'g {
        let nodes = self.query.nodes.iter().zip(&self.nodes).filter(move |(node, _)| *node.table.name == *table);
        nodes
            .flat_map(|(_, state)| state.groups.values())
            .flat_map(|group| group.members.keys())
            .map(|key| key.unpack())
    }

    /// The values of a node's active groups.
    pub(crate) fn groups(&self, node: NodeId) -> impl Iterator<Item = &Packed> {
        self.nodes[node].groups.keys()
    }
}
