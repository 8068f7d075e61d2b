//! One WebSocket to a sync server.

use std::str::FromStr;
use std::time::Instant;

use futures::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::header::{HeaderName, HeaderValue, InvalidHeaderValue};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};
use zql_spec::protocol::downstream::{Downstream, PokePart, PokeStart, QueryError};
use zql_spec::protocol::sec_protocol::SecProtocol;
use zql_spec::protocol::upstream::{DeleteClients, DesiredOp, Upstream};

use crate::state::{Poke, State};
use crate::strict::{check, check_part};
use crate::{Error, Hello, Identity};

/// An open socket. Dropping it closes it without a farewell, as a lost network does.
#[derive(Debug)]
pub struct Connection {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    open: Option<Poke>,
    /// Pieces of the open poke, put together.
    pieces: Vec<u8>,
    /// What the pokes so far lead to, rows apart; nothing if that cannot be told.
    followed: Option<State>,
}

/// What the server said, with the parts of a poke put together.
#[derive(Debug)]
pub enum Event {
    /// The connection is accepted.
    Connected,
    /// A whole poke.
    Poke(Poke),
    /// A poke was begun and taken back.
    Cancelled,
    /// Queries that the API server refused.
    TransformError(Vec<QueryError>),
    /// Clients that were removed.
    DeleteClients(DeleteClients),
    /// A sign of life.
    Pong,
    /// An answer to the inspector, or a message that the real client takes and today's servers never send, as its JSON
    /// text.
    Other(String),
}

impl Connection {
    /// Opens a socket and says hello; `cookie` is that of the last poke applied. The server's answer comes as an event.
    ///
    /// # Errors
    /// When the socket cannot be opened.
    pub async fn open(identity: &Identity, cookie: Option<&str>, hello: Hello) -> Result<Connection, Error> {
        let Hello { init, in_message } = hello;
        let message = Upstream::InitConnection(Box::new(init)).to_json();
        let header = SecProtocol {
            init_connection_message: if in_message {
                None
            } else {
                serde_json::value::RawValue::from_string(message.clone()).ok()
            },
            auth_token: identity.auth.clone(),
        };
        let mut connection = Self::open_at(&identity.url(cookie), &header.encode(), &identity.headers).await?;
        connection.followed = Some(State::at(cookie));
        if in_message {
            connection.send_text(message).await?;
        }
        Ok(connection)
    }

    /// Opens a socket at a URL with a protocol header, both as they are: for tests of what a server refuses.
    ///
    /// # Errors
    /// When the socket cannot be opened.
    pub async fn open_with_header(url: &str, header: &str) -> Result<Connection, Error> {
        Self::open_at(url, header, &[]).await
    }

    async fn open_at(url: &str, header: &str, others: &[(String, String)]) -> Result<Connection, Error> {
        let invalid = |error: InvalidHeaderValue| Error::Transport(error.to_string());
        let mut request = url.into_client_request().map_err(transport)?;
        if !header.is_empty() {
            let value = HeaderValue::from_str(header).map_err(invalid)?;
            request.headers_mut().insert("Sec-WebSocket-Protocol", value);
        }
        for (name, value) in others {
            let name = HeaderName::from_str(name).map_err(|error| Error::Transport(error.to_string()))?;
            request.headers_mut().append(name, HeaderValue::from_str(value).map_err(invalid)?);
        }
        // A server may put as much into a message as it likes; the client has no limit either.
        let config = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
        // Without Nagle's algorithm, as browsers do.
        // Boxed, because a handshake with TLS in it is large and whoever opens a socket would be as large.
        let opened = Box::pin(connect_async_with_config(request, Some(config), true)).await;
        let (socket, _) = opened.map_err(transport)?;
        Ok(Connection { socket, open: None, pieces: Vec::new(), followed: None })
    }

    /// Sends a message.
    ///
    /// # Errors
    /// When the socket is gone.
    pub async fn send(&mut self, message: &Upstream) -> Result<(), Error> {
        self.send_text(message.to_json()).await
    }

    /// Wants or no longer wants queries.
    ///
    /// # Errors
    /// When the socket is gone.
    pub async fn change_queries(&mut self, desired_queries_patch: Vec<DesiredOp>) -> Result<(), Error> {
        let body = zql_spec::protocol::upstream::ChangeDesiredQueries { desired_queries_patch, traceparent: None };
        self.send(&Upstream::ChangeDesiredQueries(body)).await
    }

    /// Sends any text.
    ///
    /// # Errors
    /// When the socket is gone.
    pub async fn send_text(&mut self, text: String) -> Result<(), Error> {
        self.socket.send(Message::text(text)).await.map_err(transport)
    }

    /// The next message as text, undecoded: for benchmarks that must not measure the decoder. Mixing it with
    /// [`Connection::next`] inside a poke loses parts.
    ///
    /// # Errors
    /// When the connection ended.
    pub async fn next_text(&mut self) -> Result<tungstenite::Utf8Bytes, Error> {
        self.followed = None;
        match self.next_message().await? {
            Message::Text(text) => Ok(text),
            _ => Err(Error::Protocol("a binary message".to_owned())),
        }
    }

