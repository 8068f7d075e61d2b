//! Tables, relationships and rows that many cases share, from one JSON file.
//!
//! The file is what `createSchema` of the client library gives, with more beside it: each column's Postgres type
//! (`pg`), unique keys and indexes, the labels of enums, and the rows as lists of ZQL values in column order.

use std::sync::Arc;

use super::CaseError;
use crate::ast::ParseError;
use crate::ast::parse::{Parser, list, string};
use crate::json::Json;
use crate::naive::{Database, Operation, Row};
use crate::schema::{Column, Schema, Table, ValueType};
use crate::value::Value;
use crate::zero_schema::ZeroSchema;

/// The types of Postgres that clients can see, by their short names, and what they are in ZQL. Enums and arrays of these are
/// visible too; lengths and precisions in parentheses change nothing.
pub const PG_TYPES: [(ValueType, &[&str]); 4] = [
    (
        ValueType::Number,
        &["int2", "int4", "int8", "numeric", "float4", "float8", "date", "timestamp", "timestamptz", "time", "timetz"],
    ),
    (ValueType::String, &["text", "varchar", "char", "uuid", "inet", "cidr", "macaddr", "macaddr8", "pg_lsn"]),
    (ValueType::Boolean, &["bool"]),
    (ValueType::Json, &["json", "jsonb"]),
];

/// A data set.
#[derive(Clone, Debug)]
pub struct DataSet {
    /// Its name in case files.
    pub name: Arc<str>,
    /// Names and relationships, for queries as text. Names are the same on client and server.
    pub zero: ZeroSchema,
    /// The tables as queries see them.
    pub schema: Arc<Schema>,
    /// The tables as Postgres has them.
    pub tables: Vec<DataTable>,
    /// Enum types with their labels.
    pub enums: Vec<(Arc<str>, Vec<Arc<str>>)>,
    /// The rows before any transaction.
    pub database: Database,
}

/// What a type of Postgres is in ZQL; nothing for types that clients cannot see.
fn value_type(pg_type: &str, enums: &[(Arc<str>, Vec<Arc<str>>)]) -> Option<ValueType> {
    let is_enum = |name: &str| enums.iter().any(|(other, _)| **other == *name);
    if let Some(element) = pg_type.strip_suffix("[]") {
        return value_type(element, enums).map(|_| ValueType::Json);
    }
    if is_enum(pg_type) {
        return Some(ValueType::String);
    }
    let base = pg_type.split('(').next().unwrap_or_default();
    PG_TYPES.iter().find(|(_, names)| names.contains(&base)).map(|(value_type, _)| *value_type)
}

/// A table of a data set.
#[derive(Clone, Debug)]
pub struct DataTable {
    /// Its name.
    pub name: Arc<str>,
    /// Its columns, in the order of rows.
    pub columns: Vec<DataColumn>,
    /// Columns of the primary key.
    pub primary_key: Vec<Arc<str>>,
    /// Further unique keys.
    pub unique: Vec<Vec<Arc<str>>>,
    /// Plain indexes.
    pub indexes: Vec<Vec<Arc<str>>>,
}

/// A column of a data set.
#[derive(Clone, Debug)]
pub struct DataColumn {
    /// Its name.
    pub name: Arc<str>,
    /// Its type in Postgres.
    pub pg_type: Arc<str>,
    /// Its type in ZQL.
    pub value_type: ValueType,
    /// Whether it may be null.
    pub nullable: bool,
}

impl DataTable {
    /// The position of a column.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| &*column.name == name)
    }

    /// Positions of the primary key's columns.
    pub fn key(&self) -> Vec<usize> {
        self.primary_key.iter().filter_map(|name| self.position(name)).collect()
    }
}

impl DataColumn {
    /// A value of this column from JSON.
    ///
    /// # Errors
    /// When it has another type, or null is not allowed.
    pub fn value(&self, json: &Json) -> Result<Value, String> {
        let fits = match (self.value_type, json) {
            (_, Json::Null) => self.nullable,
            (ValueType::Json, _) => return Ok(Value::Json(json.to_string().into())),
            (ValueType::String, Json::String(_))
            | (ValueType::Number, Json::Number(_))
            | (ValueType::Boolean, Json::Bool(_)) => true,
            _ => false,
        };
        if fits { Ok(Value::from_json(json)) } else { Err(format!("{} cannot be {json}", self.name)) }
    }
}

