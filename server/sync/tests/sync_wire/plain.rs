//! First answers by plain SQLite, a statement a parent key: what the planner answers, without DataFusion to
//! compile. A test can hold up the answers of a table, and let them fail as a file or a machine in trouble makes them.

use std::collections::HashSet;
use std::sync::{Arc, Condvar, Mutex};

use engine::commit::{Key, StoredRow};
use engine::hydration::{Hydrate, HydrateError, Hydration};
use engine::query::{Query, Role, WITNESS_CAP};
use engine::replica::Snapshot;
use engine::sql::{Access, FilterPart, node_select};
use tokio::sync::Semaphore;

use crate::harness::patiently;

pub(crate) struct Plain {
    /// The table whose answers wait.
    held: Mutex<Option<String>>,
    released: Condvar,
    /// How the next answers of tables fail, in order.
    failures: Mutex<Vec<(String, HydrateError)>>,
    /// A permit for each answer that waits or failed and that nobody waited for yet.
    arrived: Semaphore,
}

impl Default for Plain {
    fn default() -> Self {
        Plain {
            held: Mutex::default(),
            released: Condvar::new(),
            failures: Mutex::default(),
            arrived: Semaphore::new(0),
        }
    }
}

impl Plain {
    /// Lets the answers of queries of a table wait.
    pub(crate) fn hold(&self, table: &str) {
        *self.held.lock().expect("not poisoned") = Some(table.to_owned());
    }

    /// Lets all go on that waits.
    pub(crate) fn release(&self) {
        *self.held.lock().expect("not poisoned") = None;
        self.released.notify_all();
    }

    /// Lets the next answers of queries of a table fail.
    pub(crate) fn fail(&self, table: &str, errors: impl IntoIterator<Item = HydrateError>) {
        let errors = errors.into_iter().map(|error| (table.to_owned(), error));
        self.failures.lock().expect("not poisoned").extend(errors);
    }

    /// Lets answers of queries of a table fail no more.
    pub(crate) fn heal(&self, table: &str) {
        self.failures.lock().expect("not poisoned").retain(|(failing, _)| failing != table);
    }

    /// Waits for the next answer that is held up or fails.
    pub(crate) async fn arrival(&self) {
        patiently(self.arrived.acquire()).await.expect("open").forget();
    }

    fn pass(&self, table: &str) -> Result<(), HydrateError> {
        let mut held = self.held.lock().expect("not poisoned");
        if held.as_deref() == Some(table) {
            self.arrived.add_permits(1);
            while held.as_deref() == Some(table) {
                held = self.released.wait(held).expect("not poisoned");
            }
        }
        drop(held);
        let mut failures = self.failures.lock().expect("not poisoned");
        match failures.iter().position(|(failing, _)| failing == table) {
            Some(position) => {
                self.arrived.add_permits(1);
                Err(failures.remove(position).1)
            }
            None => Ok(()),
        }
    }
}

impl Hydrate<Snapshot> for Plain {
    fn hydrate(&self, query: &Arc<Query>, snapshot: &Arc<Snapshot>) -> Result<Hydration, HydrateError> {
        self.pass(&query.root().table.name)?;
        let reader = snapshot.reader()?;
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
                    reader.rows(&sql, &node.table, lookup, key, &mut |row| rows.push(row))?;
                }
            }
            nodes.push(rows);
        }
        Ok(Hydration { version: Arc::clone(&snapshot.version), nodes })
    }
}
