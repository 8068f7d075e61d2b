//! Explains queries: how they are answered, what keeping the answer current costs, and what would make it cheaper.
//!
//! An explanation is data ([`report::Report`]) made by one function, [`Planner::report`], from a version of a
//! replica or from the statistics of one ([`Subject`]). With data the query is run as a hydration runs it, because the plan
//! of a node depends on how many keys its parents' rows have, and what each operator did stands beside its
//! estimate. Without data the number of keys is estimated too, and SQLite plans on an empty replica.
//!
//! It costs a hydration that is measured, a second one that is not if the first was short, and some dozens
//! of plans for the advice.

mod advice;
mod alternatives;
mod candidates;
mod create_index;
mod maintenance;
mod notes;
mod operators;
pub mod report;
mod rows;
mod subject;

use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::graph::{Graph, hydrated_rows};
use engine::hydration::{HydrateError, Hydration};
use engine::query::{NodeId, Query, ResolveError, Role};
use engine::replica::Snapshot;
use zql_spec::ast::Ast;
use zql_spec::schema::Schema;

pub use subject::Subject;

use crate::Planner;
use crate::choose::{Chooser, Considered, STREAM_ROWS};
use crate::cost::Model;
use crate::error::Result;
use crate::measure::{OpTally, Tally};
use crate::plan::Rel;
use crate::run::Run;
use crate::stats::TableStats;
use alternatives::alternatives;
use operators::{Describer, round, statements};
use report::{NodeReport, Operator, QueryReport, Report, SourceReport, Totals};
use rows::{bytes, synced_rows};

/// A query that ran this long is not run again to find out what it takes without being measured.
const RUN_AGAIN: Duration = Duration::from_millis(250);

/// How often others are: once to open another connection, once to see what it takes then.
const RUNS_MORE: usize = 2;

/// What an explanation shall hold.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Run the query and measure it, if there is data.
    pub analyze: bool,
    /// Look for what would make it cheaper.
    pub advice: bool,
    /// The rows that a client would get.
    pub synced_rows: bool,
    /// How many of the rows that SQLite gave to hold for each statement.
    pub vended_rows: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options { analyze: true, advice: true, synced_rows: false, vended_rows: 0 }
    }
}

/// What is explained, with everything that the parts of a report are made from.
pub(crate) struct Case<'a> {
    pub(crate) subject: &'a Subject,
    pub(crate) model: &'a Model<'a>,
    /// By node: the plan, by estimates if it was not run.
    pub(crate) plans: Vec<Option<NodePlan>>,
    /// The graph, if the query was run.
    pub(crate) graph: Option<Graph>,
}

/// A node's plan and how many keys it was made for.
pub(crate) struct NodePlan {
    pub(crate) plan: Arc<Rel>,
    pub(crate) keys: Option<f64>,
}

/// The plans of a query by estimates alone: as if parents had as many keys as is expected.
fn estimated_plans(model: &Model<'_>, chooser: &mut Chooser<'_>) -> Vec<Option<NodePlan>> {
    let mut plans: Vec<Option<NodePlan>> = Vec::with_capacity(model.query.nodes.len());
    for (id, node) in model.query.nodes.iter().enumerate() {
        let keys = match &node.edge {
            _ if !node.synced => None,
            None => Some(None),
            Some(edge) => {
                let parent = plans[edge.parent].as_ref().map(|parent| parent.plan.rows);
                parent.map(|rows| Some(model.distinct_keys(edge.parent, &edge.parent_columns, rows)))
            }
        };
        let mut plan = |keys: Option<f64>| Arc::new(chooser.rows(id, keys.map(|keys| keys as usize)));
        plans.push(keys.map(|keys| NodePlan { plan: plan(keys), keys }));
    }
    plans
}

