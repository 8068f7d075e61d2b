//! A client group: all tabs of one browser profile and user, which share queries, rows and one record.
//!
//! One task handles everything that happens to a group, one event after the other: messages of its
//! clients, answers of the query API, events of the running queries, timers. So a group needs no locks,
//! and its clients see a sequence of consistent states. What an event does is in [`clients`] (messages),
//! [`queries`] (which queries run), [`answers`] (what they answer), [`pokes`] (what clients are
//! told) and [`lifetime`] (timers).
//!
//! A group holds its record with a small entry per row that its clients hold, and otherwise only what
//! is in flight. What waits for it is bounded: messages by its queue, changes by composition in its mailbox.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cvr::CvrError;
use cvr::record::Cvr;
use cvr::row::{QueryId, Rows};
use cvr::ttl::Schedule;
use cvr_store::{Rehome, StoreError};
use engine::replica::Snapshot;
use rustc_hash::FxHashMap;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use zql_spec::protocol::error::{ErrorBody, ErrorKind};
use zql_spec::protocol::inspect::Inspect;
use zql_spec::protocol::upstream::{ChangeDesiredQueries, DeleteClients, InitConnection};

mod answers;
mod auth;
mod clients;
mod counts;
mod inspection;
mod lifetime;
mod permissions;
mod pokes;
mod queries;
mod tables;
mod transform;

use crate::auth::Auth;
use crate::hub::{Connection, GroupShared, Held, Services};
use crate::inspect::GroupTimes;
use crate::push::Cleaner;
use auth::Revalidated;
use clients::Client;
use permissions::InForce;
use queries::{Batch, Running};
pub(crate) use tables::Tables;
use transform::{Cached, Transformed};

/// How soon a replica that is behind the record is looked at again.
const BEHIND_RETRY: Duration = Duration::from_millis(200);

/// Something that happened to a group. The number names the connection.
#[derive(Debug)]
pub(crate) enum GroupEvent {
    /// A connection's first message, and who cleans up if it says that clients are gone.
    Join(Arc<Connection>, Box<InitConnection>, Option<Cleaner>),
    /// Queries come and go.
    ChangeQueries(u64, ChangeDesiredQueries),
    /// Tabs were closed for good, and who cleans up after them.
    DeleteClients(u64, DeleteClients, Option<Cleaner>),
    /// A new token.
    UpdateAuth(u64, Arc<Auth>),
    /// The mutate API knew a connection's user just now.
    Validated(u64),
    /// A request of the inspector.
    Inspect(u64, Box<Inspect>),
    /// A connection that was too slow has room again.
    Room(u64),
    /// A connection ended.
    Left(u64),
    /// The server stops.
    Stop,
}

/// What a call of the query API came back with.
#[derive(Debug)]
enum Called {
    /// A connection's user was asked for.
    Validated(u64, Result<crate::api::Answer, Box<ErrorBody>>),
    /// The same was asked again.
    Revalidated(Revalidated),
    /// Queries were transformed.
    Transformed(Transformed),
}

/// Why an event could not be handled, by whom it concerns.
#[derive(Debug)]
enum Fault {
    /// One connection; the others go on.
    Client(u64, Box<ErrorBody>),
    /// The whole group; it ends, and comes back with the next connection.
    Group(Box<ErrorBody>),
}

impl Fault {
    fn client(id: u64, error: impl Into<Box<ErrorBody>>) -> Self {
        Fault::Client(id, error.into())
    }

    fn group(error: impl Into<Box<ErrorBody>>) -> Self {
        Fault::Group(error.into())
    }

    /// Something that passes by itself: the group's clients come back after their usual wait. `Internal` would park them
    /// until the application intervenes.
    fn passing(what: &str, error: &dyn std::fmt::Display) -> Self {
        Fault::group(ErrorBody::rehome(format!("{what}: {error}"), false))
    }

    /// A broken invariant of the group's record.
    fn internal(error: &dyn std::fmt::Display) -> Self {
        Fault::group(ErrorBody::new(ErrorKind::Internal, error.to_string()))
    }
}

/// The group's record with its rows.
#[derive(Debug)]
struct Record {
    cvr: Cvr,
    rows: Rows,
}

