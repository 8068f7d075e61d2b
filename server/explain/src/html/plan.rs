//! The plan of each node: its operators as a drawing, the statements, and the ways that were weighed.

use std::fmt::Write;

use planner::explain::report::{Alternative, NodeReport, Operator};

use super::drawing::{self, Shape};
use super::escape;
use crate::units::{count, counted, size, time, times};

pub(super) fn plan(out: &mut String, node: &NodeReport, analyzed: bool) {
    let alias = node.alias.strip_prefix("zsubq_").unwrap_or(&node.alias);
    let role = match node.role {
        "root" => "the query's rows".to_owned(),
        "exists" => format!("EXISTS {alias} of {}", node.parent.unwrap_or(0)),
        _ => format!("{alias} of {}", node.parent.unwrap_or(0)),
    };
    let rows = match (node.without_plan, node.rows) {
        (Some(why), _) => why.to_owned(),
        (None, Some(rows)) => format!("{} of {} rows", count(rows as f64), count(node.table_rows)),
        (None, None) => format!("~{} of {} rows", count(node.rows_estimated), count(node.table_rows)),
    };
    let keys = match (node.keys, node.keys_estimated) {
        (Some(keys), _) => format!(" · for {} keys", count(keys as f64)),
        (None, Some(keys)) => format!(" · for ~{} keys", count(keys)),
        _ => String::new(),
    };
    let took = match (node.bytes, node.ms) {
        _ if node.without_plan.is_some() => String::new(),
        (Some(bytes), Some(ms)) => {
            format!(" · {} · {} (expected {})", size(bytes as f64), time(ms * 1e3), time(node.cost))
        }
        _ => format!(" · cost {}", time(node.cost)),
    };
    let (table, role) = (escape(&node.table), escape(&role));
    let _ = write!(out, "<h3>{} {table} <small>{role} · {rows}{keys}{took}</small></h3>", node.id);
    let Some(plan) = &node.plan else { return };
    draw(out, plan, analyzed);
    let mut operators = Vec::new();
    collect(plan, &mut operators);
    out.push_str("<details><summary>statements and SQLite's plan</summary>");
    for access in operators.iter().filter_map(|operator| operator.access.as_ref()) {
        let _ = write!(out, "<pre>{}", escape(&access.sql));
        for parameter in &access.parameters {
            let _ =
                write!(out, "\n<span class=dim>{} = {}</span>", parameter.name, escape(&parameter.value.to_string()));
        }
        if let (Some(read), Some(bytes), Some(runs)) = (access.rows_read, access.bytes, access.executions) {
            let (read, bytes) = (counted(read as f64, "row"), size(bytes as f64));
            let _ = write!(out, "\ngave {read}, {bytes}, in {}", counted(runs as f64, "run"));
        }
        for line in &access.sqlite_plan {
            let class = match &line.text {
                text if text.starts_with("SEARCH") => "good",
                text if text.starts_with("SCAN") && (line.depth > 0 || line.loops.is_some_and(|loops| loops > 1)) => {
                    "bad"
                }
                text if text.starts_with("SCAN") || text.starts_with("USE TEMP") => "warn",
                _ => "dim",
            };
            let visited = match (line.visited, line.loops) {
                (Some(visited), Some(loops)) => {
                    format!(" · {} visited in {} loops", count(visited as f64), count(loops as f64))
                }
                _ => String::new(),
            };
            let _ = write!(
                out,
                "\n{}<span class={class}>{}</span>{visited}",
                "  ".repeat(line.depth + 1),
                escape(&line.text)
            );
        }
        out.push_str("</pre>");
    }
    out.push_str("</details>");
    alternatives(out, &node.alternatives);
}

fn alternatives(out: &mut String, alternatives: &[Alternative]) {
    if alternatives.is_empty() {
        return;
    }
    out.push_str("<details><summary>ways that were weighed</summary><table>");
    for alternative in alternatives {
        let class = if alternative.chosen { "good" } else { "dim" };
        let _ = write!(
            out,
            "<tr><td class={class}>{}<td class=n>{}<td>{}<td>{}</tr>",
            if alternative.chosen { "chosen" } else { "" },
            alternative.cost.map_or_else(|| "–".to_owned(), time),
            match alternative.purpose {
                "keys" => "for its keys: ",
                "branch" => "for a branch: ",
                _ => "",
            }
            .to_owned()
                + &escape(&alternative.what),
            escape(alternative.why.as_deref().unwrap_or_default())
        );
    }
    out.push_str("</table></details>");
}

fn collect<'o>(operator: &'o Operator, into: &mut Vec<&'o Operator>) {
    into.push(operator);
    operator.inputs.iter().for_each(|input| collect(input, into));
}

/// A plan, the last operator at the left and what feeds it to the right.
fn draw(out: &mut String, plan: &Operator, analyzed: bool) {
    let mut operators = Vec::new();
    collect(plan, &mut operators);
    let most = operators.iter().map(|operator| weight(operator, analyzed)).fold(1e-9, f64::max);
    let shape = |operator: &Operator| shape(operator, weight(operator, analyzed) / most);
    drawing::draw(out, plan, &shape, &|operator: &Operator| operator.inputs.iter().collect());
}

/// What the bar of an operator shows: its share of time, or of expected cost.
fn weight(operator: &Operator, analyzed: bool) -> f64 {
    if analyzed {
        return operator.ms.unwrap_or(0.0);
    }
    (operator.cost - operator.inputs.iter().map(|input| input.cost).sum::<f64>()).max(0.0)
}

fn shape(operator: &Operator, bar: f64) -> Shape {
    let (title, class) = match &operator.access {
        Some(access) => {
            let how = match (access.method, access.indexes.as_slice()) {
                ("scan", []) => "whole table".to_owned(),
                ("rowid", _) => "rowid".to_owned(),
                (_, indexes) => indexes.join(", "),
            };
            (format!("{} {} · {how}", operator.label, access.table), if access.method == "scan" { "wf" } else { "gf" })
        }
        None => (operator.label.clone(), "dim"),
    };
    let expected = format!("expected {}", count(operator.rows_estimated));
    let rows = match (operator.rows, operator.off) {
        (Some(rows), Some(off)) => {
            let off = if off > 1.0 { format!("{} more", times(off)) } else { format!("{} fewer", times(1.0 / off)) };
            format!("{} rows, {expected} – {off}", count(rows as f64))
        }
        (Some(rows), None) => format!("{} rows, {expected}", count(rows as f64)),
        (None, _) => format!("{expected} rows"),
    };
    let took = operator.ms.map(|ms| match &operator.access {
        Some(access) => format!(
            "{} · {} visited in {}",
            time(ms * 1e3),
            count(access.rows_visited.unwrap_or(0) as f64),
            counted(access.executions.unwrap_or(0) as f64, "run")
        ),
        None => time(ms * 1e3),
    });
    let cost = format!("cost {}", time(operator.cost));
    let hover = operator.access.as_ref().map_or_else(|| operator.label.clone(), |access| access.sql.clone());
    Shape { title, lines: [rows].into_iter().chain(took).chain([cost]).collect(), class, bar, hover, dashed: false }
}
