//! The schema of an application: tables, columns and relationships in the client's names, and their server-side names.
//!
//! This is the object that `createSchema` of the client library gives, as JSON (`JSON.stringify(schema)`). It is what
//! a query's text is written against, and what maps a query from the client's names to the server's. Keys that are
//! not needed here are skipped, since newer libraries add some. It must not know a replica: whether these tables
//! exist is checked elsewhere ([`crate::client_schema`]).

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::ast::parse::{Parser, list, string};
use crate::ast::{Ast, Bound, Condition, CorrelatedSubquery, Correlation, ParseError, ValuePosition};
use crate::client_schema::{ClientSchema, ClientTable, ClientType};
use crate::json::Json;
use crate::schema::{Column, Schema, Table, ValueType};

/// An application's schema.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ZeroSchema {
    /// Tables by client-side name.
    pub tables: BTreeMap<Arc<str>, ZeroTable>,
}

/// A table of an application.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ZeroTable {
    /// Server-side name.
    pub server_name: Arc<str>,
    /// Columns by client-side name, as written.
    pub columns: Vec<ZeroColumn>,
    /// Client-side names of the primary key's columns, as written.
    pub primary_key: Vec<Arc<str>>,
    /// Ways to other tables by name; each has one hop, or two by a junction table.
    pub relationships: BTreeMap<Arc<str>, Vec<Hop>>,
}

/// A column of an application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZeroColumn {
    /// Client-side name.
    pub name: Arc<str>,
    /// Server-side name.
    pub server_name: Arc<str>,
    /// Its type.
    pub value_type: ValueType,
    /// Whether it may be null.
    pub optional: bool,
}

/// One step of a relationship, in client-side names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Columns of the table it starts at.
    pub source_field: Vec<Arc<str>>,
    /// The table it leads to.
    pub dest_table: Arc<str>,
    /// Columns there, pairwise equal.
    pub dest_field: Vec<Arc<str>>,
    /// Whether it leads to one row at most.
    pub one: bool,
}

/// Why a query cannot be mapped: it names what the schema does not have. The texts are the protocol's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// No such table.
    #[error("unknown table \"{0}\"")]
    Table(Arc<str>),
    /// No such column.
    #[error("unknown column \"{column}\" of \"{table}\" table")]
    Column {
        /// The table.
        table: Arc<str>,
        /// The column.
        column: Arc<str>,
    },
}

impl ZeroTable {
    /// A column by its client-side name.
    pub fn column(&self, name: &str) -> Option<&ZeroColumn> {
        self.columns.iter().find(|column| &*column.name == name)
    }
}

impl ZeroSchema {
    /// Reads a schema from the JSON of what `createSchema` gives.
    ///
    /// # Errors
    /// When something that is needed is missing or has another shape, or a relationship leads nowhere.
    pub fn parse(json: &Json) -> Result<ZeroSchema, ParseError> {
        let parser = Parser { strict: false };
        let fields = parser.object(json, &[])?;
        let mut schema = ZeroSchema::default();
        for (name, json) in entries(fields.required("tables", Ok)?)? {
            let table = table(&parser, name, json).map_err(|error| error.under(name).under("tables"))?;
            schema.tables.insert(Arc::clone(name), table);
        }
        let no_relationships = Json::Object(Vec::new());
        let relationships = fields.optional("relationships", Ok)?.unwrap_or(&no_relationships);
        for (name, json) in entries(relationships)? {
            let read = schema.read_relationships(&parser, name, json);
            let read = read.map_err(|error| error.under(name).under("relationships"))?;
            if let Some(table) = schema.tables.get_mut(name) {
                table.relationships = read;
            }
        }
        Ok(schema)
    }

