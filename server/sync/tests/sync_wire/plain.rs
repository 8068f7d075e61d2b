//! First answers by plain SQLite, a statement a parent key: what the planner answers, without DataFusion to
//! compile.

use std::collections::HashSet;
use std::sync::Arc;

use engine::commit::{Key, StoredRow};
use engine::hydration::{Hydrate, HydrateError, Hydration};
use engine::query::{Query, Role, WITNESS_CAP};
use engine::replica::{ReplicaError, Snapshot};
use engine::sql::{Access, FilterPart, node_select};

pub(crate) struct Plain;

impl Hydrate<Snapshot> for Plain {
    fn hydrate(&self, query: &Arc<Query>, snapshot: &Arc<Snapshot>) -> Result<Hydration, HydrateError> {
        let fault = |error: ReplicaError| HydrateError::Query(error.to_string());
        let reader = snapshot.reader().map_err(fault)?;
        let mut nodes: Vec<Vec<Arc<StoredRow>>> = Vec::new();
        for (id, node) in query.nodes.iter().enumerate() {
            let mut rows = Vec::new();
            if node.synced {
                let (lookup, keys): (&[usize], HashSet<Key>) = match &node.edge {
                    None => (&[], HashSet::from([Key::new()])),
                    Some(edge) => {
                        let key = |row: &Arc<StoredRow>| row.key(&edge.parent_columns);
                        (&edge.child_columns, nodes[edge.parent].iter().map(key).collect())
                    }
                };
                let limit = if node.role == Role::Exists { Some(WITNESS_CAP) } else { node.limit };
                let filter = FilterPart::Full;
                let (lookup_many, after, until): (&[usize], _, _) = (&[], None, None);
                let access = Access { filter, lookup, lookup_many, start: true, after, until, order: true, limit };
                let sql = node_select(query, id, &access);
                for key in keys.iter().filter(|key| !key.iter().any(|value| value.is_null())) {
                    reader.rows(&sql, &node.table, lookup, key, &mut |row| rows.push(row)).map_err(fault)?;
                }
            }
            nodes.push(rows);
        }
        Ok(Hydration { version: Arc::clone(&snapshot.version), nodes })
    }
}
