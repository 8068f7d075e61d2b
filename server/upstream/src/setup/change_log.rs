//! The change log that a zero-cache keeps in Postgres, as far as taking its replica over needs it.
//!
//! A zero-cache confirms a position upstream once its change log has what came before it, and its replica follows the log.
//! So the slot of one that was stopped is ahead of the replica even if nothing is missing: the log says whether.
//! This server keeps no such log. It must be in the source database; elsewhere it is not looked for.

use engine::replica::ReplicaState;
use tokio_postgres::Client;

use crate::error::Error;
use crate::names::{Names, ident};

/// Whether a zero-cache's log of this replica has nothing that the replica does not have.
pub(crate) async fn ends_at(client: &Client, names: &Names, state: &ReplicaState) -> Result<bool, Error> {
    let context = || Error::postgres("read the change log of a zero-cache");
    let schema = ident(&format!("{}/cdc", names.shard));
    let tables = ["replicationState", "replicationConfig"].map(|table| format!("{schema}.\"{table}\""));
    let [log, config] = &tables;
    let exist = "SELECT to_regclass($1) IS NOT NULL AND to_regclass($2) IS NOT NULL";
    let exist = client.query_one(exist, &[&log, &config]).await.map_err(context())?;
    if !exist.get::<_, bool>(0) {
        return Ok(false);
    }
    let statement = format!(
        "SELECT FROM {log}, {config} WHERE \"lastWatermark\" = $1 AND \"replicaVersion\" = $2 \
           AND \"resetRequired\" IS DISTINCT FROM true"
    );
    let found = client.query(&statement, &[&&*state.state_version, &&*state.replica_version]).await;
    Ok(!found.map_err(context())?.is_empty())
}
