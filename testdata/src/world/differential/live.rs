//! Queries that run, in a catalogue or alone, and what is compared of each.

use std::collections::BTreeMap;
use std::sync::Arc;

use engine::catalogue::{Catalogue, GraphId};
use engine::commit::Commit;
use engine::graph::{AdvanceError, Graph, QueryDelta, hydrated_rows};
use engine::hydration::Hydration;
use engine::query::Query;
use engine::replica::{Replica, Writer};
use zql_spec::ast::Ast;
use zql_spec::naive::{Database, Evaluation, Row, Transaction};
use zql_spec::schema::Schema;

use super::moment::{Moment, check_sql};
use super::{Compared, Options};
use crate::world::dataset::DataSet;
use crate::world::oracle::{Failure, View, check_graph, check_hydration, check_nodes, naive_hydration};
use crate::world::replica::apply_to_replica;
use crate::world::rng::Rng;

/// A query that runs.
pub(super) struct Live<'a> {
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

/// What queries run in.
pub(super) struct World<'h> {
    options: Options<'h>,
    /// What has been compared.
    pub(super) compared: Compared,
    data: &'static DataSet,
    database: Database,
    pub(super) replica: Arc<Replica>,
    rng: Rng,
    /// Whether clients know tables by other unique keys than the replica's.
    alternate: bool,
    catalogue: Catalogue,
}

/// What the catalogue says of a commit, by graph.
pub(super) type Routed = BTreeMap<GraphId, Result<QueryDelta, AdvanceError>>;

impl<'h> World<'h> {
    /// The world of a seed before any query runs.
    pub(super) fn new(
        data: &'static DataSet,
        database: &Database,
        replica: Arc<Replica>,
        seed: u64,
        options: Options<'h>,
    ) -> World<'h> {
        World {
            options,
            compared: Compared::default(),
            data,
            database: database.clone(),
            replica,
            rng: Rng::new(seed),
            alternate: seed % 3 == 2,
            catalogue: Catalogue::default(),
        }
    }

    /// Pins the replica's newest version and checks that it holds the database's rows.
    pub(super) fn moment(&self) -> Result<Moment, Failure> {
        Moment::pin(self.data, &self.database, &self.replica, |schema| self.client_schema(schema))
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

    fn hydrate(&mut self, ast: &Ast, query: &Arc<Query>, moment: &Moment) -> Result<Hydration, Failure> {
        let mut rng = self.rng.fork();
        let evaluation = self.evaluation(ast, moment)?;
        let hydration = match self.options.hydrate {
            Some(hydrate) => hydrate(query, &moment.snapshot).map_err(|error| format!("hydrating: {error}"))?,
            None => {
                let stored = |table: &str, row: &Row| moment.stored.get(table)?.get(row).map(Arc::clone);
                naive_hydration(&evaluation, &moment.snapshot.version, &stored, &mut rng)?
            }
        };
        check_hydration(&evaluation, &hydration).map_err(|failure| format!("hydration: {failure}"))?;
        Ok(hydration)
    }

    pub(super) fn start<'a>(&mut self, ast: &'a Ast, place: usize, moment: &Moment) -> Result<Live<'a>, Failure> {
        let query = Arc::new(Query::resolve(ast, &moment.schema).map_err(|error| format!("resolving: {error}"))?);
        check_nodes(&self.evaluation(ast, moment)?, &query)?;
        check_sql(&self.evaluation(ast, moment)?, &query, moment)?;
        let hydration = self.hydrate(ast, &query, moment)?;
        self.compared.hydrations += 1;
        self.compared.with_rows += usize::from(!hydration.nodes[0].is_empty());
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

    pub(super) fn commit(
        &mut self,
        writer: &mut Writer,
        step: usize,
        transaction: &Transaction,
    ) -> Result<Commit, Failure> {
        let version = format!("{:02}", step + 1);
        let commit =
            apply_to_replica(self.data, writer, &version, transaction).map_err(|error| format!("writing: {error}"))?;
        self.database.apply(transaction);
        Ok(commit)
    }

    /// Lets the catalogue take a commit, on one thread or on two.
    pub(super) fn route(&mut self, step: usize, commit: &Commit, moment: &Moment) -> Result<Routed, Failure> {
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
    pub(super) fn advance(
        &mut self,
        live: &mut Live<'_>,
        step: usize,
        commit: &Commit,
        routed: &mut Routed,
        moment: &Moment,
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
                self.compared.rehydrated += 1;
                let hydration = self.hydrate(live.ast, &live.query, moment)?;
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
        self.compared.changes += delta.changes.len();
        live.view.apply(&delta, composed)?;
        Ok(true)
    }

    /// Compares a query that stands at the moment.
    pub(super) fn compare(&mut self, live: &Live<'_>, moment: &Moment, hydrate: bool) -> Result<(), Failure> {
        self.compared.steps += 1;
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
            if self.options.hydrate.is_some() {
                self.hydrate(live.ast, &live.query, moment)?;
                self.compared.hydrations += 1;
            }
        }
        Ok(())
    }
}
