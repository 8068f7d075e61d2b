//! Flushes that somebody else's lock holds up, each written by itself.
//!
//! A batch is one statement, so one locked record holds up all of it. Those that are locked come here, where each has a
//! connection of its own and waits as long as one group's clients may; the others go on. Nothing here grows with groups:
//! connections are few, and who finds none free waits no longer than for the lock itself.

use std::sync::Arc;

use cvr::flush::Flush;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::batch::{self, Entry};
use crate::connection::{Connection, Connections, limited};
use crate::error::Failure;
use crate::{Rehome, StoreError};

/// Records at once that are locked by others: an administrator looks at one, a server that ended leaves those of one
/// batch, which are unlocked together.
const LANES: usize = 4;

/// Where flushes wait.
pub(crate) struct Lane {
    connections: Arc<Connections>,
    task_id: String,
    turns: Semaphore,
    idle: Mutex<Vec<Connection>>,
}

impl Lane {
    pub(crate) fn new(connections: Arc<Connections>, task_id: String) -> Self {
        Lane { connections, task_id, turns: Semaphore::new(LANES), idle: Mutex::default() }
    }

    /// Writes one flush.
    pub(crate) async fn write(&self, flush: &Arc<Flush>, with_rows: bool) -> Result<(), StoreError> {
        let patience = self.connections.limits.patience;
        let turn = async {
            self.turns.acquire().await.map_err(|_| StoreError::Postgres("the server is stopping".to_owned()).into())
        };
        let outcome = match limited(Some(patience), turn).await {
            Ok(_turn) => self.attempt(&Entry { flush, with_rows }).await,
            Err(_) => Err(Failure::Locked(format!("no turn for {patience:?}"))),
        };
        match outcome {
            Ok(outcome) => outcome.map_err(StoreError::from),
            Err(failure) => Err(self.connections.judge(failure).await),
        }
    }

    async fn attempt(&self, entry: &Entry<'_>) -> Result<Result<(), Rehome>, Failure> {
        let limits = self.connections.limits;
        let mut connection = self.idle.lock().pop();
        let open = self.connections.ensure(&mut connection, limits.patience).await?;
        // Silence counts from when Postgres would have given up.
        let silence = limits.silence.map(|silence| silence + limits.patience);
        let write = batch::write(&open.client, &open.statements, &self.task_id, std::slice::from_ref(entry));
        let outcome = limited(silence, write).await;
        if !matches!(outcome, Err(Failure::Silent(_))) {
            self.idle.lock().extend(connection);
        }
        // One entry, one outcome.
        Ok(outcome?.pop().unwrap_or(Ok(())))
    }
}
