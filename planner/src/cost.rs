//! What reading costs and how many rows to expect.
//!
//! Costs are microseconds on the machine the constants were measured on; only their ratios matter. The
//! estimates are of the textbook kind: samples for constants, index statistics for keys, fixed guesses where there is
//! neither, independence throughout. An EXISTS that has no index to probe costs a scan for each row, so that it is joined.
//!
//! All estimates of a query are made once, bottom-up: linear in its size times the indexes of its tables.

use std::sync::Arc;

use engine::query::{Comparison, Filter, Node, NodeId, Query};
use engine::sql::Likelihoods;
use zql_spec::ast::{Literal, SimpleOperator};
use zql_spec::schema::ValueType;
use zql_spec::value::Value;

use crate::stats::{Index, TableStats};

/// Starting a statement that was prepared before.
pub(crate) const STATEMENT: f64 = 4.0;
/// Running a prepared statement for one more key.
pub(crate) const PROBE: f64 = 1.2;
/// Starting a correlated subquery within a statement and descending an index.
pub(crate) const SUBQUERY: f64 = 0.6;
/// Visiting a row in table order.
pub(crate) const STEP: f64 = 0.06;
/// Visiting a row through an index.
pub(crate) const SEEK: f64 = 0.3;
/// Sorting a row within SQLite.
pub(crate) const SORT: f64 = 0.4;
/// Comparing a row with the last of the first ones, where a limit keeps few.
pub(crate) const AMONG_FIRST: f64 = 0.12;
/// Giving one value to Arrow.
pub(crate) const EMIT: f64 = 0.06;
/// Making a whole row, without its values.
pub(crate) const ROW: f64 = 0.15;
/// Making one value of a whole row.
pub(crate) const VALUE: f64 = 0.05;
/// Adding a key to a hash table.
pub(crate) const BUILD: f64 = 0.08;
/// Looking a key up in a hash table.
pub(crate) const HASH: f64 = 0.04;
/// Setting up an operator of DataFusion.
pub(crate) const OPERATOR: f64 = 15.0;

/// Share of rows that a comparison other than equality lets through.
const RANGE: f64 = 0.33;
/// Share of rows that equal a constant when no index tells.
const EQUAL: f64 = 0.05;
/// Share of rows that match a pattern.
const PATTERN: f64 = 0.1;
/// Rows per key where nothing is known.
const FANOUT: f64 = 10.0;

/// Share of rows that SQLite takes a range to leave.
const SQLITE_RANGE: f64 = 0.25;
/// How far SQLite's estimate may be off before it is told: less rarely leads to another index.
const MISJUDGED: f64 = 2.0;

/// The estimates of a query.
pub(crate) struct Model<'a> {
    /// The query.
    pub(crate) query: &'a Query,
    /// From how many rows on a scan may run on its own thread.
    pub(crate) stream_rows: f64,
    stats: Vec<Arc<TableStats>>,
    /// By node: the share of its table's rows that pass its filter.
    share: Vec<f64>,
    /// By node: for an EXISTS, the share of parent rows for which it is true.
    truth: Vec<f64>,
    /// By node: for an EXISTS, the cost of probing it for one parent row.
    probe: Vec<f64>,
    likelihoods: Arc<Likelihoods>,
}

/// How SQLite is expected to find the rows of a node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Visit {
    /// Rows looked at.
    pub(crate) rows: f64,
    /// Cost for each.
    pub(crate) each: f64,
}

impl Visit {
    /// The cost of all.
    pub(crate) fn cost(self) -> f64 {
        self.rows * self.each
    }
}

impl<'a> Model<'a> {
    /// The estimates of a query, given its nodes' statistics.
    pub(crate) fn new(query: &'a Query, stats: Vec<Arc<TableStats>>, stream_rows: f64) -> Self {
        let ones = vec![1.0; query.nodes.len()];
        let probe = vec![0.0; query.nodes.len()];
        let likelihoods = Arc::default();
        let mut model = Model { query, stream_rows, stats, share: ones.clone(), truth: ones, probe, likelihoods };
        // Nodes are in preorder, so all below a node have been seen when it is reached from the end.
        for node in (0..query.nodes.len()).rev() {
            model.share[node] = model.selectivity(node, &query.nodes[node].filter);
            if query.nodes[node].edge.is_some() {
                model.truth[node] = model.exists_truth(node);
                model.probe[node] = model.exists_probe(node);
            }
        }
        let mut likelihoods = Likelihoods::default();
        for (node, of_query) in query.nodes.iter().enumerate() {
            each_comparison(&of_query.filter, &mut |comparison| {
                if let Some(share) = model.likelihood(node, comparison) {
                    likelihoods.insert(comparison.place.key(), share);
                }
            });
        }
        model.likelihoods = Arc::new(likelihoods);
        model
    }

