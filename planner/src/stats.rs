//! What SQLite knows about the sizes of tables and the spread of their indexes.
//!
//! Row counts and rows per distinct index prefix come from `sqlite_stat1`, which the replica's ANALYZE
//! fills. A table that was never analysed, or has outgrown what was analysed, is sampled; indexes that were
//! not analysed are taken to be moderately selective. Numbers only steer the choice between plans with equal
//! answers, so they may be a little old: [`StatsCache`] reads a table again after [`MAX_AGE`].
//!
//! It grows with the number of tables and their indexes, not with rows.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension};
use rustc_hash::FxHashMap;
use zql_spec::schema::Table;

/// How long statistics are used before they are read again. A bulk load changes sizes by orders of
/// magnitude within seconds; reading costs about as much as a point query.
pub(crate) const MAX_AGE: Duration = Duration::from_secs(5);

/// Rows per value of an index prefix without statistics.
const UNKNOWN_FANOUT: f64 = 10.0;

/// Places at which a table is sampled, and how many rowids are looked at in each: the descents and rows of
/// all together cost less than a tenth of a millisecond.
const WINDOWS: f64 = 8.0;
const WINDOW_ROWS: f64 = 32.0;

/// By how much sizes may differ before plans are made again: costs are no better known than that.
const RESEMBLING: f64 = 1.25;

/// How many times larger or smaller than analysed a table must have become before the sample is believed
/// instead: a sample errs where rowids have gaps.
const OUTGROWN: f64 = 4.0;

/// Sizes of one table.
#[derive(Clone, Debug)]
pub(crate) struct TableStats {
    /// How many rows there are.
    pub(crate) rows: f64,
    /// Indexes that a look-up by equality can use.
    pub(crate) indexes: Vec<Index>,
    /// Columns whose number of values is known although no index tells. Hydrations do without: counting them would
    /// take longer than most queries; advice does not.
    pub(crate) distinct: Vec<(usize, f64)>,
}

/// One index.
#[derive(Clone, Debug)]
pub(crate) struct Index {
    /// Its name in the replica.
    pub(crate) name: Arc<str>,
    /// The leading indexed columns that are visible, as positions in the table.
    pub(crate) columns: Vec<usize>,
    /// Rows per distinct value of the first 1, 2, … columns.
    pub(crate) fanout: Vec<f64>,
}

impl TableStats {
    /// How many values a column has, if that was counted.
    pub(crate) fn distinct(&self, column: usize) -> Option<f64> {
        self.distinct.iter().find(|(of, _)| *of == column).map(|(_, distinct)| distinct.max(1.0))
    }

    /// Whether plans made with the one are good with the other.
    fn resembles(&self, other: &TableStats) -> bool {
        let near = |one: f64, other: f64| one <= other * RESEMBLING + 10.0 && other <= one * RESEMBLING + 10.0;
        let alike = |(one, other): (&Index, &Index)| {
            one.columns == other.columns && one.fanout.iter().zip(&other.fanout).all(|(&one, &other)| near(one, other))
        };
        near(self.rows, other.rows)
            && self.indexes.len() == other.indexes.len()
            && self.indexes.iter().zip(&other.indexes).all(alike)
    }

    /// Rows per distinct value of these columns, if an index leads with exactly them.
    pub(crate) fn fanout(&self, columns: &[usize]) -> Option<f64> {
        self.indexes
            .iter()
            .filter(|index| index.columns.len() >= columns.len())
            .filter(|index| index.columns[..columns.len()].iter().all(|column| columns.contains(column)))
            .map(|index| index.fanout[columns.len() - 1])
            .min_by(f64::total_cmp)
    }
}

/// Statistics by table, read when first needed.
#[derive(Debug, Default)]
pub(crate) struct StatsCache {
    tables: Mutex<FxHashMap<Arc<str>, Entry>>,
}

#[derive(Debug)]
struct Entry {
    table: Arc<Table>,
    read: Instant,
    stats: Arc<TableStats>,
}

impl StatsCache {
    /// The statistics of a table, not older than [`MAX_AGE`].
    pub(crate) fn get(&self, connection: &Connection, table: &Arc<Table>) -> rusqlite::Result<Arc<TableStats>> {
        if let Some(entry) = self.tables.lock().get(&table.name)
            && entry.read.elapsed() < MAX_AGE
            && (Arc::ptr_eq(&entry.table, table) || entry.table.columns == table.columns)
        {
            return Ok(Arc::clone(&entry.stats));
        }
        let mut stats = Arc::new(read(connection, table)?);
        if let Some(before) = self.tables.lock().get(&table.name)
            && before.stats.resembles(&stats)
        {
            stats = Arc::clone(&before.stats);
        }
        let entry = Entry { table: Arc::clone(table), read: Instant::now(), stats: Arc::clone(&stats) };
        self.tables.lock().insert(Arc::clone(&table.name), entry);
        Ok(stats)
    }
}

