//! Replication slots and the rows that claim them.
//!
//! A slot of the shard belongs to the `replicas` row that names it. A slot without a row and without a
//! reader is a leftover: it holds back the server's WAL, so it is dropped before a new one is made and
//! after one is taken over.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pgwire_replication::ReplicationClient;
use serde_json::{Map, Value};
use tokio_postgres::{Client, error::SqlState};
use tracing::{info, warn};
use zql_spec::version::{StateVersion, parse_lsn};

use crate::connection::Target;
use crate::error::Error;
use crate::names::{Names, ident, literal};

/// How long the server may wait for older transactions before it gives up creating a slot.
const SLOT_LOCK_TIMEOUT_MS: u64 = 29_000;

/// How long we wait for the same; a little longer, so that the server's own message comes first.
const SLOT_CREATION_TIMEOUT: Duration = Duration::from_secs(30);

/// How often another slot name is tried when the chosen one was taken in between.
const NAME_TRIES: u32 = 50;

/// First server whose slots can be synchronised to standbys.
const FAILOVER_VERSION_MIN: i32 = 170_000;

/// A slot just made, with the session that keeps its snapshot alive.
pub(crate) struct NewSlot {
    /// The slot's name.
    pub(crate) slot: String,
    /// The id of its `replicas` row.
    pub(crate) replica_id: String,
    /// The version of its snapshot: everything committed before is in it, everything after comes in the stream.
    pub(crate) version: StateVersion,
    /// The snapshot, until [`NewSlot::session`] is used or dropped.
    pub(crate) snapshot: String,
    /// The session that exported the snapshot. Any command on it ends the snapshot.
    pub(crate) session: ReplicationClient,
}

/// What is known of a slot.
#[derive(Clone, Debug)]
pub(crate) struct SlotState {
    /// The process that reads it now.
    pub(crate) active_pid: Option<i32>,
    /// Whether the server still has the WAL from where the slot stands.
    pub(crate) usable: bool,
    /// Up to where changes were confirmed.
    pub(crate) confirmed_flush: Option<u64>,
}

/// Creates a slot and the row that claims it.
pub(crate) async fn create(
    target: &Target,
    client: &mut Client,
    names: &Names,
    server_version: i32,
    failover: bool,
) -> Result<NewSlot, Error> {
    let mut retried = false;
    let mut taken = 0;
    loop {
        drop_unclaimed(client, names).await?;
        let error = match try_create(target, client, names, failover && server_version >= FAILOVER_VERSION_MIN).await {
            Ok(slot) => return Ok(slot),
            Err(error) => error,
        };
        let Error::Stream { message, .. } = &error else { return Err(error) };
        let state = stream_sql_state(message);
        match state {
            // Slots are the cluster's, the lock is the database's: somebody of another database was faster.
            Some("42710") if taken < NAME_TRIES => {
                taken += 1;
                continue;
            }
            // Not allowed to replicate: the owner of a database can often grant it to itself.
            Some("42501") if !retried => {
                info!("the upstream role may not replicate yet; trying ALTER ROLE current_user WITH REPLICATION");
                client.batch_execute("ALTER ROLE current_user WITH REPLICATION").await.map_err(|source| {
                    Error::Config(format!(
                        "the upstream role needs the REPLICATION attribute (ZERO_UPSTREAM_DB): {message}; {}",
                        crate::error::describe(&source)
                    ))
                })?;
            }
            // All slots in use: those of replicas that nobody reads any more are ours to drop.
            Some("53400") if !retried => {
                info!("all replication slots are in use; dropping inactive ones of this shard");
                let shard = ident(&names.shard);
                let statement = format!(
                    "DELETE FROM {shard}.\"replicas\" r USING pg_catalog.pg_replication_slots s \
                     WHERE s.slot_name = r.slot AND NOT s.active"
                );
                client.batch_execute(&statement).await.map_err(Error::postgres("drop inactive replicas"))?;
            }
            Some("42501" | "53400") => return Err(Error::Config(message.clone())),
            Some("55P03") => {
                return Err(Error::Stream {
                    context:
                        "a replication slot can only be created once all transactions that are open now have ended"
                            .to_owned(),
                    message: message.clone(),
                });
            }
            _ => return Err(error),
        }
        retried = true;
    }
}

