//! What the planner knows about a replica, as a file: plans can be studied where the data is not.
//!
//! The file is JSON of this form:
//!
//! ```json
//! {"format": "zql-statistics", "version": 1, "replicaVersion": "01", "stateVersion": "4x",
//!  "tables": [{"name": "issue", "rows": 5000,
//!    "columns": [{"name": "id", "type": "text|NOT_NULL", "distinct": 5000, "nulls": 0, "bytes": 8}],
//!    "indexes": [{"name": "issue_pkey", "unique": true, "columns": [["id", "asc"]], "rowsPerKey": [1],
//!                 "stat1": "5000 1"}]}]}
//! ```
//!
//! `type` is the replica's declared type; `distinct`, `nulls` (rows) and `bytes` (mean) of a column are measured on
//! up to 100,000 rows when the file is made and serve only to price indexes that do not exist. `rowsPerKey` has an
//! entry for each leading indexed column that queries can see: what the planner goes by. `stat1` is SQLite's own,
//! so that SQLite chooses the same indexes. No value of any row is in it, unless it is asked for: with values, a column
//! also has a `spread`, what a sample of its rows showed, and constants are planned by it as on the replica.
//!
//! It grows with tables, columns and indexes. Making it reads each column's sample once.

use std::path::Path;
use std::sync::Arc;

use engine::replica::{ColumnSpec, IndexSpec, Origin, Replica, ReplicaError, Snapshot, TableSpec};
use rusqlite::Connection;
use serde::{Deserialize, Serialize};
use zql_spec::ast::Direction;
use zql_spec::schema::Table;

use crate::spread::{self, SpreadStatistics};
use crate::stats::{self, Index, TableStats};

/// The version of the file's form. A reader refuses others.
const VERSION: u32 = 1;

/// Rows of a table that distinct values are counted in: about a tenth of a second a column.
const SAMPLE_ROWS: f64 = 100_000.0;

/// The name of the file's form.
const FORMAT: &str = "zql-statistics";

/// Statistics of a replica.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Statistics {
    /// Names the form of the file.
    pub format: String,
    /// Its version.
    pub version: u32,
    /// The lineage of the replica.
    pub replica_version: String,
    /// The version of the replica that they were read at.
    pub state_version: String,
    /// The tables that queries can see, by name.
    pub tables: Vec<TableStatistics>,
}

/// Statistics of a table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TableStatistics {
    /// Its name.
    pub name: String,
    /// How many rows it has, as the planner sees it.
    pub rows: f64,
    /// Its columns in table order.
    pub columns: Vec<ColumnStatistics>,
    /// Its indexes, in SQLite's order.
    pub indexes: Vec<IndexStatistics>,
}

/// Statistics of a column.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ColumnStatistics {
    /// Its name.
    pub name: String,
    /// The type that the replica declares for it.
    #[serde(rename = "type")]
    pub declared: String,
    /// Whether it is being filled and hidden until then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hidden: bool,
    /// How many values it has, null not among them. Absent for columns that queries cannot see.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distinct: Option<f64>,
    /// In how many rows it is null.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nulls: Option<f64>,
    /// Mean size of its values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<f64>,
    /// How its values are spread. Holds values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spread: Option<SpreadStatistics>,
}

/// Statistics of an index.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IndexStatistics {
    /// Its name.
    pub name: String,
    /// Whether it is unique.
    pub unique: bool,
    /// Its columns and their directions, `asc` or `desc`.
    pub columns: Vec<(String, String)>,
    /// Rows for each value of the first, the first two, … columns that queries can see.
    pub rows_per_key: Vec<f64>,
    /// What `sqlite_stat1` says of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stat1: Option<String>,
}

