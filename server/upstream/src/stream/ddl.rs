//! Schema changes in the stream.
//!
//! Event triggers write the published schema before and after a command into the stream, in the
//! transaction of the command. The two are compared by object ids, so that renames are seen as such, and
//! what differs is done to the replica in the same transaction. A change that needs values which the
//! stream does not carry (a table that was filled before it was published, a default that is not a
//! constant, a column whose values were converted) means that the replica must be copied again.

use engine::replica::{ColumnSpec, IndexSpec, ReplicaError, TableSpec, Tx};
use serde::Deserialize;

use crate::error::Error;
use crate::published::{PublishedColumn, PublishedIndex, PublishedSchema, PublishedTable};
use crate::specs::{index_spec, table_spec};
use crate::validate::validate;
use crate::values::column_spec;

/// A message of the event triggers.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DdlMessage {
    /// `ddlStart`, `ddlUpdate` or `schemaSnapshot`.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// The schema before; absent where nothing changed.
    #[serde(default)]
    pub(crate) previous_schema: Option<PublishedSchema>,
    /// The schema after.
    #[serde(default)]
    pub(crate) schema: Option<PublishedSchema>,
    #[serde(default)]
    event: Option<DdlTag>,
}

#[derive(Debug, Deserialize)]
struct DdlTag {
    tag: String,
}

impl DdlMessage {
    /// Reads a message; `None` for one of a kind that says nothing about the schema.
    pub(crate) fn parse(content: &[u8]) -> Result<Option<DdlMessage>, Error> {
        let message: DdlMessage = serde_json::from_slice(content)
            .map_err(|error| Error::ResetRequired(format!("a schema change that cannot be read: {error}")))?;
        Ok(matches!(message.kind.as_str(), "ddlStart" | "ddlUpdate" | "schemaSnapshot").then_some(message))
    }

    /// The command that sent it.
    pub(crate) fn tag(&self) -> &str {
        self.event.as_ref().map_or("UNKNOWN", |event| event.tag.as_str())
    }
}

/// The command that made the change which a message announces. A message at the start of a command tells
/// of what came before it: the enclosing command, if that has started, or one that is not watched.
pub(crate) fn effective_tag(previous: Option<&DdlMessage>, message: &DdlMessage) -> String {
    match previous {
        Some(previous) if previous.kind == "ddlStart" => previous.tag().to_owned(),
        _ if message.kind == "ddlUpdate" => message.tag().to_owned(),
        _ => "UNKNOWN".to_owned(),
    }
}

/// The tables and indexes of a replica, or of one to be.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shape {
    pub(crate) tables: Vec<TableSpec>,
    pub(crate) indexes: Vec<IndexSpec>,
}

impl Shape {
    /// What a replica of a published schema looks like.
    pub(crate) fn of(schema: &PublishedSchema) -> Shape {
        Shape {
            tables: schema.tables.iter().map(table_spec).collect(),
            indexes: schema.indexes.iter().filter_map(|index| index_spec(schema, index)).collect(),
        }
    }

    /// The first thing in which another shape differs.
    pub(crate) fn difference(&self, other: &Shape) -> Option<String> {
        // Lengths and defaults have no effect on what is stored.
        let columns = |table: &TableSpec| -> Vec<(String, String)> {
            table.columns.iter().map(|column| (column.name.clone(), column.declared_type())).collect()
        };
        for table in &other.tables {
            let Some(known) = self.tables.iter().find(|known| known.name == table.name) else {
                return Some(format!("new table {}", table.name));
            };
            if columns(known) != columns(table) {
                return Some(format!("columns of table {}", table.name));
            }
        }
        if let Some(gone) = self.tables.iter().find(|known| !other.tables.iter().any(|table| table.name == known.name))
        {
            return Some(format!("table {} is gone", gone.name));
        }
        let added = other.indexes.iter().find(|index| !self.indexes.contains(index));
        let gone = self.indexes.iter().find(|index| !other.indexes.contains(index));
        added.or(gone).map(|index| format!("index {}", index.name))
    }
}

