//! The naive evaluator: the meaning of a query, written as plainly as it can be.
//!
//! A [`Database`] is tables in memory. An [`Evaluation`] answers, straight from the AST, which rows each
//! node of a query has for a parent row; [`Evaluation::check`] compares an implementation's answer with
//! that, leaving it the one freedom the protocol gives (which rows witness an EXISTS), and
//! [`Evaluation::tree`] shows the answer as a client's view would. Nothing is indexed, cached or planned:
//! the cost is the product of the table sizes along a path of the query, and that is the point.
//!
//! It must not be used by a server.

mod check;
mod database;
mod evaluate;
#[cfg(test)]
mod tests;
mod tree;

pub use check::Mismatch;
pub use database::{Database, Operation, Row, Transaction};
pub use evaluate::{Evaluation, Invalid, NodeInfo, NodeRole};
pub use tree::{TreeRow, tree_json};

/// Rows of an EXISTS subquery that a client is given per parent row, if there are as many.
pub const WITNESSES: usize = 3;
