//! Which queries of a group run, and how they come to run: transformation, permissions, subscription.
//!
//! Everything that one message asks for becomes one [`Batch`]: when all its queries are answered, the
//! clients get them in one poke. Batches reach the clients one after the other until the group is synced, so
//! that a group that starts again shows one consistent state; after that, each as soon as it is complete.

use std::sync::Arc;
use std::time::Duration;

use cvr::record::Body;
use cvr::row::QueryId;
use cvr::ttl;
use engine::commit::Version;
use engine::graph::{AnswerRow, DeltaComposer, QueryDelta};
use engine::query::Query;
use rustc_hash::{FxHashMap, FxHashSet};
use tokio::time::Instant;
use views::{Event, HydrateFailure};
use zql_spec::ast::Ast;
use zql_spec::client_schema::{self, ClientSchema, ClientSchemaError};
use zql_spec::hash;
use zql_spec::json::Json;
use zql_spec::protocol::downstream::{Downstream, QueryError};
use zql_spec::protocol::error::{ErrorBody, ErrorKind, ErrorReason};
use zql_spec::static_params::StaticParams;

use super::clients::Client;
use super::tables::Tables;
use super::{BEHIND_RETRY, Called, Fault, Group, now_ms};
use crate::api::{Answer, Caller, NamedQuery, QueryResult};
use crate::inspect::QueryTimes;
use crate::permissions::{Permissions, live};
use crate::replica;

/// How long a transformed query is not asked for again: a page that connects asks for the same several times.
const CACHE_FOR: Duration = Duration::from_secs(5);

/// Which named queries are transformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// All: the user may be another one.
    All,
    /// All, whatever was answered a moment ago: somebody wants to know what is true now.
    Fresh,
    /// Those that do not run.
    Missing,
    /// Those that clients wrote themselves: other permissions are in force.
    Own,
}

/// A query that is subscribed.
#[derive(Debug)]
pub(super) struct Running {
    /// Identifies what was subscribed.
    pub(super) hash: Arc<str>,
    pub(super) ast: Arc<Ast>,
    /// For the inspector.
    pub(super) times: QueryTimes,
    /// Whether its answer reached the record; before that its changes wait in a batch.
    pub(super) live: bool,
}

/// A transformed query.
#[derive(Debug)]
pub(super) struct Cached {
    caller: Caller,
    at: Instant,
    hash: Arc<str>,
    ast: Arc<Ast>,
}

/// Queries that are to reach the clients together.
#[derive(Debug)]
pub(super) struct Batch {
    id: u64,
    /// The connection that asked, to be told of failures.
    requester: Option<u64>,
    /// Named queries that are being transformed.
    calling: FxHashSet<QueryId>,
    /// Queries that are being answered.
    hydrating: FxHashSet<QueryId>,
    /// Queries that are answered.
    pub(super) answers: Vec<(QueryId, Answered)>,
    /// Queries that expired or were refused.
    pub(super) removed: Vec<QueryId>,
}

/// A query's answer, kept current while it waits.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) rows: Arc<[AnswerRow]>,
    pub(super) since: Option<DeltaComposer>,
}

/// What the query API answered for a batch.
#[derive(Debug)]
pub(super) struct Transformed {
    batch: u64,
    requester: Option<u64>,
    /// The connection whose credentials were used.
    behalf: Option<u64>,
    mode: Mode,
    caller: Caller,
    asked: Vec<QueryId>,
    answer: Result<Answer, ErrorBody>,
}

impl Group {
    /// Brings what runs in line with what the record says, and sends what is complete.
    pub(super) async fn sync_queries(&mut self, requester: Option<u64>, mode: Mode) -> Result<(), Fault> {
        self.start_queries(requester, mode).await?;
        self.finish_batches().await
    }