    fn read_relationships(
        &self,
        parser: &Parser,
        table: &str,
        json: &Json,
    ) -> Result<BTreeMap<Arc<str>, Vec<Hop>>, ParseError> {
        let mut relationships = BTreeMap::new();
        let mut from = self.tables.get(table).ok_or_else(|| ParseError::new(format!("There is no table {table}")))?;
        let start = from;
        for (name, json) in entries(json)? {
            let hops = list(json, |json| hop(parser, json)).map_err(|error| error.under(name))?;
            if !(1..=2).contains(&hops.len()) {
                return Err(ParseError::expected("array of one or two hops", json).under(name));
            }
            from = start;
            for hop in &hops {
                let to = self.tables.get(&hop.dest_table);
                let to =
                    to.ok_or_else(|| ParseError::new(format!("There is no table {}", hop.dest_table)).under(name))?;
                if hop.source_field.is_empty() || hop.source_field.len() != hop.dest_field.len() {
                    return Err(ParseError::new("sourceField and destField must have the same length").under(name));
                }
                let unknown = hop.source_field.iter().find(|column| from.column(column).is_none());
                let unknown = unknown.or_else(|| hop.dest_field.iter().find(|column| to.column(column).is_none()));
                if let Some(column) = unknown {
                    return Err(ParseError::new(format!("There is no column {column}")).under(name));
                }
                from = to;
            }
            relationships.insert(Arc::clone(name), hops);
        }
        Ok(relationships)
    }

    /// A query in the server's names.
    ///
    /// # Errors
    /// When the query names a table or column that the schema does not have.
    pub fn to_server(&self, ast: &Ast) -> Result<Ast, NameError> {
        let table = self.tables.get(&ast.table).ok_or_else(|| NameError::Table(Arc::clone(&ast.table)))?;
        let name = |column: &Arc<str>| server_column(&ast.table, table, column);
        let start = |start: &Bound| {
            let row = start.row.iter().map(|(column, value)| Ok((name(column)?, value.clone())));
            Ok(Bound { row: row.collect::<Result<_, _>>()?, exclusive: start.exclusive })
        };
        Ok(Ast {
            schema: ast.schema.clone(),
            table: Arc::clone(&table.server_name),
            alias: ast.alias.clone(),
            r#where: ast.r#where.as_ref().map(|condition| self.condition(&ast.table, table, condition)).transpose()?,
            related: ast
                .related
                .iter()
                .map(|related| self.subquery(&ast.table, table, related))
                .collect::<Result<_, _>>()?,
            start: ast.start.as_ref().map(start).transpose()?,
            limit: ast.limit,
            order_by: ast
                .order_by
                .iter()
                .map(|(column, direction)| Ok((name(column)?, *direction)))
                .collect::<Result<_, _>>()?,
        })
    }

    fn condition(&self, name: &Arc<str>, table: &ZeroTable, condition: &Condition) -> Result<Condition, NameError> {
        let all = |conditions: &[Condition]| -> Result<Vec<Condition>, NameError> {
            conditions.iter().map(|condition| self.condition(name, table, condition)).collect()
        };
        Ok(match condition {
            Condition::And(conditions) => Condition::And(all(conditions)?),
            Condition::Or(conditions) => Condition::Or(all(conditions)?),
            Condition::Simple { op, left, right } => {
                let left = match left {
                    ValuePosition::Column(column) => ValuePosition::Column(server_column(name, table, column)?),
                    other => other.clone(),
                };
                Condition::Simple { op: *op, left, right: right.clone() }
            }
            Condition::Exists { related, negated, flip, scalar } => Condition::Exists {
                related: self.subquery(name, table, related)?,
                negated: *negated,
                flip: *flip,
                scalar: *scalar,
            },
        })
    }

    fn subquery(
        &self,
        name: &Arc<str>,
        table: &ZeroTable,
        related: &CorrelatedSubquery,
    ) -> Result<CorrelatedSubquery, NameError> {
        let child_name = &related.subquery.table;
        let child = self.tables.get(child_name).ok_or_else(|| NameError::Table(Arc::clone(child_name)))?;
        let names = |name: &Arc<str>, table: &ZeroTable, columns: &[Arc<str>]| -> Result<Vec<Arc<str>>, NameError> {
            columns.iter().map(|column| server_column(name, table, column)).collect()
        };
        let correlation = Correlation {
            parent_field: names(name, table, &related.correlation.parent_field)?,
            child_field: names(child_name, child, &related.correlation.child_field)?,
        };
        let subquery = Box::new(self.to_server(&related.subquery)?);
        Ok(CorrelatedSubquery { correlation, subquery, hidden: related.hidden, system: related.system })
    }

