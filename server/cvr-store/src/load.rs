//! Reading a group's record.
//!
//! One statement reads instance, clients, queries and desires: one snapshot, one round trip. Rows are
//! read apart, because a group whose clients are up to date may not need them at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use cvr::record::{Body, Cvr, Desire, Query, Signature};
use cvr::row::{QueryId, Rows, RowsLoader};
use cvr::ttl;
use deadpool_postgres::Object;
use futures::TryStreamExt;
use indexmap::IndexMap;
use rustc_hash::{FxBuildHasher, FxHashMap};
use serde_json::value::RawValue;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use zql_spec::version::CvrVersion;

use crate::connection::limited;
use crate::error::Failure;
use crate::{Rehome, StoreError};

/// How often a record is read again whose rows are still being written.
pub const MAX_LOAD_ATTEMPTS: usize = 10;

/// Time between the attempts. Together they cover the slowest write of rows behind a poke seen in practice.
pub const LOAD_INTERVAL: Duration = Duration::from_millis(500);

/// A timestamp as ISO 8601, as it stands in error texts.
pub(crate) const ISO: &str = r#"'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'"#;

/// The statements, with the schema's name in place.
#[derive(Debug)]
pub(crate) struct Statements {
    record: String,
    rows: String,
    claim: String,
}

impl Statements {
    pub(crate) fn new(schema: &str) -> Self {
        Statements {
            record: format!(
                r#"SELECT i."version", rv."version" AS "rowsVersion",
                    (extract(epoch FROM i."lastActive") * 1000)::float8 AS "lastActive", i."ttlClock",
                    i."replicaVersion", i."clientSchema"::text AS "clientSchema", i."profileID",
                    coalesce(i."deleted", false) AS "deleted", i."owner",
                    coalesce((extract(epoch FROM i."grantedAt") * 1000)::float8, 0) AS "grantedAt",
                    to_char(i."grantedAt" AT TIME ZONE 'UTC', {ISO}) AS "grantedAtText",
                    to_char(to_timestamp($2::float8 / 1000) AT TIME ZONE 'UTC', {ISO}) AS "connectTimeText",
                    (SELECT array_agg(c."clientID") FROM {schema}."clients" c
                        WHERE c."clientGroupID" = i."clientGroupID") AS "clients",
                    (SELECT json_agg(json_build_array(q."queryHash", q."clientAST", q."queryName", q."queryArgs",
                        q."patchVersion", q."transformationHash", q."transformationVersion",
                        coalesce(q."internal", false),
                        q."rowSetSignature") ORDER BY q."queryHash")::text FROM {schema}."queries" q
                        WHERE q."clientGroupID" = i."clientGroupID" AND q."deleted" IS DISTINCT FROM true) AS "queries",
                    (SELECT json_agg(json_build_array(d."clientID", d."queryHash", d."patchVersion",
                        coalesce(d."deleted", false), d."ttlMs", d."inactivatedAtMs"))::text FROM {schema}."desires" d
                        WHERE d."clientGroupID" = i."clientGroupID") AS "desires"
                FROM {schema}."instances" i LEFT JOIN {schema}."rowsVersion" rv USING ("clientGroupID")
                WHERE "clientGroupID" = $1"#
            ),
            rows: format!(
                r#"SELECT NULL AS "table", NULL, NULL, "version", NULL FROM {schema}."instances" WHERE "clientGroupID" = $1
                UNION ALL SELECT "table", "rowKey"::text, "rowVersion", "patchVersion", "refCounts"::text
                FROM {schema}."rows" WHERE "clientGroupID" = $1 AND "refCounts" IS NOT NULL"#
            ),
            claim: format!(
                r#"UPDATE {schema}."instances" SET "owner" = $2, "grantedAt" = to_timestamp($3::float8 / 1000)
                WHERE "clientGroupID" = $1
                AND ("grantedAt" IS NULL OR "grantedAt" <= to_timestamp($3::float8 / 1000))"#
            ),
        }
    }
}

/// Prepares a connection of the pool for reading.
pub(crate) async fn warm_up(client: &Object, statements: &Statements) -> Result<(), Failure> {
    client.prepare_cached(&statements.record).await?;
    client.prepare_cached(&statements.rows).await?;
    Ok(())
}

