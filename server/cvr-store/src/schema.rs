//! The tables, as a zero-cache at schema version 17 makes them.
//!
//! A fresh database is set up; tables at version 17 or later are taken as they are; older ones are made anew, which
//! costs their clients one full sync (they are told `ClientNotFound`), because a client view record is a
//! cache of what can be synced again.

use tokio_postgres::Client;
use tracing::{info, warn};

use crate::StoreError;

/// The version of the tables that this server reads and writes.
pub const SCHEMA_VERSION: i32 = 17;

/// A quoted identifier.
pub(crate) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Makes the tables what this server needs.
pub(crate) async fn migrate(client: &mut Client, schema: &str) -> Result<(), StoreError> {
    let quoted = quote(schema);
    let tx = client.transaction().await?;
    // The same lock as the reference's: its migration and ours never run at once.
    tx.execute("SELECT pg_advisory_xact_lock(hashtext($1))", &[&format!("migrate-schema:{schema}")]).await?;
    tx.batch_execute(&format!("CREATE SCHEMA IF NOT EXISTS {quoted}; {}", history(&quoted))).await?;
    let versions = tx
        .query_opt(
            &format!(r#"SELECT "dataVersion", "schemaVersion", "minSafeVersion" FROM {quoted}."versionHistory""#),
            &[],
        )
        .await?;
    let (data, min_safe) = versions.map_or((0, 0), |row| (row.get::<_, i32>(0), row.get::<_, i32>(2)));
    if min_safe > SCHEMA_VERSION {
        return Err(StoreError::Unsupported(format!(
            "Cannot run view-syncer at schema v{SCHEMA_VERSION} because rollback limit is v{min_safe}"
        )));
    }
    if data < SCHEMA_VERSION {
        if data > 0 {
            warn!(
                schema,
                version = data,
                "client view records of an older version are dropped; their clients sync again"
            );
            tx.batch_execute(&format!(
                r#"DROP TABLE IF EXISTS {quoted}."desires", {quoted}."queries", {quoted}."clients", {quoted}."rows",
                   {quoted}."rowsVersion", {quoted}."instances" CASCADE"#
            ))
            .await?;
        }
        info!(schema, "creating the tables for client view records");
        tx.batch_execute(&tables(&quoted)).await?;
    }
    if data != SCHEMA_VERSION {
        // Data of a later version is readable (its rollback limit says so) and counts as ours from now on.
        tx.execute(
            &format!(
                r#"INSERT INTO {quoted}."versionHistory" AS v ("dataVersion", "schemaVersion", "minSafeVersion")
                   VALUES ($1, $1, 1) ON CONFLICT ("lock") DO UPDATE SET "dataVersion" = $1,
                   "schemaVersion" = greatest(v."schemaVersion", $1), "minSafeVersion" = greatest(v."minSafeVersion", 1)"#
            ),
            &[&SCHEMA_VERSION],
        )
        .await?;
    }
    tx.commit().await?;
    Ok(())
}

fn history(schema: &str) -> String {
    format!(
        r#"CREATE TABLE IF NOT EXISTS {schema}."versionHistory" (
            "dataVersion" int NOT NULL,
            "schemaVersion" int NOT NULL,
            "minSafeVersion" int NOT NULL,
            "lock" char(1) NOT NULL CONSTRAINT pk_schema_meta_lock PRIMARY KEY DEFAULT 'v',
            CONSTRAINT ck_schema_meta_lock CHECK ("lock" = 'v')
        );"#
    )
}

/// `rowsVersion` does not refer to `instances`, so that rows can be written without touching the lock on the
/// group's instance.
fn tables(schema: &str) -> String {
    format!(
        r#"
CREATE TABLE {schema}."instances" (
    "clientGroupID" text PRIMARY KEY,
    "version" text NOT NULL,
    "lastActive" timestamptz NOT NULL,
    "ttlClock" double precision NOT NULL DEFAULT 0,
    "replicaVersion" text,
    "owner" text,
    "grantedAt" timestamptz,
    "clientSchema" jsonb,
    "profileID" text,
    "deleted" bool DEFAULT false
);
CREATE INDEX instances_last_active ON {schema}."instances" ("lastActive") WHERE NOT "deleted";
CREATE INDEX tombstones_last_active ON {schema}."instances" ("lastActive") WHERE "deleted";
CREATE INDEX profile_ids_last_active ON {schema}."instances" ("lastActive", "profileID") WHERE "profileID" IS NOT NULL;

CREATE TABLE {schema}."clients" (
    "clientGroupID" text,
    "clientID" text,
    PRIMARY KEY ("clientGroupID", "clientID"),
    CONSTRAINT fk_clients_client_group FOREIGN KEY ("clientGroupID")
        REFERENCES {schema}."instances" ("clientGroupID") ON DELETE CASCADE
);

CREATE TABLE {schema}."queries" (
    "clientGroupID" text,
    "queryHash" text,
    "clientAST" jsonb,
    "queryName" text,
    "queryArgs" json,
    "patchVersion" text,
    "transformationHash" text,
    "transformationVersion" text,
    "internal" bool,
    "deleted" bool,
    "rowSetSignature" text,
    PRIMARY KEY ("clientGroupID", "queryHash"),
    CONSTRAINT fk_queries_client_group FOREIGN KEY ("clientGroupID")
        REFERENCES {schema}."instances" ("clientGroupID") ON DELETE CASCADE
);
CREATE INDEX queries_patch_version ON {schema}."queries" ("patchVersion" NULLS FIRST);

CREATE TABLE {schema}."desires" (
    "clientGroupID" text,
    "clientID" text,
    "queryHash" text,
    "patchVersion" text NOT NULL,
    "deleted" bool,
    "ttl" interval,
    "ttlMs" double precision,
    "inactivatedAt" timestamptz,
    "inactivatedAtMs" double precision,
    PRIMARY KEY ("clientGroupID", "clientID", "queryHash"),
    CONSTRAINT fk_desires_query FOREIGN KEY ("clientGroupID", "queryHash")
        REFERENCES {schema}."queries" ("clientGroupID", "queryHash") ON DELETE CASCADE
);
CREATE INDEX desires_patch_version ON {schema}."desires" ("patchVersion");
CREATE INDEX desires_inactivated_at ON {schema}."desires" ("inactivatedAt");

CREATE TABLE {schema}."rowsVersion" (
    "clientGroupID" text PRIMARY KEY,
    "version" text NOT NULL
);

CREATE TABLE {schema}."rows" (
    "clientGroupID" text,
    "schema" text,
    "table" text,
    "rowKey" jsonb,
    "rowVersion" text NOT NULL,
    "patchVersion" text NOT NULL,
    "refCounts" jsonb,
    PRIMARY KEY ("clientGroupID", "schema", "table", "rowKey"),
    CONSTRAINT fk_rows_client_group FOREIGN KEY ("clientGroupID")
        REFERENCES {schema}."rowsVersion" ("clientGroupID") ON DELETE CASCADE
);
CREATE INDEX row_patch_version ON {schema}."rows" ("patchVersion");
CREATE INDEX row_ref_counts ON {schema}."rows" USING gin ("refCounts");
"#
    )
}
