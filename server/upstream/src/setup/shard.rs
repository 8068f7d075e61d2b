//! The schemas and tables of an app and a shard.

use tokio_postgres::{Client, error::SqlState};
use tracing::warn;

use crate::error::Error;
use crate::names::{Names, ident};
use crate::published::{PublishedSchema, PublishedTable, schema_sql};
use crate::setup::{publications, triggers};

/// The version of the upstream objects (the reference's numbering).
const SHARD_VERSION: i32 = 23;

/// The oldest version of the code that can work on them.
const SHARD_MIN_SAFE_VERSION: i32 = 1;

/// What a shard looks like upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shard {
    /// The replicated publications, sorted.
    pub(crate) publications: Vec<String>,
    /// Whether event triggers announce schema changes.
    pub(crate) ddl_detection: bool,
}

/// Creates or upgrades everything, in one transaction.
pub(crate) async fn ensure(client: &mut Client, names: &Names, requested: &[String]) -> Result<Shard, Error> {
    let context = || Error::postgres(format!("set up schema {} upstream", names.shard));
    let shard = ident(&names.shard);
    let transaction = client.transaction().await.map_err(context())?;
    let inner = transaction.client();
    let lock = format!(
        "SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 60000; \
         SELECT pg_advisory_xact_lock(hashtext('migrate-schema:{}'))",
        names.shard
    );
    inner.batch_execute(&lock).await.map_err(context())?;
    inner.batch_execute(&tables(names)).await.map_err(context())?;
    check_version(inner, names).await?;
    let publications = publications::ensure(inner, names, requested).await?;
    let statement = format!(
        "INSERT INTO {shard}.\"shardConfig\" (publications, \"ddlDetection\") VALUES ($1, false) \
         ON CONFLICT (lock) DO UPDATE SET publications = EXCLUDED.publications RETURNING \"ddlDetection\""
    );
    let had_triggers: bool = inner.query_one(&statement, &[&publications]).await.map_err(context())?.get(0);
    inner.batch_execute(&triggers::functions(names)).await.map_err(context())?;
    let ddl_detection = ensure_triggers(inner, names, had_triggers).await?;
    let snapshot = format!(
        "INSERT INTO {shard}.\"publishedSchema\" (current) VALUES ({shard}.schema_specs()::json) \
         ON CONFLICT (exists) DO UPDATE SET current = EXCLUDED.current"
    );
    inner.batch_execute(&snapshot).await.map_err(context())?;
    transaction.commit().await.map_err(context())?;
    Ok(Shard { publications, ddl_detection })
}

/// What is there, without changing it; `None` when the shard was never set up.
pub(crate) async fn read(client: &Client, names: &Names) -> Result<Option<Shard>, Error> {
    let context = || Error::postgres(format!("read schema {} upstream", names.shard));
    let shard = ident(&names.shard);
    let found = client
        .query_one(
            "SELECT to_regclass($1) IS NOT NULL AND to_regclass($2) IS NOT NULL",
            &[&format!("{shard}.\"shardConfig\""), &format!("{shard}.\"replicas\"")],
        )
        .await
        .map_err(context())?;
    if !found.get::<_, bool>(0) {
        return Ok(None);
    }
    let statement = format!("SELECT publications, \"ddlDetection\" FROM {shard}.\"shardConfig\"");
    let rows = client.query(&statement, &[]).await.map_err(context())?;
    Ok(rows.first().map(|row| Shard { publications: row.get(0), ddl_detection: row.get(1) }))
}

fn tables(names: &Names) -> String {
    let app = ident(&names.app);
    let shard = ident(&names.shard);
    format!(
        r#"
CREATE SCHEMA IF NOT EXISTS {app};
CREATE TABLE IF NOT EXISTS {app}."permissions" (
  "permissions" JSONB, "hash" TEXT, "lock" BOOL PRIMARY KEY DEFAULT true CHECK (lock));
CREATE OR REPLACE FUNCTION {app}.set_permissions_hash() RETURNS trigger LANGUAGE plpgsql AS $zql$
BEGIN
  NEW.hash := md5(NEW.permissions::text);
  RETURN NEW;
END
$zql$;
CREATE OR REPLACE TRIGGER on_set_permissions BEFORE INSERT OR UPDATE ON {app}."permissions"
  FOR EACH ROW EXECUTE FUNCTION {app}.set_permissions_hash();
INSERT INTO {app}."permissions" ("permissions") VALUES (NULL) ON CONFLICT DO NOTHING;

CREATE SCHEMA IF NOT EXISTS {shard};
CREATE TABLE IF NOT EXISTS {shard}."clients" (
  "clientGroupID" TEXT NOT NULL, "clientID" TEXT NOT NULL, "lastMutationID" BIGINT NOT NULL, "userID" TEXT,
  PRIMARY KEY ("clientGroupID", "clientID"));
CREATE TABLE IF NOT EXISTS {shard}."mutations" (
  "clientGroupID" TEXT NOT NULL, "clientID" TEXT NOT NULL, "mutationID" BIGINT NOT NULL, "result" JSON NOT NULL,
  PRIMARY KEY ("clientGroupID", "clientID", "mutationID"));
CREATE TABLE IF NOT EXISTS {shard}."shardConfig" (
  "publications" TEXT[] NOT NULL, "ddlDetection" BOOL NOT NULL,
  "lock" BOOL PRIMARY KEY DEFAULT true CHECK (lock));
CREATE TABLE IF NOT EXISTS {shard}."replicas" (
  "id" TEXT PRIMARY KEY DEFAULT replace(gen_random_uuid()::text, '-', ''), "rank" BIGSERIAL, "slot" TEXT NOT NULL,
  "version" TEXT NOT NULL, "initialSchema" JSON, "initialSyncContext" JSON, "subscriberContext" JSON);
CREATE TABLE IF NOT EXISTS {shard}."publishedSchema" (
  "current" JSON, "exists" BOOL PRIMARY KEY DEFAULT true CHECK (exists));
CREATE TABLE IF NOT EXISTS {shard}."versionHistory" (
  "dataVersion" INT NOT NULL, "schemaVersion" INT NOT NULL, "minSafeVersion" INT NOT NULL,
  "lock" CHAR(1) NOT NULL DEFAULT 'v' PRIMARY KEY CHECK (lock = 'v'));
"#
    )
}

