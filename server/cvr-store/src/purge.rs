//! Forgetting records of groups that nobody uses any more.
//!
//! A purged group leaves a tombstone, so that a client that comes back is told to start again instead of being
//! taken for a new one; tombstones go too, in the end. Rounds are small and skip what others have locked.

use std::time::Duration;

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
}

impl Pace {
    fn new(options: PurgeOptions) -> Self {
        Pace { interval: options.interval, batch: options.batch, options, remaining: 0 }
    }

    /// What the last round means for the next.
    fn after(&mut self, purged: Purged) {
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
        let schema = &self.inner.connections.schema;
        let mut client = self.inner.connections.pool.get().await?;
        let tx = client.transaction().await?;
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

    /// Purges for ever: more a round while groups become inactive faster than they are purged, ever more rarely while
    /// there is nothing to do.
    pub async fn purge(&self, options: PurgeOptions) {
        if options.batch == 0 {
            return;
        }
        let inactivity = options.inactivity;
        let mut pace = Pace::new(options);
        loop {
            tokio::time::sleep(pace.interval).await;
            match self.purge_round(inactivity, pace.batch).await {
                Ok(purged) => {
                    let Purged { groups, remaining } = purged;
                    if groups > 0 {
                        tracing::info!(groups, remaining, "purged client view records of inactive groups");
                    }
                    pace.after(purged);
                }
                Err(error) => tracing::warn!(%error, "purging client view records failed; trying again later"),
            }
        }
    }
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
}