/// What one reading of a record found.
pub(crate) enum Found {
    Record(Box<Cvr>),
    /// The rows are behind the record: its version and theirs.
    Behind(String, String),
}

type StoredQuery = (
    String,
    Option<Box<RawValue>>,
    Option<String>,
    Option<Box<RawValue>>,
    Option<String>,
    Option<String>,
    Option<String>,
    bool,
    Option<String>,
);
type StoredDesire = (String, String, String, bool, Option<f64>, Option<f64>);

/// Reads a record once, claiming it for the task if it may.
pub(crate) async fn record(
    client: &Object,
    statements: &Statements,
    group: &str,
    task_id: &str,
    last_connect_time: f64,
) -> Result<Found, Failure> {
    let statement = client.prepare_cached(&statements.record).await?;
    let Some(row) = client.query_opt(&statement, &[&group, &last_connect_time]).await? else {
        return Ok(Found::Record(Box::new(Cvr::new(group))));
    };
    if row.try_get("deleted")? {
        return Err(StoreError::ClientNotFound("Client has been purged due to inactivity".to_owned()).into());
    }
    let owner: Option<String> = row.try_get("owner")?;
    if owner.as_deref() != Some(task_id) {
        if row.try_get::<_, f64>("grantedAt")? > last_connect_time {
            return Err(Rehome::Ownership {
                owner: owner.unwrap_or_else(|| "null".to_owned()),
                granted_at: row.try_get::<_, Option<String>>("grantedAtText")?.unwrap_or_default(),
                last_connect_time: row.try_get::<_, Option<String>>("connectTimeText")?.unwrap_or_default(),
            }
            .into());
        }
        let claim = client.prepare_cached(&statements.claim).await?;
        client.execute(&claim, &[&group, &task_id, &last_connect_time]).await?;
    }
    let version: String = row.try_get("version")?;
    let rows_version = row.try_get::<_, Option<String>>("rowsVersion")?.unwrap_or_else(|| "00".to_owned());
    if version != rows_version {
        return Ok(Found::Behind(version, rows_version));
    }
    Ok(Found::Record(Box::new(build(group, &row)?)))
}

fn corrupt(what: &str, error: impl std::fmt::Display) -> StoreError {
    StoreError::Refused(format!("the stored client view record has unusable {what}: {error}"))
}

fn build(group: &str, row: &Row) -> Result<Cvr, StoreError> {
    let client_schema = match row.try_get::<_, Option<&str>>("clientSchema")? {
        None => None,
        Some(text) => Some(client_schema(text).map_err(|error| {
            StoreError::SchemaVersionNotSupported(format!("Could not parse clientSchema stored in CVR: {error}"))
        })?),
    };
    let mut versions = Versions::default();
    let mut clients: BTreeMap<Arc<str>, BTreeSet<QueryId>> = row
        .try_get::<_, Option<Vec<String>>>("clients")?
        .into_iter()
        .flatten()
        .map(|id| (id.into(), BTreeSet::new()))
        .collect();
    let mut queries: IndexMap<QueryId, Query, FxBuildHasher> = IndexMap::default();
    let stored: Vec<StoredQuery> = json(row, "queries")?;
    for (id, ast, name, args, patch_version, hash, hash_version, internal, signature) in stored {
        let text = |json: &RawValue| -> Arc<str> { json.get().into() };
        let body = match (&ast, name, &args) {
            (Some(ast), ..) if internal => Body::Internal(text(ast)),
            (Some(ast), ..) => Body::Ast(text(ast)),
            (None, Some(name), Some(args)) => Body::Custom { name: name.into(), args: text(args) },
            _ => return Err(corrupt("queries", format!("{id} has neither an AST nor a name and arguments"))),
        };
        let mut query = Query::new(body);
        query.patch_version = patch_version.map(|version| versions.get(&version)).transpose()?;
        query.transformation_hash = hash.map(Into::into);
        query.transformation_version = hash_version.map(|version| versions.get(&version)).transpose()?;
        query.signature = Signature::from_text(signature.as_deref());
        queries.insert(id.into(), query);
    }
    let desires: Vec<StoredDesire> = json(row, "desires")?;
    for (client, query, version, deleted, ttl, inactivated_at) in desires {
        // A query that was removed as failed may still be desired.
        let id = queries.get_key_value(query.as_str()).map_or_else(|| query.as_str().into(), |(id, _)| Arc::clone(id));
        let known = clients.get_key_value(client.as_str()).map(|(client, _)| Arc::clone(client));
        if !deleted
            && inactivated_at.is_none()
            && let Some(desired) = clients.get_mut(client.as_str())
        {
            desired.insert(Arc::clone(&id));
        }
        if (!deleted || inactivated_at.is_some())
            && let Some(query) = queries.get_mut(&id)
            && !query.body.is_internal()
        {
            let desire = Desire {
                inactivated_at,
                ttl: ttl::clamp(ttl.unwrap_or(ttl::DEFAULT_TTL)),
                version: versions.get(&version)?,
            };
            query.clients.insert(known.unwrap_or_else(|| client.into()), desire);
        }
    }
    let version: String = row.try_get("version")?;
    Ok(Cvr {
        group: group.into(),
        version: version.parse().map_err(|error| corrupt("version", error))?,
        last_active: row.try_get("lastActive")?,
        ttl_clock: row.try_get("ttlClock")?,
        replica_version: row.try_get::<_, Option<String>>("replicaVersion")?.map(Into::into),
        client_schema,
        profile_id: row.try_get::<_, Option<String>>("profileID")?.map(Into::into),
        clients: Arc::new(clients),
        queries: Arc::new(queries),
        stored: true,
    })
}