/// Does to the replica what a command did to the published schema.
///
/// # Errors
/// [`Error::ResetRequired`] when the change needs values that the stream does not carry.
pub(crate) fn apply(
    tx: &mut Tx<'_>,
    before: &PublishedSchema,
    after: &PublishedSchema,
    tag: &str,
) -> Result<(), Error> {
    validate(after).map_err(|error| Error::ResetRequired(error.to_string()))?;
    for index in &before.indexes {
        if !after.indexes.iter().any(|kept| same_index(before, index, after, kept)) {
            tx.drop_index(&index.lite_name()).map_err(failed)?;
        }
    }
    for table in &before.tables {
        if !after.tables.iter().any(|kept| kept.oid == table.oid) {
            tx.drop_table(&table.lite_name()).map_err(failed)?;
        }
    }
    for table in &before.tables {
        if let Some(kept) = after.tables.iter().find(|kept| kept.oid == table.oid) {
            change_table(tx, table, kept, tag)?;
        }
    }
    for table in &after.tables {
        if before.tables.iter().any(|known| known.oid == table.oid) {
            continue;
        }
        // A table that was just created is empty, and what comes into it comes by the stream.
        if !tag.starts_with("CREATE") {
            return Err(reset(format!("table {} was published by {tag}", table.lite_name())));
        }
        tx.create_table(&table_spec(table)).map_err(failed)?;
    }
    for index in &after.indexes {
        if !before.indexes.iter().any(|known| same_index(before, known, after, index))
            && let Some(spec) = index_spec(after, index)
        {
            tx.create_index(&spec).map_err(failed)?;
        }
    }
    Ok(())
}

/// Whether an index is the same: its table and columns may have been renamed.
fn same_index(before: &PublishedSchema, a: &PublishedIndex, after: &PublishedSchema, b: &PublishedIndex) -> bool {
    let (Some(table_a), Some(table_b)) =
        (before.table(&a.schema, &a.table_name), after.table(&b.schema, &b.table_name))
    else {
        return false;
    };
    let columns = |table: &PublishedTable, index: &PublishedIndex| -> Vec<(Option<i16>, String)> {
        let position = |name: &String| table.columns.get(name).map(|column| column.pos);
        index.columns.iter().map(|(name, direction)| (position(name), direction.clone())).collect()
    };
    a.lite_name() == b.lite_name()
        && table_a.oid == table_b.oid
        && a.unique == b.unique
        && columns(table_a, a) == columns(table_b, b)
}

fn change_table(tx: &mut Tx<'_>, before: &PublishedTable, after: &PublishedTable, tag: &str) -> Result<(), Error> {
    let name = after.lite_name();
    if before.lite_name() != name {
        tx.rename_table(&before.lite_name(), &table_spec(after)).map_err(failed)?;
    }
    let by_position = |table: &PublishedTable, position: i16| -> Option<(String, PublishedColumn)> {
        table
            .columns
            .iter()
            .find(|(_, column)| column.pos == position)
            .map(|(name, column)| (name.clone(), column.clone()))
    };
    for (column_name, column) in before.columns_in_order() {
        if by_position(after, column.pos).is_none() {
            tx.drop_column(&name, column_name).map_err(failed)?;
        }
    }
    for (old_name, column) in before.columns_in_order() {
        let Some((new_name, changed)) = by_position(after, column.pos) else { continue };
        let (old, new) = (column_spec(old_name, column), column_spec(&new_name, &changed));
        if old.name == new.name && old.declared_type() == new.declared_type() {
            continue;
        }
        if !keeps_values(column.type_oid, changed.type_oid) {
            return Err(reset(format!("column {new_name} of table {name} has another type")));
        }
        tx.update_column(&name, old_name, &new).map_err(failed)?;
    }
    for (column_name, column) in after.columns_in_order() {
        if by_position(before, column.pos).is_none() {
            let spec = new_column(&name, column_name, column, tag)?;
            tx.add_column(&name, &spec).map_err(failed)?;
        }
    }
    Ok(())
}

/// Whether a change of type leaves every stored value as it is.
fn keeps_values(before: u32, after: u32) -> bool {
    const INTEGERS: [u32; 3] = [21, 23, 20];
    const TEXTS: [u32; 2] = [25, 1043];
    before == after
        || (INTEGERS.contains(&before) && INTEGERS.contains(&after))
        || (TEXTS.contains(&before) && TEXTS.contains(&after))
}

/// An added column with the value that rows which are there get.
fn new_column(table: &str, name: &str, column: &PublishedColumn, tag: &str) -> Result<ColumnSpec, Error> {
    let mut spec = column_spec(name, column);
    let unknown = |why: &str| reset(format!("column {name} was added to table {table} {why}"));
    if tag != "ALTER TABLE" {
        return Err(unknown(&format!("by {tag}")));
    }
    // A domain may have a default of its own that the column does not show.
    if column.pg_type_class.as_deref() == Some("d") {
        return Err(unknown("with a domain as its type"));
    }
    match &column.dflt {
        Some(default) => {
            spec.default =
                Some(constant(&spec, default).ok_or_else(|| unknown(&format!("with the default {default}")))?);
        }
        // An identity column fills the rows that are there; any other NOT NULL column without a default needs an
        // empty table. The two look alike.
        None if column.not_null == Some(true) => return Err(unknown("as NOT NULL without a default")),
        None => {}
    }
    Ok(spec)
}

