//! Comparisons of the engine's answers with the naive evaluator's.

use std::collections::BTreeMap;
use std::sync::Arc;

use engine::commit::{Key, StoredRow};
use engine::graph::{AnswerRow, Graph, QueryDelta};
use engine::hydration::Hydration;
use engine::query::{Query, Role};
use zql_spec::naive::{Evaluation, NodeRole, Row, WITNESSES};
use zql_spec::schema::Schema;
use zql_spec::value::Value;

use super::rng::Rng;

/// Why a comparison failed.
pub type Failure = String;

/// Whether the engine sees the same nodes in a query as the naive evaluator.
pub fn check_nodes(evaluation: &Evaluation<'_>, query: &Query) -> Result<(), Failure> {
    if query.nodes.len() != evaluation.nodes.len() {
        return Err(format!("{} nodes instead of {}", query.nodes.len(), evaluation.nodes.len()));
    }
    for (id, (found, expected)) in query.nodes.iter().zip(&evaluation.nodes).enumerate() {
        let role = match expected.role {
            NodeRole::Root => Role::Root,
            NodeRole::Related => Role::Related,
            NodeRole::Exists => Role::Exists,
        };
        let parent = expected.parent.map(|(parent, _)| parent);
        let same = found.role == role
            && found.table.name == expected.ast.table
            && found.edge.as_ref().map(|edge| edge.parent) == parent
            && found.synced == expected.synced;
        if !same {
            return Err(format!("node {id} is {found:?} instead of {role:?} {}", expected.ast.table));
        }
    }
    Ok(())
}

/// Whether a hydration is a right answer.
pub fn check_hydration(evaluation: &Evaluation<'_>, hydration: &Hydration) -> Result<(), Failure> {
    let held: Vec<Vec<&[Value]>> =
        hydration.nodes.iter().map(|rows| rows.iter().map(|row| &row.values[..]).collect()).collect();
    evaluation.check(&held).map_err(|mismatch| mismatch.to_string())
}

/// A right answer, made by the naive evaluator; witnesses are chosen at random. Rows are taken from
/// `stored`, which gives the replica's row of a table with these values.
pub fn naive_hydration(
    evaluation: &Evaluation<'_>,
    version: &str,
    stored: &dyn Fn(&str, &Row) -> Option<Arc<StoredRow>>,
    rng: &mut Rng,
) -> Result<Hydration, Failure> {
    let mut nodes: Vec<Vec<Arc<StoredRow>>> = Vec::new();
    for (id, node) in evaluation.nodes.iter().enumerate() {
        let mut rows: BTreeMap<Row, ()> = BTreeMap::new();
        if node.synced {
            let parents: Vec<Option<&[Value]>> = match node.parent {
                Some((parent, _)) => nodes[parent].iter().map(|row| Some(&row.values[..])).collect(),
                None => vec![None],
            };
            for parent in parents {
                let mut matching = evaluation.rows(id, parent);
                if node.role == NodeRole::Exists {
                    // Parents of equal keys share their witnesses.
                    let missing =
                        WITNESSES.saturating_sub(matching.iter().filter(|row| rows.contains_key(*row)).count());
                    matching.retain(|row| !rows.contains_key(row));
                    while matching.len() > missing {
                        matching.swap_remove(rng.below(matching.len()));
                    }
                }
                rows.extend(matching.into_iter().map(|row| (row, ())));
            }
        }
        let name = &node.table.name;
        let rows: Option<Vec<_>> = rows.into_keys().map(|row| stored(name, &row)).collect();
        nodes.push(rows.ok_or_else(|| format!("the replica lacks a row of {name}"))?);
    }
    Ok(Hydration { version: version.into(), nodes })
}

/// Whether a graph's state is a right answer.
pub fn check_graph(evaluation: &Evaluation<'_>, graph: &Graph, schema: &Schema, rows: &Rows) -> Result<(), Failure> {
    let mut held: Vec<Vec<&[Value]>> = Vec::new();
    for (id, node) in evaluation.nodes.iter().enumerate() {
        let table = schema.table(&node.table.name).ok_or("no such table")?;
        let mut node_rows = Vec::new();
        for (_, _, keys) in graph.members(id) {
            for key in keys {
                let row = rows.get(&table.name, &key);
                node_rows.push(row.ok_or_else(|| format!("node {id} holds {key:?}, which {} lacks", table.name))?);
            }
        }
        held.push(node_rows);
    }
    evaluation.check(&held).map_err(|mismatch| mismatch.to_string())
}

/// The rows of a database by the primary keys that a client uses.
#[derive(Debug, Default)]
pub struct Rows {
    tables: BTreeMap<Arc<str>, BTreeMap<Key, Row>>,
}

