//! One client connection: the handshake's checks, then messages in both directions.
//!
//! Two tasks: the reader parses and forwards messages in order, the writer drains the [`Outbox`]. The
//! reader stops reading while the client does not read, so nothing a client sends makes its queue grow
//! without bound. What concerns the client's group goes to the group's task; pings are answered here.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;
use tokio::time::Instant;
use warp::filters::ws::Message;
use warp::http::{HeaderMap, header};
use zql_spec::protocol::connect;
use zql_spec::protocol::downstream::{Connected, Downstream};
use zql_spec::protocol::error::{ErrorBody, ErrorKind};
use zql_spec::protocol::sec_protocol::SecProtocol;
use zql_spec::protocol::unsupported_version;
use zql_spec::protocol::upstream::{Push, Upstream};

use crate::auth::{Auth, Change};
use crate::crud::Crud;
use crate::frames::{CodecError, Frames};
use crate::group::GroupEvent;
use crate::hub::{Connection, Hub, Member};
use crate::outbox::{Frame, Outbox, OutboxReceiver, Outgoing, outbox};
use crate::push::{Cleaner, Source};

/// Most bytes of a close frame's reason, by RFC 6455.
const MAX_REASON_BYTES: usize = 123;

/// Silence after which the client is told that the server is there (it gives up after 10 s).
const QUIET: Duration = Duration::from_secs(6);

/// How often silence is looked for.
const QUIET_CHECK: Duration = Duration::from_secs(3);

/// How long the client may take to answer a close frame before the connection is dropped.
const CLOSE_WAIT: Duration = Duration::from_secs(5);

/// How long one message may take to be written: a client that takes nothing for so long is gone.
const WRITE_WAIT: Duration = Duration::from_secs(60);

/// Batches that are put together into one write.
const WRITE_BATCHES: usize = 32;

/// Policy code for a connection whose user is refused.
const CLOSE_AUTH: u16 = 3000;

/// Code for a handshake that cannot be understood, and for frames that break the WebSocket protocol.
const CLOSE_PROTOCOL: u16 = 1002;

/// Code for a message that is too big.
const CLOSE_TOO_BIG: u16 = 1009;

/// Code for a text that is none.
const CLOSE_NOT_TEXT: u16 = 1007;

/// The HTTP request that became the socket.
#[derive(Debug)]
pub(crate) struct UpgradeRequest {
    pub(crate) path: String,
    pub(crate) query: Option<String>,
    pub(crate) headers: HeaderMap,
}

/// A connection that was upgraded.
pub(crate) type Socket = Frames<TokioIo<Upgraded>>;

/// Serves a socket until it ends.
pub(crate) async fn serve(socket: Socket, request: UpgradeRequest, hub: Arc<Hub>) {
    let (sink, stream) = socket.split();
    let (outbox, receiver) = outbox();
    let (room, room_signal) = mpsc::channel(1);
    let writer = tokio::spawn(write(sink, receiver, room));
    let mut reader = Reader {
        stream,
        outbox: outbox.clone(),
        hub: Arc::clone(&hub),
        connection: None,
        source: None,
        group: None,
        auth: None,
    };
    // What a connection does once or rarely is not to make its task larger for as long as it is open: boxed, it is there
    // while it runs.
    match Box::pin(reader.accept(request)).await {
        Ok(first) => {
            reader.run(first, room_signal).await;
        }
        Err(Refusal { error, code }) => match code {
            Some((code, reason)) => outbox.close_with(error, code, elide(reason)),
            None => error.map_or_else(|| outbox.close(), |error| outbox.fail(error)),
        },
    }
    reader.leave().await;
    outbox.close();
    // The close frame is out when the writer ends; then the peer has its time to answer it.
    let _ = writer.await;
    let answered = async { while let Some(Ok(_)) = reader.stream.next().await {} };
    let _ = tokio::time::timeout(CLOSE_WAIT, answered).await;
}

/// Why a connection is not accepted.
struct Refusal {
    error: Option<Box<ErrorBody>>,
    code: Option<(u16, String)>,
}

