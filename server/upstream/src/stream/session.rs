//! One connection's worth of the stream: from events to commits of the replica.

use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::commit::Commit;
use engine::replica::{Tx, Writer};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_postgres::Client;
use tracing::{info, warn};
use zql_spec::version::StateVersion;

use super::apply::Applier;
use super::ddl::{self, DdlMessage, Shape};
use super::source::{Event, ReplicationSource};
use super::{Durable, Ended, Upstream};
use crate::error::Error;
use crate::published::PublishedSchema;
use crate::setup::shard;
use crate::sync::replica_error;

/// How often an idle stream moves the replica's version on at most. The slot may only be told of positions
/// that the replica has, and without that a database busy with unpublished tables keeps all its WAL.
const IDLE_COMMIT_INTERVAL: Duration = Duration::from_secs(10);

/// Log that nothing was published from, after which the version moves on at once. After a restart Postgres decodes
/// again from where the slot stands, at some 100 MB/s, and delivers nothing meanwhile. One segment of log.
const IDLE_COMMIT_BYTES: u64 = 16 << 20;

/// Changes in one commit of the replica at most, unless one transaction has more: a few tens of
/// milliseconds of work, so that clients do not wait for a backlog to end.
const GROUP_CHANGES_MAX: usize = 2000;

/// Upstream transactions in one commit at most; by then a commit's own cost is negligible.
const GROUP_TRANSACTIONS_MAX: usize = 500;

/// How long a group is open at most when transactions come as fast as they are applied: what the first of them waits.
const GROUP_TIME_MAX: Duration = Duration::from_millis(10);

/// How long a group of several transactions stays open for more. What comes faster than the replica commits, which takes
/// a millisecond, costs less together, all the way to the clients, and nobody waits much longer for that.
const LINGER: Duration = Duration::from_millis(2);

/// The pause that ends a burst: the timer's resolution.
const LINGER_GAP: Duration = Duration::from_millis(1);

/// What comes in, and how long it may be silent.
pub(super) struct Inbound {
    pub(super) source: Box<dyn ReplicationSource>,
    pub(super) timeout: Option<Duration>,
}

/// The state of one connection.
pub(super) struct Session<'a> {
    upstream: &'a Upstream,
    handle: Handle,
    inbound: Inbound,
    durable: Arc<Durable>,
    applier: Applier,
    /// The commit position that the replica has.
    position: u64,
    idle_commit: Instant,
    ddl_prefix: String,
    /// An event that was met while looking for another transaction.
    kept: Option<Option<Event>>,
}

/// What a transaction did.
struct Applied {
    changes: usize,
    schema_changed: bool,
}

