//! A table as the stream writes it: names resolved and statement texts made once.

use std::sync::Arc;

use parking_lot::Mutex;
use rusqlite::types::ValueRef;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use zql_spec::schema::{Schema, Table, ValueType};
use zql_spec::value::Value;

use super::catalogue::{Catalogue, quote};
use super::codec::RowCodec;
use super::error::ReplicaError;
use super::spec::TableSpec;
use super::{SqliteValue, VERSION_COLUMN};
use crate::sql::looks_numeric;

/// Which of a relation's columns an UPDATE sets.
pub(super) type Mask = SmallVec<[bool; 32]>;

/// A table, the columns in which its rows arrive, and the statements that write them.
#[derive(Debug)]
pub(super) struct RelationInfo {
    /// The writer's schema generation in which names were resolved.
    pub(super) generation: u64,
    pub(super) name: Arc<str>,
    /// For each arriving column its position in the table's spec.
    pub(super) columns: Vec<usize>,
    /// Positions of the row key among the arriving columns.
    pub(super) key: Vec<usize>,
    /// Unique indexes as positions in the spec, and how to find the rows that hold a value of them.
    pub(super) unique: Vec<(Vec<usize>, String)>,
    /// Columns in the spec.
    pub(super) width: usize,
    pub(super) visible: Option<Visible>,
    /// INSERT of the arriving columns and the version.
    pub(super) insert: String,
    /// INSERT of all columns and the version.
    pub(super) insert_all: String,
    /// Row id, visible columns and version of the row with a key; empty without a key.
    pub(super) find: String,
    /// Visible columns and version of the row with a row id.
    pub(super) image: String,
    /// All columns and the version of the row with a row id.
    pub(super) all: String,
    pub(super) delete: String,
    column_names: Vec<String>,
    updates: Mutex<FxHashMap<Mask, Arc<str>>>,
}

/// The part of a relation that queries can see.
#[derive(Debug)]
pub(super) struct Visible {
    pub(super) table: Arc<Table>,
    /// For each visible column its position among the arriving ones.
    pub(super) source: Vec<Option<usize>>,
    /// For each visible column whether its affinity turns numeric-looking text into numbers.
    coerces: Vec<bool>,
}

/// A value as it will read once stored.
pub(super) enum Stored {
    As(Value),
    /// SQLite may store something else: read it back.
    Unknown,
}

impl RelationInfo {
    pub(super) fn resolve(
        catalogue: &Catalogue,
        schema: &Schema,
        generation: u64,
        table: &str,
        columns: &[&str],
        key: &[&str],
    ) -> Result<RelationInfo, ReplicaError> {
        let spec = catalogue.table(table).ok_or_else(|| ReplicaError::Mismatch(format!("Unknown table {table}")))?;
        let position = |name: &str| {
            spec.columns
                .iter()
                .position(|column| column.name == name)
                .ok_or_else(|| ReplicaError::Mismatch(format!("Unknown column {name} of table {table}")))
        };
        let columns: Vec<usize> = columns.iter().map(|name| position(name)).collect::<Result<_, _>>()?;
        let key: Vec<usize> = if key.is_empty() {
            catalogue.row_key(spec).unwrap_or_default()
        } else {
            key.iter().map(|name| position(name)).collect::<Result<_, _>>()?
        };
        let key: Vec<usize> = key
            .iter()
            .map(|column| {
                columns.iter().position(|other| other == column).ok_or_else(|| {
                    let name = &spec.columns[*column].name;
                    ReplicaError::Mismatch(format!("key column {name} of table {table} is not in the stream"))
                })
            })
            .collect::<Result<_, _>>()?;
        Ok(Self::statements(catalogue, schema, generation, spec, columns, key))
    }

