//! Functions and event triggers that put schema changes into the stream.
//!
//! Each watched command writes a logical message with the published schema before and after it, in the
//! transaction of the command, so that the stream tells of a change exactly where it takes effect. The
//! functions run with their owner's rights: a role that may alter its table need not know about this.
//! Without superuser rights the triggers cannot be created; then a changed table is found out by
//! comparing (degraded mode).

use crate::names::{Names, ident, literal};
use crate::published::schema_sql;

/// Serialises schema changes of all shards of the database (the key is zero-cache's).
const DDL_LOCK: i64 = 0x3c6b_8468_f1ba_c0b0;

/// The commands that are watched; the end trigger also watches COMMENT, by which a user whose provider
/// hides ALTER PUBLICATION from event triggers can announce a change.
const TAGS: [&str; 7] =
    ["CREATE TABLE", "ALTER TABLE", "CREATE INDEX", "DROP TABLE", "DROP INDEX", "ALTER PUBLICATION", "ALTER SCHEMA"];

/// The SQL that creates or replaces the functions. Arguments and results are those of zero-cache's functions of the same
/// names, because Postgres replaces a function only by one that looks the same: so either server can take the other's place.
pub(crate) fn functions(names: &Names) -> String {
    let shard = ident(&names.shard);
    let schema = schema_sql(&format!("(SELECT publications FROM {shard}.\"shardConfig\")"));
    let prefix = literal(&names.ddl_message_prefix());
    let settings = "SECURITY DEFINER SET search_path = pg_catalog, pg_temp";
    format!(
        r#"
CREATE OR REPLACE FUNCTION {shard}.get_trigger_context() RETURNS record LANGUAGE plpgsql AS $zql$
DECLARE
  context record;
BEGIN
  SELECT coalesce(current_query(), '(not available)') AS "query" INTO context;
  RETURN context;
END
$zql$;

CREATE OR REPLACE FUNCTION {shard}.notice_ignore(reason text, tag text, target record) RETURNS void
LANGUAGE plpgsql AS $zql$
BEGIN
  RAISE NOTICE 'zero: % does not change what is published (% %)', reason, tag, target;
END
$zql$;

CREATE OR REPLACE FUNCTION {shard}.schema_specs() RETURNS json LANGUAGE plpgsql {settings} AS $zql$
BEGIN
  RETURN ({schema});
END
$zql$;

CREATE OR REPLACE FUNCTION {shard}.update_schemas(event_type text, tag text, target record) RETURNS void
LANGUAGE plpgsql {settings} AS $zql$
DECLARE
  before json;
  after text := {shard}.schema_specs()::text;
  message jsonb;
BEGIN
  SELECT current INTO before FROM {shard}."publishedSchema";
  IF before IS NULL OR before::text <> after THEN
    INSERT INTO {shard}."publishedSchema" (current) VALUES (after::json)
      ON CONFLICT (exists) DO UPDATE SET current = EXCLUDED.current;
  ELSIF event_type = 'ddlUpdate' THEN
    PERFORM {shard}.notice_ignore(event_type, tag, target);
    RETURN;
  ELSIF event_type = 'ddlStart' THEN
    before := NULL;
  END IF;
  PERFORM pg_logical_emit_message(true, {prefix}, json_build_object(
    'type', event_type, 'version', 1, 'previousSchema', before, 'schema', after::json,
    'event', json_build_object('tag', tag), 'context', {shard}.get_trigger_context())::text);
END
$zql$;

CREATE OR REPLACE FUNCTION {shard}.update_schemas() RETURNS void LANGUAGE plpgsql AS $zql$
BEGIN
  PERFORM {shard}.update_schemas('schemaSnapshot', 'MANUAL', NULL::record);
END
$zql$;

CREATE OR REPLACE FUNCTION {shard}.emit_ddl_start() RETURNS event_trigger LANGUAGE plpgsql {settings} AS $zql$
BEGIN
  PERFORM pg_advisory_xact_lock({DDL_LOCK});
  PERFORM {shard}.update_schemas('ddlStart', TG_TAG, NULL::record);
END
$zql$;

CREATE OR REPLACE FUNCTION {shard}.emit_ddl_end() RETURNS event_trigger LANGUAGE plpgsql {settings} AS $zql$
DECLARE
  target record;
BEGIN
  SELECT c.objid, c.object_type, c.object_identity INTO target FROM pg_event_trigger_ddl_commands() c LIMIT 1;
  IF TG_TAG = 'COMMENT' THEN
    IF target.object_type = 'publication' AND EXISTS (
      SELECT FROM {shard}."shardConfig" s
       WHERE target.object_identity = ANY (SELECT quote_ident(p) FROM unnest(s.publications) p)) THEN
      PERFORM {shard}.update_schemas('schemaSnapshot', TG_TAG, target);
    END IF;
    RETURN;
  END IF;
  PERFORM {shard}.update_schemas('ddlUpdate', TG_TAG, target);
END
$zql$;
"#
    )
}

/// The SQL that creates the event triggers anew and records that they are there.
pub(crate) fn triggers(names: &Names) -> String {
    let shard = ident(&names.shard);
    let start = ident(&format!("{}_ddl_start_{}", names.app, names.shard_num));
    let end = ident(&format!("{}_ddl_end_{}", names.app, names.shard_num));
    let tags: Vec<String> = TAGS.iter().map(|tag| literal(tag)).collect();
    let tags = tags.join(", ");
    format!(
        "DROP EVENT TRIGGER IF EXISTS {start}; DROP EVENT TRIGGER IF EXISTS {end}; \
         CREATE EVENT TRIGGER {start} ON ddl_command_start WHEN TAG IN ({tags}) \
           EXECUTE FUNCTION {shard}.emit_ddl_start(); \
         CREATE EVENT TRIGGER {end} ON ddl_command_end WHEN TAG IN ({tags}, 'COMMENT') \
           EXECUTE FUNCTION {shard}.emit_ddl_end(); \
         UPDATE {shard}.\"shardConfig\" SET \"ddlDetection\" = true"
    )
}
