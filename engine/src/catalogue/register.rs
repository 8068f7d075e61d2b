//! What one graph registers in the routing index.
//!
//! The root registers under the columns that its filter fixes; a related node under the values of each active
//! group; an EXISTS node both ways, since its rows matter as witnesses of rows that are in and as what
//! lets rows in. An EXISTS that the rows above it do not fix is told only of rows that lead up to what the
//! nearest node above fixes. Linear in the query and its active groups.

use std::fmt::Write;
use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::GraphId;
use super::constants::{Anchor, anchors};
use super::routes::{Hop, Interest, Matter, Place, TableRoutes};
use crate::graph::packed::Packed;
use crate::graph::{Activation, Graph};
use crate::query::{Filter, NodeId, Query, Role};

type Routes = FxHashMap<Arc<str>, TableRoutes>;

/// How a graph's nodes are found.
#[derive(Debug)]
pub(super) struct Registration {
    pub(super) fixed: Vec<Fixed>,
    /// The nodes that are found by their groups too, with the hashes of their filters.
    pub(super) grouped: Vec<(NodeId, u64)>,
}

/// A node that is found by constants.
#[derive(Debug)]
pub(super) struct Fixed {
    pub(super) node: NodeId,
    pub(super) matter: Matter,
    filter: u64,
    /// No columns if nothing is fixed.
    pub(super) anchor: Anchor,
    pub(super) lift: Option<(Vec<Hop>, Top)>,
}

/// Where a lift ends.
#[derive(Debug)]
pub(super) enum Top {
    /// At a node that fixes columns.
    Values(Anchor),
    /// At a related node, by its active groups.
    Groups(NodeId),
}

/// Whether to register or to undo it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    Add,
    Remove,
}

impl Registration {
    pub(super) fn new(query: &Query) -> Self {
        let anchors = anchors(query);
        let mut fixed = Vec::new();
        let mut grouped = Vec::new();
        for (node, anchor) in anchors.iter().enumerate() {
            if query.nodes[node].synced && query.nodes[node].edge.is_some() {
                grouped.push((node, filter_hash(query, node, Matter::Member)));
            }
            let matter = match query.nodes[node].role {
                Role::Root => Matter::Member,
                Role::Exists => Matter::Truth,
                Role::Related => continue,
            };
            let from_above = anchor.as_ref().is_some_and(|anchor| anchor.from_above);
            let lift = if from_above { None } else { lift(query, &anchors, node) };
            let filter = filter_hash(query, node, matter);
            fixed.push(Fixed { node, matter, filter, anchor: anchor.clone().unwrap_or_default(), lift });
        }
        Registration { fixed, grouped }
    }

    /// Registers a graph as it is.
    pub(super) fn register(&self, id: GraphId, graph: &Graph, routes: &mut Routes) {
        self.change(Change::Add, id, graph, routes);
    }

    /// Undoes [`Registration::register`].
    pub(super) fn unregister(&self, id: GraphId, graph: &Graph, routes: &mut Routes) {
        self.change(Change::Remove, id, graph, routes);
        for node in &graph.query().nodes {
            if routes.get(&node.table.name).is_some_and(TableRoutes::is_empty) {
                routes.remove(&node.table.name);
            }
        }
    }

    fn change(&self, change: Change, id: GraphId, graph: &Graph, routes: &mut Routes) {
        let query = graph.query();
        for fixed in &self.fixed {
            match &fixed.lift {
                None => fixed.direct(change, id, query, routes),
                Some((_, Top::Values(top))) => {
                    for values in &top.values {
                        fixed.lifted(change, id, query, Place { columns: &top.columns, values }, routes);
                    }
                }
                Some((_, Top::Groups(top))) => {
                    let Some(edge) = &query.nodes[*top].edge else { continue };
                    for values in graph.groups(*top) {
                        fixed.lifted(change, id, query, Place { columns: &edge.child_columns, values }, routes);
                    }
                }
            }
        }
        for &(node, filter) in &self.grouped {
            for group in graph.groups(node) {
                grouped(change, id, query, (node, filter), group, routes);
            }
        }
    }

    /// Registers groups that opened and forgets those that closed.
    pub(super) fn follow(&self, id: GraphId, query: &Query, activations: Vec<Activation>, routes: &mut Routes) {
        for (node, group, opened) in activations {
            let change = if opened { Change::Add } else { Change::Remove };
            let Some(edge) = &query.nodes[node].edge else { continue };
            for fixed in &self.fixed {
                if fixed.lift.as_ref().is_some_and(|(_, top)| matches!(top, Top::Groups(top) if *top == node)) {
                    let top = Place { columns: &edge.child_columns, values: &group };
                    fixed.lifted(change, id, query, top, routes);
                }
            }
            if let Some(&(_, filter)) = self.grouped.iter().find(|(grouped, _)| *grouped == node) {
                grouped(change, id, query, (node, filter), &group, routes);
            }
        }
    }
}

