//! The answer to a query as a client sees it, and its text.
//!
//! The text names rows by their keys: their values are those of the data set after the transactions so far, against
//! which an answer's rows are checked. One line a row: `i1 { comments [c1 { author u1 }, c2], owner null }`.

use std::fmt::Write;
use std::sync::Arc;

use super::key;
use crate::format::Format;
use crate::naive::{Evaluation, Row, TreeRow};
use crate::value::Value;

/// Rows with their related rows, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tree {
    /// The rows.
    pub rows: Vec<TreeNode>,
}

/// A row with its related rows.
#[derive(Clone, Debug, PartialEq)]
pub struct TreeNode {
    /// Its table.
    pub table: Arc<str>,
    /// Its primary key.
    pub key: Vec<Value>,
    /// Its values, in column order.
    pub row: Row,
    /// Its relationships: name, whether it is one row at most, rows.
    pub related: Vec<(Arc<str>, bool, Vec<TreeNode>)>,
}

impl Tree {
    /// The answer of an evaluation.
    pub fn of(evaluation: &Evaluation<'_>, format: &Format) -> Tree {
        let rows = evaluation.collapsed(evaluation.tree());
        Tree { rows: rows.into_iter().map(|row| node(evaluation, format, row)).collect() }
    }

    /// The text, a line a row.
    pub fn lines(&self) -> Vec<String> {
        self.rows.iter().map(TreeNode::to_text).collect()
    }

    /// All rows at all depths.
    pub fn all(&self) -> Vec<&TreeNode> {
        let mut all: Vec<&TreeNode> = self.rows.iter().collect();
        let mut next = 0;
        while let Some(node) = all.get(next).copied() {
            all.extend(node.related.iter().flat_map(|(_, _, rows)| rows));
            next += 1;
        }
        all
    }
}

impl TreeNode {
    /// The text on one line.
    pub fn to_text(&self) -> String {
        let mut out = key::print(&self.key);
        for (i, (name, singular, rows)) in self.related.iter().enumerate() {
            let _ = write!(out, "{} {name} ", if i == 0 { " {" } else { "," });
            match rows.as_slice() {
                [] if *singular => out.push_str("null"),
                [row] if *singular => out.push_str(&row.to_text()),
                rows => {
                    let rows: Vec<String> = rows.iter().map(TreeNode::to_text).collect();
                    let _ = write!(out, "[{}]", rows.join(", "));
                }
            }
        }
        if !self.related.is_empty() {
            out.push_str(" }");
        }
        out
    }
}

fn node(evaluation: &Evaluation<'_>, format: &Format, tree: TreeRow) -> TreeNode {
    let table = evaluation.nodes[tree.node].table;
    let related = tree.related.into_iter().map(|(name, rows)| {
        let format = format.relationship(&name);
        let rows = rows.into_iter().map(|row| node(evaluation, format, row)).collect();
        (name, format.singular, rows)
    });
    TreeNode {
        related: related.collect(),
        table: Arc::clone(&table.name),
        key: table.primary_key.iter().map(|&column| tree.row[column].clone()).collect(),
        row: tree.row,
    }
}
