//! A hydrator without a planner: one statement a node and parent key. It can be held back.

use std::collections::BTreeMap;
use std::sync::Arc;

use engine::commit::{Key, StoredRow};
use engine::hydration::{Hydrate, HydrateError, Hydration};
use engine::query::{Query, Role, WITNESS_CAP};
use engine::replica::Snapshot;
use engine::sql::{Access, node_select};

/// See the module.
pub(crate) struct Nested<F> {
    /// Called with the query before its rows are read, and again after: may wait, fail or panic.
    pub(crate) around: F,
}

impl<F> Hydrate<Snapshot> for Nested<F>
where
    F: Fn(&Query, bool) -> Result<(), HydrateError> + Send + Sync,
{
    fn hydrate(&self, query: &Arc<Query>, snapshot: &Arc<Snapshot>) -> Result<Hydration, HydrateError> {
        (self.around)(query, false)?;
        let hydration = nested(query, snapshot)?;
        (self.around)(query, true)?;
        Ok(hydration)
    }
}

/// Answers a query at a version.
pub(crate) fn nested(query: &Query, snapshot: &Arc<Snapshot>) -> Result<Hydration, HydrateError> {
    let reader = snapshot.reader()?;
    let mut nodes: Vec<Vec<Arc<StoredRow>>> = Vec::new();
    for (id, node) in query.nodes.iter().enumerate() {
        let mut rows: BTreeMap<Key, Arc<StoredRow>> = BTreeMap::new();
        let columns = node.edge.as_ref().map_or(&[][..], |edge| &edge.child_columns);
        let mut keys: Vec<Key> = match &node.edge {
            Some(edge) => nodes[edge.parent].iter().map(|row| row.key(&edge.parent_columns)).collect(),
            None => vec![Key::new()],
        };
        keys.sort();
        keys.dedup();
        let limit = if node.role == Role::Exists { Some(WITNESS_CAP) } else { node.limit };
        let sql =
            node_select(query, id, &Access { lookup: columns, start: true, order: true, limit, ..Access::default() });
        for key in keys.iter().filter(|_| node.synced) {
            let mut keep = |row: Arc<StoredRow>| drop(rows.insert(row.key(&node.table.primary_key), row));
            reader.rows(&sql, &node.table, columns, key, &mut keep)?;
        }
        nodes.push(rows.into_values().collect());
    }
    Ok(Hydration { version: Arc::clone(&snapshot.version), nodes })
}
