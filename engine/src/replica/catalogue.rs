//! The replica's own tables, what the file says about itself, and the schema that queries see.
//!
//! Everything is read from the file, so that a file written by another process means the same. Reading
//! costs one pass over the tables and indexes; it happens when a replica opens and after a schema change.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};
use rustc_hash::FxHashMap;
use zql_spec::ast::Direction;
use zql_spec::schema::{Column, Schema, Table};

use super::error::ReplicaError;
use super::spec::{ColumnSpec, IndexSpec, TableSpec};
use super::{Origin, ReplicaState, VERSION_COLUMN};
use crate::commit::Version;

/// The layout version that this code writes; the reference server's of the same layout.
const SCHEMA_VERSION: u32 = 13;

/// Internal tables. Their names and columns are those of the reference server's replica.
const INTERNAL_TABLES: &str = r#"
CREATE TABLE "_zero.replicationConfig" (
  replicaVersion TEXT NOT NULL,
  publications TEXT NOT NULL,
  initialSyncContext TEXT DEFAULT '{}',
  lock INTEGER PRIMARY KEY DEFAULT 1 CHECK (lock = 1)
);
CREATE TABLE "_zero.replicationState" (
  stateVersion TEXT NOT NULL,
  writeTimeMs INTEGER,
  lock INTEGER PRIMARY KEY DEFAULT 1 CHECK (lock = 1)
);
CREATE TABLE "_zero.changeLog2" (
  stateVersion TEXT NOT NULL,
  pos INT NOT NULL,
  "table" TEXT NOT NULL,
  rowKey TEXT NOT NULL,
  op TEXT NOT NULL,
  backfillingColumnVersions TEXT DEFAULT '{}',
  PRIMARY KEY (stateVersion, pos),
  UNIQUE ("table", rowKey)
);
CREATE TABLE "_zero.runtimeEvents" (
  event TEXT PRIMARY KEY ON CONFLICT REPLACE,
  timestamp TEXT NOT NULL DEFAULT (current_timestamp)
);
CREATE TABLE "_zero.column_metadata" (
  table_name TEXT NOT NULL,
  column_name TEXT NOT NULL,
  upstream_type TEXT NOT NULL,
  is_not_null INTEGER NOT NULL,
  is_enum INTEGER NOT NULL,
  is_array INTEGER NOT NULL,
  character_max_length INTEGER,
  backfill TEXT,
  PRIMARY KEY (table_name, column_name)
);
CREATE TABLE "_zero.tableMetadata" (
  "schema" TEXT NOT NULL,
  "table" TEXT NOT NULL,
  minRowVersion TEXT NOT NULL DEFAULT '00',
  upstreamMetadata TEXT,
  metadata TEXT,
  PRIMARY KEY ("schema", "table")
);
CREATE TABLE "_zero.versionHistory" (
  dataVersion INTEGER NOT NULL,
  schemaVersion INTEGER NOT NULL,
  minSafeVersion INTEGER NOT NULL,
  lock INTEGER PRIMARY KEY DEFAULT 1 CHECK (lock = 1)
);
"#;

/// What the file says about itself.
#[derive(Clone, Debug, Default)]
pub(super) struct Catalogue {
    pub(super) tables: Vec<TableSpec>,
    pub(super) indexes: Vec<IndexSpec>,
    /// By table: rows count as written at this version at least, because the schema changed under them.
    pub(super) min_versions: FxHashMap<Arc<str>, Version>,
}

