//! What answers queries: the trait that implementations are put behind, and the naive evaluator behind it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::dataset::DataSet;
use super::tree::Tree;
use crate::ast::Ast;
use crate::format::Format;
use crate::json::Json;
use crate::naive::{Database, Evaluation, Operation, Row};
use crate::static_params::StaticParams;

/// A query with the shape of its result.
#[derive(Clone, Debug, PartialEq)]
pub struct Query {
    /// The query, in the names of the server. Its static parameters are bound if it is known who asks.
    pub ast: Ast,
    /// The shape.
    pub format: Format,
    /// Who asks what, if that is known: an implementation that binds parameters itself is to be asked so.
    pub asked: Option<Asked>,
}

impl Query {
    /// A query of nobody in particular.
    pub fn new(ast: Ast, format: Format) -> Query {
        Query { ast, format, asked: None }
    }

    /// The same, of a user with these claims.
    pub fn by(mut self, claims: &Json) -> Query {
        let written = self.ast.clone();
        StaticParams { auth_data: Some(claims), pre_mutation_row: None }.bind(&mut self.ast);
        Query { asked: Some(Asked { claims: claims.clone(), written }), ..self }
    }
}

/// A query as a user with claims asks it.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// The claims of the user's token.
    pub claims: Json,
    /// The query with its static parameters.
    pub written: Ast,
}

/// What a backend says.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// The answer as it stands.
    Answer(Tree),
    /// The query is refused, with this text.
    Refused(String),
    /// This backend cannot do this, for this reason.
    Skipped(String),
}

/// A backend broke: it did not answer, or answered with something that is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BackendError(pub String);

/// Rows by table.
pub type Held = BTreeMap<Arc<str>, Vec<Row>>;

/// An implementation of the language under test. It is given one case at a time: `begin`, any number of `step`s, `end`.
pub trait Backend {
    /// Its name in reports.
    fn name(&self) -> &str;

    /// Whether its refusals have the texts of this project. Other implementations have words of their own.
    fn refuses_in_our_words(&self) -> bool {
        true
    }

    /// Asks a query over a data set as it is before any transaction.
    ///
    /// # Errors
    /// When the backend broke.
    fn begin(&mut self, data: &Arc<DataSet>, query: &Query) -> Result<Reply, BackendError>;

    /// Applies a transaction; gives the answer after it. `after` is the database that the transaction leads to.
    ///
    /// # Errors
    /// When the backend broke.
    fn step(&mut self, transaction: &[Operation], after: &Database) -> Result<Reply, BackendError>;

    /// The rows that a client of this implementation holds for the query, if it is one with clients: those of the answer
    /// and those that decide its filters.
    fn held(&self) -> Option<Held> {
        None
    }

    /// Forgets the query, and the transactions since `begin`. Comes after every `begin`, whatever that gave.
    ///
    /// # Errors
    /// When the backend broke.
    fn end(&mut self) -> Result<(), BackendError>;
}

/// The naive evaluator: what it answers is right by definition.
#[derive(Clone, Debug, Default)]
pub struct Naive {
    query: Option<Query>,
}

impl Naive {
    fn answer(&self, database: &Database) -> Result<Reply, BackendError> {
        let query = self.query.as_ref().ok_or_else(|| BackendError("no query was asked".into()))?;
        Ok(match Evaluation::new(database, &query.ast) {
            Ok(evaluation) => Reply::Answer(Tree::of(&evaluation, &query.format)),
            Err(invalid) => Reply::Refused(invalid.0),
        })
    }
}

impl Backend for Naive {
    fn name(&self) -> &str {
        "naive"
    }

    fn begin(&mut self, data: &Arc<DataSet>, query: &Query) -> Result<Reply, BackendError> {
        self.query = Some(query.clone());
        self.answer(&data.database)
    }

    fn step(&mut self, _: &[Operation], after: &Database) -> Result<Reply, BackendError> {
        self.answer(after)
    }

    fn end(&mut self) -> Result<(), BackendError> {
        self.query = None;
        Ok(())
    }
}
