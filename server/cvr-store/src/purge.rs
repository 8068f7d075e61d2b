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
        let mut interval = options.interval;
        let mut batch = options.batch;
        let mut before = 0;
        loop {
            tokio::time::sleep(interval).await;
            match self.purge_round(options.inactivity, batch).await {
                Ok(Purged { groups, remaining }) => {
                    if groups > 0 {
                        tracing::info!(groups, remaining, "purged client view records of inactive groups");
                    }
                    if remaining > before {
                        batch = batch.saturating_add(options.batch);
                    }
                    before = remaining;
                    interval = if remaining > 0 { options.interval } else { (interval * 2).min(MAX_INTERVAL) };
                }
                Err(error) => tracing::warn!(%error, "purging client view records failed; trying again later"),
            }
        }
    }
}
