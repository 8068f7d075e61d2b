//! What one graph registers in the routing index.
//!
//! The root registers under the columns that its filter fixes; a related node under the values of each active
//! group; an EXISTS node both ways, since its rows matter as witnesses of rows that are in and as what
//! lets rows in. What fixes nothing registers by its filter. Linear in the query and its active groups.

use std::fmt::Write;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::GraphId;
use super::constants::{Anchor, anchors};
use super::routes::{Interest, Matter, TableRoutes};
use crate::graph::{Activation, Graph};
use crate::query::{Filter, NodeId, Query, Role};

type Routes = FxHashMap<Arc<str>, TableRoutes>;

/// How a graph's nodes are found, apart from their groups.
#[derive(Debug)]
pub(super) struct Registration {
    fixed: Vec<(NodeId, Matter, Way)>,
}

#[derive(Debug)]
enum Way {
    Values(Anchor),
    Filter(Arc<str>),
}

impl Registration {
    pub(super) fn new(query: &Query) -> Self {
        let mut fixed = Vec::new();
        for (id, anchor) in anchors(query).into_iter().enumerate() {
            let matter = match query.nodes[id].role {
                Role::Root => Matter::Member,
                Role::Exists => Matter::Truth,
                Role::Related => continue,
            };
            let way = match anchor {
                Some(anchor) => Way::Values(anchor),
                None => Way::Filter(filter_text(query, id, matter)),
            };
            fixed.push((id, matter, way));
        }
        Registration { fixed }
    }

    /// Registers a graph as it is.
    pub(super) fn register(&self, graph_id: GraphId, graph: &Graph, routes: &mut Routes) {
        let query = graph.query();
        for (node, matter, way) in &self.fixed {
            let interest = Interest { graph: graph_id, node: *node, matter: *matter };
            let routes = routes_of(routes, query, *node);
            match way {
                Way::Filter(text) => routes.add_filter(text, interest),
                Way::Values(anchor) => {
                    anchor.values.iter().for_each(|values| routes.add(&anchor.columns, values.clone(), interest));
                }
            }
        }
        for (node, columns) in grouped(query) {
            let interest = Interest { graph: graph_id, node, matter: Matter::Member };
            let routes = routes_of(routes, query, node);
            graph.groups(node).for_each(|group| routes.add(columns, group.clone(), interest));
        }
    }

    /// Undoes [`Registration::register`].
    pub(super) fn unregister(&self, graph_id: GraphId, graph: &Graph, routes: &mut Routes) {
        let query = graph.query();
        for (node, matter, way) in &self.fixed {
            let interest = Interest { graph: graph_id, node: *node, matter: *matter };
            let routes = routes_of(routes, query, *node);
            match way {
                Way::Filter(text) => routes.remove_filter(text, &interest),
                Way::Values(anchor) => {
                    anchor.values.iter().for_each(|values| routes.remove(&anchor.columns, values, &interest));
                }
            }
        }
        for (node, columns) in grouped(query) {
            let interest = Interest { graph: graph_id, node, matter: Matter::Member };
            let routes = routes_of(routes, query, node);
            graph.groups(node).for_each(|group| routes.remove(columns, group, &interest));
        }
        for node in &query.nodes {
            if routes.get(&node.table.name).is_some_and(TableRoutes::is_empty) {
                routes.remove(&node.table.name);
            }
        }
    }

    /// Registers groups that opened and forgets those that closed.
    pub(super) fn follow(&self, graph: GraphId, query: &Query, activations: Vec<Activation>, routes: &mut Routes) {
        for (node, group, opened) in activations {
            let Some(edge) = &query.nodes[node].edge else { continue };
            let interest = Interest { graph, node, matter: Matter::Member };
            let routes = routes_of(routes, query, node);
            match opened {
                true => routes.add(&edge.child_columns, group, interest),
                false => routes.remove(&edge.child_columns, &group, &interest),
            }
        }
    }
}

fn routes_of<'a>(routes: &'a mut Routes, query: &Query, node: NodeId) -> &'a mut TableRoutes {
    routes.entry(Arc::clone(&query.nodes[node].table.name)).or_default()
}

/// The nodes that have groups, with their columns.
fn grouped(query: &Query) -> impl Iterator<Item = (NodeId, &[usize])> {
    let columns = |node: &crate::query::Node| node.synced && node.edge.is_some();
    let nodes = query.nodes.iter().enumerate().filter(move |(_, node)| columns(node));
    nodes.filter_map(|(id, node)| Some((id, &node.edge.as_ref()?.child_columns[..])))
}

/// Text that is equal only for nodes that see the same changes as far as rows alone decide.
fn filter_text(query: &Query, id: NodeId, matter: Matter) -> Arc<str> {
    let node = &query.nodes[id];
    let mut text = format!("{matter:?} ");
    write_filter(query, &node.filter, &mut text);
    if let Some(start) = &node.start {
        let _ = write!(text, " start {start:?} in {:?}", node.order);
    }
    if let Some(edge) = &node.edge {
        let _ = write!(text, " by {:?}", edge.child_columns);
    }
    Arc::from(text)
}

fn write_filter(query: &Query, filter: &Filter, text: &mut String) {
    let mut list = |name: &str, filters: &[Filter]| {
        text.push_str(name);
        text.push('(');
        for filter in filters {
            write_filter(query, filter, text);
            text.push(',');
        }
        text.push(')');
    };
    match filter {
        Filter::And(filters) => list("and", filters),
        Filter::Or(filters) => list("or", filters),
        Filter::Exists { node, negated } => {
            let columns = query.nodes[*node].edge.as_ref().map(|edge| &edge.parent_columns);
            let _ = write!(text, "exists({negated} {columns:?})");
        }
        filter => {
            let _ = write!(text, "{filter:?}");
        }
    }
}
