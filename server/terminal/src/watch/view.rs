//! Rows as tables of text: the query's result when its AST is known, else everything that was synced, by table.

use std::sync::Arc;

use protocol_client::State;
use serde_json::Value as JsonValue;
use zql_spec::ast::Ast;
use zql_spec::json::Json;
use zql_spec::naive::{Database, Evaluation};
use zql_spec::protocol::downstream::JsonRow;
use zql_spec::schema::{Column, Schema, Table, ValueType};
use zql_spec::value::Value;

/// Rows up to which the result is computed from the synced rows. The evaluator compares every row with every other one, so
/// beyond this a frame would take longer than an eye waits.
const EVALUATED_ROWS: usize = 2_000;

/// A table of text.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Section {
    pub title: String,
    pub columns: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

/// What to show of a state; at most `limit` rows a section.
pub(super) fn sections(state: &State, ast: Option<&Ast>, limit: usize) -> Vec<Section> {
    if let Some(ast) = ast
        && state.len() <= EVALUATED_ROWS
        && let Some(section) = result(state, ast, limit)
    {
        return vec![section];
    }
    let tables = state.rows.iter().filter(|(_, rows)| !rows.is_empty());
    tables.map(|(name, rows)| plain(name, rows.values(), rows.len(), limit)).collect()
}

fn plain<'a>(name: &str, rows: impl Iterator<Item = &'a JsonRow>, count: usize, limit: usize) -> Section {
    let rows: Vec<&JsonRow> = rows.take(limit).collect();
    let columns = rows.first().map(|row| id_first(row.keys().map(String::as_str))).unwrap_or_default();
    let cell = |row: &JsonRow, column: &String| match row.get(column) {
        None | Some(JsonValue::Null) => String::new(),
        Some(JsonValue::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    Section {
        title: format!("{name}: {count} rows"),
        rows: rows.iter().map(|row| columns.iter().map(|column| cell(row, column)).collect()).collect(),
        columns,
    }
}

/// The query's result over the synced rows, as the real client computes it.
fn result(state: &State, ast: &Ast, limit: usize) -> Option<Section> {
    let schema =
        Arc::new(Schema::new(state.rows.iter().filter_map(|(name, rows)| table(state, name, rows.values().next()?))));
    let mut database = Database::new(Arc::clone(&schema));
    for (name, rows) in &state.rows {
        let Some(table) = schema.table(name) else { continue };
        let operations: Vec<_> = rows
            .values()
            .map(|row| zql_spec::naive::Operation::Insert {
                table: Arc::clone(&table.name),
                row: table.columns.iter().map(|column| value(row.get(&*column.name))).collect(),
            })
            .collect();
        database.apply(&operations);
    }
    // A table without a row is unknown here, and so is what the query says about it: show what there is instead.
    let evaluation = Evaluation::new(&database, ast).ok()?;
    let tree = evaluation.collapsed(evaluation.tree());
    let json = evaluation.tree_json(&tree);
    let objects = json.as_array()?;
    let first = objects.first().and_then(Json::as_object).unwrap_or_default();
    let columns = id_first(first.iter().map(|(name, _)| &**name));
    let cells = |object: &Json| columns.iter().map(|column| cell(object.get(column))).collect();
    Some(Section {
        title: format!("{}: {} rows in the result, {} synced", ast.table, objects.len(), state.len()),
        rows: objects.iter().take(limit).map(cells).collect(),
        columns,
    })
}

/// A table as far as one of its rows shows it.
fn table(state: &State, name: &str, row: &JsonRow) -> Option<Table> {
    let columns: Vec<Column> = row
        .iter()
        .map(|(column, value)| Column {
            name: Arc::from(column.as_str()),
            value_type: match value {
                JsonValue::Bool(_) => ValueType::Boolean,
                JsonValue::Number(_) => ValueType::Number,
                JsonValue::Array(_) | JsonValue::Object(_) => ValueType::Json,
                JsonValue::String(_) | JsonValue::Null => ValueType::String,
            },
            nullable: true,
        })
        .collect();
    let key = state.key_columns(name, row);
    let primary_key: Vec<usize> =
        columns.iter().enumerate().filter(|(_, column)| key.contains(&&*column.name)).map(|(at, _)| at).collect();
    Some(Table { name: Arc::from(name), columns, unique_keys: vec![primary_key.clone()], primary_key })
}

fn value(json: Option<&JsonValue>) -> Value {
    match json {
        None | Some(JsonValue::Null) => Value::Null,
        Some(json) => Json::parse(&json.to_string()).map_or(Value::Null, |json| Value::from_json(&json)),
    }
}

/// One cell: related rows by their names when they have any, else by their number.
fn cell(json: Option<&Json>) -> String {
    match json {
        None | Some(Json::Null) => String::new(),
        Some(Json::String(text)) => text.to_string(),
        Some(Json::Array(items)) if items.iter().all(|item| item.as_object().is_some()) => {
            let names: Option<Vec<&str>> = items.iter().map(|item| item.get("name")?.as_str()).collect();
            names.filter(|names| !names.is_empty()).map_or_else(|| items.len().to_string(), |names| names.join(", "))
        }
        Some(other) => {
            let mut text = String::new();
            other.write(&mut text);
            text
        }
    }
}

/// Columns in their order, the one that names the row first, long texts of little use at a glance last.
fn id_first<'a>(columns: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut columns: Vec<&str> = columns.collect();
    columns.sort_by_key(|name| match *name {
        "id" => 0,
        "name" | "title" => 1,
        "description" | "body" => 3,
        _ => 2,
    });
    columns.into_iter().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        let mut state = State::default();
        for (table, rows) in [
            (
                "issue",
                r#"[{"id":"1","title":"a","rank":2},{"id":"2","title":"b","rank":1},{"id":"3","title":"c","rank":3}]"#,
            ),
            ("label", r#"[{"id":"x","name":"bug","issue_id":"2"},{"id":"y","name":"new","issue_id":"2"}]"#),
        ] {
            let rows: Vec<JsonRow> = serde_json::from_str(rows).unwrap();
            let rows = rows.into_iter().map(|row| (row["id"].to_string(), row)).collect();
            state.rows.insert(table.to_owned(), rows);
        }
        state
    }

    #[test]
    fn a_known_query_is_shown_as_its_result() {
        let ast = Ast::parse_lenient(
            &Json::parse(
                r#"{"table":"issue","orderBy":[["rank","asc"]],"limit":2,"related":[{"system":"client",
                "correlation":{"parentField":["id"],"childField":["issue_id"]},
                "subquery":{"table":"label","alias":"labels","orderBy":[["name","asc"]]}}]}"#,
            )
            .unwrap(),
        )
        .unwrap();
        let sections = sections(&state(), Some(&ast), 10);
        assert_eq!(sections.len(), 1);
        assert_eq!(sections[0].columns, ["id", "title", "rank", "labels"]);
        assert_eq!(sections[0].rows, [["2", "b", "1", "bug, new"], ["1", "a", "2", "0"]]);
    }

    #[test]
    fn an_unknown_query_is_shown_by_table() {
        let sections = sections(&state(), None, 2);
        let seen: Vec<_> = sections.iter().map(|section| (section.title.as_str(), section.rows.len())).collect();
        assert_eq!(seen, [("issue: 3 rows", 2), ("label: 2 rows", 2)]);
    }
}
