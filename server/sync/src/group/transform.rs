//! Named queries, as the application's query API transforms them.
//!
//! A call runs beside the group, and what it answers is an event like any other. An answer serves for a few seconds, and
//! only for whoever shows the same credentials. A query that it leaves out is refused like one with an error: whoever wants
//! it would wait for ever.

use std::sync::Arc;
use std::time::Duration;

use cvr::record::Body;
use cvr::row::QueryId;
use rustc_hash::FxHashSet;
use tokio::time::Instant;
use zql_spec::ast::Ast;
use zql_spec::hash;
use zql_spec::json::Json;
use zql_spec::protocol::downstream::{Downstream, QueryError};
use zql_spec::protocol::error::{ErrorBody, ErrorReason};

use super::queries::{Batch, Mode, refusal};
use super::{Called, Fault, Group};
use crate::api::{Answer, Caller, NamedQuery, QueryResult};

/// How long a transformed query is not asked for again: a page that connects asks for the same several times.
const CACHE_FOR: Duration = Duration::from_secs(5);

/// A transformed query.
#[derive(Debug)]
pub(super) struct Cached {
    caller: Caller,
    at: Instant,
    hash: Arc<str>,
    ast: Arc<Ast>,
}

/// For whom, and why, queries are transformed.
#[derive(Debug)]
pub(super) struct Call {
    /// The connection whose credentials are used.
    pub(super) behalf: Option<u64>,
    pub(super) mode: Mode,
    pub(super) caller: Caller,
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
    answer: Result<Answer, Box<ErrorBody>>,
}

impl Group {
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
            Ok(answer) => match behalf.map_or(Ok(()), |id| self.recognize(id, &answer)) {
                Ok(()) => self.take_results(&mut batch, &caller, &asked, answer, requester),
                // A user who is another one now: not a failure of the queries.
                Err(fault) => {
                    refused = Some(fault);
                    Ok(())
                }
            },
            Err(error) => {
                self.failed.extend(asked);
                match requester.filter(|&id| self.position(id).is_some()) {
                    Some(requester) => Err(Fault::client(requester, error)),
                    None if mode == Mode::Fresh && error.is_auth() => {
                        refused = behalf.map(|id| Fault::client(id, error));
                        Ok(())
                    }
                    None => {
                        tracing::warn!(group = &*self.id, message = error.message, "queries could not be transformed");
                        Ok(())
                    }
                }
            }
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
        // A query of which nothing is said would never be got, and nobody would know why.
        let mut errors = self.unmentioned(asked, &answer.results);
        let mut failed = Vec::new();
        let at = self.services.clock.now();
        for result in answer.results {
            // What is said of a query that nobody asked for concerns nobody.
            let Some(query_id) = asked.iter().find(|asked| ***asked == *result.id()) else { continue };
            match result {
                QueryResult::Error(error) => errors.push(error),
                QueryResult::Ast { id, ast } => {
                    let parsed = Json::parse(ast.get()).map_err(|error| error.to_string()).and_then(|json| {
                        let ast = Ast::parse_lenient(&json).map_err(|error| error.to_string())?;
                        Ok((Arc::<str>::from(hash::ast_hash(&json)), Arc::new(ast)))
                    });
                    match parsed {
                        Ok((hash, ast)) => {
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
                            self.failed.extend(asked.iter().map(Arc::clone));
                            if let Some(requester) = requester.filter(|&id| self.position(id).is_some()) {
                                return Err(Fault::client(requester, error));
                            }
                            let message = error.message;
                            tracing::warn!(
                                group = &*self.id,
                                query = &*id,
                                message,
                                "a query could not be transformed"
                            );
                        }
                    }
                }
            }
        }
        self.refuse(batch, &errors);
        for (query_id, message) in failed {
            self.query_failed(&query_id, requester, &refusal(message))?;
        }
        Ok(())
    }

    /// What is told of the queries that an answer leaves out.
    fn unmentioned(&self, asked: &[QueryId], results: &[QueryResult]) -> Vec<QueryError> {
        let mentioned: FxHashSet<&str> = results.iter().map(QueryResult::id).collect();
        let error = |query_id: &QueryId| {
            let Body::Custom { name, .. } = &self.record.as_ref()?.cvr.queries.get(query_id)?.body else { return None };
            Some(QueryError {
                error: "parse".to_owned(),
                id: query_id.to_string(),
                name: name.to_string(),
                message: Some("The answer of the API server does not mention this query".to_owned()),
                details: None,
            })
        };
        asked.iter().filter(|query_id| !mentioned.contains(&***query_id)).filter_map(error).collect()
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

    /// Asks the query API for a batch's named queries.
    pub(super) fn call(&mut self, batch: &Batch, call: Call, queries: Vec<NamedQuery>) {
        let Call { behalf, mode, caller } = call;
        let (id, requester) = (batch.id, batch.requester);
        let asked = queries.iter().map(|query| Arc::clone(&query.id)).collect();
        let services = Arc::clone(&self.services);
        self.calls.spawn(async move {
            let answer = match &services.api {
                Some(api) => api.transform(&caller, &queries).await,
                None => Ok(Answer::default()),
            };
            Called::Transformed(Transformed { batch: id, requester, behalf, mode, caller, asked, answer })
        });
    }

    /// Forgets transformed queries that are asked for again anyway.
    pub(super) fn forget_cached(&mut self, now: Instant) {
        self.cached.retain(|_, cached| now < cached.at + CACHE_FOR);
    }

    /// What was answered a moment ago.
    pub(super) fn cached(&self, query_id: &QueryId, caller: &Caller) -> Option<(Arc<str>, Arc<Ast>)> {
        let cached = self.cached.get(query_id)?;
        let fresh = self.services.clock.now() < cached.at + CACHE_FOR && cached.caller == *caller;
        fresh.then(|| (Arc::clone(&cached.hash), Arc::clone(&cached.ast)))
    }
}