impl Planner {
    /// The estimates of a query.
    fn model<'q>(&self, query: &'q Query, stats: Vec<Arc<TableStats>>) -> Model<'q> {
        Model::new(query, stats, if self.dice.is_some() { 0.0 } else { STREAM_ROWS })
    }

    /// Explains a query.
    ///
    /// # Errors
    /// [`HydrateError::Query`] when the query does not fit the schema; otherwise as a hydration fails.
    pub fn report(&self, subject: &Subject, ast: &Ast, options: &Options) -> std::result::Result<Report, HydrateError> {
        let query = Query::resolve(ast, subject.schema())
            .map_err(|error| HydrateError::Query(format!("{error}{}", hint(&error, subject.schema()))))?;
        Ok(self.report_of(subject, ast, &Arc::new(query), options)?)
    }

    fn report_of(&self, subject: &Subject, ast: &Ast, query: &Arc<Query>, options: &Options) -> Result<Report> {
        let analyze = options.analyze && subject.has_data();
        let run = if analyze {
            Run::measured(query, &subject.snapshot, Tally::keeping(options.vended_rows))?
        } else {
            Run::new(query, &subject.snapshot)?
        };
        let stats = subject.stats(self, &run)?;
        let model = self.model(query, stats);
        let begun = Instant::now();
        let mut chooser = Chooser::explaining(&model, self.dice);
        let estimated = estimated_plans(&model, &mut chooser);
        let plan_ms = begun.elapsed().as_secs_f64() * 1e3;
        let mut considered = chooser.considered();
        let estimated_keys: Vec<Option<f64>> =
            estimated.iter().map(|plan| plan.as_ref().and_then(|plan| plan.keys)).collect();

        let mut measured = None;
        let mut plans = estimated;
        let mut tallies: Vec<Vec<OpTally>> = vec![Vec::new(); query.nodes.len()];
        let mut rows: Vec<Option<(u64, u64)>> = vec![None; query.nodes.len()];
        let mut graph = None;
        let mut synced = None;
        if analyze {
            let mut chooser = Chooser::explaining(&model, self.dice);
            let mut choose = |node: NodeId, keys: Option<usize>| Arc::new(chooser.rows(node, keys));
            let mut hydration = Hydration {
                version: Arc::clone(&subject.snapshot.version),
                nodes: vec![Vec::new(); query.nodes.len()],
            };
            let begun = Instant::now();
            let answers = self.answer_by(&run, &mut choose, &mut |node, row| {
                hydration.nodes[node].push(row.decode()?);
                Ok(())
            })?;
            let mut time = begun.elapsed();
            considered = chooser.considered();
            for _ in 0..RUNS_MORE {
                if time < RUN_AGAIN {
                    let begun = Instant::now();
                    self.answer(query, &subject.snapshot, &mut |_, row| row.decode().map(drop))?;
                    time = time.min(begun.elapsed());
                }
            }
            let rows_out = hydrated_rows(query, &hydration);
            measured = Some((time, rows_out.len() as u64));
            if options.synced_rows {
                synced = Some(synced_rows(query, &rows_out));
            }
            graph = Some(Graph::new(Arc::clone(query), &hydration));
            for (id, answer) in answers.into_iter().enumerate() {
                let of_node = &hydration.nodes[id];
                rows[id] = Some((of_node.len() as u64, bytes(of_node)));
                plans[id] = answer.map(|answer| {
                    tallies[id] = answer.tally;
                    NodePlan { plan: answer.plan, keys: answer.keys.map(|keys| keys as f64) }
                });
            }
        }

        let decided = alternatives::decided(&model, &considered);
        let nodes = {
            let reader = run.reader.lock();
            let mut describer = Describer::new(query, &reader, options.vended_rows > 0);
            let node = |id: NodeId| {
                let plan = plans[id].as_ref();
                let describe =
                    |plan: &NodePlan| describer.plan(&plan.plan, &tallies[id], plan.keys.map(|keys| keys as u64));
                let operator = plan.map(describe).transpose()?;
                let report = self.node(&model, id, plan, operator, &considered, rows[id], estimated_keys[id], analyze);
                Ok(NodeReport { decided: decided[id], ..report })
            };
            (0..query.nodes.len()).map(node).collect::<Result<Vec<_>>>()?
        };
        let case = Case { subject, model: &model, plans, graph };
        let maintenance = maintenance::maintenance(&case);
        let mut report = Report {
            name: None,
            query: QueryReport::of(ast),
            source: SourceReport {
                kind: if subject.has_data() { "replica" } else { "statistics" },
                version: subject.version().to_owned(),
                analyzed: analyze,
            },
            totals: Totals { plan_ms: round(plan_ms), ..Totals::default() },
            nodes,
            statements: Vec::new(),
            maintenance,
            advice: Vec::new(),
            warnings: Vec::new(),
            synced_rows: synced,
        };
        self.sum(&mut report, measured);
        if options.advice {
            report.advice = advice::advice(&case, &report)?;
        }
        Ok(report)
    }

    #[allow(clippy::too_many_arguments)]
    fn node(
        &self,
        model: &Model<'_>,
        id: NodeId,
        plan: Option<&NodePlan>,
        operator: Option<Operator>,
        considered: &[Considered],
        rows: Option<(u64, u64)>,
        keys_estimated: Option<f64>,
        analyzed: bool,
    ) -> NodeReport {
        let node = model.node(id);
        let edge = node.edge.as_ref();
        let mut operators = Vec::new();
        if let Some(operator) = &operator {
            collect(operator, &mut operators);
        }
        let sum = |of: &dyn Fn(&report::Access) -> Option<u64>| {
            let accesses = operators.iter().filter_map(|operator| operator.access.as_ref());
            analyzed.then(|| accesses.filter_map(of).sum())
        };
        let name = |table: &zql_spec::schema::Table, column: usize| table.columns[column].name.to_string();
        NodeReport {
            id,
            table: node.table.name.to_string(),
            alias: node.alias.to_string(),
            role: match node.role {
                Role::Root => "root",
                Role::Related => "related",
                Role::Exists => "exists",
            },
            negated: edge.is_some_and(|edge| alternatives::negated(&model.node(edge.parent).filter, id)),
            decided: None,
            parent: edge.map(|edge| edge.parent),
            on: edge
                .map(|edge| {
                    let parent = &model.node(edge.parent).table;
                    let pairs = edge.parent_columns.iter().zip(&edge.child_columns);
                    pairs.map(|(&of_parent, &own)| (name(parent, of_parent), name(&node.table, own))).collect()
                })
                .unwrap_or_default(),
            synced: node.synced,
            keys_estimated,
            keys: plan.and_then(|plan| plan.keys).filter(|_| analyzed).map(|keys| keys as u64),
            table_rows: model.table_rows(id),
            rows_estimated: plan.map_or(0.0, |plan| plan.plan.rows),
            rows: rows.map(|(rows, _)| rows),
            bytes: rows.map(|(_, bytes)| bytes),
            rows_visited: sum(&|access| access.rows_visited),
            ms: analyzed.then(|| round(operators.iter().filter_map(|operator| operator.ms).sum())),
            cost: plan.map_or(0.0, |plan| plan.plan.cost),
            without_plan: match plan {
                Some(_) => None,
                None if !node.synced => Some("a condition only"),
                None => Some("no parent rows"),
            },
            plan: operator,
            alternatives: alternatives(model, considered, id, plan.and_then(|plan| plan.keys).unwrap_or(0.0)),
        }
    }

    /// Adds up what the nodes say.
    fn sum(&self, report: &mut Report, measured: Option<(Duration, u64)>) {
        let operators = report.operators();
        let mut totals = report.totals.clone();
        report_totals(&mut totals, &operators);
        let statements = statements(&operators);
        totals.rows_estimated = report.nodes.iter().map(|node| node.rows_estimated).sum();
        totals.cost = report.nodes.iter().map(|node| node.cost).sum();
        match measured {
            Some((time, rows_out)) => {
                totals.ms = Some(round(time.as_secs_f64() * 1e3));
                totals.rows_out = Some(rows_out);
            }
            None => {
                totals.rows_visited = None;
                totals.rows_read = None;
                totals.bytes_read = None;
                totals.executions = None;
            }
        }
        report.totals = totals;
        report.statements = statements;
    }

    /// Runs a query and tells in short, for each node, the plan with its estimated rows, the SQL of its leaves, and
    /// how many rows it gave.
    pub fn explain(&self, query: &Arc<Query>, snapshot: &Arc<Snapshot>) -> std::result::Result<String, HydrateError> {
        let subject = Subject::replica(snapshot);
        let run = Run::measured(query, snapshot, Tally::default())?;
        let stats = subject.stats(self, &run)?;
        let model = self.model(query, stats);
        let mut chooser = Chooser::new(&model, self.dice);
        let answers = self.answer_by(&run, &mut |node, keys| Arc::new(chooser.rows(node, keys)), &mut |_, _| Ok(()))?;
        let reader = run.reader.lock();
        let mut describer = Describer::new(query, &reader, false);
        let mut text = String::new();
        for (id, (node, answer)) in query.nodes.iter().zip(&answers).enumerate() {
            let role = match node.role {
                Role::Root => "root",
                Role::Related => "related",
                Role::Exists => "exists",
            };
            let _ = write!(text, "{id} {} ({role}", node.table.name);
            if let Some(edge) = &node.edge {
                let _ = write!(text, " {} of {}", node.alias, edge.parent);
            }
            match answer {
                None if !node.synced => text.push_str("): a condition only\n"),
                None => text.push_str("): no parent rows\n"),
                Some(answer) => {
                    if let Some(keys) = answer.keys {
                        let _ = write!(text, ", {keys} keys");
                    }
                    let _ = writeln!(text, "): {} rows", answer.rows);
                    let keys = answer.keys.map(|keys| keys as u64);
                    in_short(&describer.plan(&answer.plan, &answer.tally, keys)?, 1, &mut text);
                }
            }
        }
        Ok(text)
    }
}

