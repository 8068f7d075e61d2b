//! The differential test: every way to answer a query must agree with the naive evaluator, at the
//! beginning and after every transaction.
//!
//! A world is a database in a replica, many queries that run at once and a run of transactions. Queries
//! share the replica, since making one costs more than answering one. After each transaction the replica's
//! rows, the commit that it produced, every graph's state and what its clients were told are compared;
//! fresh hydrations are compared every few transactions. Half of the graphs run in a catalogue, which must
//! find the ones that a commit touches; of the others, some take several commits as one.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use engine::catalogue::{Catalogue, GraphId};
use engine::commit::{Commit, Key, StoredRow};

use engine::graph::{AdvanceError, Graph, QueryDelta, ReplicaRead, hydrated_rows};
use engine::hydration::Hydration;
use engine::query::Query;
use engine::replica::{Replica, Snapshot, Writer};
use engine::sql::{Access, FilterPart, node_select};
use zql_spec::ast::Ast;
use zql_spec::naive::{Database, Evaluation, Row, Transaction};
use zql_spec::schema::Schema;
use zql_spec::value::Value;

use super::case::Case;
use super::dataset::DataSet;
use super::oracle::{Failure, Rows, View, check_graph, check_hydration, check_nodes, naive_hydration};
use super::queries::QueryGenerator;
use super::replica::{apply_to_replica, create_replica};
use super::rng::Rng;
use super::shrink::shrink;
use super::transactions::{fill, transaction};

/// A way to compute a query's first answer.
pub type Hydrator<'h> = &'h dyn Fn(&Arc<Query>, &Arc<Snapshot>) -> Result<Hydration, Failure>;

/// What to run.
#[derive(Clone, Copy)]
pub struct Options<'h> {
    /// Queries in a world.
    pub queries: usize,
    /// Transactions in a world.
    pub transactions: usize,
    /// After how many transactions fresh hydrations are compared again.
    pub hydrate_every: usize,
    /// The way of hydrating under test; without one, graphs start from the naive evaluator's answer.
    pub hydrate: Option<Hydrator<'h>>,
}

/// What was compared.
#[derive(Clone, Copy, Debug, Default)]
pub struct Compared {
    /// Queries.
    pub queries: usize,
    /// Steps of graphs.
    pub steps: usize,
    /// Hydrations.
    pub hydrations: usize,
    /// Queries whose first answer had rows.
    pub with_rows: usize,
    /// Rows that changed in answers.
    pub changes: usize,
    /// Times a graph asked to be hydrated again.
    pub rehydrated: usize,
}

impl std::ops::AddAssign for Compared {
    fn add_assign(&mut self, other: Compared) {
        self.queries += other.queries;
        self.steps += other.steps;
        self.hydrations += other.hydrations;
        self.with_rows += other.with_rows;
        self.changes += other.changes;
        self.rehydrated += other.rehydrated;
    }
}

/// Runs the world of a seed. A failure is shrunk, saved under `testdata/regressions` and described.
pub fn run_seed(seed: u64, options: &Options<'_>) -> Result<Compared, String> {
    let mut rng = Rng::new(seed);
    let data = if seed.is_multiple_of(2) { &super::ISSUES } else { &super::MUSIC };
    let database = fill(data, &mut rng);
    let asts: Vec<Ast> = {
        let mut generator = QueryGenerator::new(data, &database, rng.fork());
        (0..options.queries).map(|_| generator.query()).collect()
    };
    let mut state = database.clone();
    let transactions: Vec<Transaction> = (0..options.transactions)
        .map(|_| {
            let transaction = transaction(data, &state, &mut rng);
            state.apply(&transaction);
            transaction
        })
        .collect();
    run(data, &database, &asts, &transactions, options, seed).map_err(|(query, failure)| {
        let Some(query) = query else { return format!("seed {seed}: {failure}") };
        let case =
            Case { data, database: database.clone(), ast: asts[query].clone(), transactions: transactions.clone() };
        let small = shrink(case, &mut |case| run_case(case, options).is_err());
        let failure = run_case(&small, options).err().unwrap_or_else(|| format!("only in company: {failure}"));
        let saved = small.save(&format!("seed-{seed}-query-{query}"));
        format!("seed {seed}, query {query}: {failure}\n{}\nsaved as {saved:?}", small.print())
    })
}

