//! What would make a query cheaper: indexes that are missing, and what no index helps.
//!
//! Indexes are not guessed at: each that could serve a correlation, a filter or an order of the query is added to a
//! copy of the statistics, and the query is planned and its maintenance priced again. Prices are by how many values
//! the query's columns have, which planning a hydration does without where no index tells it. The best one is kept and the
//! others are tried beside it, until none gains much. So the cost is some dozens of plans. An index is written with every
//! change of its table, whether that reaches the query or not; what changes gain is after that.

use std::sync::Arc;

use engine::query::{Filter, NodeId};
use zql_spec::ast::Direction;

use super::Case;
use super::candidates::{Candidate, candidates};
use super::create_index::create_index;
use super::maintenance::{Sizes, reached_cost, same_table};
use super::notes::notes;
use super::report::{Advice, AdvisedIndex, Report};
use crate::choose::Chooser;
use crate::cost::Model;
use crate::error::Result;
use crate::stats::Index;

/// Most indexes that are advised for one query.
const INDEXES_MAX: usize = 4;

/// An index is advised from this gain on: below, estimates are not that good.
const GAIN_MIN: f64 = 1.3;

/// And if it saves so many microseconds: nobody makes an index for less.
const SAVED_MIN: f64 = 20.0;

/// What a further column of an index must gain: it makes the index larger and every write slower.
const GAIN_OF_COLUMN: f64 = 1.15;

/// Writing one entry of an index, in microseconds: finding its place and changing a page that is in memory. SQLite took 3 to
/// 10 for tables of ten thousand to a million rows.
const WRITE: f64 = 5.0;

/// What a query and its changes cost.
#[derive(Clone, Copy, Debug)]
struct Price {
    query: f64,
    changes: f64,
}

/// All advice.
pub(super) fn advice(case: &Case<'_>, report: &Report) -> Result<Vec<Advice>> {
    let sizes = Sizes::new(case);
    let mut candidates = candidates(case.model);
    let model = &informed(case)?;
    for candidate in &mut candidates {
        let table = &case.model.node(candidate.node).table;
        let rows = case.model.table_rows(candidate.node);
        let columns: Vec<usize> = candidate.columns.iter().map(|&(column, _)| column).collect();
        for depth in 1..=columns.len() {
            candidate.rows_per_key.push(case.subject.rows_per_key(table, &columns[..depth], rows)?);
        }
    }
    let mut taken: Vec<Candidate> = Vec::new();
    let begin = price(case, model, &sizes);
    let mut before = begin;
    while taken.len() < INDEXES_MAX {
        let mut best: Option<(f64, Candidate, Price)> = None;
        for candidate in &candidates {
            let tried: Vec<&Candidate> = taken.iter().chain([candidate]).collect();
            let after = price_with(case, model, &tried, &sizes);
            let gain =
                |before: f64, after: f64| if before - after < SAVED_MIN { 0.0 } else { before / after.max(1e-9) };
            let gain = gain(before.query, after.query).max(gain(before.changes, after.changes));
            // Columns that the query fixes narrow what is walked in order, which estimates do not tell.
            let free = candidate.columns.len() - 1 - candidate.fixed.min(candidate.columns.len() - 1);
            let score = gain / GAIN_OF_COLUMN.powi(free as i32) * GAIN_OF_COLUMN.powi(candidate.fixed as i32);
            if gain >= GAIN_MIN && best.as_ref().is_none_or(|(other, ..)| score > *other) {
                best = Some((score, candidate.clone(), after));
            }
        }
        let Some((_, candidate, after)) = best else { break };
        let is_same = |other: &Candidate| {
            same_table(case.model.query, other.node, candidate.node) && candidate.columns.starts_with(&other.columns)
        };
        // A longer index serves what a shorter one with the same beginning does.
        candidates.retain(|other| !is_same(other));
        taken.retain(|other| !is_same(other));
        taken.push(candidate);
        before = after;
    }
    let mut advice = Vec::new();
    let mut before = begin;
    for count in 1..=taken.len() {
        let tried: Vec<&Candidate> = taken[..count].iter().collect();
        let after = price_with(case, model, &tried, &sizes);
        advice.push(index_advice(case.model, &taken[count - 1], before, after));
        before = after;
    }
    notes(case, report, &taken, &mut advice);
    Ok(advice)
}

