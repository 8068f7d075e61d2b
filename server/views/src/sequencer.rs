//! The thread that owns the running graphs.
//!
//! It handles what its queue holds in rounds: first the commits that wait, as one, then the messages. So
//! under load it takes fewer and larger steps. All posts to mailboxes happen here, which is what makes
//! their order mean something.

mod entry;
mod late;
mod queue;

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use engine::catalogue::{Catalogue, GraphId};
use engine::commit::{Commit, Version};
use engine::graph::{AdvanceError, AnswerRow, DeltaComposer, Graph, QueryDelta, ReplicaRead};
use engine::query::Query;
use engine::replica::{Replica, Snapshot};
use rustc_hash::FxHashMap;

use crate::Options;
use crate::answers::{Answers, patch};
use crate::event::{Event, HydrateFailure};
use crate::mailbox::{Inbox, Token};
use crate::recent::{Recent, Since};
use crate::workers::{Done, Job, Prepared, Target, panic_message};
use entry::{Entry, State, Subscriber, key_of};

pub(crate) use queue::{Message, Queue};

/// The deltas of one commit by inbox: a mailbox sees all of a commit at once, because what it sees becomes
/// one poke at one version.
type Posts = FxHashMap<usize, (Arc<Inbox>, Vec<(Token, Arc<str>, Arc<QueryDelta>)>)>;

/// How often a query is hydrated anew because commits outran it or it could not be brought up to date,
/// before those that wait for it are told. Each try starts from the newest version.
const MAX_ATTEMPTS: u32 = 5;

/// How long messages wait for a readable version before they are tried again. Normally the commit they
/// wait for wakes the thread first.
const DEFERRED_WAIT: Duration = Duration::from_millis(100);

/// Starts the thread.
pub(crate) fn start(
    queue: Arc<Queue>,
    replica: Arc<Replica>,
    recent: Arc<Recent>,
    jobs: Sender<Job>,
    version: Version,
    options: &Options,
) -> std::io::Result<()> {
    let mut sequencer = Sequencer {
        queue,
        replica,
        recent,
        jobs,
        version,
        linger: options.linger,
        late_rows: options.late_rows,
        late: FxHashMap::default(),
        catalogue: Catalogue::default(),
        entries: FxHashMap::default(),
        by_graph: FxHashMap::default(),
        by_token: FxHashMap::default(),
        answers: Answers::default(),
        snapshot: None,
        unread: None,
        deferred: Vec::new(),
        lingering: VecDeque::new(),
        hydrations: 0,
    };
    std::thread::Builder::new().name("views".into()).spawn(move || sequencer.run())?;
    Ok(())
}

struct Sequencer {
    queue: Arc<Queue>,
    replica: Arc<Replica>,
    recent: Arc<Recent>,
    jobs: Sender<Job>,
    /// The version at which all graphs stand.
    version: Version,
    linger: Duration,
    late_rows: usize,
    /// Graphs whose rows are being read for late subscribers, with what changed since.
    late: FxHashMap<GraphId, Option<DeltaComposer>>,
    catalogue: Catalogue,
    entries: FxHashMap<Arc<str>, Entry>,
    by_graph: FxHashMap<GraphId, Arc<str>>,
    by_token: FxHashMap<Token, Arc<str>>,
    answers: Answers,
    /// A pin of `version`, only held within a round.
    snapshot: Option<Arc<Snapshot>>,
    /// Commits whose version could not be pinned; composed with the next one.
    unread: Option<Commit>,
    /// Messages that need the graphs and the replica's newest version to meet.
    deferred: Vec<Message>,
    lingering: VecDeque<(Instant, Arc<str>)>,
    hydrations: usize,
}

