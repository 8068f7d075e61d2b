//! Subscriptions: who waits for an answer, who has one, and how long a graph that nobody has goes on.
//!
//! Grows with the subscribers of the query at hand.

use std::sync::Arc;
use std::time::Instant;

use engine::graph::AnswerRow;
use engine::query::Query;

use super::entry::{Entry, State, Subscriber, key_of};
use super::{Message, Sequencer};
use crate::event::{Event, HydrateFailure};
use crate::mailbox::Token;
use crate::workers::{Job, Target};

impl Sequencer {
    pub(super) fn subscribe(&mut self, token: Token, subscriber: Subscriber, query: Arc<Query>) {
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

    pub(super) fn unsubscribe(&mut self, token: Token) {
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

    pub(super) fn end_lingering(&mut self) {
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

    pub(super) fn remove(&mut self, key: &str) {
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
    pub(super) fn tell_late(&mut self, token: Token) {
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
    pub(super) fn tell(&mut self, key: &str, rows: &Arc<[AnswerRow]>) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        for (token, subscriber) in entry.subscribers.iter_mut().filter(|(_, subscriber)| !subscriber.told) {
            subscriber.told = true;
            let (query_id, version) = (Arc::clone(&subscriber.query_id), Arc::clone(&self.version));
            subscriber.inbox.post(*token, Event::Hydrated { query_id, version, rows: Arc::clone(rows) });
        }
    }

    /// Tells one or all of an entry's subscribers that they get no answer, and lets them go.
    pub(super) fn fail(&mut self, key: &Arc<str>, only: Option<Token>, error: &HydrateFailure) {
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
}