/// The estimates with what is known of the columns that the query compares and joins by.
fn informed<'q>(case: &Case<'q>) -> Result<Model<'q>> {
    let mut columns: Vec<(NodeId, usize)> = Vec::new();
    for (id, node) in case.model.query.nodes.iter().enumerate() {
        compared(&node.filter, &mut |column| columns.push((id, column)));
        if let Some(edge) = &node.edge {
            columns.extend(edge.child_columns.iter().map(|&column| (id, column)));
            columns.extend(edge.parent_columns.iter().map(|&column| (edge.parent, column)));
        }
    }
    columns.sort_unstable();
    columns.dedup();
    let mut known = Vec::with_capacity(columns.len());
    for (node, column) in columns {
        let rows = case.model.table_rows(node);
        known.push((node, column, rows / case.subject.rows_per_key(&case.model.node(node).table, &[column], rows)?));
    }
    Ok(case.model.with_distinct(&known))
}

fn compared(filter: &Filter, found: &mut dyn FnMut(usize)) {
    match filter {
        Filter::And(filters) | Filter::Or(filters) => filters.iter().for_each(|filter| compared(filter, found)),
        Filter::Compare(comparison) => found(comparison.column),
        Filter::Const(_) | Filter::Exists { .. } => {}
    }
}

fn index_advice(model: &Model<'_>, candidate: &Candidate, before: Price, after: Price) -> Advice {
    let table = &model.node(candidate.node).table;
    let query = before.query / after.query.max(1e-9);
    let changes = before.changes / after.changes.max(1e-9);
    let of_query =
        before.query - after.query >= SAVED_MIN && (query >= changes || before.changes - after.changes < SAVED_MIN);
    let (gain, gain_of) = if of_query { (query, "query") } else { (changes, "changes") };
    Advice {
        sql: Some(create_index(table, &candidate.columns)),
        index: Some(AdvisedIndex {
            table: table.name.to_string(),
            columns: candidate
                .columns
                .iter()
                .map(|&(column, direction)| {
                    let direction = if direction == Direction::Asc { "asc" } else { "desc" };
                    (table.columns[column].name.to_string(), direction)
                })
                .collect(),
        }),
        gain: Some(gain),
        gain_of: Some(gain_of),
        query_cost: Some((before.query, after.query)),
        changes_cost: Some((before.changes, after.changes)),
        write_cost: Some(WRITE),
        ..Advice::note("index", candidate.serves.clone())
    }
}

/// The estimates as they are with indexes that do not exist.
pub(super) fn with<'q>(model: &Model<'q>, candidates: &[&Candidate]) -> Model<'q> {
    let indexes = candidates.iter().map(|candidate| {
        let index = Index {
            name: Arc::from("hypothetical"),
            columns: candidate.columns.iter().map(|&(column, _)| column).collect(),
            fanout: candidate.rows_per_key.clone(),
        };
        (candidate.node, index)
    });
    model.with_indexes(indexes.collect())
}

/// What the query costs with the keys that it was planned for, and what changes cost.
fn price(case: &Case<'_>, model: &Model<'_>, sizes: &Sizes) -> Price {
    let mut chooser = Chooser::new(model, None);
    let costs = case.plans.iter().enumerate().filter_map(|(id, plan)| {
        let plan = plan.as_ref()?;
        Some(chooser.rows(id, plan.keys.map(|keys| keys as usize)).cost)
    });
    Price { query: costs.sum(), changes: reached_cost(model, sizes) }
}

/// The same with indexes more, which every change of their tables writes.
fn price_with(case: &Case<'_>, model: &Model<'_>, candidates: &[&Candidate], sizes: &Sizes) -> Price {
    let price = price(case, &with(model, candidates), sizes);
    Price { changes: price.changes + WRITE * candidates.len() as f64, ..price }
}
