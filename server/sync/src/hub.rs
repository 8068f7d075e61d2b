//! Where sockets find their client group: the registry of groups and connections of this process.
//!
//! A group's task is started by the first connection that joins it and ends by itself when it is idle; a
//! connection that meets an ending group gets a new one. Nothing here grows but with open connections
//! and live groups.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use cvr_store::behind::Lost;
use deadpool_postgres::Pool;
use engine::replica::Replica;
use futures::FutureExt;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tokio::sync::{Notify, mpsc, watch};
use warp::http::HeaderMap;
use warp::reply::Response;
use zql_spec::protocol::CHUNKS_SINCE;
use zql_spec::protocol::connect::ConnectParams;
use zql_spec::protocol::error::{ErrorBody, ErrorKind};
use zql_spec::protocol::upstream::InitConnection;

use crate::api::{Caller, QueryApi};
use crate::auth::{Auth, Authenticator};
use crate::client_schemas::ClientSchemas;
use crate::clock::Clock;
use crate::config::{ApiConfig, Config};
use crate::crud::Crud;
use crate::group::{Group, GroupEvent, Tables};
use crate::heartbeat::Heartbeat;
use crate::inspect::Access;
use crate::inspect::analyze::Explain;
use crate::outbox::Outbox;
use crate::permissions::live::{self, Documents, Live};
use crate::push::{Cleaner, Pushes};
use crate::row_text::RowTexts;
use crate::statz::{self, Stats, Statz};

/// Messages of a group's clients that may wait for the group's task; beyond it, their sockets are not read.
const GROUP_QUEUE: usize = 256;

/// What groups share.
pub(crate) struct Services {
    pub(crate) config: Arc<Config>,
    pub(crate) replica: Arc<Replica>,
    /// The initial-sync version of the replica, which never changes.
    pub(crate) replica_version: Arc<str>,
    pub(crate) views: Arc<views::Views>,
    pub(crate) store: cvr_store::Store,
    pub(crate) api: Option<QueryApi>,
    pub(crate) texts: RowTexts,
    /// The inspector's door.
    pub(crate) access: Access,
    pub(crate) permissions: Live,
    pub(crate) documents: Arc<Documents>,
    pub(crate) clock: Clock,
    pub(crate) client_schemas: ClientSchemas<Tables>,
}

/// What is known of a group outside its task.
#[derive(Debug, Default)]
pub(crate) struct GroupShared {
    /// The user of the group's first validated connection; the inner `None` is nobody.
    pub(crate) pinned_user: OnceLock<Option<String>>,
    /// Whether the task met a defect. One that ends in order tells its connections itself.
    broken: watch::Sender<bool>,
    /// What the group holds, since its last event.
    pub(crate) held: Held,
}

/// What a group holds, for operators.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// Connected clients that said what they want.
    pub(crate) clients: AtomicUsize,
    /// Queries that run, the group's own included.
    pub(crate) queries: AtomicUsize,
    /// Rows that its clients hold.
    pub(crate) rows: AtomicUsize,
}

/// A connection's way to its group.
#[derive(Clone)]
pub(crate) struct Member {
    pub(crate) events: mpsc::Sender<GroupEvent>,
    shared: Arc<GroupShared>,
}

impl Member {
    /// Waits until the group met a defect, if it ever does.
    pub(crate) async fn broke(&self) {
        // The group's memory is held here, so that its end is no news.
        let _ = self.shared.broken.subscribe().wait_for(|broken| *broken).await;
    }
}

struct GroupHandle {
    events: mpsc::Sender<GroupEvent>,
    shared: Arc<GroupShared>,
}

/// The registry.
pub struct Hub {
    /// The configuration.
    pub config: Arc<Config>,
    services: Arc<Services>,
    groups: Mutex<FxHashMap<Arc<str>, GroupHandle>>,
    /// The open connection of each client, whatever its group.
    connections: Mutex<FxHashMap<Arc<str>, Arc<Connection>>>,
    pub(crate) pushes: Pushes,
    pub(crate) authenticator: Authenticator,
    pub(crate) crud: Crud,
    /// What is heard of health checks.
    pub heartbeat: Heartbeat,
    statz: Statz,
    next_id: AtomicU64,
    live_groups: AtomicUsize,
    group_ended: Notify,
    draining: AtomicBool,
}

/// What does not change about a connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) id: u64,
    pub(crate) client_id: Arc<str>,
    pub(crate) group_id: Arc<str>,
    pub(crate) ws_id: String,
    /// The protocol version that it speaks.
    pub(crate) version: f64,
    pub(crate) base_cookie: Option<String>,
    pub(crate) profile_id: Option<String>,
    pub(crate) user_id: Option<String>,
    /// The token that it came with.
    pub(crate) auth: Option<Arc<Auth>>,
    /// Headers of the upgrade request that the query API gets.
    pub(crate) request_headers: Vec<(String, String)>,
    pub(crate) cookie: Option<String>,
    pub(crate) origin: Option<String>,
    pub(crate) outbox: Outbox,
}

