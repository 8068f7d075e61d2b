//! Filters on rows in memory.
//!
//! The simple part of a filter is decided by the row alone; EXISTS are decided by probes, which are
//! gathered over all candidates, asked in batches and remembered for one advance by (node, key). Cost grows
//! with the candidates whose simple part leaves the answer open.

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};
use zql_spec::compare::compare;

use super::packed::Packed;
use super::read::{Read, ReadError};
use crate::commit::StoredRow;
use crate::query::{Filter, Node, NodeId, Query};

/// What is known of a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Truth {
    /// It is false.
    False,
    /// It is true.
    True,
    /// That depends on an EXISTS.
    Open,
}

impl From<bool> for Truth {
    fn from(truth: bool) -> Self {
        if truth { Truth::True } else { Truth::False }
    }
}

/// What a row alone tells of a node's filter and start.
pub(crate) fn simple_truth(query: &Query, node: &Node, row: &StoredRow) -> Truth {
    if !starts(node, row) {
        return Truth::False;
    }
    truth(query, &node.filter, row, &mut |_, _| None)
}

/// Whether a row is not before the node's cursor.
fn starts(node: &Node, row: &StoredRow) -> bool {
    let Some(start) = &node.start else { return true };
    let cursor = Packed::ordered(&start.values, &node.order);
    let place = Packed::place(row, &node.order);
    if start.exclusive { place > cursor } else { place >= cursor }
}

/// A filter's truth, given what is known of its EXISTS. Looks at every open EXISTS that could decide.
fn truth(
    query: &Query,
    filter: &Filter,
    row: &StoredRow,
    known: &mut dyn FnMut(NodeId, Packed) -> Option<bool>,
) -> Truth {
    match filter {
        Filter::Const(truth) => Truth::from(*truth),
        Filter::Compare(comparison) => {
            Truth::from(compare(&row.values[comparison.column], comparison.op, &comparison.literal))
        }
        Filter::And(filters) => gather(query, filters, row, known, Truth::False, Truth::True),
        Filter::Or(filters) => gather(query, filters, row, known, Truth::True, Truth::False),
        Filter::Exists { node, negated } => {
            let parent_columns = query.nodes[*node].edge.as_ref().map_or(&[][..], |edge| &edge.parent_columns);
            let exists = match Packed::joining(row, parent_columns) {
                None => Some(false),
                Some(key) => known(*node, key),
            };
            exists.map_or(Truth::Open, |exists| Truth::from(exists != *negated))
        }
    }
}

/// Combines: one part that is `decisive` decides; if all are `neutral`, so is the whole. Parts without
/// EXISTS go first, so that no probe is asked for a row that they decide.
fn gather(
    query: &Query,
    filters: &[Filter],
    row: &StoredRow,
    known: &mut dyn FnMut(NodeId, Packed) -> Option<bool>,
    decisive: Truth,
    neutral: Truth,
) -> Truth {
    let mut open = false;
    for last in [false, true] {
        for filter in filters.iter().filter(|filter| has_exists(filter) == last) {
            let part = truth(query, filter, row, known);
            if part == decisive {
                return decisive;
            }
            if part == Truth::Open {
                open = true;
            }
        }
    }
    if open { Truth::Open } else { neutral }
}

fn has_exists(filter: &Filter) -> bool {
    match filter {
        Filter::Const(_) | Filter::Compare(_) => false,
        Filter::And(filters) | Filter::Or(filters) => filters.iter().any(has_exists),
        Filter::Exists { .. } => true,
    }
}

/// Probes of one advance and their answers.
#[derive(Debug, Default)]
pub(super) struct Probes {
    answers: FxHashMap<(NodeId, Packed), bool>,
    /// How many were asked of the database.
    pub(super) asked: usize,
}

impl Probes {
    /// Decides a node's filter for rows whose simple part left it open. `known` tells what the state
    /// knows of an EXISTS without asking. Gives nothing if that takes more than `most` probes.
    pub(super) fn decide(
        &mut self,
        query: &Query,
        node: NodeId,
        rows: &[Arc<StoredRow>],
        known: &dyn Fn(NodeId, &Packed) -> Option<bool>,
        read: &mut dyn Read,
        most: usize,
    ) -> Result<Option<Vec<bool>>, ReadError> {
        let most = self.asked + most;
        let filter = &query.nodes[node].filter;
        let mut decided = vec![false; rows.len()];
        let mut open: Vec<usize> = (0..rows.len()).collect();
        // Each round asks the first open EXISTS of every row, so that an OR or AND that it decides asks
        // no more; there are at most as many rounds as the filter has EXISTS.
        while !open.is_empty() {
            let mut wanted: FxHashMap<NodeId, FxHashSet<Packed>> = FxHashMap::default();
            open.retain(|&index| {
                let mut first = None;
                let answers = &self.answers;
                let truth = truth(query, filter, &rows[index], &mut |node, key| {
                    let answer = known(node, &key);
                    if answer.is_some() {
                        return answer;
                    }
                    let entry = (node, key);
                    let answer = answers.get(&entry).copied();
                    if answer.is_none() && first.is_none() {
                        first = Some(entry);
                    }
                    answer
                });
                if let (Truth::Open, Some((node, key))) = (truth, first) {
                    wanted.entry(node).or_default().insert(key);
                    return true;
                }
                decided[index] = truth == Truth::True;
                false
            });
            for (node, keys) in wanted {
                let keys: Vec<Packed> = keys.into_iter().collect();
                self.asked += keys.len();
                if self.asked > most {
                    return Ok(None);
                }
                let unpacked: Vec<_> = keys.iter().map(Packed::unpack).collect();
                let found = read.exists(query, node, &unpacked)?;
                self.answers.extend(keys.into_iter().map(|key| (node, key)).zip(found));
            }
        }
        Ok(Some(decided))
    }
}
