//! Tables as ZQL sees them: the visible columns, their ZQL types and the keys.
//!
//! A [`Schema`] is a snapshot of what can be queried. The replica makes one from its catalogue; a
//! client group sees it through [`Schema::with_primary_keys`], because the client's own choice of
//! primary key decides row identity and the completion of orders.

use std::collections::BTreeMap;
use std::sync::Arc;

/// A ZQL type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ValueType {
    /// UTF-8 text.
    String,
    /// A JavaScript number; dates and times are milliseconds.
    Number,
    /// A boolean.
    Boolean,
    /// A JSON document.
    Json,
}

impl ValueType {
    /// The type's name in a client schema.
    pub fn name(self) -> &'static str {
        match self {
            ValueType::String => "string",
            ValueType::Number => "number",
            ValueType::Boolean => "boolean",
            ValueType::Json => "json",
        }
    }
}

/// A column that queries can see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Server-side name.
    pub name: Arc<str>,
    /// ZQL type.
    pub value_type: ValueType,
    /// Whether the column may hold null.
    pub nullable: bool,
}

/// A table that queries can see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Server-side name: `issue`, or `schema.table` outside Postgres's `public`.
    pub name: Arc<str>,
    /// Visible columns in table order. Rows are slices in this order.
    pub columns: Vec<Column>,
    /// Positions of the primary key columns: row identity and the tail of every order.
    pub primary_key: Vec<usize>,
    /// Every unique index over visible, non-null columns (the primary key among them), as positions.
    pub unique_keys: Vec<Vec<usize>>,
}

impl Table {
    /// The position of a column.
    pub fn column_index(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| &*column.name == name)
    }
}

/// All tables that queries can see, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schema {
    /// Tables by server-side name.
    pub tables: BTreeMap<Arc<str>, Arc<Table>>,
}

impl Schema {
    /// A schema of these tables.
    pub fn new(tables: impl IntoIterator<Item = Table>) -> Self {
        let tables = tables.into_iter().map(|table| (Arc::clone(&table.name), Arc::new(table))).collect();
        Schema { tables }
    }

    /// A table by name.
    pub fn table(&self, name: &str) -> Option<&Arc<Table>> {
        self.tables.get(name)
    }

    /// The same schema with other primary keys for some tables, given as column names.
    ///
    /// Tables or columns that do not exist are left alone: the client schema check reports them.
    pub fn with_primary_keys<'a>(&self, keys: impl IntoIterator<Item = (&'a str, Vec<&'a str>)>) -> Self {
        let mut schema = self.clone();
        for (name, key) in keys {
            let Some(table) = schema.tables.get_mut(name) else { continue };
            let positions: Option<Vec<usize>> = key.iter().map(|column| table.column_index(column)).collect();
            if let Some(positions) = positions.filter(|positions| !positions.is_empty())
                && positions != table.primary_key
            {
                Arc::make_mut(table).primary_key = positions;
            }
        }
        schema
    }
}
