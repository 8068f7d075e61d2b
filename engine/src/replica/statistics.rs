//! Statistics of indexes whose tables have changed, made new beside the transactions.
//!
//! SQLite's ANALYZE reads whole indexes and holds the writer all the while; bounded, it takes the beginning of an
//! index for all of it and so believes that a column of three values has a thousand. Here some rows spread over the
//! table are looked up in the index instead: how many rows share their keys tells how many keys there are, whatever the size
//! of the table. One index is one step of a few milliseconds, taken between transactions.
//!
//! It must not know what statistics are used for. It remembers a few numbers for each table that is written.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rusqlite::{CachedStatement, Connection, OptionalExtension, params, params_from_iter};
use rustc_hash::FxHashMap;

use super::catalogue::{Catalogue, quote};
use super::error::ReplicaError;
use super::spec::IndexSpec;
use super::{Replica, SqliteValue};
use crate::commit::Commit;

/// A table's statistics are made anew when this share of its rows has changed: costs are not known so well that
/// less would lead to other plans.
const CHANGED_SHARE: f64 = 0.2;

/// Changes of a table that are never too many: its plans take microseconds whatever is known of it.
const CHANGED_MIN: u64 = 1_000;

/// Rows that are looked up in an index. The error of the estimate falls with the root of it: some 15 %.
const DIVES: u32 = 64;

/// Up to how many rows of one key are counted. With [`DIVES`] it bounds a step: 30 000 entries, three milliseconds.
const COUNTED_MAX: u32 = 512;

/// Places at which a table is sampled for its size, and how many rowids are looked at in each: the descents and rows
/// of all together cost less than a tenth of a millisecond.
const WINDOWS: f64 = 8.0;
const WINDOW_ROWS: f64 = 32.0;

/// How many times larger or smaller than it was thought a table must seem before a sample is believed
/// instead: a sample errs where rowids have gaps.
const OUTGROWN: f64 = 4.0;

/// What has changed since statistics were made, and what is to be done about it.
#[derive(Default)]
pub(super) struct Churn {
    tables: FxHashMap<Arc<str>, Changed>,
    /// Indexes may have come.
    new_indexes: bool,
    steps: VecDeque<IndexSpec>,
}

/// Changes of one table.
#[derive(Default)]
struct Changed {
    rows: u64,
    /// Inserted less deleted.
    grown: i64,
    /// At how many changed rows the statistics are old; unknown until there are [`CHANGED_MIN`].
    due: Option<u64>,
}

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stepped {
    /// Nothing was to be done.
    Nothing,
    /// Tables are of another size than their statistics say.
    Begun,
    /// An index was analysed.
    Index,
    /// The last one was, and everybody may know.
    Last,
}

impl Churn {
    /// Notes what a transaction changed, and whether it may have made indexes.
    pub(super) fn note(&mut self, commit: &Commit, new_indexes: bool) {
        self.new_indexes |= new_indexes;
        for (table, delta) in &commit.tables {
            let changed = self.tables.entry(Arc::clone(table)).or_default();
            changed.rows += delta.rows.len() as u64;
            for change in delta.rows.values() {
                changed.grown += i64::from(change.new.is_some()) - i64::from(change.old.is_some());
            }
        }
        for table in &commit.rewritten {
            self.tables.insert(Arc::clone(table), Changed { rows: CHANGED_MIN, grown: 0, due: Some(CHANGED_MIN) });
        }
    }

