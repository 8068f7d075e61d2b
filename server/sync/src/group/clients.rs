//! What clients say: joining, changing queries, deleting clients, new tokens.
//!
//! The order of checks is the reference's (protocol sheet §3): the first failure decides, and it concerns
//! only the client that asked. Nothing is changed before all checks have passed.

use std::sync::Arc;

use cvr::config::{ConfigUpdate, Put};
use cvr::patch::{QueryPatch, lacks};
use cvr::record::Body;
use cvr::row::{QueryId, Rows};
use cvr_store::{Rehome, StoreError};
use rustc_hash::FxHashSet;
use serde_json::value::RawValue;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use zql_spec::ast::Ast;
use zql_spec::client_schema::ClientSchema;
use zql_spec::json::Json;
use zql_spec::protocol::downstream::Downstream;
use zql_spec::protocol::error::{ErrorBody, ErrorKind};
use zql_spec::protocol::upstream::{DeleteClients, DesiredOp, InitConnection, PutQuery};
use zql_spec::version::CvrVersion;

use super::pokes::Item;
use super::queries::Mode;
use super::{Called, Fault, Group, GroupEvent, Record, cvr_error, store_error};
use crate::api::{Answer, Caller};
use crate::hub::{Connection, Services};
use crate::push::Cleaner;

/// How often a record is loaded that somebody else changes meanwhile: once by whoever had it until now, once to spare.
const MAX_LOADS: u32 = 3;

/// A connected client.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) connection: Arc<Connection>,
    /// What the client has: the cookie of its last poke.
    pub(super) base: Option<CvrVersion>,
    /// Whether it got a poke on this connection: the first one is sent even if it is empty.
    pub(super) poked: bool,
    /// Whether it was left out of pokes because it is slow.
    pub(super) lagging: bool,
    /// On whose behalf the query API is called.
    pub(super) caller: Caller,
    /// What its token says of its user, if it was verified.
    pub(super) claims: Option<Arc<Json>>,
    /// When it is asked again whether its user is known.
    pub(super) revalidate_at: Option<Instant>,
    /// Its first message, until it is admitted.
    init: Option<Box<InitConnection>>,
    /// Who cleans up if that says that clients are gone.
    cleaner: Option<Cleaner>,
    /// Messages that came before it was admitted.
    pub(super) waiting: Vec<GroupEvent>,
}

impl Client {
    /// Whether the client still waits to be admitted.
    pub(super) fn is_joining(&self) -> bool {
        self.init.is_some()
    }

    /// Whether the client is to be told what it lacks of a version of the record.
    pub(super) fn is_behind(&self, version: &CvrVersion) -> bool {
        !self.is_joining() && !self.lagging && !version.is_empty() && lacks(self.base.as_ref(), version)
    }
}

/// What a message changes in the record.
#[derive(Default)]
struct Change<'a> {
    client_schema: Option<&'a RawValue>,
    profile_id: Option<String>,
    desired: &'a [DesiredOp],
    active_clients: Option<&'a [String]>,
    deleted: Option<&'a DeleteClients>,
    cleaner: Option<Cleaner>,
}