/// A client group's task.
pub(crate) struct Group {
    id: Arc<str>,
    services: Arc<Services>,
    shared: Arc<GroupShared>,
    mailbox: views::Mailbox,
    calls: JoinSet<Called>,
    permissions: InForce,
    record: Option<Record>,
    /// When queries expire.
    schedule: Schedule,
    /// When a client last connected, in ms since the epoch.
    last_connect_time: f64,
    clients: Vec<Client>,
    tables: Option<Arc<Tables>>,
    /// Queries that are subscribed, live or on the way.
    running: FxHashMap<QueryId, Running>,
    /// Queries that failed on somebody's behalf, until they are started for the others that want them.
    failed: Vec<QueryId>,
    /// Query sets on their way to the clients, oldest first.
    batches: Vec<Batch>,
    next_batch: u64,
    /// Whether the first batch reached the clients.
    synced: bool,
    /// Transformed queries of the last seconds.
    cached: FxHashMap<QueryId, Cached>,
    /// For the inspector.
    times: GroupTimes,
    /// The newest version heard of.
    head: Arc<str>,
    /// The replica as it is where the group stands, while it is at hand.
    pinned: Option<Arc<Snapshot>>,
    /// Whether it was asked for.
    pinning: bool,
    idle_at: Option<Instant>,
    touch_at: Instant,
    /// When named queries are transformed again.
    retransform_at: Option<Instant>,
    /// The connection on whose behalf that was done last.
    background: Option<u64>,
    retry_at: Option<Instant>,
}

impl Group {
    pub(crate) fn new(id: Arc<str>, services: Arc<Services>, shared: Arc<GroupShared>) -> Self {
        let mailbox = services.views.mailbox();
        let (now, touch_at) = (services.clock.wall_ms(), services.clock.now() + lifetime::TOUCH_EVERY);
        Group {
            id,
            mailbox,
            services,
            shared,
            calls: JoinSet::new(),
            permissions: InForce::default(),
            record: None,
            schedule: Schedule::new(0.0),
            last_connect_time: now,
            clients: Vec::new(),
            tables: None,
            running: FxHashMap::default(),
            failed: Vec::new(),
            batches: Vec::new(),
            next_batch: 0,
            synced: false,
            cached: FxHashMap::default(),
            times: GroupTimes::default(),
            head: "00".into(),
            pinned: None,
            pinning: false,
            idle_at: None,
            touch_at,
            retransform_at: None,
            background: None,
            retry_at: None,
        }
    }

    /// Handles events until the group is idle, broken or told to stop.
    pub(crate) async fn run(mut self, mut events: mpsc::Receiver<GroupEvent>) {
        // What handles an event is boxed, so that a group that waits is no larger than its state.
        loop {
            let clock = self.services.clock.clone();
            let deadline = self.deadline();
            let handled = tokio::select! {
                biased;
                event = events.recv() => match event {
                    None | Some(GroupEvent::Stop) => break,
                    Some(event) => Box::pin(self.on_event(event)).await,
                },
                Some(called) = self.calls.join_next(), if !self.calls.is_empty() => match called {
                    Ok(called) => Box::pin(self.on_called(called)).await,
                    Err(error) => Err(Fault::internal(&error)),
                },
                event = self.mailbox.recv() => Box::pin(self.on_view(event)).await,
                () = clock.sleep_until(deadline) => {
                    if self.idle_at.is_some_and(|at| at <= clock.now()) && events.is_empty() {
                        break;
                    }
                    Box::pin(self.on_timer()).await
                }
            };
            let handled = match handled.or_else(|fault| self.on_fault(fault)) {
                Ok(()) if !self.failed.is_empty() => Box::pin(self.start_for_others()).await,
                handled => handled,
            };
            self.note_held();
            if let Err(Fault::Group(error)) = handled {
                tracing::warn!(group = &*self.id, kind = ?error.kind, message = error.message, "a client group ends");
                for client in self.clients.drain(..) {
                    client.connection.outbox.fail((*error).clone());
                }
                break;
            }
        }
        Box::pin(self.end(events)).await;
    }

    /// Notes what operators may ask for.
    fn note_held(&self) {
        let Held { clients, queries, rows } = &self.shared.held;
        clients.store(self.clients.len(), Ordering::Relaxed);
        queries.store(self.running.len(), Ordering::Relaxed);
        rows.store(self.record.as_ref().map_or(0, |record| record.rows.len()), Ordering::Relaxed);
    }

    /// Closes what is left. Connections that came too late are sent back to join anew.
    async fn end(&mut self, mut events: mpsc::Receiver<GroupEvent>) {
        events.close();
        while let Some(event) = events.recv().await {
            if let GroupEvent::Join(connection, ..) = event {
                connection.outbox.fail(ErrorBody::rehome("Reconnect required", true));
            }
        }
        if !self.clients.is_empty() {
            self.touch().await;
        }
        for client in self.clients.drain(..) {
            client.connection.outbox.close();
        }
    }

