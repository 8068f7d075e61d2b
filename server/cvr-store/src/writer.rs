//! The one task that commits records.
//!
//! While a batch is being committed the next one gathers, so the number of statements follows from how long a commit
//! takes and not from the number of groups. One commit upstream reaches all groups at about the same time; a batch
//! therefore waits a moment for company if the last one had some.
//!
//! `synchronous_commit` is left as the database has it (on, unless someone chose otherwise): were Postgres to lose
//! a version that clients have been told about, later versions could be numbered past it, and a row that a client got
//! in the lost version would never be taken back. A batch shares one wait for the disk among its groups.
//!
//! A record that somebody else has locked holds up its batch for a moment only: then it waits apart ([`Lane`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cvr::flush::Flush;
use rustc_hash::FxHashSet;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tracing::warn;

use crate::StoreError;
use crate::batch::{self, Entry};
use crate::behind::{MAX_ROWS_WITH_RECORD, Waiting};
use crate::connection::{Connection, Connections};
use crate::error::Failure;
use crate::lane::Lane;

/// Groups in one batch: bounds how long one commit takes (about 20 ms for a full one with a few rows each).
const MAX_BATCH: usize = 256;

/// Flushes that wait for the writer before groups wait to hand theirs over. A group has at most one under way, so
/// this is a number of groups; each costs its changed rows, which live until the commit anyway.
pub(crate) const QUEUE: usize = 1024;

/// How long a batch waits for company. Far below what a person notices, and about the time that one
/// upstream commit takes to pass through all groups.
const GATHER: Duration = Duration::from_millis(1);

/// Attempts at a batch that Postgres aborted in favour of another transaction.
const ATTEMPTS: usize = 3;

/// What the writer is asked to do.
pub(crate) enum Job {
    Flush(Arc<Flush>, oneshot::Sender<Result<(), StoreError>>),
    /// Answer when everything before is done, and stop.
    Close(oneshot::Sender<()>),
}

/// What was written since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Statements that wrote records.
    pub batches: AtomicU64,
    /// Flushes that they wrote.
    pub flushes: AtomicU64,
    /// Rows written with their record.
    pub rows: AtomicU64,
    /// Rows left to be written behind.
    pub rows_behind: AtomicU64,
}

pub(crate) struct Writer {
    pub(crate) jobs: mpsc::Receiver<Job>,
    pub(crate) connections: Arc<Connections>,
    pub(crate) waiting: Arc<Waiting>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) task_id: String,
    pub(crate) lane: Arc<Lane>,
    /// Flushes that wait in the lane. At most one of each group.
    pub(crate) apart: JoinSet<()>,
}

struct Pending {
    flush: Arc<Flush>,
    done: oneshot::Sender<Result<(), StoreError>>,
}

impl Writer {
    /// Writes until it is closed, or everyone who could ask is gone.
    pub(crate) async fn run(mut self) {
        let mut connection = None;
        if let Ok(open) = self.connections.ensure(&mut connection, self.connections.limits.lock).await {
            // What fails here fails, and is reported, when there is something to write.
            let warm_up = batch::warm_up(&open.client, &open.statements);
            if self.connections.limited(warm_up).await.is_err() {
                connection = None;
            }
        }
        let mut closing = None;
        // A second flush of a group that is in the batch; a well-behaved group never has one.
        let mut held: Vec<Pending> = Vec::new();
        let mut company = false;
        while closing.is_none() || !held.is_empty() {
            let mut batch = std::mem::take(&mut held);
            if batch.is_empty() {
                match self.jobs.recv().await {
                    Some(Job::Flush(flush, done)) => batch.push(Pending { flush, done }),
                    Some(Job::Close(done)) => {
                        closing = Some(done);
                        continue;
                    }
                    None => return,
                }
            }
            if company && self.jobs.len() + batch.len() < MAX_BATCH {
                tokio::time::sleep(GATHER).await;
            }
            while batch.len() < MAX_BATCH && closing.is_none() {
                match self.jobs.try_recv() {
                    Ok(Job::Flush(flush, done)) => batch.push(Pending { flush, done }),
                    Ok(Job::Close(done)) => closing = Some(done),
                    Err(_) => break,
                }
            }
            company = batch.len() > 1;
            let mut groups = FxHashSet::default();
            let (batch, later) =
                batch.into_iter().partition(|pending| groups.insert(Arc::clone(&pending.flush.cvr.group)));
            held = later;
            self.write(&mut connection, batch).await;
            while self.apart.try_join_next().is_some() {}
        }
        while self.apart.join_next().await.is_some() {}
        if let Some(done) = closing {
            let _ = done.send(());
        }
    }