impl Group {
    /// A connection's first message arrived.
    pub(super) async fn join(
        &mut self,
        connection: Arc<Connection>,
        init: Box<InitConnection>,
        cleaner: Option<Cleaner>,
    ) -> Result<(), Fault> {
        let id = connection.id;
        let newer = |client: &Client| client.connection.client_id == connection.client_id && client.connection.id > id;
        if self.clients.iter().any(newer) {
            // It was closed when the newer one was registered, and only then got here.
            return Ok(());
        }
        self.schedule.resume(self.services.clock.elapsed_ms());
        self.last_connect_time = self.services.clock.wall_ms();
        self.idle_at = None;
        // The older connection was closed when this one was registered.
        self.clients.retain(|client| client.connection.client_id != connection.client_id);
        let cookie = connection.base_cookie.clone();
        let has_schema = init.client_schema.is_some();
        let caller = caller(&self.services, &connection, &init);
        self.clients.push(Client {
            base: None,
            poked: false,
            lagging: false,
            caller: caller.clone(),
            claims: connection.auth.as_ref().and_then(|auth| auth.claims.clone()),
            revalidate_at: None,
            init: Some(init),
            cleaner,
            waiting: Vec::new(),
            connection,
        });
        let base = CvrVersion::from_cookie(cookie.as_deref().unwrap_or_default())
            .map_err(|error| Fault::client(id, ErrorBody::new(ErrorKind::Internal, error.to_string())))?;
        if let Some(client) = self.client(id) {
            client.base = base.clone();
        }
        if self.services.api.is_some() {
            // Beside the loading of the record. If that fails, nobody is there to hear the answer.
            let services = Arc::clone(&self.services);
            self.calls.spawn(async move {
                let answer = match &services.api {
                    Some(api) => api.validate(&caller).await,
                    None => Ok(Answer::default()),
                };
                Called::Validated(id, answer)
            });
        }
        self.load(id).await?;
        let replica_version = Arc::clone(&self.services.replica_version);
        let record = self.record()?;
        record.cvr.check_replica(&replica_version).map_err(|error| Fault::group(cvr_error(&error)))?;
        record.cvr.check_base(base.as_ref()).map_err(|error| Fault::client(id, cvr_error(&error)))?;
        if record.cvr.client_schema.is_none() && !has_schema {
            let message = "The initConnection message for a new client group must include client schema.";
            return Err(Fault::client(id, ErrorBody::new(ErrorKind::InvalidConnectionRequest, message)));
        }
        if self.services.api.is_none() {
            return self.admit(id, Ok(Answer::default())).await;
        }
        Ok(())
    }

    /// Loads the record unless it is there.
    async fn load(&mut self, id: u64) -> Result<(), Fault> {
        if self.record.is_some() {
            return Ok(());
        }
        let fault = |error: StoreError| match error {
            StoreError::ClientNotFound(_) | StoreError::SchemaVersionNotSupported(_) => {
                Fault::client(id, store_error(&error))
            }
            error => Fault::group(store_error(&error)),
        };
        let store = &self.services.store;
        let mut loads = 1;
        let (mut cvr, rows) = loop {
            let cvr = store.load(&self.id, self.last_connect_time).await.map_err(fault)?;
            if !cvr.stored {
                break (cvr, Rows::default());
            }
            match store.load_rows(&cvr).await {
                // Whoever had the group wrote it for the last time. It is this server's now, and stays as it is.
                Err(StoreError::Rehome(Rehome::ConcurrentModification { .. })) if loads < MAX_LOADS => loads += 1,
                rows => break (cvr, rows.map_err(fault)?),
            }
        };
        if let Some(schema) = cvr.client_schema.take() {
            cvr.client_schema = Some(self.services.client_schemas.share(Arc::unwrap_or_clone(schema)));
        }
        self.schedule.set_clock(cvr.ttl_clock, self.services.clock.elapsed_ms());
        self.record = Some(Record { cvr, rows });
        Ok(())
    }

    /// Admits a connection whose user is known, and does what its first message asks.
    pub(super) async fn admit(&mut self, id: u64, answer: Result<Answer, Box<ErrorBody>>) -> Result<(), Fault> {
        let answer = answer.map_err(|error| Fault::client(id, error))?;
        let Some(client) = self.client(id) else { return Ok(()) };
        let Some(init) = client.init.take() else { return Ok(()) };
        let cleaner = client.cleaner.take();
        let connection = Arc::clone(&client.connection);
        self.recognize(id, &answer)?;
        let profile_id = connection.profile_id.clone().unwrap_or_else(|| format!("cg{}", self.id));
        let change = Change {
            client_schema: init.client_schema.as_deref(),
            profile_id: Some(profile_id),
            desired: &init.desired_queries_patch,
            active_clients: init.active_clients.as_deref(),
            deleted: init.deleted.as_ref(),
            cleaner,
        };
        self.change_and_sync(id, change, Mode::All).await
    }

