//! A report as a page for a browser: one file without scripts or anything to fetch.
//!
//! Plans and the maintenance graph are drawn as SVG; everything that a drawing has no room for stands in the
//! title of its shape and in the tables below it. Everything that comes from data or queries is escaped.

use std::fmt::Write;

use planner::explain::report::{Alternative, Maintenance, NodeReport, Operator, Report};

use crate::units::{count, share, size, time, times};

/// Size of a box, and the room between boxes.
const BOX: (f64, f64) = (252.0, 58.0);
const GAP: (f64, f64) = (28.0, 16.0);

const STYLE: &str = "
:root{--ink:#1c2430;--dim:#667085;--line:#d0d7e2;--paper:#fff;--wash:#f5f7fa;--good:#12805c;--warn:#b45309;--bad:#c0262d;--name:#1d4ed8}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ef;--dim:#98a2b3;--line:#344054;--paper:#12161d;--wash:#1a202a;--good:#34d399;--warn:#fbbf24;--bad:#f87171;--name:#7aa2ff}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:1180px;margin:0 auto;padding:28px 24px 80px}
article{margin-bottom:72px}
h1{font:600 19px/1.45 ui-monospace,monospace;margin:0 0 4px;overflow-wrap:anywhere}
h2{font-size:13px;letter-spacing:.08em;text-transform:uppercase;color:var(--dim);margin:40px 0 12px;border-bottom:1px solid var(--line);padding-bottom:6px}
h3{font-size:15px;margin:26px 0 6px}
h3 small{font-weight:400;color:var(--dim)}
.dim{color:var(--dim)} .good{color:var(--good)} .warn{color:var(--warn)} .bad{color:var(--bad)}
.tiles{display:flex;flex-wrap:wrap;gap:12px;margin:18px 0}
.tile{background:var(--wash);border-radius:10px;padding:12px 18px;min-width:128px}
.tile b{display:block;font-size:22px;font-weight:650} .tile span{color:var(--dim);font-size:13px}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:14px} td,th{padding:5px 12px 5px 0;border-bottom:1px solid var(--line);text-align:left;vertical-align:top}
th{color:var(--dim);font-weight:500} td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
code,pre{font:13px/1.5 ui-monospace,monospace} pre{background:var(--wash);padding:10px 14px;border-radius:8px;white-space:pre-wrap;overflow-wrap:anywhere;margin:6px 0}
details{margin:4px 0} summary{cursor:pointer;color:var(--dim);font-size:14px}
.advice{border-left:3px solid var(--good);background:var(--wash);padding:10px 16px;border-radius:0 8px 8px 0;margin:10px 0}
.advice.note{border-color:var(--warn)} .advice code{font-weight:600}
svg{display:block} svg text{fill:var(--ink);font:13px system-ui,sans-serif} svg .s{fill:var(--dim);font-size:11.5px}
svg rect.b{fill:var(--paper);stroke:var(--line);stroke-width:1.2} svg path.e{stroke:var(--line);fill:none;stroke-width:1.6}
svg .t{font-weight:600} svg rect.bar{fill:var(--name);opacity:.75} svg rect.k{stroke:none}
svg .gf{fill:var(--good)} svg .wf{fill:var(--warn)} svg .bf{fill:var(--bad)}
";

/// The page of these reports.
pub(crate) fn page(reports: &[Report]) -> String {
    let title = match reports {
        [report] => report.name.clone().unwrap_or_else(|| report.query.zql.clone()),
        reports => format!("{} queries", reports.len()),
    };
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\"><title>{} – zql explain</title><style>{STYLE}</style></head><body><main>\n",
        escape(&title)
    );
    if reports.len() > 1 {
        summary(&mut out, reports);
    }
    for (number, report) in reports.iter().enumerate() {
        article(&mut out, report, number);
    }
    out.push_str("</main></body></html>\n");
    out
}

