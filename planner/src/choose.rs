//! Chooses how a node of a query is read.
//!
//! A node can be scanned, looked up by the keys of its parents' rows, or looked up by the keys of one of
//! its EXISTS (which turns that EXISTS around). Each EXISTS that remains is either probed inside SQLite,
//! row by row through an index, or its keys are collected once and joined: as a semi or anti join when it
//! must hold, as a mark join when it stands below an OR. The cheapest combination by [`crate::cost`] wins.
//!
//! The choice costs (conditions of the node) × (EXISTS of the node); the plan for the keys of an EXISTS is
//! made once and shared by all alternatives.

use engine::query::{Edge, Filter, NodeId, Role, WITNESS_CAP};

use crate::assemble::{Assembly, fetch};
use crate::cost::{self, Model};
use crate::parts::{Driver, Parts};
use crate::plan::{Col, Op, Rel};

/// Beyond this many rows a scan whose rows may not all be wanted runs on its own thread: starting one costs
/// as much as reading a few hundred rows.
pub(crate) const STREAM_ROWS: f64 = 20_000.0;

/// Most branches of a disjunction that are planned one by one.
const BRANCHES_MAX: usize = 8;

/// What is wanted of a node.
#[derive(Clone, Debug)]
pub(crate) struct Want {
    /// These columns; none for whole rows.
    pub(crate) columns: Option<Vec<Col>>,
    /// How many rows (of each key, if there are keys).
    pub(crate) limit: Option<usize>,
    /// Whether the limit is of the first rows in the node's order rather than of any.
    pub(crate) ordered: bool,
    /// How many keys the rows must belong to one of; the keys are given when the plan runs.
    pub(crate) keys: Option<f64>,
}

/// Chooses plans for the nodes of one query.
pub(crate) struct Chooser<'a> {
    model: &'a Model<'a>,
    key_plans: Vec<Option<Rel>>,
    /// Every plan that was priced, if anybody wants to know.
    considered: Option<Vec<Considered>>,
    /// Picks plans at random instead of by cost, so that tests see all of them.
    dice: Option<Dice>,
}

/// A plan that was priced.
#[derive(Clone, Debug)]
pub(crate) struct Considered {
    /// The node that it reads.
    pub(crate) node: NodeId,
    /// What it reads the node for.
    pub(crate) purpose: Purpose,
    /// How.
    pub(crate) way: Way,
    /// Expected rows that it gives.
    pub(crate) rows: f64,
    /// Expected cost in microseconds.
    pub(crate) cost: f64,
    /// Whether it was chosen.
    pub(crate) chosen: bool,
}

/// What a node is read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Its rows are part of the answer.
    Rows,
    /// Its keys decide an EXISTS.
    Keys,
    /// One branch of a disjunction is answered by itself.
    Branch,
}

/// A way to read a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// With one driver; these EXISTS are joined, and those probed.
    Driven { driver: Driver, joined: Vec<NodeId>, probed: Vec<NodeId> },
    /// So many branches of a disjunction, each by itself.
    Branches(usize),
}

/// A linear congruential generator: tests only need variety that can be repeated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    fn below(&mut self, count: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % count.max(1)
    }
}

impl<'a> Chooser<'a> {
    /// A chooser for the model's query.
    pub(crate) fn new(model: &'a Model<'a>, dice: Option<Dice>) -> Self {
        Chooser { model, key_plans: vec![None; model.query.nodes.len()], considered: None, dice }
    }

    /// A chooser that remembers what it considered.
    pub(crate) fn explaining(model: &'a Model<'a>, dice: Option<Dice>) -> Self {
        Chooser { considered: Some(Vec::new()), ..Chooser::new(model, dice) }
    }

    /// What was considered so far.
    pub(crate) fn considered(self) -> Vec<Considered> {
        self.considered.unwrap_or_default()
    }

    /// The plan for the rows of a node: of the root, or of a node whose parents' rows have `keys` distinct keys.
    pub(crate) fn rows(&mut self, node: NodeId, keys: Option<usize>) -> Rel {
        let limit = match self.model.node(node).role {
            Role::Exists => Some(WITNESS_CAP),
            Role::Root | Role::Related => self.model.node(node).limit,
        };
        let ordered = limit.is_some() && self.model.node(node).role != Role::Exists;
        self.best(node, &Want { columns: None, limit, ordered, keys: keys.map(|keys| keys as f64) })
    }

