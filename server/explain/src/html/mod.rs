//! A report as a page for a browser: one file without scripts or anything to fetch.
//!
//! Plans ([`plan`]) and the maintenance graph ([`maintenance`]) are drawn as SVG ([`drawing`]); everything that a drawing has
//! no room for stands in the title of its shape and in the tables below it. Everything that comes from data or queries is
//! escaped.

use std::fmt::Write;

use planner::explain::report::Report;

mod drawing;
mod maintenance;
mod plan;

use crate::units::{count, size, time, times};

const STYLE: &str = include_str!("style.css");

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
    if let Some(after) = &report.query.after_permissions {
        let _ = write!(out, "<div class=dim>is run as</div><h1>{}</h1>", escape(after));
    }
    for warning in &report.warnings {
        let _ = write!(out, "<div class=warn>{}</div>", escape(warning));
    }
    tiles(out, report);
    out.push_str("<h2>Plan</h2>");
    report.nodes.iter().for_each(|node| plan::plan(out, node, report.source.analyzed));
    maintenance::maintenance(out, report);
    advice(out, report);
    rows(out, report);
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
        tile(time(totals.cost), "expected cost");
        tile(count(visited as f64), "rows visited by SQLite");
        tile(count(totals.rows_read.unwrap_or(0) as f64), "rows read");
        tile(count(totals.executions.unwrap_or(0) as f64), "statements run");
        tile(size(totals.bytes_read.unwrap_or(0) as f64), "bytes read");
    } else {
        tile(format!("~{}", count(totals.rows_estimated)), "rows expected");
        tile(time(totals.cost), "expected cost");
    }
    tile(time(totals.plan_ms * 1e3), "to plan");
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
                let written = advice.write_cost.map_or_else(String::new, |cost| {
                    format!("<br><span class=dim>every change of its table then costs {} more</span>", time(cost))
                });
                let _ = write!(
                    out,
                    "<div class=advice><code>{}</code>{gains}{written}{measured}<br>{}</div>",
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

/// Rows, where they were asked for.
fn rows(out: &mut String, report: &Report) {
    let mut list = |title: &str, rows: &mut dyn Iterator<Item = &serde_json::Value>| {
        let rows: String = rows.map(|row| escape(&row.to_string()) + "\n").collect();
        let _ = write!(out, "<details><summary>{}</summary><pre>{rows}</pre></details>", escape(title));
    };
    for (table, rows) in report.synced_rows.iter().flatten() {
        list(&format!("rows of {table} that a client gets"), &mut rows.as_array().into_iter().flatten());
    }
    for access in report.operators().into_iter().filter_map(|operator| operator.access.as_ref()) {
        if let Some(rows) = &access.vended_rows {
            list(&format!("first rows of {}", access.sql), &mut rows.iter());
        }
    }
}

/// A text that cannot be taken for markup.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
