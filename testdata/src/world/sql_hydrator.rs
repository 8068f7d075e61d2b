//! Hydration by one SELECT for each node and parent key: slow and simple, for tests that need some hydrator
//! and no planner.

use std::collections::BTreeSet;
use std::sync::Arc;

use engine::commit::Key;
use engine::hydration::{Hydrate, HydrateError, Hydration};
use engine::query::{Query, Role, WITNESS_CAP};
use engine::replica::Snapshot;
use engine::sql::{Access, node_select};

/// Hydrates by SQLite's SELECTs alone.
#[derive(Clone, Copy, Debug, Default)]
pub struct SqlHydrator;

impl Hydrate<Snapshot> for SqlHydrator {
    fn hydrate(&self, query: &Arc<Query>, snapshot: &Arc<Snapshot>) -> Result<Hydration, HydrateError> {
        let reader = snapshot.reader()?;
        let mut nodes: Vec<Vec<_>> = Vec::with_capacity(query.nodes.len());
        for (id, node) in query.nodes.iter().enumerate() {
            let mut rows = Vec::new();
            let keys: BTreeSet<Key> = match &node.edge {
                _ if !node.synced => BTreeSet::new(),
                Some(edge) => nodes[edge.parent]
                    .iter()
                    .map(|row: &Arc<engine::commit::StoredRow>| row.key(&edge.parent_columns))
                    .filter(|key| !key.iter().any(zql_spec::value::Value::is_null))
                    .collect(),
                None => BTreeSet::from([Key::new()]),
            };
            let lookup = node.edge.as_ref().map_or(&[][..], |edge| &edge.child_columns);
            let limit = if node.role == Role::Exists { Some(WITNESS_CAP) } else { node.limit };
            let access = Access { lookup, start: true, order: true, limit, ..Access::default() };
            let sql = node_select(query, id, &access);
            for key in keys {
                reader.rows(&sql, &node.table, lookup, &key, &mut |row| rows.push(row))?;
            }
            nodes.push(rows);
        }
        Ok(Hydration { version: Arc::clone(&snapshot.version), nodes })
    }
}