    /// The plan for the distinct keys of an EXISTS node: values of its correlation's columns.
    pub(crate) fn keys(&mut self, node: NodeId) -> Rel {
        if let Some(plan) = &self.key_plans[node] {
            return plan.clone();
        }
        let columns = match &self.model.node(node).edge {
            Some(edge) => edge.child_columns.to_vec(),
            None => Vec::new(),
        };
        let (unique, fanout) = (self.model.unique(node, &columns), self.model.fanout(node, &columns));
        let mut wanted: Vec<Col> = Vec::new();
        for &column in &columns {
            if !wanted.contains(&Col::Column(column)) {
                wanted.push(Col::Column(column));
            }
        }
        let want = Want { columns: Some(wanted.clone()), limit: None, ordered: false, keys: None };
        let mut plan = self.best(node, &want);
        if !unique {
            let rows = plan.rows.min(self.model.table_rows(node) / fanout.max(1.0)).max(plan.rows.min(1.0));
            let cost = plan.cost + plan.rows * cost::BUILD + cost::OPERATOR;
            plan = Rel { op: Op::Distinct { input: Box::new(plan) }, node, columns: wanted, rows, cost };
        }
        self.key_plans[node] = Some(plan.clone());
        plan
    }

    fn best(&mut self, node: NodeId, want: &Want) -> Rel {
        let filter = self.fold(&self.model.node(node).filter);
        let matches = self.model.node(node).edge.as_ref().is_none_or(|edge| self.comparable(node, edge));
        if filter == Filter::Const(false) || want.limit == Some(0) || !matches {
            let columns = want.columns.clone().unwrap_or_else(|| vec![Col::Row]);
            return Rel { op: Op::Empty, node, columns, rows: 0.0, cost: 0.0 };
        }
        self.best_for(node, filter, want, true)
    }

    /// The cheapest plan for a folded filter; by the branches of a disjunction only if they may be `split`.
    fn best_for(&mut self, node: NodeId, filter: Filter, want: &Want, split: bool) -> Rel {
        let parts = Parts::new(filter);
        let mut drivers = vec![Driver::Scan];
        if want.keys.is_some() {
            drivers.push(Driver::Keys);
        }
        for &(exists, negated) in &parts.exists {
            if let Some(edge) = &self.model.node(exists).edge
                && !negated
                && self.model.indexed(node, &edge.parent_columns)
            {
                drivers.push(Driver::Exists(exists));
            }
        }
        let mut candidates = Vec::with_capacity(2 * drivers.len());
        for driver in drivers {
            for join in [false, true] {
                candidates.extend(self.candidate(node, driver, &parts, want, join));
            }
        }
        if split && want.keys.is_none() {
            for position in 0..parts.mixed.len() {
                candidates.extend(self.by_branches(node, &parts, position, want));
            }
        }
        let chosen = match &mut self.dice {
            Some(dice) => dice.below(candidates.len()),
            None => {
                let costs = candidates.iter().map(|(rel, _)| rel.cost).enumerate();
                let cheapest = costs.min_by(|(_, one), (_, other)| one.total_cmp(other));
                cheapest.map(|(position, _)| position).expect("a scan that probes is always possible")
            }
        };
        if let Some(considered) = &mut self.considered {
            let purpose = match (&want.columns, split) {
                (None, _) => Purpose::Rows,
                (Some(_), true) => Purpose::Keys,
                (Some(_), false) => Purpose::Branch,
            };
            considered.extend(candidates.iter().enumerate().map(|(position, (rel, way))| {
                let (way, chosen) = (way.clone(), position == chosen);
                Considered { node, purpose, way, rows: rel.rows, cost: rel.cost, chosen }
            }));
        }
        candidates.swap_remove(chosen).0
    }

    /// The plan that answers each branch of a disjunction by itself and puts the answers together, so that each
    /// branch can use its own index or its own EXISTS. All other conditions become part of every branch.
    fn by_branches(&mut self, node: NodeId, parts: &Parts, position: usize, want: &Want) -> Option<(Rel, Way)> {
        let Filter::Or(branches) = &parts.mixed[position] else { return None };
        if branches.len() > BRANCHES_MAX {
            return None;
        }
        let order = &self.model.node(node).order;
        let columns = want.columns.clone().unwrap_or_else(|| {
            let sorted = if want.ordered { &order[..] } else { &[] };
            [Col::RowId].into_iter().chain(sorted.iter().map(|&(column, _)| Col::Column(column))).collect()
        });
        let inner = Want { columns: Some(columns.clone()), limit: None, ordered: false, keys: None };
        let rest = parts.conditions(Some(position));
        let inputs: Vec<Rel> = branches
            .iter()
            .map(|branch| {
                let filter = conjunction(rest.iter().cloned().chain([branch.clone()]).collect());
                self.best_for(node, filter, &inner, false)
            })
            .collect();
        let rows: f64 = inputs.iter().map(|input| input.rows).sum();
        let cost = inputs.iter().map(|input| input.cost).sum::<f64>() + cost::OPERATOR;
        let all = Rel { op: Op::Concat { inputs }, node, columns: columns.clone(), rows, cost };
        let cost = cost + rows * cost::BUILD + cost::OPERATOR;
        let mut rel = Rel { op: Op::Distinct { input: Box::new(all) }, node, columns: columns.clone(), rows, cost };
        if let Some(limit) = want.limit {
            let kept = rows.min(limit as f64);
            let cost = rel.cost + rows * cost::BUILD + cost::OPERATOR;
            let input = Box::new(rel);
            let op = if want.ordered {
                Op::Sort { input, order: order.clone(), fetch: Some(limit) }
            } else {
                Op::First { input, keys: Vec::new(), limit }
            };
            rel = Rel { op, node, columns, rows: kept, cost };
        }
        let rows = rel.rows;
        let rel = if want.columns.is_none() { fetch(self.model, rel, rows) } else { rel };
        Some((rel, Way::Branches(branches.len())))
    }