impl Sequencer {
    fn run(&mut self) {
        loop {
            let mut timeout = self.lingering.front().map(|(until, _)| until.saturating_duration_since(Instant::now()));
            if !self.deferred.is_empty() {
                timeout = Some(timeout.map_or(DEFERRED_WAIT, |timeout| timeout.min(DEFERRED_WAIT)));
            }
            let Some(round) = self.queue.take(timeout) else { return };
            let mut messages = std::mem::take(&mut self.deferred);
            messages.extend(round.messages);
            if let Some((commit, snapshot)) = round.commit {
                self.commit(commit, snapshot);
            }
            for message in messages {
                match message {
                    Message::Subscribe { inbox, query_id, token, query } => {
                        self.subscribe(token, Subscriber { inbox, query_id, told: false }, query);
                    }
                    Message::Unsubscribe { token } => self.unsubscribe(token),
                    Message::Done(done) => self.done(done),
                    Message::Late(token) => self.tell_late(token),
                    Message::Pin(inbox) => match self.pinned() {
                        Some(snapshot) => inbox.post_pin(snapshot),
                        None => self.deferred.push(Message::Pin(inbox)),
                    },
                    Message::Cancelled => self.hydrations -= 1,
                }
            }
            self.end_lingering();
            self.snapshot = None;
            self.queue.set_metrics(self.entries.len(), self.by_token.len(), self.hydrations);
        }
    }

    // ---- commits -------------------------------------------------------------------------------------

    fn commit(&mut self, commit: Arc<Commit>, snapshot: Option<Arc<Snapshot>>) {
        let commit = match self.unread.take() {
            Some(mut earlier) => {
                earlier.compose(&commit);
                Arc::new(earlier)
            }
            None => commit,
        };
        let reader = snapshot.and_then(|snapshot| snapshot.reader().ok()).or_else(|| {
            // The pin was given up while it waited here. If the newest version is a later one, its commit is
            // on its way.
            let snapshot = self.replica.pin().ok()?;
            if snapshot.version == commit.version { snapshot.reader().ok() } else { None }
        });
        let Some(reader) = reader else {
            tracing::warn!(
                version = &*commit.version,
                "a version could not be read; its changes wait for the next one"
            );
            self.unread = Some(Arc::unwrap_or_clone(commit));
            return;
        };
        self.version = Arc::clone(&commit.version);
        self.snapshot = Some(Arc::clone(reader.snapshot()));
        if commit.schema_changed {
            let schema = Arc::clone(&reader.snapshot().schema);
            let version = Arc::clone(&commit.version);
            return self.end_all(&Event::SchemaChanged { version, schema });
        }
        let snapshot = Arc::clone(reader.snapshot());
        let mut read = ReplicaRead::new(reader);
        // Asked for only if the commit touches many graphs.
        let mut more = |wanted: usize| {
            let idle = std::thread::available_parallelism().map_or(1, usize::from) - 1;
            (0..wanted.min(idle)).filter_map(|_| snapshot.reader().ok().map(ReplicaRead::new)).collect()
        };
        let catalogue = &mut self.catalogue;
        match catch_unwind(AssertUnwindSafe(|| catalogue.commit_parallel(&commit, &mut read, &mut more))) {
            Ok(results) => {
                let mut posts = Posts::default();
                for (graph, result) in results {
                    self.answers.remove(graph);
                    match result {
                        Ok(delta) => self.post(graph, delta, &mut posts),
                        Err(error) => self.set_aside(graph, &error),
                    }
                }
                for (inbox, deltas) in posts.into_values() {
                    inbox.advance(&deltas);
                }
            }
            Err(panic) => {
                // What the panic left behind cannot be trusted, and which graph it was is not known.
                tracing::error!(message = panic_message(&*panic), "advancing the graphs panicked; all are dropped");
                self.end_all(&Event::Failed);
            }
        }
    }

