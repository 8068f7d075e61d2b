//! Where changes come from: a trait, and the logical replication connection behind it.
//!
//! The connection's client answers keepalives by itself and keeps doing so when we are slow; its queue is
//! short, so that the server is slowed down instead of memory filling up.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt;
use pgwire_replication::{Lsn, PgWireError, Publication, ReplicationClient, ReplicationEvent};

use crate::connection::{CONNECT_TIMEOUT, Target, VALUE_SETTINGS};
use crate::error::Error;
use crate::names::ident;
use crate::setup::slots::{stream_error, stream_sql_state};

/// Messages that may wait between the connection and the replica. A message is one row change: enough that
/// neither side waits for the other, and with rows of a megabyte each still a bearable gigabyte. The rest
/// waits in the server.
const MESSAGES_WAITING: usize = 1024;

/// How often the server hears at most what is durable. Well under half of any sensible
/// `wal_sender_timeout` (60 s by default), after which the server would ask or give up.
const STATUS_INTERVAL: Duration = Duration::from_millis(250);

/// How long the connection waits for the server before it reports by itself, unless the caller bounds the silence. A report
/// that nobody asked for keeps the server from asking, and its question is the only sign of life of a database in which
/// nothing happens: so the server, which asks after half its `wal_sender_timeout`, goes first.
const LONG_SILENCE: Duration = Duration::from_secs(86_400);

/// How long the last acknowledgement may take when the stream is closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// How often is looked whether it was sent.
const CLOSE_PAUSE: Duration = Duration::from_millis(10);

/// How often starting is tried while the slot's last reader is being ended.
const START_TRIES: u32 = 20;

/// Pause between two tries.
const START_PAUSE: Duration = Duration::from_millis(50);

/// What a source gives.
#[derive(Clone, Debug)]
pub enum Event {
    /// A transaction starts; `lsn` is where its commit record starts.
    Begin {
        /// Start of the commit record.
        lsn: u64,
    },
    /// A pgoutput message within a transaction.
    Change(Bytes),
    /// A logical message.
    Message {
        /// Whether it belongs to the transaction that is open.
        transactional: bool,
        /// Who it is for.
        prefix: String,
        /// Its content.
        content: Bytes,
    },
    /// The transaction is complete.
    Commit {
        /// Start of the commit record, as in its begin.
        lsn: u64,
    },
    /// Nothing happened, up to this position.
    Idle {
        /// Everything committed before it has been sent.
        lsn: u64,
        /// Whether the source waits to hear that we are there too, as one does that shuts down.
        asked: bool,
    },
}

/// A stream of whole transactions in commit order.
#[async_trait]
pub trait ReplicationSource: Send {
    /// Waits for the next event; `None` when the stream ended. Dropping the future loses nothing.
    async fn next(&mut self) -> Result<Option<Event>, Error>;

    /// The next event if it is there already.
    fn waiting(&mut self) -> Option<Result<Option<Event>, Error>>;

    /// Tells the source that everything up to this position is durable.
    fn acknowledge(&mut self, lsn: u64);

    /// Ends the stream once the source has heard of everything acknowledged.
    async fn close(&mut self);
}

/// A logical replication connection.
pub(crate) struct PostgresSource {
    client: ReplicationClient,
    acknowledged: Lsn,
}

/// What is read of a slot, and from where on.
#[derive(Clone, Copy)]
pub(crate) struct Reading<'a> {
    pub(crate) slot: &'a str,
    pub(crate) publications: &'a [String],
    /// The position after the last commit that the replica has.
    pub(crate) start: u64,
    /// How long the reader bears to hear nothing.
    pub(crate) silence: Option<Duration>,
}