/// Runs one case.
pub fn run_case(case: &Case, options: &Options<'_>) -> Result<Compared, Failure> {
    // How commits are composed and which witnesses a naive hydration chooses depends on the place in a
    // world, so a case is run in several places at once.
    let asts = vec![case.ast.clone(); 4];
    let options = Options { hydrate_every: 1, ..*options };
    run(case.data, &case.database, &asts, &case.transactions, &options, 0).map_err(|(_, failure)| failure)
}

/// A query that runs.
struct Live<'a> {
    ast: &'a Ast,
    query: Arc<Query>,
    running: Running,
    view: View,
}

/// Where a graph runs.
enum Running {
    /// In the catalogue. After a commit that wants a new hydration, the hydration may arrive late: with it
    /// comes what has been committed since.
    Catalogued { id: GraphId, late: Option<Hydration> },
    /// On its own, taking `stride` commits at once.
    Alone { graph: Box<Graph>, stride: usize, waiting: Option<Commit> },
}

type Failed = (Option<usize>, Failure);

fn run(
    data: &'static DataSet,
    database: &Database,
    asts: &[Ast],
    transactions: &[Transaction],
    options: &Options<'_>,
    seed: u64,
) -> Result<Compared, Failed> {
    let whole = |error: String| (None, error);
    let folder = tempfile::tempdir().map_err(|error| whole(error.to_string()))?;
    let made = guarded(|| {
        create_replica(data, database, &folder.path().join("replica.db")).map_err(|error| format!("creating: {error}"))
    });
    let replica = made.map_err(whole)?;
    let mut world = World {
        data,
        database: database.clone(),
        replica,
        rng: Rng::new(seed),
        alternate: seed % 3 == 2,
        catalogue: Catalogue::default(),
    };
    let mut compared = Compared { queries: asts.len(), ..Compared::default() };
    let mut moment = guarded(|| world.moment()).map_err(whole)?;
    let mut live: Vec<Live<'_>> = Vec::new();
    for (i, ast) in asts.iter().enumerate() {
        let started = guarded(|| world.start(ast, i, &moment, options, &mut compared));
        live.push(started.map_err(|failure| (Some(i), failure))?);
    }
    let mut writer = world.replica.writer().map_err(|error| whole(error.to_string()))?;
    for (step, transaction) in transactions.iter().enumerate() {
        let at = |failure: Failure| format!("after transaction {step}: {failure}");
        let commit = guarded(|| world.commit(&mut writer, step, transaction)).map_err(|error| whole(at(error)))?;
        let before = moment;
        moment = guarded(|| world.moment()).map_err(|error| whole(at(error)))?;
        guarded(|| check_commit(data, &commit, &before, &moment)).map_err(|error| whole(at(error)))?;
        let routed = guarded(|| world.route(step, &commit, &moment));
        let mut routed = routed.map_err(|error| whole(at(error)))?;
        let hydrate = (step + 1).is_multiple_of(options.hydrate_every);
        for (i, live) in live.iter_mut().enumerate() {
            let advanced = guarded(|| {
                let advanced = world.advance(live, step, &commit, &mut routed, &moment, options, &mut compared)?;
                if advanced { world.compare(live, &moment, options, hydrate, &mut compared) } else { Ok(()) }
            });
            advanced.map_err(|failure| (Some(i), at(failure)))?;
        }
    }
    Ok(compared)
}

/// Runs a comparison; a panic is a failure like any other.
fn guarded<T>(run: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        Err(format!("panicked: {}", text.unwrap_or("(no text)")))
    })
}

struct World {
    data: &'static DataSet,
    database: Database,
    replica: Arc<Replica>,
    rng: Rng,
    /// Whether clients know tables by other unique keys than the replica's.
    alternate: bool,
    catalogue: Catalogue,
}

/// What the catalogue says of a commit, by graph.
type Routed = BTreeMap<GraphId, Result<QueryDelta, AdvanceError>>;

/// The replica and the database at one version.
struct Moment {
    snapshot: Arc<Snapshot>,
    schema: Arc<Schema>,
    /// The replica's rows by table and values.
    stored: BTreeMap<Arc<str>, BTreeMap<Row, Arc<StoredRow>>>,
    /// The database's rows by the clients' keys.
    rows: Rows,
}