    /// Starts what the record says should run, as one batch, and stops what expired.
    pub(super) async fn start_queries(&mut self, requester: Option<u64>, mode: Mode) -> Result<(), Fault> {
        let clock = self.clock.read(now_ms());
        let speaker = self.speaker(requester);
        let behalf = speaker.map(|client| client.connection.id);
        let caller = speaker.map(|client| client.caller.clone()).unwrap_or_default();
        let claims = speaker.and_then(|client| client.claims.clone());
        if mode == Mode::Fresh {
            self.background = behalf;
        }
        let Some(record) = &self.record else { return Ok(()) };
        let cvr = record.cvr.clone();
        let expired = ttl::expired(&cvr, clock);
        let id = self.next_batch;
        self.next_batch += 1;
        let mut batch = Batch {
            id,
            requester,
            calling: FxHashSet::default(),
            hydrating: FxHashSet::default(),
            answers: Vec::new(),
            removed: Vec::new(),
        };
        for query in &expired {
            self.stop(query);
            batch.removed.push(Arc::clone(query));
        }
        let called: FxHashSet<QueryId> =
            self.batches.iter().flat_map(|batch| batch.calling.iter().map(Arc::clone)).collect();
        let mut to_call = Vec::new();
        let mut permissions = None;
        let mut faults = Vec::new();
        for (query_id, query) in cvr.queries.iter().filter(|(query_id, _)| !expired.contains(query_id)) {
            let runs = self.running.contains_key(query_id);
            let local = match &query.body {
                Body::Internal(text) if !runs => internal(text),
                Body::Ast(text) if !runs || mode != Mode::Missing => {
                    if permissions.is_none() {
                        permissions = Some(
                            live::current(&self.services.permissions).await.map_err(|error| Fault::internal(&error))?,
                        );
                    }
                    permitted(text, permissions.as_deref(), claims.as_deref())
                }
                Body::Custom { name, args } => {
                    let missing = !runs && !called.contains(query_id);
                    if self.services.api.is_some() && (matches!(mode, Mode::All | Mode::Fresh) || missing) {
                        match self.cached(query_id, &caller).filter(|_| mode != Mode::Fresh) {
                            Some((hash, ast)) => Ok((hash, ast)),
                            None => {
                                let (name, args) = (Arc::clone(name), Arc::clone(args));
                                to_call.push(NamedQuery { id: Arc::clone(query_id), name, args });
                                continue;
                            }
                        }
                    } else {
                        continue;
                    }
                }
                Body::Internal(_) | Body::Ast(_) => continue,
            };
            let added = local.and_then(|(hash, ast)| self.add(&mut batch, query_id, hash, ast));
            if let Err(message) = added {
                faults.push((Arc::clone(query_id), message));
            }
        }
        if !to_call.is_empty() {
            batch.calling = to_call.iter().map(|query| Arc::clone(&query.id)).collect();
            let asked = batch.calling.iter().map(Arc::clone).collect();
            let services = Arc::clone(&self.services);
            self.calls.spawn(async move {
                let answer = match &services.api {
                    Some(api) => api.transform(&caller, &to_call).await,
                    None => Ok(Answer::default()),
                };
                Called::Transformed(Transformed { batch: id, requester, behalf, mode, caller, asked, answer })
            });
        }
        self.batches.push(batch);
        for (query_id, message) in faults {
            self.query_failed(&query_id, requester, &message)?;
        }
        Ok(())
    }

    /// The query API answered.
    pub(super) async fn on_transformed(&mut self, transformed: Transformed) -> Result<(), Fault> {
        let Transformed { batch: id, requester, behalf, mode, caller, asked, answer } = transformed;
        let Some(position) = self.batches.iter().position(|batch| batch.id == id) else { return Ok(()) };
        let mut batch = self.batches.remove(position);
        batch.calling.clear();
        let mut refused = None;
        // An answer for a token that was replaced meanwhile is out of date: all was asked again with the new one.
        let stale = behalf.and_then(|id| self.client(id)).is_some_and(|client| client.caller != caller);
        let outcome = match answer {
            _ if stale => Ok(()),
            Ok(answer) => match behalf.map_or(Ok(()), |id| self.check_user(id, &answer)) {
                Ok(()) => self.take_results(&mut batch, &caller, &asked, answer, requester),
                // A user who is another one now: not a failure of the queries.
                Err(fault) => {
                    refused = Some(fault);
                    Ok(())
                }
            },
            Err(error) => match requester.filter(|&id| self.position(id).is_some()) {
                Some(requester) => Err(Fault::client(requester, error)),
                None if mode == Mode::Fresh && error.is_auth() => {
                    refused = behalf.map(|id| Fault::client(id, error));
                    Ok(())
                }
                None => {
                    tracing::warn!(group = &*self.id, message = error.message, "queries could not be transformed");
                    Ok(())
                }
            },
        };
        self.batches.insert(position, batch);
        let outcome = outcome.or_else(|fault| self.on_fault(fault));
        outcome?;
        if let Some(fault) = refused {
            // Somebody else of the group may still be known.
            self.on_fault(fault)?;
            self.retransform().await?;
        }
        self.finish_batches().await
    }

