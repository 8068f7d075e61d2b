//! A client group's mailbox.
//!
//! The sequencer posts, the group reads in order. Advances that wait are composed into one, per query, so
//! a mailbox of a slow group is bounded by its subscriptions and the distinct rows that changed. Each
//! subscription has a token; a post under a token that is gone is dropped, so nothing of a query arrives
//! after it was unsubscribed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use engine::commit::Version;
use engine::graph::{AnswerRow, DeltaComposer, QueryDelta};
use engine::query::Query;
use engine::replica::Snapshot;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tokio::sync::Notify;

use crate::Views;
use crate::answers::patch;
use crate::event::Event;
use crate::sequencer::Message;

/// Names one subscription of one mailbox for all time.
pub(crate) type Token = u64;

static NEXT_TOKEN: AtomicU64 = AtomicU64::new(1);

/// A client group's end of its mailbox. Dropping it ends all its subscriptions.
pub struct Mailbox {
    views: Views,
    inbox: Arc<Inbox>,
}

impl Mailbox {
    pub(crate) fn new(views: Views) -> Self {
        Mailbox { views, inbox: Arc::default() }
    }

    /// Asks for a query's answer and its changes. The answer comes as [`Event::Hydrated`] or
    /// [`Event::HydrateFailed`]. A subscription under the same name is replaced.
    pub fn subscribe(&self, query_id: Arc<str>, query: Arc<Query>) {
        let token = NEXT_TOKEN.fetch_add(1, Ordering::Relaxed);
        self.unsubscribe(&query_id);
        self.inbox.state.lock().subscriptions.insert(Arc::clone(&query_id), token);
        let inbox = Arc::clone(&self.inbox);
        self.views.queue().push(Message::Subscribe { inbox, query_id, token, query });
    }

    /// Ends a subscription; nothing of it arrives any more.
    pub fn unsubscribe(&self, query_id: &str) {
        let mut state = self.inbox.state.lock();
        let Some(token) = state.subscriptions.remove(query_id) else { return };
        state.forget(query_id);
        drop(state);
        self.views.queue().push(Message::Unsubscribe { token });
    }

    /// Asks for the replica as it is where this mailbox stands, which comes as [`Event::Pinned`]: the newest version may be
    /// ahead of what the mailbox has said.
    pub fn pin(&self) {
        self.views.queue().push(Message::Pin(Arc::clone(&self.inbox)));
    }

    /// Waits for the next event. Cancel-safe.
    pub async fn recv(&self) -> Event {
        loop {
            let posted = self.inbox.notify.notified();
            if let Some(event) = self.try_recv() {
                return event;
            }
            posted.await;
        }
    }

    /// The next event, if there is one.
    pub fn try_recv(&self) -> Option<Event> {
        self.inbox.state.lock().take()
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        let mut state = self.inbox.state.lock();
        let tokens: Vec<Token> = state.subscriptions.drain().map(|(_, token)| token).collect();
        state.waiting.clear();
        drop(state);
        for token in tokens {
            self.views.queue().push(Message::Unsubscribe { token });
        }
    }
}

/// The shared side of a mailbox.
#[derive(Default)]
pub(crate) struct Inbox {
    state: Mutex<State>,
    notify: Notify,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Waiting>,
    subscriptions: FxHashMap<Arc<str>, Token>,
    /// Graphs of this mailbox that are being hydrated again. While there are any, nothing is handed out:
    /// the answers do not stand at one version.
    held: usize,
}

enum Waiting {
    Event(Event),
    Advances { version: Version, deltas: Vec<(Arc<str>, Composed)> },
}

/// One delta as it came, or several as one.
enum Composed {
    One(Arc<QueryDelta>),
    Many(DeltaComposer),
}

impl Composed {
    /// Appends the delta that follows.
    fn add(&mut self, next: &QueryDelta) {
        match self {
            Composed::Many(composer) => composer.add(next),
            Composed::One(first) => {
                let mut composer = DeltaComposer::new(first);
                composer.add(next);
                *self = Composed::Many(composer);
            }
        }
    }

    fn then(mut self, next: &QueryDelta) -> Self {
        self.add(next);
        self
    }

    fn finish(self) -> Arc<QueryDelta> {
        match self {
            Composed::One(delta) => delta,
            Composed::Many(composer) => Arc::new(composer.finish()),
        }
    }
}

impl Inbox {
    /// Posts an event about one subscription. A failed subscription ends.
    pub(crate) fn post(&self, token: Token, event: Event) {
        let mut state = self.state.lock();
        let query_id = match &event {
            Event::Hydrated { query_id, .. } | Event::HydrateFailed { query_id, .. } => query_id,
            Event::Advanced { .. } | Event::Pinned { .. } | Event::SchemaChanged { .. } | Event::Failed => return,
        };
        if state.subscriptions.get(query_id) != Some(&token) {
            return;
        }
        if let Event::HydrateFailed { query_id, .. } = &event {
            state.subscriptions.remove(query_id);
        }
        state.waiting.push_back(Waiting::Event(event));
        drop(state);
        self.notify.notify_one();
    }