    /// The next message that is text or binary.
    async fn next_message(&mut self) -> Result<Message, Error> {
        loop {
            match self.socket.next().await {
                Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => return Ok(message),
                Some(Ok(Message::Close(frame))) => {
                    let (code, reason) = frame.map(|frame| (u16::from(frame.code), frame.reason.to_string())).unzip();
                    return Err(Error::Closed { code, reason: reason.unwrap_or_default() });
                }
                // The library answers pings by itself.
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Err(error)) => return Err(transport(error)),
                None => return Err(Error::Closed { code: None, reason: String::new() }),
            }
        }
    }

    /// The next event. An error message of the server is an `Err`.
    ///
    /// # Errors
    /// When the connection ended, the server sent an error, or something at which the real client gives up.
    pub async fn next(&mut self) -> Result<Event, Error> {
        loop {
            let text = match self.next_message().await? {
                Message::Text(text) => text,
                other => {
                    self.take_piece(&other.into_data())?;
                    continue;
                }
            };
            let message = Downstream::parse(&text).map_err(|error| error.to_string()).and_then(|message| {
                check(&message)?;
                Ok(message)
            });
            let message = message.map_err(|error| {
                Error::Protocol(format!("{error} in {}", text.chars().take(200).collect::<String>()))
            })?;
            if let Some(event) = self.take(message, &text)? {
                return Ok(event);
            }
        }
    }

    /// The next poke, passing over everything that is neither a poke nor an error.
    ///
    /// # Errors
    /// As [`Connection::next`].
    pub async fn next_poke(&mut self) -> Result<Poke, Error> {
        loop {
            if let Event::Poke(poke) = self.next().await? {
                return Ok(poke);
            }
        }
    }

    /// A piece of a poke (protocol 52).
    fn take_piece(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let unexpected = || Error::Protocol("a binary message that is no piece of a poke".to_owned());
        let poke = self.open.as_mut().filter(|poke| poke.parts.is_empty()).ok_or_else(unexpected)?;
        let Some((0, piece)) = bytes.split_first() else { return Err(unexpected()) };
        poke.bytes += bytes.len();
        self.pieces.extend_from_slice(piece);
        Ok(())
    }

    fn take(&mut self, message: Downstream, text: &str) -> Result<Option<Event>, Error> {
        Ok(Some(match message {
            Downstream::Connected(_) => Event::Connected,
            Downstream::Error(body) => return Err(Error::Server(body)),
            Downstream::Pong => Event::Pong,
            Downstream::TransformError(errors) => Event::TransformError(errors),
            Downstream::DeleteClients(body) => Event::DeleteClients(body),
            Downstream::PokeStart(PokeStart { poke_id, base_cookie }) => {
                if let Some(open) = &self.open {
                    return Err(Error::Protocol(format!("poke {poke_id} begins inside {}", open.id)));
                }
                self.open = Some(Poke {
                    id: poke_id,
                    base: base_cookie,
                    cookie: String::new(),
                    parts: Vec::new(),
                    bytes: text.len(),
                    began: Instant::now(),
                    ended: Instant::now(),
                });
                return Ok(None);
            }
            Downstream::PokePart(part) => {
                let poke = self.open.as_mut().filter(|poke| poke.id == part.poke_id);
                let poke = poke.ok_or_else(|| Error::Protocol(format!("a part of poke {}", part.poke_id)))?;
                poke.bytes += text.len();
                poke.parts.push(*part);
                return Ok(None);
            }
            Downstream::PokeEnd(end) => {
                let poke = self.open.take().filter(|poke| poke.id == end.poke_id);
                let mut poke = poke.ok_or_else(|| Error::Protocol(format!("the end of poke {}", end.poke_id)))?;
                if end.cancel == Some(true) {
                    self.pieces.clear();
                    return Ok(Some(Event::Cancelled));
                }
                if !self.pieces.is_empty() {
                    let broken = |error: String| Error::Protocol(format!("the pieces of poke {}: {error}", poke.id));
                    let parts: Vec<PokePart> = serde_json::from_slice(&std::mem::take(&mut self.pieces))
                        .map_err(|error| broken(error.to_string()))?;
                    if let Some(other) = parts.iter().find(|part| part.poke_id != poke.id) {
                        return Err(broken(format!("one is of poke {}", other.poke_id)));
                    }
                    parts.iter().try_for_each(check_part).map_err(broken)?;
                    poke.parts = parts;
                }
                poke.bytes += text.len();
                poke.cookie = end.cookie;
                poke.ended = Instant::now();
                if let Some(followed) = &mut self.followed {
                    followed.follow(&poke)?;
                }
                Event::Poke(poke)
            }
            Downstream::Inspect(_) | Downstream::Other { .. } => Event::Other(text.to_owned()),
        }))
    }
}

fn transport(error: tungstenite::Error) -> Error {
    match error {
        tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed => {
            Error::Closed { code: None, reason: String::new() }
        }
        error => Error::Transport(error.to_string()),
    }
}
