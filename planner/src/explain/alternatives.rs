//! The plans that were not chosen, and why.
//!
//! The reason is the part of the plan that is expected to cost most: a table that is scanned for each key because
//! nothing indexes it, keys that have to be collected first, rows that have to be sorted.

use engine::query::{Filter, NodeId, Role};

use super::report::Alternative;
use crate::choose::{Considered, Purpose, Way};
use crate::cost::Model;
use crate::parts::{Driver, collect_exists};

/// The alternatives of a node, cheapest first, and those that are not possible.
pub(super) fn alternatives(model: &Model<'_>, considered: &[Considered], node: NodeId, keys: f64) -> Vec<Alternative> {
    let mut all = Vec::new();
    for purpose in [Purpose::Rows, Purpose::Keys, Purpose::Branch] {
        let of_node = considered.iter().filter(|considered| considered.node == node && considered.purpose == purpose);
        for mut decision in decisions(of_node) {
            decision.sort_by(|one, other| one.cost.total_cmp(&other.cost));
            let chosen = decision.iter().find(|considered| considered.chosen).map_or(0.0, |chosen| chosen.cost);
            for considered in decision {
                let alternative = Alternative {
                    purpose: match purpose {
                        Purpose::Rows => "rows",
                        Purpose::Keys => "keys",
                        Purpose::Branch => "branch",
                    },
                    what: what(model, node, &considered.way),
                    cost: Some(considered.cost),
                    rows_estimated: Some(considered.rows),
                    chosen: considered.chosen,
                    why: (!considered.chosen).then(|| why(model, considered, chosen, keys)),
                };
                // Branches of one disjunction may be many and alike.
                if !all.contains(&alternative) {
                    all.push(alternative);
                }
            }
        }
        if purpose == Purpose::Rows && model.node(node).synced {
            all.extend(impossible(model, node));
        }
    }
    all
}

/// What was weighed against one another: each branch of a disjunction is decided by itself. A decision begins with the
/// scan that probes all, which is always possible.
fn decisions<'c>(considered: impl Iterator<Item = &'c Considered>) -> Vec<Vec<&'c Considered>> {
    let mut decisions: Vec<Vec<&Considered>> = Vec::new();
    for considered in considered {
        let begins = matches!(&considered.way, Way::Driven { driver: Driver::Scan, joined, .. } if joined.is_empty());
        match decisions.last_mut() {
            Some(decision) if !begins => decision.push(considered),
            _ => decisions.push(vec![considered]),
        }
    }
    decisions
}

