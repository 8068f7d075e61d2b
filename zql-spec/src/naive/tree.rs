//! The answer as a client's view shows it.

use std::sync::Arc;

use super::database::Row;
use super::evaluate::{Evaluation, compare_rows, completed_order};
use crate::json::Json;
use crate::schema::Table;
use crate::value::Value;

/// A row and its related rows.
#[derive(Clone, Debug, PartialEq)]
pub struct TreeRow {
    /// The node the row stands in.
    pub node: usize,
    /// The row.
    pub row: Row,
    /// Related rows by relationship, in order.
    pub related: Vec<(Arc<str>, Vec<TreeRow>)>,
}

impl Evaluation<'_> {
    /// Root rows with all their related rows, hidden hops still there. What clients do not get is left out.
    pub fn tree(&self) -> Vec<TreeRow> {
        self.subtree(0, None)
    }

    fn subtree(&self, id: usize, parent_row: Option<&[Value]>) -> Vec<TreeRow> {
        let children = |row: &Row| {
            let synced = self.related(id).iter().filter(|&&child| self.nodes[child].synced);
            synced.map(|&child| (self.alias(child), self.subtree(child, Some(row)))).collect()
        };
        let rows = self.rows(id, parent_row);
        rows.into_iter().map(|row| TreeRow { node: id, related: children(&row), row }).collect()
    }

    fn alias(&self, id: usize) -> Arc<str> {
        self.nodes[id].ast.alias.clone().unwrap_or_default()
    }

    /// The tree as a view shows it: the rows of a hidden hop vanish and their children take its place,
    /// each once, in the children's order.
    pub fn collapsed(&self, rows: Vec<TreeRow>) -> Vec<TreeRow> {
        let hidden = |row: &TreeRow| self.nodes[row.node].parent.is_some_and(|(_, subquery)| subquery.hidden);
        if !rows.first().is_some_and(hidden) {
            let collapse = |tree: TreeRow| TreeRow {
                related: tree.related.into_iter().map(|(alias, rows)| (alias, self.collapsed(rows))).collect(),
                ..tree
            };
            return rows.into_iter().map(collapse).collect();
        }
        let merged = rows.into_iter().flat_map(|hop| hop.related).flat_map(|(_, rows)| rows);
        let mut merged = self.collapsed(merged.collect());
        if let Some(first) = merged.first() {
            let node = &self.nodes[first.node];
            let order = completed_order(node.ast, node.table);
            merged.sort_by(|a, b| compare_rows(&order, &a.row, &b.row));
            merged.dedup_by(|a, b| a.row == b.row);
        }
        merged
    }

    /// A tree as JSON objects: columns, then relationships, which win over columns of the same name.
    pub fn tree_json(&self, rows: &[TreeRow]) -> Json {
        tree_json(rows, &|node| self.nodes[node].table)
    }
}

/// A tree as JSON objects, given the tables of its nodes.
pub fn tree_json<'t>(rows: &[TreeRow], table: &dyn Fn(usize) -> &'t Table) -> Json {
    let object = |tree: &TreeRow| {
        let columns = table(tree.node).columns.iter().zip(tree.row.iter());
        let mut entries: Vec<(Arc<str>, Json)> = columns
            .filter(|(column, _)| !tree.related.iter().any(|(alias, _)| *alias == column.name))
            .map(|(column, value)| (Arc::clone(&column.name), value.to_json()))
            .collect();
        entries.extend(tree.related.iter().map(|(alias, rows)| (Arc::clone(alias), tree_json(rows, table))));
        Json::Object(entries)
    };
    Json::Array(rows.iter().map(object).collect())
}