impl Statistics {
    /// Reads the statistics of a replica; with some of its `values` if they may be told.
    ///
    /// # Errors
    /// Those of reading it.
    pub fn read(replica: &Arc<Replica>, values: bool) -> Result<Statistics, ReplicaError> {
        let snapshot = replica.pin()?;
        let reader = snapshot.reader()?;
        let indexes = replica.indexes();
        let mut tables = Vec::new();
        for spec in replica.tables() {
            let Some(table) = snapshot.schema.table(&spec.name) else { continue };
            let known = stats::read(&reader, table)?;
            let sampled: Vec<usize> =
                (0..table.columns.len()).filter(|&column| values && spread::is_sampled(table, column)).collect();
            let spreads = match sampled[..] {
                [] => Vec::new(),
                _ => spread::read(&reader, table, &sampled, known.rows)?,
            };
            let mut columns = Vec::new();
            for column in &spec.columns {
                let measured = match table.column_index(&column.name) {
                    Some(_) => Some(Measured::read(&reader, table, &column.name, known.rows)?),
                    None => None,
                };
                columns.push(ColumnStatistics {
                    name: column.name.clone(),
                    declared: column.declared_type(),
                    hidden: column.backfill.is_some(),
                    distinct: measured.map(|measured| measured.distinct),
                    nulls: measured.map(|measured| measured.nulls),
                    bytes: measured.map(|measured| measured.bytes),
                    spread: table
                        .column_index(&column.name)
                        .and_then(|column| sampled.iter().position(|sampled| *sampled == column))
                        .map(|place| SpreadStatistics::of(&spreads[place])),
                });
            }
            let stat1 = stats::read_stat1_texts(&reader, &spec.name)?;
            let of_spec = |spec: &IndexSpec| IndexStatistics {
                name: spec.name.clone(),
                unique: spec.unique,
                columns: spec
                    .columns
                    .iter()
                    .map(|(column, direction)| {
                        let direction = if *direction == Direction::Asc { "asc" } else { "desc" };
                        (column.clone(), direction.to_owned())
                    })
                    .collect(),
                rows_per_key: known
                    .indexes
                    .iter()
                    .find(|index| *index.name == spec.name)
                    .map(|index| index.fanout.clone())
                    .unwrap_or_default(),
                stat1: stat1.iter().find(|(index, _)| *index == spec.name).map(|(_, text)| text.clone()),
            };
            let mut of_table: Vec<IndexStatistics> =
                indexes.iter().filter(|index| index.table == spec.name).map(of_spec).collect();
            // The planner takes the first of equally good indexes, so their order is part of what it knows.
            let place = |name: &str| known.indexes.iter().position(|index| *index.name == *name);
            of_table.sort_by_key(|index| place(&index.name).unwrap_or(usize::MAX));
            tables.push(TableStatistics { name: spec.name, rows: known.rows, columns, indexes: of_table });
        }
        let state = replica.state();
        Ok(Statistics {
            format: FORMAT.to_owned(),
            version: VERSION,
            replica_version: state.replica_version.to_string(),
            state_version: snapshot.version.to_string(),
            tables,
        })
    }