impl Fixed {
    fn interest(&self, graph: GraphId) -> Interest {
        Interest { graph, node: self.node as u32, matter: self.matter, filter: self.filter }
    }

    fn direct(&self, change: Change, id: GraphId, query: &Query, routes: &mut Routes) {
        let routes = routes_of(routes, query, self.node);
        for values in &self.anchor.values {
            let place = Place { columns: &self.anchor.columns, values };
            match change {
                Change::Add => routes.add(place, self.interest(id)),
                Change::Remove => routes.remove(place, &self.interest(id)),
            }
        }
    }

    fn lifted(&self, change: Change, id: GraphId, query: &Query, top: Place<'_>, routes: &mut Routes) {
        let Some((hops, _)) = &self.lift else { return };
        let routes = routes_of(routes, query, self.node);
        for values in &self.anchor.values {
            let place = Place { columns: &self.anchor.columns, values };
            match change {
                Change::Add => routes.add_lift(place, hops, top, self.interest(id)),
                Change::Remove => routes.remove_lift(place, hops, top, &self.interest(id)),
            }
        }
    }
}

/// Registers or forgets a group.
fn grouped(
    change: Change,
    graph: GraphId,
    query: &Query,
    (node, filter): (NodeId, u64),
    values: &Packed,
    routes: &mut Routes,
) {
    let Some(edge) = &query.nodes[node].edge else { return };
    let interest = Interest { graph, node: node as u32, matter: Matter::Member, filter };
    let place = Place { columns: &edge.child_columns, values };
    let routes = routes_of(routes, query, node);
    match change {
        Change::Add => routes.add(place, interest),
        Change::Remove => routes.remove(place, &interest),
    }
}

fn routes_of<'a>(routes: &'a mut Routes, query: &Query, node: NodeId) -> &'a mut TableRoutes {
    routes.entry(Arc::clone(&query.nodes[node].table.name)).or_default()
}

/// The way from an EXISTS node up to the nearest node that rows can be looked up at.
fn lift(query: &Query, anchors: &[Option<Anchor>], id: NodeId) -> Option<(Vec<Hop>, Top)> {
    let mut hops = Vec::new();
    let mut at = id;
    while query.nodes[at].role == Role::Exists {
        let edge = query.nodes[at].edge.as_ref()?;
        let parent = &query.nodes[edge.parent];
        let (from, to) = (edge.child_columns.to_vec(), edge.parent_columns.to_vec());
        hops.push(Hop { from, table: Arc::clone(&parent.table.name), to });
        at = edge.parent;
        // What an EXISTS fixes by itself tells little of the rows above it.
        if let Some(anchor) = anchors[at].as_ref().filter(|anchor| parent.role != Role::Exists || anchor.from_above) {
            return Some((hops, Top::Values(anchor.clone())));
        }
    }
    // A root that fixes nothing is not found by values; rows below a permission are not grouped.
    let grouped = query.nodes[at].role == Role::Related && query.nodes[at].synced && at != id;
    grouped.then_some((hops, Top::Groups(at)))
}

/// A hash that is equal only for nodes that see the same changes as far as rows alone decide.
fn filter_hash(query: &Query, id: NodeId, matter: Matter) -> u64 {
    let node = &query.nodes[id];
    let mut text = format!("{matter:?} {} ", node.table.name);
    write_filter(query, &node.filter, &mut text);
    if let Some(start) = &node.start {
        let _ = write!(text, " start {start:?} in {:?}", node.order);
    }
    if let Some(edge) = &node.edge {
        let _ = write!(text, " by {:?}", edge.child_columns);
    }
    let mut hasher = DefaultHasher::new();
    hasher.write(text.as_bytes());
    hasher.finish()
}

fn write_filter(query: &Query, filter: &Filter, text: &mut String) {
    let (name, filters) = match filter {
        Filter::And(filters) => ("and", filters),
        Filter::Or(filters) => ("or", filters),
        Filter::Exists { node, negated } => {
            let columns = query.nodes[*node].edge.as_ref().map(|edge| &edge.parent_columns);
            let _ = write!(text, "exists({negated} {columns:?})");
            return;
        }
        filter => {
            let _ = write!(text, "{filter:?}");
            return;
        }
    };
    text.push_str(name);
    text.push('(');
    for filter in filters {
        write_filter(query, filter, text);
        text.push(',');
    }
    text.push(')');
}