    /// The plan with this driver. With `join`, each EXISTS for which it is cheaper is joined, and there is no
    /// plan if there is none; without, all are probed.
    fn candidate(
        &mut self,
        node: NodeId,
        driver: Driver,
        parts: &Parts,
        want: &Want,
        join: bool,
    ) -> Option<(Rel, Way)> {
        let parts = parts.without(driver);
        let mut assembly = Assembly::new(self.model, node, driver, &parts, want);
        if let Driver::Exists(exists) = driver {
            assembly.drive(self.keys(exists));
        }
        let mut names: Vec<NodeId> = Vec::new();
        if join {
            let mut joined = Vec::new();
            let all = parts.all_exists();
            // What is joined is not part of the statement, so that a limit cannot be either.
            let (rows, probed) = assembly.candidates(!all.is_empty());
            for exists in all {
                let keys = self.keys(exists);
                let join_cost = keys.cost + keys.rows * cost::BUILD + rows * (cost::HASH + cost::EMIT) + cost::OPERATOR;
                let worth_it = match &mut self.dice {
                    Some(dice) => dice.below(2) == 0,
                    None => join_cost < probed * self.model.probe_cost(exists),
                };
                if worth_it {
                    joined.push((exists, keys));
                }
            }
            if joined.is_empty() {
                return None;
            }
            names = joined.iter().map(|(exists, _)| *exists).collect();
            assembly.join(joined);
        }
        let probed = parts.all_exists().into_iter().filter(|exists| !names.contains(exists)).collect();
        Some((assembly.finish(), Way::Driven { driver, joined: names, probed }))
    }

    /// The filter with EXISTS that are false for every row made so.
    fn fold(&self, filter: &Filter) -> Filter {
        match filter {
            Filter::Exists { node, negated } => {
                let child = self.model.node(*node);
                let possible = child.filter != Filter::Const(false)
                    && child.edge.as_ref().is_some_and(|edge| self.comparable(*node, edge));
                if possible { filter.clone() } else { Filter::Const(*negated) }
            }
            Filter::And(filters) => conjunction(filters.iter().map(|filter| self.fold(filter)).collect()),
            Filter::Or(filters) => disjunction(filters.iter().map(|filter| self.fold(filter)).collect()),
            Filter::Const(_) | Filter::Compare(_) => filter.clone(),
        }
    }

    /// Whether the correlation compares columns of equal types; values of different types are never equal.
    fn comparable(&self, node: NodeId, edge: &Edge) -> bool {
        let (parent, child) = (&self.model.node(edge.parent).table, &self.model.node(node).table);
        edge.parent_columns
            .iter()
            .zip(&edge.child_columns)
            .all(|(&of_parent, &of_child)| parent.columns[of_parent].value_type == child.columns[of_child].value_type)
    }
}

/// All of the filters.
pub(crate) fn conjunction(filters: Vec<Filter>) -> Filter {
    if filters.contains(&Filter::Const(false)) {
        return Filter::Const(false);
    }
    let mut filters: Vec<Filter> = filters.into_iter().filter(|filter| *filter != Filter::Const(true)).collect();
    match filters.len() {
        0 => Filter::Const(true),
        1 => filters.remove(0),
        _ => Filter::And(filters),
    }
}

/// One of the filters.
pub(crate) fn disjunction(filters: Vec<Filter>) -> Filter {
    if filters.contains(&Filter::Const(true)) {
        return Filter::Const(true);
    }
    let mut filters: Vec<Filter> = filters.into_iter().filter(|filter| *filter != Filter::Const(false)).collect();
    match filters.len() {
        0 => Filter::Const(false),
        1 => filters.remove(0),
        _ => Filter::Or(filters),
    }
}
