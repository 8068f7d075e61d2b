//! The planner and the engine, without a server: hydration by DataFusion, then a graph that advances by commits.
//!
//! One replica a data set; a case's transactions are undone by commits, so a graph always starts in the same state. Besides
//! the answer, the rows held by each node are compared with the naive evaluator's, so that a witness too many shows.

use std::collections::BTreeMap;
use std::sync::Arc;

use engine::commit::Key;
use engine::graph::{AdvanceError, Graph, ReplicaRead, hydrated_rows};
use engine::hydration::Hydrate;
use engine::replica::{Replica, Snapshot};
use planner::Planner;
use testdata::world::oracle::{Rows, check_graph};
use testdata::world::{apply_to_replica, create_replica, definition};
use zql_spec::conformance::{Backend, BackendError, DataSet, Held, Query, Reply};
use zql_spec::naive::{Database, Evaluation, Operation, Row};

use crate::client;
use crate::undo::undo;

/// The planner and the engine.
#[derive(Default)]
pub(crate) struct InProcess {
    planner: Planner,
    world: Option<World>,
    running: Option<Running>,
}

struct World {
    data: Arc<DataSet>,
    replica: Arc<Replica>,
    database: Database,
    commits: u64,
    _folder: tempfile::TempDir,
}

struct Running {
    query: Query,
    resolved: Arc<engine::query::Query>,
    graph: Graph,
    /// What a client has: a row by table and key.
    held: BTreeMap<(Arc<str>, Key), Row>,
}

impl Running {
    fn rows(&self) -> Held {
        let mut rows = Held::new();
        for ((table, _), row) in &self.held {
            rows.entry(Arc::clone(table)).or_default().push(Arc::clone(row));
        }
        rows
    }
}

fn broken(what: &str, error: impl std::fmt::Display) -> BackendError {
    BackendError(format!("{what}: {error}"))
}

impl World {
    fn new(data: &Arc<DataSet>) -> Result<World, BackendError> {
        let folder = tempfile::tempdir().map_err(|error| broken("a folder", error))?;
        let replica = create_replica(definition(data), &data.database, &folder.path().join("replica.db"))
            .map_err(|error| broken("creating the replica", error))?;
        Ok(World { data: Arc::clone(data), replica, database: data.database.clone(), commits: 0, _folder: folder })
    }

    fn pin(&self) -> Result<Arc<Snapshot>, BackendError> {
        self.replica.pin().map_err(|error| broken("pinning", error))
    }

    fn commit(&mut self, transaction: &[Operation]) -> Result<engine::commit::Commit, BackendError> {
        self.commits += 1;
        let version = zql_spec::version::encode(u128::from(self.commits));
        let mut writer = self.replica.writer().map_err(|error| broken("the writer", error))?;
        let commit = apply_to_replica(definition(&self.data), &mut writer, &version, transaction)
            .map_err(|error| broken("writing", error))?;
        self.database.apply(transaction);
        Ok(commit)
    }
}

impl InProcess {
    fn reply(&self) -> Result<Reply, BackendError> {
        let (Some(world), Some(running)) = (&self.world, &self.running) else {
            return Err(BackendError("no query was asked".into()));
        };
        let evaluation = Evaluation::new(&world.database, &running.query.ast).map_err(|error| BackendError(error.0))?;
        let rows = Rows::new(&world.database, &world.data.schema);
        check_graph(&evaluation, &running.graph, &world.data.schema, &rows)
            .map_err(|failure| broken("the rows of a node", failure))?;
        client::answer(&world.data, &running.query, &running.rows()).map(Reply::Answer)
    }
}

impl Backend for InProcess {
    fn name(&self) -> &str {
        "in-process"
    }

    fn begin(&mut self, data: &Arc<DataSet>, query: &Query) -> Result<Reply, BackendError> {
        if self.world.as_ref().is_none_or(|world| world.data.name != data.name) {
            self.world = Some(World::new(data)?);
        }
        let Some(world) = &self.world else { return Err(BackendError("no replica".into())) };
        let snapshot = world.pin()?;
        let resolved = match engine::query::Query::resolve(&query.ast, &snapshot.schema) {
            Ok(resolved) => Arc::new(resolved),
            Err(error) => return Ok(Reply::Refused(error.to_string())),
        };
        let hydration =
            self.planner.hydrate(&resolved, &snapshot).map_err(|error| broken("hydrating", format!("{error:?}")))?;
        let answer = hydrated_rows(&resolved, &hydration);
        let held = answer.into_iter().map(|row| ((row.table, row.key), Row::from(&row.row.values[..]))).collect();
        let graph = Graph::new(Arc::clone(&resolved), &hydration);
        self.running = Some(Running { query: query.clone(), resolved, graph, held });
        self.reply()
    }

    fn step(&mut self, transaction: &[Operation], _: &Database) -> Result<Reply, BackendError> {
        let (Some(world), Some(running)) = (&mut self.world, &mut self.running) else {
            return Err(BackendError("no query was asked".into()));
        };
        let commit = world.commit(transaction)?;
        let snapshot = world.pin()?;
        let mut read = ReplicaRead::new(snapshot.reader().map_err(|error| broken("reading", error))?);
        let delta = match running.graph.advance(&commit, &mut read) {
            Ok(delta) => delta,
            Err(AdvanceError::HydrateInstead) => {
                let hydration = self.planner.hydrate(&running.resolved, &snapshot);
                running.graph.rehydrated(&hydration.map_err(|error| broken("hydrating", format!("{error:?}")))?)
            }
            Err(AdvanceError::Read(error)) => return Err(broken("advancing", error)),
        };
        for change in delta.changes {
            let at = (change.table, change.key);
            if change.after == 0 {
                running.held.remove(&at);
            } else if let Some(row) = change.row {
                running.held.insert(at, Row::from(&row.values[..]));
            }
        }
        self.reply()
    }

    fn held(&self) -> Option<Held> {
        self.running.as_ref().map(Running::rows)
    }

    fn end(&mut self) -> Result<(), BackendError> {
        self.running = None;
        let Some(world) = &mut self.world else { return Ok(()) };
        let back = undo(&world.database, &world.data.database);
        if !back.is_empty() {
            world.commit(&back)?;
        }
        Ok(())
    }
}
