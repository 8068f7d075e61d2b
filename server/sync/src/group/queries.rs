//! Which queries of a group run, and how they come to run and to end.
//!
//! Everything that one message asks for becomes one [`Batch`]: when all its queries are answered, the
//! clients get them in one poke. Batches reach the clients one after the other until the group is synced, so
//! that a group that starts again shows one consistent state; after that, each as soon as it is complete.

use std::sync::Arc;
use std::time::Duration;

use cvr::record::{Body, Counts};
use cvr::row::QueryId;
use cvr::ttl;
use engine::query::Query;
use rustc_hash::FxHashSet;
use tokio::time::Instant;
use zql_spec::ast::Ast;
use zql_spec::hash;
use zql_spec::json::Json;
use zql_spec::protocol::error::{ErrorBody, ErrorKind};

use super::answers::Answered;
use super::clients::Client;
use super::counts::counts;
use super::permissions::{PERMISSIONS, permitted};
use super::transform::Call;
use super::{Fault, Group};
use crate::api::NamedQuery;
use crate::inspect::QueryTimes;

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

/// How often a query may be replaced by another one under its id before somebody should look: each time it is answered anew.
const THRASHING: u32 = 3;

/// Within this time.
const THRASHING_WITHIN: Duration = Duration::from_secs(60);

/// How often a query was replaced.
#[derive(Clone, Copy, Debug)]
pub(super) struct Replaced {
    since: Instant,
    times: u32,
}

impl Replaced {
    fn none(now: Instant) -> Self {
        Replaced { since: now, times: 0 }
    }

    /// Once more.
    fn again(self, now: Instant) -> Self {
        let last = if now.duration_since(self.since) > THRASHING_WITHIN { Replaced::none(now) } else { self };
        Replaced { times: last.times + 1, ..last }
    }
}

/// A query that is subscribed.
#[derive(Debug)]
pub(super) struct Running {
    /// Identifies what was subscribed.
    pub(super) hash: Arc<str>,
    pub(super) ast: Arc<Ast>,
    /// How its rows are counted.
    pub(super) counts: Counts,
    /// For the inspector.
    pub(super) times: QueryTimes,
    /// How often it took the place of another one of late.
    pub(super) replaced: Replaced,
    /// Whether its answer reached the record; before that its changes wait in a batch.
    pub(super) live: bool,
}

/// Queries that are to reach the clients together.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) id: u64,
    /// The connection that asked, to be told of failures.
    pub(super) requester: Option<u64>,
    /// Named queries that are being transformed.
    pub(super) calling: FxHashSet<QueryId>,
    /// Queries that clients wrote themselves, until it is known what is permitted.
    pub(super) unpermitted: FxHashSet<QueryId>,
    /// Queries that are being answered.
    pub(super) hydrating: FxHashSet<QueryId>,
    /// Queries that are answered.
    pub(super) answers: Vec<(QueryId, Answered)>,
    /// Queries that expired or were refused.
    pub(super) removed: Vec<QueryId>,
}

impl Batch {
    /// Whether nothing is missing.
    pub(super) fn is_complete(&self) -> bool {
        self.calling.is_empty() && self.unpermitted.is_empty() && self.hydrating.is_empty()
    }
}

impl Group {
    /// Brings what runs in line with what the record says, and sends what is complete.
    pub(super) async fn sync_queries(&mut self, requester: Option<u64>, mode: Mode) -> Result<(), Fault> {
        self.start_queries(requester, mode).await?;
        self.finish_batches().await
    }