    /// Handles a later message of an admitted client.
    pub(super) async fn on_message(&mut self, event: GroupEvent) -> Result<(), Fault> {
        match event {
            GroupEvent::ChangeQueries(id, body) => {
                let change = Change { desired: &body.desired_queries_patch, ..Change::default() };
                self.change_and_sync(id, change, Mode::Missing).await
            }
            GroupEvent::DeleteClients(id, body, cleaner) => {
                let change = Change { deleted: Some(&body), cleaner, ..Change::default() };
                self.change_and_sync(id, change, Mode::Missing).await
            }
            GroupEvent::UpdateAuth(id, auth) => self.update_auth(id, &auth).await,
            GroupEvent::Inspect(id, request) => self.inspect(id, *request),
            GroupEvent::Join(..)
            | GroupEvent::Validated(_)
            | GroupEvent::Room(_)
            | GroupEvent::Left(_)
            | GroupEvent::Stop => Ok(()),
        }
    }

    /// Changes the record as one message asks, tells the clients that are up to date, and brings the running queries
    /// in line. Queries are started while the change is being written: if the writing fails, the group ends, and
    /// nothing of them is seen.
    async fn change_and_sync(&mut self, id: u64, change: Change<'_>, mode: Mode) -> Result<(), Fault> {
        let Some(changed) = self.begin_change(id, change)? else { return Ok(()) };
        let started = match self.prepare_tables() {
            Ok(()) => self.start_queries(Some(id), mode).await,
            Err(fault) => Err(fault),
        };
        self.end_change(changed).await?;
        started?;
        self.finish_batches().await
    }

    fn begin_change(&mut self, id: u64, change: Change<'_>) -> Result<Option<Changed>, Fault> {
        let Some(client) = self.client(id) else { return Ok(None) };
        let client_id = Arc::clone(&client.connection.client_id);
        let times = self.times();
        let services = Arc::clone(&self.services);
        let record = self.record()?;
        let before = record.cvr.version.clone();
        let mut update = ConfigUpdate::new(&record.cvr);
        let deleted = apply(&mut update, &client_id, &change, &services, times.ttl_clock)
            .map_err(|error| Fault::client(id, error))?;
        let (patches, flush) = update.finish(times);
        let written = flush.map(|flush| {
            record.rows.apply(&flush);
            record.cvr = flush.cvr.clone();
            tokio::spawn(async move { services.store.flush(flush).await })
        });
        Ok(Some(Changed { before, patches, written, deleted, cleaner: change.cleaner }))
    }

    async fn end_change(&mut self, changed: Changed) -> Result<(), Fault> {
        let Changed { before, patches, written, deleted, cleaner } = changed;
        if let Some(written) = written {
            let written = written.await.map_err(|error| Fault::internal(&error))?;
            written.map_err(|error| Fault::group(store_error(&error)))?;
        }
        let after = self.record()?.cvr.version.clone();
        if after != before {
            let items: Vec<Item> = patches.into_iter().map(Item::Query).collect();
            // A client without a cookie has what a record that does not exist yet has.
            self.poke(&after, &items, &after, |base| base.map_or(before.is_empty(), |base| *base == before));
        }
        if let Some(deleted) = deleted {
            if let Some(cleaner) = cleaner {
                cleaner.deleted(&deleted);
            }
            let ack = Downstream::DeleteClients(DeleteClients { client_ids: Some(deleted), client_group_ids: None });
            for client in &self.clients {
                client.connection.outbox.send_one(&ack);
            }
        }
        self.schedule_eviction();
        Ok(())
    }
}

/// A change of the record on its way to the store.
struct Changed {
    before: CvrVersion,
    patches: Vec<QueryPatch>,
    written: Option<JoinHandle<Result<(), StoreError>>>,
    deleted: Option<Vec<String>>,
    cleaner: Option<Cleaner>,
}