    fn take_results(
        &mut self,
        batch: &mut Batch,
        caller: &Caller,
        asked: &[QueryId],
        answer: Answer,
        requester: Option<u64>,
    ) -> Result<(), Fault> {
        let mut errors: Vec<QueryError> = Vec::new();
        let mut failed = Vec::new();
        for result in answer.results {
            match result {
                QueryResult::Error(error) => errors.push(error),
                QueryResult::Ast { id, ast } => {
                    let Some(query_id) = asked.iter().find(|asked| ***asked == *id) else { continue };
                    let parsed = Json::parse(ast.get()).map_err(|error| error.to_string()).and_then(|json| {
                        let ast = Ast::parse_lenient(&json).map_err(|error| error.to_string())?;
                        Ok((Arc::<str>::from(hash::ast_hash(&json)), Arc::new(ast)))
                    });
                    match parsed {
                        Ok((hash, ast)) => {
                            let at = Instant::now();
                            self.cached.retain(|_, cached| cached.at.elapsed() < CACHE_FOR);
                            let cached =
                                Cached { caller: caller.clone(), at, hash: Arc::clone(&hash), ast: Arc::clone(&ast) };
                            self.cached.insert(Arc::clone(query_id), cached);
                            if let Err(message) = self.add(batch, query_id, hash, ast) {
                                failed.push((Arc::clone(query_id), message));
                            }
                        }
                        Err(detail) => {
                            let message = format!("Failed to parse response from API server: {detail}");
                            let ids = asked.iter().map(ToString::to_string).collect();
                            let error = ErrorBody::transform_failed(ErrorReason::Parse, message, ids);
                            if let Some(requester) = requester {
                                return Err(Fault::client(requester, error));
                            }
                        }
                    }
                }
            }
        }
        self.refuse(batch, &errors);
        for (query_id, message) in failed {
            self.query_failed(&query_id, requester, &message)?;
        }
        Ok(())
    }

    /// Tells the clients that wanted them of refused queries, and takes those out of the record.
    fn refuse(&mut self, batch: &mut Batch, errors: &[QueryError]) {
        let Some(record) = &self.record else { return };
        let cvr = record.cvr.clone();
        for client in &self.clients {
            let own: Vec<QueryError> = errors
                .iter()
                .filter(|error| {
                    cvr.queries
                        .get(error.id.as_str())
                        .is_some_and(|query| query.clients.contains_key(&client.connection.client_id))
                })
                .cloned()
                .collect();
            if !own.is_empty() {
                client.connection.outbox.send_one(&Downstream::TransformError(own));
            }
        }
        for error in errors {
            if let Some((query_id, _)) = cvr.queries.get_key_value(error.id.as_str()) {
                self.stop(query_id);
                if !batch.removed.contains(query_id) {
                    batch.removed.push(Arc::clone(query_id));
                }
            }
        }
    }

