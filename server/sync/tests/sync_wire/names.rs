//! Pokes, written so that they read like a transcript.

use std::collections::BTreeMap;

use protocol_client::Poke;
use serde_json::Value;
use zql_spec::protocol::downstream::{JsonRow, QueryOp, RowOp};

/// Short names for hashes and clients, so that a poke reads like a transcript.
#[derive(Default)]
pub(crate) struct Names(BTreeMap<String, String>);

impl Names {
    /// Adds a name.
    pub(crate) fn with(mut self, id: &str, name: &str) -> Names {
        self.0.insert(id.to_owned(), name.to_owned());
        self
    }

    fn of<'a>(&'a self, id: &'a str) -> &'a str {
        self.0.get(id).map_or(id, String::as_str)
    }

    /// What a poke says, a line each: desired queries, got queries, last mutations, rows.
    pub(crate) fn lines(&self, poke: &Poke) -> Vec<String> {
        let op = |op: &QueryOp| match op {
            QueryOp::Put { hash, .. } => format!("put {}", self.of(hash)),
            QueryOp::Del { hash } => format!("del {}", self.of(hash)),
            QueryOp::Clear => "clear".to_owned(),
        };
        let desired = poke.parts.iter().flat_map(|part| part.desired_queries_patches.iter().flatten());
        let mut lines: Vec<String> = desired
            .flat_map(|(client, ops)| ops.iter().map(move |patch| format!("desired {} {}", self.of(client), op(patch))))
            .collect();
        let mut got: Vec<String> = poke.got().map(|patch| format!("got {}", op(patch))).collect();
        got.sort();
        lines.extend(got);
        let changes = poke.parts.iter().flat_map(|part| part.last_mutation_id_changes.iter().flatten());
        lines.extend(changes.map(|(client, id)| format!("last mutation of {} {id}", self.of(client))));
        let id = |row: &JsonRow| row.get("id").and_then(Value::as_str).unwrap_or("?").to_owned();
        let mut rows: Vec<String> = poke
            .rows()
            .map(|row| match row {
                RowOp::Put { table_name, value } => format!("put {table_name} {}", id(value)),
                RowOp::Del { table_name, id: key } => format!("del {table_name} {}", id(key)),
                other => format!("{other:?}"),
            })
            .collect();
        rows.sort();
        lines.extend(rows);
        lines
    }
}
