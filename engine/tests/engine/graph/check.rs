//! A graph under test: with a client that applies its deltas, checked against brute force after each step.

use std::collections::BTreeMap;
use std::sync::Arc;

use engine::commit::{Commit, Key, StoredRow};
use engine::graph::{AdvanceError, Graph, QueryDelta, hydrated_rows};
use engine::query::{NodeId, Query, Role, WITNESS_CAP};
use zql_spec::ast::Ast;

use super::memory::Database;

type View = BTreeMap<(Arc<str>, Key), (u32, Arc<StoredRow>)>;
type Members = Vec<BTreeMap<Key, (u32, Vec<Key>)>>;

/// A graph and its client.
pub(crate) struct Checked {
    pub(crate) graph: Graph,
    client: Client,
}

/// A client of one graph, and the graph's members as they were after the last step.
pub(crate) struct Client {
    view: View,
    members: Members,
}

fn members(graph: &Graph) -> Members {
    let node = |node: NodeId| graph.members(node).map(|(key, parents, rows)| (key, (parents, rows))).collect();
    (0..graph.query().nodes.len()).map(node).collect()
}

/// A graph for a query as the database answers it.
pub(crate) fn graph(ast: &Ast, database: &Database) -> Graph {
    let query = Arc::new(Query::resolve(ast, &database.client_schema).expect("a query that resolves"));
    let hydration = database.hydrate(&query);
    Graph::new(query, &hydration)
}

impl Checked {
    pub(crate) fn new(ast: &Ast, database: &mut Database) -> Self {
        let graph = graph(ast, database);
        let client = Client::new(&graph, database);
        Checked { graph, client }
    }

    /// Takes a commit, hydrating if the graph asks for it.
    pub(crate) fn commit(&mut self, commit: &Commit, database: &mut Database) -> QueryDelta {
        let delta = match self.graph.advance(commit, database) {
            Ok(delta) => {
                self.client.check_sticky(&self.graph, database);
                delta
            }
            Err(AdvanceError::HydrateInstead) => {
                let hydration = database.hydrate(self.graph.query());
                self.graph.rehydrated(&hydration)
            }
            Err(AdvanceError::Read(error)) => panic!("{error}"),
        };
        self.client.apply(&delta);
        self.client.check(&self.graph, database);
        delta
    }
}

impl Client {
    pub(crate) fn new(graph: &Graph, database: &mut Database) -> Self {
        let hydration = database.hydrate(graph.query());
        let rows = hydrated_rows(graph.query(), &hydration);
        let view = rows.into_iter().map(|row| ((row.table, row.key), (row.count, row.row))).collect();
        let mut client = Client { members: members(graph), view };
        client.check(graph, database);
        client
    }

    pub(crate) fn apply(&mut self, delta: &QueryDelta) {
        for change in &delta.changes {
            let entry = (Arc::clone(&change.table), change.key.clone());
            let held = self.view.get(&entry).cloned();
            assert_eq!(change.before, held.as_ref().map_or(0, |(count, _)| *count), "before of {change:?}");
            assert!(change.before != change.after || change.row.is_some(), "nothing changed: {change:?}");
            assert_eq!(change.after > 0 && change.before == 0, change.row.is_some() && held.is_none(), "{change:?}");
            if let (Some(row), Some((_, held))) = (&change.row, &held) {
                assert_ne!(row, held, "sent again: {change:?}");
            }
            match (change.after, &change.row, held) {
                (0, _, _) => drop(self.view.remove(&entry)),
                (after, Some(row), _) => drop(self.view.insert(entry, (after, Arc::clone(row)))),
                (after, None, Some((_, row))) => drop(self.view.insert(entry, (after, row))),
                (_, None, None) => panic!("no row for {change:?}"),
            }
        }
    }

    /// Witnesses that still match must still be there.
    pub(crate) fn check_sticky(&self, graph: &Graph, database: &Database) {
        let query = graph.query();
        let now = members(graph);
        for (id, node) in query.nodes.iter().enumerate().filter(|(_, node)| node.role == Role::Exists) {
            for (group, (_, rows)) in &self.members[id] {
                let Some((_, after)) = now[id].get(group) else { continue };
                let matching = database.group(query, id, group);
                for row in matching.iter().map(|row| row.key(&node.table.primary_key)) {
                    assert!(!rows.contains(&row) || after.contains(&row), "witness {row:?} of node {id} was dropped");
                }
            }
        }
    }

    /// Compares state and view with what the database says.
    pub(crate) fn check(&mut self, graph: &Graph, database: &mut Database) {
        let query = graph.query();
        self.members = members(graph);
        let mut counts: BTreeMap<(Arc<str>, Key), u32> = BTreeMap::new();
        for (id, node) in query.nodes.iter().enumerate() {
            if !node.synced {
                assert!(self.members[id].is_empty(), "state below a permission");
                continue;
            }
            let mut expected: BTreeMap<Key, u32> = BTreeMap::new();
            match &node.edge {
                None => drop(expected.insert(Key::new(), 1)),
                Some(edge) => {
                    let parent = &query.nodes[edge.parent];
                    for key in self.members[edge.parent].values().flat_map(|(_, rows)| rows) {
                        let row = &database.tables[&parent.table.name];
                        let row = row.values().find(|row| row.key(&parent.table.primary_key) == *key);
                        let group = row.expect("members exist").key(&edge.parent_columns);
                        if !group.iter().any(|value| value.is_null()) {
                            *expected.entry(group).or_default() += 1;
                        }
                    }
                }
            }
            let active: BTreeMap<Key, u32> =
                self.members[id].iter().map(|(key, (parents, _))| (key.clone(), *parents)).collect();
            assert_eq!(active, expected, "groups of node {id} ({})", node.table.name);
            for (group, (_, rows)) in &self.members[id] {
                let all = database.group(query, id, group);
                let all: Vec<Key> = all.iter().map(|row| row.key(&node.table.primary_key)).collect();
                let at = || format!("node {id} ({}) group {group:?}", node.table.name);
                let sorted = |rows: &[Key]| {
                    let mut rows = rows.to_vec();
                    rows.sort();
                    rows
                };
                match (node.role, node.limit) {
                    (Role::Exists, _) => {
                        assert_eq!(
                            rows.len(),
                            all.len().min(WITNESS_CAP),
                            "witnesses of {}: {rows:?} of {all:?}",
                            at()
                        );
                        assert!(rows.iter().all(|row| all.contains(row)), "{}: {rows:?} of {all:?}", at());
                    }
                    (_, Some(limit)) => assert_eq!(*rows, all[..limit.min(all.len())], "window of {}", at()),
                    (_, None) => assert_eq!(sorted(rows), sorted(&all), "rows of {}", at()),
                }
                for row in rows {
                    *counts.entry((Arc::clone(&node.table.name), row.clone())).or_default() += 1;
                }
            }
        }
        let view: BTreeMap<_, _> = self.view.iter().map(|(key, (count, _))| (key.clone(), *count)).collect();
        assert_eq!(view, counts, "the client's counts");
        let rows = graph.rows(database).expect("rows in memory");
        let late: View = rows.into_iter().map(|row| ((row.table, row.key), (row.count, row.row))).collect();
        assert_eq!(self.view, late, "the client's rows");
    }
}
