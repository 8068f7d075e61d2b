//! The rows of an answer, as a report tells them.

use std::sync::Arc;

use engine::commit::StoredRow;
use engine::query::Query;
use serde_json::Value as Json;
use zql_spec::value::Value;

/// Bytes of the values of a node's rows.
pub(super) fn bytes(rows: &[Arc<StoredRow>]) -> u64 {
    let of_value = |value: &Value| match value {
        Value::Null => 0,
        Value::Bool(_) => 1,
        Value::Number(_) => 8,
        Value::String(text) | Value::Json(text) => text.len() as u64,
    };
    rows.iter().flat_map(|row| row.values.iter()).map(of_value).sum()
}

/// The rows of an answer by table, as a client sees them, and the version at which each was written.
pub(super) fn synced_rows(query: &Query, rows: &[engine::graph::AnswerRow]) -> serde_json::Map<String, Json> {
    let mut by_table = serde_json::Map::new();
    for row in rows {
        let Some(node) = query.nodes.iter().find(|node| node.table.name == row.table) else { continue };
        let mut object = serde_json::Map::new();
        for (column, value) in node.table.columns.iter().zip(&row.row.values) {
            let value = match value {
                Value::Json(text) => serde_json::from_str(text).unwrap_or(Json::Null),
                Value::Null => Json::Null,
                Value::Bool(bool) => Json::from(*bool),
                Value::Number(number) if number.fract() == 0.0 && number.abs() < 9e15 => Json::from(*number as i64),
                Value::Number(number) => Json::from(*number),
                Value::String(text) => Json::from(&**text),
            };
            object.insert(column.name.to_string(), value);
        }
        object.insert(engine::replica::VERSION_COLUMN.to_owned(), Json::from(&*row.row.version));
        let of_table = by_table.entry(row.table.to_string()).or_insert_with(|| Json::Array(Vec::new()));
        if let Json::Array(of_table) = of_table {
            of_table.push(Json::Object(object));
        }
    }
    by_table
}
