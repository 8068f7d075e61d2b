//! The one task that commits records.
//!
//! While a batch is being committed the next one gathers, so the number of statements follows from how long a commit
//! takes and not from the number of groups. One commit upstream reaches all groups at about the same time; a batch
//! therefore waits a moment for company if the last one had some.
//!
//! `synchronous_commit` is left as the database has it (on, unless someone chose otherwise): were Postgres to lose
//! a version that clients have been told about, later versions could be numbered past it, and a row that a client got
//! in the lost version would never be taken back. A batch shares one wait for the disk among its groups.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cvr::flush::Flush;
use rustc_hash::FxHashSet;
use tokio::sync::{mpsc, oneshot};
use tracing::warn;

use crate::StoreError;
use crate::batch::{self, Entry};
use crate::behind::{MAX_ROWS_WITH_RECORD, Waiting};
use crate::connection::{Connection, Connections};

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
}

struct Pending {
    flush: Arc<Flush>,
    done: oneshot::Sender<Result<(), StoreError>>,
}

impl Writer {
    /// Writes until it is closed, or everyone who could ask is gone.
    pub(crate) async fn run(mut self) {
        let mut connection = None;
        if let Ok(open) = self.connections.ensure(&mut connection).await {
            // What fails here fails, and is reported, when there is something to write.
            let _ = batch::warm_up(&open.client, &open.statements).await;
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
        }
        if let Some(done) = closing {
            let _ = done.send(());
        }
    }

    async fn write(&self, connection: &mut Option<Connection>, batch: Vec<Pending>) {
        let mut entries = Vec::with_capacity(batch.len());
        let mut answers = Vec::with_capacity(batch.len());
        for Pending { flush, done } in batch {
            match self.waiting.check(&flush.cvr.group) {
                Ok(waits) => {
                    entries.push((!waits && flush.rows.len() <= MAX_ROWS_WITH_RECORD, flush));
                    answers.push(done);
                }
                Err(error) => {
                    let _ = done.send(Err(error));
                }
            }
        }
        match self.attempt(connection, &entries).await {
            Ok(outcomes) => answer(answers, outcomes),
            // One group's values are at fault; the others are not to suffer for it.
            Err(StoreError::Refused(_)) if entries.len() > 1 => {
                for (entry, done) in entries.iter().zip(answers) {
                    match self.attempt(connection, std::slice::from_ref(entry)).await {
                        Ok(outcomes) => answer(vec![done], outcomes),
                        Err(error) => {
                            let _ = done.send(Err(error));
                        }
                    }
                }
            }
            Err(error) => {
                warn!(%error, groups = entries.len(), "writing client view records failed");
                for done in answers {
                    let _ = done.send(Err(match &error {
                        StoreError::Refused(text) => StoreError::Refused(text.clone()),
                        error => StoreError::Postgres(error.to_string()),
                    }));
                }
            }
        }
    }

    /// Writes a batch and hands rows that were left out to those who write behind.
    async fn attempt(
        &self,
        connection: &mut Option<Connection>,
        flushes: &[(bool, Arc<Flush>)],
    ) -> Result<Vec<Result<(), StoreError>>, StoreError> {
        let entries: Vec<Entry<'_>> =
            flushes.iter().map(|(with_rows, flush)| Entry { flush, with_rows: *with_rows }).collect();
        let mut attempts = 0;
        let outcomes = loop {
            attempts += 1;
            let open = self.connections.ensure(connection).await?;
            match batch::write(&open.client, &open.statements, &self.task_id, &entries).await {
                Ok(outcomes) => break outcomes,
                Err(error @ StoreError::Refused(_)) => return Err(error),
                // Aborted (a deadlock with another server, say) but still connected: nothing was written.
                Err(error) if attempts < ATTEMPTS && !open.client.is_closed() => {
                    warn!(%error, "writing client view records was aborted; trying again");
                }
                Err(error) => {
                    *connection = None;
                    return Err(error);
                }
            }
        };
        self.counters.batches.fetch_add(1, Ordering::Relaxed);
        for (entry, outcome) in entries.iter().zip(&outcomes) {
            if outcome.is_err() {
                continue;
            }
            let rows = entry.flush.rows.len() as u64;
            self.counters.flushes.fetch_add(1, Ordering::Relaxed);
            if entry.with_rows {
                self.counters.rows.fetch_add(rows, Ordering::Relaxed);
            } else {
                self.counters.rows_behind.fetch_add(rows, Ordering::Relaxed);
                self.waiting.add(entry.flush);
            }
        }
        Ok(outcomes.into_iter().map(|outcome| outcome.map_err(StoreError::from)).collect())
    }
}

fn answer(answers: Vec<oneshot::Sender<Result<(), StoreError>>>, outcomes: Vec<Result<(), StoreError>>) {
    for (done, outcome) in answers.into_iter().zip(outcomes) {
        // A group that no longer waits finds out when it loads its record again.
        let _ = done.send(outcome);
    }
}