impl Refusal {
    fn protocol(reason: String) -> Self {
        Refusal { error: None, code: Some((CLOSE_PROTOCOL, reason)) }
    }

    fn auth(error: Box<ErrorBody>) -> Self {
        Refusal { code: Some((CLOSE_AUTH, error.message.clone())), error: Some(error) }
    }
}

struct Reader {
    stream: SplitStream<Socket>,
    outbox: Outbox,
    hub: Arc<Hub>,
    connection: Option<Arc<Connection>>,
    /// The same as the mutate API sees it.
    source: Option<Source>,
    /// The way to the group, once the connection is initialised.
    group: Option<Member>,
    /// The token that was accepted last.
    auth: Option<Arc<Auth>>,
}

impl Reader {
    /// Checks the handshake, registers the connection and greets. Gives the message hidden in the header.
    async fn accept(&mut self, request: UpgradeRequest) -> Result<Option<String>, Refusal> {
        let params = connect::parse(&request.path, request.query.as_deref()).map_err(Refusal::protocol)?;
        let mut headers = request.headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
        let header = headers.next();
        let header = header.ok_or_else(|| Refusal::protocol("Error: Unexpected undefined value".to_owned()))?;
        // Several headers are a list, as a comma makes one, and a list cannot be decoded.
        let header = std::str::from_utf8(header.as_bytes()).ok().filter(|_| headers.next().is_none());
        let header = header.ok_or_else(|| Refusal::protocol("Error: Invalid character".to_owned()))?;
        let hidden = SecProtocol::decode(header).map_err(Refusal::protocol)?;
        for id in [&params.client_id, &params.client_group_id, &params.ws_id] {
            if id.contains('\0') {
                return Err(Refusal::protocol("Error: invalid querystring - U+0000 is not allowed".to_owned()));
            }
        }
        let token = hidden.auth_token.unwrap_or_default();
        let resolved = self.hub.authenticator.resolve(None, &token, params.user_id.as_deref()).await;
        if let Change::To(auth) = resolved.map_err(Refusal::auth)? {
            self.auth = Some(auth);
        }
        self.hub.check_pinned_user(&params.client_group_id, params.user_id.as_deref()).map_err(Refusal::auth)?;
        let unsupported = unsupported_version(params.version);
        let wsid = params.ws_id.clone();
        let connection =
            Connection::new(params, self.auth.clone(), &request.headers, &self.hub.config.query, self.outbox.clone());
        let connection = self.hub.register(connection);
        self.source = Some(Source::new(&connection, &request.headers, &self.hub.config.mutate));
        self.connection = Some(connection);
        // It has the place of the client's older socket by now: the client is the newer one.
        if let Some(error) = unsupported {
            return Err(Refusal { error: Some(Box::new(error)), code: None });
        }
        let timestamp = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as f64;
        self.outbox.send_one(&Downstream::Connected(Connected { wsid, timestamp: Some(timestamp) }));
        Ok(hidden.init_connection_message.map(|message| message.get().to_owned()))
    }

