//! Which row a record speaks of, and what it remembers of each row.
//!
//! Kept small, because a group may hold fifty thousand rows and a process hundreds of groups: key columns,
//! versions and reference counts are shared between rows.

use std::fmt::Write as _;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use indexmap::IndexMap;
use rustc_hash::{FxBuildHasher, FxHashMap, FxHashSet};
use smallvec::SmallVec;
use zql_spec::value::Value;
use zql_spec::version::CvrVersion;

pub use crate::counts::RefCounts;
use crate::counts::SharedCounts;
use crate::flush::Flush;

/// A query's id, as chosen by the client (its hash) or the name of an internal query.
pub type QueryId = Arc<str>;

/// A table and the columns that identify its rows for a client group: the client schema's primary key, or
/// the replica's where the client does not know the table.
#[derive(Debug)]
pub struct TableKey {
    table: Arc<str>,
    /// Key columns by name, so that the same key compares equal however it was written.
    columns: Box<[Arc<str>]>,
    /// For each of `columns`, its position in the caller's key.
    positions: SmallVec<[usize; 2]>,
}

impl TableKey {
    /// A table's key; `columns` in the order in which [`RowId::new`] will be given values.
    pub fn new(table: Arc<str>, columns: &[Arc<str>]) -> Arc<Self> {
        let mut positions: SmallVec<[usize; 2]> = (0..columns.len()).collect();
        positions.sort_by(|&a, &b| columns[a].cmp(&columns[b]));
        let columns = positions.iter().map(|&position| Arc::clone(&columns[position])).collect();
        Arc::new(TableKey { table, columns, positions })
    }

    /// The table's server-side name.
    pub fn table(&self) -> &Arc<str> {
        &self.table
    }
}

impl PartialEq for TableKey {
    fn eq(&self, other: &Self) -> bool {
        self.table == other.table && self.columns == other.columns
    }
}

impl Eq for TableKey {}

/// One row of one table.
#[derive(Clone, Debug)]
pub struct RowId {
    key: Arc<TableKey>,
    values: SmallVec<[Value; 1]>,
}

impl RowId {
    /// A row by its key values, in the order of the columns that [`TableKey::new`] was given. Missing values
    /// count as null.
    pub fn new(key: &Arc<TableKey>, values: &[Value]) -> Self {
        let value = |&position: &usize| values.get(position).cloned().unwrap_or(Value::Null);
        RowId { key: Arc::clone(key), values: key.positions.iter().map(value).collect() }
    }

    /// The row's table.
    pub fn table(&self) -> &Arc<str> {
        &self.key.table
    }

    /// Key columns by name with their values.
    pub fn columns(&self) -> impl Iterator<Item = (&Arc<str>, &Value)> {
        self.key.columns.iter().zip(&self.values)
    }

    /// Appends the key as a JSON object: the `id` of a row's `del` patch and the `rowKey` in the store.
    pub fn write_json(&self, out: &mut String) {
        out.push('{');
        for (index, (column, value)) in self.columns().enumerate() {
            if index > 0 {
                out.push(',');
            }
            write_string(out, column);
            out.push(':');
            write_value(out, value);
        }
        out.push('}');
    }

    /// The key as JSON text.
    pub fn to_json(&self) -> String {
        let mut out = String::new();
        self.write_json(&mut out);
        out
    }
}

pub(crate) fn write_string(out: &mut String, text: &str) {
    // A string always serialises; the fallback keeps the text well-formed all the same.
    out.push_str(&serde_json::to_string(text).unwrap_or_else(|_| "\"\"".to_owned()));
}

fn write_value(out: &mut String, value: &Value) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(value) => {
            let _ = write!(out, "{value}");
        }
        Value::Number(value) if value.is_finite() => out.push_str(ryu_js::Buffer::new().format_finite(*value)),
        Value::Number(_) => out.push_str("null"),
        Value::String(value) => write_string(out, value),
        Value::Json(value) => out.push_str(value),
    }
}

impl PartialEq for RowId {
    fn eq(&self, other: &Self) -> bool {
        self.values == other.values && (Arc::ptr_eq(&self.key, &other.key) || self.key == other.key)
    }
}

impl Eq for RowId {}

impl Hash for RowId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key.table.hash(state);
        self.values.hash(state);
    }
}

/// One spare place for so many rows is kept for rows to come, and never fewer than [`MIN_SPARE_ROWS`].
const SPARE_ROWS: usize = 8;

/// A list of few rows is not copied for each that comes.
const MIN_SPARE_ROWS: usize = 8;

/// What a record remembers of a row that clients hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowRecord {
    /// The row's own version when it was last sent.
    pub row_version: Arc<str>,
    /// The record's version at which it was last sent.
    pub patch_version: Arc<CvrVersion>,
    /// Who holds it. Never empty.
    pub ref_counts: RefCounts,
}

/// The rows that the clients of a group hold, as of the last committed flush.
///
/// In one dense list with an index: a hash table of whole entries is half empty just after it grew, and most groups hold
/// few rows.
#[derive(Debug, Default)]
pub struct Rows {
    records: IndexMap<RowId, RowRecord, FxBuildHasher>,
    pub(crate) counts: SharedCounts,
}