impl Connection {
    /// Whether pokes go to this client in binary pieces.
    pub(crate) fn takes_chunks(&self) -> bool {
        self.version >= f64::from(CHUNKS_SINCE)
    }

    pub(crate) fn new(
        params: ConnectParams,
        auth: Option<Arc<Auth>>,
        headers: &HeaderMap,
        api: &ApiConfig,
        outbox: Outbox,
    ) -> Self {
        let caller = Caller::from_request(headers, api, None);
        Connection {
            id: 0,
            client_id: params.client_id.into(),
            group_id: params.client_group_id.into(),
            ws_id: params.ws_id,
            version: params.version,
            base_cookie: params.base_cookie,
            profile_id: params.profile_id,
            user_id: params.user_id,
            auth,
            request_headers: caller.request_headers,
            cookie: caller.cookie,
            origin: caller.origin,
            outbox,
        }
    }
}

impl Hub {
    /// A registry over these services. `upstream` serves CRUD mutations; without it they are refused.
    pub fn new(
        config: Arc<Config>,
        replica: Arc<Replica>,
        views: Arc<views::Views>,
        store: cvr_store::Store,
        upstream: Option<Pool>,
    ) -> Arc<Hub> {
        let api = QueryApi::new(&config);
        let pushes = Pushes::new(&config);
        let authenticator = Authenticator::new(&config);
        let texts = RowTexts::default();
        let access = Access::new(&config);
        let documents = Arc::new(Documents::default());
        let permissions = live::follow(&views, &replica, &config.app_id, &documents);
        let clock = Clock::default();
        let crud = Crud::new(&config, &replica, permissions.clone(), clock.clone(), upstream);
        let replica_version = replica.state().replica_version;
        let lost = store.lost();
        let services = Services {
            config: Arc::clone(&config),
            replica,
            replica_version,
            views,
            store,
            api,
            texts,
            access,
            permissions,
            documents,
            clock,
            client_schemas: ClientSchemas::default(),
        };
        let hub = Arc::new(Hub {
            config,
            services: Arc::new(services),
            groups: Mutex::default(),
            connections: Mutex::default(),
            pushes,
            authenticator,
            crud,
            heartbeat: Heartbeat::default(),
            statz: Statz::default(),
            next_id: AtomicU64::new(1),
            live_groups: AtomicUsize::new(0),
            group_ended: Notify::new(),
            draining: AtomicBool::new(false),
        });
        tokio::spawn(end_lost(Arc::downgrade(&hub), lost));
        hub
    }

    /// Lets the inspector ask how queries are answered.
    pub fn explain_by(&self, explain: Arc<dyn Explain>) {
        self.services.access.explain_by(explain);
    }

    /// Lets operators ask what the server holds.
    pub fn tell_by(&self, stats: Arc<dyn Stats>) {
        self.statz.answer_by(stats);
    }

    /// Answers a request for that.
    pub(crate) async fn statz(&self, query: &str, headers: &HeaderMap) -> Response {
        self.statz.serve(&self.services.access, query, headers, &|| self.held()).await
    }

    /// What the groups hold together, by the names of the reference's gauges.
    fn held(&self) -> statz::Group {
        let groups = self.groups.lock();
        let sum = |of: fn(&Held) -> &AtomicUsize| -> usize {
            groups.values().map(|group| of(&group.shared.held).load(Ordering::Relaxed)).sum()
        };
        let numbers = [
            ("active-client-groups", self.live_groups.load(Ordering::Acquire)),
            ("active-clients", sum(|held| &held.clients)),
            ("queries", sum(|held| &held.queries)),
            ("rows", sum(|held| &held.rows)),
        ];
        numbers.map(|(name, number)| (name.to_owned(), number.into())).into()
    }

    /// The time that groups live by.
    pub fn clock(&self) -> &Clock {
        &self.services.clock
    }

    /// Whether a connection's user may join its group, as far as is known before it does.
    pub(crate) fn check_pinned_user(&self, group: &str, user: Option<&str>) -> Result<(), Box<ErrorBody>> {
        let groups = self.groups.lock();
        match groups.get(group).and_then(|group| group.shared.pinned_user.get()) {
            Some(pinned) if pinned.as_deref() != user => Err(Box::new(pinned_user_error())),
            _ => Ok(()),
        }
    }

    /// Registers a connection and closes an older one of the same client.
    pub(crate) fn register(&self, mut connection: Connection) -> Arc<Connection> {
        connection.id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let connection = Arc::new(connection);
        let older = self.connections.lock().insert(Arc::clone(&connection.client_id), Arc::clone(&connection));
        if let Some(older) = older {
            tracing::debug!(client = &*older.client_id, wsid = older.ws_id, "replaced by a newer connection");
            older.outbox.close();
        }
        if self.draining.load(Ordering::Acquire) {
            connection.outbox.close();
        }
        connection
    }

    /// The open connection of a client of a group.
    pub(crate) fn connection(&self, group: &str, client: &str) -> Option<Arc<Connection>> {
        self.connections.lock().get(client).filter(|connection| *connection.group_id == *group).cloned()
    }