    /// Collects a delta for all that know the answer it leads from.
    fn post(&mut self, graph: GraphId, delta: QueryDelta, posts: &mut Posts) {
        self.changed_late(graph, &delta);
        let delta = Arc::new(delta);
        let Some(entry) = self.by_graph.get(&graph).and_then(|key| self.entries.get(key)) else { return };
        for (token, subscriber) in entry.subscribers.iter().filter(|(_, subscriber)| subscriber.told) {
            let inbox = &subscriber.inbox;
            let (_, deltas) =
                posts.entry(Arc::as_ptr(inbox) as usize).or_insert_with(|| (Arc::clone(inbox), Vec::new()));
            deltas.push((*token, Arc::clone(&subscriber.query_id), Arc::clone(&delta)));
        }
    }

    /// Hydrates a graph again that could not advance. Its subscribers wait: their other answers move on
    /// without it.
    fn set_aside(&mut self, graph: GraphId, error: &AdvanceError) {
        let Some(entry) = self.by_graph.get(&graph).and_then(|key| self.entries.get_mut(key)) else { return };
        if !matches!(error, AdvanceError::HydrateInstead) {
            tracing::warn!(%error, "a query is hydrated again because it could not advance");
        }
        entry.state = State::Aside(graph);
        for subscriber in entry.subscribers.values().filter(|subscriber| subscriber.told) {
            subscriber.inbox.hold();
        }
        let job = Job {
            target: Target::Again(graph),
            query: Arc::clone(&entry.query),
            cancelled: Arc::clone(&entry.cancelled),
        };
        self.submit(job);
    }

    /// Drops every graph and tells every mailbox.
    fn end_all(&mut self, event: &Event) {
        for (_, entry) in self.entries.drain() {
            entry.cancel();
            for subscriber in entry.subscribers.values() {
                subscriber.inbox.post_end(event.clone());
            }
        }
        self.catalogue = Catalogue::default();
        self.by_graph.clear();
        self.by_token.clear();
        self.answers = Answers::default();
        self.late.clear();
        self.lingering.clear();
    }

    // ---- subscriptions -------------------------------------------------------------------------------

    fn subscribe(&mut self, token: Token, subscriber: Subscriber, query: Arc<Query>) {
        let key = key_of(&query);
        self.by_token.insert(token, Arc::clone(&key));
        match self.entries.get_mut(&key) {
            Some(entry) => {
                entry.subscribers.insert(token, subscriber);
                if let State::Live(_) = entry.state {
                    self.tell_late(token);
                }
            }
            None => {
                let mut entry = Entry::new(Arc::clone(&query));
                entry.subscribers.insert(token, subscriber);
                let job = Job { target: Target::New(Arc::clone(&key)), query, cancelled: Arc::clone(&entry.cancelled) };
                self.entries.insert(key, entry);
                self.submit(job);
            }
        }
    }

    fn unsubscribe(&mut self, token: Token) {
        let Some(key) = self.by_token.remove(&token) else { return };
        let Some(entry) = self.entries.get_mut(&key) else { return };
        if let Some(subscriber) = entry.subscribers.remove(&token)
            && subscriber.told
            && matches!(entry.state, State::Aside(_))
        {
            subscriber.inbox.release(&self.version);
        }
        if entry.subscribers.is_empty() {
            match entry.state {
                State::Live(_) => self.lingering.push_back((Instant::now() + self.linger, key)),
                State::Hydrating | State::Aside(_) => self.remove(&key),
            }
        }
    }

    fn end_lingering(&mut self) {
        let now = Instant::now();
        while let Some((until, _)) = self.lingering.front()
            && *until <= now
        {
            let Some((_, key)) = self.lingering.pop_front() else { return };
            let again = self.lingering.iter().any(|(_, other)| *other == key);
            if !again && self.entries.get(&key).is_some_and(|entry| entry.subscribers.is_empty()) {
                self.remove(&key);
            }
        }
    }

    fn remove(&mut self, key: &str) {
        let Some(entry) = self.entries.remove(key) else { return };
        entry.cancel();
        if let State::Live(graph) | State::Aside(graph) = entry.state {
            self.catalogue.remove(graph);
            self.by_graph.remove(&graph);
            self.answers.remove(graph);
            self.late.remove(&graph);
        }
    }

