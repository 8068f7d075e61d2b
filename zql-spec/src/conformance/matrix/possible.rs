//! What the language has and what can happen: which empty cells are no gaps.

use crate::ast::SimpleOperator;
use crate::schema::ValueType;

/// Whether an operation on a table can have an effect on an answer. `shown`: the table's rows are part of it at the place.
pub(super) fn happens(kind: &str, effect: &str, shown: bool) -> bool {
    match (kind, effect) {
        // Something else may come and move beside it.
        ("several at once", _) => true,
        // A row moves or changes by an update of its own columns. One whose key changes goes, and another comes.
        ("update", "moves" | "changes") => shown,
        (_, "moves" | "changes") => false,
        // Without any rows of a table nothing comes but by a NOT EXISTS, or in place of what an EXISTS let in.
        ("truncate", "comes") => !shown,
        _ => true,
    }
}

/// Whether columns of a type can be used so.
pub(super) fn is_used(value_type: ValueType, usage: &str) -> bool {
    // Documents have no order and no equality.
    value_type != ValueType::Json || !matches!(usage, "ordered by" | "cursor" | "joined by")
}

/// Whether an operator compares literals of a type.
pub(super) fn compares(op: SimpleOperator, literal: &str) -> bool {
    use SimpleOperator::{ILike, Like, NotILike, NotLike};
    !matches!(op, Like | NotLike | ILike | NotILike) || literal == "string"
}
