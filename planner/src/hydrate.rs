//! Answers a query node by node.
//!
//! Nodes are in preorder, so a node's parent has given its rows when the node's turn comes; their distinct keys
//! are what the node is read by, and all that is kept of rows that were handed on. Nodes that are not synced are only
//! conditions of others and stay empty.

use std::sync::Arc;

use datafusion::execution::TaskContext;
use datafusion::prelude::SessionConfig;
use engine::hydration::{Found, FoundRow, Hydrate, HydrateError, Hydration};
use engine::query::{Edge, Filter, Node, NodeId, Query};
use engine::replica::Snapshot;
use engine::sql::fits;
use rustc_hash::FxHashMap;
use zql_spec::ast::{Literal, SimpleOperator};
use zql_spec::value::Value;

use crate::choose::{Chooser, Dice, STREAM_ROWS};
use crate::cost::Model;
use crate::emit::emit;
use crate::error::Result;
use crate::keys::ParentKeys;
use crate::measure::{OpTally, Tally};
use crate::physical;
use crate::plan::{Op, Rel};
use crate::plans::{Plans, ShapePlans};
use crate::run::Run;
use crate::statement::BATCH_ROWS;
use crate::stats::{StatsCache, TableStats};

/// Plans and runs hydrations. One for a process; it holds statistics and DataFusion's settings.
pub struct Planner {
    stats: StatsCache,
    plans: Plans,
    context: Arc<TaskContext>,
    pub(crate) dice: Option<Dice>,
}

/// A node's plan, how many keys it was made for, and what it gave.
pub(crate) struct NodeAnswer {
    pub(crate) plan: Arc<Rel>,
    pub(crate) keys: Option<usize>,
    pub(crate) rows: usize,
    /// What each operator did, in preorder; empty if the run was not measured.
    pub(crate) tally: Vec<OpTally>,
}

impl Default for Planner {
    fn default() -> Self {
        Planner::new()
    }
}

impl Planner {
    /// A planner without statistics; they are read as queries need them.
    pub fn new() -> Self {
        let config = SessionConfig::new().with_target_partitions(1).with_batch_size(BATCH_ROWS);
        let context = Arc::new(TaskContext::default().with_session_config(config));
        Planner { stats: StatsCache::default(), plans: Plans::default(), context, dice: None }
    }

    /// A planner that picks any possible plan instead of the cheapest, for tests: all must give one answer.
    pub fn careless(seed: u64) -> Self {
        Planner { dice: Some(Dice(seed)), ..Planner::new() }
    }

    /// Answers a query: gives rows as they are found.
    pub(crate) fn answer(&self, query: &Arc<Query>, snapshot: &Arc<Snapshot>, found: &mut Found<'_>) -> Result<()> {
        // Applications ask for what they do not know yet: without a value there is no row, and nothing to plan or to read.
        if never(query.root(), &query.root().filter) {
            return Ok(());
        }
        let run = Run::new(query, snapshot)?;
        let mut choice = Choice::new(self, &run)?;
        self.each_node(&run, &mut |node, keys| choice.plan(node, keys), found, &mut |_, _| {})
    }

    /// The same, by plans that the caller chooses for a node and a number of keys. Tells how each node was answered,
    /// unless it is not synced or has no parent rows.
    pub(crate) fn answer_by(
        &self,
        run: &Arc<Run>,
        choose: &mut dyn FnMut(NodeId, Option<usize>) -> Arc<Rel>,
        found: &mut Found<'_>,
    ) -> Result<Vec<Option<NodeAnswer>>> {
        let mut answers: Vec<Option<NodeAnswer>> = run.query.nodes.iter().map(|_| None).collect();
        self.each_node(run, choose, found, &mut |id, answer| answers[id] = Some(answer))?;
        Ok(answers)
    }