    /// Forgets a connection that ended.
    pub(crate) fn unregister(&self, connection: &Connection) {
        let mut connections = self.connections.lock();
        if connections.get(&connection.client_id).is_some_and(|current| current.id == connection.id) {
            connections.remove(&connection.client_id);
        }
    }

    /// Hands a connection to its group, starting the group's task if there is none.
    pub(crate) async fn join(
        self: &Arc<Self>,
        connection: Arc<Connection>,
        init: Box<InitConnection>,
        cleaner: Option<Cleaner>,
    ) -> Member {
        let mut event = GroupEvent::Join(Arc::clone(&connection), init, cleaner);
        loop {
            let member = self.group(&connection.group_id);
            match member.events.send(event).await {
                Ok(()) => return member,
                // The group ended between being looked up and being told; there is a new one next time.
                Err(mpsc::error::SendError(refused)) => event = refused,
            }
        }
    }

    fn group(self: &Arc<Self>, id: &Arc<str>) -> Member {
        let mut groups = self.groups.lock();
        if let Some(handle) = groups.get(id)
            && !handle.events.is_closed()
        {
            return Member { events: handle.events.clone(), shared: Arc::clone(&handle.shared) };
        }
        let (events, receiver) = mpsc::channel(GROUP_QUEUE);
        let shared = Arc::<GroupShared>::default();
        groups.insert(Arc::clone(id), GroupHandle { events: events.clone(), shared: Arc::clone(&shared) });
        drop(groups);
        self.live_groups.fetch_add(1, Ordering::AcqRel);
        let group = Group::new(Arc::clone(id), Arc::clone(&self.services), Arc::clone(&shared));
        let member = Member { events, shared: Arc::clone(&shared) };
        let hub = Arc::clone(self);
        let id = Arc::clone(id);
        tokio::spawn(async move {
            // A defect met by one group must not reach the others. Its sockets tell their clients to come back after
            // a while.
            let ended = AssertUnwindSafe(Box::pin(group.run(receiver))).catch_unwind().await;
            if ended.is_err() {
                tracing::error!(group = &*id, "a client group failed unexpectedly; its clients reconnect");
                shared.broken.send_replace(true);
            }
            let mut groups = hub.groups.lock();
            if groups.get(&id).is_some_and(|handle| handle.events.is_closed()) {
                groups.remove(&id);
            }
            drop(groups);
            hub.live_groups.fetch_sub(1, Ordering::AcqRel);
            hub.group_ended.notify_waiters();
        });
        member
    }

    /// Tells a connection's group that its user was seen to be known just now.
    pub(crate) fn validated(&self, connection: &Connection) {
        let events = self.groups.lock().get(&connection.group_id).map(|handle| handle.events.clone());
        // A group that is too busy to hear it asks for the user sooner than it had to.
        let _ = events.map(|events| events.try_send(GroupEvent::Validated(connection.id)));
    }

    /// Ends all groups in order, closing their connections, and waits for them at most this long.
    pub async fn drain(&self, at_most: Duration) {
        self.draining.store(true, Ordering::Release);
        let connections: Vec<Arc<Connection>> = self.connections.lock().values().cloned().collect();
        for connection in connections {
            connection.outbox.close();
        }
        let groups: Vec<mpsc::Sender<GroupEvent>> =
            self.groups.lock().values().map(|handle| handle.events.clone()).collect();
        let all_ended = async {
            for group in groups {
                // A group that waits for its record may have a full queue.
                let _ = group.send(GroupEvent::Stop).await;
            }
            loop {
                let ended = self.group_ended.notified();
                if self.live_groups.load(Ordering::Acquire) == 0 {
                    return;
                }
                ended.await;
            }
        };
        if tokio::time::timeout(at_most, all_ended).await.is_err() {
            let left = self.live_groups.load(Ordering::Acquire);
            tracing::warn!(groups = left, "client groups did not end in time");
        }
    }

    /// Open connections and live groups, for the log.
    pub fn sizes(&self) -> (usize, usize) {
        (self.connections.lock().len(), self.live_groups.load(Ordering::Acquire))
    }
}

/// Ends the groups whose records cannot be written, as if the server stopped: their clients come back, and are told what
/// there is of them.
async fn end_lost(hub: Weak<Hub>, mut lost: Lost) {
    while let Some(group) = lost.next().await {
        let Some(hub) = hub.upgrade() else { return };
        let of_group = |connection: &&Arc<Connection>| connection.group_id == group;
        let connections: Vec<Arc<Connection>> = hub.connections.lock().values().filter(of_group).cloned().collect();
        for connection in connections {
            connection.outbox.close();
        }
        let events = hub.groups.lock().get(&group).map(|handle| handle.events.clone());
        if let Some(events) = events {
            // Beside, because its queue may be full.
            tokio::spawn(async move { events.send(GroupEvent::Stop).await });
        }
    }
}

/// The refusal of a user who is not the group's.
pub(crate) fn pinned_user_error() -> ErrorBody {
    ErrorBody::new(
        ErrorKind::Unauthorized,
        "Client groups are pinned to a single userID. Connection userID does not match existing client group userID.",
    )
}