    /// The tables as queries see them, in the server's names.
    pub fn schema(&self) -> Schema {
        Schema::new(self.tables.values().map(|table| {
            let column = |column: &ZeroColumn| Column {
                name: Arc::clone(&column.server_name),
                value_type: column.value_type,
                nullable: column.optional,
            };
            let key = table.primary_key.iter();
            let primary_key: Vec<usize> =
                key.filter_map(|name| table.columns.iter().position(|column| column.name == *name)).collect();
            Table {
                name: Arc::clone(&table.server_name),
                columns: table.columns.iter().map(column).collect(),
                unique_keys: vec![primary_key.clone()],
                primary_key,
            }
        }))
    }

    /// What the client tells a server about its tables. The library sorts the columns of keys.
    pub fn client_schema(&self) -> ClientSchema {
        let table = |table: &ZeroTable| {
            let columns = table.columns.iter();
            let columns = columns.map(|column| (Arc::clone(&column.server_name), ClientType::Value(column.value_type)));
            let key = table.primary_key.iter().filter_map(|name| table.column(name));
            let mut key: Vec<Arc<str>> = key.map(|column| Arc::clone(&column.server_name)).collect();
            key.sort_by(|a, b| a.encode_utf16().cmp(b.encode_utf16()));
            (Arc::clone(&table.server_name), ClientTable { columns: columns.collect(), primary_key: Some(key) })
        };
        ClientSchema { tables: self.tables.values().map(table).collect() }
    }
}

fn server_column(name: &Arc<str>, table: &ZeroTable, column: &Arc<str>) -> Result<Arc<str>, NameError> {
    let found = table.column(column).map(|column| Arc::clone(&column.server_name));
    found.ok_or_else(|| NameError::Column { table: Arc::clone(name), column: Arc::clone(column) })
}

fn entries(json: &Json) -> Result<&[(Arc<str>, Json)], ParseError> {
    json.as_object().ok_or_else(|| ParseError::expected("object", json))
}

fn table(parser: &Parser, name: &Arc<str>, json: &Json) -> Result<ZeroTable, ParseError> {
    let fields = parser.object(json, &[])?;
    let mut columns = Vec::new();
    for (name, json) in fields.required("columns", entries)? {
        columns.push(column(parser, name, json).map_err(|error| error.under(name).under("columns"))?);
    }
    let primary_key = fields.required("primaryKey", |json| list(json, string))?;
    if let Some(unknown) = primary_key.iter().find(|key| columns.iter().all(|column| column.name != **key)) {
        return Err(ParseError::new(format!("There is no column {unknown}")).under("primaryKey"));
    }
    let server_name = fields.optional("serverName", string)?.unwrap_or_else(|| Arc::clone(name));
    // Tables of Postgres's own schema have no prefix in the replica.
    let server_name = server_name.strip_prefix("public.").map(Arc::from).unwrap_or(server_name);
    Ok(ZeroTable { server_name, columns, primary_key, relationships: BTreeMap::new() })
}

fn column(parser: &Parser, name: &Arc<str>, json: &Json) -> Result<ZeroColumn, ParseError> {
    const TYPES: [ValueType; 4] = [ValueType::String, ValueType::Number, ValueType::Boolean, ValueType::Json];
    let fields = parser.object(json, &[])?;
    let value_type = fields.required("type", |json| {
        let found = TYPES.into_iter().find(|value_type| Some(value_type.name()) == json.as_str());
        found.ok_or_else(|| ParseError::expected("one of string, number, boolean, json", json))
    })?;
    let boolean = |json: &Json| json.as_bool().ok_or_else(|| ParseError::expected("boolean", json));
    Ok(ZeroColumn {
        name: Arc::clone(name),
        server_name: fields.optional("serverName", string)?.unwrap_or_else(|| Arc::clone(name)),
        value_type,
        optional: fields.optional("optional", boolean)?.unwrap_or(false),
    })
}

