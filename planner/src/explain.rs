//! Says how a query is answered.
//!
//! The query is run, because the plan of a child depends on how many rows its parents have; so beside
//! each estimate stands what came out.

use std::fmt::Write;
use std::sync::Arc;

use engine::hydration::HydrateError;
use engine::query::{Query, Role};
use engine::replica::Snapshot;

use crate::Planner;
use crate::plan::{Col, Leaf, Match, Op, Probe, Rel, Truth};
use crate::statement::Statement;

impl Planner {
    /// Runs a query and tells, for each node, the plan with its estimated rows, the SQL of its leaves, and
    /// how many rows it gave.
    pub fn explain(&self, query: &Arc<Query>, snapshot: &Arc<Snapshot>) -> Result<String, HydrateError> {
        let answers = self.answer(query, snapshot, &mut |_, _| {})?;
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
                    describe(query, &answer.plan, 1, &mut text);
                }
            }
        }
        Ok(text)
    }
}

fn describe(query: &Query, rel: &Rel, depth: usize, text: &mut String) {
    let table = &query.nodes[rel.node].table;
    let name = |column: usize| &*table.columns[column].name;
    for _ in 0..depth {
        text.push_str("  ");
    }
    match &rel.op {
        Op::Empty => text.push_str("Empty"),
        Op::Keys => text.push_str("ParentKeys"),
        Op::Scan(leaf) if leaf.stream => text.push_str("Scan (streamed)"),
        Op::Scan(_) => text.push_str("Scan"),
        Op::Lookup { leaf: Leaf { lookup: Probe::RowId, .. }, .. } => text.push_str("Fetch"),
        Op::Lookup { leaf, .. } => {
            let columns = match &leaf.lookup {
                Probe::Columns(columns) => columns.iter().map(|&column| name(column)).collect::<Vec<_>>().join(", "),
                Probe::None | Probe::RowId => String::new(),
            };
            let _ = write!(text, "Lookup by {columns}");
        }
        Op::Join { kind, build_rows, .. } => {
            text.push_str(match kind {
                Match::Semi => "SemiJoin",
                Match::Anti => "AntiJoin",
                Match::Mark(_) => "MarkJoin",
            });
            if let Match::Mark(node) = kind {
                let _ = write!(text, " exists{node}");
            }
            text.push_str(if *build_rows { " (hash of rows)" } else { " (hash of keys)" });
        }
        Op::Filter { truth, .. } => {
            text.push_str("Filter ");
            describe_truth(truth, text);
        }
        Op::Distinct { .. } => text.push_str("Distinct"),
        Op::Concat { .. } => text.push_str("Concat"),
        Op::Sort { fetch: Some(fetch), .. } => {
            let _ = write!(text, "TopK {fetch}");
        }
        Op::Sort { fetch: None, .. } => text.push_str("Sort"),
        Op::First { keys, limit, .. } if keys.is_empty() => {
            let _ = write!(text, "Limit {limit}");
        }
        Op::First { limit, .. } => {
            let _ = write!(text, "First {limit} per key");
        }
    }
    let _ = write!(text, " ~{:.0}", rel.rows);
    if let Op::Scan(leaf) | Op::Lookup { leaf, .. } = &rel.op {
        let _ = write!(text, ": {}", Statement::new(query, leaf, &rel.columns).sql.text);
    }
    text.push('\n');
    for input in rel.inputs() {
        describe(query, input, depth + 1, text);
    }
}

fn describe_truth(truth: &Truth, text: &mut String) {
    let column = |column: &Col, text: &mut String| match column {
        Col::Truth(truth) => {
            let _ = write!(text, "truth{truth}");
        }
        Col::Mark(node) => {
            let _ = write!(text, "exists{node}");
        }
        Col::Row | Col::RowId | Col::Column(_) => text.push('?'),
    };
    match truth {
        Truth::Col(of) => column(of, text),
        Truth::Not(of) => {
            text.push_str("not ");
            column(of, text);
        }
        Truth::And(terms) | Truth::Or(terms) => {
            let word = if matches!(truth, Truth::And(_)) { " and " } else { " or " };
            text.push('(');
            for (position, term) in terms.iter().enumerate() {
                if position > 0 {
                    text.push_str(word);
                }
                describe_truth(term, text);
            }
            text.push(')');
        }
    }
}
