//! What clients should hold: the naive evaluator's answer to their queries, compared with what they do hold.
//!
//! The protocol leaves one freedom, which rows witness an EXISTS; so there are rows that a client must hold and rows that
//! it may. Cost is the naive evaluator's.

use std::collections::{BTreeMap, BTreeSet};

use protocol_client::State;
use serde_json::{Value, json};
use zql_spec::ast::Ast;
use zql_spec::naive::{Database, Evaluation};

/// A table and a row of it as JSON text.
type Entry = (String, String);

/// The rows of some queries together.
#[derive(Debug, Default)]
pub(crate) struct Truth {
    must: BTreeSet<Entry>,
    may: BTreeSet<Entry>,
}

impl Truth {
    /// Adds a query's rows.
    pub(crate) fn add(&mut self, database: &Database, ast: &Ast) -> Result<(), String> {
        let evaluation = Evaluation::new(database, ast).map_err(|error| error.0)?;
        for (node, (certain, possible)) in evaluation.nodes.iter().zip(evaluation.bounds()) {
            let entry = |row: &[zql_spec::value::Value]| {
                let columns = node.table.columns.iter().zip(row);
                let row: BTreeMap<&str, Value> = columns
                    .map(|(column, value)| {
                        let value = serde_json::from_str(&value.to_json().to_string()).expect("JSON is JSON");
                        (&*column.name, value)
                    })
                    .collect();
                (node.table.name.to_string(), json!(row).to_string())
            };
            self.must.extend(certain.iter().map(|row| entry(row)));
            self.may.extend(possible.iter().map(|row| entry(row)));
        }
        Ok(())
    }

    /// Compares with what a client holds, leaving out tables of the test's own.
    pub(crate) fn check(&self, state: &State, apart: &[&str]) -> Result<(), String> {
        let tables = state.rows.iter().filter(|(table, _)| !apart.contains(&table.as_str()));
        let held: BTreeSet<Entry> = tables
            .flat_map(|(table, rows)| rows.values().map(|row| (table.clone(), Value::from(row.clone()).to_string())))
            .collect();
        let missing: Vec<_> = self.must.difference(&held).collect();
        let wrong: Vec<_> = held.difference(&self.may).collect();
        if missing.is_empty() && wrong.is_empty() {
            return Ok(());
        }
        Err(format!("missing: {missing:#?}\nwrong: {wrong:#?}"))
    }
}