fn summary(out: &mut String, reports: &[Report]) {
    out.push_str("<h2>All queries</h2><table><tr><th>query<th class=n>rows<th class=n>visited<th class=n>time<th class=n>expected cost<th class=n>indexes advised</tr>\n");
    for (number, report) in reports.iter().enumerate() {
        let totals = &report.totals;
        let whole = |number: Option<u64>| number.map_or_else(|| "–".to_owned(), |number| count(number as f64));
        let _ = writeln!(
            out,
            "<tr><td><a href=\"#q{number}\">{}</a><td class=n>{}<td class=n>{}<td class=n>{}<td class=n>{}<td class=n>{}</tr>",
            escape(report.name.as_deref().unwrap_or(&report.query.zql)),
            whole(totals.rows_out),
            whole(totals.rows_visited),
            totals.ms.map_or_else(|| "–".to_owned(), |ms| time(ms * 1e3)),
            time(totals.cost),
            report.advice.iter().filter(|advice| advice.sql.is_some()).count()
        );
    }
    out.push_str("</table>\n");
}

fn article(out: &mut String, report: &Report, number: usize) {
    let _ = write!(out, "<article id=\"q{number}\">");
    if let Some(name) = &report.name {
        let _ = write!(out, "<div class=dim>{}</div>", escape(name));
    }
    let _ = write!(
        out,
        "<h1>{}</h1><div class=dim>hash <code>{}</code> · {} at version <code>{}</code></div>",
        escape(&report.query.zql),
        escape(&report.query.hash),
        report.source.kind,
        escape(&report.source.version)
    );
    for warning in &report.warnings {
        let _ = write!(out, "<div class=warn>{}</div>", escape(warning));
    }
    tiles(out, report);
    advice(out, report);
    out.push_str("<h2>Plan</h2>");
    report.nodes.iter().for_each(|node| plan(out, node, report.source.analyzed));
    maintenance(out, &report.maintenance);
    out.push_str("</article>\n");
}

fn tiles(out: &mut String, report: &Report) {
    let totals = &report.totals;
    out.push_str("<div class=tiles>");
    let mut tile = |value: String, what: &str| {
        let _ = write!(out, "<div class=tile><b>{value}</b><span>{what}</span></div>");
    };
    if let (Some(rows), Some(visited), Some(ms)) = (totals.rows_out, totals.rows_visited, totals.ms) {
        tile(count(rows as f64), "rows of the answer");
        tile(time(ms * 1e3), "to answer");
        tile(count(visited as f64), "rows visited by SQLite");
        tile(count(totals.executions.unwrap_or(0) as f64), "statements run");
        tile(size(totals.bytes_read.unwrap_or(0) as f64), "read");
    } else {
        tile(format!("~{}", count(totals.rows_estimated)), "rows expected");
        tile(time(totals.cost), "expected cost");
    }
    let about = if report.maintenance.measured { "" } else { "~" };
    tile(format!("{about}{}", size(report.maintenance.bytes)), "held to keep it current");
    out.push_str("</div>");
}

fn advice(out: &mut String, report: &Report) {
    out.push_str("<h2>Advice</h2>");
    if report.advice.is_empty() {
        out.push_str("<p class=good>Nothing to do.</p>");
    }
    for advice in &report.advice {
        match &advice.sql {
            Some(sql) => {
                let gains = advice.gains().into_iter().map(|(what, gain, (before, after))| {
                    format!("<br><b class=good>{} cheaper</b> {what} ({} → {})", times(gain), time(before), time(after))
                });
                let gains: String = gains.collect();
                let measured = match (advice.measured_ms, advice.measured_visited) {
                    (Some((before, after)), Some((visited, then))) => format!(
                        "<br><span class=good>measured on a copy: {} → {}, {} → {} rows visited</span>",
                        time(before * 1e3),
                        time(after * 1e3),
                        count(visited as f64),
                        count(then as f64)
                    ),
                    _ => String::new(),
                };
                let _ = write!(
                    out,
                    "<div class=advice><code>{}</code>{gains}{measured}<br>{}</div>",
                    escape(sql),
                    escape(&advice.why)
                );
            }
            None => {
                let _ = write!(out, "<div class=\"advice note\">{}</div>", escape(&advice.why));
            }
        }
    }
}

