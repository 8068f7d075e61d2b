//! The text of the statements that write records.
//!
//! A flush is one statement, so one transaction and one round trip: it takes the lock on each group's instance by
//! updating it, if the group is still at the expected version and nobody else owns it, and writes clients, queries,
//! desires and rows only of the groups whose update took place. So a group that may not be written costs the others
//! nothing, and nothing has to be rolled back. Parameters are arrays, a column each; a row names its group by position.

use crate::load::ISO;

/// Which tables a flush statement writes. Nearly all flushes come from commits upstream and change no client, query or
/// desire, and Postgres sets up every part of a statement whether it has rows or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Instances and rows.
    Rows,
    /// All.
    All,
}

const UPSERT_ROWS: &str = r#"ON CONFLICT ("clientGroupID", "schema", "table", "rowKey") DO UPDATE SET
    "rowVersion" = excluded."rowVersion", "patchVersion" = excluded."patchVersion", "refCounts" = excluded."refCounts""#;

/// `lastActive` decides about purging after days. Moving it at most once a minute keeps most updates of instances
/// off their indexes (a heap-only tuple), which is half of their cost.
pub(crate) fn flush(schema: &str, kind: Kind) -> String {
    let identity = match kind {
        Kind::Rows => String::new(),
        Kind::All => {
            r#", "clientSchema" = CASE WHEN input.identity THEN input.client_schema::jsonb ELSE i."clientSchema" END,
            "profileID" = CASE WHEN input.identity THEN input.profile_id ELSE i."profileID" END"#
                .to_owned()
        }
    };
    let mut sql = format!(
        r#"WITH input AS MATERIALIZED (
    SELECT * FROM unnest($2::text[], $3::text[], $4::text[], $5::float8[], $6::float8[], $7::text[], $8::float8[],
        $9::bool[], $10::bool[], $11::bool[], $12::text[], $13::text[]) WITH ORDINALITY AS t (id, expected,
        version, last_active, ttl_clock, replica_version, connect_time, with_rows, first, identity, client_schema,
        profile_id, n)
), updated AS (
    UPDATE {schema}."instances" i SET "version" = input.version, "ttlClock" = input.ttl_clock,
        "lastActive" = CASE
            WHEN abs(extract(epoch FROM i."lastActive") * 1000 - input.last_active) < 60000 AND i."version" <> '00'
            THEN i."lastActive" ELSE to_timestamp(input.last_active / 1000) END,
        "replicaVersion" = input.replica_version, "owner" = $1::text,
        "grantedAt" = to_timestamp(input.connect_time / 1000){identity}
    FROM input
    WHERE i."clientGroupID" = input.id AND i."version" = input.expected
        AND (i."owner" IS NOT DISTINCT FROM $1::text
            OR coalesce((extract(epoch FROM i."grantedAt") * 1000)::float8, 0) <= input.connect_time)
    RETURNING input.n
), inserted AS (
    INSERT INTO {schema}."instances" ("clientGroupID", "version", "lastActive", "ttlClock", "replicaVersion", "owner",
        "grantedAt", "clientSchema", "profileID")
    SELECT id, version, to_timestamp(last_active / 1000), ttl_clock, replica_version, $1::text,
        to_timestamp(connect_time / 1000), client_schema::jsonb, profile_id
    FROM input WHERE first
    ON CONFLICT DO NOTHING
    RETURNING "clientGroupID"
), written AS MATERIALIZED (
    SELECT n FROM updated UNION ALL
    SELECT n FROM input WHERE first AND id IN (SELECT "clientGroupID" FROM inserted)
), ids AS MATERIALIZED (
    SELECT array_agg(CASE WHEN n IN (SELECT n FROM written) THEN id END ORDER BY n) AS ids FROM input
), rows_version AS (
    INSERT INTO {schema}."rowsVersion" ("clientGroupID", "version")
    SELECT id, version FROM input WHERE with_rows AND n IN (SELECT n FROM written)
    ON CONFLICT ("clientGroupID") DO UPDATE SET "version" = excluded."version"
), row_writes AS (
    INSERT INTO {schema}."rows" ("clientGroupID", "schema", "table", "rowKey", "rowVersion", "patchVersion", "refCounts")
    SELECT ids[g], '', "table", row_key::jsonb, row_version, patch_version, ref_counts::jsonb
    FROM ids, unnest($14::int4[], $15::text[], $16::text[], $17::text[], $18::text[], $19::text[])
        AS r (g, "table", row_key, row_version, patch_version, ref_counts)
    WHERE ids[g] IS NOT NULL
    {UPSERT_ROWS}
)"#
    );
    if kind == Kind::All {
        sql.push_str(&config_sql(schema));
    }
    sql.push_str(" SELECT n FROM written");
    sql
}