/// Creates the internal tables of a fresh file.
pub(super) fn initialise(connection: &Connection, origin: &Origin) -> Result<(), ReplicaError> {
    connection.execute_batch(INTERNAL_TABLES)?;
    let mut publications = origin.publications.clone();
    publications.sort();
    connection.execute(
        r#"INSERT INTO "_zero.replicationConfig" (replicaVersion, publications, initialSyncContext) VALUES (?, ?, ?)"#,
        params![origin.replica_version, serde_json::json!(publications).to_string(), origin.context],
    )?;
    connection.execute(
        r#"INSERT INTO "_zero.replicationState" (stateVersion, writeTimeMs) VALUES (?, ?)"#,
        params![origin.replica_version, now_ms()],
    )?;
    connection.execute(
        r#"INSERT INTO "_zero.versionHistory" (dataVersion, schemaVersion, minSafeVersion) VALUES (?1, ?1, 1)"#,
        params![SCHEMA_VERSION],
    )?;
    connection.execute(r#"INSERT INTO "_zero.runtimeEvents" (event) VALUES ('sync')"#, [])?;
    Ok(())
}

/// Where the file stands; `None` if it is no replica of a layout that is understood.
pub(super) fn read_state(connection: &Connection) -> Result<Option<ReplicaState>, ReplicaError> {
    let tables: i64 = connection.query_row(
        "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name IN
           ('_zero.replicationConfig', '_zero.replicationState', '_zero.column_metadata', '_zero.tableMetadata',
            '_zero.changeLog2', '_zero.versionHistory')",
        [],
        |row| row.get(0),
    )?;
    if tables < 6 {
        return Ok(None);
    }
    let schema_version: Option<u32> =
        connection.query_row(r#"SELECT schemaVersion FROM "_zero.versionHistory""#, [], |row| row.get(0)).optional()?;
    if schema_version != Some(SCHEMA_VERSION) {
        return Ok(None);
    }
    let state = connection
        .query_row(
            r#"SELECT replicaVersion, stateVersion, publications
               FROM "_zero.replicationConfig", "_zero.replicationState""#,
            [],
            |row| {
                Ok((
                    Version::from(row.get_ref(0)?.as_str()?),
                    Version::from(row.get_ref(1)?.as_str()?),
                    row.get::<_, String>(2)?,
                ))
            },
        )
        .optional()?;
    let Some((replica_version, state_version, publications)) = state else { return Ok(None) };
    let Ok(publications) = serde_json::from_str(&publications) else { return Ok(None) };
    Ok(Some(ReplicaState { replica_version, state_version, publications }))
}

impl Catalogue {
    /// Reads the catalogue of a file.
    pub(super) fn read(connection: &Connection) -> Result<Catalogue, ReplicaError> {
        let mut catalogue = Catalogue::default();
        let mut metadata = read_column_metadata(connection)?;
        let upstream = read_table_metadata(connection)?;
        let mut tables = connection.prepare(
            r"SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE '\_zero.%' ESCAPE '\'
                AND name NOT LIKE 'sqlite\_%' ESCAPE '\' AND name NOT LIKE '\_litestream%' ESCAPE '\' ORDER BY name",
        )?;
        let names = tables.query_map([], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>, _>>()?;
        for name in names {
            let mut table = TableSpec { name, ..TableSpec::default() };
            (table.upstream_schema, table.upstream_name) = upstream_name(&table.name);
            if let Some((min_version, upstream_metadata)) =
                upstream.get(&(table.upstream_schema.clone(), table.upstream_name.clone()))
            {
                table.metadata = upstream_metadata.clone();
                catalogue.min_versions.insert(Arc::from(&*table.name), Arc::clone(min_version));
            }
            let mut columns = connection.prepare_cached("SELECT name, type FROM pragma_table_info(?) ORDER BY cid")?;
            let mut rows = columns.query([&table.name])?;
            while let Some(row) = rows.next()? {
                let (column, declared): (String, String) = (row.get(0)?, row.get(1)?);
                if column == VERSION_COLUMN {
                    continue;
                }
                table.columns.push(match metadata.remove(&(table.name.clone(), column.clone())) {
                    Some(column) => column,
                    None => ColumnSpec::from_declared(&column, &declared),
                });
            }
            read_indexes(connection, &table.name, &mut catalogue.indexes)?;
            catalogue.tables.push(table);
        }
        Ok(catalogue)
    }

    pub(super) fn table(&self, name: &str) -> Option<&TableSpec> {
        self.tables.iter().find(|table| table.name == name)
    }

    /// The unique indexes of a table, as column positions in its spec.
    pub(super) fn unique_keys(&self, table: &TableSpec) -> Vec<Vec<usize>> {
        self.indexes
            .iter()
            .filter(|index| index.unique && index.table == table.name)
            .filter_map(|index| {
                let position = |name: &String| table.columns.iter().position(|column| column.name == *name);
                index.columns.iter().map(|(name, _)| position(name)).collect()
            })
            .collect()
    }

    /// The key that identifies rows when upstream names none: the best unique key without nulls, visible or not.
    pub(super) fn row_key(&self, table: &TableSpec) -> Option<Vec<usize>> {
        let mut keys = self.unique_keys(table);
        keys.retain(|key| key.iter().all(|&column| table.columns[column].not_null));
        best_key(keys, |column| &table.columns[column].name)
    }

    /// What queries can see.
    pub(super) fn schema(&self) -> Schema {
        Schema::new(self.tables.iter().filter_map(|table| self.visible(table)))
    }

    /// A table as queries see it; `None` without a unique key of visible columns that cannot be null.
    fn visible(&self, table: &TableSpec) -> Option<Table> {
        // Position among the visible columns, for each column of the spec.
        let mut positions = vec![None; table.columns.len()];
        let mut columns = Vec::new();
        for (position, column) in table.columns.iter().enumerate() {
            if let Some(value_type) = column.visible_type() {
                positions[position] = Some(columns.len());
                columns.push(Column { name: Arc::from(&*column.name), value_type, nullable: !column.not_null });
            }
        }
        let unique_keys: Vec<Vec<usize>> = self
            .unique_keys(table)
            .into_iter()
            .filter(|key| key.iter().all(|&column| table.columns[column].not_null))
            .filter_map(|key| key.iter().map(|&column| positions[column]).collect())
            .collect();
        let primary_key = best_key(unique_keys.clone(), |column| &columns[column].name)?;
        Some(Table { name: Arc::from(&*table.name), columns, primary_key, unique_keys })
    }
}

/// The key with the fewest columns; among equals the one whose names sort first.
fn best_key<'a>(keys: Vec<Vec<usize>>, name: impl Fn(usize) -> &'a str) -> Option<Vec<usize>> {
    keys.into_iter().min_by(|a, b| {
        let names = |key: &[usize]| key.iter().map(|&column| name(column)).collect::<Vec<_>>();
        a.len().cmp(&b.len()).then_with(|| names(a).cmp(&names(b)))
    })
}

/// Schema and table upstream of a replicated table.
pub(super) fn upstream_name(table: &str) -> (String, String) {
    match table.split_once('.') {
        Some((schema, name)) => (schema.to_owned(), name.to_owned()),
        None => ("public".to_owned(), table.to_owned()),
    }
}

/// Records the columns of a table.
pub(super) fn write_column(connection: &Connection, table: &str, column: &ColumnSpec) -> Result<(), ReplicaError> {
    let dims = "[]".repeat(usize::from(column.dimensions));
    connection
        .prepare_cached(
            r#"INSERT OR REPLACE INTO "_zero.column_metadata" (table_name, column_name, upstream_type, is_not_null,
                 is_enum, is_array, character_max_length, backfill) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"#,
        )?
        .execute(params![
            table,
            column.name,
            format!("{}{dims}", column.pg_type),
            column.not_null,
            column.is_enum,
            column.dimensions > 0,
            column.max_length,
            column.backfill,
        ])?;
    Ok(())
}

/// `CREATE TABLE`: no key, no NOT NULL, no defaults but the version's; uniqueness comes from indexes.
pub(super) fn create_table_sql(name: &str, columns: &[ColumnSpec], version: Option<&str>) -> String {
    let mut sql = format!("CREATE TABLE {} (", quote(name));
    for column in columns {
        sql.push_str(&format!("{} {}, ", quote(&column.name), quote(&column.declared_type())));
    }
    sql.push_str(&format!("{VERSION_COLUMN} text"));
    if let Some(version) = version {
        sql.push_str(&format!(" DEFAULT '{}'", version.replace('\'', "''")));
    }
    sql.push(')');
    sql
}

/// `CREATE INDEX`.
pub(super) fn create_index_sql(index: &IndexSpec, unique: bool) -> String {
    let columns: Vec<String> = index
        .columns
        .iter()
        .map(|(column, direction)| {
            format!("{} {}", quote(column), if *direction == Direction::Asc { "ASC" } else { "DESC" })
        })
        .collect();
    format!(
        "CREATE {}INDEX {} ON {} ({})",
        if unique { "UNIQUE " } else { "" },
        quote(&index.name),
        quote(&index.table),
        columns.join(", ")
    )
}

/// Creates an index. One that upstream calls unique but whose values collapse here (numbers beyond a
/// double, times beyond a millisecond) is created without uniqueness, so that no row is lost.
pub(super) fn create_index(connection: &Connection, index: &IndexSpec) -> Result<(), ReplicaError> {
    match connection.execute_batch(&create_index_sql(index, index.unique)) {
        Err(rusqlite::Error::SqliteFailure(error, _))
            if index.unique && error.code == rusqlite::ErrorCode::ConstraintViolation =>
        {
            tracing::warn!(index = index.name, table = index.table, "values are not unique in the replica");
            Ok(connection.execute_batch(&create_index_sql(index, false))?)
        }
        result => Ok(result?),
    }
}

/// An identifier for SQL text.
pub(super) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Milliseconds since 1970.
pub(super) fn now_ms() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| now.as_millis() as i64)
}

