//! The plans of a report as trees beside columns of numbers.

use planner::explain::report::{Access, Alternative, NodeReport, Operator, Report, SqlitePlanLine};

use super::canvas::{Canvas, Ink, wrap};
use crate::units::{count, counted, size, time};

/// A line of a plan with its numbers.
struct Row {
    prefix: String,
    label: String,
    ink: Ink,
    cells: Vec<(Ink, String)>,
    /// Lines below it: indent, ink, text, and whether it may be wrapped.
    below: Vec<(String, Ink, String)>,
}

/// The plan of each node, and what else was weighed.
pub(super) fn plan(canvas: &mut Canvas, report: &Report) {
    let analyzed = report.source.analyzed;
    let heads: &[&str] =
        if analyzed { &["expected", "rows", "visited", "runs", "cost", "time"] } else { &["expected", "cost"] };
    canvas.title("PLAN", "each node of the query, parents first");
    for node in &report.nodes {
        let mut rows = Vec::new();
        if let Some(plan) = &node.plan {
            operator(plan, "  ", "", analyzed, &mut rows);
        }
        let facts = facts(node);
        let longest = rows.iter().map(|row| row.prefix.chars().count() + row.label.chars().count()).max().unwrap_or(0);
        let numbers = heads.len() * CELL;
        let room = canvas.page.width.saturating_sub(numbers);
        let label_width = longest.max(facts.chars().count()).max(36).min(room).max(24);
        node_line(canvas, node, &facts, label_width, heads);
        for row in &rows {
            let used = row.prefix.chars().count() + row.label.chars().count();
            let gap = " ".repeat(label_width.saturating_sub(used));
            let mut pieces: Vec<(Ink, &str)> = vec![(Ink::Dim, &row.prefix), (row.ink, &row.label), (Ink::Plain, &gap)];
            let cells: Vec<(Ink, String)> =
                row.cells.iter().map(|(ink, cell)| (*ink, format!("{cell:>CELL$}"))).collect();
            pieces.extend(cells.iter().map(|(ink, cell)| (*ink, cell.as_str())));
            canvas.line(pieces);
            for (indent, ink, text) in &row.below {
                canvas.wrapped(indent, *ink, text);
            }
        }
        alternatives(canvas, &node.alternatives);
        canvas.blank();
    }
}

/// Columns of a number.
const CELL: usize = 10;

fn node_line(canvas: &mut Canvas, node: &NodeReport, facts: &str, label_width: usize, heads: &[&str]) {
    let name = format!("{} {}", node.id, node.table);
    let alias = node.alias.strip_prefix("zsubq_").unwrap_or(&node.alias);
    let role = match node.role {
        "root" => "the query's rows".to_owned(),
        "exists" => format!("EXISTS {alias} of {}", node.parent.unwrap_or(0)),
        _ => format!("{alias} of {}", node.parent.unwrap_or(0)),
    };
    let on: Vec<String> = node.on.iter().map(|(parent, own)| format!("{parent} = {own}")).collect();
    let on = if on.is_empty() { String::new() } else { format!(" by {}", on.join(" and ")) };
    let head = format!("{name}  {role}{on}");
    canvas.line([(Ink::Name, name.as_str()), (Ink::Plain, &head[name.len()..])]);
    if node.plan.is_none() {
        canvas.line([(Ink::Dim, facts)]);
        return;
    }
    let gap = " ".repeat(label_width.saturating_sub(facts.chars().count()));
    let numbers: String = heads.iter().map(|head| format!("{head:>CELL$}")).collect();
    if facts.chars().count() > label_width {
        canvas.line([(Ink::Plain, facts)]);
        canvas.line([(Ink::Plain, " ".repeat(label_width).as_str()), (Ink::Dim, numbers.as_str())]);
    } else {
        canvas.line([(Ink::Plain, facts), (Ink::Plain, gap.as_str()), (Ink::Dim, numbers.as_str())]);
    }
}

/// What became of a node, in a line.
fn facts(node: &NodeReport) -> String {
    let mut facts = Vec::new();
    if let Some(why) = node.without_plan {
        facts.push(why.to_owned());
    } else {
        match (node.rows, node.ms) {
            (Some(rows), Some(ms)) => {
                facts.push(format!("{} of {} rows", count(rows as f64), count(node.table_rows)));
                if let Some(keys) = node.keys {
                    facts.push(format!(
                        "for {} (expected {})",
                        counted(keys as f64, "key"),
                        count(node.keys_estimated.unwrap_or(0.0))
                    ));
                }
                facts.push(size(node.bytes.unwrap_or(0) as f64));
                facts.push(format!("{} (expected {})", time(ms * 1e3), time(node.cost)));
            }
            _ => {
                facts.push(format!("~{} of {} rows", count(node.rows_estimated), count(node.table_rows)));
                if let Some(keys) = node.keys_estimated {
                    facts.push(format!("for ~{}", counted(keys, "key")));
                }
                facts.push(format!("cost {}", time(node.cost)));
            }
        }
        if !node.synced {
            facts.push("not sent to clients".to_owned());
        }
    }
    format!("  {}", facts.join(" · "))
}

