//! Following the slot: whole transactions from Postgres into the replica, in order, each exactly once.
//!
//! One thread waits for the stream, decodes and writes: SQLite has one writer, and handing rows from
//! thread to thread costs more than decoding them. Another makes commits durable now and then, and only
//! what is durable is acknowledged. The replica's version is the position from which the stream goes on
//! after a restart, so a transaction is neither lost nor applied twice.
//!
//! The slot is never told of a position that the replica does not have durably. So when a replica is
//! older than its slot (a file restored from a copy), that shows, and it is not continued.

mod apply;
mod ddl;
mod pgoutput;
mod session;
pub mod source;

pub use apply::Applier;
pub(crate) use session::position_after;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use engine::commit::Commit;
use engine::replica::{Replica, Writer};
use serde_json::{Map, Value};
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot, watch};
use tokio_postgres::Client;
use tracing::{info, warn};

use crate::config::Config;
use crate::connection::SharedTarget;
use crate::error::Error;
use crate::names::Names;
use crate::setup::shard::Shard;
use crate::setup::slots::{self, epoch_ms};
use crate::sync::replica_error;
use session::{Inbound, Session};
use source::{PostgresSource, Reading};

/// First pause before connecting again; doubled each time.
const BACKOFF_MIN: Duration = Duration::from_millis(25);

/// Longest pause before connecting again.
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// How often commits are made durable at most: each time costs a disk flush, and what is not
/// acknowledged is only sent again after a crash.
const DURABLE_INTERVAL: Duration = Duration::from_millis(500);

/// How long the process that ended our stream has for writing its name beside the slot.
const TAKE_OVER_GRACE: Duration = Duration::from_secs(1);

/// How often slots of older replicas are looked at while somebody still reads them.
const CLEANUP_INTERVAL: Duration = Duration::from_secs(30);

/// The name under which this process writes itself beside the slot; a task id may be that of the process before.
const SESSION_KEY: &str = "session";

/// A replica that belongs to its slot, ready to follow it.
pub struct Upstream {
    pub(crate) replica: Arc<Replica>,
    pub(crate) target: SharedTarget,
    pub(crate) names: Names,
    pub(crate) config: Config,
    pub(crate) slot: String,
    pub(crate) shard: Shard,
    pub(crate) on_reset: Box<dyn Fn(&str) + Send>,
}

/// The running stream.
pub struct Running {
    stop: watch::Sender<bool>,
    ended: oneshot::Receiver<Result<(), Error>>,
}

impl Upstream {
    /// The replica.
    pub fn replica(&self) -> &Arc<Replica> {
        &self.replica
    }

    /// Follows the slot until it is stopped or cannot go on. `on_commit` is called after each commit of the
    /// replica, in order, on the thread that writes; it should hand the commit on and return.
    ///
    /// # Errors
    /// [`Error::Replica`] when the replica has a writer already.
    pub fn run(self, on_commit: impl FnMut(Arc<Commit>) + Send + 'static) -> Result<Running, Error> {
        let writer = self.replica.writer().map_err(replica_error("write the replica"))?;
        let (stop, stopped) = watch::channel(false);
        let (end, ended) = oneshot::channel();
        let failed = |error: std::io::Error| Error::Replica {
            context: "start the upstream thread".to_owned(),
            message: error.to_string(),
        };
        // A runtime of its own: the caller's may be busy, and may go away before the last acknowledgement.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("zql-upstream-io")
            .enable_all()
            .build()
            .map_err(failed)?;
        let thread = std::thread::Builder::new().name("zql-upstream".to_owned());
        thread
            .spawn(move || {
                let result = Follower::new(self, runtime.handle().clone(), stopped).follow(writer, on_commit);
                runtime.shutdown_background();
                // Nobody may be waiting for it any more.
                let _ = end.send(result);
            })
            .map_err(failed)?;
        Ok(Running { stop, ended })
    }
}

impl Running {
    /// Waits until the stream ends by itself.
    ///
    /// # Errors
    /// Why it ended: [`Error::TakenOver`], [`Error::ResetRequired`] (starting again copies everything) and others
    /// after which a restart may help or the operator must.
    pub async fn ended(&mut self) -> Result<(), Error> {
        match (&mut self.ended).await {
            Ok(result) => result,
            Err(_) => Err(Error::Protocol("the upstream thread failed".to_owned())),
        }
    }

