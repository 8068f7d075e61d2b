//! Queries as people write them: `issue.where('open', true).related('comments', c => c.limit(10)).limit(5)`.
//!
//! The fluent text of the client library, read without running JavaScript. [`syntax`] turns the text into
//! calls, literals and arrow functions, [`build`] into a query as the library's builder would make it, with the
//! relationships of a [`ZeroSchema`]; [`print`] writes a query as canonical text. Names are those of the schema
//! (client-side); without one a query cannot have relationships, and names stay as they were written.
//!
//! It must not know where a text comes from. Parsing is linear in the text, bounded in depth and never panics.

mod arguments;
mod build;
mod callback;
mod logic;
mod print;
mod syntax;
#[cfg(test)]
mod tests;

use std::fmt;

pub use print::{canonical, print};

use crate::ast::Ast;
use crate::format::Format;
use crate::zero_schema::ZeroSchema;

/// A query that was written as text.
#[derive(Clone, Debug, PartialEq)]
pub struct TypedQuery {
    /// The query, in the names of the text.
    pub ast: Ast,
    /// Which parts of its result are one object instead of a list.
    pub format: Format,
}

/// Why a text is no query, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryTextError {
    /// What is wrong.
    pub what: String,
    /// Byte offset.
    pub position: usize,
}

impl fmt::Display for QueryTextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at position {}", self.what, self.position)
    }
}

impl std::error::Error for QueryTextError {}

type Result<T> = std::result::Result<T, QueryTextError>;

/// Parses the text of a query that has no relationships; names are not checked.
///
/// # Errors
/// When the text is no such query.
pub fn parse(text: &str) -> Result<TypedQuery> {
    build::query(&syntax::parse(text)?, None)
}

/// Parses the text of a query over a schema, whose names it uses.
///
/// # Errors
/// When the text is no query, or names something that the schema does not have.
pub fn parse_with(text: &str, schema: &ZeroSchema) -> Result<TypedQuery> {
    build::query(&syntax::parse(text)?, Some(schema))
}