    fn each_node(
        &self,
        run: &Arc<Run>,
        choose: &mut dyn FnMut(NodeId, Option<usize>) -> Arc<Rel>,
        found: &mut Found<'_>,
        answered: &mut dyn FnMut(NodeId, NodeAnswer),
    ) -> Result<()> {
        let query = &run.query;
        // Keys of nodes that are still to be read.
        let mut keys: FxHashMap<NodeId, ParentKeys> = FxHashMap::default();
        for (id, node) in query.nodes.iter().enumerate() {
            let given = match node.edge {
                _ if !node.synced => None,
                None => Some(None),
                Some(_) => match keys.remove(&id).filter(|keys| keys.len() > 0) {
                    Some(keys) => Some(Some(keys.finish()?)),
                    None => None,
                },
            };
            let Some(given) = given else { continue };
            let key_count = given.as_ref().map(|given| given.set.len());
            let plan = choose(id, key_count);
            let synced = node.children.iter().filter(|child| query.nodes[**child].synced);
            let mut below: Vec<(NodeId, ParentKeys)> = synced
                .filter_map(|&child| {
                    let of_child = &query.nodes[child];
                    let edge = of_child.edge.as_ref()?;
                    Some((child, ParentKeys::new(&of_child.table, &edge.child_columns, &edge.parent_columns)))
                })
                .collect();
            if let Some(tally) = &run.tally {
                tally.begin(plan.size());
            }
            let mut rows = 0;
            if !matches!(plan.op, Op::Empty) {
                emit(run, &plan, given.as_ref(), &self.context, &mut |row| {
                    rows += 1;
                    if below.is_empty() {
                        return Ok(found(id, row)?);
                    }
                    let row = row.decode()?;
                    below.iter_mut().for_each(|(_, keys)| keys.add(&row));
                    Ok(found(id, FoundRow::Decoded(row))?)
                })?;
            }
            keys.extend(below);
            let tally = run.tally.as_ref().map(Tally::take).unwrap_or_default();
            answered(id, NodeAnswer { plan, keys: key_count, rows, tally });
        }
        Ok(())
    }

    /// Chooses the plans of all nodes and builds their operators without running them, as if parents had as many
    /// keys as is expected. Gives how many nodes there are plans for.
    pub fn plan(&self, query: &Arc<Query>, snapshot: &Arc<Snapshot>) -> std::result::Result<usize, HydrateError> {
        Ok(self.plan_all(query, snapshot)?)
    }

    fn plan_all(&self, query: &Arc<Query>, snapshot: &Arc<Snapshot>) -> Result<usize> {
        let run = Run::new(query, snapshot)?;
        let mut choice = Choice::new(self, &run)?;
        let mut expected: Vec<f64> = Vec::with_capacity(query.nodes.len());
        for (id, node) in query.nodes.iter().enumerate() {
            let keys = node.edge.as_ref().map(|edge| expected[edge.parent].ceil().max(1.0) as usize);
            if !node.synced {
                expected.push(0.0);
                continue;
            }
            let plan = choice.plan(id, keys);
            let none = |edge: &Edge| ParentKeys::new(&node.table, &edge.child_columns, &edge.parent_columns).finish();
            let given = node.edge.as_ref().map(none).transpose()?;
            physical::build(&run, &plan, 0, given.as_ref().map(|given| &given.batch))?;
            expected.push(plan.rows);
        }
        Ok(query.nodes.iter().filter(|node| node.synced).count())
    }

    /// What is known of the tables of each node.
    pub(crate) fn stats(&self, run: &Run) -> Result<Vec<Arc<TableStats>>> {
        let reader = run.reader.lock();
        let statistics = run.snapshot.statistics();
        let stats = run.query.nodes.iter().map(|node| self.stats.get(&reader, node, statistics));
        Ok(stats.collect::<rusqlite::Result<Vec<_>>>()?)
    }
}

/// Whether no row of a node passes, as its filter alone tells.
fn never(node: &Node, filter: &Filter) -> bool {
    use SimpleOperator as Op;
    match filter {
        Filter::Const(truth) => !truth,
        Filter::And(filters) => {
            filters.iter().any(|filter| never(node, filter))
                || filters.windows(2).any(|pair| matches!(pair, [one, other] if contradict(one, other)))
        }
        Filter::Or(filters) => filters.iter().all(|filter| never(node, filter)),
        Filter::Compare(comparison) => {
            let value_type = node.table.columns[comparison.column].value_type;
            match (comparison.op, &comparison.literal) {
                (Op::Is | Op::IsNot, Literal::Value(Value::Null)) => false,
                (_, Literal::Value(Value::Null)) => true,
                (Op::Eq | Op::Is, Literal::Value(value)) => !fits(value_type, value),
                (Op::In, Literal::List(values)) => !values.iter().any(|value| fits(value_type, value)),
                _ => false,
            }
        }
        Filter::Exists { .. } => false,
    }
}

/// Whether a column is to equal two values.
fn contradict(one: &Filter, other: &Filter) -> bool {
    match (one, other) {
        (Filter::Compare(one), Filter::Compare(other)) => {
            (one.op, other.op) == (SimpleOperator::Eq, SimpleOperator::Eq)
                && one.column == other.column
                && one.literal != other.literal
        }
        _ => false,
    }
}