impl<'a> Session<'a> {
    pub(super) fn new(
        upstream: &'a Upstream,
        handle: Handle,
        inbound: Inbound,
        durable: Arc<Durable>,
    ) -> Result<Session<'a>, Error> {
        let applier = Applier::of_replica(&upstream.replica);
        let version = upstream.replica.state().state_version;
        let position = position_after(&version).ok_or_else(|| not_a_position(&version))?.saturating_sub(1);
        let (ddl_prefix, idle_commit) = (upstream.names.ddl_message_prefix(), Instant::now());
        Ok(Session { upstream, handle, inbound, durable, applier, position, idle_commit, ddl_prefix, kept: None })
    }

    /// Applies transactions until the stream ends or a stop is asked for between two of them.
    pub(super) fn run(
        &mut self,
        writer: &mut Writer,
        on_commit: &mut impl FnMut(Arc<Commit>),
        stopped: &mut watch::Receiver<bool>,
    ) -> Result<Ended, Error> {
        loop {
            let event = match self.kept.take().map(Ok).or_else(|| self.inbound.source.waiting()) {
                Some(event) => event?,
                None if writer.tend_statistics() => continue,
                None => match self.wait(stopped)? {
                    Waited::Event(event) => event,
                    Waited::Stopped => {
                        self.durable.flush(&self.upstream.replica)?;
                        self.inbound.source.acknowledge(self.durable.position());
                        self.handle.block_on(self.inbound.source.close());
                        return Ok(Ended::Stopped);
                    }
                },
            };
            self.inbound.source.acknowledge(self.durable.position());
            match event {
                None => return Ok(Ended::Disconnected),
                Some(Event::Begin { lsn }) => self.group(writer, on_commit, lsn)?,
                Some(Event::Idle { lsn, asked }) => self.idle(writer, on_commit, lsn, asked)?,
                Some(Event::Message { transactional: false, .. }) => {}
                Some(Event::Message { .. } | Event::Change(_) | Event::Commit { .. }) => {
                    return Err(Error::Protocol("the stream has a change outside a transaction".to_owned()));
                }
            }
        }
    }

    /// Waits for an event, acknowledging what becomes durable meanwhile.
    fn wait(&mut self, stopped: &mut watch::Receiver<bool>) -> Result<Waited, Error> {
        let timeout = self.inbound.timeout.unwrap_or(Duration::MAX);
        let handle = self.handle.clone();
        handle.block_on(async {
            let deadline = tokio::time::sleep(timeout.min(Duration::from_secs(86_400 * 365)));
            tokio::pin!(deadline);
            loop {
                tokio::select! {
                    event = self.inbound.source.next() => return event.map(Waited::Event),
                    () = self.durable.changed() => {}
                    // An error says that the other side is gone, which is a stop as well.
                    _ = stopped.wait_for(|stop| *stop) => return Ok(Waited::Stopped),
                    () = &mut deadline => {
                        return Err(Error::Stream {
                            context: "the replication stream".to_owned(),
                            message: format!("nothing was received for {} ms", timeout.as_millis()),
                        });
                    }
                }
                self.inbound.source.acknowledge(self.durable.position());
            }
        })
    }

    fn next(&mut self) -> Result<Event, Error> {
        let event = match self.inbound.source.waiting() {
            Some(event) => event?,
            None => {
                let timeout = self.inbound.timeout.unwrap_or(Duration::from_secs(86_400 * 365));
                let handle = self.handle.clone();
                handle.block_on(async { tokio::time::timeout(timeout, self.inbound.source.next()).await }).map_err(
                    |_| Error::Stream {
                        context: "the replication stream".to_owned(),
                        message: format!("nothing was received for {} ms", timeout.as_millis()),
                    },
                )??
            }
        };
        event.ok_or_else(|| Error::Stream {
            context: "the replication stream".to_owned(),
            message: "the stream ended within a transaction".to_owned(),
        })
    }

    /// Applies a transaction, and those that are waiting behind it, as one commit of the replica.
    fn group(&mut self, writer: &mut Writer, on_commit: &mut impl FnMut(Arc<Commit>), lsn: u64) -> Result<(), Error> {
        if lsn <= self.position {
            // The server starts after what was acknowledged, which may be less than what the replica has.
            return self.skip(lsn);
        }
        let mut tx =
            writer.begin(StateVersion::from_lsn(lsn).as_str()).map_err(replica_error("begin a transaction"))?;
        let opened = Instant::now();
        let mut last = lsn;
        let mut changes = 0;
        let mut transactions = 1;
        let schema_changed = loop {
            let done = self.transaction(&mut tx, last)?;
            changes += done.changes;
            let full = changes >= GROUP_CHANGES_MAX || transactions >= GROUP_TRANSACTIONS_MAX;
            if done.schema_changed || full || opened.elapsed() >= GROUP_TIME_MAX {
                break done.schema_changed;
            }
            // Whoever commits now and then is not kept waiting: that there are two already tells of a burst.
            let until = (transactions > 1).then(|| opened + LINGER);
            let Some(next) = self.waiting_transaction(until)? else { break false };
            if next <= last {
                return Err(Error::Protocol("the stream's transactions are out of order".to_owned()));
            }
            last = next;
            transactions += 1;
            tx.advance(StateVersion::from_lsn(last).as_str()).map_err(replica_error("begin a transaction"))?;
        };
        let commit = tx.commit().map_err(replica_error("commit a transaction"))?;
        self.position = last;
        if schema_changed {
            self.fix_replica_identities();
        }
        on_commit(Arc::new(commit));
        // A stream that never rests must not keep statistics from being made anew.
        writer.tend_statistics();
        Ok(())
    }

    /// Whether another transaction has begun to arrive, or does soon; anything else that waits is kept for later.
    fn waiting_transaction(&mut self, until: Option<Instant>) -> Result<Option<u64>, Error> {
        loop {
            let event = self.inbound.source.waiting().or_else(|| self.linger(until?));
            match event.transpose()? {
                None => return Ok(None),
                Some(Some(Event::Begin { lsn })) => return Ok(Some(lsn)),
                // Both say something about now only.
                Some(Some(Event::Idle { .. } | Event::Message { transactional: false, .. })) => {}
                Some(other) => {
                    self.kept = Some(other);
                    return Ok(None);
                }
            }
        }
    }

    /// The next event, if it comes soon.
    fn linger(&mut self, until: Instant) -> Option<Result<Option<Event>, Error>> {
        let left = until.checked_duration_since(Instant::now())?.min(LINGER_GAP);
        let handle = self.handle.clone();
        handle.block_on(async { tokio::time::timeout(left, self.inbound.source.next()).await }).ok()
    }

    /// Applies the changes of one upstream transaction, up to its commit.
    fn transaction(&mut self, tx: &mut Tx<'_>, lsn: u64) -> Result<Applied, Error> {
        let mut applied = Applied { changes: 0, schema_changed: false };
        let mut previous = None;
        loop {
            match self.next()? {
                Event::Change(bytes) => {
                    applied.changes += 1;
                    if let Some(relation) = self.applier.apply(tx, &bytes)?
                        && !self.upstream.shard.ddl_detection
                    {
                        self.check_unannounced(&relation.name)?;
                    }
                }
                Event::Message { transactional: true, prefix, content } if prefix == self.ddl_prefix => {
                    if let Some(message) = DdlMessage::parse(&content)? {
                        applied.schema_changed |= self.schema_change(tx, previous.as_ref(), &message)?;
                        previous = Some(message);
                    }
                }
                Event::Message { .. } | Event::Idle { .. } => {}
                Event::Commit { lsn: end } if end == lsn => return Ok(applied),
                Event::Commit { .. } | Event::Begin { .. } => {
                    return Err(Error::Protocol("the stream's transactions do not match".to_owned()));
                }
            }
        }
    }

    fn skip(&mut self, lsn: u64) -> Result<(), Error> {
        loop {
            match self.next()? {
                Event::Commit { lsn: end } if end == lsn => return Ok(()),
                Event::Commit { .. } | Event::Begin { .. } => {
                    return Err(Error::Protocol("the stream's transactions do not match".to_owned()));
                }
                Event::Change(_) | Event::Message { .. } | Event::Idle { .. } => {}
            }
        }
    }

    /// Nothing was published up to a position: moves the replica's version there, now and then. At once when Postgres asks:
    /// one that shuts down waits until it has heard that everything arrived.
    fn idle(
        &mut self,
        writer: &mut Writer,
        on_commit: &mut impl FnMut(Arc<Commit>),
        lsn: u64,
        asked: bool,
    ) -> Result<(), Error> {
        // The next commit record may start exactly at `lsn`, and its version must be a greater one.
        let position = lsn.saturating_sub(1);
        let bytes = position.saturating_sub(self.position);
        let soon = asked && bytes > 0;
        if !soon && !moves_on(bytes, self.idle_commit.elapsed()) {
            return Ok(());
        }
        self.idle_commit = Instant::now();
        let version = StateVersion::from_lsn(position);
        let tx = writer.begin(version.as_str()).map_err(replica_error("begin a transaction"))?;
        let commit = tx.commit().map_err(replica_error("commit a transaction"))?;
        self.position = position;
        on_commit(Arc::new(commit));
        Ok(())
    }

    /// Does to the replica what a command did upstream; gives whether there was anything to do.
    fn schema_change(
        &mut self,
        tx: &mut Tx<'_>,
        previous: Option<&DdlMessage>,
        message: &DdlMessage,
    ) -> Result<bool, Error> {
        let Some(after) = &message.schema else { return Ok(false) };
        let shape = Shape::of(after);
        let Some(difference) = self.applier.shape().difference(&shape) else { return Ok(false) };
        let tag = ddl::effective_tag(previous, message);
        info!(tag, difference, "the published schema changed");
        let before = message.previous_schema.as_ref();
        // Object ids say what was renamed, but only against a schema that the replica has.
        let known = before.filter(|before| self.applier.shape().difference(&Shape::of(before)).is_none());
        let Some(before) = known else {
            return Err(Error::ResetRequired(format!(
                "the published schema changed ({difference}) in a way that was not announced: the replica must be \
                 copied again"
            )));
        };
        ddl::apply(tx, before, after, &tag)?;
        self.applier.reshape(shape);
        Ok(true)
    }

    /// A new table may need the identity of a unique index; altering it comes back as a change of its own.
    fn fix_replica_identities(&self) {
        let (target, names) = (Arc::clone(&self.upstream.target), self.upstream.names.clone());
        self.handle.spawn(async move {
            let fixed = async {
                let client = target.connect("change-source-init").await?;
                shard::fix_replica_identities(&client, &names).await
            };
            if let Err(error) = fixed.await {
                warn!(%error, "cannot set replica identities after a schema change");
            }
        });
    }

    /// Without event triggers, a table's description in the stream is the only sign of a change.
    fn check_unannounced(&mut self, table: &str) -> Result<(), Error> {
        let publications = &self.upstream.shard.publications;
        let schema = self.handle.block_on(async {
            let client = self.upstream.target.connect("change-source-init").await?;
            PublishedSchema::read(&client, publications).await
        })?;
        match self.applier.shape().difference(&Shape::of(&schema)) {
            None => Ok(()),
            Some(difference) => Err(Error::ResetRequired(format!(
                "the published schema changed ({difference}), seen at table {table}; event triggers of shard {} are \
                 missing, so the replica must be copied again",
                self.upstream.names.shard
            ))),
        }
    }
}