    /// Tells a subscriber of a running graph its answer as it is now.
    fn tell_late(&mut self, token: Token) {
        let Some(key) = self.by_token.get(&token).cloned() else { return };
        let Some(State::Live(graph)) = self.entries.get(&key).map(|entry| entry.state) else { return };
        let rows = match self.answers.get(graph) {
            Some(rows) => rows,
            None => {
                let Some(mut read) = self.read() else {
                    self.deferred.push(Message::Late(token));
                    return;
                };
                let Some(running) = self.catalogue.get(graph) else { return };
                if running.row_count() > self.late_rows {
                    return self.read_late(&key, graph);
                }
                match running.rows(&mut read) {
                    Ok(rows) => {
                        let rows: Arc<[AnswerRow]> = rows.into();
                        self.answers.insert(graph, &rows);
                        rows
                    }
                    Err(error) => {
                        let error = HydrateFailure::Internal(error.to_string().into());
                        return self.fail(&key, Some(token), &error);
                    }
                }
            }
        };
        self.tell(&key, &rows);
    }

    /// Tells all of an entry's subscribers that have not been told.
    fn tell(&mut self, key: &str, rows: &Arc<[AnswerRow]>) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        for (token, subscriber) in entry.subscribers.iter_mut().filter(|(_, subscriber)| !subscriber.told) {
            subscriber.told = true;
            let (query_id, version) = (Arc::clone(&subscriber.query_id), Arc::clone(&self.version));
            subscriber.inbox.post(*token, Event::Hydrated { query_id, version, rows: Arc::clone(rows) });
        }
    }

    /// Tells one or all of an entry's subscribers that they get no answer, and lets them go.
    fn fail(&mut self, key: &Arc<str>, only: Option<Token>, error: &HydrateFailure) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let aside = matches!(entry.state, State::Aside(_));
        entry.subscribers.retain(|token, subscriber| {
            if only.is_some_and(|only| only != *token) {
                return true;
            }
            self.by_token.remove(token);
            let query_id = Arc::clone(&subscriber.query_id);
            subscriber.inbox.post(*token, Event::HydrateFailed { query_id, error: error.clone() });
            if aside && subscriber.told {
                subscriber.inbox.release(&self.version);
            }
            false
        });
        if entry.subscribers.is_empty() {
            self.remove(key);
        }
    }

    // ---- hydrations ----------------------------------------------------------------------------------

    fn submit(&mut self, job: Job) {
        self.hydrations += 1;
        if self.jobs.send(job).is_err() {
            tracing::error!("the hydration threads are gone");
        }
    }

    /// A reader at the version of the graphs, if that is the replica's newest; else its commit is on its
    /// way here.
    fn read(&mut self) -> Option<ReplicaRead> {
        self.pinned()?.reader().ok().map(ReplicaRead::new)
    }

    fn pinned(&mut self) -> Option<Arc<Snapshot>> {
        if self.snapshot.is_none() {
            self.snapshot = self.replica.pin().ok().filter(|snapshot| snapshot.version == self.version);
        }
        self.snapshot.clone()
    }

    fn done(&mut self, done: Done) {
        if let Target::Late(key, graph, ..) = &done.target {
            return self.late_done(key, *graph, done.result);
        }
        let Some(version) = done.version.clone() else {
            self.hydrations -= 1;
            if let Err(error) = done.result {
                let key = self.key_of_target(&done.target);
                key.into_iter().for_each(|key| self.fail(&key, None, &error));
            }
            return;
        };
        if version > self.version {
            // It read a commit that has not come here yet.
            self.deferred.push(Message::Done(done));
            return;
        }
        let since = self.recent.since(&version, &self.version);
        if matches!(since, Since::Commit(_)) && self.read().is_none() {
            self.deferred.push(Message::Done(done));
            return;
        }
        self.hydrations -= 1;
        self.recent.done(&version);
        let Some(key) = self.key_of_target(&done.target) else { return };
        let Prepared { graph: next, rows } = match done.result {
            Err(error) => return self.fail(&key, None, &error),
            Ok(_) if matches!(since, Since::Lost) => return self.again(&key, done.target, "commits outran it"),
            Ok(prepared) => prepared,
        };
        let Some(next) = next else { return };
        let Target::Again(graph) = done.target else { return self.install(&key, *next, rows, since) };
        let mut read = self.read();
        let since = match (&since, &mut read) {
            (Since::Commit(commit), Some(read)) => Some((commit.as_ref(), read as &mut dyn engine::graph::Read)),
            _ => None,
        };
        let catalogue = &mut self.catalogue;
        match catch_unwind(AssertUnwindSafe(|| catalogue.replace(graph, *next, rows, since))) {
            Ok(Ok(delta)) => self.resume(&key, graph, delta),
            Ok(Err(error)) => self.again(&key, done.target, &error.to_string()),
            Err(panic) => self.fail(&key, None, &internal(panic_message(&*panic))),
        }
    }

    fn key_of_target(&self, target: &Target) -> Option<Arc<str>> {
        match target {
            Target::New(key) => {
                let entry = self.entries.get(key)?;
                matches!(entry.state, State::Hydrating).then(|| Arc::clone(key))
            }
            Target::Again(graph) => self.by_graph.get(graph).cloned(),
            Target::Late(key, ..) => Some(Arc::clone(key)),
        }
    }

    /// Hydrates once more, unless that has been tried too often.
    fn again(&mut self, key: &Arc<str>, target: Target, why: &str) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.attempts += 1;
        if entry.attempts >= MAX_ATTEMPTS {
            let message = format!("the query could not be brought up to date in {MAX_ATTEMPTS} attempts: {why}");
            return self.fail(key, None, &internal(&message));
        }
        let job = Job { target, query: Arc::clone(&entry.query), cancelled: Arc::clone(&entry.cancelled) };
        self.submit(job);
    }

    /// Takes a new graph into the catalogue, brought up to date, and tells those that wait for it.
    fn install(&mut self, key: &Arc<str>, mut graph: Graph, mut rows: Vec<AnswerRow>, since: Since) {
        if let Since::Commit(commit) = &since {
            let Some(mut read) = self.read() else { return self.again(key, Target::New(Arc::clone(key)), "no reader") };
            match catch_unwind(AssertUnwindSafe(|| graph.advance(commit, &mut read))) {
                Ok(Ok(delta)) => patch(&mut rows, &delta),
                Ok(Err(error)) => return self.again(key, Target::New(Arc::clone(key)), &error.to_string()),
                Err(panic) => return self.fail(key, None, &internal(panic_message(&*panic))),
            }
        }
        let id = self.catalogue.insert(graph);
        self.by_graph.insert(id, Arc::clone(key));
        if let Some(entry) = self.entries.get_mut(key) {
            entry.state = State::Live(id);
            entry.attempts = 0;
        }
        let rows: Arc<[AnswerRow]> = rows.into();
        self.answers.insert(id, &rows);
        self.tell(key, &rows);
    }

    /// Lets the subscribers of a graph that was set aside go on.
    fn resume(&mut self, key: &Arc<str>, graph: GraphId, delta: QueryDelta) {
        if !delta.changes.is_empty() {
            let mut posts = Posts::default();
            self.post(graph, delta, &mut posts);
            for (inbox, deltas) in posts.into_values() {
                inbox.advance(&deltas);
            }
        }
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.state = State::Live(graph);
        entry.attempts = 0;
        let mut late = Vec::new();
        for (token, subscriber) in &entry.subscribers {
            if subscriber.told {
                subscriber.inbox.release(&self.version);
            } else {
                late.push(*token);
            }
        }
        if let Some(first) = late.first() {
            self.tell_late(*first);
        }
    }
}

fn internal(message: &str) -> HydrateFailure {
    HydrateFailure::Internal(format!("internal error: {message}").into())
}