    /// Starts what the record says should run, as one batch, and stops what expired.
    pub(super) async fn start_queries(&mut self, requester: Option<u64>, mode: Mode) -> Result<(), Fault> {
        let clock = self.ttl_clock();
        let speaker = self.speaker(requester);
        let behalf = speaker.map(|client| client.connection.id);
        let caller = speaker.map(|client| client.caller.clone());
        let claims = speaker.and_then(|client| client.claims.clone());
        if mode == Mode::Fresh {
            self.background = behalf;
        }
        let Some(record) = &self.record else { return Ok(()) };
        let cvr = record.cvr.clone();
        let expired = ttl::expired(&cvr, clock);
        let mut batch = self.new_batch(requester);
        for query in &expired {
            self.stop(query);
            batch.removed.push(Arc::clone(query));
        }
        let called: FxHashSet<QueryId> =
            self.batches.iter().flat_map(|batch| batch.calling.iter().map(Arc::clone)).collect();
        let mut to_call = Vec::new();
        let mut faults = Vec::new();
        for (query_id, query) in cvr.queries.iter().filter(|(query_id, _)| !expired.contains(query_id)) {
            let runs = self.running.contains_key(query_id);
            let local = match &query.body {
                Body::Internal(text) if !runs => internal(text),
                Body::Ast(text) if !runs || mode != Mode::Missing => match self.in_force()? {
                    Some(permissions) => permitted(text, &permissions, claims.as_deref()),
                    None => {
                        batch.unpermitted.insert(Arc::clone(query_id));
                        continue;
                    }
                },
                Body::Custom { name, args } => {
                    let missing = !runs && !called.contains(query_id);
                    // Without anybody to speak for, whoever joins next starts all queries: nobody's answer is not theirs.
                    let Some(caller) = &caller else { continue };
                    if self.services.api.is_none() || !(matches!(mode, Mode::All | Mode::Fresh) || missing) {
                        continue;
                    }
                    match self.cached(query_id, caller).filter(|_| mode != Mode::Fresh) {
                        Some((hash, ast)) => Ok((hash, ast)),
                        None => {
                            let (name, args) = (Arc::clone(name), Arc::clone(args));
                            to_call.push(NamedQuery { id: Arc::clone(query_id), name, args });
                            continue;
                        }
                    }
                }
                Body::Internal(_) | Body::Ast(_) => continue,
            };
            let added = local.and_then(|(hash, ast)| self.add(&mut batch, query_id, hash, ast));
            if let Err(message) = added {
                faults.push((Arc::clone(query_id), message));
            }
        }
        if let Some(caller) = caller.filter(|_| !to_call.is_empty()) {
            batch.calling = to_call.iter().map(|query| Arc::clone(&query.id)).collect();
            self.call(&batch, Call { behalf, mode, caller }, to_call);
        }
        self.batches.push(batch);
        for (query_id, message) in faults {
            self.query_failed(&query_id, requester, &refusal(message))?;
        }
        self.permit_waiting()
    }

    fn new_batch(&mut self, requester: Option<u64>) -> Batch {
        let id = self.next_batch;
        self.next_batch += 1;
        Batch { id, requester, ..Batch::default() }
    }

    /// Subscribes a query in place of what ran under its id, unless that is the same. The error is for people.
    pub(super) fn add(
        &mut self,
        batch: &mut Batch,
        query_id: &QueryId,
        hash: Arc<str>,
        ast: Arc<Ast>,
    ) -> Result<(), String> {
        if **query_id == *PERMISSIONS {
            return Err(format!("a query cannot have the hash {query_id:?}"));
        }
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
        let now = self.services.clock.now();
        let replaced =
            self.running.get(query_id).map_or_else(|| Replaced::none(now), |running| running.replaced.again(now));
        if replaced.times == THRASHING {
            tracing::warn!(
                group = &*self.id,
                query = &**query_id,
                hash = &*hash,
                "Query thrashing detected: it is another one every time that it is transformed"
            );
        }
        self.stop(query_id);
        let counts = counts(&query);
        self.mailbox.subscribe(Arc::clone(query_id), Arc::new(query));
        let running = Running { hash, ast, counts, times: QueryTimes::start(), replaced, live: false };
        self.running.insert(Arc::clone(query_id), running);
        batch.hydrating.insert(Arc::clone(query_id));
        Ok(())
    }

    /// Ends a query's subscription. What the clients hold of it is not touched.
    pub(super) fn stop(&mut self, query_id: &QueryId) {
        if self.running.remove(query_id).is_some() {
            self.mailbox.unsubscribe(query_id);
        }
        for batch in &mut self.batches {
            batch.unpermitted.remove(query_id);
            batch.hydrating.remove(query_id);
            batch.answers.retain(|(answered, _)| answered != query_id);
        }
    }

    /// A query cannot be answered. Tells whoever asked, and remembers to start it for the others that want it: they saw it
    /// on its way and asked nobody. If nobody asked, tells all that want it.
    pub(super) fn query_failed(
        &mut self,
        query_id: &QueryId,
        requester: Option<u64>,
        error: &ErrorBody,
    ) -> Result<(), Fault> {
        let record = self.record()?;
        let Some(query) = record.cvr.queries.get(query_id) else { return Ok(()) };
        if query.body.is_internal() {
            return Err(Fault::group(error.clone()));
        }
        let concerned = match requester {
            Some(requester) => {
                self.failed.push(Arc::clone(query_id));
                vec![requester]
            }
            None => self.wanting(query_id).collect(),
        };
        for id in concerned {
            self.on_fault(Fault::client(id, error.clone()))?;
        }
        Ok(())
    }