    /// What SQLite is told of the constants in a statement over a node. If it shall walk the node's order until it has
    /// enough rows, it is told that the node's constants leave all: it does not reckon with the limit.
    pub(crate) fn likelihoods(&self, node: NodeId, walks: bool) -> Arc<Likelihoods> {
        let mut likelihoods = Arc::clone(&self.likelihoods);
        if walks {
            each_comparison(&self.node(node).filter, &mut |comparison| {
                if is_searched(comparison.op) && self.leads(node, &[comparison.column]) {
                    Arc::make_mut(&mut likelihoods).insert(comparison.place.key(), 1.0);
                }
            });
        }
        likelihoods
    }

    /// The share of rows for which a comparison holds, if an index could use it and SQLite would think it far from that.
    fn likelihood(&self, node: NodeId, comparison: &Comparison) -> Option<f64> {
        let Comparison { column, op, .. } = comparison;
        if !is_searched(*op) || !self.leads(node, &[*column]) {
            return None;
        }
        let share = self.constant(node, comparison)?;
        let thought = match self.stats[node].fanout(&[*column]) {
            _ if is_range(*op) => SQLITE_RANGE,
            Some(fanout) => fanout / self.table_rows(node),
            None => EQUAL,
        };
        // To a power of two: constants that are planned alike shall be one text.
        (share > thought * MISJUDGED || thought > share * MISJUDGED).then(|| share.log2().round().exp2())
    }

    /// The share of rows for which a comparison with a constant holds, if that was sampled.
    pub(crate) fn constant(&self, node: NodeId, comparison: &Comparison) -> Option<f64> {
        self.stats[node].share_of_constant(comparison)
    }

