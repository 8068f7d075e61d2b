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
    let columns = rows.first().map(|row| in_order(row.keys().map(|name| (name.as_str(), false)))).unwrap_or_default();
    let cell = |row: &JsonRow, column: &String| match row.get(column) {
        None | Some(JsonValue::Null) => String::new(),
        Some(JsonValue::String(text)) => text.clone(),
        Some(JsonValue::Number(number)) => scalar(column, number.as_f64().unwrap_or(f64::NAN)),
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
    let related =
        |value: &Json| matches!(value, Json::Array(items) if items.iter().all(|item| item.as_object().is_some()));
    let columns = in_order(first.iter().map(|(name, value)| (&**name, related(value))));
    let cells = |object: &Json| columns.iter().map(|column| cell(column, object.get(column))).collect();
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
fn cell(column: &str, json: Option<&Json>) -> String {
    match json {
        None | Some(Json::Null) => String::new(),
        Some(Json::String(text)) => text.to_string(),
        Some(Json::Number(number)) => scalar(column, *number),
        Some(Json::Array(items)) if items.iter().all(|item| item.as_object().is_some()) => {
            let names: Option<Vec<&str>> = items.iter().map(|item| item.get("name")?.as_str()).collect();
            names.map_or_else(|| items.len().to_string(), |names| names.join(", "))
        }
        Some(other) => {
            let mut text = String::new();
            other.write(&mut text);
            text
        }
    }
}

/// A number; in a column that is named like a time, a number that can be one is shown as date and time of day (UTC).
fn scalar(column: &str, number: f64) -> String {
    // 2001 to 2100 in milliseconds.
    const PLAUSIBLE: std::ops::Range<f64> = 978_307_200_000.0..4_102_444_800_000.0;
    let named_so = ["created", "modified", "updated", "at", "time", "date"].iter().any(|end| column.ends_with(end));
    if !named_so || !PLAUSIBLE.contains(&number) {
        let mut text = String::new();
        zql_spec::json::write_number(number, &mut text);
        return text;
    }
    // Positive, so that truncation is the floor.
    let seconds = (number / 1e3) as u64;
    let (days, time) = (seconds / 86_400, seconds % 86_400);
    // Days since 1970 to a date: years of 365.2425 days that begin in March (Howard Hinnant's algorithm, for this era).
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02} {:02}:{:02}:{:02}", time / 3_600, time / 60 % 60, time % 60)
}

/// Columns by their use at a glance: what names the row, its relations, its own values, references and long texts.
fn in_order<'a>(columns: impl Iterator<Item = (&'a str, bool)>) -> Vec<String> {
    let mut columns: Vec<(&str, bool)> = columns.collect();
    columns.sort_by_key(|(name, related)| match *name {
        "id" => 0,
        "name" | "title" => 1,
        "description" | "body" => 5,
        _ if *related => 2,
        name if name.ends_with("_id") => 4,
        _ => 3,
    });
    columns.into_iter().map(|(name, _)| name.to_owned()).collect()
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
        assert_eq!(sections[0].columns, ["id", "title", "labels", "rank"]);
        assert_eq!(sections[0].rows, [["2", "b", "bug, new", "1"], ["1", "a", "", "2"]]);
    }

    #[test]
    fn times_are_readable() {
        for (column, number, expected) in [
            ("created", 1_767_225_600_000.0, "2026-01-01 00:00:00"),
            ("updated_at", 1_709_251_199_500.0, "2024-02-29 23:59:59"),
            ("rank", 1_767_225_600_000.0, "1767225600000"),
            ("created", 12.5, "12.5"),
        ] {
            assert_eq!(scalar(column, number), expected);
        }
    }

    #[test]
    fn an_unknown_query_is_shown_by_table() {
        let sections = sections(&state(), None, 2);
        let seen: Vec<_> = sections.iter().map(|section| (section.title.as_str(), section.rows.len())).collect();
        assert_eq!(seen, [("issue: 3 rows", 2), ("label: 2 rows", 2)]);
    }
}
