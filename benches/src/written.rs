//! A row that was read by hand, written as the text that clients get: the same text as the server's own.

use anyhow::{Context, Result, bail};
use rusqlite::Row;
use rusqlite::types::ValueRef;
use zql_spec::json::{write_number, write_string};
use zql_spec::schema::{Schema, Table, ValueType};

/// What the rows of a table are written with.
pub(crate) struct Format {
    /// What precedes each value.
    before: Vec<String>,
    types: Vec<ValueType>,
}

impl Format {
    /// Prepares a table.
    pub(crate) fn of(table: &Table) -> Format {
        let before = |(position, column): (usize, &zql_spec::schema::Column)| match position {
            0 => format!(r#"{{"op":"put","tableName":"{}","value":{{"{}":"#, table.name, column.name),
            _ => format!(r#","{}":"#, column.name),
        };
        Format {
            before: table.columns.iter().enumerate().map(before).collect(),
            types: table.columns.iter().map(|column| column.value_type).collect(),
        }
    }

    /// Writes a row of a statement that selects the table's columns first.
    pub(crate) fn write(&self, row: &Row<'_>, out: &mut String) -> Result<()> {
        for (position, (before, value_type)) in self.before.iter().zip(&self.types).enumerate() {
            out.push_str(before);
            match (row.get_ref(position)?, value_type) {
                (ValueRef::Null, _) => out.push_str("null"),
                (ValueRef::Integer(number), ValueType::Boolean) => {
                    out.push_str(if number == 0 { "false" } else { "true" });
                }
                (ValueRef::Integer(number), _) => write_number(number as f64, out),
                (ValueRef::Real(number), _) => write_number(number, out),
                (ValueRef::Text(json), ValueType::Json) => out.push_str(std::str::from_utf8(json)?),
                (ValueRef::Text(text), _) => write_string(std::str::from_utf8(text)?, out),
                (ValueRef::Blob(_), _) => bail!("no table here has blobs"),
            }
        }
        out.push_str("}}");
        Ok(())
    }
}

/// The columns of a table as a statement selects them of `alias`.
pub(crate) fn columns(table: &Table, alias: &str) -> String {
    table.columns.iter().map(|column| format!("{alias}.\"{}\"", column.name)).collect::<Vec<_>>().join(", ")
}

/// A table of a schema.
pub(crate) fn table<'s>(schema: &'s Schema, name: &str) -> Result<&'s Table> {
    schema.table(name).map(AsRef::as_ref).with_context(|| format!("no table {name}"))
}
