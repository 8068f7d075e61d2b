//! Reading what happened between two versions, for clients that are behind.
//!
//! One statement reads rows, queries and desires in one snapshot. Versions are compared here, by meaning; Postgres only
//! leaves out what is certainly older, because the text order of versions is not their order.

use std::sync::Arc;
use std::time::Duration;

use cvr::patch::{QueryPatch, RowPatch};
use cvr::row::{QueryId, RowsLoader};
use deadpool_postgres::Object;
use futures::TryStreamExt;
use tokio_postgres::types::ToSql;

use crate::connection::limited;
use crate::error::Failure;
use crate::{CaughtUp, Range, Rehome, StoreError};

const INSTANCE: i32 = 0;
const ROW: i32 = 1;
const QUERY: i32 = 2;

/// The statement, with the schema's name in place.
///
/// `$2` is the state of the version after which patches count. A later version has a greater or equal state, and
/// its text begins with it, so it is not less than `$2` in byte order.
pub(crate) fn statement(schema: &str) -> String {
    let since = r#""clientGroupID" = $1 AND "patchVersion" COLLATE "C" >= $2"#;
    format!(
        r#"SELECT {INSTANCE} AS kind, NULL::text AS a, NULL::text AS b, "version" AS "patchVersion", false AS gone
            FROM {schema}."instances" WHERE "clientGroupID" = $1
        UNION ALL
        SELECT {ROW}, "table", "rowKey"::text, "patchVersion", "refCounts" IS NULL
            FROM {schema}."rows" WHERE {since} AND ("refCounts" IS NULL OR NOT "refCounts" ?| $3::text[])
        UNION ALL
        SELECT {QUERY}, "queryHash", NULL, "patchVersion", coalesce("deleted", false)
            FROM {schema}."queries" WHERE {since}
        UNION ALL
        SELECT 3, "queryHash", "clientID", "patchVersion", coalesce("deleted", false)
            FROM {schema}."desires" WHERE {since}"#
    )
}

/// Reads a range that is not empty.
pub(crate) async fn read(
    client: &Object,
    statement: &str,
    silence: Option<Duration>,
    range: &Range,
) -> Result<CaughtUp, Failure> {
    let statement = limited(silence, async { Ok(client.prepare_cached(statement).await?) }).await?;
    let since = range.after.as_ref().map_or("", |after| after.state.as_str());
    let excluded: Vec<&str> = range.excluded.iter().map(AsRef::as_ref).collect();
    let parameters: [&(dyn ToSql + Sync); 3] = [&range.group.as_ref(), &since, &excluded];
    let begin = async { Ok(client.query_raw(&statement, parameters).await?) };
    let mut stream = std::pin::pin!(limited(silence, begin).await?);
    let mut loader = RowsLoader::default();
    let mut actual = None;
    let mut rows = Vec::new();
    let mut got = Vec::new();
    let mut desired = Vec::new();
    let corrupt = |error| StoreError::Refused(format!("the stored client view record is unusable: {error}"));
    while let Some(row) = limited(silence, async { Ok(stream.try_next().await?) }).await? {
        let to_version = loader.version(row.try_get(3)?).map_err(corrupt)?;
        let kind: i32 = row.try_get(0)?;
        if kind == INSTANCE {
            actual = Some(to_version);
            continue;
        }
        if range.after.as_ref().is_some_and(|after| *to_version <= *after) || *to_version > range.up_to {
            continue;
        }
        let gone: bool = row.try_get(4)?;
        let first: &str = row.try_get(1)?;
        if kind == ROW {
            let row = loader.row_id(first, row.try_get(2)?).map_err(corrupt)?;
            rows.push(RowPatch { to_version, row, put: (!gone).then_some(()) });
            continue;
        }
        let client: Option<Arc<str>> = row.try_get::<_, Option<&str>>(2)?.map(Into::into);
        let patches = if kind == QUERY { &mut got } else { &mut desired };
        patches.push(QueryPatch { to_version, put: !gone, query: QueryId::from(first), client });
    }
    let actual = actual.map_or_else(|| "00".to_owned(), |actual| actual.to_string());
    let expected = range.current.to_string();
    if actual != expected {
        return Err(Rehome::ConcurrentModification { expected, actual }.into());
    }
    got.append(&mut desired);
    Ok(CaughtUp { rows, queries: got })
}
