//! Which published tables can be replicated at all, and what to warn about.

use tracing::warn;

use crate::error::Error;
use crate::published::{PublishedSchema, PublishedTable};

/// The replica's own column in every table.
const VERSION_COLUMN: &str = "_0_version";

/// Checks every table.
///
/// # Errors
/// [`Error::Config`] with the first table's fault, in zero-cache's words.
pub(crate) fn validate(schema: &PublishedSchema) -> Result<(), Error> {
    for table in &schema.tables {
        fault(schema, table).map_or(Ok(()), |fault| Err(Error::Config(fault)))?;
        if table.primary_key.is_empty() && identity(table) == "d" {
            warn!(
                table = table.lite_name(),
                "the table has no primary key: its rows are replicated but updates and deletes are refused by Postgres"
            );
        }
    }
    Ok(())
}

fn identity(table: &PublishedTable) -> &str {
    table.replica_identity.as_deref().unwrap_or("d")
}

fn fault(schema: &PublishedSchema, table: &PublishedTable) -> Option<String> {
    let name = table.lite_name();
    if table.columns.contains_key(VERSION_COLUMN) {
        return Some(format!("Table \"{name}\" uses reserved column name \"{VERSION_COLUMN}\""));
    }
    match identity(table) {
        "n" => return Some(format!("Table \"{name}\" with REPLICA IDENTITY NOTHING cannot be replicated")),
        "i" if !schema.indexes_of(table).any(|index| index.is_replica_identity) => {
            return Some(format!("Table \"{name}\" is missing its REPLICA IDENTITY INDEX"));
        }
        _ => {}
    }
    if !legal_name(&table.name, |_| false) {
        return Some(format!("Table \"{name}\" has invalid characters."));
    }
    let column = table.columns.keys().find(|column| !legal_name(column, |c| c == '.'))?;
    Some(format!("Column \"{column}\" in table \"{name}\" has invalid characters."))
}

/// Letters, digits, `_` and `-`, starting with a letter or `_`; `also` after those.
fn legal_name(name: &str, also: fn(char) -> bool) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-' || also(c))
}

#[cfg(test)]
mod tests {
    use super::legal_name;

    #[test]
    fn names() {
        for (name, table, column) in [
            ("t", true, true),
            ("_t-1", true, true),
            ("a.b", false, true),
            ("1t", false, false),
            ("t t", false, false),
            ("", false, false),
        ] {
            assert_eq!((legal_name(name, |_| false), legal_name(name, |c| c == '.')), (table, column), "{name}");
        }
    }
}