    /// Does the next step, if there is one.
    pub(super) fn step(&mut self, connection: &Connection, catalogue: &Catalogue) -> Result<Stepped, ReplicaError> {
        if let Some(index) = self.steps.pop_front() {
            let last = self.steps.is_empty();
            analyse(connection, &index, last)?;
            return Ok(if last { Stepped::Last } else { Stepped::Index });
        }
        let mut begun = false;
        if std::mem::take(&mut self.new_indexes) {
            self.tables.retain(|table, _| catalogue.table(table).is_some());
            let known = analysed_indexes(connection)?;
            self.steps.extend(catalogue.indexes.iter().filter(|index| !known.contains(&index.name)).cloned());
        }
        for (table, changed) in &mut self.tables {
            if changed.rows < changed.due.unwrap_or(CHANGED_MIN) {
                continue;
            }
            if changed.due.is_none() {
                let rows = table_rows(connection, table)?;
                changed.due = Some(CHANGED_MIN.max((rows * CHANGED_SHARE) as u64));
                if changed.due > Some(changed.rows) {
                    continue;
                }
            }
            begun = true;
            make_table(connection)?;
            write_rows(connection, table, changed.grown)?;
            *changed = Changed::default();
            self.steps.extend(catalogue.indexes.iter().filter(|index| *index.table == **table).cloned());
        }
        Ok(match (begun, self.steps.is_empty()) {
            (true, _) => Stepped::Begun,
            (false, false) => Stepped::Index,
            (false, true) => Stepped::Nothing,
        })
    }
}

/// Analyses all of these indexes at once.
pub(super) fn analyse_all(connection: &Connection, indexes: &[IndexSpec]) -> Result<(), ReplicaError> {
    make_table(connection)?;
    indexes.iter().try_for_each(|index| analyse(connection, index, false))
}

/// Writes what `sqlite_stat1` says of an index. With `tell` all connections read their statistics again.
fn analyse(connection: &Connection, index: &IndexSpec, tell: bool) -> Result<(), ReplicaError> {
    let exists = connection
        .prepare_cached("SELECT 1 FROM sqlite_schema WHERE type = 'index' AND name = ?1 AND tbl_name = ?2")?
        .exists([&index.name, &index.table])?;
    if exists {
        let rows = table_rows(connection, &index.table)?;
        let fanouts = fanouts(connection, index, rows)?;
        connection.execute("DELETE FROM sqlite_stat1 WHERE tbl = ?1 AND idx = ?2", [&index.table, &index.name])?;
        // As with ANALYZE, nothing is said of an empty table.
        if rows >= 1.0 {
            let numbers: Vec<String> = [rows].iter().chain(&fanouts).map(|number| format!("{number:.0}")).collect();
            connection.execute(
                "INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES (?1, ?2, ?3)",
                [&index.table, &index.name, &numbers.join(" ")],
            )?;
        }
    }
    if tell {
        // A connection reads statistics with the schema, and the schema when this number is another.
        let version: i64 = connection.query_row("PRAGMA schema_version", [], |row| row.get(0))?;
        connection.pragma_update(None, "schema_version", version + 1)?;
    }
    Ok(())
}

/// The indexes that there are statistics of.
fn analysed_indexes(connection: &Connection) -> Result<Vec<String>, ReplicaError> {
    make_table(connection)?;
    let mut known = connection.prepare_cached("SELECT idx FROM sqlite_stat1 WHERE idx IS NOT NULL")?;
    Ok(known.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?)
}