impl PostgresSource {
    /// Opens a slot.
    ///
    /// # Errors
    /// [`Error::ResetRequired`] when the server has given the slot up, [`Error::Stream`] otherwise.
    pub(crate) async fn open(target: &Target, reading: Reading<'_>) -> Result<PostgresSource, Error> {
        let mut tries = 0;
        loop {
            let opening = tokio::time::timeout(CONNECT_TIMEOUT, Self::try_open(target, reading));
            let opened = opening.await.unwrap_or_else(|_| {
                Err(Error::Stream {
                    context: "open the replication stream".to_owned(),
                    message: format!("no answer within {} s", CONNECT_TIMEOUT.as_secs()),
                })
            });
            match opened {
                Ok(source) => return Ok(source),
                Err(Error::Stream { message, .. }) if stream_sql_state(&message) == Some("55000") => {
                    return Err(Error::ResetRequired(format!("unable to start replication stream: {message}")));
                }
                // In use: whoever reads it was told to stop and needs a moment.
                Err(Error::Stream { message, .. })
                    if stream_sql_state(&message) == Some("55006") && tries < START_TRIES =>
                {
                    tries += 1;
                    tokio::time::sleep(START_PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn try_open(target: &Target, reading: Reading<'_>) -> Result<PostgresSource, Error> {
        let Reading { slot, publications, start, silence } = reading;
        let context = "open the replication stream";
        let mut config = target.replication_config("replicator").await?;
        config.slot = ident(slot);
        // In quotes: the server folds bare names to lower case.
        config.publication = Publication::from(publications.iter().map(|name| ident(name)).collect::<Vec<_>>());
        config = config.with_start_lsn(Lsn(start)).with_status_interval(STATUS_INTERVAL);
        config = config.with_buffer_size(MESSAGES_WAITING).with_wakeup_interval(silence.unwrap_or(LONG_SILENCE));
        let mut client =
            ReplicationClient::connect_gated(config).await.map_err(|error| stream_error(context, &error))?;
        client.simple_query(VALUE_SETTINGS).await.map_err(|error| stream_error(context, &error))?;
        client.start().await.map_err(|error| stream_error(context, &error))?;
        client.wait_started().await.map_err(|error| stream_error(context, &error))?;
        Ok(PostgresSource { client, acknowledged: Lsn(start) })
    }
}

#[async_trait]
impl ReplicationSource for PostgresSource {
    async fn next(&mut self) -> Result<Option<Event>, Error> {
        loop {
            let Some(event) = self.client.recv().await.map_err(|error| read_error(&error))? else { return Ok(None) };
            if let Some(event) = translate(event) {
                return Ok(Some(event));
            }
        }
    }

    fn waiting(&mut self) -> Option<Result<Option<Event>, Error>> {
        self.next().now_or_never()
    }

    fn acknowledge(&mut self, lsn: u64) {
        self.acknowledged = self.acknowledged.max(Lsn(lsn));
        self.client.update_applied_lsn(self.acknowledged);
    }

    async fn close(&mut self) {
        let metrics = self.client.metrics();
        let sent = async {
            while self.client.is_running() && metrics.last_applied_lsn() < self.acknowledged {
                tokio::time::sleep(CLOSE_PAUSE).await;
            }
            // What is still coming does not matter any more, and neither does how the connection ends.
            let _ = self.client.shutdown().await;
        };
        if tokio::time::timeout(CLOSE_TIMEOUT, sent).await.is_err() {
            tracing::warn!("the replication stream did not close in time");
        }
    }
}

/// Whether the reason of an error cannot be known: the server's last words were lost when waiting for them
/// was interrupted.
pub(crate) fn is_lost(message: &str) -> bool {
    message.contains("already joined")
}

fn read_error(error: &PgWireError) -> Error {
    stream_error("the replication stream", error)
}

fn translate(event: ReplicationEvent) -> Option<Event> {
    Some(match event {
        ReplicationEvent::Begin { final_lsn, .. } => Event::Begin { lsn: final_lsn.as_u64() },
        ReplicationEvent::Commit { lsn, .. } => Event::Commit { lsn: lsn.as_u64() },
        ReplicationEvent::XLogData { data, .. } => Event::Change(data),
        ReplicationEvent::Message { transactional, prefix, content, .. } => {
            Event::Message { transactional, prefix, content }
        }
        ReplicationEvent::KeepAlive { wal_end, reply_requested, .. } => {
            Event::Idle { lsn: wal_end.as_u64(), asked: reply_requested }
        }
        ReplicationEvent::StoppedAt { .. } => return None,
    })
}
