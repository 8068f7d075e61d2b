//! What maintenance has to know about a query besides the query: derived once, when a graph is made.
//!
//! Size is linear in the query.

use smallvec::SmallVec;
use zql_spec::schema::Table;

use crate::commit::ColumnSet;
use crate::query::{Filter, Node, NodeId, Query, Role};

/// How a node keeps the members of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keeps {
    /// Every row that passes.
    All,
    /// The first rows in order, at most so many.
    First(usize),
    /// A few rows that passed when they were found, as long as they pass.
    Witnesses,
}

#[derive(Clone, Debug)]
pub(super) struct NodePlan {
    /// Position of the node's table in [`Plan::tables`].
    pub(super) table: usize,
    pub(super) keeps: Keeps,
    /// EXISTS children.
    pub(super) exists: SmallVec<[NodeId; 2]>,
    /// Columns that membership in the node depends on: if a row changes none of them, it stays where it is.
    pub(super) relevant: SmallVec<[usize; 4]>,
    /// Columns whose change does more than change the content of rows that are in: these, the key, and what ties
    /// children.
    pub(super) moving: ColumnSet,
    /// Whether a row that leaves is needed with its values, because its key alone tells neither its
    /// child groups nor whether other nodes hold it.
    pub(super) needs_image: bool,
}

/// A table that a query reads.
#[derive(Clone, Debug)]
pub(super) struct TablePlan {
    /// A node that reads it; all nodes of a query that read a table share its definition.
    pub(super) any: NodeId,
    /// The synced nodes that read it.
    pub(super) synced: SmallVec<[NodeId; 2]>,
}

#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) nodes: Vec<NodePlan>,
    pub(super) tables: Vec<TablePlan>,
}

impl Plan {
    pub(super) fn new(query: &Query) -> Self {
        let mut tables: Vec<TablePlan> = Vec::new();
        let mut table_of = Vec::with_capacity(query.nodes.len());
        for (id, node) in query.nodes.iter().enumerate() {
            let table = match tables.iter().position(|table| query.nodes[table.any].table.name == node.table.name) {
                Some(table) => table,
                None => {
                    tables.push(TablePlan { any: id, synced: SmallVec::new() });
                    tables.len() - 1
                }
            };
            if node.synced {
                tables[table].synced.push(id);
            }
            table_of.push(table);
        }
        let nodes = query.nodes.iter().zip(&table_of).map(|(node, &table)| {
            let relevant = relevant_columns(query, node);
            NodePlan {
                moving: moving_columns(query, node, &relevant),
                relevant,
                table,
                keeps: match (node.role, node.limit) {
                    (Role::Exists, _) => Keeps::Witnesses,
                    (_, Some(limit)) => Keeps::First(limit),
                    (_, None) => Keeps::All,
                },
                exists: node
                    .children
                    .iter()
                    .copied()
                    .filter(|&child| query.nodes[child].role == Role::Exists)
                    .collect(),
                needs_image: tables[table].synced.len() > 1 || !key_names_children(query, node),
            }
        });
        let nodes = nodes.collect();
        Plan { nodes, tables }
    }
}

impl TablePlan {
    pub(super) fn definition<'a>(&self, query: &'a Query) -> &'a Table {
        &query.nodes[self.any].table
    }
}

fn relevant_columns(query: &Query, node: &Node) -> SmallVec<[usize; 4]> {
    let mut columns = SmallVec::new();
    filter_columns(&node.filter, &mut columns);
    if node.limit.is_some() || node.start.is_some() {
        columns.extend(node.order.iter().map(|&(column, _)| column));
    }
    if let Some(edge) = &node.edge {
        columns.extend(edge.child_columns.iter().copied());
    }
    for &child in &node.children {
        if let (Role::Exists, Some(edge)) = (query.nodes[child].role, &query.nodes[child].edge) {
            columns.extend(edge.parent_columns.iter().copied());
        }
    }
    columns.sort_unstable();
    columns.dedup();
    columns
}

fn moving_columns(query: &Query, node: &Node, relevant: &[usize]) -> ColumnSet {
    let edges = node.children.iter().filter_map(|&child| query.nodes[child].edge.as_ref());
    let of_children = edges.flat_map(|edge| &edge.parent_columns);
    relevant.iter().chain(&node.table.primary_key).chain(of_children).copied().collect()
}

fn filter_columns(filter: &Filter, columns: &mut SmallVec<[usize; 4]>) {
    match filter {
        Filter::Const(_) | Filter::Exists { .. } => {}
        Filter::And(filters) | Filter::Or(filters) => {
            filters.iter().for_each(|filter| filter_columns(filter, columns));
        }
        Filter::Compare(comparison) => columns.push(comparison.column),
    }
}

/// Whether the child groups of a row follow from its key.
fn key_names_children(query: &Query, node: &Node) -> bool {
    node.children.iter().map(|&child| &query.nodes[child]).filter(|child| child.synced).all(|child| {
        let parent_columns = child.edge.iter().flat_map(|edge| &edge.parent_columns);
        parent_columns.into_iter().all(|column| node.table.primary_key.contains(column))
    })
}