    /// Handles messages until the connection ends.
    async fn run(&mut self, first: Option<String>, mut room: mpsc::Receiver<()>) {
        if let Some(message) = first
            && !Box::pin(self.handle(&message)).await
        {
            return;
        }
        loop {
            let group = self.group.clone();
            let group_broke = async {
                match &group {
                    Some(group) => group.broke().await,
                    None => std::future::pending().await,
                }
            };
            let next = async {
                self.outbox.room().await;
                self.stream.next().await
            };
            let message = tokio::select! {
                message = next => message,
                Some(()) = room.recv() => {
                    self.tell_group(GroupEvent::Room).await;
                    continue;
                }
                // Closed from this side: whether the client answers does not matter.
                () = self.outbox.closed() => return,
                () = group_broke => {
                    self.outbox.fail(ErrorBody::rehome("The client group ended unexpectedly", false));
                    return;
                }
            };
            let go_on = match message {
                None => return,
                Some(Err(error)) => {
                    let (code, reason) = match error {
                        CodecError::TooBig(_) => (CLOSE_TOO_BIG, "Max payload size exceeded"),
                        CodecError::Protocol(_) => (CLOSE_PROTOCOL, ""),
                        CodecError::NotText => (CLOSE_NOT_TEXT, ""),
                        CodecError::Io(_) => return,
                    };
                    self.outbox.close_with(None, code, reason.to_owned());
                    return;
                }
                Some(Ok(message)) if message.is_close() => return,
                Some(Ok(message)) => match message.to_str() {
                    Ok(text) => Box::pin(self.handle(text)).await,
                    Err(()) if message.is_binary() => {
                        let text = String::from_utf8_lossy(message.as_bytes()).into_owned();
                        Box::pin(self.handle(&text)).await
                    }
                    Err(()) => true,
                },
            };
            if !go_on || self.outbox.is_closed() {
                return;
            }
        }
    }

    /// Handles one message; false ends the connection.
    async fn handle(&mut self, text: &str) -> bool {
        let message = match Upstream::parse(text) {
            Ok(message) => message,
            Err(error) => return self.fail(ErrorBody::new(ErrorKind::InvalidMessage, error.0)),
        };
        let Some(connection) = self.connection.clone() else { return false };
        match message {
            Upstream::Ping => self.outbox.send_one(&Downstream::Pong),
            Upstream::InitConnection(init) => {
                if self.group.is_some() {
                    return self.fail(ErrorBody::new(ErrorKind::Internal, "Connection was already initialized"));
                }
                if let Some(source) = &mut self.source {
                    self.hub.pushes.init(source, &init);
                }
                let cleaner = self.cleaner().filter(|_| init.deleted.is_some());
                self.group = Some(self.hub.join(connection, init, cleaner).await);
            }
            Upstream::ChangeDesiredQueries(body) => self.tell_group(|id| GroupEvent::ChangeQueries(id, body)).await,
            Upstream::DeleteClients(body) => {
                let cleaner = self.cleaner();
                self.tell_group(|id| GroupEvent::DeleteClients(id, body, cleaner)).await;
            }
            Upstream::UpdateAuth { auth } => return self.update_auth(&connection, &auth).await,
            Upstream::Push(push) => {
                let Some(source) = &self.source else { return false };
                if Crud::concerns(&push) && push.client_group_id == *connection.group_id {
                    // Before the first message it is nobody's yet, and ignored like other messages.
                    return self.group.is_none() || self.mutate(&connection, &push).await;
                }
                if let Err(error) = self.hub.pushes.accept(&self.hub, source, &push, text) {
                    return self.fail(*error);
                }
            }
            Upstream::AckMutationResponses { id, client_id } => {
                if let Some(cleaner) = self.cleaner() {
                    cleaner.acknowledged(&client_id, id);
                }
            }
            Upstream::Inspect(inspect) => self.tell_group(|id| GroupEvent::Inspect(id, Box::new(inspect))).await,
            // Ignored by the reference as well.
            Upstream::Pull | Upstream::CloseConnection => {}
        }
        true
    }

    /// Who cleans up results on this connection's behalf.
    fn cleaner(&self) -> Option<Cleaner> {
        self.hub.pushes.cleaner(self.source.as_ref()?)
    }

    /// Carries CRUD mutations out; false ends the connection.
    async fn mutate(&self, connection: &Connection, push: &Push) -> bool {
        match self.hub.crud.process(&connection.group_id, self.auth.as_deref(), push).await {
            Ok(()) => true,
            Err(error) if error.keeps_connection() => {
                self.outbox.send_one(&Downstream::Error(error));
                true
            }
            Err(error) => self.fail(*error),
        }
    }