/// A default of Postgres as a SQLite literal, if it is a constant whose stored form is its text.
fn constant(column: &ColumnSpec, default: &str) -> Option<String> {
    let (text, pg_type) = match default.rsplit_once("::") {
        Some((text, pg_type)) => (text, Some(pg_type)),
        None => (default, None),
    };
    let inner = text.strip_prefix('\'').and_then(|text| text.strip_suffix('\''));
    if column.dimensions > 0 {
        return (text == "ARRAY[]" || inner == Some("{}")).then(|| "'[]'".to_owned());
    }
    let numeric = matches!(&*column.pg_type, "int2" | "int4" | "int8" | "float4" | "float8" | "numeric");
    if numeric {
        let number = inner.unwrap_or(text);
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let (whole, fraction) = match number.split_once('.') {
            Some((whole, fraction)) => (whole, Some(fraction)),
            None => (number, None),
        };
        // A fraction may have been rounded to what the column can hold.
        let holds_fractions =
            column.pg_type.starts_with("float") || (column.pg_type == "numeric" && column.max_length.is_none());
        let legal = digits(whole.strip_prefix('-').unwrap_or(whole))
            && fraction.is_none_or(|fraction| digits(fraction) && holds_fractions);
        return legal.then(|| number.to_owned());
    }
    if column.pg_type == "bool" {
        return match text {
            "true" => Some("1".to_owned()),
            "false" => Some("0".to_owned()),
            _ => None,
        };
    }
    // Only what is stored as Postgres prints it; times, for one, are stored as numbers.
    let plain = column.is_enum
        || matches!(pg_type, Some("text" | "character varying" | "json" | "jsonb" | "uuid"))
            && matches!(&*column.pg_type, "text" | "varchar" | "json" | "jsonb" | "uuid");
    let quoted = inner.is_some_and(|inner| !inner.replace("''", "").contains('\''));
    (plain && quoted).then(|| text.to_owned())
}

fn reset(reason: String) -> Error {
    Error::ResetRequired(format!("{reason}: the replica must be copied again"))
}

fn failed(error: ReplicaError) -> Error {
    Error::ResetRequired(format!("a schema change does not fit the replica: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults() {
        let cases = [
            ("int4", "5", Some("5")),
            ("int4", "1.5", None),
            ("int4", "'-7'::integer", Some("-7")),
            ("float8", "-1.50", Some("-1.50")),
            ("numeric", "'-1.5'::numeric", Some("-1.5")),
            ("numeric", "'NaN'::numeric", None),
            ("bool", "true", Some("1")),
            ("text", "'x'::text", Some("'x'")),
            ("varchar", "'it''s'::character varying", Some("'it''s'")),
            ("jsonb", "'{\"a\": 1}'::jsonb", Some("'{\"a\": 1}'")),
            ("int4[]|TEXT_ARRAY", "'{}'::integer[]", Some("'[]'")),
            ("text[]|TEXT_ARRAY", "ARRAY[]::text[]", Some("'[]'")),
            ("int4[]|TEXT_ARRAY", "'{1}'::integer[]", None),
            ("mood|TEXT_ENUM", "'happy'::public.mood", Some("'happy'")),
            ("timestamptz", "now()", None),
            ("date", "'2024-01-01'::date", None),
            ("text", "'a' || 'b'::text", None),
            ("int8", "nextval('s'::regclass)", None),
            ("text", "'", None),
            ("text", "", None),
            ("int4", "", None),
        ];
        for (declared, default, literal) in cases {
            let column = ColumnSpec::from_declared("c", declared);
            assert_eq!(constant(&column, default).as_deref(), literal, "{declared} {default}");
        }
        let rounded = ColumnSpec { max_length: Some(655_366), ..ColumnSpec::from_declared("c", "numeric") };
        assert_eq!(constant(&rounded, "1.555"), None);
    }

    #[test]
    fn tags_of_nested_commands() {
        let message = |kind: &str, tag: &str| {
            let text = format!(
                "{{\"type\":\"{kind}\",\"event\":{{\"tag\":\"{tag}\"}},\"schema\":null,\"previousSchema\":null}}"
            );
            DdlMessage::parse(text.as_bytes()).unwrap().unwrap()
        };
        let (start, update) = (message("ddlStart", "CREATE TABLE"), message("ddlUpdate", "CREATE TABLE"));
        let nested = message("ddlStart", "ALTER TABLE");
        assert_eq!(effective_tag(Some(&start), &nested), "CREATE TABLE");
        assert_eq!(effective_tag(Some(&update), &nested), "UNKNOWN");
        assert_eq!(effective_tag(None, &nested), "UNKNOWN");
        assert_eq!(effective_tag(Some(&start), &update), "CREATE TABLE");
        assert!(DdlMessage::parse(b"{\"type\":\"other\"}").unwrap().is_none());
        assert!(DdlMessage::parse(b"not json").is_err());
    }
}
