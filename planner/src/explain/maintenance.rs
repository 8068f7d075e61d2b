//! What keeps an answer current: what each node of the graph holds, which changes find it and what they cost.
//!
//! Sizes are those of a graph built from the answer, if the query was run, else estimates. Costs are the planner's
//! for the reads that an advance makes, and two constants for the work in memory. Linear in the query.

use engine::catalogue::{Route, routes};
use engine::graph::{Kept, upkeep};
use engine::query::{Filter, NodeId, Query, Role};

use super::alternatives::{columns, count, name};
use super::report::{ChangeCost, GraphNode, Maintenance};
use super::{Case, NodePlan};
use crate::cost::{self, Model};

/// Looking a changed row up in the routing index.
const ROUTE: f64 = 0.5;
/// Deciding about one row and editing the state.
const DECIDE: f64 = 3.0;
/// Rows that a refill may pass without a word.
const FEW: f64 = 10.0;
/// Bytes of a row and of a group in a graph's state.
const ROW_BYTES: f64 = 64.0;
const GROUP_BYTES: f64 = 100.0;

/// How many rows and groups each node holds.
pub(super) struct Sizes {
    groups: Vec<f64>,
    rows: Vec<f64>,
    bytes: Vec<f64>,
    measured: bool,
}

impl Sizes {
    pub(super) fn new(case: &Case<'_>) -> Sizes {
        let Some(graph) = &case.graph else { return Sizes::estimated(case.model, &case.plans) };
        let described = graph.describe();
        Sizes {
            groups: described.iter().map(|node| node.groups as f64).collect(),
            rows: described.iter().map(|node| node.rows as f64).collect(),
            bytes: described.iter().map(|node| node.bytes as f64).collect(),
            measured: true,
        }
    }

    fn estimated(model: &Model<'_>, plans: &[Option<NodePlan>]) -> Sizes {
        let rows: Vec<f64> =
            plans.iter().map(|plan| plan.as_ref().map_or(0.0, |plan| plan.plan.rows.round())).collect();
        let groups: Vec<f64> = plans
            .iter()
            .zip(&model.query.nodes)
            .map(|(plan, node)| match (plan, &node.edge) {
                (Some(plan), Some(_)) => plan.keys.unwrap_or(0.0),
                (Some(_), None) => 1.0,
                (None, _) => 0.0,
            })
            .collect();
        let bytes = rows.iter().zip(&groups).map(|(rows, groups)| rows * ROW_BYTES + groups * GROUP_BYTES).collect();
        Sizes { groups, rows, bytes, measured: false }
    }
}

/// What keeps the answer current.
pub(super) fn maintenance(case: &Case<'_>) -> Maintenance {
    let (model, query) = (case.model, case.model.query);
    let sizes = Sizes::new(case);
    let routes = routes(query);
    let names = |node: NodeId, columns: &[usize]| -> Vec<String> {
        columns.iter().map(|&column| query.nodes[node].table.columns[column].name.to_string()).collect()
    };
    let nodes = upkeep(query).into_iter().map(|upkeep| {
        let node = &query.nodes[upkeep.node];
        GraphNode {
            id: upkeep.node,
            table: node.table.name.to_string(),
            alias: node.alias.to_string(),
            keeps: match upkeep.kept {
                Kept::All => "the key of every row".to_owned(),
                Kept::First(limit) if node.edge.is_some() => {
                    format!("key and place of the first {limit} rows of each group")
                }
                Kept::First(limit) => format!("key and place of the first {limit} rows"),
                Kept::Witnesses(most) => format!("up to {most} witnesses of each group"),
                Kept::Nothing => "nothing".to_owned(),
            },
            reacts_to: names(upkeep.node, &upkeep.reacts_to),
            group_columns: node.edge.as_ref().map(|edge| names(upkeep.node, &edge.child_columns)).unwrap_or_default(),
            found_by: routes
                .iter()
                .filter(|route| route.node == upkeep.node)
                .map(|route| found_by(model, route))
                .collect(),
            groups: sizes.groups[upkeep.node],
            rows: sizes.rows[upkeep.node],
            bytes: sizes.bytes[upkeep.node],
        }
    });
    Maintenance {
        nodes: nodes.collect(),
        changes: changes(model, &sizes),
        rows: sizes.rows.iter().sum(),
        bytes: sizes.bytes.iter().sum(),
        measured: sizes.measured,
    }
}

