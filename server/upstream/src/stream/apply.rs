//! Changes of the stream onto the replica's transaction.
//!
//! A relation message says in which columns the following rows come; it is matched with the replica's
//! table once, and each change is then decoding cells into reused buffers and one call of the writer.

use engine::replica::{Relation, Replica, ReplicaError, SqliteValue, TableSpec, Tx};
use rustc_hash::{FxHashMap, FxHashSet};
use tracing::warn;

use super::ddl::Shape;
use super::pgoutput::{Cell, Message, RelationMessage, Tuple, decode};
use crate::error::Error;
use crate::names::lite_name;
use crate::values::{Decoder, decode_text};

/// The tables of the stream and how their rows are decoded.
pub struct Applier {
    /// The replica as the open transaction has it.
    shape: Shape,
    relations: FxHashMap<u32, Known>,
    keyless: FxHashSet<String>,
    row: Vec<SqliteValue>,
    update: Vec<Option<SqliteValue>>,
    key: Vec<SqliteValue>,
}

/// What the stream said about a table, and what that is in the replica.
struct Known {
    message: RelationMessage,
    /// Made at the first change; a table that is not in the replica matters only then: a partition is described
    /// beside its root although its changes come as the root's.
    table: Option<Table>,
}

/// A table as the stream sends it.
struct Table {
    name: String,
    columns: Vec<Column>,
    /// Positions of the row key in the stream's columns.
    key: Vec<usize>,
    /// The writer's handle, made at the first change.
    handle: Option<Relation>,
}

struct Column {
    name: String,
    decoder: Decoder,
}

impl Applier {
    /// An applier to a replica of this shape.
    pub(crate) fn new(shape: Shape) -> Applier {
        Applier {
            shape,
            relations: FxHashMap::default(),
            keyless: FxHashSet::default(),
            row: Vec::new(),
            update: Vec::new(),
            key: Vec::new(),
        }
    }

    /// An applier to a replica as it is.
    pub fn of_replica(replica: &Replica) -> Applier {
        Applier::new(Shape { tables: replica.tables(), indexes: replica.indexes() })
    }

    /// Applies one message of pgoutput to the open transaction.
    pub fn message(&mut self, tx: &mut Tx<'_>, bytes: &[u8]) -> Result<(), Error> {
        self.apply(tx, bytes).map(drop)
    }

    /// The replica's shape as the open transaction has it.
    pub(crate) fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The open transaction has changed the replica's shape. The server describes altered tables again, others
    /// it does not, and the writer's handles end with the schema.
    pub(crate) fn reshape(&mut self, shape: Shape) {
        self.shape = shape;
        for known in self.relations.values_mut() {
            known.table = None;
        }
    }

    /// Applies one message; gives the relation if it is one, for whoever checks schemas.
    pub(crate) fn apply(&mut self, tx: &mut Tx<'_>, bytes: &[u8]) -> Result<Option<RelationMessage>, Error> {
        match decode(bytes).map_err(|error| Error::Protocol(error.to_string()))? {
            Message::Relation(message) => {
                self.relations.insert(message.oid, Known { message: message.clone(), table: None });
                return Ok(Some(message));
            }
            Message::Insert { relation, new } => self.insert(tx, relation, new)?,
            Message::Update { relation, old, new } => self.update(tx, relation, old, new)?,
            Message::Delete { relation, old } => self.delete(tx, relation, old)?,
            Message::Truncate { relations } => {
                for relation in relations {
                    let table = table_of(&mut self.relations, &self.shape, relation)?;
                    tx.truncate(&table.name).map_err(|error| apply_error(&table.name, error))?;
                }
            }
            Message::Ignored => {}
        }
        Ok(None)
    }

    fn insert(&mut self, tx: &mut Tx<'_>, relation: u32, new: Tuple<'_>) -> Result<(), Error> {
        let table = table_of(&mut self.relations, &self.shape, relation)?;
        check_length(table, new)?;
        self.row.clear();
        for (column, cell) in table.columns.iter().zip(new.cells()) {
            let value = value(&table.name, column, cell)?;
            self.row.push(
                value.ok_or_else(|| Error::Protocol(format!("table {}: a new row is not complete", table.name)))?,
            );
        }
        let handle = handle(table, tx)?;
        tx.insert(&handle, &self.row).map_err(|error| apply_error(&table.name, error))
    }

    fn update(&mut self, tx: &mut Tx<'_>, relation: u32, old: Option<Tuple<'_>>, new: Tuple<'_>) -> Result<(), Error> {
        let table = table_of(&mut self.relations, &self.shape, relation)?;
        if !has_key(&mut self.keyless, table) {
            return Ok(());
        }
        check_length(table, new)?;
        self.update.clear();
        for (column, cell) in table.columns.iter().zip(new.cells()) {
            self.update.push(value(&table.name, column, cell)?);
        }
        if let Some(old) = old {
            key_values(table, old, &mut self.key)?;
            // With identity `full` the old row also has what the new one left out; a key is enough for the
            // writer, which keeps columns that were not sent.
        }
        let handle = handle(table, tx)?;
        let key = old.map(|_| self.key.as_slice());
        tx.update(&handle, key, &self.update).map_err(|error| apply_error(&table.name, error))
    }

