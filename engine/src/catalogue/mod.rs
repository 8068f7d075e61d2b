//! The running graphs, and which of them a commit touches.
//!
//! Every graph registers what it depends on in one routing index ([`routes`]) and keeps the registration
//! current as groups open and close. A commit is routed row by row; only graphs that see one of its rows
//! advance, with these rows alone. So the cost of a commit follows what it touches: a hundred
//! thousand registered pages cost a comment nothing but the page it belongs to.
//!
//! It must not know who subscribes. Memory grows with the graphs' state and their active groups.

mod constants;
mod describe;
mod pace;
mod register;
mod routes;
mod unmoved;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::{FxHashMap, FxHashSet};
use zql_spec::value::Value;

use crate::commit::{Commit, Key, RowChange, StoredRow};
use crate::graph::read::{Apply, Lookup};
use crate::graph::{Activation, AdvanceError, AnswerRow, Graph, QueryDelta, Read, hydrated_rows};
use crate::hydration::Hydration;
pub use describe::{Route, routes};
use pace::Pace;
use register::Registration;
use routes::{Bucket, Interest, Lift, Matter, TableRoutes, Unanchored};
use unmoved::Unmoved;

/// Names a running graph. Never used again once removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GraphId(pub u64);

/// What an advance of one graph gave.
pub type Advanced = (GraphId, Result<QueryDelta, AdvanceError>);

/// The running graphs.
#[derive(Debug, Default)]
pub struct Catalogue {
    graphs: FxHashMap<GraphId, Entry>,
    next: u64,
    routes: FxHashMap<Arc<str>, TableRoutes>,
}

#[derive(Debug)]
struct Entry {
    graph: Graph,
    registration: Registration,
    /// Did not advance and waits to be hydrated again; until then it is not registered.
    aside: bool,
    pace: Pace,
}

impl Entry {
    /// Takes the graph out of the index until it is hydrated again.
    fn set_aside(&mut self, id: GraphId, routes: &mut FxHashMap<Arc<str>, TableRoutes>) {
        if !std::mem::replace(&mut self.aside, true) {
            self.registration.unregister(id, &self.graph, routes);
        }
    }

    /// Advances the graph, unless hydrating it again takes less. A panic is this graph's alone: it leaves the state as it
    /// was, and the graph is hydrated again.
    fn advance(&mut self, id: GraphId, commit: &Commit, seen: Seen<'_>, read: &mut dyn Read) -> Outcome {
        if seen.len() >= LARGE_ROWS && self.is_dear(self.pace.of(seen.len())) {
            return Err(AdvanceError::HydrateInstead);
        }
        let begin = read.clock();
        let advance = AssertUnwindSafe(|| self.graph.advance_by(commit, &seen, read));
        let outcome = catch_unwind(advance).unwrap_or_else(|_| {
            tracing::error!(graph = id.0, version = %commit.version, "a graph panicked and is hydrated again");
            Err(AdvanceError::HydrateInstead)
        });
        if let (Some(begin), Some(end), true) = (begin, read.clock(), outcome.is_ok() && seen.len() >= LARGE_ROWS) {
            self.pace.took(end.saturating_sub(begin), seen.len());
        }
        outcome
    }

    /// Whether hydrating again takes less than this.
    fn is_dear(&mut self, taking: Duration) -> bool {
        let dear = self.graph.rehydration_time() < taking;
        if dear {
            self.pace.untried();
        }
        dear
    }
}

/// The rows of a commit that a graph sees.
type Seen<'c> = Vec<(&'c Arc<str>, &'c RowChange)>;

impl Catalogue {
    /// Adds a graph that stands at the version of the last commit.
    pub fn insert(&mut self, graph: Graph) -> GraphId {
        let id = GraphId(self.next);
        self.next += 1;
        let registration = Registration::new(graph.query());
        let entry = Entry { graph, registration, aside: false, pace: Pace::default() };
        entry.registration.register(id, &entry.graph, &mut self.routes);
        self.graphs.insert(id, entry);
        id
    }

    /// Removes a graph.
    pub fn remove(&mut self, id: GraphId) -> Option<Graph> {
        let entry = self.graphs.remove(&id)?;
        if !entry.aside {
            entry.registration.unregister(id, &entry.graph, &mut self.routes);
        }
        Some(entry.graph)
    }

    /// A running graph.
    pub fn get(&self, id: GraphId) -> Option<&Graph> {
        self.graphs.get(&id).map(|entry| &entry.graph)
    }

    /// How many graphs run.
    pub fn len(&self) -> usize {
        self.graphs.len()
    }

    /// Whether no graph runs.
    pub fn is_empty(&self) -> bool {
        self.graphs.is_empty()
    }

