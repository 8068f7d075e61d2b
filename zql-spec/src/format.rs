//! The shape of a query's result: which relationships a client's view has, and which of them are one object.
//!
//! The shape is the client's alone: it is no part of an AST, and no server knows it.

use std::collections::BTreeMap;
use std::sync::Arc;

/// The shape of the rows of one level.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Format {
    /// One object, or nothing, instead of a list.
    pub singular: bool,
    /// The shapes of relationships, by name. One that is missing is a list of lists.
    pub relationships: BTreeMap<Arc<str>, Format>,
}

impl Format {
    /// The shape of a relationship.
    pub fn relationship(&self, name: &str) -> &Format {
        static LIST: Format = Format { singular: false, relationships: BTreeMap::new() };
        self.relationships.get(name).unwrap_or(&LIST)
    }
}