    /// The same estimates if these nodes' tables had further indexes.
    pub(crate) fn with_indexes(&self, indexes: Vec<(NodeId, Index)>) -> Model<'a> {
        let mut stats = self.stats.clone();
        for (node, index) in indexes {
            let table = &self.query.nodes[node].table.name;
            for (stats, other) in stats.iter_mut().zip(&self.query.nodes) {
                if other.table.name == *table {
                    Arc::make_mut(stats).indexes.push(index.clone());
                }
            }
        }
        Model::new(self.query, stats, self.stream_rows)
    }

    /// The same estimates if it was known how many values these columns have.
    pub(crate) fn with_distinct(&self, known: &[(NodeId, usize, f64)]) -> Model<'a> {
        let mut stats = self.stats.clone();
        for &(node, column, distinct) in known {
            Arc::make_mut(&mut stats[node]).distinct.push((column, distinct));
        }
        Model::new(self.query, stats, self.stream_rows)
    }

    /// Whether an index leads with these columns in this order.
    pub(crate) fn leads(&self, node: NodeId, columns: &[usize]) -> bool {
        self.stats[node].indexes.iter().any(|index| index.columns.starts_with(columns))
    }

    /// A node of the query.
    pub(crate) fn node(&self, node: NodeId) -> &'a Node {
        &self.query.nodes[node]
    }

    /// Rows of the node's table.
    pub(crate) fn table_rows(&self, node: NodeId) -> f64 {
        self.stats[node].rows.max(1.0)
    }

    /// The cost of probing an EXISTS for one row.
    pub(crate) fn probe_cost(&self, node: NodeId) -> f64 {
        self.probe[node]
    }

    /// Whether some index can look these columns up.
    pub(crate) fn indexed(&self, node: NodeId, columns: &[usize]) -> bool {
        let stats = &self.stats[node];
        stats.fanout(columns).is_some()
            || stats.indexes.iter().any(|index| columns.contains(&index.columns[0]) && index.fanout[0] <= 4.0 * FANOUT)
    }

    /// Whether no two rows of a node's table have the same values in these columns. Known, not estimated.
    pub(crate) fn unique(&self, node: NodeId, columns: &[usize]) -> bool {
        let keys = &self.node(node).table.unique_keys;
        keys.iter().any(|key| key.iter().all(|column| columns.contains(column)))
    }

    /// Rows of a node's table for each value of these columns, before its filter.
    pub(crate) fn fanout(&self, node: NodeId, columns: &[usize]) -> f64 {
        if self.unique(node, columns) {
            return 1.0;
        }
        let rows = self.table_rows(node);
        if let Some(fanout) = self.stats[node].fanout(columns) {
            return fanout.min(rows);
        }
        let distinct = columns.iter().map(|&column| self.stats[node].distinct(column)).product::<Option<f64>>();
        distinct.map_or(FANOUT, |distinct| (rows / distinct).max(1.0)).min(rows)
    }

    /// How many distinct keys so many rows of a node are expected to have in these columns. At least one, and whole.
    pub(crate) fn distinct_keys(&self, node: NodeId, columns: &[usize], rows: f64) -> f64 {
        let keys = self.table_rows(node) / self.fanout(node, columns).max(1.0);
        rows.min(keys).round().max(1.0)
    }

    /// The share of a node's table that passes a filter over it.
    pub(crate) fn selectivity(&self, node: NodeId, filter: &Filter) -> f64 {
        match filter {
            Filter::Const(truth) => f64::from(u8::from(*truth)),
            Filter::And(filters) => filters.iter().map(|filter| self.selectivity(node, filter)).product(),
            Filter::Or(filters) => {
                1.0 - filters.iter().map(|filter| 1.0 - self.selectivity(node, filter)).product::<f64>()
            }
            Filter::Exists { node, negated: false } => self.truth[*node],
            Filter::Exists { node, negated: true } => 1.0 - self.truth[*node],
            Filter::Compare(comparison) => {
                if let Some(share) = self.constant(node, comparison) {
                    return share;
                }
                let equal = || self.equal(node, comparison.column);
                match comparison.op {
                    SimpleOperator::Eq => equal(),
                    SimpleOperator::Is if comparison.literal == Literal::Value(Value::Null) => 0.2,
                    SimpleOperator::Is => equal(),
                    SimpleOperator::Ne => 1.0 - equal(),
                    SimpleOperator::IsNot if comparison.literal == Literal::Value(Value::Null) => 0.8,
                    SimpleOperator::IsNot => 1.0 - equal(),
                    SimpleOperator::In => (list_len(&comparison.literal) * equal()).min(1.0),
                    SimpleOperator::NotIn => (1.0 - list_len(&comparison.literal) * equal()).max(0.0),
                    SimpleOperator::Like | SimpleOperator::ILike => PATTERN,
                    SimpleOperator::NotLike | SimpleOperator::NotILike => 1.0 - PATTERN,
                    SimpleOperator::Lt | SimpleOperator::Le | SimpleOperator::Gt | SimpleOperator::Ge => RANGE,
                }
            }
        }
    }

    /// The share of rows that have one value of a column.
    pub(crate) fn equal(&self, node: NodeId, column: usize) -> f64 {
        let rows = self.table_rows(node);
        let table = &self.node(node).table;
        if table.unique_keys.iter().any(|key| key[..] == [column]) {
            return 1.0 / rows;
        }
        let by_index = self.stats[node].fanout(&[column]).map(|fanout| (fanout / rows).min(1.0));
        match by_index.or_else(|| self.stats[node].distinct(column).map(f64::recip)) {
            Some(share) => share,
            None if table.columns[column].value_type == ValueType::Boolean => 0.5,
            None => EQUAL,
        }
    }

    /// How SQLite finds the rows that satisfy the comparisons of a filter and have one value in each of `keys`.
    pub(crate) fn visit(&self, node: NodeId, filter: &Filter, keys: &[usize]) -> Visit {
        let rows = self.table_rows(node);
        let mut best = Visit { rows, each: STEP };
        for index in &self.stats[node].indexes {
            let mut found = rows;
            for (depth, &column) in index.columns.iter().enumerate() {
                // The share of what the columns before leave.
                let each = index.fanout[depth] / if depth == 0 { rows } else { index.fanout[depth - 1].max(1.0) };
                if keys.contains(&column) {
                    found *= each;
                } else if let Some((comparison, values)) = equality(filter, column) {
                    found *= self.constant(node, comparison).unwrap_or(each * values);
                } else {
                    found *= self.range(node, filter, column);
                    break;
                }
            }
            let visit = Visit { rows: found.min(rows), each: SEEK };
            if visit.rows < rows && visit.cost() < best.cost() {
                best = visit;
            }
        }
        best
    }

    /// The share of rows that the ranges which a filter demands of a column leave.
    fn range(&self, node: NodeId, filter: &Filter, column: usize) -> f64 {
        match filter {
            Filter::And(filters) => filters.iter().map(|filter| self.range(node, filter, column)).product(),
            Filter::Compare(comparison) if comparison.column == column && is_range(comparison.op) => {
                self.constant(node, comparison).unwrap_or(RANGE)
            }
            _ => 1.0,
        }
    }

    /// Whether an index gives the rows in the node's order (or in groups of equal leading columns),
    /// given columns that are fixed by the filter or by `keys`.
    pub(crate) fn ordered(&self, node: NodeId, filter: &Filter, keys: &[usize]) -> bool {
        let fixed =
            |column: usize| keys.contains(&column) || equality(filter, column).is_some_and(|(_, values)| values == 1.0);
        let Some(&(first, _)) = self.node(node).order.iter().find(|(column, _)| !fixed(*column)) else { return true };
        self.stats[node].indexes.iter().any(|index| {
            let lead = index.columns.iter().find(|&&column| !fixed(column));
            let usable = keys.is_empty() || index.columns.first().is_some_and(|&column| fixed(column));
            lead == Some(&first) && usable
        })
    }

    /// The share of parent rows that have a row in an EXISTS node.
    fn exists_truth(&self, node: NodeId) -> f64 {
        let Some(edge) = &self.node(node).edge else { return 1.0 };
        let fanout = self.fanout(node, &edge.child_columns).max(1.0);
        let child_keys = self.table_rows(node) / fanout;
        let parent_keys = self.table_rows(edge.parent) / self.fanout(edge.parent, &edge.parent_columns).max(1.0);
        let covered = (child_keys / parent_keys.max(1.0)).min(1.0);
        covered * (1.0 - (1.0 - self.share[node]).powf(fanout))
    }

    /// The cost of deciding an EXISTS for one parent row inside SQLite.
    fn exists_probe(&self, node: NodeId) -> f64 {
        let Some(edge) = &self.node(node).edge else { return 0.0 };
        let filter = &self.node(node).filter;
        if !self.indexed(node, &edge.child_columns) {
            return SUBQUERY + self.table_rows(node) * (STEP + self.nested_probes(node, filter));
        }
        // It stops at the first row found, or sees all.
        let visit = self.visit(node, filter, &edge.child_columns);
        let until_found = visit.rows.min(1.0 / self.share[node].max(1e-9));
        let until = (self.truth[node] * until_found + (1.0 - self.truth[node]) * visit.rows).max(1.0);
        SUBQUERY + until * (visit.each + self.nested_probes(node, filter))
    }

    /// The cost of the EXISTS of a node's filter for one row. Comparisons are decided first, and what they decide needs no
    /// EXISTS; see [`engine::sql`], which writes them in that order.
    pub(crate) fn nested_probes(&self, node: NodeId, filter: &Filter) -> f64 {
        match filter {
            Filter::Const(_) | Filter::Compare(_) => 0.0,
            Filter::And(filters) | Filter::Or(filters) => {
                let any = matches!(filter, Filter::Or(_));
                let left: f64 = filters
                    .iter()
                    .filter(|filter| matches!(filter, Filter::Compare(_)))
                    .map(|filter| self.selectivity(node, filter))
                    .map(|share| if any { 1.0 - share } else { share })
                    .product();
                // A scan for each row is never likely enough to be left: the share is an estimate, the scan is not.
                let left = if self.probes_scan(filter) { 1.0 } else { left };
                left * filters.iter().map(|filter| self.nested_probes(node, filter)).sum::<f64>()
            }
            Filter::Exists { node, .. } => self.probe[*node],
        }
    }

    /// Whether some EXISTS of a filter scans a table when it is probed.
    fn probes_scan(&self, filter: &Filter) -> bool {
        match filter {
            Filter::Const(_) | Filter::Compare(_) => false,
            Filter::And(filters) | Filter::Or(filters) => filters.iter().any(|filter| self.probes_scan(filter)),
            Filter::Exists { node, .. } => {
                let child = self.node(*node);
                child.edge.as_ref().is_some_and(|edge| !self.indexed(*node, &edge.child_columns))
                    || self.probes_scan(&child.filter)
            }
        }
    }
}