/// Reads and raises the version of the upstream objects. They are all created only where missing, so a
/// lower version needs nothing else.
async fn check_version(client: &Client, names: &Names) -> Result<(), Error> {
    let context = || Error::postgres("read the shard's version");
    let shard = ident(&names.shard);
    let statement = format!("SELECT \"schemaVersion\", \"minSafeVersion\" FROM {shard}.\"versionHistory\"");
    let rows = client.query(&statement, &[]).await.map_err(context())?;
    let (schema_version, min_safe) = rows.first().map_or((0, 0), |row| (row.get::<_, i32>(0), row.get::<_, i32>(1)));
    if min_safe > SHARD_VERSION {
        return Err(Error::Config(format!(
            "Cannot run {} at schema v{SHARD_VERSION} because rollback limit is v{min_safe}",
            names.shard
        )));
    }
    let statement = format!(
        "INSERT INTO {shard}.\"versionHistory\" (\"dataVersion\", \"schemaVersion\", \"minSafeVersion\") \
         VALUES ({SHARD_VERSION}, {}, {}) ON CONFLICT (lock) DO UPDATE SET \"dataVersion\" = EXCLUDED.\"dataVersion\", \
         \"schemaVersion\" = EXCLUDED.\"schemaVersion\", \"minSafeVersion\" = EXCLUDED.\"minSafeVersion\"",
        schema_version.max(SHARD_VERSION),
        min_safe.max(SHARD_MIN_SAFE_VERSION)
    );
    client.batch_execute(&statement).await.map_err(context())
}

async fn ensure_triggers(client: &Client, names: &Names, had_triggers: bool) -> Result<bool, Error> {
    let context = || Error::postgres("create the event triggers that announce schema changes");
    client.batch_execute("SAVEPOINT triggers").await.map_err(context())?;
    match client.batch_execute(&triggers::triggers(names)).await {
        Ok(()) => {
            client.batch_execute("RELEASE SAVEPOINT triggers").await.map_err(context())?;
            Ok(true)
        }
        Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) && !had_triggers => {
            client.batch_execute("ROLLBACK TO SAVEPOINT triggers").await.map_err(context())?;
            warn!(
                "the upstream role may not create event triggers: a change of a published table will stop replication \
                 until the replica is copied again"
            );
            Ok(false)
        }
        Err(error) => Err(context()(error)),
    }
}

/// Gives tables without a primary key the identity of a unique index over NOT NULL columns, so that
/// Postgres accepts updates and deletes of them and the stream carries their key.
pub(crate) async fn fix_replica_identities(client: &Client, names: &Names) -> Result<(), Error> {
    let context = || Error::postgres("read tables without a replica identity");
    let shard = ident(&names.shard);
    let statement = schema_sql(&format!("(SELECT publications FROM {shard}.\"shardConfig\")"));
    let text: String = client.query_one(&statement, &[]).await.map_err(context())?.get(0);
    let schema: PublishedSchema =
        serde_json::from_str(&text).map_err(|error| Error::Protocol(format!("the published schema: {error}")))?;
    for table in &schema.tables {
        if table.replica_identity.as_deref() != Some("d") || !table.primary_key.is_empty() {
            continue;
        }
        let Some(index) = identity_index(&schema, table) else { continue };
        let statement = format!(
            "ALTER TABLE {}.{} REPLICA IDENTITY USING INDEX {}",
            ident(&table.schema),
            ident(&table.name),
            ident(index)
        );
        if let Err(error) = client.batch_execute(&statement).await {
            warn!(table = table.lite_name(), error = %crate::error::describe(&error), "cannot set the replica identity");
        }
    }
    Ok(())
}

fn identity_index<'a>(schema: &'a PublishedSchema, table: &'a PublishedTable) -> Option<&'a str> {
    let not_null = |column: &String| table.columns.get(column).is_some_and(|column| column.not_null == Some(true));
    schema
        .indexes_of(table)
        .find(|index| index.unique && index.is_immediate && index.columns.keys().all(not_null))
        .map(|index| index.name.as_str())
}