    /// Ends the stream after the transaction that is being applied, with everything durable and acknowledged.
    ///
    /// # Errors
    /// As [`Running::ended`].
    pub async fn stop(mut self) -> Result<(), Error> {
        // An error says that the thread has ended already; then its result says how.
        let _ = self.stop.send(true);
        self.ended().await
    }
}

/// How a session ended without an error.
enum Ended {
    Stopped,
    Disconnected,
}

/// The thread's state across connections.
struct Follower {
    upstream: Upstream,
    handle: Handle,
    stopped: watch::Receiver<bool>,
    durable: Arc<Durable>,
    context: Map<String, Value>,
    /// Whether the slot was ours once.
    owner: bool,
}

/// What is safe from power loss, and who waits to hear of it.
#[derive(Default)]
pub(crate) struct Durable {
    /// The commit position up to which everything is durable, plus one; 0 for unknown.
    position: AtomicU64,
    changed: Notify,
    ended: AtomicBool,
}

impl Durable {
    /// The position that may be acknowledged.
    pub(crate) fn position(&self) -> u64 {
        self.position.load(Ordering::Acquire)
    }

    /// Waits until the position has changed.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Makes everything so far durable.
    pub(crate) fn flush(&self, replica: &Replica) -> Result<(), Error> {
        let version = replica.make_durable().map_err(replica_error("make the replica durable"))?;
        if let Some(position) = session::position_after(&version) {
            self.position.store(position, Ordering::Release);
            self.changed.notify_one();
        }
        Ok(())
    }
}

impl Follower {
    fn new(upstream: Upstream, handle: Handle, stopped: watch::Receiver<bool>) -> Follower {
        let mut context = upstream.config.server_context.clone();
        context.insert("appID".to_owned(), Value::from(upstream.names.app.clone()));
        context.insert("taskID".to_owned(), Value::from(upstream.config.task_id.clone()));
        context.insert("timestamp".to_owned(), Value::from(u64::try_from(epoch_ms()).unwrap_or(0)));
        let started = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let session = format!("{}-{}", std::process::id(), started.as_nanos());
        context.insert(SESSION_KEY.to_owned(), Value::from(session));
        Follower { upstream, handle, stopped, durable: Arc::default(), context, owner: false }
    }

    fn follow(mut self, mut writer: Writer, mut on_commit: impl FnMut(Arc<Commit>)) -> Result<(), Error> {
        let flusher = self.spawn_flusher()?;
        let result = self.reconnecting(&mut writer, &mut on_commit);
        self.durable.ended.store(true, Ordering::Release);
        flusher.unpark();
        if let Err(Error::ResetRequired(message)) = &result {
            (self.upstream.on_reset)(message);
        }
        result
    }

    /// The thread that makes commits durable: a disk flush must not hold up the stream.
    fn spawn_flusher(&self) -> Result<std::thread::Thread, Error> {
        let (durable, replica) = (Arc::clone(&self.durable), Arc::clone(&self.upstream.replica));
        let run = move || {
            let mut flushed = None;
            while !durable.ended.load(Ordering::Acquire) {
                std::thread::park_timeout(DURABLE_INTERVAL);
                let version = replica.state().state_version;
                if flushed.as_ref() == Some(&version) {
                    continue;
                }
                match durable.flush(&replica) {
                    Ok(()) => flushed = Some(version),
                    Err(error) => warn!(%error, "cannot make the replica durable; nothing is acknowledged upstream"),
                }
            }
        };
        std::thread::Builder::new()
            .name("zql-durable".to_owned())
            .spawn(run)
            .map(|thread| thread.thread().clone())
            .map_err(|error| Error::Replica {
                context: "start the durability thread".to_owned(),
                message: error.to_string(),
            })
    }