/// Whether an idle replica's version moves on over so many bytes of log, so long after it last did.
fn moves_on(bytes: u64, since: Duration) -> bool {
    bytes >= IDLE_COMMIT_BYTES || (bytes > 0 && since >= IDLE_COMMIT_INTERVAL)
}

enum Waited {
    Event(Option<Event>),
    Stopped,
}

/// The position from which to go on after a version: right behind the start of its commit record.
pub(crate) fn position_after(version: &str) -> Option<u64> {
    StateVersion::from_shared(version.into()).ok()?.lsn().map(|lsn| lsn.saturating_add(1))
}

fn not_a_position(version: &str) -> Error {
    Error::ResetRequired(format!("the replica's version {version} is not a position of this database"))
}

/// How long the stream may be silent: the server asks for a sign of life after half its timeout, so two of
/// them without a byte mean that the connection is dead. `None` when the server never gives up either.
pub(super) async fn inbound_timeout(client: &Client, setting: Option<Duration>) -> Result<Option<Duration>, Error> {
    let row = client
        .query_one("SELECT setting::int8 FROM pg_catalog.pg_settings WHERE name = 'wal_sender_timeout'", &[])
        .await
        .map_err(Error::postgres("read wal_sender_timeout"))?;
    let milliseconds = u64::try_from(row.get::<_, i64>(0)).unwrap_or(0);
    if milliseconds == 0 {
        warn!("wal_sender_timeout is 0: a dead upstream connection cannot be noticed");
        return Ok(None);
    }
    Ok(Some(setting.unwrap_or(Duration::from_millis(milliseconds) * 2)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_version_moves_on_by_log_or_by_time() {
        let (short, long) = (Duration::ZERO, IDLE_COMMIT_INTERVAL);
        let cases = [
            (0, long, false),
            (1, short, false),
            (1, long, true),
            (IDLE_COMMIT_BYTES - 1, short, false),
            (IDLE_COMMIT_BYTES, short, true),
        ];
        for (bytes, since, expected) in cases {
            assert_eq!(moves_on(bytes, since), expected, "{bytes} bytes, {since:?}");
        }
    }
}
