//! Puts the plan of a node together from a driver and the EXISTS that are joined, and prices it.
//!
//! The order of work is always the same: read (scan or look-up, with everything in the statement that is
//! not joined), join, filter by marks, keep rows of wanted keys, sort, cut, and fetch whole rows. Rows are
//! fetched last if joins are expected to drop most of them; else they are read whole at once, and
//! travel as their position in an arena.

use std::sync::Arc;

use engine::query::{Filter, NodeId};

use crate::choose::{Want, conjunction};
use crate::cost::{self, Model};
use crate::parts::{Driver, Parts, collect_exists, truth};
use crate::plan::{Col, Leaf, Match, Op, Probe, Rel, Truth};
use crate::reach::{Reach, WALK_RISK};
use crate::statement::Shapes;

/// A plan in the making.
pub(crate) struct Assembly<'a> {
    model: &'a Model<'a>,
    node: NodeId,
    driver: Driver,
    parts: &'a Parts,
    want: &'a Want,
    /// The keys that drive, if an EXISTS does.
    driving: Option<Rel>,
    joined: Vec<(NodeId, Rel)>,
}

impl<'a> Assembly<'a> {
    /// A plan for `node` with these conditions left.
    pub(crate) fn new(model: &'a Model<'a>, node: NodeId, driver: Driver, parts: &'a Parts, want: &'a Want) -> Self {
        Assembly { model, node, driver, parts, want, driving: None, joined: Vec::new() }
    }

    /// Gives the keys of the EXISTS that drives.
    pub(crate) fn drive(&mut self, keys: Rel) {
        self.driving = Some(keys);
    }

    /// Joins these EXISTS with their keys; the others are probed.
    pub(crate) fn join(&mut self, joined: Vec<(NodeId, Rel)>) {
        self.joined = joined;
    }

    /// How many rows the EXISTS have to be decided for: if they are joined, and if they are probed.
    pub(crate) fn candidates(&self, joins: bool) -> (f64, f64) {
        let reach = self.reach(!joins);
        (reach.rows, reach.probed())
    }

    fn is_joined(&self, node: NodeId) -> bool {
        self.joined.iter().any(|(joined, _)| *joined == node)
    }

    /// Whether the limit can be part of the statement when nothing is joined.
    fn limit_in_statement(&self) -> bool {
        match self.driver {
            Driver::Scan => self.want.keys.is_none(),
            Driver::Keys => true,
            Driver::Exists(_) => false,
        }
    }

    /// The columns that a look-up has the values of.
    fn probed_columns(&self) -> Vec<usize> {
        match self.driver {
            Driver::Scan => Vec::new(),
            Driver::Keys => self.child_columns(),
            Driver::Exists(exists) => match &self.model.node(exists).edge {
                Some(edge) => edge.parent_columns.to_vec(),
                None => Vec::new(),
            },
        }
    }

    fn child_columns(&self) -> Vec<usize> {
        self.model.node(self.node).edge.as_ref().map(|edge| edge.child_columns.to_vec()).unwrap_or_default()
    }

    /// The share of rows that pass the EXISTS for which `counts` is true.
    fn passing(&self, counts: impl Fn(NodeId) -> bool) -> f64 {
        let model = self.model;
        let of_exists = self.parts.exists.iter().filter(|(node, _)| counts(*node));
        let exists: f64 =
            of_exists.map(|&(node, negated)| model.selectivity(self.node, &Filter::Exists { node, negated })).product();
        let of_mixed = self.parts.mixed.iter().filter(|filter| {
            let mut nodes = Vec::new();
            collect_exists(filter, &mut nodes);
            nodes.into_iter().any(&counts)
        });
        exists * of_mixed.map(|filter| model.selectivity(self.node, filter)).product::<f64>()
    }