fn operator(operator: &Operator, indent: &str, branch: &str, analyzed: bool, rows: &mut Vec<Row>) {
    let access = operator.access.as_ref();
    let number = |number: Option<u64>| number.map_or_else(String::new, |number| count(number as f64));
    let cells = if analyzed {
        let ink = if operator.off.is_some() { Ink::Warn } else { Ink::Plain };
        let off = if operator.off.is_some() { "!" } else { "" };
        let visited = access.and_then(|access| access.rows_visited);
        let wasteful = visited.zip(access.and_then(|access| access.rows_read));
        let wasteful = wasteful.is_some_and(|(visited, read)| visited >= 1000 && visited > 10 * read.max(1));
        vec![
            (ink, format!("{}{off}", count(operator.rows_estimated))),
            (Ink::Bold, number(operator.rows)),
            (if wasteful { Ink::Bad } else { Ink::Plain }, number(visited)),
            (Ink::Plain, number(access.and_then(|access| access.executions))),
            (Ink::Plain, time(operator.cost)),
            (Ink::Plain, operator.ms.map_or_else(String::new, |ms| time(ms * 1e3))),
        ]
    } else {
        vec![(Ink::Plain, count(operator.rows_estimated)), (Ink::Plain, time(operator.cost))]
    };
    let (below_indent, input_indent) = match branch {
        "" => (indent.to_owned(), indent.to_owned()),
        "├─ " => (format!("{indent}│  "), format!("{indent}│  ")),
        _ => (format!("{indent}   "), format!("{indent}   ")),
    };
    let bar = if operator.inputs.is_empty() { "    " } else { "│   " };
    let below_indent = format!("{below_indent}{bar}");
    let below = access.map(|access| access_lines(access, &below_indent)).unwrap_or_default();
    let ink = match access {
        Some(access) if access.method == "scan" => Ink::Warn,
        Some(_) => Ink::Good,
        None => Ink::Plain,
    };
    rows.push(Row { prefix: format!("{indent}{branch}"), label: label(operator), ink, cells, below });
    for (position, input) in operator.inputs.iter().enumerate() {
        let branch = if position + 1 == operator.inputs.len() { "└─ " } else { "├─ " };
        self::operator(input, &input_indent, branch, analyzed, rows);
    }
}

/// What an operator does, with how SQLite finds its rows.
fn label(operator: &Operator) -> String {
    let Some(access) = &operator.access else { return operator.label.clone() };
    let how = match (access.method, access.indexes.as_slice()) {
        ("scan", []) => "whole table".to_owned(),
        ("scan", indexes) => format!("all of index {}", indexes.join(", ")),
        ("rowid", _) => "rowid".to_owned(),
        (_, indexes) => format!("index {}", indexes.join(", ")),
    };
    format!("{} {} [{how}]", operator.label, access.table)
}

fn access_lines(access: &Access, indent: &str) -> Vec<(String, Ink, String)> {
    let mut lines = vec![(indent.to_owned(), Ink::Dim, access.sql.clone())];
    if !access.parameters.is_empty() {
        let parameters: Vec<String> =
            access.parameters.iter().map(|parameter| format!("{} = {}", parameter.name, parameter.value)).collect();
        lines.push((indent.to_owned(), Ink::Dim, parameters.join(", ")));
    }
    if let (Some(read), Some(bytes), Some(runs)) = (access.rows_read, access.bytes, access.executions) {
        let (read, bytes) = (counted(read as f64, "row"), size(bytes as f64));
        let gave = format!("gave {read}, {bytes}, in {}", counted(runs as f64, "run"));
        lines.push((indent.to_owned(), Ink::Plain, gave));
    }
    for line in &access.sqlite_plan {
        let indent = format!("{indent}{}• ", "  ".repeat(line.depth));
        lines.push((indent, sqlite_ink(line), sqlite_text(line)));
    }
    lines
}

fn sqlite_ink(line: &SqlitePlanLine) -> Ink {
    let again = line.loops.is_some_and(|loops| loops > 1) || line.depth > 0;
    match &line.text {
        text if text.starts_with("SEARCH") => Ink::Good,
        text if text.starts_with("SCAN") && again => Ink::Bad,
        text if text.starts_with("SCAN") || text.starts_with("USE TEMP B-TREE") => Ink::Warn,
        _ => Ink::Dim,
    }
}

fn sqlite_text(line: &SqlitePlanLine) -> String {
    match (line.visited, line.loops) {
        (Some(sorted), _) if line.text.starts_with("USE TEMP") => {
            format!("{} · {} sorted", line.text, count(sorted as f64))
        }
        (Some(visited), Some(1)) => format!("{} · {} visited", line.text, count(visited as f64)),
        (Some(visited), Some(loops)) => {
            format!("{} · {} visited in {} loops", line.text, count(visited as f64), count(loops as f64))
        }
        _ => line.text.clone(),
    }
}

fn alternatives(canvas: &mut Canvas, alternatives: &[Alternative]) {
    let title = match alternatives {
        [] => return,
        [_] => "  the only way",
        _ => "  ways that were weighed",
    };
    canvas.line([(Ink::Dim, title)]);
    for alternative in alternatives {
        let (mark, ink) = if alternative.chosen { ("  ✓ ", Ink::Good) } else { ("  · ", Ink::Plain) };
        let cost = alternative.cost.map_or_else(|| "–".to_owned(), time);
        let of = match alternative.purpose {
            "keys" => "for its keys: ",
            "branch" => "for a branch: ",
            _ => "",
        };
        let what = format!("{cost:>8}  {of}{}", alternative.what);
        let text = match &alternative.why {
            Some(why) => format!("{what} – {why}"),
            None => what,
        };
        let mut lines = wrap(&text, canvas.page.width.saturating_sub(14)).into_iter();
        if let Some(first) = lines.next() {
            // Wrapping drops the spaces that align the cost.
            let first = format!("{cost:>8}  {}", first.trim_start().strip_prefix(&cost).unwrap_or(&first).trim_start());
            canvas.line([(ink, mark), (ink, first.as_str())]);
        }
        for line in lines {
            canvas.line([(Ink::Plain, "              "), (ink, line.as_str())]);
        }
    }
}