/// The stored client schema, if it looks like one.
fn client_schema(text: &str) -> Result<Arc<serde_json::Value>, String> {
    let schema: serde_json::Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    match schema.get("tables") {
        Some(serde_json::Value::Object(_)) => Ok(Arc::new(schema)),
        _ => Err("Missing property tables".to_owned()),
    }
}

fn json<T: serde::de::DeserializeOwned>(row: &Row, column: &str) -> Result<Vec<T>, StoreError> {
    match row.try_get::<_, Option<&str>>(column)? {
        None => Ok(Vec::new()),
        Some(text) => serde_json::from_str(text).map_err(|error| corrupt(column, error)),
    }
}

#[derive(Default)]
struct Versions(FxHashMap<String, Arc<CvrVersion>>);

impl Versions {
    fn get(&mut self, text: &str) -> Result<Arc<CvrVersion>, StoreError> {
        if let Some(version) = self.0.get(text) {
            return Ok(Arc::clone(version));
        }
        let version: Arc<CvrVersion> = Arc::new(text.parse().map_err(|error| corrupt("versions", error))?);
        self.0.insert(text.to_owned(), Arc::clone(&version));
        Ok(version)
    }
}

/// Reads the rows that a group's clients hold. They are of no use with a record of another version: a server that had the
/// group until now may have written both since the record was read.
pub(crate) async fn rows(
    client: &Object,
    statements: &Statements,
    silence: Option<Duration>,
    cvr: &Cvr,
) -> Result<Rows, Failure> {
    let prepare = async { Ok(client.prepare_cached(&statements.rows).await?) };
    let statement = limited(silence, prepare).await?;
    let parameters: [&(dyn ToSql + Sync); 1] = [&&*cvr.group];
    let expected = cvr.version.to_string();
    let mut actual = "00".to_owned();
    let begin = async { Ok(client.query_raw(&statement, parameters).await?) };
    let mut stream = std::pin::pin!(limited(silence, begin).await?);
    let mut loader = RowsLoader::default();
    while let Some(row) = limited(silence, async { Ok(stream.try_next().await?) }).await? {
        let Some(table) = row.try_get::<_, Option<&str>>(0)? else {
            actual = row.try_get(3)?;
            continue;
        };
        let (key, row_version) = (row.try_get(1)?, row.try_get(2)?);
        loader
            .add(table, key, row_version, row.try_get(3)?, row.try_get(4)?)
            .map_err(|error| corrupt("rows", error))?;
    }
    if actual != expected {
        return Err(Rehome::ConcurrentModification { expected, actual }.into());
    }
    Ok(loader.finish())
}
