//! The schema a client was built with, and whether the replica can serve it.
//!
//! A client names the tables, columns, types and primary keys it expects. The check finds everything that
//! is missing or different and says so in one message, in the protocol's words. Nullability is not part of
//! the bargain. The check runs when a client group starts and after schema changes, never per message.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::ast::ParseError;
use crate::ast::parse::{Parser, list, string};
use crate::json::Json;
use crate::schema::{Schema, ValueType};

/// The tables a client knows, in server-side names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientSchema {
    /// Tables by name.
    pub tables: BTreeMap<Arc<str>, ClientTable>,
}

/// A table a client knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientTable {
    /// Types by column name.
    pub columns: BTreeMap<Arc<str>, ClientType>,
    /// The columns by which the client tells rows apart, as sent: the client's order completes orders.
    pub primary_key: Option<Vec<Arc<str>>>,
}

/// The type of a client's column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClientType {
    /// A type that columns can have.
    Value(ValueType),
    /// `null`, which no column has.
    Null,
}

impl ClientType {
    /// The type's name.
    pub fn name(self) -> &'static str {
        match self {
            ClientType::Value(value_type) => value_type.name(),
            ClientType::Null => "null",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        const TYPES: [ValueType; 4] = [ValueType::String, ValueType::Number, ValueType::Boolean, ValueType::Json];
        TYPES
            .into_iter()
            .find(|value_type| value_type.name() == name)
            .map(ClientType::Value)
            .or_else(|| (name == "null").then_some(ClientType::Null))
    }
}

impl ClientSchema {
    /// Reads a schema as clients send it: unknown keys are errors.
    pub fn parse(json: &Json) -> Result<ClientSchema, ParseError> {
        Self::read(json, &Parser { strict: true })
    }

    /// Reads a stored schema, which a newer server may have written: unknown keys are skipped.
    pub fn parse_lenient(json: &Json) -> Result<ClientSchema, ParseError> {
        Self::read(json, &Parser { strict: false })
    }

    fn read(json: &Json, parser: &Parser) -> Result<ClientSchema, ParseError> {
        let tables = parser.object(json, &["tables"])?.required("tables", |json| {
            entries(json, |json| {
                let fields = parser.object(json, &["columns", "primaryKey"])?;
                Ok(ClientTable {
                    columns: fields.required("columns", |json| {
                        entries(json, |json| {
                            parser.object(json, &["type"])?.required("type", |json| {
                                json.as_str().and_then(ClientType::from_name).ok_or_else(|| {
                                    ParseError::expected("one of string, number, boolean, null, json", json)
                                })
                            })
                        })
                    })?,
                    primary_key: fields.optional("primaryKey", |json| list(json, string))?,
                })
            })
        })?;
        Ok(ClientSchema { tables })
    }

    /// The schema as JSON, names sorted.
    pub fn to_json(&self) -> Json {
        let table = |table: &ClientTable| {
            let column = |(name, client_type): (&Arc<str>, &ClientType)| {
                (Arc::clone(name), Json::object([("type", Json::string(client_type.name()))]))
            };
            let mut entries = vec![("columns", Json::Object(table.columns.iter().map(column).collect()))];
            if let Some(key) = &table.primary_key {
                entries
                    .push(("primaryKey", Json::Array(key.iter().map(|name| Json::String(Arc::clone(name))).collect())));
            }
            Json::object(entries)
        };
        let tables = self.tables.iter().map(|(name, known)| (Arc::clone(name), table(known))).collect();
        Json::object([("tables", Json::Object(tables))])
    }

    /// The replica's schema with this client's primary keys, which decide row identity and complete orders.
    pub fn apply_keys(&self, schema: &Schema) -> Schema {
        schema.with_primary_keys(self.tables.iter().filter_map(|(name, table)| {
            Some((&**name, table.primary_key.as_ref()?.iter().map(|column| &**column).collect()))
        }))
    }
}

fn entries<T>(json: &Json, read: impl Fn(&Json) -> Result<T, ParseError>) -> Result<BTreeMap<Arc<str>, T>, ParseError> {
    let entries = json.as_object().ok_or_else(|| ParseError::expected("object", json))?;
    let entry = |(name, json): &(Arc<str>, Json)| {
        read(json).map(|value| (Arc::clone(name), value)).map_err(|error| error.under(name))
    };
    entries.iter().map(entry).collect()
}

