//! Running a case on a backend, and filling in what a case expects.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::backend::{Backend, BackendError, Held, Naive, Query, Reply};
use super::change::{canonical, change, same};
use super::dataset::DataSet;
use super::edit::operations;
use super::file::{Case, Expected};
use super::tree::Tree;
use crate::ast::Ast;
use crate::format::Format;
use crate::json::Json;
use crate::naive::{Database, Evaluation, Operation, Row};
use crate::query_text;

/// How a case ended on a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All was as expected.
    Passed,
    /// Something was not; the text says what.
    Failed(String),
    /// The backend cannot do this; the text says why.
    Skipped(String),
}

/// The query of a case, bound to the claims of whoever asks.
///
/// # Errors
/// When it cannot be read.
pub fn query_of(case: &Case, data: &DataSet) -> Result<Query, String> {
    let query = parse_query(&case.query, data)?;
    Ok(case.claims.iter().fold(query, Query::by))
}

/// A query: fluent text over the data set's schema, or an AST as JSON.
pub(super) fn parse_query(text: &str, data: &DataSet) -> Result<Query, String> {
    if text.trim_start().starts_with('{') {
        let json = Json::parse(text).map_err(|error| error.to_string())?;
        let ast = Ast::parse_strict(&json).map_err(|error| error.to_string())?;
        return Ok(Query::new(ast, Format::default()));
    }
    let query = query_text::parse_with(text, &data.zero).map_err(|error| error.to_string())?;
    let ast = data.zero.to_server(&query.ast).map_err(|error| error.to_string())?;
    Ok(Query::new(ast, query.format))
}

/// Runs a case. Whatever happens, the backend is brought to the end of it.
///
/// # Errors
/// When the backend broke, which may spoil what comes after.
pub fn run(case: &Case, data: &Arc<DataSet>, backend: &mut dyn Backend) -> Result<Outcome, BackendError> {
    let query = match query_of(case, data) {
        Ok(query) => query,
        Err(what) => return Ok(Outcome::Failed(format!("the query cannot be read: {what}"))),
    };
    let outcome = steps(case, data, &query, backend);
    let ended = backend.end();
    let outcome = outcome?;
    ended.map(|()| outcome)
}

fn steps(case: &Case, data: &Arc<DataSet>, query: &Query, backend: &mut dyn Backend) -> Result<Outcome, BackendError> {
    let mut tree = match (backend.begin(data, query)?, &case.answer) {
        (Reply::Skipped(why), _) => return Ok(Outcome::Skipped(why)),
        (_, None) => return Ok(Outcome::Failed("the case has no expectation: fill it in with --rewrite".into())),
        (Reply::Refused(text), Some(Expected::Refused(expected)))
            if !backend.refuses_in_our_words() || refuses(&text, expected) =>
        {
            return Ok(Outcome::Passed);
        }
        (Reply::Refused(text), Some(expected)) => {
            return Ok(Outcome::Failed(format!("refused with {text:?} instead of {expected:?}")));
        }
        (Reply::Answer(_), Some(Expected::Refused(text))) => {
            return Ok(Outcome::Failed(format!("answered instead of refusing with {text:?}")));
        }
        (Reply::Answer(tree), Some(Expected::Rows(expected))) => {
            if let Err(what) = compare("rows", &tree.lines(), expected).and_then(|()| check_rows(&tree, &data.database))
            {
                return Ok(Outcome::Failed(what));
            }
            tree
        }
    };
    let mut database = data.database.clone();
    for (number, step) in case.steps.iter().enumerate() {
        let at = |what: String| Ok(Outcome::Failed(format!("transaction {}: {what}", number + 1)));
        let transaction = match operations(&step.operations, data, &database) {
            Ok(transaction) => transaction,
            Err(what) => return at(what),
        };
        database.apply(&transaction);
        let after = match backend.step(&transaction, &database)? {
            Reply::Answer(after) => after,
            Reply::Skipped(why) => return Ok(Outcome::Skipped(why)),
            Reply::Refused(text) => return at(format!("refused with {text:?}")),
        };
        let Some(expected) = &step.change else {
            return at("no change is expected: fill it in with --rewrite".into());
        };
        let found = change(&tree, &after, &data.schema);
        if let Err(what) = compare("change", &found, expected).and_then(|()| check_rows(&after, &database)) {
            return at(what);
        }
        tree = after;
    }
    Ok(Outcome::Passed)
}

