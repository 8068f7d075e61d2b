//! One client of the chaos run: what it wants and writes, what it holds, and how it goes on after every kind of failure,
//! as the real client and its application do (protocol sheet §15, §17).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use protocol_client::{Connection, Error, Event, Hello, Identity, Keys, Poke, State};
use serde_json::{Value, json};
use testdata::world::Rng;
use tokio::sync::{mpsc, oneshot};
use zql_spec::protocol::downstream::MutationOp;
use zql_spec::protocol::error::{ErrorBody, ErrorKind};
use zql_spec::protocol::upstream::{DesiredOp, Upstream};

use super::town::Town;

/// Mutations that may wait for their number to come back. A client that is offline for long makes no more.
const MAX_PENDING: usize = 12;

/// Queries that a client may want beside those that all want.
const MAX_QUERIES: usize = 3;

/// What a client is told by the test.
pub(super) enum Command {
    /// Make trouble.
    Busy,
    /// Make no more, and say when all is done that was begun.
    Settle(oneshot::Sender<()>),
    /// Say what is held once this tick has been seen.
    See(u64, oneshot::Sender<View>),
}

/// What a client holds.
pub(super) struct View {
    pub(super) identity: Identity,
    pub(super) state: State,
    /// Hashes of what it wants.
    pub(super) wanted: BTreeSet<String>,
    /// How many mutations it made.
    pub(super) made: u64,
    /// Mutations that the application refused and that it has not been told of.
    pub(super) refused: BTreeSet<u64>,
}

/// A mutation that the server has not confirmed.
struct Pending {
    id: u64,
    custom: bool,
    mutation: Value,
}

pub(super) struct Tab {
    town: Arc<Town>,
    number: usize,
    team: usize,
    rng: Rng,
    identity: Identity,
    connection: Option<Connection>,
    /// Whether the server has greeted on this connection.
    greeted: bool,
    state: State,
    wanted: BTreeMap<String, DesiredOp>,
    made: u64,
    pending: VecDeque<Pending>,
    refused: BTreeSet<u64>,
    busy: bool,
    settling: Option<oneshot::Sender<()>>,
    seeing: Option<(u64, oneshot::Sender<View>)>,
}

impl Tab {
    pub(super) fn new(town: Arc<Town>, number: usize, team: usize, mut rng: Rng) -> Tab {
        let mut wanted = town.common(team);
        for _ in 0..1 + rng.below(MAX_QUERIES) {
            let (hash, query) = town.query(&mut rng);
            wanted.insert(hash, query);
        }
        Tab {
            identity: town.identity(team, None),
            connection: None,
            greeted: false,
            state: State::new(Keys::from_schema(&town.schema)),
            made: 0,
            pending: VecDeque::new(),
            refused: BTreeSet::new(),
            busy: false,
            settling: None,
            seeing: None,
            town,
            number,
            team,
            rng,
            wanted,
        }
    }