impl World {
    /// Pins the replica's newest version and checks that it holds the database's rows.
    fn moment(&self) -> Result<Moment, Failure> {
        let snapshot = self.replica.pin().map_err(|error| format!("pinning: {error}"))?;
        let reader = snapshot.reader().map_err(|error| format!("reading: {error}"))?;
        let mut stored = BTreeMap::new();
        for table in self.data.tables {
            let ast = Ast { table: table.name.into(), ..Ast::default() };
            let query = Query::resolve(&ast, &snapshot.schema).map_err(|error| error.to_string())?;
            let access = Access { filter: FilterPart::None, ..Access::default() };
            let sql = node_select(&query, 0, &access);
            let mut rows: BTreeMap<Row, Arc<StoredRow>> = BTreeMap::new();
            let mut keep = |row: Arc<StoredRow>| drop(rows.insert(Row::from(&row.values[..]), row));
            reader
                .rows(&sql, &query.nodes[0].table, &[], &[], &mut keep)
                .map_err(|error| format!("reading: {error}"))?;
            let expected: Vec<&Row> = {
                let mut expected: Vec<&Row> = self.database.rows(table.name).collect();
                expected.sort();
                expected
            };
            if !rows.keys().eq(expected.iter().copied()) {
                return Err(format!("the replica's {} holds {:?} instead of {expected:?}", table.name, rows.keys()));
            }
            stored.insert(Arc::from(table.name), rows);
        }
        let schema = self.client_schema(&snapshot.schema);
        let rows = Rows::new(&self.database, &schema);
        Ok(Moment { snapshot, schema, stored, rows })
    }

    fn client_schema(&self, schema: &Arc<Schema>) -> Arc<Schema> {
        if !self.alternate {
            return Arc::clone(schema);
        }
        // Clients sort the columns of keys; the order matters to the completion of orders.
        let keys = self.data.tables.iter().map(|table| {
            let mut key = table.unique.first().map_or(table.primary_key, |unique| unique).to_vec();
            key.sort_unstable();
            (table.name, key)
        });
        Arc::new(schema.with_primary_keys(keys))
    }

