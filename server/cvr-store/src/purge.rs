//! Forgetting records of groups that nobody uses any more.
//!
//! A purged group leaves a tombstone, so that a client that comes back is told to start again instead of being
//! taken for a new one; tombstones go too, in the end. Rounds are small and skip what others have locked.

use std::time::Duration;

use deadpool_postgres::Object;

use crate::connection::limited;
use crate::error::Failure;
use crate::{Store, StoreError};

/// When to purge.
#[derive(Clone, Debug)]
pub struct PurgeOptions {
    /// How long a group must have been inactive (`ZERO_CVR_GARBAGE_COLLECTION_INACTIVITY_THRESHOLD_HOURS`).
    pub inactivity: Duration,
    /// Time between rounds while there is work (`ZERO_CVR_GARBAGE_COLLECTION_INITIAL_INTERVAL_SECONDS`).
    pub interval: Duration,
    /// Groups a round, at first (`ZERO_CVR_GARBAGE_COLLECTION_INITIAL_BATCH_SIZE`); 0 turns purging off.
    pub batch: u32,
}

impl Default for PurgeOptions {
    fn default() -> Self {
        PurgeOptions { inactivity: Duration::from_secs(48 * 3600), interval: Duration::from_secs(60), batch: 25 }
    }
}

/// Longest time between rounds.
const MAX_INTERVAL: Duration = Duration::from_secs(16 * 60);

/// How long a tombstone stays, at least.
const TOMBSTONES: Duration = Duration::from_secs(31 * 24 * 3600);

/// How long a round may take. It deletes the rows of a batch of groups, of which some may have hundreds of thousands.
const ROUND: Duration = Duration::from_secs(600);

/// Shortest time between rounds, whatever is configured: a round costs a scan of an index.
const MIN_INTERVAL: Duration = Duration::from_millis(100);

/// Waits between attempts at a round that failed: the first, which doubles, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(25), Duration::from_secs(10));

/// What a round did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Purged {
    /// Groups that became tombstones.
    pub groups: u64,
    /// Inactive groups that are left.
    pub remaining: i64,
}

/// How often is purged, and how much at once.
#[derive(Debug)]
struct Pace {
    options: PurgeOptions,
    interval: Duration,
    batch: u32,
    remaining: i64,
    /// How long to wait after the last round failed.
    retry: Option<Duration>,
}

impl Pace {
    fn new(options: PurgeOptions) -> Self {
        Pace { interval: options.interval, batch: options.batch, options, remaining: 0, retry: None }
    }

    /// How long to wait for the next round.
    fn wait(&self) -> Duration {
        self.retry.unwrap_or(self.interval.max(MIN_INTERVAL))
    }

    /// The last round failed.
    fn failed(&mut self) {
        self.retry = Some(self.retry.map_or(RETRY.0, |last| (last * 2).min(RETRY.1)));
    }

    /// What the last round means for the next.
    fn after(&mut self, purged: Purged) {
        self.retry = None;
        if purged.remaining > self.remaining {
            self.batch = self.batch.saturating_add(self.options.batch);
        }
        self.remaining = purged.remaining;
        let idle = (self.interval * 2).min(MAX_INTERVAL);
        self.interval = if purged.remaining > 0 { self.options.interval } else { idle };
    }
}

impl Store {
    /// Purges up to `batch` groups that were last active before the threshold.
    pub async fn purge_round(&self, inactivity: Duration, batch: u32) -> Result<Purged, StoreError> {
        let connections = &self.inner.connections;
        let mut client = connections.get().await?;
        let purged = limited(Some(ROUND), round(&mut client, &connections.schema, inactivity, batch)).await;
        connections.done(client, purged).await
    }

    /// Purges for ever: more a round while groups become inactive faster than they are purged, ever more rarely while
    /// there is nothing to do.
    pub async fn purge(&self, options: PurgeOptions) {
        if options.batch == 0 {
            return;
        }
        let inactivity = options.inactivity;
        let mut pace = Pace::new(options);
        loop {
            tokio::time::sleep(pace.wait()).await;
            match self.purge_round(inactivity, pace.batch).await {
                Ok(purged) => {
                    let Purged { groups, remaining } = purged;
                    if groups > 0 {
                        tracing::info!(groups, remaining, "purged client view records of inactive groups");
                    }
                    pace.after(purged);
                }
                Err(error) => {
                    pace.failed();
                    tracing::warn!(%error, wait = ?pace.wait(), "purging client view records failed; trying again");
                }
            }
        }
    }
}

