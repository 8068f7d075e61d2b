//! Connections to Postgres: how long is waited for what is asked of them, and what becomes of those that fail.
//!
//! A database that refuses says so at once. One that is silent (a network that swallows packets, a server that was frozen)
//! says nothing, and would hold up whoever asked until the system's own patience ends, after many minutes. So everything
//! that is asked here has a limit, and a connection that exceeded it is never used again.

use std::time::Duration;

use deadpool_postgres::{ClientWrapper, Object, Pool};
use tokio::sync::Mutex;
use tracing::{error, warn};

use crate::batch::Statements;
use crate::error::Failure;
use crate::{StoreError, schema};

/// How long is waited for Postgres.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Silence after which a connection is given up; `None` for never. A full batch takes some 20 ms and the claim of a
    /// record a few; what is a thousand times as slow is not working.
    pub silence: Option<Duration>,
    /// How long a batch waits for what somebody else has locked, before it is taken apart. Another server that writes a
    /// record of the batch is done sooner; all groups wait meanwhile.
    pub lock: Duration,
    /// How long the flush of one group waits for a lock by itself: somebody works on the record by hand, or a server that
    /// had it until now ended badly. Less than `silence`, so that it is Postgres that gives up and nothing is left behind.
    pub patience: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            silence: Some(Duration::from_secs(30)),
            lock: Duration::from_millis(250),
            patience: Duration::from_secs(15),
        }
    }
}

/// A connection ready to write.
pub(crate) struct Connection {
    pub(crate) client: ClientWrapper,
    pub(crate) statements: Statements,
}

/// Where connections come from.
#[derive(Debug)]
pub(crate) struct Connections {
    pool: Pool,
    /// The quoted schema.
    pub(crate) schema: String,
    /// Its name.
    name: String,
    pub(crate) limits: Limits,
    /// Held by whoever makes the tables anew.
    repair: Mutex<()>,
}

impl Connections {
    pub(crate) fn new(pool: Pool, name: &str, limits: Limits) -> Self {
        Connections { pool, schema: schema::quote(name), name: name.to_owned(), limits, repair: Mutex::default() }
    }

    /// A connection of the pool; give it back with [`Connections::done`].
    pub(crate) async fn get(&self) -> Result<Object, StoreError> {
        let get = async { Ok(self.pool.get().await.map_err(StoreError::from)?) };
        match self.limited(get).await {
            Ok(client) => Ok(client),
            Err(failure) => Err(self.judge(failure).await),
        }
    }

    /// Waits for an answer as long as silence may last.
    pub(crate) async fn limited<T>(&self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        limited(self.limits.silence, work).await
    }

    /// What a use of a connection of the pool came to. The connection goes back to the pool, unless it is lost.
    pub(crate) async fn done<T>(&self, client: Object, outcome: Result<T, Failure>) -> Result<T, StoreError> {
        match outcome {
            Ok(value) => Ok(value),
            Err(failure) => {
                if matches!(failure, Failure::Silent(_)) {
                    drop(Object::take(client));
                }
                Err(self.judge(failure).await)
            }
        }
    }

    /// What a failure means for others: the idle connections share the fate of one that is silent, and tables that are gone
    /// are made anew.
    pub(crate) async fn judge(&self, failure: Failure) -> StoreError {
        match failure {
            Failure::Silent(limit) => {
                self.pool.retain(|_, _| false);
                StoreError::Postgres(format!("no answer for {limit:?}"))
            }
            Failure::Gone(error) => self.repair(&error).await,
            Failure::Locked(error) => StoreError::Postgres(format!("the record is held by somebody else: {error}")),
            Failure::Store(error) => error,
        }
    }

    /// Makes the tables anew that somebody dropped under the running server.
    async fn repair(&self, error: &str) -> StoreError {
        let _alone = self.repair.lock().await;
        let repaired = self.limited(async {
            let mut client = self.pool.get().await.map_err(StoreError::from)?;
            Ok(schema::migrate(&mut client, &self.name).await?)
        });
        match repaired.await {
            Ok(()) => {
                warn!(error, "tables of client view records were missing and are there again; clients sync again")
            }
            Err(failure) => error!(error, %failure, "tables of client view records are missing"),
        }
        StoreError::Postgres(format!("the tables were dropped: {error}"))
    }

    /// The writing connection, made anew if it is missing or closed. Its statements wait so long for locks.
    pub(crate) async fn ensure<'a>(
        &self,
        connection: &'a mut Option<Connection>,
        lock: Duration,
    ) -> Result<&'a Connection, Failure> {
        if connection.as_ref().is_some_and(|connection| connection.client.is_closed()) {
            *connection = None;
        }
        let open = match connection.take() {
            Some(open) => open,
            None => self.limited(self.open(lock)).await?,
        };
        Ok(connection.insert(open))
    }

    async fn open(&self, lock: Duration) -> Result<Connection, Failure> {
        // Not given back: its settings are not the pool's, and it is dropped when it failed.
        let client = Object::take(self.pool.get().await.map_err(StoreError::from)?);
        // Every statement is run thousands of times with arrays, whose contents planning cannot use.
        let settings =
            format!("SET plan_cache_mode = force_generic_plan; SET lock_timeout = {}", lock.as_millis().max(1));
        client.batch_execute(&settings).await?;
        let statements = Statements::prepare(&client, &self.schema).await?;
        Ok(Connection { client, statements })
    }
}

/// Waits for an answer at most so long.
pub(crate) async fn limited<T>(
    limit: Option<Duration>,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    match limit {
        None => work.await,
        Some(limit) => tokio::time::timeout(limit, work).await.unwrap_or(Err(Failure::Silent(limit))),
    }
}