    /// Posts an event about all subscriptions, which end with it.
    pub(crate) fn post_end(&self, event: Event) {
        let mut state = self.state.lock();
        state.subscriptions.clear();
        state.waiting.clear();
        state.held = 0;
        state.waiting.push_back(Waiting::Event(event));
        drop(state);
        self.notify.notify_one();
    }

    /// Posts a pin of the version at which everything posted so far stands.
    pub(crate) fn post_pin(&self, snapshot: Arc<Snapshot>) {
        self.state.lock().waiting.push_back(Waiting::Event(Event::Pinned { snapshot: Some(snapshot) }));
        self.notify.notify_one();
    }

    /// Posts the deltas of one commit at once, composed with what waits.
    pub(crate) fn advance(&self, deltas: &[(Token, Arc<str>, Arc<QueryDelta>)]) {
        let mut state = self.state.lock();
        for (token, query_id, delta) in deltas {
            if state.subscriptions.get(query_id) == Some(token) {
                state.advance(query_id, delta);
            }
        }
        drop(state);
        self.notify.notify_one();
    }

    /// Hands out nothing until [`Inbox::release`].
    pub(crate) fn hold(&self) {
        self.state.lock().held += 1;
    }

    /// Ends one hold. `version` is where all answers stand.
    pub(crate) fn release(&self, version: &Version) {
        let mut state = self.state.lock();
        state.held = state.held.saturating_sub(1);
        if state.held == 0 {
            state.collapse(version);
        }
        drop(state);
        self.notify.notify_one();
    }
}

impl State {
    fn advance(&mut self, query_id: &Arc<str>, delta: &Arc<QueryDelta>) {
        let Some(Waiting::Advances { version, deltas }) = self.waiting.back_mut() else {
            self.waiting.push_back(Waiting::Advances {
                version: Arc::clone(&delta.version),
                deltas: vec![(Arc::clone(query_id), Composed::One(Arc::clone(delta)))],
            });
            return;
        };
        *version = Arc::clone(&delta.version);
        match deltas.iter_mut().find(|(id, _)| id == query_id) {
            Some((_, earlier)) => earlier.add(delta),
            None => deltas.push((Arc::clone(query_id), Composed::One(Arc::clone(delta)))),
        }
    }

    /// Makes all that waits stand at one version. What was posted during a hold lacks the changes of the
    /// queries that were set aside, which only came at its end; so none of it may be seen on its own.
    fn collapse(&mut self, version: &Version) {
        let mut deltas: Vec<(Arc<str>, Composed)> = Vec::new();
        // A query, its first answer, and what came to it since.
        type Answered = (Arc<str>, Arc<[AnswerRow]>, Option<Composed>);
        let mut answers: Vec<Answered> = Vec::new();
        let mut others = Vec::new();
        for waiting in self.waiting.drain(..) {
            match waiting {
                Waiting::Event(Event::Hydrated { query_id, rows, .. }) => answers.push((query_id, rows, None)),
                // What was pinned is an older version than the one at which all stands now.
                Waiting::Event(Event::Pinned { .. }) => others.push(Waiting::Event(Event::Pinned { snapshot: None })),
                Waiting::Event(event) => others.push(Waiting::Event(event)),
                Waiting::Advances { deltas: later, .. } => {
                    for (query_id, delta) in later {
                        if let Some((_, _, since)) = answers.iter_mut().find(|(id, ..)| *id == query_id) {
                            *since = Some(match since.take() {
                                Some(earlier) => earlier.then(&delta.finish()),
                                None => delta,
                            });
                        } else if let Some((_, earlier)) = deltas.iter_mut().find(|(id, _)| *id == query_id) {
                            earlier.add(&delta.finish());
                        } else {
                            deltas.push((query_id, delta));
                        }
                    }
                }
            }
        }
        if !deltas.is_empty() {
            self.waiting.push_back(Waiting::Advances { version: Arc::clone(version), deltas });
        }
        for (query_id, rows, since) in answers {
            let rows = match since {
                Some(since) => {
                    let mut rows = rows.to_vec();
                    patch(&mut rows, &since.finish());
                    rows.into()
                }
                None => rows,
            };
            self.waiting.push_back(Waiting::Event(Event::Hydrated { query_id, version: Arc::clone(version), rows }));
        }
        self.waiting.extend(others);
    }

    fn take(&mut self) -> Option<Event> {
        if self.held > 0 {
            return None;
        }
        loop {
            match self.waiting.pop_front()? {
                Waiting::Event(event) => return Some(event),
                Waiting::Advances { version, deltas } => {
                    let deltas: Vec<_> = deltas
                        .into_iter()
                        .map(|(query_id, delta)| (query_id, delta.finish()))
                        .filter(|(_, delta)| !delta.changes.is_empty())
                        .collect();
                    if !deltas.is_empty() {
                        return Some(Event::Advanced { version, deltas });
                    }
                }
            }
        }
    }

    /// Drops what waits about a query.
    fn forget(&mut self, query_id: &str) {
        self.waiting.retain_mut(|waiting| match waiting {
            Waiting::Event(Event::Hydrated { query_id: id, .. } | Event::HydrateFailed { query_id: id, .. }) => {
                **id != *query_id
            }
            Waiting::Event(_) => true,
            Waiting::Advances { deltas, .. } => {
                deltas.retain(|(id, _)| **id != *query_id);
                !deltas.is_empty()
            }
        });
    }
}