    async fn write(&mut self, connection: &mut Option<Connection>, batch: Vec<Pending>) {
        let mut entries = Vec::with_capacity(batch.len());
        for pending in batch {
            match self.waiting.check(&pending.flush.cvr.group) {
                Ok(waits) => entries.push((!waits && pending.flush.rows.len() <= MAX_ROWS_WITH_RECORD, pending)),
                Err(error) => pending.answer(Err(error)),
            }
        }
        let mut outcome = self.attempt(connection, &entries).await;
        if let Err(Failure::Locked(error)) = &outcome {
            let free = self.free(connection, &entries).await;
            let locked = free.iter().filter(|free| !**free).count();
            warn!(error, groups = entries.len(), locked, "client view records are locked by somebody else");
            // If none of the records is, then something else is that some of them need.
            let all = locked == 0;
            let (rest, apart): (Vec<_>, Vec<_>) = entries.into_iter().zip(free).partition(|(_, free)| *free && !all);
            self.set_apart(apart.into_iter().map(|(entry, _)| entry));
            entries = rest.into_iter().map(|(entry, _)| entry).collect();
            outcome = self.attempt(connection, &entries).await;
        }
        match outcome {
            Ok(outcomes) => {
                for ((_, pending), outcome) in entries.into_iter().zip(outcomes) {
                    pending.answer(outcome);
                }
            }
            // Again, or by others than a moment ago.
            Err(Failure::Locked(_)) => self.set_apart(entries.into_iter()),
            // One group's values are at fault; the others are not to suffer for it.
            Err(Failure::Store(StoreError::Refused(_))) if entries.len() > 1 => {
                for entry in entries {
                    let outcome = match self.attempt(connection, std::slice::from_ref(&entry)).await {
                        Ok(mut outcomes) => outcomes.pop().unwrap_or(Ok(())),
                        Err(failure) => Err(self.connections.judge(failure).await),
                    };
                    entry.1.answer(outcome);
                }
            }
            Err(failure) => {
                let error = self.connections.judge(failure).await;
                warn!(%error, groups = entries.len(), "writing client view records failed");
                for (_, pending) in entries {
                    pending.answer(Err(match &error {
                        StoreError::Refused(text) => StoreError::Refused(text.clone()),
                        error => StoreError::Postgres(error.to_string()),
                    }));
                }
            }
        }
    }

    /// Lets flushes wait for locks without the others.
    fn set_apart(&mut self, entries: impl Iterator<Item = (bool, Pending)>) {
        for (with_rows, pending) in entries {
            let (lane, notes) = (Arc::clone(&self.lane), self.notes());
            self.apart.spawn(async move {
                let outcome = lane.write(&pending.flush, with_rows).await;
                if outcome.is_ok() {
                    notes.written(&pending.flush, with_rows);
                }
                pending.answer(outcome);
            });
        }
    }

    /// Which flushes of a batch nobody holds up; all, if that cannot be found out.
    async fn free(&self, connection: &Option<Connection>, entries: &[(bool, Pending)]) -> Vec<bool> {
        let entries: Vec<Entry<'_>> = entries.iter().map(entry).collect();
        let found = match connection {
            Some(open) => self.connections.limited(batch::free(&open.client, &open.statements, &entries)).await,
            None => Ok(Vec::new()),
        };
        found.ok().filter(|free| free.len() == entries.len()).unwrap_or_else(|| vec![true; entries.len()])
    }

    /// Writes a batch and hands rows that were left out to those who write behind.
    async fn attempt(
        &self,
        connection: &mut Option<Connection>,
        batch: &[(bool, Pending)],
    ) -> Result<Vec<Result<(), StoreError>>, Failure> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let entries: Vec<Entry<'_>> = batch.iter().map(entry).collect();
        let mut attempts = 0;
        let outcomes = loop {
            attempts += 1;
            let open = self.connections.ensure(connection, self.connections.limits.lock).await?;
            let write = batch::write(&open.client, &open.statements, &self.task_id, &entries);
            match self.connections.limited(write).await {
                Ok(outcomes) => break outcomes,
                Err(failure @ (Failure::Locked(_) | Failure::Store(StoreError::Refused(_)))) => return Err(failure),
                // Aborted (a deadlock with another server, say) but still connected: nothing was written.
                Err(Failure::Store(error)) if attempts < ATTEMPTS && !open.client.is_closed() => {
                    warn!(%error, "writing client view records was aborted; trying again");
                }
                Err(failure) => {
                    *connection = None;
                    return Err(failure);
                }
            }
        };
        let notes = self.notes();
        notes.counters.batches.fetch_add(1, Ordering::Relaxed);
        for (entry, outcome) in entries.iter().zip(&outcomes) {
            if outcome.is_ok() {
                notes.written(entry.flush, entry.with_rows);
            }
        }
        Ok(outcomes.into_iter().map(|outcome| outcome.map_err(StoreError::from)).collect())
    }

    fn notes(&self) -> Notes {
        Notes { waiting: Arc::clone(&self.waiting), counters: Arc::clone(&self.counters) }
    }
}

impl Pending {
    fn answer(self, outcome: Result<(), StoreError>) {
        // A group that no longer waits finds out when it loads its record again.
        let _ = self.done.send(outcome);
    }
}

fn entry((with_rows, pending): &(bool, Pending)) -> Entry<'_> {
    Entry { flush: &pending.flush, with_rows: *with_rows }
}

/// Where is noted what was written.
struct Notes {
    waiting: Arc<Waiting>,
    counters: Arc<Counters>,
}

impl Notes {
    fn written(&self, flush: &Arc<Flush>, with_rows: bool) {
        let rows = flush.rows.len() as u64;
        self.counters.flushes.fetch_add(1, Ordering::Relaxed);
        if with_rows {
            self.counters.rows.fetch_add(rows, Ordering::Relaxed);
        } else {
            self.counters.rows_behind.fetch_add(rows, Ordering::Relaxed);
            self.waiting.add(flush);
        }
    }
}