    /// How many entries the routing index has.
    pub fn route_count(&self) -> usize {
        self.routes.values().map(TableRoutes::len).sum()
    }

    /// Takes a commit: advances the graphs it touches and returns their deltas, empty ones left out, by id.
    /// `read` stands at `commit.version`. A graph that fails is set aside: further commits pass it by until
    /// [`Catalogue::rehydrated`] or removal.
    pub fn commit(&mut self, commit: &Commit, read: &mut dyn Read) -> Vec<Advanced> {
        let unmoved = self.unmoved(commit);
        let mut advanced = self.set_aside_dear(commit, &unmoved);
        for (id, seen) in self.route(commit, unmoved, read) {
            let Some(entry) = self.graphs.get_mut(&id) else { continue };
            let outcome = entry.advance(id, commit, seen, read);
            self.settle(id, outcome, &mut advanced);
        }
        advanced
    }

    /// As [`Catalogue::commit`], with the touched graphs divided among threads if they are many. `more` is then asked
    /// for so many further readers at the same version, and may give fewer.
    pub fn commit_parallel<R: Read + Send>(
        &mut self,
        commit: &Commit,
        read: &mut R,
        more: &mut dyn FnMut(usize) -> Vec<R>,
    ) -> Vec<Advanced> {
        let unmoved = self.unmoved(commit);
        let mut advanced = self.set_aside_dear(commit, &unmoved);
        let mut work: Vec<(GraphId, Entry, Seen<'_>)> = Vec::new();
        for (id, seen) in self.route(commit, unmoved, read) {
            if let Some(entry) = self.graphs.remove(&id) {
                work.push((id, entry, seen));
            }
        }
        let mut others = match work.len() / MIN_SHARE {
            0 | 1 => Vec::new(),
            shares => more(shares - 1),
        };
        let share = work.len().div_ceil(others.len() + 1).max(1);
        let mut outcomes: Vec<Option<Outcome>> = work.iter().map(|_| None).collect();
        let advance = |reader: &mut R, work: &mut [(GraphId, Entry, Seen<'_>)], outcomes: &mut [Option<Outcome>]| {
            for ((id, entry, seen), outcome) in work.iter_mut().zip(outcomes) {
                *outcome = Some(entry.advance(*id, commit, std::mem::take(seen), reader));
            }
        };
        std::thread::scope(|scope| {
            let mut shares = work.chunks_mut(share).zip(outcomes.chunks_mut(share));
            let own = shares.next();
            for ((work, outcomes), reader) in shares.zip(&mut others) {
                scope.spawn(move || advance(reader, work, outcomes));
            }
            if let Some((work, outcomes)) = own {
                advance(read, work, outcomes);
            }
        });
        for ((id, entry, _), outcome) in work.into_iter().zip(outcomes) {
            self.graphs.insert(id, entry);
            if let Some(outcome) = outcome {
                self.settle(id, outcome, &mut advanced);
            }
        }
        advanced
    }

    /// Keeps the registration current with what an advance did, and its delta unless it is empty.
    fn settle(&mut self, id: GraphId, outcome: Outcome, advanced: &mut Vec<Advanced>) {
        let Some(entry) = self.graphs.get_mut(&id) else { return };
        match outcome {
            Ok((delta, activations)) => {
                entry.registration.follow(id, entry.graph.query(), activations, &mut self.routes);
                if !delta.changes.is_empty() {
                    advanced.push((id, Ok(delta)));
                }
            }
            Err(error) => {
                entry.set_aside(id, &mut self.routes);
                advanced.push((id, Err(error)));
            }
        }
    }

    /// Sets graphs aside for which taking a large commit row by row would last longer than hydrating again.
    fn set_aside_dear(&mut self, commit: &Commit, unmoved: &Unmoved<'_>) -> Vec<Advanced> {
        let mut taking: FxHashMap<GraphId, Duration> = FxHashMap::default();
        for (table, delta) in commit.tables.iter().filter(|(_, delta)| delta.rows.len() >= LARGE_ROWS) {
            let Some(routes) = self.routes.get(table) else { continue };
            let changed = delta.rows.len();
            // Graphs that test every row; those that are told by value cost nothing for others.
            let unmoved = &unmoved[table];
            let tested =
                routes.unanchored().map(|interest| interest.graph).filter(|graph| !unmoved.contains_key(graph));
            let tested: FxHashSet<GraphId> = tested.collect();
            // By graph the last sampled row that it sees, and how many it sees. Rows far apart, because those that were
            // written one after the other are often alike.
            let mut seen: FxHashMap<GraphId, (usize, usize)> = tested.iter().map(|&id| (id, (0, 0))).collect();
            for (change, row) in delta.rows.values().step_by(changed.div_ceil(SAMPLE)).zip(1..) {
                let interests = routes.buckets(change, Unanchored::Give).flat_map(Bucket::interests);
                let moved = interests.filter(|interest| !unmoved.contains_key(&interest.graph));
                for interest in moved.filter(|interest| self.sees(interest, change)) {
                    let (last, count) = seen.entry(interest.graph).or_default();
                    *count += usize::from(std::mem::replace(last, row) != row);
                }
            }
            for (id, (_, seen)) in seen {
                let Some(entry) = self.graphs.get(&id) else { continue };
                let testing = if tested.contains(&id) { TEST_TIME * changed as u32 } else { Duration::ZERO };
                let sampled = changed.div_ceil(changed.div_ceil(SAMPLE));
                let rows = if seen < SAMPLE_MIN { 0 } else { changed * seen / sampled };
                *taking.entry(id).or_default() += testing + entry.pace.of(rows);
            }
        }
        let mut dear = Vec::new();
        for (id, taking) in taking {
            let Some(entry) = self.graphs.get_mut(&id) else { continue };
            if entry.is_dear(taking) {
                entry.set_aside(id, &mut self.routes);
                dear.push(id);
            } else if taking * 4 > entry.graph.rehydration_time() {
                // Where the two are near each other, what hydrating takes is found out anew now and then.
                entry.graph.doubt_hydration_time();
            }
        }
        dear.sort_unstable();
        dear.into_iter().map(|id| (id, Err(AdvanceError::HydrateInstead))).collect()
    }

    /// The graphs that a commit touches, by id, each with the rows that it sees.
    fn route<'c>(&self, commit: &'c Commit, mut unmoved: Unmoved<'c>, read: &mut dyn Read) -> Vec<(GraphId, Seen<'c>)> {
        let mut touched: FxHashMap<GraphId, Seen<'c>> = FxHashMap::default();
        for (table, delta) in &commit.tables {
            let Some(routes) = self.routes.get(table).filter(|routes| !routes.is_empty()) else { continue };
            let unmoved = unmoved.remove(table).unwrap_or_default();
            let known: FxHashSet<GraphId> = unmoved.keys().copied().collect();
            for (id, rows) in unmoved.into_iter().filter(|(_, rows)| !rows.is_empty()) {
                touched.entry(id).or_default().extend(rows);
            }
            let is_known = |interest: &Interest| !known.is_empty() && known.contains(&interest.graph);
            let sees = |interest: &Interest, change| !is_known(interest) && self.sees(interest, change);
            let unanchored = if routes.unanchored().all(is_known) { Unanchored::Skip } else { Unanchored::Give };
            if unanchored == Unanchored::Skip && !routes.is_anchored() {
                continue;
            }
            for change in delta.rows.values() {
                let mut tell = |interest: &Interest| {
                    let seen = touched.entry(interest.graph).or_default();
                    // A graph is told of a row once, however many of its nodes want it.
                    if !seen.last().is_some_and(|&(_, last)| std::ptr::eq(last, change)) {
                        seen.push((table, change));
                    }
                };
                for bucket in routes.buckets(change, unanchored) {
                    let filters = match bucket {
                        Bucket::Few(few) => {
                            few.iter().filter(|interest| sees(interest, change)).for_each(&mut tell);
                            continue;
                        }
                        Bucket::Many(filters) => filters,
                    };
                    for filtered in filters.values() {
                        // One node stands for all with its filter as far as the row alone decides.
                        if !filtered.any().is_some_and(|any| self.sees_by_filter(any, change)) {
                            continue;
                        }
                        filtered.interests.iter().filter(|interest| sees(interest, change)).for_each(&mut tell);
                        for lift in &filtered.lifts {
                            match self.lifted(lift, change, read) {
                                Some(rows) => {
                                    let found = rows.iter().flat_map(|row| lift.of_row(row));
                                    found.filter(|interest| !is_known(interest)).for_each(&mut tell);
                                }
                                None => lift.all().filter(|interest| !is_known(interest)).for_each(&mut tell),
                            }
                        }
                    }
                }
            }
        }
        if commit.schema_changed || !commit.rewritten.is_empty() {
            let reads = |entry: &Entry| {
                let mut nodes = entry.graph.query().nodes.iter();
                commit.schema_changed || nodes.any(|node| commit.rewritten.contains(&node.table.name))
            };
            for (&id, _) in self.graphs.iter().filter(|(_, entry)| reads(entry)) {
                touched.entry(id).or_default();
            }
        }
        let mut touched: Vec<_> = touched.into_iter().collect();
        touched.retain(|(id, _)| self.graphs.get(id).is_some_and(|entry| !entry.aside));
        touched.sort_unstable_by_key(|(id, _)| *id);
        touched
    }

    /// The rows that a changed row of an EXISTS node leads up to; none if telling everyone costs less than
    /// reading them.
    fn lifted(&self, lift: &Lift, change: &RowChange, read: &mut dyn Read) -> Option<Vec<Arc<StoredRow>>> {
        // All of its nodes have the same tables above them.
        let any = lift.all().next()?;
        let query = self.graphs.get(&any.graph)?.graph.query();
        let most = MIN_LIFTED.max(LIFTED_PER_ENTRY * lift.len());
        let mut rows: Vec<Arc<StoredRow>> = change.old.iter().chain(&change.new).map(Arc::clone).collect();
        let mut node = any.node as usize;
        for hop in &lift.hops {
            let mut keys: Vec<Key> = rows.iter().map(|row| row.key(&hop.from)).collect();
            keys.sort_unstable();
            keys.dedup();
            keys.retain(|key| !key.iter().any(Value::is_null));
            node = query.nodes[node].edge.as_ref()?.parent;
            let lookup = Lookup { limit: Some(most + 1), ..Lookup::new(query, node, &hop.to, Apply::Nothing) };
            rows.clear();
            // A reader that fails here fails the graphs that are told, which report it.
            read.lookup(&lookup, &keys, &mut |_, row| rows.push(row)).ok()?;
            if rows.len() > most {
                return None;
            }
        }
        Some(rows)
    }

    fn sees(&self, interest: &Interest, change: &RowChange) -> bool {
        let Some(entry) = self.graphs.get(&interest.graph) else { return false };
        match interest.matter {
            Matter::Member => entry.graph.sees_member(interest.node as usize, change),
            Matter::Truth => entry.graph.sees_truth(interest.node as usize, change),
        }
    }

    /// What of [`Catalogue::sees`] does not depend on a graph's state.
    fn sees_by_filter(&self, interest: &Interest, change: &RowChange) -> bool {
        let Some(entry) = self.graphs.get(&interest.graph) else { return false };
        match interest.matter {
            Matter::Member => entry.graph.may_pass(interest.node as usize, change),
            Matter::Truth => entry.graph.sees_truth(interest.node as usize, change),
        }
    }

    /// Brings a graph that was set aside back with a hydration. If commits have come since the hydration's
    /// version, `since` is their composition and a reader at its version. The delta leads from the state in
    /// which the graph was set aside to now. On an error the graph stays aside, as it was.
    pub fn rehydrated(
        &mut self,
        id: GraphId,
        hydration: &Hydration,
        since: Option<(&Commit, &mut dyn Read)>,
    ) -> Result<QueryDelta, AdvanceError> {
        let Some(query) = self.get(id).map(|graph| Arc::clone(graph.query())) else {
            return Ok(QueryDelta { version: Arc::clone(&hydration.version), changes: Vec::new() });
        };
        let rows = hydrated_rows(&query, hydration);
        self.replace(id, Graph::new(query, hydration), rows, since)
    }

    /// The same, given the graph that the hydration led to and the rows of its answer.
    pub fn replace(
        &mut self,
        id: GraphId,
        next: Graph,
        rows: Vec<AnswerRow>,
        since: Option<(&Commit, &mut dyn Read)>,
    ) -> Result<QueryDelta, AdvanceError> {
        let Some(entry) = self.graphs.get_mut(&id) else {
            return Ok(QueryDelta { version: Arc::clone(next.version()), changes: Vec::new() });
        };
        entry.set_aside(id, &mut self.routes);
        let delta = entry.graph.replaced_and_advanced(next, rows, since)?;
        entry.registration.register(id, &entry.graph, &mut self.routes);
        entry.aside = false;
        Ok(delta)
    }
}

/// What [`Graph::advance_by`] gives.
type Outcome = Result<(QueryDelta, Vec<Activation>), AdvanceError>;

/// Rows that are always read to find out which graphs a change concerns, and rows read per entry that they
/// are looked up among: a graph that is told in vain costs about as much as reading so many.
const MIN_LIFTED: usize = 64;
const LIFTED_PER_ENTRY: usize = 4;

/// Rows of a commit from which on it is asked whether hydrating again takes less than taking them.
const LARGE_ROWS: usize = 1_000;

/// Rows of a large commit, at most, that tell how many of it a graph sees.
const SAMPLE: usize = 64;

/// Sampled rows that a graph must see for their share to mean something. Fewer may be the only ones that it sees; whether
/// they are is known when the commit has been routed.
const SAMPLE_MIN: usize = 4;

/// What it takes to find out that a row does not concern a graph that tests every row of its table: measured by the
/// benchmark of large commits.
const TEST_TIME: Duration = Duration::from_nanos(350);

/// Graphs a thread takes at least: starting one costs about what advancing so many does.
const MIN_SHARE: usize = 8;