type ColumnMetadata = FxHashMap<(String, String), ColumnSpec>;

fn read_column_metadata(connection: &Connection) -> Result<ColumnMetadata, ReplicaError> {
    let mut statement = connection.prepare(
        r#"SELECT table_name, column_name, upstream_type, is_not_null, is_enum, is_array, character_max_length,
                  backfill FROM "_zero.column_metadata""#,
    )?;
    let mut rows = statement.query([])?;
    let mut columns = FxHashMap::default();
    while let Some(row) = rows.next()? {
        let (table, name, upstream_type): (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        // The type may carry flags in files of older layouts; the columns beside it decide.
        let mut column = ColumnSpec::from_declared(&name, &upstream_type);
        column.not_null = row.get(3)?;
        column.is_enum = row.get(4)?;
        if row.get(5)? && column.dimensions == 0 {
            column.dimensions = 1;
        }
        column.max_length = row.get(6)?;
        column.backfill = row.get(7)?;
        columns.insert((table, name), column);
    }
    Ok(columns)
}

type TableMetadata = FxHashMap<(String, String), (Version, Option<String>)>;

fn read_table_metadata(connection: &Connection) -> Result<TableMetadata, ReplicaError> {
    let mut statement = connection
        .prepare(r#"SELECT "schema", "table", minRowVersion, upstreamMetadata FROM "_zero.tableMetadata""#)?;
    let rows = statement.query_map([], |row| {
        let version = Version::from(row.get_ref(2)?.as_str()?);
        Ok(((row.get(0)?, row.get(1)?), (version, row.get(3)?)))
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn read_indexes(connection: &Connection, table: &str, into: &mut Vec<IndexSpec>) -> Result<(), ReplicaError> {
    let mut list = connection.prepare_cached(
        r#"SELECT name, "unique" FROM pragma_index_list(?) WHERE origin = 'c' AND NOT partial ORDER BY name"#,
    )?;
    let indexes = list.query_map([table], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<Vec<_>, _>>()?;
    for (name, unique) in indexes {
        let mut columns = Vec::new();
        let mut info =
            connection.prepare_cached(r#"SELECT name, "desc" FROM pragma_index_xinfo(?) WHERE key ORDER BY seqno"#)?;
        let mut rows = info.query([&name])?;
        while let Some(row) = rows.next()? {
            let column: Option<String> = row.get(0)?;
            let direction = if row.get::<_, bool>(1)? { Direction::Desc } else { Direction::Asc };
            columns.push((column.unwrap_or_default(), direction));
        }
        into.push(IndexSpec { name, table: table.to_owned(), unique, columns });
    }
    Ok(())
}