async fn try_create(target: &Target, client: &mut Client, names: &Names, failover: bool) -> Result<NewSlot, Error> {
    let context = || Error::postgres("create a replication slot");
    let transaction = client.transaction().await.map_err(context())?;
    // Taken before a snapshot of the transaction exists; it has no transaction id until the row is
    // inserted, so that creating the slot does not wait for us.
    let lock = format!(
        "SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 60000; \
         SELECT pg_advisory_xact_lock(hashtext('replication-slot-management:{}'))",
        names.shard
    );
    transaction.batch_execute(&lock).await.map_err(context())?;
    let rows = transaction
        .query(
            "SELECT slot_name::text FROM pg_catalog.pg_replication_slots WHERE slot_name LIKE $1",
            &[&names.slot_pattern()],
        )
        .await
        .map_err(context())?;
    let taken: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let slot = names.free_slot(&taken);
    let mut session =
        ReplicationClient::connect_gated(target.replication_config("initial-sync-replication-session").await?)
            .await
            .map_err(|error| stream_error("open the replication session", &error))?;
    // The exported snapshot keeps a transaction open for as long as the copy takes.
    let statement = format!(
        "SET lock_timeout = {SLOT_LOCK_TIMEOUT_MS}; SET statement_timeout = 0; \
         SET idle_in_transaction_session_timeout = 0"
    );
    session.simple_query(&statement).await.map_err(|error| stream_error("open the replication session", &error))?;
    let options = if failover { "SNAPSHOT 'export', FAILOVER true" } else { "SNAPSHOT 'export'" };
    let statement = format!("CREATE_REPLICATION_SLOT {} LOGICAL pgoutput ({options})", ident(&slot));
    let rows = tokio::time::timeout(SLOT_CREATION_TIMEOUT, session.simple_query(&statement))
        .await
        .map_err(|_| Error::Stream {
            context: "create a replication slot".to_owned(),
            message: "the server did not create the slot in time: a long transaction is open (SQLSTATE 55P03)"
                .to_owned(),
        })?
        .map_err(|error| stream_error("create a replication slot", &error))?;
    let text = |column: usize| {
        rows.first()
            .and_then(|row| row.get(column)?.as_deref())
            .and_then(|bytes| std::str::from_utf8(bytes).ok())
            .map(str::to_owned)
            .ok_or_else(|| Error::Protocol("CREATE_REPLICATION_SLOT gave no snapshot".to_owned()))
    };
    let (consistent_point, snapshot) = (text(1)?, text(2)?);
    let lsn = parse_lsn(&consistent_point).map_err(|error| Error::Protocol(error.to_string()))?;
    let version = StateVersion::from_lsn(lsn);
    let replica_id = epoch_ms().to_string();
    let statement = format!("INSERT INTO {}.\"replicas\" (id, slot, version) VALUES ($1, $2, $3)", ident(&names.shard));
    transaction.execute(&statement, &[&replica_id, &slot, &version.as_str()]).await.map_err(context())?;
    transaction.commit().await.map_err(context())?;
    info!(slot, version = version.as_str(), "created a replication slot");
    Ok(NewSlot { slot, replica_id, version, snapshot, session })
}

/// Drops a slot and its row after a failed copy, as far as that is possible.
pub(crate) async fn discard(client: &Client, names: &Names, slot: &str) {
    let statement = format!("DELETE FROM {}.\"replicas\" WHERE slot = {}", ident(&names.shard), literal(slot));
    if let Err(error) = client.batch_execute(&statement).await {
        warn!(slot, error = %crate::error::describe(&error), "cannot remove the row of a failed copy");
    }
    let statement =
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_catalog.pg_replication_slots WHERE slot_name = $1";
    if let Err(error) = client.execute(statement, &[&slot]).await {
        warn!(slot, error = %crate::error::describe(&error), "cannot drop the slot of a failed copy");
    }
}

/// Drops the shard's slots that no row claims and nobody reads; returns how many unclaimed ones are still read.
pub(crate) async fn drop_unclaimed(client: &Client, names: &Names) -> Result<i64, Error> {
    let context = || Error::postgres("drop unclaimed replication slots");
    let unclaimed = format!(
        "s.slot_name LIKE $1 AND s.database = current_database() \
         AND NOT EXISTS (SELECT FROM {}.\"replicas\" r WHERE r.slot = s.slot_name)",
        ident(&names.shard)
    );
    let statement =
        format!("SELECT s.slot_name::text FROM pg_catalog.pg_replication_slots s WHERE NOT s.active AND {unclaimed}");
    let pattern = names.slot_pattern();
    for row in client.query(&statement, &[&pattern]).await.map_err(context())? {
        let slot: String = row.get(0);
        match client.execute("SELECT pg_drop_replication_slot($1)", &[&slot]).await {
            Ok(_) => info!(slot, "dropped an unclaimed replication slot"),
            // Somebody else dropped it or took it in between.
            Err(error) if matches!(error.code(), Some(&SqlState::UNDEFINED_OBJECT | &SqlState::OBJECT_IN_USE)) => {}
            Err(error) => return Err(context()(error)),
        }
    }
    let statement = format!("SELECT count(*) FROM pg_catalog.pg_replication_slots s WHERE s.active AND {unclaimed}");
    Ok(client.query_one(&statement, &[&pattern]).await.map_err(context())?.get(0))
}

/// The usable slot of a replica version, if a row claims one.
pub(crate) async fn of_version(client: &Client, names: &Names, version: &str) -> Result<Option<(String, i64)>, Error> {
    let statement = format!(
        "SELECT slot, rank FROM {}.\"replicas\" WHERE version = $1 AND \"initialSyncContext\" IS NOT NULL \
         ORDER BY rank DESC LIMIT 1",
        ident(&names.shard)
    );
    let rows = client.query(&statement, &[&version]).await.map_err(Error::postgres("read the replicas upstream"))?;
    Ok(rows.first().map(|row| (row.get(0), row.get(1))))
}

