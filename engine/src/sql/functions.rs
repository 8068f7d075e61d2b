//! Functions that every connection of the replica has: the language's LIKE and ILIKE.
//!
//! SQLite's own LIKE differs (ASCII case folding, its case switch is per connection), so these have
//! names of their own and leave SQLite's alone.

use rusqlite::Connection;
use rusqlite::functions::{Context, FunctionFlags};
use rusqlite::types::ValueRef;
use zql_spec::like;

/// Registers `zql_like(text, pattern)` and `zql_ilike(text, pattern)`: 0, 1, or null for a null text.
pub(crate) fn register(connection: &Connection) -> rusqlite::Result<()> {
    // Not SQLITE_INNOCUOUS or direct-only: nothing in the file's schema refers to them.
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC;
    connection.create_scalar_function("zql_like", 2, flags, |context| matched(context, like::like))?;
    connection.create_scalar_function("zql_ilike", 2, flags, |context| matched(context, like::ilike))
}

fn matched(context: &Context<'_>, matches: fn(&str, &str) -> bool) -> rusqlite::Result<Option<bool>> {
    let pattern = context.get_raw(1).as_str().map_err(|error| rusqlite::Error::UserFunctionError(error.into()))?;
    Ok(match context.get_raw(0) {
        ValueRef::Null => None,
        ValueRef::Text(text) => Some(matches(&String::from_utf8_lossy(text), pattern)),
        // A text that SQLite stored as a number.
        ValueRef::Integer(number) => Some(matches(&number.to_string(), pattern)),
        ValueRef::Real(number) => Some(matches(ryu_js::Buffer::new().format(number), pattern)),
        ValueRef::Blob(_) => Some(false),
    })
}