/// Makes the changes of one message. Gives the ids to acknowledge as deleted, if any were asked for.
fn apply(
    update: &mut ConfigUpdate,
    client: &str,
    change: &Change<'_>,
    services: &Services,
    ttl_clock: f64,
) -> Result<Option<Vec<String>>, Box<ErrorBody>> {
    let cvr_fault = |error| Box::new(cvr_error(&error));
    update.ensure_client(client, &services.config.shard());
    if let Some(schema) = change.client_schema {
        let json = Json::parse(schema.get()).map_err(|error| invalid_message(error.to_string()))?;
        ClientSchema::parse_lenient(&json).map_err(|error| invalid_message(error.to_string()))?;
        let value = serde_json::from_str(schema.get()).map_err(|error| invalid_message(error.to_string()))?;
        update.set_client_schema(&services.client_schemas.share(value)).map_err(cvr_fault)?;
    }
    if let Some(profile) = &change.profile_id {
        update.set_profile_id(profile);
    }
    for op in change.desired {
        match op {
            DesiredOp::Put(put) => {
                let put = put_of(update, put)?;
                update.put_desired(client, &[put]).map_err(cvr_fault)?;
            }
            DesiredOp::Del { hash } => {
                update.inactivate(client, &[hash.as_str().into()], ttl_clock).map_err(cvr_fault)?;
            }
            DesiredOp::Clear => update.clear_desired(client).map_err(cvr_fault)?,
        }
    }
    let mut gone = Vec::new();
    if let Some(active) = change.active_clients {
        let known = update.cvr().clients.keys();
        gone.extend(known.filter(|known| !active.iter().any(|id| **id == ***known)).map(|id| id.to_string()));
        // The client that speaks is there, whatever it says.
        gone.retain(|id| id != client);
    }
    let asked = change.deleted.and_then(|deleted| deleted.client_ids.as_deref()).unwrap_or_default();
    if asked.iter().any(|id| id == client) {
        return Err(Box::new(ErrorBody::new(ErrorKind::Internal, "cannot delete self")));
    }
    // Whoever is missing and named, or named twice, is told once.
    let mut told: FxHashSet<String> = gone.iter().cloned().collect();
    gone.extend(asked.iter().filter(|id| told.insert((*id).clone())).cloned());
    for id in &gone {
        update.delete_client(id, ttl_clock);
    }
    Ok((!asked.is_empty()).then_some(gone))
}

fn invalid_message(error: String) -> Box<ErrorBody> {
    Box::new(ErrorBody::new(ErrorKind::InvalidMessage, format!("TypeError: {error}")))
}

/// The request for one query, checked.
fn put_of(update: &ConfigUpdate, put: &PutQuery) -> Result<Put, Box<ErrorBody>> {
    let internal = |message: &str| Box::new(ErrorBody::new(ErrorKind::Internal, message));
    let query: QueryId = put.hash.as_str().into();
    let body = match (&put.ast, &put.name, &put.args) {
        (Some(ast), None, None) => {
            let json = Json::parse(ast.get()).map_err(|error| invalid_message(error.to_string()))?;
            // Unknown keys are accepted: newer clients may send them.
            Ast::parse_lenient(&json).map_err(|error| invalid_message(error.to_string()))?;
            Some(Body::Ast(ast.get().into()))
        }
        (Some(_), ..) => return Err(internal("Cannot provide name or args with ast")),
        (None, Some(name), Some(args)) => Some(Body::Custom { name: name.as_str().into(), args: args.get().into() }),
        (None, ..) if update.cvr().queries.contains_key(&query) => None,
        (None, ..) => return Err(internal("Must provide name and args")),
    };
    Ok(Put { query, body, ttl: put.ttl })
}

/// On whose behalf the query API is called for a connection.
fn caller(services: &Services, connection: &Connection, init: &InitConnection) -> Caller {
    let client_headers = match (&services.api, &init.user_query_headers) {
        (Some(api), Some(headers)) => api.allowed_client_headers(headers),
        _ => Vec::new(),
    };
    Caller {
        url: init.user_query_url.clone().filter(|url| !url.is_empty()),
        client_headers,
        request_headers: connection.request_headers.clone(),
        auth: connection.auth.as_ref().map(|auth| auth.token.to_string()),
        cookie: connection.cookie.clone(),
        origin: connection.origin.clone(),
    }
}