    fn reach(&self, limit_in_statement: bool) -> Reach {
        let (model, node, simple, want) = (self.model, self.node, &self.parts.simple, self.want);
        let share = model.selectivity(node, simple);
        let all = model.table_rows(node) * share;
        // How many rows to look at for one row wanted.
        let passing = self.passing(|_| true).max(1e-6);
        let columns = self.probed_columns();
        let visit = model.visit(node, simple, &columns);
        let in_order = want.ordered && model.ordered(node, simple, &columns);
        match self.driver {
            Driver::Scan => {
                let worst = visit.rows;
                // An index that finds rows by the filter does not give them in order.
                let by_filter = visit.rows < model.table_rows(node);
                let sorts = want.ordered && (!in_order || by_filter);
                let few = want.limit.filter(|_| limit_in_statement);
                let sort = if sorts { sort_cost(all, few) } else { 0.0 };
                let whole = Reach { rows: all, cost: cost::STATEMENT + visit.cost() + sort, worst, walks: false };
                let Some(limit) = want.limit.filter(|_| want.keys.is_none()) else { return whole };
                let rows = all.min(limit as f64 / passing);
                if !want.ordered {
                    let cost = cost::STATEMENT + visit.cost() * rows / all.max(1.0);
                    return Reach { rows, cost, worst, walks: false };
                }
                // Rows in order until there are enough.
                let walk = model.table_rows(node).min(rows / share.max(1e-9));
                let worst = model.table_rows(node);
                let early = Reach { rows, cost: cost::STATEMENT + walk * cost::SEEK, worst, walks: true };
                let walks = in_order && (!by_filter || early.cost * WALK_RISK < whole.cost);
                if walks { early } else { whole }
            }
            Driver::Keys => {
                let keys = want.keys.unwrap_or(0.0);
                let each = (model.fanout(node, &columns) * share).min(all);
                let limit = want.limit.filter(|_| limit_in_statement && (!want.ordered || in_order));
                let wanted = limit.map_or(each, |limit| each.min(limit as f64 / passing));
                let read = visit.cost() * wanted / each.max(1e-9);
                let sort = if want.ordered && !in_order { each * cost::SORT } else { 0.0 };
                Reach {
                    rows: (keys * wanted).min(all),
                    cost: cost::STATEMENT + keys * (cost::PROBE + read + sort),
                    worst: (keys * visit.rows).min(model.table_rows(node)),
                    walks: false,
                }
            }
            Driver::Exists(_) => {
                let (keys, cost) = self.driving.as_ref().map_or((0.0, 0.0), |keys| (keys.rows, keys.cost));
                let rows = (keys * model.fanout(node, &columns) * share).min(all);
                let cost = cost + cost::STATEMENT + keys * (cost::PROBE + visit.cost());
                Reach { rows, cost, worst: model.table_rows(node), walks: false }
            }
        }
    }