fn plan(out: &mut String, node: &NodeReport, analyzed: bool) {
    let role = match node.role {
        "root" => "the query's rows".to_owned(),
        "exists" => format!("EXISTS {} of {}", node.alias, node.parent.unwrap_or(0)),
        _ => format!("{} of {}", node.alias, node.parent.unwrap_or(0)),
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
    let _ = write!(out, "<h3>{} {} <small>{} · {rows}{keys}</small></h3>", node.id, escape(&node.table), escape(&role));
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
    if alternatives.iter().all(|alternative| alternative.chosen) {
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
            escape(&alternative.what),
            escape(alternative.why.as_deref().unwrap_or_default())
        );
    }
    out.push_str("</table></details>");
}

fn collect<'o>(operator: &'o Operator, into: &mut Vec<&'o Operator>) {
    into.push(operator);
    operator.inputs.iter().for_each(|input| collect(input, into));
}

/// A box of a drawing.
struct Shape {
    x: f64,
    y: f64,
    title: String,
    lines: Vec<String>,
    class: &'static str,
    /// How full its bar is, from 0 to 1.
    bar: f64,
    hover: String,
}

/// A plan, the last operator at the left and what feeds it to the right.
fn draw(out: &mut String, plan: &Operator, analyzed: bool) {
    let mut operators = Vec::new();
    collect(plan, &mut operators);
    let most = operators.iter().map(|operator| weight(operator, analyzed)).fold(1e-9, f64::max);
    let (mut shapes, mut edges) = (Vec::new(), Vec::new());
    let mut bottom = 0.0;
    place(plan, 0, &mut bottom, analyzed, most, &mut shapes, &mut edges);
    svg(out, &shapes, &edges);
}

/// What the bar of an operator shows: its share of time, or of expected cost.
fn weight(operator: &Operator, analyzed: bool) -> f64 {
    if analyzed {
        return operator.ms.unwrap_or(0.0);
    }
    (operator.cost - operator.inputs.iter().map(|input| input.cost).sum::<f64>()).max(0.0)
}

fn place(
    operator: &Operator,
    depth: usize,
    bottom: &mut f64,
    analyzed: bool,
    most: f64,
    shapes: &mut Vec<Shape>,
    edges: &mut Vec<(usize, usize)>,
) -> usize {
    let own = shapes.len();
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
    let cost = match (operator.ms, &operator.access) {
        (Some(ms), Some(access)) => format!(
            "{} · {} visited in {} runs",
            time(ms * 1e3),
            count(access.rows_visited.unwrap_or(0) as f64),
            count(access.executions.unwrap_or(0) as f64)
        ),
        (Some(ms), None) => time(ms * 1e3),
        (None, _) => format!("cost {}", time(operator.cost)),
    };
    let hover = operator.access.as_ref().map_or_else(|| operator.label.clone(), |access| access.sql.clone());
    let bar = weight(operator, analyzed) / most;
    shapes.push(Shape {
        x: depth as f64 * (BOX.0 + GAP.0),
        y: *bottom,
        title,
        lines: vec![rows, cost],
        class,
        bar,
        hover,
    });
    if operator.inputs.is_empty() {
        *bottom += BOX.1 + GAP.1;
    }
    for input in &operator.inputs {
        let below = place(input, depth + 1, bottom, analyzed, most, shapes, edges);
        edges.push((own, below));
    }
    own
}

