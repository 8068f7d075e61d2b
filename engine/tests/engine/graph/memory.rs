//! A database in memory that answers by looking at everything, and writes commits.

use std::collections::BTreeMap;
use std::sync::Arc;

use engine::commit::{ColumnSet, Commit, Key, Outline, RowChange, StoredRow, Version};
use engine::graph::Read;
use engine::graph::read::{Apply, Lookup, ReadError};
use engine::hydration::Hydration;
use engine::query::{Filter, Node, NodeId, Query, Role, WITNESS_CAP};
use zql_spec::ast::Direction;
use zql_spec::compare::compare;
use zql_spec::schema::Schema;
use zql_spec::value::Value;

#[derive(Clone)]
pub(crate) struct Database {
    pub(crate) schema: Schema,
    /// The schema with the keys that the client chose.
    pub(crate) client_schema: Schema,
    /// Rows by table and primary key.
    pub(crate) tables: BTreeMap<Arc<str>, BTreeMap<Key, Arc<StoredRow>>>,
    pub(crate) version: u32,
    open: Commit,
    /// Rows given and probes answered, to tell cheap from dear.
    pub(crate) reads: usize,
}

fn version(number: u32) -> Version {
    Arc::from(format!("{number:06}"))
}

impl Database {
    pub(crate) fn new(schema: Schema) -> Self {
        let tables = schema.tables.keys().map(|name| (Arc::clone(name), BTreeMap::new())).collect();
        let client_schema = schema.clone();
        Database { schema, client_schema, tables, version: 0, open: Commit::empty(version(0), version(1)), reads: 0 }
    }

    /// Replaces the row with this key by another or none, as part of the open commit.
    fn set(&mut self, table: &str, key: Key, new: Option<Arc<StoredRow>>) {
        let (name, rows) = {
            let (name, _) = self.tables.get_key_value(table).expect("a table");
            let name = Arc::clone(name);
            (Arc::clone(&name), self.tables.get_mut(&name).expect("a table"))
        };
        let old = match &new {
            Some(new) => rows.insert(key.clone(), Arc::clone(new)),
            None => rows.remove(&key),
        };
        if old.is_some() || new.is_some() {
            self.open.tables.entry(name).or_default().add(key, RowChange { old, new });
        }
    }

    /// Inserts a row, or replaces the one with its key.
    pub(crate) fn put(&mut self, table: &str, values: &[Value]) {
        let row = Arc::new(StoredRow { values: values.into(), version: version(self.version + 1) });
        let key = row.key(&self.schema.table(table).expect("a table").primary_key);
        self.set(table, key, Some(row));
    }

    pub(crate) fn delete(&mut self, table: &str, key: &[Value]) {
        self.set(table, Key::from(key), None);
    }

    /// Changes a row; its key may change.
    pub(crate) fn update(&mut self, table: &str, key: &[Value], values: &[Value]) {
        let definition = self.schema.table(table).expect("a table");
        let new_key: Key = definition.primary_key.iter().map(|&column| values[column].clone()).collect();
        if new_key != Key::from(key) {
            self.delete(table, key);
        }
        self.put(table, values);
    }

    pub(crate) fn commit(&mut self) -> Commit {
        self.version += 1;
        let next = Commit::empty(version(self.version), version(self.version + 1));
        let mut commit = std::mem::replace(&mut self.open, next);
        for (name, delta) in &mut commit.tables {
            let mut changed = ColumnSet::default();
            for change in delta.rows.values() {
                changed.add(ColumnSet::between(change.old.as_deref(), change.new.as_deref()));
            }
            let key = self.schema.table(name).expect("a table").primary_key.iter().copied().collect();
            delta.outline = Some(Outline { key, changed });
        }
        commit
    }