/// What the server knows of a slot; `None` if there is none.
pub(crate) async fn state(client: &Client, slot: &str) -> Result<Option<SlotState>, Error> {
    let rows = client
        .query(
            "SELECT active_pid, restart_lsn IS NOT NULL AND coalesce(wal_status, '') <> 'lost', confirmed_flush_lsn::text \
               FROM pg_catalog.pg_replication_slots WHERE slot_name = $1",
            &[&slot],
        )
        .await
        .map_err(Error::postgres("read the replication slot"))?;
    Ok(rows.first().map(|row| SlotState {
        active_pid: row.get(0),
        usable: row.get(1),
        confirmed_flush: row.get::<_, Option<String>>(2).and_then(|lsn| parse_lsn(&lsn).ok()),
    }))
}

/// Marks a replica complete: from here on it can be resumed.
pub(crate) async fn mark_complete(
    client: &Client,
    names: &Names,
    replica_id: &str,
    schema: &str,
    context: &Map<String, Value>,
) -> Result<(), Error> {
    let statement = format!(
        "UPDATE {}.\"replicas\" SET \"initialSchema\" = $2::text::json, \"initialSyncContext\" = $3::text::json \
         WHERE id = $1",
        ident(&names.shard)
    );
    let context = Value::Object(context.clone()).to_string();
    client
        .execute(&statement, &[&replica_id, &schema, &context])
        .await
        .map_err(Error::postgres("record the replica upstream"))?;
    Ok(())
}

/// Takes the slot for this process: says so in its row, then ends whoever reads it.
///
/// # Errors
/// [`Error::TakenOver`] when the slot is gone.
pub(crate) async fn take(
    client: &Client,
    names: &Names,
    slot: &str,
    context: &Map<String, Value>,
) -> Result<(), Error> {
    let errors = || Error::postgres("take the replication slot");
    let statement = format!(
        "UPDATE {}.\"replicas\" SET \"subscriberContext\" = $2::text::json WHERE slot = $1",
        ident(&names.shard)
    );
    let text = Value::Object(context.clone()).to_string();
    client.execute(&statement, &[&slot, &text]).await.map_err(errors())?;
    let Some(state) = state(client, slot).await? else {
        return Err(Error::TakenOver(format!(
            "replication slot {slot} is missing. A different server should now be running on a new replication slot."
        )));
    };
    if let Some(pid) = state.active_pid {
        info!(slot, pid, "taking over the replication slot");
        client.execute("SELECT pg_terminate_backend($1)", &[&pid]).await.map_err(errors())?;
    }
    Ok(())
}

/// Who took the slot last, as it wrote itself; `None` when the row is gone.
pub(crate) async fn subscriber(
    client: &Client,
    names: &Names,
    slot: &str,
) -> Result<Option<Map<String, Value>>, Error> {
    let statement =
        format!("SELECT \"subscriberContext\"::text FROM {}.\"replicas\" WHERE slot = $1", ident(&names.shard));
    let rows = client.query(&statement, &[&slot]).await.map_err(Error::postgres("read the slot's subscriber"))?;
    let text: Option<String> = rows.first().and_then(|row| row.get(0));
    Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
}

/// Removes replicas that the one of this slot replaces, and their slots; returns how many are still read.
pub(crate) async fn remove_older(client: &Client, names: &Names, slot: &str) -> Result<i64, Error> {
    let shard = ident(&names.shard);
    let statement = format!(
        "DELETE FROM {shard}.\"replicas\" WHERE rank < (SELECT rank FROM {shard}.\"replicas\" WHERE slot = $1 \
         ORDER BY rank DESC LIMIT 1)"
    );
    client.execute(&statement, &[&slot]).await.map_err(Error::postgres("remove older replicas"))?;
    drop_unclaimed(client, names).await
}

/// The SQLSTATE in an error text of the replication connection, which has no other place for it.
pub(crate) fn stream_sql_state(message: &str) -> Option<&str> {
    let start = message.rfind("(SQLSTATE ")? + "(SQLSTATE ".len();
    message.get(start..start + 5)
}

/// Wraps an error of the replication connection.
pub(crate) fn stream_error(context: &str, error: &pgwire_replication::PgWireError) -> Error {
    Error::Stream { context: context.to_owned(), message: error.to_string() }
}

/// Milliseconds since 1970.
pub(crate) fn epoch_ms() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_millis())
}

#[cfg(test)]
mod tests {
    use super::stream_sql_state;

    #[test]
    fn states_are_found_in_texts() {
        assert_eq!(stream_sql_state("server error: slot is active (SQLSTATE 55006)"), Some("55006"));
        assert_eq!(stream_sql_state("server error: x (SQLSTATE 5"), None);
        assert_eq!(stream_sql_state("io error"), None);
    }
}
