//! A filter taken apart by what can be done with its conditions.
//!
//! Linear in the filter.

use engine::query::{Filter, NodeId};

use crate::choose::{conjunction, disjunction};
use crate::plan::{Col, Truth};

/// Where the rows of a node come from first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Driver {
    /// The whole table, or what an index leaves of it.
    Scan,
    /// The keys of the parents' rows.
    Keys,
    /// The keys of an EXISTS that must hold.
    Exists(NodeId),
}

/// The conditions of a filter, all of which must hold.
#[derive(Clone, Debug)]
pub(crate) struct Parts {
    /// Those without EXISTS.
    pub(crate) simple: Filter,
    /// EXISTS, and whether negated.
    pub(crate) exists: Vec<(NodeId, bool)>,
    /// Disjunctions with EXISTS in them.
    pub(crate) mixed: Vec<Filter>,
}

impl Parts {
    /// Takes a filter apart.
    pub(crate) fn new(filter: Filter) -> Parts {
        let mut parts = Parts { simple: Filter::Const(true), exists: Vec::new(), mixed: Vec::new() };
        let mut simple = Vec::new();
        parts.add(filter, &mut simple);
        parts.simple = conjunction(simple);
        parts
    }

    fn add(&mut self, filter: Filter, simple: &mut Vec<Filter>) {
        match filter {
            Filter::And(filters) => filters.into_iter().for_each(|filter| self.add(filter, simple)),
            Filter::Exists { node, negated } => self.exists.push((node, negated)),
            filter if has_exists(&filter) => self.mixed.push(filter),
            filter => simple.push(filter),
        }
    }

    /// The conditions that remain when the driver has seen to one of them.
    pub(crate) fn without(&self, driver: Driver) -> Parts {
        let mut parts = self.clone();
        if let Driver::Exists(driver) = driver {
            parts.exists.retain(|&(node, _)| node != driver);
        }
        parts
    }

    /// The conditions, but for one of the disjunctions.
    pub(crate) fn conditions(&self, but: Option<usize>) -> Vec<Filter> {
        let exists = self.exists.iter().map(|&(node, negated)| Filter::Exists { node, negated });
        let mixed = self.mixed.iter().enumerate().filter(|(position, _)| Some(*position) != but);
        [self.simple.clone()].into_iter().chain(exists).chain(mixed.map(|(_, filter)| filter.clone())).collect()
    }

    /// All EXISTS, those in disjunctions included.
    pub(crate) fn all_exists(&self) -> Vec<NodeId> {
        let mut nodes: Vec<NodeId> = self.exists.iter().map(|&(node, _)| node).collect();
        self.mixed.iter().for_each(|filter| collect_exists(filter, &mut nodes));
        nodes
    }
}

fn has_exists(filter: &Filter) -> bool {
    match filter {
        Filter::Const(_) | Filter::Compare(_) => false,
        Filter::Exists { .. } => true,
        Filter::And(filters) | Filter::Or(filters) => filters.iter().any(has_exists),
    }
}

/// The EXISTS of a filter.
pub(crate) fn collect_exists(filter: &Filter, into: &mut Vec<NodeId>) {
    match filter {
        Filter::Const(_) | Filter::Compare(_) => {}
        Filter::Exists { node, .. } => into.push(*node),
        Filter::And(filters) | Filter::Or(filters) => filters.iter().for_each(|filter| collect_exists(filter, into)),
    }
}

/// The truth of a filter over the marks of `joined` EXISTS. What has none of them is left to SQLite: it is
/// added to `truths` and stands as a column.
pub(crate) fn truth(filter: &Filter, joined: &[NodeId], truths: &mut Vec<Filter>) -> Truth {
    let is_joined = |filter: &Filter| {
        let mut nodes = Vec::new();
        collect_exists(filter, &mut nodes);
        nodes.iter().any(|node| joined.contains(node))
    };
    let mut left_to_sqlite = |filter: Filter| {
        truths.push(filter);
        Truth::Col(Col::Truth(truths.len() - 1))
    };
    if !is_joined(filter) {
        return left_to_sqlite(filter.clone());
    }
    match filter {
        Filter::Exists { node, negated: false } => Truth::Col(Col::Mark(*node)),
        Filter::Exists { node, negated: true } => Truth::Not(Col::Mark(*node)),
        Filter::And(filters) | Filter::Or(filters) => {
            let (joins, rest): (Vec<&Filter>, Vec<&Filter>) = filters.iter().partition(|filter| is_joined(filter));
            let rest: Vec<Filter> = rest.into_iter().cloned().collect();
            let mut terms = Vec::with_capacity(joins.len() + 1);
            let is_and = matches!(filter, Filter::And(_));
            if !rest.is_empty() {
                terms.push(left_to_sqlite(if is_and { conjunction(rest) } else { disjunction(rest) }));
            }
            terms.extend(joins.into_iter().map(|filter| truth(filter, joined, truths)));
            if is_and { Truth::And(terms) } else { Truth::Or(terms) }
        }
        Filter::Const(_) | Filter::Compare(_) => left_to_sqlite(filter.clone()),
    }
}
