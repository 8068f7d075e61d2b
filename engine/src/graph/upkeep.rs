//! What a graph would keep for each node of a query, told without running it: for explain.
//!
//! Linear in the query.

use super::plan::{Keeps, Plan};
use crate::query::{NodeId, Query, WITNESS_CAP};

/// What is kept of a node's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// The key of every row that is in.
    All,
    /// Key and place of the first rows of each group.
    First(usize),
    /// The keys of a few rows for each parent row: enough to show that an EXISTS holds.
    Witnesses(usize),
    /// Nothing: the node stands below a permission and is asked of the replica when it matters.
    Nothing,
}

/// How a node is kept current.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upkeep {
    /// The node.
    pub node: NodeId,
    /// What is kept of its rows.
    pub kept: Kept,
    /// Columns that decide whether a row is in. A change of any other column only sends the row again.
    pub reacts_to: Vec<usize>,
}

/// How each node of a query is kept current.
pub fn upkeep(query: &Query) -> Vec<Upkeep> {
    let plan = Plan::new(query);
    let of_node = |(node, plan): (NodeId, &super::plan::NodePlan)| Upkeep {
        node,
        kept: match plan.keeps {
            _ if !query.nodes[node].synced => Kept::Nothing,
            Keeps::All => Kept::All,
            Keeps::First(limit) => Kept::First(limit),
            Keeps::Witnesses => Kept::Witnesses(WITNESS_CAP),
        },
        reacts_to: plan.relevant.to_vec(),
    };
    plan.nodes.iter().enumerate().map(of_node).collect()
}