/// Makes the table that statistics are kept in, which only ANALYZE can.
fn make_table(connection: &Connection) -> Result<(), ReplicaError> {
    if !has_statistics(connection)? {
        connection.execute_batch(r#"ANALYZE "_zero.replicationState""#)?;
    }
    Ok(())
}

fn has_statistics(connection: &Connection) -> rusqlite::Result<bool> {
    connection.prepare_cached("SELECT 1 FROM sqlite_schema WHERE name = 'sqlite_stat1'")?.exists([])
}

/// Rows that share a value of the first 1, 2, … columns of an index, at the mean over the values.
fn fanouts(connection: &Connection, index: &IndexSpec, rows: f64) -> Result<Vec<f64>, ReplicaError> {
    let columns: Vec<String> = index.columns.iter().map(|(column, _)| quote(column)).collect();
    let keys = spread_rows(connection, &index.table, &columns)?;
    let mut fanouts = Vec::with_capacity(columns.len());
    for depth in 1..=columns.len() {
        if index.unique && depth == columns.len() {
            fanouts.push(1.0);
            continue;
        }
        let equal: Vec<String> = (0..depth).map(|column| format!("{} IS ?{}", columns[column], column + 1)).collect();
        let mut count = connection.prepare(&format!(
            "SELECT count(*) FROM (SELECT 1 FROM {} INDEXED BY {} WHERE {} LIMIT {COUNTED_MAX})",
            quote(&index.table),
            quote(&index.name),
            equal.join(" AND ")
        ))?;
        let mut share = 0.0;
        // Values with too many rows to count, and how often each was met.
        let mut large: Vec<(&[SqliteValue], u32)> = Vec::new();
        for key in &keys {
            let key = &key[..depth];
            let met = large.iter_mut().find(|(value, _)| *value == key);
            if let Some((_, times)) = met {
                *times += 1;
                continue;
            }
            let counted: u32 = count.query_row(params_from_iter(key), |row| row.get(0))?;
            if counted < COUNTED_MAX {
                share += 1.0 / f64::from(counted.max(1));
            } else {
                large.push((key, 1));
            }
        }
        // A row drawn by chance stands for as many values as one by the rows of its own; of the large ones there are
        // those that were met and, by how many were met once and twice (Chao), those that were not.
        let met = |times: u32| large.iter().filter(|(_, met)| *met == times).count() as f64;
        let unmet = met(1) * (met(1) - 1.0).max(0.0) / (2.0 * (met(2) + 1.0));
        let values = share / keys.len().max(1) as f64 * rows + large.len() as f64 + unmet;
        fanouts.push((rows / values.max(1.0)).ceil().max(1.0));
    }
    Ok(fanouts)
}

/// These columns of rows spread over a table.
fn spread_rows(
    connection: &Connection,
    table: &str,
    columns: &[String],
) -> Result<Vec<Vec<SqliteValue>>, ReplicaError> {
    let sql = format!("SELECT {} FROM {} WHERE _rowid_ >= ?1 LIMIT 1", columns.join(", "), quote(table));
    let mut statement = connection.prepare(&sql)?;
    let mut rows = Vec::with_capacity(DIVES as usize);
    for place in places(connection, table, DIVES)? {
        let row = statement.query_row([place], |row| (0..columns.len()).map(|column| row.get(column)).collect());
        rows.extend(row.optional()?);
    }
    Ok(rows)
}

/// The rows of a table: as it was last analysed or, if it seems to be of another magnitude, as it seems.
fn table_rows(connection: &Connection, table: &str) -> Result<f64, ReplicaError> {
    let sampled = sampled_rows(connection, table)?;
    Ok(match analysed_rows(connection, table)? {
        Some(rows) if sampled < rows * OUTGROWN && rows < sampled * OUTGROWN => rows,
        _ => sampled,
    })
}

fn analysed_rows(connection: &Connection, table: &str) -> Result<Option<f64>, ReplicaError> {
    if !has_statistics(connection)? {
        return Ok(None);
    }
    let mut statement = connection.prepare_cached("SELECT stat FROM sqlite_stat1 WHERE tbl = ?1")?;
    let stats = statement.query_map([table], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>, _>>()?;
    let first = |stat: &String| stat.split_ascii_whitespace().next().and_then(|rows| rows.parse::<f64>().ok());
    Ok(stats.iter().filter_map(first).max_by(f64::total_cmp))
}

/// Writes that a table has so many rows more, which its indexes are then analysed with.
fn write_rows(connection: &Connection, table: &str, grown: i64) -> Result<(), ReplicaError> {
    let Some(rows) = analysed_rows(connection, table)? else { return Ok(()) };
    let rows = (rows + grown as f64).max(0.0);
    let mut all: CachedStatement<'_> =
        connection.prepare_cached("SELECT rowid, stat FROM sqlite_stat1 WHERE tbl = ?1")?;
    let stats = all.query_map([table], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?)))?;
    for (rowid, stat) in stats.collect::<Result<Vec<_>, _>>()? {
        let rest = stat.split_once(' ').map_or("", |(_, rest)| rest);
        let stat = format!("{rows:.0} {rest}");
        connection.execute("UPDATE sqlite_stat1 SET stat = ?1 WHERE rowid = ?2", params![stat.trim_end(), rowid])?;
    }
    Ok(())
}