impl Rows {
    /// The number of rows.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// The number of rows that there is room for.
    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        self.records.capacity()
    }

    /// Whether no row is held.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// What is remembered of a row.
    pub fn get(&self, row: &RowId) -> Option<&RowRecord> {
        self.records.get(row)
    }

    /// All rows, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&RowId, &RowRecord)> {
        self.records.iter()
    }

    /// The number of rows that a query holds.
    pub fn count_of(&self, query: &str) -> usize {
        self.records.values().filter(|record| record.ref_counts.iter().any(|(other, _)| &**other == query)).count()
    }

    /// Takes over what a flush wrote. Call once the store has committed it.
    pub fn apply(&mut self, flush: &Flush) {
        for write in &flush.rows {
            match &write.ref_counts {
                Some(ref_counts) => {
                    let record = RowRecord {
                        row_version: Arc::clone(&write.row_version),
                        patch_version: Arc::clone(&write.patch_version),
                        ref_counts: ref_counts.clone(),
                    };
                    self.records.insert(write.row.clone(), record);
                }
                None => {
                    self.records.swap_remove(&write.row);
                }
            }
        }
        // Room for an eighth more: growing by steps of that copies each row eight times in all, and a group that shrank from
        // a big query to a small one gives the memory back.
        let room = self.records.len() / SPARE_ROWS + MIN_SPARE_ROWS;
        if self.records.capacity() > self.records.len() + 2 * room {
            self.records.shrink_to(self.records.len() + room);
        }
    }
}

/// Builds [`Rows`] from the store's rows, sharing what can be shared.
#[derive(Debug, Default)]
pub struct RowsLoader {
    rows: Rows,
    keys: FxHashMap<Arc<str>, Vec<Arc<TableKey>>>,
    versions: FxHashMap<String, Arc<CvrVersion>>,
    row_versions: FxHashSet<Arc<str>>,
    queries: FxHashSet<QueryId>,
}

impl RowsLoader {
    /// Adds a row that some query holds.
    ///
    /// Fails with what is wrong where a text is not what servers write there.
    pub fn add(
        &mut self,
        table: &str,
        row_key: &str,
        row_version: &str,
        patch_version: &str,
        ref_counts: &str,
    ) -> Result<(), String> {
        let row = self.row_id(table, row_key)?;
        let patch_version = self.version(patch_version)?;
        let row_version = match self.row_versions.get(row_version) {
            Some(known) => Arc::clone(known),
            None => {
                let version: Arc<str> = row_version.into();
                self.row_versions.insert(Arc::clone(&version));
                version
            }
        };
        let counts: FxHashMap<String, i64> =
            serde_json::from_str(ref_counts).map_err(|error| format!("refCounts {ref_counts}: {error}"))?;
        let counts: Vec<(QueryId, u32)> = counts
            .into_iter()
            // The reference may leave a count at or below zero beside a positive one.
            .map(|(query, count)| (self.query(&query), u32::try_from(count.max(0)).unwrap_or(u32::MAX)))
            .collect();
        let ref_counts = self.rows.counts.share(RefCounts::new(counts));
        if !ref_counts.is_empty() {
            self.rows.records.insert(row, RowRecord { row_version, patch_version, ref_counts });
        }
        Ok(())
    }

    /// A row by table and JSON key, sharing key columns with the rows before.
    pub fn row_id(&mut self, table: &str, row_key: &str) -> Result<RowId, String> {
        let key: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(row_key).map_err(|error| format!("rowKey {row_key}: {error}"))?;
        let mut pairs: Vec<(String, Value)> = key.into_iter().map(|(name, value)| (name, from_json(value))).collect();
        pairs.sort_by(|(a, _), (b, _)| a.cmp(b));
        let keys = match self.keys.get_mut(table) {
            Some(keys) => keys,
            None => self.keys.entry(table.into()).or_default(),
        };
        let same = |key: &&Arc<TableKey>| {
            key.columns.len() == pairs.len() && key.columns.iter().zip(&pairs).all(|(a, (b, _))| **a == **b)
        };
        let key = match keys.iter().find(same) {
            Some(key) => Arc::clone(key),
            None => {
                let columns: Vec<Arc<str>> = pairs.iter().map(|(name, _)| name.as_str().into()).collect();
                let table = keys.first().map_or_else(|| table.into(), |key| Arc::clone(&key.table));
                let key = TableKey::new(table, &columns);
                keys.push(Arc::clone(&key));
                key
            }
        };
        Ok(RowId { key, values: pairs.into_iter().map(|(_, value)| value).collect() })
    }

    /// A version, shared with the rows before.
    pub fn version(&mut self, text: &str) -> Result<Arc<CvrVersion>, String> {
        if let Some(known) = self.versions.get(text) {
            return Ok(Arc::clone(known));
        }
        let version: Arc<CvrVersion> = Arc::new(text.parse().map_err(|error| format!("patchVersion: {error}"))?);
        self.versions.insert(text.to_owned(), Arc::clone(&version));
        Ok(version)
    }

    /// The rows.
    pub fn finish(mut self) -> Rows {
        self.rows.records.shrink_to_fit();
        self.rows
    }

    fn query(&mut self, id: &str) -> QueryId {
        if let Some(known) = self.queries.get(id) {
            return Arc::clone(known);
        }
        let query: QueryId = id.into();
        self.queries.insert(Arc::clone(&query));
        query
    }
}

fn from_json(value: serde_json::Value) -> Value {
    match value {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Bool(value) => Value::Bool(value),
        serde_json::Value::Number(value) => value.as_f64().map_or(Value::Null, Value::Number),
        serde_json::Value::String(value) => Value::string(value),
        value => Value::Json(value.to_string().into()),
    }
}
