//! Tables in memory and logical transactions on them.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::schema::Schema;
use crate::value::Value;

/// The values of a row, in the order of the table's columns.
pub type Row = Arc<[Value]>;

/// Tables in memory. Rows are identified by the schema's primary keys.
#[derive(Clone, Debug, Default)]
pub struct Database {
    /// The tables there are.
    pub schema: Arc<Schema>,
    /// Rows by table and primary key.
    pub tables: BTreeMap<Arc<str>, BTreeMap<Vec<Value>, Row>>,
}

/// One change of one row, or of all rows of a table.
#[derive(Clone, Debug, PartialEq)]
pub enum Operation {
    /// A row that was not there.
    Insert {
        /// The table.
        table: Arc<str>,
        /// The row.
        row: Row,
    },
    /// A row that was there, with its values afterwards; the key may change.
    Update {
        /// The table.
        table: Arc<str>,
        /// The primary key before.
        key: Vec<Value>,
        /// The row afterwards.
        row: Row,
    },
    /// A row that was there.
    Delete {
        /// The table.
        table: Arc<str>,
        /// Its primary key.
        key: Vec<Value>,
    },
    /// All rows.
    Truncate {
        /// The table.
        table: Arc<str>,
    },
}

/// Operations that happen at once.
pub type Transaction = Vec<Operation>;

impl Operation {
    /// The table that is changed.
    pub fn table(&self) -> &Arc<str> {
        match self {
            Operation::Insert { table, .. }
            | Operation::Update { table, .. }
            | Operation::Delete { table, .. }
            | Operation::Truncate { table } => table,
        }
    }
}

impl Database {
    /// A database without rows.
    pub fn new(schema: Arc<Schema>) -> Self {
        let tables = schema.tables.keys().map(|name| (Arc::clone(name), BTreeMap::new())).collect();
        Database { schema, tables }
    }

    /// The primary key of a row. Empty for an unknown table.
    pub fn key(&self, table: &str, row: &[Value]) -> Vec<Value> {
        let table = self.schema.table(table);
        table.map_or_else(Vec::new, |table| table.primary_key.iter().map(|&column| row[column].clone()).collect())
    }

    /// The rows of a table, by primary key.
    pub fn rows(&self, table: &str) -> impl Iterator<Item = &Row> {
        self.tables.get(table).into_iter().flat_map(BTreeMap::values)
    }

    /// Applies operations one after the other.
    pub fn apply(&mut self, transaction: &[Operation]) {
        for operation in transaction {
            match operation {
                Operation::Insert { table, row } => self.put(table, row),
                Operation::Update { table, key, row } => {
                    self.tables.entry(Arc::clone(table)).or_default().remove(key);
                    self.put(table, row);
                }
                Operation::Delete { table, key } => {
                    self.tables.entry(Arc::clone(table)).or_default().remove(key);
                }
                Operation::Truncate { table } => {
                    self.tables.insert(Arc::clone(table), BTreeMap::new());
                }
            }
        }
    }

    fn put(&mut self, table: &Arc<str>, row: &Row) {
        let key = self.key(table, row);
        self.tables.entry(Arc::clone(table)).or_default().insert(key, Arc::clone(row));
    }
}