    fn statements(
        catalogue: &Catalogue,
        schema: &Schema,
        generation: u64,
        spec: &TableSpec,
        columns: Vec<usize>,
        key: Vec<usize>,
    ) -> RelationInfo {
        let name = quote(&spec.name);
        let quoted = |column: &usize| quote(&spec.columns[*column].name);
        let equals = |columns: &[usize]| -> String {
            let terms: Vec<String> =
                columns.iter().enumerate().map(|(n, column)| format!("{} = ?{}", quoted(column), n + 1)).collect();
            terms.join(" AND ")
        };
        let insert = |columns: &[usize]| {
            let names: String = columns.iter().map(|column| quoted(column) + ", ").collect();
            let values = "?, ".repeat(columns.len());
            format!("INSERT INTO {name} ({names}{VERSION_COLUMN}) VALUES ({values}?)")
        };
        let every: Vec<usize> = (0..spec.columns.len()).collect();
        let visible = schema.table(&spec.name).map(|table| {
            let specs: Vec<usize> = table
                .columns
                .iter()
                .filter_map(|column| spec.columns.iter().position(|other| *other.name == *column.name))
                .collect();
            Visible {
                table: Arc::clone(table),
                source: specs.iter().map(|column| columns.iter().position(|other| other == column)).collect(),
                coerces: specs.iter().map(|&column| spec.columns[column].coerces_text()).collect(),
            }
        });
        let shown: String = match &visible {
            Some(visible) => visible.table.columns.iter().map(|column| quote(&column.name) + ", ").collect(),
            None => String::new(),
        };
        let all: String = every.iter().map(|column| quoted(column) + ", ").collect();
        let key_columns: Vec<usize> = key.iter().map(|&position| columns[position]).collect();
        let find = if key.is_empty() {
            String::new()
        } else {
            format!("SELECT rowid, {shown}{VERSION_COLUMN} FROM {name} WHERE {} LIMIT 1", equals(&key_columns))
        };
        let unique = catalogue.unique_keys(spec).into_iter().map(|unique| {
            let find = format!("SELECT rowid FROM {name} WHERE {}", equals(&unique));
            (unique, find)
        });
        RelationInfo {
            generation,
            name: Arc::from(&*spec.name),
            unique: unique.collect(),
            width: every.len(),
            insert: insert(&columns),
            insert_all: insert(&every),
            find,
            image: format!("SELECT {shown}{VERSION_COLUMN} FROM {name} WHERE rowid = ?"),
            all: format!("SELECT {all}{VERSION_COLUMN} FROM {name} WHERE rowid = ?"),
            delete: format!("DELETE FROM {name} WHERE rowid = ?"),
            column_names: columns.iter().map(quoted).collect(),
            updates: Mutex::default(),
            columns,
            key,
            visible,
        }
    }

    /// The UPDATE that sets these columns, then the version, of the row with a row id.
    pub(super) fn update(&self, mask: &Mask) -> Arc<str> {
        let mut updates = self.updates.lock();
        if let Some(sql) = updates.get(mask) {
            return Arc::clone(sql);
        }
        let set: String = self
            .column_names
            .iter()
            .zip(mask)
            .filter(|(_, set)| **set)
            .map(|(column, _)| format!("{column} = ?, "))
            .collect();
        let sql: Arc<str> =
            format!("UPDATE {} SET {set}{VERSION_COLUMN} = ? WHERE rowid = ?", quote(&self.name)).into();
        updates.insert(mask.clone(), Arc::clone(&sql));
        sql
    }
}

impl Visible {
    /// How an arriving value will read.
    pub(super) fn stored(
        &self,
        codec: &RowCodec<'_>,
        column: usize,
        value: &SqliteValue,
    ) -> Result<Stored, ReplicaError> {
        let unknown = match value {
            SqliteValue::Text(text) => self.coerces[column] && looks_numeric(text),
            // Integral reals may become integers, which have bounds of their own.
            SqliteValue::Real(number) => number.is_nan() || number.abs() >= 9e15,
            SqliteValue::Integer(number) => {
                self.table.columns[column].value_type != ValueType::Number && number.unsigned_abs() > 1 << 53
            }
            SqliteValue::Null => false,
            SqliteValue::Blob(_) => true,
        };
        if unknown {
            return Ok(Stored::Unknown);
        }
        Ok(Stored::As(codec.value(column, ValueRef::from(value))?))
    }
}