/// The equality that a filter demands of a column, and with how many constants.
fn equality(filter: &Filter, column: usize) -> Option<(&Comparison, f64)> {
    match filter {
        Filter::And(filters) => filters.iter().find_map(|filter| equality(filter, column)),
        Filter::Compare(comparison) if comparison.column == column => match comparison.op {
            SimpleOperator::Eq | SimpleOperator::Is => Some((comparison, 1.0)),
            SimpleOperator::In => Some((comparison, list_len(&comparison.literal))),
            _ => None,
        },
        _ => None,
    }
}

/// Whether SQLite can search an index for what a comparison demands.
fn is_searched(op: SimpleOperator) -> bool {
    matches!(op, SimpleOperator::Eq | SimpleOperator::Is) || is_range(op)
}

fn is_range(op: SimpleOperator) -> bool {
    matches!(op, SimpleOperator::Lt | SimpleOperator::Le | SimpleOperator::Gt | SimpleOperator::Ge)
}

/// Hands on the comparisons of a filter.
pub(crate) fn each_comparison<'f>(filter: &'f Filter, take: &mut dyn FnMut(&'f Comparison)) {
    match filter {
        Filter::Compare(comparison) => take(comparison),
        Filter::And(filters) | Filter::Or(filters) => filters.iter().for_each(|filter| each_comparison(filter, take)),
        Filter::Const(_) | Filter::Exists { .. } => {}
    }
}

fn list_len(literal: &Literal) -> f64 {
    match literal {
        Literal::List(values) => values.len() as f64,
        Literal::Value(_) => 1.0,
    }
}