/// Whether a refusal has the expected text somewhere in it, up to a colon: what follows one depends on what else there
/// is in an implementation's database.
fn refuses(text: &str, expected: &str) -> bool {
    text.contains(expected.split_once(": ").map_or(expected, |(stable, _)| stable))
}

fn compare(what: &str, found: &[String], expected: &[String]) -> Result<(), String> {
    if found == expected {
        return Ok(());
    }
    let list = |lines: &[String]| if lines.is_empty() { "none".to_owned() } else { lines.join("\n    ") };
    Err(format!("{what}:\n    {}\n  instead of:\n    {}", list(found), list(expected)))
}

/// Whether each row of an answer is the database's row of that key.
///
/// # Errors
/// With the first row that is not.
pub fn check_rows(tree: &Tree, database: &Database) -> Result<(), String> {
    for node in tree.all() {
        let row = database.tables.get(&node.table).and_then(|rows| rows.get(&node.key));
        let row = row.ok_or_else(|| format!("{} has no row {:?}", node.table, node.key))?;
        if row.len() != node.row.len() || !row.iter().zip(node.row.iter()).all(|(a, b)| same(a, b)) {
            return Err(format!("a row of {} is {:?} instead of {row:?}", node.table, node.row));
        }
    }
    Ok(())
}

/// Whether the rows that a client holds are right: all that every right answer holds, and none that no right answer
/// does. Which rows witness an EXISTS is free.
///
/// # Errors
/// With the first row too few or too many.
pub fn check_held(query: &Query, database: &Database, held: &Held) -> Result<(), String> {
    let evaluation = Evaluation::new(database, &query.ast).map_err(|invalid| invalid.0)?;
    let (mut always, mut sometimes) = (BTreeSet::new(), BTreeSet::new());
    for (node, (certain, possible)) in evaluation.nodes.iter().zip(evaluation.bounds()) {
        let name = &node.table.name;
        always.extend(certain.into_iter().map(|row| (Arc::clone(name), comparable(&row))));
        sometimes.extend(possible.into_iter().map(|row| (Arc::clone(name), comparable(&row))));
    }
    let rows = held.iter().flat_map(|(table, rows)| rows.iter().map(move |row| (Arc::clone(table), comparable(row))));
    let held: BTreeSet<(Arc<str>, Row)> = rows.collect();
    if let Some((table, row)) = always.difference(&held).next() {
        return Err(format!("a client lacks {row:?} of {table}"));
    }
    match held.difference(&sometimes).next() {
        Some((table, row)) => Err(format!("a client has {row:?} of {table}, which the query does not want")),
        None => Ok(()),
    }
}

/// A row whose documents are equal when their meaning is.
fn comparable(row: &Row) -> Row {
    row.iter().map(canonical).collect()
}

/// Fills in what a case expects from the naive evaluator.
///
/// # Errors
/// When the query or a transaction cannot be read.
pub fn complete(case: &mut Case, data: &Arc<DataSet>) -> Result<(), String> {
    let query = query_of(case, data)?;
    let mut naive = Naive::default();
    let answer = |reply: Result<Reply, BackendError>| reply.map_err(|error| error.to_string());
    let mut tree = match answer(naive.begin(data, &query))? {
        Reply::Answer(tree) => tree,
        Reply::Refused(text) => {
            case.answer = Some(Expected::Refused(text));
            return if case.steps.is_empty() { Ok(()) } else { Err("a refused query has no transactions".into()) };
        }
        Reply::Skipped(why) => return Err(why),
    };
    case.answer = Some(Expected::Rows(tree.lines()));
    let mut database = data.database.clone();
    for step in &mut case.steps {
        let transaction: Vec<Operation> = operations(&step.operations, data, &database)?;
        database.apply(&transaction);
        let Reply::Answer(after) = answer(naive.step(&transaction, &database))? else {
            return Err("refused after a transaction".into());
        };
        step.change = Some(change(&tree, &after, &data.schema));
        tree = after;
    }
    Ok(())
}