    /// Reads a file's text.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Statistics, String> {
        let statistics: Statistics = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if statistics.format != FORMAT {
            return Err(format!("the format is {:?} and not {FORMAT:?}", statistics.format));
        }
        if statistics.version != VERSION {
            return Err(format!("version {} of the file is not known; this is for {VERSION}", statistics.version));
        }
        Ok(statistics)
    }

    /// The text of a file.
    pub fn to_text(&self) -> String {
        let mut json = serde_json::to_value(self).unwrap_or_default();
        whole_numbers(&mut json);
        serde_json::to_string_pretty(&json).unwrap_or_default()
    }

    /// A table's statistics.
    pub fn table(&self, name: &str) -> Option<&TableStatistics> {
        self.tables.iter().find(|table| table.name == name)
    }

    /// What the planner goes by for a table.
    pub(crate) fn of_table(&self, table: &Table) -> TableStats {
        let Some(known) = self.table(&table.name) else {
            return TableStats { rows: 0.0, indexes: Vec::new(), distinct: Vec::new(), spreads: Vec::new() };
        };
        let usable = known.indexes.iter().filter(|index| !index.rows_per_key.is_empty());
        let indexes = usable.map(|index| Index {
            name: Arc::from(&*index.name),
            columns: index.columns.iter().map_while(|(column, _)| table.column_index(column)).collect(),
            fanout: index.rows_per_key.clone(),
        });
        let complete = |index: &Index| !index.columns.is_empty() && index.columns.len() == index.fanout.len();
        let spreads = known.columns.iter().filter_map(|column| {
            let spread = column.spread.as_ref()?;
            Some((table.column_index(&column.name)?, Arc::new(spread.spread())))
        });
        TableStats {
            rows: known.rows,
            indexes: indexes.filter(complete).collect(),
            distinct: Vec::new(),
            spreads: spreads.collect(),
        }
    }

    /// A replica with the same tables and indexes and no rows, in which SQLite plans as in the one that the
    /// statistics are of.
    pub(crate) fn scratch(&self, path: &Path) -> Result<Arc<Snapshot>, ReplicaError> {
        let origin = Origin {
            replica_version: self.replica_version.clone(),
            publications: Vec::new(),
            context: "{}".to_owned(),
        };
        let mut load = Replica::create(path, &origin)?;
        for table in &self.tables {
            let columns = table.columns.iter().map(|column| ColumnSpec {
                backfill: column.hidden.then(|| "{}".to_owned()),
                ..ColumnSpec::from_declared(&column.name, &column.declared)
            });
            load.create_table(&TableSpec {
                name: table.name.clone(),
                columns: columns.collect(),
                ..TableSpec::default()
            })?;
            for index in &table.indexes {
                let columns = index.columns.iter().map(|(column, direction)| {
                    (column.clone(), if direction == "desc" { Direction::Desc } else { Direction::Asc })
                });
                load.create_index(&IndexSpec {
                    name: index.name.clone(),
                    table: table.name.clone(),
                    unique: index.unique,
                    columns: columns.collect(),
                })?;
            }
        }
        drop(load.finish()?);
        let connection = Connection::open(path)?;
        for table in &self.tables {
            for index in &table.indexes {
                let Some(stat1) = &index.stat1 else { continue };
                connection.execute(
                    "INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES (?1, ?2, ?3)",
                    [&table.name, &index.name, stat1],
                )?;
            }
        }
        drop(connection);
        let replica = Replica::open(path)?;
        replica.ok_or_else(|| ReplicaError::Mismatch("a scratch replica does not open".to_owned()))?.pin()
    }
}

/// Writes whole numbers without a fraction: nearly all of them are counts.
fn whole_numbers(json: &mut serde_json::Value) {
    match json {
        serde_json::Value::Number(number) => {
            if let Some(float) = number.as_f64().filter(|float| float.fract() == 0.0 && float.abs() < 9e15) {
                *json = serde_json::Value::from(float as i64);
            }
        }
        serde_json::Value::Array(list) => list.iter_mut().for_each(whole_numbers),
        serde_json::Value::Object(object) => object.values_mut().for_each(whole_numbers),
        _ => {}
    }
}

/// What was measured of a column.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    pub(crate) distinct: f64,
    pub(crate) nulls: f64,
    pub(crate) bytes: f64,
}

impl Measured {
    /// Measures a column of a table that has about `rows` rows. What a sample does not show is estimated: values
    /// that it holds once stand for as many more as the square root of the share left out.
    pub(crate) fn read(connection: &Connection, table: &Table, column: &str, rows: f64) -> rusqlite::Result<Measured> {
        let quote = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
        let sql = format!(
            "SELECT coalesce(sum(many), 0), count(value), coalesce(sum(many = 1 AND value IS NOT NULL), 0),
                    coalesce(sum(many) FILTER (WHERE value IS NULL), 0), coalesce(sum(many * size), 0)
             FROM (SELECT value, count(*) AS many, avg(length(CAST(value AS BLOB))) AS size
                   FROM (SELECT {} AS value FROM {} LIMIT {SAMPLE_ROWS}) GROUP BY value)",
            quote(column),
            quote(&table.name)
        );
        let (seen, distinct, once, nulls, bytes) = connection.query_row(&sql, [], |row| {
            Ok((
                row.get::<_, f64>(0)?,
                row.get::<_, f64>(1)?,
                row.get::<_, f64>(2)?,
                row.get::<_, f64>(3)?,
                row.get::<_, f64>(4)?,
            ))
        })?;
        if seen < 1.0 {
            return Ok(Measured { distinct: 0.0, nulls: 0.0, bytes: 0.0 });
        }
        // A sample that took all is the truth, whatever the number of rows was taken to be.
        let scale = if seen < SAMPLE_ROWS { 1.0 } else { (rows / seen).max(1.0) };
        Ok(Measured {
            distinct: (scale.sqrt() * once + (distinct - once)).round(),
            nulls: (nulls * scale).round(),
            bytes: (bytes / seen * 10.0).round() / 10.0,
        })
    }
}