    /// The client has a new token; false ends the connection.
    async fn update_auth(&mut self, connection: &Connection, token: &str) -> bool {
        if self.group.is_none() {
            return true;
        }
        let user = connection.user_id.as_deref();
        match self.hub.authenticator.resolve(self.auth.as_deref(), token, user).await {
            Ok(Change::Unchanged) => {}
            Ok(Change::To(auth)) => {
                if let Some(source) = &mut self.source {
                    source.update_auth(&auth.token);
                }
                self.auth = Some(Arc::clone(&auth));
                self.tell_group(|id| GroupEvent::UpdateAuth(id, auth)).await;
            }
            Err(error) => return self.fail(*error),
        }
        true
    }

    fn fail(&self, error: ErrorBody) -> bool {
        tracing::warn!(kind = ?error.kind, message = error.message, "closing a connection");
        self.outbox.fail(error);
        false
    }

    /// Tells the group, if the connection is initialised; before that the reference ignores messages too.
    async fn tell_group(&self, event: impl FnOnce(u64) -> GroupEvent) {
        if let (Some(group), Some(connection)) = (&self.group, &self.connection) {
            // A group that is gone is noticed by the main loop.
            let _ = group.events.send(event(connection.id)).await;
        }
    }

    async fn leave(&mut self) {
        self.tell_group(GroupEvent::Left).await;
        if let Some(connection) = self.connection.take() {
            self.hub.unregister(&connection);
        }
    }
}

/// Cuts a text to what fits a close frame.
fn elide(mut reason: String) -> String {
    if reason.len() > MAX_REASON_BYTES {
        let mut end = MAX_REASON_BYTES - 3;
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        reason.truncate(end);
        reason.push_str("...");
    }
    reason
}

/// Writes what is queued until told to close or until the client is gone.
async fn write(mut sink: SplitSink<Socket, Message>, mut queue: OutboxReceiver, room: mpsc::Sender<()>) {
    let mut last_write = Instant::now();
    loop {
        let Ok(next) = tokio::time::timeout(QUIET_CHECK, queue.recv()).await else {
            if last_write.elapsed() > QUIET {
                let pong = Message::text(Downstream::Pong.to_json());
                let Ok(Ok(())) = tokio::time::timeout(WRITE_WAIT, sink.send(pong)).await else { return };
                last_write = Instant::now();
            }
            continue;
        };
        let Some(mut next) = next else { return };
        let mut bytes = 0;
        let mut batches = 0;
        let end = loop {
            match next {
                Outgoing::Messages(messages) => {
                    for message in messages {
                        bytes += message.len();
                        let message = match message {
                            Frame::Text(text) => Message::text(text),
                            Frame::Binary(bytes) => Message::binary(bytes),
                        };
                        let fed = tokio::time::timeout(WRITE_WAIT, sink.feed(message)).await;
                        let Ok(Ok(())) = fed else { return };
                    }
                }
                Outgoing::Close { error, code } => break Some((error, code)),
            }
            batches += 1;
            match queue.try_recv() {
                Some(more) if batches < WRITE_BATCHES => next = more,
                Some(more) => {
                    next = more;
                    let Ok(Ok(())) = tokio::time::timeout(WRITE_WAIT, sink.flush()).await else { return };
                    batches = 0;
                }
                None => break None,
            }
        };
        if let Some((error, code)) = end {
            if let Some(error) = error {
                let _ = tokio::time::timeout(WRITE_WAIT, sink.feed(Message::text(Downstream::Error(error).to_json())))
                    .await;
            }
            let frame = code.map_or_else(Message::close, |(code, reason)| Message::close_with(code, reason));
            let _ = tokio::time::timeout(CLOSE_WAIT, sink.send(frame)).await;
            return;
        }
        let Ok(Ok(())) = tokio::time::timeout(WRITE_WAIT, sink.flush()).await else { return };
        last_write = Instant::now();
        if queue.written(bytes) {
            // Full means that the group was told and has not looked yet.
            let _ = room.try_send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::elide;

    #[test]
    fn reasons_fit_a_close_frame() {
        assert_eq!(elide("short".to_owned()), "short");
        let long = elide("é".repeat(100));
        assert_eq!((long.len(), long.ends_with("é...")), (123, true));
    }
}