fn hop(parser: &Parser, json: &Json) -> Result<Hop, ParseError> {
    let fields = parser.object(json, &[])?;
    Ok(Hop {
        source_field: fields.required("sourceField", |json| list(json, string))?,
        dest_table: fields.required("destSchema", string)?,
        dest_field: fields.required("destField", |json| list(json, string))?,
        one: fields.optional("cardinality", string)?.is_some_and(|cardinality| &*cardinality == "one"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEMA: &str = r#"{
        "tables": {
            "issue": {"name": "issue", "serverName": "public.issues", "primaryKey": ["id", "Z"], "columns": {
                "id": {"type": "string", "optional": false, "customType": null},
                "Z": {"type": "number"},
                "ownerId": {"type": "string", "optional": true, "serverName": "owner_id"}}},
            "user": {"name": "user", "primaryKey": ["id"], "columns": {"id": {"type": "string", "serverName": "_id"}}}
        },
        "relationships": {"issue": {"owner": [
            {"sourceField": ["ownerId"], "destField": ["id"], "destSchema": "user", "cardinality": "one"}]}}
    }"#;

    fn schema() -> ZeroSchema {
        ZeroSchema::parse(&Json::parse(SCHEMA).unwrap()).unwrap()
    }

    #[test]
    fn queries_get_the_names_of_the_server() {
        let map = |text: &str| {
            let mapped = schema().to_server(&Ast::parse_strict(&Json::parse(text).unwrap()).unwrap());
            mapped.map_or_else(|error| error.to_string(), |ast| ast.to_json().to_string())
        };
        let client = r#"{"table":"issue","where":{"type":"and","conditions":[{"type":"simple","left":{"type":"column","name":"ownerId"},"right":{"type":"literal","value":"ownerId"},"op":"="},{"type":"correlatedSubquery","related":{"system":"client","correlation":{"parentField":["ownerId"],"childField":["id"]},"subquery":{"table":"user","alias":"zsubq_owner"}},"op":"EXISTS"}]},"related":[{"correlation":{"parentField":["ownerId"],"childField":["id"]},"subquery":{"table":"user","alias":"owner","orderBy":[["id","desc"]]},"system":"client"}],"start":{"row":{"ownerId":"x"},"exclusive":true},"orderBy":[["ownerId","asc"]]}"#;
        let server = client
            .replace(r#""table":"issue""#, r#""table":"issues""#)
            .replace(r#""name":"ownerId""#, r#""name":"owner_id""#)
            .replace(r#"["ownerId"],"childField":["id"]"#, r#"["owner_id"],"childField":["_id"]"#)
            .replace(r#"["id","desc"]"#, r#"["_id","desc"]"#)
            .replace(r#"{"ownerId":"x"}"#, r#"{"owner_id":"x"}"#)
            .replace(r#"["ownerId","asc"]"#, r#"["owner_id","asc"]"#);
        assert_eq!(map(client), server);
        assert_eq!(map(r#"{"table":"nope"}"#), r#"unknown table "nope""#);
        assert_eq!(map(r#"{"table":"issue","orderBy":[["x","asc"]]}"#), r#"unknown column "x" of "issue" table"#);
    }

    #[test]
    fn the_server_is_told_its_own_names() {
        assert_eq!(
            schema().client_schema().to_json().to_string(),
            r#"{"tables":{"issues":{"columns":{"Z":{"type":"number"},"id":{"type":"string"},"owner_id":{"type":"string"}},"primaryKey":["Z","id"]},"user":{"columns":{"_id":{"type":"string"}},"primaryKey":["_id"]}}}"#
        );
        let schema = schema().schema();
        assert_eq!(schema.table("issues").unwrap().primary_key, [0, 1]);
        assert!(schema.table("issues").unwrap().columns[2].nullable);
    }

    #[test]
    fn broken_schemas_are_refused() {
        let error = |from: &str, to: &str| {
            assert!(SCHEMA.contains(from));
            ZeroSchema::parse(&Json::parse(&SCHEMA.replace(from, to)).unwrap()).unwrap_err().to_string()
        };
        assert_eq!(
            error(r#""destSchema": "user""#, r#""destSchema": "x""#),
            "There is no table x at relationships.issue.owner"
        );
        assert_eq!(error(r#"["ownerId"]"#, r#"["x"]"#), "There is no column x at relationships.issue.owner");
        assert_eq!(error(r#"["id", "Z"]"#, r#"["q"]"#), "There is no column q at tables.issue.primaryKey");
        assert_eq!(
            error(r#""number""#, r#""date""#),
            "Expected one of string, number, boolean, json at tables.issue.columns.Z.type Got \"date\""
        );
    }
}
