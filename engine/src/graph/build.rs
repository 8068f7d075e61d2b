//! A graph's state and a query's answer from rows as they are found.
//!
//! A hydration gives rows one by one, those of a node before those of its children. Nothing here needs them
//! all at once: [`GraphBuilder`] keeps keys, [`AnswerBuilder`] what is to be told. So a hydration whose rows are
//! sent as they come needs memory for the state and for little else.

use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;

use super::packed::Packed;
use super::plan::{Keeps, Plan};
use super::state::{Group, Members, NodeState};
use super::{AnswerRow, Graph};
use crate::commit::{StoredRow, Version};
use crate::hydration::Hydration;
use crate::query::{NodeId, Query, WITNESS_CAP};

/// Makes a graph from the rows of a hydration.
#[derive(Debug)]
pub struct GraphBuilder {
    query: Arc<Query>,
    plan: Plan,
    nodes: Vec<NodeState>,
    rows: usize,
}

impl GraphBuilder {
    /// A graph without rows.
    pub fn new(query: Arc<Query>) -> Self {
        let plan = Plan::new(&query);
        let nodes = query.nodes.iter().map(|_| NodeState::default()).collect();
        let mut build = GraphBuilder { query, plan, nodes, rows: 0 };
        if build.query.root().synced {
            open(&mut build.nodes[0], build.plan.nodes[0].keeps, Packed::default());
        }
        build
    }

    /// Takes a row of a node, after all rows of the node's parent. False for a row that is not needed: a witness
    /// beyond those that are kept, or a row of a node that is not synced.
    pub fn row(&mut self, id: NodeId, row: &StoredRow) -> bool {
        let GraphBuilder { query, plan, nodes, rows } = self;
        let node = &query.nodes[id];
        let group = NodeState::group_of(node, row).and_then(|group| nodes[id].groups.get_mut(&group));
        debug_assert!(group.is_some() || !node.synced, "a hydrated row belongs to a parent row");
        let Some(group) = group else { return false };
        if plan.nodes[id].keeps == Keeps::Witnesses && group.members.len() >= WITNESS_CAP {
            return false;
        }
        group.members.insert(node, Packed::columns(row, &node.table.primary_key), row);
        *rows += 1;
        for &child in node.children.iter().filter(|child| query.nodes[**child].synced) {
            let edge = query.nodes[child].edge.as_ref();
            if let Some(opened) = edge.and_then(|edge| Packed::joining(row, &edge.parent_columns)) {
                open(&mut nodes[child], plan.nodes[child].keeps, opened);
            }
        }
        true
    }

    /// The graph, which stands at the version that was read.
    pub fn finish(self, version: Version) -> Graph {
        let GraphBuilder { query, plan, nodes, rows } = self;
        debug_assert_eq!(rows, nodes.iter().map(NodeState::rows).sum::<usize>(), "each row of a node comes once");
        Graph { query, plan, version, nodes, row_count: rows, hydration_time: Duration::ZERO }
    }
}

/// A parent row has these values.
fn open(node: &mut NodeState, keeps: Keeps, group: Packed) {
    let empty = || Group { parents: 0, members: Members::empty(keeps) };
    node.groups.entry(group).or_insert_with(empty).parents += 1;
}

/// Makes the list of an answer's rows, each once, with how many nodes hold it.
#[derive(Debug)]
pub struct AnswerBuilder {
    query: Arc<Query>,
    plan: Plan,
    rows: Vec<AnswerRow>,
    /// By table: where its rows are in the list. Only for tables that several synced nodes read.
    places: Vec<Option<FxHashMap<Packed, usize>>>,
}

impl AnswerBuilder {
    /// An empty answer.
    pub fn new(query: Arc<Query>) -> Self {
        let plan = Plan::new(&query);
        let places = plan.tables.iter().map(|table| (table.synced.len() > 1).then(FxHashMap::default)).collect();
        AnswerBuilder { query, plan, rows: Vec::new(), places }
    }

    /// Takes a row that [`GraphBuilder::row`] took.
    pub fn row(&mut self, id: NodeId, row: &Arc<StoredRow>) {
        let table = self.plan.nodes[id].table;
        let definition = self.plan.tables[table].definition(&self.query);
        let columns = &definition.primary_key;
        let next = self.rows.len();
        if let Some(places) = &mut self.places[table] {
            let place = *places.entry(Packed::columns(row, columns)).or_insert(next);
            if place < next {
                self.rows[place].count += 1;
                return;
            }
        }
        let table = Arc::clone(&definition.name);
        self.rows.push(AnswerRow { table, key: row.key(columns), count: 1, row: Arc::clone(row) });
    }

    /// The answer.
    pub fn finish(self) -> Vec<AnswerRow> {
        self.rows
    }
}

/// The answer that a hydration holds, with counts.
pub fn hydrated_rows(query: &Arc<Query>, hydration: &Hydration) -> Vec<AnswerRow> {
    let mut answer = AnswerBuilder::new(Arc::clone(query));
    let mut witnesses: FxHashMap<(NodeId, Packed), usize> = FxHashMap::default();
    for (id, node) in query.nodes.iter().enumerate().filter(|(_, node)| node.synced) {
        let capped = answer.plan.nodes[id].keeps == Keeps::Witnesses;
        for row in &hydration.nodes[id] {
            if capped {
                let Some(group) = NodeState::group_of(node, row) else { continue };
                let count = witnesses.entry((id, group)).or_default();
                *count += 1;
                if *count > WITNESS_CAP {
                    continue;
                }
            }
            answer.row(id, row);
        }
    }
    answer.finish()
}
