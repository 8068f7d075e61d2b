//! The test suite of the language, for any implementation.
//!
//! Cases are text files (`zql-spec/cases`): a query over a [`DataSet`], the rows it gives as a [`Tree`], and transactions
//! with what each changes. This module reads and writes them ([`file`]), runs them on a [`Backend`] and compares
//! ([`run`]), fills in what is expected from the naive evaluator ([`complete`]) and lists what is covered ([`matrix`]).
//!
//! It must not know any implementation but the naive evaluator, nor files, clocks or sockets. Data sets are small on
//! purpose: the naive evaluator's cost is the product of the tables' sizes along a path of the query.

mod backend;
mod change;
mod dataset;
mod defects;
mod edit;
mod file;
mod key;
mod matrix;
mod runner;
#[cfg(test)]
mod tests;
mod tree;

pub use backend::{Asked, Backend, BackendError, Held, Naive, Query, Reply};
pub use change::change;
pub use dataset::{DataColumn, DataSet, DataTable, PG_TYPES};
pub use defects::Defects;
pub use edit::{operations, print_operation};
pub use file::{Case, CaseFile, Expected, Step};
pub use matrix::Matrix;
pub use runner::{Outcome, check_held, check_rows, complete, query_of, run};
pub use tree::{Tree, TreeNode};

/// Why a case or data set cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct CaseError {
    /// The line of the file, from 1; 0 when it does not matter.
    pub line: usize,
    /// What is wrong.
    pub what: String,
}

impl CaseError {
    pub(crate) fn new(line: usize, what: impl Into<String>) -> Self {
        CaseError { line, what: what.into() }
    }
}
