//! What the inspector's `analyze-query` answers, made from the planner's own report (protocol sheet §19).
//!
//! Rows that are told are bounded ([`MAX_ROWS`]), because the answer is one message to a browser. What the planner advises
//! is told as warnings, which is the place where people look.

use std::sync::Arc;

use engine::replica::Replica;
use planner::Planner;
use planner::explain::report::{NodeReport, Operator, Report};
use planner::explain::{Options, Subject};
use serde_json::{Map, Value, json};
use sync::inspect::analyze::{Analysis, Explain};

/// Rows of each statement that are told, if rows that were read are asked for, and rows of each table of the answer.
const MAX_ROWS: usize = 1_000;

/// The planner over the replica.
pub(crate) struct Analyzer {
    pub(crate) planner: Arc<Planner>,
    pub(crate) replica: Arc<Replica>,
}

impl Explain for Analyzer {
    fn explain(&self, analysis: &Analysis) -> Result<String, String> {
        let snapshot = self.replica.pin().map_err(|error| error.to_string())?;
        let options = Options {
            synced_rows: analysis.options.synced_rows,
            vended_rows: if analysis.options.vended_rows { MAX_ROWS } else { 0 },
            ..Options::default()
        };
        let report = self.planner.report(&Subject::replica(&snapshot), &analysis.ast, &options);
        Ok(value(analysis, report.map_err(|error| error.to_string())?).to_string())
    }
}

/// The answer's value: counts by table and statement, SQLite's plans, rows if they are asked for.
fn value(analysis: &Analysis, mut report: Report) -> Value {
    let mut warnings = analysis.warnings.clone();
    warnings.append(&mut report.warnings);
    for advice in &report.advice {
        warnings.push(match &advice.sql {
            Some(sql) => format!("{} ({sql})", advice.why),
            None => advice.why.clone(),
        });
    }
    let mut read = Map::new();
    let mut visited = Map::new();
    let mut plans = Map::new();
    for statement in &report.statements {
        put(&mut read, &statement.table, &statement.sql, json!(statement.rows_read));
        put(&mut visited, &statement.table, &statement.sql, json!(statement.rows_visited));
        let lines = statement.plan.iter().map(|line| format!("{}{}", "  ".repeat(line.depth), line.text));
        plans.insert(statement.sql.clone(), lines.collect::<Vec<_>>().into());
    }
    let elapsed = report.totals.ms.unwrap_or_default();
    let mut value = json!({
        "syncedRowCount": report.totals.rows_out.unwrap_or_default(),
        "start": 0,
        "end": elapsed,
        "elapsed": elapsed,
        "readRowCountsByQuery": read,
        "readRowCount": report.totals.rows_read.unwrap_or_default(),
        "dbScansByQuery": visited,
        "sqlitePlans": plans,
    });
    if let Some(mut rows) = report.synced_rows.take() {
        for (table, rows) in &mut rows {
            let Value::Array(rows) = rows else { continue };
            if rows.len() > MAX_ROWS {
                warnings.push(format!("{} of {} rows of {table} are shown.", MAX_ROWS, rows.len()));
                rows.truncate(MAX_ROWS);
            }
        }
        value["syncedRows"] = rows.into();
    }
    if analysis.permitted {
        value["afterPermissions"] = report.query.zql.clone().into();
    }
    if analysis.options.vended_rows {
        let mut rows = Map::new();
        for access in report.operators().into_iter().filter_map(|operator: &Operator| operator.access.as_ref()) {
            let columns = columns(&access.sql);
            let row = |values: &Value| -> Value {
                let values = values.as_array().cloned().unwrap_or_default();
                columns.iter().cloned().zip(values).collect::<Map<String, Value>>().into()
            };
            let vended = access.vended_rows.iter().flatten().map(row).collect();
            put(&mut rows, &access.table, &access.sql, Value::Array(vended));
        }
        value["readRows"] = rows.into();
    }
    if analysis.options.join_plans {
        value["joinPlans"] = join_plans(&report).into();
    }
    value["warnings"] = warnings.into();
    value
}