fn svg(out: &mut String, shapes: &[Shape], edges: &[(usize, usize)]) {
    let width = shapes.iter().map(|shape| shape.x).fold(0.0, f64::max) + BOX.0 + 2.0;
    let height = shapes.iter().map(|shape| shape.y).fold(0.0, f64::max) + BOX.1 + 4.0;
    let _ =
        write!(out, "<div class=scroll><svg width=\"{width}\" height=\"{height}\" viewBox=\"-1 -1 {width} {height}\">");
    for &(from, to) in edges {
        let (from, to) = (&shapes[from], &shapes[to]);
        let (x, y) = (from.x + BOX.0, from.y + BOX.1 / 2.0);
        let (end, middle) = (to.x, x + GAP.0 / 2.0);
        let _ = write!(out, "<path class=e d=\"M{x} {y}H{middle}V{}H{end}\"/>", to.y + BOX.1 / 2.0);
    }
    for shape in shapes {
        let (x, y) = (shape.x, shape.y);
        let class = if shape.class == "dim" { "" } else { shape.class };
        let _ = write!(
            out,
            "<g><title>{}</title><rect class=b x=\"{x}\" y=\"{y}\" width=\"{}\" height=\"{}\" rx=\"8\"/>\
             <rect class=\"bar k\" x=\"{x}\" y=\"{}\" width=\"{:.1}\" height=\"3\" rx=\"1.5\"/>\
             <svg x=\"{x}\" y=\"{y}\" width=\"{}\" height=\"{}\"><text class=\"t {class}\" x=\"10\" y=\"18\">{}</text>",
            escape(&shape.hover),
            BOX.0,
            BOX.1,
            y + BOX.1 - 3.0,
            (shape.bar * BOX.0).max(2.0),
            BOX.0 - 6.0,
            BOX.1,
            escape(&shape.title)
        );
        for (line, text) in shape.lines.iter().enumerate() {
            let warn = if text.contains('–') { " wf" } else { "" };
            let _ = write!(
                out,
                "<text class=\"s{warn}\" x=\"10\" y=\"{}\">{}</text>",
                34.0 + 15.0 * line as f64,
                escape(text)
            );
        }
        out.push_str("</svg></g>");
    }
    out.push_str("</svg></div>");
}

fn maintenance(out: &mut String, maintenance: &Maintenance) {
    let about = if maintenance.measured { "" } else { "~" };
    let _ = write!(
        out,
        "<h2>Maintenance</h2><p>Holds {about}{} rows in {about}{}.</p>",
        count(maintenance.rows),
        size(maintenance.bytes)
    );
    out.push_str("<div class=scroll><table><tr><th>node<th>keeps<th class=n>groups<th class=n>rows<th class=n>bytes<th>reacts to<th>found by</tr>");
    for node in &maintenance.nodes {
        let _ = write!(
            out,
            "<tr><td>{} {}<td>{}<td class=n>{about}{}<td class=n>{about}{}<td class=n>{about}{}<td>{}<td>{}</tr>",
            node.id,
            escape(&node.table),
            escape(&node.keeps),
            count(node.groups),
            count(node.rows),
            size(node.bytes),
            escape(&node.reacts_to.join(", ")),
            node.found_by.iter().map(|found| escape(found)).collect::<Vec<_>>().join("<br>")
        );
    }
    out.push_str("</table></div><h3>What a change costs</h3><div class=scroll><table><tr><th>a change of one row of<th class=n>reaches it<th class=n>then costs<th class=n>on average<th>and reads</tr>");
    for change in &maintenance.changes {
        let reads: Vec<String> = change
            .reads
            .iter()
            .map(|read| {
                let class = if read.contains("without an index") { "bad" } else { "dim" };
                format!("<span class={class}>{}</span>", escape(read))
            })
            .collect();
        let _ = write!(
            out,
            "<tr><td>{}<td class=n>{}<td class=n>{}<td class=n>{}<td>{}</tr>",
            escape(&change.table),
            share(change.reaches),
            time(change.cost_when_reached),
            time(change.cost),
            reads.join("<br>")
        );
    }
    out.push_str("</table></div>");
}

/// A text that cannot be taken for markup.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