    fn on_fault(&mut self, fault: Fault) -> Result<(), Fault> {
        let Fault::Client(id, error) = fault else { return Err(fault) };
        tracing::warn!(group = &*self.id, kind = ?error.kind, message = error.message, "closing a connection");
        if let Some(position) = self.position(id) {
            self.clients.remove(position).connection.outbox.fail(error);
            self.check_idle();
        }
        Ok(())
    }

    async fn on_event(&mut self, event: GroupEvent) -> Result<(), Fault> {
        match event {
            GroupEvent::Join(connection, init, cleaner) => self.join(connection, init, cleaner).await,
            GroupEvent::ChangeQueries(id, _)
            | GroupEvent::DeleteClients(id, ..)
            | GroupEvent::UpdateAuth(id, _)
            | GroupEvent::Inspect(id, _) => {
                // A connection that was replaced has no say any more.
                let Some(client) = self.client(id) else { return Ok(()) };
                if client.is_joining() {
                    client.waiting.push(event);
                    return Ok(());
                }
                self.on_message(event).await
            }
            GroupEvent::Validated(id) => {
                self.validated(id);
                Ok(())
            }
            GroupEvent::Room(id) => {
                if let Some(client) = self.client(id) {
                    client.lagging = false;
                    self.pin_if_behind();
                }
                Ok(())
            }
            GroupEvent::Left(id) => {
                if let Some(position) = self.position(id) {
                    self.clients.remove(position);
                }
                self.check_idle();
                if self.clients.is_empty() {
                    self.touch().await;
                }
                Ok(())
            }
            GroupEvent::Stop => Ok(()),
        }
    }

    async fn on_called(&mut self, called: Called) -> Result<(), Fault> {
        match called {
            Called::Validated(id, answer) => {
                if self.client(id).is_none() {
                    return Ok(());
                }
                self.admit(id, answer).await?;
                let waiting = self.client(id).map(|client| std::mem::take(&mut client.waiting));
                for event in waiting.into_iter().flatten() {
                    self.on_message(event).await?;
                }
                Ok(())
            }
            Called::Revalidated(revalidated) => self.on_revalidated(revalidated),
            Called::Transformed(transformed) => self.on_transformed(transformed).await,
        }
    }

    fn position(&self, id: u64) -> Option<usize> {
        self.clients.iter().position(|client| client.connection.id == id)
    }

    fn client(&mut self, id: u64) -> Option<&mut Client> {
        self.clients.iter_mut().find(|client| client.connection.id == id)
    }

    /// The record, which exists from the first join on.
    fn record(&mut self) -> Result<&mut Record, Fault> {
        self.record.as_mut().ok_or_else(|| Fault::internal(&"the client view record is not loaded"))
    }
}

/// What clients are told of a failure of the store. A database that is away makes clients come back later; the
/// reference says `Internal`, which parks them until the application intervenes.
fn store_error(error: &StoreError) -> ErrorBody {
    match error {
        StoreError::Rehome(Rehome::Ownership { .. }) => ErrorBody::rehome(error.to_string(), true),
        StoreError::Rehome(Rehome::ConcurrentModification { .. }) => ErrorBody::rehome(error.to_string(), false),
        StoreError::ClientNotFound(message) => ErrorBody::new(ErrorKind::ClientNotFound, message),
        StoreError::SchemaVersionNotSupported(message) => ErrorBody::new(ErrorKind::SchemaVersionNotSupported, message),
        StoreError::Refused(message) => ErrorBody::new(ErrorKind::Internal, message),
        StoreError::Postgres(message) | StoreError::Unsupported(message) => {
            ErrorBody::rehome(format!("The database of client view records failed: {message}"), false)
        }
    }
}

fn cvr_error(error: &CvrError) -> ErrorBody {
    let kind = match error {
        CvrError::ClientNotFound(_) => ErrorKind::ClientNotFound,
        CvrError::InvalidConnectionRequest(_) => ErrorKind::InvalidConnectionRequest,
        CvrError::InvalidBaseCookie(_) => ErrorKind::InvalidConnectionRequestBaseCookie,
        CvrError::Internal(_) => ErrorKind::Internal,
    };
    ErrorBody::new(kind, error.to_string())
}