    fn evaluation<'a>(&'a self, ast: &'a Ast, moment: &'a Moment) -> Result<Evaluation<'a>, Failure> {
        Evaluation::over(&self.database, &moment.schema, ast).map_err(|error| format!("not a query: {error}"))
    }

    fn hydrate(
        &mut self,
        ast: &Ast,
        query: &Arc<Query>,
        moment: &Moment,
        options: &Options<'_>,
    ) -> Result<Hydration, Failure> {
        let mut rng = self.rng.fork();
        let evaluation = self.evaluation(ast, moment)?;
        let hydration = match options.hydrate {
            Some(hydrate) => hydrate(query, &moment.snapshot).map_err(|error| format!("hydrating: {error}"))?,
            None => {
                let stored = |table: &str, row: &Row| moment.stored.get(table)?.get(row).map(Arc::clone);
                naive_hydration(&evaluation, &moment.snapshot.version, &stored, &mut rng)?
            }
        };
        check_hydration(&evaluation, &hydration).map_err(|failure| format!("hydration: {failure}"))?;
        Ok(hydration)
    }

    fn start<'a>(
        &mut self,
        ast: &'a Ast,
        place: usize,
        moment: &Moment,
        options: &Options<'_>,
        compared: &mut Compared,
    ) -> Result<Live<'a>, Failure> {
        let query = Arc::new(Query::resolve(ast, &moment.schema).map_err(|error| format!("resolving: {error}"))?);
        check_nodes(&self.evaluation(ast, moment)?, &query)?;
        check_sql(&self.evaluation(ast, moment)?, &query, moment)?;
        let hydration = self.hydrate(ast, &query, moment, options)?;
        compared.hydrations += 1;
        compared.with_rows += usize::from(!hydration.nodes[0].is_empty());
        let view = View::new(hydrated_rows(&query, &hydration))?;
        let graph = Graph::new(Arc::clone(&query), &hydration);
        let evaluation = self.evaluation(ast, moment)?;
        check_graph(&evaluation, &graph, &moment.schema, &moment.rows)
            .map_err(|failure| format!("graph: {failure}"))?;
        view.check(&graph, &moment.rows)?;
        let running = match place % 4 {
            0 | 1 => Running::Catalogued { id: self.catalogue.insert(graph), late: None },
            2 => Running::Alone { graph: Box::new(graph), stride: 1, waiting: None },
            _ => Running::Alone { graph: Box::new(graph), stride: 3, waiting: None },
        };
        Ok(Live { ast, query, running, view })
    }

    fn commit(&mut self, writer: &mut Writer, step: usize, transaction: &Transaction) -> Result<Commit, Failure> {
        let version = format!("{:02}", step + 1);
        let commit =
            apply_to_replica(self.data, writer, &version, transaction).map_err(|error| format!("writing: {error}"))?;
        self.database.apply(transaction);
        Ok(commit)
    }

    /// Lets the catalogue take a commit, on one thread or on two.
    fn route(&mut self, step: usize, commit: &Commit, moment: &Moment) -> Result<Routed, Failure> {
        let reader = || moment.read();
        let advanced = if step.is_multiple_of(2) {
            self.catalogue.commit(commit, &mut reader()?)
        } else {
            let mut more = |wanted: usize| (0..wanted.min(2)).filter_map(|_| reader().ok()).collect();
            self.catalogue.commit_parallel(commit, &mut reader()?, &mut more)
        };
        Ok(advanced.into_iter().collect())
    }

    /// Brings a query to the moment; tells whether it stands there.
    #[allow(clippy::too_many_arguments)]
    fn advance(
        &mut self,
        live: &mut Live<'_>,
        step: usize,
        commit: &Commit,
        routed: &mut Routed,
        moment: &Moment,
        options: &Options<'_>,
        compared: &mut Compared,
    ) -> Result<bool, Failure> {
        let composed = matches!(&live.running, Running::Catalogued { late: Some(_), .. });
        let outcome = match &mut live.running {
            Running::Catalogued { id, late } => match (routed.remove(id), late.take()) {
                (Some(_), Some(_)) => return Err("a graph that was set aside advanced".into()),
                (Some(outcome), None) => outcome,
                (None, Some(hydration)) => {
                    self.catalogue.rehydrated(*id, &hydration, Some((commit, &mut moment.read()?)))
                }
                // Not touched: the answer must be right as it is.
                (None, None) => return Ok(true),
            },
            Running::Alone { graph, stride, waiting } => {
                match waiting {
                    Some(waiting) => waiting.compose(commit),
                    None => *waiting = Some(commit.clone()),
                }
                if !(step + 1).is_multiple_of(*stride) {
                    return Ok(false);
                }
                let Some(commit) = waiting.take() else { return Ok(false) };
                graph.advance(&commit, &mut moment.read()?)
            }
        };
        let delta = match outcome {
            Ok(delta) => delta,
            Err(AdvanceError::HydrateInstead) => {
                compared.rehydrated += 1;
                let hydration = self.hydrate(live.ast, &live.query, moment, options)?;
                match &mut live.running {
                    Running::Catalogued { late, .. } if self.rng.percent(50) => {
                        *late = Some(hydration);
                        return Ok(false);
                    }
                    Running::Catalogued { id, .. } => {
                        let delta = self.catalogue.rehydrated(*id, &hydration, None);
                        delta.map_err(|error| format!("after hydrating again: {error}"))?
                    }
                    Running::Alone { graph, .. } => graph.rehydrated(&hydration),
                }
            }
            Err(AdvanceError::Read(error)) => return Err(format!("advancing: {error}")),
        };
        compared.changes += delta.changes.len();
        live.view.apply(&delta, composed)?;
        Ok(true)
    }

    /// Compares a query that stands at the moment.
    fn compare(
        &mut self,
        live: &Live<'_>,
        moment: &Moment,
        options: &Options<'_>,
        hydrate: bool,
        compared: &mut Compared,
    ) -> Result<(), Failure> {
        compared.steps += 1;
        let evaluation = self.evaluation(live.ast, moment)?;
        let graph = match &live.running {
            Running::Catalogued { id, .. } => self.catalogue.get(*id).ok_or("the catalogue lost a graph")?,
            Running::Alone { graph, .. } => graph,
        };
        check_graph(&evaluation, graph, &moment.schema, &moment.rows).map_err(|failure| format!("graph: {failure}"))?;
        live.view.check(graph, &moment.rows)?;
        let rows = graph.rows(&mut moment.read()?).map_err(|error| format!("rows: {error}"))?;
        View::new(rows)?.check(graph, &moment.rows).map_err(|failure| format!("late subscriber: {failure}"))?;
        if hydrate {
            check_sql(&evaluation, &live.query, moment)?;
            if options.hydrate.is_some() {
                self.hydrate(live.ast, &live.query, moment, options)?;
                compared.hydrations += 1;
            }
        }
        Ok(())
    }
}