    /// Subscribes a query in place of what ran under its id, unless that is the same. The error is for people.
    fn add(&mut self, batch: &mut Batch, query_id: &QueryId, hash: Arc<str>, ast: Arc<Ast>) -> Result<(), String> {
        // The reference's hash does not tell a filter that is always false from none, which permissions must.
        if self.running.get(query_id).is_some_and(|running| running.hash == hash && running.ast == ast) {
            return Ok(());
        }
        // The query may be gone from the record by the time the API answers.
        if self.record.as_ref().is_none_or(|record| !record.cvr.queries.contains_key(query_id)) {
            return Ok(());
        }
        let Some(tables) = &self.tables else { return Ok(()) };
        let query = Query::resolve(&ast, &tables.schema).map_err(|error| error.to_string())?;
        self.stop(query_id);
        self.mailbox.subscribe(Arc::clone(query_id), Arc::new(query));
        self.running.insert(Arc::clone(query_id), Running { hash, ast, times: QueryTimes::start(), live: false });
        batch.hydrating.insert(Arc::clone(query_id));
        Ok(())
    }

    /// Ends a query's subscription. What the clients hold of it is not touched.
    fn stop(&mut self, query_id: &QueryId) {
        if self.running.remove(query_id).is_some() {
            self.mailbox.unsubscribe(query_id);
        }
        for batch in &mut self.batches {
            batch.hydrating.remove(query_id);
            batch.answers.retain(|(answered, _)| answered != query_id);
        }
    }

    /// A query cannot be answered: tells whoever asked, or else whoever wants it.
    fn query_failed(&mut self, query_id: &QueryId, requester: Option<u64>, message: &str) -> Result<(), Fault> {
        let error = || ErrorBody::new(ErrorKind::Internal, message);
        let record = self.record()?;
        let Some(query) = record.cvr.queries.get(query_id).cloned() else { return Ok(()) };
        if query.body.is_internal() {
            return Err(Fault::group(error()));
        }
        let concerned: Vec<u64> = self
            .clients
            .iter()
            .filter(|client| {
                let desire = query.clients.get(&client.connection.client_id);
                requester == Some(client.connection.id) || desire.is_some_and(|desire| desire.inactivated_at.is_none())
            })
            .map(|client| client.connection.id)
            .collect();
        // Only the one who asked, if it is still there: the others had it running, or get their own answer.
        let concerned = match requester.filter(|id| concerned.contains(id)) {
            Some(requester) => vec![requester],
            None => concerned,
        };
        for id in concerned {
            self.on_fault(Fault::client(id, error()))?;
        }
        Ok(())
    }

    /// Something happened to the running queries.
    pub(super) async fn on_view(&mut self, event: Event) -> Result<(), Fault> {
        match event {
            Event::Hydrated { query_id, version, rows } => {
                self.heard(&version);
                if let Some(running) = self.running.get_mut(&query_id) {
                    running.times.answered(&mut self.times);
                }
                if let Some(batch) = self.hydrating_in(&query_id) {
                    batch.answers.push((query_id, Answered { rows, since: None }));
                }
                self.finish_batches().await
            }
            Event::HydrateFailed { query_id, error } => {
                self.running.remove(&query_id);
                let batch = self.hydrating_in(&query_id);
                let requester = batch.and_then(|batch| batch.requester);
                let (HydrateFailure::Query(message) | HydrateFailure::Internal(message)) = error;
                self.query_failed(&query_id, requester, &message)?;
                self.finish_batches().await
            }
            Event::Advanced { version, deltas } => {
                self.heard(&version);
                let mut live: Vec<(QueryId, Arc<QueryDelta>)> = Vec::with_capacity(deltas.len());
                for (query_id, delta) in deltas {
                    match self.running.get(&query_id) {
                        Some(running) if running.live => live.push((query_id, delta)),
                        Some(_) => self.hold_back(&query_id, &delta),
                        None => {}
                    }
                }
                let arrived = std::time::Instant::now();
                self.advance(version, &live).await?;
                for (query_id, _) in &live {
                    if let Some(running) = self.running.get_mut(query_id) {
                        running.times.updated(arrived, &mut self.times);
                    }
                }
                Ok(())
            }
            Event::SchemaChanged { version, .. } => {
                self.heard(&version);
                self.tables = None;
                self.prepare_tables()?;
                self.subscribe_again();
                self.finish_batches().await
            }
            Event::Failed => {
                self.subscribe_again();
                Ok(())
            }
        }
    }

