//! Whether an implementation's answer is right.

use std::collections::BTreeSet;
use std::fmt;

use super::WITNESSES;
use super::database::Row;
use super::evaluate::{Evaluation, NodeRole};
use crate::value::Value;

/// How an answer differs from what the query means.
#[derive(Clone, Debug, PartialEq)]
pub struct Mismatch {
    /// The node.
    pub node: usize,
    /// What is wrong with its rows.
    pub what: String,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {}: {}", self.node, self.what)
    }
}

impl Evaluation<'_> {
    /// Checks the distinct rows that an implementation holds in each node.
    ///
    /// Root and related nodes must hold exactly the rows they have for the rows held by their parent
    /// node. An EXISTS node must hold three of the matching rows of each row held by its parent node, or
    /// all if there are fewer; which ones is free. Nodes that are not synced must be empty.
    pub fn check(&self, held: &[Vec<&[Value]>]) -> Result<(), Mismatch> {
        if held.len() != self.nodes.len() {
            let what = format!("{} nodes instead of {}", held.len(), self.nodes.len());
            return Err(Mismatch { node: 0, what });
        }
        for (id, node) in self.nodes.iter().enumerate() {
            let fail =
                |what: String| Mismatch { node: id, what: format!("{:?} {} {what}", node.role, node.table.name) };
            let rows: BTreeSet<&[Value]> = held[id].iter().copied().collect();
            if rows.len() != held[id].len() {
                return Err(fail("holds a row twice".into()));
            }
            if !node.synced {
                if let Some(row) = rows.first() {
                    return Err(fail(format!("is not synced but holds {row:?}")));
                }
                continue;
            }
            let mut allowed: BTreeSet<Row> = BTreeSet::new();
            let parent_rows: Vec<Option<&[Value]>> = match node.parent {
                Some((parent, _)) => held[parent].iter().map(|row| Some(*row)).collect(),
                None => vec![None],
            };
            for parent_row in parent_rows {
                let expected = self.rows(id, parent_row);
                let found = expected.iter().filter(|row| rows.contains(&***row)).count();
                let wanted = match node.role {
                    NodeRole::Exists => expected.len().min(WITNESSES),
                    NodeRole::Root | NodeRole::Related => expected.len(),
                };
                if found != wanted {
                    return Err(fail(format!(
                        "holds {found} rows instead of {wanted} for parent row {parent_row:?}; of {expected:?} it holds {rows:?}"
                    )));
                }
                allowed.extend(expected);
            }
            if let Some(row) = rows.iter().find(|row| !allowed.contains(**row)) {
                return Err(fail(format!("holds {row:?}, which matches no row of its parent")));
            }
        }
        Ok(())
    }

    /// For each node the rows that every right answer holds and the rows that some right answer holds. They
    /// differ where witnesses may be chosen, and below.
    pub fn bounds(&self) -> Vec<(BTreeSet<Row>, BTreeSet<Row>)> {
        let mut bounds: Vec<(BTreeSet<Row>, BTreeSet<Row>)> = Vec::new();
        for (id, node) in self.nodes.iter().enumerate() {
            let (mut always, mut sometimes) = (BTreeSet::new(), BTreeSet::new());
            match node.parent {
                _ if !node.synced => {}
                None => {
                    always.extend(self.rows(id, None));
                    sometimes.clone_from(&always);
                }
                Some((parent, _)) => {
                    for row in &bounds[parent].1 {
                        let rows = self.rows(id, Some(row));
                        let free = node.role == NodeRole::Exists && rows.len() > WITNESSES;
                        if !free && bounds[parent].0.contains(row) {
                            always.extend(rows.iter().cloned());
                        }
                        sometimes.extend(rows);
                    }
                }
            }
            bounds.push((always, sometimes));
        }
        bounds
    }
}