/// What helps with a name that does not exist.
fn hint(error: &ResolveError, schema: &Schema) -> String {
    let ResolveError::UnknownColumn { table, .. } = error else { return String::new() };
    let columns = schema.table(table).map(|table| table.columns.iter().map(|column| &*column.name).collect::<Vec<_>>());
    columns.map_or_else(String::new, |columns| format!("; {table} has {}", columns.join(", ")))
}

fn in_short(operator: &Operator, depth: usize, text: &mut String) {
    let _ = write!(text, "{}{} ~{:.0}", "  ".repeat(depth), operator.label, operator.rows_estimated);
    if let Some(access) = &operator.access {
        let _ = write!(text, ": {}", access.sql);
    }
    text.push('\n');
    operator.inputs.iter().for_each(|input| in_short(input, depth + 1, text));
}

fn collect<'o>(operator: &'o Operator, into: &mut Vec<&'o Operator>) {
    into.push(operator);
    operator.inputs.iter().for_each(|input| collect(input, into));
}

fn report_totals(totals: &mut Totals, operators: &[&Operator]) {
    let accesses = || operators.iter().filter_map(|operator| operator.access.as_ref());
    totals.rows_visited = Some(accesses().filter_map(|access| access.rows_visited).sum());
    totals.rows_read = Some(accesses().filter_map(|access| access.rows_read).sum());
    totals.bytes_read = Some(accesses().filter_map(|access| access.bytes).sum());
    totals.executions = Some(accesses().filter_map(|access| access.executions).sum());
}