    fn delete(&mut self, tx: &mut Tx<'_>, relation: u32, old: Tuple<'_>) -> Result<(), Error> {
        let table = table_of(&mut self.relations, &self.shape, relation)?;
        if !has_key(&mut self.keyless, table) {
            return Ok(());
        }
        key_values(table, old, &mut self.key)?;
        let handle = handle(table, tx)?;
        tx.delete(&handle, &self.key).map_err(|error| apply_error(&table.name, error))
    }
}

/// The table that a change names.
fn table_of<'a>(
    relations: &'a mut FxHashMap<u32, Known>,
    shape: &Shape,
    relation: u32,
) -> Result<&'a mut Table, Error> {
    let known = relations.get_mut(&relation).ok_or_else(|| {
        Error::Protocol(format!("a change of relation {relation}, which the stream has not described"))
    })?;
    match &mut known.table {
        Some(table) => Ok(table),
        none => Ok(none.insert(resolve(shape, &known.message)?)),
    }
}

/// Matches a table of the stream with the replica's.
fn resolve(shape: &Shape, message: &RelationMessage) -> Result<Table, Error> {
    let name = lite_name(&message.schema, &message.name);
    let spec = shape.tables.iter().find(|table| table.name == name).ok_or_else(|| {
        Error::ResetRequired(format!("Table {name} is published but not in the replica: it must be copied again"))
    })?;
    let mut columns = Vec::with_capacity(message.columns.len());
    for column in &message.columns {
        let known = spec.columns.iter().find(|known| known.name == column.name).ok_or_else(|| {
            let column = &column.name;
            Error::ResetRequired(format!(
                "Column {column} of table {name} is not in the replica: it must be copied again"
            ))
        })?;
        let decoder = Decoder::new(column.type_oid, known.is_enum, known.dimensions > 0);
        columns.push(Column { name: column.name.clone(), decoder });
    }
    let key = if message.identity == b'f' {
        chosen_key(shape, spec)
            .iter()
            .filter_map(|key| message.columns.iter().position(|column| &column.name == key))
            .collect()
    } else {
        message.columns.iter().enumerate().filter(|(_, column)| column.key).map(|(at, _)| at).collect()
    };
    Ok(Table { name, columns, key, handle: None })
}

/// The key that clients see: the unique index over NOT NULL columns with the fewest columns, then the
/// first by their names. With identity `full` Postgres names no key.
fn chosen_key(shape: &Shape, spec: &TableSpec) -> Vec<String> {
    let not_null = |name: &String| spec.columns.iter().any(|column| &column.name == name && column.not_null);
    shape
        .indexes
        .iter()
        .filter(|index| index.unique && index.table == spec.name)
        .map(|index| index.columns.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>())
        .filter(|columns| columns.iter().all(not_null))
        .min_by(|a, b| a.len().cmp(&b.len()).then_with(|| a.cmp(b)))
        .unwrap_or_default()
}

fn handle(table: &mut Table, tx: &mut Tx<'_>) -> Result<Relation, Error> {
    if let Some(handle) = &table.handle {
        return Ok(handle.clone());
    }
    let columns: Vec<&str> = table.columns.iter().map(|column| column.name.as_str()).collect();
    let key: Vec<&str> = table.key.iter().map(|&at| columns[at]).collect();
    let made = tx.relation(&table.name, &columns, &key).map_err(|error| apply_error(&table.name, error))?;
    table.handle = Some(made.clone());
    Ok(made)
}

/// Rows without a key cannot be found again. Clients do not see such tables, so their changes are left
/// out instead of ending replication for everybody.
fn has_key(keyless: &mut FxHashSet<String>, table: &Table) -> bool {
    if table.key.is_empty() && keyless.insert(table.name.clone()) {
        warn!(table = table.name, "updates and deletes of a table without a key are not replicated");
    }
    !table.key.is_empty()
}

fn key_values(table: &Table, old: Tuple<'_>, into: &mut Vec<SqliteValue>) -> Result<(), Error> {
    check_length(table, old)?;
    into.clear();
    into.resize(table.key.len(), SqliteValue::Null);
    for (at, cell) in old.cells().enumerate() {
        if let Some(position) = table.key.iter().position(|&key| key == at) {
            into[position] = value(&table.name, &table.columns[at], cell)?
                .ok_or_else(|| Error::Protocol(format!("table {}: an old key is not complete", table.name)))?;
        }
    }
    Ok(())
}

fn check_length(table: &Table, tuple: Tuple<'_>) -> Result<(), Error> {
    if tuple.len() == table.columns.len() {
        return Ok(());
    }
    let (name, columns, cells) = (&table.name, table.columns.len(), tuple.len());
    Err(Error::Protocol(format!("table {name}: a row of {cells} cells for {columns} columns")))
}

fn value(table: &str, column: &Column, cell: Cell<'_>) -> Result<Option<SqliteValue>, Error> {
    match cell {
        Cell::Unchanged => Ok(None),
        Cell::Null => Ok(Some(SqliteValue::Null)),
        Cell::Text(text) => decode_text(column.decoder, text)
            .map(Some)
            .map_err(|error| Error::Protocol(format!("table {table}, column {}: {error}", column.name))),
    }
}

/// A change that does not fit means that stream and file disagree; nothing but a new copy helps.
fn apply_error(table: &str, error: ReplicaError) -> Error {
    match error {
        ReplicaError::Mismatch(message) => Error::ResetRequired(format!("Table {table}: {message}")),
        error => Error::Replica { context: format!("write table {table}"), message: error.to_string() },
    }
}
