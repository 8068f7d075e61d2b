//! The published schema: which tables, columns and keys the shard's publications carry.
//!
//! `pg_publication_tables` is the only source for what is published; everything else hangs on it. One
//! SQL text serves the copy, the comparison while streaming and the function that the event triggers
//! call, so all three see the same schema in the same JSON form, which is zero-cache's.

use std::collections::BTreeMap;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use crate::error::Error;
use crate::names::{lite_name, text_array};

/// All that the shard's publications carry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedSchema {
    /// Tables, by schema and name.
    pub tables: Vec<PublishedTable>,
    /// Plain, unique and primary-key indexes whose columns are all published.
    pub indexes: Vec<PublishedIndex>,
}

/// A published table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PublishedTable {
    /// Its object id: stays when the table is renamed.
    pub oid: u32,
    /// Its schema.
    pub schema: String,
    /// The schema's object id.
    #[serde(rename = "schemaOID", default)]
    pub schema_oid: Option<u32>,
    /// Its name.
    pub name: String,
    /// `d`efault, `n`othing, `f`ull or `i`ndex.
    #[serde(default)]
    pub replica_identity: Option<String>,
    /// Published columns by name, in table order.
    pub columns: IndexMap<String, PublishedColumn>,
    /// The primary key's columns in key order; empty without one.
    #[serde(default)]
    pub primary_key: Vec<String>,
    /// The publications that carry the table.
    pub publications: BTreeMap<String, TablePublication>,
}

/// How one publication carries a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TablePublication {
    /// The condition rows must meet, as an SQL expression.
    pub row_filter: Option<String>,
}

/// A published column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PublishedColumn {
    /// Its attribute number: stays when the column is renamed.
    pub pos: i16,
    /// Its type's name; of an array the element's name and `[]` for each dimension.
    pub data_type: String,
    /// `b`ase, `c`omposite, `d`omain, `e`num, `p`seudo, `r`ange or `m`ultirange.
    #[serde(default)]
    pub pg_type_class: Option<String>,
    /// The class of an array's elements; absent for anything but a true array.
    #[serde(default)]
    pub elem_pg_type_class: Option<String>,
    /// The type's object id.
    #[serde(rename = "typeOID")]
    pub type_oid: u32,
    /// Length of `varchar` and `bpchar`; the raw type modifier of others.
    #[serde(default)]
    pub character_maximum_length: Option<i32>,
    /// Whether NULL is refused.
    #[serde(default)]
    pub not_null: Option<bool>,
    /// The default as an SQL expression.
    #[serde(default)]
    pub dflt: Option<String>,
}

/// A published index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PublishedIndex {
    /// The schema of table and index.
    pub schema: String,
    /// The table's name.
    pub table_name: String,
    /// The index's name.
    pub name: String,
    /// Whether it is unique.
    pub unique: bool,
    /// Whether it is the primary key's.
    #[serde(default)]
    pub is_primary_key: bool,
    /// Whether it is the table's replica identity.
    #[serde(default)]
    pub is_replica_identity: bool,
    /// Whether uniqueness is checked at once (not deferrable).
    #[serde(default)]
    pub is_immediate: bool,
    /// Columns in index order with `ASC` or `DESC`.
    pub columns: IndexMap<String, String>,
}

impl PublishedTable {
    /// The table's name in the replica.
    pub fn lite_name(&self) -> String {
        lite_name(&self.schema, &self.name)
    }

    /// The columns in table order.
    pub fn columns_in_order(&self) -> Vec<(&str, &PublishedColumn)> {
        let mut columns: Vec<(&str, &PublishedColumn)> =
            self.columns.iter().map(|(name, column)| (name.as_str(), column)).collect();
        columns.sort_by_key(|(_, column)| column.pos);
        columns
    }

    /// The conditions a copy must apply: a row is published if any publication lets it pass.
    ///
    /// A publication without a filter lets every row pass. (zero-cache leaves it out of the list, so
    /// its copy lacks rows that its stream has.)
    pub fn row_filters(&self) -> Vec<&str> {
        let filters: Option<Vec<&str>> =
            self.publications.values().map(|publication| publication.row_filter.as_deref()).collect();
        filters.unwrap_or_default()
    }
}

