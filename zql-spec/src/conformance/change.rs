//! The difference between two trees as text: what a transaction changes in an answer.
//!
//! - `+ i9 { … } after i4`, `+ i9 first`: a row comes, with its related rows.
//! - `- i9`: a row goes, and its related rows with it.
//! - `> i9 after i4`: a row moves; `~ i9 (title)`: columns of a row change.
//! - `in i1.comments: + c9 first`: the same below a row.
//!
//! With the tree before it, the text determines the tree after it, but for the values of rows. Rows that stay in their
//! order are as many as can; among equally many the first ones.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::key;
use super::tree::{Tree, TreeNode};
use crate::json::Json;
use crate::schema::Schema;
use crate::value::Value;

/// The lines that lead from one tree to another; none when they are the same.
pub fn change(before: &Tree, after: &Tree, schema: &Schema) -> Vec<String> {
    let mut lines = Vec::new();
    list(&before.rows, &after.rows, "", schema, &mut lines);
    lines
}

fn list(before: &[TreeNode], after: &[TreeNode], path: &str, schema: &Schema, lines: &mut Vec<String>) {
    let place = if path.is_empty() { String::new() } else { format!("in {path}: ") };
    let old: BTreeMap<&[Value], usize> = before.iter().enumerate().map(|(at, node)| (&*node.key, at)).collect();
    let new: BTreeMap<&[Value], usize> = after.iter().enumerate().map(|(at, node)| (&*node.key, at)).collect();
    for node in before.iter().filter(|node| !new.contains_key(&*node.key)) {
        lines.push(format!("{place}- {}", key::print(&node.key)));
    }
    let common: Vec<usize> = after.iter().filter_map(|node| old.get(&*node.key).copied()).collect();
    let stays = longest_increasing(&common);
    let mut previous: Option<&TreeNode> = None;
    for node in after {
        let position = || match previous {
            Some(previous) => format!("after {}", key::print(&previous.key)),
            None => "first".to_owned(),
        };
        match old.get(&*node.key) {
            None => lines.push(format!("{place}+ {} {}", node.to_text(), position())),
            Some(&at) => {
                let name = key::print(&node.key);
                if !stays.contains(&at) {
                    lines.push(format!("{place}> {name} {}", position()));
                }
                let columns = changed_columns(&before[at], node, schema);
                if !columns.is_empty() {
                    lines.push(format!("{place}~ {name} ({columns})"));
                }
                let path = if path.is_empty() { name } else { format!("{path}.{name}") };
                for ((relationship, _, rows), (_, _, old_rows)) in node.related.iter().zip(&before[at].related) {
                    list(old_rows, rows, &format!("{path}.{relationship}"), schema, lines);
                }
            }
        }
        previous = Some(node);
    }
}

fn changed_columns(before: &TreeNode, after: &TreeNode, schema: &Schema) -> String {
    let Some(table) = schema.table(&after.table) else { return String::new() };
    let cells = before.row.iter().zip(after.row.iter()).zip(&table.columns);
    cells.filter(|((old, new), _)| !same(old, new)).map(|(_, column)| &*column.name).collect::<Vec<_>>().join(", ")
}

/// Equality of values, and of documents whatever the order of their keys.
pub(super) fn same(a: &Value, b: &Value) -> bool {
    a == b || canonical(a) == canonical(b)
}

/// A value that is equal for equal documents. The document `null` is null.
pub(super) fn canonical(value: &Value) -> Value {
    match value {
        Value::Json(_) => match sorted(&value.to_json()) {
            Json::Null => Value::Null,
            json => Value::Json(json.to_string().into()),
        },
        other => other.clone(),
    }
}

fn sorted(json: &Json) -> Json {
    match json {
        Json::Array(elements) => Json::Array(elements.iter().map(sorted).collect()),
        Json::Object(entries) => {
            let mut entries: Vec<_> = entries.iter().map(|(key, value)| (Arc::clone(key), sorted(value))).collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            Json::Object(entries)
        }
        other => other.clone(),
    }
}

/// The elements of a longest increasing subsequence. Lists are short, so quadratic is fine.
fn longest_increasing(numbers: &[usize]) -> Vec<usize> {
    let mut best: Vec<Vec<usize>> = Vec::new();
    for (i, &number) in numbers.iter().enumerate() {
        let mut longest: Vec<usize> = Vec::new();
        for before in best[..i].iter().filter(|run| run.last().is_some_and(|last| *last < number)) {
            if before.len() > longest.len() {
                longest.clone_from(before);
            }
        }
        longest.push(number);
        best.push(longest);
    }
    best.into_iter().reduce(|a, b| if b.len() > a.len() { b } else { a }).unwrap_or_default()
}
