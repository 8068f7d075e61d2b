//! A report for a terminal.
//!
//! One column of what happens, and columns of numbers beside it: what was expected, and what came. Red is what costs,
//! yellow what was not expected, green what is well; without colours the words say the same. Lines are
//! wrapped at the page's width.

mod canvas;
mod plan;

pub use canvas::Page;

use planner::explain::report::{Access, Advice, Report};

use canvas::wrap;
pub(crate) use canvas::{Canvas, Ink, zql};
use plan::plan;

use crate::units::{count, counted, share, size, time, times};

/// The whole report.
pub(crate) fn report(canvas: &mut Canvas, report: &Report) {
    head(canvas, report);
    plan(canvas, report);
    maintenance(canvas, report);
    advice(canvas, &report.advice);
    rows(canvas, report);
    canvas.blank();
}

fn head(canvas: &mut Canvas, report: &Report) {
    if let Some(name) = &report.name {
        canvas.line([(Ink::Name, name.as_str())]);
    }
    zql(canvas, &report.query.zql);
    if let Some(after) = &report.query.after_permissions {
        canvas.line([(Ink::Dim, "is run as")]);
        zql(canvas, after);
    }
    let source = format!("hash {} · {} at version {}", report.query.hash, report.source.kind, report.source.version);
    canvas.line([(Ink::Dim, source.as_str())]);
    canvas.blank();
    let totals = &report.totals;
    match (totals.rows_out, totals.rows_visited, totals.ms) {
        (Some(out), Some(visited), Some(ms)) => {
            let ink = if visited > 10 * out.max(100) { Ink::Bad } else { Ink::Good };
            let (out, visited) = (counted(out as f64, "row"), count(visited as f64));
            let read = count(totals.rows_read.unwrap_or(0) as f64);
            let bytes = size(totals.bytes_read.unwrap_or(0) as f64);
            let runs = counted(totals.executions.unwrap_or(0) as f64, "execution");
            let rest = format!("{read} read ({bytes}) by {runs} · planned in {}", time(totals.plan_ms * 1e3));
            canvas.line([
                (Ink::Bold, out.as_str()),
                (Ink::Plain, " in "),
                (Ink::Bold, time(ms * 1e3).as_str()),
                (Ink::Plain, format!(" (expected {}) · ", time(totals.cost)).as_str()),
                (ink, format!("{visited} visited by SQLite").as_str()),
            ]);
            canvas.line([(Ink::Plain, rest.as_str())]);
        }
        _ => {
            let (rows, cost) = (count(totals.rows_estimated), time(totals.cost));
            canvas.line([
                (Ink::Bold, format!("~{rows} rows").as_str()),
                (Ink::Plain, " for about "),
                (Ink::Bold, cost.as_str()),
                (Ink::Plain, " · not run"),
            ]);
        }
    }
    for warning in &report.warnings {
        canvas.wrapped("! ", Ink::Warn, warning);
    }
}

fn maintenance(canvas: &mut Canvas, report: &Report) {
    let maintenance = &report.maintenance;
    let about = if maintenance.measured { "" } else { "~" };
    let groups: f64 = maintenance.nodes.iter().map(|node| node.groups).sum();
    let beside = format!(
        "holds {about}{} in {about}{}, {about}{}",
        counted(maintenance.rows, "row"),
        counted(groups, "group"),
        size(maintenance.bytes)
    );
    canvas.title("MAINTENANCE", &beside);
    for node in &maintenance.nodes {
        let name = format!("{} {}", node.id, node.table);
        let text = format!(
            "  keeps {}: {about}{} in {about}{}, {about}{}",
            node.keeps,
            counted(node.rows, "row"),
            counted(node.groups, "group"),
            size(node.bytes)
        );
        canvas.line([(Ink::Name, name.as_str()), (Ink::Plain, text.as_str())]);
        if !node.reacts_to.is_empty() {
            canvas.wrapped("    reacts to  ", Ink::Plain, &node.reacts_to.join(", "));
        }
        for found in &node.found_by {
            canvas.wrapped("    found by   ", Ink::Plain, found);
        }
    }
    canvas.blank();
    let longest = maintenance.changes.iter().map(|change| change.table.chars().count()).max().unwrap_or(0);
    let width = (longest + 12).max(24);
    let measured = maintenance.changes.iter().any(|change| change.measured.is_some());
    let what = "a change of one row of";
    let mut head = format!("{what:<width$}{:>12}{:>14}{:>14}", "reaches it", "expected", "on average");
    if measured {
        head.push_str(&format!("{:>14}", "measured"));
    }
    canvas.line([(Ink::Dim, head.as_str())]);
    for change in &maintenance.changes {
        let slow = change.cost_when_reached >= 1000.0;
        let cost = format!("{:>14}", time(change.cost_when_reached));
        canvas.line([
            (Ink::Bold, format!("  {:<1$}", change.table, width - 2).as_str()),
            (Ink::Plain, format!("{:>12}", share(change.reaches)).as_str()),
            (if slow { Ink::Bad } else { Ink::Plain }, cost.as_str()),
            (Ink::Plain, format!("{:>14}", time(change.cost)).as_str()),
            (Ink::Bold, change.measured.map_or_else(String::new, |of| format!("{:>14}", time(of.median))).as_str()),
        ]);
        for read in &change.reads {
            let ink = if read.contains("without an index") { Ink::Bad } else { Ink::Dim };
            canvas.wrapped("      ", ink, read);
        }
    }
}