impl Moment {
    fn read(&self) -> Result<ReplicaRead, Failure> {
        self.snapshot.reader().map(ReplicaRead::new).map_err(|error| format!("reading: {error}"))
    }
}

/// Whether a commit lists exactly what changed between two moments. A row may be listed that was written
/// with the values it had.
fn check_commit(data: &DataSet, commit: &Commit, before: &Moment, after: &Moment) -> Result<(), Failure> {
    for table in data.tables {
        if commit.rewritten.contains(table.name) {
            continue;
        }
        let key = table.positions(table.primary_key);
        let by_key = |moment: &Moment| -> BTreeMap<Key, Arc<StoredRow>> {
            let rows = moment.stored.get(table.name).into_iter().flat_map(BTreeMap::values);
            rows.map(|row| (row.key(&key), Arc::clone(row))).collect()
        };
        let (before, after) = (by_key(before), by_key(after));
        let delta = commit.tables.get(table.name);
        let listed = delta.into_iter().flat_map(|delta| delta.rows.keys());
        let keys: BTreeSet<&Key> = listed.chain(before.keys()).chain(after.keys()).collect();
        for key in keys {
            let (old, new) = (before.get(key), after.get(key));
            match delta.and_then(|delta| delta.rows.get(key)) {
                Some(change) if change.old.as_ref() != old || change.new.as_ref() != new => {
                    return Err(format!(
                        "the commit says {change:?} of {} {key:?}: it was {old:?} and is {new:?}",
                        table.name
                    ));
                }
                Some(_) if old.is_none() && new.is_none() => {
                    return Err(format!("the commit lists {} {key:?}, which came and went", table.name));
                }
                None if old != new => return Err(format!("the commit lacks {} {key:?}", table.name)),
                _ => {}
            }
        }
    }
    Ok(())
}

/// Whether SQLite, given the text of a node, selects the node's rows for every row of its parent's table.
fn check_sql(evaluation: &Evaluation<'_>, query: &Query, moment: &Moment) -> Result<(), Failure> {
    let reader = moment.snapshot.reader().map_err(|error| format!("reading: {error}"))?;
    for (id, node) in query.nodes.iter().enumerate() {
        let lookup = node.edge.as_ref().map_or(&[][..], |edge| &edge.child_columns);
        let access = Access { lookup, order: true, start: true, limit: node.limit, ..Access::default() };
        let sql = node_select(query, id, &access);
        let parents: Vec<Option<&Row>> = match &node.edge {
            Some(edge) => {
                let parent = &query.nodes[edge.parent].table.name;
                moment.stored.get(parent).into_iter().flat_map(|rows| rows.keys().map(Some)).collect()
            }
            None => vec![None],
        };
        for parent in parents {
            let key: Vec<Value> = match (&node.edge, parent) {
                (Some(edge), Some(row)) => edge.parent_columns.iter().map(|&column| row[column].clone()).collect(),
                _ => Vec::new(),
            };
            let mut found = Vec::new();
            reader
                .rows(&sql, &node.table, lookup, &key, &mut |row| found.push(row))
                .map_err(|error| format!("SQL {}: {error}", sql.text))?;
            let expected = evaluation.rows(id, parent.map(|row| &**row));
            if !found.iter().map(|row| &row.values[..]).eq(expected.iter().map(|row| &**row)) {
                return Err(format!(
                    "SQL of node {id} for {parent:?}: {} with {:?} gives {found:?} instead of {expected:?}",
                    sql.text, sql.binds
                ));
            }
        }
    }
    Ok(())
}
