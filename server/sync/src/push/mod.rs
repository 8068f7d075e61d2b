//! Custom mutations: pushes of clients, sent on to the application's API server (protocol sheet §12).
//!
//! A group's pushes wait in a queue and are sent one request at a time, so that the order in which a client made its
//! mutations holds. The queue and the task that empties it exist only while something waits; they are apart from the
//! group's own task, so that a slow or dead API server holds up mutations of that group and nothing else. What waits is
//! bounded by [`MAX_WAITING_BYTES`] a group. This server keeps no account of mutations: which are done, the API server
//! writes to Postgres together with what they did, and all of it arrives by replication.
//!
//! How pushes are put together is in [`batch`], what clients are told in [`answer`], how results are cleaned up in
//! [`cleanup`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tokio::sync::Semaphore;
use warp::http::HeaderMap;
use zql_spec::protocol::error::{ErrorBody, ErrorKind, MutationId};
use zql_spec::protocol::upstream::{InitConnection, MutationType, Push};

mod answer;
mod batch;
mod cleanup;

use crate::api::{Caller, Endpoint};
use crate::config::{ApiConfig, Config};
use crate::hub::{Connection, Hub};
use answer::Judgement;
use batch::{Body, Entry, Request};
pub(crate) use cleanup::Cleaner;

/// Bytes of a group's pushes that may wait while a request is on its way. Mutations are small: this is some ten
/// thousand of them, and a client that makes more while the API server is away is sent off to come back later.
const MAX_WAITING_BYTES: usize = 8 << 20;

/// What a waiting push costs besides its text, in bytes.
const ENTRY_BYTES: usize = 256;

/// Calls of the API server that clean up after one connection at the same time. Those beyond are left out: the next
/// one covers them.
const MAX_CLEANUPS: usize = 8;

/// On whose behalf mutations are sent. Another token makes another origin.
#[derive(Debug, Default)]
pub(crate) struct Origin {
    caller: Caller,
    connection_id: u64,
    client_id: Arc<str>,
    group_id: Arc<str>,
    user_id: Option<String>,
    /// Whether the connection has other credentials by now.
    replaced: AtomicBool,
}

/// A connection, as the mutate API sees it.
#[derive(Debug)]
pub(crate) struct Source {
    origin: Arc<Origin>,
    /// Whether the connection's first message came: before that it is not known where to send.
    ready: bool,
    cleanups: Arc<Semaphore>,
}

impl Source {
    pub(crate) fn new(connection: &Connection, headers: &HeaderMap, api: &ApiConfig) -> Self {
        let origin = Origin {
            caller: Caller::from_request(headers, api, connection.auth.as_ref().map(|auth| auth.token.to_string())),
            connection_id: connection.id,
            client_id: Arc::clone(&connection.client_id),
            group_id: Arc::clone(&connection.group_id),
            user_id: connection.user_id.clone(),
            replaced: AtomicBool::default(),
        };
        Source { origin: Arc::new(origin), ready: false, cleanups: Arc::new(Semaphore::new(MAX_CLEANUPS)) }
    }

    /// Notes a new token: what is pushed from now on is sent with it.
    pub(crate) fn update_auth(&mut self, token: &str) {
        self.change(|caller| caller.auth = Some(token.to_owned()));
    }

    fn change(&mut self, change: impl FnOnce(&mut Caller)) {
        let mut caller = self.origin.caller.clone();
        change(&mut caller);
        let before = &*self.origin;
        let origin = Arc::new(Origin {
            caller,
            connection_id: before.connection_id,
            client_id: Arc::clone(&before.client_id),
            group_id: Arc::clone(&before.group_id),
            user_id: before.user_id.clone(),
            replaced: AtomicBool::default(),
        });
        std::mem::replace(&mut self.origin, origin).replaced.store(true, Ordering::Relaxed);
    }
}

/// Pushes that wait, by group. A group is here as long as a task sends its pushes.
#[derive(Debug)]
pub(crate) struct Pushes {
    endpoint: Option<Arc<Endpoint>>,
    groups: Mutex<FxHashMap<Arc<str>, Waiting>>,
}

#[derive(Debug, Default)]
struct Waiting {
    entries: Vec<Entry>,
    bytes: usize,
}

impl Pushes {
    pub(crate) fn new(config: &Config) -> Self {
        let endpoint = Endpoint::new(config, &config.mutate, "ZERO_MUTATE_URL").map(Arc::new);
        Pushes { endpoint, groups: Mutex::default() }
    }

    /// Takes from a connection's first message what concerns mutations.
    pub(crate) fn init(&self, source: &mut Source, init: &InitConnection) {
        source.ready = true;
        let Some(endpoint) = &self.endpoint else { return };
        let headers = init.user_push_headers.as_ref();
        let client_headers = headers.map(|headers| endpoint.allowed_client_headers(headers)).unwrap_or_default();
        source.change(|caller| {
            caller.url = init.user_push_url.clone().filter(|url| !url.is_empty());
            caller.client_headers = client_headers;
        });
    }