    /// The plan.
    pub(crate) fn finish(self) -> Rel {
        let (model, node, want) = (self.model, self.node, self.want);
        let joins = !self.joined.is_empty();
        let limit_in_statement = !joins && self.limit_in_statement();
        let reach = self.reach(limit_in_statement);
        let joined_nodes: Vec<NodeId> = self.joined.iter().map(|(node, _)| *node).collect();

        // What the statement decides, and what is decided after it.
        let mut in_statement = vec![self.parts.simple.clone()];
        let mut truths = Vec::new();
        let mut after: Vec<Truth> = Vec::new();
        for &(exists, negated) in &self.parts.exists {
            if !self.is_joined(exists) {
                in_statement.push(Filter::Exists { node: exists, negated });
            }
        }
        for filter in &self.parts.mixed {
            let mut nodes = Vec::new();
            collect_exists(filter, &mut nodes);
            if nodes.iter().any(|&node| self.is_joined(node)) {
                after.push(truth(filter, &joined_nodes, &mut truths));
            } else {
                in_statement.push(filter.clone());
            }
        }
        // That the simple conditions hold is in the number of rows that reach the others.
        let probes = in_statement[1..].iter().map(|filter| model.nested_probes(node, filter)).sum::<f64>()
            + truths.iter().map(|truth| model.nested_probes(node, truth)).sum::<f64>();
        let filter = conjunction(in_statement);

        let semi_with_keys = want.keys.is_some() && self.driver != Driver::Keys;
        let sort = want.ordered && matches!(self.driver, Driver::Exists(_));
        let cut_after = want.limit.filter(|_| !limit_in_statement);
        let mut leaf_rows =
            reach.rows * self.passing(|exists| !self.is_joined(exists) && !in_mixed_after(&after, exists));
        if let Some(limit) = want.limit.filter(|_| limit_in_statement) {
            leaf_rows = leaf_rows.min(limit as f64 * want.keys.unwrap_or(1.0));
        }
        let coverage = match want.keys.filter(|_| semi_with_keys) {
            Some(keys) => (keys * model.fanout(node, &self.child_columns()) / model.table_rows(node)).min(1.0),
            None => 1.0,
        };
        let mut rows_out = (reach.rows * self.passing(|_| true) * coverage).min(leaf_rows);
        if let Some(limit) = want.limit {
            rows_out = rows_out.min(limit as f64 * want.keys.unwrap_or(1.0));
        }

        // Columns that travel.
        let row_cost = row_cost(model, node);
        let filtered_after = joins || semi_with_keys || (sort && cut_after.is_some());
        let late_cost = leaf_rows * cost::EMIT + rows_out * (cost::PROBE + cost::SEEK + row_cost);
        let late = want.columns.is_none() && filtered_after && late_cost < leaf_rows * row_cost;
        let mut columns: Vec<Col> = Vec::new();
        let mut add = |column: Col| {
            if !columns.contains(&column) {
                columns.push(column);
            }
        };
        match &want.columns {
            None => add(if late { Col::RowId } else { Col::Row }),
            Some(wanted) => wanted.iter().for_each(|&column| add(column)),
        }
        for (exists, _) in &self.joined {
            if let Some(edge) = &model.node(*exists).edge {
                edge.parent_columns.iter().for_each(|&column| add(Col::Column(column)));
            }
        }
        if semi_with_keys || (cut_after.is_some() && want.keys.is_some()) {
            self.child_columns().into_iter().for_each(|column| add(Col::Column(column)));
        }
        if sort {
            model.node(node).order.iter().for_each(|&(column, _)| add(Col::Column(column)));
        }
        (0..truths.len()).for_each(|truth| add(Col::Truth(truth)));

        let whole_rows = columns.contains(&Col::Row);
        let leaf = Leaf {
            node,
            filter,
            truths,
            lookup: match self.driver {
                Driver::Scan => Probe::None,
                Driver::Keys | Driver::Exists(_) => Probe::Columns(self.probed_columns()),
            },
            order: want.ordered && !sort,
            limit: want.limit.filter(|_| limit_in_statement),
            stream: self.driver == Driver::Scan
                && reach.rows > model.stream_rows
                && (filtered_after || want.columns.is_some()),
            likelihoods: model.likelihoods(node, reach.walks),
            shapes: Shapes::default(),
        };
        let read = reach.cost
            + reach.probed() * probes
            + leaf_rows * (cost::EMIT * columns.len() as f64 + if whole_rows { row_cost } else { 0.0 });
        let op = match self.driver {
            Driver::Scan => Op::Scan(leaf),
            Driver::Keys => {
                let input = Box::new(parent_keys(node, &self.child_columns(), want.keys.unwrap_or(0.0)));
                Op::Lookup { by: (0..input.columns.len()).collect(), input, leaf }
            }
            Driver::Exists(exists) => {
                let input = Box::new(self.driving.clone().expect("an EXISTS that drives has its keys"));
                let by = key_positions(model, exists, &input);
                Op::Lookup { input, by, leaf }
            }
        };
        let mut rel = Rel { op, node, columns, rows: leaf_rows, cost: read };

        // Whether rows must keep the order in which they were read.
        let keep_order = want.ordered && !sort;
        for (exists, keys) in self.joined {
            let edge = model.node(exists).edge.as_ref().expect("an EXISTS has an edge");
            let unique = model.unique(node, &edge.parent_columns);
            let build_rows = !keep_order && unique && rel.rows * 4.0 < keys.rows;
            // Rows that are unique by key meet each key at most once, however often it comes.
            let keys = match keys.op {
                Op::Distinct { input } if build_rows => *input,
                _ => keys,
            };
            let kind = match self.parts.exists.iter().find(|(node, _)| *node == exists) {
                Some((_, false)) => Match::Semi,
                Some((_, true)) => Match::Anti,
                None => Match::Mark(exists),
            };
            let by = key_positions(model, exists, &keys);
            let of_rows = edge
                .parent_columns
                .iter()
                .map(|&column| rel.position(Col::Column(column)).expect("the columns of a join are read"));
            let on = by.into_iter().zip(of_rows).collect();
            let truth = model.selectivity(node, &Filter::Exists { node: exists, negated: kind == Match::Anti });
            let rows = if matches!(kind, Match::Mark(_)) { rel.rows } else { rel.rows * truth };
            let cost = rel.cost + keys.cost + keys.rows * cost::BUILD + rel.rows * cost::HASH + cost::OPERATOR;
            let mut columns = rel.columns.clone();
            if let Match::Mark(exists) = kind {
                columns.push(Col::Mark(exists));
            }
            let op = Op::Join { keys: Box::new(keys), input: Box::new(rel), on, kind, build_rows };
            rel = Rel { op, node, columns, rows, cost };
        }
        if !after.is_empty() {
            let truth = if after.len() == 1 { after.remove(0) } else { Truth::And(after) };
            let (columns, cost) = (rel.columns.clone(), rel.cost + cost::OPERATOR);
            rel = Rel {
                op: Op::Filter { input: Box::new(rel), truth },
                node,
                columns,
                rows: rows_out / coverage.max(1e-9),
                cost,
            };
        }
        let child_columns =
            self.model.node(node).edge.as_ref().map(|edge| edge.child_columns.to_vec()).unwrap_or_default();
        let positions = |rel: &Rel| -> Vec<usize> {
            let position = |&column: &usize| rel.position(Col::Column(column)).expect("the key's columns are read");
            child_columns.iter().map(position).collect()
        };
        if semi_with_keys {
            let keys = parent_keys(node, &child_columns, want.keys.unwrap_or(0.0));
            let on = positions(&rel).into_iter().enumerate().collect();
            let cost = rel.cost + keys.rows * cost::BUILD + rel.rows * cost::HASH + cost::OPERATOR;
            let (columns, rows) = (rel.columns.clone(), rel.rows * coverage);
            let op = Op::Join { keys: Box::new(keys), input: Box::new(rel), on, kind: Match::Semi, build_rows: false };
            rel = Rel { op, node, columns, rows, cost };
        }
        if sort {
            let fetch = cut_after.filter(|_| want.keys.is_none());
            let order = model.node(node).order.clone();
            let (columns, cost) = (rel.columns.clone(), rel.cost + rel.rows * cost::SORT + cost::OPERATOR);
            rel = Rel { op: Op::Sort { input: Box::new(rel), order, fetch }, node, columns, rows: rows_out, cost };
        }
        if let Some(limit) = cut_after.filter(|_| want.keys.is_some() || !sort) {
            let keys = if want.keys.is_some() { positions(&rel) } else { Vec::new() };
            let (columns, cost) = (rel.columns.clone(), rel.cost + rel.rows * cost::HASH + cost::OPERATOR);
            rel = Rel { op: Op::First { input: Box::new(rel), keys, limit }, node, columns, rows: rows_out, cost };
        }
        if late { fetch(model, rel, rows_out) } else { rel }
    }
}