/// How each EXISTS of a query is decided by the plans that were chosen for the nodes with rows.
pub(super) fn decided(model: &Model<'_>, considered: &[Considered]) -> Vec<Option<&'static str>> {
    let mut decided = vec![None; model.query.nodes.len()];
    for id in (0..decided.len()).filter(|&id| model.node(id).synced) {
        decide(model, considered, id, Purpose::Rows, &mut decided);
    }
    decided
}

fn decide(
    model: &Model<'_>,
    considered: &[Considered],
    node: NodeId,
    purpose: Purpose,
    decided: &mut Vec<Option<&'static str>>,
) {
    let chosen = considered.iter().filter(|plan| plan.chosen && plan.node == node && plan.purpose == purpose);
    for plan in chosen {
        match &plan.way {
            Way::Branches(_) => decide(model, considered, node, Purpose::Branch, decided),
            Way::Driven { driver, joined, probed } => {
                // Branches may differ; an EXISTS that is turned around in one of them is told so.
                if let Driver::Exists(exists) = *driver {
                    decided[exists] = Some("flipped");
                    decide(model, considered, exists, Purpose::Keys, decided);
                }
                for &exists in joined {
                    decided[exists].get_or_insert("joined");
                    decide(model, considered, exists, Purpose::Keys, decided);
                }
                probed.iter().for_each(|&exists| probe(model, exists, decided));
            }
        }
    }
}

/// What is probed is probed with all that is below it.
fn probe(model: &Model<'_>, node: NodeId, decided: &mut Vec<Option<&'static str>>) {
    decided[node].get_or_insert("probed");
    for &child in model.node(node).children.iter().filter(|&&child| model.node(child).role == Role::Exists) {
        probe(model, child, decided);
    }
}

/// The name by which people know a node.
pub(super) fn name(model: &Model<'_>, node: NodeId) -> String {
    let of = model.node(node);
    let alias = of.alias.strip_prefix("zsubq_").unwrap_or(&of.alias);
    match of.role {
        Role::Root => of.table.name.to_string(),
        _ if alias.is_empty() || alias == &*of.table.name => of.table.name.to_string(),
        _ => alias.to_owned(),
    }
}

/// Columns of a node's table: `comment(issue_id)`.
pub(super) fn columns(model: &Model<'_>, node: NodeId, columns: &[usize]) -> String {
    let table = &model.node(node).table;
    let names: Vec<&str> = columns.iter().map(|&column| &*table.columns[column].name).collect();
    format!("{}({})", table.name, names.join(", "))
}

fn what(model: &Model<'_>, node: NodeId, way: &Way) -> String {
    let names = |nodes: &[NodeId]| nodes.iter().map(|&node| name(model, node)).collect::<Vec<_>>().join(", ");
    match way {
        Way::Branches(count) => format!("answer each of the {count} branches of the OR by itself"),
        Way::Driven { driver, joined, probed } => {
            let table = &model.node(node).table.name;
            let mut text = match driver {
                Driver::Scan => format!("read {table}"),
                Driver::Keys => {
                    let of = model.node(node).edge.as_ref().map(|edge| columns(model, node, &edge.child_columns));
                    format!("look {} up by the parents' keys", of.unwrap_or_default())
                }
                Driver::Exists(exists) => {
                    let of = model.node(*exists).edge.as_ref().map(|edge| columns(model, node, &edge.parent_columns));
                    format!("collect {} first, look {} up", name(model, *exists), of.unwrap_or_default())
                }
            };
            if !joined.is_empty() {
                text.push_str(&format!(", join {}", names(joined)));
            }
            if !probed.is_empty() {
                text.push_str(&format!(", probe {} for each row", names(probed)));
            }
            text
        }
    }
}

fn why(model: &Model<'_>, considered: &Considered, chosen: f64, keys: f64) -> String {
    let times = considered.cost / chosen.max(1e-9);
    let times = if times < 1.05 {
        "costs about the same".to_owned()
    } else if times < 10.0 {
        format!("costs {times:.1}× as much")
    } else {
        format!("costs {}× as much", count(times))
    };
    let node = considered.node;
    let rows = |node: NodeId| count(model.table_rows(node));
    let reason = match &considered.way {
        Way::Branches(_) => None,
        Way::Driven { driver, joined, probed } => {
            let unindexed = probed.iter().find_map(|&exists| {
                let edge = model.node(exists).edge.as_ref()?;
                (!model.indexed(exists, &edge.child_columns)).then(|| {
                    format!(
                        "nothing indexes {}: each probe scans {} rows",
                        columns(model, exists, &edge.child_columns),
                        rows(exists)
                    )
                })
            });
            let edge = model.node(node).edge.as_ref();
            let by_keys = edge.filter(|_| *driver == Driver::Keys);
            let unindexed_keys = by_keys.filter(|edge| !model.indexed(node, &edge.child_columns)).map(|edge| {
                let of = columns(model, node, &edge.child_columns);
                format!("nothing indexes {of}: each of {} keys scans {} rows", count(keys), rows(node))
            });
            let collected = match driver {
                Driver::Exists(exists) => Some(*exists),
                _ => joined.first().copied(),
            };
            let collected =
                collected.map(|exists| format!("the keys of {} have to be collected first", name(model, exists)));
            let probes =
                probed.iter().max_by(|one, other| model.probe_cost(**one).total_cmp(&model.probe_cost(**other)));
            let probes = probes
                .map(|&exists| format!("a probe of {} costs {:.1} µs", name(model, exists), model.probe_cost(exists)));
            let scans = (*driver == Driver::Scan && keys > 0.0)
                .then(|| format!("all {} rows are read for {} keys", rows(node), count(keys)));
            let many = by_keys.map(|_| format!("{} keys are looked up one by one", count(keys)));
            unindexed.or(unindexed_keys).or(collected).or(scans).or(many).or(probes)
        }
    };
    match reason {
        Some(reason) => format!("{times}: {reason}"),
        None => times,
    }
}

/// EXISTS of a node's filter that cannot come first.
fn impossible(model: &Model<'_>, node: NodeId) -> Vec<Alternative> {
    let mut exists = Vec::new();
    collect_exists(&model.node(node).filter, &mut exists);
    let refused = exists.into_iter().filter_map(|exists| {
        let edge = model.node(exists).edge.as_ref()?;
        let why = if negated(&model.node(node).filter, exists) {
            "rows without a match are not found by matches".to_owned()
        } else if !model.indexed(node, &edge.parent_columns) {
            format!("nothing indexes {}", columns(model, node, &edge.parent_columns))
        } else {
            return None;
        };
        Some(Alternative {
            purpose: "rows",
            what: format!("collect {} first", name(model, exists)),
            cost: None,
            rows_estimated: None,
            chosen: false,
            why: Some(format!("not possible: {why}")),
        })
    });
    refused.collect()
}

pub(super) fn negated(filter: &Filter, exists: NodeId) -> bool {
    match filter {
        Filter::Exists { node, negated } => *node == exists && *negated,
        Filter::And(filters) | Filter::Or(filters) => filters.iter().any(|filter| negated(filter, exists)),
        Filter::Const(_) | Filter::Compare(_) => false,
    }
}

/// A number of rows for people.
pub(super) fn count(number: f64) -> String {
    let digits = format!("{:.0}", number.max(0.0));
    let mut text = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