fn found_by(model: &Model<'_>, route: &Route) -> String {
    let mut text = if route.columns.is_empty() {
        format!("every change of {}, tested against the filter", model.node(route.node).table.name)
    } else {
        let of = columns(model, route.node, &route.columns);
        match route.values {
            Some(1) => format!("{of} = the value in the query"),
            Some(values) => format!("{of} = one of {values} values in the query"),
            None => format!("{of} = the key of a group"),
        }
    };
    if route.decides {
        text.push_str("; decides the EXISTS");
    }
    for (table, _) in &route.reads {
        text.push_str(&format!("; leads up to {table}"));
    }
    text
}

/// What a change costs, by table, in the order in which the query names the tables.
pub(super) fn changes(model: &Model<'_>, sizes: &Sizes) -> Vec<ChangeCost> {
    let query = model.query;
    let mut changes: Vec<ChangeCost> = Vec::new();
    for route in routes(query) {
        let table = query.nodes[route.node].table.name.to_string();
        let reaches = reaches(model, sizes, &route);
        let mut reads = Vec::new();
        let cost = DECIDE
            + if route.decides {
                deciding(model, route.node, &mut reads)
            } else {
                joining(model, route.node, &mut reads)
            };
        let position = match changes.iter().position(|change| change.table == table) {
            Some(position) => position,
            None => {
                changes.push(ChangeCost {
                    table,
                    reaches: 0.0,
                    cost_when_reached: 0.0,
                    cost: ROUTE,
                    reads: Vec::new(),
                    measured: None,
                });
                changes.len() - 1
            }
        };
        let change = &mut changes[position];
        change.reaches = 1.0 - (1.0 - change.reaches) * (1.0 - reaches);
        change.cost += reaches * cost;
        change.cost_when_reached = change.cost_when_reached.max(cost);
        for read in reads {
            if !change.reads.contains(&read) {
                change.reads.push(read);
            }
        }
    }
    changes
}

/// The share of a table's rows that a route leads from.
fn reaches(model: &Model<'_>, sizes: &Sizes, route: &Route) -> f64 {
    let node = model.node(route.node);
    let by_values = match route.values {
        Some(values) => {
            values as f64 * route.columns.iter().map(|&column| model.equal(route.node, column)).product::<f64>()
        }
        None => {
            let keys = model.table_rows(route.node) / model.fanout(route.node, &route.columns).max(1.0);
            sizes.groups[route.node] / keys.max(1.0)
        }
    };
    // What the values decide already is not tested again.
    let rest = match &node.filter {
        _ if route.columns.is_empty() => simple_share(model, route.node, &node.filter, &[]),
        filter => simple_share(model, route.node, filter, if route.values.is_some() { &route.columns } else { &[] }),
    };
    (by_values.min(1.0) * rest).clamp(0.0, 1.0)
}

/// The share of rows that pass a filter as far as the rows alone decide.
fn simple_share(model: &Model<'_>, node: NodeId, filter: &Filter, but: &[usize]) -> f64 {
    match filter {
        Filter::Exists { .. } => 1.0,
        Filter::And(filters) => filters.iter().map(|filter| simple_share(model, node, filter, but)).product(),
        Filter::Or(filters) => {
            1.0 - filters.iter().map(|filter| 1.0 - simple_share(model, node, filter, but)).product::<f64>()
        }
        Filter::Compare(comparison) if but.contains(&comparison.column) => 1.0,
        Filter::Compare(_) | Filter::Const(_) => model.selectivity(node, filter),
    }
}