impl DataSet {
    /// Reads the JSON of a data set.
    ///
    /// # Errors
    /// When it has another shape or rows do not fit their tables.
    pub fn parse(name: &str, text: &str) -> Result<DataSet, CaseError> {
        let fail = |what: String| CaseError::new(0, format!("data set {name}: {what}"));
        let json = Json::parse(text).map_err(|error| fail(error.to_string()))?;
        let zero = ZeroSchema::parse(&json).map_err(|error| fail(error.to_string()))?;
        let (tables, enums) = read_tables(&json).map_err(|error| fail(error.to_string()))?;
        for column in tables.iter().flat_map(|table| &table.columns) {
            if value_type(&column.pg_type, &enums) != Some(column.value_type) {
                return Err(fail(format!("{} cannot be a {}", column.pg_type, column.value_type.name())));
            }
        }
        let schema = Arc::new(Schema::new(tables.iter().map(zql_table)));
        let mut database = Database::new(Arc::clone(&schema));
        for table in &tables {
            let rows = json.get("tables").and_then(|tables| tables.get(&table.name)?.get("rows")?.as_array());
            for row in rows.unwrap_or_default() {
                let row = read_row(table, row).map_err(|what| fail(format!("{}: {what} in {row}", table.name)))?;
                if database.tables[&table.name].contains_key(&database.key(&table.name, &row)) {
                    return Err(fail(format!("{}: two rows with the key of {row:?}", table.name)));
                }
                database.apply(&[Operation::Insert { table: Arc::clone(&table.name), row }]);
            }
        }
        Ok(DataSet { name: name.into(), zero, schema, tables, enums, database })
    }

    /// A table by name.
    pub fn table(&self, name: &str) -> Option<&DataTable> {
        self.tables.iter().find(|table| &*table.name == name)
    }
}

type Tables = (Vec<DataTable>, Vec<(Arc<str>, Vec<Arc<str>>)>);

fn read_tables(json: &Json) -> Result<Tables, ParseError> {
    let parser = Parser { strict: false };
    let fields = parser.object(json, &[])?;
    let entries = |json: &Json| -> Result<Vec<(Arc<str>, Json)>, ParseError> {
        json.as_object().map(<[_]>::to_vec).ok_or_else(|| ParseError::expected("object", json))
    };
    let mut tables = Vec::new();
    for (name, json) in fields.required("tables", entries)? {
        let fields = parser.object(&json, &[])?;
        let mut columns = Vec::new();
        for (column, json) in fields.required("columns", entries)? {
            let fields = parser.object(&json, &[])?;
            let value_type = fields.required("type", string)?;
            const TYPES: [ValueType; 4] = [ValueType::String, ValueType::Number, ValueType::Boolean, ValueType::Json];
            let value_type = TYPES.into_iter().find(|known| known.name() == &*value_type).unwrap_or(ValueType::Json);
            columns.push(DataColumn {
                pg_type: fields.required("pg", string).map_err(|error| error.under(&column).under(&name))?,
                name: column,
                value_type,
                nullable: fields.optional("optional", |json| Ok(json.as_bool()))?.flatten().unwrap_or(false),
            });
        }
        let keys = |json| list(json, |json| list(json, string));
        tables.push(DataTable {
            columns,
            primary_key: fields.required("primaryKey", |json| list(json, string))?,
            unique: fields.optional("unique", keys)?.unwrap_or_default(),
            indexes: fields.optional("indexes", keys)?.unwrap_or_default(),
            name,
        });
    }
    let mut enums = Vec::new();
    for (name, json) in fields.optional("enums", entries)?.unwrap_or_default() {
        enums.push((name, list(&json, string)?));
    }
    Ok((tables, enums))
}

fn zql_table(table: &DataTable) -> Table {
    let column = |column: &DataColumn| Column {
        name: Arc::clone(&column.name),
        value_type: column.value_type,
        nullable: column.nullable,
    };
    let positions =
        |key: &Vec<Arc<str>>| -> Vec<usize> { key.iter().filter_map(|name| table.position(name)).collect() };
    let mut unique_keys = vec![table.key()];
    let not_null = |key: &Vec<usize>| key.iter().all(|&column| !table.columns[column].nullable);
    unique_keys.extend(table.unique.iter().map(positions).filter(not_null));
    Table {
        name: Arc::clone(&table.name),
        columns: table.columns.iter().map(column).collect(),
        primary_key: table.key(),
        unique_keys,
    }
}

fn read_row(table: &DataTable, json: &Json) -> Result<Row, String> {
    let cells = json.as_array().ok_or("a row is a list")?;
    if cells.len() != table.columns.len() {
        return Err(format!("{} cells for {} columns", cells.len(), table.columns.len()));
    }
    table.columns.iter().zip(cells).map(|(column, cell)| column.value(cell)).collect()
}
