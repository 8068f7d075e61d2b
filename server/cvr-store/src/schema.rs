//! The tables, as a zero-cache at schema version 17 makes them.
//!
//! A fresh database is set up, and tables of earlier versions are brought up to date step by step, with the records in
//! them. Those from before [`OLDEST`] (or with a table missing) are made anew, which costs their clients one full sync (they
//! are told `ClientNotFound`): a client view record is a cache of what can be synced again.

use tokio_postgres::{Client, Transaction};
use tracing::{info, warn};

use crate::StoreError;

/// The version of the tables that this server reads and writes.
pub const SCHEMA_VERSION: i32 = 17;

/// A quoted identifier.
pub(crate) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The earliest version of tables that are brought up to date. Those before it differ in more than columns that are added.
const OLDEST: i32 = 12;

/// What changed from one version to the next.
struct Step {
    /// The version that it leads to.
    to: i32,
    /// What changes of the tables; `{schema}` is the quoted schema.
    tables: &'static str,
    /// What changes of what is in them. Done again after a server of an earlier version had the tables: it leaves the
    /// tables as they are.
    data: &'static str,
}

const STEPS: [Step; 5] = [
    Step {
        to: 13,
        tables: r#"ALTER TABLE {schema}."instances" ADD COLUMN "ttlClock" double precision NOT NULL DEFAULT 0"#,
        data: "",
    },
    Step {
        to: 14,
        tables: r#"
            CREATE INDEX instances_last_active ON {schema}."instances" ("lastActive");
            ALTER TABLE {schema}."clients" DROP CONSTRAINT IF EXISTS fk_clients_client_group,
                ADD CONSTRAINT fk_clients_client_group FOREIGN KEY ("clientGroupID")
                REFERENCES {schema}."instances" ("clientGroupID") ON DELETE CASCADE;
            ALTER TABLE {schema}."queries" DROP CONSTRAINT IF EXISTS fk_queries_client_group,
                ADD CONSTRAINT fk_queries_client_group FOREIGN KEY ("clientGroupID")
                REFERENCES {schema}."instances" ("clientGroupID") ON DELETE CASCADE;
            ALTER TABLE {schema}."rows" DROP CONSTRAINT IF EXISTS fk_rows_client_group,
                ADD CONSTRAINT fk_rows_client_group FOREIGN KEY ("clientGroupID")
                REFERENCES {schema}."rowsVersion" ("clientGroupID") ON DELETE CASCADE"#,
        data: "",
    },
    Step {
        to: 15,
        tables: r#"ALTER TABLE {schema}."desires" ADD COLUMN "inactivatedAtMs" double precision,
            ADD COLUMN "ttlMs" double precision"#,
        data: r#"UPDATE {schema}."desires" SET "inactivatedAtMs" = extract(epoch FROM "inactivatedAt") * 1000,
            "ttlMs" = extract(epoch FROM "ttl") * 1000"#,
    },
    Step {
        to: 16,
        tables: r#"
            ALTER TABLE {schema}."instances" ADD COLUMN "profileID" text, ADD COLUMN "deleted" bool DEFAULT false;
            DROP INDEX IF EXISTS {schema}.instances_last_active;
            CREATE INDEX instances_last_active ON {schema}."instances" ("lastActive") WHERE NOT "deleted";
            CREATE INDEX tombstones_last_active ON {schema}."instances" ("lastActive") WHERE "deleted";
            CREATE INDEX profile_ids_last_active ON {schema}."instances" ("lastActive", "profileID")
                WHERE "profileID" IS NOT NULL"#,
        data: r#"UPDATE {schema}."instances" SET "profileID" = 'cg' || "clientGroupID" WHERE "profileID" IS NULL"#,
    },
    Step { to: 17, tables: r#"ALTER TABLE {schema}."queries" ADD COLUMN "rowSetSignature" text"#, data: "" },
];

/// The tables.
const TABLES: [&str; 6] = ["desires", "queries", "clients", "rows", "rowsVersion", "instances"];

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
    let (data, tables, min_safe) = versions.map_or((0, 0, 0), |row| (row.get(0), row.get(1), row.get::<_, i32>(2)));
    if min_safe > SCHEMA_VERSION {
        return Err(StoreError::Unsupported(format!(
            "Cannot run view-syncer at schema v{SCHEMA_VERSION} because rollback limit is v{min_safe}"
        )));
    }
    let missing = missing(&tx, &quoted).await?;
    if data == 0 || tables < OLDEST || !missing.is_empty() {
        if data > 0 {
            let missing = missing.join(", ");
            warn!(schema, version = data, missing, "client view records cannot be used; their clients sync again");
        }
        info!(schema, "creating the tables for client view records");
        tx.batch_execute(&format!("{}; {}", dropping(&quoted), create(&quoted))).await?;
    } else {
        for step in STEPS.iter().filter(|step| step.to > data) {
            info!(schema, version = step.to, "bringing the tables of client view records up to date");
            for (sql, due) in [(step.tables, tables < step.to), (step.data, true)] {
                if due {
                    tx.batch_execute(&sql.replace("{schema}", &quoted)).await?;
                }
            }
        }
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

/// The tables that are not there.
async fn missing(tx: &Transaction<'_>, schema: &str) -> Result<Vec<&'static str>, StoreError> {
    let names: Vec<String> = TABLES.iter().map(|table| format!("{schema}.{}", quote(table))).collect();
    let sql = "SELECT n FROM unnest($1::text[]) WITH ORDINALITY AS t (name, n) WHERE to_regclass(name) IS NULL";
    let numbers = tx.query(sql, &[&names]).await?;
    let table = |number: i64| usize::try_from(number - 1).ok().and_then(|index| TABLES.get(index)).copied();
    Ok(numbers.iter().filter_map(|row| table(row.get(0))).collect())
}

fn dropping(schema: &str) -> String {
    let tables: Vec<String> = TABLES.iter().map(|table| format!("{schema}.{}", quote(table))).collect();
    format!("DROP TABLE IF EXISTS {} CASCADE", tables.join(", "))
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
fn create(schema: &str) -> String {
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
