//! The thread that owns the running graphs.
//!
//! It handles what its queue holds in rounds: first the commits that wait, as one, then the messages. So
//! under load it takes fewer and larger steps. All posts to mailboxes happen here, which is what makes
//! their order mean something.

mod commits;
mod entry;
mod hydrations;
mod late;
mod queue;
mod subscriptions;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use engine::catalogue::{Catalogue, GraphId};
use engine::commit::{Commit, Version};
use engine::graph::{DeltaComposer, QueryDelta};
use engine::replica::{Replica, Snapshot};
use rustc_hash::FxHashMap;

use crate::Options;
use crate::answers::Answers;
use crate::mailbox::{Inbox, Token};
use crate::recent::Recent;
use crate::workers::Job;
use entry::{Entry, Subscriber};

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
}