fn advice(canvas: &mut Canvas, advice: &[Advice]) {
    canvas.title(
        "ADVICE",
        if advice.is_empty() { "nothing to do" } else { "gains are tried on a copy of the statistics" },
    );
    for advice in advice {
        match &advice.sql {
            Some(sql) => {
                canvas.line([(Ink::Good, "→ "), (Ink::Bold, sql)]);
                for (what, gain, (before, after)) in advice.gains() {
                    let cost = format!(" {what} ({} → {})", time(before), time(after));
                    canvas.line([
                        (Ink::Plain, "  "),
                        (Ink::Good, format!("{} cheaper", times(gain)).as_str()),
                        (Ink::Plain, cost.as_str()),
                    ]);
                }
                if let Some(cost) = advice.write_cost {
                    let text = format!("every change of its table then costs {} more", time(cost));
                    canvas.wrapped("  ", Ink::Dim, &text);
                }
                if let (Some((before, after)), Some((visited, then))) = (advice.measured_ms, advice.measured_visited) {
                    let text = format!(
                        "measured on a copy: {} → {}, {} → {} rows visited",
                        time(before * 1e3),
                        time(after * 1e3),
                        count(visited as f64),
                        count(then as f64)
                    );
                    canvas.wrapped("  ", Ink::Good, &text);
                }
                canvas.wrapped("  ", Ink::Plain, &advice.why);
            }
            None => {
                let mut lines = wrap(&advice.why, canvas.page.width.saturating_sub(2)).into_iter();
                if let Some(first) = lines.next() {
                    canvas.line([(Ink::Warn, "• "), (Ink::Plain, first.as_str())]);
                }
                for line in lines {
                    canvas.line([(Ink::Plain, "  "), (Ink::Plain, line.as_str())]);
                }
            }
        }
    }
}

/// Rows, where they were asked for.
fn rows(canvas: &mut Canvas, report: &Report) {
    if let Some(synced) = &report.synced_rows {
        canvas.title("SYNCED ROWS", "what a client gets");
        for (table, rows) in synced {
            canvas.line([(Ink::Name, table.as_str())]);
            for row in rows.as_array().into_iter().flatten() {
                canvas.line([(Ink::Plain, "  "), (Ink::Plain, row.to_string().as_str())]);
            }
        }
    }
    let vended: Vec<&Access> = report.operators().into_iter().filter_map(|operator| operator.access.as_ref()).collect();
    if vended.iter().any(|access| access.vended_rows.is_some()) {
        canvas.title("ROWS OF STATEMENTS", "the first that SQLite gave");
        for access in vended {
            canvas.wrapped("", Ink::Dim, &access.sql);
            for row in access.vended_rows.iter().flatten() {
                canvas.line([(Ink::Plain, "  "), (Ink::Plain, row.to_string().as_str())]);
            }
        }
    }
}

/// A line for each of many queries.
pub(crate) fn summary(canvas: &mut Canvas, reports: &[Report]) {
    canvas.title("ALL QUERIES", &format!("{} queries", reports.len()));
    let longest = reports.iter().filter_map(|report| report.name.as_deref()).map(|name| name.chars().count()).max();
    let width = longest.unwrap_or(0).clamp(12, 50) + 2;
    let head =
        format!("{:<width$}{:>12}{:>12}{:>12}{:>12}{:>9}", "query", "rows", "visited", "time", "expected", "advice");
    canvas.line([(Ink::Dim, head.as_str())]);
    for report in reports {
        let totals = &report.totals;
        let number = |number: Option<u64>| number.map_or_else(|| "–".to_owned(), |number| count(number as f64));
        let line = format!(
            "{:<width$}{:>12}{:>12}{:>12}{:>12}{:>9}",
            report.name.as_deref().unwrap_or("–"),
            number(totals.rows_out),
            number(totals.rows_visited),
            totals.ms.map_or_else(|| "–".to_owned(), |ms| time(ms * 1e3)),
            time(totals.cost),
            report.advice.iter().filter(|advice| advice.sql.is_some()).count()
        );
        canvas.line([(Ink::Plain, line.as_str())]);
    }
}