    /// Accepts a push, or says why the connection must end. `message` is the push as it came.
    pub(crate) fn accept(
        &self,
        hub: &Arc<Hub>,
        source: &Source,
        push: &Push,
        message: &str,
    ) -> Result<(), Box<ErrorBody>> {
        let invalid = |message: String| Err(Box::new(ErrorBody::new(ErrorKind::InvalidPush, message)));
        let (pushed, own) = (&push.client_group_id, &source.origin.group_id);
        if **pushed != **own {
            return invalid(format!(
                "clientGroupID in mutation \"{pushed}\" does not match clientGroupID of connection \"{own}"
            ));
        }
        if push.mutations.is_empty() {
            return Ok(());
        }
        if push.mutations.iter().any(|mutation| mutation.r#type == MutationType::Crud) {
            return invalid("A push of custom mutations cannot hold CRUD mutations as well.".to_owned());
        }
        let Some(endpoint) = &self.endpoint else {
            return invalid("A ZERO_MUTATE_URL must be set in order to process custom mutations.".to_owned());
        };
        if !source.ready {
            let message = "Connection auth state was not available for this websocket.";
            return Err(Box::new(ErrorBody::new(ErrorKind::InvalidConnectionRequest, message)));
        }
        let Some(body) = Body::of_message(message) else {
            return Err(Box::new(ErrorBody::new(ErrorKind::InvalidMessage, "TypeError: not a push")));
        };
        let id = |id: f64, client: &str| MutationId { id: id as i64, client_id: client.to_owned() };
        let ids = push.mutations.iter().map(|mutation| id(mutation.id, &mutation.client_id)).collect();
        let entry = Entry { origin: Arc::clone(&source.origin), body, ids };
        if self.enqueue(entry)? {
            let sender = Sender { hub: Arc::clone(hub), endpoint: Arc::clone(endpoint), group_id: Arc::clone(own) };
            tokio::spawn(sender.run());
        }
        Ok(())
    }

    /// Lets a push wait; true when nobody sends the group's pushes yet.
    fn enqueue(&self, entry: Entry) -> Result<bool, Box<ErrorBody>> {
        let bytes = entry.body.len() + ENTRY_BYTES;
        let mut groups = self.groups.lock();
        let waiting = groups.get_mut(&entry.origin.group_id);
        let starts = waiting.is_none();
        if waiting.is_some_and(|waiting| !waiting.entries.is_empty() && waiting.bytes + bytes > MAX_WAITING_BYTES) {
            // Nothing is lost: the client has its mutations and sends them again when it is back.
            let message = "Too many mutations wait for the API server";
            return Err(Box::new(ErrorBody::rehome(message, false)));
        }
        let waiting = groups.entry(Arc::clone(&entry.origin.group_id)).or_default();
        waiting.bytes += bytes;
        waiting.entries.push(entry);
        Ok(starts)
    }

    /// Takes all that waits; when nothing does, the group's sender ends.
    fn take(&self, group: &str) -> Vec<Entry> {
        let mut groups = self.groups.lock();
        match groups.get_mut(group) {
            Some(waiting) if !waiting.entries.is_empty() => std::mem::take(waiting).entries,
            _ => {
                groups.remove(group);
                Vec::new()
            }
        }
    }
}

/// The task that sends a group's pushes until none waits.
struct Sender {
    hub: Arc<Hub>,
    endpoint: Arc<Endpoint>,
    group_id: Arc<str>,
}

impl Sender {
    async fn run(self) {
        loop {
            let waiting = self.hub.pushes.take(&self.group_id);
            if waiting.is_empty() {
                return;
            }
            for request in batch::requests(waiting) {
                // A defect met by one request must not stop those after it: nobody else would send them.
                let sent = tokio::spawn(send(Arc::clone(&self.hub), Arc::clone(&self.endpoint), request)).await;
                if sent.is_err() {
                    tracing::error!(group = &*self.group_id, "mutations could not be sent because of a defect");
                }
            }
        }
    }
}

/// Sends a request and tells the clients concerned what is wrong, if something is.
async fn send(hub: Arc<Hub>, endpoint: Arc<Endpoint>, request: Request) {
    let Request { origin, body, ids } = request;
    let outcome = endpoint.post(&origin.caller, body.into_text(), "push").await;
    let group = &*origin.group_id;
    let Judgement { validated, verdicts } = answer::judge(outcome, &ids, origin.user_id.as_deref());
    // What an API server thinks of credentials that were replaced meanwhile is nobody's concern.
    let pusher = hub
        .connection(group, &origin.client_id)
        .filter(|connection| connection.id == origin.connection_id && !origin.replaced.load(Ordering::Relaxed));
    if let Some(pusher) = pusher.as_ref().filter(|_| validated) {
        hub.validated(pusher);
    }
    for verdict in verdicts {
        let message = &verdict.error.message;
        tracing::warn!(group, message, clients = ?verdict.clients, mutations = ids.len(), "a push failed");
        if let Some(pusher) = pusher.as_ref().filter(|_| verdict.error.is_auth())
            && verdict.clients.iter().all(|client| **client != *origin.client_id)
        {
            // Whose credentials are refused does not go on with them, whoever made the mutations.
            pusher.outbox.fail(ErrorBody { mutation_ids: Some(Vec::new()), ..verdict.error.clone() });
        }
        for client in &verdict.clients {
            if let Some(connection) = hub.connection(group, client) {
                connection.outbox.fail(verdict.told_to(client));
            }
        }
    }
}
