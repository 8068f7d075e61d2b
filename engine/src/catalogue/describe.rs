//! By what a query would be found when a row changes, told without running it: for explain.
//!
//! Linear in the query.

use std::sync::Arc;

use super::register::{Registration, Top};
use super::routes::Matter;
use crate::query::{NodeId, Query};

/// One way in which changed rows of a table lead to a node of a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The node.
    pub node: NodeId,
    /// Whether the row decides an EXISTS rather than being a row of the answer.
    pub decides: bool,
    /// Columns of the node's table by whose values a change finds the node. None if every change of the table is
    /// tested against the node's filter.
    pub columns: Vec<usize>,
    /// How many values the query fixes for these columns. None if they are those of the node's active groups.
    pub values: Option<usize>,
    /// Tables that are read upwards, each by these of its columns, to find out whom a change concerns.
    pub reads: Vec<(Arc<str>, Vec<usize>)>,
}

/// All ways in which changed rows lead to a query.
pub fn routes(query: &Query) -> Vec<Route> {
    let registration = Registration::new(query);
    let fixed = registration.fixed.iter().map(|fixed| Route {
        node: fixed.node,
        decides: fixed.matter == Matter::Truth,
        columns: fixed.anchor.columns.clone(),
        values: Some(fixed.anchor.values.len()),
        reads: match &fixed.lift {
            Some((hops, Top::Values(_) | Top::Groups(_))) => {
                hops.iter().map(|hop| (Arc::clone(&hop.table), hop.to.clone())).collect()
            }
            None => Vec::new(),
        },
    });
    let grouped = registration.grouped.iter().map(|&(node, _)| Route {
        node,
        decides: false,
        columns: query.nodes[node].edge.as_ref().map(|edge| edge.child_columns.to_vec()).unwrap_or_default(),
        values: None,
        reads: Vec::new(),
    });
    let mut routes: Vec<Route> = fixed.chain(grouped).collect();
    routes.sort_by_key(|route| (route.node, route.decides));
    routes
}