/// One round, as one transaction. If this server is gone in the middle of it, its locks are so within a minute.
async fn round(client: &mut Object, schema: &str, inactivity: Duration, batch: u32) -> Result<Purged, Failure> {
    let tx = client.transaction().await?;
    tx.batch_execute("SET LOCAL idle_in_transaction_session_timeout = '60s'; SET LOCAL lock_timeout = '20s'").await?;
    let seconds = inactivity.as_secs_f64();
    let inactive = r#"NOT "deleted" AND "lastActive" < now() - make_interval(secs => $1)"#;
    let ids: Vec<String> = tx
        .query(
            &format!(
                r#"SELECT "clientGroupID" FROM {schema}."instances" WHERE {inactive}
                   ORDER BY "lastActive" LIMIT $2 FOR UPDATE SKIP LOCKED"#
            ),
            &[&seconds, &i64::from(batch)],
        )
        .await?
        .iter()
        .map(|row| row.try_get(0))
        .collect::<Result<_, _>>()?;
    if !ids.is_empty() {
        for table in ["desires", "queries", "clients", "rows", "rowsVersion"] {
            let sql = format!(r#"DELETE FROM {schema}."{table}" WHERE "clientGroupID" = ANY($1)"#);
            tx.execute(&sql, &[&ids]).await?;
        }
        tx.execute(
            &format!(
                r#"UPDATE {schema}."instances" SET "deleted" = true, "version" = '00', "ttlClock" = 0,
                   "replicaVersion" = NULL, "owner" = NULL, "grantedAt" = NULL, "clientSchema" = NULL
                   WHERE "clientGroupID" = ANY($1)"#
            ),
            &[&ids],
        )
        .await?;
        tx.execute(
            &format!(
                r#"DELETE FROM {schema}."instances" WHERE "deleted"
                   AND "lastActive" < now() - make_interval(secs => $1)"#
            ),
            &[&TOMBSTONES.max(inactivity).as_secs_f64()],
        )
        .await?;
    }
    let remaining = tx
        .query_one(&format!(r#"SELECT count(*) FROM {schema}."instances" WHERE {inactive}"#), &[&seconds])
        .await?
        .try_get(0)?;
    tx.commit().await?;
    Ok(Purged { groups: ids.len() as u64, remaining })
}

#[cfg(test)]
mod tests {
    use super::{Pace, PurgeOptions, Purged};

    #[test]
    fn rounds_follow_the_work() {
        let mut pace = Pace::new(PurgeOptions::default());
        assert_eq!((pace.interval.as_secs(), pace.batch), (60, 25));
        // What is left after a round, and then: seconds to the next one, and its groups.
        for (remaining, interval, batch) in [
            (0, 120, 25),
            (0, 240, 25),
            (10, 60, 50),
            (10, 60, 50),
            (5, 60, 50),
            (6, 60, 75),
            (0, 120, 75),
            (0, 240, 75),
            (0, 480, 75),
            (0, 960, 75),
            (0, 960, 75),
        ] {
            pace.after(Purged { groups: 0, remaining });
            assert_eq!((pace.interval.as_secs(), pace.batch), (interval, batch), "{remaining}");
        }
    }

    #[test]
    fn failures_are_tried_again_soon_and_then_more_rarely() {
        let mut pace = Pace::new(PurgeOptions::default());
        for milliseconds in [25, 50, 100, 200, 400, 800, 1_600, 3_200, 6_400, 10_000, 10_000] {
            pace.failed();
            assert_eq!(pace.wait().as_millis(), milliseconds);
        }
        pace.after(Purged { groups: 0, remaining: 1 });
        assert_eq!(pace.wait().as_secs(), 60);
        pace.failed();
        assert_eq!(pace.wait().as_millis(), 25);
    }

    #[test]
    fn an_interval_of_nothing_is_a_short_one() {
        let mut pace = Pace::new(PurgeOptions { interval: std::time::Duration::ZERO, ..PurgeOptions::default() });
        for _ in 0..3 {
            assert_eq!(pace.wait(), super::MIN_INTERVAL);
            pace.after(Purged { groups: 0, remaining: 0 });
        }
    }
}