impl PublishedIndex {
    /// The index's name in the replica.
    pub fn lite_name(&self) -> String {
        lite_name(&self.schema, &self.name)
    }
}

impl PublishedSchema {
    /// The table of a schema and name.
    pub fn table(&self, schema: &str, name: &str) -> Option<&PublishedTable> {
        self.tables.iter().find(|table| table.schema == schema && table.name == name)
    }

    /// The indexes of a table.
    pub fn indexes_of<'a>(&'a self, table: &'a PublishedTable) -> impl Iterator<Item = &'a PublishedIndex> {
        self.indexes.iter().filter(|index| index.schema == table.schema && index.table_name == table.name)
    }

    /// Reads the schema that these publications carry.
    pub(crate) async fn read(client: &Client, publications: &[String]) -> Result<PublishedSchema, Error> {
        check_column_lists(client, publications).await?;
        // The expressions of row filters and defaults come out qualified only when nothing is on the path.
        let context = || Error::postgres("read the published schema");
        let path: String = client.query_one("SHOW search_path", &[]).await.map_err(context())?.get(0);
        client.batch_execute("SET search_path = pg_catalog").await.map_err(context())?;
        let row = client.query_one(&schema_sql(&text_array(publications)), &[]).await.map_err(context())?;
        let restore = format!("SELECT set_config('search_path', {}, false)", crate::names::literal(&path));
        client.batch_execute(&restore).await.map_err(context())?;
        let text: String = row.get(0);
        serde_json::from_str(&text).map_err(|error| Error::Protocol(format!("the published schema: {error}")))
    }
}

/// The query that gives the published schema as JSON text, in one row and column. `publications` is an
/// SQL expression of type `text[]`.
pub(crate) fn schema_sql(publications: &str) -> String {
    SCHEMA_SQL.replace("{publications}", publications)
}