/// `ttl` and `inactivatedAt` are for older servers; they are written as the reference writes them, which divides the
/// milliseconds of the latter twice.
fn config_sql(schema: &str) -> String {
    format!(
        r#", client_inserts AS (
    INSERT INTO {schema}."clients" ("clientGroupID", "clientID")
    SELECT ids[g], client FROM ids, unnest($20::int4[], $21::text[]) AS c (g, client) WHERE ids[g] IS NOT NULL
    ON CONFLICT DO NOTHING
), client_deletes AS (
    DELETE FROM {schema}."clients" c USING ids, unnest($22::int4[], $23::text[]) AS d (g, client)
    WHERE c."clientGroupID" = ids[g] AND c."clientID" = client
), query_writes AS (
    INSERT INTO {schema}."queries" ("clientGroupID", "queryHash", "clientAST", "queryName", "queryArgs",
        "patchVersion", "transformationHash", "transformationVersion", "internal", "deleted", "rowSetSignature")
    SELECT ids[g], query, ast::jsonb, name, args::json, patch_version, hash, hash_version, internal, deleted, signature
    FROM ids, unnest($24::int4[], $25::text[], $26::text[], $27::text[], $28::text[], $29::text[], $30::text[],
        $31::text[], $32::bool[], $33::bool[], $34::text[])
        AS q (g, query, ast, name, args, patch_version, hash, hash_version, internal, deleted, signature)
    WHERE ids[g] IS NOT NULL
    ON CONFLICT ("clientGroupID", "queryHash") DO UPDATE SET "clientAST" = excluded."clientAST",
        "queryName" = excluded."queryName", "queryArgs" = excluded."queryArgs",
        "patchVersion" = excluded."patchVersion", "transformationHash" = excluded."transformationHash",
        "transformationVersion" = excluded."transformationVersion", "internal" = excluded."internal",
        "deleted" = excluded."deleted", "rowSetSignature" = excluded."rowSetSignature"
), desire_writes AS (
    INSERT INTO {schema}."desires" ("clientGroupID", "clientID", "queryHash", "patchVersion", "deleted", "ttl",
        "ttlMs", "inactivatedAt", "inactivatedAtMs")
    SELECT ids[g], client, query, patch_version, deleted, make_interval(secs => ttl / 1000), ttl,
        to_timestamp(inactivated_at / 1000000), inactivated_at
    FROM ids, unnest($35::int4[], $36::text[], $37::text[], $38::text[], $39::bool[], $40::float8[], $41::float8[])
        AS d (g, client, query, patch_version, deleted, ttl, inactivated_at)
    WHERE ids[g] IS NOT NULL
    ON CONFLICT ("clientGroupID", "clientID", "queryHash") DO UPDATE SET "patchVersion" = excluded."patchVersion",
        "deleted" = excluded."deleted", "ttl" = excluded."ttl", "ttlMs" = excluded."ttlMs",
        "inactivatedAt" = excluded."inactivatedAt", "inactivatedAtMs" = excluded."inactivatedAtMs"
)"#
    )
}

/// Rows of a record that was purged or dropped meanwhile are not written: whoever has its name next is not to have them. The
/// lock waits for a purge that is under way, and makes later ones pass the group over until its rows are there to be purged;
/// flushes do not mind it.
pub(crate) fn behind(schema: &str) -> String {
    format!(
        r#"WITH alive AS MATERIALIZED (
    SELECT t.id, t.version, t.n FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS t (id, version, n)
    JOIN {schema}."instances" i ON i."clientGroupID" = t.id AND i."deleted" IS DISTINCT FROM true
    FOR KEY SHARE OF i
), versions AS (
    INSERT INTO {schema}."rowsVersion" AS v ("clientGroupID", "version")
    SELECT id, coalesce(version, '00') FROM alive
    ON CONFLICT ("clientGroupID") DO UPDATE SET "version" = excluded."version" WHERE excluded."version" <> '00'
)
INSERT INTO {schema}."rows" ("clientGroupID", "schema", "table", "rowKey", "rowVersion", "patchVersion", "refCounts")
SELECT id, '', "table", row_key::jsonb, row_version, patch_version, ref_counts::jsonb
FROM unnest($3::int4[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[])
    AS r (g, "table", row_key, row_version, patch_version, ref_counts) JOIN alive ON n = g
{UPSERT_ROWS}"#
    )
}

/// The lock is the one that [`flush`] takes, and is gone when the statement ends.
pub(crate) fn free(schema: &str) -> String {
    format!(
        r#"SELECT "clientGroupID" FROM {schema}."instances" WHERE "clientGroupID" = ANY($1::text[])
        FOR NO KEY UPDATE SKIP LOCKED"#
    )
}

/// In the order of the groups asked for.
pub(crate) fn refusals(schema: &str) -> String {
    format!(
        r#"SELECT i."version", coalesce(i."owner" IS DISTINCT FROM $1::text
            AND (extract(epoch FROM i."grantedAt") * 1000)::float8 > t.connect_time, false), i."owner",
        to_char(i."grantedAt" AT TIME ZONE 'UTC', {ISO}),
        to_char(to_timestamp(t.connect_time / 1000) AT TIME ZONE 'UTC', {ISO})
        FROM unnest($2::text[], $3::float8[]) WITH ORDINALITY AS t (id, connect_time, n)
        LEFT JOIN {schema}."instances" i ON i."clientGroupID" = t.id ORDER BY t.n"#
    )
}
