//! The tables as one client group sees them: with the primary keys of its client schema, and how their rows
//! become patches.

use std::sync::Arc;

use cvr::row::{RowId, TableKey};
use engine::commit::StoredRow;
use rustc_hash::FxHashMap;
use zql_spec::client_schema::{self, ClientSchema, ClientSchemaError};
use zql_spec::json::{Json, write_string};
use zql_spec::protocol::error::{ErrorBody, ErrorKind};
use zql_spec::schema::{Schema, Table};
use zql_spec::value::Value;

use super::{Fault, Group};
use crate::hub::Services;
use crate::poke::PokeText;
use crate::replica;
use crate::row_text::{RowTexts, TableText, write_value};

/// Pokes of more rows than this are one group's own, mostly; their texts are not shared.
const SHARED_TEXT_ROWS: usize = 200;

/// All tables of a group. Groups with the same client schema share them.
#[derive(Debug)]
pub(crate) struct Tables {
    /// What queries are resolved against.
    pub(super) schema: Arc<Schema>,
    views: FxHashMap<Arc<str>, TableView>,
}

/// One table of a group.
#[derive(Debug)]
pub(super) struct TableView {
    /// Identifies rows in the record.
    pub(super) key: Arc<TableKey>,
    text: TableText,
    kind: Kind,
}

/// Where the rows of a table go in a poke.
#[derive(Debug)]
enum Kind {
    /// To `rowsPatch`.
    Rows,
    /// The app's `clients` table: to `lastMutationIDChanges`.
    Clients { group: usize, client: usize, last_mutation_id: usize },
    /// The app's `mutations` table: to `mutationsPatch`.
    Mutations { client: usize, id: usize, result: usize },
}

impl Tables {
    /// The tables of a schema; `shard` names the app's own.
    pub(super) fn new(schema: Arc<Schema>, shard: &str) -> Self {
        let view = |table: &Arc<Table>| {
            let columns: Vec<Arc<str>> =
                table.primary_key.iter().map(|&position| Arc::clone(&table.columns[position].name)).collect();
            TableView {
                key: TableKey::new(Arc::clone(&table.name), &columns),
                text: TableText::new(table),
                kind: kind(table, shard),
            }
        };
        let views = schema.tables.iter().map(|(name, table)| (Arc::clone(name), view(table))).collect();
        Tables { schema, views }
    }

    /// A table by name.
    pub(super) fn get(&self, name: &str) -> Option<&TableView> {
        self.views.get(name)
    }

    /// The key of a row in the order in which the replica is asked for it.
    pub(super) fn lookup_key(&self, row: &RowId) -> Option<Vec<Value>> {
        let table = self.schema.table(row.table())?;
        let value = |&position: &usize| {
            let name = &table.columns[position].name;
            row.columns().find(|(column, _)| *column == name).map(|(_, value)| value.clone())
        };
        table.primary_key.iter().map(value).collect()
    }
}

impl Group {
    /// Checks the client schema against the replica and prepares the tables, unless that is done.
    pub(super) fn prepare_tables(&mut self) -> Result<(), Fault> {
        if self.tables.is_some() {
            return Ok(());
        }
        let Some(schema) = self.record()?.cvr.client_schema.clone() else { return Ok(()) };
        let Services { replica, config, client_schemas, .. } = &*self.services;
        let replica_schema = replica.schema();
        let tables = client_schemas.made(&schema, &replica_schema, || {
            let unsupported =
                |message: String| Fault::group(ErrorBody::new(ErrorKind::SchemaVersionNotSupported, message));
            let parsed = Json::parse(&schema.to_string())
                .map_err(|error| error.to_string())
                .and_then(|json| ClientSchema::parse_lenient(&json).map_err(|error| error.to_string()));
            let client_schema =
                parsed.map_err(|error| unsupported(format!("Could not parse clientSchema stored in CVR: {error}")))?;
            let replicated = replica::replicated_tables(replica, &config.app_id, &config.shard());
            client_schema::check(&client_schema, &replicated).map_err(|error| match error {
                ClientSchemaError::NothingReplicated => Fault::internal(&error),
                ClientSchemaError::NotSupported(message) => unsupported(message),
            })?;
            Ok(Tables::new(Arc::new(client_schema.apply_keys(&replica_schema)), &config.shard()))
        })?;
        self.tables = Some(tables);
        Ok(())
    }
}

fn kind(table: &Table, shard: &str) -> Kind {
    let own = table.name.strip_prefix(shard).and_then(|rest| rest.strip_prefix('.'));
    let column = |name: &str| table.column_index(name);
    let found = match own {
        Some("clients") => (|| {
            Some(Kind::Clients {
                group: column("clientGroupID")?,
                client: column("clientID")?,
                last_mutation_id: column("lastMutationID")?,
            })
        })(),
        Some("mutations") => (|| {
            Some(Kind::Mutations { client: column("clientID")?, id: column("mutationID")?, result: column("result")? })
        })(),
        _ => None,
    };
    found.unwrap_or(Kind::Rows)
}

/// Adds the patch that puts a row.
pub(super) fn write_put(
    table: &TableView,
    row: &Arc<StoredRow>,
    group: &str,
    rows_in_poke: usize,
    texts: &RowTexts,
    poke: &mut PokeText,
) {
    match table.kind {
        Kind::Rows if rows_in_poke <= SHARED_TEXT_ROWS => {
            let text = texts.put(&table.text, row);
            poke.row(|out| out.push_str(&text));
        }
        Kind::Rows => poke.row(|out| table.text.write_put(row, out)),
        Kind::Clients { group: group_column, client, last_mutation_id } => {
            let own = matches!(&row.values[group_column], Value::String(other) if **other == *group);
            if let (true, Value::String(client)) = (own, &row.values[client]) {
                poke.last_mutation_id(client, |out| write_value(&row.values[last_mutation_id], out));
            }
        }
        Kind::Mutations { client, id, result } => poke.mutation(|out| {
            out.push_str(r#"{"op":"put","mutation":{"id":{"clientID":"#);
            write_value(&row.values[client], out);
            out.push_str(r#","id":"#);
            write_value(&row.values[id], out);
            out.push_str(r#"},"result":"#);
            write_value(&row.values[result], out);
            out.push_str("}}");
        }),
    }
}

/// Adds the patch that deletes a row.
pub(super) fn write_del(table: &TableView, row: &RowId, poke: &mut PokeText) {
    match table.kind {
        Kind::Rows => poke.row(|out| {
            out.push_str(r#"{"op":"del","tableName":"#);
            write_string(row.table(), out);
            out.push_str(r#","id":"#);
            row.write_json(out);
            out.push('}');
        }),
        // A client that is gone keeps its last mutation id.
        Kind::Clients { .. } => {}
        Kind::Mutations { .. } => {
            let column = |name: &str| row.columns().find(|(column, _)| &***column == name).map(|(_, value)| value);
            let (Some(client), Some(id)) = (column("clientID"), column("mutationID")) else { return };
            poke.mutation(|out| {
                out.push_str(r#"{"op":"del","id":{"clientID":"#);
                write_value(client, out);
                out.push_str(r#","id":"#);
                write_value(id, out);
                out.push_str("}}");
            });
        }
    }
}