/// Where the plans of one query come from.
enum Choice<'a> {
    /// From before, or chosen now for all queries of the shape.
    Shared(&'a Query, Arc<ShapePlans>),
    /// By chance.
    Careless(&'a Query, Vec<Arc<TableStats>>, Dice),
}

impl<'a> Choice<'a> {
    fn new(planner: &Planner, run: &'a Run) -> Result<Self> {
        Ok(match planner.dice {
            Some(dice) => Choice::Careless(&run.query, planner.stats(run)?, dice),
            None => {
                let plans = {
                    let snapshot = &run.snapshot;
                    planner.plans.of(&run.query, &snapshot.schema, snapshot.statistics(), || planner.stats(run))?
                };
                Choice::Shared(&run.query, plans)
            }
        })
    }

    fn plan(&mut self, node: NodeId, keys: Option<usize>) -> Arc<Rel> {
        match self {
            Choice::Shared(query, plans) => plans.plan(node, keys, || {
                Chooser::new(&Model::new(query, plans.stats.clone(), STREAM_ROWS), None).rows(node, keys)
            }),
            Choice::Careless(query, stats, dice) => {
                let model = Model::new(query, stats.clone(), 0.0);
                let plan = Chooser::new(&model, Some(*dice)).rows(node, keys);
                // Another throw for the next node.
                dice.0 = dice.0.wrapping_add(1);
                Arc::new(plan)
            }
        }
    }
}

impl Hydrate<Snapshot> for Planner {
    fn hydrate(&self, query: &Arc<Query>, snapshot: &Arc<Snapshot>) -> std::result::Result<Hydration, HydrateError> {
        let mut nodes = vec![Vec::new(); query.nodes.len()];
        self.answer(query, snapshot, &mut |node, row| {
            nodes[node].push(row.decode()?);
            Ok(())
        })?;
        Ok(Hydration { version: Arc::clone(&snapshot.version), nodes })
    }

    fn stream(
        &self,
        query: &Arc<Query>,
        snapshot: &Arc<Snapshot>,
        found: &mut Found<'_>,
    ) -> std::result::Result<(), HydrateError> {
        Ok(self.answer(query, snapshot, found)?)
    }
}

#[cfg(test)]
mod tests {
    use zql_spec::ast::Ast;
    use zql_spec::json::Json;
    use zql_spec::schema::{Column, Schema, Table, ValueType};

    use super::*;

    #[test]
    fn what_no_row_can_pass() {
        let column = |(name, value_type): (&str, ValueType)| Column { name: name.into(), value_type, nullable: true };
        let columns = [("id", ValueType::String), ("n", ValueType::Number)].map(column).into();
        let schema =
            Schema::new([Table { name: "t".into(), columns, primary_key: vec![0], unique_keys: vec![vec![0]] }]);
        let compare = |column: &str, op: &str, value: &str| {
            format!(
                r#"{{"type":"simple","op":"{op}","left":{{"type":"column","name":"{column}"}},
                    "right":{{"type":"literal","value":{value}}}}}"#
            )
        };
        let all = |kind: &str, of: &[String]| format!(r#"{{"type":"{kind}","conditions":[{}]}}"#, of.join(","));
        let (one, two, none) = (compare("n", "=", "1"), compare("n", "=", "2"), compare("n", ">", "null"));
        let cases = [
            (compare("n", "=", "null"), true),
            (compare("n", "LIKE", "null"), true),
            (compare("n", "IS", "null"), false),
            (compare("n", "IS NOT", "null"), false),
            (compare("n", "=", "true"), true),
            (compare("n", "!=", "true"), false),
            (compare("id", "IN", "[]"), true),
            (compare("id", "IN", "[1]"), true),
            (compare("id", "NOT IN", "[]"), false),
            (one.clone(), false),
            (all("and", &[one.clone(), two.clone()]), true),
            (all("and", &[one.clone(), one.clone()]), false),
            (all("or", &[one.clone(), two.clone()]), false),
            (all("and", &[one.clone(), none.clone()]), true),
            (all("or", &[one.clone(), none.clone()]), false),
            (all("or", &[none.clone(), all("and", &[one, two])]), true),
        ];
        for (condition, expected) in cases {
            let ast = Json::parse(&format!(r#"{{"table":"t","where":{condition}}}"#)).unwrap();
            let query = Query::resolve(&Ast::parse_lenient(&ast).unwrap(), &schema).unwrap();
            assert_eq!(never(query.root(), &query.root().filter), expected, "{condition}");
        }
    }
}