    pub(crate) fn rows<'a>(&'a self, node: &Node) -> impl Iterator<Item = &'a Arc<StoredRow>> + use<'a> {
        self.tables[&node.table.name].values()
    }

    /// Whether a row passes a node's start and filter.
    pub(crate) fn passes(&self, query: &Query, id: NodeId, row: &StoredRow) -> bool {
        starts(&query.nodes[id], row) && self.holds(query, &query.nodes[id].filter, row, false)
    }

    fn holds(&self, query: &Query, filter: &Filter, row: &StoredRow, simple: bool) -> bool {
        match filter {
            Filter::Const(truth) => *truth,
            Filter::And(filters) => filters.iter().all(|filter| self.holds(query, filter, row, simple)),
            Filter::Or(filters) => filters.iter().any(|filter| self.holds(query, filter, row, simple)),
            Filter::Compare(c) => compare(&row.values[c.column], c.op, &c.literal),
            Filter::Exists { .. } if simple => true,
            Filter::Exists { node, negated } => {
                let edge = query.nodes[*node].edge.as_ref().expect("an edge");
                self.exists_one(query, *node, &row.key(&edge.parent_columns)) != *negated
            }
        }
    }

    fn exists_one(&self, query: &Query, id: NodeId, key: &[Value]) -> bool {
        !self.group(query, id, key).is_empty()
    }

    /// All rows of a node that pass and belong to a group, in order.
    pub(crate) fn group(&self, query: &Query, id: NodeId, key: &[Value]) -> Vec<Arc<StoredRow>> {
        let node = &query.nodes[id];
        let columns = node.edge.as_ref().map_or(&[][..], |edge| &edge.child_columns);
        let mut rows: Vec<_> = self
            .rows(node)
            .filter(|row| joins(row, columns, key) && self.passes(query, id, row))
            .map(Arc::clone)
            .collect();
        rows.sort_by(|a, b| by_order(&node.order, &a.values, &b.values));
        rows
    }

    /// What the planner would answer.
    pub(crate) fn hydrate(&self, query: &Query) -> Hydration {
        let mut nodes: Vec<Vec<Arc<StoredRow>>> = Vec::new();
        for (id, node) in query.nodes.iter().enumerate() {
            let mut groups: Vec<Key> = match &node.edge {
                None => vec![Key::new()],
                Some(edge) => nodes[edge.parent].iter().map(|row| row.key(&edge.parent_columns)).collect(),
            };
            groups.sort();
            groups.dedup();
            groups.retain(|_| node.synced);
            let limit = if node.role == Role::Exists { WITNESS_CAP } else { node.limit.unwrap_or(usize::MAX) };
            nodes.push(groups.iter().flat_map(|key| self.group(query, id, key).into_iter().take(limit)).collect());
        }
        Hydration { version: version(self.version), nodes }
    }
}

fn joins(row: &StoredRow, columns: &[usize], key: &[Value]) -> bool {
    columns.iter().zip(key).all(|(&column, value)| row.values[column].joins(value))
}

fn by_order(order: &[(usize, Direction)], a: &[Value], b: &[Value]) -> std::cmp::Ordering {
    order.iter().fold(std::cmp::Ordering::Equal, |ordering, &(column, direction)| {
        ordering.then_with(|| match direction {
            Direction::Asc => a[column].cmp(&b[column]),
            Direction::Desc => b[column].cmp(&a[column]),
        })
    })
}

/// Compares a row with a place: a value per order column.
fn against(node: &Node, row: &StoredRow, place: &[Value]) -> std::cmp::Ordering {
    let mut values = row.values.clone();
    for (&(column, _), value) in node.order.iter().zip(place) {
        values[column] = value.clone();
    }
    by_order(&node.order, &row.values, &values)
}

fn starts(node: &Node, row: &StoredRow) -> bool {
    node.start.as_ref().is_none_or(|start| {
        let order = against(node, row, &start.values);
        if start.exclusive { order.is_gt() } else { order.is_ge() }
    })
}

impl Read for Database {
    fn lookup(
        &mut self,
        lookup: &Lookup<'_>,
        keys: &[Key],
        found: &mut dyn FnMut(usize, Arc<StoredRow>),
    ) -> Result<(), ReadError> {
        let node = &lookup.query.nodes[lookup.node];
        for (index, key) in keys.iter().enumerate() {
            let mut rows: Vec<_> = self
                .rows(node)
                .filter(|row| {
                    joins(row, lookup.columns, key)
                        && lookup.after.is_none_or(|after| against(node, row, after).is_gt())
                        && lookup.until.is_none_or(|until| against(node, row, until).is_le())
                        && match lookup.apply {
                            Apply::Nothing => true,
                            Apply::Simple => starts(node, row) && self.holds(lookup.query, &node.filter, row, true),
                            Apply::Complete => self.passes(lookup.query, lookup.node, row),
                        }
                })
                .map(Arc::clone)
                .collect();
            if lookup.ordered {
                rows.sort_by(|a, b| by_order(&node.order, &a.values, &b.values));
            } else if index % 2 == 1 {
                // No order was asked for: none is relied on.
                rows.reverse();
            }
            rows.truncate(lookup.limit.unwrap_or(usize::MAX));
            self.reads += 1 + rows.len();
            rows.into_iter().for_each(|row| found(index, row));
        }
        Ok(())
    }

    fn exists(&mut self, query: &Query, node: NodeId, keys: &[Key]) -> Result<Vec<bool>, ReadError> {
        self.reads += keys.len();
        Ok(keys.iter().map(|key| self.exists_one(query, node, key)).collect())
    }
}
