//! Functions that every connection of the replica has: the language's LIKE and ILIKE.
//!
//! SQLite's own LIKE differs (ASCII case folding, its case switch is per connection), so these have
//! names of their own and leave SQLite's alone.

use std::sync::Arc;

use rusqlite::Connection;
use rusqlite::functions::{Context, FunctionFlags};
use rusqlite::types::ValueRef;
use zql_spec::like::Pattern;

/// Registers `zql_like(text, pattern)` and `zql_ilike(text, pattern)`: 0, 1, or null for a null text.
pub(crate) fn register(connection: &Connection) -> rusqlite::Result<()> {
    // Not SQLITE_INNOCUOUS or direct-only: nothing in the file's schema refers to them.
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC;
    connection.create_scalar_function("zql_like", 2, flags, |context| matched(context, Pattern::like))?;
    connection.create_scalar_function("zql_ilike", 2, flags, |context| matched(context, Pattern::ilike))
}

/// A pattern that is a parameter is the same for all rows, and SQLite keeps what was made of it.
fn matched(context: &Context<'_>, pattern: fn(&str) -> Pattern) -> rusqlite::Result<Option<bool>> {
    let pattern: Arc<Pattern> = context.get_or_create_aux(1, |value| value.as_str().map(pattern))?;
    Ok(match context.get_raw(0) {
        ValueRef::Null => None,
        ValueRef::Text(text) => Some(pattern.matches_bytes(text)),
        // A text that SQLite stored as a number.
        ValueRef::Integer(number) => Some(pattern.matches(&number.to_string())),
        ValueRef::Real(number) => Some(pattern.matches(ryu_js::Buffer::new().format(number))),
        ValueRef::Blob(_) => Some(false),
    })
}