/// What a row that comes into a node, or leaves it, makes the graph read.
fn joining(model: &Model<'_>, id: NodeId, reads: &mut Vec<String>) -> f64 {
    let node = model.node(id);
    let mut cost = 0.0;
    for &child in &node.children {
        let Some(edge) = &model.node(child).edge else { continue };
        let filter = &model.node(child).filter;
        if model.node(child).role == Role::Exists {
            cost += cost::STATEMENT + model.probe_cost(child);
            reads.push(read(model, child, &edge.child_columns, "probes"));
        } else {
            let visit = model.visit(child, filter, &edge.child_columns);
            cost += cost::STATEMENT + visit.cost() + model.nested_probes(child, filter);
            reads.push(read(model, child, &edge.child_columns, "reads"));
        }
    }
    cost + refill(model, id, reads)
}

/// What it takes to find the row that follows when one leaves a full window: through an index the rows up to the first
/// that passes, else all of the group.
fn refill(model: &Model<'_>, id: NodeId, reads: &mut Vec<String>) -> f64 {
    let node = model.node(id);
    let Some(limit) = node.limit else { return 0.0 };
    let keys = node.edge.as_ref().map(|edge| edge.child_columns.to_vec()).unwrap_or_default();
    let visit = model.visit(id, &node.filter, &keys);
    let probed = model.nested_probes(id, &node.filter);
    let limit = count(limit as f64);
    let (cost, text) = if model.ordered(id, &node.filter, &keys) {
        let group = if keys.is_empty() { model.table_rows(id) } else { model.fanout(id, &keys) };
        let passing = (group * model.selectivity(id, &node.filter)).max(1.0);
        let rows = (visit.rows / passing).max(1.0);
        let past = if rows < FEW { String::new() } else { format!(", past some {} that do not pass", count(rows)) };
        let text = format!("refills its {limit} rows through an index when one leaves{past}");
        (cost::SEEK + rows * (cost::SEEK + probed), text)
    } else {
        let rows = count(visit.rows);
        let text = format!("reads and sorts {rows} rows of {} to refill its {limit} when one leaves", node.table.name);
        (visit.rows * (visit.each + cost::SORT + probed), text)
    };
    if !reads.contains(&text) {
        reads.push(text);
    }
    cost::STATEMENT + cost
}

/// What a row that decides an EXISTS makes the graph read: the rows above it, up to those of the answer.
fn deciding(model: &Model<'_>, id: NodeId, reads: &mut Vec<String>) -> f64 {
    let (mut cost, mut rows, mut at) = (0.0, 1.0, id);
    while model.node(at).role == Role::Exists {
        let Some(edge) = &model.node(at).edge else { break };
        let parent = edge.parent;
        let found = model.fanout(parent, &edge.parent_columns);
        let visit = model.visit(parent, &Filter::Const(true), &edge.parent_columns);
        cost += rows * (cost::STATEMENT + visit.cost());
        rows *= found;
        cost += rows * (DECIDE + model.nested_probes(parent, &model.node(parent).filter));
        reads.push(read(model, parent, &edge.parent_columns, "finds"));
        for &child in &model.node(parent).children {
            if let (Role::Exists, Some(edge)) = (model.node(child).role, &model.node(child).edge) {
                let again = read(model, child, &edge.child_columns, "probes");
                if !reads.contains(&again) {
                    reads.push(again);
                }
            }
        }
        at = parent;
    }
    cost + refill(model, at, reads)
}

fn read(model: &Model<'_>, node: NodeId, of: &[usize], verb: &str) -> String {
    let of_columns = columns(model, node, of);
    let what = if model.node(node).alias.is_empty() { String::new() } else { format!(" ({})", name(model, node)) };
    if model.indexed(node, of) {
        format!("{verb} {of_columns}{what} through an index")
    } else {
        format!("{verb} {of_columns}{what} without an index: scans {} rows", count(model.table_rows(node)))
    }
}

/// What a change that reaches the query costs, over all tables: what advice compares.
pub(super) fn reached_cost(model: &Model<'_>, sizes: &Sizes) -> f64 {
    changes(model, sizes).iter().map(|change| change.cost_when_reached).sum()
}

/// Whether two nodes read one table.
pub(super) fn same_table(query: &Query, one: NodeId, other: NodeId) -> bool {
    query.nodes[one].table.name == query.nodes[other].table.name
}
