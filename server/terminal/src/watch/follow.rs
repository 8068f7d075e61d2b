//! The loop: connect, apply pokes, show, reconnect.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use protocol_client::{Connection, Error, Event, Hello, Identity, Keys, State, hash_of};
use serde_json::Value;
use zql_spec::ast::Ast;
use zql_spec::protocol::upstream::{DesiredOp, Upstream};

use super::events;
use super::screen::Screen;

/// Idle time before the client asks whether the server is there, and how long it waits for the answer: the real client's.
const PING: Duration = Duration::from_secs(5);
/// Wait between failed attempts to connect, as the real client's.
const RECONNECT: Duration = Duration::from_secs(5);
/// How often the screen is drawn at most: faster than an eye, slower than a flood of pokes.
const FRAME: Duration = Duration::from_millis(50);

/// What to follow and how to show it.
#[derive(Debug)]
pub struct Options {
    /// The server and who we are.
    pub identity: Identity,
    /// The query.
    pub query: DesiredOp,
    /// Its AST, when known: rows are then shown as the query's result instead of by table.
    pub ast: Option<Ast>,
    /// The client schema, as JSON.
    pub schema: String,
    /// Where the server shall ask for named queries.
    pub query_url: Option<String>,
    /// Lines of JSON instead of a screen.
    pub json: bool,
    /// When to end by ourselves.
    pub end: End,
    /// Lines above the rows.
    pub heading: Vec<String>,
}

/// When to stop following.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Only when the server refuses.
    Never,
    /// When the query is complete or refused.
    Complete,
    /// After so many pokes.
    AfterPokes(u64),
}

/// Follows a query until the server refuses for good, or it is complete when that is asked for.
///
/// # Errors
/// When the server refuses or breaks the protocol.
pub async fn follow(options: Options) -> Result<()> {
    let state = State::new(Keys::from_schema(&options.schema));
    let screen = Screen::new(&options, std::io::stdout().is_terminal());
    let mut watcher = Watcher { options, state, screen, complete: false, attempt: 0, pokes: 0 };
    loop {
        watcher.attempt += 1;
        let begun = Instant::now();
        let error = match watcher.connected(begun).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        let again = error.is_transient();
        watcher.emit(|| events::disconnected(&error, again));
        watcher.screen.disconnected(&error.to_string());
        if !again {
            bail!(error);
        }
        // A socket that lived is replaced at once; one that never came up is not hammered.
        if begun.elapsed() < RECONNECT {
            watcher.screen.draw(&watcher.state);
            tokio::time::sleep(RECONNECT - begun.elapsed().min(RECONNECT)).await;
        }
    }
}

#[derive(Debug)]
struct Watcher {
    options: Options,
    state: State,
    screen: Screen,
    complete: bool,
    attempt: u32,
    pokes: u64,
}

impl Watcher {
    /// One connection, until it ends.
    async fn connected(&mut self, begun: Instant) -> Result<(), Error> {
        let cookie = self.state.cookie.clone();
        let mut hello = match &cookie {
            None => Hello::new(&self.options.schema, vec![self.options.query.clone()]),
            Some(_) => Hello::again(),
        };
        hello.init.user_query_url = self.options.query_url.clone();
        let mut connection = Connection::open(&self.options.identity, cookie.as_deref(), hello).await?;
        let mut pinged: Option<Instant> = None;
        loop {
            let wait = if self.screen.is_dirty() { FRAME } else { PING };
            let event = match tokio::time::timeout(wait, connection.next()).await {
                Ok(event) => event?,
                Err(_) if self.screen.is_dirty() => {
                    self.screen.draw(&self.state);
                    continue;
                }
                Err(_) => match pinged {
                    None => {
                        pinged = Some(Instant::now());
                        connection.send(&Upstream::Ping).await?;
                        continue;
                    }
                    Some(_) => return Err(Error::Transport("no answer to a ping".to_owned())),
                },
            };
            match event {
                Event::Connected => {
                    let ms = milliseconds(begun);
                    let attempt = self.attempt;
                    self.emit(|| events::connected(attempt, ms));
                    self.screen.connected(ms);
                }
                Event::Poke(poke) => {
                    self.state.apply(&poke)?;
                    self.emit(|| events::poke(&poke));
                    self.screen.poked(&poke);
                    self.note_complete(begun);
                    self.pokes += 1;
                    let ends = match self.options.end {
                        End::Never => false,
                        End::Complete => self.complete,
                        End::AfterPokes(pokes) => self.pokes >= pokes,
                    };
                    if ends {
                        self.screen.draw(&self.state);
                        return Ok(());
                    }
                }
                Event::Pong => {
                    if let Some(sent) = pinged.take() {
                        self.emit(|| events::pong(milliseconds(sent)));
                        self.screen.answered(milliseconds(sent));
                    }
                }
                Event::TransformError(errors) => {
                    self.emit(|| events::transform_error(&errors));
                    let message = errors.first().and_then(|error| error.message.clone()).unwrap_or_default();
                    self.screen.disconnected(&format!("the API server refuses the query: {message}"));
                    if self.options.end == End::Complete {
                        return Err(Error::Protocol(message));
                    }
                }
                Event::Cancelled | Event::DeleteClients(_) | Event::Other(_) => {}
            }
            self.screen.draw_if_due(&self.state, FRAME);
        }
    }

    fn note_complete(&mut self, begun: Instant) {
        let got = hash_of(&self.options.query).is_some_and(|hash| self.state.got.contains(hash));
        if got && !self.complete {
            let ms = milliseconds(begun);
            let line = events::complete(ms, &self.state);
            self.emit(|| line);
            self.screen.complete(ms);
        }
        self.complete = got;
    }

    fn emit(&self, event: impl FnOnce() -> Value) {
        if self.options.json {
            println!("{}", event());
        }
    }
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}