/// What the replica knows of a table, whether or not clients may see it.
#[derive(Clone, Debug, Default)]
pub struct ReplicatedTable {
    /// Server-side name.
    pub name: String,
    /// All columns but the replica's own.
    pub columns: Vec<ReplicatedColumn>,
    /// Upstream's primary key; may hold columns that clients cannot see. Empty if there is none.
    pub primary_key: Vec<String>,
    /// Column names of every unique index whose columns are all non-null and visible.
    pub keys: Vec<Vec<String>>,
}

/// What the replica knows of a column.
#[derive(Clone, Debug)]
pub struct ReplicatedColumn {
    /// Name.
    pub name: String,
    /// The type's name upstream.
    pub upstream_type: String,
    /// The ZQL type; none if clients cannot see columns of this type.
    pub value_type: Option<ValueType>,
}

/// Why a client's schema cannot be served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientSchemaError {
    /// Nothing is replicated at all: the operator's mistake, not the client's (`Internal`).
    #[error("No tables have been synced from upstream. Please check that the ZERO_UPSTREAM_DB has been properly set.")]
    NothingReplicated,
    /// The schemas differ (`SchemaVersionNotSupported`); all problems, a line each.
    #[error("{0}")]
    NotSupported(String),
}

/// Checks that the replica has everything that a client's schema names.
///
/// `replicated` leaves out the metadata tables of the application itself.
pub fn check(client: &ClientSchema, replicated: &[ReplicatedTable]) -> Result<(), ClientSchemaError> {
    if replicated.is_empty() {
        return Err(ClientSchemaError::NothingReplicated);
    }
    let by_name: BTreeMap<&str, &ReplicatedTable> =
        replicated.iter().map(|table| (table.name.as_str(), table)).collect();
    let synced = |table: &&&ReplicatedTable| !table.keys.is_empty();
    let mut problems = Vec::new();
    for name in client.tables.keys() {
        match by_name.get(&**name) {
            Some(table) if synced(&table) => {}
            Some(table) => problems.push(without_key(table)),
            None => {
                let names: BTreeSet<&str> = by_name.values().filter(synced).map(|table| &*table.name).collect();
                let mut problem = format!(
                    "The \"{name}\" table does not exist or is not one of the replicated tables: {}.",
                    quoted(&names)
                );
                if name.contains('.') && !names.iter().any(|name| name.contains('.')) {
                    problem.push_str(
                        " Note that zero does not sync tables from non-public schemas by default. Make sure you have \
                         defined a custom ZERO_APP_PUBLICATION to sync tables from non-public schemas.",
                    );
                }
                problems.push(problem);
            }
        }
    }
    for (name, table) in &client.tables {
        if let Some(replicated) = by_name.get(&**name).filter(synced) {
            check_table(name, table, replicated, &mut problems);
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(ClientSchemaError::NotSupported(problems.join("\n"))) }
}

fn without_key(table: &ReplicatedTable) -> String {
    let unsupported: Vec<String> = table
        .columns
        .iter()
        .filter(|column| column.value_type.is_none() && table.primary_key.contains(&column.name))
        .map(|column| format!("\"{}\" ({})", column.name, column.upstream_type))
        .collect();
    let name = &table.name;
    if unsupported.is_empty() {
        format!(
            "The \"{name}\" table is missing a primary key or non-null unique index and thus cannot be synced to the client"
        )
    } else {
        format!(
            "The \"{name}\" table's primary key contains unsupported columns: {}. These columns must use Zero-supported \
             data types to sync the table to the client.",
            unsupported.join(", ")
        )
    }
}

fn check_table(name: &str, client: &ClientTable, replicated: &ReplicatedTable, problems: &mut Vec<String>) {
    let column = |name: &str| replicated.columns.iter().find(|column| column.name == name);
    for column_name in client.columns.keys() {
        match column(column_name) {
            Some(column) if column.value_type.is_some() => {}
            Some(column) => problems.push(format!(
                "The \"{name}\".\"{column_name}\" column cannot be synced because it is of an unsupported data type \"{}\"",
                column.upstream_type
            )),
            None => {
                let synced = replicated.columns.iter().filter(|column| column.value_type.is_some());
                let names: BTreeSet<&str> = synced.map(|column| &*column.name).collect();
                problems.push(format!(
                    "The \"{name}\".\"{column_name}\" column does not exist or is not one of the replicated columns: {}.",
                    quoted(&names)
                ));
            }
        }
    }
    for (column_name, client_type) in &client.columns {
        if let Some(upstream) = column(column_name).and_then(|column| column.value_type)
            && ClientType::Value(upstream) != *client_type
        {
            problems.push(format!(
                "The \"{name}\".\"{column_name}\" column's upstream type \"{}\" does not match the client type \"{}\"",
                upstream.name(),
                client_type.name()
            ));
        }
    }
    match client.primary_key.as_deref() {
        None | Some([]) => {
            problems.push(format!("The \"{name}\" table's client schema does not specify a primary key."));
        }
        Some(key) => {
            let wanted: BTreeSet<&str> = key.iter().map(|column| &**column).collect();
            let same = |key: &Vec<String>| key.iter().map(String::as_str).collect::<BTreeSet<_>>() == wanted;
            if !replicated.keys.iter().any(same) {
                let key = key.join(",");
                problems.push(format!(
                    "The \"{name}\" table's primaryKey <{key}> is not associated with a non-null unique index."
                ));
            }
        }
    }
}

fn quoted(names: &BTreeSet<&str>) -> String {
    names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replicated() -> Vec<ReplicatedTable> {
        let column = |name: &str, upstream_type: &str, value_type| ReplicatedColumn {
            name: name.into(),
            upstream_type: upstream_type.into(),
            value_type,
        };
        vec![
            ReplicatedTable {
                name: "issue".into(),
                columns: vec![
                    column("id", "text", Some(ValueType::String)),
                    column("n", "int4", Some(ValueType::Number)),
                    column("blob", "bytea", None),
                ],
                primary_key: vec!["id".into()],
                keys: vec![vec!["id".into()], vec!["n".into(), "id".into()]],
            },
            ReplicatedTable {
                name: "keyless".into(),
                columns: vec![column("a", "int4", Some(ValueType::Number))],
                ..ReplicatedTable::default()
            },
            ReplicatedTable {
                name: "odd".into(),
                columns: vec![column("a", "bytea", None)],
                primary_key: vec!["a".into()],
                keys: vec![],
            },
        ]
    }

    fn check_text(tables: &str) -> String {
        let json = Json::parse(&format!(r#"{{"tables":{tables}}}"#)).unwrap();
        let schema = ClientSchema::parse(&json).unwrap();
        assert_eq!(ClientSchema::parse(&schema.to_json()).unwrap(), schema);
        check(&schema, &replicated()).map_or_else(|error| error.to_string(), |()| String::new())
    }

    #[test]
    fn problems_are_reported_together_and_in_order() {
        let cases = [
            (r#"{"issue":{"columns":{"id":{"type":"string"}},"primaryKey":["id"]}}"#, ""),
            (r#"{"issue":{"columns":{"n":{"type":"number"}},"primaryKey":["id","n"]}}"#, ""),
            (
                r#"{"x.y":{"columns":{},"primaryKey":["a"]},"issue":{"columns":{"zap":{"type":"string"},"blob":{"type":"json"},"n":{"type":"string"}},"primaryKey":["n"]}}"#,
                "The \"x.y\" table does not exist or is not one of the replicated tables: \"issue\". Note that zero does not sync tables from non-public schemas by default. Make sure you have defined a custom ZERO_APP_PUBLICATION to sync tables from non-public schemas.\n\
                 The \"issue\".\"blob\" column cannot be synced because it is of an unsupported data type \"bytea\"\n\
                 The \"issue\".\"zap\" column does not exist or is not one of the replicated columns: \"id\",\"n\".\n\
                 The \"issue\".\"n\" column's upstream type \"number\" does not match the client type \"string\"\n\
                 The \"issue\" table's primaryKey <n> is not associated with a non-null unique index.",
            ),
            (
                r#"{"keyless":{"columns":{},"primaryKey":["a"]},"odd":{"columns":{},"primaryKey":["a"]}}"#,
                "The \"keyless\" table is missing a primary key or non-null unique index and thus cannot be synced to the client\n\
                 The \"odd\" table's primary key contains unsupported columns: \"a\" (bytea). These columns must use Zero-supported data types to sync the table to the client.",
            ),
            (r#"{"issue":{"columns":{}}}"#, "The \"issue\" table's client schema does not specify a primary key."),
        ];
        for (tables, expected) in cases {
            assert_eq!(check_text(tables), expected);
        }
        assert_eq!(check(&ClientSchema::default(), &[]), Err(ClientSchemaError::NothingReplicated));
    }

    #[test]
    fn unknown_keys_and_types_are_refused() {
        let error = |text: &str| ClientSchema::parse(&Json::parse(text).unwrap()).unwrap_err().to_string();
        assert_eq!(error(r#"{"tables":{},"x":1}"#), "Unexpected property x");
        assert_eq!(
            error(r#"{"tables":{"t":{"columns":{"c":{"type":"date"}}}}}"#),
            "Expected one of string, number, boolean, null, json at tables.t.columns.c.type Got \"date\""
        );
    }
}