/// Reads the statistics of a table.
pub(crate) fn read(connection: &Connection, table: &Table) -> rusqlite::Result<TableStats> {
    let analysed = read_stat1(connection, &table.name)?;
    let sampled = sampled_rows(connection, &table.name)?;
    let rows = match analysed.iter().filter_map(|(_, numbers)| numbers.first()).copied().max_by(f64::total_cmp) {
        Some(rows) if sampled < rows * OUTGROWN && rows < sampled * OUTGROWN => rows,
        _ => sampled,
    };
    let mut indexes = Vec::new();
    let mut list = connection.prepare_cached("SELECT name, \"unique\" FROM pragma_index_list(?1) WHERE partial = 0")?;
    let names = list
        .query_map([&*table.name], |row| Ok((row.get::<_, String>(0)?, row.get::<_, bool>(1)?)))?
        .collect::<Result<Vec<_>, _>>()?;
    let mut info = connection.prepare_cached("SELECT name FROM pragma_index_info(?1) ORDER BY seqno")?;
    for (name, unique) in names {
        let column_names =
            info.query_map([&name], |row| row.get::<_, Option<String>>(0))?.collect::<Result<Vec<_>, _>>()?;
        let columns: Vec<usize> = column_names
            .iter()
            .map_while(|column| column.as_deref().and_then(|column| table.column_index(column)))
            .collect();
        if columns.is_empty() {
            continue;
        }
        let numbers = analysed.iter().find(|(index, _)| *index == name).map(|(_, numbers)| &numbers[1..]);
        let whole = unique && columns.len() == column_names.len();
        let fanout = (0..columns.len())
            .map(|depth| match numbers.and_then(|numbers| numbers.get(depth)) {
                _ if whole && depth + 1 == columns.len() => 1.0,
                Some(&rows_per_value) => rows_per_value,
                None => UNKNOWN_FANOUT.min(rows.max(1.0)),
            })
            .collect();
        indexes.push(Index { name: Arc::from(name), columns, fanout });
    }
    Ok(TableStats { rows, indexes, distinct: Vec::new() })
}

/// The numbers of `sqlite_stat1` by index: row count, then rows per distinct prefix.
fn read_stat1(connection: &Connection, table: &str) -> rusqlite::Result<Vec<(String, Vec<f64>)>> {
    let numbers = |stat: &str| stat.split_ascii_whitespace().map_while(|number| number.parse().ok()).collect();
    let texts = read_stat1_texts(connection, table)?.into_iter();
    let read = texts.map(|(index, stat)| (index, numbers(&stat)));
    Ok(read.filter(|(_, numbers): &(String, Vec<f64>)| !numbers.is_empty()).collect())
}

/// What `sqlite_stat1` says of a table, by index.
pub(crate) fn read_stat1_texts(connection: &Connection, table: &str) -> rusqlite::Result<Vec<(String, String)>> {
    let exists = connection
        .prepare_cached("SELECT 1 FROM sqlite_master WHERE name = 'sqlite_stat1'")?
        .query_row([], |_| Ok(()))
        .optional()?;
    if exists.is_none() {
        return Ok(Vec::new());
    }
    connection
        .prepare_cached("SELECT idx, stat FROM sqlite_stat1 WHERE tbl = ?1")?
        .query_map([table], |row| Ok((row.get::<_, Option<String>>(0)?.unwrap_or_default(), row.get(1)?)))?
        .collect()
}

/// Estimates the rows of a table by how densely its rowids lie in [`WINDOWS`] places.
fn sampled_rows(connection: &Connection, table: &str) -> rusqlite::Result<f64> {
    let table = format!("\"{}\"", table.replace('"', "\"\""));
    let ends = format!("SELECT (SELECT min(_rowid_) FROM {table}), (SELECT max(_rowid_) FROM {table})");
    let ends = connection
        .prepare_cached(&ends)?
        .query_row([], |row| Ok((row.get::<_, Option<i64>>(0)?, row.get::<_, Option<i64>>(1)?)))?;
    let (Some(first), Some(last)) = ends else { return Ok(0.0) };
    let span = last as f64 - first as f64 + 1.0;
    let sql = format!("SELECT count(*) FROM {table} WHERE _rowid_ >= ?1 AND _rowid_ < ?2");
    let mut count = connection.prepare_cached(&sql)?;
    let mut found = 0.0;
    let step = span / WINDOWS;
    // Small tables are counted whole: the windows then touch.
    let width = step.min(WINDOW_ROWS).ceil().max(1.0);
    for window in 0..WINDOWS as i64 {
        let begin = first.saturating_add((window as f64 * step) as i64);
        found += count.query_row([begin, begin.saturating_add(width as i64)], |row| row.get::<_, f64>(0))?;
    }
    // Whole, so that it is the same number when it was written down and read again.
    Ok((found / (width * WINDOWS) * span).clamp(1.0, span).round())
}
