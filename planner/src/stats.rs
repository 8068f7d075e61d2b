//! What SQLite knows about the sizes of tables and the spread of their indexes.
//!
//! Row counts and rows per distinct index prefix come from `sqlite_stat1`, which the replica keeps. A table that was never
//! analysed, or has outgrown what was analysed, is sampled; indexes that were not analysed are taken to be moderately
//! selective. Columns that a query compares with constants are sampled for their [`Spread`]. Numbers only steer the
//! choice between plans with equal answers, so they may be a little old: [`StatsCache`] reads a table again when the
//! replica says that its statistics are others.
//!
//! It grows with the number of tables, their indexes and the columns that are compared, not with rows.

use std::sync::Arc;

use engine::query::{Comparison, Node};
use engine::replica::sampled_rows;
use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension};
use rustc_hash::FxHashMap;
use zql_spec::ast::SimpleOperator;
use zql_spec::schema::Table;

use crate::cost::each_comparison;
use crate::spread::{self, Spread};

/// Rows per value of an index prefix without statistics.
const UNKNOWN_FANOUT: f64 = 10.0;

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
    /// Columns that were sampled.
    pub(crate) spreads: Vec<(usize, Arc<Spread>)>,
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

    /// How the values of a column are spread, if it was sampled.
    pub(crate) fn spread(&self, column: usize) -> Option<&Arc<Spread>> {
        self.spreads.iter().find(|(of, _)| *of == column).map(|(_, spread)| spread)
    }

    /// The share of rows for which a comparison with a constant holds, if its column was sampled.
    pub(crate) fn share_of_constant(&self, comparison: &Comparison) -> Option<f64> {
        let (column, rows) = (comparison.column, self.rows.max(1.0));
        let values = self.fanout(&[column]).map(|fanout| rows / fanout.max(1.0));
        self.spread(column)?.share(comparison, rows, values.or_else(|| self.distinct(column)))
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
            && other.spreads.iter().all(|(column, new)| self.spread(*column).is_some_and(|known| known.resembles(new)))
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

#[derive(Clone, Debug)]
struct Entry {
    table: Arc<Table>,
    /// Which of the replica's statistics they were read from.
    statistics: u64,
    stats: Arc<TableStats>,
}

impl StatsCache {
    /// What is known of a node's table: not older than these statistics of the replica, and with the spreads of the columns
    /// that the node compares with constants.
    pub(crate) fn get(
        &self,
        connection: &Connection,
        node: &Node,
        statistics: u64,
    ) -> rusqlite::Result<Arc<TableStats>> {
        let table = &node.table;
        let known = self.tables.lock().get(&table.name).cloned();
        let known = known.filter(|known| Arc::ptr_eq(&known.table, table) || known.table.columns == table.columns);
        let fresh = known.as_ref().filter(|known| known.statistics >= statistics);
        let mut stats = match fresh {
            Some(fresh) => Arc::clone(&fresh.stats),
            None => Arc::new(read(connection, table)?),
        };
        let mut columns: Vec<usize> = compared(node).filter(|&column| stats.spread(column).is_none()).collect();
        if fresh.is_some() && columns.is_empty() {
            return Ok(stats);
        }
        if let Some(known) = known.as_ref().filter(|_| fresh.is_none()) {
            columns.extend(known.stats.spreads.iter().map(|(column, _)| *column));
        }
        columns.sort_unstable();
        columns.dedup();
        if !columns.is_empty() {
            let spreads = spread::read(connection, table, &columns, stats.rows)?;
            let spreads = columns.into_iter().zip(spreads.into_iter().map(Arc::new));
            Arc::make_mut(&mut stats).spreads.extend(spreads);
        }
        if let Some(known) = known
            && known.stats.resembles(&stats)
        {
            stats = known.stats;
        }
        let entry = Entry { table: Arc::clone(table), statistics, stats: Arc::clone(&stats) };
        self.tables.lock().insert(Arc::clone(&table.name), entry);
        Ok(stats)
    }
}

/// The columns that a node compares with constants and that are worth sampling.
fn compared(node: &Node) -> impl Iterator<Item = usize> {
    use SimpleOperator::{ILike, Like, NotILike, NotLike};
    let mut columns = Vec::new();
    each_comparison(&node.filter, &mut |comparison| {
        if !matches!(comparison.op, Like | NotLike | ILike | NotILike)
            && spread::is_sampled(&node.table, comparison.column)
        {
            columns.push(comparison.column);
        }
    });
    columns.into_iter()
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
    Ok(TableStats { rows, indexes, distinct: Vec::new(), spreads: Vec::new() })
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