    /// The batch that waits for a query, which no longer does.
    fn hydrating_in(&mut self, query_id: &QueryId) -> Option<&mut Batch> {
        let batch = self.batches.iter_mut().find(|batch| batch.hydrating.contains(query_id))?;
        batch.hydrating.remove(query_id);
        Some(batch)
    }

    /// Remembers the newest version.
    fn heard(&mut self, version: &Version) {
        if *version > self.head {
            self.head = Arc::clone(version);
        }
    }

    /// Keeps an answer current that waits in a batch.
    fn hold_back(&mut self, query_id: &QueryId, delta: &QueryDelta) {
        let answers = self.batches.iter_mut().flat_map(|batch| &mut batch.answers);
        if let Some((_, answered)) = answers.into_iter().find(|(id, _)| id == query_id) {
            match &mut answered.since {
                Some(since) => since.add(delta),
                None => answered.since = Some(DeltaComposer::new(delta)),
            }
        }
    }

    /// Sends the batches that are complete to the clients.
    pub(super) async fn finish_batches(&mut self) -> Result<(), Fault> {
        loop {
            let ready = |batch: &Batch| batch.calling.is_empty() && batch.hydrating.is_empty();
            let position = match self.synced {
                true => self.batches.iter().position(ready),
                // The first batch brings the group to where its clients expect it.
                false => self.batches.first().filter(|batch| ready(batch)).map(|_| 0),
            };
            let Some(position) = position else { return Ok(()) };
            if !self.batches[position].answers.is_empty() && self.is_behind_record() {
                self.retry_at = Some(Instant::now() + BEHIND_RETRY);
                return Ok(());
            }
            let batch = self.batches.remove(position);
            self.synced = true;
            self.finish_batch(batch).await?;
        }
    }

    /// Whether the replica has not come as far as the record: it was restored from an older copy and will
    /// catch up. Clients are not told anything until it has.
    fn is_behind_record(&self) -> bool {
        self.record.as_ref().is_some_and(|record| *self.head < *record.cvr.version.state.as_str())
    }

    /// Subscribes everything that ran anew, as one batch; the record tells what changed meanwhile.
    pub(super) fn subscribe_again(&mut self) {
        let running = std::mem::take(&mut self.running);
        let id = self.next_batch;
        self.next_batch += 1;
        let mut again = Batch {
            id,
            requester: None,
            calling: FxHashSet::default(),
            hydrating: FxHashSet::default(),
            answers: Vec::new(),
            removed: Vec::new(),
        };
        for batch in &mut self.batches {
            batch.hydrating.clear();
            batch.answers.clear();
            again.removed.append(&mut batch.removed);
        }
        for (query_id, Running { hash, ast, .. }) in running {
            self.mailbox.unsubscribe(&query_id);
            if let Err(message) = self.add(&mut again, &query_id, hash, ast)
                && let Err(fault) = self.query_failed(&query_id, None, &message)
            {
                tracing::warn!(group = &*self.id, ?fault, "a query cannot be answered any more");
            }
        }
        self.synced = false;
        self.batches.insert(0, again);
    }

    /// Takes out the queries that expired.
    pub(super) async fn evict(&mut self) -> Result<(), Fault> {
        let clock = self.clock.read(now_ms());
        if self.record.as_ref().is_some_and(|record| !ttl::expired(&record.cvr, clock).is_empty()) && self.synced {
            self.sync_queries(None, Mode::Missing).await?;
        }
        self.schedule_eviction();
        Ok(())
    }