    /// Starts the queries that failed on somebody's behalf for whoever else wants them, on their own behalf. Of each query one
    /// client is asked for at a time: if it fails again, that client is told and gone, and it is the next one's turn.
    pub(super) async fn start_for_others(&mut self) -> Result<(), Fault> {
        while let Some(query_id) = self.failed.pop() {
            if self.is_asked_for(&query_id) {
                continue;
            }
            let Some(id) = self.wanting(&query_id).next() else { continue };
            let started = self.sync_queries(Some(id), Mode::Missing).await;
            started.or_else(|fault| self.on_fault(fault))?;
        }
        Ok(())
    }

    /// The admitted clients that want a query.
    fn wanting(&self, query_id: &QueryId) -> impl Iterator<Item = u64> {
        let query = self.record.as_ref().and_then(|record| record.cvr.queries.get(query_id));
        let wants = move |client: &&Client| {
            let desire = query.and_then(|query| query.clients.get(&client.connection.client_id));
            !client.is_joining() && desire.is_some_and(|desire| desire.inactivated_at.is_none())
        };
        self.clients.iter().filter(wants).map(|client| client.connection.id)
    }

    /// Subscribes everything that ran anew, as one batch; the record tells what changed meanwhile.
    pub(super) fn subscribe_again(&mut self) -> Result<(), Fault> {
        let running = std::mem::take(&mut self.running);
        // What was asked for may have gone with all that the mailbox held.
        self.pinning = false;
        let mut again = self.new_batch(None);
        self.ask_permissions_again();
        for batch in &mut self.batches {
            again.unpermitted.extend(batch.unpermitted.drain());
            batch.hydrating.clear();
            batch.answers.clear();
            again.removed.append(&mut batch.removed);
        }
        for (query_id, Running { hash, ast, .. }) in running {
            self.mailbox.unsubscribe(&query_id);
            if self.own_query(&query_id).is_some() {
                // What is permitted may have changed in the meantime.
                again.unpermitted.insert(query_id);
                continue;
            }
            if let Err(message) = self.add(&mut again, &query_id, hash, ast)
                && let Err(fault) = self.query_failed(&query_id, None, &refusal(message))
            {
                tracing::warn!(group = &*self.id, ?fault, "a query cannot be answered any more");
            }
        }
        self.synced = false;
        self.batches.insert(0, again);
        self.permit_waiting()
    }

    /// For whom queries are transformed: the connection that asks, else the one that did before, else the newest one.
    pub(super) fn speaker(&self, requester: Option<u64>) -> Option<&Client> {
        let find = |id: Option<u64>| self.clients.iter().find(|client| Some(client.connection.id) == id);
        let newest = || {
            let admitted = self.clients.iter().filter(|client| !client.is_joining());
            admitted.max_by_key(|client| client.connection.id)
        };
        find(requester).or_else(|| find(self.background)).or_else(newest)
    }
}

/// What clients are told of a query that does not fit the tables.
pub(super) fn refusal(message: String) -> ErrorBody {
    ErrorBody::new(ErrorKind::Internal, message)
}

/// One of the server's own queries.
fn internal(text: &str) -> Result<(Arc<str>, Arc<Ast>), String> {
    let json = Json::parse(text).map_err(|error| error.to_string())?;
    let ast = Ast::parse_lenient(&json).map_err(|error| error.to_string())?;
    Ok((hash::ast_hash(&json).into(), Arc::new(ast)))
}

#[cfg(test)]
mod tests {
    use super::{Duration, Instant, Replaced, THRASHING};

    #[test]
    fn a_query_that_is_replaced_again_and_again() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut replaced = Replaced::none(start);
        // When it is replaced, and whether somebody is told.
        for (seconds, told) in
            [(10, false), (70, false), (80, false), (90, true), (91, false), (500, false), (501, false), (502, true)]
        {
            replaced = replaced.again(at(seconds));
            assert_eq!(replaced.times == THRASHING, told, "{seconds}");
        }
    }
}