    /// Lives until nobody commands any more.
    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        loop {
            if self.connection.is_none() {
                self.connect().await;
            }
            self.answer();
            // Thinking, or waiting before the next attempt to connect.
            let pause = match self.connection {
                Some(_) if !self.busy => None,
                _ => Some(Duration::from_millis(5 + self.rng.below(200) as u64)),
            };
            tokio::select! {
                command = commands.recv() => match command {
                    Some(Command::Busy) => self.busy = true,
                    Some(Command::Settle(done)) => {
                        self.busy = false;
                        self.settling = Some(done);
                        self.send_wanted().await;
                    }
                    Some(Command::See(tick, view)) => self.seeing = Some((tick, view)),
                    None => return,
                },
                event = next(&mut self.connection) => self.on_event(event).await,
                () = pause_for(pause) => if self.busy {
                    self.act().await;
                },
            }
        }
    }

    /// A violation of the protocol, or an error that no client should be told.
    fn wrong(&self, what: &str) -> ! {
        panic!("client {} ({}) of team {}: {what}", self.number, self.identity.client_id, self.team)
    }

    /// One attempt.
    async fn connect(&mut self) {
        let mut hello = match &self.state.cookie {
            None => Hello::new(&self.town.schema, self.wanted.values().cloned().collect()),
            Some(_) => {
                let mut hello = Hello::again();
                hello.init.desired_queries_patch = self.unwritten();
                hello
            }
        };
        hello.in_message = self.rng.percent(30);
        self.greeted = false;
        self.connection = Connection::open(&self.identity, self.state.cookie.as_deref(), hello).await.ok();
    }

    fn disconnect(&mut self) {
        self.connection = None;
    }

    /// What the server does not know yet of what is wanted.
    fn unwritten(&self) -> Vec<DesiredOp> {
        let known = self.state.desired.get(&self.identity.client_id).cloned().unwrap_or_default();
        let gone = known.iter().filter(|hash| !self.wanted.contains_key(*hash));
        let gone = gone.map(|hash| DesiredOp::Del { hash: hash.clone() });
        let new = self.wanted.iter().filter(|(hash, _)| !known.contains(*hash)).map(|(_, query)| query.clone());
        gone.chain(new).collect()
    }

    async fn send_wanted(&mut self) {
        let patch = self.unwritten();
        if self.greeted
            && !patch.is_empty()
            && let Some(connection) = &mut self.connection
            && connection.change_queries(patch).await.is_err()
        {
            self.disconnect();
        }
    }

    async fn on_event(&mut self, event: Result<Event, Error>) {
        match event {
            Ok(Event::Connected) => {
                self.greeted = true;
                let all: Vec<usize> = (0..self.pending.len()).collect();
                self.push(&all).await;
            }
            Ok(Event::Poke(poke)) => self.on_poke(&poke).await,
            Ok(Event::TransformError(errors)) => self.wrong(&format!("{errors:?}")),
            Ok(Event::Cancelled | Event::DeleteClients(_) | Event::Pong | Event::Other(_)) => {}
            Err(error) => {
                self.disconnect();
                self.on_error(error);
            }
        }
    }

    async fn on_poke(&mut self, poke: &Poke) {
        if let Err(error) = self.state.apply(poke) {
            self.wrong(&error.to_string());
        }
        let confirmed = self.state.last_mutation_ids.get(&self.identity.client_id).copied().unwrap_or(0.0) as u64;
        while self.pending.front().is_some_and(|pending| pending.id <= confirmed) {
            self.pending.pop_front();
            self.town.tally.confirmed.send_modify(|confirmed| *confirmed += 1);
        }
        let mut seen = None;
        for op in poke.parts.iter().filter_map(|part| part.mutations_patch.as_ref()).flatten() {
            let (MutationOp::Put { mutation: Value::Object(object) } | MutationOp::Del { id: Value::Object(object) }) =
                op
            else {
                self.wrong(&format!("{op:?}"))
            };
            let id = object.get("id").filter(|id| id.is_object()).map_or(Value::from(object.clone()), Value::clone);
            if id["clientID"] == self.identity.client_id.as_str() {
                let id = id["id"].as_f64().unwrap_or_default() as u64;
                self.refused.remove(&id);
                seen = seen.max(Some(id));
            }
        }
        if let Some(id) = seen {
            let client_id = self.identity.client_id.clone();
            self.send(&Upstream::AckMutationResponses { id: id as f64, client_id }).await;
        }
        if self.settling.is_some() {
            self.send_wanted().await;
        }
    }

    fn on_error(&mut self, error: Error) {
        let tally = &self.town.tally;
        match error {
            Error::Closed { code: None | Some(1000 | 1001 | 1005 | 1006), .. } | Error::Transport(_) => {
                tally.count(&tally.closed);
            }
            Error::Server(body) => match body.kind {
                ErrorKind::Rehome => tally.count(&tally.rehomed),
                // The application sees it and connects again.
                ErrorKind::PushFailed => tally.count(&tally.parked),
                ErrorKind::ClientNotFound
                | ErrorKind::InvalidConnectionRequest
                | ErrorKind::InvalidConnectionRequestBaseCookie => {
                    tally.count(&tally.anew);
                    self.start_anew(&body);
                }
                _ => self.wrong(&format!("{body:?}")),
            },
            error => self.wrong(&error.to_string()),
        }
    }

    /// The server does not know the group: what is held here, and what was not confirmed, is given up.
    fn start_anew(&mut self, why: &ErrorBody) {
        eprintln!("client {} of team {} starts anew: {}", self.number, self.team, why.message);
        self.identity = self.town.identity(self.team, Some(&self.identity));
        self.state = State::new(Keys::from_schema(&self.town.schema));
        self.pending.clear();
        self.refused.clear();
        self.made = 0;
    }

    /// Does something that a user might.
    async fn act(&mut self) {
        match self.rng.below(100) {
            0..=54 if self.pending.len() < MAX_PENDING => {
                let many = if self.rng.percent(15) { 3 } else { 1 };
                let first = self.pending.len();
                (0..many).for_each(|_| self.write());
                let new: Vec<usize> = (first..self.pending.len()).collect();
                self.push(&new).await;
            }
            55..=69 => {
                let own: Vec<String> = {
                    let common = self.town.common(self.team);
                    self.wanted.keys().filter(|hash| !common.contains_key(*hash)).cloned().collect()
                };
                // What was asked for is not taken back before the server has said that it knows, nor the other way round:
                // what is sent follows from what it is known to know.
                let known = self.state.desired.get(&self.identity.client_id).cloned().unwrap_or_default();
                if own.len() < MAX_QUERIES && self.rng.percent(60) {
                    let (hash, query) = self.town.query(&mut self.rng);
                    if !known.contains(&hash) {
                        self.wanted.insert(hash, query);
                    }
                } else if let Some(hash) = own.iter().find(|hash| known.contains(*hash)) {
                    self.wanted.remove(hash);
                }
                self.send_wanted().await;
            }
            70..=73 => {
                self.town.tally.count(&self.town.tally.dropped);
                self.disconnect();
            }
            _ => {}
        }
    }

    /// Makes a mutation. Kinds do not overtake each other: another one is begun when all before it are confirmed.
    fn write(&mut self) {
        self.made += 1;
        let id = self.made;
        let custom = self.pending.back().map_or_else(|| self.rng.percent(50), |last| last.custom);
        let Identity { client_id, .. } = &self.identity;
        let written = json!({ "op": "insert", "tableName": "written", "primaryKey": ["id"],
            "value": { "id": format!("{client_id}-{id}"), "client": client_id, "mid": id, "team": self.team } });
        let ops = json!({ "ops": [written, self.town.operation(&mut self.rng, client_id, id)] });
        let (kind, name) = match custom {
            true if self.rng.percent(10) => {
                self.refused.insert(id);
                ("custom", "refuse")
            }
            true => ("custom", "write"),
            false => ("crud", "_zero_crud"),
        };
        let mutation =
            json!({ "type": kind, "timestamp": 1, "id": id, "clientID": client_id, "name": name, "args": [ops] });
        self.pending.push_back(Pending { id, custom, mutation });
    }

    /// Sends pending mutations, all in one message or each in its own.
    async fn push(&mut self, which: &[usize]) {
        if !self.greeted || which.is_empty() {
            return;
        }
        let size = if self.rng.percent(50) { 1 } else { which.len() };
        for chunk in which.chunks(size) {
            let mutations: Vec<&Value> = chunk.iter().map(|&index| &self.pending[index].mutation).collect();
            let body = json!({ "timestamp": 1, "clientGroupID": self.identity.client_group_id, "mutations": mutations,
                "pushVersion": 1, "requestID": "r" });
            let text = json!(["push", body]).to_string();
            let Some(connection) = &mut self.connection else { return };
            if connection.send_text(text).await.is_err() {
                self.disconnect();
            }
        }
    }

    async fn send(&mut self, message: &Upstream) {
        if let Some(connection) = &mut self.connection
            && connection.send(message).await.is_err()
        {
            self.disconnect();
        }
    }

    /// Answers what the test asked, if it is time.
    fn answer(&mut self) {
        let desired = self.state.desired.get(&self.identity.client_id);
        let in_line = self.pending.is_empty()
            && self.refused.is_empty()
            && desired.is_some_and(|desired| desired.iter().eq(self.wanted.keys()));
        if in_line && let Some(done) = self.settling.take() {
            // Nobody listens any more when the test has failed.
            let _ = done.send(());
        }
        let ticked = self.state.table("tick").next().and_then(|row| row["n"].as_u64());
        let wanted_by_all: BTreeSet<&String> = self.state.desired.values().flatten().collect();
        let got = self.state.got.iter().eq(wanted_by_all.iter().copied());
        if got && let Some((_, view)) = self.seeing.take_if(|(tick, _)| ticked >= Some(*tick)) {
            let _ = view.send(View {
                identity: self.identity.clone(),
                state: self.state.clone(),
                wanted: self.wanted.keys().cloned().collect(),
                made: self.made,
                refused: self.refused.clone(),
            });
        }
        let missing: Vec<&&String> = wanted_by_all.iter().filter(|hash| !self.state.got.contains(**hash)).collect();
        let extra: Vec<&String> = self.state.got.iter().filter(|hash| !wanted_by_all.contains(hash)).collect();
        self.town.note(self.number, || {
            format!(
                "client {} ({}): connected {}, greeted {}, cookie {:?}, tick {ticked:?}, pending {:?} ({}), refused {:?}, \
                 desired in line {in_line}, not got {missing:?}, got too much {extra:?}, settling {}, seeing {:?}",
                self.number,
                self.identity.client_id,
                self.connection.is_some(),
                self.greeted,
                self.state.cookie,
                self.pending.iter().map(|pending| pending.id).collect::<Vec<_>>(),
                if self.pending.front().is_some_and(|pending| pending.custom) { "custom" } else { "crud" },
                self.refused,
                self.settling.is_some(),
                self.seeing.as_ref().map(|(tick, _)| tick),
            )
        });
    }
}

/// The next event of a connection, if there is one.
async fn next(connection: &mut Option<Connection>) -> Result<Event, Error> {
    match connection {
        Some(connection) => connection.next().await,
        None => std::future::pending().await,
    }
}

async fn pause_for(pause: Option<Duration>) {
    match pause {
        Some(pause) => tokio::time::sleep(pause).await,
        None => std::future::pending().await,
    }
}