    /// Checks the client schema against the replica and prepares the tables, unless that is done.
    pub(super) fn prepare_tables(&mut self) -> Result<(), Fault> {
        if self.tables.is_some() {
            return Ok(());
        }
        let record = self.record()?;
        let Some(schema) = record.cvr.client_schema.clone() else { return Ok(()) };
        let unsupported = |message: String| Fault::group(ErrorBody::new(ErrorKind::SchemaVersionNotSupported, message));
        let parsed = Json::parse(&schema.to_string())
            .map_err(|error| error.to_string())
            .and_then(|json| ClientSchema::parse_lenient(&json).map_err(|error| error.to_string()));
        let client_schema =
            parsed.map_err(|error| unsupported(format!("Could not parse clientSchema stored in CVR: {error}")))?;
        let config = &self.services.config;
        let replicated = replica::replicated_tables(&self.services.replica, &config.app_id, &config.shard());
        client_schema::check(&client_schema, &replicated).map_err(|error| match error {
            ClientSchemaError::NothingReplicated => Fault::internal(&error),
            ClientSchemaError::NotSupported(message) => unsupported(message),
        })?;
        let schema = client_schema.apply_keys(&self.services.replica.schema());
        self.tables = Some(Tables::new(Arc::new(schema), &self.services.config.shard()));
        Ok(())
    }

    /// For whom queries are transformed: the connection that asks, else the one that did before, else the newest one.
    fn speaker(&self, requester: Option<u64>) -> Option<&Client> {
        let find = |id: Option<u64>| self.clients.iter().find(|client| Some(client.connection.id) == id);
        let newest = || {
            let admitted = self.clients.iter().filter(|client| !client.is_joining());
            admitted.max_by_key(|client| client.connection.id)
        };
        find(requester).or_else(|| find(self.background)).or_else(newest)
    }

    fn cached(&self, query_id: &QueryId, caller: &Caller) -> Option<(Arc<str>, Arc<Ast>)> {
        let cached = self.cached.get(query_id)?;
        let fresh = cached.at.elapsed() < CACHE_FOR && cached.caller == *caller;
        fresh.then(|| (Arc::clone(&cached.hash), Arc::clone(&cached.ast)))
    }
}

impl Answered {
    /// The answer's rows now, each once: count, and the row.
    pub(super) fn for_each(
        self,
        mut take: impl FnMut(&Arc<str>, &engine::commit::Key, u32, &Arc<engine::commit::StoredRow>),
    ) {
        let Some(since) = self.since else {
            for row in &*self.rows {
                take(&row.table, &row.key, row.count, &row.row);
            }
            return;
        };
        let mut changes: FxHashMap<_, _> = since
            .finish()
            .changes
            .into_iter()
            .map(|change| ((Arc::clone(&change.table), change.key.clone()), change))
            .collect();
        for row in &*self.rows {
            match changes.remove(&(Arc::clone(&row.table), row.key.clone())) {
                None => take(&row.table, &row.key, row.count, &row.row),
                Some(change) if change.after > 0 => {
                    take(&row.table, &row.key, change.after, change.row.as_ref().unwrap_or(&row.row));
                }
                Some(_) => {}
            }
        }
        for change in changes.into_values().filter(|change| change.after > 0) {
            if let Some(row) = &change.row {
                take(&change.table, &change.key, change.after, row);
            }
        }
    }
}

/// One of the server's own queries.
fn internal(text: &str) -> Result<(Arc<str>, Arc<Ast>), String> {
    let json = Json::parse(text).map_err(|error| error.to_string())?;
    let ast = Ast::parse_lenient(&json).map_err(|error| error.to_string())?;
    Ok((hash::ast_hash(&json).into(), Arc::new(ast)))
}

/// A client's own AST, narrowed to what may be read.
fn permitted(
    text: &str,
    permissions: Option<&Permissions>,
    claims: Option<&Json>,
) -> Result<(Arc<str>, Arc<Ast>), String> {
    let json = Json::parse(text).map_err(|error| error.to_string())?;
    let mut ast = Ast::parse_lenient(&json).map_err(|error| error.to_string())?;
    match permissions {
        Some(permissions) => permissions.apply(&mut ast),
        None => Permissions::default().apply(&mut ast),
    }
    // Without claims a rule that needs one finds nothing.
    StaticParams { auth_data: claims, pre_mutation_row: None }.bind(&mut ast);
    Ok((hash::transformation_hash(&ast).into(), Arc::new(ast)))
}