/// The columns that a statement gives, as its text names them.
fn columns(sql: &str) -> Vec<String> {
    let mut columns = Vec::new();
    let mut rest = sql.strip_prefix("SELECT ").unwrap_or_default();
    loop {
        // `n5."name"`; a quote in a name is doubled.
        let Some(start) = rest.find('"') else { return columns };
        let mut name = String::new();
        let mut characters = rest[start + 1..].char_indices().peekable();
        let mut end = rest.len();
        while let Some((at, character)) = characters.next() {
            if character != '"' {
                name.push(character);
            } else if characters.next_if(|(_, next)| *next == '"').is_some() {
                name.push('"');
            } else {
                end = start + 1 + at + 1;
                break;
            }
        }
        columns.push(name);
        rest = match rest.get(end..).and_then(|rest| rest.strip_prefix(", ")) {
            Some(rest) => rest,
            None => return columns,
        };
    }
}

fn put(by_table: &mut Map<String, Value>, table: &str, sql: &str, value: Value) {
    let of_table = by_table.entry(table).or_insert_with(|| Value::Object(Map::new()));
    if let Value::Object(of_table) = of_table {
        of_table.insert(sql.to_owned(), value);
    }
}

/// The planner's choice in the reference's events: one attempt, the cost of each access that it chose, and how each EXISTS
/// is decided: from the rows outside (semi), or from its own (flipped).
fn join_plans(report: &Report) -> Vec<Value> {
    let name = |node: &NodeReport| match node.alias.strip_prefix("zsubq_").unwrap_or(&node.alias) {
        "" => node.table.clone(),
        alias => alias.to_owned(),
    };
    let mut events = vec![json!({ "type": "attempt-start", "attemptNumber": 0, "totalAttempts": 1 })];
    for node in report.nodes.iter().filter(|node| node.plan.is_some()) {
        events.push(json!({
            "type": "node-cost",
            "attemptNumber": 0,
            "nodeType": "connection",
            "node": name(node),
            "branchPattern": [],
            "downstreamChildSelectivity": 1,
            "costEstimate": {
                "startupCost": 0,
                "scanEst": node.table_rows,
                "cost": node.cost,
                "returnedRows": node.rows_estimated,
                "selectivity": node.rows_estimated / node.table_rows.max(1.0),
            },
        }));
    }
    // In the order of the query; the pattern has a bit for each that was flipped.
    let mut joins = Vec::new();
    let mut flipped = 0_u64;
    for node in &report.nodes {
        let Some((decided, parent)) = node.decided.zip(node.parent) else { continue };
        let kind = match decided {
            _ if node.negated => "unflippable",
            "flipped" => "flipped",
            _ => "semi",
        };
        if kind == "flipped" && joins.len() < 52 {
            flipped |= 1 << joins.len();
        }
        joins.push(json!({ "join": format!("{} ⋈ {}", name(&report.nodes[parent]), name(node)), "type": kind }));
    }
    let end = |kind: &str, attempt: &str| {
        json!({
            "type": kind, attempt: 0, "totalCost": report.totals.cost, "flipPattern": flipped, "joinStates": joins,
        })
    };
    events.push(end("plan-complete", "attemptNumber"));
    events.push(end("best-plan-selected", "bestAttemptNumber"));
    events
}

#[cfg(test)]
mod tests {
    use super::columns;

    #[test]
    fn columns_are_those_of_the_text() {
        for (sql, expected) in [
            (
                r#"SELECT n5."id", n5."a, ""b""", n5."_0_version" FROM "comment" AS n5"#,
                vec!["id", "a, \"b\"", "_0_version"],
            ),
            ("PRAGMA x", vec![]),
            (r#"SELECT n0."open"#, vec!["open"]),
        ] {
            assert_eq!(columns(sql), expected, "{sql}");
        }
    }
}