/// Rowids spread over a table, in order: one in each of so many parts of equal length. Where in its part it is follows no
/// rule that rows might follow too, and is the same each time.
pub fn places(connection: &Connection, table: &str, count: u32) -> rusqlite::Result<Vec<i64>> {
    let Some((first, last)) = rowids(connection, table)? else { return Ok(Vec::new()) };
    let part = (last as f64 - first as f64 + 1.0) / f64::from(count);
    let place = |number: u32| {
        let mixed = (u64::from(number) + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let within = (mixed >> 11) as f64 / (1_u64 << 53) as f64;
        first.saturating_add(((f64::from(number) + within) * part) as i64)
    };
    Ok((0..count).map(place).collect())
}

fn rowids(connection: &Connection, table: &str) -> rusqlite::Result<Option<(i64, i64)>> {
    let table = quote(table);
    let sql = format!("SELECT (SELECT min(_rowid_) FROM {table}), (SELECT max(_rowid_) FROM {table})");
    let ends = connection
        .prepare_cached(&sql)?
        .query_row([], |row| Ok((row.get::<_, Option<i64>>(0)?, row.get::<_, Option<i64>>(1)?)))?;
    Ok(ends.0.zip(ends.1))
}

/// Estimates the rows of a table by how densely its rowids lie in [`WINDOWS`] places.
pub fn sampled_rows(connection: &Connection, table: &str) -> rusqlite::Result<f64> {
    let Some((first, last)) = rowids(connection, table)? else { return Ok(0.0) };
    let span = last as f64 - first as f64 + 1.0;
    let sql = format!("SELECT count(*) FROM {} WHERE _rowid_ >= ?1 AND _rowid_ < ?2", quote(table));
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

/// A number for statistics that are others than all before. Replicas have them in common, so that whoever remembers
/// statistics of one that was copied anew knows that they are old.
pub(super) fn next() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Replica {
    /// Says that statistics are others now: plans made with those before may be bad ones.
    pub(super) fn renew_statistics(&self) {
        let mut published = self.published.write();
        let mut renewed = (**published).clone();
        renewed.statistics = next();
        *published = Arc::new(renewed);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use zql_spec::ast::Direction;

    use super::super::{ColumnSpec, Origin, TableSpec, Writer};
    use super::*;

    const ROWS: i64 = 30_000;

    /// Columns with one row a value, ten, a thousand, ten thousand, and half of all in one and the others alone.
    fn values(row: i64) -> Vec<SqliteValue> {
        let mixed = row * 7919 % ROWS;
        let skewed = if mixed % 2 == 0 { 0 } else { mixed };
        [row, mixed / 10, mixed % 30, mixed % 3, skewed].map(SqliteValue::Integer).into()
    }

    fn load(path: &Path) -> Arc<Replica> {
        let origin = Origin { replica_version: "01".into(), publications: vec!["p".into()], context: "{}".into() };
        let mut load = Replica::create(path, &origin).unwrap();
        let columns =
            ["id", "tens", "thousands", "few", "skewed"].map(|name| ColumnSpec::from_declared(name, "int8|NOT_NULL"));
        let spec = TableSpec { name: "t".into(), columns: columns.into(), ..TableSpec::default() };
        let table = load.create_table(&spec).unwrap();
        for row in 0..ROWS {
            load.append(table, &mut values(row)).unwrap();
        }
        for columns in ["id", "tens", "thousands", "few", "skewed", "few,tens"] {
            load.create_index(&IndexSpec {
                name: format!("t_{columns}"),
                table: "t".into(),
                unique: columns == "id",
                columns: columns.split(',').map(|column| (column.into(), Direction::Asc)).collect(),
            })
            .unwrap();
        }
        load.finish().unwrap()
    }

    fn stats(connection: &Connection) -> Vec<(String, Vec<f64>)> {
        let mut all = connection.prepare("SELECT idx, stat FROM sqlite_stat1 WHERE tbl = 't' ORDER BY idx").unwrap();
        let numbers = |stat: String| stat.split(' ').map(|number| number.parse().unwrap()).collect();
        all.query_map([], |row| Ok((row.get(0)?, numbers(row.get(1)?)))).unwrap().collect::<Result<_, _>>().unwrap()
    }

    fn insert(writer: &mut Writer, version: &str, rows: std::ops::Range<i64>) {
        let mut tx = writer.begin(version).unwrap();
        let t = tx.relation("t", &["id", "tens", "thousands", "few", "skewed"], &["id"]).unwrap();
        for row in rows {
            let mut values = values(row % ROWS);
            values[0] = SqliteValue::Integer(row);
            tx.insert(&t, &values).unwrap();
        }
        tx.commit().unwrap();
    }

    #[test]
    fn estimates_are_near_what_analyze_counts() {
        let folder = tempfile::tempdir().unwrap();
        let replica = load(&folder.path().join("replica.db"));
        let writer = replica.writer().unwrap();
        let counted = stats(&writer.connection);
        analyse_all(&writer.connection, &replica.indexes()).unwrap();
        let estimated = stats(&writer.connection);
        assert_eq!(counted.len(), 6);
        for ((index, counted), (other, estimated)) in counted.iter().zip(&estimated) {
            assert_eq!((index, counted.len()), (other, estimated.len()));
            for (counted, estimated) in counted.iter().zip(estimated) {
                let near = counted / 1.6 <= *estimated && *estimated <= counted * 1.6;
                assert!(near, "{index}: {counted} rows are taken to be {estimated}");
            }
        }
    }

    #[test]
    fn what_has_changed_much_is_analysed_step_by_step() {
        let folder = tempfile::tempdir().unwrap();
        let replica = load(&folder.path().join("replica.db"));
        let mut writer = replica.writer().unwrap();
        // A reader that has read its statistics.
        let (first, counted) = (replica.pin().unwrap(), stats(&writer.connection));
        insert(&mut writer, "02", ROWS..ROWS + 2_000);
        assert!(!writer.tend_statistics(), "less than a fifth of the rows");
        assert_eq!(stats(&writer.connection), counted);
        insert(&mut writer, "03", ROWS + 2_000..2 * ROWS);
        let version: i64 = writer.connection.query_row("PRAGMA schema_version", [], |row| row.get(0)).unwrap();
        let mut steps = 0;
        while writer.tend_statistics() {
            steps += 1;
        }
        assert_eq!(steps, 7, "one for the table and one for each index");
        for ((index, before), (_, after)) in counted.iter().zip(stats(&writer.connection)) {
            assert_eq!((before[0], after[0]), (ROWS as f64, 2.0 * ROWS as f64), "{index}");
        }
        // Connections read their statistics again, and pins say that there are others.
        let told: i64 = writer.connection.query_row("PRAGMA schema_version", [], |row| row.get(0)).unwrap();
        assert!(told > version);
        assert!(replica.pin().unwrap().statistics() > first.statistics());
        assert!(!writer.tend_statistics(), "nothing has changed since");
    }

    #[test]
    fn new_indexes_and_rewritten_tables_are_analysed() {
        let folder = tempfile::tempdir().unwrap();
        let replica = load(&folder.path().join("replica.db"));
        let mut writer = replica.writer().unwrap();
        let mut tx = writer.begin("02").unwrap();
        tx.create_index(&IndexSpec {
            name: "t_few_thousands".into(),
            table: "t".into(),
            unique: false,
            columns: ["few", "thousands"].map(|column| (column.into(), Direction::Asc)).into(),
        })
        .unwrap();
        tx.commit().unwrap();
        while writer.tend_statistics() {}
        let known = stats(&writer.connection);
        let new = known.iter().find(|(index, _)| index == "t_few_thousands").map(|(_, numbers)| numbers);
        assert_eq!(new.map(Vec::len), Some(3), "{known:?}");
        let mut tx = writer.begin("03").unwrap();
        tx.truncate("t").unwrap();
        tx.commit().unwrap();
        while writer.tend_statistics() {}
        assert_eq!(stats(&writer.connection), []);
    }
}