/// Reads the rows of a relation whole by their rowids.
pub(crate) fn fetch(model: &Model<'_>, rel: Rel, rows: f64) -> Rel {
    let node = rel.node;
    let by = vec![rel.position(Col::RowId).expect("rows that are fetched late have their rowid")];
    let row_cost = row_cost(model, node);
    let cost = rel.cost + cost::STATEMENT + rows * (cost::PROBE + cost::SEEK + row_cost) + cost::OPERATOR;
    let leaf = Leaf {
        node,
        filter: Filter::Const(true),
        truths: Vec::new(),
        lookup: Probe::RowId,
        order: false,
        limit: None,
        stream: false,
        likelihoods: Arc::default(),
        shapes: Shapes::default(),
    };
    let op = Op::Lookup { input: Box::new(rel), by, leaf };
    Rel { op, node, columns: vec![Col::Row], rows, cost }
}

/// What it costs SQLite to sort so many rows, of which it keeps the first `few`.
fn sort_cost(rows: f64, few: Option<usize>) -> f64 {
    let Some(few) = few.map(|few| few as f64).filter(|few| *few < rows) else { return rows * cost::SORT };
    // In no order at all, the n-th row is among the first ones with a probability of few / n.
    let kept = few * (1.0 + (rows / few.max(1.0)).ln());
    rows * cost::AMONG_FIRST + kept * cost::SORT
}

/// What it costs to make a whole row of a node.
fn row_cost(model: &Model<'_>, node: NodeId) -> f64 {
    cost::ROW + cost::VALUE * model.node(node).table.columns.len() as f64
}

/// The distinct keys of the parents' rows, given when the plan runs.
fn parent_keys(node: NodeId, child_columns: &[usize], rows: f64) -> Rel {
    let columns = child_columns.iter().map(|&column| Col::Column(column)).collect();
    Rel { op: Op::Keys, node, columns, rows, cost: 0.0 }
}

/// Where the keys of an EXISTS stand in the plan that gives them.
fn key_positions(model: &Model<'_>, exists: NodeId, keys: &Rel) -> Vec<usize> {
    let edge = model.node(exists).edge.as_ref().expect("an EXISTS has an edge");
    let position = |&column: &usize| keys.position(Col::Column(column)).expect("a plan for keys gives them");
    edge.child_columns.iter().map(position).collect()
}

/// Whether a condition that is decided after the statement depends on an EXISTS.
fn in_mixed_after(after: &[Truth], exists: NodeId) -> bool {
    after.iter().any(|truth| match truth {
        Truth::Col(column) | Truth::Not(column) => *column == Col::Mark(exists),
        Truth::And(terms) | Truth::Or(terms) => in_mixed_after(terms, exists),
    })
}
