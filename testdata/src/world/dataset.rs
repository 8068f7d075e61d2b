//! Data sets as definitions: tables, the values their columns take, relationships. Everything else (ZQL
//! schema, Postgres DDL, replica tables, rows, queries, transactions) is derived from one definition.
//!
//! Values come from small ranges, so that rows collide, orders tie and filters match.

use std::sync::Arc;

use zql_spec::schema::{Column, Schema, Table, ValueType};
use zql_spec::value::Value;

use super::rng::Rng;

/// A set of tables.
#[derive(Clone, Copy, Debug)]
pub struct DataSet {
    /// Its name in case files.
    pub name: &'static str,
    /// Types that must exist before the tables.
    pub types: &'static [&'static str],
    /// The tables, parents before children.
    pub tables: &'static [TableDef],
    /// The ways between tables, each in one direction.
    pub relationships: &'static [Relationship],
}

/// A table.
#[derive(Clone, Copy, Debug)]
pub struct TableDef {
    /// Its name.
    pub name: &'static str,
    /// Its columns.
    pub columns: &'static [ColumnDef],
    /// The columns of the primary key.
    pub primary_key: &'static [&'static str],
    /// Further unique keys.
    pub unique: &'static [&'static [&'static str]],
    /// Plain indexes.
    pub indexes: &'static [&'static [&'static str]],
    /// How many rows a generated database begins with.
    pub rows: usize,
}

/// A column.
#[derive(Clone, Copy, Debug)]
pub struct ColumnDef {
    /// Its name.
    pub name: &'static str,
    /// The Postgres type, `x[]` for arrays.
    pub pg_type: &'static str,
    /// Whether null is allowed.
    pub nullable: bool,
    /// The values it takes.
    pub fill: Fill,
}

/// The values a column takes.
#[derive(Clone, Copy, Debug)]
pub enum Fill {
    /// Whole numbers from 0 below this.
    Int(usize),
    /// Numbers from a list.
    Numbers(&'static [f64]),
    /// `<prefix><n>` with n below this.
    Key(&'static str, usize),
    /// Texts from a list.
    Texts(&'static [&'static str]),
    /// Booleans.
    Bool,
    /// JSON documents from a list.
    Documents(&'static [&'static str]),
    /// A type that clients cannot see; always null.
    Hidden,
}

/// A way from the rows of one table to rows of another.
#[derive(Clone, Copy, Debug)]
pub struct Relationship {
    /// Its name.
    pub name: &'static str,
    /// The table it starts at.
    pub from: &'static str,
    /// Columns there.
    pub from_columns: &'static [&'static str],
    /// The table it leads to.
    pub to: &'static str,
    /// Columns there, pairwise equal.
    pub to_columns: &'static [&'static str],
    /// For a junction: the columns of `to`, the table behind it and its columns.
    pub then: Option<(&'static [&'static str], &'static str, &'static [&'static str])>,
}

impl Fill {
    /// One of the values, never null.
    pub fn value(&self, rng: &mut Rng) -> Value {
        match self {
            Fill::Int(end) => Value::Number(rng.below(*end) as f64),
            Fill::Numbers(numbers) => Value::Number(*rng.pick(numbers)),
            Fill::Key(prefix, end) => Value::string(format!("{prefix}{}", rng.below(*end))),
            Fill::Texts(texts) => Value::string(*rng.pick(texts)),
            Fill::Bool => Value::Bool(rng.percent(50)),
            Fill::Documents(documents) => Value::Json(Arc::from(*rng.pick(documents))),
            Fill::Hidden => Value::Null,
        }
    }

    /// The ZQL type.
    pub fn value_type(&self) -> Option<ValueType> {
        match self {
            Fill::Int(_) | Fill::Numbers(_) => Some(ValueType::Number),
            Fill::Key(..) | Fill::Texts(_) => Some(ValueType::String),
            Fill::Bool => Some(ValueType::Boolean),
            Fill::Documents(_) => Some(ValueType::Json),
            Fill::Hidden => None,
        }
    }
}

impl ColumnDef {
    /// One of the values, null in one of five if null is allowed.
    pub fn value(&self, rng: &mut Rng) -> Value {
        if self.nullable && rng.percent(20) { Value::Null } else { self.fill.value(rng) }
    }
}

impl TableDef {
    /// The columns that clients can see: those of rows.
    pub fn visible(&self) -> impl Iterator<Item = &'static ColumnDef> + use<> {
        self.columns.iter().filter(|column| column.fill.value_type().is_some())
    }

    /// The position of a column in rows.
    pub fn position(&self, name: &str) -> usize {
        self.visible().position(|column| column.name == name).expect("a data set names its own columns")
    }

    /// The positions of columns in rows.
    pub fn positions(&self, names: &[&str]) -> Vec<usize> {
        names.iter().map(|name| self.position(name)).collect()
    }

    /// The primary key and the other unique keys, as positions in rows.
    pub fn keys(&self) -> Vec<Vec<usize>> {
        std::iter::once(self.primary_key).chain(self.unique.iter().copied()).map(|key| self.positions(key)).collect()
    }

    fn zql(&self) -> Table {
        let column = |column: &ColumnDef| Column {
            name: column.name.into(),
            value_type: column.fill.value_type().expect("visible columns have a type"),
            nullable: column.nullable,
        };
        let nullable = |position: &usize| self.visible().nth(*position).is_some_and(|column| column.nullable);
        Table {
            name: self.name.into(),
            columns: self.visible().map(column).collect(),
            primary_key: self.positions(self.primary_key),
            unique_keys: self.keys().into_iter().filter(|key| !key.iter().any(nullable)).collect(),
        }
    }
}

impl DataSet {
    /// The data set of this name.
    pub fn by_name(name: &str) -> Option<&'static DataSet> {
        [&super::issues::ISSUES, &super::music::MUSIC].into_iter().find(|data| data.name == name)
    }

    /// A table by name.
    pub fn table(&self, name: &str) -> &'static TableDef {
        self.tables.iter().find(|table| table.name == name).expect("a data set names its own tables")
    }

    /// What queries see.
    pub fn schema(&self) -> Schema {
        Schema::new(self.tables.iter().map(TableDef::zql))
    }
}