impl Rows {
    /// Indexes a database's rows by a schema's keys.
    pub fn new(database: &zql_spec::naive::Database, schema: &Schema) -> Self {
        let rows = |table: &zql_spec::schema::Table| {
            let key = |row: &Row| table.primary_key.iter().map(|&column| row[column].clone()).collect::<Key>();
            database.rows(&table.name).map(|row| (key(row), Row::clone(row))).collect()
        };
        let tables = schema.tables.iter().map(|(name, table)| (Arc::clone(name), rows(table))).collect();
        Rows { tables }
    }

    fn get(&self, table: &str, key: &Key) -> Option<&[Value]> {
        self.tables.get(table)?.get(key).map(|row| &**row)
    }
}

/// What a client has that is told of a query's answer and its changes.
#[derive(Clone, Debug, Default)]
pub struct View {
    rows: BTreeMap<(Arc<str>, Key), (u32, Arc<StoredRow>)>,
}

impl View {
    /// The view of a client that got these rows.
    pub fn new(answer: Vec<AnswerRow>) -> Result<Self, Failure> {
        let mut view = View::default();
        for row in answer {
            let twice = view.rows.insert((Arc::clone(&row.table), row.key.clone()), (row.count, Arc::clone(&row.row)));
            if twice.is_some() || row.count == 0 {
                return Err(format!("the answer lists {row:?} twice or without a count"));
            }
        }
        Ok(view)
    }

    /// Takes a delta, whose every word is checked against what the client has. One composed of several may
    /// send a row that went and came back as it was.
    pub fn apply(&mut self, delta: &QueryDelta, composed: bool) -> Result<(), Failure> {
        let mut seen = std::collections::BTreeSet::new();
        for change in &delta.changes {
            let fail = |what: &str| Err(format!("{what}: {change:?}"));
            let entry = (Arc::clone(&change.table), change.key.clone());
            if !seen.insert(entry.clone()) {
                return fail("a row is listed twice");
            }
            let held = self.rows.get(&entry);
            if change.before != held.map_or(0, |(count, _)| *count) {
                return fail(&format!("the client had {held:?}"));
            }
            match (&change.row, held) {
                (Some(_), _) if change.after == 0 => return fail("a row that goes is sent"),
                (None, None) if change.after > 0 => return fail("a row that comes is not sent"),
                (None, _) if change.before == change.after => return fail("nothing changed"),
                (Some(row), Some((_, held))) if row == held && !composed => return fail("an equal row is sent again"),
                _ => {}
            }
            let row = change.row.clone().or_else(|| held.map(|(_, row)| Arc::clone(row)));
            match row.filter(|_| change.after > 0) {
                Some(row) => drop(self.rows.insert(entry, (change.after, row))),
                None => drop(self.rows.remove(&entry)),
            }
        }
        Ok(())
    }

    /// Whether counts are those of a graph's nodes and rows those of the database.
    pub fn check(&self, graph: &Graph, rows: &Rows) -> Result<(), Failure> {
        let mut counts: BTreeMap<(Arc<str>, Key), u32> = BTreeMap::new();
        for (id, node) in graph.query().nodes.iter().enumerate().filter(|(_, node)| node.synced) {
            for key in graph.members(id).flat_map(|(_, _, keys)| keys) {
                *counts.entry((Arc::clone(&node.table.name), key)).or_default() += 1;
            }
        }
        for (entry, count) in &counts {
            if self.rows.get(entry).map(|(count, _)| count) != Some(count) {
                return Err(format!("the client has {:?} of {entry:?}, the graph {count}", self.rows.get(entry)));
            }
        }
        for ((table, key), (_, row)) in &self.rows {
            if !counts.contains_key(&(Arc::clone(table), key.clone())) {
                return Err(format!("the client still has {table} {key:?}"));
            }
            if rows.get(table, key) != Some(&row.values) {
                return Err(format!("the client has {row:?}, the database {:?}", rows.get(table, key)));
            }
        }
        Ok(())
    }

    /// Whether the view is a right answer, as far as can be told without knowing which witnesses were chosen.
    pub fn check_alone(&self, evaluation: &Evaluation<'_>) -> Result<(), Failure> {
        let mut bounds: BTreeMap<(Arc<str>, Row), (u32, u32)> = BTreeMap::new();
        for (node, (always, sometimes)) in evaluation.nodes.iter().zip(evaluation.bounds()) {
            for row in sometimes {
                let certain = u32::from(always.contains(&row));
                let bound = bounds.entry((Arc::clone(&node.table.name), row)).or_default();
                *bound = (bound.0 + certain, bound.1 + 1);
            }
        }
        let mut missing: usize = bounds.values().filter(|(least, _)| *least > 0).count();
        for ((table, _), (count, row)) in &self.rows {
            let values = Row::from(&row.values[..]);
            match bounds.get(&(Arc::clone(table), values)) {
                Some((least, most)) if (least..=most).contains(&count) => missing -= usize::from(*least > 0),
                bound => return Err(format!("the client has {row:?} of {table} {count} times: {bound:?}")),
            }
        }
        if missing > 0 {
            Err(format!("the client lacks {missing} rows of {bounds:?}: {:?}", self.rows))
        } else {
            Ok(())
        }
    }
}
