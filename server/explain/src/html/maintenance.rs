//! What keeps the answer current: the graph as a drawing, and what changes cost.

use std::fmt::Write;

use planner::explain::report::{ChangeCost, GraphNode, Maintenance, Report};

use super::drawing::{self, Shape};
use super::escape;
use crate::units::{count, share, size, time};

pub(super) fn maintenance(out: &mut String, report: &Report) {
    let maintenance = &report.maintenance;
    let about = if maintenance.measured { "" } else { "~" };
    let _ = write!(
        out,
        "<h2>Maintenance</h2><p>Holds {about}{} rows in {about}{}.</p>",
        count(maintenance.rows),
        size(maintenance.bytes)
    );
    draw(out, report);
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
    out.push_str("</table></div><h3>What a change costs</h3><div class=scroll><table><tr><th>a change of one row of<th class=n>reaches it<th class=n>expected cost<th class=n>measured<th class=n>on average, expected<th>and reads</tr>");
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
            "<tr><td>{}<td class=n>{}<td class=n>{}<td class=n>{}<td class=n>{}<td>{}</tr>",
            escape(&change.table),
            share(change.reaches),
            time(change.cost_when_reached),
            change.measured.map_or_else(|| "–".to_owned(), |measured| time(measured.median)),
            time(change.cost),
            reads.join("<br>")
        );
    }
    out.push_str("</table></div>");
}

/// The graph: rows come from the left, and what hangs on them stands to the right. A dashed line leads to what only decides
/// whether they are in.
fn draw(out: &mut String, report: &Report) {
    let maintenance = &report.maintenance;
    let most = maintenance.nodes.iter().map(|node| node.bytes).fold(1.0, f64::max);
    let Some(root) = maintenance.nodes.first() else { return };
    let shape = |node: &GraphNode| {
        let change = maintenance.changes.iter().find(|change| change.table == node.table);
        let decides = report.nodes.get(node.id).is_some_and(|of| of.role == "exists");
        let negated = report.nodes.get(node.id).is_some_and(|of| of.negated);
        shape(node, change, maintenance, (decides, negated), node.bytes / most)
    };
    let below = |node: &GraphNode| {
        let child = |other: &&GraphNode| report.nodes.get(other.id).is_some_and(|of| of.parent == Some(node.id));
        maintenance.nodes.iter().filter(child).collect()
    };
    drawing::draw(out, root, &shape, &below);
}

fn shape(
    node: &GraphNode,
    change: Option<&ChangeCost>,
    maintenance: &Maintenance,
    (decides, negated): (bool, bool),
    bar: f64,
) -> Shape {
    let about = if maintenance.measured { "" } else { "~" };
    let alias = node.alias.strip_prefix("zsubq_").unwrap_or(&node.alias);
    let role = match (decides, negated) {
        _ if alias.is_empty() => String::new(),
        (true, true) => format!(" · NOT EXISTS {alias}"),
        (true, false) => format!(" · EXISTS {alias}"),
        (false, _) => format!(" · {alias}"),
    };
    let holds = match (node.rows, node.group_columns.is_empty()) {
        (0.0, _) => "holds nothing".to_owned(),
        (rows, true) => format!("{about}{} rows, {}", count(rows), size(node.bytes)),
        (rows, false) => {
            format!("{about}{} rows in {about}{} groups, {}", count(rows), count(node.groups), size(node.bytes))
        }
    };
    let (costs, slow) = match change {
        Some(change) => {
            let cost = change.measured.map_or(change.cost_when_reached, |measured| measured.median);
            let expected = if change.measured.is_some() { "" } else { "~" };
            (format!("{} of changes reach it: {expected}{}", share(change.reaches), time(cost)), cost >= 1000.0)
        }
        None => ("no change reaches it".to_owned(), false),
    };
    let mut hover = vec![format!("keeps {}", node.keeps)];
    hover.extend((!node.reacts_to.is_empty()).then(|| format!("reacts to {}", node.reacts_to.join(", "))));
    hover.extend(node.found_by.iter().map(|found| format!("found by {found}")));
    hover.extend(change.iter().flat_map(|change| &change.reads).cloned());
    Shape {
        title: format!("{} {}{role}", node.id, node.table),
        lines: vec![node.keeps.clone(), holds, costs],
        class: if slow { "bf" } else { "gf" },
        bar,
        hover: hover.join("\n"),
        dashed: decides,
    }
}