/// Generated columns count as published from Postgres 16 on only, where the publication itself says so.
/// An array is a type with array subscripting: `typelem` alone is also set for `name`, `point` and others.
const SCHEMA_SQL: &str = "
WITH published AS (
  SELECT c.oid, n.nspname AS schema, n.oid AS schema_oid, c.relname AS name, c.relreplident AS identity,
         p.pubname, p.attnames, p.rowfilter
    FROM pg_catalog.pg_publication_tables p
    JOIN pg_catalog.pg_namespace n ON n.nspname = p.schemaname
    JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = p.tablename
   WHERE p.pubname = ANY (({publications})::text[])
), tables AS (
  SELECT oid, schema, schema_oid, name, identity,
         json_object_agg(pubname, json_build_object('rowFilter', rowfilter) ORDER BY pubname) AS publications
    FROM published GROUP BY oid, schema, schema_oid, name, identity
), columns AS (
  SELECT DISTINCT t.oid, a.attnum, a.attname::text AS name, a.attnotnull, a.atttypid, a.atttypmod,
         y.typtype::text AS class,
         CASE WHEN y.typsubscript = 'array_subscript_handler'::regproc THEN e.typtype::text END AS elem_class,
         CASE WHEN y.typsubscript = 'array_subscript_handler'::regproc
              THEN e.typname || repeat('[]', greatest(a.attndims::int, 1)) ELSE y.typname::text END AS type,
         pg_catalog.pg_get_expr(d.adbin, d.adrelid) AS dflt
    FROM published t
    JOIN pg_catalog.pg_attribute a ON a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped
         AND a.attname = ANY (t.attnames)
         AND (a.attgenerated = '' OR current_setting('server_version_num')::int >= 160000)
    JOIN pg_catalog.pg_type y ON y.oid = a.atttypid
    LEFT JOIN pg_catalog.pg_type e ON e.oid = y.typelem
    LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
), table_columns AS (
  SELECT oid, json_object_agg(name, json_build_object(
           'pos', attnum, 'dataType', type, 'pgTypeClass', class, 'elemPgTypeClass', elem_class,
           'typeOID', atttypid::int8,
           'characterMaximumLength', CASE WHEN atttypmod = -1 THEN NULL
                                          WHEN atttypid IN (1042, 1043) THEN atttypmod - 4 ELSE atttypmod END,
           'notNull', attnotnull, 'dflt', dflt) ORDER BY attnum) AS columns
    FROM columns GROUP BY oid
), index_columns AS (
  SELECT i.indexrelid, i.indrelid, count(*) AS total, count(c.attnum) AS known,
         json_agg(c.name ORDER BY k.ord) AS names,
         json_object_agg(coalesce(c.name, ''), CASE WHEN i.indoption[k.ord - 1] & 1 = 1 THEN 'DESC' ELSE 'ASC' END
                         ORDER BY k.ord) AS columns
    FROM pg_catalog.pg_index i
    JOIN tables t ON t.oid = i.indrelid
    CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, ord)
    LEFT JOIN columns c ON c.oid = i.indrelid AND c.attnum = k.attnum
   WHERE k.ord <= i.indnkeyatts
   GROUP BY i.indexrelid, i.indrelid
), indexes AS (
  SELECT t.schema, t.name AS table_name, ic.relname AS name, i.indisunique, i.indisprimary, i.indisreplident,
         i.indimmediate, x.columns, x.names, i.indrelid
    FROM tables t
    JOIN pg_catalog.pg_index i ON i.indrelid = t.oid
    JOIN pg_catalog.pg_class ic ON ic.oid = i.indexrelid
    JOIN index_columns x ON x.indexrelid = i.indexrelid AND x.total = x.known
   WHERE i.indexprs IS NULL AND i.indpred IS NULL AND i.indisvalid
     AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint k
                      WHERE k.conindid = i.indexrelid AND k.contype NOT IN ('p', 'u', 'f'))
)
SELECT json_build_object(
  'tables', coalesce((
    SELECT json_agg(json_build_object(
             'oid', t.oid::int8, 'schema', t.schema, 'schemaOID', t.schema_oid::int8, 'name', t.name,
             'replicaIdentity', t.identity::text, 'columns', coalesce(c.columns, '{}'::json),
             'primaryKey', coalesce((SELECT x.names FROM indexes x WHERE x.indrelid = t.oid AND x.indisprimary), '[]'::json),
             'publications', t.publications) ORDER BY t.schema, t.name)
      FROM tables t LEFT JOIN table_columns c ON c.oid = t.oid), '[]'::json),
  'indexes', coalesce((
    SELECT json_agg(json_build_object(
             'schema', schema, 'tableName', table_name, 'name', name, 'unique', indisunique,
             'isPrimaryKey', indisprimary, 'isReplicaIdentity', indisreplident, 'isImmediate', indimmediate,
             'columns', columns) ORDER BY schema, name)
      FROM indexes), '[]'::json)
)::text";

/// A table in several publications must have the same columns in each: the stream sends one set only.
async fn check_column_lists(client: &Client, publications: &[String]) -> Result<(), Error> {
    let rows = client
        .query(
            "SELECT schemaname::text, tablename::text, array_agg(DISTINCT attnames::text ORDER BY attnames::text)
               FROM pg_catalog.pg_publication_tables WHERE pubname = ANY ($1)
              GROUP BY 1, 2 HAVING count(DISTINCT attnames::text) > 1 ORDER BY 1, 2",
            &[&publications],
        )
        .await
        .map_err(Error::postgres("read the published columns"))?;
    let Some(row) = rows.first() else { return Ok(()) };
    let (schema, table, lists): (String, String, Vec<String>) = (row.get(0), row.get(1), row.get(2));
    let lists: Vec<String> =
        lists.iter().map(|list| format!("[{}]", list.trim_matches(['{', '}'].as_slice()))).collect();
    Err(Error::Config(format!(
        "Table {} is exported with different columns: {}",
        lite_name(&schema, &table),
        lists.join(" vs ")
    )))
}