    fn reconnecting(&mut self, writer: &mut Writer, on_commit: &mut impl FnMut(Arc<Commit>)) -> Result<(), Error> {
        let mut pause = BACKOFF_MIN;
        loop {
            let connected = Instant::now();
            let error = match self.connected(writer, on_commit) {
                Ok(Ended::Stopped) => return Ok(()),
                Ok(Ended::Disconnected) => None,
                Err(error @ (Error::Postgres { .. } | Error::Stream { .. })) => Some(error),
                Err(error) => return Err(error),
            };
            // A stream that lived longer than the longest pause had connected.
            if connected.elapsed() > BACKOFF_MAX {
                pause = BACKOFF_MIN;
            }
            match error {
                Some(error) => {
                    warn!(%error, pause_ms = pause.as_millis(), "the upstream connection failed; connecting again")
                }
                None => info!(pause_ms = pause.as_millis(), "the upstream connection ended; connecting again"),
            }
            if self.handle.block_on(stopped_within(&mut self.stopped, pause)) {
                return Ok(());
            }
            pause = (pause * 2).min(BACKOFF_MAX);
        }
    }

    /// One connection: takes the slot and follows it.
    fn connected(&mut self, writer: &mut Writer, on_commit: &mut impl FnMut(Arc<Commit>)) -> Result<Ended, Error> {
        // Before anything is claimed: starting reports the replica's position as durable.
        self.durable.flush(&self.upstream.replica)?;
        let start = self.durable.position();
        let upstream = &self.upstream;
        let opened = self.handle.block_on(async {
            let client = upstream.target.connect("change-source-init").await?;
            let timeout = session::inbound_timeout(&client, upstream.config.inbound_timeout).await?;
            if self.owner {
                self.check_owner(&client).await?;
            }
            slots::take(&client, &upstream.names, &upstream.slot, &self.context).await?;
            let (slot, publications) = (&*upstream.slot, &*upstream.shard.publications);
            let reading = Reading { slot, publications, start, silence: timeout };
            Ok::<_, Error>((PostgresSource::open(&upstream.target, reading).await?, timeout))
        });
        let (source, timeout) = opened?;
        self.owner = true;
        info!(slot = upstream.slot, from = %zql_spec::version::format_lsn(start), "following the replication slot");
        let cleanup =
            self.handle.spawn(clean_up(Arc::clone(&upstream.target), upstream.names.clone(), upstream.slot.clone()));
        let inbound = Inbound { source: Box::new(source), timeout };
        let mut session = Session::new(upstream, self.handle.clone(), inbound, Arc::clone(&self.durable))?;
        let result = session.run(writer, on_commit, &mut self.stopped);
        cleanup.abort();
        match result {
            Err(Error::Stream { message, .. })
                if slots::stream_sql_state(&message) == Some("57P01") || source::is_lost(&message) =>
            {
                self.ended_by_server(message)
            }
            other => other,
        }
    }

    /// The server ended our session: because it shuts down, or because another process takes the slot and is
    /// about to say so.
    fn ended_by_server(&mut self, message: String) -> Result<Ended, Error> {
        if self.handle.block_on(stopped_within(&mut self.stopped, TAKE_OVER_GRACE)) {
            return Ok(Ended::Stopped);
        }
        Err(Error::Stream { context: "the replication stream".to_owned(), message })
    }

    /// Refuses to take a slot back from the process that took it from us.
    async fn check_owner(&self, client: &Client) -> Result<(), Error> {
        let upstream = &self.upstream;
        let subscriber = slots::subscriber(client, &upstream.names, &upstream.slot).await?;
        if subscriber.as_ref().and_then(|context| context.get(SESSION_KEY)) == self.context.get(SESSION_KEY) {
            return Ok(());
        }
        Err(Error::TakenOver(format!("another server has taken replication slot {}", upstream.slot)))
    }
}

/// Whether a stop is asked for within a pause.
async fn stopped_within(stopped: &mut watch::Receiver<bool>, pause: Duration) -> bool {
    // An error says that the other side is gone, which is a stop as well.
    tokio::time::timeout(pause, stopped.wait_for(|stop| *stop)).await.is_ok()
}

/// Removes what older replicas left, for as long as somebody still reads one of their slots.
async fn clean_up(target: SharedTarget, names: Names, slot: String) {
    loop {
        let left = async {
            let client = target.connect("replication-monitor").await?;
            slots::remove_older(&client, &names, &slot).await
        };
        match left.await {
            Ok(0) => return,
            Ok(draining) => info!(draining, "older replicas are still being read"),
            Err(error) => warn!(%error, "cannot remove older replicas yet"),
        }
        tokio::time::sleep(CLEANUP_INTERVAL).await;
    }
}
